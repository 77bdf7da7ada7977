//! XFS made by `mkfs.xfs`, filled by the host's kernel (version 5) or by `mkfs.xfs -p` (version 4, which
//! newer kernels do not mount), held against `xfs_db`, `xfs_repair -n`, partclone and the kernel.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::fmt::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use block_io::{BlockRead, FileDisk, MemoryDisk, Overlay};
use common::oracle::*;
use common::*;
use filesystems::path::GuestPath;
use filesystems::tree::{Attributes, FileKind, FileTree, TreeErrorKind};
use filesystems::used::Findings;
use filesystems::xfs::XfsTree;

/// A name, what mkfs.xfs is told, MiB.
const VARIANTS: &[(&str, &str, u64)] = &[
    ("v5", "-m crc=1", 512),
    ("v5-1k", "-b size=1024 -m crc=1,reflink=1", 400),
    ("v5-512-dir4k", "-b size=1024 -n size=4096 -i size=512", 400),
    (
        "v5-plain",
        "-m reflink=0,rmapbt=0,finobt=0,bigtime=0,inobtcount=0 -i sparse=0",
        400,
    ),
    (
        "v5-rmap-64kdir",
        "-m rmapbt=1,bigtime=1 -n size=65536 -i size=2048",
        400,
    ),
    ("v5-nrext64", "-i nrext64=1", 400),
    ("v5-4k-sectors", "-s size=4096 -d agcount=3", 420),
    ("v5-16k", "-b size=16384", 512),
];
const V4: &[(&str, &str, u64)] = &[
    ("v4", "-m crc=0", 400),
    ("v4-1k-no-ftype", "-m crc=0 -n ftype=0 -b size=1024", 400),
    ("v4-512", "-m crc=0 -b size=512 -i size=256", 400),
    ("v4-attr1", "-m crc=0 -i attr=1 -n size=16384", 400),
];

fn mkfs(image: &Path, args: &str, mib: u64) {
    make_fs("mkfs.xfs", &["-q", "-f"], args, image, (mib << 20) + 5000);
}

fn repair(image: &Path, what: &str) {
    let output = run("xfs_repair", &["-n", "-f", text(image)]);
    assert_succeeded(&output, what);
}

