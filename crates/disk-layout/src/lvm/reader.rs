//! What one device says: its label, its header, and each copy of the metadata on it.

use block_io::{BlockError, BlockErrorKind, BlockRead};

use super::format::{
    AREA_HEADER, Area, LABEL_SECTORS, LvmId, SECTOR, TextPlace, checksum, parse_area, parse_label,
};
use super::metadata::{GroupText, MetadataError, read_group};
use super::text::{self, SyntaxError};
use crate::Severity;
use crate::volume::VolumeFinding;

/// Longest metadata text read. A group of 10,000 volumes has about 5 MiB.
const LONGEST_TEXT: u64 = 64 << 20;

/// How a physical volume lies, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LvmError {
    /// The label names another sector than the one it is in.
    #[error("label at byte {at}: expected sector number {expected}, found {found}")]
    LabelSector {
        /// Where it says so.
        at: u64,
        /// The sector it is in.
        expected: u64,
        /// The one it names.
        found: u64,
    },
    /// The label's checksum is wrong.
    #[error("checksum of the label at byte {at}: expected {expected:#010x}, found {found:#010x}")]
    LabelChecksum {
        /// Where it stands.
        at: u64,
        /// The sum of the bytes.
        expected: u32,
        /// What stands there.
        found: u32,
    },
    /// The id is none.
    #[error("id of the physical volume at byte {at}: expected 32 letters and digits")]
    PvId {
        /// Where it stands.
        at: u64,
    },
    /// A list of areas goes on past the end of its sector, or for ever.
    #[error("list of areas at byte {at}: expected an end within the sector")]
    AreasUnended {
        /// Where it should have ended.
        at: u64,
    },
    /// A metadata area does not begin as one.
    #[error("metadata area at byte {at}: expected its magic number")]
    AreaMagic {
        /// Where it should stand.
        at: u64,
    },
    /// The checksum of a metadata area's header is wrong.
    #[error(
        "checksum of the metadata area at byte {at}: expected {expected:#010x}, found {found:#010x}"
    )]
    AreaChecksum {
        /// Where it stands.
        at: u64,
        /// The sum of the bytes.
        expected: u32,
        /// What stands there.
        found: u32,
    },
    /// A version of metadata areas that is not known.
    #[error("version of the metadata area at byte {at}: expected 1, found {found}")]
    AreaVersion {
        /// Where it stands.
        at: u64,
        /// What stands there.
        found: u32,
    },
    /// A metadata area that says it is elsewhere: a copy of another device.
    #[error(
        "place and size of the metadata area at byte {at}: expected {expected:?}, found {found:?}"
    )]
    AreaPlace {
        /// Where it says so.
        at: u64,
        /// Where it is.
        expected: (u64, u64),
        /// Where it says it is.
        found: (u64, u64),
    },
    /// The text does not lie inside its area, or is longer than anybody's.
    #[error(
        "metadata text at byte {at}: expected it inside {area} bytes, found {size} bytes from {offset}"
    )]
    TextPlace {
        /// Where it is said to be.
        at: u64,
        /// The size of the area.
        area: u64,
        /// Where in the area it is said to begin.
        offset: u64,
        /// How long it is said to be.
        size: u64,
    },
    /// The text's checksum is wrong.
    #[error(
        "checksum of the metadata text at byte {at}: expected {expected:#010x}, found {found:#010x}"
    )]
    TextChecksum {
        /// Where the text begins.
        at: u64,
        /// What its area says.
        expected: u32,
        /// The sum of the bytes.
        found: u32,
    },
    /// The text is no text.
    #[error("metadata text at byte {at}")]
    Syntax {
        /// Where the text begins.
        at: u64,
        /// Why.
        source: SyntaxError,
    },
    /// The text describes no volume group.
    #[error("metadata text at byte {at}")]
    Metadata {
        /// Where the text begins.
        at: u64,
        /// Why.
        source: MetadataError,
    },
    /// The device fails.
    #[error("reading the physical volume")]
    Disk(#[from] BlockError),
}

impl LvmError {
    /// Whether the device fails otherwise than by bad sectors, so that nothing more can be said of it.
    fn is_fatal(&self) -> bool {
        matches!(self, Self::Disk(error) if !matches!(
            error.kind(),
            BlockErrorKind::Unreadable | BlockErrorKind::OutOfBounds
        ))
    }
}

/// One device of a volume group, as it describes itself.
#[derive(Debug, Clone)]
pub struct PhysicalVolume {
    /// Its id.
    pub id: LvmId,
    /// The size of the device it was made for, in bytes.
    pub stated_size: u64,
    /// The size of the device it is on, in bytes.
    pub size: u64,
    /// Where the extents lie.
    pub data_areas: Vec<Area>,
    /// Where copies of the metadata lie.
    pub metadata_areas: Vec<Area>,
    /// The valid copies.
    pub copies: Vec<MetadataCopy>,
    /// What is wrong with it.
    pub findings: Vec<VolumeFinding>,
}

