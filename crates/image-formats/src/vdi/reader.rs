//! Reads VDI: dynamic, fixed and differencing.

use block_io::{BlockRead, Result};

use super::format::{
    DIFFERENCING, DYNAMIC, ENTRY, FIXED, FREE, HEADER_LEN, HEADER_LENS, Header, SECTOR, SIGNATURE,
    SIGNATURE_AT, UNDO, VERSION, ZERO,
};
use super::rules;
use crate::bytes::{array, le32};
use crate::detect::ImageFormat;
use crate::error::{OpenError, ParseError, require};
use crate::finding::{Finding, Severity};
use crate::image::{Image, ImageFile, Opened, Opener};
use crate::mapped::{Mapped, MappedDisk, Mapping, TableFile};

/// Open `file`, and its parent through the opener's gate.
pub(crate) fn open(file: ImageFile, opener: &Opener<'_>) -> std::result::Result<Opened, OpenError> {
    let path = file.path.clone();
    let at = |error: ParseError| error.at(&path);
    let header = read_header(&file.disk).map_err(at)?;
    let mut notes = check_header(&header, &file.disk).map_err(at)?;
    let parent = match header.kind {
        DIFFERENCING => Some(open_parent(&file, &header, opener)?),
        _ => None,
    };
    let variant = match header.kind {
        FIXED => "fixed",
        DIFFERENCING => "differencing",
        _ => "dynamic",
    };
    let below = parent.as_ref().map(|image| image.info().clone());
    notes.extend(below.iter().flat_map(|below| below.notes.clone()));
    Ok(Opened {
        details: crate::details::Details::None,
        variant: variant.to_owned(),
        cluster_size: Some(header.block),
        notes,
        identity: Some(header.id.to_string()),
        below,
        disk: Box::new(MappedDisk(VdiDisk {
            tables: TableFile::new(file.disk, path.display().to_string()),
            header,
            parent,
        })),
    })
}

/// The header of `file`, of which only signature and version are checked.
pub(crate) fn read_header(file: &dyn BlockRead) -> std::result::Result<Header, ParseError> {
    let size = file.size();
    let whole = size >= HEADER_LEN as u64;
    require(whole, rules::HEADER, 0, "512 bytes or more", size)?;
    let mut head = [0; HEADER_LEN];
    file.read_at(0, &mut head)?;
    let signature: [u8; 4] = array(&head, SIGNATURE_AT);
    let found = format!("{:#x}", u32::from_le_bytes(signature));
    let place = SIGNATURE_AT as u64;
    require(
        signature == SIGNATURE,
        rules::HEADER,
        place,
        "0xbeda107f",
        found,
    )?;
    let version = le32(&head, 68);
    if version != VERSION {
        return Err(ParseError::Unsupported {
            feature: format!("VDI version {}.{}", version >> 16, version & 0xffff),
            hint: "clone it with VBoxManage clonemedium, which writes version 1.1",
        });
    }
    Ok(Header::parse(&head))
}

/// Check what must hold for the disk to be read; gives what else is worth telling.
pub(super) fn check_header(
    header: &Header,
    file: &dyn BlockRead,
) -> std::result::Result<Vec<Finding>, ParseError> {
    let kind = header.kind;
    if kind == UNDO {
        return Err(ParseError::Unsupported {
            feature: "an undo image".to_owned(),
            hint: "VirtualBox has not written them since 2007; merge it there",
        });
    }
    let known = matches!(kind, DYNAMIC | FIXED | DIFFERENCING);
    require(known, rules::TYPE, 76, "1, 2 or 4", kind)?;
    let sector = u64::from(header.sector);
    require(
        matches!(sector, 0 | SECTOR),
        rules::SECTOR,
        360,
        "512",
        sector,
    )?;
    let block = header.block;
    let right = block.is_power_of_two() && (4096..=256 << 20).contains(&block);
    let expected = "a power of two from 4 KiB to 256 MiB";
    require(right, rules::BLOCK_SIZE, 376, expected, block)?;
    let needed = header.size.div_ceil(block);
    let enough = header.blocks >= needed && needed < u64::from(ZERO);
    let expected = format!("{needed} or more");
    require(enough, rules::BLOCKS, 384, expected, header.blocks)?;
    let end = header.table + header.blocks * ENTRY;
    let inside = header.table >= u64::from(header.len) + 72 && end <= file.size();
    let found = format!("{} entries at {}", header.blocks, header.table);
    let expected = format!("behind the header, below {}", file.size());
    require(inside, rules::TABLE, 340, expected, found)?;
    let right = header.data >= end && header.data.is_multiple_of(SECTOR);
    let expected = format!("whole sectors, from {end} on");
    require(right, rules::DATA, 344, expected, header.data)?;
    let child = header.kind == DIFFERENCING;
    let expected = if child {
        "an identifier"
    } else {
        "no identifier"
    };
    let found = header.parent.to_string();
    require(
        child != header.parent.is_nil(),
        rules::LINK,
        424,
        expected,
        found,
    )?;
    Ok(notes(header))
}

