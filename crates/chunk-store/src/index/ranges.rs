//! Which parts of which packs are accounted for.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of packs, per pack in order, neighbours joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PackRanges {
    by_pack: BTreeMap<u32, Vec<Range<u64>>>,
}

impl PackRanges {
    /// Add `range` of `pack`.
    pub(crate) fn add(&mut self, pack: u32, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let ranges = self.by_pack.entry(pack).or_default();
        // The usual case: the pack grew.
        if let Some(last) = ranges.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        ranges.push(range);
        ranges.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges.drain(..) {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        *ranges = joined;
    }

    /// Add all of `other`.
    pub(crate) fn add_all(&mut self, other: &Self) {
        for (pack, range) in other.iter() {
            self.add(pack, range);
        }
    }

    /// Take `gone` of `pack` out.
    pub(crate) fn remove(&mut self, pack: u32, gone: Range<u64>) {
        let Some(ranges) = self.by_pack.get_mut(&pack) else {
            return;
        };
        let mut kept = Vec::new();
        for range in ranges.drain(..) {
            let before = range.start..range.end.min(gone.start);
            let after = range.start.max(gone.end)..range.end;
            kept.extend([before, after].into_iter().filter(|r| r.start < r.end));
        }
        *ranges = kept;
        if ranges.is_empty() {
            self.by_pack.remove(&pack);
        }
    }

    /// Take all of `other` out.
    pub(crate) fn remove_all(&mut self, other: &Self) {
        for (pack, range) in other.iter() {
            self.remove(pack, range);
        }
    }

    /// Forget the packs that `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.by_pack.retain(|pack, _| keep(*pack));
    }

    /// The highest pack, if any.
    pub(crate) fn last_pack(&self) -> Option<u32> {
        self.by_pack.last_key_value().map(|(pack, _)| *pack)
    }

    /// What of `whole` of `pack` is not here.
    pub(crate) fn missing(&self, pack: u32, whole: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Self::default();
        missing.add(pack, whole);
        for range in self.by_pack.get(&pack).into_iter().flatten() {
            missing.remove(pack, range.clone());
        }
        missing.by_pack.remove(&pack).unwrap_or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Range<u64>)> {
        self.by_pack
            .iter()
            .flat_map(|(pack, ranges)| ranges.iter().map(|range| (*pack, range.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_split_and_tell_what_is_missing() {
        let mut ranges = PackRanges::default();
        ranges.add(1, 16..100);
        ranges.add(1, 200..300);
        ranges.add(1, 100..150);
        ranges.add(2, 5..5);
        assert_eq!(
            ranges.iter().collect::<Vec<_>>(),
            [(1, 16..150), (1, 200..300)]
        );
        assert_eq!(ranges.missing(1, 16..400), [150..200, 300..400]);
        assert_eq!(
            ranges.missing(3, 16..20),
            vec![Range { start: 16, end: 20 }]
        );
        ranges.add(1, 140..210);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, 16..300)]);
        ranges.remove(1, 20..30);
        assert_eq!(
            ranges.iter().collect::<Vec<_>>(),
            [(1, 16..20), (1, 30..300)]
        );
        ranges.remove_all(&ranges.clone());
        assert_eq!(ranges, PackRanges::default());
    }
}
