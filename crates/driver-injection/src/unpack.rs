//! Decompression of what kernels and their modules are packed with: streaming, bounded in memory.

use std::io::{self, BufRead, Read};

/// Most memory a decoder may ask for: the largest window `xz -9` and `zstd --ultra` use by default is
/// 64 and 128 MiB.
const MEMORY_LIMIT_KIB: u32 = 160 << 10;
/// As a power of two, for zstd: 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Size of the blocks of LZ4's legacy format. [LZ4 frame format, "Legacy frame"]
pub const LZ4_LEGACY_BLOCK: usize = 8 << 20;
/// Magic number of LZ4's legacy format.
pub const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// How something is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
    /// LZ4 in its legacy framing, the only one the kernel knows.
    Lz4,
    /// LZMA "alone".
    Lzma,
    /// bzip2.
    Bzip2,
    /// lzop, which is recognised but not unpacked.
    Lzo,
}

impl Compression {
    /// Tell from the first bytes. [linux, lib/decompress.c]
    #[must_use]
    pub fn detect(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b | 0x9e, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            [0x5d, 0x00, 0x00, ..] => Some(Self::Lzma),
            [b'B', b'Z', b'h', ..] => Some(Self::Bzip2),
            [0x89, b'L', b'Z', b'O', ..] => Some(Self::Lzo),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "lzo",
        }
    }
}

/// A reader of the one stream that starts where `source` stands, which afterwards stands behind it.
/// `source` must give at least 64 bytes at a time where there are as many (see [`GuestFile`]).
///
/// [`GuestFile`]: crate::inspect::GuestFile
///
/// # Errors
/// `Unsupported` for lzo; what the decoder says otherwise.
pub fn unpack<'a, R: BufRead + 'a>(
    compression: Compression,
    source: &'a mut R,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(source)),
        Compression::Xz => {
            let limit = MEMORY_LIMIT_KIB;
            Box::new(lzma_rust2::XzReader::new_mem_limit(source, false, limit))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Compression::Lz4 => {
            source.read_exact(&mut [0; 4])?;
            Box::new(Lz4Legacy::new(source))
        }
        Compression::Lzma => Box::new(LzmaAlone::new(source)),
        Compression::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(source)),
        Compression::Lzo => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "lzo is not unpacked",
            ));
        }
    })
}

/// Unpack a whole module in memory, at most `most` bytes; one that is not packed comes back as it is.
///
/// # Errors
/// What the decoder says; `InvalidData` when it is longer.
pub fn unpack_module(bytes: Vec<u8>, most: u64) -> io::Result<Vec<u8>> {
    let Some(compression) = Compression::detect(&bytes) else {
        return Ok(bytes);
    };
    let mut out = Vec::new();
    let mut source = bytes.as_slice();
    unpack(compression, &mut source)?
        .take(most + 1)
        .read_to_end(&mut out)?;
    if out.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a module of more than {most} bytes"),
        ));
    }
    Ok(out)
}

/// LZMA "alone", read so that what follows the stream stays in the source.
///
/// The decoder takes up to 40 bytes more than it needs and tells how many they were. So more than
/// that are held back until the source has no more, and then none is lost.
struct LzmaAlone<'a, R> {
    source: &'a mut R,
    stream: lzma_rust2::LzmaStream,
}

/// More than the 40 bytes that `LzmaStream::unused_input` gives at most.
const HELD_BACK: usize = 63;

impl<'a, R: BufRead> LzmaAlone<'a, R> {
    fn new(source: &'a mut R) -> Self {
        let stream = lzma_rust2::LzmaStream::new_mem_limit(MEMORY_LIMIT_KIB, None);
        Self { source, stream }
    }
}

impl<R: BufRead> Read for LzmaAlone<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        use lzma_rust2::{Action, Status};
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let was_finished = self.stream.is_finished();
            if was_finished && !self.stream.has_output() {
                return Ok(0);
            }
            let available = self.source.fill_buf()?;
            let (input, action) = match available.len().checked_sub(HELD_BACK) {
                _ if was_finished => (&available[..0], Action::Run),
                Some(length) if length > 0 => (&available[..length], Action::Run),
                _ => (available, Action::Finish),
            };
            let nothing_left = input.is_empty();
            let result = self.stream.process(input, buf, action)?;
            let unused = if !was_finished && self.stream.is_finished() {
                self.stream.unused_input().len()
            } else {
                0
            };
            self.source
                .consume(result.bytes_consumed.saturating_sub(unused));
            if result.bytes_produced > 0 {
                return Ok(result.bytes_produced);
            }
            if result.status == Status::StreamEnd {
                return Ok(0);
            }
            if nothing_left {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// LZ4's legacy format behind its magic number, read as the kernel reads it: blocks of a length and
/// data, ended by a length of zero or the end. [linux, lib/decompress_unlz4.c]
///
/// The kernel also goes on over a second magic number. Here that ends the stream, so that what was
/// appended can be told from what was there.
struct Lz4Legacy<'a, R> {
    source: &'a mut R,
    block: Vec<u8>,
    read: usize,
    ended: bool,
}