/// What does not keep the disk from being read.
fn notes(header: &Header) -> Vec<Finding> {
    let mut notes = Vec::new();
    let mut warn = |rule, offset, expected: &str, found: String| {
        notes.push(Finding::error(rule, offset, expected, found).with(Severity::Warning));
    };
    if !HEADER_LENS.contains(&header.len) {
        warn(
            rules::HEADER_LEN,
            72,
            "0x180 or 0x190",
            header.len.to_string(),
        );
    }
    if !header.size.is_multiple_of(SECTOR) {
        warn(
            rules::SIZE,
            368,
            "a multiple of 512",
            header.size.to_string(),
        );
    }
    notes
}

/// The parent is named by its identifier only: it is looked for under the name that VirtualBox gives
/// snapshots, and among the files the gate shows.
fn open_parent(
    file: &ImageFile,
    header: &Header,
    opener: &Opener<'_>,
) -> std::result::Result<Image, OpenError> {
    let usual = format!("{{{}}}.vdi", header.parent);
    // Whatever the gate says to that name it says to the caller.
    opener.admits(&usual, &file.path)?;
    let mut names = vec![usual];
    names.extend(opener.siblings(&file.path, "vdi"));
    for name in names {
        let Ok(candidate) = opener.open_file_named(&name, &file.path) else {
            continue;
        };
        let Ok(found) = read_header(&candidate.disk) else {
            continue;
        };
        if found.id != header.parent {
            continue;
        }
        let (expected, id) = (header.parent_modification, found.modification);
        let same = expected.is_nil() || expected == id;
        require(same, rules::PARENT_CHANGED, 440, expected.to_string(), id)
            .map_err(|finding| ParseError::from(finding).at(&file.path))?;
        return opener.open_named(&name, &file.path, Some(ImageFormat::Vdi));
    }
    Err(OpenError::NoParent {
        path: file.path.clone(),
        parent: format!("the VDI with the identifier {}", header.parent),
    })
}

/// The disk of a VDI file.
struct VdiDisk {
    tables: TableFile,
    header: Header,
    parent: Option<Image>,
}

impl Mapped for VdiDisk {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn file(&self) -> &dyn BlockRead {
        self.tables.file()
    }

    fn parent(&self) -> Option<&Image> {
        self.parent.as_ref()
    }

    // [VDICore.h] VDIIMAGEBLOCKPOINTER
    fn map_one(&self, offset: u64) -> Result<(Mapping, u64)> {
        let size = self.header.block;
        let (block, within) = (offset / size, offset % size);
        let at = self.header.table + block * ENTRY;
        let mapping = match u32::from_le_bytes(self.tables.entry(at)?) {
            FREE => Mapping::Below,
            ZERO => Mapping::Zero,
            number => {
                let stride = size + self.header.block_extra;
                // A number near 2^32 and a large stride are more than 2^64.
                let data = u64::from(number)
                    .saturating_mul(stride)
                    .saturating_add(self.header.data + self.header.block_extra);
                let needed = size.min(self.header.size - block * size);
                let end = self.tables.file().size();
                if data.saturating_add(needed) > end {
                    let expected = format!("{needed} bytes below {end}");
                    let broken = self.tables.broken(rules::BLOCK, at, expected, data, offset);
                    return Err(broken);
                }
                Mapping::Data(data + within)
            }
        };
        Ok((mapping, size - within))
    }
}
