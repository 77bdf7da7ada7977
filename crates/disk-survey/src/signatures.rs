//! Content that file-system probing does not know and that leaves older signatures standing.
//!
//! ZFS writes nothing into the first 8 KiB of its labels, where the superblock of an ext file system
//! that was there before lives on; RAID firmware keeps its records at the end of disks that look
//! like any other. To believe the older signature would be to skip bytes that are in use.

use block_io::{BlockErrorKind, BlockRead, Result};

/// What `volume`, a partition or a whole disk, may hold besides what probing says.
pub(crate) fn find_stranger(volume: &dyn BlockRead) -> Result<Option<&'static str>> {
    let at = |offset: u64, magic: &[u8]| -> Result<bool> {
        Ok(read(volume, offset, magic.len())?.is_some_and(|bytes| bytes == magic))
    };
    if has_zfs_label(volume)? {
        return Ok(Some("ZFS"));
    }
    // Linux include/uapi/linux/bcache.h and fs/bcachefs: superblock at sector 8, magic at byte 24.
    const BCACHE: [u8; 16] = [
        0xC6, 0x85, 0x73, 0xF6, 0x4E, 0x1A, 0x45, 0xCA, 0x82, 0x65, 0xF5, 0x7F, 0x48, 0xBA, 0x6D,
        0x81,
    ];
    const BCACHEFS: [u8; 16] = [
        0xC6, 0x85, 0x73, 0xF6, 0x66, 0xCE, 0x90, 0xA9, 0xD9, 0x6A, 0x60, 0xCF, 0x80, 0x3D, 0xF7,
        0xEF,
    ];
    if at(4096 + 24, &BCACHE)? {
        return Ok(Some("bcache"));
    }
    if at(4096 + 24, &BCACHEFS)? {
        return Ok(Some("bcachefs"));
    }
    if at(0, b"bluestore block device")? {
        return Ok(Some("a Ceph BlueStore device"));
    }
    Ok(None)
}

/// What RAID firmware keeps at the end of each member disk, if it does.
pub(crate) fn find_firmware_raid(disk: &dyn BlockRead) -> Result<Option<&'static str>> {
    let sector = disk.sector_size().bytes();
    let from_end = |sectors: u64| disk.size().checked_sub(sectors * sector);
    // Intel Matrix RAID: the anchor lies in the last sector but one.
    if let Some(offset) = from_end(2)
        && read(disk, offset, 24)?.is_some_and(|bytes| bytes == *b"Intel Raid ISM Cfg Sig. ")
    {
        return Ok(Some("Intel firmware RAID (IMSM)"));
    }
    // [SNIA DDF 2.0] 4.2: the anchor header lies in the last sector, signature 0xDE11DE11.
    if let Some(offset) = from_end(1)
        && read(disk, offset, 4)?.is_some_and(|bytes| bytes == [0xDE, 0x11, 0xDE, 0x11])
    {
        return Ok(Some("firmware RAID (DDF)"));
    }
    Ok(None)
}

/// [ZFS On-Disk Specification] 1.2 and 1.3: four labels of 256 KiB, two at the start and two at the end,
/// each with an array of uberblocks in its second half. One uberblock is enough.
fn has_zfs_label(volume: &dyn BlockRead) -> Result<bool> {
    const LABEL: u64 = 256 << 10;
    const RING: u64 = 128 << 10;
    const MAGIC: u64 = 0x00BA_B10C;
    let end = volume.size() / LABEL * LABEL;
    let labels = [Some(0), Some(LABEL), end.checked_sub(LABEL)];
    for label in labels.into_iter().flatten() {
        let Some(ring) = read(volume, label + RING, RING as usize)? else {
            continue;
        };
        let mut words = ring.chunks(1024).filter_map(|slot| slot.first_chunk::<8>());
        if words
            .any(|word| u64::from_le_bytes(*word) == MAGIC || u64::from_be_bytes(*word) == MAGIC)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `len` bytes at `offset`, `None` where the disk ends earlier or cannot be read.
fn read(disk: &dyn BlockRead, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; len];
    match disk.read_at(offset, &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) => match error.kind() {
            BlockErrorKind::OutOfBounds | BlockErrorKind::Unreadable => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_io::{BlockWrite, MemoryDisk};

    #[test]
    fn each_stranger_is_known_by_its_mark() {
        let disk = MemoryDisk::zeroed(2 << 20);
        assert_eq!(find_stranger(&disk).unwrap(), None);
        for (at, magic) in [
            ((128 << 10) + 3 * 1024, &0x00BA_B10C_u64.to_le_bytes()[..]),
            ((384 << 10), &0x00BA_B10C_u64.to_be_bytes()[..]),
            ((2 << 20) - (128 << 10), &0x00BA_B10C_u64.to_le_bytes()[..]),
            (0, b"bluestore block device"),
        ] {
            let disk = MemoryDisk::zeroed(2 << 20);
            disk.write_at(at, magic).unwrap();
            assert!(find_stranger(&disk).unwrap().is_some(), "{at}");
        }
        assert_eq!(find_stranger(&MemoryDisk::zeroed(100)).unwrap(), None);
    }

    #[test]
    fn firmware_raid_is_known_by_its_anchor() {
        let disk = MemoryDisk::zeroed(1 << 20);
        assert_eq!(find_firmware_raid(&disk).unwrap(), None);
        disk.write_at((1 << 20) - 1024, b"Intel Raid ISM Cfg Sig. 1.3")
            .unwrap();
        assert!(find_firmware_raid(&disk).unwrap().is_some());
        let disk = MemoryDisk::zeroed(1 << 20);
        disk.write_at((1 << 20) - 512, &[0xDE, 0x11, 0xDE, 0x11])
            .unwrap();
        assert!(find_firmware_raid(&disk).unwrap().is_some());
    }
}
