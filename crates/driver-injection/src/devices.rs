//! Which volume a device name means, and the name that will still mean it in the VM.
//!
//! `/dev/sda2` is a promise of the old machine's controllers; the VM's disk is `vda`. UUIDs are in the
//! bytes and move with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hardware::SourceHardware;

/// Number of a disk of the guest, from 0.
pub type DiskIndex = usize;

/// Number of a volume of the guest, in the order they were given to [`crate::Guest::assemble`].
pub type VolumeIndex = usize;

/// What is known of a volume besides its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// The disk it lies on; `None` for a logical volume over several.
    pub disk: Option<DiskIndex>,
    /// Its number in the partition table; `None` for a whole disk or a logical volume.
    pub partition: Option<u32>,
    /// Identifier of the partition: GPT's GUID, or `signature-number` for MBR.
    pub partuuid: Option<String>,
    /// Name of the partition in a GPT.
    pub partlabel: Option<String>,
    /// UUID of what it holds: file system, swap space, LUKS container.
    pub uuid: Option<String>,
    /// Label of what it holds.
    pub label: Option<String>,
    /// What it holds: `ext4`, `vfat`, `swap`, `crypto_LUKS`; empty when unknown.
    pub kind: String,
    /// Names that stay with it on any machine, below `/dev`: `mapper/vg-root`, `vg/root`, `md/0`.
    #[serde(default)]
    pub lasting_names: Vec<String>,
}

impl DeviceFacts {
    /// A short description for messages: `disk 1 partition 2 (ext4, UUID …)`.
    #[must_use]
    pub fn describe(&self) -> String {
        let place = match (self.disk, self.partition, self.lasting_names.first()) {
            (_, _, Some(name)) => format!("/dev/{name}"),
            (Some(disk), Some(partition), None) => format!("disk {disk} partition {partition}"),
            (Some(disk), None, None) => format!("disk {disk}"),
            (None, ..) => "a volume".to_owned(),
        };
        let kind = if self.kind.is_empty() {
            "unknown contents"
        } else {
            &self.kind
        };
        match &self.uuid {
            Some(uuid) => format!("{place} ({kind}, UUID {uuid})"),
            None => format!("{place} ({kind})"),
        }
    }
}

/// What a device name in a configuration file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// This volume, by a name that only the old machine gives.
    Fleeting(VolumeIndex),
    /// This volume, by a name that moves with it.
    Lasting(VolumeIndex),
    /// A whole disk of the guest, by a name that only the old machine gives.
    Disk(DiskIndex),
    /// No volume that is here: another disk, or one that is gone.
    Absent,
    /// Not a disk at all: `tmpfs`, `server:/export`, `/dev/cdrom`.
    NotADisk,
}

/// Knows what device names mean.
#[derive(Debug, Clone)]
pub struct DeviceNames {
    volumes: Vec<DeviceFacts>,
    /// Name of a whole disk below `/dev` → its index.
    disks: BTreeMap<String, DiskIndex>,
    disk_count: usize,
    /// Whether the source told its disks' names.
    told: bool,
}

impl DeviceNames {
    /// Names for these volumes of that machine.
    #[must_use]
    pub fn new(volumes: Vec<DeviceFacts>, source: &SourceHardware) -> Self {
        let mut disks = BTreeMap::new();
        for (index, disk) in source.disks.iter().enumerate() {
            for name in disk.name.iter().chain(&disk.links) {
                disks.insert(name.trim_start_matches("/dev/").to_owned(), index);
            }
        }
        let seen = volumes.iter().filter_map(|volume| volume.disk).max();
        let disk_count = source
            .disks
            .len()
            .max(seen.map_or(0, |highest| highest + 1));
        Self {
            told: !disks.is_empty(),
            volumes,
            disks,
            disk_count,
        }
    }

    /// Learn from a line known to mean `volume` what the old machine called its disk. Does nothing
    /// when the machine itself told.
    pub fn learn(&mut self, reference: &str, volume: VolumeIndex) {
        let Some(name) = reference.strip_prefix("/dev/") else {
            return;
        };
        let facts = self.volumes.get(volume);
        let (Some(disk), Some(number)) = (
            facts.and_then(|facts| facts.disk),
            facts.and_then(|facts| facts.partition),
        ) else {
            return;
        };
        if let Some((whole, partition)) = split_partition(name)
            && !self.told
            && partition == number
        {
            self.disks.entry(whole.to_owned()).or_insert(disk);
        }
    }

