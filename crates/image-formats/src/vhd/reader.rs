//! Reads VHD: fixed, dynamic and differencing.

use std::sync::Arc;

use block_io::{BlockRead, Result};

use super::format::{
    COOKIE, DIFFERENCING, DYNAMIC, DYNAMIC_COOKIE, DYNAMIC_LEN, DYNAMIC_SUM, FIXED, FOOTER_SUM,
    SECTOR, UNUSED, is_sealed,
};
use super::rules;
use crate::bytes::{array, be32, be64};
use crate::details::{Details, VhdDetails};
use crate::detect::ImageFormat;
use crate::error::{OpenError, ParseError, require};
use crate::finding::{Finding, Severity};
use crate::image::{Image, ImageFile, Opened, Opener};
use crate::mapped::{Mapped, MappedDisk, Mapping, TableFile};

/// Open `file`, and its parent through the opener's gate.
pub(crate) fn open(file: ImageFile, opener: &Opener<'_>) -> std::result::Result<Opened, OpenError> {
    let path = file.path.clone();
    let at = |error: ParseError| error.at(&path);
    let (footer, mut notes) = read_footer(&file).map_err(at)?;
    let identity = uuid::Uuid::from_bytes(array(&footer, 68)).to_string();
    let size = be64(&footer, 48);
    let kind = be32(&footer, 60);
    let variant = match kind {
        FIXED => "fixed",
        DYNAMIC => "dynamic",
        DIFFERENCING => "differencing",
        other => {
            let found = other.to_string();
            return Err(at(
                Finding::error(rules::TYPE, 60, "2, 3 or 4", found).into()
            ));
        }
    };
    let mut details = VhdDetails {
        kind,
        creator: String::from_utf8_lossy(&array::<4>(&footer, 28)).into_owned(),
        block_size: None,
        geometry: geometry_of(&footer),
    };
    let (disk, below): (Box<dyn BlockRead>, _) = match kind {
        FIXED => {
            let room = file.disk.size() - SECTOR;
            let expected = format!("at most {room} bytes");
            require(size <= room, rules::SIZE, 48, expected, size).map_err(|f| at(f.into()))?;
            let window = block_io::Window::new(Arc::clone(&file.disk), 0..size);
            (Box::new(window.map_err(|error| at(error.into()))?), None)
        }
        _ => {
            let dynamic = read_dynamic(&file, be64(&footer, 16), size).map_err(at)?;
            details.block_size = Some(dynamic.block);
            let parent = match kind {
                DIFFERENCING => Some(open_parent(&file, &dynamic, opener)?),
                _ => None,
            };
            let below = parent.as_ref().map(|image| image.info().clone());
            let name = path.display().to_string();
            let disk = VhdDisk {
                tables: TableFile::new(file.disk, name),
                size,
                dynamic,
                parent,
            };
            (Box::new(MappedDisk(disk)), below)
        }
    };
    notes.extend(
        below
            .iter()
            .flat_map(|below: &crate::image::ImageInfo| below.notes.clone()),
    );
    Ok(Opened {
        disk,
        variant: variant.to_owned(),
        cluster_size: details.block_size,
        details: Details::Vhd(details),
        notes,
        identity: Some(identity),
        below,
    })
}

/// Cylinders, heads and sectors per track. // [VHD 1.0] Disk Geometry
fn geometry_of(footer: &[u8]) -> (u16, u8, u8) {
    let [high, low, heads, track] = array(footer, 56);
    (u16::from_be_bytes([high, low]), heads, track)
}

