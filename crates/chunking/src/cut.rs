//! Where chunks are cut: FastCDC with normalised chunking.
//!
//! A rolling hash runs over the bytes: `hash = hash * 2 + GEAR[byte]`, on 64 bits, so that it depends
//! on the last 64 bytes and on nothing else. A chunk ends behind the first byte at which the top
//! bits of the hash are all zero, counting only from `min` bytes on. How many top bits: two more than
//! log2(average) while the chunk is shorter than `average`, two fewer from there on ("normalised
//! chunking": sizes gather round the average). At `max` it ends in any case.
//!
//! [Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data
//! Deduplication", USENIX ATC 2016], sections 4.2 to 4.4. Two things differ from the paper. The mask
//! is the top bits instead of scattered ones: bit 63 sees 64 bytes and bit 47 still 48, which is the
//! window the paper scatters for, and "top bits zero" is one comparison. And the hash is warmed up
//! over the 63 bytes before `min`, so that whether a place is a cut never depends on where the chunk
//! began.

use crate::MAX_CHUNK;

/// Bytes the rolling hash looks back at.
const WINDOW: usize = 64;
/// Bits more before the average size is reached, and fewer after it.
const NORMALISATION: u32 = 2;
/// The seed of the gear table. Chosen so that a run of any one byte value, zero above all, never
/// meets the cut condition of any permitted size (a test checks all 256): such runs end at `max`.
const GEAR_SEED: u64 = 0x7032_7620_6765_6172; // "p2v gear"

static GEAR: [u64; 256] = gear_table(GEAR_SEED);

/// The smallest, the wished and the largest size of a chunk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    min: u32,
    average: u32,
    max: u32,
}

impl ChunkSizes {
    /// Sizes to cut by.
    ///
    /// # Errors
    /// [`SizesError`] unless `64 <= min < average < max <= MAX_CHUNK` and `average` is a power of two
    /// of at least 256.
    pub fn new(min: u32, average: u32, max: u32) -> Result<Self, SizesError> {
        if !average.is_power_of_two() || average < 256 {
            return Err(SizesError::Average { found: average });
        }
        if (min as usize) < WINDOW || min >= average {
            return Err(SizesError::Min {
                found: min,
                average,
            });
        }
        if max <= average || max > MAX_CHUNK {
            return Err(SizesError::Max {
                found: max,
                average,
            });
        }
        Ok(Self { min, average, max })
    }

    /// No chunk but the last of a run is shorter.
    #[must_use]
    pub fn min(self) -> u32 {
        self.min
    }

    /// The size the chunks gather round.
    #[must_use]
    pub fn average(self) -> u32 {
        self.average
    }

    /// No chunk is longer.
    #[must_use]
    pub fn max(self) -> u32 {
        self.max
    }
}

/// 8 KiB, 32 KiB, 128 KiB.
///
/// Measured by `examples/measure_sharing.rs` with the two Debian 12 servers `tests/guests` builds, "web" and
/// "db": how much of the second's bytes the first has, what the second costs on the wire, and what
/// an index of 48 bytes a chunk weighs.
///
/// | average | mean | shared | sent | index of 1 TB |
/// |---|---|---|---|---|
/// | 8 KiB | 9.9 KB | 74.7 % | 112 MB | 4.84 GB |
/// | 16 KiB | 19.9 KB | 73.0 % | 116 MB | 2.41 GB |
/// | **32 KiB** | **39.7 KB** | **70.0 %** | **125 MB** | **1.21 GB** |
/// | 64 KiB | 79.6 KB | 65.1 % | 143 MB | 0.60 GB |
/// | 128 KiB | 157.7 KB | 58.1 % | 168 MB | 0.30 GB |
///
/// Down to 32 KiB each halving wins 5 to 7 points and 13 to 15 % of the bytes sent; the next one wins
/// 3 points and 7 %, and doubles the index and the questions asked. A smaller `min` or a larger `max` at
/// the same average changes nothing that can be seen.
impl Default for ChunkSizes {
    fn default() -> Self {
        Self {
            min: 8 << 10,
            average: 32 << 10,
            max: 128 << 10,
        }
    }
}

/// Why sizes cannot be cut by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizesError {
    /// The average is no power of two, or too small.
    #[error("the average chunk size must be a power of two of at least 256, found {found}")]
    Average {
        /// The size given.
        found: u32,
    },
    /// The smallest size is below the hash window or not below the average.
    #[error("the smallest chunk size must lie from 64 to below {average}, found {found}")]
    Min {
        /// The size given.
        found: u32,
        /// The average it must lie below.
        average: u32,
    },
    /// The largest size is not above the average, or above [`MAX_CHUNK`].
    #[error("the largest chunk size must lie above {average}, up to {MAX_CHUNK}, found {found}")]
    Max {
        /// The size given.
        found: u32,
        /// The average it must lie above.
        average: u32,
    },
}

