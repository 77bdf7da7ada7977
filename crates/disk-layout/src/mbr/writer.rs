//! Writing an MBR and its chain of extended boot records, as a plan.

use block_io::SectorSize;

use crate::lba::Lba;
use crate::mbr::format::{BootSector, MbrEntry, MbrTable};
use crate::mbr::reader::Ebr;
use crate::patch::{Patch, PlanError};

/// The patches that put `table` onto a disk of `size` bytes: extended boot records from the last to
/// the first, then the boot sector with its boot code and signature as they are.
///
/// Addresses as cylinder, head and sector are kept where the entry did not move, and made for 255
/// heads and 63 sectors where it did, as all tools do today.
///
/// # Errors
/// [`PlanError`] where partitions overlap, do not fit the disk, or do not fit 32 bits; `Chain` where
/// the chain that was read is too unusual to be written back.
pub fn plan_mbr(
    table: &MbrTable,
    size: u64,
    sector_size: SectorSize,
) -> Result<Vec<Patch>, PlanError> {
    if let Some(why) = table.unusual {
        return Err(PlanError::Chain { why });
    }
    check_primaries(table, size / sector_size.bytes())?;
    let mut plan = Vec::new();
    if !table.ebrs.is_empty() {
        let container = table
            .extended_slot()
            .and_then(|slot| table.entries.get(slot));
        let Some(container) = container else {
            let why = "there are logical partitions and no extended one";
            return Err(PlanError::Chain { why });
        };
        check_chain(table, container)?;
        let start = u64::from(container.start);
        let following = table.ebrs.iter().skip(1).map(Some).chain([None]);
        for (ebr, next) in table.ebrs.iter().zip(following) {
            plan.push(Patch {
                at: byte_of(ebr.at, sector_size, size)?,
                bytes: record_of(ebr, next, start)?.0.to_vec(),
                what: "extended boot record",
            });
        }
        plan.reverse();
    }
    let mut sector = BootSector(table.boot_sector);
    for (slot, (old, new)) in sector.entries().iter().zip(table.entries).enumerate() {
        sector.set_entry(slot, with_chs(old, new, u64::from(new.start)));
    }
    sector.set_magic();
    plan.push(Patch {
        at: 0,
        bytes: sector.0.to_vec(),
        what: "MBR",
    });
    Ok(plan)
}

fn byte_of(lba: Lba, sector_size: SectorSize, size: u64) -> Result<u64, PlanError> {
    lba.byte(sector_size)
        .filter(|at| *at < size)
        .ok_or(PlanError::TooSmall {
            size,
            needed: lba.0.saturating_add(1).saturating_mul(sector_size.bytes()),
        })
}

/// A claim of sectors: number, first, first behind it.
type Span = (u32, u64, u64);

fn check_primaries(table: &MbrTable, sectors: u64) -> Result<(), PlanError> {
    let mut spans: Vec<Span> = Vec::new();
    for (number, entry) in (1..).zip(&table.entries) {
        if entry.is_empty() {
            continue;
        }
        let start = u64::from(entry.start);
        let end = start + u64::from(entry.sectors);
        if end > sectors {
            return Err(PlanError::PastEnd {
                number,
                limit: sectors.saturating_sub(1),
                found: end - 1,
            });
        }
        if start == 0 {
            return Err(PlanError::TooEarly {
                number,
                expected: 1,
                found: 0,
            });
        }
        spans.push((number, start, end));
    }
    check_apart(spans)
}

/// The chain lies in the container, in any order on the disk, and nothing of it overlaps.
fn check_chain(table: &MbrTable, container: &MbrEntry) -> Result<(), PlanError> {
    let start = u64::from(container.start);
    let end = start + u64::from(container.sectors);
    if table.ebrs.first().is_some_and(|ebr| ebr.at.0 != start) {
        let why = "its first record does not lie at the start of the extended partition";
        return Err(PlanError::Chain { why });
    }
    let mut spans: Vec<Span> = Vec::new();
    let mut expected = 5;
    for ebr in &table.ebrs {
        let number = ebr.number.unwrap_or(expected);
        if number != expected {
            let most = expected;
            return Err(PlanError::Number { number, most });
        }
        spans.push((number, ebr.at.0, ebr.at.0.saturating_add(1)));
        let mut reach = ebr.at.0.saturating_add(1);
        if ebr.number.is_some() {
            expected += 1;
            let sectors = u64::from(ebr.entry.sectors);
            reach = ebr.start.0.saturating_add(sectors);
            spans.push((number, ebr.start.0, reach));
        }
        let begin = ebr.at.0.min(ebr.start.0);
        if begin < start {
            return Err(PlanError::TooEarly {
                number,
                expected: start,
                found: begin,
            });
        }
        if reach > end {
            return Err(PlanError::PastEnd {
                number,
                limit: end.saturating_sub(1),
                found: reach.saturating_sub(1),
            });
        }
    }
    check_apart(spans)
}

