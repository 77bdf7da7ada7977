//! Used blocks of btrfs: the extents of the extent tree, chunk by chunk in the order of the device.
//!
//! Whatever was committed is in the extent tree, also when the system stopped without unmounting. What
//! `fsync` made durable since then is in log trees, which are walked too.

use std::collections::VecDeque;
use std::ops::Range;

use block_io::{BlockRead, Result};

use super::format::{
    BLOCK_GROUP_ITEM, BLOCK_GROUP_TREE, EXTENT_DATA, EXTENT_ITEM, EXTENT_TREE, Key, METADATA_ITEM,
    RESERVED, ROOT_ITEM, Root, SUPERBLOCK_LEN, SUPERBLOCKS, TREE_LOG, root_item,
};
use super::volume::{Visitor, Volume};
use crate::bytes::{le64, u8_at};
use crate::fault::Fault;
use crate::used::{Batched, Findings, Joined, UsedRanges, all_noting};

/// Most extents of one chunk that are kept (16 bytes each); with more it counts as used.
const MOST_EXTENTS: usize = 4 << 20;
/// Most pieces of log trees; with more everything counts as used.
const MOST_LOGGED: usize = 1 << 20;

/// The used ranges of the file system on `disk`, in bytes.
pub(crate) fn used_ranges<'a>(
    disk: &'a dyn BlockRead,
    findings: &Findings,
) -> Result<UsedRanges<'a>> {
    let mut chunks = match Chunks::open(disk, findings) {
        Ok(chunks) => chunks,
        Err(Fault::Disk(error)) => return Err(error),
        Err(Fault::Damage(why)) => {
            return Ok(all_noting(disk, format!("btrfs: {why}"), findings));
        }
    };
    let mut next = 0;
    let batches = Batched::new(move |ready: &mut VecDeque<Range<u64>>| {
        if next < chunks.pieces.len() {
            chunks.add(next, ready)?;
            next += 1;
        }
        Ok(next < chunks.pieces.len())
    });
    Ok(Box::new(Joined::new(batches)))
}

/// A run of the device: a copy of a chunk, or bytes that are used whatever the trees say.
struct Piece {
    bytes: Range<u64>,
    /// The chunk's logical address.
    logical: Option<u64>,
}

struct Chunks<'a> {
    volume: Volume<'a>,
    extents: Root,
    groups: Root,
    /// In the order of the device.
    pieces: Vec<Piece>,
    /// Used in chunks besides what the extent tree says, in bytes of the device, sorted: what log trees
    /// hold, and superblocks.
    besides: Vec<Range<u64>>,
    findings: Findings,
}

impl<'a> Chunks<'a> {
    fn open(disk: &'a dyn BlockRead, findings: &Findings) -> Result<Self, Fault> {
        let volume = Volume::open(disk)?;
        let extents = volume.tree(EXTENT_TREE)?;
        let groups = match volume.sb.has_block_group_tree {
            true => volume.tree(BLOCK_GROUP_TREE)?,
            false => extents,
        };
        let mut pieces = vec![Piece {
            bytes: 0..RESERVED,
            logical: None,
        }];
        for chunk in volume.chunks.values() {
            pieces.extend(chunk.places.iter().map(|at| Piece {
                bytes: *at..*at + chunk.len,
                logical: Some(chunk.logical),
            }));
        }
        let tail = volume.sb.device_bytes..disk.size();
        pieces.push(Piece {
            bytes: tail,
            logical: None,
        });
        pieces.retain(|piece| !piece.bytes.is_empty());
        pieces.sort_by_key(|piece| piece.bytes.start);
        let mut end = 0;
        for piece in &pieces {
            // mkfs before 4.0 put its first chunk at the start of the device.
            if piece.bytes.start < end && piece.bytes.start >= RESERVED {
                return Err(Fault::Damage(format!(
                    "chunks overlap on the device at {:#x}",
                    piece.bytes.start
                )));
            }
            end = end.max(piece.bytes.end);
        }
        let mut besides = logged(&volume)?;
        besides.extend(SUPERBLOCKS.map(|at| at..at + SUPERBLOCK_LEN));
        besides.retain(|range| range.end <= disk.size());
        besides.sort_by_key(|range| range.start);
        let findings = findings.clone();
        Ok(Self {
            volume,
            extents,
            groups,
            pieces,
            besides,
            findings,
        })
    }

