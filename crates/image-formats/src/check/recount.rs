//! Counts how often the clusters of a file are referred to, in bounded memory.
//!
//! Counters stand in pages that are made when first used. When there are too many, the highest page goes
//! and the window ends before it: the caller walks its tables again for the next window.

use std::collections::BTreeMap;
use std::ops::Range;

/// Clusters of a page.
pub(crate) const PAGE: u64 = 4096;
/// Pages kept at most: 128 MiB of counters, 2 TiB of 64 KiB clusters.
const MAX_PAGES: usize = 8192;

/// Nothing else may lie in the cluster.
const EXCLUSIVE: u32 = 1 << 31;
/// An L2 table lies in it.
const TABLE: u32 = 1 << 30;
const COUNT: u32 = TABLE - 1;

/// What refers to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Data, which snapshots may share.
    Data,
    /// A table of data, which snapshots may share but data must not overlap.
    Table,
    /// Structure that exists once.
    Exclusive,
}

/// Counters of one window of clusters.
#[derive(Debug)]
pub(crate) struct Recount {
    pages: BTreeMap<u64, Vec<u32>>,
    /// The clusters this pass counts.
    window: Range<u64>,
    max_pages: usize,
}

impl Recount {
    /// Counts from cluster 0 on.
    pub(crate) fn new() -> Self {
        Self {
            pages: BTreeMap::new(),
            window: 0..u64::MAX,
            max_pages: MAX_PAGES,
        }
    }

    /// Start the pass over what the last one had no room for; `false` when it had room for all.
    pub(crate) fn next_pass(&mut self) -> bool {
        let more = self.window.end != u64::MAX;
        self.pages.clear();
        self.window = self.window.end..u64::MAX;
        more
    }

    /// The clusters the pass that was made has counted.
    pub(crate) fn window(&self) -> Range<u64> {
        self.window.clone()
    }

    /// Count a reference to `cluster`; `false` when what lies there already forbids it.
    pub(crate) fn add(&mut self, cluster: u64, mark: Mark) -> bool {
        if !self.window.contains(&cluster) {
            return true;
        }
        let page = self
            .pages
            .entry(cluster / PAGE)
            .or_insert_with(|| vec![0; PAGE as usize]);
        let Some(slot) = page.get_mut((cluster % PAGE) as usize) else {
            return true;
        };
        let there = *slot & COUNT > 0;
        let allowed = match mark {
            Mark::Exclusive => !there,
            Mark::Table => !there || *slot & TABLE != 0,
            Mark::Data => *slot & (EXCLUSIVE | TABLE) == 0,
        };
        *slot = match mark {
            Mark::Data => *slot,
            Mark::Table => *slot | TABLE,
            Mark::Exclusive => *slot | EXCLUSIVE,
        };
        if *slot & COUNT < COUNT {
            *slot += 1;
        }
        self.shed();
        allowed
    }

    fn shed(&mut self) {
        if self.pages.len() > self.max_pages
            && let Some((index, _)) = self.pages.pop_last()
        {
            self.window.end = index * PAGE;
        }
    }

    /// How often `cluster` was referred to.
    pub(crate) fn count(&self, cluster: u64) -> u64 {
        self.pages
            .get(&(cluster / PAGE))
            .and_then(|page| page.get((cluster % PAGE) as usize))
            .map_or(0, |slot| u64::from(slot & COUNT))
    }

    /// Whether nothing from `cluster` to the end of its page was referred to.
    pub(crate) fn page_is_empty(&self, cluster: u64) -> bool {
        !self.pages.contains_key(&(cluster / PAGE))
    }

    /// The clusters referred to, ascending, with their numbers.
    pub(crate) fn counted(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pages.iter().flat_map(|(index, page)| {
            page.iter()
                .enumerate()
                .map(move |(at, slot)| (index * PAGE + at as u64, u64::from(slot & COUNT)))
                .filter(|(_, count)| *count > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_in_the_next_pass() {
        let mut recount = Recount::new();
        recount.max_pages = 3;
        let places = [9, 1, 5, 7, 3, 1].map(|page| page * PAGE + 17);
        let mut seen = Vec::new();
        loop {
            for place in places {
                recount.add(place, Mark::Data);
            }
            seen.extend(recount.counted());
            if !recount.next_pass() {
                break;
            }
        }
        let expected = [(1, 2), (3, 1), (5, 1), (7, 1), (9, 1)];
        let expected = expected.map(|(page, count)| (page * PAGE + 17, count));
        assert_eq!(seen, expected);
    }

    #[test]
    fn structure_shares_with_nothing_and_tables_only_with_tables() {
        let mut recount = Recount::new();
        assert!(recount.add(0, Mark::Exclusive));
        assert!(!recount.add(0, Mark::Data));
        assert!(recount.add(1, Mark::Table));
        assert!(recount.add(1, Mark::Table));
        assert!(!recount.add(1, Mark::Data));
        assert!(recount.add(2, Mark::Data));
        assert!(recount.add(2, Mark::Data));
        assert!(!recount.add(2, Mark::Table));
        assert!(!recount.add(2, Mark::Exclusive));
    }
}
