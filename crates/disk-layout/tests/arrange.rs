//! New layouts for disks that sfdisk, sgdisk, fdisk and parted divided; the result is judged by sfdisk, sgdisk and
//! our reader, which `agreement.rs` holds against them.
#![allow(clippy::unwrap_used)]

mod tools;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use block_io::{BlockRead, MemoryDisk, Overlay, Remap, SectorSize};
use disk_layout::arrange::{
    ArrangeError, DiskSize, Limits, NewLayout, NewTable, Request, Wish, plan_layout,
};
use disk_layout::{DiskId, Layout, PartitionKind, TableKind, apply, read_layout};
use tools::{Dice, Image, MIB, has};

const MBR: &str = "label: dos\nlabel-id: 0x12345678\n1 : start=2048,size=10M,bootable\n2 : size=80M,type=f\n\
    5 : size=10M\n6 : size=10M,type=8e\n7 : size=10M\n3 : size=5M,type=82\n";
const XP: &str = "label: dos\nunit: sectors\n1 : start=63,size=40950,type=7,bootable\n2 : start=41013,size=20412,type=c\n";
const GPT: &str = "label: gpt\n1 : size=10M,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name=esp\n\
    3 : size=20M,name=root\n7 : size=30M,name=data\n";

/// A disk and its layout.
struct Case {
    disk: Arc<MemoryDisk>,
    layout: Layout,
}

fn case(disk: MemoryDisk) -> Case {
    let layout = read_layout(&disk).unwrap();
    assert!(layout.is_certain(), "{:#?}", layout.findings);
    Case {
        disk: Arc::new(disk),
        layout,
    }
}

fn made(script: &str) -> Case {
    case(Image::new(100 * MIB).sfdisk(script).memory())
}

fn wish(number: u32) -> Wish {
    Wish {
        number,
        ..Wish::default()
    }
}

impl Case {
    /// Every partition can be shrunk to a fourth, and grown without end.
    fn limits(&self) -> Vec<Limits> {
        let of = |p: &disk_layout::Partition| Limits {
            number: p.number,
            smallest: (p.range.end - p.range.start) / 4,
            largest: u64::MAX,
        };
        self.layout.partitions.iter().map(of).collect()
    }

    fn plan(&self, request: &Request) -> Result<NewLayout, ArrangeError> {
        plan_layout(&self.layout, self.disk.size(), &self.limits(), request)
    }

    /// The new disk: what is kept, with the new table over it. Partitions are empty.
    fn make(&self, new: &NewLayout) -> Overlay<Remap> {
        let kept = new.kept.iter().map(|range| block_io::Piece {
            at: range.clone(),
            from: self.disk.clone(),
            offset: range.start,
        });
        let below = Remap::new(new.size, new.sector_size, kept.collect()).unwrap();
        let disk = Overlay::new(below);
        apply(&disk, &new.patches).unwrap();
        disk
    }

    /// Our reader sees what was planned; identifiers, boot code, types, flags and names are today's.
    fn assert_as_planned(&self, new: &NewLayout) -> Overlay<Remap> {
        let disk = self.make(new);
        let after = read_layout(&disk).unwrap();
        assert_eq!(after.findings, [], "{new:#?}");
        assert_eq!(after.table, new.table);
        assert_eq!(after.partitions.len(), new.parts.len());
        for part in &new.parts {
            let found = after.partition(part.new_number).unwrap();
            assert_eq!(found.range, part.new, "partition {}", part.number);
            assert_eq!(found.kind, part.kind);
            let old = self.layout.partition(part.number).unwrap();
            if new.table == self.layout.table {
                assert_eq!(
                    (&found.name, found.guid, found.bootable),
                    (&old.name, old.guid, old.bootable)
                );
                assert_eq!((found.kind, found.attributes), (old.kind, old.attributes));
            }
            assert!(!part.is_moved() || part.new.start % MIB == 0, "{part:?}");
            assert!(part.new.end <= new.size);
        }
        if new.table == self.layout.table {
            assert_eq!(after.disk_id, self.layout.disk_id);
        }
        let code = |disk: &dyn BlockRead| {
            let mut code = vec![0; 440];
            disk.read_at(0, &mut code).unwrap();
            code
        };
        assert_eq!(code(&disk), code(&*self.disk));
        disk
    }

    fn assert_foreign(&self, new: &NewLayout) -> Image {
        let disk = self.assert_as_planned(new);
        let image = Image::new(new.size);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(image.path())
            .unwrap();
        for range in disk.edits().into_iter().chain(new.kept.clone()) {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            disk.read_at(range.start, &mut bytes).unwrap();
            file.write_all_at(&bytes, range.start).unwrap();
        }
        image.assert_sfdisk_is_content();
        if new.table == TableKind::Gpt {
            image.assert_sgdisk_is_content();
        }
        image
    }
}

