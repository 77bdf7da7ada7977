//! Which bytes are in use, in little memory whatever the disk.

use std::ops::Range;

/// Ranges are kept as they are up to this many (8 MiB of them). A file system more fragmented than
/// that becomes a bitmap.
const MOST_RANGES: usize = 1 << 19;
/// The finest grain of a bitmap: 10 TB are then 20 MB of bits.
const FINEST_GRAIN: u64 = 64 << 10;
/// The longest bitmap, in words (32 MiB). Larger disks get a coarser grain.
const MOST_WORDS: u64 = 4 << 20;
/// Words looked through for one answer, so that one question costs little: 16 GiB at the finest grain.
const MOST_WORDS_A_RUN: usize = 4096;

/// Which bytes of a disk are in use.
///
/// Up to half a million ranges it is exact. Above, it is rounded to a grain of 64 KiB or more, always
/// towards "used". At most 50 MB while it is made, 32 MiB afterwards, whatever
/// the size of the disk.
#[derive(Debug, Clone)]
pub struct UsedMap {
    size: u64,
    store: Store,
}

#[derive(Debug, Clone)]
enum Store {
    /// Sorted and apart, once finished.
    Ranges(Vec<Range<u64>>),
    Bitmap {
        grain: u64,
        words: Vec<u64>,
    },
}

impl UsedMap {
    /// The map of a disk all of whose bytes are in use.
    #[must_use]
    pub fn all(size: u64) -> Self {
        let mut map = Self::none(size);
        map.add(0..size);
        map
    }

    /// The map of a disk none of whose bytes is in use yet.
    pub(crate) fn none(size: u64) -> Self {
        Self {
            size,
            store: Store::Ranges(Vec::new()),
        }
    }

    /// Take `range` for used, clipped to the disk. Any order will do; [`UsedMap::finish`] at the end.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        let range = range.start..range.end.min(self.size);
        if range.is_empty() {
            return;
        }
        match &mut self.store {
            Store::Ranges(ranges) => {
                match ranges.last_mut() {
                    Some(last) if last.start <= range.start && range.start <= last.end => {
                        last.end = last.end.max(range.end);
                    }
                    _ => ranges.push(range),
                }
                if ranges.len() > MOST_RANGES {
                    join(ranges);
                    // Nearly as many after joining: they are really apart.
                    if ranges.len() > MOST_RANGES / 4 * 3 {
                        self.store = bitmap_of(ranges, self.size);
                    }
                }
            }
            Store::Bitmap { grain, words } => set_bits(words, *grain, &range),
        }
    }

    pub(crate) fn finish(&mut self) {
        if let Store::Ranges(ranges) = &mut self.store {
            join(ranges);
            ranges.shrink_to_fit();
        }
    }

    /// The size of the disk it describes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether `offset` is in use, and up to where at least that stays so. Bytes past the end of the
    /// disk count as used.
    #[must_use]
    pub fn run_at(&self, offset: u64) -> (bool, u64) {
        if offset >= self.size {
            return (true, u64::MAX);
        }
        let (used, end) = match &self.store {
            Store::Ranges(ranges) => {
                let after = ranges.partition_point(|range| range.end <= offset);
                match ranges.get(after) {
                    Some(range) if range.start <= offset => (true, range.end),
                    Some(range) => (false, range.start),
                    None => (false, self.size),
                }
            }
            Store::Bitmap { grain, words } => run_of_bits(words, *grain, offset),
        };
        (used, end.min(self.size))
    }

    /// How many bytes of `range` are in use.
    #[must_use]
    pub fn used_bytes_in(&self, range: Range<u64>) -> u64 {
        let (mut at, mut sum) = (range.start, 0);
        let end = range.end.min(self.size);
        while at < end {
            let (used, next) = self.run_at(at);
            let next = next.min(end);
            sum += if used { next - at } else { 0 };
            at = next;
        }
        sum
    }

    /// How many bytes are in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        match &self.store {
            Store::Ranges(ranges) => ranges.iter().map(|range| range.end - range.start).sum(),
            Store::Bitmap { grain, words } => {
                let bits: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
                let last = (self.size - 1) / grain;
                let cut = if bit(words, last) {
                    (last + 1) * grain - self.size
                } else {
                    0
                };
                bits * grain - cut
            }
        }
    }
}

/// Sort ranges, and join those that touch or overlap.
fn join(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, kept| {
        let touches = next.start <= kept.end;
        if touches {
            kept.end = kept.end.max(next.end);
        }
        touches
    });
}

fn bitmap_of(ranges: &[Range<u64>], size: u64) -> Store {
    let mut grain = FINEST_GRAIN;
    while size.div_ceil(grain).div_ceil(64) > MOST_WORDS {
        grain *= 2;
    }
    let mut words = vec![0; size.div_ceil(grain).div_ceil(64) as usize];
    for range in ranges {
        set_bits(&mut words, grain, range);
    }
    Store::Bitmap { grain, words }
}

