//! How the units of a format are compressed. Pure CPU, one encoder per thread.

use std::io;

use flate2::{Compress, FlushCompress, Status};

use crate::output::Stored;

/// A way of compressing the units of a format, before they are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Plain,
    /// One Zstandard frame per unit.
    Zstd {
        /// The level, as zstd counts.
        level: i32,
    },
    /// One zlib stream per unit, stored so even where that is no smaller.
    Zlib {
        /// The level, 0 to 12, as libdeflate counts.
        level: i32,
    },
    /// One raw deflate stream per unit, without header or checksum.
    Deflate {
        /// The level, 0 to 9.
        level: u32,
        /// Base-two logarithm of the window, 9 to 15.
        window_bits: u8,
    },
}

/// Compresses the units of one output on one thread.
pub(crate) struct Encoder {
    unit: usize,
    engine: Engine,
}

enum Engine {
    Plain,
    Zstd(zstd::bulk::Compressor<'static>),
    Deflate(Compress),
    Zlib(libdeflater::Compressor),
}

impl Encoder {
    pub(crate) fn new(codec: Codec, unit: u64) -> io::Result<Self> {
        let engine = match codec {
            Codec::Plain => Engine::Plain,
            Codec::Zstd { level } => Engine::Zstd(zstd::bulk::Compressor::new(level)?),
            Codec::Zlib { level } => {
                let level = libdeflater::CompressionLvl::new(level)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                Engine::Zlib(libdeflater::Compressor::new(level))
            }
            Codec::Deflate { level, window_bits } => Engine::Deflate(
                Compress::new_with_window_bits(flate2::Compression::new(level), false, window_bits),
            ),
        };
        Ok(Self {
            unit: unit as usize,
            engine,
        })
    }

    /// Tell for each unit of `plain` how it is stored; the compressed ones go into `packed`.
    pub(crate) fn encode(
        &mut self,
        plain: &[u8],
        units: &mut Vec<Stored>,
        packed: &mut Vec<u8>,
    ) -> io::Result<()> {
        units.clear();
        packed.clear();
        for unit in plain.chunks(self.unit) {
            let stored = match is_zero(unit) {
                true => Stored::Zero,
                false => self.engine.pack(unit, packed)?,
            };
            units.push(stored);
        }
        Ok(())
    }
}

impl Engine {
    /// Compress `unit` onto the end of `packed`, unless that does not make it smaller.
    fn pack(&mut self, unit: &[u8], packed: &mut Vec<u8>) -> io::Result<Stored> {
        let start = packed.len();
        let len = match self {
            Engine::Plain => return Ok(Stored::Plain),
            Engine::Zstd(compressor) => {
                packed.resize(start + zstd::zstd_safe::compress_bound(unit.len()), 0);
                let room = packed.get_mut(start..).unwrap_or_default();
                compressor.compress_to_buffer(unit, room)?
            }
            Engine::Zlib(compressor) => {
                packed.resize(start + compressor.zlib_compress_bound(unit.len()), 0);
                let room = packed.get_mut(start..).unwrap_or_default();
                let len = compressor
                    .zlib_compress(unit, room)
                    .map_err(io::Error::other)?;
                packed.truncate(start + len);
                return Ok(Stored::Packed(start..start + len));
            }
            Engine::Deflate(compress) => {
                // Room for whatever the stream may become. zlib-rs 0.6.8 keeps what did not fit over a
                // reset, and panics when enough of it has gathered.
                packed.resize(start + unit.len() + unit.len() / 64 + 64, 0);
                let room = packed.get_mut(start..).unwrap_or_default();
                compress.reset();
                let status = compress
                    .compress(unit, room, FlushCompress::Finish)
                    .map_err(io::Error::other)?;
                match status {
                    Status::StreamEnd => compress.total_out() as usize,
                    Status::Ok | Status::BufError => unit.len(),
                }
            }
        };
        if len >= unit.len() {
            packed.truncate(start);
            return Ok(Stored::Plain);
        }
        packed.truncate(start + len);
        Ok(Stored::Packed(start..start + len))
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Blocks of 64 bytes are folded without a branch, which the compiler turns into vector code.
    let mut blocks = bytes.chunks_exact(64);
    blocks.all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && blocks.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_units_that_deflate_does_not_shrink_stay_plain() {
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        let noise: Vec<u8> = noise.take(2 << 20).collect();
        for unit in [512, 4096, 65_536] {
            let codec = Codec::Deflate {
                level: 6,
                window_bits: 12,
            };
            let mut encoder = Encoder::new(codec, unit).unwrap();
            let (mut units, mut packed) = (Vec::new(), Vec::new());
            encoder.encode(&noise, &mut units, &mut packed).unwrap();
            assert!(units.iter().all(|stored| *stored == Stored::Plain));
        }
    }

    #[test]
    fn a_single_set_bit_anywhere_is_not_zero() {
        for len in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in 0..len {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
