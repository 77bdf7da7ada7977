//! Where everything lies in another size, and which cluster goes where. No I/O.

use std::ops::Range;

use super::damaged;
use super::table::Table;
use crate::fat::format::{Cluster, Geometry, Width};
use crate::resize::{ResizeError, ResizeErrorKind};

/// Most and fewest clusters of each type: others would take the volume for another type.
/// // fatgen103 "FAT Type Determination"; Linux fs/fat MAX_FAT12, MAX_FAT16
const MOST_12: u64 = 4084;
const MOST_16: u64 = 65_524;
const MOST_32: u64 = 0x0FFF_FFF5;
/// Sectors are counted with 32 bits.
const MOST_SECTORS: u64 = u32::MAX as u64;

fn most_clusters(width: Width) -> (u64, &'static str) {
    match width {
        Width::Fat12 => (MOST_12, "FAT12 has at most 4084 clusters"),
        Width::Fat16 => (MOST_16, "FAT16 has at most 65524 clusters"),
        Width::Fat32 => (MOST_32, "FAT32 has at most 268435445 clusters"),
    }
}

fn fewest_clusters(geometry: &Geometry) -> u64 {
    match geometry.width {
        Width::Fat12 => 1,
        Width::Fat16 => MOST_12 + 1,
        // One with fewer was made for systems that look at the fields alone.
        Width::Fat32 if geometry.clusters <= MOST_16 => 1,
        Width::Fat32 => MOST_16 + 1,
    }
}

/// Bytes of a table of so many clusters, in whole sectors.
fn table_len(geometry: &Geometry, clusters: u64) -> u64 {
    let entries = clusters + 2;
    let bytes = match geometry.width {
        Width::Fat12 => (entries * 3).div_ceil(2),
        Width::Fat16 => entries * 2,
        Width::Fat32 => entries * 4,
    };
    bytes.next_multiple_of(geometry.sector)
}

/// The largest size in bytes, and what sets it.
pub(super) fn largest(geometry: &Geometry) -> (u64, &'static str) {
    let (most, why) = most_clusters(geometry.width);
    let grown = grown_table(geometry, most);
    let start = geometry.data_start + (grown - geometry.fat_len) * geometry.fats;
    let by_clusters = start + most * geometry.cluster;
    let by_sectors = MOST_SECTORS * geometry.sector;
    match by_sectors < by_clusters {
        true => (by_sectors, "FAT counts its sectors with 32 bits"),
        false => (by_clusters, why),
    }
}

/// The smallest size in bytes for so many used clusters.
pub(super) fn smallest(geometry: &Geometry, used: u64) -> u64 {
    let clusters = used.max(fewest_clusters(geometry)).max(1);
    geometry.data_start + clusters * geometry.cluster
}

/// The length of a table that holds `clusters`: what it has is kept, and what is added pushes the data by
/// whole clusters.
fn grown_table(geometry: &Geometry, clusters: u64) -> u64 {
    let needed = table_len(geometry, clusters);
    let mut more = needed.saturating_sub(geometry.fat_len);
    // Sectors of a cluster are a power of two: this ends.
    while !(more * geometry.fats).is_multiple_of(geometry.cluster) {
        more += geometry.sector;
    }
    geometry.fat_len + more
}

/// Sizes of a new layout.
pub(super) struct Layout {
    pub(super) sectors: u64,
    pub(super) clusters: u64,
    pub(super) fat_len: u64,
}

impl Layout {
    /// The layout of at most `sectors` sectors. A little less is taken where a longer table would push
    /// aside more clusters than find room.
    pub(super) fn of(old: &Geometry, sectors: u64, table: &Table) -> Self {
        let (most, _) = most_clusters(old.width);
        let size = sectors * old.sector;
        let fit = |start: u64| (size.saturating_sub(start) / old.cluster).min(most);
        let wanted = fit(old.data_start);
        let fat_len = grown_table(old, wanted);
        let pushed = (fat_len - old.fat_len) * old.fats;
        let clusters = fit(old.data_start + pushed);
        if pushed == 0 || clusters >= table.used() && clusters > old.clusters {
            return Self::ending(old, sectors, old.data_start + pushed, clusters, fat_len);
        }
        let held = match old.width {
            Width::Fat12 => old.fat_len * 2 / 3,
            Width::Fat16 => old.fat_len / 2,
            Width::Fat32 => old.fat_len / 4,
        };
        let clusters = wanted.min(held.saturating_sub(2));
        Self::ending(old, sectors, old.data_start, clusters, old.fat_len)
    }

