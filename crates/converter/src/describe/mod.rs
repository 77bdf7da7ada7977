//! What the emitted machine is, written for those who will run it: libvirt, QEMU, and `p2v boot`.
//!
//! [`Machine`] is the one description; [`write_all`] puts it beside the images three times: `NAME.xml` (a libvirt
//! domain), `NAME.sh` (a QEMU command) and `NAME.json` (this type as JSON, which [`read`] reads back).
//! Names in it come from foreign machines and are escaped for each reader.

mod libvirt;
pub mod qemu;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stream_protocol::inventory::FirmwareKind;
use thiserror::Error;

use crate::files::put_whole;

/// The number in [`Machine::version`] that this code writes and reads.
pub const MACHINE_VERSION: u32 = 1;

/// Longest description that is read, in bytes: it is a page of text.
const LONGEST: u64 = 1 << 20;

/// A virtual machine, as emitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As [`MACHINE_VERSION`]. Its name is what tells this JSON from any other.
    #[serde(rename = "p2v_machine")]
    pub version: u32,
    /// What people call it. Any text.
    pub name: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Virtual processors.
    pub vcpus: u32,
    /// What starts it.
    pub firmware: FirmwareKind,
    /// Whether the firmware checks signatures. Means nothing without UEFI.
    #[serde(default)]
    pub secure_boot: bool,
    /// The board.
    #[serde(default)]
    pub board: Board,
    /// What the clock of the board shows.
    #[serde(default)]
    pub clock: Clock,
    /// Disks; the first is the one to start from.
    pub disks: Vec<DiskDevice>,
    /// Network cards, in order.
    #[serde(default)]
    pub nics: Vec<NicDevice>,
}

/// The board a machine gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Board {
    /// Intel Q35, PCI Express: the one for everything since about 2008.
    #[default]
    Q35,
    /// Intel i440FX, PCI: what older systems need.
    Pc,
}

/// What the clock of the board shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Universal time: Linux.
    #[default]
    Utc,
    /// The time of the place: Windows.
    Localtime,
}

/// One disk and how it is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDevice {
    /// The image; a relative name is relative to the directory of the description.
    pub file: PathBuf,
    /// How its bytes are to be read.
    pub format: ImageFormat,
    /// The controller.
    #[serde(default)]
    pub bus: DiskBus,
}

/// Image formats, by the names QEMU has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Nothing but the disk's bytes.
    Raw,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
    /// VMware.
    Vmdk,
    /// Microsoft, the older: `.vhd`.
    Vpc,
    /// Microsoft, the newer.
    Vhdx,
    /// VirtualBox.
    Vdi,
    /// Parallels.
    Parallels,
}

impl From<image_formats::ImageFormat> for ImageFormat {
    fn from(format: image_formats::ImageFormat) -> Self {
        use image_formats::ImageFormat as Known;
        match format {
            Known::Qcow2 => Self::Qcow2,
            Known::Vmdk => Self::Vmdk,
            Known::Vhd => Self::Vpc,
            Known::Vhdx => Self::Vhdx,
            Known::Vdi => Self::Vdi,
            Known::Parallels => Self::Parallels,
            // What QEMU has no driver for it can only start from as it lies there.
            _ => Self::Raw,
        }
    }
}

impl ImageFormat {
    /// QEMU's and libvirt's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vpc => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Parallels => "parallels",
        }
    }
}

/// The controller a disk hangs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// Paravirtual block device.
    #[default]
    VirtioBlk,
    /// Paravirtual SCSI controller.
    VirtioScsi,
    /// SATA.
    Ahci,
    /// Parallel ATA, at most four disks.
    Ide,
    /// NVM Express.
    Nvme,
}

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicDevice {
    /// `52:54:00:12:34:56`; without one the hypervisor makes one up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What the guest sees.
    #[serde(default)]
    pub model: NicModel,
}

/// Network card models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// Paravirtual.
    #[default]
    Virtio,
    /// Intel 82574L.
    E1000e,
    /// Intel 82540EM.
    E1000,
    /// Realtek.
    Rtl8139,
}

/// What is wrong with a description.
#[derive(Debug, Error)]
pub enum DescribeError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// `read`, `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Longer than any description is.
    #[error("{path} is larger than {LONGEST} bytes: not a machine description")]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// Not a description.
    #[error("{path} is not a machine description")]
    NotADescription {
        /// Which.
        path: PathBuf,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// Written by a newer p2v.
    #[error(
        "{path} is a machine description of version {found}, and this program reads {MACHINE_VERSION}"
    )]
    Version {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// A machine that cannot be.
    #[error("machine description: {problem}")]
    Impossible {
        /// What is wrong with it.
        problem: String,
    },
}