#[test]
fn nothing_asked_for_changes_nothing() {
    let test = "nothing_asked_for_changes_nothing";
    if !has(test, &["sfdisk"]) {
        return;
    }
    for script in [MBR, XP, GPT] {
        let case = made(script);
        let new = case.plan(&Request::default()).unwrap();
        assert!(!new.is_change(&case.layout, case.disk.size()), "{new:#?}");
        assert!(new.patches.is_empty());
    }
}

#[test]
fn a_larger_disk_moves_nothing_and_puts_the_backup_at_its_end() {
    let test = "a_larger_disk_moves_nothing_and_puts_the_backup_at_its_end";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    for script in [MBR, XP, GPT] {
        let case = made(script);
        let disk_size = DiskSize::Bytes(5000 * MIB);
        let new = case
            .plan(&Request {
                disk_size,
                ..Request::default()
            })
            .unwrap();
        assert!(
            new.parts.iter().all(|part| part.old == part.new),
            "{new:#?}"
        );
        case.assert_foreign(&new);
    }
}

#[test]
fn one_partition_grows_and_those_behind_it_move() {
    let test = "one_partition_grows_and_those_behind_it_move";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    for (script, grown, moved) in [
        (MBR, 1, vec![2, 5, 6, 7, 3]),
        (MBR, 6, vec![7, 3]),
        (XP, 1, vec![2]),
        (GPT, 1, vec![3, 7]),
    ] {
        let case = made(script);
        let request = Request {
            disk_size: DiskSize::Bytes(1000 * MIB),
            wishes: vec![Wish {
                weight: 1,
                ..wish(grown)
            }],
            ..Request::default()
        };
        let new = case.plan(&request).unwrap();
        let seen: Vec<u32> = new
            .parts
            .iter()
            .filter(|p| p.is_moved())
            .map(|p| p.number)
            .collect();
        assert_eq!(seen, moved, "{new:#?}");
        let part = new.parts.iter().find(|p| p.number == grown).unwrap();
        assert!(part.new.end - part.new.start > 850 * MIB, "{part:?}");
        let end = new.parts.iter().map(|p| p.new.end).max().unwrap();
        assert!(new.size - end < 4 * MIB, "the disk is filled: {new:#?}");
        case.assert_foreign(&new);
    }
}

#[test]
fn a_partition_at_sector_63_stays_unless_alignment_is_asked_for() {
    let test = "a_partition_at_sector_63_stays_unless_alignment_is_asked_for";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let case = made(XP);
    let grow = Request {
        disk_size: DiskSize::Bytes(300 * MIB),
        wishes: vec![Wish {
            weight: 1,
            ..wish(2)
        }],
        ..Request::default()
    };
    let new = case.plan(&grow).unwrap();
    assert_eq!(new.parts[0].new.start, 63 * 512);
    assert_eq!(new.parts[1].new.start, new.parts[1].old.start);
    case.assert_foreign(&new);
    let new = case
        .plan(&Request {
            align: Some(MIB),
            ..grow
        })
        .unwrap();
    assert_eq!(new.parts[0].new.start, MIB);
    assert!(new.parts[1].is_moved());
    case.assert_foreign(&new);
}

#[test]
fn what_does_not_fit_is_refused_with_the_size_that_would_do_and_that_size_does() {
    let test = "what_does_not_fit_is_refused_with_the_size_that_would_do_and_that_size_does";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    for script in [MBR, XP, GPT] {
        let case = made(script);
        let to = |size, wishes: &[Wish]| Request {
            disk_size: DiskSize::Bytes(size),
            wishes: wishes.to_vec(),
            ..Request::default()
        };
        let Err(ArrangeError::DiskTooSmall {
            needed, smallest, ..
        }) = case.plan(&to(8 * MIB, &[]))
        else {
            panic!("taken");
        };
        assert!(
            smallest < needed && needed < 100 * MIB,
            "{smallest} {needed}"
        );
        case.assert_foreign(&case.plan(&to(needed, &[])).unwrap());
        assert!(case.plan(&to(needed - MIB, &[])).is_err());
        let all_small: Vec<Wish> = case
            .limits()
            .iter()
            .map(|limit| Wish {
                size: Some(limit.smallest),
                ..wish(limit.number)
            })
            .collect();
        case.assert_foreign(&case.plan(&to(smallest, &all_small)).unwrap());
        assert!(case.plan(&to(smallest - MIB, &all_small)).is_err());
        let fit = Request {
            disk_size: DiskSize::Fit,
            wishes: all_small,
            ..Request::default()
        };
        assert_eq!(case.plan(&fit).unwrap().size, smallest);
    }
    let case = made(GPT);
    let too_small = Request {
        wishes: vec![Wish {
            size: Some(MIB),
            ..wish(3)
        }],
        ..Request::default()
    };
    let text = case.plan(&too_small).unwrap_err().to_string();
    assert!(text.contains("smallest possible size is 5242880"), "{text}");
}

