//! Arrays made by mdadm and filled by the Linux kernel, read and surveyed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::process::Command;
use std::sync::Arc;

use block_io::{BlockRead, BlockWrite, FileDisk, Overlay};
use disk_survey::{Member, Stack, StackVolume, VolumeOf, survey_all};
use support::{Made, read_all};

/// An array of the report: its name there, its size, its partitions.
struct Array {
    name: String,
    size: usize,
    first: u32,
    count: u32,
}

fn arrays(made: &Made) -> Vec<Array> {
    let array = |line: &[String]| Array {
        name: line[0].clone(),
        size: line[1].parse().unwrap(),
        first: line[2].parse().unwrap(),
        count: line[3].parse().unwrap(),
    };
    made.lines("MD").into_iter().map(array).collect()
}

impl Array {
    /// Its place in a stack: the array that lies on its partitions.
    fn find(&self, stack: &Stack) -> usize {
        let numbers = self.first..self.first + self.count;
        let lies_there = |volume: &StackVolume| {
            let mut there = false;
            volume.map.places(0..volume.size, &mut |place, _| {
                there |= match &volume.members[place.device.0] {
                    Member::Partition { partition, .. } => numbers.contains(&partition.unwrap()),
                    Member::Volume(other) => self.lies_below(stack, *other),
                };
            });
            there
        };
        let mut found = None;
        for (index, volume) in stack.volumes.iter().enumerate() {
            if matches!(volume.of, VolumeOf::Md { .. }) && lies_there(volume) {
                found = Some(index);
            }
        }
        found.unwrap_or_else(|| panic!("no {}: {:?}", self.name, stack.findings))
    }

    fn lies_below(&self, stack: &Stack, volume: usize) -> bool {
        let numbers = self.first..self.first + self.count;
        let volume = &stack.volumes[volume];
        let mut there = false;
        volume.map.places(0..1, &mut |place, _| {
            there |= matches!(&volume.members[place.device.0],
                Member::Partition { partition, .. } if numbers.contains(&partition.unwrap()));
        });
        there
    }
}

