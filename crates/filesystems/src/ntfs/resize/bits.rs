//! Which clusters are in use, as a set, and the gaps between them.

use std::collections::BTreeSet;
use std::ops::Range;

/// A set of clusters.
pub(super) struct Bits {
    words: Vec<u64>,
    len: u64,
}

impl Bits {
    pub(super) fn new(len: u64) -> Self {
        Self {
            words: vec![0; len.div_ceil(64) as usize],
            len,
        }
    }

    /// Add clusters; the first that was in the set already, if one was.
    pub(super) fn add(&mut self, range: Range<u64>) -> Option<u64> {
        let mut met = None;
        self.each_word(range, |at, word, mask| {
            if met.is_none() && *word & mask != 0 {
                met = Some(at + u64::from((*word & mask).trailing_zeros()));
            }
            *word |= mask;
        });
        met
    }

    pub(super) fn remove(&mut self, range: Range<u64>) {
        self.each_word(range, |_, word, mask| *word &= !mask);
    }

    fn each_word(&mut self, range: Range<u64>, mut change: impl FnMut(u64, &mut u64, u64)) {
        let mut at = range.start;
        let end = range.end.min(self.len);
        while at < end {
            let index = at / 64;
            let upto = ((index + 1) * 64).min(end);
            let count = upto - at;
            let mask = (u64::MAX >> (64 - count)) << (at % 64);
            if let Some(word) = self.words.get_mut(index as usize) {
                change(index * 64, word, mask);
            }
            at = upto;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// The bytes `at..at + len` of the set as `$Bitmap` has it.
    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        (at..at + len as u64)
            .map(|n| {
                let word = self.words.get((n / 8) as usize).copied().unwrap_or(0);
                (word >> (n % 8 * 8)) as u8
            })
            .collect()
    }

    /// The gaps below `end`.
    pub(super) fn gaps(&self, end: u64) -> Vec<Range<u64>> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        let mut free = |range: Range<u64>| match gaps.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => gaps.push(range),
        };
        let end = end.min(self.len);
        let mut at = 0;
        while at < end {
            let word = self
                .words
                .get((at / 64) as usize)
                .copied()
                .unwrap_or(u64::MAX);
            let upto = (at + 64).min(end);
            match word {
                u64::MAX => {}
                0 => free(at..upto),
                _ => (at..upto)
                    .filter(|n| word >> (n % 64) & 1 == 0)
                    .for_each(|n| free(n..n + 1)),
            }
            at = upto;
        }
        gaps
    }
}

/// Gaps, by size.
pub(super) struct Free(BTreeSet<(u64, u64)>);

impl Free {
    pub(super) fn new(gaps: Vec<Range<u64>>) -> Self {
        Self(
            gaps.into_iter()
                .map(|g| (g.end - g.start, g.start))
                .collect(),
        )
    }

    /// Up to `count` clusters: all in the smallest gap that holds them, or else the whole largest gap.
    pub(super) fn take(&mut self, count: u64) -> Option<Range<u64>> {
        let fitting = self.0.range((count, 0)..).next().copied();
        let (len, start) = fitting.or_else(|| self.0.last().copied())?;
        self.0.remove(&(len, start));
        let taken = len.min(count);
        if taken < len {
            self.0.insert((len - taken, start + taken));
        }
        Some(start..start + taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_bytes_are_those_of_the_set() {
        let mut bits = Bits::new(200);
        assert_eq!(bits.add(0..10), None);
        assert_eq!(bits.add(60..130), None);
        assert_eq!(bits.add(120..121), Some(120));
        bits.remove(64..66);
        assert_eq!(bits.count(), 10 + 70 - 2);
        assert_eq!(bits.gaps(150), [10..60, 64..66, 130..150]);
        assert_eq!(bits.bytes(0, 3), [0xFF, 3, 0]);
        assert_eq!(bits.bytes(7, 2), [0xF0, 0xFC]);
        let mut free = Free::new(bits.gaps(150));
        assert_eq!(free.take(2), Some(64..66), "the smallest that fits");
        assert_eq!(free.take(100), Some(10..60), "the largest, where none fits");
        assert_eq!(free.take(100), Some(130..150));
        assert_eq!(free.take(1), None);
    }
}
