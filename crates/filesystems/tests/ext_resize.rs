//! ext2, ext3 and ext4 made by `mke2fs`, resized by us, held against `e2fsck`, `dumpe2fs`, `resize2fs`
//! and the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::Path;

use block_io::{BlockRead, FileDiskMut, Overlay};
use common::oracle::{assert_same, host_tree, make_tree, mutate, our_tree, used};
use common::resizing::{Files, limits, resized, steps, write_something};
use common::{Mount, Seeded, VARIANTS, fsck, fsck_fix, has_tools, mke2fs, run, run_ok, text};
use filesystems::ext::ExtTree;
use filesystems::probe::probe;
use filesystems::resize::{ResizeErrorKind, resize, resize_limits};
use filesystems::tree::Recovery;
use filesystems::used::Findings;

const TOOLS: &[&str] = &["mke2fs", "e2fsck", "dumpe2fs", "resize2fs", "debugfs"];
const MIB: u64 = 1 << 20;

/// A line of what `dumpe2fs -h` prints.
fn told(image: &Path, field: &str) -> String {
    let all = run_ok("dumpe2fs", &["-h", text(image)]);
    let line = all.lines().find(|line| line.starts_with(field));
    let (_, value) = line.and_then(|l| l.split_once(':')).unwrap_or_default();
    value.trim().to_owned()
}

fn number(image: &Path, field: &str) -> u64 {
    told(image, field).parse().unwrap()
}

/// All files as the kernel reads them; as `debugfs` does where the kernel does not mount such a file
/// system (blocks larger than its pages).
fn files(image: &Path) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let mount = run(
        "mount",
        &["-t", "ext4", "-o", "loop,ro", text(image), text(dir.path())],
    );
    if mount.status.success() {
        // Waits for others that look at what is mounted, when dropped.
        let mount = Mount { dir };
        return host_tree(mount.path());
    }
    let command = format!("rdump / {}", text(dir.path()));
    run_ok("debugfs", &["-R", &command, text(image)]);
    host_tree(dir.path())
}

/// What `dumpe2fs` tells of the places of all groups; read from the copy at block `copy`, if given.
fn places(image: &Path, copy: Option<(u64, u64)>) -> Vec<String> {
    let options = copy.map(|(b, s)| [format!("superblock={b}"), format!("blocksize={s}")]);
    let mut args = Vec::new();
    for option in options.iter().flatten() {
        args.extend(["-o", option]);
    }
    args.push(text(image));
    // It also answers with an error where a group has no bitmap yet and a copy is read.
    let all = run("dumpe2fs", &args).stdout;
    let all = String::from_utf8_lossy(&all).into_owned();
    let wanted = [
        "Block count",
        "Inode count",
        "Group ",
        "Primary",
        "Backup",
        "Block bitmap",
        "Inode table",
        "  Reserved",
    ];
    let lines = all
        .lines()
        .filter(|line| wanted.iter().any(|w| line.contains(w)));
    // Checksums and flags of groups are left out when a copy is read.
    let place = |line: &str| {
        line.split(&['[', ',', '('][..])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    lines.map(place).collect()
}

/// Every copy of the superblock must tell what the primary tells.
fn copies_agree(image: &Path, what: &str) {
    let all = run_ok("dumpe2fs", &[text(image)]);
    let size = number(image, "Block size");
    let copies = all.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("Backup superblock at ")?;
        rest.split(&[',', ' '][..]).next()?.parse::<u64>().ok()
    });
    let primary = places(image, None);
    for copy in copies.take(5) {
        let told = places(image, Some((copy, size)));
        assert!(told == primary, "{what}: the copy at {copy} differs");
    }
}

