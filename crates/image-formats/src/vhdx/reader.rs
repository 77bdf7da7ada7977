//! Reads VHDX: dynamic, fixed and differencing.

use std::sync::Arc;

use block_io::{BlockRead, Result, SectorSize};

use super::format::{
    BLOCK_FULLY_PRESENT, BLOCK_NOT_PRESENT, BLOCK_PARTIALLY_PRESENT, BLOCK_UNDEFINED,
    BLOCK_UNMAPPED, BLOCK_ZERO, MIB, bat_entries, bat_index, chunk_ratio, split_bat_entry,
};
use super::metadata::{Metadata, ParentLocator, read_metadata};
use super::rules;
use crate::details::{Details, VhdxDetails};
use crate::detect::ImageFormat;
use crate::error::{OpenError, ParseError, require};
use crate::finding::Finding;
use crate::image::{Image, ImageFile, Opened, Opener};
use crate::mapped::{Mapped, MappedDisk, Mapping, TableFile};

/// Open `file`, and its parent through the opener's gate.
pub(crate) fn open(file: ImageFile, opener: &Opener<'_>) -> std::result::Result<Opened, OpenError> {
    let path = file.path.clone();
    let metadata = read_metadata(&file.disk)
        .and_then(|metadata| check_bat(&metadata).map(|()| metadata))
        .map_err(|error| error.at(&path))?;
    let parent = match &metadata.parent {
        Some(locator) => Some(open_parent(&file, locator, opener)?),
        None => None,
    };
    let variant = match (&parent, metadata.fixed) {
        (Some(_), _) => "differencing",
        (None, true) => "fixed",
        (None, false) => "dynamic",
    };
    let mut notes = metadata.notes.clone();
    let below = parent.as_ref().map(|image| image.info().clone());
    notes.extend(below.iter().flat_map(|below| below.notes.clone()));
    Ok(Opened {
        variant: variant.to_owned(),
        details: Details::Vhdx(VhdxDetails {
            fixed: metadata.fixed,
            block_size: metadata.block_size,
            logical_sector: metadata.logical_sector,
            log_replayed: metadata
                .notes
                .iter()
                .any(|note| note.rule == rules::LOG_REPLAYED),
        }),
        cluster_size: Some(metadata.block_size),
        notes,
        identity: Some(metadata.data_write.to_string()),
        below,
        disk: Box::new(MappedDisk(VhdxDisk {
            ratio: chunk_ratio(metadata.logical_sector, metadata.block_size),
            tables: TableFile::new(Arc::clone(&metadata.file), path.display().to_string()),
            metadata,
            parent,
        })),
    })
}

fn check_bat(metadata: &Metadata) -> std::result::Result<(), ParseError> {
    let blocks = metadata.virtual_size.div_ceil(metadata.block_size);
    let ratio = chunk_ratio(metadata.logical_sector, metadata.block_size);
    let entries = match metadata.parent {
        // Every chunk has its sector bitmap. // [MS-VHDX] 2.5
        Some(_) => blocks.div_ceil(ratio) * (ratio + 1),
        None => bat_entries(blocks, ratio),
    };
    let found = metadata.bat_len / 8;
    let place = metadata.bat_offset;
    require(
        found >= entries,
        rules::BAT_SIZE,
        place,
        format!("{entries} entries"),
        found,
    )?;
    Ok(())
}

fn open_parent(
    file: &ImageFile,
    locator: &ParentLocator,
    opener: &Opener<'_>,
) -> std::result::Result<Image, OpenError> {
    // The paths are those of the machine the file comes from; the parent is looked for under its last
    // component, which the gate sees.
    let mut failed = None;
    for path in &locator.paths {
        let name = path.rsplit(['\\', '/']).next().unwrap_or(path);
        match opener.open_named(name, &file.path, Some(ImageFormat::Vhdx)) {
            Ok(parent) => {
                check_linkage(locator, &parent).map_err(|error| error.at(&file.path))?;
                return Ok(parent);
            }
            Err(error) => failed.get_or_insert(error),
        };
    }
    let none = || {
        let finding = Finding::error(rules::PARENT_LOCATOR, 0, "a path", "none");
        ParseError::from(finding).at(&file.path)
    };
    Err(failed.unwrap_or_else(none))
}

fn check_linkage(locator: &ParentLocator, parent: &Image) -> std::result::Result<(), ParseError> {
    let identity = parent.info().identity.clone().unwrap_or_default();
    let plain = |text: &String| text.trim_matches(['{', '}']).to_ascii_lowercase();
    let linked = locator
        .linkage
        .iter()
        .any(|linkage| plain(linkage) == identity);
    let expected = locator.linkage.join(" or ");
    require(linked, rules::PARENT_CHANGED, 0, expected, identity)?;
    Ok(())
}

