//! The bytes of a recipe file: pages of 4096 bytes, only ever appended.
//!
//! | page | bytes | |
//! |---|---|---|
//! | 0 | 93 × 44 | entries in their canonical encoding; unused places, all at the end, are zero |
//! | 4092 | 4 | CRC-32C of bytes 0..4092 and of the page's number (8 bytes, little-endian) |
//!
//! A page may hold fewer entries than fit: every checkpoint of a push begins a new page, so that what
//! was made durable is never written again. Entries are in the order of their offsets and do not
//! overlap.

use crate::bytes::{put, u32_at};
use crate::error::Lie;
use crate::recipe::RecipeEntry;

pub(crate) const PAGE: usize = 4096;
pub(crate) const ENTRIES_A_PAGE: usize = 93;
const CRC_AT: usize = ENTRIES_A_PAGE * RecipeEntry::ENCODED_LEN;
const _: () = assert!(CRC_AT + 4 == PAGE);

/// Page `number` with up to [`ENTRIES_A_PAGE`] entries.
pub(crate) fn encode_page(number: u64, entries: &[RecipeEntry]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for (index, entry) in entries.iter().take(ENTRIES_A_PAGE).enumerate() {
        put(&mut page, index * RecipeEntry::ENCODED_LEN, &entry.encode());
    }
    let crc = checksum(&page, number);
    put(&mut page, CRC_AT, &crc.to_le_bytes());
    page
}

/// The entries of page `number`: at least one, in order, none empty.
pub(crate) fn decode_page(number: u64, page: &[u8; PAGE]) -> Result<Vec<RecipeEntry>, Lie> {
    let expected = u32_at(page, CRC_AT);
    let found = checksum(page, number);
    if expected != found {
        return Err(Lie::Checksum {
            what: "the recipe page",
            expected,
            found,
        });
    }
    let (places, _) = page[..CRC_AT].as_chunks::<{ RecipeEntry::ENCODED_LEN }>();
    let mut entries: Vec<RecipeEntry> = Vec::with_capacity(ENTRIES_A_PAGE);
    for place in places {
        let entry = RecipeEntry::decode(place);
        if entry.len == 0 {
            break;
        }
        let earliest = entries.last().map_or(0, RecipeEntry::end);
        if entry.offset < earliest {
            return Err(Lie::Value {
                what: "an entry's offset, at least",
                expected: earliest,
                found: entry.offset,
            });
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(Lie::Value {
            what: "the page's entries, at least",
            expected: 1,
            found: 0,
        });
    }
    Ok(entries)
}

fn checksum(page: &[u8; PAGE], number: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page[..CRC_AT]), &number.to_le_bytes())
}
