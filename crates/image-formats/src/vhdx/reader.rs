//! Reads VHDX: dynamic, fixed and differencing.

use std::sync::Arc;

use block_io::{BlockError, BlockRead, Extent, ExtentKind, Result, SectorSize, check_range};

use super::format::{
    BLOCK_FULLY_PRESENT, BLOCK_NOT_PRESENT, BLOCK_PARTIALLY_PRESENT, BLOCK_UNDEFINED,
    BLOCK_UNMAPPED, BLOCK_ZERO, MIB, bat_entries, bat_index, chunk_ratio, split_bat_entry,
};
use super::metadata::{Metadata, ParentLocator, read_metadata};
use super::rules;
use crate::bytes::le64;
use crate::cache::TableCache;
use crate::detect::ImageFormat;
use crate::error::{OpenError, ParseError, corrupt, require};
use crate::finding::Finding;
use crate::image::{Image, ImageFile, Opened, Opener};

/// Tables are read and kept in pieces of this size.
const PIECE: u64 = 64 << 10;
/// Pieces kept at most: 8 MiB.
const PIECES: usize = 128;
/// Blocks looked at for one extent, at most: the caller joins what is cut.
const EXTENT_BLOCKS: u64 = 1 << 16;

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
        cluster_size: Some(metadata.block_size),
        notes,
        identity: Some(metadata.data_write.to_string()),
        below,
        disk: Box::new(VhdxDisk {
            ratio: chunk_ratio(metadata.logical_sector, metadata.block_size),
            pieces: TableCache::new(PIECES),
            name: path.display().to_string(),
            metadata,
            parent,
        }),
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
    name: String,
    metadata: Metadata,
    ratio: u64,
    pieces: TableCache<Vec<u8>>,
    parent: Option<Image>,
}

/// Where a run of the disk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mapping {
    Zero,
    Parent,
    /// At this offset of the file.
    Data(u64),
}

impl Mapping {
    fn continues(self, len: u64, next: Mapping) -> bool {
        match (self, next) {
            (Mapping::Data(at), Mapping::Data(next)) => at.checked_add(len) == Some(next),
            (mapping, next) => mapping == next,
        }
    }
}

impl VhdxDisk {
    /// Bytes of a table: `len` of them at `offset` of the file, inside one piece.
    fn table(&self, offset: u64) -> Result<(Arc<Vec<u8>>, usize)> {
        let piece = offset / PIECE;
        let load = || {
            let start = piece * PIECE;
            let len = PIECE.min(self.metadata.file.size().saturating_sub(start));
            let mut bytes = vec![0; len as usize];
            self.metadata.file.read_at(start, &mut bytes)?;
            Ok::<_, BlockError>(bytes)
        };
        Ok((self.pieces.get(piece, load)?, (offset % PIECE) as usize))
    }

    fn bat_entry(&self, index: u64) -> Result<(u64, u64)> {
        let place = self.metadata.bat_offset + index * 8;
        let (piece, at) = self.table(place)?;
        Ok((le64(&piece, at), place))
    }

