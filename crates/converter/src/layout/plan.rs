//! From what is wanted to what each disk will be.

use anyhow::{Context, bail};
use block_io::{BlockRead, Window};
use disk_layout::arrange::{
    ArrangeError, Limits, NewLayout, Placed, Request, Resize, WHOLE_DISK, plan_layout,
};
use disk_layout::{Layout, Severity};
use disk_survey::About;
use filesystems::probe::FsKind;
use filesystems::resize::{ResizeErrorKind, resize_limits};
use serde::Serialize;

use super::args::LayoutArgs;
use super::notes::{Note, notes};
use super::wanted::{self, Names};
use crate::convert::guest::OpenDisk;
use crate::convert::source::Source;
use crate::inspect::{Inspection, look_at};
use crate::progress::human_bytes;

/// New layouts for a machine's disks.
#[derive(Debug)]
pub struct Layouts {
    /// One for each disk; `None` where it stays as it is.
    pub disks: Vec<Option<DiskPlan>>,
}

impl Layouts {
    /// Whether anything is made smaller: the one change that moves data.
    #[must_use]
    pub fn shrinks(&self) -> bool {
        let parts = self.disks.iter().flatten().flat_map(|plan| &plan.new.parts);
        parts
            .filter(|part| !part.extended)
            .any(|part| matches!(part.resize(), Resize::Shrink { .. }))
    }
}

/// A new layout for a disk.
#[derive(Debug, Serialize)]
pub struct DiskPlan {
    /// What the user knows the disk by.
    pub label: String,
    /// Its size today.
    pub old_size: u64,
    /// Its size as it will be.
    pub new_size: u64,
    /// Its table today.
    pub old_table: String,
    /// Its table as it will be.
    pub new_table: String,
    /// Its partitions: those that are left out first lose their place.
    pub parts: Vec<PartPlan>,
    /// What the user should know.
    pub notes: Vec<Note>,
    /// Where everything goes.
    #[serde(skip)]
    pub new: NewLayout,
    /// What the partitions hold.
    #[serde(skip)]
    pub contents: Vec<Contents>,
}

/// A partition, today and then.
#[derive(Debug, Clone, Serialize)]
pub struct PartPlan {
    /// Its number today; 0 for what lies on a whole disk.
    pub number: u32,
    /// Its number then; absent where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_number: Option<u32>,
    /// What it holds, in words.
    pub holds: String,
    /// Bytes in use of it; absent for an extended partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Its first byte and size today.
    pub old: (u64, u64),
    /// Its first byte and size then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<(u64, u64)>,
    /// What happens to it, in words; empty where nothing does.
    pub change: String,
}

/// What a partition holds, and how far that can go.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The partition; 0 for what lies on a whole disk.
    pub number: u32,
    /// Its bytes today.
    pub range: std::ops::Range<u64>,
    /// What it holds.
    pub kind: Option<FsKind>,
    /// Where it is mounted, for people.
    pub mounted: Vec<String>,
    /// Bytes in use.
    pub used: u64,
    /// The fewest bytes it can be made.
    pub smallest: u64,
    /// The most bytes its contents can use.
    pub largest: u64,
    /// Why its contents cannot be resized here; `None` where they can.
    pub fixed: Option<String>,
}

impl Contents {
    /// Its size today.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether `--grow largest|all` means it: it holds files and can grow.
    #[must_use]
    pub fn is_growable(&self) -> bool {
        let aside = [FsKind::Swap, FsKind::SwapHibernated];
        let boots = self
            .mounted
            .iter()
            .any(|at| at == "/boot" || at == "/boot/efi");
        let holds_files = self.kind.is_some_and(|kind| !aside.contains(&kind));
        holds_files && !boots && self.fixed.is_none()
    }
}

