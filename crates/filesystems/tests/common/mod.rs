//! What the tests of this crate share: scratch images, foreign tools, named skips.
#![allow(
    clippy::single_range_in_vec_init,
    dead_code,
    unused_imports,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

pub mod mtools;
pub mod ntfs;
pub mod oracle;
pub mod resizing;

use std::path::Path;
use std::process::{Command, Output};

pub use test_oracles::{fixture as fixtures, has_tools, skip};

/// Run a program of the distribution; `/usr/sbin` may not be in a user's PATH.
pub fn run(program: &str, args: &[&str]) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new(program)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// What `program` answers that makes a file system in a new sparse `image` of `size` bytes; `args` are
/// what it is told beside `flags`.
pub fn run_mkfs(program: &str, flags: &[&str], args: &str, image: &Path, size: u64) -> Output {
    let _ = std::fs::remove_file(image);
    let file = std::fs::File::create(image).unwrap();
    file.set_len(size).unwrap();
    let mut all = flags.to_vec();
    all.extend(args.split_whitespace());
    all.push(text(image));
    run(program, &all)
}

/// As [`run_mkfs`], and it must succeed.
pub fn make_fs(program: &str, flags: &[&str], args: &str, image: &Path, size: u64) {
    let output = run_mkfs(program, flags, args, image, size);
    assert_succeeded(&output, &format!("{program} {args}"));
}

/// As [`run`], and it must succeed; its standard output.
pub fn run_ok(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert_succeeded(&output, &format!("{program} {args:?}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program that failed says why.
pub fn assert_succeeded(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An image of `size` bytes made by `mke2fs args`, filled from `from` if given.
pub fn mke2fs(image: &Path, size: u64, args: &str, from: Option<&Path>) {
    let mut flags = vec!["-q", "-F"];
    if let Some(from) = from {
        flags.extend(["-d", text(from)]);
    }
    make_fs("mke2fs", &flags, args, image, size);
}

/// `e2fsck -fn` must find nothing.
pub fn fsck(image: &Path, what: &str) {
    let output = run("e2fsck", &["-fn", text(image)]);
    assert_succeeded(&output, &format!("{what}: e2fsck -fn"));
}

/// Let `e2fsck` improve (index directories, ...): exit codes 0 and 1 are fine.
pub fn fsck_fix(image: &Path, flags: &str) {
    let output = run("e2fsck", &[flags, text(image)]);
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "e2fsck {flags}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
}

/// The variants of ext2, ext3 and ext4 that machines have: a name, what mke2fs is told, MiB.
pub const VARIANTS: &[(&str, &str, u64)] = &[
    ("ext2", "-t ext2 -b 4096", 64),
    ("ext2-1k", "-t ext2 -b 1024 -O ^dir_index", 40),
    ("ext2-old", "-t ext2 -b 1024 -I 128 -O none -r 0", 24),
    ("ext3", "-t ext3 -b 4096", 96),
    ("ext3-1k", "-t ext3 -b 1024 -I 128", 40),
    ("ext4", "-t ext4 -b 4096", 96),
    ("ext4-1k", "-t ext4 -b 1024", 64),
    ("ext4-2k", "-t ext4 -b 2048", 64),
    ("ext4-64k", "-t ext4 -b 65536", 700),
    ("ext4-inline", "-t ext4 -b 4096 -O inline_data", 96),
    (
        "ext4-inline-1k",
        "-t ext4 -b 1024 -I 512 -O inline_data",
        64,
    ),
    (
        "ext4-rhel",
        "-t ext4 -b 4096 -O ^metadata_csum,^64bit,uninit_bg",
        300,
    ),
    (
        "ext4-no-csum",
        "-t ext4 -b 4096 -O ^metadata_csum,^uninit_bg",
        96,
    ),
    ("ext4-32bit", "-t ext4 -b 1024 -O ^64bit", 64),
    (
        "ext4-seed-orphan",
        "-t ext4 -b 4096 -O metadata_csum_seed,orphan_file",
        96,
    ),
    (
        "ext4-meta-bg",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode",
        300,
    ),
    ("ext4-no-flex", "-t ext4 -b 1024 -O ^flex_bg", 64),
    (
        "ext4-sparse2",
        "-t ext4 -b 1024 -O sparse_super2,^resize_inode",
        64,
    ),
    ("ext4-i128", "-t ext4 -b 4096 -I 128", 96),
    ("ext4-largedir", "-t ext4 -b 1024 -O large_dir", 64),
    ("ext4-no-journal", "-t ext4 -b 4096 -O ^has_journal", 64),
    ("ext4-many-inodes", "-t ext4 -b 1024 -i 1024", 64),
    (
        "ext4-no-extents",
        "-t ext4 -b 1024 -O ^extent,^64bit,^flex_bg",
        64,
    ),
    ("ext4-bigalloc", "-t ext4 -b 4096 -C 65536 -O bigalloc", 300),
    ("ext4-quota", "-t ext4 -b 4096 -O quota", 96),
    (
        "ext4-project",
        "-t ext4 -b 4096 -O project,quota -E quotatype=prjquota",
        96,
    ),
    ("ext4-ea-inode", "-t ext4 -b 4096 -O ea_inode", 96),
];

/// Numbers that look random and are the same every time.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A mounted image, unmounted when dropped.
pub struct Mount {
    pub dir: tempfile::TempDir,
}

impl Mount {
    /// Mount `image` with the host's kernel; `None` (a named skip) where that is not possible.
    pub fn new(test: &str, image: &Path, options: &str) -> Option<Self> {
        Self::of_kind(test, "ext4", image, options)
    }

    /// As [`Mount::new`], of a file system of `kind`.
    pub fn of_kind(test: &str, kind: &str, image: &Path, options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("loop,{options}");
        let output = run(
            "mount",
            &["-t", kind, "-o", &options, text(image), text(dir.path())],
        );
        if output.status.success() {
            return Some(Self { dir });
        }
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        skip(
            test,
            &format!("the kernel to mount an image ({})", why.trim()),
        );
        None
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Ask for up to ten seconds; whether it became so.
fn wait_until(is_so: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        let so = is_so();
        if !so {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        so
    })
}

/// Whether another process has `file` open. This one may: a test reads an image while it is mounted.
fn is_open_elsewhere(file: &str) -> bool {
    let users = run("fuser", &[file]).stdout;
    let users = String::from_utf8_lossy(&users);
    let own = std::process::id().to_string();
    users.split_whitespace().any(|user| user != own)
}

impl Drop for Mount {
    fn drop(&mut self) {
        let dir = text(self.dir.path());
        let found = run("findmnt", &["-n", "-r", "-o", "SOURCE,FSTYPE", dir]).stdout;
        let found = String::from_utf8_lossy(&found).trim().to_owned();
        let (source, kind) = found.split_once(' ').unwrap_or_default();
        run("sync", &["-f", dir]);
        // Another program may look at what is mounted just now.
        let gone = wait_until(|| run("umount", &[dir]).status.success());
        // The image is whole when nobody has it open any more: a program in a mount namespace of its own
        // may keep the file system mounted, and a FUSE program writes on after `umount`.
        wait_until(|| match kind.starts_with("fuse") {
            true => !is_open_elsewhere(source),
            false => {
                !source.starts_with("/dev/loop") || !run("losetup", &[source]).status.success()
            }
        });
        assert!(gone || std::thread::panicking(), "umount fails");
    }
}
