//! Dirty file systems as the kernel leaves them: images copied while they are mounted.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use block_io::{BlockRead, FileDisk, FileDiskMut};
use common::*;
use filesystems::ext::{ExtTree, Recovery};
use filesystems::probe::FsKind;
use filesystems::tree::{Attributes, FileTree, TreeErrorKind};
use filesystems::used::{Findings, used_ranges_noting};

const JOURNALS: &[(&str, &str)] = &[
    ("csum-v3", "-t ext4 -b 4096"),
    ("no-csum-64bit", "-t ext4 -b 4096 -O ^metadata_csum"),
    ("no-csum-32bit", "-t ext4 -b 1024 -O ^metadata_csum,^64bit"),
    ("ext3", "-t ext3 -b 1024"),
    (
        "orphan-file",
        "-t ext4 -b 4096 -O orphan_file,metadata_csum_seed",
    ),
    ("fast-commit", "-t ext4 -b 4096 -O fast_commit"),
];

/// Make, on a mounted file system, what leaves blocks in the journal: new files, deleted ones
/// (revokes), files that begin with the journal's magic number, deleted files still open (orphans).
fn work(root: &Path, fast_commits: bool) -> Vec<fs::File> {
    let mut random = Seeded(3);
    fs::create_dir(root.join("dir")).unwrap();
    for n in 0..300 {
        let file = root.join(format!("dir/file-{n}"));
        fs::write(&file, random.bytes(n * 50)).unwrap();
    }
    run_ok("sync", &["-f", text(root)]);
    for n in (0..300).step_by(3) {
        fs::remove_file(root.join(format!("dir/file-{n}"))).unwrap();
    }
    fs::create_dir(root.join("gone")).unwrap();
    for n in 0..200 {
        fs::write(root.join(format!("gone/{}{n}", "x".repeat(60))), b"x").unwrap();
    }
    run_ok("sync", &["-f", text(root)]);
    fs::remove_dir_all(root.join("gone")).unwrap();
    let mut magic = fs::File::create(root.join("magic")).unwrap();
    for _ in 0..20 {
        let mut block = vec![0xC0, 0x3B, 0x39, 0x98];
        block.extend(random.bytes(4092));
        magic.write_all(&block).unwrap();
    }
    let mut open = Vec::new();
    for n in 0..5 {
        let path = root.join(format!("open-{n}"));
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(&random.bytes(100_000)).unwrap();
        file.sync_all().unwrap();
        fs::remove_file(&path).unwrap();
        open.push(file);
    }
    if fast_commits {
        // Linux 6.18 does not replay the fast commits fsync would make here ("corrupted journal
        // superblock"), so there would be nothing to compare with.
        fs::write(root.join("last"), b"the last words").unwrap();
        run_ok("sync", &["-f", text(root)]);
        return open;
    }
    // From here on only fsync: it commits the journal and leaves bitmaps and counters unwritten.
    for n in 0..6 {
        let mut file = fs::File::create(root.join(format!("fill-{n}"))).unwrap();
        // May take blocks that were directories, whose old contents the log still holds (revokes).
        file.write_all(&random.bytes(7 << 20)).unwrap();
        file.sync_all().unwrap();
    }
    let mut last = fs::File::create(root.join("last")).unwrap();
    last.write_all(b"the last words").unwrap();
    last.sync_all().unwrap();
    open
}

/// An image copied while the kernel had it mounted.
fn dirty_image(test: &str, dir: &Path, name: &str, args: &str, options: &str) -> Option<PathBuf> {
    let (image, copy) = (dir.join(name), dir.join(format!("{name}-copy")));
    mke2fs(&image, 64 << 20, args, None);
    let mount = Mount::new(test, &image, options)?;
    let open = work(mount.path(), args.contains("fast_commit"));
    run_ok("cp", &["--sparse=always", text(&image), text(&copy)]);
    drop(open);
    drop(mount);
    Some(copy)
}

