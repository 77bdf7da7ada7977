//! Writing, in every variant: what e2fsck and the kernel say of it, and that nothing but what was
//! asked for changed.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::path::Path;

use block_io::FileDiskMut;
use common::*;
use filesystems::ext::{ExtTree, Recovery};
use filesystems::memory::MemoryTree;
use filesystems::path::GuestPath;
use filesystems::tree::{Attributes, FileKind, FileTree, TreeErrorKind};

/// Variants whose file systems we refuse to write, and the word the refusal must have.
const REFUSED: &[(&str, &str)] = &[
    ("ext4-bigalloc", "bigalloc"),
    ("ext4-quota", "quota"),
    ("ext4-project", "quota"),
];

fn open(image: &Path) -> ExtTree<FileDiskMut> {
    ExtTree::open_rw(FileDiskMut::open(image).unwrap(), Recovery::Refuse).unwrap()
}

/// The whole tree below the root as lines, for comparing two of them.
fn lines(tree: &dyn FileTree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![GuestPath::root()];
    while let Some(dir) = left.pop() {
        for entry in tree.read_dir(&dir).unwrap() {
            let path = dir.join(&entry.name);
            if path == GuestPath::new("/lost+found") {
                continue;
            }
            let stat = tree.stat(&path).unwrap();
            assert_eq!(stat.kind, entry.kind, "{path}");
            let what = match stat.kind {
                FileKind::Directory => {
                    left.push(path.clone());
                    "directory".to_owned()
                }
                FileKind::Symlink => format!("-> {:?}", tree.read_link(&path).unwrap()),
                FileKind::File => {
                    let contents = tree.read_file(&path, 1 << 30).unwrap();
                    assert_eq!(contents.len() as u64, stat.size);
                    format!("{} bytes, {:x}", contents.len(), hash(&contents))
                }
                FileKind::Special => "special".to_owned(),
            };
            let mut xattrs: Vec<_> = tree
                .xattrs(&path)
                .unwrap()
                .into_iter()
                .map(|x| format!("{}={:x}", String::from_utf8_lossy(&x.name), hash(&x.value)))
                .collect();
            xattrs.sort();
            lines.push(format!(
                "{path} {:o} {}:{} {what} {xattrs:?}",
                stat.mode, stat.uid, stat.gid
            ));
        }
    }
    lines.sort();
    lines
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01B3)
    })
}

fn assert_same(ours: &dyn FileTree, model: &dyn FileTree, what: &str) {
    let (ours, model) = (lines(ours), lines(model));
    let differs = ours.iter().zip(&model).find(|(a, b)| a != b);
    assert!(
        differs.is_none() && ours.len() == model.len(),
        "{what}: {differs:?}, {} and {}",
        ours.len(),
        model.len()
    );
}

/// All files and links below the root, with their kinds.
fn paths(tree: &dyn FileTree) -> Vec<(GuestPath, FileKind)> {
    let (mut all, mut left) = (Vec::new(), vec![GuestPath::root()]);
    while let Some(dir) = left.pop() {
        for entry in tree.read_dir(&dir).unwrap() {
            let path = dir.join(&entry.name);
            if entry.kind == FileKind::Directory {
                left.push(path.clone());
            }
            all.push((path, entry.kind));
        }
    }
    all
}

