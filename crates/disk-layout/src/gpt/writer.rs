//! Writing a GPT, and restoring a damaged one, as plans.

use block_io::{BlockRead, SectorSize};

use crate::bytes::array;
use crate::gpt::format::{ENTRY, GptTable, HEADER, Header, MAX_ARRAY, SIGNATURE, crc32};
use crate::lba::Lba;
use crate::mbr::format::{BOOT_SECTOR, BootSector, MbrEntry, PROTECTIVE};
use crate::patch::{Patch, PlanError, pending};
use crate::read::read_layout;

/// The patches that put `table` onto a disk of `size` bytes: both arrays, both headers, and the
/// protective MBR. `boot_sector` is the disk's present one, whose boot code, signature and hybrid
/// entries are kept; without it a bare one is made.
///
/// The backup comes first and the primary header last of the GPT's own, so that a cut in between
/// leaves one whole copy.
///
/// # Errors
/// [`PlanError`] where the table does not fit the disk or its partitions do not fit the table.
pub fn plan_gpt(
    table: &GptTable,
    boot_sector: Option<&[u8; BOOT_SECTOR]>,
    size: u64,
) -> Result<Vec<Patch>, PlanError> {
    let places = check_table(table, size)?;
    let sector_size = table.sector_size;
    let array = table.array();
    let header = |my_lba, alternate_lba, entries_lba| Header {
        revision: table.revision,
        size: (HEADER + table.header_tail.len()) as u32,
        my_lba,
        alternate_lba,
        first_usable: table.first_usable,
        last_usable: table.last_usable,
        disk_guid: table.disk_guid,
        entries_lba,
        entry_count: table.entry_count,
        entry_size: table.entry_size,
        entries_crc: crc32(&array),
        tail: table.header_tail.clone(),
    };
    let primary = header(Lba(1), table.backup_header, table.primary_array);
    let backup = header(table.backup_header, Lba(1), places.backup_array);
    let patch = |lba: Lba, bytes: Vec<u8>, what| {
        let at = lba.byte(sector_size).unwrap_or(u64::MAX);
        Patch { at, bytes, what }
    };
    Ok(vec![
        patch(places.backup_array, array.clone(), "backup GPT array"),
        patch(
            backup.my_lba,
            backup.to_sector(sector_size),
            "backup GPT header",
        ),
        patch(table.primary_array, array.clone(), "primary GPT array"),
        patch(Lba(1), primary.to_sector(sector_size), "primary GPT header"),
        patch(
            Lba(0),
            protective_mbr(boot_sector, places.sectors).0.to_vec(),
            "protective MBR",
        ),
    ])
}

/// What must be written to make both copies of the GPT of `disk` whole again, the backup at the end
/// of the disk and the protective entry as long as the disk. Empty where nothing is wrong.
///
/// # Errors
/// `NothingToRepairFrom` where neither copy is valid; others as [`plan_gpt`].
pub fn plan_gpt_repair(disk: &dyn BlockRead) -> Result<Vec<Patch>, PlanError> {
    let layout = read_layout(disk)?;
    let mut table = layout.gpt.ok_or(PlanError::NothingToRepairFrom)?;
    let old_backup = table.backup_header;
    let last = Lba((disk.size() / table.sector_size.bytes()).saturating_sub(1));
    if old_backup != last {
        table.fit_to(disk.size());
    }
    let boot_sector = layout.mbr.map(|mbr| mbr.boot_sector);
    let mut plan = plan_gpt(&table, boot_sector.as_ref(), disk.size())?;
    if old_backup != table.backup_header {
        plan.extend(wipe_header(
            disk,
            old_backup,
            table.sector_size,
            &layout.partitions,
        )?);
    }
    pending(disk, plan).map_err(PlanError::Read)
}

struct Places {
    sectors: u64,
    backup_array: Lba,
}

