//! Which table a disk has, in which sector size, and what in it contradicts itself.

use std::ops::Range;

use block_io::{BlockErrorKind, BlockRead, SectorSize};

use crate::checks::{check_covered, check_hybrid, check_overlaps, check_protective};
use crate::finding::{Damage, Findings, Severity};
use crate::gpt::reader::{GptRead, partitions_of, read_gpt};
use crate::layout::{DiskId, Layout, LayoutError, Partition, TableKind};
use crate::lba::Lba;
use crate::mbr::format::{BOOT_SECTOR, BootSector, MbrEntry, MbrTable, PROTECTIVE};
use crate::mbr::reader::{MbrRead, read_mbr};

/// Bytes in front of the first partition that are kept at most: boot code, GRUB's core image, other
/// boot managers. Usual gaps are 31.5 KiB and 1 MiB.
const KEPT_AT_START: u64 = 16 << 20;
/// Bytes at the end of the disk that are always kept: the backup GPT, the database of Windows dynamic
/// disks (1 MiB), the records of RAID firmware (IMSM, DDF).
const KEPT_AT_END: u64 = 1 << 20;

/// Read the partition table of `disk`, whatever it is.
///
/// # Errors
/// [`LayoutError`] where the disk fails otherwise than by bad sectors. Those, and any damage of the
/// table, are findings.
pub fn read_layout(disk: &dyn BlockRead) -> Result<Layout, LayoutError> {
    let mut findings = Findings::default();
    let boot = read_or_bad(disk, 0, BOOT_SECTOR as u64, "the boot sector")?;
    if boot.is_none() && disk.size() >= BOOT_SECTOR as u64 {
        findings.add(
            Severity::Doubtful,
            Damage::BootSectorUnreadable,
            0,
            ("a readable sector", "none"),
            "taken for empty",
        );
    }
    let boot = boot.and_then(|bytes| BootSector::parse(&bytes));
    let mbr = boot.filter(|sector| is_table(sector, disk, &mut findings));
    let protective = mbr.is_some_and(|sector| has_protective(&sector));
    let names_partitions = mbr.is_some_and(|sector| sector.entries().iter().any(is_real));
    let mut about_gpt = Findings::default();
    let (gpt, sector_size) = find_gpt(disk, protective, &mut about_gpt)?;
    let gpt = match gpt {
        Some(gpt) if !protective && is_stale(disk, &gpt, names_partitions)? => {
            report_stale(&gpt, &mut findings);
            None
        }
        gpt => {
            findings.0.extend(about_gpt.0);
            gpt
        }
    };
    match (mbr, gpt) {
        (Some(sector), Some(gpt)) if protective => {
            Ok(gpt_layout(disk, Some(sector), gpt, sector_size, findings))
        }
        (sector, Some(gpt)) => {
            findings.add(
                Severity::Doubtful,
                Damage::ProtectiveMbrMissing,
                446,
                ("an entry of type 0xee", "none"),
                "the GPT is used all the same; the Linux kernel would not",
            );
            Ok(gpt_layout(disk, sector, gpt, sector_size, findings))
        }
        (Some(sector), None) if protective => Ok(lost_gpt_layout(disk, &sector, findings)),
        (Some(sector), None) => mbr_layout(disk, &sector, findings),
        (None, None) => Ok(Layout {
            table: TableKind::None,
            sector_size: disk.sector_size(),
            disk_id: None,
            partitions: Vec::new(),
            metadata: Vec::new(),
            findings: findings.0,
            mbr: None,
            gpt: None,
        }),
    }
}