/// The host's kernel mounts the image and finds what the model has.
fn assert_kernel_reads(
    test: &str,
    image: &Path,
    ours: &dyn FileTree,
    model: &dyn FileTree,
    what: &str,
) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    if what.starts_with("ext4-64k") {
        // The kernel mounts no blocks larger than its pages here.
        return;
    }
    let Some(mount) = Mount::new(test, image, "ro") else {
        return;
    };
    for (path, kind) in paths(model) {
        let name = std::ffi::OsStr::from_bytes(&path.as_bytes()[1..]);
        let file = mount.path().join(name);
        let meta = file
            .symlink_metadata()
            .unwrap_or_else(|e| panic!("{what}: {path}: {e}"));
        let stat = ours.stat(&path).unwrap();
        assert_eq!((meta.mode() & 0o7777) as u16, stat.mode, "{what}: {path}");
        assert_eq!(
            (meta.uid(), meta.gid()),
            (stat.uid, stat.gid),
            "{what}: {path}"
        );
        assert_eq!(meta.mtime(), stat.mtime, "{what}: {path}");
        match kind {
            FileKind::File => {
                let contents = model.read_file(&path, 1 << 30).unwrap();
                assert!(
                    std::fs::read(&file).unwrap() == contents,
                    "{what}: {path}: the kernel"
                );
            }
            FileKind::Symlink => {
                let target = std::fs::read_link(&file).unwrap();
                assert_eq!(
                    target.as_os_str().as_bytes(),
                    model.read_link(&path).unwrap()
                );
            }
            _ => {}
        }
        for xattr in model.xattrs(&path).unwrap() {
            // The kernel shows only what looks like capabilities under that name, and no user
            // attributes of links.
            let link = kind == FileKind::Symlink && xattr.name.starts_with(b"user.");
            if link || xattr.name == b"security.capability" {
                continue;
            }
            let mut value = vec![0; 4096];
            let name = std::str::from_utf8(&xattr.name).unwrap();
            let len = rustix::fs::lgetxattr(&file, name, &mut value[..])
                .unwrap_or_else(|e| panic!("{what}: {path}: {name}: {e}"));
            assert!(value[..len] == xattr.value, "{what}: {path}: {name}");
        }
    }
}

/// A reader made by others finds the same, where it knows the features.
fn assert_second_reader_reads(image: &Path, model: &dyn FileTree, what: &str) {
    // What it does not load: inline data, revision 0, meta_bg, large_dir, ea_inode, and checksums in small inodes.
    let unknown = [
        "inline", "64k", "ext2-old", "meta-bg", "ea-inode", "i128", "largedir",
    ];
    if unknown.iter().any(|odd| what.contains(odd)) {
        return;
    }
    let reader = ext4_view::Ext4::load_from_path(image).unwrap();
    for (path, kind) in paths(model) {
        if kind == FileKind::File {
            let contents = model.read_file(&path, 1 << 30).unwrap();
            match reader.read(path.as_bytes()) {
                Ok(theirs) => assert!(
                    theirs == contents,
                    "{what}: {path}: ext4-view: {} and {} bytes, first difference at {:?}",
                    theirs.len(),
                    contents.len(),
                    theirs.iter().zip(&contents).position(|(a, b)| a != b)
                ),
                // ext4-view 1.0.0 does not know holes in block maps.
                Err(e) if e.to_string().contains("from block 0") => {}
                Err(e) => panic!("{what}: {path}: ext4-view: {e}"),
            }
        }
    }
}

