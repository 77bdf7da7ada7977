//! Every first cluster that a directory names, told its new number.

use block_io::BlockWrite;

use super::damaged;
use super::layout::Change;
use super::table::Table;
use crate::bytes::{array, put, u8_at};
use crate::fat::format::{Cluster, ENTRY_LEN, LAST, LONG_NAME, Link, REMOVED, ShortEntry};
use crate::resize::ResizeError;

/// Change all directories, at their new places. `root` is the root directory of FAT12 and FAT16, to be
/// written by the caller; empty on FAT32.
pub(super) fn tell_all(
    disk: &dyn BlockWrite,
    change: &Change,
    table: &Table,
    root: &mut [u8],
) -> Result<(), ResizeError> {
    let mut seen = vec![false; change.new.clusters as usize + 2];
    let mut left = Vec::new();
    match change.root_cluster()? {
        Some(root) => left.push(root),
        None => {
            tell(root, change, &mut left)?;
        }
    }
    let mut bytes = vec![0; change.new.cluster as usize];
    while let Some(first) = left.pop() {
        let mut next = Some(first);
        let mut ended = false;
        while let Some(at) = next {
            match seen.get_mut(at as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => {
                    return Err(damaged(format!(
                        "directory at cluster {first}: cluster {at}: expected in one directory, found twice; run fsck.vfat"
                    )));
                }
            }
            if !ended {
                let place = change.new.start_of(at);
                disk.read_at(place, &mut bytes)?;
                let told = tell(&mut bytes, change, &mut left)?;
                ended = told.ended;
                if told.changed {
                    disk.write_at(place, &bytes)?;
                }
            }
            next = match change.new.link(table.value(at)) {
                Some(Link::Next(next)) => Some(next),
                Some(Link::End) => None,
                _ => {
                    return Err(damaged(format!(
                        "directory at cluster {first}: entry of cluster {at}: expected the next one or an end, found {}",
                        table.value(at)
                    )));
                }
            };
        }
    }
    Ok(())
}

struct Told {
    changed: bool,
    /// The entry behind the last one was met.
    ended: bool,
}

/// Change the entries in `bytes`; directories below go to `left` by their new numbers.
fn tell(bytes: &mut [u8], change: &Change, left: &mut Vec<Cluster>) -> Result<Told, ResizeError> {
    let mut changed = false;
    let width = change.new.width;
    for raw in bytes.chunks_exact_mut(ENTRY_LEN) {
        let mut entry = ShortEntry { raw: array(raw, 0) };
        match u8_at(raw, 0) {
            LAST => {
                return Ok(Told {
                    changed,
                    ended: true,
                });
            }
            REMOVED => continue,
            _ if entry.attributes() & 0x3F == LONG_NAME => continue,
            _ => {}
        }
        let old = entry.first(width);
        if old == 0 {
            continue;
        }
        let Some(new) = change.number(old) else {
            return Err(damaged(format!(
                "directory entry {:?}: first cluster: expected one in use, found {old}; run fsck.vfat",
                String::from_utf8_lossy(&entry.name())
            )));
        };
        let is_dots = matches!(&entry.name(), b".          " | b"..         ");
        if entry.is_dir() && !is_dots {
            left.push(new);
        }
        if new != old {
            entry.set_first(new, width);
            put(raw, 0, &entry.raw);
            changed = true;
        }
    }
    Ok(Told {
        changed,
        ended: false,
    })
}
