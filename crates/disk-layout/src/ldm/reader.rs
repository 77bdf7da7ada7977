//! What one disk says: its header, and the database with its records put together from their fragments.

use std::collections::BTreeMap;
use std::ops::Range;

use block_io::{BlockError, BlockErrorKind, BlockRead};
use uuid::Uuid;

use super::format::{
    PrivHead, Records, SECTOR, be16, be32, parse_privhead, parse_record, parse_toc, parse_vmdb,
};
use crate::{Layout, PartitionKind};

/// The database is 1 MiB; nobody makes a larger one.
const LONGEST_DATABASE: u64 = 16 << 20;
/// Bytes of the head of each fragment.
const FRAGMENT_HEAD: usize = 16;

/// How a dynamic disk lies, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LdmError {
    /// Something does not begin as it should.
    #[error("database of the dynamic disk at byte {at}: expected {expected}")]
    Magic {
        /// Where.
        at: u64,
        /// What should stand there.
        expected: &'static str,
    },
    /// An id that is none.
    #[error("header of the dynamic disk at byte {at}: expected an id, found {found:?}")]
    Id {
        /// Where it stands.
        at: u64,
        /// What stands there.
        found: String,
    },
    /// A version that is not known.
    #[error("database of the dynamic disk, version at byte {at}: expected 4, found {found}")]
    Version {
        /// Where it stands.
        at: u64,
        /// What stands there.
        found: u16,
    },
    /// The database does not lie on the disk.
    #[error(
        "place of the database of the dynamic disk: expected it inside {size} bytes, found {found:?}"
    )]
    Place {
        /// The size of the disk.
        size: u64,
        /// Where it is said to be, in sectors.
        found: (u64, u64),
    },
    /// Records of an impossible size.
    #[error(
        "database of the dynamic disk at byte {at}: records of {size} bytes from byte {first} are \
         impossible"
    )]
    Records {
        /// Where it says so.
        at: u64,
        /// The size of a record.
        size: u32,
        /// Where the first is said to begin.
        first: u32,
    },
    /// A record that ends too early, or whose fragments do not fit each other.
    #[error("record {record} of the dynamic disk's database is damaged")]
    Record {
        /// The number of the record.
        record: u32,
    },
    /// A change of the database was begun and not finished.
    #[error(
        "the database of the dynamic disk is in the middle of a change: {committed} is done, {pending} \
         begun"
    )]
    Unfinished {
        /// The last change that is done.
        committed: u64,
        /// The last that was begun.
        pending: u64,
    },
    /// The disk fails.
    #[error("reading the database of the dynamic disk")]
    Disk(#[from] BlockError),
}

/// A dynamic disk, as it describes itself and its group.
#[derive(Debug, Clone)]
pub struct LdmDisk {
    /// Its id.
    pub id: Uuid,
    /// The disk group's id.
    pub group: Uuid,
    /// The disk group's name.
    pub group_name: String,
    /// The bytes of the disk that hold volumes.
    pub data: Range<u64>,
    /// The number of the last change of the database: members with a lower one are stale.
    pub change: u64,
    pub(super) records: Records,
}

/// Read the database of `disk`, whose table is `layout`. `None` where it is no dynamic disk.
///
/// # Errors
/// [`LdmError`] when the database lies, or the disk fails.
pub fn read_disk(disk: &dyn BlockRead, layout: &Layout) -> Result<Option<LdmDisk>, LdmError> {
    // MBR: in sector 6, with copies behind the database. GPT: in the last sector of the partition for
    // the database.
    let mut places = vec![6 * SECTOR, disk.size().saturating_sub(SECTOR)];
    for partition in &layout.partitions {
        if matches!(partition.kind, PartitionKind::Gpt(_)) && partition.kind.is_dynamic_disk() {
            places.push(partition.range.end.saturating_sub(SECTOR));
        }
    }
    let dynamic = layout.partitions.iter().any(|p| p.kind.is_dynamic_disk());
    if !dynamic {
        return Ok(None);
    }
    let mut wrong = None;
    for at in places {
        let Some(sector) = read(disk, at, SECTOR)? else {
            continue;
        };
        match parse_privhead(&sector, at) {
            Ok(Some(head)) => return read_database(disk, &head).map(Some),
            Ok(None) => {}
            Err(error) => {
                wrong.get_or_insert(error);
            }
        }
    }
    Err(wrong.unwrap_or(LdmError::Magic {
        at: 6 * SECTOR,
        expected: "PRIVHEAD",
    }))
}

