//! What shall be done to the guest: a pure function of what was seen, so that a plan can be shown,
//! tested and kept before anything is written.

mod arguments;
mod draft;
mod fstab;
mod grub;
mod initramfs;
mod network;
mod udev;

use std::fmt;

use serde::Serialize;

use crate::edit::Edit;
use crate::finding::{Finding, escape_controls, tell};
use crate::hardware::{Firmware, MacAddress, SourceHardware, Target};
use crate::inspect::{Inspection, Kernel};
use draft::Draft;
use initramfs::{Reach, reach_of};

/// All that shall be done, and what the guest can run on afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The system, for people.
    pub os: String,
    /// The changes, in the order they are made.
    pub edits: Vec<Edit>,
    /// The network cards the VM must get, in the order they are attached.
    pub nics: Vec<PlannedNic>,
    /// What the guest can run on afterwards.
    pub capabilities: Capabilities,
    /// What a person should know.
    pub findings: Vec<Finding>,
    /// The time new files get.
    pub time: i64,
}

/// A network card of the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedNic {
    /// The name it will have in the guest; `None` where the guest does not care.
    pub name: Option<String>,
    /// The hardware address it must get.
    pub mac: MacAddress,
    /// Whether the address was made up because none was known.
    pub generated: bool,
}

/// What the guest can run on once the plan is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Ways its default kernel reaches a disk, the best first.
    pub block: Vec<BlockBus>,
    /// The card it has a driver for.
    pub net: NetModel,
    /// How its hardware clock must run.
    pub clock: Clock,
    /// How the firmware must start it, where that is known.
    pub firmware: Option<Firmware>,
    /// The processor it is built for, as the kernel calls it; empty when unknown.
    pub arch: String,
    /// Whether it writes its console to the first serial port.
    pub serial_console: bool,
    /// The kernel this is said of.
    pub kernel: Option<String>,
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockBus {
    /// virtio-blk.
    VirtioBlk,
    /// virtio-scsi.
    VirtioScsi,
    /// SATA.
    Ahci,
    /// IDE.
    Ide,
}

/// A network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetModel {
    /// virtio-net.
    VirtioNet,
    /// Intel's 82540EM, which every system since 2002 knows.
    E1000,
}

/// What the hardware clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// UTC.
    Utc,
    /// The guest's local time.
    Local,
}

/// Plan what makes the guest boot on the target.
#[must_use]
pub fn plan(inspection: &Inspection, source: &SourceHardware, target: &Target) -> Plan {
    let mut draft = Draft::new(inspection);
    fstab::plan_tables(&mut draft);
    grub::plan_boot_loader(&mut draft, target);
    let nics = network::plan_nics(&mut draft, source);
    udev::plan_stale_hardware(&mut draft, &nics);
    let naming = network::plan_names(&mut draft, &nics);
    initramfs::plan_initramfs(&mut draft, &naming);
    let capabilities = capabilities(&mut draft, source);
    let (edits, findings) = draft.finish();
    Plan {
        os: inspection.os.name.clone(),
        edits,
        nics,
        capabilities,
        findings,
        time: target.time,
    }
}

/// What can it run on?
fn capabilities(draft: &mut Draft, source: &SourceHardware) -> Capabilities {
    let inspection = draft.inspection;
    let default = default_kernel(inspection);
    let reach = default.map(reach_of);
    for kernel in &inspection.kernels {
        let reach = reach_of(kernel);
        if !reach.virtio_blk && !reach.virtio_scsi {
            let text = format!(
                "kernel {} does not reach a virtio disk: give the VM a SATA or IDE disk to start it",
                kernel.version
            );
            tell(
                &mut draft.findings,
                Finding::warning("kernel-without-virtio", text),
            );
        }
    }
    if inspection.kernels.is_empty() {
        let text = "no kernel was found in /boot or in a boot loader's menu";
        tell(&mut draft.findings, Finding::blocker("no-kernel", text));
    }
    let serial = |arguments: &str| {
        arguments
            .split_whitespace()
            .any(|word| word.starts_with("console=ttyS0"))
    };
    Capabilities {
        block: buses(reach),
        net: match reach {
            Some(Reach {
                virtio_net: true, ..
            }) => NetModel::VirtioNet,
            _ => NetModel::E1000,
        },
        clock: if inspection.os.clock_is_local {
            Clock::Local
        } else {
            Clock::Utc
        },
        firmware: source.firmware.or(inspection.firmware),
        arch: inspection.os.arch.clone(),
        serial_console: inspection.menu.iter().any(|entry| serial(&entry.arguments)),
        kernel: default.map(|kernel| kernel.version.clone()),
    }
}

