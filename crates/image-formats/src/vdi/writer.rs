//! Writes VDI: dynamic and fixed.

use super::format::{BLOCK, DYNAMIC, ENTRY, FIXED, FREE, HEADER_LENS, Header, SECTOR, TABLE, ZERO};
use crate::output::{
    Barrier, BlockTable, EncodedChunk, ImageWriter, OutputError, PartFile, Placement, VdiOptions,
    place_in_blocks,
};

/// Zeroes are told from data in this unit: what is zero inside a block is a hole of the file.
const UNIT: u64 = 64 << 10;
/// The block table's place in the file is a 32-bit number, and so is the place of the data behind it:
/// 4 GiB of table less what lies before it. QEMU opens tables of 2 GiB.
const MAX_BLOCKS: u64 = (1 << 31) / ENTRY;

/// The layout of a new VDI file.
#[derive(Debug)]
pub struct VdiWriter {
    size: u64,
    fixed: bool,
    table: BlockTable<4>,
    data: u64,
    allocated: u64,
}

impl VdiWriter {
    /// A layout for a disk of `virtual_size` bytes, rounded up to whole sectors.
    ///
    /// # Errors
    /// `Unfit` beyond 512 TiB, or for an empty disk.
    pub fn new(virtual_size: u64, options: &VdiOptions) -> Result<Self, OutputError> {
        let size = virtual_size.checked_next_multiple_of(SECTOR).unwrap_or(0);
        let blocks = size.div_ceil(BLOCK);
        if blocks == 0 || blocks > MAX_BLOCKS {
            return Err(OutputError::Unfit {
                format: "vdi",
                size: virtual_size,
                why: "it holds 1 byte to 512 TiB".to_owned(),
            });
        }
        Ok(Self {
            size,
            fixed: options.fixed,
            table: BlockTable::new(TABLE, blocks, FREE.to_le_bytes()),
            data: (TABLE + blocks * ENTRY).next_multiple_of(BLOCK),
            allocated: 0,
        })
    }

    fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// The whole table of a fixed disk, whose blocks lie in order.
    fn write_fixed_table(&mut self, file: &PartFile) -> Result<(), OutputError> {
        let mut left = Vec::new();
        for block in 0..self.blocks() {
            self.table
                .set(block, (block as u32).to_le_bytes(), &mut left);
            for placement in left.drain(..) {
                placement.write_made(file)?;
            }
        }
        self.allocated = self.blocks();
        Ok(())
    }

    fn header(&self) -> Header {
        Header {
            len: HEADER_LENS[1],
            kind: if self.fixed { FIXED } else { DYNAMIC },
            table: TABLE,
            data: self.data,
            sector: SECTOR as u32,
            size: self.size,
            block: BLOCK,
            block_extra: 0,
            blocks: self.blocks(),
            allocated: self.allocated,
            id: uuid::Uuid::new_v4(),
            modification: uuid::Uuid::new_v4(),
            parent: uuid::Uuid::nil(),
            parent_modification: uuid::Uuid::nil(),
        }
    }
}

impl ImageWriter for VdiWriter {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        let (data, fixed) = (self.data, self.fixed);
        let (table, allocated) = (&mut self.table, &mut self.allocated);
        place_in_blocks(chunk, UNIT, BLOCK, placements, |block, placements| {
            let number = match table.get(block) {
                _ if fixed => block,
                Some(number) => u64::from(u32::from_le_bytes(number)),
                None => {
                    let number = *allocated;
                    table.set(block, (number as u32).to_le_bytes(), placements);
                    *allocated += 1;
                    number
                }
            };
            Ok(data + number * BLOCK)
        })
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        if self.fixed {
            self.write_fixed_table(file)?;
        }
        self.table.finish(file)?;
        file.set_len(self.data + self.allocated * BLOCK)?;
        barrier.reach(files)?;
        file.write_at(0, &self.header().to_bytes())
    }
}

// The numbers of blocks stay below the two that mean something else.
const _: () = assert!(MAX_BLOCKS < ZERO as u64);
