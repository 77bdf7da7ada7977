//! What the bytes of a GPT mean. No I/O. [UEFI 2.10] 5.3.

use block_io::SectorSize;
use uuid::Uuid;

use crate::bytes::{array, le32, le64, put};
use crate::lba::Lba;

/// "EFI PART".
pub(crate) const SIGNATURE: [u8; 8] = *b"EFI PART";
/// Bytes of the header that mean something. [UEFI 2.10] table 5.5.
pub(crate) const HEADER: usize = 92;
/// Bytes of an entry that mean something. [UEFI 2.10] table 5.6.
pub(crate) const ENTRY: usize = 128;
/// The longest array we read or write: 32,768 entries of the usual 128 bytes. A table may claim 2^32
/// entries of 2^32 bytes.
pub(crate) const MAX_ARRAY: u64 = 4 << 20;
/// UTF-16 units of a name.
pub(crate) const NAME: usize = 36;

/// The fields of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// u32 at 8.
    pub(crate) revision: u32,
    /// u32 at 12: bytes covered by the header's checksum.
    pub(crate) size: u32,
    /// u64 at 24.
    pub(crate) my_lba: Lba,
    /// u64 at 32.
    pub(crate) alternate_lba: Lba,
    /// u64 at 40.
    pub(crate) first_usable: Lba,
    /// u64 at 48.
    pub(crate) last_usable: Lba,
    /// 16 bytes at 56.
    pub(crate) disk_guid: Uuid,
    /// u64 at 72.
    pub(crate) entries_lba: Lba,
    /// u32 at 80.
    pub(crate) entry_count: u32,
    /// u32 at 84.
    pub(crate) entry_size: u32,
    /// u32 at 88.
    pub(crate) entries_crc: u32,
    /// From 92 to `size`: nobody's yet.
    pub(crate) tail: Vec<u8>,
}

/// Why the bytes of a sector are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// Not the signature.
    Signature,
    /// The size of the header is below 92 or above a sector.
    Size(u32),
    /// The checksum says otherwise.
    Checksum { stated: u32, actual: u32 },
}

impl Header {
    /// The header in `sector`, if its signature, size and checksum are right.
    pub(crate) fn parse(sector: &[u8]) -> Result<Self, HeaderFault> {
        if array(sector, 0) != Some(SIGNATURE) {
            return Err(HeaderFault::Signature);
        }
        let size = le32(sector, 12);
        let covered = match sector.get(..size as usize) {
            Some(covered) if covered.len() >= HEADER => covered,
            _ => return Err(HeaderFault::Size(size)),
        };
        let mut without = covered.to_vec();
        put(&mut without, 16, &[0; 4]);
        let (stated, actual) = (le32(sector, 16), crc32(&without));
        if stated != actual {
            return Err(HeaderFault::Checksum { stated, actual });
        }
        Ok(Self {
            revision: le32(sector, 8),
            size,
            my_lba: Lba(le64(sector, 24)),
            alternate_lba: Lba(le64(sector, 32)),
            first_usable: Lba(le64(sector, 40)),
            last_usable: Lba(le64(sector, 48)),
            disk_guid: Uuid::from_bytes_le(array(sector, 56).unwrap_or_default()),
            entries_lba: Lba(le64(sector, 72)),
            entry_count: le32(sector, 80),
            entry_size: le32(sector, 84),
            entries_crc: le32(sector, 88),
            tail: covered.get(HEADER..).unwrap_or_default().to_vec(),
        })
    }

    /// A whole sector with this header and its checksum.
    pub(crate) fn to_sector(&self, sector_size: SectorSize) -> Vec<u8> {
        let mut sector = vec![0; sector_size.bytes() as usize];
        put(&mut sector, 0, &SIGNATURE);
        put(&mut sector, 8, &self.revision.to_le_bytes());
        put(&mut sector, 12, &self.size.to_le_bytes());
        put(&mut sector, 24, &self.my_lba.0.to_le_bytes());
        put(&mut sector, 32, &self.alternate_lba.0.to_le_bytes());
        put(&mut sector, 40, &self.first_usable.0.to_le_bytes());
        put(&mut sector, 48, &self.last_usable.0.to_le_bytes());
        put(&mut sector, 56, &self.disk_guid.to_bytes_le());
        put(&mut sector, 72, &self.entries_lba.0.to_le_bytes());
        put(&mut sector, 80, &self.entry_count.to_le_bytes());
        put(&mut sector, 84, &self.entry_size.to_le_bytes());
        put(&mut sector, 88, &self.entries_crc.to_le_bytes());
        put(&mut sector, HEADER, &self.tail);
        let covered = sector.get(..self.size as usize).unwrap_or(&sector);
        let crc = crc32(covered);
        put(&mut sector, 16, &crc.to_le_bytes());
        sector
    }
}

