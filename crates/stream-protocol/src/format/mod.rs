//! The binary bodies: queries, their answers, chunk batches and recipe appends.
//!
//! All numbers are little-endian. Each body begins with the same 16 bytes ([`HEADER`]) and is exactly as
//! long as its counts say: no decoder allocates for a count before that many bytes are at hand, and
//! bytes left over are an error. The tables of this module ([`TABLES`]) are printed in
//! `docs/stream-protocol.md`.

mod error;
mod tables;

use bytes::Bytes;
use chunking::{ChunkId, Codec, MAX_CHUNK, Packed};

pub use error::{FrameError, StoredRange};
pub use tables::{APPEND_HEADER, ENTRY, Field, HEADER, RECORD, TABLES, Table};

use crate::recipe::{ENTRY_LEN, RecipeEntry};

/// Bytes of the common header.
pub const HEADER_LEN: usize = 16;
/// Bytes of the header of a recipe append.
pub const APPEND_HEADER_LEN: usize = 24;
/// Bytes of one record of a batch's table.
pub const RECORD_LEN: usize = 44;
/// The version in every header.
pub const FRAME_VERSION: u16 = 1;
/// Flag of a recipe append: what the recipe has from the first entry on is replaced.
pub const FLAG_REPLACE: u16 = 1;

/// Magic of a query.
pub const MAGIC_QUERY: [u8; 4] = *b"P2VQ";
/// Magic of an answer.
pub const MAGIC_ANSWER: [u8; 4] = *b"P2VA";
/// Magic of a chunk batch.
pub const MAGIC_BATCH: [u8; 4] = *b"P2VC";
/// Magic of a recipe append.
pub const MAGIC_APPEND: [u8; 4] = *b"P2VR";

/// "Which of these do you lack?" The header, then `count` ids of 32 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The ids asked for.
    pub ids: Vec<ChunkId>,
}

/// The answer to a query: the header, then one bit an id, lowest bit of the first byte first; set
/// means "lacking, send it". Unused bits of the last byte are 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For each id of the query whether it is lacking.
    pub lacking: Vec<bool>,
}

/// A chunk as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedChunk {
    /// Its name.
    pub id: ChunkId,
    /// Bytes when unpacked.
    pub raw_len: u32,
    /// How `bytes` are coded.
    pub codec: Codec,
    /// The coded bytes; cheap to clone.
    pub bytes: Bytes,
}

/// A chunk in a received batch: its bytes are a part of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord<'a> {
    /// The name it claims.
    pub id: ChunkId,
    /// Bytes when unpacked, as claimed.
    pub raw_len: u32,
    /// How `bytes` are coded.
    pub codec: Codec,
    /// The coded bytes.
    pub bytes: &'a [u8],
}

/// Chunks on their way in: the header, a table of `count` records of 44 bytes, then the stored bytes
/// of all records one behind the other in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The chunks, not yet verified against their names.
    pub chunks: Vec<ChunkRecord<'a>>,
}

/// More of a recipe: a header of 24 bytes, then `count` entries of 44 bytes in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Index of the first entry, counted from the disk's beginning.
    pub start: u64,
    /// Replace whatever the recipe has from `start` on, instead of comparing.
    pub replace: bool,
    /// The entries.
    pub entries: Vec<RecipeEntry>,
}

impl From<Packed> for PackedChunk {
    fn from(packed: Packed) -> Self {
        Self {
            id: packed.id,
            raw_len: packed.raw_len,
            codec: packed.codec,
            bytes: packed.bytes.into(),
        }
    }
}

impl PackedChunk {
    /// Bytes it takes in a batch, its record included.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        RECORD_LEN + self.bytes.len()
    }
}

impl Query {
    /// Bytes of a query of `count` ids.
    #[must_use]
    pub fn len_for(count: u32) -> u64 {
        HEADER_LEN as u64 + u64::from(count) * ChunkId::LEN as u64
    }