    /// The volumes.
    #[must_use]
    pub fn volumes(&self) -> &[DeviceFacts] {
        &self.volumes
    }

    /// What `reference` means: `/dev/…`, `UUID=…`, `LABEL=…`, `PARTUUID=…`, `PARTLABEL=…`, quoted or
    /// not.
    #[must_use]
    pub fn meaning(&self, reference: &str) -> Meaning {
        let reference = reference.trim_matches(['"', '\'']);
        if let Some((tag, value)) = reference.split_once('=') {
            return self.tagged(tag, value.trim_matches(['"', '\'']));
        }
        let Some(name) = reference.strip_prefix("/dev/") else {
            return Meaning::NotADisk;
        };
        if let Some((by, value)) = name
            .strip_prefix("disk/by-")
            .and_then(|rest| rest.split_once('/'))
            && matches!(by, "uuid" | "label" | "partuuid" | "partlabel")
        {
            return self.tagged(&by.to_ascii_uppercase(), &unescape_hex(value));
        }
        let lasting = |facts: &DeviceFacts| facts.lasting_names.iter().any(|known| known == name);
        if let Some(index) = self.volumes.iter().position(lasting) {
            return Meaning::Lasting(index);
        }
        self.named(name)
    }

    /// A reference that means `volume` on every machine: its UUID, or its partition's where it has
    /// none or shares it with another.
    #[must_use]
    pub fn lasting_reference(&self, volume: VolumeIndex) -> Option<String> {
        let facts = self.volumes.get(volume)?;
        let unique = |uuid: &&String| {
            let same = |other: &&DeviceFacts| other.uuid.as_ref() == Some(*uuid);
            self.volumes.iter().filter(same).count() == 1
        };
        let uuid = facts.uuid.as_ref().filter(|uuid| is_plain(uuid));
        match uuid.filter(unique) {
            Some(uuid) => Some(format!("UUID={uuid}")),
            None => self.partition_reference(volume),
        }
    }

    /// As [`DeviceNames::lasting_reference`], for a kernel that mounts its root without an
    /// initramfs: it knows only partitions' identifiers.
    #[must_use]
    pub fn partition_reference(&self, volume: VolumeIndex) -> Option<String> {
        let partuuid = self.volumes.get(volume)?.partuuid.as_ref();
        partuuid
            .filter(|partuuid| is_plain(partuuid))
            .map(|partuuid| format!("PARTUUID={partuuid}"))
    }

    /// The link below `/dev` that means `volume` on every machine with udev.
    #[must_use]
    pub fn lasting_path(&self, volume: VolumeIndex) -> Option<String> {
        let reference = self.lasting_reference(volume)?;
        let (tag, value) = reference.split_once('=')?;
        Some(format!("/dev/disk/by-{}/{value}", tag.to_ascii_lowercase()))
    }

    fn tagged(&self, tag: &str, value: &str) -> Meaning {
        let same = |known: &Option<String>, fold: bool| match known {
            Some(known) if fold => known.eq_ignore_ascii_case(value),
            Some(known) => known == value,
            None => false,
        };
        let matches = |facts: &DeviceFacts| match tag {
            "UUID" => same(&facts.uuid, true),
            "LABEL" => same(&facts.label, false),
            "PARTUUID" => same(&facts.partuuid, true),
            "PARTLABEL" => same(&facts.partlabel, false),
            _ => false,
        };
        if !matches!(tag, "UUID" | "LABEL" | "PARTUUID" | "PARTLABEL") {
            return Meaning::NotADisk;
        }
        match self.volumes.iter().position(matches) {
            Some(index) => Meaning::Lasting(index),
            None => Meaning::Absent,
        }
    }

