//! What the bytes of a physical volume mean. No I/O.
// LVM2 lib/format_text/layout.h, lib/label/label.h.

use std::fmt;

use super::reader::LvmError;
use crate::bytes::{array, le32, le64};

pub(super) const SECTOR: usize = 512;
/// The label is in one of the first four sectors.
pub(super) const LABEL_SECTORS: u64 = 4;
/// A metadata area begins with a header of this size; the text follows, round and round.
pub(super) const AREA_HEADER: usize = 512;
/// Most areas of either kind: one sector holds no more.
const MOST_AREAS: usize = 16;
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";

/// The id of a physical volume, a volume group or a logical volume: 32 letters and digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LvmId([u8; 32]);

impl LvmId {
    /// From its 32 letters and digits, with or without the dashes it is shown with.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let bare: Vec<u8> = text.iter().copied().filter(|c| *c != b'-').collect();
        let id: [u8; 32] = bare.try_into().ok()?;
        // LVM2 lib/uuid/uuid.c: letters, digits, '!' and '#'.
        let known = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'!' | b'#');
        id.iter().all(known).then_some(Self(id))
    }

    /// Its letters without dashes.
    #[must_use]
    pub fn bare(&self) -> String {
        self.0.iter().map(|c| char::from(*c)).collect()
    }
}

impl fmt::Display for LvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, c) in self.0.iter().enumerate() {
            if [6, 10, 14, 18, 22, 26].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{}", char::from(*c))?;
        }
        Ok(())
    }
}

impl fmt::Debug for LvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A run of a physical volume, in bytes of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Where it begins.
    pub offset: u64,
    /// How long it is; 0 for "up to the end" in a data area.
    pub size: u64,
}

/// What a label leads to.
#[derive(Debug, Clone)]
pub(super) struct PvHeader {
    pub(super) id: LvmId,
    pub(super) device_size: u64,
    pub(super) data_areas: Vec<Area>,
    pub(super) metadata_areas: Vec<Area>,
}

/// Read the label in `sector`, number `number` of the device, and the header behind it. `None` where no
/// label is.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | "LABELONE" |
/// | 8 | 8 | number of this sector |
/// | 16 | 4 | checksum of everything from byte 20 to the end of the sector |
/// | 20 | 4 | where the header begins in the sector |
/// | 24 | 8 | "LVM2 001" |
pub(super) fn parse_label(sector: &[u8], number: u64) -> Result<Option<PvHeader>, LvmError> {
    if !sector.starts_with(b"LABELONE") || sector.get(24..32) != Some(b"LVM2 001") {
        return Ok(None);
    }
    let at = number * SECTOR as u64;
    if le64(sector, 8) != number {
        return Err(LvmError::LabelSector {
            at: at + 8,
            expected: number,
            found: le64(sector, 8),
        });
    }
    let (stated, actual) = (
        le32(sector, 16),
        checksum(sector.get(20..SECTOR).unwrap_or_default()),
    );
    if stated != actual {
        return Err(LvmError::LabelChecksum {
            at: at + 16,
            expected: actual,
            found: stated,
        });
    }
    parse_header(sector, at, le32(sector, 20) as usize).map(Some)
}

/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 32 | id |
/// | 32 | 8 | size of the device |
/// | 40 | 16 each | data areas, then one of zeroes; metadata areas, then one of zeroes |
fn parse_header(sector: &[u8], at: u64, start: usize) -> Result<PvHeader, LvmError> {
    let id = array::<32>(sector, start)
        .and_then(|id| LvmId::parse(&id))
        .ok_or(LvmError::PvId {
            at: at + start as u64,
        })?;
    let mut next = start + 40;
    let mut areas = || -> Result<Vec<Area>, LvmError> {
        let mut list = Vec::new();
        loop {
            let here = at + next as u64;
            if next + 16 > SECTOR || list.len() >= MOST_AREAS {
                return Err(LvmError::AreasUnended { at: here });
            }
            let area = Area {
                offset: le64(sector, next),
                size: le64(sector, next + 8),
            };
            next += 16;
            if area.offset == 0 {
                return Ok(list);
            }
            list.push(area);
        }
    };
    let (data_areas, metadata_areas) = (areas()?, areas()?);
    Ok(PvHeader {
        id,
        device_size: le64(sector, start + 32),
        data_areas,
        metadata_areas,
    })
}

/// Where the text of a metadata area lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextPlace {
    /// From the start of the area; it goes on behind the header where the area ends.
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) checksum: u32,
}

/// Read the header of the metadata area at `area` of the device. `None` where it holds no text: the area
/// is unused, or told to be ignored.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 4 | checksum of bytes 4 to 511 |
/// | 4 | 16 | " LVM2 x[5A%r0N*>" |
/// | 20 | 4 | version, 1 |
/// | 24 | 8 | where this area begins on the device |
/// | 32 | 8 | its size |
/// | 40 | 24 each | texts: offset, size (8 bytes each), checksum, flags (4 each); the first is in force |
pub(super) fn parse_area(header: &[u8], area: Area) -> Result<Option<TextPlace>, LvmError> {
    let at = area.offset;
    if header.get(4..20) != Some(AREA_MAGIC) {
        return Err(LvmError::AreaMagic { at: at + 4 });
    }
    let (stated, actual) = (
        le32(header, 0),
        checksum(header.get(4..AREA_HEADER).unwrap_or_default()),
    );
    if stated != actual {
        return Err(LvmError::AreaChecksum {
            at,
            expected: actual,
            found: stated,
        });
    }
    if le32(header, 20) != 1 {
        return Err(LvmError::AreaVersion {
            at: at + 20,
            found: le32(header, 20),
        });
    }
    let (start, size) = (le64(header, 24), le64(header, 32));
    if start != area.offset || size != area.size {
        return Err(LvmError::AreaPlace {
            at: at + 24,
            expected: (area.offset, area.size),
            found: (start, size),
        });
    }
    const IGNORED: u32 = 1;
    let place = TextPlace {
        offset: le64(header, 40),
        size: le64(header, 48),
        checksum: le32(header, 56),
    };
    if place.offset == 0 || place.size == 0 || le32(header, 60) & IGNORED != 0 {
        return Ok(None);
    }
    let room = area.size.saturating_sub(AREA_HEADER as u64);
    if place.offset < AREA_HEADER as u64 || place.offset >= area.size || place.size > room {
        return Err(LvmError::TextPlace {
            at: at + 40,
            area: area.size,
            offset: place.offset,
            size: place.size,
        });
    }
    Ok(Some(place))
}

/// CRC-32 as LVM2 has it: the polynomial of Ethernet, reflected, begun with 0xF597A6CF and not inverted
/// at the end. // LVM2 lib/misc/crc.c, crc.h
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    const BEGIN: u32 = 0xF597_A6CF;
    crate::gpt::format::crc32_step(BEGIN, bytes)
}
