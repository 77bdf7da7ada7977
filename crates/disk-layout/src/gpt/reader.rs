//! Reading a GPT: both copies, and which one to believe.

use std::collections::HashSet;
use std::ops::Range;

use block_io::{BlockRead, SectorSize};

use crate::finding::{Damage, Findings, Severity};
use crate::gpt::format::{ENTRY, GptEntry, GptTable, Header, HeaderFault, MAX_ARRAY, crc32};
use crate::kinds::PartitionKind;
use crate::layout::{LayoutError, Partition};
use crate::lba::Lba;
use crate::read::{Claim, place, read_or_bad};

/// A GPT that was read.
pub(crate) struct GptRead {
    pub(crate) table: GptTable,
    /// The primary copy is not valid.
    pub(crate) from_backup: bool,
    /// Where headers and arrays were found, in bytes.
    pub(crate) metadata: Vec<Range<u64>>,
}

/// One copy whose checksums are right.
struct Copy {
    header: Header,
    array: Vec<u8>,
    ranges: [Range<u64>; 2],
}

/// What is wrong with a copy.
struct Fault {
    what: Damage,
    at: u64,
    expected: String,
    found: String,
}

/// Read the GPT of `disk`, taking its sectors for `sector_size` bytes. `None` where neither copy is
/// valid; `findings` then say what was wrong with both.
pub(crate) fn read_gpt(
    disk: &dyn BlockRead,
    sector_size: SectorSize,
    findings: &mut Findings,
) -> Result<Option<GptRead>, LayoutError> {
    let sectors = disk.size() / sector_size.bytes();
    let last = Lba(sectors.saturating_sub(1));
    let primary = load(disk, sector_size, Lba(1))?;
    let backup = match &primary {
        Ok(copy) => {
            let named = load(disk, sector_size, copy.header.alternate_lba)?;
            match named {
                Err(fault) if copy.header.alternate_lba != last => {
                    load(disk, sector_size, last)?.or(Err(fault))
                }
                named => named,
            }
        }
        Err(_) => load(disk, sector_size, last)?,
    };
    Ok(match (primary, backup) {
        (Ok(primary), backup) => {
            check_backup(&primary, &backup, last, sector_size, findings);
            let mut metadata = primary.ranges.to_vec();
            metadata.extend(backup.into_iter().flat_map(|copy| copy.ranges));
            Some(GptRead {
                table: table_of(&primary, false, sector_size),
                from_backup: false,
                metadata,
            })
        }
        (Err(fault), Ok(backup)) => {
            add_fault(
                findings,
                Severity::Doubtful,
                fault,
                "the backup GPT is used; `sgdisk` or a repair plan can restore the primary one",
            );
            Some(GptRead {
                table: table_of(&backup, true, sector_size),
                from_backup: true,
                metadata: backup.ranges.to_vec(),
            })
        }
        (Err(primary), Err(backup)) => {
            add_fault(findings, Severity::Doubtful, primary, "not used");
            add_fault(findings, Severity::Doubtful, backup, "not used");
            None
        }
    })
}

/// The partitions of a table, each checked against the disk.
pub(crate) fn partitions_of(
    table: &GptTable,
    size: u64,
    findings: &mut Findings,
) -> Vec<Partition> {
    let mut guids = HashSet::new();
    let array = table.primary_array.byte(table.sector_size).unwrap_or(0);
    let mut partitions = Vec::new();
    for entry in &table.entries {
        let index = u64::from(entry.number).saturating_sub(1);
        let at = array.saturating_add(index * u64::from(table.entry_size));
        if !guids.insert(entry.guid) {
            findings.add(
                Severity::Warning,
                Damage::GuidTwice,
                at + 16,
                ("a GUID of its own", entry.guid.to_string()),
                "kept",
            );
        }
        if !check_entry(entry, table, at, findings) {
            continue;
        }
        let claim = Claim {
            number: entry.number,
            first: entry.first,
            sectors: (entry.last.0 - entry.first.0).saturating_add(1),
            at: at + 32,
        };
        let Some(range) = place(&claim, size, table.sector_size, findings) else {
            continue;
        };
        let name = entry.name();
        partitions.push(Partition {
            number: entry.number,
            range,
            kind: PartitionKind::Gpt(entry.kind),
            bootable: entry.attributes.legacy_bootable(),
            name: (!name.is_empty()).then_some(name),
            guid: Some(entry.guid),
            attributes: entry.attributes,
            logical: false,
        });
    }
    partitions
}

