//! What the bytes of an MBR mean. No I/O.
//!
//! There is no standard; [UEFI 2.10] 5.2.1 describes the boot sector, and for the chain of extended
//! boot records the Linux kernel's numbering is the reference.

use crate::bytes::{array, le32, put};
use crate::kinds::PartitionKind;
use crate::mbr::reader::Ebr;

/// Bytes of a boot sector, whatever the sector size of the disk.
pub(crate) const BOOT_SECTOR: usize = 512;
/// Disk signature, u32 at 440.
const DISK_SIGNATURE: usize = 440;
/// Four entries of 16 bytes from 446.
const TABLE: usize = 446;
const ENTRY: usize = 16;
/// 0x55 0xAA at 510.
const MAGIC: usize = 510;
/// Type byte of a protective entry. [UEFI 2.10] 5.2.3.
pub(crate) const PROTECTIVE: u8 = 0xEE;

/// One entry of an MBR or an extended boot record, as its 16 bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MbrEntry {
    /// Byte 0: 0x80 active, 0x00 not.
    pub status: u8,
    /// Bytes 1 to 3: first sector as cylinder, head, sector.
    pub chs_first: [u8; 3],
    /// Byte 4: type.
    pub kind: u8,
    /// Bytes 5 to 7: last sector as cylinder, head, sector.
    pub chs_last: [u8; 3],
    /// Bytes 8 to 11: first sector. Relative to the record it stands in, or for a link to the
    /// extended partition.
    pub start: u32,
    /// Bytes 12 to 15: number of sectors.
    pub sectors: u32,
}

impl MbrEntry {
    pub(crate) fn parse(bytes: &[u8; ENTRY]) -> Self {
        let [status, h, s, c, kind, h2, s2, c2, ..] = *bytes;
        Self {
            status,
            chs_first: [h, s, c],
            kind,
            chs_last: [h2, s2, c2],
            start: le32(bytes, 8),
            sectors: le32(bytes, 12),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        put(&mut bytes, 0, &[self.status]);
        put(&mut bytes, 1, &self.chs_first);
        put(&mut bytes, 4, &[self.kind]);
        put(&mut bytes, 5, &self.chs_last);
        put(&mut bytes, 8, &self.start.to_le_bytes());
        put(&mut bytes, 12, &self.sectors.to_le_bytes());
        bytes
    }

    /// An entry that describes nothing: no sectors, as the Linux kernel has it, or no type.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sectors == 0 || self.kind == 0
    }

    /// Its type.
    #[must_use]
    pub fn partition_kind(&self) -> PartitionKind {
        PartitionKind::Mbr(self.kind)
    }

    pub(crate) fn is_extended(&self) -> bool {
        self.partition_kind().is_extended()
    }

    /// Whether the status byte is one that tables have; boot sectors of file systems have code there.
    pub(crate) fn is_plausible(&self) -> bool {
        matches!(self.status, 0x00 | 0x80)
    }
}

/// The 512 bytes of a boot sector or an extended boot record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BootSector(pub(crate) [u8; BOOT_SECTOR]);

impl BootSector {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        array(bytes, 0).map(Self)
    }

    pub(crate) fn has_magic(&self) -> bool {
        array(&self.0, MAGIC) == Some([0x55, 0xAA])
    }

    pub(crate) fn signature(&self) -> u32 {
        le32(&self.0, DISK_SIGNATURE)
    }

    pub(crate) fn entries(&self) -> [MbrEntry; 4] {
        std::array::from_fn(|slot| {
            array(&self.0, TABLE + slot * ENTRY)
                .map_or(MbrEntry::default(), |b| MbrEntry::parse(&b))
        })
    }

    pub(crate) fn set_entry(&mut self, slot: usize, entry: MbrEntry) {
        if slot < 4 {
            put(&mut self.0, TABLE + slot * ENTRY, &entry.to_bytes());
        }
    }

    pub(crate) fn set_magic(&mut self) {
        put(&mut self.0, MAGIC, &[0x55, 0xAA]);
    }

    /// Whether this is the boot sector of a FAT or NTFS volume: a jump, and a parameter block that
    /// makes sense. A table may still stand in it (GRUB keeps the block when it installs itself), so
    /// this counts only where the entries say nothing.
    ///
    /// [MS-FATGEN] "Boot Sector and BPB": BS_jmpBoot at 0, BPB_BytsPerSec at 11, BPB_SecPerClus at 13,
    /// BPB_NumFATs at 16 (0 for NTFS), BPB_Media at 21.
    pub(crate) fn is_volume_boot_sector(&self) -> bool {
        let [jump, _, no_op, ..] = self.0;
        let jumps = jump == 0xE9 || (jump == 0xEB && no_op == 0x90);
        let bytes_per_sector = array(&self.0, 11).map_or(0, u16::from_le_bytes);
        let media = self.0[21];
        // [exFAT specification] 3.1.2: FileSystemName at 3, the parameter block zeroed.
        if jumps && array(&self.0, 3) == Some(*b"EXFAT   ") {
            return true;
        }
        jumps
            && bytes_per_sector.is_power_of_two()
            && (512..=4096).contains(&bytes_per_sector)
            && self.0[13] != 0
            && (media == 0xF0 || media >= 0xF8)
    }
}

/// An MBR with its chain of extended boot records, as it is written.
///
/// To change it: edit [`MbrTable::entries`] and [`MbrTable::ebrs`], then [`crate::plan_mbr`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MbrTable {
    /// The boot sector as it was read: boot code, disk signature and all.
    pub boot_sector: [u8; BOOT_SECTOR],
    /// The four primary entries.
    pub entries: [MbrEntry; 4],
    /// The extended boot records in the order of the chain.
    pub ebrs: Vec<Ebr>,
    /// Why the chain cannot be written back, if it is unusual.
    pub unusual: Option<&'static str>,
}

impl MbrTable {
    /// An MBR without boot code, with this disk signature and no partitions.
    #[must_use]
    pub fn new(disk_signature: u32) -> Self {
        let mut sector = BootSector([0; BOOT_SECTOR]);
        put(&mut sector.0, DISK_SIGNATURE, &disk_signature.to_le_bytes());
        sector.set_magic();
        Self {
            boot_sector: sector.0,
            entries: [MbrEntry::default(); 4],
            ebrs: Vec::new(),
            unusual: None,
        }
    }

    /// The disk signature.
    #[must_use]
    pub fn disk_signature(&self) -> u32 {
        BootSector(self.boot_sector).signature()
    }

    /// The slot of the extended partition, from 0.
    #[must_use]
    pub fn extended_slot(&self) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.is_extended() && !entry.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_every_byte() {
        let bytes: [u8; 16] = std::array::from_fn(|i| i as u8 + 1);
        let entry = MbrEntry::parse(&bytes);
        assert_eq!(entry.start, 0x0C0B_0A09);
        assert_eq!(entry.to_bytes(), bytes);
    }

    #[test]
    fn a_new_table_has_its_signature_and_the_magic() {
        let table = MbrTable::new(0x1234_5678);
        assert_eq!(table.disk_signature(), 0x1234_5678);
        assert!(BootSector(table.boot_sector).has_magic());
        assert_eq!(table.boot_sector[440..444], [0x78, 0x56, 0x34, 0x12]);
    }
}