/// The footer at the end, or its copy at the start where the end was lost.
fn read_footer(file: &ImageFile) -> std::result::Result<(Vec<u8>, Vec<Finding>), ParseError> {
    let size = file.disk.size();
    require(size >= SECTOR, rules::FOOTER, 0, "512 bytes or more", size)?;
    let mut footer = vec![0; SECTOR as usize];
    let mut notes = Vec::new();
    // A footer of Virtual PC before 2004 has 511 bytes. // [VHD 1.0] Hard Disk Footer Format
    for place in [size - SECTOR, size - SECTOR + 1, 0] {
        let len = (size - place).min(SECTOR) as usize;
        footer.fill(0);
        file.disk.read_at(place, &mut footer[..len])?;
        if !footer.starts_with(COOKIE) {
            continue;
        }
        if place == 0 && size != SECTOR {
            let finding = Finding::error(
                rules::FOOTER,
                size - SECTOR,
                "a footer",
                "none; its copy is used",
            );
            notes.push(finding.with(Severity::Warning));
        }
        if !is_sealed(&footer, FOOTER_SUM) {
            // Windows itself writes such footers, and reads them: said, not refused.
            let found = format!("{:#x}", be32(&footer, FOOTER_SUM));
            let finding = Finding::error(rules::CHECKSUM, place + 64, "the sum", found);
            notes.push(finding.with(Severity::Warning));
        }
        let version = be32(&footer, 12);
        require(
            version >> 16 == 1,
            rules::VERSION,
            place + 12,
            "0x10000",
            format!("{version:#x}"),
        )?;
        return Ok((footer, notes));
    }
    Err(Finding::error(rules::FOOTER, size - SECTOR, "conectix", "other bytes").into())
}

/// What a dynamic header says, checked.
struct Dynamic {
    table: u64,
    block: u64,
    bitmap: u64,
    parent_id: [u8; 16],
    parent_names: Vec<String>,
}

// [VHD 1.0] Dynamic Disk Header Format
fn read_dynamic(
    file: &ImageFile,
    place: u64,
    size: u64,
) -> std::result::Result<Dynamic, ParseError> {
    let file_size = file.disk.size();
    let inside = place
        .checked_add(DYNAMIC_LEN)
        .is_some_and(|end| end <= file_size);
    require(
        inside,
        rules::DYNAMIC_HEADER,
        16,
        format!("below {file_size}"),
        place,
    )?;
    let mut head = vec![0; DYNAMIC_LEN as usize];
    file.disk.read_at(place, &mut head)?;
    let right = head.starts_with(DYNAMIC_COOKIE) && is_sealed(&head, DYNAMIC_SUM);
    require(
        right,
        rules::DYNAMIC_HEADER,
        place,
        "cxsparse and its checksum",
        "something else",
    )?;
    let block = u64::from(be32(&head, 32));
    let right = block.is_power_of_two() && (SECTOR..=256 << 20).contains(&block);
    require(
        right,
        rules::BLOCK_SIZE,
        place + 32,
        "a power of two up to 256 MiB",
        block,
    )?;
    let (table, entries) = (be64(&head, 16), u64::from(be32(&head, 28)));
    let enough = entries >= size.div_ceil(block);
    let inside = table
        .checked_add(entries * 4)
        .is_some_and(|end| end <= file_size);
    let found = format!("{entries} entries at {table}");
    let expected = format!("{} entries below {file_size}", size.div_ceil(block));
    require(enough && inside, rules::TABLE, place + 16, expected, found)?;
    Ok(Dynamic {
        table,
        block,
        // One bit a sector, filling whole sectors. // [VHD 1.0] Data Blocks
        bitmap: (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR),
        parent_id: array(&head, 40),
        parent_names: read_parent_names(file, &head)?,
    })
}

