//! The bytes of an index run: a header page, entry pages, filter pages, a tail.
//!
//! Every page has 4096 bytes: 4064 of content, then
//!
//! | at | bytes | |
//! |---|---|---|
//! | 4064 | 2 | entries (entry pages), 0 elsewhere |
//! | 4066 | 10 | zero |
//! | 4076 | 8 | the run's number |
//! | 4084 | 8 | the page's number in the file |
//! | 4092 | 4 | CRC-32C of bytes 0..4092 |
//!
//! | header page (number 0) | bytes | |
//! |---|---|---|
//! | 0 | 8 | `P2VINDX1` |
//! | 8 | 8 | entries |
//! | 16 | 8 | entry pages |
//! | 24 | 8 | filter pages |
//! | 32 | 8 | filter blocks |
//! | 40 | 8 | bytes of the tail |
//! | 48 | 8 | sum of the raw lengths |
//! | 56 | 8 | sum of the payload lengths |
//! | 64 | 4 | CRC-32C of the tail |
//!
//! | entry | bytes | |
//! |---|---|---|
//! | 0 | 16 | the first half of the chunk's name |
//! | 16 | 4 | pack |
//! | 20 | 4 | offset of the record in it |
//! | 24 | 4 | length of the payload |
//! | 28 | 4 | length of the raw chunk |
//!
//! Entries are sorted by the first 16 bytes and no two have the same. A filter page holds 63 blocks
//! of 512 bits. The tail is the first 8 bytes of the first entry of every entry page, then the ranges
//! of packs whose records the run knows, 12 bytes each: pack, start, end. Numbers are little-endian.
//!
//! **Why half a name is enough.** With 10^10 chunks (300 TB at 32 KiB) the chance that any two
//! differing chunks share 128 bits is 10^20 / 2^129, below 2 in 10^19. It never gives wrong bytes: a
//! record carries the whole name, and it is checked at every read.

use crate::bytes::{array, printable, put, u16_at, u32_at, u64_at};
use crate::error::Lie;
use crate::pack::Location;

pub(crate) const PAGE: usize = 4096;
const CONTENT: usize = 4064;
pub(crate) const ENTRY_LEN: usize = 32;
pub(crate) const ENTRIES_A_PAGE: usize = CONTENT / ENTRY_LEN;
pub(crate) const BLOCK_LEN: usize = 64;
pub(crate) const BLOCKS_A_PAGE: usize = CONTENT / BLOCK_LEN;
pub(crate) const RANGE_LEN: usize = 12;
const MAGIC: [u8; 8] = *b"P2VINDX1";

/// The first half of a chunk's name.
pub(crate) type Key = [u8; 16];

/// The part of a key that fences and filter blocks go by; sorts as the keys do.
pub(crate) fn high(key: &Key) -> u64 {
    u64::from_be_bytes(array(key, 0))
}

/// A key and where its chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) location: Location,
}

impl Entry {
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        Self {
            key: array(bytes, 0),
            location: Location {
                pack: u32_at(bytes, 16),
                offset: u32_at(bytes, 20),
                stored_len: u32_at(bytes, 24),
                raw_len: u32_at(bytes, 28),
            },
        }
    }

    pub(crate) fn encode(&self, bytes: &mut [u8]) {
        put(bytes, 0, &self.key);
        put(bytes, 16, &self.location.pack.to_le_bytes());
        put(bytes, 20, &self.location.offset.to_le_bytes());
        put(bytes, 24, &self.location.stored_len.to_le_bytes());
        put(bytes, 28, &self.location.raw_len.to_le_bytes());
    }
}

/// What the header page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Header {
    pub(crate) entries: u64,
    pub(crate) entry_pages: u64,
    pub(crate) filter_pages: u64,
    pub(crate) filter_blocks: u64,
    pub(crate) tail_len: u64,
    pub(crate) raw_sum: u64,
    pub(crate) stored_sum: u64,
    pub(crate) tail_crc: u32,
}

impl Header {
    pub(crate) fn encode(&self, page: &mut [u8; PAGE]) {
        put(page, 0, &MAGIC);
        let numbers = [
            self.entries,
            self.entry_pages,
            self.filter_pages,
            self.filter_blocks,
            self.tail_len,
            self.raw_sum,
            self.stored_sum,
        ];
        for (index, number) in numbers.into_iter().enumerate() {
            put(page, 8 + index * 8, &number.to_le_bytes());
        }
        put(page, 64, &self.tail_crc.to_le_bytes());
    }

