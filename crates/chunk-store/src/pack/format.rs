//! The bytes of a pack: a header, then records one after the other, nothing between them.
//!
//! | pack header | bytes | |
//! |---|---|---|
//! | 0 | 8 | `P2VPACK1` |
//! | 8 | 4 | the pack's number |
//! | 12 | 4 | CRC-32C of bytes 0..12 |
//!
//! | record | bytes | |
//! |---|---|---|
//! | 0 | 4 | `P2VC` |
//! | 4 | 1 | codec: 0 raw, 1 one Zstandard frame |
//! | 5 | 3 | zero |
//! | 8 | 4 | length of the raw chunk |
//! | 12 | 4 | length of the payload |
//! | 16 | 32 | BLAKE3 of the raw chunk |
//! | 48 | 4 | CRC-32C of the payload |
//! | 52 | 4 | CRC-32C of bytes 0..52 |
//! | 56 | | the payload |
//!
//! | void | bytes | |
//! |---|---|---|
//! | 0 | 4 | `P2VV` |
//! | 4 | 4 | how many bytes from here on hold nothing, at least 56 |
//! | 8 | 44 | zero |
//! | 52 | 4 | CRC-32C of bytes 0..52 |
//!
//! A power cut may lose one write and keep a later one. Opening the store puts a void over such a
//! hole in a pack, so that it does not look like damage for ever.
//!
//! All numbers are little-endian. The header has a checksum of its own so that a damaged payload
//! does not hide the records behind it; it covers the payload's, so together they cover the record.

use chunking::{ChunkId, Codec, MAX_CHUNK, Packed};

use crate::bytes::{array, printable, put, u32_at};
use crate::error::Lie;

pub(crate) const PACK_HEADER_LEN: usize = 16;
pub(crate) const RECORD_HEADER_LEN: usize = 56;
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"P2VC";
const PACK_MAGIC: [u8; 8] = *b"P2VPACK1";

/// The header of pack `number`.
pub(crate) fn pack_header(number: u32) -> [u8; PACK_HEADER_LEN] {
    let mut bytes = [0; PACK_HEADER_LEN];
    put(&mut bytes, 0, &PACK_MAGIC);
    put(&mut bytes, 8, &number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    put(&mut bytes, 12, &crc.to_le_bytes());
    bytes
}

/// Check the header of pack `number`.
pub(crate) fn check_pack_header(bytes: &[u8; PACK_HEADER_LEN], number: u32) -> Result<(), Lie> {
    if bytes[..8] != PACK_MAGIC {
        return Err(Lie::Magic {
            expected: printable(&PACK_MAGIC),
            found: printable(&bytes[..8]),
        });
    }
    check_crc("the pack header", u32_at(bytes, 12), &bytes[..12])?;
    let found = u32_at(bytes, 8);
    if found != number {
        return Err(Lie::Value {
            what: "the pack's number",
            expected: u64::from(number),
            found: u64::from(found),
        });
    }
    Ok(())
}

/// What a record says of its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) id: ChunkId,
    pub(crate) codec: Codec,
    pub(crate) raw_len: u32,
    pub(crate) stored_len: u32,
    pub(crate) payload_crc: u32,
}

impl RecordHeader {
    /// The length of the whole record.
    pub(crate) fn record_len(&self) -> u64 {
        RECORD_HEADER_LEN as u64 + u64::from(self.stored_len)
    }

    pub(crate) fn decode(bytes: &[u8; RECORD_HEADER_LEN]) -> Result<Self, Lie> {
        if bytes[..4] != RECORD_MAGIC {
            return Err(Lie::Magic {
                expected: printable(&RECORD_MAGIC),
                found: printable(&bytes[..4]),
            });
        }
        check_crc("the record header", u32_at(bytes, 52), &bytes[..52])?;
        let codec = Codec::from_code(bytes[4]).ok_or(Lie::Value {
            what: "the codec, at most",
            expected: 1,
            found: u64::from(bytes[4]),
        })?;
        let raw_len = u32_at(bytes, 8);
        let stored_len = u32_at(bytes, 12);
        check_len("the chunk's length, at most", raw_len, MAX_CHUNK)?;
        check_len("the payload's length, at most", stored_len, raw_len)?;
        Ok(Self {
            id: ChunkId(array(bytes, 16)),
            codec,
            raw_len,
            stored_len,
            payload_crc: u32_at(bytes, 48),
        })
    }

    /// Check `payload` against its checksum.
    pub(crate) fn check_payload(&self, payload: &[u8]) -> Result<(), Lie> {
        check_crc("the payload", self.payload_crc, payload)
    }
}

/// Append the record of `chunk` to `out`. The caller has verified the chunk.
pub(crate) fn encode_record(chunk: &Packed, out: &mut Vec<u8>) {
    let mut header = [0; RECORD_HEADER_LEN];
    put(&mut header, 0, &RECORD_MAGIC);
    header[4] = chunk.codec.code();
    put(&mut header, 8, &chunk.raw_len.to_le_bytes());
    put(&mut header, 12, &(chunk.bytes.len() as u32).to_le_bytes());
    put(&mut header, 16, chunk.id.as_bytes());
    put(&mut header, 48, &crc32c::crc32c(&chunk.bytes).to_le_bytes());
    let crc = crc32c::crc32c(&header[..52]);
    put(&mut header, 52, &crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(&chunk.bytes);
}

const VOID_MAGIC: [u8; 4] = *b"P2VV";

/// A void of `len` bytes.
pub(crate) fn void(len: u32) -> [u8; RECORD_HEADER_LEN] {
    let mut bytes = [0; RECORD_HEADER_LEN];
    put(&mut bytes, 0, &VOID_MAGIC);
    put(&mut bytes, 4, &len.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..52]);
    put(&mut bytes, 52, &crc.to_le_bytes());
    bytes
}

/// The length of the void that begins with `bytes`, if one does.
pub(crate) fn decode_void(bytes: &[u8; RECORD_HEADER_LEN]) -> Option<u64> {
    let len = u32_at(bytes, 4);
    let is_void = bytes[..4] == VOID_MAGIC
        && u32_at(bytes, 52) == crc32c::crc32c(&bytes[..52])
        && len as usize >= RECORD_HEADER_LEN;
    is_void.then_some(u64::from(len))
}

fn check_crc(what: &'static str, expected: u32, bytes: &[u8]) -> Result<(), Lie> {
    let found = crc32c::crc32c(bytes);
    if found == expected {
        return Ok(());
    }
    Err(Lie::Checksum {
        what,
        expected,
        found,
    })
}

fn check_len(what: &'static str, found: u32, most: u32) -> Result<(), Lie> {
    if (1..=most).contains(&found) {
        return Ok(());
    }
    Err(Lie::Value {
        what,
        expected: u64::from(most),
        found: u64::from(found),
    })
}
