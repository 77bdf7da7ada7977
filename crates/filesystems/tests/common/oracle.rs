//! Foreign truth about which bytes are used, copies made of nothing but those, and trees to fill file
//! systems with.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use block_io::{BlockRead, BlockWrite, FileDisk};
use filesystems::path::GuestPath;
use filesystems::probe::probe;
use filesystems::tree::{FileKind, FileTree};
use filesystems::used::{Findings, used_ranges_noting};

use super::{Seeded, run_ok, text};

/// Our used ranges, held against the contract: in order, joined, inside the disk.
pub fn used(disk: &dyn BlockRead, findings: &Findings) -> Vec<Range<u64>> {
    let kind = probe(disk).unwrap().unwrap().kind;
    let Some(ranges) = used_ranges_noting(disk, kind, findings).unwrap() else {
        return vec![0..disk.size()];
    };
    let ranges: Vec<_> = ranges.map(|r| r.unwrap()).collect();
    for pair in ranges.windows(2) {
        assert!(
            pair[0].end < pair[1].start,
            "not joined or not in order: {pair:?}"
        );
    }
    assert!(ranges.last().is_none_or(|last| last.end <= disk.size()));
    ranges
}

/// The ranges partclone would copy: its domain log lists them.
pub fn partclone_used(fs: &str, image: &Path) -> Vec<Range<u64>> {
    let dir = tempfile::tempdir().unwrap();
    let (log, own) = (dir.path().join("domain"), dir.path().join("log"));
    let program = format!("partclone.{fs}");
    let args = [
        "-D",
        "--offset_domain=0",
        "-F",
        "-s",
        text(image),
        "-o",
        text(&log),
        "-L",
        text(&own),
    ];
    run_ok(&program, &args);
    let number = |field: &str| u64::from_str_radix(field.trim_start_matches("0x"), 16).unwrap();
    let mut used = Vec::new();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [start, len, "+"] = fields[..] {
            used.push(number(start)..number(start) + number(len));
        }
    }
    joined(used)
}

/// Whether our map of the volume in `image`, called `name`, believes it: then nothing that partclone
/// would copy may be missing. Otherwise everything must count as used.
pub fn believed_as_by_partclone(fs: &str, name: &str, image: &Path) -> bool {
    let disk = FileDisk::open(image).unwrap();
    let findings = Findings::default();
    let ours = used(&disk, &findings);
    let found = findings.list();
    println!("{name}: {} of {}, {found:?}", sum(&ours), disk.size());
    if !found.is_empty() {
        assert_eq!(ours.len(), 1, "{name}");
        assert_eq!(ours[0], 0..disk.size(), "{name}");
        return false;
    }
    assert_eq!(missing(&partclone_used(fs, image), &ours), [], "{name}");
    true
}

/// Sorted, without empty ones, neighbours joined.
pub fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// What of `truth` is not in `ours`: both sorted and joined.
pub fn missing(truth: &[Range<u64>], ours: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut missing = Vec::new();
    for range in truth {
        let mut at = range.start;
        let first = ours.partition_point(|r| r.end <= range.start);
        for our in ours.iter().skip(first).take_while(|r| r.start < range.end) {
            if at < our.start {
                missing.push(at..our.start);
            }
            at = at.max(our.end);
        }
        if at < range.end {
            missing.push(at..range.end);
        }
    }
    missing
}

pub fn sum(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|r| r.end - r.start).sum()
}

/// Copy `ranges` of `image`; all else becomes zeroes.
pub fn copy_ranges(image: &Path, ranges: &[Range<u64>], to: &Path) {
    let from = std::fs::File::open(image).unwrap();
    let out = std::fs::File::create(to).unwrap();
    out.set_len(from.metadata().unwrap().len()).unwrap();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let mut bytes = vec![0; (range.end - at).min(1 << 20) as usize];
            from.read_exact_at(&mut bytes, at).unwrap();
            if bytes.iter().any(|b| *b != 0) {
                out.write_all_at(&bytes, at).unwrap();
            }
            at += bytes.len() as u64;
        }
    }
}

/// Fill all bytes our map calls free with litter: what anyone needs must survive it.
pub fn litter_free_space(image: &Path) {
    let disk = FileDisk::open(image).unwrap();
    let ranges = used(&disk, &Findings::default());
    let out = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    let mut at = 0;
    for range in ranges.iter().cloned().chain([disk.size()..disk.size()]) {
        while at < range.start {
            let len = (range.start - at).min(1 << 20) as usize;
            out.write_all_at(&vec![0xA5; len], at).unwrap();
            at += len as u64;
        }
        at = at.max(range.end);
    }
}

