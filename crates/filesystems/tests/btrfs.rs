//! btrfs made by `mkfs.btrfs`, filled by the host's kernel, its used blocks held against
//! `btrfs inspect-internal dump-tree`, `btrfs check` and the kernel.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use block_io::{BlockRead, BlockWrite, FileDisk, MemoryDisk, Overlay};
use common::oracle::*;
use common::*;
use filesystems::probe::probe;
use filesystems::used::Findings;

/// A name, what mkfs.btrfs is told, MiB, options of the mount.
const VARIANTS: &[(&str, &str, u64, &str)] = &[
    ("default", "", 400, "rw"),
    ("single", "-m single -d single", 300, "rw,compress=zstd"),
    ("dup", "-m dup -d dup", 500, "rw"),
    ("mixed", "--mixed -n 4096", 200, "rw"),
    ("nodes-64k", "-n 65536", 400, "rw,compress=lzo"),
    (
        "old",
        "-O ^skinny-metadata,^no-holes -R ^free-space-tree",
        400,
        "rw",
    ),
    ("block-group-tree", "-O block-group-tree", 400, "rw"),
];
const MIB: u64 = 1 << 20;

fn mkfs(image: &Path, args: &str, mib: u64) -> bool {
    let output = run_mkfs("mkfs.btrfs", &["-q", "-f"], args, image, mib * MIB + 5000);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        // Older programs do not know every feature.
        assert!(
            why.contains("unrecognized") || why.contains("unknown"),
            "{args}: {why}"
        );
        println!("mkfs.btrfs does not know {args}");
    }
    output.status.success()
}

/// The bytes the trees name, as the dump has them: extents through chunks, superblocks, the first MiB,
/// and what lies behind the device.
fn dumped_used(image: &Path) -> Vec<Range<u64>> {
    let dump = |tree: &str| {
        run_ok(
            "btrfs",
            &["inspect-internal", "dump-tree", "-t", tree, text(image)],
        )
    };
    let words = |line: &str| -> Vec<String> {
        let line = line.replace(['(', ')'], " ");
        line.split_whitespace().map(str::to_owned).collect()
    };
    let after = |words: &[String], word: &str| -> u64 {
        let at = words.iter().position(|w| w == word).unwrap();
        words[at + 1].parse().unwrap()
    };
    // Logical start, length, places.
    let mut chunks: Vec<(u64, u64, Vec<u64>)> = Vec::new();
    let mut device = 0;
    for line in dump("chunk").lines() {
        let words = words(line);
        if line.contains("CHUNK_ITEM") && line.contains("key (") {
            chunks.push((words[5].parse().unwrap(), 0, Vec::new()));
        } else if line.trim().starts_with("length ") && !chunks.is_empty() {
            chunks.last_mut().unwrap().1 = after(&words, "length");
        } else if line.trim().starts_with("stripe ") && line.contains("devid") {
            chunks.last_mut().unwrap().2.push(after(&words, "offset"));
        } else if line.contains("total_bytes") && line.contains("devid") {
            device = after(&words, "total_bytes");
        }
    }
    let end = std::fs::metadata(image).unwrap().len();
    let mut used = vec![0..MIB, device..end];
    used.extend([64 << 10, 64 << 20, 256 << 30].map(|at| at..at + 4096));
    used.retain(|r: &Range<u64>| r.end <= end);
    let sb = run_ok("btrfs", &["inspect-internal", "dump-super", text(image)]);
    let node = sb.lines().find(|l| l.starts_with("nodesize")).unwrap();
    let node: u64 = node.split_whitespace().nth(1).unwrap().parse().unwrap();
    for line in dump("extent").lines().filter(|l| l.contains("key (")) {
        let words = words(line);
        let len = match words[4].as_str() {
            "EXTENT_ITEM" => words[5].parse().unwrap(),
            "METADATA_ITEM" => node,
            _ => continue,
        };
        let logical: u64 = words[3].parse().unwrap();
        let chunk = chunks
            .iter()
            .find(|c| c.0 <= logical && logical < c.0 + c.1)
            .unwrap();
        used.extend(
            chunk
                .2
                .iter()
                .map(|at| at + logical - chunk.0..at + logical - chunk.0 + len),
        );
    }
    joined(used)
}

