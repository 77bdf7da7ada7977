//! What in a table contradicts itself, once its partitions are known.

use std::ops::Range;

use block_io::{BlockRead, SectorSize};

use crate::finding::{Damage, Findings, Severity};
use crate::layout::Partition;
use crate::lba::Lba;
use crate::mbr::format::BootSector;
use crate::read::{is_protective, is_real};

/// Report neighbours that overlap, and every one inside a longer one before it.
pub(crate) fn check_overlaps<'a>(
    partitions: impl Iterator<Item = &'a Partition>,
    findings: &mut Findings,
) {
    let mut sorted: Vec<&Partition> = partitions.collect();
    sorted.sort_by_key(|partition| (partition.range.start, partition.number));
    let mut reach: Option<&Partition> = None;
    for partition in sorted {
        if let Some(before) = reach
            && partition.range.start < before.range.end
        {
            findings.add(
                Severity::Doubtful,
                Damage::Overlap,
                partition.range.start,
                (
                    format!(
                        "partition {} to begin at byte {} or later",
                        partition.number, before.range.end
                    ),
                    format!("it begins inside partition {}", before.number),
                ),
                "both are kept",
            );
        }
        if reach.is_none_or(|before| partition.range.end > before.range.end) {
            reach = Some(partition);
        }
    }
}

/// Report partitions that cover the boot sector or an extended boot record.
pub(crate) fn check_covered(
    partitions: &[Partition],
    records: &[Range<u64>],
    sector_size: SectorSize,
    findings: &mut Findings,
) {
    for partition in partitions {
        if partition.range.start == 0 {
            findings.add(
                Severity::Note,
                Damage::CoversTable,
                0,
                ("a start at sector 1 or later", "sector 0"),
                "kept; hybrid CD images are made so",
            );
        }
        let covered = records
            .iter()
            .find(|record| partition.logical && partition.range.contains(&record.start));
        if let Some(record) = covered {
            findings.add(
                Severity::Doubtful,
                Damage::CoversTable,
                record.start,
                (
                    "no partition over an extended boot record".to_string(),
                    format!(
                        "partition {} covers {}",
                        partition.number,
                        Lba::holding(record.start, sector_size)
                    ),
                ),
                "kept",
            );
        }
    }
}

/// [UEFI 2.10] 5.2.3: one entry of type 0xEE from sector 1 over the disk, or over 2^32 - 1 sectors.
pub(crate) fn check_protective(
    sector: &BootSector,
    sector_size: &SectorSize,
    disk: &dyn BlockRead,
    findings: &mut Findings,
) {
    let entries = sector.entries();
    let Some(entry) = entries.iter().find(|entry| is_protective(entry)) else {
        return;
    };
    let sectors = (disk.size() / sector_size.bytes()).saturating_sub(1);
    let expected = u32::try_from(sectors).unwrap_or(u32::MAX);
    let hybrid = entries.iter().any(is_real);
    let covers = entry.sectors == expected || entry.sectors == u32::MAX || hybrid;
    if entry.start != 1 || !covers {
        findings.add(
            Severity::Note,
            Damage::ProtectiveMbrExtent,
            446,
            (
                format!("{expected} sectors from sector 1"),
                format!("{} from {}", entry.sectors, entry.start),
            ),
            "ignored",
        );
    }
}

/// Whether the MBR names partitions beside the protective entry; each must be one of the GPT.
pub(crate) fn check_hybrid(
    sector: &BootSector,
    partitions: &[Partition],
    sector_size: SectorSize,
    findings: &mut Findings,
) -> bool {
    let mut hybrid = false;
    for (slot, entry) in sector.entries().iter().enumerate() {
        if !is_real(entry) {
            continue;
        }
        hybrid = true;
        let at = 446 + slot as u64 * 16;
        let start = u64::from(entry.start) * sector_size.bytes();
        let end = start + u64::from(entry.sectors) * sector_size.bytes();
        let known = partitions
            .iter()
            .any(|p| p.range.start <= start && end <= p.range.end);
        if known {
            findings.add(
                Severity::Note,
                Damage::HybridMbr,
                at,
                (
                    "only an entry of type 0xee",
                    entry.partition_kind().to_string(),
                ),
                "the GPT is used, as the Linux kernel does",
            );
        } else {
            findings.add(
                Severity::Doubtful,
                Damage::HybridMismatch,
                at,
                (
                    "a partition of the GPT".to_string(),
                    format!("{} sectors from {}", entry.sectors, entry.start),
                ),
                "the GPT is used, as the Linux kernel does",
            );
        }
    }
    hybrid
}