/// Files, directories and links of many sizes and names; `n` decides how many.
pub fn make_tree(root: &Path, n: u64, links: bool) {
    let mut random = Seeded(n);
    let dirs = [
        "etc",
        "EFI/BOOT",
        "usr/lib/Some Long Directory Name",
        "grün/ß",
        "many",
    ];
    for dir in dirs {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    for k in 0..n {
        let dir = dirs[(k % 4) as usize];
        let len = match k % 5 {
            0 => 0,
            1 => random.below(100),
            2 => random.below(5000),
            3 => random.below(70_000),
            _ => random.below(400_000),
        };
        let name = match k % 3 {
            0 => format!("FILE{k}.BIN"),
            1 => format!("a file with a longer name {k}.text"),
            _ => format!("n{k}"),
        };
        std::fs::write(root.join(dir).join(name), random.bytes(len as usize)).unwrap();
    }
    for k in 0..n * 6 {
        std::fs::write(root.join(format!("many/entry number {k}")), [k as u8]).unwrap();
    }
    if links {
        std::os::unix::fs::symlink("../etc", root.join("etc/link")).unwrap();
        let long = "x/".repeat(400);
        std::os::unix::fs::symlink(long, root.join("etc/long-link")).unwrap();
        let holey = std::fs::File::create(root.join("usr/lib/holey")).unwrap();
        holey.set_len(9 << 20).unwrap();
        holey.write_all_at(b"in the middle", 5 << 20).unwrap();
    }
}

/// Everything below a directory of the host: path, and contents (`None` for a directory; a link's
/// target behind an arrow).
pub fn host_tree(root: &Path) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    use std::os::unix::ffi::OsStrExt;
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec();
            let kind = entry.file_type().unwrap();
            let contents = if kind.is_dir() {
                left.push(path);
                None
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                Some([b"-> ", target.as_os_str().as_bytes()].concat())
            } else if kind.is_file() {
                Some(std::fs::read(&path).unwrap())
            } else {
                Some(b"special".to_vec())
            };
            found.insert(name, contents);
        }
    }
    found
}

/// The same of one of our trees.
pub fn our_tree(tree: &dyn FileTree) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = vec![GuestPath::root()];
    while let Some(dir) = left.pop() {
        for entry in tree.read_dir(&dir).unwrap() {
            let path = dir.join(&entry.name);
            let stat = tree.stat(&path).unwrap();
            assert_eq!(stat.kind, entry.kind, "{path}");
            assert_eq!(stat.inode, entry.inode, "{path}");
            let contents = match entry.kind {
                FileKind::Directory => {
                    left.push(path.clone());
                    None
                }
                FileKind::Symlink => Some([b"-> ", &tree.read_link(&path).unwrap()[..]].concat()),
                FileKind::File => {
                    let contents = tree.read_file(&path, 1 << 30).unwrap();
                    assert_eq!(contents.len() as u64, stat.size, "{path}");
                    Some(contents)
                }
                FileKind::Special => Some(b"special".to_vec()),
            };
            found.insert(path.as_bytes()[1..].to_vec(), contents);
        }
    }
    found
}

/// Compare two trees without printing their contents.
pub fn assert_same(
    ours: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    theirs: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    what: &str,
) {
    let names = |tree: &BTreeMap<Vec<u8>, Option<Vec<u8>>>| -> Vec<String> {
        tree.keys()
            .map(|k| String::from_utf8_lossy(k).into_owned())
            .collect()
    };
    let (a, b) = (names(ours), names(theirs));
    if a != b {
        let only: Vec<_> = a.iter().filter(|n| !b.contains(n)).take(5).collect();
        let lacks: Vec<_> = b.iter().filter(|n| !a.contains(n)).take(5).collect();
        panic!("{what}: only ours {only:?}, only theirs {lacks:?}");
    }
    for (name, contents) in ours {
        assert!(
            Some(contents) == theirs.get(name),
            "{what}: {} differs: {:?} and {:?} bytes",
            String::from_utf8_lossy(name),
            contents.as_ref().map(Vec::len),
            theirs.get(name).and_then(|c| c.as_ref().map(Vec::len))
        );
    }
}

/// Change the byte at `at` into one of those that hurt.
pub fn mutate(disk: &dyn BlockWrite, at: u64, random: &mut Seeded) {
    let mut byte = [0];
    disk.read_at(at, &mut byte).unwrap();
    byte[0] = match random.below(4) {
        0 => 0,
        1 => 0xFF,
        2 => byte[0] ^ (1 << random.below(8)),
        _ => random.next() as u8,
    };
    disk.write_at(at, &byte).unwrap();
}

/// Look at everything a damaged file system offers, within bounds. Nothing may panic or hang.
pub fn exercise(tree: &dyn FileTree) {
    let mut left = vec![(GuestPath::root(), 0)];
    let mut steps = 0;
    let _ = tree.space();
    while let Some((dir, depth)) = left.pop() {
        steps += 1;
        if steps > 40 || depth > 6 {
            break;
        }
        let Ok(entries) = tree.read_dir(&dir) else {
            continue;
        };
        for entry in entries.into_iter().take(12) {
            let path = dir.join(&entry.name);
            let _ = tree.stat(&path);
            let _ = tree.xattrs(&path);
            let _ = tree.read_link(&path);
            let mut buf = vec![0; 9000];
            for offset in [0, 1, 65_536, u64::from(u32::MAX), 1 << 40, u64::MAX - 5] {
                let _ = tree.read_at(&path, offset, &mut buf);
            }
            let _ = tree.read_file(&path, 1 << 20);
            if entry.kind == FileKind::Directory {
                left.push((path, depth + 1));
            }
        }
    }
}