    /// As it travels.
    #[must_use]
    pub fn encode(ids: &[ChunkId]) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEADER_LEN + ids.len() * ChunkId::LEN);
        put_header(&mut body, MAGIC_QUERY, 0, ids.len());
        for id in ids {
            body.extend_from_slice(id.as_bytes());
        }
        body
    }

    /// Read a query of at most `most` ids.
    ///
    /// # Errors
    /// [`FrameError`], one variant a lie.
    pub fn decode(body: &[u8], most: u32) -> Result<Self, FrameError> {
        let what = "query";
        let header = Header::read(what, MAGIC_QUERY, 0, body)?;
        header.check_count(what, most)?;
        check_len(what, Self::len_for(header.count), body)?;
        let (ids, _) = header.rest.as_chunks::<{ ChunkId::LEN }>();
        Ok(Self {
            ids: ids.iter().map(|id| ChunkId(*id)).collect(),
        })
    }
}

impl Answer {
    /// Bytes of an answer of `count` bits.
    #[must_use]
    pub fn len_for(count: u32) -> u64 {
        HEADER_LEN as u64 + u64::from(count.div_ceil(8))
    }

    /// As it travels.
    #[must_use]
    pub fn encode(lacking: &[bool]) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEADER_LEN + lacking.len().div_ceil(8));
        put_header(&mut body, MAGIC_ANSWER, 0, lacking.len());
        body.extend(lacking.chunks(8).map(|bits| {
            let ones = bits.iter().enumerate().filter(|(_, lacks)| **lacks);
            ones.fold(0_u8, |byte, (bit, _)| byte | 1 << bit)
        }));
        body
    }

    /// Read the answer to a query of `asked` ids.
    ///
    /// # Errors
    /// [`FrameError`], one variant a lie.
    pub fn decode(body: &[u8], asked: u32) -> Result<Self, FrameError> {
        let what = "answer";
        let header = Header::read(what, MAGIC_ANSWER, 0, body)?;
        if header.count != asked {
            return Err(FrameError::AnswerCount {
                expected: asked,
                found: header.count,
            });
        }
        check_len(what, Self::len_for(asked), body)?;
        let bit = |index: usize| {
            header
                .rest
                .get(index / 8)
                .is_some_and(|b| b >> (index % 8) & 1 == 1)
        };
        if let (Some(last), used @ 1..) = (header.rest.last(), asked % 8)
            && last >> used != 0
        {
            return Err(FrameError::Reserved {
                what,
                position: Self::len_for(asked) - 1,
                found: u32::from(*last >> used << used),
            });
        }
        Ok(Self {
            lacking: (0..asked as usize).map(bit).collect(),
        })
    }
}

impl<'a> Batch<'a> {
    /// As it travels: header and table in one piece, then the bytes of each chunk, not copied.
    #[must_use]
    pub fn encode(chunks: &[PackedChunk]) -> Vec<Bytes> {
        let mut table = Vec::with_capacity(HEADER_LEN + chunks.len() * RECORD_LEN);
        put_header(&mut table, MAGIC_BATCH, 0, chunks.len());
        for chunk in chunks {
            table.extend_from_slice(chunk.id.as_bytes());
            table.extend_from_slice(&chunk.raw_len.to_le_bytes());
            table.extend_from_slice(&(chunk.bytes.len() as u32).to_le_bytes());
            table.push(chunk.codec.code());
            table.extend_from_slice(&[0; 3]);
        }
        let mut pieces = Vec::with_capacity(chunks.len() + 1);
        pieces.push(table.into());
        pieces.extend(chunks.iter().map(|chunk| chunk.bytes.clone()));
        pieces
    }

