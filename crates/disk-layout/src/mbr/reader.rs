//! Reading an MBR and its chain of extended boot records, numbered as the Linux kernel does
//! (block/partitions/msdos.c: slots 1 to 4, then from 5 on every logical partition in chain order).

use std::collections::HashSet;
use std::ops::Range;

use block_io::{BlockRead, SectorSize};

use crate::finding::{Damage, Findings, Severity};
use crate::gpt::format::Attributes;
use crate::layout::{LayoutError, Partition};
use crate::lba::Lba;
use crate::mbr::format::{BOOT_SECTOR, BootSector, MbrEntry, MbrTable};
use crate::read::{Claim, place, read_or_bad};

/// The most extended boot records that are followed. Linux numbers at most 255 partitions.
pub const MAX_EBRS: usize = 1024;

/// Sectors behind an extended boot record that are kept with it: a boot loader may lie there.
const KEPT_BEHIND_EBR: u64 = 1 << 20;

/// One extended boot record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ebr {
    /// Where it lies on the disk.
    pub at: Lba,
    /// Its 512 bytes as they were read.
    pub record: [u8; BOOT_SECTOR],
    /// The number of its partition, if it has one.
    pub number: Option<u32>,
    /// The entry of its partition; `start` in it follows from the two addresses when written.
    pub entry: MbrEntry,
    /// Where its partition begins on the disk.
    pub start: Lba,
}

/// An MBR that was read.
pub(crate) struct MbrRead {
    pub(crate) table: MbrTable,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) metadata: Vec<Range<u64>>,
}

/// Read the table in `sector`, the first of `disk`.
pub(crate) fn read_mbr(
    disk: &dyn BlockRead,
    sector: &BootSector,
    sector_size: SectorSize,
    findings: &mut Findings,
) -> Result<MbrRead, LayoutError> {
    let mut read = MbrRead {
        table: MbrTable {
            boot_sector: sector.0,
            entries: sector.entries(),
            ebrs: Vec::new(),
            unusual: None,
        },
        partitions: Vec::new(),
        metadata: Vec::new(),
    };
    let mut extended = Vec::new();
    for (slot, entry) in sector.entries().iter().enumerate() {
        let at = 446 + slot as u64 * 16;
        let first = Lba(u64::from(entry.start));
        if entry.is_empty() {
            continue;
        }
        let number = slot as u32 + 1;
        let claim = Claim {
            number,
            first,
            sectors: u64::from(entry.sectors),
            at: at + 8,
        };
        if let Some(range) = place(&claim, disk.size(), sector_size, findings) {
            read.partitions.push(partition(number, range, entry, false));
        }
        if entry.is_extended() {
            extended.push((first, u64::from(entry.sectors)));
        }
    }
    if extended.len() > 1 {
        read.table.unusual = Some("there is more than one extended partition");
        findings.add(
            Severity::Warning,
            Damage::SecondExtended,
            446,
            ("one", extended.len().to_string()),
            "all are read, as the Linux kernel does",
        );
    }
    let mut walk = Walk {
        disk,
        sector_size,
        next_number: 5,
        seen: HashSet::new(),
    };
    for container in extended {
        walk.follow(container, &mut read, findings)?;
    }
    Ok(read)
}

struct Walk<'a> {
    disk: &'a dyn BlockRead,
    sector_size: SectorSize,
    next_number: u32,
    seen: HashSet<Lba>,
}

