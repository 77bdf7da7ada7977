//! FAT12, FAT16 and FAT32 made by `mkfs.vfat`, filled and read by mtools, checked by `fsck.vfat`, the used
//! clusters held against partclone.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::path::Path;

use block_io::{FileDisk, FileDiskMut, Overlay};
use common::mtools::{fill, read_back};
use common::oracle::*;
use common::*;
use filesystems::fat::FatTree;
use filesystems::path::GuestPath;
use filesystems::probe::{FsKind, probe};
use filesystems::tree::{Attributes, FileKind, FileTree, Recovery, TreeErrorKind};
use filesystems::used::Findings;

/// A name, what mkfs.vfat is told, MiB, the kind it must be.
const VARIANTS: &[(&str, &str, u64, &str)] = &[
    ("fat12", "-F 12 -s 16", 30, "FAT12"),
    ("fat16", "-F 16", 40, "FAT16"),
    ("fat16-big", "-F 16 -s 64", 300, "FAT16"),
    ("fat32", "-F 32", 60, "FAT32"),
    ("fat32-8k", "-F 32 -s 16", 700, "FAT32"),
    ("fat32-4kn", "-F 32 -S 4096", 300, "FAT32"),
    ("fat32-one", "-F 32 -f 1 -s 1", 50, "FAT32"),
    ("fat16-hidden", "-F 16 -h 63 -R 4", 40, "FAT16"),
];
const NOW: i64 = 1_700_000_000;

fn mkfs(image: &Path, args: &str, mib: u64) {
    // A tail that is no whole cluster.
    make_fs("mkfs.vfat", &[], args, image, (mib << 20) + 3072 * 4);
}

fn fsck(image: &Path, what: &str) {
    let output = run("fsck.vfat", &["-n", text(image)]);
    assert_succeeded(&output, what);
}

/// Where the clusters lie, how many there are, their size, and how many are used, as fsck.vfat says.
fn clusters_by_fsck(image: &Path) -> (u64, u64, u64, u64) {
    let said = run_ok("fsck.vfat", &["-n", "-v", text(image)]);
    let number = |line: &str| -> u64 {
        let digits = line
            .split(|c: char| !c.is_ascii_digit())
            .find(|d| !d.is_empty());
        digits.unwrap().parse().unwrap()
    };
    let line = |what: &str| said.lines().find(|l| l.contains(what)).unwrap().to_owned();
    let (used, total) = {
        let line = line(" clusters");
        let line = said
            .lines()
            .rfind(|l| l.ends_with(" clusters"))
            .unwrap_or(&line)
            .to_owned();
        let (used, total) = line.rsplit_once('/').unwrap();
        (number(used.rsplit_once(' ').unwrap().1), number(total))
    };
    (
        number(&line("Data area starts")),
        total,
        number(&line("bytes per cluster")),
        used,
    )
}

/// Bytes in use as fsck.vfat counts clusters: all before the data, and behind the last cluster.
fn bytes_by_fsck(image: &Path) -> u64 {
    let (start, total, size, used) = clusters_by_fsck(image);
    let end = std::fs::metadata(image).unwrap().len();
    start + used * size + (end - start - total * size)
}

fn our_files(image: &Path) -> std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    our_tree(&FatTree::open(FileDisk::open(image).unwrap()).unwrap())
}