/// One random operation on both trees; they must agree.
fn step(random: &mut Seeded, tree: &mut dyn FileTree, model: &mut dyn FileTree, what: &str) {
    // Times after 2038 in some runs only: ext4-view 1.0.0 takes some of them for corruption.
    let late = what.ends_with("seed 0");
    let path = random_path(random);
    let other = random_path(random);
    let time = 1_500_000_000 + random.below(500_000_000) as i64;
    let new = Attributes::root_owned(
        0o644,
        if late {
            time + random.below(1 << 33) as i64
        } else {
            time
        },
    );
    let len = match random.below(10) {
        0 => 0,
        1..4 => random.below(70),
        4..6 => random.below(300),
        6..9 => random.below(20_000),
        _ => random.below(400_000),
    } as usize;
    let bytes = random.bytes(len);
    let offset = random.below(150_000);
    let choice = random.below(100);
    let name: &[u8] = [
        &b"security.selinux"[..],
        b"user.a",
        b"trusted.long.name",
        b"security.capability",
    ][random.below(4) as usize];
    let value_len = [4, 30, 100, 700][random.below(4) as usize];
    let value = random.bytes(value_len);
    let mode = random.below(0o10000) as u16;
    let operation = |t: &mut dyn FileTree| match choice {
        0..30 => t.write_file(&path, &bytes, new),
        // An empty write changes nothing here, as pwrite; in the model it lets the file grow.
        30..38 if bytes.is_empty() => t.write_at(&path, offset, &[1]),
        30..38 => t.write_at(&path, offset, &bytes),
        38..46 if offset.is_multiple_of(2) => t.truncate(&path, offset % 700),
        38..46 => t.truncate(&path, offset),
        46..58 => t.create_dir(&path, Attributes { mode: 0o755, ..new }),
        58..66 => {
            let target = vec![b't'; 1 + offset as usize % 200];
            t.create_symlink(&path, &target, Attributes { mode: 0o777, ..new })
        }
        66..78 => t.remove(&path),
        78..88 => t.rename(&path, &other),
        88..92 => t.set_owner(&path, mode, 70_000, 5),
        92..98 => t.set_xattr(&path, name, Some(&value)),
        _ => t.set_xattr(&path, name, None),
    };
    let ours = operation(tree);
    if std::env::var_os("P2V_TRACE").is_some() {
        println!(
            "{choice} {path} {other} {} bytes, offset {offset}: {ours:?}",
            bytes.len()
        );
    }
    if let Err(error) = &ours
        && error.kind() == TreeErrorKind::NoSpace
    {
        return;
    }
    if matches!(choice, 78..88)
        && ours
            .as_ref()
            .is_err_and(|e| e.kind() == TreeErrorKind::Exists)
    {
        // The model puts a directory in the place of a file, which no kernel does.
        return;
    }
    let theirs = operation(model);
    // The model tells a link in the way of a new name only as no directory.
    let kind = |e: &filesystems::tree::TreeError| match e.kind() {
        TreeErrorKind::IsSymlink => TreeErrorKind::NotADirectory,
        kind => kind,
    };
    assert_eq!(
        ours.as_ref().map_err(kind).err(),
        theirs.as_ref().map_err(kind).err(),
        "{what}: operation {choice} on {path} and {other}: {ours:?} and {theirs:?}"
    );
}

fn random_path(random: &mut Seeded) -> GuestPath {
    let depth = 1 + random.below(3);
    let mut path = GuestPath::root();
    for _ in 0..depth {
        let n = random.below(9);
        let name = match random.below(30) {
            0 => format!("{n}{}", "long".repeat(60)),
            1..10 => format!("{n}-{}", random.below(12)),
            _ => format!("{n}"),
        };
        path = path.join(name);
    }
    path
}