    /// Read a batch. Its chunks are not unpacked here: [`chunking::unpack`] verifies each.
    ///
    /// # Errors
    /// [`FrameError`], one variant a lie.
    pub fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        let what = "chunk batch";
        let header = Header::read(what, MAGIC_BATCH, 0, body)?;
        let table_len = u64::from(header.count) * RECORD_LEN as u64;
        let Some((table, mut payload)) = usize::try_from(table_len)
            .ok()
            .and_then(|len| header.rest.split_at_checked(len))
        else {
            return Err(truncated(what, HEADER_LEN as u64 + table_len, body));
        };
        let (records, _) = table.as_chunks::<RECORD_LEN>();
        let mut chunks = Vec::with_capacity(records.len());
        let mut promised = HEADER_LEN as u64 + table_len;
        for (index, record) in records.iter().enumerate() {
            let (raw, stored_len) = read_record(record, (HEADER_LEN + index * RECORD_LEN) as u64)?;
            promised += u64::from(stored_len);
            let Some((bytes, rest)) = payload.split_at_checked(stored_len as usize) else {
                return Err(truncated(what, promised, body));
            };
            payload = rest;
            chunks.push(ChunkRecord { bytes, ..raw });
        }
        check_len(what, promised, body)?;
        Ok(Self { chunks })
    }
}

impl Append {
    /// Bytes of an append of `count` entries.
    #[must_use]
    pub fn len_for(count: u32) -> u64 {
        APPEND_HEADER_LEN as u64 + u64::from(count) * ENTRY_LEN as u64
    }

    /// As it travels.
    #[must_use]
    pub fn encode<'e>(
        start: u64,
        replace: bool,
        entries: impl ExactSizeIterator<Item = &'e RecipeEntry>,
    ) -> Vec<u8> {
        let mut body = Vec::with_capacity(APPEND_HEADER_LEN + entries.len() * ENTRY_LEN);
        let flags = if replace { FLAG_REPLACE } else { 0 };
        put_header(&mut body, MAGIC_APPEND, flags, entries.len());
        body.extend_from_slice(&start.to_le_bytes());
        for entry in entries {
            body.extend_from_slice(&entry.to_bytes());
        }
        body
    }

    /// Read an append of at most `most` entries.
    ///
    /// # Errors
    /// [`FrameError`], one variant a lie.
    pub fn decode(body: &[u8], most: u32) -> Result<Self, FrameError> {
        let what = "recipe append";
        let header = Header::read(what, MAGIC_APPEND, FLAG_REPLACE, body)?;
        header.check_count(what, most)?;
        check_len(what, Self::len_for(header.count), body)?;
        let Some((start, entries)) = header.rest.split_first_chunk::<8>() else {
            return Err(truncated(what, Self::len_for(header.count), body));
        };
        let (rows, _) = entries.as_chunks::<ENTRY_LEN>();
        let mut entries = Vec::with_capacity(rows.len());
        let mut end = 0;
        for (index, row) in rows.iter().enumerate() {
            let entry = RecipeEntry::from_bytes(row);
            let position = (APPEND_HEADER_LEN + index * ENTRY_LEN) as u64;
            if entry.len == 0 || entry.len > MAX_CHUNK {
                return Err(FrameError::EntryLength {
                    position: position + 8,
                    found: entry.len,
                });
            }
            end = match entry.end() {
                Some(its_end) if entry.offset >= end => its_end,
                _ => {
                    return Err(FrameError::EntryOrder {
                        position,
                        expected: end,
                        found: entry.offset,
                    });
                }
            };
            entries.push(entry);
        }
        Ok(Self {
            start: u64::from_le_bytes(*start),
            replace: header.flags & FLAG_REPLACE != 0,
            entries,
        })
    }
}

