//! Disks made by sfdisk and mke2fs, copied by what the survey says is in use, checked by e2fsck and
//! compared file by file.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use block_io::{BlockRead, BlockWrite, ExtentKind, FileDisk, FileDiskMut, MemoryDisk};
use disk_layout::{Severity, TableKind};
use disk_survey::{About, Survey, survey};
use filesystems::probe::FsKind;
use test_oracles::has_tools;

const MIB: u64 = 1 << 20;
/// What free space is full of before anything is made on a disk.
const LITTER: u8 = 0xA5;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file full of litter.
    fn littered(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, vec![LITTER; size as usize]).unwrap();
        path
    }

    /// A directory with files of many sizes, a link and a hole.
    fn tree(&self) -> PathBuf {
        let root = self.path("tree");
        if root.exists() {
            return root;
        }
        for dir in ["etc", "var/lib/empty", "usr/share"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        for number in 0..300_usize {
            let bytes: Vec<u8> = (0..number * 131)
                .map(|i| (i * number) as u8 ^ 0x5A)
                .collect();
            std::fs::write(root.join(format!("usr/share/{number}")), bytes).unwrap();
        }
        let big: Vec<u8> = (0..5 * MIB as usize).map(|i| (i / 7) as u8).collect();
        std::fs::write(root.join("var/big"), big).unwrap();
        std::os::unix::fs::symlink("../var/big", root.join("etc/link")).unwrap();
        let holey = std::fs::File::create(root.join("var/holey")).unwrap();
        holey.set_len(20 * MIB).unwrap();
        holey.write_at(b"in the middle", 10 * MIB).unwrap();
        root
    }

    /// A file system of `size` bytes over litter.
    fn ext(&self, name: &str, kind: &str, size: u64) -> PathBuf {
        let path = self.littered(name, size);
        run(Command::new("mke2fs")
            .args(["-q", "-F", "-t", kind, "-E", "nodiscard", "-d"])
            .arg(self.tree())
            .arg(&path));
        path
    }
}

fn sfdisk(disk: &Path, script: &str) {
    let mut child = Command::new("sfdisk")
        .args(["-q", "--wipe", "never"])
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Put the bytes of `part` onto `disk` at `at`.
fn put(disk: &Path, at: u64, part: &Path) {
    let disk = std::fs::File::options().write(true).open(disk).unwrap();
    disk.write_all_at(&std::fs::read(part).unwrap(), at)
        .unwrap();
}

/// Copy what is not `Zero` of the used part of `source` to a new sparse file; how many bytes it was.
fn copy_used(source: &FileDisk, survey: &Survey, to: &Path) -> u64 {
    let used = survey.used_only(source);
    let target = FileDiskMut::create_new(to, source.size()).unwrap();
    let mut copied = 0;
    for extent in block_io::extents(&used, 0..used.size()) {
        let extent = extent.unwrap();
        if extent.kind == ExtentKind::Zero {
            continue;
        }
        assert_eq!(extent.kind, ExtentKind::Data);
        let mut bytes = vec![0; extent.len as usize];
        used.read_at(extent.start, &mut bytes).unwrap();
        target.write_at(extent.start, &bytes).unwrap();
        copied += extent.len;
    }
    copied
}

/// Check the ext file system at `range` of `disk` with e2fsck, and its files against `tree`.
fn assert_holds_tree(scratch: &Scratch, disk: &Path, range: std::ops::Range<u64>) {
    let part = scratch.path("part");
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let disk = FileDisk::open(disk).unwrap();
    disk.read_at(range.start, &mut bytes).unwrap();
    std::fs::write(&part, bytes).unwrap();
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&part));
    let out = scratch.path("out");
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir(&out).unwrap();
    run(Command::new("debugfs")
        .arg("-R")
        .arg(format!("rdump / {}", out.display()))
        .arg(&part));
    run(Command::new("diff")
        .args(["-r", "--no-dereference", "--exclude=lost+found"])
        .arg(scratch.path("tree"))
        .arg(&out));
}