fn buses(reach: Option<Reach>) -> Vec<BlockBus> {
    let Some(reach) = reach else {
        return vec![BlockBus::Ahci, BlockBus::Ide];
    };
    let known = [
        (reach.virtio_blk, BlockBus::VirtioBlk),
        (reach.virtio_scsi, BlockBus::VirtioScsi),
        (reach.ahci, BlockBus::Ahci),
    ];
    let mut buses: Vec<_> = known
        .into_iter()
        .filter(|(can, _)| *can)
        .map(|(_, bus)| bus)
        .collect();
    if buses.is_empty() {
        buses = vec![BlockBus::Ahci, BlockBus::Ide];
    }
    buses
}

/// The kernel that starts when nobody chooses: the saved entry, else the menu's first, else the newest.
fn default_kernel(inspection: &Inspection) -> Option<&Kernel> {
    use crate::inspect::ConfigKind;
    let kernels = &inspection.kernels;
    let saved = inspection
        .files_of(ConfigKind::GrubEnvironment)
        .find_map(|file| {
            let text = file.text();
            let entry = text
                .lines()
                .find_map(|line| line.strip_prefix("saved_entry="))?;
            let entry = entry.to_owned();
            kernels
                .iter()
                .find(|kernel| !kernel.version.is_empty() && entry.contains(&kernel.version))
        });
    let from_entries = inspection.files_of(ConfigKind::BootEntry).next().is_some();
    let first = inspection
        .menu
        .iter()
        .filter(|_| !from_entries)
        .find_map(|entry| {
            let named = entry.kernel.rsplit('/').next()?;
            let is_it = |kernel: &&Kernel| kernel.image.file_name() == Some(named.as_bytes());
            kernels.iter().find(is_it)
        });
    let newest = kernels
        .iter()
        .max_by(|a, b| compare_versions(&a.version, &b.version));
    saved.or(first).or(newest)
}

/// Numbers in versions compare as numbers.
fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    let parts = |version: &str| -> Vec<(u64, String)> {
        let pieces = version.split(|c: char| !c.is_ascii_alphanumeric());
        pieces
            .map(|piece| (piece.parse().unwrap_or(0), piece.to_owned()))
            .collect()
    };
    parts(a).cmp(&parts(b))
}

impl fmt::Display for BlockBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioScsi => "virtio-scsi",
            Self::Ahci => "SATA",
            Self::Ide => "IDE",
        })
    }
}

impl fmt::Display for NetModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtioNet => "virtio-net",
            Self::E1000 => "e1000",
        })
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Utc => "UTC",
            Self::Local => "local time",
        })
    }
}

impl fmt::Display for PlannedNic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.mac)?,
            None => write!(f, "a network card ({})", self.mac)?,
        }
        if self.generated {
            f.write_str(", address made up")?;
        }
        Ok(())
    }
}

/// As a dry run shows it.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", escape_controls(&self.os))?;
        let can = &self.capabilities;
        let kernel = escape_controls(can.kernel.as_deref().unwrap_or("none found"));
        let buses: Vec<String> = can.block.iter().map(ToString::to_string).collect();
        let disk = match buses.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            Some((only, _)) => only.clone(),
            None => "none known".to_owned(),
        };
        writeln!(f, "kernel {kernel}")?;
        writeln!(
            f,
            "disk on {disk}; network card {}; clock in {}",
            can.net, can.clock
        )?;
        for nic in &self.nics {
            writeln!(f, "card: {nic}")?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        writeln!(f, "{} changes", self.edits.len())?;
        for edit in &self.edits {
            write!(f, "\n{edit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_people_do() {
        assert!(compare_versions("6.10.0-1", "6.9.12-3").is_gt());
        assert!(compare_versions("5.14.0-427.el9", "5.14.0-70.el9").is_gt());
    }
}