fn fill(root: &Path) {
    make_tree(root, 60, true);
    run_ok("btrfs", &["subvolume", "create", text(&root.join("sub"))]);
    make_tree(&root.join("sub"), 20, false);
    run_ok(
        "btrfs",
        &[
            "subvolume",
            "snapshot",
            text(&root.join("sub")),
            text(&root.join("snap")),
        ],
    );
    for k in (0..60).step_by(3) {
        for dir in ["etc", "EFI/BOOT"] {
            let _ = std::fs::remove_file(root.join(dir).join(format!("FILE{k}.BIN")));
        }
    }
    std::fs::write(root.join("zeroes"), vec![0; 3_000_000]).unwrap();
    std::fs::write(root.join("late"), Seeded(5).bytes(4_000_000)).unwrap();
    std::fs::remove_dir_all(root.join("many")).unwrap();
}

/// Litter, a check, and the kernel's view of a copy of nothing but `ours`.
fn check_copy(
    test: &str,
    image: &Path,
    ours: &[Range<u64>],
    copy: &Path,
    what: &str,
) -> Option<Mount> {
    copy_ranges(image, ours, copy);
    litter_free_space(copy);
    let output = run(
        "btrfs",
        &["check", "--readonly", "--check-data-csum", text(copy)],
    );
    assert!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Mount::of_kind(test, "btrfs", copy, "rw")
}