/// The parent's name, and the last components of the paths its locators hold.
fn read_parent_names(
    file: &ImageFile,
    head: &[u8],
) -> std::result::Result<Vec<String>, ParseError> {
    let mut names = Vec::new();
    for index in 0..8 {
        let at = 576 + index * 24;
        let (code, len, place) = (be32(head, at), be32(head, at + 8), be64(head, at + 16));
        // "W2ru" and "W2ku" are paths in UTF-16, little-endian. // [VHD 1.0] Parent Locator Entry
        let known = matches!(&code.to_be_bytes(), b"W2ru" | b"W2ku");
        let end = place.checked_add(u64::from(len));
        if known && len <= 4096 && end.is_some_and(|end| end <= file.disk.size()) {
            let mut path = vec![0; len as usize];
            file.disk.read_at(place, &mut path)?;
            names.push(last_component(&utf16(&path, u16::from_le_bytes)));
        }
    }
    let name = head.get(64..576).unwrap_or_default();
    names.push(last_component(&utf16(name, u16::from_be_bytes)));
    names.retain(|name| !name.is_empty());
    Ok(names)
}

fn utf16(bytes: &[u8], from: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| from([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    String::from_utf16_lossy(&units)
}

fn last_component(path: &str) -> String {
    path.rsplit(['\\', '/']).next().unwrap_or(path).to_owned()
}

fn open_parent(
    file: &ImageFile,
    dynamic: &Dynamic,
    opener: &Opener<'_>,
) -> std::result::Result<Image, OpenError> {
    let mut failed = None;
    for name in &dynamic.parent_names {
        match opener.open_named(name, &file.path, Some(ImageFormat::Vhd)) {
            Ok(parent) => {
                let expected = uuid::Uuid::from_bytes(dynamic.parent_id).to_string();
                let found = parent.info().identity.clone().unwrap_or_default();
                require(
                    found == expected,
                    rules::PARENT_CHANGED,
                    40,
                    expected,
                    found,
                )
                .map_err(|finding| ParseError::from(finding).at(&file.path))?;
                return Ok(parent);
            }
            Err(error) => failed.get_or_insert(error),
        };
    }
    let none =
        || ParseError::from(Finding::error(rules::PARENT, 64, "a name", "none")).at(&file.path);
    Err(failed.unwrap_or_else(none))
}

/// The disk of a dynamic or differencing VHD.
struct VhdDisk {
    tables: TableFile,
    size: u64,
    dynamic: Dynamic,
    parent: Option<Image>,
}

impl VhdDisk {
    /// The bitmap's bit of a sector, the highest first. // [VHD 1.0] Data Blocks
    fn has_sector(&self, bitmap: u64, sector: u64) -> Result<bool> {
        Ok(self.tables.byte(bitmap + sector / 8)? >> (7 - sector % 8) & 1 == 1)
    }
}

impl Mapped for VhdDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn file(&self) -> &dyn BlockRead {
        self.tables.file()
    }

    fn parent(&self) -> Option<&Image> {
        self.parent.as_ref()
    }

    fn map_one(&self, offset: u64) -> Result<(Mapping, u64)> {
        let size = self.dynamic.block;
        let (block, within) = (offset / size, offset % size);
        let at = self.dynamic.table + block * 4;
        let entry = u32::from_be_bytes(self.tables.entry(at)?);
        if entry == UNUSED {
            return Ok((Mapping::Below, size - within));
        }
        let place = u64::from(entry) * SECTOR;
        let data = place + self.dynamic.bitmap;
        let needed = size.min(self.size - block * size);
        let end = self.tables.file().size();
        if data + needed > end {
            let expected = format!("{needed} bytes below {end}");
            let broken = self.tables.broken(rules::BLOCK, at, expected, data, offset);
            return Err(broken);
        }
        // A dynamic disk's bitmap is not needed: sectors it does not have are zeroes in the block. QEMU
        // reads it so too.
        if self.parent.is_none() {
            return Ok((Mapping::Data(data + within), size - within));
        }
        let here = self.has_sector(place, within / SECTOR)?;
        let mut next = within / SECTOR + 1;
        while next < size / SECTOR && self.has_sector(place, next)? == here {
            next += 1;
        }
        let mapping = if here {
            Mapping::Data(data + within)
        } else {
            Mapping::Below
        };
        Ok((mapping, next * SECTOR - within))
    }
}
