//! Which clusters of the file are in use, and how often: the space a writer hands out.
//!
//! Clusters are handed out in ascending order, so a block of refcounts is final as soon as both the
//! next free cluster and the cluster being packed lie behind it. It is then written and forgotten:
//! memory does not grow with the file.

use std::collections::VecDeque;

use super::format::Geometry;
use crate::output::{PlacedBytes, Placement};

/// Hands out the clusters of a new file and counts their references.
#[derive(Debug)]
pub(crate) struct HostSpace {
    geometry: Geometry,
    /// The first cluster not handed out.
    next: u64,
    /// Where the next compressed bytes go, when the cluster there is only partly filled.
    packing: Option<u64>,
    /// Refcounts of blocks not yet final, the first of which is block `table.len()`.
    open_blocks: VecDeque<Vec<u16>>,
    /// Where each final block lies in the file.
    table: Vec<u64>,
}

/// Where the refcounts ended up.
#[derive(Debug)]
pub(crate) struct RefcountTable {
    pub(crate) offset: u64,
    pub(crate) clusters: u64,
}

impl HostSpace {
    /// The space of a file whose first cluster, the header's, is taken.
    pub(crate) fn new(geometry: Geometry) -> Self {
        let mut space = Self {
            geometry,
            next: 0,
            packing: None,
            open_blocks: VecDeque::new(),
            table: Vec::new(),
        };
        space.allocate(1);
        space
    }

    /// The offset of `clusters` clusters in a row, each referenced once.
    pub(crate) fn allocate(&mut self, clusters: u64) -> u64 {
        let first = self.next;
        self.next += clusters;
        for cluster in first..self.next {
            self.reference(cluster);
        }
        first * self.geometry.cluster_size()
    }

    /// The offset of `len` bytes of a compressed cluster: right behind the last one where that can
    /// be, at the start of a free cluster otherwise.
    pub(crate) fn allocate_packed(&mut self, len: u64) -> u64 {
        let size = self.geometry.cluster_size();
        let behind = self.packing.filter(|packing| {
            let room = self.geometry.clusters(*packing) * size - packing;
            // What crosses into the next cluster needs it to be free.
            len <= room || self.geometry.clusters(*packing) == self.next
        });
        let offset = behind.unwrap_or(self.next * size);
        let end = offset + len;
        self.next = self.next.max(self.geometry.clusters(end));
        for cluster in offset / size..self.geometry.clusters(end) {
            self.reference(cluster);
        }
        self.packing = (!end.is_multiple_of(size)).then_some(end);
        offset
    }

    fn reference(&mut self, cluster: u64) {
        let per_block = self.geometry.refcounts_per_block();
        let block = (cluster / per_block) as usize - self.table.len();
        while self.open_blocks.len() <= block {
            self.open_blocks.push_back(vec![0; per_block as usize]);
        }
        // A cluster holds fewer than 2^16 compressed ones: each takes at least 12 bytes of at
        // most 2 MiB, and 2 MiB of anything take more than 32 bytes in either compression.
        self.open_blocks[block][(cluster % per_block) as usize] += 1;
    }

    /// Place the refcount blocks that no later cluster can change.
    pub(crate) fn retire_blocks(&mut self, placements: &mut Vec<Placement>) {
        let per_block = self.geometry.refcounts_per_block();
        loop {
            let open_from = self.packing.map_or(self.next, |packing| {
                self.next.min(packing / self.geometry.cluster_size())
            });
            if open_from / per_block <= self.table.len() as u64 {
                break;
            }
            self.place_first_block(placements);
        }
    }

    fn place_first_block(&mut self, placements: &mut Vec<Placement>) {
        let offset = self.allocate(1);
        if let Some(block) = self.open_blocks.pop_front() {
            self.table.push(offset);
            placements.push(made(offset, be_bytes_16(&block)));
        }
    }

    /// Place all remaining refcount blocks and the table. Nothing can be allocated after this.
    pub(crate) fn finish(mut self, placements: &mut Vec<Placement>) -> RefcountTable {
        let per_block = self.geometry.refcounts_per_block();
        let size = self.geometry.cluster_size();
        let written = self.table.len() as u64;
        // Blocks and table count themselves: look for the numbers that hold all.
        let (mut blocks, mut table_clusters) = (0, 0);
        loop {
            let total = self.next + blocks + table_clusters;
            let all_blocks = total.div_ceil(per_block);
            let needed = (all_blocks - written, (all_blocks * 8).div_ceil(size));
            if needed == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = needed;
        }
        let first_block = self.allocate(blocks);
        let table_offset = self.allocate(table_clusters);
        for (index, block) in self.open_blocks.iter().enumerate() {
            let offset = first_block + index as u64 * size;
            self.table.push(offset);
            placements.push(made(offset, be_bytes_16(block)));
        }
        let mut table = be_bytes_64(&self.table);
        table.resize((table_clusters * size) as usize, 0);
        placements.push(made(table_offset, table));
        RefcountTable {
            offset: table_offset,
            clusters: table_clusters,
        }
    }
}

pub(crate) fn made(offset: u64, bytes: Vec<u8>) -> Placement {
    Placement {
        file: 0,
        offset,
        bytes: PlacedBytes::Made(bytes),
    }
}

fn be_bytes_16(values: &[u16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

pub(crate) fn be_bytes_64(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bytes_share_clusters_and_cross_only_into_free_ones() {
        let mut space = HostSpace::new(Geometry::new(9).unwrap());
        assert_eq!(space.allocate_packed(100), 512);
        assert_eq!(space.allocate_packed(100), 612);
        assert_eq!(space.allocate_packed(400), 712, "crosses into cluster 2");
        assert_eq!(space.allocate(1), 3 * 512);
        assert_eq!(
            space.allocate_packed(400),
            1112,
            "still fits into cluster 2"
        );
        assert_eq!(
            space.allocate_packed(400),
            4 * 512,
            "cannot cross into cluster 3, which is taken"
        );
        assert_eq!(space.open_blocks[0][..5], [1, 3, 2, 1, 1]);
    }
}