#[test]
fn every_variant_grows_in_steps_and_keeps_its_files() {
    let test = "every_variant_grows_in_steps_and_keeps_its_files";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 60, true);
    for (name, args, mib) in VARIANTS {
        let image = dir.path().join(name);
        mke2fs(&image, mib * MIB, args, Some(&from));
        // Large directories get their hash trees, and quotas are counted.
        fsck_fix(&image, "-fyD");
        let disk = FileDiskMut::open(&image).unwrap();
        let kind = probe(&disk).unwrap().unwrap().kind;
        let limits = resize_limits(&disk, kind);
        drop(disk);
        if name.contains("bigalloc") {
            let error = limits.unwrap_err();
            assert_eq!(error.kind(), ResizeErrorKind::Unsupported);
            assert!(error.to_string().contains("bigalloc"), "{error}");
            continue;
        }
        let limits = limits.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(limits.largest > mib * MIB * 1000, "{name}: {limits:?}");
        let tree = files(&image);
        assert!(tree.len() > 300, "{name}: {}", tree.len());
        let first = number(&image, "Free blocks");
        for size in [
            mib * MIB + 3 * 65_536,
            mib * 2 * MIB,
            mib * 7 * MIB + 65_536,
            mib * 40 * MIB,
        ] {
            let what = format!("{name} to {size}");
            let before = std::time::Instant::now();
            let done = resized(&image, size);
            println!("{what}: {done:?} {:?}", before.elapsed());
            assert!(
                done.after <= size && done.after + 128 * MIB > size,
                "{what}"
            );
            fsck(&image, &what);
            let block = number(&image, "Block size");
            assert_eq!(number(&image, "Block count") * block, done.after, "{what}");
            copies_agree(&image, &what);
        }
        assert_same(&files(&image), &tree, name);
        assert!(number(&image, "Free blocks") > first * 20, "{name}");
        // Their own tool must be able to go on from here.
        run_ok("resize2fs", &[text(&image), &format!("{}M", mib * 30)]);
        fsck(&image, &format!("{name} shrunk by resize2fs"));
        assert_same(
            &files(&image),
            &tree,
            &format!("{name} shrunk by resize2fs"),
        );
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn a_small_file_system_grows_to_16_tib() {
    let test = "a_small_file_system_grows_to_16_tib";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 30, true);
    for (name, args, size) in [
        ("64bit", "-t ext4 -b 4096 -O 64bit", (16 << 40) - MIB),
        (
            "rhel",
            "-t ext4 -b 4096 -O ^metadata_csum,^64bit,uninit_bg",
            (16 << 40) - 4096,
        ),
    ] {
        let image = dir.path().join(name);
        mke2fs(&image, 4096 * MIB, args, Some(&from));
        let tree = files(&image);
        let before = std::time::Instant::now();
        let done = resized(&image, size);
        println!("{name}: {done:?} {:?}", before.elapsed());
        assert_eq!(done.after, size, "{name}");
        run_ok("dumpe2fs", &["-h", text(&image)]);
        if std::env::var_os("P2V_STEPS").is_some() {
            // Half a minute.
            fsck(&image, name);
        }
        assert_same(&files(&image), &tree, name);
        std::fs::remove_file(&image).unwrap();
    }
}

/// What `resize2fs -P` estimates, in bytes.
fn estimate(image: &Path) -> u64 {
    let told = run_ok("resize2fs", &["-P", text(image)]);
    let blocks: u64 = told.rsplit(' ').next().unwrap().trim().parse().unwrap();
    blocks * number(image, "Block size")
}

#[test]
fn every_variant_shrinks_in_steps_to_its_smallest_and_grows_again() {
    let test = "every_variant_shrinks_in_steps_to_its_smallest_and_grows_again";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 60, true);
    for (name, args, mib) in VARIANTS
        .iter()
        .filter(|(name, ..)| !name.contains("bigalloc"))
    {
        let image = dir.path().join(name);
        mke2fs(&image, mib * MIB, args, None);
        scatter(&image, &from);
        fsck_fix(&image, "-fyD");
        let tree = files(&image);
        let smallest = limits(&image).smallest;
        let theirs = estimate(&image);
        println!("{name}: smallest {smallest}, resize2fs -P {theirs}");
        assert!(
            smallest <= theirs + theirs / 50 + 65_536 * 8,
            "{name}: {smallest} and {theirs}"
        );
        let middle = smallest + (mib * MIB - smallest) / 2;
        for size in [mib * MIB - 65_536, middle, smallest, mib * MIB] {
            let what = format!("{name} to {size}");
            let before = std::time::Instant::now();
            let done = resized(&image, size);
            println!("{what}: {done:?} {:?}", before.elapsed());
            fsck(&image, &what);
            copies_agree(&image, &what);
            assert_same(&files(&image), &tree, &what);
        }
        std::fs::remove_file(&image).unwrap();
    }
}

