//! Reads what stands before the blocks: headers, region tables, metadata.

use std::sync::Arc;

use block_io::BlockRead;

use super::format::{
    Guid, HAS_PARENT, HEADER_LEN, HEADER_OFFSETS, Header, ITEM_FILE_PARAMETERS,
    ITEM_LOGICAL_SECTOR, ITEM_PARENT_LOCATOR, ITEM_VIRTUAL_SIZE, LEAVE_BLOCKS_ALLOCATED,
    MAX_METADATA, MAX_REGIONS, MAX_VIRTUAL_SIZE, META_REQUIRED, METADATA_TABLE_LEN, MIB,
    REGION_BAT, REGION_METADATA, REGION_TABLE_LEN, REGION_TABLE_OFFSETS, SIGNATURE, checksum,
};
use super::log::replay;
use super::rules;
use crate::bytes::{le16, le32, le64};
use crate::error::{ParseError, require};
use crate::finding::{Finding, Severity};

/// A metadata item that is read has at most this many bytes. // [MS-VHDX] 2.6.1.2
const MAX_ITEM: u64 = MIB;
/// The type of parent locator that VHDX files use. // [MS-VHDX] 2.6.2.6.1
const LOCATOR_TYPE: Guid = Guid::new(0xB04A_EFB7, 0xD19E, 0x4A81, 0xB789_25B8_E944_5913);

/// What stands before the blocks, checked.
pub(crate) struct Metadata {
    /// The file with its log replayed.
    pub(crate) file: Arc<dyn BlockRead>,
    pub(crate) data_write: Guid,
    pub(crate) bat_offset: u64,
    pub(crate) bat_len: u64,
    pub(crate) block_size: u64,
    pub(crate) fixed: bool,
    pub(crate) virtual_size: u64,
    pub(crate) logical_sector: u64,
    pub(crate) parent: Option<ParentLocator>,
    pub(crate) notes: Vec<Finding>,
}