impl Walk<'_> {
    /// Follow the chain of the extended partition of `sectors` sectors at `first`.
    fn follow(
        &mut self,
        (first, sectors): (Lba, u64),
        read: &mut MbrRead,
        findings: &mut Findings,
    ) -> Result<(), LayoutError> {
        let (mut this, mut this_sectors) = (first, sectors);
        loop {
            let at = this.byte(self.sector_size).unwrap_or(u64::MAX);
            let stop = |findings: &mut Findings, what, expected: &str, found: String| {
                let done = "the chain is followed up to here";
                findings.add(Severity::Doubtful, what, at, (expected, found), done);
            };
            if !self.seen.insert(this) {
                stop(
                    findings,
                    Damage::EbrCircle,
                    "a new record",
                    this.to_string(),
                );
                return Ok(());
            }
            if read.table.ebrs.len() >= MAX_EBRS {
                stop(findings, Damage::EbrEndless, "at most 1024", "more".into());
                return Ok(());
            }
            let bytes = read_or_bad(self.disk, at, BOOT_SECTOR as u64, "an extended boot record")?;
            let Some(record) = bytes
                .and_then(|bytes| BootSector::parse(&bytes))
                .filter(BootSector::has_magic)
            else {
                stop(
                    findings,
                    Damage::EbrMissing,
                    "55 aa at its end",
                    "none".into(),
                );
                return Ok(());
            };
            self.add_record(
                &record,
                this,
                this_sectors,
                (first, sectors),
                read,
                findings,
            );
            let link = record
                .entries()
                .into_iter()
                .find(|entry| entry.sectors != 0 && entry.is_extended());
            let Some(link) = link else {
                return Ok(());
            };
            // Links count from the extended partition, not from the record they stand in.
            let next = Lba(first.0.saturating_add(u64::from(link.start)));
            if next.0 - first.0 >= sectors {
                findings.add(
                    Severity::Doubtful,
                    Damage::OutsideExtended,
                    at,
                    (
                        format!("a link below {sectors} sectors"),
                        link.start.to_string(),
                    ),
                    "followed all the same",
                );
            }
            self.check_reach(next.0, at, findings);
            (this, this_sectors) = (next, u64::from(link.sectors));
        }
    }

    /// Add the partitions of one record.
    fn add_record(
        &mut self,
        record: &BootSector,
        this: Lba,
        this_sectors: u64,
        (first, sectors): (Lba, u64),
        read: &mut MbrRead,
        findings: &mut Findings,
    ) {
        let at = this.byte(self.sector_size).unwrap_or(u64::MAX);
        let mut ebr = Ebr {
            at: this,
            record: record.0,
            number: None,
            entry: MbrEntry::default(),
            start: this,
        };
        let mut kept = at.saturating_add(self.sector_size.bytes());
        for (slot, entry) in record.entries().iter().enumerate() {
            let at = at.saturating_add(446 + slot as u64 * 16 + 8);
            let container = (first, sectors);
            let Some(start) = self.data_start(entry, slot, (this, this_sectors), container) else {
                continue;
            };
            self.check_inside(start, entry, container, at, findings);
            let number = self.next_number;
            self.next_number += 1;
            if ebr.number.is_some() {
                read.table.unusual = Some("a record describes more than one partition");
                findings.add(
                    Severity::Warning,
                    Damage::EbrCrowded,
                    at,
                    ("one partition", "more"),
                    "all are read, as the Linux kernel does",
                );
            } else {
                (ebr.number, ebr.entry, ebr.start) = (Some(number), *entry, start);
                let gap_end = start.byte(self.sector_size).unwrap_or(kept);
                kept = kept.max(gap_end.min(kept.saturating_add(KEPT_BEHIND_EBR)));
            }
            let claim = Claim {
                number,
                first: start,
                sectors: u64::from(entry.sectors),
                at,
            };
            if let Some(range) = place(&claim, self.disk.size(), self.sector_size, findings) {
                read.partitions.push(partition(number, range, entry, true));
            }
        }
        read.metadata.push(at..kept);
        read.table.ebrs.push(ebr);
    }

    /// Where the partition of an entry begins, if it is the entry of one.
    fn data_start(
        &self,
        entry: &MbrEntry,
        slot: usize,
        (this, this_sectors): (Lba, u64),
        (first, sectors): (Lba, u64),
    ) -> Option<Lba> {
        if entry.sectors == 0 || entry.is_extended() {
            return None;
        }
        let start = Lba(this.0.saturating_add(u64::from(entry.start)));
        let end = start.0.saturating_add(u64::from(entry.sectors));
        let inside = start >= first && end <= first.0.saturating_add(sectors);
        let in_record = u64::from(entry.start) + u64::from(entry.sectors) <= this_sectors;
        // Some tools leave rubbish in the last two entries; the kernel takes them only where they fit
        // inside this record's part.
        (slot < 2 || (inside && in_record)).then_some(start)
    }

    fn check_inside(
        &self,
        start: Lba,
        entry: &MbrEntry,
        (first, sectors): (Lba, u64),
        at: u64,
        findings: &mut Findings,
    ) {
        let end = start.0.saturating_add(u64::from(entry.sectors));
        let limit = first.0.saturating_add(sectors);
        if start < first || end > limit {
            findings.add(
                Severity::Doubtful,
                Damage::OutsideExtended,
                at,
                (
                    format!("sectors from {} to below {limit}", first.0),
                    format!("{} to below {end}", start.0),
                ),
                "kept",
            );
        }
        self.check_reach(end, at, findings);
    }

    fn check_reach(&self, sector: u64, at: u64, findings: &mut Findings) {
        if sector > u64::from(u32::MAX) {
            findings.add(
                Severity::Warning,
                Damage::EbrBeyond32Bits,
                at,
                ("at most 4294967295", sector.to_string()),
                "kept, as the Linux kernel does",
            );
        }
    }
}

fn partition(number: u32, range: Range<u64>, entry: &MbrEntry, logical: bool) -> Partition {
    Partition {
        number,
        range,
        kind: entry.partition_kind(),
        bootable: entry.status == 0x80,
        name: None,
        guid: None,
        attributes: Attributes::default(),
        logical,
    }
}