#[test]
fn a_logical_partition_that_is_left_out_renumbers_those_behind_it() {
    let test = "a_logical_partition_that_is_left_out_renumbers_those_behind_it";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let case = made(MBR);
    for gone in [5, 6, 7] {
        let request = Request {
            wishes: vec![Wish {
                leave_out: true,
                ..wish(gone)
            }],
            ..Request::default()
        };
        let new = case.plan(&request).unwrap();
        assert_eq!(new.left_out, [gone]);
        assert!(
            new.parts.iter().all(|p| p.old.start == p.new.start),
            "nobody moves: {new:#?}"
        );
        let renamed: Vec<_> = new
            .parts
            .iter()
            .filter(|p| p.number >= 5)
            .map(|p| (p.number, p.new_number))
            .collect();
        let rest: Vec<u32> = (5..8).filter(|n| *n != gone).collect();
        assert_eq!(renamed, [(rest[0], 5), (rest[1], 6)]);
        let image = case.assert_foreign(&new);
        let text = image.json().to_string();
        for part in &new.parts {
            assert!(
                text.contains(&format!("\"start\":{}", part.new.start / 512)),
                "{text}"
            );
        }
    }
    // All of them, and then the extended one.
    let out = |numbers: &[u32]| Request {
        wishes: numbers
            .iter()
            .map(|n| Wish {
                leave_out: true,
                ..wish(*n)
            })
            .collect(),
        ..Request::default()
    };
    case.assert_foreign(&case.plan(&out(&[5, 6, 7])).unwrap());
    let new = case.plan(&out(&[2])).unwrap();
    assert_eq!(new.left_out, [2, 5, 6, 7]);
    case.assert_foreign(&new);
}

