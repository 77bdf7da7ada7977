//! Writes VHDX files, dynamic and fixed, in one pass.
//!
//! Blocks are laid out as they come, and the BAT is written piece by piece as the pass leaves it. Identifier and headers come
//! last: a file without them is not a VHDX.

use super::format::{
    BLOCK_FULLY_PRESENT, Guid, HEADER_OFFSETS, Header, ITEM_DISK_ID, ITEM_FILE_PARAMETERS,
    ITEM_LOGICAL_SECTOR, ITEM_PHYSICAL_SECTOR, ITEM_VIRTUAL_SIZE, LEAVE_BLOCKS_ALLOCATED,
    MAX_VIRTUAL_SIZE, META_REQUIRED, META_VIRTUAL_DISK, METADATA_TABLE_LEN, MIB, REGION_BAT,
    REGION_METADATA, REGION_TABLE_LEN, REGION_TABLE_OFFSETS, SIGNATURE, bat_entries, bat_index,
    chunk_ratio, seal,
};
use crate::output::{
    Barrier, BlockTable, EncodedChunk, ImageWriter, OutputError, PartFile, Placement, VhdxOptions,
    place_in_blocks,
};

/// Zeroes are told from data in this unit: what is zero inside a block is a hole of the file.
const UNIT: u64 = 64 << 10;
/// The most BAT entries of a disk whose block size is chosen here.
const USUAL_BLOCKS: u64 = 2 << 20;

/// The log. Empty, and needed all the same. // [MS-VHDX] 2.3
const LOG_OFFSET: u64 = MIB;
const LOG_LEN: u64 = MIB;
const METADATA_OFFSET: u64 = 2 * MIB;
const METADATA_LEN: u64 = MIB;
const BAT_OFFSET: u64 = 3 * MIB;

/// The layout of a new VHDX file.
#[derive(Debug)]
pub struct VhdxWriter {
    virtual_size: u64,
    fixed: bool,
    block_size: u64,
    logical_sector: u64,
    ratio: u64,
    entries: u64,
    bat: BlockTable<8>,
    data_start: u64,
    next: u64,
}

impl VhdxWriter {
    /// A layout for a disk of `virtual_size` bytes, which is rounded up to whole logical sectors.
    ///
    /// # Errors
    /// `Unfit` beyond 64 TiB, or when blocks of that size cannot hold such a disk.
    pub fn new(virtual_size: u64, options: &VhdxOptions) -> Result<Self, OutputError> {
        let unfit = |why: String| OutputError::Unfit {
            format: "vhdx",
            size: virtual_size,
            why,
        };
        let logical_sector = u64::from(options.logical_sector);
        let size = virtual_size.next_multiple_of(logical_sector);
        if size > MAX_VIRTUAL_SIZE || size == 0 {
            return Err(unfit("it holds 1 byte to 64 TiB".to_owned()));
        }
        let block_size = options.block_size.unwrap_or_else(|| usual_block_size(size));
        let blocks = size.div_ceil(block_size);
        let ratio = chunk_ratio(logical_sector, block_size);
        let entries = bat_entries(blocks, ratio);
        if entries > 4 * USUAL_BLOCKS {
            return Err(unfit(format!(
                "blocks of {block_size} bytes are too small for it; take larger ones"
            )));
        }
        let data_start = BAT_OFFSET + (entries * 8).next_multiple_of(MIB);
        Ok(Self {
            virtual_size: size,
            fixed: options.fixed,
            block_size,
            logical_sector,
            ratio,
            entries,
            bat: BlockTable::new(BAT_OFFSET, entries, [0; 8]),
            data_start,
            next: data_start,
        })
    }

    /// Where block `block` lies, made if need be.
    fn block_offset(&mut self, block: u64, placements: &mut Vec<Placement>) -> u64 {
        let index = bat_index(block, self.ratio);
        if self.fixed {
            return self.fixed_offset(block);
        }
        if let Some(entry) = self.bat.get(index) {
            return u64::from_le_bytes(entry) & !(MIB - 1);
        }
        let place = self.next;
        self.next += self.block_size;
        let entry = place | BLOCK_FULLY_PRESENT;
        self.bat.set(index, entry.to_le_bytes(), placements);
        place
    }

    fn fixed_offset(&self, block: u64) -> u64 {
        self.data_start + block * self.block_size
    }

