//! What the tests of resizing share: images made longer and cut, random changes, how many.

use std::collections::BTreeMap;
use std::path::Path;

use block_io::{BlockWrite, FileDiskMut};
use filesystems::path::GuestPath;
use filesystems::probe::probe;
use filesystems::resize::{ResizeLimits, Resized, resize, resize_limits};
use filesystems::tree::{Attributes, FileTree, Recovery};

use super::Seeded;

/// Bytes of litter that lie behind a file system before it grows.
const LITTER: u64 = 3 << 20;

/// Paths and contents; `None` for a directory.
pub type Files = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// How many steps a random test takes: `P2V_STEPS`, or `usual`.
pub fn steps(usual: u64) -> u64 {
    let asked = std::env::var("P2V_STEPS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// How far the file system in `image` can go.
pub fn limits(image: &Path) -> ResizeLimits {
    let disk = FileDiskMut::open(image).unwrap();
    let kind = probe(&disk).unwrap().unwrap().kind;
    resize_limits(&disk, kind).unwrap_or_else(|e| panic!("{e}"))
}

/// Resize the file system in `image`; the file is made as long as it needs to be, with litter behind the
/// old end, and cut afterwards.
pub fn resized(image: &Path, size: u64) -> Resized {
    let file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len.max(size)).unwrap();
    let disk = FileDiskMut::open(image).unwrap();
    let litter = vec![0xA5; size.saturating_sub(len).min(LITTER) as usize];
    disk.write_at(len.min(size), &litter).unwrap();
    let kind = probe(&disk).unwrap().unwrap().kind;
    let done = resize(&disk, kind, size, Recovery::Refuse).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(probe(&disk).unwrap().unwrap().kind, kind);
    drop(disk);
    file.set_len(size).unwrap();
    done
}

fn one_of(names: &[&Vec<u8>], random: &mut Seeded) -> Option<Vec<u8>> {
    let at = random.below(names.len() as u64) as usize;
    names.get(at).map(|name| (*name).clone())
}

/// Make, change and remove files and directories, while `free` bytes are left.
pub fn write_something(
    tree: &mut dyn FileTree,
    random: &mut Seeded,
    expected: &mut Files,
    free: u64,
) {
    let new = Attributes::root_owned(0o755, 1_700_000_000);
    for _ in 0..random.below(30) {
        let space = tree.space().unwrap();
        let (dirs, files): (Vec<_>, Vec<_>) = expected
            .iter()
            .partition(|(_, contents)| contents.is_none());
        let dirs: Vec<_> = dirs.into_iter().map(|(name, _)| name).collect();
        let files: Vec<_> = files.into_iter().map(|(name, _)| name).collect();
        let below = one_of(&dirs, random).map_or(Vec::new(), |dir| [&dir[..], b"/"].concat());
        let tail = "x".repeat(random.below(90) as usize);
        let own = format!("n {:x}{tail}", random.below(1 << 20));
        let name = [&below[..], own.as_bytes()].concat();
        let path = GuestPath::new([b"/", &name[..]].concat());
        let wanted = random.below(5);
        if wanted == 1 {
            if let Some(gone) = one_of(&files, random) {
                let path = GuestPath::new([b"/", &gone[..]].concat());
                tree.remove(&path).unwrap();
                expected.remove(&gone);
            }
            continue;
        }
        let has_room = space.free > free && space.free_inodes > 4;
        if expected.contains_key(&name) || name.len() > 200 || !has_room {
            continue;
        }
        if wanted == 0 {
            tree.create_dir(&path, new).unwrap();
            expected.insert(name, None);
            continue;
        }
        let len = match random.below(4) {
            0 => random.below(40),
            1 => random.below(3000),
            _ => random.below(free / 3),
        };
        let contents = random.bytes(len as usize);
        tree.write_file(&path, &contents, new).unwrap();
        if random.below(4) == 0 {
            let len = random.below(200) as usize;
            // FAT has none, and an inode may be full.
            let _ = tree.set_xattr(&path, b"user.note", Some(&random.bytes(len)));
        }
        expected.insert(name, Some(contents));
    }
    tree.sync().unwrap();
}
