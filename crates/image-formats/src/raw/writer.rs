//! Writes raw images: sparse, or preallocated.

use crate::output::{
    Barrier, EncodedChunk, ImageWriter, OutputError, PartFile, PlacedBytes, Placement, RawOptions,
    Stored,
};

/// Zeroes are told from data in units of a page, the smallest hole file systems keep.
const UNIT: u64 = 4096;

/// Writes data where it lies on the disk; zeroes stay holes.
#[derive(Debug)]
pub struct RawWriter {
    size: u64,
}

impl RawWriter {
    /// A raw image of `size` bytes. Its file must have that length already.
    #[must_use]
    pub fn new(size: u64, _options: &RawOptions) -> Self {
        Self { size }
    }
}

impl ImageWriter for RawWriter {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        let mut start = 0;
        let len = chunk
            .plain
            .len()
            .min(self.size.saturating_sub(chunk.start) as usize);
        while start < chunk.units.len() {
            let zero = chunk.units[start] == Stored::Zero;
            let run = chunk.units[start..]
                .iter()
                .take_while(|unit| (**unit == Stored::Zero) == zero)
                .count();
            let bytes = start * UNIT as usize..((start + run) * UNIT as usize).min(len);
            if !zero && !bytes.is_empty() {
                placements.push(Placement {
                    file: 0,
                    offset: chunk.start + bytes.start as u64,
                    bytes: PlacedBytes::Plain(bytes),
                });
            }
            start += run;
        }
        Ok(())
    }

    /// A raw image has no header: its name, given after this, is what makes it valid.
    fn finish(&mut self, _files: &[PartFile], _barrier: &Barrier) -> Result<(), OutputError> {
        Ok(())
    }
}
