//! Where a file system of DOS or Windows believes its partition begins.
//!
//! Boot sectors carry the number of sectors before the partition: boot loaders of Windows up to 7 find the
//! disk by it, and do not start from a partition that was moved without it being rewritten.

use block_io::BlockWrite;

use crate::bytes::{le16, le32, le64, put, put_le32, slice, u8_at};
use crate::probe::FsKind;
use crate::tree::{Result, TreeError, TreeErrorKind};

/// Place of the 32-bit number in boot sectors of FAT and NTFS. // fatgen103 "BPB_HiddSec"
const HIDDEN: usize = 28;
/// Sectors of an exFAT boot region; the last one holds the checksum. // exFAT specification 3
const EXFAT_REGION: u64 = 12;

fn corrupt(what: impl Into<String>) -> TreeError {
    TreeError::of(TreeErrorKind::Corrupt, what)
}

/// Write into the boot sector of the `kind` on `disk`, and into its copy, that the partition begins
/// `start` bytes from the start of the disk. Whether anything changed.
///
/// # Errors
/// `Unsupported` for other kinds, and where `start` is no whole number of the file system's sectors or
/// too large for its field; `Corrupt` where the boot sector is not one.
pub fn set_partition_start(disk: &dyn BlockWrite, kind: FsKind, start: u64) -> Result<bool> {
    let mut boot = vec![0; 512];
    disk.read_at(0, &mut boot)?;
    let (sector, copy) = match kind {
        FsKind::Fat12 | FsKind::Fat16 => (u64::from(le16(&boot, 11)), None),
        // BPB_BkBootSec; 0 and 0xFFFF say that there is none.
        FsKind::Fat32 => {
            let copy = u64::from(le16(&boot, 50));
            (
                u64::from(le16(&boot, 11)),
                (copy != 0 && copy != 0xFFFF).then_some(copy),
            )
        }
        // The copy is the sector behind the volume.
        FsKind::Ntfs => (u64::from(le16(&boot, 11)), Some(le64(&boot, 0x28))),
        FsKind::ExFat => (
            1_u64.checked_shl(u8_at(&boot, 108).into()).unwrap_or(0),
            Some(EXFAT_REGION),
        ),
        _ => {
            let what = format!("{kind} does not say where its partition begins");
            return Err(TreeError::of(TreeErrorKind::Unsupported, what));
        }
    };
    if !sector.is_power_of_two() || !(256..=4096).contains(&sector) {
        return Err(corrupt(format!(
            "boot sector: bytes per sector: found {sector}"
        )));
    }
    if !start.is_multiple_of(sector) {
        let what = format!("a start of {start} bytes is no whole number of sectors of {sector}");
        return Err(TreeError::of(TreeErrorKind::Unsupported, what));
    }
    let first = start / sector;
    if kind == FsKind::ExFat {
        return set_exfat(disk, sector, first);
    }
    let Ok(first) = u32::try_from(first) else {
        let what = format!("a start of {first} sectors is more than 32 bits hold");
        return Err(TreeError::of(TreeErrorKind::Unsupported, what));
    };
    let mut changed = rewrite(disk, 0, &boot, first)?;
    if let Some(at) = copy.and_then(|copy| copy.checked_mul(sector)) {
        let mut second = vec![0; 512];
        // A copy that is another sector's is not touched: NTFS volumes that were grown may lack it.
        if at.checked_add(512).is_some_and(|end| end <= disk.size()) {
            disk.read_at(at, &mut second)?;
            let same = |range: std::ops::Range<usize>| boot.get(range.clone()) == second.get(range);
            if same(0..HIDDEN) && same(HIDDEN + 4..90) {
                changed |= rewrite(disk, at, &second, first)?;
            }
        }
    }
    Ok(changed)
}

fn rewrite(disk: &dyn BlockWrite, at: u64, boot: &[u8], first: u32) -> Result<bool> {
    if le32(boot, HIDDEN) == first {
        return Ok(false);
    }
    let mut field = [0; 4];
    put_le32(&mut field, 0, first);
    disk.write_at(at + HIDDEN as u64, &field)?;
    Ok(true)
}

/// PartitionOffset (3.1.4) of both boot regions, and their checksums.
fn set_exfat(disk: &dyn BlockWrite, sector: u64, first: u64) -> Result<bool> {
    let mut changed = false;
    for region in [0, EXFAT_REGION * sector] {
        let mut bytes = vec![0; (EXFAT_REGION * sector) as usize];
        disk.read_at(region, &mut bytes)?;
        let sums = (11 * sector) as usize;
        if slice(&bytes, 3, 8) != b"EXFAT   "
            || le32(&bytes, sums) != crate::exfat::region_sum(slice(&bytes, 0, sums))
        {
            return Err(corrupt(format!(
                "exFAT boot region at byte {region}: signature or checksum"
            )));
        }
        if le64(&bytes, 64) == first {
            continue;
        }
        put(&mut bytes, 64, &first.to_le_bytes());
        let sum = crate::exfat::region_sum(slice(&bytes, 0, sums));
        for at in (sums..bytes.len()).step_by(4) {
            put_le32(&mut bytes, at, sum);
        }
        disk.write_at(region, &bytes)?;
        changed = true;
    }
    Ok(changed)
}
