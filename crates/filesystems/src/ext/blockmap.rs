//! Block maps of ext2 and ext3: direct, indirect, double and triple indirect blocks: reading.

use block_io::BlockRead;

use super::extents::Run;
use super::inode::Inode;
use super::volume::{Volume, corrupt};
use crate::bytes::le32;
use crate::tree::Result;

/// Direct block numbers in an inode.
pub(crate) const DIRECT: u64 = 12;

/// The way to a block of a file: the slot in the inode, then the slot in each indirect block.
pub(crate) struct Way {
    pub(crate) root: usize,
    pub(crate) slots: Vec<usize>,
}

/// The way to block `logical` with `per_block` numbers in a block; `None` when it lies too far out.
pub(crate) fn way(logical: u64, per_block: u64) -> Option<Way> {
    let way = |root: u64, slots: Vec<u64>| Way {
        root: root as usize,
        slots: slots.into_iter().map(|s| s as usize).collect(),
    };
    if logical < DIRECT {
        return Some(way(logical, Vec::new()));
    }
    let n = per_block;
    let mut rest = logical - DIRECT;
    if rest < n {
        return Some(way(12, vec![rest]));
    }
    rest -= n;
    if rest < n * n {
        return Some(way(13, vec![rest / n, rest % n]));
    }
    rest -= n * n;
    (rest < n * n * n).then(|| way(14, vec![rest / n / n, rest / n % n, rest % n]))
}

impl<D: BlockRead> Volume<D> {
    pub(crate) fn numbers_per_block(&self) -> u64 {
        self.sb.block_size / 4
    }

    /// Where block `logical` of a block-mapped file lies, and how far the run goes on.
    pub(crate) fn mapped_run(&self, inode: &Inode, logical: u64) -> Result<Run> {
        let per_block = self.numbers_per_block();
        let whose = format!("inode {}, block map", inode.number);
        let Some(way) = way(logical, per_block) else {
            return Err(corrupt(format!(
                "{whose}: expected a block a triple indirect map reaches, found {logical}"
            )));
        };
        let Some((last, above)) = way.slots.split_last() else {
            return self.run_in(inode.block(), way.root, DIRECT as usize, &whose);
        };
        let mut block = u64::from(le32(inode.block(), way.root * 4));
        // How many blocks of the file the next slot stands for, to skip whole holes.
        let mut span = per_block.pow(above.len() as u32);
        for slot in above {
            if block == 0 {
                let inside = logical_inside(&way, per_block, span * per_block);
                return Ok(gap(span * per_block - inside));
            }
            let bytes = self.block(block, &whose)?;
            block = u64::from(le32(&bytes, slot * 4));
            span /= per_block;
        }
        if block == 0 {
            return Ok(gap(per_block - *last as u64));
        }
        let bytes = self.block(block, &whose)?;
        self.run_in(&bytes, *last, per_block as usize, &whose)
    }

    /// The run that begins with slot `at` of an array of `len` block numbers.
    fn run_in(&self, numbers: &[u8], at: usize, len: usize, whose: &str) -> Result<Run> {
        let first = u64::from(le32(numbers, at * 4));
        let expect = |n: u64| if first == 0 { 0 } else { first + n };
        let count = (at..len)
            .zip(0_u64..)
            .take_while(|(slot, n)| u64::from(le32(numbers, slot * 4)) == expect(*n))
            .count() as u64;
        if first == 0 {
            return Ok(gap(count));
        }
        self.check_blocks(first, count, whose)?;
        Ok(Run {
            len: count,
            physical: Some(first),
            unwritten: false,
        })
    }
}

fn gap(len: u64) -> Run {
    Run {
        len: len.max(1),
        physical: None,
        unwritten: false,
    }
}

/// How far into the subtree of `span` blocks that begins below the first missing link the way leads.
fn logical_inside(way: &Way, per_block: u64, span: u64) -> u64 {
    way.slots
        .iter()
        .fold(0, |sum, slot| sum * per_block + *slot as u64)
        % span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_through_as_many_levels_as_needed() {
        let slots = |n| way(n, 256).map(|w| (w.root, w.slots));
        assert_eq!(slots(11), Some((11, vec![])));
        assert_eq!(slots(12), Some((12, vec![0])));
        assert_eq!(slots(12 + 256), Some((13, vec![0, 0])));
        assert_eq!(slots(12 + 256 + 65_536 + 257), Some((14, vec![0, 1, 1])));
        assert_eq!(slots(12 + 256 + 65_536 + 256 * 65_536), None);
    }
}