/// Set every bit whose grain `range` touches. It is not empty.
fn set_bits(words: &mut [u64], grain: u64, range: &Range<u64>) {
    let (first, last) = (range.start / grain, (range.end - 1) / grain);
    let (first_word, last_word) = ((first / 64) as usize, (last / 64) as usize);
    let from = u64::MAX << (first % 64);
    let to = u64::MAX >> (63 - last % 64);
    let Some(touched) = words.get_mut(first_word..=last_word) else {
        return;
    };
    match touched {
        [word] => *word |= from & to,
        [head, middle @ .., tail] => {
            *head |= from;
            middle.fill(u64::MAX);
            *tail |= to;
        }
        [] => {}
    }
}

fn bit(words: &[u64], index: u64) -> bool {
    let word = words
        .get((index / 64) as usize)
        .copied()
        .unwrap_or(u64::MAX);
    word >> (index % 64) & 1 != 0
}

fn run_of_bits(words: &[u64], grain: u64, offset: u64) -> (bool, u64) {
    let first = offset / grain;
    let used = bit(words, first);
    let start = (first / 64) as usize;
    let differing = |word: u64| if used { !word } else { word };
    let rest = words.get(start..).unwrap_or_default();
    let looked = rest.len().min(MOST_WORDS_A_RUN);
    for (index, word) in rest.iter().take(looked).enumerate() {
        let mut differs = differing(*word);
        if index == 0 {
            differs &= u64::MAX << (first % 64);
        }
        if differs != 0 {
            let bit = (start + index) as u64 * 64 + u64::from(differs.trailing_zeros());
            return (used, bit * grain);
        }
    }
    (used, ((start + looked) as u64 * 64).saturating_mul(grain))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    /// All runs of a map, neighbours joined.
    fn used_runs(map: &UsedMap) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < map.size() {
            let (used, end) = map.run_at(at);
            assert!(end > at);
            match runs.last_mut() {
                Some(last) if used && last.end == at => last.end = end,
                _ if used => runs.push(at..end),
                _ => {}
            }
            at = end;
        }
        runs
    }

    #[test]
    fn ranges_in_any_order_are_sorted_joined_and_clipped() {
        let mut map = UsedMap::none(1000);
        for range in [500..600, 10..20, 20..30, 590..700, 15..18, 990..2000, 5..5] {
            map.add(range);
        }
        map.finish();
        assert_eq!(used_runs(&map), [10..30, 500..700, 990..1000]);
        assert_eq!(map.used_bytes(), 230);
        assert_eq!(map.run_at(1000), (true, u64::MAX));
        assert_eq!(used_runs(&UsedMap::all(1000)), [0..1000]);
        assert_eq!(UsedMap::none(0).run_at(0), (true, u64::MAX));
    }

    #[test]
    fn a_disk_too_fragmented_for_ranges_is_rounded_towards_used() {
        // 10 TB, every second block of 4 KiB of its first 16 GiB, and a few far out.
        let size = 10_000_000_000_000;
        let mut map = UsedMap::none(size);
        for block in 0..(2 << 20) {
            map.add(block * 8192..block * 8192 + 4096);
        }
        for far in [7 << 40, 8 << 40, size - 1] {
            map.add(far..far + 1);
        }
        map.finish();
        let Store::Bitmap { grain, words } = &map.store else {
            panic!("still ranges");
        };
        assert_eq!(*grain, FINEST_GRAIN);
        assert!(words.len() * 8 < 32 << 20);
        let last = size / FINEST_GRAIN * FINEST_GRAIN;
        assert_eq!(
            used_runs(&map),
            [
                0..16 << 30,
                7 << 40..(7 << 40) + FINEST_GRAIN,
                8 << 40..(8 << 40) + FINEST_GRAIN,
                last..size
            ]
        );
        let sum: u64 = used_runs(&map).iter().map(|r| r.end - r.start).sum();
        assert_eq!(map.used_bytes(), sum);
    }

    #[test]
    fn the_bitmap_of_a_disk_of_any_size_stays_below_its_bound() {
        for size in [1, 65_536, 65_537, 10 << 40, 200 << 40, u64::MAX / 2] {
            let Store::Bitmap { grain, words } = bitmap_of(&[0..1], size) else {
                unreachable!();
            };
            assert!(words.len() as u64 <= MOST_WORDS);
            assert!(words.len() as u64 * 64 * grain >= size);
        }
    }

    #[test]
    fn bits_are_set_from_the_first_touched_grain_to_the_last() {
        let grain = FINEST_GRAIN;
        let size = grain * 300;
        for (from, to) in [(0, 1), (63, 65), (64, 128), (1, 299), (127, 128), (5, 300)] {
            let mut map = UsedMap {
                size,
                store: bitmap_of(&[], size),
            };
            map.add(from * grain + 7..to * grain - 7);
            assert_eq!(used_runs(&map), [from * grain..to * grain]);
        }
    }
}