    /// Decode the header of a file of `file_len` bytes, its numbers consistent with each other.
    pub(crate) fn decode(page: &[u8; PAGE], file_len: u64) -> Result<Self, Lie> {
        if page[..8] != MAGIC {
            return Err(Lie::Magic {
                expected: printable(&MAGIC),
                found: printable(&page[..8]),
            });
        }
        let header = Self {
            entries: u64_at(page, 8),
            entry_pages: u64_at(page, 16),
            filter_pages: u64_at(page, 24),
            filter_blocks: u64_at(page, 32),
            tail_len: u64_at(page, 40),
            raw_sum: u64_at(page, 48),
            stored_sum: u64_at(page, 56),
            tail_crc: u32_at(page, 64),
        };
        let wanted = [
            (
                "the number of entry pages",
                header.entries.div_ceil(ENTRIES_A_PAGE as u64),
                header.entry_pages,
            ),
            (
                "the number of filter pages",
                header.filter_blocks.div_ceil(BLOCKS_A_PAGE as u64),
                header.filter_pages,
            ),
            ("the file's length", header.file_len(), file_len),
        ];
        for (what, expected, found) in wanted {
            if expected != found {
                return Err(Lie::Value {
                    what,
                    expected,
                    found,
                });
            }
        }
        let fences = header.entry_pages.saturating_mul(8);
        let ranges = header.tail_len.checked_sub(fences);
        if ranges.is_none_or(|ranges| ranges % RANGE_LEN as u64 != 0) || header.filter_blocks == 0 {
            return Err(Lie::Value {
                what: "the length of the tail",
                expected: fences,
                found: header.tail_len,
            });
        }
        Ok(header)
    }

    /// Where the tail begins.
    pub(crate) fn tail_at(&self) -> u64 {
        self.entry_pages
            .saturating_add(self.filter_pages)
            .saturating_add(1)
            .saturating_mul(PAGE as u64)
    }

    fn file_len(&self) -> u64 {
        self.tail_at().saturating_add(self.tail_len)
    }
}

/// Complete a page: how many entries, which run, which page, checksum.
pub(crate) fn seal(page: &mut [u8; PAGE], entries: usize, run: u64, number: u64) {
    put(page, 4064, &(entries as u16).to_le_bytes());
    put(page, 4066, &[0; 10]);
    put(page, 4076, &run.to_le_bytes());
    put(page, 4084, &number.to_le_bytes());
    let crc = crc32c::crc32c(&page[..4092]);
    put(page, 4092, &crc.to_le_bytes());
}

/// Check a page of `run` at place `number`, and answer how many entries it says it has.
pub(crate) fn check(page: &[u8; PAGE], run: u64, number: u64) -> Result<usize, Lie> {
    let expected = u32_at(page, 4092);
    let found = crc32c::crc32c(&page[..4092]);
    if expected != found {
        return Err(Lie::Checksum {
            what: "the index page",
            expected,
            found,
        });
    }
    for (what, expected, at) in [
        ("the page's run", run, 4076),
        ("the page's number", number, 4084),
    ] {
        let found = u64_at(page, at);
        if found != expected {
            return Err(Lie::Value {
                what,
                expected,
                found,
            });
        }
    }
    let entries = usize::from(u16_at(page, 4064));
    if entries > ENTRIES_A_PAGE {
        return Err(Lie::Value {
            what: "the page's entries, at most",
            expected: ENTRIES_A_PAGE as u64,
            found: entries as u64,
        });
    }
    Ok(entries)
}

/// Keys per filter block: 42 keys share 512 bits, 12.2 bits a key, about 0.7 % false answers with
/// seven bits set.
const KEYS_A_BLOCK: u64 = 42;

/// Filter blocks for so many keys.
pub(crate) fn blocks_for(keys: u64) -> u64 {
    keys.div_ceil(KEYS_A_BLOCK).max(1)
}

/// The filter block of a key: they follow the order of the keys.
pub(crate) fn block_of(key: &Key, blocks: u64) -> u64 {
    ((u128::from(high(key)) * u128::from(blocks)) >> 64) as u64
}

/// The seven bits of a key in its block: names are hashes, so their bits serve as they are.
pub(crate) fn bits_of(key: &Key) -> [usize; 7] {
    let bits = u64_at(key, 8);
    std::array::from_fn(|index| (bits >> (index * 9)) as usize & 511)
}
