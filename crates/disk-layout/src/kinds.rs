//! What partitions say they are for.

use std::fmt;

use uuid::{Uuid, uuid};

/// What a partition says it is for: the type byte of an MBR entry or the type GUID of a GPT entry.
/// It says nothing certain about what the partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartitionKind {
    /// Type byte.
    Mbr(u8),
    /// Type GUID.
    Gpt(Uuid),
}

impl PartitionKind {
    /// EFI system partition.
    pub const EFI_SYSTEM: Self = Self::Gpt(uuid!("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"));
    /// BIOS boot partition, where GRUB keeps its core image.
    pub const BIOS_BOOT: Self = Self::Gpt(uuid!("21686148-6449-6E6F-744E-656564454649"));
    /// Linux file system.
    pub const LINUX: Self = Self::Gpt(uuid!("0FC63DAF-8483-4772-8E79-3D69D8477DE4"));

    /// Its usual name, if it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Mbr(byte) => name_of_byte(byte),
            Self::Gpt(guid) => GPT_NAMES
                .iter()
                .find(|(known, _)| *known == guid)
                .map(|(_, name)| *name),
        }
    }

    /// Whether it holds logical partitions: the DOS, Windows and Linux flavours of "extended".
    #[must_use]
    pub fn is_extended(self) -> bool {
        matches!(self, Self::Mbr(0x05 | 0x0F | 0x85))
    }

    /// The type GUID that says of a partition what this type byte does, if there is one.
    #[must_use]
    pub fn gpt_equivalent(self) -> Option<Uuid> {
        let Self::Mbr(byte) = self else {
            return None;
        };
        Some(match byte {
            0x01 | 0x04 | 0x06 | 0x07 | 0x0B | 0x0C | 0x0E => {
                uuid!("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7")
            }
            0x27 => uuid!("DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"),
            0x41 => uuid!("9E1A2D38-C612-4316-AA26-8B49521E5A8B"),
            0x82 => uuid!("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"),
            0x83 => uuid!("0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
            0x8E => uuid!("E6D6D379-F507-44C2-A23C-238F2A3DF928"),
            0xEA => uuid!("BC13C2FF-59E6-4262-A352-B275FD6F7172"),
            0xEF => uuid!("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
            0xFD => uuid!("A19D880F-05FC-4D3B-A006-743F0F84911E"),
            _ => return None,
        })
    }

    /// Whether it belongs to a Windows dynamic disk (LDM), whose database lies at the end of the disk
    /// or in a partition of its own.
    #[must_use]
    pub fn is_dynamic_disk(self) -> bool {
        match self {
            Self::Mbr(byte) => byte == 0x42,
            Self::Gpt(guid) => guid == LDM_METADATA || guid == LDM_DATA,
        }
    }
}

impl fmt::Display for PartitionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self) {
            (Some(name), _) => f.pad(name),
            (None, Self::Mbr(byte)) => write!(f, "type 0x{byte:02x}"),
            (None, Self::Gpt(guid)) => write!(f, "type {guid}"),
        }
    }
}

const LDM_METADATA: Uuid = uuid!("5808C8AA-7E8F-42E0-85D2-E1E90434CFB3");
const LDM_DATA: Uuid = uuid!("AF9B60A0-1431-4F62-BC68-3311714A69AD");

/// Common type bytes. There is no standard; these are what fdisk, Windows and the makers use.
fn name_of_byte(byte: u8) -> Option<&'static str> {
    Some(match byte {
        0x01 => "FAT12",
        0x04 => "FAT16 below 32 MiB",
        0x05 => "extended",
        0x06 => "FAT16",
        0x07 => "NTFS, exFAT or HPFS",
        0x0B => "FAT32",
        0x0C => "FAT32 (LBA)",
        0x0E => "FAT16 (LBA)",
        0x0F => "extended (LBA)",
        0x11 => "hidden FAT12",
        0x12 => "Compaq diagnostics",
        0x14 => "hidden FAT16 below 32 MiB",
        0x16 => "hidden FAT16",
        0x17 => "hidden NTFS",
        0x1B => "hidden FAT32",
        0x1C => "hidden FAT32 (LBA)",
        0x1E => "hidden FAT16 (LBA)",
        0x27 => "Windows recovery",
        0x39 => "Plan 9",
        0x41 => "PowerPC PReP boot",
        0x42 => "Windows dynamic disk",
        0x4D => "QNX4",
        0x63 => "GNU Hurd or System V",
        0x80 => "old Minix",
        0x81 => "Minix",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x84 => "hibernation",
        0x85 => "Linux extended",
        0x86 | 0x87 => "NTFS volume set",
        0x88 => "Linux plaintext table",
        0x8E => "Linux LVM",
        0xA0 => "hibernation",
        0xA5 => "FreeBSD",
        0xA6 => "OpenBSD",
        0xA8 => "Darwin UFS",
        0xA9 => "NetBSD",
        0xAB => "Darwin boot",
        0xAF => "HFS or HFS+",
        0xBE => "Solaris boot",
        0xBF => "Solaris",
        0xDA => "data without a file system",
        0xDE => "Dell utility",
        0xEA => "Linux extended boot",
        0xEB => "BeOS",
        0xEE => "GPT protective",
        0xEF => "EFI system",
        0xFB => "VMware VMFS",
        0xFC => "VMware core dump",
        0xFD => "Linux RAID",
        _ => return None,
    })
}

