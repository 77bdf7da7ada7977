//! Writes VHD: dynamic and fixed, sizes exact.

use super::format::{
    DYNAMIC, DYNAMIC_LEN, FIXED, MAX_SIZE, SECTOR, UNUSED, new_dynamic_header, new_footer,
};
use crate::output::{
    Barrier, BlockTable, EncodedChunk, ImageWriter, OutputError, PartFile, PlacedBytes, Placement,
    RawOptions, VhdOptions, place_in_blocks,
};
use crate::raw::RawWriter;

/// The block size that every reader takes, and XenServer insists on.
const BLOCK: u64 = 2 << 20;
/// Every sector of a written block is there: the bitmap is all ones.
const BITMAP: u64 = BLOCK / SECTOR / 8;
/// Zeroes are told from data in this unit: what is zero inside a block is a hole of the file.
const UNIT: u64 = 64 << 10;
/// Footer copy and dynamic header lie before the table.
const TABLE: u64 = SECTOR + DYNAMIC_LEN;

/// The layout of a new VHD file.
#[derive(Debug)]
pub struct VhdWriter {
    size: u64,
    /// Where each block starts, in sectors; none for a fixed disk.
    table: Option<BlockTable<4>>,
    flat: RawWriter,
    next: u64,
}

impl VhdWriter {
    /// A layout for a disk of `virtual_size` bytes, rounded up to whole sectors, a fixed one to whole
    /// MiB where that was asked for.
    ///
    /// # Errors
    /// `Unfit` beyond 2040 GiB.
    pub fn new(virtual_size: u64, options: &VhdOptions) -> Result<Self, OutputError> {
        let unit = if options.whole_mib { 1 << 20 } else { SECTOR };
        let size = virtual_size.next_multiple_of(unit);
        if size > MAX_SIZE || size == 0 {
            return Err(OutputError::Unfit {
                format: "vhd",
                size: virtual_size,
                why: "it holds 1 byte to 2040 GiB; take vhdx".to_owned(),
            });
        }
        let blocks = size.div_ceil(BLOCK);
        let table_len = (blocks * 4).next_multiple_of(SECTOR);
        // Data of a block start on a page: the bitmap's sector lies right before it.
        let first_data = (TABLE + table_len + BITMAP).next_multiple_of(4096);
        Ok(Self {
            size,
            table: (!options.fixed).then(|| BlockTable::new(TABLE, blocks, UNUSED.to_be_bytes())),
            flat: RawWriter::new(size, &RawOptions::default()),
            next: first_data - BITMAP,
        })
    }

    fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    fn finish_dynamic(&self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        // What is left of the table's last sector is unused too.
        let end = TABLE + self.blocks() * 4;
        let rest = end.next_multiple_of(SECTOR) - end;
        file.write_at(end, &vec![0xff; rest as usize])?;
        let header = new_dynamic_header(TABLE, self.blocks() as u32, BLOCK as u32);
        file.write_at(SECTOR, &header)?;
        file.set_len(self.next)?;
        barrier.reach(files)?;
        let footer = new_footer(self.size, DYNAMIC);
        file.write_at(self.next, &footer)?;
        file.write_at(0, &footer)
    }
}

impl ImageWriter for VhdWriter {
    fn unit(&self) -> u64 {
        match self.table {
            Some(_) => UNIT,
            None => self.flat.unit(),
        }
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        let Some(table) = &mut self.table else {
            return self.flat.place(chunk, placements);
        };
        let next = &mut self.next;
        place_in_blocks(chunk, UNIT, BLOCK, placements, |block, placements| {
            let bitmap = match table.get(block) {
                Some(sector) => u64::from(u32::from_be_bytes(sector)) * SECTOR,
                None => {
                    let bitmap = *next;
                    table.set(block, ((bitmap / SECTOR) as u32).to_be_bytes(), placements);
                    placements.push(Placement {
                        file: 0,
                        offset: bitmap,
                        bytes: PlacedBytes::Made(vec![0xff; BITMAP as usize]),
                    });
                    // Bitmap and data, and the gap that keeps the next data on a page.
                    *next += BLOCK + 4096;
                    bitmap
                }
            };
            Ok(bitmap + BITMAP)
        })
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        if let Some(table) = &mut self.table {
            table.finish(file)?;
            return self.finish_dynamic(files, barrier);
        }
        file.set_len(self.size)?;
        barrier.reach(files)?;
        file.write_at(self.size, &new_footer(self.size, FIXED))
    }
}
