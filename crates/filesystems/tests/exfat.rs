//! exFAT made by `mkfs.exfat`, filled through FUSE where that is there, its used clusters held against
//! partclone; volumes of other systems.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::path::Path;

use block_io::{BlockRead, FileDisk, MemoryDisk, Overlay};
use common::oracle::*;
use common::*;
use filesystems::probe::{FsKind, probe};
use filesystems::used::Findings;

fn mkfs(image: &Path, args: &str, mib: u64) {
    make_fs("mkfs.exfat", &[], args, image, (mib << 20) + 1536);
}

/// An image mounted through a loop device, which exfat-fuse wants.
struct Mounted {
    mount: Option<Mount>,
    device: String,
}

impl Mounted {
    fn new(test: &str, image: &Path) -> Option<Self> {
        let losetup = run("losetup", &["-f", "--show", text(image)]);
        if !losetup.status.success() {
            skip(test, "a loop device");
            return None;
        }
        let device = String::from_utf8_lossy(&losetup.stdout).trim().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let output = run("mount.exfat-fuse", &[&device, text(dir.path())]);
        let mounted = output.status.success();
        let mount = mounted.then(|| Mount { dir });
        if !mounted {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            skip(test, &format!("exfat-fuse to mount ({})", why.trim()));
        }
        let this = Self { mount, device };
        mounted.then_some(this)
    }

    fn path(&self) -> &Path {
        self.mount.as_ref().unwrap().path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.mount.take();
        run("blockdev", &["--flushbufs", &self.device]);
        run("losetup", &["-d", &self.device]);
    }
}

#[test]
fn used_clusters_are_those_of_partclone_and_a_copy_of_them_is_whole() {
    let test = "used_clusters_are_those_of_partclone_and_a_copy_of_them_is_whole";
    let tools = [
        "mkfs.exfat",
        "fsck.exfat",
        "mount.exfat-fuse",
        "partclone.exfat",
        "fuser",
    ];
    if !has_tools(test, &tools) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    for (args, mib) in [("", 60), ("-c 512", 30), ("-c 128K", 400)] {
        mkfs(&image, args, mib);
        let Some(filled) = Mounted::new(test, &image) else {
            return;
        };
        make_tree(filled.path(), 30, false);
        for k in (0..30).step_by(3) {
            let _ = std::fs::remove_file(filled.path().join("etc").join(format!("FILE{k}.BIN")));
        }
        std::fs::write(filled.path().join("late"), Seeded(1).bytes(3_000_000)).unwrap();
        let files = host_tree(filled.path());
        drop(filled);
        let findings = Findings::default();
        let ours = used(&FileDisk::open(&image).unwrap(), &findings);
        assert!(findings.list().is_empty(), "{args}: {:?}", findings.list());
        let truth = partclone_used("exfat", &image);
        assert_eq!(missing(&truth, &ours), [], "{args}: left out");
        // Behind the last cluster, and boot regions and tables, which partclone counts otherwise.
        let extra = sum(&missing(&ours, &truth));
        assert!(extra <= 2 << 20, "{args}: {extra} bytes too much");
        assert!(sum(&ours) < (mib << 20) * 9 / 10, "{args}");
        copy_ranges(&image, &ours, &copy);
        litter_free_space(&copy);
        run_ok("fsck.exfat", &["-n", text(&copy)]);
        let Some(copied) = Mounted::new(test, &copy) else {
            return;
        };
        assert_same(&host_tree(copied.path()), &files, args);
        drop(copied);
    }
}

#[test]
fn volumes_of_other_systems_keep_all_their_clusters() {
    let test = "volumes_of_other_systems_keep_all_their_clusters";
    if !has_tools(test, &["gzip", "partclone.exfat"]) {
        return;
    }
    let Some(dir) = fixtures(test, "ntfs/dfir_ntfs") else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let image = scratch.path().join("image");
    let mut believed = 0;
    for name in [
        "exfat_win.raw.gz",
        "exfat_orphan.raw.gz",
        "exfat_encrypted.raw.gz",
        "win_exfat_7.raw.gz",
        "exfat_lin_part.raw.gz",
    ] {
        run_ok(
            "sh",
            &[
                "-c",
                &format!("gzip -dc '{}' > '{}'", text(&dir.join(name)), text(&image)),
            ],
        );
        let disk = FileDisk::open(&image).unwrap();
        if probe(&disk)
            .unwrap()
            .is_none_or(|p| p.kind != FsKind::ExFat)
        {
            println!("{name}: not exFAT from its first sector on");
            continue;
        }
        believed += usize::from(believed_as_by_partclone("exfat", name, &image));
    }
    assert!(believed >= 1);
}

#[test]
fn a_dirty_volume_and_hostile_bytes_make_everything_used() {
    let test = "a_dirty_volume_and_hostile_bytes_make_everything_used";
    if !has_tools(test, &["mkfs.exfat"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkfs(&image, "", 30);
    let sound = MemoryDisk::from(std::fs::read(&image).unwrap());
    let truth = used(&sound, &Findings::default());
    let dirty = Overlay::new(&sound);
    block_io::BlockWrite::write_at(&dirty, 106, &[2]).unwrap();
    let findings = Findings::default();
    assert_eq!(used(&dirty, &findings), [0..sound.size()]);
    assert!(findings.list()[0].contains("marked dirty"));
    let end = truth[0].end + (64 << 10);
    let mut random = Seeded(0xEF);
    for round in 0..3000 {
        let disk = Overlay::new(&sound);
        for _ in 0..1 + random.below(3) {
            let at = if round % 2 == 0 {
                random.below(512)
            } else {
                random.below(end)
            };
            mutate(&disk, at, &mut random);
        }
        // With its checksum made right again, the boot sector is looked at more closely.
        let mut region = vec![0; 512 * 11];
        disk.read_at(0, &mut region).unwrap();
        let bytes = region
            .iter()
            .enumerate()
            .filter(|(at, _)| ![106, 107, 112].contains(at));
        let sum = bytes.fold(0_u32, |sum, (_, b)| {
            sum.rotate_right(1).wrapping_add(u32::from(*b))
        });
        block_io::BlockWrite::write_at(&disk, 512 * 11, &sum.to_le_bytes().repeat(128)).unwrap();
        if probe(&disk).unwrap().is_some() {
            used(&disk, &Findings::default());
        }
    }
}
