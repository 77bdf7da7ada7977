//! Writes VHD: dynamic and fixed, sizes exact.

use super::format::{
    DYNAMIC, DYNAMIC_LEN, FIXED, MAX_SIZE, SECTOR, UNUSED, new_dynamic_header, new_footer,
};
use crate::output::{
    Barrier, EncodedChunk, ImageWriter, OutputError, PartFile, PlacedBytes, Placement, RawOptions,
    Stored, VhdOptions,
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
    table: Option<Vec<u32>>,
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
            table: (!options.fixed).then(|| vec![UNUSED; blocks as usize]),
            flat: RawWriter::new(size, &RawOptions::default()),
            next: first_data - BITMAP,
        })
    }

    fn finish_dynamic(
        &self,
        table: &[u32],
        file: &PartFile,
        files: &[PartFile],
        barrier: &Barrier,
    ) -> Result<(), OutputError> {
        let mut bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0xff);
        file.write_at(TABLE, &bytes)?;
        let header = new_dynamic_header(TABLE, table.len() as u32, BLOCK as u32);
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
        for (index, stored) in chunk.units.iter().enumerate() {
            if *stored == Stored::Zero {
                continue;
            }
            let within = index * UNIT as usize;
            let offset = chunk.start + within as u64;
            let slot = &mut table[(offset / BLOCK) as usize];
            if *slot == UNUSED {
                *slot = (self.next / SECTOR) as u32;
                placements.push(Placement {
                    file: 0,
                    offset: self.next,
                    bytes: PlacedBytes::Made(vec![0xff; BITMAP as usize]),
                });
                // Bitmap and data, and the gap that keeps the next data on a page.
                self.next += BLOCK + 4096;
            }
            placements.push(Placement {
                file: 0,
                offset: u64::from(*slot) * SECTOR + BITMAP + offset % BLOCK,
                bytes: PlacedBytes::Plain(within..within + UNIT as usize),
            });
        }
        Ok(())
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        if let Some(table) = &self.table {
            return self.finish_dynamic(table, file, files, barrier);
        }
        file.set_len(self.size)?;
        barrier.reach(files)?;
        file.write_at(self.size, &new_footer(self.size, FIXED))
    }
}