/// Read `len` bytes at `at`; `None` where they lie outside the disk or cannot be read.
pub(crate) fn read_or_bad(
    disk: &dyn BlockRead,
    at: u64,
    len: u64,
    what: &'static str,
) -> Result<Option<Vec<u8>>, LayoutError> {
    if block_io::check_range(disk.size(), at, len).is_err() {
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    match disk.read_at(at, &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == BlockErrorKind::Unreadable => Ok(None),
        Err(source) => Err(LayoutError::Disk { what, source }),
    }
}

/// The sectors an entry claims.
pub(crate) struct Claim {
    pub(crate) number: u32,
    pub(crate) first: Lba,
    pub(crate) sectors: u64,
    /// Where on the disk the entry says so.
    pub(crate) at: u64,
}

/// The bytes a claim covers, clipped to the disk. `None` where it begins past the end: the Linux
/// kernel leaves out such a partition, and cuts off one that ends past the end, and so do we.
pub(crate) fn place(
    claim: &Claim,
    size: u64,
    sector_size: SectorSize,
    findings: &mut Findings,
) -> Option<Range<u64>> {
    let limit = size / sector_size.bytes();
    let end = claim.first.0.saturating_add(claim.sectors);
    let fits = end <= limit;
    if !fits {
        let done = if claim.first.0 >= limit {
            format!("partition {} left out", claim.number)
        } else {
            format!("partition {} cut off at the end of the disk", claim.number)
        };
        findings.add(
            Severity::Doubtful,
            Damage::PastEnd,
            claim.at,
            (format!("an end below sector {limit}"), format!("{end}")),
            done,
        );
    }
    let start = claim
        .first
        .byte(sector_size)
        .filter(|start| *start < size)?;
    let end = Lba(end.min(limit)).byte(sector_size)?;
    (start < end).then_some(start..end)
}

pub(crate) fn is_protective(entry: &MbrEntry) -> bool {
    entry.kind == PROTECTIVE && entry.sectors != 0
}

/// An entry that names a partition of its own.
pub(crate) fn is_real(entry: &MbrEntry) -> bool {
    !entry.is_empty() && entry.kind != PROTECTIVE
}

fn has_protective(sector: &BootSector) -> bool {
    sector.entries().iter().any(is_protective)
}

/// Whether a boot sector holds a partition table and not the code of a file system's.
fn is_table(sector: &BootSector, disk: &dyn BlockRead, findings: &mut Findings) -> bool {
    if !sector.has_magic() {
        return false;
    }
    let entries = sector.entries();
    let sectors = disk.size() / BOOT_SECTOR as u64;
    let in_disk = |entry: &MbrEntry| is_real(entry) && u64::from(entry.start) < sectors;
    let any = entries.iter().any(|e| is_protective(e) || in_disk(e));
    if !entries.iter().all(MbrEntry::is_plausible) {
        if any && !sector.is_volume_boot_sector() {
            findings.add(
                Severity::Warning,
                Damage::StatusByte,
                446,
                ("00 or 80 in each entry", "another value"),
                "taken for no partition table, as the Linux kernel does",
            );
        }
        return false;
    }
    any || !sector.is_volume_boot_sector()
}

/// The sector sizes a table may count in: the disk's own first. Disks change theirs when they move
/// between a 4Kn controller and a USB bridge that emulates 512, and image files do not say.
fn candidates(disk: &dyn BlockRead) -> Vec<SectorSize> {
    let own = disk.sector_size();
    let others = [SectorSize::B512, SectorSize::B4096];
    let others = others.into_iter().filter(|other| *other != own);
    std::iter::once(own).chain(others).collect()
}

/// Look for a GPT in each sector size. Findings about copies are kept where a table was found, or
/// where one should be.
fn find_gpt(
    disk: &dyn BlockRead,
    expected: bool,
    findings: &mut Findings,
) -> Result<(Option<GptRead>, SectorSize), LayoutError> {
    let own = disk.sector_size();
    let mut in_own = Findings::default();
    for sector_size in candidates(disk) {
        let mut about = Findings::default();
        let gpt = read_gpt(disk, sector_size, &mut about)?;
        if gpt.is_some() {
            if sector_size != own {
                findings.add(
                    Severity::Warning,
                    Damage::SectorSize,
                    sector_size.bytes(),
                    (
                        format!("a table in sectors of {}", own.bytes()),
                        format!("a valid GPT in sectors of {}", sector_size.bytes()),
                    ),
                    "the GPT's sector size is used",
                );
            }
            findings.0.extend(about.0);
            return Ok((gpt, sector_size));
        }
        if sector_size == own {
            in_own = about;
        }
    }
    if expected {
        findings.0.extend(in_own.0);
    }
    Ok((None, own))
}

/// Whether a valid GPT that no protective entry announces was left behind by an earlier use of the disk:
/// an MBR names partitions; or only the backup is left, and the start of the disk holds something
/// else. A start that was wiped is no use of the disk: then the backup is all there is.
fn is_stale(
    disk: &dyn BlockRead,
    gpt: &GptRead,
    names_partitions: bool,
) -> Result<bool, LayoutError> {
    if names_partitions || !gpt.from_backup {
        return Ok(names_partitions);
    }
    let usable = gpt.table.first_usable.byte(gpt.table.sector_size);
    let len = usable.unwrap_or(u64::MAX).min(1 << 20).min(disk.size());
    let start = read_or_bad(disk, 0, len, "the start of the disk")?;
    Ok(start.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)))
}

