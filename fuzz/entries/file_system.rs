//! Any bytes as a file system: read everything, then change some of it.

use block_io::{BlockRead, MemoryDisk, Overlay};
use filesystems::ext::{ExtTree, Recovery};
use filesystems::fat::FatTree;
use filesystems::ntfs::NtfsTree;
use filesystems::path::GuestPath;
use filesystems::probe::FsKind;
use filesystems::resize::{resize, resize_limits};
use filesystems::tree::{Attributes, FileKind, FileTree};
use filesystems::used::used_ranges;
use filesystems::xfs::XfsTree;

/// Directory entries followed, at most.
const MOST_ENTRIES: usize = 2000;

/// The kinds whose used blocks are understood.
const KINDS: [FsKind; 9] = [
    FsKind::Ext4,
    FsKind::Fat12,
    FsKind::Fat16,
    FsKind::Fat32,
    FsKind::Xfs,
    FsKind::Ntfs,
    FsKind::Btrfs,
    FsKind::ExFat,
    FsKind::Swap,
];

/// Feed `data` to all that reads and writes file systems.
pub fn feed(data: &[u8]) {
    let disk = || MemoryDisk::from(data.to_vec());
    let _ = filesystems::probe::probe(&disk());
    if let Ok(tree) = ExtTree::open(disk()) {
        read_all(&tree);
    }
    if let Ok(mut tree) = ExtTree::open_rw(Overlay::new(disk()), Recovery::Replay) {
        write_some(&mut tree);
        read_all(&tree);
    }
    if let Ok(tree) = FatTree::open(disk()) {
        read_all(&tree);
    }
    if let Ok(mut tree) = FatTree::open_rw(Overlay::new(disk()), Recovery::Replay) {
        write_some(&mut tree);
        read_all(&tree);
    }
    if let Ok(tree) = XfsTree::open_ignoring_log(disk()) {
        read_all(&tree);
    }
    if let Ok(tree) = NtfsTree::open_ignoring_log(disk()) {
        let _ = tree.condition();
        read_all(&tree);
    }
    let _ = filesystems::ntfs::system_files(&disk());
    for kind in [
        FsKind::Ntfs,
        FsKind::Ext4,
        FsKind::Fat12,
        FsKind::Fat32,
        FsKind::Swap,
    ] {
        let _ = resize_limits(&disk(), kind);
        let smaller = Overlay::new(disk());
        let _ = resize(&smaller, kind, data.len() as u64 / 2, Recovery::Replay);
        let longer = MemoryDisk::from([data, &vec![0x5A; 1 << 20][..]].concat());
        let _ = resize(&longer, kind, longer.size(), Recovery::Replay);
    }
    for kind in KINDS {
        if let Ok(Some(ranges)) = used_ranges(&disk(), kind) {
            let most = 1_000_000;
            assert!(ranges.take(most).count() < most, "used ranges end");
        }
    }
}

fn read_all(tree: &dyn FileTree) {
    let mut left = vec![GuestPath::root()];
    let mut steps = 0;
    while let Some(dir) = left.pop() {
        for entry in tree.read_dir(&dir).unwrap_or_default() {
            steps += 1;
            if steps > MOST_ENTRIES {
                return;
            }
            let path = dir.join(&entry.name);
            match entry.kind {
                FileKind::Directory => left.push(path.clone()),
                FileKind::Symlink => drop(tree.read_link(&path)),
                FileKind::File => drop(tree.read_file(&path, 1 << 20)),
                FileKind::Special => {}
            }
            let _ = (tree.stat(&path), tree.xattrs(&path));
        }
    }
}

fn write_some(tree: &mut dyn FileTree) {
    let new = Attributes::root_owned(0o644, 1_700_000_000);
    let _ = tree.write_file(&"/new-file".into(), &[7; 10_000], new);
    for entry in tree
        .read_dir(&"/".into())
        .unwrap_or_default()
        .into_iter()
        .take(4)
    {
        let path = GuestPath::root().join(&entry.name);
        let _ = tree.write_at(&path, 5000, &[9; 3000]);
        let _ = tree.truncate(&path, 1000);
        let _ = tree.remove(&path);
    }
    let _ = tree.create_dir(&"/d".into(), new);
    let _ = tree.sync();
}