/// Used blocks of an ext file system in bytes, by dumpe2fs.
fn used_by_dumpe2fs(path: &Path) -> u64 {
    let said = run(Command::new("dumpe2fs").arg("-h").arg(path));
    let field = |name: &str| -> u64 {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    (field("Block count:") - field("Free blocks:")) * field("Block size:")
}

#[test]
fn a_server_disk_copied_by_its_used_bytes_loses_nothing() {
    let test = "a_server_disk_copied_by_its_used_bytes_loses_nothing";
    if !has_tools(
        test,
        &["sfdisk", "mke2fs", "e2fsck", "debugfs", "mkswap", "blkid"],
    ) {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.littered("disk", 400 * MIB);
    sfdisk(
        &disk,
        "label: dos\n1 : start=2048,size=60M,bootable\n2 : start=200M,size=190M,type=5\n\
         5 : start=201M,size=100M\n6 : start=310M,size=30M,type=82\n",
    );
    put(&disk, MIB, &scratch.ext("boot", "ext2", 60 * MIB));
    put(&disk, 201 * MIB, &scratch.ext("root", "ext4", 100 * MIB));
    let swap = scratch.littered("swap", 30 * MIB);
    run(Command::new("mkswap").arg("-q").arg(&swap));
    put(&disk, 310 * MIB, &swap);

    let source = FileDisk::open(&disk).unwrap();
    let survey = survey(&source).unwrap();
    assert_eq!(survey.findings, []);
    let found: Vec<_> = survey
        .volumes
        .iter()
        .map(|v| (v.partition.unwrap(), v.probe.as_ref().unwrap().kind))
        .collect();
    assert_eq!(
        found,
        [(1, FsKind::Ext2), (5, FsKind::Ext4), (6, FsKind::Swap)]
    );
    assert!(survey.volumes.iter().all(|v| v.free_known));
    for (volume, name) in survey.volumes.iter().zip(["boot", "root"]) {
        // To a block: e2fsprogs counts the boot block of a 1 KiB file system otherwise.
        let theirs = used_by_dumpe2fs(&scratch.path(name));
        assert!(
            volume.used_bytes.abs_diff(theirs) <= 1024,
            "{name}: {} against {theirs}",
            volume.used_bytes
        );
    }
    let copy = scratch.path("copy");
    let copied = copy_used(&source, &survey, &copy);
    assert_eq!(copied, survey.used_bytes());
    assert!(copied < 60 * MIB, "{copied}");

    // The boot area, the table and the records of the chain are there: the copy is read as the same.
    let mut head = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let target = FileDisk::open(&copy).unwrap();
    source.read_at(0, &mut head[0]).unwrap();
    target.read_at(0, &mut head[1]).unwrap();
    assert!(head[0] == head[1]);
    let again = disk_survey::survey(&target).unwrap();
    assert_eq!(again.layout.partitions, survey.layout.partitions);
    assert_holds_tree(&scratch, &copy, MIB..61 * MIB);
    assert_holds_tree(&scratch, &copy, 201 * MIB..301 * MIB);
    let label = run(Command::new("blkid")
        .arg("-p")
        .arg("-O")
        .arg("325058560")
        .arg(&copy));
    assert!(label.contains("swap"), "{label}");
    // Litter between the partitions was left behind.
    let mut gap = vec![LITTER; 4096];
    target.read_at(100 * MIB, &mut gap).unwrap();
    assert_eq!(gap, [0; 4096]);
}

/// A file system made by `command` over litter, which gets the name of the file as its last argument.
fn made(scratch: &Scratch, name: &str, size: u64, command: &[&str]) -> PathBuf {
    let path = scratch.littered(name, size);
    run(Command::new(command[0]).args(&command[1..]).arg(&path));
    path
}

/// The bytes of a partition, as a file of their own.
fn cut_out(scratch: &Scratch, disk: &Path, range: std::ops::Range<u64>) -> PathBuf {
    let part = scratch.path("part");
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let disk = FileDisk::open(disk).unwrap();
    disk.read_at(range.start, &mut bytes).unwrap();
    std::fs::write(&part, bytes).unwrap();
    part
}

#[test]
fn each_file_system_of_a_mixed_disk_passes_its_own_check_after_the_copy() {
    let test = "each_file_system_of_a_mixed_disk_passes_its_own_check_after_the_copy";
    // Made by one program, checked by another.
    let parts: [(FsKind, u64, &[&str], &[&str]); 5] = [
        (
            FsKind::Fat32,
            64,
            &["mkfs.vfat", "-F", "32"],
            &["fsck.vfat", "-n"],
        ),
        (
            FsKind::Xfs,
            320,
            &["mkfs.xfs", "-q", "-f", "-K"],
            &["xfs_repair", "-n", "-f"],
        ),
        (
            FsKind::Ntfs,
            40,
            &["mkntfs", "-F", "-Q", "-q"],
            &["ntfsresize", "-i", "-f"],
        ),
        (
            FsKind::Btrfs,
            160,
            &["mkfs.btrfs", "-q", "-f", "-K"],
            &["btrfs", "check", "--readonly"],
        ),
        (FsKind::ExFat, 40, &["mkfs.exfat"], &["fsck.exfat", "-n"]),
    ];
    let tools = parts.iter().flat_map(|part| [part.2[0], part.3[0]]);
    if !has_tools(test, &tools.chain(["sfdisk", "mcopy"]).collect::<Vec<_>>()) {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.littered("disk", 640 * MIB);
    let mut script = "label: gpt\n".to_owned();
    for part in &parts {
        script += &format!("size={}M\n", part.1);
    }
    sfdisk(&disk, &script);
    let mut at = MIB;
    for (kind, size, make, _) in &parts {
        let made = made(&scratch, "made", size * MIB, make);
        if *kind == FsKind::Fat32 {
            let file = scratch.tree().join("var/big");
            run(Command::new("mcopy")
                .arg("-i")
                .arg(&made)
                .arg(file)
                .arg("::/big"));
        }
        put(&disk, at, &made);
        at += size * MIB;
    }
    let source = FileDisk::open(&disk).unwrap();
    let survey = survey(&source).unwrap();
    assert_eq!(survey.findings, []);
    let found: Vec<_> = survey
        .volumes
        .iter()
        .map(|v| v.probe.as_ref().unwrap().kind)
        .collect();
    assert_eq!(found, parts.map(|part| part.0));
    let copy = scratch.path("copy");
    copy_used(&source, &survey, &copy);
    for (volume, (kind, size, _, check)) in survey.volumes.iter().zip(&parts) {
        assert!(volume.free_known, "{kind}");
        assert!(
            volume.used_bytes < size * MIB / 2,
            "{kind}: {}",
            volume.used_bytes
        );
        let part = cut_out(&scratch, &copy, volume.range.clone());
        run(Command::new(check[0]).args(&check[1..]).arg(&part));
        if *kind == FsKind::Fat32 {
            let out = scratch.path("big");
            run(Command::new("mcopy")
                .arg("-n")
                .arg("-i")
                .arg(&part)
                .arg("::/big")
                .arg(&out));
            let big = std::fs::read(scratch.tree().join("var/big")).unwrap();
            assert!(std::fs::read(&out).unwrap() == big);
        }
    }
}

#[test]
fn a_gpt_disk_keeps_both_copies_of_its_table() {
    let test = "a_gpt_disk_keeps_both_copies_of_its_table";
    if !has_tools(test, &["sfdisk", "sgdisk", "mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.littered("disk", 200 * MIB);
    sfdisk(
        &disk,
        "label: gpt\n1 : size=1M,type=21686148-6449-6E6F-744E-656564454649\n2 : size=100M\n",
    );
    put(&disk, 2 * MIB, &scratch.ext("root", "ext4", 100 * MIB));
    let source = FileDisk::open(&disk).unwrap();
    let survey = survey(&source).unwrap();
    assert_eq!(survey.layout.table, TableKind::Gpt);
    assert_eq!(survey.findings, []);
    assert!(!survey.volumes[0].free_known, "GRUB's partition is unknown");
    let copy = scratch.path("copy");
    assert!(copy_used(&source, &survey, &copy) < 30 * MIB);
    let said = run(Command::new("sgdisk").arg("-v").arg(&copy));
    assert!(said.contains("No problems found"), "{said}");
    assert_holds_tree(&scratch, &copy, 2 * MIB..102 * MIB);
}

#[test]
fn a_file_system_on_the_whole_disk() {
    let test = "a_file_system_on_the_whole_disk";
    if !has_tools(test, &["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    for boot_code in [false, true] {
        let scratch = Scratch::new();
        let disk = scratch.ext("disk", "ext4", 100 * MIB);
        if boot_code {
            // Boot code with the magic number looks like an MBR without partitions.
            let mut sector = vec![0xEB; 446];
            sector.extend([0; 64]);
            sector.extend([0x55, 0xAA]);
            let file = std::fs::File::options().write(true).open(&disk).unwrap();
            file.write_all_at(&sector, 0).unwrap();
        }
        let source = FileDisk::open(&disk).unwrap();
        let survey = survey(&source).unwrap();
        assert_eq!(survey.volumes.len(), 1);
        assert_eq!(survey.volumes[0].partition, None);
        assert_eq!(survey.volumes[0].probe.as_ref().unwrap().kind, FsKind::Ext4);
        assert!(survey.volumes[0].free_known);
        let copy = scratch.path("copy");
        assert!(copy_used(&source, &survey, &copy) < 30 * MIB);
        assert_holds_tree(&scratch, &copy, 0..100 * MIB);
    }
}

#[test]
fn a_blank_disk_and_one_of_unknown_content_are_used_whole() {
    for bytes in [vec![0; MIB as usize], vec![LITTER; MIB as usize]] {
        let disk = MemoryDisk::from(bytes.clone());
        let survey = survey(&disk).unwrap();
        assert!(survey.is_unknown());
        assert_eq!(survey.used_bytes(), MIB);
        assert_eq!(survey.findings, []);
        // What the disk itself knows to be zero stays so.
        let blank = bytes[0] == 0;
        let extent = survey.used_only(&disk).extent_at(0).unwrap();
        assert_eq!(extent.kind == ExtentKind::Zero, blank);
    }
    let empty = survey(&MemoryDisk::zeroed(0)).unwrap();
    assert_eq!(empty.used_bytes(), 0);
    assert!(empty.is_unknown());
}

#[test]
fn doubt_about_the_table_makes_every_byte_used() {
    let test = "doubt_about_the_table_makes_every_byte_used";
    if !has_tools(test, &["sfdisk", "mke2fs"]) {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.littered("disk", 200 * MIB);
    sfdisk(&disk, "label: gpt\n1 : size=100M\n2 : size=50M\n");
    put(&disk, MIB, &scratch.ext("root", "ext4", 100 * MIB));
    let whole = std::fs::read(&disk).unwrap();
    let sound = survey(&MemoryDisk::from(whole.clone())).unwrap();
    assert!(sound.used_bytes() < 90 * MIB);

    // A damaged primary table; a table that overlaps; a whole-disk signature beside the table; a
    // firmware RAID.
    type Change = fn(&MemoryDisk);
    let changes: [(Change, &str); 4] = [
        (
            |disk| disk.write_at(1024 + 33, &[1]).unwrap(),
            "bad checksum of the GPT partition array",
        ),
        (
            |disk| {
                let mut sector = [0; 512];
                sector[446 + 4] = 0x83;
                sector[446 + 8..446 + 16].copy_from_slice(&[0, 8, 0, 0, 0, 0, 1, 0]);
                sector[462 + 4] = 0x83;
                sector[462 + 8..462 + 16].copy_from_slice(&[0, 9, 0, 0, 0, 0, 1, 0]);
                sector[510..].copy_from_slice(&[0x55, 0xAA]);
                disk.write_at(0, &sector).unwrap();
                disk.write_at(512, &[0; 512]).unwrap();
                disk.write_at(200 * MIB - 512, &[0; 512]).unwrap();
            },
            "partitions overlap",
        ),
        (
            |disk| disk.write_at(65_536 + 64, b"_BHRfS_M").unwrap(),
            "as a whole, holds btrfs",
        ),
        (
            |disk| {
                disk.write_at(200 * MIB - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00")
                    .unwrap();
            },
            "IMSM",
        ),
    ];
    for (change, expected) in changes {
        let disk = MemoryDisk::from(whole.clone());
        change(&disk);
        let survey = survey(&disk).unwrap();
        assert_eq!(survey.used_bytes(), 200 * MIB, "{expected}");
        let text: Vec<String> = survey.findings.iter().map(ToString::to_string).collect();
        assert!(
            text.iter().any(|text| text.contains(expected)),
            "{expected}: {text:?}"
        );
        assert!(
            survey
                .findings
                .iter()
                .any(|f| f.severity == Severity::Doubtful)
        );
        assert!(!survey.volumes.is_empty());
        let mut all = vec![0; whole.len()];
        survey.used_only(&disk).read_at(0, &mut all).unwrap();
        assert!(all == disk.to_vec());
    }
}

#[test]
fn an_old_superblock_inside_something_else_is_not_believed() {
    let test = "an_old_superblock_inside_something_else_is_not_believed";
    if !has_tools(test, &["sfdisk", "mke2fs"]) {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.littered("disk", 150 * MIB);
    sfdisk(&disk, "label: gpt\n1 : size=100M\n");
    put(&disk, MIB, &scratch.ext("root", "ext4", 100 * MIB));
    let disk = MemoryDisk::from(std::fs::read(&disk).unwrap());
    let ring = MIB + (128 << 10);
    disk.write_at(ring, &0x00BA_B10C_u64.to_le_bytes()).unwrap();
    let survey = survey(&disk).unwrap();
    assert!(!survey.volumes[0].free_known);
    assert_eq!(survey.volumes[0].used_bytes, 100 * MIB);
    let finding = &survey.findings[0];
    assert_eq!(finding.about, About::Partition(1));
    assert!(finding.text.contains("ZFS"), "{finding}");
}
