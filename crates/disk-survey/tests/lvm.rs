//! Volume groups made by lvm2, and filled by the Linux kernel, read and surveyed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::process::Command;
use std::sync::Arc;

use block_io::{BlockRead, BlockWrite, FileDisk, MemoryDisk, Overlay};
use disk_layout::Severity;
use disk_survey::{Stack, survey, survey_all};
use filesystems::probe::FsKind;
use support::{Loop, Made, lvm, read_all};

fn position(stack: &Stack, name: &str) -> usize {
    let at = stack.volumes.iter().position(|v| v.name == name);
    at.unwrap_or_else(|| panic!("no {name}: {:?}", stack.findings))
}

fn shared<'a>(disks: &'a [FileDisk]) -> Vec<Arc<dyn BlockRead + 'a>> {
    let one = |disk: &'a FileDisk| Arc::new(disk) as Arc<dyn BlockRead + 'a>;
    disks.iter().map(one).collect()
}

fn borrowed(disks: &[FileDisk]) -> Vec<&dyn BlockRead> {
    disks.iter().map(|disk| disk as &dyn BlockRead).collect()
}

fn group_disks(made: &Made) -> Vec<FileDisk> {
    (0..5)
        .map(|at| made.disk(&format!("lvm{at}.img")))
        .collect()
}

#[test]
fn every_kind_of_volume_reads_as_the_kernel_wrote_it() {
    let test = "every_kind_of_volume_reads_as_the_kernel_wrote_it";
    let Some(made) = Made::get(test) else { return };
    let disks = group_disks(&made);
    let stack = survey_all(&borrowed(&disks)).unwrap();
    let expected = made.lines("LV");
    assert!(expected.len() >= 14, "{expected:?}");
    for line in expected {
        let (name, size): (_, usize) = (format!("vg0/{}", line[0]), line[1].parse().unwrap());
        if name.contains("thin") {
            continue;
        }
        let volume = stack
            .open(position(&stack, &name), &shared(&disks))
            .unwrap();
        assert_eq!(volume.size() as usize, size, "{name}");
        assert!(read_all(&volume) == made.payload[..size], "{name} differs");
    }
    let text: Vec<String> = stack.findings.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    assert!(
        text.contains("vg0/snap: logical volume snap: snapshot is not supported"),
        "{text}"
    );
    assert!(
        text.contains("logical volume raid1: mirror, read from leg raid1_rimage_0"),
        "{text}"
    );
    assert!(
        stack
            .findings
            .iter()
            .all(|f| f.severity < Severity::Doubtful),
        "{text}"
    );
    // The origin of a snapshot is used whole, and the snapshot's own blocks are kept.
    assert!(!stack.volumes[position(&stack, "vg0/origin")].free_known);
}

#[test]
fn a_file_system_in_a_volume_is_found_and_only_what_is_used_is_kept() {
    let test = "a_file_system_in_a_volume_is_found_and_only_what_is_used_is_kept";
    let Some(made) = Made::get(test) else { return };
    if !test_oracles::has_tools(test, &["e2fsck", "debugfs"]) {
        return;
    }
    let disks = group_disks(&made);
    let stack = survey_all(&borrowed(&disks)).unwrap();
    let at = position(&stack, "vg0/root");
    let root = &stack.volumes[at];
    assert_eq!(root.probe.as_ref().unwrap().kind, FsKind::Ext4);
    assert_eq!(
        root.probe.as_ref().unwrap().label.as_deref(),
        Some("lvroot")
    );
    assert!(
        root.free_known && root.used_bytes < root.size / 2,
        "{root:?}"
    );
    assert_eq!(root.device_names(), ["mapper/vg0-root", "vg0/root"]);

    // What is left when all free bytes are gone: lvm2 reads the group, e2fsck the file system.
    let dir = tempfile::tempdir().unwrap();
    let mut copies = Vec::new();
    for (index, (disk, survey)) in disks.iter().zip(&stack.disks).enumerate() {
        let path = dir.path().join(format!("disk{index}"));
        let used = read_all(&survey.used_only(disk));
        assert!(survey.used_bytes() < disk.size(), "{:?}", stack.findings);
        std::fs::write(&path, used).unwrap();
        copies.push(FileDisk::open(&path).unwrap());
    }
    let again = survey_all(&borrowed(&copies)).unwrap();
    let volume = again
        .open(position(&again, "vg0/root"), &shared(&copies))
        .unwrap();
    let image = dir.path().join("root");
    std::fs::write(&image, read_all(&volume)).unwrap();
    let check = Command::new("e2fsck")
        .arg("-fn")
        .arg(&image)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let dump = Command::new("debugfs")
        .args(["-R", "cat /payload"])
        .arg(&image)
        .output()
        .unwrap();
    let size: usize = made.lines("EXT4")[0][1].parse().unwrap();
    assert_eq!(dump.stdout.len(), size);
    assert!(dump.stdout == made.payload[..size]);
    // Volumes of unknown content are whole, and so is what is not supported.
    for line in made.lines("LV") {
        let (name, size): (_, usize) = (format!("vg0/{}", line[0]), line[1].parse().unwrap());
        if name.contains("thin") {
            continue;
        }
        let volume = again
            .open(position(&again, &name), &shared(&copies))
            .unwrap();
        assert!(read_all(&volume) == made.payload[..size], "{name}");
    }
}