/// A valid copy of a volume group's metadata.
#[derive(Debug, Clone)]
pub struct MetadataCopy {
    /// Where its text begins on the device, in bytes.
    pub at: u64,
    pub(super) group: GroupText,
}

impl MetadataCopy {
    /// The name of the volume group.
    #[must_use]
    pub fn group_name(&self) -> &str {
        &self.group.name
    }

    /// The sequence number: each change of the group has the next one.
    #[must_use]
    pub fn seqno(&self) -> u64 {
        self.group.seqno
    }
}

/// Read the label and every copy of the metadata of `device`. `None` where it has no label. Damaged copies
/// are findings, a damaged label too if another sector has a sound one.
///
/// # Errors
/// [`LvmError`] when the only label there is lies, or the device fails.
pub fn read_physical_volume(device: &dyn BlockRead) -> Result<Option<PhysicalVolume>, LvmError> {
    let mut bad_label = None;
    for number in 0..LABEL_SECTORS {
        let mut sector = [0; SECTOR];
        match device.read_at(number * SECTOR as u64, &mut sector) {
            Ok(()) => {}
            Err(error) if error.kind() == BlockErrorKind::OutOfBounds => break,
            Err(error) if error.kind() == BlockErrorKind::Unreadable => continue,
            Err(error) => return Err(error.into()),
        }
        match parse_label(&sector, number) {
            Ok(None) => {}
            Ok(Some(header)) => {
                let mut volume = PhysicalVolume {
                    id: header.id,
                    stated_size: header.device_size,
                    size: device.size(),
                    data_areas: header.data_areas,
                    metadata_areas: header.metadata_areas,
                    copies: Vec::new(),
                    findings: Vec::new(),
                };
                volume.read_copies(device)?;
                return Ok(Some(volume));
            }
            Err(error) => {
                bad_label.get_or_insert(error);
            }
        }
    }
    bad_label.map_or(Ok(None), Err)
}

impl PhysicalVolume {
    fn read_copies(&mut self, device: &dyn BlockRead) -> Result<(), LvmError> {
        for area in self.metadata_areas.clone() {
            match read_copy(device, area) {
                Ok(Some(copy)) => self.copies.push(copy),
                Ok(None) => {}
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    let text = format!("{}; this copy of the metadata is not used", chain(&error));
                    let subject = format!("physical volume {}", self.id);
                    self.findings
                        .push(VolumeFinding::new(Severity::Warning, subject, text));
                }
            }
        }
        Ok(())
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn read_copy(device: &dyn BlockRead, area: Area) -> Result<Option<MetadataCopy>, LvmError> {
    let mut header = [0; AREA_HEADER];
    device.read_at(area.offset, &mut header)?;
    let Some(place) = parse_area(&header, area)? else {
        return Ok(None);
    };
    let at = area.offset.saturating_add(place.offset);
    let bytes = read_text(device, area, place)?;
    let found = checksum(&bytes);
    if found != place.checksum {
        return Err(LvmError::TextChecksum {
            at,
            expected: place.checksum,
            found,
        });
    }
    let section = text::parse(&bytes).map_err(|source| LvmError::Syntax { at, source })?;
    let group = read_group(&section).map_err(|source| LvmError::Metadata { at, source })?;
    Ok(Some(MetadataCopy { at, group }))
}

/// The text, which goes on behind the area's header where the area ends.
fn read_text(device: &dyn BlockRead, area: Area, place: TextPlace) -> Result<Vec<u8>, LvmError> {
    let wrong = || LvmError::TextPlace {
        at: area.offset,
        area: area.size,
        offset: place.offset,
        size: place.size,
    };
    let begin = area.offset.checked_add(place.offset).ok_or_else(wrong)?;
    if place.size > LONGEST_TEXT {
        return Err(wrong());
    }
    let head = place.size.min(area.size.saturating_sub(place.offset));
    // Nothing is allocated for a text that cannot be on the device.
    block_io::check_range(device.size(), begin, head)?;
    block_io::check_range(
        device.size(),
        area.offset,
        AREA_HEADER as u64 + place.size - head,
    )?;
    let mut bytes = vec![0; place.size as usize];
    let (first, rest) = bytes.split_at_mut(head as usize);
    device.read_at(begin, first)?;
    if !rest.is_empty() {
        device.read_at(area.offset + AREA_HEADER as u64, rest)?;
    }
    Ok(bytes)
}
