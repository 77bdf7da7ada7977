//! What a machine says of itself: hardware, firmware, disks, network, operating system.
//!
//! One JSON document. Every field that a machine may not know is optional; a field that a reader
//! does not know is ignored, so that a newer agent can speak to an older converter. What is written
//! here comes from the source machine: hints for the plan, never trusted as lengths or paths.

use serde::{Deserialize, Serialize};

/// The number in [`Inventory::version`] that this code writes.
///
/// | version | what changed |
/// |---|---|
/// | 1 | first |
pub const INVENTORY_VERSION: u32 = 1;

/// Everything known of one machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// As [`INVENTORY_VERSION`]; a larger one is read as far as it is known.
    pub version: u32,
    /// Host name, without a domain unless it was set with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `/etc/machine-id`: 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// Vendor, product and serial numbers, from DMI.
    #[serde(default)]
    pub hardware: Hardware,
    /// Processors.
    #[serde(default)]
    pub cpu: Cpu,
    /// Memory that the operating system sees, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How the machine was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Whole disks, in the order of the operating system.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Network interfaces, virtual ones included.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// Routes of the main table.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Name resolution.
    #[serde(default)]
    pub dns: Dns,
    /// Operating system and kernel.
    #[serde(default)]
    pub os: Os,
    /// How busy the machine was.
    #[serde(default)]
    pub load: Load,
}

/// From DMI (`/sys/class/dmi/id`). Serial numbers are readable by root only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// `sys_vendor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// `product_name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `product_version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_version: Option<String>,
    /// `product_serial`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `product_uuid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// `board_vendor` and `board_name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// `bios_vendor` and `bios_version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware_version: Option<String>,
    /// `chassis_type`, a number of the SMBIOS table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis_type: Option<String>,
}

/// Processors. Counts are of the whole machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// `x86_64`, `aarch64`, as the kernel names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// `GenuineIntel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Marketing name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Populated sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<u32>,
    /// Physical cores in all sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Hardware threads in all cores: what a scheduler sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Flags that matter to a guest (`lm`, `pae`, `nx`, `vmx`, `svm`, `aes`, `avx`, `avx2`, `avx512f`, `hypervisor`).
    pub flags: Vec<String>,
}

/// How the machine was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// BIOS or UEFI.
    pub kind: FirmwareKind,
    /// Whether Secure Boot was on; absent where there is none or it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
}

/// The interface between firmware and boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareKind {
    /// PC BIOS, or UEFI in compatibility mode.
    Bios,
    /// UEFI.
    Uefi,
}

/// One whole disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Where the machine has it: `/dev/sda`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical sector: 512 or 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical_sector: Option<u32>,
    /// Bytes of a physical sector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_sector: Option<u32>,
    /// Vendor and model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World wide name (`naa.…`, `eui.…`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Whether it has a spindle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// Whether it can be taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removable: Option<bool>,
    /// `sata`, `sas`, `nvme`, `usb`, `virtio`, `ide`, `mmc`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The kernel driver that serves it (`ahci`, `nvme`, `megaraid_sas`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// `/dev/disk/by-…` names that lead here.
    pub links: Vec<String>,
    /// What the operating system made of its parts. A hint: the converter reads the disk itself.
    pub parts: Vec<DiskPart>,
}

/// A partition or a volume on a disk, as the running system sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskPart {
    /// `/dev/sda1`, `/dev/mapper/vg-root`.
    pub path: String,
    /// First byte on the disk, where it is one range of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// `ext4`, `swap`, `LVM2_member`, as mounted or as blkid says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    /// UUID of the file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Label of the file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Where it is mounted.
    pub mounts: Vec<String>,
    /// Whether one of the mounts is writable: the disk changes while it is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted_writable: Option<bool>,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nic {
    /// `eth0`, `enp3s0`.
    pub name: String,
    /// The address in use: `52:54:00:12:34:56`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The address of the hardware, where a bond or a user changed the one in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permanent_mac: Option<String>,
    /// Kernel driver: `e1000e`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Where it sits: `pci 0000:03:00.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// `physical`, `bridge`, `bond`, `vlan`, `loopback`, `tun`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name of the bridge or bond it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Whether it was up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Megabits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u32>,
    /// Addresses with prefix: `192.0.2.7/24`.
    pub addresses: Vec<String>,
}

/// One route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// `default` or `192.0.2.0/24`.
    pub destination: String,
    /// The next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<String>,
    /// Lower is taken first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// Name resolution, from `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of the servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
}

/// Operating system and kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Os {
    /// `linux`, `windows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// `ID` of os-release: `debian`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `VERSION_ID` of os-release: `12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `PRETTY_NAME` of os-release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretty_name: Option<String>,
    /// Release of the running kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Command line of the running kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_command_line: Option<String>,
}

/// How busy the machine was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Load averages over 1, 5 and 15 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub averages: Option<[f64; 3]>,
    /// Seconds since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// Memory that could be had without swapping, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_available_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_a_machine_can_say() {
        let read: Inventory = serde_json::from_str(r#"{"version":1}"#).unwrap();
        assert_eq!(
            read,
            Inventory {
                version: 1,
                ..Inventory::default()
            }
        );
    }

    #[test]
    fn what_a_newer_agent_adds_is_ignored() {
        let text = r#"{"version":9,"quantum":true,"disks":[{"path":"/dev/sda","size":7,"x":[1]}],
            "firmware":{"kind":"uefi","secure_boot":true,"vendor":"?"}}"#;
        let read: Inventory = serde_json::from_str(text).unwrap();
        assert_eq!(read.disks[0].size, 7);
        assert_eq!(read.firmware.unwrap().kind, FirmwareKind::Uefi);
    }

    #[test]
    fn everything_comes_back_as_it_was() {
        let inventory = Inventory {
            version: INVENTORY_VERSION,
            hostname: Some("web 01\n../".into()),
            memory_bytes: Some(u64::MAX),
            firmware: Some(Firmware {
                kind: FirmwareKind::Bios,
                secure_boot: None,
            }),
            disks: vec![Disk {
                path: "/dev/sda".into(),
                size: 4 << 30,
                parts: vec![DiskPart {
                    mounts: vec!["/".into()],
                    ..DiskPart::default()
                }],
                ..Disk::default()
            }],
            nics: vec![Nic {
                addresses: vec!["192.0.2.7/24".into()],
                ..Nic::default()
            }],
            load: Load {
                averages: Some([0.5, 0.25, 0.0]),
                ..Load::default()
            },
            ..Inventory::default()
        };
        let text = serde_json::to_string(&inventory).unwrap();
        assert_eq!(serde_json::from_str::<Inventory>(&text).unwrap(), inventory);
    }
}