#[test]
fn writes_go_to_the_overlays_below_and_to_every_leg() {
    let test = "writes_go_to_the_overlays_below_and_to_every_leg";
    let Some(made) = Made::get(test) else { return };
    let disks = group_disks(&made);
    let stack = survey_all(&borrowed(&disks)).unwrap();
    let overlays: Vec<Arc<Overlay<&FileDisk>>> = disks
        .iter()
        .map(|disk| Arc::new(Overlay::new(disk)))
        .collect();
    let writable: Vec<Arc<dyn BlockWrite + '_>> = overlays
        .iter()
        .map(|overlay| Arc::clone(overlay) as Arc<dyn BlockWrite + '_>)
        .collect();
    let mark: Vec<u8> = (0..300_000_u32).map(|i| (i % 253) as u8 + 1).collect();
    for name in [
        "linear", "span", "striped", "mirror", "raid1", "raid0", "raid10",
    ] {
        overlays.iter().for_each(|overlay| overlay.undo());
        let at = position(&stack, &format!("vg0/{name}"));
        let volume = stack.open_rw(at, &writable).unwrap();
        volume.write_at(1_000_001, &mark).unwrap();
        let mut back = vec![0; mark.len()];
        volume.read_at(1_000_001, &mut back).unwrap();
        assert!(back == mark, "{name}");
        // As many bytes changed below as copies are kept.
        let edited: u64 = overlays
            .iter()
            .flat_map(|o| o.edits())
            .map(|e| e.end - e.start)
            .sum();
        let copies = if matches!(name, "mirror" | "raid1" | "raid10") {
            2
        } else {
            1
        };
        let least = mark.len() as u64 * copies;
        assert!(
            (least..least + (64 << 10)).contains(&edited),
            "{name}: {edited}"
        );
    }
    for name in ["raid4", "raid5", "raid5_ra", "raid6"] {
        overlays.iter().for_each(|overlay| overlay.undo());
        let volume = stack
            .open_rw(position(&stack, &format!("vg0/{name}")), &writable)
            .unwrap();
        let refused = volume.write_at(0, &mark).unwrap_err().to_string();
        assert!(
            refused.contains("volumes with parity are read only"),
            "{refused}"
        );
        assert!(overlays.iter().all(|overlay| overlay.edits().is_empty()));
    }
}

#[test]
fn a_missing_physical_volume_is_named_and_the_rest_is_read() {
    let test = "a_missing_physical_volume_is_named_and_the_rest_is_read";
    let Some(made) = Made::get(test) else { return };
    let all = group_disks(&made);
    let whole = survey_all(&borrowed(&all)).unwrap();
    let mut readable = 0;
    for missing in 0..5 {
        let disks: Vec<FileDisk> = (0..5)
            .filter(|at| *at != missing)
            .map(|at| made.disk(&format!("lvm{at}.img")))
            .collect();
        let stack = survey_all(&borrowed(&disks)).unwrap();
        let text: Vec<String> = stack.findings.iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        let hint = ["/dev/vdc1", "/dev/vdd", "/dev/vde", "/dev/vdf", "/dev/vdg"][missing];
        assert!(
            text.contains(&format!("last seen as {hint} is missing")),
            "{text}"
        );
        // Newer metadata might be on it: nothing counts as free.
        for (disk, survey) in disks.iter().zip(&stack.disks) {
            let table = disk.size() - survey.used_bytes();
            assert!(table < 1 << 20, "{table}");
        }
        for line in made.lines("LV") {
            let (name, size): (_, usize) = (format!("vg0/{}", line[0]), line[1].parse().unwrap());
            let Some(at) = stack.volumes.iter().position(|v| v.name == name) else {
                continue;
            };
            let volume = stack.open(at, &shared(&disks)).unwrap();
            if stack.volumes[at].is_complete() {
                assert!(
                    read_all(&volume) == made.payload[..size],
                    "{name} without {hint}"
                );
                readable += 1;
            } else {
                let mut bytes = vec![0; size];
                let error = volume.read_at(0, &mut bytes).unwrap_err().to_string();
                assert!(error.contains(hint), "{error}");
                assert!(text.contains(&format!("{name}: incomplete")), "{text}");
            }
        }
    }
    assert!(readable > whole.volumes.len() * 3, "{readable}");
}

#[test]
fn a_damaged_copy_of_the_metadata_gives_way_to_the_others() {
    let test = "a_damaged_copy_of_the_metadata_gives_way_to_the_others";
    if !test_oracles::has_tools(test, &["pvcreate", "losetup"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pv");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(128 << 20)
        .unwrap();
    {
        let Some(device) = Loop::attach(test, &path) else {
            return;
        };
        lvm(
            &[&device],
            &format!(
                "pvcreate -y --metadatacopies 2 --metadatasize 64k {}",
                device.0
            ),
        );
        lvm(
            &[&device],
            &format!("vgcreate -s 1M two-copies {}", device.0),
        );
        // The text goes round and round its area: often enough that it wraps.
        for index in 0..70 {
            let make = format!(
                "lvcreate -an -Zn -Wn -y -n v{index} -l {} two-copies",
                1 + index % 2
            );
            lvm(&[&device], &make);
            if index % 3 == 0 {
                lvm(&[&device], &format!("lvremove -y two-copies/v{index}"));
            }
            // Each state is what lvm2 says it is.
            if index % 10 == 9 {
                let said = lvm(&[&device], "lvs --noheadings -o lv_name");
                let said: Vec<&str> = said.split_whitespace().collect();
                let disk = FileDisk::open(&path).unwrap();
                let stack = survey_all(&[&disk]).unwrap();
                let mut found: Vec<&str> = stack
                    .volumes
                    .iter()
                    .map(|v| v.name.trim_start_matches("two-copies/"))
                    .collect();
                let mut expected = said.clone();
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected);
                assert_eq!(stack.findings, []);
            }
        }
    }
    let disk = MemoryDisk::from(std::fs::read(&path).unwrap());
    let sound = survey(&disk).unwrap();
    assert!(sound.used_bytes() < disk.size());
    let mut damaged = 0;
    let mut broken = vec![0; 16];
    disk.read_at(4096, &mut broken).unwrap();
    broken[0] ^= 1;
    disk.write_at(4096, &broken).unwrap();
    let one = survey_all(&[&disk]).unwrap();
    assert!(one.volumes.len() > 40);
    damaged += one
        .findings
        .iter()
        .filter(|f| f.text.contains("checksum of the metadata area"))
        .count();
    assert_eq!(damaged, 1, "{:?}", one.findings);
    // The other copy too: nothing is known, all is used.
    let second = (0..disk.size() / 512).rev().map(|s| s * 512).find(|at| {
        let mut magic = [0; 16];
        disk.read_at(at + 4, &mut magic).is_ok() && magic == *b" LVM2 x[5A%r0N*>"
    });
    let second = second.unwrap() + 512;
    let rest = vec![0xFF; (disk.size() - second) as usize];
    disk.write_at(second, &rest).unwrap();
    let none = survey_all(&[&disk]).unwrap();
    assert!(none.volumes.is_empty());
    assert_eq!(none.disks[0].used_bytes(), disk.size());
    let text: Vec<String> = none.findings.iter().map(ToString::to_string).collect();
    assert!(
        text.join("\n").contains("checksum of the metadata text"),
        "{text:?}"
    );
    assert!(
        text.join("\n").contains("belongs to no volume group"),
        "{text:?}"
    );
}

#[test]
fn two_groups_of_one_name_are_told_apart() {
    let test = "two_groups_of_one_name_are_told_apart";
    if !test_oracles::has_tools(test, &["pvcreate", "losetup"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut disks = Vec::new();
    for name in ["one", "two"] {
        let path = dir.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(32 << 20)
            .unwrap();
        let Some(device) = Loop::attach(test, &path) else {
            return;
        };
        lvm(&[&device], &format!("pvcreate -y {}", device.0));
        lvm(&[&device], &format!("vgcreate -s 1M same {}", device.0));
        lvm(
            &[&device],
            &format!("lvcreate -an -Zn -Wn -y -n {name} -l 3 same"),
        );
        disks.push(FileDisk::open(&path).unwrap());
    }
    let stack = survey_all(&borrowed(&disks)).unwrap();
    let names: Vec<&str> = stack.volumes.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&"same/one") && names.contains(&"same/two"));
    let told = stack
        .findings
        .iter()
        .filter(|f| f.text.contains("another volume group has this name"));
    assert_eq!(told.count(), 2);
    // Free extents stay free: which group is meant is not in doubt, only its name.
    assert!(stack.disks.iter().all(|disk| disk.used_bytes() < 8 << 20));
}