/// Whether the entry at byte `at` of the disk can be a partition.
fn check_entry(entry: &GptEntry, table: &GptTable, at: u64, findings: &mut Findings) -> bool {
    if entry.last < entry.first {
        findings.add(
            Severity::Doubtful,
            Damage::Reversed,
            at + 32,
            (format!("at least {}", entry.first), entry.last.to_string()),
            format!("partition {} left out", entry.number),
        );
        return false;
    }
    if entry.first < table.first_usable || entry.last > table.last_usable {
        findings.add(
            Severity::Warning,
            Damage::OutsideUsable,
            at + 32,
            (
                format!(
                    "sectors {} to {}",
                    table.first_usable.0, table.last_usable.0
                ),
                format!("{} to {}", entry.first.0, entry.last.0),
            ),
            "kept",
        );
    }
    true
}

/// Load the copy whose header lies at `lba`, and check everything about it.
/// [UEFI 2.10] 5.3.2: signature, header checksum, own address, array checksum.
fn load(
    disk: &dyn BlockRead,
    sector_size: SectorSize,
    lba: Lba,
) -> Result<Result<Copy, Fault>, LayoutError> {
    let at = lba.byte(sector_size).unwrap_or(u64::MAX);
    let sector = read_or_bad(disk, at, sector_size.bytes(), "a GPT header")?;
    let header = match load_header(sector, at, sector_size, lba) {
        Ok(header) => header,
        Err(fault) => return Ok(Err(fault)),
    };
    let start = header.entries_lba.byte(sector_size).unwrap_or(u64::MAX);
    let len = u64::from(header.entry_count) * u64::from(header.entry_size);
    let bytes = read_or_bad(disk, start, len, "the GPT partition array")?;
    let array = match bytes {
        Some(array) if crc32(&array) == header.entries_crc => array,
        other => {
            let found = other.map_or("unreadable sectors".into(), |array| {
                format!("0x{:08x}", crc32(&array))
            });
            return Ok(Err(Fault {
                what: Damage::GptArrayChecksum,
                at: start,
                expected: format!("0x{:08x}", header.entries_crc),
                found,
            }));
        }
    };
    Ok(Ok(Copy {
        header,
        array,
        ranges: [at..at + sector_size.bytes(), start..start + len],
    }))
}

fn load_header(
    sector: Option<Vec<u8>>,
    at: u64,
    sector_size: SectorSize,
    lba: Lba,
) -> Result<Header, Fault> {
    let fault = |what, at, expected: String, found: String| Fault {
        what,
        at,
        expected,
        found,
    };
    let sector = sector.ok_or_else(|| {
        let expected = "a readable sector".into();
        fault(Damage::GptHeaderMissing, at, expected, "none".into())
    })?;
    let header = Header::parse(&sector).map_err(|wrong| match wrong {
        HeaderFault::Signature => fault(
            Damage::GptHeaderMissing,
            at,
            "\"EFI PART\"".into(),
            format!("{:02x?}", sector.get(..8).unwrap_or_default()),
        ),
        HeaderFault::Size(size) => fault(
            Damage::GptHeaderField,
            at + 12,
            format!("a header of 92 to {} bytes", sector_size.bytes()),
            size.to_string(),
        ),
        HeaderFault::Checksum { stated, actual } => fault(
            Damage::GptHeaderChecksum,
            at + 16,
            format!("0x{actual:08x}"),
            format!("0x{stated:08x}"),
        ),
    })?;
    check_fields(&header, lba).map_err(|(field, expected, found)| {
        fault(Damage::GptHeaderField, at + field, expected, found)
    })?;
    Ok(header)
}