/// The bytes `xfs_db` does not call free, besides those of the free lists, which it does.
fn xfs_db_used(image: &Path) -> Vec<Range<u64>> {
    let db = |commands: &[&str]| {
        let mut args = vec!["-r", "-f"];
        commands.iter().for_each(|c| args.extend(["-c", c]));
        args.push(text(image));
        run_ok("xfs_db", &args)
    };
    let sb = db(&["sb 0", "p blocksize dblocks agblocks agcount"]);
    let field = |name: &str| -> u64 {
        let line = sb.lines().find(|l| l.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (size, blocks) = (field("blocksize"), field("dblocks"));
    let (ag_blocks, ag_count) = (field("agblocks"), field("agcount"));
    let mut lists = std::collections::HashSet::new();
    for ag in 0..ag_count {
        let agf = db(&[&format!("agf {ag}"), "p flfirst fllast flcount"]);
        let number = |name: &str| -> u64 {
            let line = agf.lines().find(|l| l.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let list = db(&[&format!("agfl {ag}"), "p bno"]);
        // "bno[0-117] = 0:6 1:7 2:8 3:null ..."
        for pair in list.split_whitespace().filter(|w| w.contains(':')) {
            let (slot, block) = pair.split_once(':').unwrap();
            let slot: u64 = slot.parse().unwrap();
            let (first, last) = (number("flfirst"), number("fllast"));
            let inside = match first <= last {
                true => (first..=last).contains(&slot),
                false => slot >= first || slot <= last,
            };
            if inside && number("flcount") > 0 {
                lists.insert((ag, block.parse::<u64>().unwrap()));
            }
        }
    }
    let mut free: Vec<Range<u64>> = Vec::new();
    for line in db(&["freesp -d"]).lines().skip(1) {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        let [ag, block, len] = numbers[..] else { break };
        if len == 1 && lists.contains(&(ag, block)) {
            continue;
        }
        let at = (ag * ag_blocks + block) * size;
        free.push(at..at + len * size);
    }
    free.sort_by_key(|r| r.start);
    let mut used = Vec::new();
    let mut at = 0;
    for range in free {
        used.push(at..range.start);
        at = range.end;
    }
    used.push(at..blocks * size);
    used.push(blocks * size..std::fs::metadata(image).unwrap().len());
    joined(used)
}

/// Fill a mounted XFS with what uses each of its formats.
fn fill(root: &Path) {
    make_tree(root, 60, true);
    let dir = |name: &str, count: u32| {
        std::fs::create_dir(root.join(name)).unwrap();
        for k in 0..count {
            let name = root
                .join(name)
                .join(format!("{k} in a directory of {count}"));
            std::fs::write(name, k.to_le_bytes()).unwrap();
        }
    };
    // Directories inside the inode, of one block, with leaves, with nodes.
    dir("one", 1);
    dir("few", 8);
    dir("some", 40);
    dir("more", 700);
    dir("thousands", 6000);
    for k in (0..6000).step_by(3) {
        let name = root
            .join("thousands")
            .join(format!("{k} in a directory of 6000"));
        std::fs::remove_file(name).unwrap();
    }
    // A file in more pieces than an inode can list, and one with extents never written.
    let pieces = std::fs::File::create(root.join("pieces")).unwrap();
    for k in (0..3000_u64).step_by(2) {
        pieces.write_all_at(&k.to_le_bytes(), k * 16_384).unwrap();
    }
    run_ok(
        "fallocate",
        &["-l", "5000000", text(&root.join("unwritten"))],
    );
    run_ok(
        "sh",
        &[
            "-c",
            &format!(
                "echo begins | dd of='{}' conv=notrunc 2>/dev/null",
                text(&root.join("unwritten"))
            ),
        ],
    );
    run_ok("mknod", &[text(&root.join("null")), "c", "1", "3"]);
    run_ok("mkfifo", &[text(&root.join("fifo"))]);
    run_ok(
        "touch",
        &["-d", "1960-01-02 03:04:05 UTC", text(&root.join("old"))],
    );
    for (name, count, len) in [
        ("a-few", 2, 10),
        ("a-leaf", 30, 60),
        ("a-node", 300, 200),
        ("a-big", 3, 60_000),
    ] {
        let path = root.join(name);
        std::fs::write(&path, name).unwrap();
        for k in 0..count {
            let value = "v".repeat(len) + &k.to_string();
            run_ok(
                "setfattr",
                &["-n", &format!("user.name{k}"), "-v", &value, text(&path)],
            );
        }
        run_ok(
            "setfattr",
            &["-n", "security.label", "-v", "x", text(&path)],
        );
        run_ok("setfattr", &["-n", "trusted.t", "-v", "y", text(&path)]);
    }
    std::fs::remove_dir_all(root.join("some")).unwrap();
}

/// Attributes, times and owners as the kernel tells them.
fn compare_details(root: &Path, tree: &dyn FileTree, what: &str) {
    use std::os::unix::fs::MetadataExt;
    for name in [
        "a-few", "a-leaf", "a-node", "a-big", "old", "null", "fifo", "etc", "etc/link",
    ] {
        let theirs = std::fs::symlink_metadata(root.join(name)).unwrap();
        let ours = tree.stat(&GuestPath::new(name)).unwrap();
        assert_eq!(ours.mtime, theirs.mtime(), "{what}: {name}");
        assert_eq!(
            u32::from(ours.mode),
            theirs.mode() & 0o7777,
            "{what}: {name}"
        );
        assert_eq!(
            (ours.inode, u64::from(ours.links)),
            (theirs.ino(), theirs.nlink()),
            "{what}: {name}"
        );
        assert_eq!(ours.size, theirs.size(), "{what}: {name}");
    }
    assert_eq!(tree.stat(&"/null".into()).unwrap().kind, FileKind::Special);
    for name in ["a-few", "a-leaf", "a-node", "a-big"] {
        let said = run_ok(
            "getfattr",
            &["-d", "-m", "-", "--absolute-names", text(&root.join(name))],
        );
        let mut theirs: Vec<String> = said
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| format!("{key}={}", value.trim_matches('"')))
            .collect();
        let ours = tree.xattrs(&GuestPath::new(name)).unwrap();
        let mut ours: Vec<String> = ours
            .iter()
            .map(|x| {
                format!(
                    "{}={}",
                    String::from_utf8_lossy(&x.name),
                    String::from_utf8_lossy(&x.value)
                )
            })
            .collect();
        theirs.sort();
        ours.sort();
        assert!(
            ours == theirs,
            "{what}: {name}: {} and {}",
            ours.len(),
            theirs.len()
        );
    }
}

#[test]
fn trees_and_used_blocks_are_those_of_the_kernel_and_xfs_db() {
    let test = "trees_and_used_blocks_are_those_of_the_kernel_and_xfs_db";
    if !has_tools(
        test,
        &[
            "mkfs.xfs",
            "xfs_db",
            "xfs_repair",
            "setfattr",
            "partclone.xfs",
        ],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    for (name, args, mib) in VARIANTS {
        mkfs(&image, args, *mib);
        let Some(mount) = Mount::of_kind(test, "xfs", &image, "rw") else {
            return;
        };
        fill(mount.path());
        drop(mount);
        let ours = check_used(&image, name, *mib);
        copy_ranges(&image, &ours, &copy);
        litter_free_space(&copy);
        repair(&copy, name);
        let tree = XfsTree::open(FileDisk::open(&image).unwrap()).unwrap();
        let files = our_tree(&tree);
        let mut mount = Mount::of_kind(test, "xfs", &image, "ro,norecovery").unwrap();
        for round in 0..2 {
            let theirs = host_tree(mount.path());
            assert_same(&files, &theirs, name);
            compare_details(mount.path(), &tree, name);
            if round == 0 {
                // The copy of nothing but the used blocks, by the kernel.
                mount = Mount::of_kind(test, "xfs", &copy, "ro,norecovery,nouuid").unwrap();
            }
        }
    }
}

/// Our used ranges, after holding them against xfs_db and partclone.
fn check_used(image: &Path, name: &str, mib: u64) -> Vec<Range<u64>> {
    let findings = Findings::default();
    let ours = used(&FileDisk::open(image).unwrap(), &findings);
    assert!(findings.list().is_empty(), "{name}: {:?}", findings.list());
    let truth = xfs_db_used(image);
    assert_eq!(missing(&truth, &ours), [], "{name}: left out");
    assert_eq!(missing(&ours, &truth), [], "{name}: too much");
    assert_eq!(missing(&partclone_used("xfs", image), &ours), [], "{name}");
    assert!(sum(&ours) < (mib << 20) * 9 / 10, "{name}");
    ours
}

/// What `mkfs.xfs -p` is to copy from `dir`.
fn prototype(dir: &Path, indent: usize, out: &mut String) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name().into_string().unwrap(), entry.path());
        let kind = entry.file_type().unwrap();
        let pad = " ".repeat(indent);
        if kind.is_dir() {
            writeln!(out, "{pad}{name} d--755 1 2").unwrap();
            prototype(&path, indent + 1, out);
            writeln!(out, "{pad}$").unwrap();
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            writeln!(out, "{pad}{name} l--777 0 0 {}", text(&target)).unwrap();
        } else {
            writeln!(out, "{pad}{name} ---644 3 4 {}", text(&path)).unwrap();
        }
    }
}

#[test]
fn version_4_is_read_as_it_was_made() {
    let test = "version_4_is_read_as_it_was_made";
    if !has_tools(test, &["mkfs.xfs", "xfs_db", "xfs_repair", "partclone.xfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, proto) = (dir.path().join("tree"), dir.path().join("proto"));
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    // A prototype separates by blanks.
    for (name, count) in [("few", 5), ("some", 50), ("more", 900), ("thousands", 5000)] {
        std::fs::create_dir_all(tree.join(name)).unwrap();
        for k in 0..count {
            let file = tree
                .join(name)
                .join(format!("number-{k}-of-{count}-with-a-long-name"));
            std::fs::write(file, vec![k as u8; k % 37 * (k % 200)]).unwrap();
        }
    }
    std::fs::write(tree.join("big"), Seeded(4).bytes(20_000_000)).unwrap();
    std::os::unix::fs::symlink("some/where", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("x/".repeat(400), tree.join("long-link")).unwrap();
    let mut text_of = "boot\n0 0\nd--755 0 0\n".to_owned();
    prototype(&tree, 0, &mut text_of);
    text_of.push_str("$\n");
    std::fs::write(&proto, text_of).unwrap();
    for (name, args, mib) in V4 {
        mkfs(&image, &format!("{args} -p {}", text(&proto)), *mib);
        repair(&image, name);
        let ours = check_used(&image, name, *mib);
        copy_ranges(&image, &ours, &copy);
        litter_free_space(&copy);
        repair(&copy, name);
        for image in [&image, &copy] {
            let xfs = XfsTree::open(FileDisk::open(image).unwrap()).unwrap();
            assert_same(&our_tree(&xfs), &host_tree(&tree), name);
            let stat = xfs.stat(&"/big".into()).unwrap();
            assert_eq!((stat.mode, stat.uid, stat.gid), (0o644, 3, 4), "{name}");
        }
        // A kernel that still knows version 4 is asked too.
        if let Some(mount) = try_mount(&copy) {
            assert_same(&host_tree(mount.path()), &host_tree(&tree), name);
        } else {
            println!("{name}: the host's kernel does not mount version 4");
        }
    }
}

fn try_mount(image: &Path) -> Option<Mount> {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "-t",
        "xfs",
        "-o",
        "loop,ro,norecovery",
        text(image),
        text(dir.path()),
    ];
    run("mount", &args).status.success().then(|| Mount { dir })
}

#[test]
fn a_log_that_was_not_written_back_is_named_and_nothing_is_left_out() {
    let test = "a_log_that_was_not_written_back_is_named_and_nothing_is_left_out";
    if !has_tools(test, &["mkfs.xfs", "xfs_db", "xfs_io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for args in [
        "-m crc=1",
        "-l size=64m,su=32k,version=2",
        "-b size=1024 -l size=65m",
    ] {
        mkfs(&image, args, 400);
        // Several lives, so that the log has been around.
        for life in 0..6_u32 {
            let Some(mount) = Mount::of_kind(test, "xfs", &image, "rw") else {
                return;
            };
            for k in 0..600 * (life + 1) {
                std::fs::write(mount.path().join(format!("{life}-{k}")), [7; 5000]).unwrap();
            }
            if life % 2 == 1 {
                // Stop as a power cut does, after what was logged reached the disk.
                run_ok("xfs_io", &["-x", "-c", "shutdown -f", text(mount.path())]);
            }
            drop(mount);
            let disk = FileDisk::open(&image).unwrap();
            let findings = Findings::default();
            let ours = used(&disk, &findings);
            let clean = run("xfs_logprint", &["-t", text(&image)]);
            let clean = String::from_utf8_lossy(&clean.stdout).contains("<CLEAN>");
            assert_eq!(clean, life % 2 == 0, "xfs_logprint, life {life}");
            let opened = XfsTree::open(&disk).map(|_| ());
            if clean {
                assert!(
                    findings.list().is_empty(),
                    "{args}, {life}: {:?}",
                    findings.list()
                );
                opened.unwrap();
            } else {
                assert_eq!(ours, [0..disk.size()], "{args}, {life}");
                assert!(findings.list()[0].contains("its log holds changes"));
                assert_eq!(opened.unwrap_err().kind(), TreeErrorKind::Dirty);
                XfsTree::open_ignoring_log(&disk).unwrap();
            }
        }
    }
}

#[test]
fn damage_makes_a_group_used_and_writing_is_refused() {
    let test = "damage_makes_a_group_used_and_writing_is_refused";
    if !has_tools(test, &["mkfs.xfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for args in ["-m crc=1", "-m crc=0"] {
        mkfs(&image, args, 400);
        let sound = MemoryDisk::from(std::fs::read(&image).unwrap());
        let truth = used(&sound, &Findings::default());
        // AGF of group 0: number, length, root, free blocks; the root of its tree of free extents.
        for at in [
            512 + 11,
            512 + 14,
            512 + 18,
            512 + 55,
            4096 + 5,
            4096 + 7,
            4096 + 60,
        ] {
            let disk = Overlay::new(&sound);
            let mut byte = [0];
            disk.read_at(at, &mut byte).unwrap();
            block_io::BlockWrite::write_at(&disk, at, &[byte[0] ^ 0x15]).unwrap();
            let findings = Findings::default();
            let ours = used(&disk, &findings);
            assert_eq!(missing(&truth, &ours), [], "{args}, byte {at}");
            if findings.list().is_empty() {
                assert!(
                    args.contains("crc=0") && at == 4096 + 60,
                    "{args}, byte {at} is believed"
                );
            }
        }
        let mut tree = XfsTree::open(&sound).unwrap();
        let new = Attributes::root_owned(0o644, 0);
        let refused = tree.write_file(&"/x".into(), b"y", new).unwrap_err();
        assert_eq!(refused.kind(), TreeErrorKind::Unsupported);
    }
}

/// Bytes of a small XFS with a bit of everything.
fn small_image(dir: &Path, args: &str, test: &str) -> Option<Vec<u8>> {
    let image = dir.join("image");
    mkfs(&image, args, 330);
    if args.contains("crc=0") {
        return Some(std::fs::read(&image).unwrap());
    }
    let mount = Mount::of_kind(test, "xfs", &image, "rw")?;
    fill(mount.path());
    drop(mount);
    Some(std::fs::read(&image).unwrap())
}

#[test]
fn hostile_bytes_end_in_errors() {
    let test = "hostile_bytes_end_in_errors";
    if !has_tools(test, &["mkfs.xfs", "setfattr"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for args in ["-m crc=1", "-b size=1024 -m crc=1"] {
        let Some(bytes) = small_image(dir.path(), args, test) else {
            return;
        };
        let sound = MemoryDisk::from(bytes);
        let truth = used(&sound, &Findings::default());
        // The metadata: blocks that begin with a known magic number, and inodes.
        let mut places = Vec::new();
        for range in &truth {
            for at in (range.start..range.end.min(range.start + (40 << 20))).step_by(512) {
                let mut magic = [0; 16];
                if at + 16 > sound.size() {
                    continue;
                }
                sound.read_at(at, &mut magic).unwrap();
                let known = [
                    b"XFSB", b"XAGF", b"AB3B", b"XDB3", b"XDD3", b"BMA3", b"XSLM", b"XARM",
                ];
                if known.iter().any(|m| magic.starts_with(*m))
                    || magic.starts_with(b"IN")
                    || magic[8..10] == [0x3B, 0xEE]
                {
                    places.push(at);
                }
            }
        }
        assert!(places.len() > 100, "{args}: {} in {truth:?}", places.len());
        let mut random = Seeded(0xF5);
        for round in 0..250 {
            let disk = Overlay::new(&sound);
            for _ in 0..1 + random.below(40) {
                let place = places[random.below(places.len() as u64) as usize];
                let within = if round % 2 == 0 { 180 } else { 512 };
                mutate(
                    &disk,
                    if round % 10 == 0 {
                        random.below(1024)
                    } else {
                        place + random.below(within)
                    },
                    &mut random,
                );
            }
            // Checksums stop most; without them everything behind is reached.
            for place in &places {
                reseal(&disk, *place, args);
            }
            if filesystems::probe::probe(&disk).unwrap().is_some() {
                used(&disk, &Findings::default());
            }
            if let Ok(tree) = XfsTree::open_ignoring_log(&disk) {
                exercise(&tree);
            }
        }
    }
}

/// Make the checksum of the metadata at `at` right again.
fn reseal(disk: &Overlay<&MemoryDisk>, at: u64, args: &str) {
    let block = if args.contains("1024") { 1024 } else { 4096 };
    let mut magic = [0; 4];
    disk.read_at(at, &mut magic).unwrap();
    let (len, field) = match &magic {
        b"XFSB" => (512, 224),
        b"XAGF" => (512, 216),
        b"AB3B" => (block, 52),
        b"BMA3" => (block, 64),
        b"XDB3" | b"XDD3" => (4096, 4),
        b"XSLM" | b"XARM" => (block, 12),
        [b'I', b'N', ..] => (512, 100),
        _ => (block, 12),
    };
    let mut bytes = vec![0; len];
    if disk.read_at(at, &mut bytes).is_err() {
        return;
    }
    bytes[field..field + 4].fill(0);
    let sum = crc32c::crc32c(&bytes);
    block_io::BlockWrite::write_at(disk, at + field as u64, &sum.to_le_bytes()).unwrap();
}

/// Not a check but a measurement: `cargo test --release -p filesystems --test xfs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_the_used_map() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mkfs(&image, "-m crc=1", 1 << 20);
    let mount = Mount::of_kind("speed", "xfs", &image, "rw").unwrap();
    for k in 0..200_000 {
        let dir = mount.path().join(format!("{}", k / 1000));
        if k % 1000 == 0 {
            std::fs::create_dir(&dir).unwrap();
        }
        std::fs::write(dir.join(format!("{k}")), [1]).unwrap();
    }
    for k in (0..200_000).step_by(2) {
        std::fs::remove_file(mount.path().join(format!("{}/{k}", k / 1000))).unwrap();
    }
    drop(mount);
    let start = std::time::Instant::now();
    let ours = used(&FileDisk::open(&image).unwrap(), &Findings::default());
    println!("ours: {:?}, {} ranges", start.elapsed(), ours.len());
    let start = std::time::Instant::now();
    run_ok("xfs_db", &["-r", "-f", "-c", "freesp", text(&image)]);
    println!("xfs_db -c freesp: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    partclone_used("xfs", &image);
    println!("partclone.xfs: {:?}", start.elapsed());
}