/// Plan new layouts, if the flags ask for any.
///
/// # Errors
/// What cannot be met, with the smallest size that could.
pub fn plan(
    source: &Source,
    disks: &[OpenDisk],
    args: &LayoutArgs,
) -> anyhow::Result<Option<Layouts>> {
    let all = wanted::with_file(args)?;
    if wanted::is_empty(&all) {
        return Ok(None);
    }
    let seen = look_at(source, disks)?;
    let names = Names::new(disks, &seen);
    let mut plans = Vec::new();
    for (index, (open, disk)) in disks.iter().zip(&source.disks).enumerate() {
        let contents = contents(open, &seen, index)?;
        let request = wanted::request(&all, &names, index, &contents)?;
        let planned = if request.is_empty() {
            None
        } else {
            let doing = || format!("laying out {}", disk.label);
            Some(plan_disk(&disk.label, open, contents, &request).with_context(doing)?)
        };
        plans.push(planned);
    }
    Ok(Some(Layouts { disks: plans }))
}

/// What lies in each partition of a disk, and how far it can go. Reads metadata, no file data.
fn contents(open: &OpenDisk, seen: &Inspection, disk: usize) -> anyhow::Result<Vec<Contents>> {
    let described = seen.disks.get(disk).map(|disk| &disk.volumes);
    let mut all = Vec::new();
    for volume in &open.survey.volumes {
        let size = volume.range.end - volume.range.start;
        let mounted = described
            .and_then(|list| {
                list.iter()
                    .find(|other| other.partition == volume.partition)
            })
            .map(|other| other.mount_points.clone());
        let mut held = Contents {
            number: volume.partition.unwrap_or(WHOLE_DISK),
            range: volume.range.clone(),
            kind: volume.probe.as_ref().map(|probe| probe.kind),
            mounted: mounted.unwrap_or_default(),
            used: volume.used_bytes,
            smallest: size,
            largest: u64::MAX,
            fixed: Some("what it holds is not known".to_owned()),
        };
        let doubt = open.survey.findings.iter().find(|finding| {
            finding.severity == Severity::Doubtful
                && volume.partition.map(About::Partition) == Some(finding.about)
        });
        if let Some(doubt) = doubt {
            // Two things claim to lie here: neither is believed, and nothing of it is touched.
            (held.largest, held.fixed) = (size, Some(doubt.text.clone()));
        } else if let Some(kind) = held.kind {
            let window = Window::new(open.disk.clone(), volume.range.clone())?;
            match resize_limits(&window, kind) {
                Ok(limits) => {
                    (held.smallest, held.largest) = (limits.smallest.min(size), limits.largest);
                    held.fixed = None;
                }
                Err(error) if error.kind() == ResizeErrorKind::Disk => return Err(error.into()),
                Err(error) => held.fixed = Some(error.to_string()),
            }
        }
        if matches!(held.kind, None | Some(FsKind::MdMember)) {
            // Members of arrays, and who knows what, are known by records at their end.
            held.largest = size;
        }
        all.push(held);
    }
    Ok(all)
}

fn plan_disk(
    label: &str,
    open: &OpenDisk,
    contents: Vec<Contents>,
    request: &Request,
) -> anyhow::Result<DiskPlan> {
    let doubt = open.survey.findings.iter().find(|finding| {
        finding.severity == Severity::Doubtful && matches!(finding.about, About::Disk)
    });
    if let Some(doubt) = doubt {
        bail!(
            "it is not laid out anew, because of what was found on it: {}",
            doubt.text
        );
    }
    let limits: Vec<Limits> = contents.iter().map(limits_of).collect();
    let (layout, size) = (&open.survey.layout, open.disk.size());
    let new =
        plan_layout(layout, size, &limits, request).map_err(|error| explain(error, &contents))?;
    let notes = notes(open, &new, &contents)?;
    let mut parts: Vec<PartPlan> = new
        .parts
        .iter()
        .map(|part| part_plan(layout, part, &contents))
        .collect();
    let gone = layout
        .partitions
        .iter()
        .filter(|p| new.left_out.contains(&p.number));
    parts.extend(gone.map(|partition| PartPlan {
        number: partition.number,
        new_number: None,
        holds: holds(partition.number, partition.is_extended(), &contents),
        used: used(partition.number, &contents),
        old: (
            partition.range.start,
            partition.range.end - partition.range.start,
        ),
        new: None,
        change: "left out".to_owned(),
    }));
    Ok(DiskPlan {
        label: label.to_owned(),
        old_size: size,
        new_size: new.size,
        old_table: layout.table.to_string(),
        new_table: new.table.to_string(),
        parts,
        notes,
        new,
        contents,
    })
}