    fn map_one(&self, offset: u64) -> Result<(Mapping, u64)> {
        let size = self.metadata.block_size;
        let (block, within) = (offset / size, offset % size);
        let (entry, place) = self.bat_entry(bat_index(block, self.ratio))?;
        let (state, at) = split_bat_entry(entry);
        // Bits 3 to 19. // [MS-VHDX] 2.5.1
        if entry & (MIB - 1) & !7 != 0 {
            let found = format!("{entry:#x}");
            return Err(self.broken(
                rules::BAT_RESERVED,
                place,
                "bits 3 to 19 clear",
                found,
                offset,
            ));
        }
        let mapping = match (state, &self.parent) {
            (BLOCK_NOT_PRESENT, Some(_)) => Mapping::Parent,
            // What an undefined or unmapped block reads as is open; zeroes are what Windows gives.
            (BLOCK_NOT_PRESENT | BLOCK_UNDEFINED | BLOCK_ZERO | BLOCK_UNMAPPED, _) => Mapping::Zero,
            (BLOCK_FULLY_PRESENT, _) => Mapping::Data(self.data(at, place, offset)? + within),
            (BLOCK_PARTIALLY_PRESENT, Some(_)) => {
                let data = self.data(at, place, offset)?;
                return self.map_partly(data, offset);
            }
            (BLOCK_PARTIALLY_PRESENT, None) => {
                let found = "state 7".to_owned();
                return Err(self.broken(rules::NO_PARENT, place, "another state", found, offset));
            }
            (other, _) => {
                let expected = "0 to 3, 6 or 7";
                return Err(self.broken(
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

    fn data(&self, at: u64, place: u64, offset: u64) -> Result<u64> {
        let size = self.metadata.block_size;
        let end = at.saturating_add(size);
        // The last block of a file may be cut short where the disk is.
        let needed = size.min(self.metadata.virtual_size - offset / size * size);
        let inside = at >= MIB && end - size + needed <= self.metadata.file.size();
        if !inside {
            let expected = format!("{needed} bytes below {}", self.metadata.file.size());
            return Err(self.broken(rules::BAT_PLACE, place, &expected, at.to_string(), offset));
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
            return Err(self.broken(
                rules::BAT_PLACE,
                place,
                "a sector bitmap block",
                found,
                offset,
            ));
        }
        let bit = |offset: u64| -> Result<bool> {
            let index = offset % chunk_len / sector;
            let (piece, at) = self.table(bitmap + index / 8)?;
            Ok(piece
                .get(at)
                .is_some_and(|byte| byte >> (index % 8) & 1 == 1))
        };
        let here = bit(offset)?;
        let block_end = (offset / self.metadata.block_size + 1) * self.metadata.block_size;
        let mut end = (offset / sector + 1) * sector;
        while end < block_end && bit(end)? == here {
            end += sector;
        }
        let mapping = match here {
            true => Mapping::Data(data + offset % self.metadata.block_size),
            false => Mapping::Parent,
        };
        Ok((mapping, end - offset))
    }

    fn map_run(&self, offset: u64, end: u64) -> Result<(Mapping, u64)> {
        let (mapping, mut len) = self.map_one(offset)?;
        let mut looked_at = 0;
        while offset + len < end && looked_at < EXTENT_BLOCKS {
            let Ok((next, more)) = self.map_one(offset + len) else {
                break;
            };
            if !mapping.continues(len, next) {
                break;
            }
            len += more;
            looked_at += 1;
        }
        Ok((mapping, len.min(end - offset)))
    }

    fn broken(
        &self,
        rule: &'static crate::finding::Rule,
        place: u64,
        expected: &str,
        found: String,
        offset: u64,
    ) -> BlockError {
        corrupt(&Finding::error(rule, place, expected, found), offset, 1).on(self.name.clone())
    }
}

impl BlockRead for VhdxDisk {
    fn size(&self) -> u64 {
        self.metadata.virtual_size
    }

    fn sector_size(&self) -> SectorSize {
        match self.metadata.logical_sector {
            4096 => SectorSize::B4096,
            _ => SectorSize::B512,
        }
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        while offset < end {
            let (mapping, len) = self.map_run(offset, end)?;
            let (part, rest) = buf.split_at_mut(len as usize);
            match (mapping, &self.parent) {
                (Mapping::Data(at), _) => self.metadata.file.read_at(at, part)?,
                (Mapping::Parent, Some(parent)) => read_padded(parent, offset, part)?,
                (Mapping::Zero | Mapping::Parent, _) => part.fill(0),
            }
            offset += len;
            buf = rest;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let (mapping, len) = self.map_run(offset, self.size())?;
        let kind = match (mapping, &self.parent) {
            // What is a hole in the file is zero in the disk.
            (Mapping::Data(at), _) => {
                let below = self.metadata.file.extent_at(at)?;
                return Ok(Extent {
                    kind: below.kind,
                    start: offset,
                    len: below.len.min(len),
                });
            }
            (Mapping::Parent, Some(parent)) if offset < parent.size() => {
                return Ok(parent.extent_at(offset)?.clipped_to(offset + len));
            }
            _ => ExtentKind::Zero,
        };
        Ok(Extent {
            kind,
            start: offset,
            len,
        })
    }
}

/// Read an image below, which may be shorter: it reads as zeroes past its end.
pub(crate) fn read_padded(below: &dyn BlockRead, offset: u64, buf: &mut [u8]) -> Result<()> {
    let there = below.size().saturating_sub(offset).min(buf.len() as u64) as usize;
    let (head, tail) = buf.split_at_mut(there);
    tail.fill(0);
    match head.is_empty() {
        true => Ok(()),
        false => below.read_at(offset, head),
    }
}
