//! The header and entries of a space-efficient sparse extent (seSparse), which ESXi keeps snapshots of
//! large disks in since 5.5 and of all since 6.5.
//!
//! VMware has published no document; the layout is what QEMU's reader (`block/vmdk.c`) and libvmdk's
//! notes agree on. Everything that is not as seen there is refused.

use std::path::{Path, PathBuf};

use block_io::BlockRead;

use super::extent::{Grain, Grains};
use super::format::{SECTOR, SESPARSE_MAGIC};
use super::rules;
use crate::bytes::le64;
use crate::error::{ParseError, require};
use crate::image::ImageFile;
use crate::mapped::TableFile;

/// The first bytes of the volatile header.
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
/// The only version seen: 2.1.
const VERSION: u64 = 0x0000_0002_0000_0001;
/// Sectors of a grain, and of a grain table: none others have been seen.
const GRAIN_SECTORS: u64 = 8;
const TABLE_SECTORS: u64 = 64;
/// Bytes of an entry of the directory and of a table.
const ENTRY: u64 = 8;
/// Entries of a grain table.
const TABLE_ENTRIES: u64 = TABLE_SECTORS * SECTOR / ENTRY;
/// Bytes of a grain.
const GRAIN: u64 = GRAIN_SECTORS * SECTOR;

/// What the constant header says, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    capacity: u64,
    volatile: u64,
    directory: u64,
    directory_len: u64,
    tables: u64,
    tables_len: u64,
    grains: u64,
}

/// A seSparse extent.
pub(super) struct SeSparseExtent {
    path: PathBuf,
    tables: TableFile,
    header: Header,
}

impl SeSparseExtent {
    /// Read and check both headers of `file`.
    pub(super) fn open(file: ImageFile) -> Result<Self, ParseError> {
        let size = file.disk.size();
        require(size >= SECTOR, rules::HEADER, 0, "512 bytes or more", size)?;
        let mut sector = [0; SECTOR as usize];
        file.disk.read_at(0, &mut sector)?;
        let header = parse_header(&sector)?;
        let sectors = size / SECTOR;
        for (at, place, len) in [
            (80, header.volatile, 1),
            (128, header.directory, header.directory_len),
        ] {
            let inside = place + len <= sectors;
            let expected = format!("{len} sectors below {sectors}");
            require(inside, rules::DIRECTORY, at, expected, place)?;
        }
        let place = header.volatile * SECTOR;
        file.disk.read_at(place, &mut sector)?;
        check_volatile(&sector, place)?;
        Ok(Self {
            tables: TableFile::new(file.disk, file.path.display().to_string()),
            path: file.path,
            header,
        })
    }

    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sectors it maps.
    pub(super) fn capacity(&self) -> u64 {
        self.header.capacity
    }

    /// The place of the entry for the grain `index`; `None` where its table is not there.
    fn entry_place(&self, index: u64, offset: u64) -> block_io::Result<Option<u64>> {
        let place = self.header.directory * SECTOR + index / TABLE_ENTRIES * ENTRY;
        let entry = u64::from_le_bytes(self.tables.entry(place)?);
        let number = table_number(entry).map_err(|expected| {
            let found = format!("{entry:#x}");
            let tables = &self.tables;
            tables.broken(rules::SE_ENTRY, place, expected, found, offset)
        })?;
        let Some(number) = number else {
            return Ok(None);
        };
        let table = number * TABLE_SECTORS;
        if table + TABLE_SECTORS > self.header.tables_len {
            let expected = format!("a table in {} sectors", self.header.tables_len);
            let tables = &self.tables;
            return Err(tables.broken(rules::SE_ENTRY, place, expected, number, offset));
        }
        let start = (self.header.tables + table) * SECTOR;
        Ok(Some(start + index % TABLE_ENTRIES * ENTRY))
    }
}

impl Grains for SeSparseExtent {
    fn grain(&self) -> u64 {
        GRAIN
    }

    fn find(&self, offset: u64) -> block_io::Result<Grain> {
        let Some(place) = self.entry_place(offset / GRAIN, offset)? else {
            return Ok(Grain::Missing);
        };
        let entry = u64::from_le_bytes(self.tables.entry(place)?);
        match parse_entry(entry) {
            Ok(Entry::Missing) => Ok(Grain::Missing),
            Ok(Entry::Zero) => Ok(Grain::Zero),
            Ok(Entry::Grain(number)) => {
                let grains = self.header.grains * SECTOR;
                let at = number.saturating_mul(GRAIN).saturating_add(grains);
                let end = self.tables.file().size();
                match at.checked_add(GRAIN) {
                    Some(last) if last <= end => Ok(Grain::Plain(at)),
                    _ => {
                        let expected = format!("{GRAIN} bytes below {end}");
                        let tables = &self.tables;
                        Err(tables.broken(rules::GRAIN, place, expected, at, offset))
                    }
                }
            }
            Err(expected) => {
                let found = format!("{entry:#x}");
                let tables = &self.tables;
                Err(tables.broken(rules::SE_ENTRY, place, expected, found, offset))
            }
        }
    }

