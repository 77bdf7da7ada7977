//! What the bytes of md superblocks mean. No I/O.
// Linux include/uapi/linux/raid/md_p.h.

use std::fmt;
use std::ops::Range;

use uuid::Uuid;

use super::reader::MdError;
use crate::bytes::{array, le32, le64};

const MAGIC: u32 = 0xA92B_4EFC;
pub(super) const SECTOR: u64 = 512;
/// A superblock 0.90 lies in the last whole 64 KiB of its device and fills 4 KiB.
pub(super) const V090_ALIGN: u64 = 64 << 10;
pub(super) const V090_LEN: usize = 4096;
/// A superblock 1.x: 256 bytes and two for each device, at most 1920 of them.
pub(super) const V1_LEN: usize = 4096;
const V1_FIXED: usize = 256;
const V1_MOST_DEVICES: u32 = 1920;

/// Which superblock a member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MdVersion {
    /// 0.90 of a little-endian machine.
    V090,
    /// 0.90 of a big-endian machine. Little-endian kernels do not know it.
    V090BigEndian,
    /// 1.0: at the end.
    V1_0,
    /// 1.1: at the start.
    V1_1,
    /// 1.2: 4 KiB from the start.
    V1_2,
}

impl fmt::Display for MdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V090 => "0.90",
            Self::V090BigEndian => "0.90 (big-endian)",
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        })
    }
}

/// What a member is in its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The member with this number holds data.
    Active(u32),
    /// Waits.
    Spare,
    /// Failed.
    Faulty,
    /// Holds the write journal.
    Journal,
}

/// One device of an array, as its superblock describes it and the array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdMember {
    /// Which superblock.
    pub version: MdVersion,
    /// Where on the device it lies, in bytes.
    pub at: u64,
    /// The array.
    pub array: Uuid,
    /// The array's name, 1.x only: often `host:0`.
    pub name: Option<String>,
    /// When the array was made, in seconds of Unix time.
    pub created: u64,
    /// Which kind of array: 0, 1, 4, 5, 6, 10, -1 for linear.
    pub level: i32,
    /// The layout, by level.
    pub layout: u32,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// How many members hold data.
    pub raid_disks: u32,
    /// How much of each member the array uses, in bytes; 0 where each is used as far as it goes.
    pub used_size: u64,
    /// How often the array changed its state: members with fewer events are stale.
    pub events: u64,
    /// What this member is.
    pub role: Role,
    /// The number of this device among all the array ever had.
    pub device_number: u32,
    /// The role of every device by its number, as this member knows.
    pub roles: Vec<Role>,
    /// The bytes of the device that hold data.
    pub data: Range<u64>,
    /// Up to which byte of its data this member is rebuilt; `None` when it is whole.
    pub rebuilt_to: Option<u64>,
    /// All members are in sync, as far as they are not rebuilt.
    pub clean: bool,
    /// The array is changing its shape.
    pub reshaping: bool,
    /// It has a write journal.
    pub journal: bool,
    /// It has a list of bad blocks that is not empty.
    pub bad_blocks: bool,
    /// The layout of a RAID0 is recorded (since Linux 5.4).
    pub raid0_layout_known: bool,
}

/// Read superblock 1.x out of `bytes`, which were read at byte `at` of a device of `size` bytes. `None`
/// where there is none.
///
/// The offsets are in `docs/formats/md.md`.
pub(super) fn parse_v1(
    bytes: &[u8],
    at: u64,
    size: u64,
    version: MdVersion,
) -> Result<Option<MdMember>, MdError> {
    if le32(bytes, 0) != MAGIC || le32(bytes, 4) != 1 || le64(bytes, 144) != at / SECTOR {
        return Ok(None);
    }
    let devices = le32(bytes, 220);
    if devices > V1_MOST_DEVICES {
        return Err(MdError::Devices {
            at: at + 220,
            most: V1_MOST_DEVICES,
            found: devices,
        });
    }
    let covered = V1_FIXED + 2 * devices as usize;
    check_sum(bytes.get(..covered).unwrap_or_default(), 216, at, le32)?;
    let features = le32(bytes, 8);
    let (offset, len) = (le64(bytes, 128), le64(bytes, 136));
    let data = sectors(offset).zip(sectors(len)).and_then(|(offset, len)| {
        let end = offset.checked_add(len)?;
        (end <= size).then_some(offset..end)
    });
    let Some(data) = data else {
        return Err(MdError::DataPlace {
            at: at + 128,
            size,
            offset,
            len,
        });
    };
    let roles: Vec<Role> = (0..devices as usize)
        .map(|index| role_of(array(bytes, V1_FIXED + 2 * index).map_or(0xFFFF, u16::from_le_bytes)))
        .collect();
    let device_number = le32(bytes, 160);
    const RECOVERY: u32 = 2;
    let journal_feature = features & 512 != 0;
    // Where a member is a journal, the same field says where the journal ends.
    let rebuilt = (features & RECOVERY != 0).then(|| le64(bytes, 152).saturating_mul(SECTOR));
    Ok(Some(MdMember {
        version,
        at,
        array: Uuid::from_bytes(array(bytes, 16).unwrap_or_default()),
        name: text(bytes.get(32..64).unwrap_or_default()),
        created: le64(bytes, 64) & 0xFF_FFFF_FFFF,
        level: le32(bytes, 72) as i32,
        layout: le32(bytes, 76),
        chunk: u64::from(le32(bytes, 88)) * SECTOR,
        raid_disks: le32(bytes, 92),
        used_size: sectors(le64(bytes, 80)).unwrap_or(u64::MAX),
        events: le64(bytes, 200),
        role: roles
            .get(device_number as usize)
            .copied()
            .unwrap_or(Role::Spare),
        device_number,
        roles,
        data,
        rebuilt_to: rebuilt,
        clean: le64(bytes, 208) == u64::MAX,
        // Active, backwards, or with data at a new offset.
        reshaping: features & (4 | 32 | 64) != 0,
        journal: journal_feature,
        bad_blocks: features & 8 != 0,
        raid0_layout_known: features & 4096 != 0 || le32(bytes, 76) != 0,
    }))
}