    /// A name only the old machine gives.
    fn named(&self, name: &str) -> Meaning {
        if let Some(disk) = self.disk_named(name) {
            let whole = |facts: &DeviceFacts| facts.disk == Some(disk) && facts.partition.is_none();
            return match self.volumes.iter().position(whole) {
                Some(volume) => Meaning::Fleeting(volume),
                None => Meaning::Disk(disk),
            };
        }
        let Some((whole, number)) = split_partition(name) else {
            return if is_disk_name(name) {
                Meaning::Absent
            } else {
                Meaning::NotADisk
            };
        };
        let Some(disk) = self.disk_named(whole) else {
            return Meaning::Absent;
        };
        let here =
            |facts: &DeviceFacts| facts.disk == Some(disk) && facts.partition == Some(number);
        match self.volumes.iter().position(here) {
            Some(volume) => Meaning::Fleeting(volume),
            None => Meaning::Absent,
        }
    }

    /// The disk with that name. When the machine did not tell, and nothing was learnt: the disks in
    /// the order of their letters.
    fn disk_named(&self, name: &str) -> Option<DiskIndex> {
        if let Some(disk) = self.disks.get(name) {
            return Some(*disk);
        }
        let guess = ordinal_of(name)?;
        let taken = self.disks.values().any(|disk| *disk == guess);
        (!self.told && !taken && guess < self.disk_count).then_some(guess)
    }
}

/// Split a partition's name into the disk's name and the number: `sda2`, `nvme0n1p2`,
/// `cciss/c0d0p2`, `disk/by-id/ata-X-part2`.
fn split_partition(name: &str) -> Option<(&str, u32)> {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (stem, number) = name.split_at(name.len() - digits);
    let number = number.parse().ok().filter(|number| *number > 0)?;
    let whole = if name.starts_with("disk/by-") {
        stem.strip_suffix("-part")?
    } else if let Some(disk) = stem
        .strip_suffix('p')
        .filter(|disk| disk.ends_with(|c: char| c.is_ascii_digit()))
    {
        disk
    } else {
        // A disk's own name may end in digits (nvme0n1, c0d0): then the number is not a partition's.
        Some(stem).filter(|stem| has_letter_disk_name(stem))?
    };
    Some((whole, number))
}

/// `sda`, `hdb`, `xvdc`, `vdaa`, `ubdb`: a prefix and letters that count.
fn has_letter_disk_name(name: &str) -> bool {
    letters_of(name).is_some()
}

fn letters_of(name: &str) -> Option<&str> {
    let letters = ["xvd", "ubd", "sd", "hd", "vd"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    let counted = (1..=3).contains(&letters.len());
    (counted && letters.bytes().all(|b| b.is_ascii_lowercase())).then_some(letters)
}

/// Which disk, counted from 0, a kernel would give that name.
fn ordinal_of(name: &str) -> Option<DiskIndex> {
    if let Some(letters) = letters_of(name) {
        let value = |n: usize, b: u8| n * 26 + usize::from(b - b'a') + 1;
        return Some(letters.bytes().fold(0, value) - 1);
    }
    for (prefix, suffix) in [
        ("nvme", "n1"),
        ("cciss/c0d", ""),
        ("ida/c0d", ""),
        ("mmcblk", ""),
    ] {
        let number = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(suffix))
            .and_then(|rest| rest.parse().ok());
        if number.is_some() {
            return number;
        }
    }
    None
}