    /// Add the used ranges of piece number `index`, and what lies beside chunks before the next one.
    fn add(&mut self, index: usize, ready: &mut VecDeque<Range<u64>>) -> Result<()> {
        let Some(piece) = self.pieces.get(index) else {
            return Ok(());
        };
        let bytes = piece.bytes.clone();
        let mut ranges = match piece.logical {
            None => vec![bytes.clone()],
            Some(logical) => match self.of_chunk(logical, bytes.end - bytes.start) {
                Ok(ranges) => ranges
                    .into_iter()
                    .map(|r| bytes.start + (r.start - logical)..bytes.start + (r.end - logical))
                    .collect(),
                Err(Fault::Disk(error)) => return Err(error),
                Err(Fault::Damage(why)) => {
                    self.findings.note(format!(
                        "btrfs: chunk at {logical:#x}: {why}; it counts as used"
                    ));
                    vec![bytes.clone()]
                }
            },
        };
        let end = self
            .pieces
            .get(index + 1)
            .map_or(u64::MAX, |next| next.bytes.start);
        let from = self.besides.partition_point(|r| r.start < bytes.start);
        let besides = self.besides.iter().skip(from).take_while(|r| r.start < end);
        ranges.extend(besides.cloned());
        ranges.sort_unstable_by_key(|range| range.start);
        ready.extend(ranges);
        Ok(())
    }

    /// The extents of a chunk as logical addresses, in order, held against what its block group says is
    /// used.
    fn of_chunk(&self, logical: u64, len: u64) -> Result<Vec<Range<u64>>, Fault> {
        let end = logical + len;
        let keys = Key {
            object: logical,
            ..Key::MIN
        }..Key {
            object: end,
            ..Key::MIN
        };
        let mut found = Vec::new();
        let mut sum = 0;
        let mut group = None;
        let node = self.volume.sb.node;
        self.volume.walk(self.extents, keys.clone(), &mut |key: Key, data: &[u8]| {
            let len = match key.kind {
                EXTENT_ITEM => key.offset,
                METADATA_ITEM => node,
                BLOCK_GROUP_ITEM => {
                    group = (key.object == logical).then(|| le64(data, 0));
                    return Ok(());
                }
                _ => return Ok(()),
            };
            let after = found.last().map_or(logical, |last: &Range<u64>| last.end);
            let stop = key.object.checked_add(len).filter(|stop| *stop <= end);
            let (Some(stop), true) = (stop, key.object >= after) else {
                return Err(Fault::Damage(format!(
                    "extent: expected between {after:#x} and {end:#x}, found {len:#x} bytes at {:#x}",
                    key.object
                )));
            };
            sum += len;
            if found.len() >= MOST_EXTENTS {
                return Err(Fault::Damage(format!("more than {MOST_EXTENTS} extents")));
            }
            match found.last_mut() {
                Some(last) if last.end == key.object => last.end = stop,
                _ => found.push(key.object..stop),
            }
            Ok(())
        })?;
        if self.volume.sb.has_block_group_tree {
            self.volume
                .walk(self.groups, keys, &mut |key: Key, data: &[u8]| {
                    if key.object == logical && key.kind == BLOCK_GROUP_ITEM {
                        group = Some(le64(data, 0));
                    }
                    Ok(())
                })?;
        }
        match group {
            Some(expected) if expected == sum => Ok(found),
            Some(expected) => Err(Fault::Damage(format!(
                "used: expected {expected:#x} bytes, found {sum:#x}"
            ))),
            None => Err(Fault::Damage("it has no block group".to_owned())),
        }
    }
}

/// Where the nodes of log trees lie, and the extents of the files in them: they were allocated after
/// the extent tree was written.
fn logged(volume: &Volume) -> Result<Vec<Range<u64>>, Fault> {
    let Some(root) = volume.sb.log_root else {
        return Ok(Vec::new());
    };
    let mut log = Logged {
        volume,
        ranges: Vec::new(),
        trees: Vec::new(),
    };
    volume.walk(root, Key::MIN..Key::MAX, &mut log)?;
    for tree in std::mem::take(&mut log.trees) {
        volume.walk(tree, Key::MIN..Key::MAX, &mut log)?;
    }
    Ok(log.ranges)
}

struct Logged<'v, 'a> {
    volume: &'v Volume<'a>,
    ranges: Vec<Range<u64>>,
    trees: Vec<Root>,
}

impl Logged<'_, '_> {
    fn add(&mut self, logical: u64, len: u64) -> Result<(), Fault> {
        self.ranges.extend(self.volume.places(logical, len)?);
        if self.ranges.len() > MOST_LOGGED {
            return Err(Fault::Damage(format!(
                "log trees of more than {MOST_LOGGED} pieces"
            )));
        }
        Ok(())
    }
}

impl Visitor for Logged<'_, '_> {
    fn node(&mut self, at: u64) -> Result<(), Fault> {
        self.add(at, self.volume.sb.node)
    }

    fn item(&mut self, key: Key, data: &[u8]) -> Result<(), Fault> {
        match key.kind {
            ROOT_ITEM if key.object == TREE_LOG => self.trees.push(root_item(data)),
            // File extent: 20 type (0 is inline), 21 place on the disk (0 is a hole), 29 its length.
            EXTENT_DATA if u8_at(data, 20) != 0 && le64(data, 21) != 0 => {
                self.add(le64(data, 21), le64(data, 29))?;
            }
            _ => {}
        }
        Ok(())
    }
}