fn read_database(disk: &dyn BlockRead, head: &PrivHead) -> Result<LdmDisk, LdmError> {
    let place = |start: u64, sectors: u64| {
        let begin = start.checked_mul(SECTOR)?;
        let end = begin.checked_add(sectors.checked_mul(SECTOR)?)?;
        (end <= disk.size()).then_some(begin..end)
    };
    let outside = |start, sectors| LdmError::Place {
        size: disk.size(),
        found: (start, sectors),
    };
    let data = place(head.data_start, head.data_size)
        .ok_or_else(|| outside(head.data_start, head.data_size))?;
    let config = place(head.config_start, head.config_size)
        .filter(|config| config.end - config.start <= LONGEST_DATABASE)
        .ok_or_else(|| outside(head.config_start, head.config_size))?;
    // Four tables of contents: two in front, two behind.
    let last = head.config_size.saturating_sub(1);
    let mut region = None;
    for sector in [1, 2, last.saturating_sub(2), last.saturating_sub(1)] {
        let at = config.start + sector.saturating_mul(SECTOR);
        if let Some(bytes) = read(disk, at, SECTOR)? {
            region = region.or_else(|| parse_toc(&bytes));
        }
    }
    let (start, sectors) = region.ok_or(LdmError::Magic {
        at: config.start + SECTOR,
        expected: "TOCBLOCK",
    })?;
    if start.saturating_add(sectors) > head.config_size {
        return Err(outside(start, sectors));
    }
    let at = config.start + start * SECTOR;
    let mut bytes = vec![0; (sectors * SECTOR) as usize];
    disk.read_at(at, &mut bytes)?;
    let database = parse_vmdb(&bytes, at)?;
    if database.committed != database.pending {
        return Err(LdmError::Unfinished {
            committed: database.committed,
            pending: database.pending,
        });
    }
    let rest = bytes.get(database.first as usize..).unwrap_or_default();
    Ok(LdmDisk {
        id: head.disk,
        group: head.group,
        group_name: head.group_name.clone(),
        data,
        change: database.committed,
        records: read_records(rest, database.record_size)?,
    })
}

/// Records from their fragments: each says which record it belongs to, and its place in it.
fn read_records(bytes: &[u8], size: usize) -> Result<Records, LdmError> {
    let mut parts: BTreeMap<u32, (u16, BTreeMap<u16, &[u8]>)> = BTreeMap::new();
    for fragment in bytes.chunks_exact(size) {
        if !fragment.starts_with(b"VBLK") {
            break;
        }
        let (record, number, count) = (be32(fragment, 8), be16(fragment, 12), be16(fragment, 14));
        if count == 0 {
            continue;
        }
        let known = parts.entry(record).or_insert((count, BTreeMap::new()));
        let body = fragment.get(FRAGMENT_HEAD..).unwrap_or_default();
        if known.0 != count || number >= count || known.1.insert(number, body).is_some() {
            return Err(LdmError::Record { record });
        }
    }
    let mut records = Records::new();
    for (record, (count, fragments)) in parts {
        if fragments.len() != usize::from(count) {
            return Err(LdmError::Record { record });
        }
        let whole: Vec<u8> = fragments.into_values().flatten().copied().collect();
        match parse_record(&whole) {
            Ok(Some((id, parsed))) => {
                if records.insert(id, parsed).is_some() {
                    return Err(LdmError::Record { record });
                }
            }
            Ok(None) => {}
            Err(()) => return Err(LdmError::Record { record }),
        }
    }
    Ok(records)
}

/// `None` where the disk ends earlier or has a bad sector.
fn read(disk: &dyn BlockRead, at: u64, len: u64) -> Result<Option<Vec<u8>>, BlockError> {
    let mut bytes = vec![0; len as usize];
    match disk.read_at(at, &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) => match error.kind() {
            BlockErrorKind::OutOfBounds | BlockErrorKind::Unreadable => Ok(None),
            _ => Err(error),
        },
    }
}