/// The disk inside a VHDX file.
struct VhdxDisk {
    metadata: Metadata,
    ratio: u64,
    tables: TableFile,
    parent: Option<Image>,
}

impl VhdxDisk {
    fn bat_entry(&self, index: u64) -> Result<(u64, u64)> {
        let place = self.metadata.bat_offset + index * 8;
        Ok((u64::from_le_bytes(self.tables.entry(place)?), place))
    }

    fn data(&self, at: u64, place: u64, offset: u64) -> Result<u64> {
        let size = self.metadata.block_size;
        let end = at.saturating_add(size);
        // The last block of a file may be cut short where the disk is.
        let needed = size.min(self.metadata.virtual_size - offset / size * size);
        let inside = at >= MIB && end - size + needed <= self.metadata.file.size();
        if !inside {
            let expected = format!("{needed} bytes below {}", self.metadata.file.size());
            return Err(self
                .tables
                .broken(rules::BAT_PLACE, place, expected, at, offset));
        }
        Ok(at)
    }

    /// A block of which some sectors are here and some in the parent. // [MS-VHDX] 2.4
    fn map_partly(&self, data: u64, offset: u64) -> Result<(Mapping, u64)> {
        let sector = self.metadata.logical_sector;
        let chunk_len = self.ratio * self.metadata.block_size;
        let chunk = offset / chunk_len;
        let (entry, place) = self.bat_entry(chunk * (self.ratio + 1) + self.ratio)?;
        let (state, bitmap) = split_bat_entry(entry);
        let inside = bitmap
            .checked_add(MIB)
            .is_some_and(|end| end <= self.metadata.file.size());
        if state != BLOCK_FULLY_PRESENT || !inside || bitmap < MIB {
            let found = format!("{entry:#x}");
            return Err(self.tables.broken(
                rules::BAT_PLACE,
                place,
                "a sector bitmap block",
                found,
                offset,
            ));
        }
        let bit = |offset: u64| -> Result<bool> {
            let index = offset % chunk_len / sector;
            Ok(self.tables.byte(bitmap + index / 8)? >> (index % 8) & 1 == 1)
        };
        let here = bit(offset)?;
        let block_end = (offset / self.metadata.block_size + 1) * self.metadata.block_size;
        let mut end = (offset / sector + 1) * sector;
        while end < block_end && bit(end)? == here {
            end += sector;
        }
        let mapping = match here {
            true => Mapping::Data(data + offset % self.metadata.block_size),
            false => Mapping::Below,
        };
        Ok((mapping, end - offset))
    }
}

impl Mapped for VhdxDisk {
    fn size(&self) -> u64 {
        self.metadata.virtual_size
    }

    fn sector_size(&self) -> SectorSize {
        match self.metadata.logical_sector {
            4096 => SectorSize::B4096,
            _ => SectorSize::B512,
        }
    }

    fn file(&self) -> &dyn BlockRead {
        &self.metadata.file
    }

    fn parent(&self) -> Option<&Image> {
        self.parent.as_ref()
    }

    fn map_one(&self, offset: u64) -> Result<(Mapping, u64)> {
        let size = self.metadata.block_size;
        let (block, within) = (offset / size, offset % size);
        let (entry, place) = self.bat_entry(bat_index(block, self.ratio))?;
        let (state, at) = split_bat_entry(entry);
        // Bits 3 to 19. // [MS-VHDX] 2.5.1
        if entry & (MIB - 1) & !7 != 0 {
            let found = format!("{entry:#x}");
            return Err(self.tables.broken(
                rules::BAT_RESERVED,
                place,
                "bits 3 to 19 clear",
                found,
                offset,
            ));
        }
        let mapping = match (state, &self.parent) {
            (BLOCK_NOT_PRESENT, Some(_)) => Mapping::Below,
            // What an undefined or unmapped block reads as is open; zeroes are what Windows gives.
            (BLOCK_NOT_PRESENT | BLOCK_UNDEFINED | BLOCK_ZERO | BLOCK_UNMAPPED, _) => Mapping::Zero,
            (BLOCK_FULLY_PRESENT, _) => Mapping::Data(self.data(at, place, offset)? + within),
            (BLOCK_PARTIALLY_PRESENT, Some(_)) => {
                let data = self.data(at, place, offset)?;
                return self.map_partly(data, offset);
            }
            (BLOCK_PARTIALLY_PRESENT, None) => {
                let found = "state 7".to_owned();
                return Err(self.tables.broken(
                    rules::NO_PARENT,
                    place,
                    "another state",
                    found,
                    offset,
                ));
            }
            (other, _) => {
                let expected = "0 to 3, 6 or 7";
                return Err(self.tables.broken(
                    rules::BAT_STATE,
                    place,
                    expected,
                    other.to_string(),
                    offset,
                ));
            }
        };
        Ok((mapping, size - within))
    }
}