/// Attribute bits of a GPT entry. [UEFI 2.10] table 5.8; bits 48 to 63 belong to the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(pub u64);

impl Attributes {
    /// Bit 0: the platform needs this partition.
    #[must_use]
    pub fn required(self) -> bool {
        self.0 & 1 != 0
    }

    /// Bit 2: a legacy BIOS may boot from it.
    #[must_use]
    pub fn legacy_bootable(self) -> bool {
        self.0 & 4 != 0
    }
}

/// One used entry of a GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptEntry {
    /// Its number: its place in the array, from 1.
    pub number: u32,
    /// 16 bytes at 0: type GUID.
    pub kind: Uuid,
    /// 16 bytes at 16: unique GUID.
    pub guid: Uuid,
    /// u64 at 32: first sector.
    pub first: Lba,
    /// u64 at 40: last sector, part of it.
    pub last: Lba,
    /// u64 at 48.
    pub attributes: Attributes,
    /// 72 bytes at 56: name in UTF-16LE, up to the first 0.
    pub name_units: [u16; NAME],
    /// From 128 to the entry size: nobody's yet.
    pub tail: Vec<u8>,
}

impl GptEntry {
    /// The entry at `number`, or `None` where the type GUID is zero: unused.
    pub(crate) fn parse(number: u32, bytes: &[u8]) -> Option<Self> {
        let kind = Uuid::from_bytes_le(array(bytes, 0)?);
        if kind.is_nil() {
            return None;
        }
        Some(Self {
            number,
            kind,
            guid: Uuid::from_bytes_le(array(bytes, 16)?),
            first: Lba(le64(bytes, 32)),
            last: Lba(le64(bytes, 40)),
            attributes: Attributes(le64(bytes, 48)),
            name_units: std::array::from_fn(|unit| {
                array(bytes, 56 + unit * 2).map_or(0, u16::from_le_bytes)
            }),
            tail: bytes.get(ENTRY..)?.to_vec(),
        })
    }

    pub(crate) fn write_to(&self, bytes: &mut [u8]) {
        put(bytes, 0, &self.kind.to_bytes_le());
        put(bytes, 16, &self.guid.to_bytes_le());
        put(bytes, 32, &self.first.0.to_le_bytes());
        put(bytes, 40, &self.last.0.to_le_bytes());
        put(bytes, 48, &self.attributes.0.to_le_bytes());
        for (unit, value) in self.name_units.iter().enumerate() {
            put(bytes, 56 + unit * 2, &value.to_le_bytes());
        }
        put(bytes, ENTRY, &self.tail);
    }

    /// The name as text; what is not UTF-16 becomes U+FFFD.
    #[must_use]
    pub fn name(&self) -> String {
        let units = self
            .name_units
            .iter()
            .copied()
            .take_while(|unit| *unit != 0);
        char::decode_utf16(units)
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    }

    /// Set the name, cut where it is longer than the 36 units there are room for.
    pub fn set_name(&mut self, name: &str) {
        self.name_units = [0; NAME];
        let mut room = self.name_units.iter_mut();
        for character in name.chars() {
            let mut units = [0; 2];
            let units = character.encode_utf16(&mut units);
            // Half a surrogate pair is no character.
            if units.len() > room.len() {
                return;
            }
            for (unit, place) in units.iter().zip(room.by_ref()) {
                *place = *unit;
            }
        }
    }
}

