//! The new table.

use std::ops::Range;

use block_io::SectorSize;
use uuid::Uuid;

use super::place::{Placing, Spot};
use super::request::ArrangeError;
use super::{NewLayout, Placed, length};
use crate::gpt::format::{GptEntry, GptTable};
use crate::gpt::writer::plan_gpt;
use crate::kinds::PartitionKind;
use crate::layout::{Layout, TableKind};
use crate::lba::Lba;
use crate::mbr::format::{BOOT_SECTOR, MbrEntry, MbrTable};
use crate::mbr::reader::Ebr;
use crate::mbr::writer::plan_mbr;
use crate::patch::{Patch, PlanError};

/// Boot code in the boot sector; the table follows it.
const BOOT_CODE: usize = 440;

/// The table for `placing`: of this kind, in this sector size; the last number is the smallest disk.
pub(super) fn write(
    today: &Layout,
    size: u64,
    placing: Placing,
    (kind, sector_size, smallest): (TableKind, SectorSize, u64),
) -> Result<NewLayout, ArrangeError> {
    let left_out = today
        .partitions
        .iter()
        .filter(|p| {
            !placing
                .spots
                .iter()
                .any(|spot| spot.item.number == p.number)
        })
        // In a GPT nothing takes the place of an extended partition, because nothing has to.
        .filter(|p| !p.is_extended() || (placing.container.is_none() && kind == TableKind::Mbr))
        .map(|p| p.number)
        .collect();
    let mut layout = NewLayout {
        size: placing.size,
        sector_size,
        table: kind,
        parts: Vec::new(),
        left_out,
        kept: kept(today, size, &placing),
        patches: Vec::new(),
        smallest,
    };
    let unchanged = placing.size == size
        && layout.left_out.is_empty()
        && kind == today.table
        && sector_size == today.sector_size
        && placing.spots.iter().all(|spot| spot.at == spot.item.old);
    layout.parts = parts(today, kind, &placing);
    layout.patches = match kind {
        _ if unchanged => Vec::new(),
        TableKind::Mbr => mbr_patches(today, &placing, sector_size)?,
        TableKind::Gpt => gpt_patches(today, &placing, sector_size)?,
        TableKind::None | TableKind::HybridGpt | TableKind::ProtectiveOnly => Vec::new(),
    };
    Ok(layout)
}

/// What lies outside of partitions and is kept: the boot area in front of all of them, and the end of
/// a disk that keeps its size.
fn kept(today: &Layout, size: u64, placing: &Placing) -> Vec<Range<u64>> {
    if today.table == TableKind::None {
        return Vec::new();
    }
    let starts = placing.spots.iter().map(|spot| spot.at.start);
    let starts = starts.chain(placing.container.iter().map(|range| range.start));
    let first_new = starts.min().unwrap_or(placing.size);
    let ends = placing.spots.iter().map(|spot| spot.at.end);
    let last_new = ends
        .chain(placing.container.iter().map(|range| range.end))
        .max()
        .unwrap_or(0);
    let mut kept = Vec::new();
    for range in &today.metadata {
        if range.start == 0 {
            let first_old = today.partitions.iter().map(|p| p.range.start).min();
            let end = range.end.min(first_new).min(first_old.unwrap_or(u64::MAX));
            kept.push(0..end.min(placing.size));
        } else if range.end == size && placing.size == size && today.gpt.is_none() {
            let last_old = today.partitions.iter().map(|p| p.range.end).max();
            let start = range.start.max(last_new).max(last_old.unwrap_or(0));
            if start < size {
                kept.push(start..size);
            }
        }
    }
    kept
}

fn parts(today: &Layout, kind: TableKind, placing: &Placing) -> Vec<Placed> {
    let new_kind = |number: u32| {
        let old = today
            .partition(number)
            .map_or(PartitionKind::Mbr(0), |p| p.kind);
        match (kind, old) {
            (TableKind::Gpt, PartitionKind::Mbr(byte)) => PartitionKind::Gpt(guid_for(byte)),
            (_, old) => old,
        }
    };
    let mut numbers = LogicalNumbers::of(today, placing, kind);
    let mut parts = Vec::new();
    for spot in &placing.spots {
        if spot.item.logical && !parts.iter().any(|part: &Placed| part.extended) {
            parts.extend(container_part(today, placing));
        }
        parts.push(Placed {
            number: spot.item.number,
            new_number: numbers.new_number(spot),
            old: spot.item.old.clone(),
            new: spot.at.clone(),
            kind: new_kind(spot.item.number),
            extended: false,
        });
    }
    if !parts.iter().any(|part| part.extended) {
        parts.extend(container_part(today, placing));
        parts.sort_by_key(|part| part.new.start);
    }
    parts
}

