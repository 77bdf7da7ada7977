//! Where a device may have a superblock, and which of several is meant.

use block_io::{BlockError, BlockErrorKind, BlockRead};

use super::format::{
    MdMember, MdVersion, SECTOR, V1_LEN, V090_ALIGN, V090_LEN, parse_v1, parse_v090,
};

/// How a superblock lies, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MdError {
    /// The checksum is wrong.
    #[error(
        "checksum of the md superblock at byte {at}: expected {expected:#010x}, found {found:#010x}"
    )]
    Checksum {
        /// Where it stands.
        at: u64,
        /// The sum of the bytes.
        expected: u32,
        /// What stands there.
        found: u32,
    },
    /// More devices than a superblock holds.
    #[error(
        "md superblock, number of devices at byte {at}: expected at most {most}, found {found}"
    )]
    Devices {
        /// Where it stands.
        at: u64,
        /// The most that fit.
        most: u32,
        /// What stands there.
        found: u32,
    },
    /// The data does not lie on the device.
    #[error(
        "md superblock, place of the data at byte {at}: expected it inside {size} bytes, found {len} \
         sectors from sector {offset}"
    )]
    DataPlace {
        /// Where it stands.
        at: u64,
        /// The size of the device.
        size: u64,
        /// The first sector.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// The device fails.
    #[error("reading the md superblock")]
    Disk(#[from] BlockError),
}

/// Read the superblock of `device`, if it has one. Of several, which happens when a device was used anew,
/// the one of the array that was made last is taken, as mdadm does.
///
/// # Errors
/// [`MdError`] when the only superblock there is lies, or the device fails.
pub fn read_member(device: &dyn BlockRead) -> Result<Option<MdMember>, MdError> {
    let size = device.size();
    let end_1_0 = (size / SECTOR)
        .checked_sub(16)
        .map(|sector| (sector & !7) * SECTOR);
    let places = [
        (end_1_0, MdVersion::V1_0),
        (Some(0), MdVersion::V1_1),
        (Some(4096), MdVersion::V1_2),
    ];
    let mut newest: Option<MdMember> = None;
    let mut wrong = None;
    let mut consider = |found: Result<Option<MdMember>, MdError>| match found {
        Ok(Some(member)) => {
            if newest
                .as_ref()
                .is_none_or(|known| member.created > known.created)
            {
                newest = Some(member);
            }
        }
        Ok(None) => {}
        Err(error) => {
            wrong.get_or_insert(error);
        }
    };
    for (at, version) in places {
        let Some(at) = at else { continue };
        if let Some(bytes) = read(device, at, V1_LEN)? {
            consider(parse_v1(&bytes, at, size, version));
        }
    }
    let end_090 = (size & !(V090_ALIGN - 1)).checked_sub(V090_ALIGN);
    if let Some(at) = end_090
        && let Some(bytes) = read(device, at, V090_LEN)?
    {
        consider(parse_v090(&bytes, at));
    }
    match (newest, wrong) {
        (Some(member), _) => Ok(Some(member)),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(None),
    }
}

/// Up to `len` bytes at `at`; `None` where the device ends earlier or has a bad sector. Version 1.0 may lie
/// in the last 4 KiB or, on odd sizes, a little less.
fn read(device: &dyn BlockRead, at: u64, len: usize) -> Result<Option<Vec<u8>>, BlockError> {
    let len = (device.size().saturating_sub(at)).min(len as u64) as usize;
    if len < 512 {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    match device.read_at(at, &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == BlockErrorKind::Unreadable => Ok(None),
        Err(error) => Err(error),
    }
}