/// A whole GPT under an MBR is doubtful: either may be the one that was forgotten. A backup alone
/// survives nearly every way of partitioning or formatting a disk anew.
fn report_stale(gpt: &GptRead, findings: &mut Findings) {
    let severity = if gpt.from_backup {
        Severity::Warning
    } else {
        Severity::Doubtful
    };
    let (at, what) = if gpt.from_backup {
        (gpt.table.backup_header, "a valid backup")
    } else {
        (Lba(1), "a valid one")
    };
    findings.add(
        severity,
        Damage::StaleGpt,
        at.byte(gpt.table.sector_size).unwrap_or(u64::MAX),
        ("no GPT", what),
        "ignored, as the Linux kernel does",
    );
}

fn gpt_layout(
    disk: &dyn BlockRead,
    boot: Option<BootSector>,
    gpt: GptRead,
    sector_size: SectorSize,
    mut findings: Findings,
) -> Layout {
    let GptRead {
        table, metadata, ..
    } = gpt;
    let partitions = partitions_of(&table, disk.size(), &mut findings);
    check_overlaps(partitions.iter(), &mut findings);
    let hybrid = boot.is_some_and(|sector| {
        check_protective(&sector, &table.sector_size, disk, &mut findings);
        check_hybrid(&sector, &partitions, sector_size, &mut findings)
    });
    let first_usable = table.first_usable.byte(sector_size).unwrap_or(0);
    let mut kept = metadata;
    kept.push(0..first_usable.min(KEPT_AT_START));
    Layout {
        table: if hybrid {
            TableKind::HybridGpt
        } else {
            TableKind::Gpt
        },
        sector_size,
        disk_id: Some(DiskId::Gpt(table.disk_guid)),
        metadata: kept_ranges(kept, &partitions, disk.size()),
        partitions,
        findings: findings.0,
        mbr: boot.map(|sector| MbrTable {
            boot_sector: sector.0,
            entries: sector.entries(),
            ebrs: Vec::new(),
            unusual: None,
        }),
        gpt: Some(table),
    }
}

fn lost_gpt_layout(disk: &dyn BlockRead, sector: &BootSector, mut findings: Findings) -> Layout {
    findings.add(
        Severity::Doubtful,
        Damage::GptMissing,
        disk.sector_size().bytes(),
        ("a valid primary or backup GPT", "neither"),
        "no partitions can be told apart",
    );
    Layout {
        table: TableKind::ProtectiveOnly,
        sector_size: disk.sector_size(),
        disk_id: None,
        partitions: Vec::new(),
        metadata: kept_ranges(Vec::new(), &[], disk.size()),
        findings: findings.0,
        mbr: Some(MbrTable {
            boot_sector: sector.0,
            entries: sector.entries(),
            ebrs: Vec::new(),
            unusual: None,
        }),
        gpt: None,
    }
}

