//! Directories: an index of names, a tree whose root is in the record and whose other nodes are blocks.

use std::cmp::Ordering;
use std::collections::HashSet;

use block_io::BlockRead;

use super::file::File;
use super::format::{INDEX_ALLOCATION, INDEX_ROOT, NUMBER, Run, undo_fixups, utf16};
use super::names::UpCase;
use super::volume::{Stream, Volume};
use crate::bytes::{le16, le32, le64, slice, u8_at};
use crate::fault::{Fault, Result};

/// Deepest index that is followed.
const MOST_LEVELS: usize = 20;
/// Entry flags.
const HAS_CHILD: u16 = 1;
const IS_LAST: u16 = 2;

/// One name in a directory, as its index has it.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) name: Vec<u16>,
    pub(crate) record: u64,
    pub(crate) sequence: u16,
    /// 0 POSIX, 1 Win32, 2 DOS, 3 both.
    pub(crate) space: u8,
    /// File attributes when the entry was last written.
    pub(crate) attributes: u32,
}

/// The index of a directory.
struct Index<'a> {
    number: u64,
    root: &'a [u8],
    runs: &'a [Run],
    block: usize,
    /// Bytes of one unit that blocks are counted in.
    unit: u64,
}

impl<'a> Index<'a> {
    /// $INDEX_ROOT: 0 type of the keys, 4 their order, 8 block size, 0x10 the header of a node.
    fn of<D: BlockRead>(volume: &Volume<D>, directory: &'a File) -> Result<Self> {
        let number = directory.number;
        let Some(Stream::Resident(root)) =
            directory.attribute(INDEX_ROOT, "$I30").map(|a| &a.stream)
        else {
            return Err(Fault::Damage(format!("record {number}: no index")));
        };
        let block = le32(root, 8) as usize;
        if !block.is_power_of_two() || !(512..=65_536).contains(&block) {
            return Err(Fault::Damage(format!(
                "record {number}: index blocks of {block} bytes"
            )));
        }
        let runs = match directory
            .attribute(INDEX_ALLOCATION, "$I30")
            .map(|a| &a.stream)
        {
            Some(Stream::Runs { runs, .. }) => runs.as_slice(),
            _ => &[],
        };
        // Blocks are counted in clusters, or in 512 bytes where a cluster is larger than a block.
        let unit = match volume.boot.cluster <= block as u64 {
            true => volume.boot.cluster,
            false => 512,
        };
        Ok(Self {
            number,
            root: root.get(0x10..).unwrap_or_default(),
            runs,
            block,
            unit,
        })
    }

    /// The node in block `vcn`, from its header on.
    fn node<D: BlockRead>(&self, volume: &Volume<D>, vcn: u64) -> Result<Vec<u8>> {
        let number = self.number;
        let mut block = vec![0; self.block];
        let at = vcn.saturating_mul(self.unit);
        volume.read_runs(self.runs, at, &mut block, "an index")?;
        if slice(&block, 0, 4) != b"INDX" || le64(&block, 0x10) != vcn {
            return Err(Fault::Damage(format!(
                "record {number}: index block {vcn}: not one"
            )));
        }
        undo_fixups(&mut block, &format!("record {number}: index block {vcn}"))?;
        Ok(block.split_off(0x18))
    }
}

/// Call `see` with every name of the directory, in its order, until it says false.
pub(crate) fn names<D: BlockRead>(
    volume: &Volume<D>,
    directory: &File,
    see: &mut dyn FnMut(Name) -> bool,
) -> Result<()> {
    walk(volume, directory, &|_| Ordering::Equal, see)
}

/// The names of the directory that are `wanted` but for their case.
pub(crate) fn find<D: BlockRead>(
    volume: &Volume<D>,
    upcase: &UpCase,
    directory: &File,
    wanted: &[u16],
) -> Result<Vec<Name>> {
    let mut found = Vec::new();
    let order = |name: &[u16]| upcase.order(name, wanted);
    walk(volume, directory, &order, &mut |name| {
        found.push(name);
        // A name of 255 units has no more spellings than that in a directory anyone made.
        found.len() < 65_536
    })?;
    Ok(found)
}

/// A node that is being looked through, and where.
struct Place {
    node: Vec<u8>,
    at: usize,
    /// Whether the child before the entry at `at` was looked through.
    descended: bool,
}

/// Call `see` with the names that are in `order` equal to what is sought, following only those branches
/// of the tree that can hold them.
fn walk<D: BlockRead>(
    volume: &Volume<D>,
    directory: &File,
    order: &dyn Fn(&[u16]) -> Ordering,
    see: &mut dyn FnMut(Name) -> bool,
) -> Result<()> {
    let index = Index::of(volume, directory)?;
    let start = |node: Vec<u8>| Place {
        at: le32(&node, 0) as usize,
        node,
        descended: false,
    };
    let mut seen = HashSet::new();
    let mut places = vec![start(index.root.to_vec())];
    while let Some(place) = places.last_mut() {
        let entry = entry(&place.node, place.at, index.number)?;
        let order = match entry.flags & IS_LAST {
            0 => order(&entry.name()),
            _ => Ordering::Greater,
        };
        if order != Ordering::Less && entry.flags & HAS_CHILD != 0 && !place.descended {
            place.descended = true;
            let child = entry.child();
            if !seen.insert(child) || places.len() >= MOST_LEVELS {
                return Err(Fault::Damage(format!(
                    "record {}: index block {child}: met twice, or deeper than {MOST_LEVELS}",
                    index.number
                )));
            }
            places.push(start(index.node(volume, child)?));
            continue;
        }
        if entry.flags & IS_LAST != 0 {
            places.pop();
            continue;
        }
        if order == Ordering::Greater || (order == Ordering::Equal && !see(entry.parse())) {
            return Ok(());
        }
        place.at += entry.bytes.len();
        place.descended = false;
    }
    Ok(())
}

/// An entry of a node. Offsets: 0 record, 8 length, 10 key length, 12 flags, 16 key ($FILE_NAME: 0x38
/// file attributes, 0x40 name length, 0x41 name space, 0x42 name), child in its last 8 bytes.
struct Entry<'a> {
    bytes: &'a [u8],
    flags: u16,
}

fn entry(node: &[u8], at: usize, number: u64) -> Result<Entry<'_>> {
    let end = (le32(node, 4) as usize).min(node.len());
    let len = usize::from(le16(node, at.saturating_add(8)));
    if len < 16 || at.saturating_add(len) > end || at < 16 {
        return Err(Fault::Damage(format!(
            "record {number}: index entry of {len} bytes at {at}, expected to end by {end}"
        )));
    }
    let bytes = slice(node, at, len);
    Ok(Entry {
        bytes,
        flags: le16(bytes, 12),
    })
}

impl Entry<'_> {
    fn name(&self) -> Vec<u16> {
        let len = usize::from(u8_at(self.bytes, 16 + 0x40)) * 2;
        utf16(slice(self.bytes, 16 + 0x42, len))
    }

    fn child(&self) -> u64 {
        le64(self.bytes, self.bytes.len().saturating_sub(8))
    }

    fn parse(&self) -> Name {
        Name {
            name: self.name(),
            record: le64(self.bytes, 0) & NUMBER,
            sequence: le16(self.bytes, 6),
            space: u8_at(self.bytes, 16 + 0x41),
            attributes: le32(self.bytes, 16 + 0x38),
        }
    }
}
