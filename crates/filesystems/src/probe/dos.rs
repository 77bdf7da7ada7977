//! Signatures of the file systems of DOS and Windows.

use block_io::Result;

use super::{Disk, FsKind, Probe};
use crate::bytes::{array, le16, le32, le64, slice, text, u8_at};
use crate::fat::{Geometry, Width};
use crate::ntfs::cluster_size;

pub(super) fn bitlocker(disk: &Disk) -> Result<Option<Probe>> {
    Ok(disk
        .read_if(0, 512, 3, b"-FVE-FS-")?
        .map(|_| Probe::new(FsKind::BitLocker)))
}

pub(super) fn refs(disk: &Disk) -> Result<Option<Probe>> {
    Ok(disk
        .read_if(0, 512, 3, b"ReFS\0\0\0\0")?
        .map(|_| Probe::new(FsKind::ReFs)))
}

pub(super) fn ntfs(disk: &Disk) -> Result<Option<Probe>> {
    let Some(boot) = disk.read_if(0, 512, 3, b"NTFS    ")? else {
        return Ok(None);
    };
    let sector = u64::from(le16(&boot, 11));
    let Some(cluster) = cluster_size(sector, u8_at(&boot, 13)).filter(|c| c.is_power_of_two())
    else {
        return Ok(None);
    };
    let label = ntfs_label(disk, &boot, cluster)?;
    Ok(Some(Probe {
        label,
        uuid: Some(format!("{:016X}", le64(&boot, 0x48))),
        block_size: Some(cluster),
        size: le64(&boot, 0x28).checked_mul(sector),
        ..Probe::new(FsKind::Ntfs)
    }))
}

/// The label from attribute $VOLUME_NAME (0x60) of record 3 of the MFT, which is always resident.
fn ntfs_label(disk: &Disk, boot: &[u8], cluster: u64) -> Result<Option<String>> {
    let record_size = match array::<1>(boot, 0x40).map(|b| b as i8) {
        [n] if n > 0 => cluster.saturating_mul(n as u64),
        [n] => 1_u64.checked_shl(u32::from(n.unsigned_abs())).unwrap_or(0),
    };
    if !(512..=65_536).contains(&record_size) {
        return Ok(None);
    }
    let at = le64(boot, 0x30)
        .checked_mul(cluster)
        .and_then(|mft| mft.checked_add(3 * record_size));
    let Some(at) = at else { return Ok(None) };
    let Some(record) = disk.read_if(at, record_size as usize, 0, b"FILE")? else {
        return Ok(None);
    };
    let mut attribute = usize::from(le16(&record, 0x14));
    // A record of 64 KiB holds fewer than 4096 attributes: the shortest has 16 bytes.
    for _ in 0..4096 {
        let (kind, len) = (
            le32(&record, attribute),
            le32(&record, attribute + 4) as usize,
        );
        if kind == 0x60 {
            let value = attribute + usize::from(le16(&record, attribute + 0x14));
            let units: Vec<u16> = slice(&record, value, le32(&record, attribute + 0x10) as usize)
                .chunks_exact(2)
                .map(|c| u16::from_le_bytes([c[0], c[1]]))
                .collect();
            return Ok(text(String::from_utf16_lossy(&units).as_bytes()));
        }
        if kind == 0xFFFF_FFFF || len < 16 || attribute + len >= record.len() {
            break;
        }
        attribute += len;
    }
    Ok(None)
}

pub(super) fn exfat(disk: &Disk) -> Result<Option<Probe>> {
    let Some(boot) = disk.read_if(0, 512, 3, b"EXFAT   ")? else {
        return Ok(None);
    };
    let (sector_shift, cluster_shift) = (u8_at(&boot, 0x6C), u8_at(&boot, 0x6D));
    if !(9..=12).contains(&sector_shift) || cluster_shift > 25 - sector_shift {
        return Ok(None);
    }
    let sector = 1_u64 << sector_shift;
    let cluster = sector << cluster_shift;
    let heap = u64::from(le32(&boot, 0x58)) * sector;
    let root = u64::from(le32(&boot, 0x60).saturating_sub(2)) * cluster + heap;
    // The label entry is among the first of the root directory. // exFAT specification 7.3
    let entries = disk
        .read(root, 4096.min(cluster as usize))?
        .unwrap_or_default();
    let label = entries
        .chunks_exact(32)
        .find(|e| e[0] == 0x83)
        .and_then(|e| {
            let units: Vec<u16> = slice(e, 2, usize::from(e[1].min(11)) * 2)
                .chunks_exact(2)
                .map(|c| u16::from_le_bytes([c[0], c[1]]))
                .collect();
            text(String::from_utf16_lossy(&units).as_bytes())
        });
    Ok(Some(Probe {
        label,
        uuid: Some(serial(le32(&boot, 0x64))),
        version: Some(format!("{}.{}", u8_at(&boot, 0x69), u8_at(&boot, 0x68))),
        block_size: Some(cluster),
        size: le64(&boot, 0x48).checked_mul(sector),
        ..Probe::new(FsKind::ExFat)
    }))
}

fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xFFFF)
}

pub(super) fn fat(disk: &Disk) -> Result<Option<Probe>> {
    let Some(boot) = disk.read(0, 512)? else {
        return Ok(None);
    };
    let Ok(fat) = Geometry::parse(&boot) else {
        return Ok(None);
    };
    let (kind, extended) = match fat.width {
        Width::Fat12 => (FsKind::Fat12, 0x26),
        Width::Fat16 => (FsKind::Fat16, 0x26),
        Width::Fat32 => (FsKind::Fat32, 0x42),
    };
    let has_names = matches!(u8_at(&boot, extended), 0x28 | 0x29);
    let number = le32(&boot, extended + 1);
    // The label in the boot sector is not read: Windows does not update it, and blkid does not call
    // it the label either.
    let label = fat_root_label(disk, &fat)?;
    Ok(Some(Probe {
        label,
        uuid: (has_names && number != 0).then(|| serial(number)),
        version: Some(kind.to_string()),
        block_size: Some(fat.cluster),
        size: Some(fat.sectors * fat.sector),
        ..Probe::new(kind)
    }))
}

fn fat_root_label(disk: &Disk, fat: &Geometry) -> Result<Option<String>> {
    let (at, len) = match fat.root_cluster {
        Some(cluster) => (fat.start_of(cluster), fat.cluster),
        None => (fat.root.start, fat.root.end - fat.root.start),
    };
    let Some(root) = disk.read(at, len.min(65_536) as usize)? else {
        return Ok(None);
    };
    for entry in root.chunks_exact(32) {
        match entry[0] {
            0 => break,
            0xE5 => continue,
            _ => {}
        }
        // A volume label, and not part of a long name (attributes 0x0F).
        if entry[11] & 0x3F != 0x0F && entry[11] & 0x18 == 0x08 && le16(entry, 26) == 0 {
            let mut name = [0; 11];
            name.copy_from_slice(&entry[..11]);
            if name[0] == 0x05 {
                name[0] = 0xE5;
            }
            return Ok(text(&name));
        }
    }
    Ok(None)
}
