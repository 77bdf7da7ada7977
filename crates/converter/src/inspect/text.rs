//! What was seen, as a tree for people, in the manner of `lsblk -f`.

use std::fmt::Write;

use super::model::{Disk, Inspection, Level, LogicalVolume, On, Volume};
use crate::progress::human_bytes;
use crate::table::{Align, printable, table};

/// Volumes lie on volumes at most this deep in the tree.
const DEEPEST: usize = 6;
/// A tree is no longer than this, whatever groups of volumes claim.
const MOST_ROWS: usize = 10_000;

const HEAD: [&str; 8] = [
    "NAME", "SIZE", "USED", "TYPE", "LABEL", "UUID", "MOUNT", "OS",
];
const ALIGN: [Align; 8] = [
    Align::Left,
    Align::Right,
    Align::Right,
    Align::Left,
    Align::Left,
    Align::Left,
    Align::Left,
    Align::Left,
];

/// The tree, and the findings below it.
pub fn tree(seen: &Inspection) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    for disk in seen.disks.iter().enumerate() {
        add_disk(disk, seen, &mut rows);
    }
    let mut text = table(&rows, &ALIGN);
    if seen.systems.is_empty() {
        text.push_str("\nNo operating system was found.\n");
    }
    if seen.systems.len() > 1 {
        text.push_str("\nSeveral systems; `p2v convert --root` chooses one by its number:\n");
        for system in &seen.systems {
            let _ = writeln!(text, "  {}: {}", system.root, printable(&system.name));
        }
    }
    if !seen.findings.is_empty() {
        text.push('\n');
    }
    for finding in &seen.findings {
        let level = match finding.level {
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Doubtful => "doubtful",
        };
        let (about, words) = (printable(&finding.about), printable(&finding.text));
        let _ = writeln!(text, "{level}: {about}: {words}");
    }
    text
}

fn add_disk((index, disk): (usize, &Disk), seen: &Inspection, rows: &mut Vec<Vec<String>>) {
    let whole = disk
        .volumes
        .iter()
        .find(|volume| volume.partition.is_none());
    let mut row = vec![
        printable(disk.label.rsplit('/').next().unwrap_or(&disk.label)),
        human_bytes(disk.size),
        human_bytes(disk.used),
    ];
    match whole {
        Some(volume) if volume.holds.is_some() => row.extend(contents(volume)),
        _ => {
            let id = disk.id.clone().unwrap_or_default();
            let table = disk.table.short().to_owned();
            row.extend([table, String::new(), id, String::new(), String::new()]);
        }
    }
    rows.push(row);
    let whole = On::Partition {
        disk: index,
        partition: None,
    };
    add_logical(&whole, "", seen, rows, 0);
    let partitions: Vec<&Volume> = disk
        .volumes
        .iter()
        .filter(|volume| volume.partition.is_some())
        .collect();
    let tops: Vec<&&Volume> = partitions.iter().filter(|volume| !volume.logical).collect();
    for (place, top) in tops.iter().enumerate() {
        let last = place + 1 == tops.len();
        add_partition(top, if last { "└─" } else { "├─" }, rows);
        let stem = if last { "  " } else { "│ " };
        let on = |volume: &Volume| On::Partition {
            disk: index,
            partition: volume.partition,
        };
        add_logical(&on(top), stem, seen, rows, 0);
        if !top.extended {
            continue;
        }
        let inside: Vec<&&Volume> = partitions.iter().filter(|v| v.logical).collect();
        let stem = if last { "  " } else { "│ " };
        for (index, volume) in inside.iter().enumerate() {
            let branch = if index + 1 == inside.len() {
                "└─"
            } else {
                "├─"
            };
            add_partition(volume, &format!("{stem}{branch}"), rows);
        }
    }
}

/// Logical volumes and arrays on `below`, and what lies on them: each under everything it lies on, as
/// lsblk has it.
fn add_logical(
    below: &On,
    stem: &str,
    seen: &Inspection,
    rows: &mut Vec<Vec<String>>,
    depth: usize,
) {
    let all = seen.logical_volumes.iter();
    let inside: Vec<&LogicalVolume> = all.filter(|volume| volume.on.contains(below)).collect();
    for (place, volume) in inside.iter().enumerate() {
        if depth >= DEEPEST || rows.len() >= MOST_ROWS {
            return;
        }
        let last = place + 1 == inside.len();
        let (branch, deeper) = if last {
            ("└─", "  ")
        } else {
            ("├─", "│ ")
        };
        let incomplete = if volume.complete { "" } else { " (incomplete)" };
        let contents = Volume {
            holds: volume.holds.clone(),
            label: volume.label.clone(),
            uuid: volume.uuid.clone(),
            mount_points: volume.mount_points.clone(),
            os: volume.os.clone(),
            ..Volume::default()
        };
        let mut row = vec![
            format!("{stem}{branch}{}{incomplete}", printable(&volume.name)),
            human_bytes(volume.size),
            volume.used.map_or_else(|| "all".to_owned(), human_bytes),
        ];
        row.extend(self::contents(&contents));
        rows.push(row);
        let volume = On::Volume {
            volume: volume.name.clone(),
        };
        add_logical(&volume, &format!("{stem}{deeper}"), seen, rows, depth + 1);
    }
}

fn add_partition(volume: &Volume, branch: &str, rows: &mut Vec<Vec<String>>) {
    let number = volume.partition.unwrap_or_default();
    let used = match (volume.extended, volume.used) {
        (true, _) => String::new(),
        (false, Some(used)) => human_bytes(used),
        (false, None) => "all".to_owned(),
    };
    let mut row = vec![format!("{branch}{number}"), human_bytes(volume.size), used];
    row.extend(contents(volume));
    rows.push(row);
}

/// The columns from TYPE on. Where nothing is recognised, the partition's own word stands in brackets.
fn contents(volume: &Volume) -> [String; 5] {
    let kind = match (&volume.holds, &volume.kind) {
        (Some(holds), _) => holds.clone(),
        (None, Some(kind)) => format!("({kind})"),
        (None, None) => String::new(),
    };
    let text = |field: &Option<String>| printable(field.as_deref().unwrap_or_default());
    let name = volume.label.as_ref().or(volume.name.as_ref()).cloned();
    [
        kind,
        text(&name),
        text(&volume.uuid),
        printable(&volume.mount_points.join(" ")),
        text(&volume.os),
    ]
}