#[test]
fn a_chain_that_is_not_in_the_order_of_the_disk_is_kept_and_can_be_moved() {
    let test = "a_chain_that_is_not_in_the_order_of_the_disk_is_kept_and_can_be_moved";
    if !has(test, &["parted", "sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB);
    for words in [
        "mklabel msdos",
        "mkpart primary 1MiB 5MiB",
        "mkpart extended 5MiB 90MiB",
        "mkpart logical 40MiB 60MiB",
        "mkpart logical 70MiB 80MiB",
        "mkpart logical 10MiB 30MiB",
    ] {
        let done = std::process::Command::new("parted")
            .arg("-s")
            .arg(image.path())
            .args(words.split(' '))
            .status()
            .unwrap();
        assert!(done.success());
    }
    let case = case(image.memory());
    for (grown, gone) in [(1, None), (5, None), (7, Some(5)), (6, Some(7))] {
        let mut wishes = vec![Wish {
            weight: 1,
            ..wish(grown)
        }];
        wishes.extend(gone.map(|gone| Wish {
            leave_out: true,
            ..wish(gone)
        }));
        let request = Request {
            disk_size: DiskSize::Bytes(500 * MIB),
            wishes,
            ..Request::default()
        };
        let new = case.plan(&request).unwrap();
        let disk = case.assert_as_planned(&new);
        let again = read_layout(&disk).unwrap();
        assert_eq!(again.partitions.len(), new.parts.len());
        // sfdisk --verify complains of a chain out of order in the original as well: it only warns.
        case.assert_foreign(&new);
    }
}

#[test]
fn an_mbr_becomes_a_gpt_with_the_same_numbers_and_fitting_types() {
    let test = "an_mbr_becomes_a_gpt_with_the_same_numbers_and_fitting_types";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    for script in [MBR, XP] {
        let case = made(script);
        let request = Request {
            disk_size: DiskSize::Bytes(3 << 40),
            table: Some(NewTable::Gpt),
            ..Request::default()
        };
        let new = case.plan(&request).unwrap();
        assert!(
            new.parts
                .iter()
                .all(|p| p.number == p.new_number && p.old == p.new)
        );
        let image = case.assert_foreign(&new);
        let json = image.json();
        let table = json["partitiontable"]["partitions"].as_array().unwrap();
        let mut parts: Vec<_> = new.parts.iter().collect();
        parts.sort_by_key(|part| part.number);
        for (part, theirs) in parts.into_iter().zip(table) {
            let PartitionKind::Gpt(guid) = part.kind else {
                panic!()
            };
            assert_eq!(
                theirs["type"].as_str().unwrap(),
                guid.to_string().to_uppercase()
            );
            assert_eq!(theirs["start"].as_u64().unwrap() * 512, part.new.start);
        }
        assert_eq!(
            case.plan(&request).unwrap(),
            new,
            "the identifiers can be repeated"
        );
        let mut same = request.clone();
        same.table = None;
        let refused = case.plan(&same).unwrap_err();
        assert!(
            matches!(refused, ArrangeError::MbrTooLarge { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("MBR"));
    }
}

#[test]
fn a_table_in_sectors_of_4096_is_grown_and_rewritten_in_sectors_of_512() {
    let test = "a_table_in_sectors_of_4096_is_grown_and_rewritten_in_sectors_of_512";
    if !has(test, &["fdisk", "sfdisk", "sgdisk"]) {
        return;
    }
    let image = Image::new(64 * MIB).fdisk_4k("g\nn\n1\n\n+10M\nn\n2\n\n+20M\nw\n");
    let case = case(image.memory_4k());
    let grow = Request {
        disk_size: DiskSize::Bytes(200 * MIB),
        wishes: vec![Wish {
            weight: 1,
            ..wish(1)
        }],
        ..Request::default()
    };
    let new = case.plan(&grow).unwrap();
    assert_eq!(new.sector_size, SectorSize::B4096);
    case.assert_as_planned(&new);
    let new = case
        .plan(&Request {
            sector_size: Some(SectorSize::B512),
            ..grow
        })
        .unwrap();
    assert!(matches!(case.layout.disk_id, Some(DiskId::Gpt(_))));
    case.assert_foreign(&new);
}

#[test]
fn what_must_not_be_touched_is_refused_by_name() {
    let test = "what_must_not_be_touched_is_refused_by_name";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let dynamic = made("label: dos\n1 : size=50M,type=42\n");
    let text = dynamic.plan(&Request::default()).unwrap_err().to_string();
    assert!(text.contains("dynamic disk"), "{text}");
    let case = made(MBR);
    let refused = |request: Request| case.plan(&request).unwrap_err().to_string();
    let nobody = refused(Request {
        wishes: vec![wish(9)],
        ..Request::default()
    });
    assert_eq!(nobody, "there is no partition 9");
    let torn = refused(Request {
        order: vec![5, 1],
        ..Request::default()
    });
    assert!(torn.contains("must stay together"), "{torn}");
    let odd = refused(Request {
        align: Some(3 * MIB),
        ..Request::default()
    });
    assert!(odd.contains("no alignment"), "{odd}");
    let mut doubtful = case.layout.clone();
    doubtful.findings.push(disk_layout::Finding {
        severity: disk_layout::Severity::Doubtful,
        what: disk_layout::Damage::Overlap,
        at: 446,
        expected: "this".into(),
        found: "that".into(),
        done: "nothing".into(),
    });
    let error = plan_layout(&doubtful, case.disk.size(), &[], &Request::default()).unwrap_err();
    assert!(matches!(error, ArrangeError::Doubtful { .. }), "{error}");
}

#[test]
fn any_request_gives_a_table_others_agree_with_or_a_refusal() {
    let test = "any_request_gives_a_table_others_agree_with_or_a_refusal";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut met, mut refused) = (0, 0);
    for script in [MBR, XP, GPT] {
        let case = made(script);
        let numbers: Vec<u32> = case.layout.partitions.iter().map(|p| p.number).collect();
        for round in 0..400 {
            let disk_size = match dice.roll(4) {
                0 => DiskSize::Same,
                1 => DiskSize::Fit,
                _ => DiskSize::Bytes(dice.roll(300 * MIB)),
            };
            let mut request = Request {
                disk_size,
                ..Request::default()
            };
            for number in &numbers {
                let bytes = dice.roll(40 * MIB);
                let mut one = wish(*number);
                match dice.roll(9) {
                    0 => one.leave_out = true,
                    1 => one.size = Some(bytes),
                    2 => one.min = Some(bytes),
                    3 => one.max = Some(bytes + 10 * MIB),
                    4 | 5 => one.weight = dice.roll(5) as u32,
                    _ => continue,
                }
                request.wishes.push(one);
            }
            if dice.roll(4) == 0 {
                let mut order = numbers.clone();
                let turn = dice.roll(order.len() as u64) as usize;
                order.rotate_left(turn);
                request.order = order;
            }
            if dice.roll(4) == 0 {
                request.align = Some(MIB);
            }
            if dice.roll(6) == 0 {
                request.table = Some(NewTable::Gpt);
            }
            match case.plan(&request) {
                Ok(new) if !new.is_change(&case.layout, case.disk.size()) => {}
                Ok(new) if round % 40 == 0 => {
                    case.assert_foreign(&new);
                    met += 1;
                }
                Ok(new) => {
                    case.assert_as_planned(&new);
                    met += 1;
                }
                Err(ArrangeError::Plan(error)) => panic!("{error}: {request:#?}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(met > 200 && refused > 100, "{met} met, {refused} refused");
}