    fn ending(old: &Geometry, sectors: u64, start: u64, clusters: u64, fat_len: u64) -> Self {
        // A rest that is no whole cluster may stay, more would be counted as clusters.
        let end = (start + (clusters + 1) * old.cluster) / old.sector - 1;
        Self {
            sectors: sectors.min(end),
            clusters,
            fat_len,
        }
    }
}

/// Which cluster goes where.
pub(super) struct Change {
    pub(super) old: Geometry,
    pub(super) new: Geometry,
    /// Clusters the data was pushed back by: all numbers are lower by it.
    shift: u32,
    /// Old and new numbers of the clusters that were carried, by the old ones.
    pub(super) moved: Vec<(Cluster, Cluster)>,
}

impl Change {
    pub(super) fn plan(
        old: &Geometry,
        new: Geometry,
        layout: &Layout,
        table: &Table,
    ) -> Result<Self, ResizeError> {
        let shift = (new.data_start - old.data_start.min(new.data_start)) / old.cluster;
        let (end, old_end) = (new.clusters + 2, old.clusters + 2);
        let in_the_way = (2..(2 + shift).min(old_end)).chain((end + shift).min(old_end)..old_end);
        let leaving = in_the_way.filter(|n| table.is_used(*n as Cluster));
        // What was added first: there the carried clusters follow each other.
        let added = old_end.saturating_sub(shift).max(2).min(end);
        let free = (added..end).chain(2..added);
        let mut free =
            free.filter(|n| n + shift >= old_end || !table.is_used((n + shift) as Cluster));
        let mut moved = Vec::new();
        for from in leaving {
            let Some(to) = free.next() else {
                let smallest = smallest(old, table.used());
                return Err(ResizeError::new(
                    ResizeErrorKind::TooSmall { smallest },
                    format!(
                        "expected room for {} clusters in use, found {}",
                        table.used(),
                        layout.clusters
                    ),
                ));
            };
            moved.push((from as Cluster, to as Cluster));
        }
        Ok(Self {
            old: old.clone(),
            new,
            shift: shift as u32,
            moved,
        })
    }

    /// The new number of a cluster that was in use; `None` for one that is gone.
    pub(super) fn number(&self, old: Cluster) -> Option<Cluster> {
        if !self.old.has(old) {
            return None;
        }
        if let Ok(at) = self.moved.binary_search_by_key(&old, |(from, _)| *from) {
            return self.moved.get(at).map(|(_, to)| *to);
        }
        let new = old.checked_sub(self.shift)?;
        self.new.has(new).then_some(new)
    }

    /// Where the root directory of FAT32 begins now.
    pub(super) fn root_cluster(&self) -> Result<Option<Cluster>, ResizeError> {
        let Some(root) = self.old.root_cluster else {
            return Ok(None);
        };
        match self.number(root) {
            Some(root) => Ok(Some(root)),
            None => Err(damaged(format!(
                "BPB_RootClus at byte 44: expected a cluster in use, found {root}; run fsck.vfat"
            ))),
        }
    }

    /// The carried clusters, joined where they follow each other in both places.
    pub(super) fn runs(&self) -> Vec<(Range<Cluster>, Cluster)> {
        let mut runs: Vec<(Range<Cluster>, Cluster)> = Vec::new();
        for (from, to) in &self.moved {
            match runs.last_mut() {
                Some((run, start)) if run.end == *from && *start + (run.end - run.start) == *to => {
                    run.end += 1;
                }
                _ => runs.push((*from..*from + 1, *to)),
            }
        }
        runs
    }
}