/// Cuts a run of bytes into chunks. Has no state: one serves all threads.
#[derive(Debug, Clone, Copy)]
pub struct Chunker {
    sizes: ChunkSizes,
    /// A hash below this ends a chunk shorter than the average.
    strict: u64,
    /// A hash below this ends a longer one.
    loose: u64,
}

impl Chunker {
    /// A chunker that cuts by `sizes`.
    #[must_use]
    pub fn new(sizes: ChunkSizes) -> Self {
        let bits = sizes.average.ilog2();
        Self {
            sizes,
            strict: 1 << (64 - bits - NORMALISATION),
            loose: 1 << (64 - bits + NORMALISATION),
        }
    }

    /// The sizes it cuts by.
    #[must_use]
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// The length of the first chunk of `data`, which must begin where a chunk begins. `None`: more
    /// bytes are needed to tell. `last` says that none will come; then what is left is a chunk, and
    /// `None` means that nothing is left.
    ///
    /// The answer depends on the bytes alone, not on how many more `data` holds, so a stream may be
    /// fed in pieces of any size. Feed at least [`ChunkSizes::max`] bytes where possible: then the
    /// answer is never `None` and no byte is looked at twice.
    #[must_use]
    pub fn cut(&self, data: &[u8], last: bool) -> Option<usize> {
        let min = self.sizes.min as usize;
        let max = self.sizes.max as usize;
        let within = data.get(..max).unwrap_or(data);
        if let Some(warm_up) = within.get(min - WINDOW..min - 1) {
            let mut hash = Rolling::default();
            hash.push(warm_up);
            let middle = within
                .len()
                .min(self.sizes.average as usize - 1)
                .max(min - 1);
            if let Some(found) = hash.find_below(&within[min - 1..middle], self.strict) {
                return Some(min - 1 + found);
            }
            if let Some(found) = hash.find_below(&within[middle..], self.loose) {
                return Some(middle + found);
            }
        }
        let ends = within.len() == max || (last && !within.is_empty());
        ends.then_some(within.len())
    }

    /// The chunks of a whole run of bytes that lies in memory.
    #[must_use]
    pub fn chunks<'a>(&self, data: &'a [u8]) -> Chunks<'a> {
        Chunks {
            chunker: *self,
            rest: data,
        }
    }
}

impl Default for Chunker {
    fn default() -> Self {
        Self::new(ChunkSizes::default())
    }
}

/// Iterator over the chunks of a run of bytes; see [`Chunker::chunks`].
#[derive(Debug, Clone)]
pub struct Chunks<'a> {
    chunker: Chunker,
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = self.chunker.cut(self.rest, true)?;
        let (chunk, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(chunk)
    }
}

/// The rolling hash.
#[derive(Default)]
struct Rolling(u64);

impl Rolling {
    #[inline(always)]
    fn roll(&mut self, byte: u8) -> u64 {
        self.0 = (self.0 << 1).wrapping_add(GEAR[usize::from(byte)]);
        self.0
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.roll(byte);
        }
    }

    /// The number of bytes up to and with the first at which the hash is below `limit`.
    ///
    /// Eight bytes a step: the loop's own counting then costs an eighth, and what is left is two
    /// loads, one `lea` and one fused compare-and-branch a byte.
    #[inline]
    fn find_below(&mut self, bytes: &[u8], limit: u64) -> Option<usize> {
        let (steps, rest) = bytes.as_chunks::<8>();
        for (index, step) in steps.iter().enumerate() {
            for (position, &byte) in step.iter().enumerate() {
                if self.roll(byte) < limit {
                    return Some(index * 8 + position + 1);
                }
            }
        }
        for (position, &byte) in rest.iter().enumerate() {
            if self.roll(byte) < limit {
                return Some(steps.len() * 8 + position + 1);
            }
        }
        None
    }
}