/// Read superblock 0.90 out of `bytes`, 4 KiB from byte `at` of a device. `None` where there is none.
///
/// It is 1024 words in the byte order of the machine that made it; their numbers are in
/// `docs/formats/md.md`.
pub(super) fn parse_v090(bytes: &[u8], at: u64) -> Result<Option<MdMember>, MdError> {
    let big = match le32(bytes, 0) {
        MAGIC => false,
        word if word.swap_bytes() == MAGIC => true,
        _ => return Ok(None),
    };
    let order = if big { be32 } else { le32 };
    let word = |index: usize| order(bytes, index * 4);
    if word(1) != 0 || !matches!(word(2), 90 | 91) {
        return Ok(None);
    }
    check_sum(bytes, 38 * 4, at, order)?;
    let wide = |low: usize, high: usize| u64::from(word(high)) << 32 | u64::from(word(low));
    let (events, checkpoint) = if big {
        (wide(40, 39), wide(42, 41))
    } else {
        (wide(39, 40), wide(41, 42))
    };
    let mut id = [0; 16];
    for (to, from) in [(0, 5), (4, 13), (8, 14), (12, 15)] {
        crate::bytes::put(&mut id, to, &word(from).to_be_bytes());
    }
    const DISKS: usize = 27;
    let disk = |at: usize| {
        let (raid_disk, state) = (word(at + 3), word(at + 4));
        // Bits: 0 faulty, 1 active, 2 in sync, 3 removed.
        match state & 0b1111 {
            0b0110 => Role::Active(raid_disk),
            bits if bits & 0b1001 != 0 => Role::Faulty,
            _ => Role::Spare,
        }
    };
    let reshaping = word(2) == 91;
    Ok(Some(MdMember {
        version: if big {
            MdVersion::V090BigEndian
        } else {
            MdVersion::V090
        },
        at,
        array: Uuid::from_bytes(id),
        name: None,
        created: u64::from(word(6)),
        level: word(7) as i32,
        layout: word(64),
        chunk: u64::from(word(65)),
        raid_disks: word(10),
        used_size: u64::from(word(8)) * 1024,
        events,
        role: disk(992),
        device_number: word(992),
        roles: (0..DISKS).map(|index| disk(128 + index * 32)).collect(),
        data: 0..at,
        rebuilt_to: None,
        // Bit 0 of the state: cleanly stopped. A checkpoint of this state may say that a resync was
        // not over.
        clean: word(33) & 1 != 0 && (events != checkpoint || word(43) == u32::MAX),
        reshaping,
        journal: false,
        bad_blocks: false,
        raid0_layout_known: word(64) != 0,
    }))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_be_bytes)
}

fn sectors(count: u64) -> Option<u64> {
    count.checked_mul(SECTOR)
}

fn role_of(number: u16) -> Role {
    match number {
        0xFFFF => Role::Spare,
        0xFFFE => Role::Faulty,
        0xFFFD => Role::Journal,
        number => Role::Active(u32::from(number)),
    }
}

/// The sum of all words but the checksum itself, its carry added once.
// Linux drivers/md/md.c, calc_sb_1_csum and calc_sb_csum. A last half word counts as one.
fn check_sum(
    bytes: &[u8],
    field: usize,
    at: u64,
    order: fn(&[u8], usize) -> u32,
) -> Result<(), MdError> {
    let words = (0..bytes.len() / 4).map(|index| index * 4);
    let mut sum: u64 = words
        .filter(|place| *place != field)
        .map(|place| u64::from(order(bytes, place)))
        .sum();
    if bytes.len() % 4 == 2 {
        sum += u64::from(array(bytes, bytes.len() - 2).map_or(0, u16::from_le_bytes));
    }
    let expected = (sum as u32).wrapping_add((sum >> 32) as u32);
    let found = order(bytes, field);
    if expected != found {
        return Err(MdError::Checksum {
            at: at + field as u64,
            expected,
            found,
        });
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|c| *c == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).unwrap_or_default();
    (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}