fn text(stack: &Stack) -> String {
    let lines: Vec<String> = stack.findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn every_level_and_layout_reads_as_the_kernel_wrote_it() {
    let test = "every_level_and_layout_reads_as_the_kernel_wrote_it";
    let Some(made) = Made::get(test) else { return };
    let disk = made.disk("md.img");
    let stack = survey_all(&[&disk]).unwrap();
    let disks: [Arc<dyn BlockRead + '_>; 1] = [Arc::new(&disk)];
    let arrays = arrays(&made);
    assert!(arrays.len() >= 26, "{}", arrays.len());
    for array in arrays.iter().filter(|array| array.name != "stacked") {
        let volume = stack.open(array.find(&stack), &disks).unwrap();
        assert_eq!(volume.size() as usize, array.size, "{}", array.name);
        let all = read_all(&volume);
        let same = all.iter().zip(&made.payload).take_while(|(a, b)| a == b);
        assert!(
            all == made.payload[..array.size],
            "{} from byte {}",
            array.name,
            same.count()
        );
    }
    let text = text(&stack);
    assert!(text.contains("is stale and left out"), "{text}");
    assert_eq!(text.matches("is missing").count(), 2, "{text}");
}

#[test]
fn one_missing_member_is_made_good_where_the_level_can() {
    let test = "one_missing_member_is_made_good_where_the_level_can";
    let Some(made) = Made::get(test) else { return };
    let disk = made.disk("md.img");
    let whole = survey_all(&[&disk]).unwrap();
    let mut made_good = 0;
    for array in arrays(&made) {
        let redundant = ["raid1", "raid4", "raid5", "raid6"]
            .iter()
            .any(|level| array.name.starts_with(level));
        if !redundant || array.name.contains("stale") || array.name.contains("degraded") {
            continue;
        }
        let members = if array.name.contains("spare") {
            2
        } else {
            array.count
        };
        for missing in array.first..array.first + members {
            let overlay = Overlay::new(&disk);
            let range = whole.disks[0]
                .layout
                .partition(missing)
                .unwrap()
                .range
                .clone();
            let blank = vec![0; (range.end - range.start) as usize];
            overlay.write_at(range.start, &blank).unwrap();
            let stack = survey_all(&[&overlay]).unwrap();
            let disks: [Arc<dyn BlockRead + '_>; 1] = [Arc::new(&overlay)];
            let volume = stack.open(array.find(&stack), &disks).unwrap();
            let mut all = vec![0; array.size.min(3 << 20)];
            volume.read_at(0, &mut all).unwrap();
            assert!(
                all == made.payload[..all.len()],
                "{} without {missing}",
                array.name
            );
            made_good += 1;
        }
    }
    assert!(made_good > 50, "{made_good}");
}

#[test]
fn an_array_without_enough_members_is_refused_by_name() {
    let test = "an_array_without_enough_members_is_refused_by_name";
    let Some(made) = Made::get(test) else { return };
    let disk = made.disk("md.img");
    let whole = survey_all(&[&disk]).unwrap();
    for array in arrays(&made) {
        if !matches!(array.name.as_str(), "raid0" | "linear" | "raid5-ls") {
            continue;
        }
        let overlay = Overlay::new(&disk);
        for missing in array.first..array.first + 2 {
            let range = whole.disks[0]
                .layout
                .partition(missing)
                .unwrap()
                .range
                .clone();
            let blank = vec![0; (range.end - range.start) as usize];
            overlay.write_at(range.start, &blank).unwrap();
        }
        let stack = survey_all(&[&overlay]).unwrap();
        let expected = format!("too many members are missing: 2 of {}", array.count);
        assert!(text(&stack).contains(&expected), "{}", text(&stack));
        // Whatever is left of it is kept.
        let range = whole.disks[0]
            .layout
            .partition(array.first + 2)
            .unwrap()
            .range
            .clone();
        let kept = stack.disks[0].used.used_bytes_in(range.clone());
        assert_eq!(kept, range.end - range.start);
    }
}

#[test]
fn a_group_on_a_mirror_is_followed_down_to_both_legs() {
    let test = "a_group_on_a_mirror_is_followed_down_to_both_legs";
    let Some(made) = Made::get(test) else { return };
    if !test_oracles::has_tools(test, &["e2fsck", "debugfs"]) {
        return;
    }
    let disk = made.disk("md.img");
    let stack = survey_all(&[&disk]).unwrap();
    let root = stack
        .volumes
        .iter()
        .position(|v| v.name == "vg1/root")
        .unwrap();
    assert!(stack.volumes[root].free_known);
    let array = arrays(&made)
        .into_iter()
        .find(|a| a.name == "stacked")
        .unwrap();
    let ranges: Vec<_> = (array.first..array.first + array.count)
        .map(|number| {
            stack.disks[0]
                .layout
                .partition(number)
                .unwrap()
                .range
                .clone()
        })
        .collect();
    for range in &ranges {
        let used = stack.disks[0].used.used_bytes_in(range.clone());
        assert!(used < (range.end - range.start) / 2, "{used}");
        let volume = stack.disks[0]
            .volumes
            .iter()
            .find(|v| v.range == *range)
            .unwrap();
        assert!(volume.free_known);
        assert_eq!(volume.used_bytes, used);
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("root"), dir.path().join("disk"));
    std::fs::write(&copy, read_all(&stack.disks[0].used_only(&disk))).unwrap();
    let copy = FileDisk::open(&copy).unwrap();
    // Either leg alone has it all.
    for gone in &ranges {
        let overlay = Overlay::new(&copy);
        let blank = vec![0; (gone.end - gone.start) as usize];
        overlay.write_at(gone.start, &blank).unwrap();
        let left = survey_all(&[&overlay]).unwrap();
        let disks: [Arc<dyn BlockRead + '_>; 1] = [Arc::new(&overlay)];
        let at = left
            .volumes
            .iter()
            .position(|v| v.name == "vg1/root")
            .unwrap();
        std::fs::write(&image, read_all(&left.open(at, &disks).unwrap())).unwrap();
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
        assert!(dump.stdout == made.payload[..2_621_440]);
    }
}

#[test]
fn writes_reach_every_copy_and_arrays_with_parity_refuse_them() {
    let test = "writes_reach_every_copy_and_arrays_with_parity_refuse_them";
    let Some(made) = Made::get(test) else { return };
    let disk = made.disk("md.img");
    let stack = survey_all(&[&disk]).unwrap();
    let mark: Vec<u8> = (0..500_000_u32).map(|i| (i % 251) as u8 ^ 0x5A).collect();
    for array in arrays(&made).iter().filter(|array| array.name != "stacked") {
        let overlay = Arc::new(Overlay::new(&disk));
        let writable = [Arc::clone(&overlay) as Arc<dyn BlockWrite + '_>];
        let volume = stack.open_rw(array.find(&stack), &writable).unwrap();
        let written = volume.write_at(300_001, &mark);
        let name = array.name.as_str();
        if ["raid4", "raid5", "raid6"]
            .iter()
            .any(|level| name.starts_with(level))
        {
            assert!(written.is_err() && overlay.edits().is_empty(), "{name}");
            continue;
        }
        written.unwrap();
        let edited: u64 = overlay.edits().iter().map(|e| e.end - e.start).sum();
        let copies = match name {
            "raid1-stale" => 1,
            "raid10-n3" => 3,
            "nested" => 2,
            _ if name.starts_with("raid1") => 2,
            _ => 1,
        };
        let least = mark.len() as u64 * copies;
        assert!(
            (least..least + (300 << 10)).contains(&edited),
            "{name}: {edited}"
        );
        // Each leg alone reads as what was written: the kernel may read from any.
        let again = survey_all(&[&*overlay]).unwrap();
        let disks: [Arc<dyn BlockRead + '_>; 1] = [Arc::clone(&overlay) as Arc<dyn BlockRead>];
        let volume = again.open(array.find(&again), &disks).unwrap();
        let mut back = vec![0; mark.len()];
        volume.read_at(300_001, &mut back).unwrap();
        assert!(back == mark, "{name}");
    }
}