/// Common type GUIDs: [UEFI 2.10] table 5.7, the Discoverable Partitions Specification for Linux,
/// Microsoft's PARTITION_INFORMATION_GPT, and the makers' own. A test compares them with sfdisk's.
static GPT_NAMES: &[(Uuid, &str)] = &[
    (uuid!("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"), "EFI system"),
    (
        uuid!("024DEE41-33E7-11D3-9D69-0008C781F39F"),
        "MBR partition scheme",
    ),
    (uuid!("21686148-6449-6E6F-744E-656564454649"), "BIOS boot"),
    (
        uuid!("9E1A2D38-C612-4316-AA26-8B49521E5A8B"),
        "PowerPC PReP boot",
    ),
    (
        uuid!("E3C9E316-0B5C-4DB8-817D-F92DF00215AE"),
        "Microsoft reserved",
    ),
    (
        uuid!("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"),
        "Microsoft basic data",
    ),
    (LDM_METADATA, "Windows dynamic disk database"),
    (LDM_DATA, "Windows dynamic disk"),
    (
        uuid!("DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"),
        "Windows recovery",
    ),
    (
        uuid!("E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D"),
        "Microsoft Storage Spaces",
    ),
    (uuid!("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"), "Linux swap"),
    (uuid!("0FC63DAF-8483-4772-8E79-3D69D8477DE4"), "Linux"),
    (
        uuid!("3B8F8425-20E0-4F3B-907F-1A25A76F98E8"),
        "Linux server data",
    ),
    (
        uuid!("44479540-F297-41B2-9AF7-D131D5F0458A"),
        "Linux root (x86)",
    ),
    (
        uuid!("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"),
        "Linux root (x86-64)",
    ),
    (
        uuid!("69DAD710-2CE4-4E3C-B16C-21A1D49ABED3"),
        "Linux root (ARM)",
    ),
    (
        uuid!("B921B045-1DF0-41C3-AF44-4C6F280D3FAE"),
        "Linux root (ARM-64)",
    ),
    (
        uuid!("75250D76-8CC6-458E-BD66-BD47CC81A812"),
        "Linux /usr (x86)",
    ),
    (
        uuid!("8484680C-9521-48C6-9C11-B0720656F69E"),
        "Linux /usr (x86-64)",
    ),
    (uuid!("933AC7E1-2EB4-4F13-B844-0E14E2AEF915"), "Linux home"),
    (
        uuid!("4D21B016-B534-45C2-A9FB-5C16E091FD2D"),
        "Linux variable data",
    ),
    (
        uuid!("7EC6F557-3BC5-4ACA-B293-16EF5DF639D1"),
        "Linux temporary data",
    ),
    (
        uuid!("8DA63339-0007-60C0-C436-083AC8230908"),
        "Linux reserved",
    ),
    (uuid!("A19D880F-05FC-4D3B-A006-743F0F84911E"), "Linux RAID"),
    (uuid!("E6D6D379-F507-44C2-A23C-238F2A3DF928"), "Linux LVM"),
    (
        uuid!("BC13C2FF-59E6-4262-A352-B275FD6F7172"),
        "Linux extended boot",
    ),
    (
        uuid!("516E7CB4-6ECF-11D6-8FF8-00022D09712B"),
        "FreeBSD data",
    ),
    (
        uuid!("83BD6B9D-7F41-11DC-BE0B-001560B84F0F"),
        "FreeBSD boot",
    ),
    (
        uuid!("516E7CB5-6ECF-11D6-8FF8-00022D09712B"),
        "FreeBSD swap",
    ),
    (uuid!("516E7CB6-6ECF-11D6-8FF8-00022D09712B"), "FreeBSD UFS"),
    (uuid!("516E7CBA-6ECF-11D6-8FF8-00022D09712B"), "FreeBSD ZFS"),
    (uuid!("48465300-0000-11AA-AA11-00306543ECAC"), "Apple HFS+"),
    (uuid!("7C3457EF-0000-11AA-AA11-00306543ECAC"), "Apple APFS"),
    (
        uuid!("6A898CC3-1DD2-11B2-99A6-080020736631"),
        "Solaris /usr or ZFS",
    ),
    (
        uuid!("824CC7A0-36A8-11E3-890A-952519AD3F61"),
        "OpenBSD data",
    ),
    (uuid!("4FBD7E29-9D25-41B8-AFD0-062C0CEFF05D"), "Ceph OSD"),
    (uuid!("AA31E02A-400F-11DB-9590-000C2911D1B8"), "VMware VMFS"),
    (
        uuid!("9D275380-40AD-11DB-BF97-000C2911D1B8"),
        "VMware core dump",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_flavours_of_extended() {
        let extended: Vec<u8> = (0..=255)
            .filter(|byte| PartitionKind::Mbr(*byte).is_extended())
            .collect();
        assert_eq!(extended, [0x05, 0x0F, 0x85]);
    }

    #[test]
    fn no_guid_is_named_twice() {
        for (index, (guid, _)) in GPT_NAMES.iter().enumerate() {
            assert!(GPT_NAMES[..index].iter().all(|(other, _)| other != guid));
        }
    }

    #[test]
    fn every_named_guid_is_known_to_sfdisk() {
        let Ok(output) = std::process::Command::new("sfdisk")
            .args(["--list-types", "--label", "gpt"])
            .output()
        else {
            test_oracles::skip("every_named_guid_is_known_to_sfdisk", "sfdisk");
            return;
        };
        let list = String::from_utf8_lossy(&output.stdout).to_uppercase();
        for (guid, name) in GPT_NAMES {
            assert!(list.contains(&guid.to_string().to_uppercase()), "{name}");
        }
    }

    #[test]
    fn unknown_kinds_show_their_code() {
        assert_eq!(PartitionKind::Mbr(0x83).to_string(), "Linux");
        assert_eq!(PartitionKind::Mbr(0xF7).to_string(), "type 0xf7");
        assert_eq!(
            PartitionKind::Gpt(Uuid::nil()).to_string(),
            "type 00000000-0000-0000-0000-000000000000"
        );
    }
}