fn check_apart(mut spans: Vec<Span>) -> Result<(), PlanError> {
    spans.sort_by_key(|(_, start, _)| *start);
    for pair in spans.windows(2) {
        if let [(first, _, end), (second, start, _)] = *pair
            && start < end
        {
            return Err(PlanError::Overlap {
                first,
                second,
                at: start,
            });
        }
    }
    Ok(())
}

/// The record of `ebr`, linked to `next`, in an extended partition that begins at `container`.
fn record_of(ebr: &Ebr, next: Option<&Ebr>, container: u64) -> Result<BootSector, PlanError> {
    let mut record = BootSector(ebr.record);
    let old = record.entries();
    let is_data = |entry: &MbrEntry| entry.sectors != 0 && !entry.is_extended();
    let is_link = |entry: &MbrEntry| entry.sectors != 0 && entry.is_extended();
    // Data first and link second, unless the record already has them the other way round.
    let link_slot = old.iter().position(is_link).unwrap_or(1);
    let data_slot = old
        .iter()
        .position(is_data)
        .unwrap_or(usize::from(link_slot == 0));
    let number = ebr.number.unwrap_or(0);
    let narrow = |value: u64| {
        u32::try_from(value).map_err(|_| PlanError::Beyond32Bits {
            number,
            found: value,
        })
    };
    let data = match ebr.number {
        None => MbrEntry::default(),
        Some(_) => MbrEntry {
            start: narrow(ebr.start.0.wrapping_sub(ebr.at.0))?,
            ..ebr.entry
        },
    };
    let link = match next {
        None => MbrEntry::default(),
        Some(next) => {
            let end = next.start.0.saturating_add(u64::from(next.entry.sectors));
            let kept = old.get(link_slot).filter(|entry| is_link(entry)).copied();
            let start = narrow(next.at.0.wrapping_sub(container))?;
            let kept = kept.unwrap_or(MbrEntry {
                kind: 0x05,
                ..MbrEntry::default()
            });
            // How long a link says the next part is differs between tools, and none relies on it:
            // kept unless the next part moved or outgrew it.
            let needed = narrow(end.max(next.at.0 + 1) - next.at.0)?;
            let sectors = if kept.start == start && kept.sectors >= needed {
                kept.sectors
            } else {
                needed
            };
            MbrEntry {
                start,
                sectors,
                ..kept
            }
        }
    };
    let at = |slot: usize| old.get(slot).copied().unwrap_or_default();
    record.set_entry(data_slot, with_chs(&at(data_slot), data, ebr.start.0));
    let link_at = next.map_or(0, |next| next.at.0);
    record.set_entry(link_slot, with_chs(&at(link_slot), link, link_at));
    record.set_magic();
    Ok(record)
}

/// `new` with the addresses of `old` where both lie at the same place, otherwise with ones made for
/// `start`, its first sector on the disk.
fn with_chs(old: &MbrEntry, new: MbrEntry, start: u64) -> MbrEntry {
    if (old.start, old.sectors) == (new.start, new.sectors) {
        return new;
    }
    if new.is_empty() {
        return MbrEntry::default();
    }
    MbrEntry {
        chs_first: chs(start),
        chs_last: chs(start.saturating_add(u64::from(new.sectors)) - 1),
        ..new
    }
}

/// Head, sector and cylinder of a sector on a disk of 255 heads and 63 sectors; the highest address
/// for what lies behind cylinder 1023.
fn chs(sector: u64) -> [u8; 3] {
    let (cylinder, rest) = (sector / (255 * 63), sector % (255 * 63));
    if cylinder > 1023 {
        return [0xFE, 0xFF, 0xFF];
    }
    let (head, in_track) = (rest / 63, rest % 63 + 1);
    let high = ((cylinder >> 8) as u8) << 6;
    [head as u8, in_track as u8 | high, cylinder as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cylinder_head_and_sector_of_known_places() {
        assert_eq!(chs(0), [0, 1, 0]);
        assert_eq!(chs(63), [1, 1, 0]);
        assert_eq!(chs(2048), [0x20, 0x21, 0x00]);
        assert_eq!(chs(255 * 63 * 1024 - 1), [254, 0xFF, 0xFF]);
        assert_eq!(chs(255 * 63 * 1024), [0xFE, 0xFF, 0xFF]);
    }
}
