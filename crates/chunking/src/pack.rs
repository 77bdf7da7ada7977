//! Chunks on the wire and in a store: compressed where that saves something, verified on the way out.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use crate::{ChunkId, MAX_CHUNK};

/// Compression must save at least one part in this many, or the chunk is kept raw: reading it later
/// is then a copy.
pub const MIN_SAVING: usize = 32;

/// How the bytes of a [`Packed`] chunk are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    Raw,
    /// One Zstandard frame [RFC 8878] that states its content size.
    Zstd,
}

impl Codec {
    /// Its number on the wire and in packs.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Codec::Raw => 0,
            Codec::Zstd => 1,
        }
    }

    /// The codec with this number, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// A chunk ready to be sent or kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The name of the raw bytes.
    pub id: ChunkId,
    /// How many raw bytes there are.
    pub raw_len: u32,
    /// How `bytes` are coded.
    pub codec: Codec,
    /// The coded bytes, never more than `raw_len`.
    pub bytes: Vec<u8>,
}

impl Packed {
    /// The raw bytes, verified; see [`unpack`].
    ///
    /// # Errors
    /// [`UnpackError`] where the chunk is not what it says.
    pub fn unpack(&self) -> Result<Vec<u8>, UnpackError> {
        unpack(&self.id, self.raw_len, self.codec, &self.bytes)
    }
}

/// Why bytes cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// More bytes than a chunk may have.
    #[error("a chunk has at most {MAX_CHUNK} bytes, found {found}")]
    TooLong {
        /// Bytes given.
        found: usize,
    },
    /// No bytes.
    #[error("a chunk has at least one byte, found none")]
    Empty,
}

/// The ways a packed chunk can lie.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The stated length is 0.
    #[error("chunk {id} says it has no bytes")]
    Empty {
        /// Its name.
        id: ChunkId,
    },
    /// The stated length is above [`MAX_CHUNK`].
    #[error("chunk {id} says it has {found} bytes, expected at most {MAX_CHUNK}")]
    TooLong {
        /// Its name.
        id: ChunkId,
        /// The stated length.
        found: u32,
    },
    /// A raw chunk whose bytes are not as many as stated.
    #[error("raw chunk {id} has {found} bytes, expected {expected}")]
    RawLength {
        /// Its name.
        id: ChunkId,
        /// The stated length.
        expected: u32,
        /// The bytes there are.
        found: usize,
    },
    /// A compressed chunk that is no shorter than its raw bytes: nobody packs so.
    #[error("compressed chunk {id} has {found} bytes, expected fewer than its {raw_len} raw ones")]
    NotSmaller {
        /// Its name.
        id: ChunkId,
        /// The stated length.
        raw_len: u32,
        /// The bytes there are.
        found: usize,
    },
    /// The frame header is not one, or does not state the content's size.
    #[error("compressed chunk {id} does not begin with a zstd frame header that states its size")]
    NoFrame {
        /// Its name.
        id: ChunkId,
    },
    /// The frame states another content size than the chunk.
    #[error("the zstd frame of chunk {id} states {found} bytes, expected {expected}")]
    FrameSize {
        /// Its name.
        id: ChunkId,
        /// The length the chunk states.
        expected: u32,
        /// The length the frame states.
        found: u64,
    },
    /// Bytes follow the frame, or it ends early.
    #[error("the zstd frame of chunk {id} ends at byte {frame_end:?}, expected {expected}")]
    FrameEnd {
        /// Its name.
        id: ChunkId,
        /// Where the compressed bytes end.
        expected: usize,
        /// Where the frame ends, if its end could be found.
        frame_end: Option<usize>,
    },
    /// The frame cannot be decoded.
    #[error("decompressing chunk {id}")]
    Decode {
        /// Its name.
        id: ChunkId,
        /// What the decoder says.
        source: std::io::Error,
    },
    /// The frame decodes to another number of bytes than it states.
    #[error("chunk {id} decompresses to {found} bytes, expected {expected}")]
    DecodedLength {
        /// Its name.
        id: ChunkId,
        /// The stated length.
        expected: u32,
        /// The bytes that came out.
        found: usize,
    },
    /// The raw bytes are not those of the name.
    #[error("chunk {expected} holds the bytes of chunk {found}")]
    WrongBytes {
        /// The name given.
        expected: ChunkId,
        /// The name of the bytes.
        found: ChunkId,
    },
}

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Pack the chunk `raw`, whose name is `id`, at zstd `level` (1 is fast, 3 the library's default, 19
/// slow). Kept raw where compression saves less than one part in [`MIN_SAVING`].
///
/// The compression context is made once a thread and used again.
///
/// # Errors
/// [`PackError`] for a chunk without bytes or with too many.
pub fn compress(id: ChunkId, raw: &[u8], level: i32) -> Result<Packed, PackError> {
    let raw_len = match u32::try_from(raw.len()) {
        Ok(0) => return Err(PackError::Empty),
        Ok(len) if len <= MAX_CHUNK => len,
        _ => return Err(PackError::TooLong { found: raw.len() }),
    };
    let (codec, bytes) = match compress_smaller(raw, level) {
        Some(bytes) => (Codec::Zstd, bytes),
        None => (Codec::Raw, raw.to_vec()),
    };
    Ok(Packed {
        id,
        raw_len,
        codec,
        bytes,
    })
}

/// The raw bytes of a packed chunk. Memory is bounded by `raw_len` and [`MAX_CHUNK`], and the bytes
/// are checked against `id`.
///
/// # Errors
/// [`UnpackError`], one variant a lie.
pub fn unpack(
    id: &ChunkId,
    raw_len: u32,
    codec: Codec,
    bytes: &[u8],
) -> Result<Vec<u8>, UnpackError> {
    let mut raw = Vec::new();
    unpack_into(id, raw_len, codec, bytes, &mut raw)?;
    Ok(raw)
}

/// As [`unpack`], into a buffer that is used again: `raw` is cleared first, and holds nothing of use
/// after an error.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_into(
    id: &ChunkId,
    raw_len: u32,
    codec: Codec,
    bytes: &[u8],
    raw: &mut Vec<u8>,
) -> Result<(), UnpackError> {
    raw.clear();
    if raw_len == 0 {
        return Err(UnpackError::Empty { id: *id });
    }
    if raw_len > MAX_CHUNK {
        return Err(UnpackError::TooLong {
            id: *id,
            found: raw_len,
        });
    }
    match codec {
        Codec::Raw => {
            if bytes.len() != raw_len as usize {
                return Err(UnpackError::RawLength {
                    id: *id,
                    expected: raw_len,
                    found: bytes.len(),
                });
            }
            raw.extend_from_slice(bytes);
        }
        Codec::Zstd => decompress(id, raw_len, bytes, raw)?,
    }
    let found = ChunkId::of(raw);
    if found != *id {
        return Err(UnpackError::WrongBytes {
            expected: *id,
            found,
        });
    }
    Ok(())
}

