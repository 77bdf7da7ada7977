//! What the guest ran on, and what it shall run on.

use serde::{Deserialize, Serialize};

use crate::devices::DiskIndex;

/// The source machine, as far as it is known.
///
/// The agent's inventory fills all of it. An image file has none: then disks have no names (they are
/// learnt from the guest's own fstab) and NICs are learnt from the guest's network configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceHardware {
    /// The disks, by index: the order in which they are given to the VM.
    pub disks: Vec<SourceDisk>,
    /// The network interfaces with hardware behind them.
    pub nics: Vec<SourceNic>,
    /// How the firmware starts the machine.
    pub firmware: Option<Firmware>,
}

impl SourceHardware {
    /// A machine of which nothing is known but how many disks it has.
    #[must_use]
    pub fn unknown(disks: usize) -> Self {
        Self {
            disks: vec![SourceDisk::default(); disks],
            ..Self::default()
        }
    }
}

/// The names the source's kernel gave a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDisk {
    /// Its name below `/dev`: `sda`, `nvme0n1`, `cciss/c0d0`.
    pub name: Option<String>,
    /// Its other names below `/dev`: `disk/by-id/ata-…`, `disk/by-path/pci-…`.
    #[serde(default)]
    pub links: Vec<String>,
}

/// A network interface of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceNic {
    /// Its name in the guest: `eno1`, `eth0`.
    pub name: String,
    /// Its permanent hardware address.
    pub mac: MacAddress,
    /// Its driver, `e1000e`.
    #[serde(default)]
    pub driver: Option<String>,
}

/// How firmware starts a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PC BIOS: boot code in the first sector.
    Bios,
    /// UEFI: a program on the EFI system partition.
    Uefi,
}

/// What the guest shall run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Which disk the firmware starts from.
    pub boot_disk: DiskIndex,
    /// The time new files get, in seconds since 1970. Given, so that one plan gives the same bytes
    /// whenever it is made.
    pub time: i64,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Read `52:54:00:12:34:56`, in either case, `-` allowed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next()?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }

    /// A locally administered address that `seed` always gives: 52:54:00 as QEMU and libvirt use,
    /// and three bytes of a hash.
    #[must_use]
    pub fn from_seed(seed: &str) -> Self {
        let hash = blake3::hash(seed.as_bytes());
        let tail = hash.as_bytes();
        Self([0x52, 0x54, 0x00, tail[0], tail[1], tail[2]])
    }

    /// Whether it can be the address of one interface: neither nil nor a group address.
    #[must_use]
    pub fn is_station(self) -> bool {
        self.0 != [0; 6] && self.0[0] & 1 == 0
    }
}

impl std::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("not a MAC address: {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_strictly() {
        let mac = MacAddress::parse("52-54-00-AB-cd-0f").unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:1",
            "5:54:00:ab:cd:0f",
            "+2:54:00:ab:cd:0f",
        ] {
            assert_eq!(MacAddress::parse(bad), None, "{bad}");
        }
        assert!(!MacAddress([1, 0, 0, 0, 0, 0]).is_station());
    }

    #[test]
    fn a_made_address_is_always_the_same_and_belongs_to_nobody() {
        let mac = MacAddress::from_seed("uuid/eth0");
        assert_eq!(mac, MacAddress::from_seed("uuid/eth0"));
        assert_ne!(mac, MacAddress::from_seed("uuid/eth1"));
        assert_eq!(mac.0[0] & 3, 2, "locally administered, one station");
    }
}
