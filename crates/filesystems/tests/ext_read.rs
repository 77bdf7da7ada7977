//! Reading what mke2fs made, in every variant, compared with the directory it was made from.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use block_io::FileDisk;
use common::*;
use filesystems::ext::ExtTree;
use filesystems::path::GuestPath;
use filesystems::tree::{FileKind, FileTree, TreeErrorKind};

/// A directory with what servers have: long names, many names, sparse and large files, links.
fn source_dir(root: &Path) {
    let mut random = Seeded(7);
    for dir in ["etc/default", "var/log", "many", "empty", "deep/a/b/c/d"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    for n in 0..1200 {
        let name = format!("many/file-number-{n:05}-{}", "x".repeat(n % 40));
        std::fs::write(root.join(name), random.bytes(n % 3)).unwrap();
    }
    for (name, len) in [
        ("etc/fstab", 300),
        ("etc/tiny", 40),
        ("etc/small", 130),
        ("etc/empty", 0),
        ("var/log/big", 5_000_001),
        ("deep/a/b/c/d/one-block", 1024),
    ] {
        std::fs::write(root.join(name), random.bytes(len)).unwrap();
    }
    let sparse = std::fs::File::create(root.join("var/sparse")).unwrap();
    use std::os::unix::fs::FileExt;
    for at in [0, 70_000, 4_000_000, 20_000_000] {
        sparse.write_all_at(&random.bytes(5000), at).unwrap();
    }
    // No hole at its end: mke2fs 1.47.0 cuts it off with inline_data.
    std::os::unix::fs::symlink("tiny", root.join("etc/short-link")).unwrap();
    let far = format!("/{}", "a-long-way/".repeat(20));
    std::os::unix::fs::symlink(far, root.join("etc/long-link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(70), root.join("etc/middle-link")).unwrap();
    std::fs::hard_link(root.join("etc/fstab"), root.join("etc/fstab.same")).unwrap();
    let name = root.join("etc").join("ü".repeat(100));
    std::fs::write(name, b"long name").unwrap();
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(root.join("etc/fstab"), mode).unwrap();
}

/// Compare the tree of `image` with `root`, both ways.
fn compare(tree: &dyn FileTree, root: &Path, what: &str) {
    let mut left: Vec<PathBuf> = vec![PathBuf::new()];
    let mut files = 0;
    while let Some(below) = left.pop() {
        use std::os::unix::ffi::OsStrExt;
        let path = GuestPath::new(below.as_os_str().as_bytes());
        let mut ours: Vec<Vec<u8>> = tree
            .read_dir(&path)
            .unwrap_or_else(|e| panic!("{what}: {e}"))
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| !(below == Path::new("") && name == b"lost+found"))
            .collect();
        let mut theirs: Vec<Vec<u8>> = std::fs::read_dir(root.join(&below))
            .unwrap()
            .map(|e| e.unwrap().file_name().as_bytes().to_vec())
            .collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{what}: names in {path}");
        for name in theirs {
            let below = below.join(std::ffi::OsStr::from_bytes(&name));
            let path = path.join(&name);
            let meta = root.join(&below).symlink_metadata().unwrap();
            let stat = tree.stat(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(u32::from(stat.mode), meta.mode() & 0o7777, "{what}: {path}");
            assert_eq!(
                (stat.uid, stat.gid),
                (meta.uid(), meta.gid()),
                "{what}: {path}"
            );
            assert_eq!(stat.mtime, meta.mtime(), "{what}: {path}");
            if meta.is_dir() {
                assert_eq!(stat.kind, FileKind::Directory);
                left.push(below);
            } else if meta.is_symlink() {
                let target = std::fs::read_link(root.join(&below)).unwrap();
                assert_eq!(
                    tree.read_link(&path).unwrap(),
                    target.as_os_str().as_bytes()
                );
            } else {
                assert_eq!(u64::from(stat.links), meta.nlink(), "{what}: {path}");
                let contents = tree
                    .read_file(&path, 64 << 20)
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(
                    contents == std::fs::read(root.join(&below)).unwrap(),
                    "{what}: {path}"
                );
            }
            files += 1;
        }
    }
    assert!(files > 1200, "{what}: only {files} files compared");
}

#[test]
fn every_variant_reads_as_the_directory_it_was_made_from() {
    let test = "every_variant_reads_as_the_directory_it_was_made_from";
    if !has_tools(test, &["mke2fs", "e2fsck"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    source_dir(&root);
    for (name, args, mib) in VARIANTS {
        let image = dir.path().join(name);
        mke2fs(&image, mib << 20, args, Some(&root));
        let tree = ExtTree::open(FileDisk::open(&image).unwrap()).unwrap();
        compare(&tree, &root, name);
        // Directories again, now with hash trees where the variant has them.
        fsck_fix(&image, "-fyD");
        let tree = ExtTree::open(FileDisk::open(&image).unwrap()).unwrap();
        compare(&tree, &root, &format!("{name}, indexed"));
        let error = tree.stat(&GuestPath::new("/many/nothing")).unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::NotFound);
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn links_on_the_way_and_wrong_kinds_are_told_apart() {
    let test = "links_on_the_way_and_wrong_kinds_are_told_apart";
    if !has_tools(test, &["mke2fs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("real")).unwrap();
    std::fs::write(root.join("real/file"), b"x").unwrap();
    std::os::unix::fs::symlink("real", root.join("link")).unwrap();
    let image = dir.path().join("image");
    mke2fs(&image, 16 << 20, "-t ext4", Some(&root));
    let mut tree = ExtTree::open(FileDisk::open(&image).unwrap()).unwrap();
    let kind = |path: &str| tree.stat(&path.into()).unwrap_err().kind();
    assert_eq!(kind("/link/file"), TreeErrorKind::IsSymlink);
    assert_eq!(kind("/real/file/x"), TreeErrorKind::NotADirectory);
    let kind = |path: &str| tree.read_file(&path.into(), 1 << 20).unwrap_err().kind();
    assert_eq!(kind("/real"), TreeErrorKind::NotAFile);
    assert_eq!(
        tree.read_file(&"/real/file".into(), 0).unwrap_err().kind(),
        TreeErrorKind::TooLarge
    );
    let error = tree.truncate(&"/real/file".into(), 0).unwrap_err();
    assert_eq!(
        error.kind(),
        TreeErrorKind::Unsupported,
        "opened for reading only"
    );
}
