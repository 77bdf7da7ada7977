//! What the bytes of the LDM database mean. No I/O. All numbers are big-endian; strings and many numbers
//! have their length in front.
// Documentation of the Linux-NTFS project, "LDM"; names as in Linux block/partitions/ldm.h.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::reader::LdmError;
use crate::bytes::array;

pub(super) const SECTOR: u64 = 512;

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    array(bytes, at).map_or(0, u16::from_be_bytes)
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_be_bytes)
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    array(bytes, at).map_or(0, u64::from_be_bytes)
}

/// The text up to the first zero.
fn text(bytes: &[u8], at: usize, len: usize) -> String {
    let field = bytes.get(at..at.saturating_add(len)).unwrap_or_default();
    let end = field.iter().position(|c| *c == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

/// "PRIVHEAD": who this disk is, where its data and where its database lie. Places are sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PrivHead {
    pub(super) disk: Uuid,
    pub(super) group: Uuid,
    pub(super) group_name: String,
    pub(super) data_start: u64,
    pub(super) data_size: u64,
    pub(super) config_start: u64,
    pub(super) config_size: u64,
}

/// | offset | bytes | |
/// |---|---|---|
/// | 0x00 | 8 | "PRIVHEAD" |
/// | 0x30, 0xB0 | 64 | ids of disk and disk group, as text |
/// | 0xF0 | 32 | name of the disk group |
/// | 0x11B, 0x123 | 8 | first sector and number of sectors of the data |
/// | 0x12B, 0x133 | 8 | the same of the database |
pub(super) fn parse_privhead(sector: &[u8], at: u64) -> Result<Option<PrivHead>, LdmError> {
    if !sector.starts_with(b"PRIVHEAD") {
        return Ok(None);
    }
    let id = |place: usize| {
        let found = text(sector, place, 64);
        Uuid::parse_str(&found).map_err(|_| LdmError::Id {
            at: at + place as u64,
            found,
        })
    };
    Ok(Some(PrivHead {
        disk: id(0x30)?,
        group: id(0xB0)?,
        group_name: text(sector, 0xF0, 32),
        data_start: be64(sector, 0x11B),
        data_size: be64(sector, 0x123),
        config_start: be64(sector, 0x12B),
        config_size: be64(sector, 0x133),
    }))
}

/// "TOCBLOCK": in which sectors of the database the records lie. The bitmap named "config".
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0x24, 0x46 | 8 | name of a region |
/// | 0x2E, 0x50 | 8 | its first sector in the database |
/// | 0x36, 0x58 | 8 | its sectors |
pub(super) fn parse_toc(sector: &[u8]) -> Option<(u64, u64)> {
    if !sector.starts_with(b"TOCBLOCK") {
        return None;
    }
    [0x24, 0x46]
        .into_iter()
        .find(|at| text(sector, *at, 8) == "config")
        .map(|at| (be64(sector, at + 10), be64(sector, at + 18)))
}

/// "VMDB": how the records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Database {
    pub(super) record_size: usize,
    pub(super) first: u64,
    pub(super) committed: u64,
    pub(super) pending: u64,
}

/// | offset | bytes | |
/// |---|---|---|
/// | 0x08 | 4 | bytes of a record |
/// | 0x0C | 4 | where the first begins |
/// | 0x12 | 2 | version, 4 |
/// | 0x75, 0x7D | 8 | number of the last change that is done, and of the last begun |
pub(super) fn parse_vmdb(sector: &[u8], at: u64) -> Result<Database, LdmError> {
    if !sector.starts_with(b"VMDB") {
        return Err(LdmError::Magic {
            at,
            expected: "VMDB",
        });
    }
    let (size, first) = (be32(sector, 8), be32(sector, 12));
    if be16(sector, 0x12) != 4 {
        return Err(LdmError::Version {
            at: at + 0x12,
            found: be16(sector, 0x12),
        });
    }
    if !(32..=4096).contains(&size) || !(512..=65_536).contains(&first) {
        return Err(LdmError::Records {
            at: at + 8,
            size,
            first,
        });
    }
    Ok(Database {
        record_size: size as usize,
        first: u64::from(first),
        committed: be64(sector, 0x75),
        pending: be64(sector, 0x7D),
    })
}