/// The files that [`write_all`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// `NAME.xml`.
    pub libvirt: PathBuf,
    /// `NAME.sh`.
    pub script: PathBuf,
    /// `NAME.json`.
    pub json: PathBuf,
}

/// Write the three descriptions into `directory` as `stem.xml`, `stem.sh` and `stem.json`. Existing ones are replaced,
/// each as a whole: nobody reads half a file.
///
/// # Errors
/// A machine that cannot be, or a directory that cannot be written.
pub fn write_all(
    machine: &Machine,
    directory: &Path,
    stem: &str,
) -> Result<Written, DescribeError> {
    check(machine)?;
    let place = directory
        .canonicalize()
        .map_err(|source| DescribeError::File {
            action: "find",
            path: directory.into(),
            source,
        })?;
    let json =
        serde_json::to_string_pretty(machine).map_err(|source| DescribeError::NotADescription {
            path: place.clone(),
            source,
        })?;
    let written = Written {
        libvirt: place.join(format!("{stem}.xml")),
        script: place.join(format!("{stem}.sh")),
        json: place.join(format!("{stem}.json")),
    };
    put(
        &written.libvirt,
        libvirt::domain(machine, &place).as_bytes(),
        0o644,
    )?;
    put(&written.script, &qemu::script(machine), 0o755)?;
    put(&written.json, (json + "\n").as_bytes(), 0o644)?;
    Ok(written)
}

/// Read a description written by [`write_all`].
///
/// # Errors
/// A file that cannot be read, is no description, is of another version, or describes what cannot be.
pub fn read(path: &Path) -> Result<Machine, DescribeError> {
    let unreadable = |source| DescribeError::File {
        action: "read",
        path: path.into(),
        source,
    };
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|f| f.take(LONGEST + 1).read_to_end(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > LONGEST {
        return Err(DescribeError::TooLong { path: path.into() });
    }
    // The version first: a newer description may have words that this type has no room for.
    #[derive(Deserialize)]
    struct Version {
        p2v_machine: u32,
    }
    let not_one = |source| DescribeError::NotADescription {
        path: path.into(),
        source,
    };
    let version: Version = serde_json::from_slice(&text).map_err(not_one)?;
    if version.p2v_machine != MACHINE_VERSION {
        return Err(DescribeError::Version {
            path: path.into(),
            found: version.p2v_machine,
        });
    }
    let machine = serde_json::from_slice(&text).map_err(not_one)?;
    check(&machine)?;
    Ok(machine)
}

/// Whether `path` looks like a description of any version, so that a directory can be searched for it.
#[must_use]
pub fn is_description(path: &Path) -> bool {
    !matches!(
        read(path),
        Err(DescribeError::NotADescription { .. }
            | DescribeError::TooLong { .. }
            | DescribeError::File { .. })
    )
}

fn check(machine: &Machine) -> Result<(), DescribeError> {
    let wrong = |problem: String| Err(DescribeError::Impossible { problem });
    if machine.disks.is_empty() {
        return wrong("it has no disk".into());
    }
    if machine.disks.iter().any(|d| d.file.as_os_str().is_empty()) {
        return wrong("a disk has no file name".into());
    }
    let on_ide = machine
        .disks
        .iter()
        .filter(|d| d.bus == DiskBus::Ide)
        .count();
    if on_ide > qemu::MOST_ON_IDE {
        return wrong(format!(
            "{on_ide} disks on IDE, which has room for {}",
            qemu::MOST_ON_IDE
        ));
    }
    if machine.memory_bytes < 1 << 20 || machine.vcpus == 0 {
        return wrong(format!(
            "{} bytes of memory, {} processors",
            machine.memory_bytes, machine.vcpus
        ));
    }
    if machine.secure_boot
        && (machine.firmware != FirmwareKind::Uefi || machine.board != Board::Q35)
    {
        return wrong("Secure Boot needs UEFI on a Q35 board".into());
    }
    for mac in machine.nics.iter().filter_map(|nic| nic.mac.as_deref()) {
        if !is_mac(mac) {
            return wrong(format!("{mac:?} is not the address of a network card"));
        }
    }
    Ok(())
}

/// Six bytes in hexadecimal, of one card: bit 0 of the first byte marks a group.
fn is_mac(text: &str) -> bool {
    let bytes: Vec<&str> = text.split(':').collect();
    let is_byte = |b: &&str| b.len() == 2 && b.bytes().all(|c| c.is_ascii_hexdigit());
    bytes.len() == 6
        && bytes.iter().all(is_byte)
        && bytes
            .first()
            .and_then(|b| u8::from_str_radix(b, 16).ok())
            .is_some_and(|b| b & 1 == 0)
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DescribeError> {
    put_whole(path, bytes, mode).map_err(|source| DescribeError::File {
        action: "write",
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests;