/// Whether the name is one the kernel or udev gives to disks.
fn is_disk_name(name: &str) -> bool {
    ordinal_of(name).is_some()
        || [
            "disk/by-id/",
            "disk/by-path/",
            "nvme",
            "cciss/",
            "ida/",
            "mmcblk",
            "mapper/",
            "md",
            "dm-",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether it can stand in a configuration file without quoting.
fn is_plain(identifier: &str) -> bool {
    !identifier.is_empty()
        && identifier.len() <= 64
        && identifier
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// udev's escape in link names: `\x20` for a blank.
fn unescape_hex(name: &str) -> String {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let code = rest.get(at + 2..at + 4);
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[at + 4..];
            }
            None => {
                out.extend_from_slice(b"\\x");
                rest = &rest[at + 2..];
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::SourceDisk;

    fn volume(disk: usize, partition: u32, uuid: &str) -> DeviceFacts {
        DeviceFacts {
            disk: Some(disk),
            partition: Some(partition),
            uuid: Some(uuid.to_owned()),
            partuuid: Some(format!("cafe-{disk}{partition}")),
            label: Some(format!("data {partition}")),
            ..DeviceFacts::default()
        }
    }

    fn names(disks: &[&[&str]]) -> DeviceNames {
        let disk = |names: &&[&str]| SourceDisk {
            name: names.first().map(|name| (*name).to_owned()),
            links: names
                .iter()
                .skip(1)
                .map(|name| (*name).to_owned())
                .collect(),
        };
        let source = SourceHardware {
            disks: disks.iter().map(disk).collect(),
            ..SourceHardware::default()
        };
        let volumes = vec![
            volume(0, 1, "AAAA-1"),
            volume(0, 2, "b-2"),
            volume(1, 1, "c-3"),
        ];
        DeviceNames::new(volumes, &source)
    }

    #[test]
    fn every_way_to_name_a_volume_is_understood() {
        let told = names(&[
            &["nvme0n1", "disk/by-id/nvme-X", "disk/by-path/pci-0000:01"],
            &["sda"],
        ]);
        for (reference, expected) in [
            ("/dev/nvme0n1p2", Meaning::Fleeting(1)),
            ("/dev/sda1", Meaning::Fleeting(2)),
            ("/dev/disk/by-id/nvme-X-part1", Meaning::Fleeting(0)),
            ("/dev/disk/by-path/pci-0000:01-part2", Meaning::Fleeting(1)),
            ("/dev/disk/by-path/pci-0000:09-part2", Meaning::Absent),
            ("/dev/nvme0n1", Meaning::Disk(0)),
            ("UUID=aaaa-1", Meaning::Lasting(0)),
            ("UUID=\"b-2\"", Meaning::Lasting(1)),
            ("LABEL=data 2", Meaning::Lasting(1)),
            ("/dev/disk/by-label/data\\x202", Meaning::Lasting(1)),
            ("/dev/disk/by-uuid/b-2", Meaning::Lasting(1)),
            ("PARTUUID=CAFE-11", Meaning::Lasting(2)),
            ("UUID=gone", Meaning::Absent),
            ("/dev/sdb1", Meaning::Absent),
            ("/dev/sda9", Meaning::Absent),
            ("/dev/nvme0n1p", Meaning::Absent),
            ("/dev/cdrom", Meaning::NotADisk),
            ("/dev/sr0", Meaning::NotADisk),
            ("tmpfs", Meaning::NotADisk),
            ("server:/export", Meaning::NotADisk),
        ] {
            assert_eq!(told.meaning(reference), expected, "{reference}");
        }
    }

    #[test]
    fn without_an_inventory_letters_count_and_the_root_line_teaches() {
        let mut untold = names(&[&[], &[]]);
        assert_eq!(untold.meaning("/dev/sda1"), Meaning::Fleeting(0));
        assert_eq!(untold.meaning("/dev/xvdb1"), Meaning::Fleeting(2));
        assert_eq!(untold.meaning("/dev/sdc1"), Meaning::Absent);
        // The root is known to be the first partition of disk 1, and fstab calls it sda1.
        untold.learn("/dev/sda1", 2);
        assert_eq!(untold.meaning("/dev/sda1"), Meaning::Fleeting(2));
        assert_eq!(untold.meaning("/dev/sdb1"), Meaning::Absent);
    }

    #[test]
    fn a_uuid_two_volumes_share_is_not_used() {
        let source = SourceHardware::unknown(2);
        let names = DeviceNames::new(vec![volume(0, 1, "x"), volume(1, 1, "x")], &source);
        assert_eq!(names.lasting_reference(1).unwrap(), "PARTUUID=cafe-11");
        let mut hostile = volume(0, 1, "x y\nroot=/dev/evil");
        hostile.partuuid = None;
        let names = DeviceNames::new(vec![hostile], &source);
        assert_eq!(names.lasting_reference(0), None);
    }

    #[test]
    fn disk_letters_go_past_z() {
        assert_eq!(ordinal_of("sda"), Some(0));
        assert_eq!(ordinal_of("sdaa"), Some(26));
        assert_eq!(ordinal_of("nvme3n1"), Some(3));
        assert_eq!(ordinal_of("sdaaaa"), None);
    }
}