/// A record of the database, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Volume {
        name: String,
        kind: u8,
        sectors: u64,
        partition_type: u8,
        hint: Option<String>,
    },
    Component {
        volume: u64,
        kind: u8,
        children: u64,
        /// Sectors of a stripe; 0 where there are none.
        stripe: u64,
    },
    Partition {
        component: u64,
        disk: u64,
        start: u64,
        volume_offset: u64,
        sectors: u64,
        column: u64,
    },
    Disk {
        name: String,
        id: Uuid,
    },
}

/// Fields one after the other, where some have their length in front.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn fixed(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let field = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(field)
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let len = self.fixed(1)?.first().copied()?;
        self.fixed(usize::from(len))
    }

    fn text(&mut self) -> Option<String> {
        self.sized()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A number of up to eight bytes.
    fn number(&mut self) -> Option<u64> {
        let bytes = self.sized().filter(|bytes| bytes.len() <= 8)?;
        Some(bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn wide(&mut self) -> Option<u64> {
        self.fixed(8).map(|bytes| be64(bytes, 0))
    }
}

/// Read a record from its type on (its first 16 bytes, the head of a fragment, left out). `None` where it
/// is of no kind that matters, `Err` where it ends too early.
///
/// Bytes: 2 status, 1 flags, 1 type and revision, 4 length, then the fields.
pub(super) fn parse_record(bytes: &[u8]) -> Result<Option<(u64, Record)>, ()> {
    let (flags, kind) = (
        bytes.get(2).copied().unwrap_or(0),
        bytes.get(3).copied().unwrap_or(0),
    );
    let mut fields = Fields { bytes, at: 8 };
    let record = match kind {
        0x51 => volume(&mut fields, flags),
        0x32 => component(&mut fields, flags),
        0x33 => partition(&mut fields, flags),
        0x34 => disk(&mut fields, false),
        0x44 => disk(&mut fields, true),
        _ => return Ok(None),
    };
    record.map(Some).ok_or(())
}

fn volume(fields: &mut Fields, flags: u8) -> Option<(u64, Record)> {
    let id = fields.number()?;
    let name = fields.text()?;
    // "gen" or "raid5", and a field that is empty unless drive letters are disabled.
    fields.text()?;
    fields.sized()?;
    fields.fixed(14)?;
    let kind = fields.fixed(1)?.first().copied()?;
    // One byte that is always 1, the number of the volume, three zeroes, flags.
    fields.fixed(6)?;
    fields.number()?;
    // Two numbers of changes.
    fields.fixed(16)?;
    let sectors = fields.number()?;
    fields.fixed(4)?;
    let partition_type = fields.fixed(1)?.first().copied()?;
    fields.fixed(16)?;
    for flag in [0x08, 0x20, 0x80] {
        if flags & flag != 0 {
            fields.sized()?;
        }
    }
    let hint = if flags & 0x02 != 0 {
        fields.text()
    } else {
        None
    };
    Some((
        id,
        Record::Volume {
            name,
            kind,
            sectors,
            partition_type,
            hint,
        },
    ))
}

fn component(fields: &mut Fields, flags: u8) -> Option<(u64, Record)> {
    let id = fields.number()?;
    // Name and state, as text.
    fields.text()?;
    fields.text()?;
    let kind = fields.fixed(1)?.first().copied()?;
    fields.fixed(4)?;
    let children = fields.number()?;
    fields.fixed(16)?;
    let volume = fields.number()?;
    fields.fixed(1)?;
    let stripe = if flags & 0x10 != 0 {
        fields.number()?
    } else {
        0
    };
    Some((
        id,
        Record::Component {
            volume,
            kind,
            children,
            stripe,
        },
    ))
}

fn partition(fields: &mut Fields, flags: u8) -> Option<(u64, Record)> {
    let id = fields.number()?;
    fields.text()?;
    fields.fixed(12)?;
    let start = fields.wide()?;
    let volume_offset = fields.wide()?;
    let sectors = fields.number()?;
    let component = fields.number()?;
    let disk = fields.number()?;
    let column = if flags & 0x08 != 0 {
        fields.number()?
    } else {
        0
    };
    Some((
        id,
        Record::Partition {
            component,
            disk,
            start,
            volume_offset,
            sectors,
            column,
        },
    ))
}

fn disk(fields: &mut Fields, binary: bool) -> Option<(u64, Record)> {
    let id = fields.number()?;
    let name = fields.text()?;
    let guid = if binary {
        Uuid::from_slice(fields.fixed(16)?).ok()?
    } else {
        Uuid::parse_str(&fields.text()?).ok()?
    };
    Some((id, Record::Disk { name, id: guid }))
}

/// The records by their ids.
pub(super) type Records = BTreeMap<u64, Record>;
