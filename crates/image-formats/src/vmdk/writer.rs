//! Writes VMDK: stream-optimised, monolithic sparse, split sparse and monolithic flat.

use std::path::{Path, PathBuf};

use super::descriptor::new_descriptor;
use super::format::{
    DESCRIPTOR_SECTORS, DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, GRAIN,
    MARKER_DIRECTORY, MARKER_END, MARKER_FOOTER, MARKER_TABLE, SECTOR, SparseHeader, grain_marker,
    le_bytes_32, marker,
};
use super::sparse::{SparseLayout, TABLE_SECTORS, Tables, place_grains};
use crate::codec::Codec;
use crate::output::{
    Barrier, EncodedChunk, ImageWriter, OutputError, PartFile, PlacedBytes, Placement, RawOptions,
    Stored, place_behind_descriptor,
};
use crate::raw::RawWriter;

/// Whole sectors of a disk a sparse VMDK can hold.
fn sectors_of(virtual_size: u64) -> Result<u64, OutputError> {
    let sectors = virtual_size.div_ceil(SECTOR);
    // Places in the file are 32-bit sector numbers: 2 TiB, of which tables and markers take some.
    if sectors > u64::from(u32::MAX) - (u64::from(u32::MAX) >> 6) {
        return Err(too_large(virtual_size));
    }
    Ok(sectors)
}

pub(super) fn too_large(size: u64) -> OutputError {
    OutputError::Unfit {
        format: "vmdk",
        size,
        why: "a sparse VMDK counts 2^32 sectors at most; take vmdk:monolithicFlat".to_owned(),
    }
}

/// The file's name as a descriptor can carry it.
pub(crate) fn descriptor_name(path: &Path, size: u64) -> Result<String, OutputError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("");
    if name.is_empty() || name.contains(['"', '\n', '\r']) {
        return Err(OutputError::Unfit {
            format: "vmdk",
            size,
            why: format!("its descriptor cannot carry the file name {name:?}"),
        });
    }
    Ok(name.to_owned())
}

fn embedded_descriptor(create_type: &str, sectors: u64, name: &str) -> Vec<u8> {
    let mut text = new_descriptor(create_type, "SPARSE", &[(sectors, name)]).into_bytes();
    text.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
    text
}

fn made(sector: u64, bytes: Vec<u8>) -> Placement {
    Placement {
        file: 0,
        offset: sector * SECTOR,
        bytes: PlacedBytes::Made(bytes),
    }
}

/// The layout of a stream-optimised VMDK: compressed grains in ascending order, tables behind them,
/// everything led by markers. Version 3, which ESXi and vSphere import.
#[derive(Debug)]
pub struct StreamWriter {
    sectors: u64,
    name: String,
    tables: Tables,
    /// The first sector not taken.
    next: u64,
}

impl StreamWriter {
    /// A layout for a disk of `virtual_size` bytes, rounded up to whole sectors, in the file `path`.
    ///
    /// # Errors
    /// `Unfit` beyond 2 TiB, or for a file name a descriptor cannot carry.
    pub fn new(virtual_size: u64, path: &Path) -> Result<Self, OutputError> {
        let sectors = sectors_of(virtual_size)?;
        Ok(Self {
            sectors,
            name: descriptor_name(path, virtual_size)?,
            tables: Tables::new(sectors),
            next: GRAIN / SECTOR,
        })
    }

    fn place_table(&mut self, offset: Option<u64>, placements: &mut Vec<Placement>) {
        if let Some((index, entries)) = self.tables.leave(offset) {
            placements.push(made(self.next, marker(TABLE_SECTORS, MARKER_TABLE)));
            placements.push(made(self.next + 1, le_bytes_32(&entries)));
            self.tables.directory[index as usize] = self.next as u32 + 1;
            self.next += 1 + TABLE_SECTORS;
        }
    }

    fn header(&self, directory: u64) -> Vec<u8> {
        let header = SparseHeader {
            version: 3,
            flags: FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
            capacity: self.sectors,
            descriptor_sectors: DESCRIPTOR_SECTORS,
            redundant_directory: 0,
            directory,
            overhead: GRAIN / SECTOR,
        };
        header.to_bytes()
    }
}

impl ImageWriter for StreamWriter {
    fn unit(&self) -> u64 {
        GRAIN
    }