/// Check the fields of a header against each other and their bounds: the offset of a bad one, what
/// was expected and what is there.
fn check_fields(header: &Header, lba: Lba) -> Result<(), (u64, String, String)> {
    if header.my_lba != lba {
        return Err((24, lba.to_string(), header.my_lba.to_string()));
    }
    if header.entries_lba <= Lba(1) {
        return Err((
            72,
            "sector 2 or more".into(),
            header.entries_lba.to_string(),
        ));
    }
    // [UEFI 2.10] table 5.5 wants 128 times a power of two; any multiple of 8 that holds an entry can
    // be read as well.
    if header.entry_size < ENTRY as u32 || !header.entry_size.is_multiple_of(8) {
        let expected = "entries of 128 bytes or a multiple".into();
        return Err((84, expected, header.entry_size.to_string()));
    }
    let array = u64::from(header.entry_count) * u64::from(header.entry_size);
    if array == 0 || array > MAX_ARRAY {
        let expected = format!("1 to {MAX_ARRAY} bytes of entries");
        return Err((80, expected, array.to_string()));
    }
    Ok(())
}

/// Compare the backup with the primary copy, which is believed.
fn check_backup(
    primary: &Copy,
    backup: &Result<Copy, Fault>,
    last: Lba,
    sector_size: SectorSize,
    findings: &mut Findings,
) {
    let byte = |lba: Lba| lba.byte(sector_size).unwrap_or(u64::MAX);
    match backup {
        Ok(backup) => {
            if backup.header.my_lba != last {
                findings.add(
                    Severity::Warning,
                    Damage::GptBackupPlace,
                    byte(backup.header.my_lba),
                    (last.to_string(), backup.header.my_lba.to_string()),
                    "kept; the disk has grown since the table was written",
                );
            }
            let same = primary.array == backup.array
                && primary.header.disk_guid == backup.header.disk_guid
                && primary.header.first_usable == backup.header.first_usable
                && primary.header.last_usable == backup.header.last_usable;
            if !same {
                findings.add(
                    Severity::Doubtful,
                    Damage::GptCopiesDiffer,
                    byte(backup.header.my_lba),
                    ("a copy of the primary GPT", "another table"),
                    "the primary GPT is used",
                );
            }
        }
        Err(fault) => findings.add(
            Severity::Warning,
            fault.what,
            fault.at,
            (fault.expected.clone(), fault.found.clone()),
            "the primary GPT is valid and used; the backup can be made anew",
        ),
    }
}

fn add_fault(findings: &mut Findings, severity: Severity, fault: Fault, done: &str) {
    findings.add(
        severity,
        fault.what,
        fault.at,
        (fault.expected, fault.found),
        done,
    );
}

fn table_of(copy: &Copy, is_backup: bool, sector_size: SectorSize) -> GptTable {
    let header = &copy.header;
    let entries = copy
        .array
        .chunks_exact(header.entry_size as usize)
        .zip(1..)
        .filter_map(|(bytes, number)| GptEntry::parse(number, bytes))
        .collect();
    GptTable {
        sector_size,
        revision: header.revision,
        disk_guid: header.disk_guid,
        first_usable: header.first_usable,
        last_usable: header.last_usable,
        // A backup does not say where the primary array was. [UEFI 2.10] 5.3.2: it begins at 2.
        primary_array: if is_backup {
            Lba(2)
        } else {
            header.entries_lba
        },
        backup_header: if is_backup {
            header.my_lba
        } else {
            header.alternate_lba
        },
        entry_size: header.entry_size,
        entry_count: header.entry_count,
        entries,
        header_tail: header.tail.clone(),
    }
}