fn check_table(table: &GptTable, size: u64) -> Result<Places, PlanError> {
    let sector_size = table.sector_size.bytes();
    let sectors = size / sector_size;
    let bytes = u64::from(table.entry_count) * u64::from(table.entry_size);
    let whole = (ENTRY as u32..=4096).contains(&table.entry_size)
        && (1..=MAX_ARRAY).contains(&bytes)
        && HEADER + table.header_tail.len() <= sector_size as usize;
    let array = table.array_sectors();
    let backup_array = Lba(table.backup_header.0.saturating_sub(array));
    let fits = whole
        && table.primary_array >= Lba(2)
        && table.primary_array.0.saturating_add(array) <= table.first_usable.0
        && table.last_usable < backup_array
        && table.backup_header.0 < sectors;
    if !fits {
        let needed = (2 * array + 3).saturating_mul(sector_size);
        return Err(PlanError::TooSmall { size, needed });
    }
    check_entries(table)?;
    Ok(Places {
        sectors,
        backup_array,
    })
}

fn check_entries(table: &GptTable) -> Result<(), PlanError> {
    let mut sorted: Vec<_> = table.entries.iter().collect();
    sorted.sort_by_key(|entry| entry.number);
    let twice = sorted
        .windows(2)
        .find(|pair| matches!(pair, [a, b] if a.number == b.number));
    let outside = sorted
        .iter()
        .find(|entry| !(1..=table.entry_count).contains(&entry.number));
    let bad_number = twice.and_then(|pair| pair.first()).or(outside);
    if let Some(entry) = bad_number {
        return Err(PlanError::Number {
            number: entry.number,
            most: table.entry_count,
        });
    }
    sorted.sort_by_key(|entry| entry.first);
    for entry in &sorted {
        if entry.first < table.first_usable || entry.last < entry.first {
            return Err(PlanError::TooEarly {
                number: entry.number,
                expected: table.first_usable.0,
                found: entry.first.0,
            });
        }
        if entry.last > table.last_usable {
            return Err(PlanError::PastEnd {
                number: entry.number,
                limit: table.last_usable.0,
                found: entry.last.0,
            });
        }
    }
    for pair in sorted.windows(2) {
        if let [first, second] = pair
            && second.first <= first.last
        {
            return Err(PlanError::Overlap {
                first: first.number,
                second: second.number,
                at: second.first.0,
            });
        }
    }
    Ok(())
}

/// The boot sector with an entry that protects the disk. [UEFI 2.10] table 5.4.
fn protective_mbr(boot_sector: Option<&[u8; BOOT_SECTOR]>, sectors: u64) -> BootSector {
    let mut sector = BootSector(boot_sector.copied().unwrap_or([0; BOOT_SECTOR]));
    let covered = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    let entries = sector.entries();
    let slot = entries
        .iter()
        .position(|entry| entry.kind == PROTECTIVE && entry.sectors != 0);
    let hybrid = entries
        .iter()
        .any(|entry| !entry.is_empty() && entry.kind != PROTECTIVE);
    match slot {
        Some(slot) if !hybrid => {
            if let Some(entry) = entries.get(slot)
                && (entry.start, entry.sectors) != (1, covered)
            {
                sector.set_entry(
                    slot,
                    MbrEntry {
                        start: 1,
                        sectors: covered,
                        ..*entry
                    },
                );
            }
        }
        Some(_) => {}
        None => {
            for slot in 0..4 {
                sector.set_entry(slot, MbrEntry::default());
            }
            sector.set_entry(
                0,
                MbrEntry {
                    status: 0,
                    chs_first: [0x00, 0x02, 0x00],
                    kind: PROTECTIVE,
                    chs_last: [0xFF, 0xFF, 0xFF],
                    start: 1,
                    sectors: covered,
                },
            );
        }
    }
    sector.set_magic();
    sector
}

/// A backup header left behind in the middle of a grown disk would be found by tools that search;
/// it is wiped where it lies outside of every partition.
fn wipe_header(
    disk: &dyn BlockRead,
    lba: Lba,
    sector_size: SectorSize,
    partitions: &[crate::Partition],
) -> Result<Option<Patch>, PlanError> {
    let Some(at) = lba.byte(sector_size) else {
        return Ok(None);
    };
    let len = sector_size.bytes();
    let in_partition = partitions
        .iter()
        .any(|p| p.range.start < at.saturating_add(len) && at < p.range.end);
    if in_partition || block_io::check_range(disk.size(), at, len).is_err() {
        return Ok(None);
    }
    let mut sector = vec![0; len as usize];
    disk.read_at(at, &mut sector).map_err(PlanError::Read)?;
    Ok((array(&sector, 0) == Some(SIGNATURE)).then(|| Patch {
        at,
        bytes: vec![0; len as usize],
        what: "old backup GPT header",
    }))
}
