//! The refcounts a qcow2 file keeps, of every width, and their comparison with what was counted.

use std::sync::Arc;

use block_io::{BlockError, BlockRead};

use super::format::Geometry;
use super::header::Header;
use super::rules;
use crate::bytes::{array, be64};
use crate::cache::TableCache;
use crate::check::{Recount, Tally, warning};
use crate::error::ParseError;
use crate::finding::Finding;

/// Refcount blocks kept at most.
const CACHE_BYTES: u64 = 16 << 20;
/// Counts looked at together: a stretch that is zero here and was not counted is passed over.
const STRETCH: u64 = 512;

/// Looks refcounts up. // qcow2.rst, "Host cluster management"
pub(super) struct Refcounts {
    file: Arc<dyn BlockRead>,
    geometry: Geometry,
    /// log2 of the bits of a count.
    order: u32,
    table_offset: u64,
    table_entries: u64,
    blocks: TableCache<Vec<u8>>,
}

impl Refcounts {
    pub(super) fn new(file: Arc<dyn BlockRead>, header: &Header) -> Self {
        let size = header.geometry.cluster_size();
        Self {
            file,
            geometry: header.geometry,
            order: header.refcount_order,
            table_offset: header.refcount_table_offset,
            table_entries: header.refcount_table_clusters * size / 8,
            blocks: TableCache::new((CACHE_BYTES / size) as usize),
        }
    }

    /// Counts in a block.
    fn per_block(&self) -> u64 {
        (self.geometry.cluster_size() * 8) >> self.order
    }

    /// The refcount of `cluster`; 0 where no block has it, or the block cannot be read.
    pub(super) fn get(&self, cluster: u64) -> Result<u64, BlockError> {
        let block = self.block(cluster / self.per_block())?;
        Ok(block.map_or(0, |block| self.count_in(&block, cluster % self.per_block())))
    }

    fn block(&self, index: u64) -> Result<Option<Arc<Vec<u8>>>, BlockError> {
        if index >= self.table_entries {
            return Ok(None);
        }
        let mut entry = [0; 8];
        self.file
            .read_at(self.table_offset + index * 8, &mut entry)?;
        let (size, at) = (self.geometry.cluster_size(), be64(&entry, 0));
        // What is wrong with the entry is told where the table is walked.
        if at == 0 || !at.is_multiple_of(size) || at >= self.file.size() {
            return Ok(None);
        }
        let load = || {
            let mut block = vec![0; size as usize];
            let there = size.min(self.file.size() - at) as usize;
            if let Some(part) = block.get_mut(..there) {
                self.file.read_at(at, part)?;
            }
            Ok::<_, BlockError>(block)
        };
        self.blocks.get(at, load).map(Some)
    }

    fn count_in(&self, block: &[u8], index: u64) -> u64 {
        let at = ((index << self.order) / 8) as usize;
        match self.order {
            // Narrow counts fill a byte from its lowest bits on.
            0..=2 => {
                let bits = 1u32 << self.order;
                let shift = (index << self.order) % 8;
                let byte = block.get(at).copied().unwrap_or(0);
                u64::from(byte >> shift) & ((1 << bits) - 1)
            }
            3 => u64::from(block.get(at).copied().unwrap_or(0)),
            4 => u64::from(u16::from_be_bytes(array(block, at))),
            5 => u64::from(u32::from_be_bytes(array(block, at))),
            _ => be64(block, at),
        }
    }
}

/// Hold the refcounts against what was counted; gives the last cluster in use.
pub(super) fn compare(
    refcounts: &mut Refcounts,
    recount: &Recount,
    header: &Header,
    tally: &mut Tally,
) -> Result<Option<u64>, ParseError> {
    let mut last = None;
    let in_file = header.geometry.clusters(refcounts.file.size());
    let window = recount.window();
    let per_block = refcounts.per_block();
    for index in 0..refcounts.table_entries {
        let first = index.saturating_mul(per_block);
        let end = first.saturating_add(per_block).min(window.end);
        if end <= window.start || first >= window.end {
            continue;
        }
        let Some(block) = refcounts.block(index)? else {
            continue;
        };
        let mut cluster = first.max(window.start);
        while cluster < end {
            let next = (cluster / STRETCH + 1) * STRETCH;
            if recount.page_is_empty(cluster)
                && stretch_is_zero(
                    &block,
                    cluster - first,
                    (next.min(end)) - first,
                    header.refcount_order,
                )
            {
                cluster = next;
                continue;
            }
            for cluster in cluster..next.min(end) {
                let kept = refcounts.count_in(&block, cluster - first);
                let counted = recount.count(cluster);
                if kept != 0 || counted != 0 {
                    last =
                        last.max(Some(cluster).filter(|cluster| *cluster < in_file || counted > 0));
                    tell(cluster, kept, counted, in_file, header, tally);
                }
            }
            cluster = next;
        }
    }
    // Clusters no refcount block covers.
    for (cluster, counted) in recount.counted() {
        if refcounts.block(cluster / per_block)?.is_none() {
            last = last.max(Some(cluster));
            tell(cluster, 0, counted, in_file, header, tally);
        }
    }
    Ok(last)
}

/// Whether the bytes that hold the counts `from..to` are all zero.
fn stretch_is_zero(block: &[u8], from: u64, to: u64, order: u32) -> bool {
    let range = ((from << order) / 8) as usize..((to << order).div_ceil(8)) as usize;
    block
        .get(range)
        .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

fn tell(cluster: u64, kept: u64, counted: u64, in_file: u64, header: &Header, tally: &mut Tally) {
    if kept == counted {
        return;
    }
    let place = cluster * header.geometry.cluster_size();
    let found = format!("{kept}, for cluster {cluster:#x}");
    if kept < counted {
        let finding = Finding::error(rules::REFCOUNT_LOW, place, counted.to_string(), found);
        tally.corrupt(finding);
    } else if cluster < in_file {
        let finding = Finding::error(rules::LEAK, place, counted.to_string(), found);
        tally.leak(1, finding);
    } else {
        tally.tell(warning(rules::REFCOUNT_BEYOND, place, "0", found));
    }
}