/// Everything the kernel reads, by its own replay of the journal.
fn kernel_view(test: &str, image: &Path) -> Option<Vec<(String, Vec<u8>)>> {
    let copy = image.with_extension("kernel");
    fs::copy(image, &copy).unwrap();
    let mount = Mount::new(test, &copy, "rw")?;
    let mut files = Vec::new();
    let mut left = vec![mount.path().to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(mount.path()).unwrap();
                files.push((text(name).to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    Some(files)
}

fn copy_used(image: &Path, to: &Path) {
    use std::os::unix::fs::FileExt;
    let disk = FileDisk::open(image).unwrap();
    let out = fs::File::create(to).unwrap();
    out.set_len(disk.size()).unwrap();
    let findings = Findings::default();
    let ranges = used_ranges_noting(&disk, FsKind::Ext4, &findings)
        .unwrap()
        .unwrap();
    for range in ranges {
        let range = range.unwrap();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        disk.read_at(range.start, &mut bytes).unwrap();
        out.write_all_at(&bytes, range.start).unwrap();
    }
    assert!(
        findings.list().iter().all(|f| f.contains("fast_commit")),
        "{:?}",
        findings.list()
    );
}

fn assert_reads(tree: &dyn FileTree, files: &[(String, Vec<u8>)], what: &str) {
    for (name, contents) in files {
        let ours = tree
            .read_file(&name.as_str().into(), 1 << 30)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(ours == *contents, "{what}: {name}");
    }
    let names = tree.read_dir(&"/dir".into()).unwrap().len();
    assert_eq!(
        names,
        files
            .iter()
            .filter(|(name, _)| name.starts_with("dir/"))
            .count(),
        "{what}"
    );
}

#[test]
fn dirty_journals_read_and_replay_as_the_kernel_does() {
    let test = "dirty_journals_read_and_replay_as_the_kernel_does";
    if !has_tools(test, &["mke2fs", "e2fsck", "mount", "dumpe2fs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for (name, args) in JOURNALS {
        for options in [
            "rw",
            "rw,data=journal",
            "rw,data=writeback,journal_async_commit",
        ] {
            let what = format!("{name}, {options}");
            let Some(image) = dirty_image(test, dir.path(), name, args, options) else {
                return;
            };
            let header = run_ok("dumpe2fs", &["-h", text(&image)]);
            assert!(
                header.contains("needs_recovery"),
                "{what}: the image is not dirty"
            );
            // What fsync wrote as fast commits is refused by name, not guessed at.
            if *name == "fast-commit"
                && let Err(error) = ExtTree::open(FileDisk::open(&image).unwrap())
            {
                assert_eq!(error.kind(), TreeErrorKind::Unsupported, "{what}: {error}");
                assert!(error.to_string().contains("fast_commit"), "{what}: {error}");
                continue;
            }
            let Some(files) = kernel_view(test, &image) else {
                return;
            };
            compared += 1;
            assert!(files.len() > 200, "{what}");
            let before = fs::read(&image).unwrap();
            // A copy of the used blocks alone, as the journal has them, is the same to the kernel.
            let used = image.with_extension("used");
            copy_used(&image, &used);
            assert!(
                kernel_view(test, &used).unwrap() == files,
                "{what}: copy of used blocks"
            );
            let tree = ExtTree::open(FileDisk::open(&image).unwrap()).unwrap();
            assert_reads(&tree, &files, &what);
            drop(tree);
            let refused = FileDiskMut::open(&image).unwrap();
            let error = ExtTree::open_rw(refused, Recovery::Refuse).unwrap_err();
            assert_eq!(error.kind(), TreeErrorKind::Dirty, "{what}");
            assert!(
                fs::read(&image).unwrap() == before,
                "{what}: written by a refusal"
            );

            let disk = FileDiskMut::open(&image).unwrap();
            let mut tree = ExtTree::open_rw(disk, Recovery::Replay).unwrap();
            fsck(&image, &format!("{what}: replayed"));
            assert_reads(&tree, &files, &what);
            let new = Attributes::root_owned(0o600, 1_700_000_000);
            tree.write_file(&"/dir/written-after".into(), &[5; 50_000], new)
                .unwrap();
            tree.sync().unwrap();
            fsck(&image, &format!("{what}: replayed and written"));
            let header = run_ok("dumpe2fs", &["-h", text(&image)]);
            assert!(!header.contains("needs_recovery"), "{what}: {header}");
            let after = kernel_view(test, &image).unwrap();
            assert_eq!(after.len(), files.len() + 1, "{what}");
        }
    }
    assert!(
        compared >= JOURNALS.len(),
        "only {compared} journals were compared"
    );
}

/// Where journal block 0 lies, in bytes.
fn journal_start(image: &Path, block_size: u64) -> u64 {
    let blocks = run_ok("debugfs", &["-R", "bmap <8> 0", text(image)]);
    blocks.trim().parse::<u64>().unwrap() * block_size
}

#[test]
fn a_damaged_journal_is_an_error_that_says_where_and_writes_nothing() {
    let test = "a_damaged_journal_is_an_error_that_says_where_and_writes_nothing";
    if !has_tools(test, &["mke2fs", "e2fsck", "mount", "debugfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = dirty_image(test, dir.path(), "journal", "-t ext4 -b 4096", "rw") else {
        return;
    };
    let sound = fs::read(&image).unwrap();
    let start = journal_start(&image, 4096) as usize;
    let log_start = u32::from_be_bytes(sound[start + 0x1C..start + 0x20].try_into().unwrap());
    assert!(log_start > 0, "the log is empty");
    let log = start + log_start as usize * 4096;
    let first = u32::from_be_bytes(sound[log + 4..log + 8].try_into().unwrap());
    for (at, word) in [
        (start + 0x40, "journal superblock: s_checksum"),
        (
            log + 20,
            if first == 5 {
                "journal revoke block"
            } else {
                "journal descriptor block"
            },
        ),
        (log + 4096 + 50, "journal "),
    ] {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        fs::write(&image, &bytes).unwrap();
        let error = ExtTree::open(FileDisk::open(&image).unwrap()).unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::Corrupt);
        let text = error.to_string();
        assert!(text.contains(word), "{text}");
        assert!(
            text.contains("expected") && text.contains("found"),
            "{text}"
        );
        let disk = FileDiskMut::open(&image).unwrap();
        ExtTree::open_rw(disk, Recovery::Replay).unwrap_err();
        assert!(
            fs::read(&image).unwrap() == bytes,
            "written in spite of {word}"
        );
    }
}

#[test]
fn an_external_journal_is_refused_by_name() {
    let test = "an_external_journal_is_refused_by_name";
    if !has_tools(test, &["mke2fs", "debugfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mke2fs(&image, 16 << 20, "-t ext4 -b 4096", None);
    run_ok("debugfs", &["-w", "-R", "ssv journal_inum 0", text(&image)]);
    let disk = FileDiskMut::open(&image).unwrap();
    let error = ExtTree::open_rw(disk, Recovery::Replay).unwrap_err();
    assert_eq!(error.kind(), TreeErrorKind::Unsupported);
    assert!(error.to_string().contains("external journal"), "{error}");
}