#[test]
fn trees_and_used_clusters_are_those_foreign_programs_see() {
    let test = "trees_and_used_clusters_are_those_foreign_programs_see";
    if !has_tools(test, &["mkfs.vfat", "fsck.vfat", "mcopy", "partclone.vfat"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, image, copy) = (
        dir.path().join("tree"),
        dir.path().join("image"),
        dir.path().join("copy"),
    );
    make_tree(&tree, 40, false);
    for (name, args, mib, kind) in VARIANTS {
        mkfs(&image, args, *mib);
        fill(&image, &tree);
        fsck(&image, name);
        let disk = FileDisk::open(&image).unwrap();
        assert_eq!(
            probe(&disk).unwrap().unwrap().kind.to_string(),
            *kind,
            "{name}"
        );
        assert_same(&our_files(&image), &read_back(&image), name);

        let findings = Findings::default();
        let ours = used(&disk, &findings);
        assert!(findings.list().is_empty(), "{name}: {:?}", findings.list());
        assert_eq!(sum(&ours), bytes_by_fsck(&image), "{name}");
        if *kind != "FAT12" {
            // partclone 0.3.23 misreads entries of 12 bits.
            assert_eq!(
                missing(&partclone_used("vfat", &image), &ours),
                [],
                "{name}"
            );
        }
        assert!(sum(&ours) < (mib << 20) * 9 / 10, "{name}");

        copy_ranges(&image, &ours, &copy);
        fsck(&copy, name);
        assert_same(&read_back(&copy), &read_back(&image), name);
        litter_free_space(&copy);
        fsck(&copy, name);
        assert_same(&read_back(&copy), &read_back(&image), name);
    }
}

#[test]
fn what_we_write_fsck_accepts_and_mtools_reads() {
    let test = "what_we_write_fsck_accepts_and_mtools_reads";
    if !has_tools(test, &["mkfs.vfat", "fsck.vfat", "mcopy"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 25, false);
    let new = Attributes::root_owned(0o755, NOW);
    for (name, args, mib, _) in VARIANTS {
        mkfs(&image, args, *mib);
        fill(&image, &tree);
        let mut fat =
            FatTree::open_rw(FileDiskMut::open(&image).unwrap(), Recovery::Refuse).unwrap();
        let mut random = Seeded(*mib);
        fat.create_dir(&"/EFI/debian".into(), new).unwrap();
        fat.create_dir(&"/EFI/debian/a rather long directory name".into(), new)
            .unwrap();
        for k in 0..300 {
            let len = random.below(9000) as usize;
            let path = match k % 3 {
                0 => format!("/EFI/debian/NEW{k}.EFI"),
                1 => format!("/EFI/debian/a rather long directory name/module number {k}.mod"),
                _ => format!("/EFI/debian/üñï-{k}.txt"),
            };
            fat.write_file(&GuestPath::new(path), &random.bytes(len), new)
                .unwrap();
        }
        fsck(&image, name);
        // Everything that can be done, at places that matter.
        let path = GuestPath::new("/EFI/BOOT/BOOTX64.EFI");
        let mut expected = random.bytes(1_500_000);
        fat.write_file(&path, &expected, new).unwrap();
        fat.write_file(&path, &expected[..10], new).unwrap();
        fat.write_file(&path, &expected, new).unwrap();
        fat.write_at(&path, 1_000_000, b"inside").unwrap();
        expected[1_000_000..1_000_006].copy_from_slice(b"inside");
        fat.write_at(&path, 1_700_000, b"behind").unwrap();
        expected.resize(1_700_000, 0);
        expected.extend(b"behind");
        fat.truncate(&path, 1_234_567).unwrap();
        expected.truncate(1_234_567);
        fat.truncate(&path, 1_300_001).unwrap();
        expected.resize(1_300_001, 0);
        assert!(
            fat.read_file(&"/efi/boot/bootx64.efi".into(), 1 << 30)
                .unwrap()
                == expected
        );
        fat.rename(&path, &"/EFI/debian/shim, moved.efi".into())
            .unwrap();
        fat.rename(&"/EFI/debian".into(), &"/Debian".into())
            .unwrap();
        fat.rename(&"/Debian".into(), &"/EFI/DEBIAN".into())
            .unwrap();
        fat.rename(
            &"/EFI/DEBIAN/NEW0.EFI".into(),
            &"/efi/debian/new0.efi".into(),
        )
        .unwrap();
        fat.rename(
            &"/EFI/DEBIAN/NEW3.EFI".into(),
            &"/efi/debian/new0.efi".into(),
        )
        .unwrap();
        fat.remove(&"/EFI/debian/NEW6.EFI".into()).unwrap();
        fat.set_owner(&"/EFI/debian/NEW9.EFI".into(), 0o444, 0, 0)
            .unwrap();
        assert_eq!(
            fat.stat(&"/EFI/debian/NEW9.EFI".into()).unwrap().mode,
            0o555
        );
        assert_eq!(fat.stat(&"/EFI/debian/new0.efi".into()).unwrap().mtime, NOW);
        fat.truncate(&"/EFI/debian/NEW12.EFI".into(), 0).unwrap();
        refusals(&mut fat);
        fat.sync().unwrap();
        fsck(&image, name);
        let ours = our_tree(&fat);
        assert!(
            ours[&b"EFI/DEBIAN/shim, moved.efi"[..]].as_ref() == Some(&expected),
            "{name}"
        );
        assert!(ours.contains_key(&b"EFI/DEBIAN/new0.efi"[..]));
        assert!(!ours.contains_key(&b"EFI/DEBIAN/NEW6.EFI"[..]));
        assert_same(&ours, &read_back(&image), name);
    }
}

/// What must be refused, and leave nothing behind.
fn refusals(fat: &mut FatTree<FileDiskMut>) {
    let new = Attributes::root_owned(0o755, NOW);
    let before = our_tree(fat);
    let space = fat.space().unwrap();
    let check = |result: filesystems::tree::Result<()>, kind: TreeErrorKind| {
        assert_eq!(result.unwrap_err().kind(), kind);
    };
    check(fat.create_dir(&"/EFI".into(), new), TreeErrorKind::Exists);
    check(fat.create_dir(&"/efi".into(), new), TreeErrorKind::Exists);
    check(
        fat.create_dir(&"/none/x".into(), new),
        TreeErrorKind::NotFound,
    );
    check(
        fat.create_dir(&"/late.bin/x".into(), new),
        TreeErrorKind::NotADirectory,
    );
    check(fat.remove(&"/EFI".into()), TreeErrorKind::NotEmpty);
    check(
        fat.write_file(&"/EFI".into(), b"x", new),
        TreeErrorKind::NotAFile,
    );
    check(
        fat.write_file(&"/a:b".into(), b"x", new),
        TreeErrorKind::BadName,
    );
    check(
        fat.rename(&"/EFI".into(), &"/EFI/below/it".into()),
        TreeErrorKind::BadName,
    );
    check(
        fat.rename(&"/EFI".into(), &"/efi/below".into()),
        TreeErrorKind::NotFound,
    );
    check(
        fat.rename(&"/late.bin".into(), &"/EFI".into()),
        TreeErrorKind::Exists,
    );
    check(
        fat.truncate(&"/late.bin".into(), 1 << 32),
        TreeErrorKind::TooLarge,
    );
    check(
        fat.truncate(&"/late.bin".into(), space.free + (1 << 20)),
        TreeErrorKind::NoSpace,
    );
    check(
        fat.create_symlink(&"/l".into(), b"x", new),
        TreeErrorKind::Unsupported,
    );
    assert_eq!(fat.space().unwrap(), space);
    assert!(our_tree(fat) == before);
}

#[test]
fn a_full_volume_refuses_and_stays_sound() {
    let test = "a_full_volume_refuses_and_stays_sound";
    if !has_tools(test, &["mkfs.vfat", "fsck.vfat"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let new = Attributes::root_owned(0o755, NOW);
    for args in ["-F 12 -s 16", "-F 16 -s 1", "-F 32 -s 1"] {
        mkfs(
            &image,
            args,
            if args.contains("32") {
                40
            } else {
                4 + 8 * u64::from(args.contains("16 -s 1"))
            },
        );
        let mut fat =
            FatTree::open_rw(FileDiskMut::open(&image).unwrap(), Recovery::Refuse).unwrap();
        let free = fat.space().unwrap().free;
        let all = vec![7; free as usize];
        fat.write_file(&"/all".into(), &all, new).unwrap();
        assert_eq!(fat.space().unwrap().free, 0);
        let refused = fat.write_file(&"/more".into(), b"x", new).unwrap_err();
        assert_eq!(refused.kind(), TreeErrorKind::NoSpace);
        let refused = fat.create_dir(&"/dir".into(), new).unwrap_err();
        assert_eq!(refused.kind(), TreeErrorKind::NoSpace);
        // A full volume still takes the same file anew.
        fat.write_file(&"/all".into(), &all, new).unwrap();
        fsck(&image, args);
        fat.remove(&"/all".into()).unwrap();
        // The root of FAT12 and FAT16 has an end.
        let mut made = 0;
        for k in 0..600 {
            match fat.write_file(&GuestPath::new(format!("/a longer name {k}")), b"", new) {
                Ok(()) => made += 1,
                Err(error) => assert_eq!(error.kind(), TreeErrorKind::NoSpace),
            }
        }
        assert_eq!(made == 600, args.contains("32"), "{args}: {made}");
        fsck(&image, args);
    }
}

#[test]
fn a_mounted_volume_is_dirty_and_taken_only_when_told() {
    let test = "a_mounted_volume_is_dirty_and_taken_only_when_told";
    if !has_tools(test, &["mkfs.vfat"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (args, at) in [("-F 32", 0x41), ("-F 16", 0x25)] {
        mkfs(&image, args, 40);
        let mut bytes = std::fs::read(&image).unwrap();
        bytes[at] |= 1;
        std::fs::write(&image, &bytes).unwrap();
        let open = |recovery| FatTree::open_rw(FileDiskMut::open(&image).unwrap(), recovery);
        assert_eq!(
            open(Recovery::Refuse).unwrap_err().kind(),
            TreeErrorKind::Dirty
        );
        let mut fat = open(Recovery::Replay).unwrap();
        fat.write_file(&"/x".into(), b"y", Attributes::root_owned(0o644, NOW))
            .unwrap();
        // Copies of the table that differ are nobody's to choose between.
        let mut bytes = std::fs::read(&image).unwrap();
        let fat_at = usize::from(u16::from_le_bytes([bytes[14], bytes[15]])) * 512;
        bytes[fat_at + 400] = 0x77;
        std::fs::write(&image, &bytes).unwrap();
        assert_eq!(
            open(Recovery::Replay).unwrap_err().kind(),
            TreeErrorKind::Corrupt
        );
        let findings = Findings::default();
        used(&FileDisk::open(&image).unwrap(), &findings);
        assert!(findings.list()[0].contains("copies of the FAT differ"));
    }
}

#[test]
fn images_of_other_systems_are_read() {
    let test = "images_of_other_systems_are_read";
    let Some(dir) = fixtures(test, "ntfs/dfir_ntfs") else {
        return;
    };
    if !has_tools(test, &["gzip", "fsck.vfat", "mcopy", "partclone.vfat"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("image");
    let mut seen = 0;
    for name in ["fat12.raw.gz", "fat16.raw.gz", "fat16_moved.raw.gz"] {
        let command = format!("gzip -dc '{}' > '{}'", text(&dir.join(name)), text(&image));
        run_ok("sh", &["-c", &command]);
        let disk = FileDisk::open(&image).unwrap();
        let Some(found) = probe(&disk)
            .unwrap()
            .filter(|p| p.kind.to_string().starts_with("FAT"))
        else {
            println!("{name}: no file system from its first sector on");
            continue;
        };
        println!("{name}: {found:?}");
        assert_same(&our_files(&image), &read_back(&image), name);
        let ours = used(&disk, &Findings::default());
        assert_eq!(sum(&ours), bytes_by_fsck(&image), "{name}");
        if found.kind != FsKind::Fat12 {
            let truth = partclone_used("vfat", &image);
            assert_eq!(missing(&truth, &ours), [], "{name}");
        }
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn hostile_bytes_end_in_errors() {
    let test = "hostile_bytes_end_in_errors";
    if !has_tools(test, &["mkfs.vfat", "mcopy"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 25, false);
    for (args, mib) in [("-F 12 -s 16", 16), ("-F 16 -s 4", 24), ("-F 32 -s 1", 40)] {
        mkfs(&image, args, mib);
        fill(&image, &tree);
        let sound = block_io::MemoryDisk::from(std::fs::read(&image).unwrap());
        let truth = used(&sound, &Findings::default());
        // Where metadata lies: the tables, the root, the directories.
        let head = truth[0].end.min(400_000);
        let mut random = Seeded(0xFA7);
        for round in 0..120 {
            let disk = Overlay::new(&sound);
            for _ in 0..1 + random.below(6) {
                let at = match round % 3 {
                    0 => random.below(512),
                    1 => random.below(head),
                    _ => random.below(4096) + head.saturating_sub(2048),
                };
                mutate(&disk, at, &mut random);
            }
            if probe(&disk).unwrap().is_some() {
                used(&disk, &Findings::default());
            }
            if let Ok(fat) = FatTree::open(&disk) {
                exercise(&fat);
            }
            if let Ok(mut fat) = FatTree::open_rw(disk, Recovery::Replay) {
                let new = Attributes::root_owned(0o755, NOW);
                let _ = fat.create_dir(&"/etc/new".into(), new);
                let _ = fat.write_file(&"/etc/new/file".into(), &[1; 9000], new);
                let _ = fat.write_file(&"/late.bin".into(), &[1; 90_000], new);
                let _ = fat.rename(&"/etc/new".into(), &"/EFI/new".into());
                let _ = fat.remove(&"/EFI/BOOT/FILE12.BIN".into());
                assert!(
                    fat.stat(&GuestPath::root())
                        .map_or(true, |s| s.kind == FileKind::Directory)
                );
            }
        }
    }
}

/// Not a check but a measurement: `cargo test --release -p filesystems --test fat -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_the_used_map() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    run_ok("mkfs.vfat", &["-F", "32", "-s", "64", text(&image)]);
    let start = std::time::Instant::now();
    let ours = used(&FileDisk::open(&image).unwrap(), &Findings::default());
    println!("ours: {:?}, {} ranges", start.elapsed(), ours.len());
    let start = std::time::Instant::now();
    partclone_used("vfat", &image);
    println!("partclone.vfat: {:?}", start.elapsed());
}