/// Fill `image` by the kernel (else by `debugfs`), so that files lie all over it: large ones are written
/// before and removed afterwards.
fn scatter(image: &Path, from: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let mount = run(
        "mount",
        &["-t", "ext4", "-o", "loop", text(image), text(dir.path())],
    );
    if !mount.status.success() {
        let mut script = String::new();
        for (name, contents) in host_tree(from) {
            let name = String::from_utf8(name).unwrap();
            script += &match contents {
                None => format!("mkdir \"/{name}\"\n"),
                Some(_) => format!("write \"{}/{name}\" \"/{name}\"\n", text(from)),
            };
        }
        let commands = dir.path().join("commands");
        std::fs::write(&commands, script).unwrap();
        run_ok("debugfs", &["-w", "-f", text(&commands), text(image)]);
        return;
    }
    let mount = Mount { dir };
    let dir = mount.path();
    // Half of the space, in pieces, so that what comes behind lies behind.
    let free = String::from_utf8_lossy(&run("df", &["--output=avail", "-B1", text(dir)]).stdout)
        .into_owned();
    let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
    let piece = vec![7; (free / 40) as usize];
    for n in 0..30 {
        let _ = std::fs::write(dir.join(format!("filler{n}")), &piece);
    }
    run("sync", &["-f", text(dir)]);
    run_ok("cp", &["-a", &format!("{}/.", text(from)), text(dir)]);
    let grown = dir.join("in pieces");
    for n in 0..200_u8 {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&grown)
            .unwrap();
        file.write_all(&[n; 3000]).unwrap();
        file.sync_all().unwrap();
        std::fs::write(dir.join(format!("many/between {n}")), [n; 1500]).unwrap();
    }
    for n in 0..30 {
        let _ = std::fs::remove_file(dir.join(format!("filler{n}")));
    }
}

/// File systems of small groups, so that inodes and directories lie in many of them.
const SMALL_GROUPS: &[(&str, &str)] = &[
    ("ext4", "-t ext4 -b 1024 -g 1024 -O ^flex_bg"),
    ("ext4-flex", "-t ext4 -b 1024 -g 1024 -G 4"),
    (
        "ext4-inline",
        "-t ext4 -b 1024 -I 256 -g 1024 -O ^flex_bg,inline_data",
    ),
    (
        "ext4-orphans",
        "-t ext4 -b 1024 -g 2048 -O orphan_file,^flex_bg",
    ),
    (
        "ext4-ea-inode",
        "-t ext4 -b 1024 -g 2048 -O ea_inode,^flex_bg",
    ),
    ("ext4-mmp", "-t ext4 -b 1024 -g 1024 -O mmp,^flex_bg"),
    (
        "ext4-meta-bg",
        "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode,^flex_bg",
    ),
    (
        "ext4-sparse2",
        "-t ext4 -b 1024 -g 1024 -O sparse_super2,^resize_inode,^flex_bg",
    ),
    (
        "ext4-rhel",
        "-t ext4 -b 1024 -g 1024 -O ^metadata_csum,^64bit,uninit_bg,^flex_bg",
    ),
    ("ext3", "-t ext3 -b 1024 -g 1024"),
    ("ext2", "-t ext2 -b 1024 -g 1024"),
];