/// The compressed bytes, if they are enough shorter.
fn compress_smaller(raw: &[u8], level: i32) -> Option<Vec<u8>> {
    // The output buffer is as long as is still worth it: the compressor gives up when it is full.
    let worth = raw.len() - raw.len().div_ceil(MIN_SAVING);
    let level = level.clamp(-7, 22);
    COMPRESSOR.with_borrow_mut(|slot| {
        // A context that cannot be made or set (no memory) is no reason to fail: raw is always right.
        if slot.as_ref().is_none_or(|(made_for, _)| *made_for != level) {
            *slot = Some((level, Compressor::new(level).ok()?));
        }
        let (_, compressor) = slot.as_mut()?;
        let mut bytes = Vec::with_capacity(worth);
        compressor.compress_to_buffer(raw, &mut bytes).ok()?;
        bytes.shrink_to_fit();
        (bytes.len() <= worth).then_some(bytes)
    })
}

fn decompress(
    id: &ChunkId,
    raw_len: u32,
    bytes: &[u8],
    raw: &mut Vec<u8>,
) -> Result<(), UnpackError> {
    if bytes.len() >= raw_len as usize {
        return Err(UnpackError::NotSmaller {
            id: *id,
            raw_len,
            found: bytes.len(),
        });
    }
    check_frame(id, raw_len, bytes)?;
    raw.reserve_exact(raw_len as usize);
    let decoded = DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Decompressor::new()?);
        }
        match slot.as_mut() {
            Some(decompressor) => decompressor.decompress_to_buffer(bytes, raw),
            None => Err(std::io::ErrorKind::OutOfMemory.into()),
        }
    });
    let found = decoded.map_err(|source| UnpackError::Decode { id: *id, source })?;
    if found != raw_len as usize || raw.len() != found {
        return Err(UnpackError::DecodedLength {
            id: *id,
            expected: raw_len,
            found,
        });
    }
    Ok(())
}