impl<'a, R: BufRead> Lz4Legacy<'a, R> {
    fn new(source: &'a mut R) -> Self {
        Self {
            source,
            block: Vec::new(),
            read: 0,
            ended: false,
        }
    }

    /// The length of the next block, if there is one. Nothing behind the last block is consumed,
    /// provided that the source buffers at least four bytes at a time where there are as many.
    fn next_length(&mut self) -> io::Result<Option<usize>> {
        let [a, b, c, d, ..] = *self.source.fill_buf()? else {
            return Ok(None);
        };
        let length = [a, b, c, d];
        if length == [0; 4] || length == LZ4_LEGACY_MAGIC {
            return Ok(None);
        }
        self.source.consume(4);
        let length = u32::from_le_bytes(length) as usize;
        // A block that did not shrink is a little longer than what it holds: len/255 + 16.
        if length > LZ4_LEGACY_BLOCK + LZ4_LEGACY_BLOCK / 255 + 16 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("an lz4 block of {length} bytes"),
            ));
        }
        Ok(Some(length))
    }

    fn next_block(&mut self) -> io::Result<()> {
        let Some(length) = self.next_length()? else {
            self.ended = true;
            return Ok(());
        };
        let mut packed = vec![0; length];
        self.source.read_exact(&mut packed)?;
        self.block.resize(LZ4_LEGACY_BLOCK, 0);
        let filled = lz4_flex::block::decompress_into(&packed, &mut self.block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.block.truncate(filled);
        self.read = 0;
        Ok(())
    }
}

impl<R: BufRead> Read for Lz4Legacy<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.read == self.block.len() && !self.ended {
            self.next_block()?;
        }
        let rest = self.block.get(self.read..).unwrap_or_default();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        self.read += length;
        Ok(length)
    }
}

/// `data` as blocks of LZ4's legacy format behind a magic number of their own.
#[must_use]
pub fn pack_lz4_legacy(data: &[u8]) -> Vec<u8> {
    let mut out = LZ4_LEGACY_MAGIC.to_vec();
    for chunk in data.chunks(LZ4_LEGACY_BLOCK) {
        let packed = lz4_flex::block::compress(chunk);
        out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// What a foreign program makes of `input`; `None`, said aloud, when it is not there.
    fn pipe(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else {
            test_oracles::skip("unpack", program);
            return None;
        };
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}");
        Some(output.stdout)
    }

    fn sample() -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        // Compressible and not, longer than one block of lz4.
        (0..9_000_000u32)
            .map(|i| if i % 4096 < 3000 { b'x' } else { next() })
            .collect()
    }

    #[test]
    fn what_foreign_programs_pack_is_unpacked_to_its_last_byte_and_no_further() {
        let data = sample();
        for (program, arguments, compression) in [
            ("gzip", &["-c"][..], Compression::Gzip),
            ("xz", &["-c", "--check=crc32"][..], Compression::Xz),
            ("xz", &["-c", "--format=lzma"][..], Compression::Lzma),
            ("zstd", &["-c", "-q"][..], Compression::Zstd),
            ("bzip2", &["-c"][..], Compression::Bzip2),
            ("lz4", &["-c", "-l", "-q"][..], Compression::Lz4),
        ] {
            let Some(mut packed) = pipe(program, arguments, &data) else {
                continue;
            };
            assert_eq!(Compression::detect(&packed), Some(compression), "{program}");
            let tail = b"\0\0\0\0tail";
            packed.extend_from_slice(tail);
            let mut source = packed.as_slice();
            let mut out = Vec::new();
            let mut reader = unpack(compression, &mut source).unwrap();
            reader.read_to_end(&mut out).unwrap();
            drop(reader);
            assert!(out == data, "{program}: other bytes");
            assert_eq!(source, tail, "{program}");
            let cut = packed[..packed.len() / 2].to_vec();
            assert!(
                unpack_module(cut, 10 << 20).is_err(),
                "{program}: truncated"
            );
        }
    }

    #[test]
    fn lz4_blocks_we_append_are_read_by_lz4_itself() {
        let data = sample();
        let mut packed = pack_lz4_legacy(&data[..100]);
        packed.extend(pack_lz4_legacy(&data));
        if let Some(out) = pipe("lz4", &["-d", "-c", "-q"], &packed) {
            assert!(
                out[..100] == data[..100] && out[100..] == data,
                "other bytes"
            );
        }
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let bomb = pack_lz4_legacy(&vec![0; 9 << 20]);
        assert!(unpack_module(bomb.clone(), 1 << 20).is_err());
        assert_eq!(unpack_module(bomb, 9 << 20).unwrap().len(), 9 << 20);
        let mut absurd = LZ4_LEGACY_MAGIC.to_vec();
        absurd.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpack_module(absurd, 1 << 20).is_err());
    }
}