/// Thousands of steps with `P2V_STEPS=3000`.
#[test]
fn random_steps_of_growing_shrinking_and_writing_stay_sound() {
    let test = "random_steps_of_growing_shrinking_and_writing_stay_sound";
    if !has_tools(test, TOOLS) {
        return;
    }
    let steps = steps(120);
    let seed = std::env::var("P2V_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let dir = tempfile::tempdir().unwrap();
    let mut renumbered = 0;
    for (n, (name, args)) in SMALL_GROUPS.iter().enumerate() {
        let image = dir.path().join(name);
        let args = format!("{args} -i 16384");
        mke2fs(&image, 12 * MIB, &args, None);
        fsck_fix(&image, "-fyD");
        let mut random = Seeded(seed + n as u64 * 1000);
        let mut expected = Files::new();
        {
            // The kernel spreads the directories of the root over all groups.
            let Some(mount) = Mount::new(test, &image, "rw") else {
                return;
            };
            for k in 0..40 {
                let name = format!("dir{k}");
                std::fs::create_dir(mount.path().join(&name)).unwrap();
                expected.insert(name.into_bytes(), None);
            }
        }
        for step in 0..steps.div_ceil(SMALL_GROUPS.len() as u64) {
            let what = format!("{name}, seed {seed}, step {step}");
            let disk = FileDiskMut::open(&image).unwrap();
            let mut tree = ExtTree::open_rw(disk, Recovery::Refuse).unwrap();
            write_something(&mut tree, &mut random, &mut expected, 450 << 10);
            drop(tree);
            let bounds = limits(&image);
            let size = match random.below(4) {
                0 => bounds.smallest,
                1 | 2 => bounds.smallest + random.below(bounds.current - bounds.smallest + 1),
                _ => bounds.current + random.below(8 * MIB),
            };
            let done = resized(&image, size.max(3 * MIB));
            renumbered += done.renumbered;
            fsck(&image, &format!("{what}: {done:?}"));
            let tree = ExtTree::open(FileDiskMut::open(&image).unwrap()).unwrap();
            let mut found = our_tree(&tree);
            found.remove(&b"lost+found"[..]);
            assert_same(&found, &expected, &what);
        }
        let mut found = files(&image);
        found.remove(&b"lost+found"[..]);
        assert_same(&found, &expected, name);
    }
    println!("{renumbered} inodes were renumbered");
    assert!(renumbered > 50, "{renumbered}");
}

#[test]
fn damaged_bytes_give_errors_and_never_a_panic() {
    let test = "ext: damaged_bytes_give_errors_and_never_a_panic";
    if !has_tools(test, TOOLS) {
        return;
    }
    let rounds = steps(150);
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 25, true);
    // Without checksums the damage gets further.
    for (name, args, mib) in [
        (
            "plain",
            "-t ext4 -b 1024 -g 2048 -O ^metadata_csum,^uninit_bg,^flex_bg",
            40,
        ),
        ("ext3", "-t ext3 -b 1024 -g 2048", 40),
        (
            "inline",
            "-t ext4 -b 1024 -g 2048 -O ^metadata_csum,inline_data,ea_inode,meta_bg,^resize_inode",
            40,
        ),
        ("sums", "-t ext4 -b 4096", 40),
    ] {
        let image = dir.path().join(name);
        mke2fs(&image, mib * MIB, args, Some(&from));
        fsck_fix(&image, "-fyD");
        let used = used(&FileDiskMut::open(&image).unwrap(), &Findings::default());
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&image)
            .unwrap();
        file.set_len(3 * mib * MIB).unwrap();
        let kind = probe(&FileDiskMut::open(&image).unwrap())
            .unwrap()
            .unwrap()
            .kind;
        let mut random = Seeded(mib);
        let (mut refused, mut done) = (0, 0);
        for _ in 0..rounds {
            let disk = Overlay::new(FileDiskMut::open(&image).unwrap());
            for _ in 0..=random.below(4) {
                let at = match random.below(4) {
                    0 => 1024 + random.below(0x290),
                    1 => 2048 + random.below(2048),
                    2 => random.below(400 << 10),
                    _ => {
                        let range = &used[random.below(used.len() as u64) as usize];
                        (range.start + random.below(range.end - range.start)).min(mib * MIB - 1)
                    }
                };
                mutate(&disk, at, &mut random);
            }
            let _ = resize_limits(&disk, kind);
            for size in [3 * mib * MIB, 22 * MIB, 14 * MIB] {
                match resize(&disk, kind, size, Recovery::Replay) {
                    Ok(_) => done += 1,
                    Err(error) => {
                        refused += 1;
                        assert!(error.to_string().len() > 30, "{error}");
                        if !error.is_torn() {
                            continue;
                        }
                        assert!(error.to_string().contains("drop the overlay"), "{error}");
                        disk.undo();
                    }
                }
            }
        }
        println!("{name}: {done} done, {refused} refused");
        assert!(
            refused > 10 && done > 10,
            "{name}: {done} done, {refused} refused"
        );
    }
}

/// A disk that counts the bytes it is asked for.
struct Counting<D> {
    disk: D,
    read: std::sync::atomic::AtomicU64,
}

impl<D: BlockRead> BlockRead for Counting<D> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> block_io::Result<()> {
        self.read
            .fetch_add(buf.len() as u64, std::sync::atomic::Ordering::Relaxed);
        self.disk.read_at(offset, buf)
    }
}