/// 256 numbers by SplitMix64 from `seed`, one after the other.
///
/// [Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014], figure 15.
const fn gear_table(seed: u64) -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = seed;
    let mut index = 0;
    while index < 256 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        table[index] = mixed ^ (mixed >> 31);
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small() -> Chunker {
        Chunker::new(ChunkSizes::new(128, 512, 2048).unwrap())
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect()
    }

    /// The same rule written the slow way round: for every length, the hash of the 64 bytes before.
    fn cut_by_definition(sizes: ChunkSizes, data: &[u8]) -> usize {
        let bits = sizes.average().ilog2();
        for len in sizes.min() as usize..data.len().min(sizes.max() as usize) {
            let hash = data[len - WINDOW..len].iter().fold(0u64, |hash, &byte| {
                hash.wrapping_mul(2).wrapping_add(GEAR[byte as usize])
            });
            let zeros = if len < sizes.average() as usize {
                bits + NORMALISATION
            } else {
                bits - NORMALISATION
            };
            if hash.leading_zeros() >= zeros {
                return len;
            }
        }
        data.len().min(sizes.max() as usize)
    }

    #[test]
    fn cut_points_never_change() {
        // Every chunk would be sent again if they did. Taken from this code once, then pinned.
        let data = noise(1, 1 << 20);
        let lengths: Vec<usize> = Chunker::default().chunks(&data).map(<[u8]>::len).collect();
        assert_eq!(lengths, PINNED);
    }
    const PINNED: [usize; 32] = [
        20531, 33862, 33696, 38371, 19553, 45803, 33927, 37524, 12497, 45958, 34443, 33339, 15005,
        16642, 42050, 27346, 15358, 36972, 32868, 37606, 37743, 51259, 45450, 34169, 38429, 39695,
        33406, 40255, 44528, 33163, 35701, 1427,
    ];

    #[test]
    fn runs_of_one_byte_value_end_at_the_largest_size() {
        for byte in 0..=255u8 {
            // What the hash settles at after 64 equal bytes. The loosest limit of any permitted
            // size has log2(256) - 2 = 6 zero bits; the run must not meet even that one for zero,
            // and not the default's for any.
            let settled = GEAR[usize::from(byte)].wrapping_neg();
            let bits = if byte == 0 { 6 } else { 13 };
            assert!(settled.leading_zeros() < bits, "byte {byte:#04x}");
        }
        let chunker = Chunker::default();
        let max = chunker.sizes().max() as usize;
        let zeros = vec![0; max * 3 + 5];
        let lengths: Vec<usize> = chunker.chunks(&zeros).map(<[u8]>::len).collect();
        assert_eq!(lengths, [max, max, max, 5]);
    }

    #[test]
    fn sizes_that_cannot_be_cut_by_are_refused() {
        assert!(ChunkSizes::new(8192, 32_768, 131_072).is_ok());
        for (min, average, max, right) in [
            (8192, 30_000, 131_072, "average"),
            (8192, 0, 131_072, "average"),
            (63, 32_768, 131_072, "smallest"),
            (32_768, 32_768, 131_072, "smallest"),
            (8192, 32_768, 32_768, "largest"),
            (8192, 32_768, MAX_CHUNK + 1, "largest"),
        ] {
            let error = ChunkSizes::new(min, average, max).unwrap_err().to_string();
            assert!(error.contains(right), "{error}");
        }
    }

    #[test]
    fn sizes_gather_round_the_average() {
        let data = noise(7, 32 << 20);
        let chunker = Chunker::default();
        let count = chunker.chunks(&data).count();
        let mean = data.len() / count;
        assert!((26_000..44_000).contains(&mean), "{mean}");
        let at_max = chunker
            .chunks(&data)
            .filter(|chunk| chunk.len() == 128 << 10)
            .count();
        assert!(at_max * 200 < count, "{at_max} of {count} cut by force");
    }

    #[test]
    fn bytes_put_in_front_leave_nearly_all_chunks_as_they_were() {
        let data = noise(3, 8 << 20);
        let chunker = Chunker::default();
        let known: std::collections::HashSet<&[u8]> = chunker.chunks(&data).collect();
        for shift in [1, 7, 512, 4096, 100_000] {
            let mut moved = noise(99, shift);
            moved.extend_from_slice(&data);
            let kept: usize = chunker
                .chunks(&moved)
                .filter(|chunk| known.contains(chunk))
                .map(<[u8]>::len)
                .sum();
            assert!(
                data.len() - kept < 512 << 10,
                "shift {shift}: {kept} bytes found again"
            );
        }
    }

    proptest! {
        #[test]
        fn chunks_join_to_the_data_and_keep_the_sizes(seed: u64, len in 0usize..40_000) {
            let data = noise(seed, len);
            let chunks: Vec<&[u8]> = small().chunks(&data).collect();
            prop_assert_eq!(&chunks.concat(), &data);
            for chunk in chunks.iter().rev().skip(1) {
                prop_assert!((128..=2048).contains(&chunk.len()));
            }
        }

        #[test]
        fn cuts_follow_the_definition(seed: u64, len in 1usize..5000) {
            let data = noise(seed, len);
            prop_assert_eq!(
                small().cut(&data, true),
                Some(cut_by_definition(small().sizes(), &data))
            );
        }

        #[test]
        fn cuts_are_the_same_however_the_stream_is_split(
            seed: u64,
            len in 0usize..20_000,
            pieces in prop::collection::vec(1usize..3000, 1..60),
        ) {
            let data = noise(seed, len);
            let whole: Vec<usize> = small().chunks(&data).map(<[u8]>::len).collect();
            let mut streamed = Vec::new();
            let (mut buffer, mut fed) = (Vec::new(), 0);
            for piece in pieces.iter().cycle() {
                let end = (fed + piece).min(data.len());
                buffer.extend_from_slice(&data[fed..end]);
                fed = end;
                while let Some(cut) = small().cut(&buffer, fed == data.len()) {
                    buffer.drain(..cut);
                    streamed.push(cut);
                }
                if fed == data.len() {
                    break;
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(streamed, whole);
        }
    }
}