    fn codec(&self) -> Codec {
        // Measured on 1.2 GiB of a Linux root: 1.4 % larger than zlib's level 6, at a fourth of its time.
        Codec::Zlib { level: 2 }
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        for (index, stored) in chunk.units.iter().enumerate() {
            let Stored::Packed(range) = stored else {
                continue;
            };
            let offset = chunk.start + index as u64 * GRAIN;
            self.place_table(Some(offset), placements);
            let sector = u32::try_from(self.next).map_err(|_| too_large(self.sectors * SECTOR))?;
            self.tables.map(offset, sector);
            let head = grain_marker(offset / SECTOR, range.len() as u32);
            let len = (head.len() + range.len()) as u64;
            let at = self.next * SECTOR;
            let body = at + head.len() as u64;
            placements.push(made(self.next, head));
            placements.push(Placement {
                file: 0,
                offset: body,
                bytes: PlacedBytes::Packed(range.clone()),
            });
            let padding = len.next_multiple_of(SECTOR) - len;
            placements.push(Placement {
                file: 0,
                offset: at + len,
                bytes: PlacedBytes::Made(vec![0; padding as usize]),
            });
            self.next += len.div_ceil(SECTOR);
        }
        Ok(())
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        let mut placements = Vec::new();
        self.place_table(None, &mut placements);
        let mut directory = le_bytes_32(&self.tables.directory);
        directory.resize(directory.len().next_multiple_of(SECTOR as usize), 0);
        let sectors = directory.len() as u64 / SECTOR;
        placements.push(made(self.next, marker(sectors, MARKER_DIRECTORY)));
        let place = self.next + 1;
        placements.push(made(place, directory));
        self.next = place + sectors;
        placements.push(made(self.next, marker(1, MARKER_FOOTER)));
        placements.push(made(self.next + 1, self.header(place)));
        placements.push(made(self.next + 2, marker(0, MARKER_END)));
        if self.next + 3 > u64::from(u32::MAX) {
            return Err(too_large(self.sectors * SECTOR));
        }
        let text = embedded_descriptor("streamOptimized", self.sectors, &self.name);
        placements.push(made(1, text));
        placements
            .iter()
            .try_for_each(|made| made.write_made(file))?;
        barrier.reach(files)?;
        file.write_at(0, &self.header(DIRECTORY_AT_END))
    }
}

/// The layout of a monolithic sparse VMDK: two directories and all tables in front, grains behind.
#[derive(Debug)]
pub struct SparseWriter {
    extent: SparseLayout,
    name: String,
}

impl SparseWriter {
    /// A layout for a disk of `virtual_size` bytes, rounded up to whole sectors, in the file `path`.
    ///
    /// # Errors
    /// `Unfit` beyond 2 TiB, or for a file name a descriptor cannot carry.
    pub fn new(virtual_size: u64, path: &Path) -> Result<Self, OutputError> {
        let sectors = sectors_of(virtual_size)?;
        Ok(Self {
            extent: SparseLayout::new(sectors, DESCRIPTOR_SECTORS, 0),
            name: descriptor_name(path, virtual_size)?,
        })
    }
}

impl ImageWriter for SparseWriter {
    fn unit(&self) -> u64 {
        GRAIN
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        place_grains(chunk, |offset, bytes| {
            self.extent.place(offset, bytes, placements)
        })
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        self.extent.write_tables(file)?;
        let text = embedded_descriptor("monolithicSparse", self.extent.sectors(), &self.name);
        file.write_at(SECTOR, &text)?;
        barrier.reach(files)?;
        file.write_at(0, &self.extent.header())
    }
}

/// Sectors of an extent of a split disk, as VMware cuts them: 2047 MiB.
const SPLIT: u64 = 2047 << 11;
/// Extents of a split disk, at most: each is an open file while it is written.
const MAX_SPLIT: u64 = 512;

/// The layout of a disk split into sparse extents of less than 2 GB, behind a descriptor.
#[derive(Debug)]
pub struct SplitWriter {
    extents: Vec<SparseLayout>,
    names: Vec<String>,
}