#[test]
fn limits_are_found_without_reading_files() {
    let test = "limits_are_found_without_reading_files";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    for n in 0..40 {
        std::fs::write(from.join(format!("large{n}")), vec![n; 4 << 20]).unwrap();
    }
    let image = dir.path().join("image");
    mke2fs(&image, 1024 * MIB, "-t ext4 -b 4096", Some(&from));
    let disk = Counting {
        disk: FileDiskMut::open(&image).unwrap(),
        read: 0.into(),
    };
    let kind = probe(&disk).unwrap().unwrap().kind;
    let bounds = resize_limits(&disk, kind).unwrap();
    let read = disk.read.load(std::sync::atomic::Ordering::Relaxed);
    println!("{bounds:?}, {read} bytes read of 160 MiB in files");
    assert!(read < MIB, "{read}");
    assert!(
        bounds.smallest > 160 * MIB && bounds.smallest < 260 * MIB,
        "{bounds:?}"
    );
}

#[test]
fn what_is_not_clean_is_refused_or_replayed() {
    let test = "what_is_not_clean_is_refused_or_replayed";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    mke2fs(&image, 64 * MIB, "-t ext4 -b 1024", None);
    {
        let Some(mount) = Mount::new(test, &image, "rw") else {
            return;
        };
        for n in 0..200 {
            std::fs::write(mount.path().join(format!("file{n}")), [n as u8; 5000]).unwrap();
        }
        run("sync", &["-f", text(mount.path())]);
        // As a machine leaves it that loses its power now.
        std::fs::copy(&image, &copy).unwrap();
    }
    let disk = Overlay::new(FileDiskMut::open(&copy).unwrap());
    let kind = probe(&disk).unwrap().unwrap().kind;
    let error = resize(&disk, kind, 32 * MIB, Recovery::Refuse).unwrap_err();
    assert_eq!(error.kind(), ResizeErrorKind::Dirty, "{error}");
    assert!(!error.is_torn() && disk.edits().is_empty(), "{error}");
    let bounds = resize_limits(&disk, kind).unwrap();
    assert!(disk.edits().is_empty());
    drop(disk);
    let disk = FileDiskMut::open(&copy).unwrap();
    let size = bounds.smallest.max(20 * MIB);
    resize(&disk, kind, size, Recovery::Replay).unwrap();
    drop(disk);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&copy)
        .unwrap()
        .set_len(size)
        .unwrap();
    fsck(&copy, "replayed and shrunk");
    assert_same(&files(&copy), &files(&image), "replayed and shrunk");
}

/// A file system with quotas whose files reach to its end: what each owner is charged for must stay.
#[test]
fn quotas_stay_right_when_blocks_move() {
    let test = "quotas_stay_right_when_blocks_move";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 60, true);
    let image = dir.path().join("image");
    mke2fs(
        &image,
        200 * MIB,
        "-t ext4 -b 1024 -O quota,project -E quotatype=usrquota:grpquota:prjquota",
        None,
    );
    scatter(&image, &from);
    fsck_fix(&image, "-fyD");
    let tree = files(&image);
    for size in [120 * MIB, 60 * MIB, 40 * MIB] {
        let done = resized(&image, size);
        println!("{size}: {done:?}");
        // It counts quotas anew and says so where they differ.
        fsck(&image, &format!("to {size}"));
        assert_same(&files(&image), &tree, &format!("to {size}"));
    }
}