/// Which file lies below.
#[derive(Debug, Clone, Default)]
pub(crate) struct ParentLocator {
    /// Its data write GUID, once or twice, with braces as the file spells them.
    pub(crate) linkage: Vec<String>,
    /// Where it may be, best first.
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Region {
    offset: u64,
    len: u64,
}

/// Read and check everything before the blocks of `file`.
pub(crate) fn read_metadata(file: &Arc<dyn BlockRead>) -> Result<Metadata, ParseError> {
    let mut signature = [0; 8];
    let there = file.size().min(8) as usize;
    file.read_at(0, &mut signature[..there])?;
    require(
        signature == *SIGNATURE,
        rules::SIGNATURE,
        0,
        "vhdxfile",
        "other bytes",
    )?;
    let mut notes = Vec::new();
    let header = read_header(file, &mut notes)?;
    let file = match replay(file, &header)? {
        Some((replayed, finding)) => {
            notes.push(finding);
            replayed
        }
        None => Arc::clone(file),
    };
    let (bat, metadata) = read_regions(&file)?;
    let mut read = Metadata {
        file,
        data_write: header.data_write,
        bat_offset: bat.offset,
        bat_len: bat.len,
        block_size: 0,
        fixed: false,
        virtual_size: 0,
        logical_sector: 0,
        parent: None,
        notes,
    };
    read_items(metadata, &mut read)?;
    Ok(read)
}

// [MS-VHDX] 2.2.2
fn read_header(file: &dyn BlockRead, notes: &mut Vec<Finding>) -> Result<Header, ParseError> {
    let mut valid = Vec::new();
    for offset in HEADER_OFFSETS {
        let mut bytes = [0; HEADER_LEN];
        if file.size() >= offset + HEADER_LEN as u64 {
            file.read_at(offset, &mut bytes)?;
        }
        match Header::parse(&bytes) {
            Some(header) => valid.push(header),
            None => {
                let finding = Finding::error(rules::HEADER_LOST, offset, "a header", "none");
                notes.push(finding.with(Severity::Warning));
            }
        }
    }
    let Some(header) = valid.into_iter().max_by_key(|header| header.sequence) else {
        let found = "no valid one at 64 KiB or 128 KiB".to_owned();
        return Err(Finding::error(rules::HEADERS, HEADER_OFFSETS[0], "a header", found).into());
    };
    let place = HEADER_OFFSETS[0];
    let right = header.version == 1 && header.log_version == 0;
    let found = format!("{} and {}", header.version, header.log_version);
    require(right, rules::VERSION, place + 64, "1 and 0", found)?;
    let len = u64::from(header.log_len);
    let lies = len.is_multiple_of(MIB)
        && header.log_offset.is_multiple_of(MIB)
        && header.log_offset >= MIB
        && header
            .log_offset
            .checked_add(len)
            .is_some_and(|end| end <= file.size());
    // An empty log need not be anywhere.
    let found = format!("{len} bytes at {}", header.log_offset);
    require(
        lies || header.log.is_nil(),
        rules::LOG_PLACE,
        place + 68,
        "whole MiB inside the file",
        found,
    )?;
    Ok(header)
}

// [MS-VHDX] 2.2.3
fn read_regions(file: &dyn BlockRead) -> Result<(Region, Region), ParseError> {
    let mut table = vec![0; REGION_TABLE_LEN];
    let mut place = None;
    for offset in REGION_TABLE_OFFSETS {
        if file.size() < offset + REGION_TABLE_LEN as u64 {
            continue;
        }
        file.read_at(offset, &mut table)?;
        let valid = table.starts_with(b"regi") && le32(&table, 4) == checksum(&table, 4);
        if valid && le32(&table, 8) <= MAX_REGIONS {
            place = Some(offset);
            break;
        }
    }
    let Some(place) = place else {
        let found = "no valid one at 192 KiB or 256 KiB".to_owned();
        let expected = "a region table";
        return Err(Finding::error(
            rules::REGION_TABLES,
            REGION_TABLE_OFFSETS[0],
            expected,
            found,
        )
        .into());
    };
    let (mut bat, mut metadata) = (None, None);
    let mut seen: Vec<Region> = Vec::new();
    for index in 0..le32(&table, 8) as usize {
        let at = 16 + index * 32;
        let id = Guid::at(&table, at);
        let region = Region {
            offset: le64(&table, at + 16),
            len: u64::from(le32(&table, at + 24)),
        };
        let end = region.offset.checked_add(region.len);
        let lies = region.offset >= MIB
            && region.offset.is_multiple_of(MIB)
            && region.len.is_multiple_of(MIB)
            && end.is_some_and(|end| end <= file.size());
        let apart = seen.iter().all(|other| {
            other.offset + other.len <= region.offset || end.is_some_and(|end| end <= other.offset)
        });
        let found = format!("{} bytes at {}", region.len, region.offset);
        require(
            lies && apart,
            rules::REGION_PLACE,
            place + at as u64,
            "whole MiB inside the file, apart",
            found,
        )?;
        seen.push(region);
        match id {
            REGION_BAT => bat = Some(region),
            REGION_METADATA => metadata = Some(region),
            _ if le32(&table, at + 28) & 1 != 0 => return Err(unknown("region", id)),
            _ => {}
        }
    }
    match (bat, metadata) {
        (Some(bat), Some(metadata)) => Ok((bat, metadata)),
        _ => Err(Finding::error(rules::REGION_MISSING, place, "both", "not both").into()),
    }
}

fn unknown(what: &str, id: Guid) -> ParseError {
    ParseError::Unsupported {
        feature: format!("the required {what} {id}"),
        hint: "convert it with the program that wrote it",
    }
}

// [MS-VHDX] 2.6
fn read_items(region: Region, read: &mut Metadata) -> Result<(), ParseError> {
    let place = region.offset;
    let mut table = vec![0; METADATA_TABLE_LEN];
    // A region is at least 1 MiB long: its length is a multiple of that, and not 0 if this succeeds.
    require(
        region.len >= MIB,
        rules::METADATA_TABLE,
        place,
        "1 MiB or more",
        region.len,
    )?;
    read.file.read_at(place, &mut table)?;
    let count = le16(&table, 10);
    let right = table.starts_with(b"metadata") && count <= MAX_METADATA;
    require(
        right,
        rules::METADATA_TABLE,
        place,
        "metadata, at most 2047 entries",
        count,
    )?;
    let (mut parameters, mut size, mut sector, mut locator) = (None, None, None, None);
    for index in 0..usize::from(count) {
        let at = 32 + index * 32;
        let id = Guid::at(&table, at);
        let (offset, len) = (
            u64::from(le32(&table, at + 16)),
            u64::from(le32(&table, at + 20)),
        );
        let required = le32(&table, at + 24) & META_REQUIRED != 0;
        let slot = match id {
            ITEM_FILE_PARAMETERS => &mut parameters,
            ITEM_VIRTUAL_SIZE => &mut size,
            ITEM_LOGICAL_SECTOR => &mut sector,
            ITEM_PARENT_LOCATOR => &mut locator,
            super::format::ITEM_DISK_ID | super::format::ITEM_PHYSICAL_SECTOR => continue,
            _ if required => return Err(unknown("metadata item", id)),
            _ => continue,
        };
        let lies =
            offset >= METADATA_TABLE_LEN as u64 && len <= MAX_ITEM && offset + len <= region.len;
        let found = format!("{len} bytes at {offset}");
        require(
            lies,
            rules::METADATA_ITEM,
            place + at as u64,
            "behind the table, inside the region",
            found,
        )?;
        let mut value = vec![0; len as usize];
        read.file.read_at(place + offset, &mut value)?;
        *slot = Some(value);
    }
    let whole = |item: Option<Vec<u8>>, len: usize| item.filter(|item| item.len() >= len);
    let items = (whole(parameters, 8), whole(size, 8), whole(sector, 4));
    let (Some(parameters), Some(size), Some(sector)) = items else {
        return Err(Finding::error(rules::METADATA_MISSING, place, "all three", "not all").into());
    };
    read.block_size = u64::from(le32(&parameters, 0));
    let flags = le32(&parameters, 4);
    read.fixed = flags & LEAVE_BLOCKS_ALLOCATED != 0;
    read.virtual_size = le64(&size, 0);
    read.logical_sector = u64::from(le32(&sector, 0));
    check_items(place, read)?;
    if flags & HAS_PARENT != 0 {
        read.parent = Some(parse_locator(&locator.unwrap_or_default(), place)?);
    }
    Ok(())
}

fn check_items(place: u64, read: &Metadata) -> Result<(), ParseError> {
    let block = read.block_size;
    let right = block.is_power_of_two() && (MIB..=256 * MIB).contains(&block);
    require(
        right,
        rules::BLOCK_SIZE,
        place,
        "a power of two from 1 to 256 MiB",
        block,
    )?;
    let sector = read.logical_sector;
    require(
        matches!(sector, 512 | 4096),
        rules::SECTOR_SIZE,
        place,
        "512 or 4096",
        sector,
    )?;
    let size = read.virtual_size;
    let right = size.is_multiple_of(sector) && size <= MAX_VIRTUAL_SIZE;
    require(
        right,
        rules::VIRTUAL_SIZE,
        place,
        format!("a multiple of {sector}"),
        size,
    )?;
    Ok(())
}

// [MS-VHDX] 2.6.2.6
fn parse_locator(bytes: &[u8], place: u64) -> Result<ParentLocator, ParseError> {
    let known = bytes.len() >= 20 && Guid::at(bytes, 0) == LOCATOR_TYPE;
    require(
        known,
        rules::PARENT_LOCATOR,
        place,
        LOCATOR_TYPE.to_string(),
        "another, or none",
    )?;
    let mut locator = ParentLocator::default();
    let mut paths = [None, None, None];
    for index in 0..usize::from(le16(bytes, 18)) {
        let Some(entry) = bytes.get(20 + index * 12..32 + index * 12) else {
            break;
        };
        let text = |offset: u32, len: u16| {
            let start = offset as usize;
            let bytes = bytes.get(start..start.checked_add(usize::from(len))?)?;
            let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| le16(pair, 0)).collect();
            Some(String::from_utf16_lossy(&units))
        };
        let key = text(le32(entry, 0), le16(entry, 8));
        let value = text(le32(entry, 4), le16(entry, 10));
        let (Some(key), Some(value)) = (key, value) else {
            let found = "a key or value outside the item".to_owned();
            return Err(
                Finding::error(rules::PARENT_LOCATOR, place, "keys and values", found).into(),
            );
        };
        match key.as_str() {
            "parent_linkage" | "parent_linkage2" => locator.linkage.push(value),
            "relative_path" => paths[0] = Some(value),
            "absolute_win32_path" => paths[1] = Some(value),
            "volume_path" => paths[2] = Some(value),
            _ => {}
        }
    }
    locator.paths = paths.into_iter().flatten().collect();
    let named = !locator.paths.is_empty();
    require(named, rules::PARENT_LOCATOR, place, "a path", "none")?;
    Ok(locator)
}