struct Header<'a> {
    flags: u16,
    count: u32,
    rest: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(
        what: &'static str,
        magic: [u8; 4],
        known_flags: u16,
        body: &'a [u8],
    ) -> Result<Self, FrameError> {
        let Some((header, rest)) = body.split_first_chunk::<HEADER_LEN>() else {
            return Err(truncated(what, HEADER_LEN as u64, body));
        };
        let [
            m0,
            m1,
            m2,
            m3,
            v0,
            v1,
            f0,
            f1,
            c0,
            c1,
            c2,
            c3,
            r0,
            r1,
            r2,
            r3,
        ] = *header;
        let found = [m0, m1, m2, m3];
        if found != magic {
            return Err(FrameError::Magic {
                what,
                expected: magic,
                found,
            });
        }
        let found = u16::from_le_bytes([v0, v1]);
        if found != FRAME_VERSION {
            return Err(FrameError::Version { what, found });
        }
        let flags = u16::from_le_bytes([f0, f1]);
        if flags & !known_flags != 0 {
            return Err(FrameError::Flags {
                what,
                expected: known_flags,
                found: flags,
            });
        }
        let found = u32::from_le_bytes([r0, r1, r2, r3]);
        if found != 0 {
            return Err(FrameError::Reserved {
                what,
                position: 12,
                found,
            });
        }
        Ok(Self {
            flags,
            count: u32::from_le_bytes([c0, c1, c2, c3]),
            rest,
        })
    }

    fn check_count(&self, what: &'static str, most: u32) -> Result<(), FrameError> {
        if self.count > most {
            return Err(FrameError::TooMany {
                what,
                expected: most,
                found: self.count,
            });
        }
        Ok(())
    }
}

/// A record's claims, its bytes still missing, and how many those are.
fn read_record(
    record: &[u8; RECORD_LEN],
    position: u64,
) -> Result<(ChunkRecord<'static>, u32), FrameError> {
    let (mut id, mut raw, mut stored) = ([0; 32], [0; 4], [0; 4]);
    id.copy_from_slice(&record[0..32]);
    raw.copy_from_slice(&record[32..36]);
    stored.copy_from_slice(&record[36..40]);
    let [.., code, r0, r1, r2] = *record;
    let (raw_len, stored_len) = (u32::from_le_bytes(raw), u32::from_le_bytes(stored));
    if raw_len == 0 || raw_len > MAX_CHUNK {
        return Err(FrameError::RawLength {
            position: position + 32,
            found: raw_len,
        });
    }
    let Some(codec) = Codec::from_code(code) else {
        return Err(FrameError::Codec {
            position: position + 40,
            found: code,
        });
    };
    let expected = match codec {
        Codec::Raw => StoredRange {
            least: raw_len,
            most: raw_len,
        },
        Codec::Zstd => StoredRange {
            least: 1,
            most: raw_len,
        },
    };
    if stored_len < expected.least || stored_len > expected.most {
        return Err(FrameError::StoredLength {
            position: position + 36,
            expected,
            found: stored_len,
        });
    }
    let reserved = u32::from_le_bytes([r0, r1, r2, 0]);
    if reserved != 0 {
        return Err(FrameError::Reserved {
            what: "chunk batch",
            position: position + 41,
            found: reserved,
        });
    }
    let raw = ChunkRecord {
        id: ChunkId(id),
        raw_len,
        codec,
        bytes: &[],
    };
    Ok((raw, stored_len))
}

fn put_header(body: &mut Vec<u8>, magic: [u8; 4], flags: u16, count: usize) {
    body.extend_from_slice(&magic);
    body.extend_from_slice(&FRAME_VERSION.to_le_bytes());
    body.extend_from_slice(&flags.to_le_bytes());
    // Nobody can hold 2^32 items of 32 bytes; a wrong count would be refused by the other side.
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    body.extend_from_slice(&count.to_le_bytes());
    body.extend_from_slice(&[0; 4]);
}

fn check_len(what: &'static str, expected: u64, body: &[u8]) -> Result<(), FrameError> {
    let found = body.len() as u64;
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => Err(truncated(what, expected, body)),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(FrameError::Overlong {
            what,
            expected,
            found,
        }),
    }
}

fn truncated(what: &'static str, expected: u64, body: &[u8]) -> FrameError {
    FrameError::Truncated {
        what,
        expected,
        found: body.len() as u64,
    }
}