/// Nearly full and in pieces: extents must be cut, trees grow, and it must still fit.
#[test]
fn a_full_and_fragmented_file_system_shrinks_to_what_was_promised() {
    let test = "a_full_and_fragmented_file_system_shrinks_to_what_was_promised";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, args) in [
        ("ext4", "-t ext4 -b 1024 -g 2048 -N 4096"),
        ("ext3", "-t ext3 -b 1024 -g 2048 -N 4096"),
        ("ext4-4k", "-t ext4 -b 4096 -N 4096"),
    ] {
        let image = dir.path().join(name);
        mke2fs(&image, 64 * MIB, args, None);
        {
            let Some(mount) = Mount::new(test, &image, "rw,delalloc") else {
                return;
            };
            let mut random = Seeded(7);
            let mut n = 0;
            // Full of small files, every third removed, then long files in the holes.
            while std::fs::write(mount.path().join(format!("s{n}")), random.bytes(4000)).is_ok()
                && n < 3500
            {
                n += 1;
            }
            let _ = std::fs::write(mount.path().join("large"), vec![3; 40 << 20]);
            for k in (0..n).step_by(3) {
                std::fs::remove_file(mount.path().join(format!("s{k}"))).unwrap();
            }
            run("sync", &["-f", text(mount.path())]);
            let _ = std::fs::write(mount.path().join("in holes"), random.bytes(3 << 20));
            run("sync", &["-f", text(mount.path())]);
            for k in (1..n).step_by(3).take(n / 6) {
                std::fs::remove_file(mount.path().join(format!("s{k}"))).unwrap();
            }
        }
        let tree = files(&image);
        let (smallest, theirs) = (limits(&image).smallest, estimate(&image));
        println!("{name}: smallest {smallest}, resize2fs -P {theirs}");
        assert!(
            // What cut extents may cost is counted in full; resize2fs counts on luck.
            smallest <= theirs + theirs / 20,
            "{name}: {smallest} and {theirs}"
        );
        let done = resized(&image, smallest);
        println!("{name}: {done:?}");
        fsck(&image, name);
        assert_same(&files(&image), &tree, name);
        let again = limits(&image).smallest;
        assert!(again <= smallest, "{name}: {again} after {smallest}");
    }
}

/// Every mention of an inode that gets another number: names in plain, inline and hashed directories,
/// parents, hard links, attributes that lie in inodes of their own.
#[test]
fn renumbered_files_keep_names_links_and_attributes() {
    let test = "renumbered_files_keep_names_links_and_attributes";
    if !has_tools(test, TOOLS) || !has_tools(test, &["setfattr", "getfattr"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, args) in SMALL_GROUPS {
        let image = dir.path().join(name);
        mke2fs(&image, 24 * MIB, &format!("{args} -i 8192"), None);
        {
            let Some(mount) = Mount::new(test, &image, "rw") else {
                return;
            };
            fill_groups(mount.path(), name.contains("ea-inode"));
        }
        let before = (files(&image), attributes(test, &image));
        let size = limits(&image).smallest;
        let done = resized(&image, size);
        println!("{name}: {done:?}");
        fsck(&image, name);
        assert!(done.renumbered > 20, "{name}: {done:?}");
        assert_same(&files(&image), &before.0, name);
        assert!(
            attributes(test, &image) == before.1,
            "{name}: attributes differ"
        );
        assert!(before.1.contains("user.note"), "{name}");
    }
}

fn fill_groups(root: &Path, large_attributes: bool) {
    let large = "0x".to_owned() + &"5a".repeat(6000);
    for k in 0..30 {
        let dir = root.join(format!("dir{k}"));
        std::fs::create_dir_all(dir.join("below/and below")).unwrap();
        std::fs::write(dir.join("file"), vec![k; 3000]).unwrap();
        std::fs::write(dir.join("below/small"), [k]).unwrap();
        std::fs::hard_link(dir.join("file"), root.join(format!("link{k}"))).unwrap();
        let file = dir.join("file");
        run_ok(
            "setfattr",
            &["-n", "user.note", "-v", &format!("note {k}"), text(&file)],
        );
        if large_attributes {
            run_ok("setfattr", &["-n", "user.large", "-v", &large, text(&file)]);
        }
        if k % 10 == 7 {
            // Long enough for a hash tree.
            for n in 0..40 {
                std::fs::write(dir.join(format!("{n}{}", "long".repeat(40))), "").unwrap();
            }
        }
    }
}

/// All attributes and numbers of links, by path.
fn attributes(test: &str, image: &Path) -> String {
    let Some(mount) = Mount::new(test, image, "ro") else {
        return String::new();
    };
    let root = text(mount.path());
    let told = run_ok(
        "getfattr",
        &["-R", "-d", "-m", "-", "--absolute-names", root],
    );
    let found = run_ok("find", &[root, "-printf", "%P %y %m %U:%G %n %T@ %s\n"]);
    let mut lines: Vec<_> = found.lines().collect();
    lines.sort_unstable();
    let mut blocks: Vec<_> = told.split("\n\n").collect();
    blocks.sort_unstable();
    (blocks.join("\n\n") + &lines.join("\n")).replace(root, "")
}
