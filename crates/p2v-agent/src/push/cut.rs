//! The second stage: filled buffers into chunks.

use std::ops::Range;

use bytes::Bytes;
use chunking::Chunker;

use super::read::Filled;

/// Chunks of one buffer, in order.
#[derive(Debug)]
pub(super) struct Cut {
    /// Each chunk's place on the disk, and in `bytes`.
    pub chunks: Vec<(u64, Range<usize>)>,
    pub bytes: Bytes,
}

/// Cuts the buffers of one disk, carrying what is not yet a whole chunk over to the next buffer.
#[derive(Debug)]
pub(super) struct Cutter {
    chunker: Chunker,
    carried: Vec<u8>,
}

impl Cutter {
    pub fn new(chunker: Chunker) -> Self {
        Self {
            chunker,
            carried: Vec::new(),
        }
    }

    /// Bytes that must be free in front of the first piece of a buffer.
    pub fn headroom(chunker: &Chunker) -> usize {
        chunker.sizes().max() as usize
    }

    /// The chunks of the next buffer.
    pub fn cut(&mut self, mut filled: Filled) -> Cut {
        let mut chunks = Vec::new();
        for piece in &filled.pieces {
            let mut at = piece.at.start;
            let mut offset = piece.offset;
            // Only the first piece goes on from the buffer before, and has the headroom.
            let front = at.saturating_sub(self.carried.len())..at;
            if let Some(space) = filled.buffer.bytes.get_mut(front.clone())
                && space.len() == self.carried.len()
            {
                space.copy_from_slice(&self.carried);
                at = front.start;
                offset = offset.saturating_sub(self.carried.len() as u64);
            }
            self.carried.clear();
            let bytes = filled
                .buffer
                .bytes
                .get(at..piece.at.end)
                .unwrap_or_default();
            let mut rest = bytes;
            while let Some(len) = self.chunker.cut(rest, piece.ends_run) {
                let done = bytes.len() - rest.len();
                chunks.push((offset + done as u64, at + done..at + done + len));
                rest = rest.get(len..).unwrap_or_default();
            }
            self.carried.extend_from_slice(rest);
        }
        let bytes = Bytes::from_owner(filled.buffer);
        Cut { chunks, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffers::Buffers;
    use super::super::read::read_disk;
    use super::*;
    use block_io::MemoryDisk;

    #[test]
    fn chunks_are_the_same_whatever_the_buffers() {
        let mut state = 7_u64;
        let content: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .take(3_000_000)
        .collect();
        let chunker = Chunker::default();
        let mut expected = Vec::new();
        let mut end = 0;
        for chunk in chunker.chunks(&content) {
            expected.push((end as u64, chunk.to_vec()));
            end += chunk.len();
        }
        let headroom = Cutter::headroom(&chunker);
        for read_size in [1000, 100_000, 1 << 20, 4 << 20] {
            let buffers = Buffers::new(1, headroom + read_size);
            let disk = MemoryDisk::from(content.clone());
            let mut cutter = Cutter::new(chunker);
            let mut found = Vec::new();
            read_disk(&disk, &buffers, headroom, &mut |filled| {
                let cut = cutter.cut(filled);
                for (offset, range) in cut.chunks {
                    found.push((offset, cut.bytes.slice(range).to_vec()));
                }
                true
            })
            .unwrap();
            assert!(found == expected, "buffers of {read_size}");
        }
    }
}