fn limits_of(held: &Contents) -> Limits {
    Limits {
        number: held.number,
        smallest: held.smallest,
        largest: held.largest,
    }
}

/// The engine counts in bytes; people do not. And they want to know which way is open.
fn explain(error: ArrangeError, contents: &[Contents]) -> anyhow::Error {
    match error {
        ArrangeError::DiskTooSmall {
            size,
            needed,
            smallest,
        } => {
            let mut text = format!(
                "the partitions as asked for need a disk of {}, not {}",
                human_bytes(needed),
                human_bytes(size)
            );
            if smallest < needed {
                text.push_str(&format!(
                    "; with every partition shrunk as far as it goes, {} ({smallest} bytes) is the smallest possible \
                     size:",
                    human_bytes(smallest)
                ));
                for held in contents.iter().filter(|held| held.smallest < held.size()) {
                    text.push_str(&format!(
                        "\n  --shrink {}=SIZE: now {}, at least {}",
                        held.number,
                        human_bytes(held.size()),
                        human_bytes(held.smallest)
                    ));
                }
            } else {
                text.push_str(&format!(
                    "; none of them can be made smaller ({needed} bytes are needed)"
                ));
            }
            anyhow::anyhow!(text)
        }
        ArrangeError::TooSmall {
            number,
            asked,
            smallest,
        } => {
            let held = contents.iter().find(|held| held.number == number);
            let why = held.and_then(|held| held.fixed.clone());
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            anyhow::anyhow!(
                "partition {number} cannot be made {}: the smallest possible size is {} ({smallest} bytes){why}",
                human_bytes(asked),
                human_bytes(smallest)
            )
        }
        other => other.into(),
    }
}

fn part_plan(layout: &Layout, part: &Placed, contents: &[Contents]) -> PartPlan {
    let held = contents.iter().find(|held| held.number == part.number);
    let mut changes = Vec::new();
    let whole = held.is_some_and(|held| held.fixed.is_none());
    let with = match (part.extended, whole) {
        (false, true) => " with its contents",
        (false, false) => " without its contents",
        (true, _) => "",
    };
    match part.resize() {
        Resize::Keep => {}
        Resize::Shrink { .. } => changes.push(format!("shrunk{with}")),
        Resize::Grow { .. } => changes.push(format!("grown{with}")),
    }
    if part.is_moved() {
        changes.push("moved".to_owned());
    }
    if part.new_number != part.number {
        changes.push(format!("becomes {}", part.new_number));
    }
    let old_kind = layout.partition(part.number).map(|p| p.kind);
    if old_kind.is_some_and(|old| old != part.kind) {
        changes.push(format!("type {}", part.kind));
    }
    PartPlan {
        number: part.number,
        new_number: Some(part.new_number),
        holds: holds(part.number, part.extended, contents),
        used: used(part.number, contents),
        old: (part.old.start, part.old.end - part.old.start),
        new: Some((part.new.start, part.new.end - part.new.start)),
        change: changes.join(", "),
    }
}

fn used(number: u32, contents: &[Contents]) -> Option<u64> {
    contents
        .iter()
        .find(|held| held.number == number)
        .map(|held| held.used)
}

fn holds(number: u32, extended: bool, contents: &[Contents]) -> String {
    let held = contents.iter().find(|held| held.number == number);
    let Some(held) = held.filter(|_| !extended) else {
        return "(extended)".to_owned();
    };
    let kind = held
        .kind
        .map_or_else(|| "unknown".to_owned(), |kind| kind.to_string());
    match held.mounted.as_slice() {
        [] => kind,
        points => format!("{kind} {}", points.join(" ")),
    }
}