fn container_part(today: &Layout, placing: &Placing) -> Option<Placed> {
    let range = placing.container.clone()?;
    let extended = today.partitions.iter().find(|p| p.is_extended())?;
    Some(Placed {
        number: extended.number,
        new_number: extended.number,
        old: extended.range.clone(),
        new: range,
        kind: extended.kind,
        extended: true,
    })
}

/// Logical partitions are counted along the chain of their records, whose order is today's.
struct LogicalNumbers {
    chain: Vec<u32>,
}

impl LogicalNumbers {
    fn of(today: &Layout, placing: &Placing, kind: TableKind) -> Self {
        let mut chain = Vec::new();
        if kind == TableKind::Mbr {
            let logical = |number: &u32| {
                placing
                    .spots
                    .iter()
                    .any(|spot| spot.item.logical && spot.item.number == *number)
            };
            let ebrs = today.mbr.iter().flat_map(|mbr| &mbr.ebrs);
            chain = ebrs.filter_map(|ebr| ebr.number).filter(logical).collect();
        }
        Self { chain }
    }

    fn new_number(&mut self, spot: &Spot) -> u32 {
        let place = self
            .chain
            .iter()
            .position(|number| *number == spot.item.number);
        match (spot.item.logical, place) {
            (true, Some(place)) => 5 + place as u32,
            _ => spot.item.number,
        }
    }
}

fn mbr_patches(
    today: &Layout,
    placing: &Placing,
    sector_size: SectorSize,
) -> Result<Vec<Patch>, ArrangeError> {
    let Some(old) = &today.mbr else {
        return Ok(Vec::new());
    };
    let mut table = MbrTable {
        boot_sector: old.boot_sector,
        entries: [MbrEntry::default(); 4],
        ebrs: Vec::new(),
        unusual: old.unusual,
    };
    let container = placing.container.clone().and_then(|range| {
        let extended = today.partitions.iter().find(|p| p.is_extended())?;
        Some((extended.number, range))
    });
    let primaries = placing.spots.iter().filter(|spot| !spot.item.logical);
    let places = primaries.map(|spot| (spot.item.number, spot.at.clone()));
    for (number, at) in places.chain(container.clone()) {
        let slot = number.wrapping_sub(1) as usize;
        if let (Some(new), Some(old)) = (table.entries.get_mut(slot), old.entries.get(slot)) {
            let (start, sectors) = sectors_of(number, &at, sector_size)?;
            *new = MbrEntry {
                start,
                sectors,
                ..*old
            };
        }
    }
    if let Some((_, range)) = container {
        table.ebrs = chain(old, placing, range.start, sector_size);
    }
    Ok(plan_mbr(&table, placing.size, sector_size)?)
}

fn sectors_of(
    number: u32,
    at: &Range<u64>,
    sector_size: SectorSize,
) -> Result<(u32, u32), PlanError> {
    let narrow = |bytes: u64| {
        let found = bytes / sector_size.bytes();
        u32::try_from(found).map_err(|_| PlanError::Beyond32Bits { number, found })
    };
    Ok((narrow(at.start)?, narrow(length(at))?))
}

/// The chain of records, in the order it has today, the first at the start of the container.
fn chain(old: &MbrTable, placing: &Placing, start: u64, sector_size: SectorSize) -> Vec<Ebr> {
    let spot_of = |number: u32| {
        placing
            .spots
            .iter()
            .find(|s| s.item.logical && s.item.number == number)
    };
    let kept: Vec<(&Ebr, &Spot)> = old
        .ebrs
        .iter()
        .filter_map(|ebr| Some((ebr, spot_of(ebr.number?)?)))
        .collect();
    let mut chain: Vec<Ebr> = Vec::new();
    for (index, (ebr, spot)) in kept.iter().enumerate() {
        let at = spot.record.unwrap_or(start);
        chain.push(Ebr {
            at: Lba::holding(at, sector_size),
            record: ebr.record,
            number: Some(5 + index as u32),
            entry: MbrEntry {
                sectors: u32::try_from(length(&spot.at) / sector_size.bytes()).unwrap_or(u32::MAX),
                ..ebr.entry
            },
            start: Lba::holding(spot.at.start, sector_size),
        });
    }
    if let (true, Some(first)) = (chain.is_empty(), old.ebrs.first()) {
        chain.push(Ebr {
            at: Lba::holding(start, sector_size),
            record: first.record,
            number: None,
            entry: MbrEntry::default(),
            start: Lba::holding(start, sector_size),
        });
    }
    chain
}