/// A GPT as it is written, from the copy that was believed.
///
/// To change it: edit it, then [`crate::plan_gpt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptTable {
    /// The sector size it counts in.
    pub sector_size: SectorSize,
    /// Revision, 0x00010000 in every table so far.
    pub revision: u32,
    /// The disk's GUID.
    pub disk_guid: Uuid,
    /// The first sector a partition may begin at.
    pub first_usable: Lba,
    /// The last sector a partition may end at.
    pub last_usable: Lba,
    /// Where the primary array begins (2 nearly everywhere).
    pub primary_array: Lba,
    /// Where the backup header lies.
    pub backup_header: Lba,
    /// Bytes of an entry, 128 nearly everywhere.
    pub entry_size: u32,
    /// Entries of the array, used or not.
    pub entry_count: u32,
    /// The used entries by number.
    pub entries: Vec<GptEntry>,
    /// Bytes of the header behind the known ones.
    pub header_tail: Vec<u8>,
}

impl GptTable {
    /// An empty table of 128 entries for a disk of `size` bytes.
    #[must_use]
    pub fn new(disk_guid: Uuid, size: u64, sector_size: SectorSize) -> Self {
        let mut table = Self {
            sector_size,
            revision: 0x0001_0000,
            disk_guid,
            first_usable: Lba(0),
            last_usable: Lba(0),
            primary_array: Lba(2),
            backup_header: Lba(0),
            entry_size: ENTRY as u32,
            entry_count: 128,
            entries: Vec::new(),
            header_tail: Vec::new(),
        };
        table.first_usable = Lba(2 + table.array_sectors());
        table.fit_to(size);
        table
    }

    /// Sectors an array takes.
    #[must_use]
    pub fn array_sectors(&self) -> u64 {
        let bytes = u64::from(self.entry_count) * u64::from(self.entry_size);
        bytes.div_ceil(self.sector_size.bytes())
    }

    /// Put the backup at the end of a disk of `size` bytes and the last usable sector in front of it.
    /// Partitions stay where they are; [`crate::plan_gpt`] says when one no longer fits.
    pub fn fit_to(&mut self, size: u64) {
        let sectors = size / self.sector_size.bytes();
        self.backup_header = Lba(sectors.saturating_sub(1));
        self.last_usable = Lba(sectors.saturating_sub(2 + self.array_sectors()));
    }

    /// The entry with this number.
    #[must_use]
    pub fn entry(&self, number: u32) -> Option<&GptEntry> {
        self.entries.iter().find(|entry| entry.number == number)
    }

    /// The bytes of the array. Callers have checked the bounds of count and size.
    pub(crate) fn array(&self) -> Vec<u8> {
        let size = self.entry_size as usize;
        let mut array = vec![0; self.entry_count as usize * size];
        for entry in &self.entries {
            let place = (entry.number as usize).saturating_sub(1) * size;
            if let Some(bytes) = array.get_mut(place..place + size) {
                entry.write_to(bytes);
            }
        }
        array
    }
}

/// CRC-32 as GPT has it: polynomial 0x04C11DB7, reflected, as in Ethernet. [UEFI 2.10] 5.3.2.
///
/// A table of a megabyte at most is summed once a disk: 256 words of table are speed enough, and
/// spare a dependency.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !crc32_step(!0, bytes)
}

/// The register of that sum, `crc` before `bytes`, after them.
pub(crate) fn crc32_step(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        let index = (crc as u8) ^ byte;
        (crc >> 8) ^ CRC_TABLE[usize::from(index)]
    })
}

static CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc_32() {
        // The catalogue's check value for CRC-32/ISO-HDLC.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn an_entry_keeps_every_byte() {
        let bytes: Vec<u8> = (0..256).map(|i| (i * 7 + 1) as u8).collect();
        let entry = GptEntry::parse(3, &bytes).unwrap();
        let mut back = vec![0; 256];
        entry.write_to(&mut back);
        assert_eq!(back, bytes);
    }

    #[test]
    fn names_are_cut_between_characters() {
        let mut entry = GptEntry::parse(1, &[1; 128]).unwrap();
        entry.set_name("Größe ☃ 🦀");
        assert_eq!(entry.name(), "Größe ☃ 🦀");
        entry.set_name(&"🦀".repeat(30));
        assert_eq!(entry.name(), "🦀".repeat(18));
        entry.set_name(&format!("x{}", "🦀".repeat(30)));
        assert_eq!(entry.name(), format!("x{}", "🦀".repeat(17)));
    }
}