/// Check that `bytes` are one zstd frame, all of it and nothing more, that states `raw_len` bytes.
fn check_frame(id: &ChunkId, raw_len: u32, bytes: &[u8]) -> Result<(), UnpackError> {
    // RFC 8878, 3.1.1: magic number 0xFD2FB528, little-endian. Skippable frames have another one.
    if !bytes.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        return Err(UnpackError::NoFrame { id: *id });
    }
    match zstd_safe::get_frame_content_size(bytes) {
        Ok(Some(found)) if found == u64::from(raw_len) => {}
        Ok(Some(found)) => {
            return Err(UnpackError::FrameSize {
                id: *id,
                expected: raw_len,
                found,
            });
        }
        Ok(None) | Err(_) => return Err(UnpackError::NoFrame { id: *id }),
    }
    let frame_end = zstd_safe::find_frame_compressed_size(bytes).ok();
    if frame_end != Some(bytes.len()) {
        return Err(UnpackError::FrameEnd {
            id: *id,
            expected: bytes.len(),
            frame_end,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> Vec<u8> {
        "a chunk of words that compress well, "
            .repeat(500)
            .into_bytes()
    }

    fn packed(raw: &[u8]) -> Packed {
        compress(ChunkId::of(raw), raw, 1).unwrap()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"noise");
        let mut bytes = vec![0; len];
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_compresses_is_compressed_and_comes_back() {
        let packed = packed(&text());
        assert_eq!(packed.codec, Codec::Zstd);
        assert!(packed.bytes.len() * 10 < text().len());
        assert_eq!(packed.unpack().unwrap(), text());
    }

    #[test]
    fn what_does_not_compress_is_kept_raw() {
        let packed = packed(&noise(100_000));
        assert_eq!(packed.codec, Codec::Raw);
        assert_eq!(packed.unpack().unwrap(), noise(100_000));
    }

    #[test]
    fn chunks_of_awkward_lengths_come_back() {
        for len in [1, 2, 31, 32, 33, 4096, MAX_CHUNK as usize] {
            for raw in [vec![7; len], noise(len)] {
                assert_eq!(packed(&raw).unpack().unwrap(), raw);
            }
        }
        assert_eq!(
            compress(ChunkId::of(b""), b"", 1).unwrap_err(),
            PackError::Empty
        );
        let long = vec![0; MAX_CHUNK as usize + 1];
        assert!(matches!(
            compress(ChunkId::of(&long), &long, 1),
            Err(PackError::TooLong { .. })
        ));
    }

    #[test]
    fn the_level_can_change_from_chunk_to_chunk() {
        for level in [1, 19, -100, 100, 3] {
            let packed = compress(ChunkId::of(&text()), &text(), level).unwrap();
            assert_eq!(packed.unpack().unwrap(), text());
        }
    }

    #[test]
    fn every_lie_has_its_error() {
        let good = packed(&text());
        let with = |change: &dyn Fn(&mut Packed)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.unpack().unwrap_err()
        };
        use UnpackError as E;
        assert!(matches!(with(&|p| p.raw_len = 0), E::Empty { .. }));
        assert!(matches!(
            with(&|p| p.raw_len = u32::MAX),
            E::TooLong {
                found: u32::MAX,
                ..
            }
        ));
        assert!(matches!(
            with(&|p| p.codec = Codec::Raw),
            E::RawLength { .. }
        ));
        assert!(matches!(
            with(&|p| p.bytes = vec![0; p.raw_len as usize]),
            E::NotSmaller { .. }
        ));
        assert!(matches!(with(&|p| p.bytes.clear()), E::NoFrame { .. }));
        assert!(matches!(with(&|p| p.bytes[0] ^= 1), E::NoFrame { .. }));
        assert!(matches!(with(&|p| p.raw_len += 1), E::FrameSize { .. }));
        assert!(matches!(with(&|p| p.bytes.push(0)), E::FrameEnd { .. }));
        assert!(matches!(
            with(&|p| p.bytes.truncate(20)),
            E::FrameEnd { .. }
        ));
        assert!(matches!(
            with(&|p| p.id = ChunkId::of(b"x")),
            E::WrongBytes { .. }
        ));
        // A skippable frame in front (magic 0x184D2A50, 4 bytes long) is not what anybody packs.
        let skip = [0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
        assert!(matches!(
            with(&|p| drop(p.bytes.splice(0..0, skip))),
            E::NoFrame { .. }
        ));
    }

    #[test]
    fn a_small_frame_that_grows_to_a_gigabyte_costs_nothing() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let error = unpack(&ChunkId::of(b"x"), MAX_CHUNK, Codec::Zstd, &bomb).unwrap_err();
        assert!(matches!(error, UnpackError::FrameSize { .. }));
        // The same with the stated size forged to what the chunk says.
        let mut forged = bomb;
        let header = zstd::bulk::compress(&vec![0; MAX_CHUNK as usize], 1).unwrap();
        // RFC 8878, 3.1.1.1: both descriptors (0x80) select a window descriptor and behind it a content
        // size of 4 bytes.
        assert_eq!((forged[4], header[4]), (0x80, 0x80));
        let size = 6..10;
        forged[size.clone()].copy_from_slice(&header[size]);
        let mut raw = Vec::new();
        let error = unpack_into(
            &ChunkId::of(b"x"),
            MAX_CHUNK,
            Codec::Zstd,
            &forged,
            &mut raw,
        );
        assert!(matches!(error, Err(UnpackError::Decode { .. })));
        assert!(raw.capacity() <= MAX_CHUNK as usize);
    }

    proptest! {
        #[test]
        fn a_flipped_byte_never_passes(at: prop::sample::Index, bit in 0u8..8) {
            let mut packed = packed(&text());
            let at = at.index(packed.bytes.len());
            packed.bytes[at] ^= 1 << bit;
            if let Ok(raw) = packed.unpack() {
                // Some bits of a frame mean nothing; then the bytes must still be the right ones.
                prop_assert_eq!(raw, text());
            }
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, raw_len: u32, tail: Vec<u8>) {
            let id = ChunkId::of(&bytes);
            for codec in [Codec::Raw, Codec::Zstd] {
                let _ = unpack(&id, raw_len, codec, &bytes);
                let mut framed = vec![0x28, 0xB5, 0x2F, 0xFD];
                framed.extend(&tail);
                let _ = unpack(&id, raw_len % (MAX_CHUNK + 1), codec, &framed);
            }
        }
    }
}