fn gpt_patches(
    today: &Layout,
    placing: &Placing,
    sector_size: SectorSize,
) -> Result<Vec<Patch>, ArrangeError> {
    let mut table = match &today.gpt {
        Some(gpt) => gpt_in(gpt, sector_size, placing.size),
        None => GptTable::new(guid_from(today, 0), placing.size, sector_size),
    };
    table.entries = placing
        .spots
        .iter()
        .map(|spot| entry(today, spot, sector_size))
        .collect();
    let boot_sector = today.mbr.as_ref().map(|mbr| match today.table {
        // Of an MBR that becomes a protective one, the boot code and the signature are kept.
        TableKind::Mbr => {
            let mut sector = [0; BOOT_SECTOR];
            let kept = BOOT_CODE + 6;
            if let (Some(to), Some(from)) = (sector.get_mut(..kept), mbr.boot_sector.get(..kept)) {
                to.copy_from_slice(from);
            }
            sector
        }
        _ => mbr.boot_sector,
    });
    Ok(plan_gpt(&table, boot_sector.as_ref(), placing.size)?)
}

fn entry(today: &Layout, spot: &Spot, sector_size: SectorSize) -> GptEntry {
    let number = spot.item.number;
    let first = Lba::holding(spot.at.start, sector_size);
    let last = Lba(Lba::holding(spot.at.end, sector_size).0.saturating_sub(1));
    if let Some(old) = today.gpt.as_ref().and_then(|gpt| gpt.entry(number)) {
        return GptEntry {
            first,
            last,
            ..old.clone()
        };
    }
    let byte = match today.partition(number).map(|p| p.kind) {
        Some(PartitionKind::Mbr(byte)) => byte,
        _ => 0x83,
    };
    GptEntry {
        number,
        kind: guid_for(byte),
        guid: guid_from(today, number),
        first,
        last,
        attributes: crate::Attributes::default(),
        name_units: [0; crate::gpt::format::NAME],
        tail: Vec::new(),
    }
}

/// `gpt` for a disk of `size` bytes, in `sector_size`.
fn gpt_in(gpt: &GptTable, sector_size: SectorSize, size: u64) -> GptTable {
    let mut table = gpt.clone();
    if table.sector_size != sector_size {
        table.sector_size = sector_size;
        table.primary_array = Lba(2);
        table.header_tail = Vec::new();
        table.first_usable = Lba(2 + table.array_sectors());
    }
    table.fit_to(size);
    table
}

/// The first byte behind the primary GPT.
pub(super) fn gpt_head(today: &Layout, sector_size: SectorSize) -> u64 {
    let table = sized(today, sector_size);
    table.first_usable.byte(sector_size).unwrap_or(u64::MAX)
}

/// Bytes of the backup GPT.
pub(super) fn gpt_tail(today: &Layout, sector_size: SectorSize) -> u64 {
    (sized(today, sector_size).array_sectors() + 1) * sector_size.bytes()
}

fn sized(today: &Layout, sector_size: SectorSize) -> GptTable {
    match &today.gpt {
        Some(gpt) => gpt_in(gpt, sector_size, 1 << 30),
        None => GptTable::new(Uuid::nil(), 1 << 30, sector_size),
    }
}

/// The type GUID for a type byte. What has none of its own becomes Linux data: nothing starts, formats
/// or repairs such a partition unasked.
#[must_use]
fn guid_for(byte: u8) -> Uuid {
    let PartitionKind::Gpt(linux) = PartitionKind::LINUX else {
        return Uuid::nil();
    };
    PartitionKind::Mbr(byte).gpt_equivalent().unwrap_or(linux)
}

/// A GUID that follows from the disk: a conversion that is repeated makes the same one. Version 8 of
/// [RFC 9562] 5.8: a value of our own making.
fn guid_from(today: &Layout, number: u32) -> Uuid {
    let mut text = format!("p2v GPT {number}");
    for partition in &today.partitions {
        text.push_str(&format!(" {} {:?}", partition.number, partition.range));
    }
    let boot_sector = today.mbr.iter().flat_map(|mbr| mbr.boot_sector);
    let bytes = text.bytes().chain(boot_sector);
    // FNV-1a, 128 bits: spreads well, and nothing here has to be hard to guess.
    let hash = bytes.fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128,
        |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        },
    );
    uuid::Builder::from_u128(hash)
        .with_variant(uuid::Variant::RFC4122)
        .with_version(uuid::Version::Custom)
        .into_uuid()
}