    /// The whole BAT of a fixed disk.
    fn write_fixed_bat(&mut self, file: &PartFile) -> Result<(), OutputError> {
        let blocks = self.virtual_size.div_ceil(self.block_size);
        self.next = self.fixed_offset(blocks);
        let mut left = Vec::new();
        for block in 0..blocks {
            let entry = self.fixed_offset(block) | BLOCK_FULLY_PRESENT;
            let index = bat_index(block, self.ratio);
            self.bat.set(index, entry.to_le_bytes(), &mut left);
            for placement in left.drain(..) {
                placement.write_made(file)?;
            }
        }
        Ok(())
    }

    // [MS-VHDX] 2.6
    fn metadata(&self) -> Vec<u8> {
        let disk = META_VIRTUAL_DISK | META_REQUIRED;
        let flags = if self.fixed {
            LEAVE_BLOCKS_ALLOCATED
        } else {
            0
        };
        let mut parameters = (self.block_size as u32).to_le_bytes().to_vec();
        parameters.extend(flags.to_le_bytes());
        let items: [(Guid, u32, Vec<u8>); 5] = [
            (ITEM_FILE_PARAMETERS, META_REQUIRED, parameters),
            (
                ITEM_VIRTUAL_SIZE,
                disk,
                self.virtual_size.to_le_bytes().to_vec(),
            ),
            (ITEM_DISK_ID, disk, Guid::random().0.to_vec()),
            (
                ITEM_LOGICAL_SECTOR,
                disk,
                (self.logical_sector as u32).to_le_bytes().to_vec(),
            ),
            (ITEM_PHYSICAL_SECTOR, disk, 4096u32.to_le_bytes().to_vec()),
        ];
        let mut table = b"metadata\0\0".to_vec(); // 0: signature; 8: reserved
        table.extend((items.len() as u16).to_le_bytes()); // 10
        table.resize(32, 0); // 12: reserved
        let mut values = Vec::new();
        for (id, flags, value) in items {
            table.extend(id.0); // 0
            table.extend(((METADATA_TABLE_LEN + values.len()) as u32).to_le_bytes()); // 16
            table.extend((value.len() as u32).to_le_bytes()); // 20
            table.extend(flags.to_le_bytes()); // 24
            table.extend([0; 4]); // 28
            values.extend(value);
        }
        table.resize(METADATA_TABLE_LEN, 0);
        table.extend(values);
        table
    }

    // [MS-VHDX] 2.2.3
    fn region_table(&self) -> Vec<u8> {
        let bat_len = (self.entries * 8).next_multiple_of(MIB);
        let mut table = b"regi\0\0\0\0".to_vec(); // 0: signature; 4: checksum
        table.extend(2u32.to_le_bytes()); // 8: entries
        table.extend([0; 4]); // 12
        for (id, offset, len) in [
            (REGION_BAT, BAT_OFFSET, bat_len),
            (REGION_METADATA, METADATA_OFFSET, METADATA_LEN),
        ] {
            table.extend(id.0); // 0
            table.extend(offset.to_le_bytes()); // 16
            table.extend((len as u32).to_le_bytes()); // 24
            table.extend(1u32.to_le_bytes()); // 28: required
        }
        table.resize(REGION_TABLE_LEN, 0);
        seal(&mut table, 4);
        table
    }

    /// The identifier and both headers, from the start of the file to the region tables.
    fn head(&self) -> Vec<u8> {
        let mut head = SIGNATURE.to_vec();
        // The creator, for people. // [MS-VHDX] 2.2.1
        head.extend("p2v".encode_utf16().flat_map(u16::to_le_bytes));
        let mut header = Header {
            sequence: 0,
            file_write: Guid::random(),
            data_write: Guid::random(),
            log: Guid::default(),
            log_version: 0,
            version: 1,
            log_len: LOG_LEN as u32,
            log_offset: LOG_OFFSET,
        };
        for offset in HEADER_OFFSETS {
            header.sequence += 1;
            head.resize(offset as usize, 0);
            head.extend(header.to_bytes());
        }
        head
    }
}

/// One MiB, as Microsoft recommends for Linux guests, as long as the BAT stays within 16 MiB.
fn usual_block_size(size: u64) -> u64 {
    size.div_ceil(USUAL_BLOCKS).next_power_of_two().max(MIB)
}

impl ImageWriter for VhdxWriter {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        let block_size = self.block_size;
        place_in_blocks(chunk, UNIT, block_size, placements, |block, placements| {
            Ok(self.block_offset(block, placements))
        })
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        if self.fixed {
            self.write_fixed_bat(file)?;
        }
        file.set_len(self.next)?;
        file.write_at(METADATA_OFFSET, &self.metadata())?;
        self.bat.finish(file)?;
        for offset in REGION_TABLE_OFFSETS {
            file.write_at(offset, &self.region_table())?;
        }
        barrier.reach(files)?;
        file.write_at(0, &self.head())
    }
}