#[test]
fn used_blocks_are_those_of_the_trees_and_a_copy_of_them_is_whole() {
    let test = "used_blocks_are_those_of_the_trees_and_a_copy_of_them_is_whole";
    if !has_tools(test, &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    for (name, args, mib, options) in VARIANTS {
        if !mkfs(&image, args, *mib) {
            continue;
        }
        let Some(mount) = Mount::of_kind(test, "btrfs", &image, options) else {
            return;
        };
        fill(mount.path());
        let files = host_tree(mount.path());
        drop(mount);
        let findings = Findings::default();
        let ours = used(&FileDisk::open(&image).unwrap(), &findings);
        assert!(findings.list().is_empty(), "{name}: {:?}", findings.list());
        assert_eq!(ours, dumped_used(&image), "{name}");
        assert!(sum(&ours) < mib * MIB * 9 / 10, "{name}");
        let Some(copied) = check_copy(test, &image, &ours, &copy, name) else {
            return;
        };
        assert_same(&host_tree(copied.path()), &files, name);
    }
}

#[test]
fn what_fsync_made_durable_is_used_though_no_transaction_was_committed() {
    let test = "what_fsync_made_durable_is_used_though_no_transaction_was_committed";
    if !has_tools(test, &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, crashed, copy) = (
        dir.path().join("image"),
        dir.path().join("crashed"),
        dir.path().join("copy"),
    );
    mkfs(&image, "", 400);
    let Some(mount) = Mount::of_kind(test, "btrfs", &image, "rw,commit=300") else {
        return;
    };
    make_tree(mount.path(), 20, false);
    run_ok("btrfs", &["filesystem", "sync", text(mount.path())]);
    let contents = Seeded(8).bytes(2_000_000);
    for k in 0..20 {
        let mut file = std::fs::File::create(mount.path().join(format!("durable-{k}"))).unwrap();
        file.write_all(&contents[k * 1000..]).unwrap();
        file.sync_all().unwrap();
    }
    // As the disk would be after a power cut now.
    std::fs::copy(&image, &crashed).unwrap();
    drop(mount);
    let findings = Findings::default();
    let disk = FileDisk::open(&crashed).unwrap();
    let mut log_root = [0; 8];
    disk.read_at(0x1_0060, &mut log_root).unwrap();
    assert_ne!(log_root, [0; 8], "there is no log tree: nothing is tested");
    let ours = used(&disk, &findings);
    assert!(findings.list().is_empty(), "{:?}", findings.list());
    assert!(sum(&ours) < 300 * MIB);
    copy_ranges(&crashed, &ours, &copy);
    litter_free_space(&copy);
    let Some(copied) = Mount::of_kind(test, "btrfs", &copy, "rw") else {
        return;
    };
    for k in 0..20 {
        let found = std::fs::read(copied.path().join(format!("durable-{k}"))).unwrap();
        assert!(found == contents[k * 1000..], "durable-{k}");
    }
}

#[test]
fn several_devices_are_refused_by_name() {
    let test = "several_devices_are_refused_by_name";
    if !has_tools(test, &["mkfs.btrfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for image in [&one, &two] {
        std::fs::File::create(image)
            .unwrap()
            .set_len(300 * MIB)
            .unwrap();
    }
    run_ok(
        "mkfs.btrfs",
        &["-q", "-f", "-d", "raid0", text(&one), text(&two)],
    );
    let findings = Findings::default();
    let disk = FileDisk::open(&one).unwrap();
    assert_eq!(used(&disk, &findings), [0..disk.size()]);
    assert!(
        findings.list()[0].contains("2 devices"),
        "{:?}",
        findings.list()
    );
}

#[test]
fn hostile_bytes_make_more_used_and_never_less() {
    let test = "hostile_bytes_make_more_used_and_never_less";
    if !has_tools(test, &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkfs(&image, "-m single", 160);
    let Some(mount) = Mount::of_kind(test, "btrfs", &image, "rw") else {
        return;
    };
    make_tree(mount.path(), 15, false);
    drop(mount);
    let sound = MemoryDisk::from(std::fs::read(&image).unwrap());
    let truth = used(&sound, &Findings::default());
    // Every node: they name their own file system.
    let mut fsid = [0; 16];
    sound.read_at(0x1_0020, &mut fsid).unwrap();
    let mut nodes = vec![0x1_0000];
    for range in &truth {
        for at in (range.start..range.end).step_by(4096) {
            let mut found = [0; 16];
            if at + 16_384 <= sound.size() && at != 0x1_0000 {
                sound.read_at(at + 32, &mut found).unwrap();
                if found == fsid {
                    nodes.push(at);
                }
            }
        }
    }
    assert!(nodes.len() > 10);
    let mut random = Seeded(0xB7);
    for round in 0..1500 {
        let disk = Overlay::new(&sound);
        let node = nodes[random.below(nodes.len() as u64) as usize];
        for _ in 0..1 + random.below(3) {
            let within = [256, 900, 16_000][(round % 3) as usize];
            let limit = if node == 0x1_0000 { 1000 } else { within };
            mutate(&disk, node + 32 + random.below(limit), &mut random);
        }
        let sealed = round % 2 == 0;
        if sealed {
            // With its checksum made right again.
            let mut raw = vec![0; if node == 0x1_0000 { 4096 } else { 16_384 }];
            disk.read_at(node, &mut raw).unwrap();
            disk.write_at(node, &crc32c::crc32c(&raw[32..]).to_le_bytes())
                .unwrap();
        }
        if probe(&disk).unwrap().is_none() {
            continue;
        }
        let ours = used(&disk, &Findings::default());
        if !sealed {
            assert_eq!(missing(&truth, &ours), [], "round {round}: node {node:#x}");
        }
    }
}

/// Not a check but a measurement: `cargo test --release -p filesystems --test btrfs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_the_used_map() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkfs(&image, "", 1 << 20);
    let mount = Mount::of_kind("speed", "btrfs", &image, "rw").unwrap();
    for k in 0..100_000 {
        let dir = mount.path().join(format!("{}", k / 1000));
        if k % 1000 == 0 {
            std::fs::create_dir(&dir).unwrap();
        }
        std::fs::write(dir.join(format!("{k}")), [1; 5000]).unwrap();
    }
    drop(mount);
    let start = std::time::Instant::now();
    let ours = used(&FileDisk::open(&image).unwrap(), &Findings::default());
    println!("ours: {:?}, {} ranges", start.elapsed(), ours.len());
    let start = std::time::Instant::now();
    run_ok(
        "btrfs",
        &[
            "inspect-internal",
            "dump-tree",
            "-t",
            "extent",
            text(&image),
        ],
    );
    println!(
        "btrfs inspect-internal dump-tree -t extent: {:?}",
        start.elapsed()
    );
    let start = std::time::Instant::now();
    partclone_used("btrfs", &image);
    println!("partclone.btrfs: {:?}", start.elapsed());
}