impl SplitWriter {
    /// A layout for a disk of `virtual_size` bytes, rounded up to whole sectors, whose descriptor is the
    /// file `path`. The second value is the files of the extents, beside it.
    ///
    /// # Errors
    /// `Unfit` beyond 1 TiB, for an empty disk, or for a file name a descriptor cannot carry.
    pub fn new(virtual_size: u64, path: &Path) -> Result<(Self, Vec<PathBuf>), OutputError> {
        let sectors = virtual_size.div_ceil(SECTOR);
        let count = sectors.div_ceil(SPLIT);
        if count == 0 || count > MAX_SPLIT {
            return Err(OutputError::Unfit {
                format: "vmdk",
                size: virtual_size,
                why: format!(
                    "split it holds 1 byte to {MAX_SPLIT} extents of 2047 MiB; \
                     take vmdk:monolithicSparse"
                ),
            });
        }
        let paths: Vec<PathBuf> = (1..=count)
            .map(|number| beside(path, &format!("-s{number:03}.vmdk")))
            .collect();
        let names = paths.iter().map(|path| descriptor_name(path, virtual_size));
        let extents = (0..count).map(|index| {
            let sectors = SPLIT.min(sectors - index * SPLIT);
            // File 0 is the descriptor.
            SparseLayout::new(sectors, 0, index as usize + 1)
        });
        let writer = Self {
            extents: extents.collect(),
            names: names.collect::<Result<_, _>>()?,
        };
        Ok((writer, paths))
    }
}

/// The file beside `path` with another end of its name: `disk-s001.vmdk` for `disk.vmdk`.
pub(crate) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(end);
    path.with_file_name(name)
}

impl ImageWriter for SplitWriter {
    fn unit(&self) -> u64 {
        GRAIN
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        // An extent is whole grains: none lies in two.
        let len = SPLIT * SECTOR;
        place_grains(chunk, |offset, bytes| {
            match self.extents.get_mut((offset / len) as usize) {
                Some(extent) => extent.place(offset % len, bytes, placements),
                None => Ok(()),
            }
        })
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some((descriptor, parts)) = files.split_first() else {
            return Ok(());
        };
        for (extent, file) in self.extents.iter_mut().zip(parts) {
            extent.write_tables(file)?;
        }
        barrier.reach(files)?;
        for (extent, file) in self.extents.iter().zip(parts) {
            file.write_at(0, &extent.header())?;
        }
        // Tools that look at nothing but the descriptor take the disk for whole when it is there.
        barrier.reach(files)?;
        let lines = self.extents.iter().zip(&self.names);
        let lines: Vec<(u64, &str)> = lines
            .map(|(extent, name)| (extent.sectors(), name.as_str()))
            .collect();
        let text = new_descriptor("twoGbMaxExtentSparse", "SPARSE", &lines);
        // A descriptor cut off between two extents would be that of a smaller disk: its first sector,
        // without which it is none, comes when all else is on the medium.
        let first = text.len().min(SECTOR as usize);
        let (first, rest) = text.as_bytes().split_at(first);
        descriptor.write_at(SECTOR, rest)?;
        barrier.reach(files)?;
        descriptor.write_at(0, first)
    }
}

/// The layout of a monolithic flat VMDK: a descriptor, and the bytes of the disk in a second file.
#[derive(Debug)]
pub struct FlatWriter {
    sectors: u64,
    flat_name: String,
    flat: RawWriter,
}

impl FlatWriter {
    /// A layout for a disk of `virtual_size` bytes, rounded up to whole sectors, in the file `flat`.
    ///
    /// # Errors
    /// `Unfit` for a file name a descriptor cannot carry.
    pub fn new(virtual_size: u64, flat: &Path) -> Result<Self, OutputError> {
        let sectors = virtual_size.div_ceil(SECTOR);
        Ok(Self {
            sectors,
            flat_name: descriptor_name(flat, virtual_size)?,
            flat: RawWriter::new(sectors * SECTOR, &RawOptions::default()),
        })
    }
}

impl ImageWriter for FlatWriter {
    fn unit(&self) -> u64 {
        self.flat.unit()
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        place_behind_descriptor(&mut self.flat, chunk, placements)
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let [descriptor, flat, ..] = files else {
            return Ok(());
        };
        flat.set_len(self.sectors * SECTOR)?;
        barrier.reach(files)?;
        let text = new_descriptor("monolithicFlat", "FLAT", &[(self.sectors, &self.flat_name)]);
        descriptor.write_at(0, text.as_bytes())
    }
}