#[test]
fn random_operations_agree_with_a_model_and_e2fsck_in_every_variant() {
    let test = "random_operations_agree_with_a_model_and_e2fsck_in_every_variant";
    if !has_tools(test, &["mke2fs", "e2fsck"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let seeds = std::env::var("P2V_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(2);
    let only = std::env::var("P2V_VARIANT").ok();
    for (name, args, mib) in VARIANTS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        if REFUSED.iter().any(|(refused, _)| refused == name) {
            continue;
        }
        let image = dir.path().join(name);
        for seed in 0..seeds {
            mke2fs(&image, mib << 20, args, None);
            let mut random = Seeded(seed * 1000 + hash(name.as_bytes()));
            let mut model = MemoryTree::new();
            let mut tree = open(&image);
            let what = format!("{name}, seed {seed}");
            for round in 0..4 {
                for _ in 0..120 {
                    step(&mut random, &mut tree, &mut model, &what);
                }
                tree.sync().unwrap();
                fsck(&image, &format!("{what}, round {round}"));
                assert_same(&tree, &model, &what);
            }
            // And what a second look from the disk alone finds.
            assert_same(&open(&image), &model, &what);
            assert_kernel_reads(test, &image, &open(&image), &model, &what);
            if seed > 0 {
                assert_second_reader_reads(&image, &model, &what);
            }
        }
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn features_we_cannot_keep_right_are_refused_by_name() {
    let test = "features_we_cannot_keep_right_are_refused_by_name";
    if !has_tools(test, &["mke2fs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, word) in REFUSED {
        let (_, args, mib) = VARIANTS
            .iter()
            .find(|(variant, ..)| variant == name)
            .unwrap();
        let image = dir.path().join(name);
        mke2fs(&image, mib << 20, args, None);
        let before = hash(&std::fs::read(&image).unwrap());
        let disk = FileDiskMut::open(&image).unwrap();
        let error = ExtTree::open_rw(disk, Recovery::Replay).unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::Unsupported);
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(
            hash(&std::fs::read(&image).unwrap()),
            before,
            "nothing was written"
        );
    }
}

#[test]
fn thousands_of_names_in_hash_trees_of_every_hash_and_depth() {
    let test = "thousands_of_names_in_hash_trees_of_every_hash_and_depth";
    if !has_tools(test, &["mke2fs", "e2fsck", "tune2fs", "debugfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (hash, signed, args, names) in [
        ("half_md4", 1, "-t ext4 -b 1024 -N 30000", 12_000),
        ("half_md4", 2, "-t ext4 -b 4096", 4000),
        ("tea", 1, "-t ext4 -b 1024 -O large_dir -N 30000", 6000),
        ("tea", 2, "-t ext4 -b 1024 -O ^metadata_csum", 3000),
        ("legacy", 1, "-t ext3 -b 1024", 3000),
        ("legacy", 2, "-t ext2 -b 1024", 3000),
    ] {
        let what = format!("{hash}, flags {signed}, {args}");
        mke2fs(&image, 96 << 20, args, None);
        run_ok(
            "tune2fs",
            &["-E", &format!("hash_alg={hash}"), text(&image)],
        );
        run_ok(
            "debugfs",
            &["-w", "-R", &format!("ssv flags {signed}"), text(&image)],
        );
        let mut tree = open(&image);
        let new = Attributes::root_owned(0o644, 1_700_000_000);
        tree.create_dir(&"/d".into(), new).unwrap();
        // Names with bytes above 127, for which signedness matters.
        let path = |n: u64| GuestPath::new(format!("/d/{n}-é{}", "ß".repeat((n % 60) as usize)));
        for n in 0..names {
            tree.write_file(&path(n), b"", new).unwrap();
        }
        fsck(&image, &what);
        let tree = &mut open(&image);
        for n in 0..names {
            assert!(tree.stat(&path(n)).is_ok(), "{what}: {}", path(n));
        }
        assert_eq!(
            tree.read_dir(&"/d".into()).unwrap().len() as u64,
            names,
            "{what}"
        );
        for n in (0..names).step_by(3) {
            tree.remove(&path(n)).unwrap();
        }
        for n in (0..names).step_by(6) {
            tree.write_file(&path(n), b"again", new).unwrap();
        }
        fsck(&image, &what);
        // The kernel looks the names up by its own hash.
        let Some(mount) = Mount::new(test, &image, "ro") else {
            return;
        };
        for n in 0..names {
            use std::os::unix::ffi::OsStrExt;
            let name = path(n);
            let name = std::ffi::OsStr::from_bytes(&name.as_bytes()[1..]);
            let expected = n % 3 != 0 || n % 6 == 0;
            assert_eq!(
                mount.path().join(name).exists(),
                expected,
                "{what}: {name:?}"
            );
        }
    }
}

#[test]
fn a_full_file_system_refuses_and_stays_clean() {
    let test = "a_full_file_system_refuses_and_stays_clean";
    if !has_tools(test, &["mke2fs", "e2fsck"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for args in [
        "-t ext4 -b 1024",
        "-t ext4 -b 4096 -O inline_data",
        "-t ext3 -b 1024",
        "-t ext2 -b 1024 -N 64",
    ] {
        mke2fs(&image, 12 << 20, args, None);
        let mut tree = open(&image);
        let new = Attributes::root_owned(0o644, 1_700_000_000);
        let mut random = Seeded(9);
        let mut written = Vec::new();
        let mut refused = 0;
        for n in 0..3000 {
            let path = GuestPath::new(format!("/file-{n}-{}", "x".repeat(n % 90)));
            let len = random.below(60_000) as usize;
            let bytes = random.bytes(len);
            match tree.write_file(&path, &bytes, new) {
                Ok(()) => written.push((path, bytes)),
                Err(e) => {
                    assert_eq!(e.kind(), TreeErrorKind::NoSpace, "{args}: {e}");
                    refused += 1;
                }
            }
            if refused > 40 {
                break;
            }
        }
        assert!(refused > 40, "{args}: never full");
        // Then to the very last block: directories, attributes, growth by a byte.
        for n in 0..300 {
            let path = GuestPath::new(format!("/d{n}"));
            let _ = tree.create_dir(&path, new);
            let (last, bytes) = &mut written[n % 40];
            let _ = tree.set_xattr(last, format!("user.{n}").as_bytes(), Some(&[1; 90]));
            if tree.write_at(last, bytes.len() as u64, b"!").is_ok() {
                bytes.push(b'!');
            }
        }
        fsck(&image, args);
        let tree = open(&image);
        for (path, bytes) in &written {
            assert!(
                tree.read_file(path, 1 << 20).unwrap() == *bytes,
                "{args}: {path}"
            );
        }
    }
}

#[test]
fn fragmented_free_space_makes_deep_trees_that_everyone_reads() {
    let test = "fragmented_free_space_makes_deep_trees_that_everyone_reads";
    if !has_tools(test, &["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for (args, depth) in [
        ("-t ext4 -b 1024", 2),
        ("-t ext4 -b 4096", 2),
        ("-t ext3 -b 1024", 0),
    ] {
        mke2fs(&image, 64 << 20, args, None);
        let block: usize = if args.contains("4096") { 4096 } else { 1024 };
        let mut tree = open(&image);
        let new = Attributes::root_owned(0o644, 1_700_000_000);
        // One-block files fill everything; every second is removed again.
        let mut count = 0;
        tree.create_dir(&"/small".into(), new).unwrap();
        let many = if block == 1024 { 14_000 } else { 6000 };
        tree.write_file(&"/filler".into(), b"", new).unwrap();
        while count < many {
            let path = GuestPath::new(format!("/small/{count}"));
            if tree
                .write_file(&path, &vec![count as u8; block], new)
                .is_err()
            {
                break;
            }
            count += 1;
        }
        let free = tree.space().unwrap().free;
        let filler = vec![0xEE; (free as usize).saturating_sub(300 * block)];
        tree.write_file(&"/filler".into(), &filler, new).unwrap();
        for n in (0..count).step_by(2) {
            tree.remove(&GuestPath::new(format!("/small/{n}"))).unwrap();
        }
        let mut random = Seeded(11);
        let mut big = random.bytes((count / 2 - 200).max(10) * block);
        tree.write_file(&"/big".into(), &big, new).unwrap();
        fsck(&image, args);
        if depth > 0 {
            let tree = run_ok("debugfs", &["-R", "dump_extents -n /big", text(&image)]);
            let levels = format!("/ {depth} ");
            assert!(
                tree.contains(&levels) || tree.contains(&format!("/{depth} ")),
                "{args}: {tree}"
            );
        }
        // Changed in the middle, cut, and grown again.
        let patch = random.bytes(5 * block);
        tree.write_at(&"/big".into(), 33 * block as u64 + 7, &patch)
            .unwrap();
        big[33 * block + 7..38 * block + 7].copy_from_slice(&patch);
        let keep = big.len() / 3;
        tree.truncate(&"/big".into(), keep as u64).unwrap();
        big.truncate(keep);
        fsck(&image, args);
        tree.truncate(&"/big".into(), keep as u64 + 1_000_000)
            .unwrap();
        big.resize(keep + 1_000_000, 0);
        tree.write_at(&"/big".into(), keep as u64 + 500_000, b"island")
            .unwrap();
        big[keep + 500_000..keep + 500_006].copy_from_slice(b"island");
        fsck(&image, args);
        assert!(
            open(&image).read_file(&"/big".into(), 1 << 30).unwrap() == big,
            "{args}"
        );
        let Some(mount) = Mount::new(test, &image, "ro") else {
            return;
        };
        assert!(
            std::fs::read(mount.path().join("big")).unwrap() == big,
            "{args}: the kernel"
        );
        drop(mount);
        tree.remove(&"/big".into()).unwrap();
        fsck(&image, args);
    }
}
