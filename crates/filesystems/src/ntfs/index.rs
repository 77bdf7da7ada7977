//! Looking a name up in a directory: its index is a tree in the order of names without their case.

use super::format::{INDEX_ALLOCATION, INDEX_ROOT, undo_fixups};
use super::volume::{Stream, Volume};
use crate::bytes::{le16, le32, le64, slice, u8_at};
use crate::fault::{Fault, Result};

/// Deepest index that is followed.
const MOST_LEVELS: usize = 20;
/// Entry flags.
const HAS_CHILD: u16 = 1;
const IS_LAST: u16 = 2;

/// The record that `name`, which is ASCII, leads to in the directory with record `directory`.
pub(crate) fn find(volume: &Volume, directory: u64, name: &str) -> Result<Option<u64>> {
    let Some(Stream::Resident(root)) = volume.stream(directory, INDEX_ROOT, "$I30")? else {
        return Err(Fault::Damage(format!("record {directory}: no index")));
    };
    let wanted: Vec<u16> = name
        .bytes()
        .map(|b| b.to_ascii_uppercase().into())
        .collect();
    // $INDEX_ROOT: type, order, block size, and at 0x10 the header of a node.
    let block_size = le32(&root, 8) as usize;
    let mut node = root.get(0x10..).unwrap_or_default().to_vec();
    for _ in 0..MOST_LEVELS {
        let child = match search(&node, &wanted, directory)? {
            Step::Found(record) => return Ok(Some(record)),
            Step::Absent => return Ok(None),
            Step::Child(vcn) => vcn,
        };
        if !block_size.is_power_of_two() || !(512..=65_536).contains(&block_size) {
            return Err(Fault::Damage(format!(
                "record {directory}: index blocks of {block_size} bytes"
            )));
        }
        let Some(Stream::Runs { runs, .. }) = volume.stream(directory, INDEX_ALLOCATION, "$I30")?
        else {
            return Err(Fault::Damage(format!(
                "record {directory}: no index blocks"
            )));
        };
        // Blocks are counted in clusters, or in 512 bytes where a cluster is larger than a block.
        let unit = if volume.boot.cluster <= block_size as u64 {
            volume.boot.cluster
        } else {
            512
        };
        let mut block = vec![0; block_size];
        volume.read_runs(&runs, child.saturating_mul(unit), &mut block, "an index")?;
        if slice(&block, 0, 4) != b"INDX" || le64(&block, 0x10) != child {
            return Err(Fault::Damage(format!(
                "record {directory}: index block {child}: not one"
            )));
        }
        undo_fixups(&mut block, &format!("index block {child}"))?;
        node = block.get(0x18..).unwrap_or_default().to_vec();
    }
    Err(Fault::Damage(format!(
        "record {directory}: index deeper than {MOST_LEVELS}"
    )))
}

enum Step {
    Found(u64),
    Child(u64),
    Absent,
}

/// Look through one node. Header: 0 first entry, 4 bytes in use. Entry: 0 record, 8 length, 10 key
/// length, 12 flags, 16 key ($FILE_NAME: 0x40 name length, 0x42 name), child at its end.
fn search(node: &[u8], wanted: &[u16], directory: u64) -> Result<Step> {
    let mut at = le32(node, 0) as usize;
    let end = (le32(node, 4) as usize).min(node.len());
    loop {
        let len = usize::from(le16(node, at.saturating_add(8)));
        if len < 16 || at.saturating_add(len) > end {
            return Err(Fault::Damage(format!(
                "record {directory}: index entry at {at}"
            )));
        }
        let entry = slice(node, at, len);
        let flags = le16(entry, 12);
        let order = match flags & IS_LAST {
            0 => {
                let name = slice(entry, 16 + 0x42, usize::from(u8_at(entry, 16 + 0x40)) * 2);
                let units = name.chunks_exact(2).map(|c| le16(c, 0)).map(upper);
                wanted.iter().copied().cmp(units)
            }
            _ => std::cmp::Ordering::Less,
        };
        match order {
            std::cmp::Ordering::Equal => return Ok(Step::Found(le64(entry, 0) & 0xFFFF_FFFF_FFFF)),
            std::cmp::Ordering::Less if flags & HAS_CHILD != 0 => {
                return Ok(Step::Child(le64(entry, len - 8)));
            }
            std::cmp::Ordering::Less => return Ok(Step::Absent),
            std::cmp::Ordering::Greater => at += len,
        }
    }
}

/// Only ASCII is looked for; all else is greater whatever its case.
fn upper(unit: u16) -> u16 {
    match unit {
        0x61..=0x7A => unit - 0x20,
        _ => unit,
    }
}
