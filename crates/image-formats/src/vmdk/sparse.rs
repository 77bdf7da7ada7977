//! The layout of a hosted sparse extent as it is written: two directories and all tables in front,
//! grains behind.

use std::ops::Range;

use super::format::{
    FLAG_NEWLINES, FLAG_REDUNDANT, GRAIN, SECTOR, SparseHeader, TABLE_ENTRIES, le_bytes_32,
};
use super::writer::too_large;
use crate::output::{EncodedChunk, OutputError, PartFile, PlacedBytes, Placement, Stored};

/// Bytes of the disk that one grain table maps.
const TABLE_SPAN: u64 = TABLE_ENTRIES * GRAIN;
/// Sectors of a grain table.
pub(super) const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR;

/// The grain tables of a disk: the one the pass is in, and where the others lie.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) directory: Vec<u32>,
    open: Option<(u64, Vec<u32>)>,
}

impl Tables {
    pub(super) fn new(sectors: u64) -> Self {
        let tables = (sectors * SECTOR).div_ceil(TABLE_SPAN);
        Self {
            directory: vec![0; tables as usize],
            open: None,
        }
    }

    /// Note that the grain at byte `offset` of the disk lies at `sector` of the file. Gives back the
    /// table that is complete thereby.
    pub(super) fn map(&mut self, offset: u64, sector: u32) {
        let entries = match &mut self.open {
            Some((_, entries)) => entries,
            None => {
                &mut self
                    .open
                    .insert((offset / TABLE_SPAN, vec![0; TABLE_ENTRIES as usize]))
                    .1
            }
        };
        entries[(offset / GRAIN % TABLE_ENTRIES) as usize] = sector;
    }

    /// The open table, when the grain at `offset` does not belong to it (`None`: whatever comes).
    pub(super) fn leave(&mut self, offset: Option<u64>) -> Option<(u64, Vec<u32>)> {
        let (index, _) = self.open.as_ref()?;
        match offset {
            Some(offset) if offset / TABLE_SPAN == *index => None,
            _ => self.open.take(),
        }
    }
}

/// The places of one sparse extent in one file of the output.
#[derive(Debug)]
pub(super) struct SparseLayout {
    sectors: u64,
    descriptor_sectors: u64,
    file: usize,
    tables: Tables,
    redundant_directory: u64,
    directory: u64,
    overhead: u64,
    next: u64,
}

impl SparseLayout {
    /// An extent of `sectors` sectors in file number `file`, with room for a descriptor.
    pub(super) fn new(sectors: u64, descriptor_sectors: u64, file: usize) -> Self {
        let tables = Tables::new(sectors);
        let count = tables.directory.len() as u64;
        let directory_sectors = (count * 4).div_ceil(SECTOR);
        let redundant_directory = 1 + descriptor_sectors;
        let directory = redundant_directory + directory_sectors + count * TABLE_SECTORS;
        let end = directory + directory_sectors + count * TABLE_SECTORS;
        let overhead = end.next_multiple_of(GRAIN / SECTOR);
        Self {
            sectors,
            descriptor_sectors,
            file,
            tables,
            redundant_directory,
            directory,
            overhead,
            next: overhead,
        }
    }

    /// Sectors it maps.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Place the grain at byte `offset` of the extent, which `bytes` of the chunk hold.
    pub(super) fn place(
        &mut self,
        offset: u64,
        bytes: Range<usize>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        self.place_table(Some(offset), placements);
        let sector = u32::try_from(self.next).map_err(|_| too_large(self.sectors * SECTOR))?;
        self.tables.map(offset, sector);
        placements.push(Placement {
            file: self.file,
            offset: self.next * SECTOR,
            bytes: PlacedBytes::Plain(bytes),
        });
        self.next += GRAIN / SECTOR;
        Ok(())
    }

    fn place_table(&mut self, offset: Option<u64>, placements: &mut Vec<Placement>) {
        if let Some((index, entries)) = self.tables.leave(offset) {
            for directory in [self.redundant_directory, self.directory] {
                let table = directory + self.directory_sectors() + index * TABLE_SECTORS;
                placements.push(self.made(table, le_bytes_32(&entries)));
            }
        }
    }

    fn directory_sectors(&self) -> u64 {
        (self.tables.directory.len() as u64 * 4).div_ceil(SECTOR)
    }

    fn made(&self, sector: u64, bytes: Vec<u8>) -> Placement {
        Placement {
            file: self.file,
            offset: sector * SECTOR,
            bytes: PlacedBytes::Made(bytes),
        }
    }

    /// Write everything but header and descriptor to `file`.
    pub(super) fn write_tables(&mut self, file: &PartFile) -> Result<(), OutputError> {
        let mut placements = Vec::new();
        self.place_table(None, &mut placements);
        for directory in [self.redundant_directory, self.directory] {
            let first = directory + self.directory_sectors();
            let entries: Vec<u32> = (0..self.tables.directory.len() as u64)
                .map(|index| (first + index * TABLE_SECTORS) as u32)
                .collect();
            placements.push(self.made(directory, le_bytes_32(&entries)));
        }
        placements
            .iter()
            .try_for_each(|made| made.write_made(file))?;
        file.set_len(self.next * SECTOR)
    }

    /// The header, which is written last.
    pub(super) fn header(&self) -> Vec<u8> {
        let header = SparseHeader {
            version: 1,
            flags: FLAG_NEWLINES | FLAG_REDUNDANT,
            capacity: self.sectors,
            descriptor_sectors: self.descriptor_sectors,
            redundant_directory: self.redundant_directory,
            directory: self.directory,
            overhead: self.overhead,
        };
        header.to_bytes()
    }
}

/// Hand every grain of `chunk` that is not zero to `place`: its place on the disk, and in the chunk.
pub(super) fn place_grains(
    chunk: &EncodedChunk<'_>,
    mut place: impl FnMut(u64, Range<usize>) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    for (index, stored) in chunk.units.iter().enumerate() {
        if *stored != Stored::Zero {
            let within = index * GRAIN as usize;
            place(chunk.start + within as u64, within..within + GRAIN as usize)?;
        }
    }
    Ok(())
}
