//! The table of a FAT file system in memory.

use block_io::{BlockRead, BlockWrite, ExtentKind};

use super::damaged;
use super::layout::Change;
use crate::bytes::{array, le16, put, put_le16, put_le32};
use crate::fat::format::{Cluster, Geometry, Link, Width};
use crate::resize::{ResizeError, ResizeErrorKind};

/// Entries read or written at a time: an even number, for entries of 12 bits.
const ENTRIES: u64 = 1 << 18;
/// Most entries held (512 MB): 2 TiB have them with clusters of 16 KiB.
const MOST: u64 = 1 << 27;

/// All entries, with the bits of FAT32 that are reserved.
pub(super) struct Table {
    entries: Vec<u32>,
    width: Width,
}

fn bytes_of(width: Width, entries: u64) -> u64 {
    match width {
        Width::Fat12 => (entries * 3).div_ceil(2),
        Width::Fat16 => entries * 2,
        Width::Fat32 => entries * 4,
    }
}

impl Table {
    pub(super) fn read<D: BlockRead>(disk: &D, geometry: &Geometry) -> Result<Self, ResizeError> {
        let count = geometry.clusters + 2;
        if count > MOST {
            return Err(ResizeError::new(
                ResizeErrorKind::Unsupported,
                format!(
                    "a FAT of {count} entries: at most {MOST} are held in memory; use larger clusters"
                ),
            ));
        }
        let width = geometry.width;
        let mut entries = Vec::with_capacity(count as usize);
        let mut raw = vec![0; bytes_of(width, ENTRIES) as usize];
        while (entries.len() as u64) < count {
            let first = entries.len() as u64;
            let some = (count - first).min(ENTRIES);
            let part = raw.get_mut(..bytes_of(width, some) as usize);
            let part = part.unwrap_or_default();
            disk.read_at(geometry.fat_start + bytes_of(width, first), part)?;
            entries.extend((0..some as usize).map(|n| decode(width, part, n)));
        }
        Ok(Self { entries, width })
    }

    /// The entry without reserved bits.
    pub(super) fn value(&self, cluster: Cluster) -> u32 {
        let entry = self.entries.get(cluster as usize).copied().unwrap_or(0);
        entry & 0x0FFF_FFFF
    }

    pub(super) fn is_used(&self, cluster: Cluster) -> bool {
        self.value(cluster) != 0
    }

    fn clusters(&self) -> impl Iterator<Item = Cluster> + '_ {
        2..self.entries.len() as Cluster
    }

    /// How many clusters are in use.
    pub(super) fn used(&self) -> u64 {
        self.clusters().filter(|n| self.is_used(*n)).count() as u64
    }

    pub(super) fn first_free(&self) -> Option<Cluster> {
        self.clusters().find(|n| !self.is_used(*n))
    }

    /// The table after `change`: entries at their new numbers, naming new numbers.
    pub(super) fn changed(&self, change: &Change) -> Result<Self, ResizeError> {
        let mut entries = vec![0; change.new.clusters as usize + 2];
        for (new, old) in entries.iter_mut().zip(&self.entries).take(2) {
            *new = *old;
        }
        for cluster in self.clusters().filter(|n| self.is_used(*n)) {
            let raw = self.entries.get(cluster as usize).copied().unwrap_or(0);
            let value = match change.old.link(self.value(cluster)) {
                Some(Link::Next(next)) if self.is_used(next) => change.number(next),
                Some(Link::End) => Some(self.value(cluster)),
                _ => None,
            };
            let (Some(value), Some(at)) = (value, change.number(cluster)) else {
                return Err(damaged(format!(
                    "FAT entry of cluster {cluster}: expected a cluster in use or an end, found {}; run fsck.vfat",
                    self.value(cluster)
                )));
            };
            if let Some(entry) = entries.get_mut(at as usize) {
                *entry = value | raw & 0xF000_0000;
            }
        }
        Ok(Self {
            entries,
            width: self.width,
        })
    }

    /// Write one copy of the table at `at`, and zeroes up to its end.
    pub(super) fn write<D: BlockWrite>(
        &self,
        disk: &D,
        geometry: &Geometry,
        at: u64,
    ) -> Result<(), ResizeError> {
        let piece = bytes_of(self.width, ENTRIES) as usize;
        let mut parts = self.entries.chunks(ENTRIES as usize);
        let mut done = 0;
        while done < geometry.fat_len {
            let len = (geometry.fat_len - done).min(piece as u64);
            let mut raw = vec![0; len as usize];
            for (n, entry) in parts.next().unwrap_or_default().iter().enumerate() {
                encode(self.width, &mut raw, n, *entry);
            }
            if raw.iter().any(|byte| *byte != 0) || !is_zero(disk, at + done, len)? {
                disk.write_at(at + done, &raw)?;
            }
            done += len;
        }
        Ok(())
    }
}

/// Whether the disk promises zeroes there, at once.
fn is_zero<D: BlockRead>(disk: &D, at: u64, len: u64) -> Result<bool, ResizeError> {
    let extent = disk.extent_at(at)?;
    Ok(extent.kind == ExtentKind::Zero && extent.start.saturating_add(extent.len) >= at + len)
}

/// Entry `n` of a part of a table that begins with an even entry.
fn decode(width: Width, raw: &[u8], n: usize) -> u32 {
    match width {
        Width::Fat12 => {
            let both = u32::from(le16(raw, n * 3 / 2));
            if n % 2 == 1 { both >> 4 } else { both & 0xFFF }
        }
        Width::Fat16 => le16(raw, n * 2).into(),
        Width::Fat32 => u32::from_le_bytes(array(raw, n * 4)),
    }
}

fn encode(width: Width, raw: &mut [u8], n: usize, entry: u32) {
    match width {
        Width::Fat12 => {
            let at = n * 3 / 2;
            let [low, high] = array::<2>(raw, at);
            let entry = entry & 0xFFF;
            let bytes = match n % 2 {
                1 => [low | (entry << 4) as u8, (entry >> 4) as u8],
                _ => [entry as u8, high | (entry >> 8) as u8],
            };
            put(raw, at, &bytes);
        }
        Width::Fat16 => put_le16(raw, n * 2, entry as u16),
        Width::Fat32 => put_le32(raw, n * 4, entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_width_read_back() {
        for (width, most) in [
            (Width::Fat12, 0xFFF_u32),
            (Width::Fat16, 0xFFFF),
            (Width::Fat32, u32::MAX),
        ] {
            let values: Vec<u32> = (0..10).map(|n: u32| most - n * 0x111).collect();
            let mut raw = vec![0; bytes_of(width, 10) as usize];
            for (n, value) in values.iter().enumerate() {
                encode(width, &mut raw, n, *value);
            }
            let back: Vec<u32> = (0..10).map(|n| decode(width, &raw, n)).collect();
            assert_eq!(back, values);
        }
    }
}
