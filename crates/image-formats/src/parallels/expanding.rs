//! Reads one expanding image, alone or over another of its bundle.

use block_io::{BlockRead, Result};

use super::format::{CLOSED, ENTRY, HEADER_LEN, Header, IN_USE, SECTOR, VERSION};
use super::rules;
use crate::error::{ParseError, require};
use crate::finding::{Finding, Severity};
use crate::image::{Image, ImageFile};
use crate::mapped::{Mapped, MappedDisk, Mapping, TableFile};

/// The largest cluster: 2 GiB. QEMU takes less than twice of it.
const MAX_CLUSTER_SECTORS: u64 = 1 << 22;

/// An expanding image, its header checked.
pub(crate) struct Expanding {
    tables: TableFile,
    pub(crate) header: Header,
    pub(crate) notes: Vec<Finding>,
    parent: Option<Image>,
}

impl Expanding {
    /// Read and check the header of `file`.
    pub(crate) fn open(file: ImageFile) -> std::result::Result<Self, ParseError> {
        let mut header = read_header(&file.disk)?;
        let notes = check_header(&mut header, file.disk.size())?;
        Ok(Self {
            tables: TableFile::new(file.disk, file.path.display().to_string()),
            header,
            notes,
            parent: None,
        })
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.header.sectors * SECTOR
    }

    /// The disk, over `parent` where there is one.
    pub(crate) fn into_disk(mut self, parent: Option<Image>) -> Box<dyn BlockRead> {
        self.parent = parent;
        Box::new(MappedDisk(self))
    }
}

/// The header of `file`, of which only the magic is checked.
pub(super) fn read_header(file: &dyn BlockRead) -> std::result::Result<Header, ParseError> {
    let mut head = [0; HEADER_LEN];
    let there = file.size().min(HEADER_LEN as u64) as usize;
    file.read_at(0, &mut head[..there])?;
    let broken = || Finding::error(rules::HEADER, 0, "the magic", "other bytes");
    Ok(Header::parse(&head).ok_or_else(broken)?)
}

/// Check what must hold for the disk to be read; gives what else is worth telling.
// parallels.rst, "Header"
pub(super) fn check_header(
    header: &mut Header,
    file_size: u64,
) -> std::result::Result<Vec<Finding>, ParseError> {
    let mut notes = Vec::new();
    let mut warn = |rule, offset, expected: &str, found: String| {
        notes.push(Finding::error(rule, offset, expected, found).with(Severity::Warning));
    };
    require(
        header.version == VERSION,
        rules::VERSION,
        16,
        "2",
        header.version,
    )?;
    let cluster = header.cluster_sectors;
    let right = (1..=MAX_CLUSTER_SECTORS).contains(&cluster);
    require(right, rules::CLUSTER, 28, "1 to 4194304", cluster)?;
    if !header.extended && header.sectors >> 32 != 0 {
        let found = format!("{:#x}", header.sectors);
        warn(rules::SECTORS, 40, "four zero bytes", found);
        header.sectors &= 0xffff_ffff;
    }
    let right = header.sectors < 1 << 54;
    require(right, rules::SECTORS, 36, "less than 2^54", header.sectors)?;
    let needed = header.sectors.div_ceil(cluster);
    let inside = header.entries >= needed && header.table_end() <= file_size;
    let expected = format!("{needed} or more, below {file_size}");
    require(inside, rules::ENTRIES, 32, expected, header.entries)?;
    let start = header.data_start();
    let aligned = !header.extended || start.is_multiple_of(header.cluster());
    if start < header.table_end() || !aligned || (header.extended && header.data_offset == 0) {
        // QEMU reads such images by their entries, which do not depend on it.
        let found = header.data_offset.to_string();
        warn(
            rules::DATA_OFFSET,
            48,
            "whole clusters behind the BAT",
            found,
        );
        header.data_offset = 0;
    }
    match header.in_use {
        0 | CLOSED => {}
        IN_USE => warn(rules::OPEN, 44, "closed", "open, or not closed".to_owned()),
        other => warn(rules::OPEN, 44, "closed", format!("{other:#x}")),
    }
    if header.extension != 0 {
        let place = header.extension.saturating_mul(SECTOR);
        let finding = Finding::error(
            rules::EXTENSION,
            place,
            "none",
            "one, for example dirty bitmaps; it is not looked at",
        );
        notes.push(finding.with(Severity::Note));
    }
    Ok(notes)
}

impl Mapped for Expanding {
    fn size(&self) -> u64 {
        Expanding::size(self)
    }

    fn file(&self) -> &dyn BlockRead {
        self.tables.file()
    }

    fn parent(&self) -> Option<&Image> {
        self.parent.as_ref()
    }

    // parallels.rst, "BAT"
    fn map_one(&self, offset: u64) -> Result<(Mapping, u64)> {
        let size = self.header.cluster();
        let (cluster, within) = (offset / size, offset % size);
        let at = HEADER_LEN as u64 + cluster * ENTRY;
        let entry = u32::from_le_bytes(self.tables.entry(at)?);
        if entry == 0 {
            return Ok((Mapping::Below, size - within));
        }
        let place = self.header.place(entry);
        let needed = size.min(Expanding::size(self) - cluster * size);
        let end = self.tables.file().size();
        let inside = place.checked_add(needed).is_some_and(|last| last <= end);
        if place < self.header.data_start() || !inside {
            let expected = format!("from {} on, below {end}", self.header.data_start());
            return Err(self
                .tables
                .broken(rules::CLUSTER_PLACE, at, expected, place, offset));
        }
        Ok((Mapping::Data(place + within), size - within))
    }
}