    fn read_plain(&self, place: u64, buf: &mut [u8], offset: u64) -> block_io::Result<()> {
        self.tables.file().read_at(place + offset % GRAIN, buf)
    }

    /// There are no compressed grains.
    fn read_packed(&self, place: u64, buf: &mut [u8], offset: u64) -> block_io::Result<()> {
        self.read_plain(place, buf, offset)
    }
}

/// Understand the constant header, the first sector of the file.
fn parse_header(head: &[u8]) -> Result<Header, ParseError> {
    let magic = head.starts_with(&SESPARSE_MAGIC);
    require(magic, rules::HEADER, 0, "0xcafebabe", "something else")?;
    for (offset, expected) in [
        (8, VERSION),
        (24, GRAIN_SECTORS),
        (32, TABLE_SECTORS),
        (40, 0),
    ] {
        let found = le64(head, offset);
        let place = offset as u64;
        let expected = format!("{expected:#x}");
        require(
            format!("{found:#x}") == expected,
            rules::SE_HEADER,
            place,
            expected,
            format!("{found:#x}"),
        )?;
    }
    let header = Header {
        capacity: le64(head, 16),
        volatile: le64(head, 80),
        directory: le64(head, 128),
        directory_len: le64(head, 136),
        tables: le64(head, 144),
        tables_len: le64(head, 152),
        grains: le64(head, 192),
    };
    // All places are far below this, so that they can be added and multiplied.
    let places = [
        (16, header.capacity),
        (80, header.volatile),
        (128, header.directory),
        (136, header.directory_len),
        (144, header.tables),
        (152, header.tables_len),
        (192, header.grains),
    ];
    for (place, sectors) in places {
        let expected = "less than 2^40 sectors";
        require(
            sectors < 1 << 40,
            rules::SE_HEADER,
            place,
            expected,
            sectors,
        )?;
    }
    let needed = (header.capacity * SECTOR).div_ceil(GRAIN * TABLE_ENTRIES);
    let enough = header.directory_len * SECTOR / ENTRY >= needed;
    let expected = format!("{needed} entries");
    require(
        enough,
        rules::DIRECTORY,
        136,
        expected,
        header.directory_len,
    )?;
    Ok(header)
}

/// Refuse a file whose journal holds what its tables do not: `sector` is that of the volatile header.
fn check_volatile(sector: &[u8], place: u64) -> Result<(), ParseError> {
    let magic = le64(sector, 0);
    let found = format!("{magic:#x}");
    require(
        magic == VOLATILE_MAGIC,
        rules::SE_HEADER,
        place,
        "0xcafecafe",
        found,
    )?;
    if le64(sector, 24) != 0 {
        return Err(ParseError::Unsupported {
            feature: "a seSparse extent whose journal must be replayed".to_owned(),
            hint: "start and stop the machine on ESXi, or clone the disk with vmkfstools -i",
        });
    }
    Ok(())
}

/// The number of the grain table that an entry of the directory names.
fn table_number(entry: u64) -> Result<Option<u64>, &'static str> {
    match entry {
        0 => Ok(None),
        entry if entry >> 32 == 0x1000_0000 => Ok(Some(entry & 0xffff_ffff)),
        _ => Err("0, or 0x10000000 and a table's number"),
    }
}

/// What an entry of a grain table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Missing,
    Zero,
    /// The grain of that number.
    Grain(u64),
}

/// Understand an entry of a grain table: its highest four bits are the kind, the next twelve the lowest
/// of the grain's number.
fn parse_entry(entry: u64) -> Result<Entry, &'static str> {
    match entry >> 60 {
        0 if entry == 0 => Ok(Entry::Missing),
        // Unmapped by the guest, and zeroes: both read as zeroes.
        1 | 2 => Ok(Entry::Zero),
        3 => Ok(Entry::Grain(
            entry >> 48 & 0x0fff | (entry & 0x0000_ffff_ffff_ffff) << 12,
        )),
        _ => Err("a kind from 0 to 3"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_turned_as_they_are_stored() {
        assert_eq!(parse_entry(0), Ok(Entry::Missing));
        assert_eq!(parse_entry(0x1000_0000_0000_0000), Ok(Entry::Zero));
        assert_eq!(parse_entry(0x2000_0000_0000_0000), Ok(Entry::Zero));
        assert_eq!(parse_entry(0x3005_0000_0000_0002), Ok(Entry::Grain(0x2005)));
        assert!(parse_entry(0x4000_0000_0000_0000).is_err());
        assert!(parse_entry(5).is_err());
        assert_eq!(table_number(0x1000_0000_0000_0007), Ok(Some(7)));
        assert!(table_number(7).is_err());
    }
}