fn mbr_layout(
    disk: &dyn BlockRead,
    sector: &BootSector,
    mut findings: Findings,
) -> Result<Layout, LayoutError> {
    let (read, about, sector_size) = read_mbr_in_best_size(disk, sector)?;
    findings.0.extend(about.0);
    let MbrRead {
        table,
        partitions,
        metadata,
    } = read;
    check_overlaps(partitions.iter().filter(|p| !p.logical), &mut findings);
    check_overlaps(partitions.iter().filter(|p| p.logical), &mut findings);
    check_covered(&partitions, &metadata, sector_size, &mut findings);
    Ok(Layout {
        table: TableKind::Mbr,
        sector_size,
        disk_id: Some(DiskId::Mbr(sector.signature())),
        metadata: kept_ranges(metadata, &partitions, disk.size()),
        partitions,
        findings: findings.0,
        mbr: Some(table),
        gpt: None,
    })
}

/// Read the MBR in the disk's sector size, or in another where only that makes sense: an MBR does not
/// say what it counts in.
fn read_mbr_in_best_size(
    disk: &dyn BlockRead,
    sector: &BootSector,
) -> Result<(MbrRead, Findings, SectorSize), LayoutError> {
    let own = disk.sector_size();
    let mut in_own = Findings::default();
    let read = read_mbr(disk, sector, own, &mut in_own)?;
    let doubtful = |findings: &Findings| {
        findings
            .0
            .iter()
            .any(|finding| finding.severity == Severity::Doubtful)
    };
    let own_blank = all_blank(disk, &read.partitions)?;
    if !doubtful(&in_own) && !own_blank {
        return Ok((read, in_own, own));
    }
    for other in candidates(disk).into_iter().skip(1) {
        let mut in_other = Findings::default();
        let other_read = read_mbr(disk, sector, other, &mut in_other)?;
        let makes_sense = !doubtful(&in_other)
            && !other_read.partitions.is_empty()
            && !all_blank(disk, &other_read.partitions)?;
        if makes_sense {
            in_other.add(
                Severity::Doubtful,
                Damage::SectorSize,
                446,
                (
                    format!("a table in sectors of {}", own.bytes()),
                    format!("one that makes sense only in sectors of {}", other.bytes()),
                ),
                "read in that sector size",
            );
            return Ok((other_read, in_other, other));
        }
    }
    Ok((read, in_own, own))
}

/// Whether there are partitions and none of them begins with anything but zeroes, where file systems
/// have their first structures (ext and NTFS at 0 to 8 KiB, btrfs at 64 KiB).
fn all_blank(disk: &dyn BlockRead, partitions: &[Partition]) -> Result<bool, LayoutError> {
    let mut seen = false;
    for partition in partitions.iter().filter(|p| !p.is_extended()) {
        seen = true;
        for (offset, len) in [(0, 8192), (65_536, 4096)] {
            let at = partition.range.start + offset;
            let len = len.min(partition.range.end.saturating_sub(at));
            let bytes = read_or_bad(disk, at, len, "the start of a partition")?;
            // What cannot be read is not blank.
            if bytes.is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0)) {
                return Ok(false);
            }
        }
    }
    Ok(seen)
}

/// The metadata ranges with the gap in front of the first partition and the end of the disk, in order
/// and joined, clipped to the disk.
fn kept_ranges(
    mut ranges: Vec<Range<u64>>,
    partitions: &[Partition],
    size: u64,
) -> Vec<Range<u64>> {
    let first = partitions.iter().map(|p| p.range.start).min();
    ranges.push(0..first.unwrap_or(KEPT_AT_START).min(KEPT_AT_START));
    ranges.push(size.saturating_sub(KEPT_AT_END)..size);
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let end = range.end.min(size);
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(end),
            _ if range.start < end => joined.push(range.start..end),
            _ => {}
        }
    }
    joined
}
