//! Looking at the disks, and putting what was seen together.

use std::collections::BTreeMap;

use block_io::BlockRead;
use disk_layout::{Partition, Severity};
use disk_survey::About;
use driver_injection::{
    AssembleError, DeviceFacts, Guest, GuestVolume, RootChoice, SourceHardware, inspect,
};

use super::logical;
use super::model::{Disk, Finding, Inspection, Level, Mount, System, VERSION, Volume};
use crate::convert::guest::{OpenDisk, open_disks, open_volumes, partition_uuid};
use crate::convert::machine::source_hardware;
use crate::convert::source::Source;

/// More systems on the disks of one machine are not looked into: each is put together on its own.
const MOST_SYSTEMS: usize = 16;

/// Look at every disk of `source`.
///
/// # Errors
/// When a disk cannot be read.
pub fn look(source: &Source) -> anyhow::Result<Inspection> {
    look_at(source, &open_disks(source)?)
}

/// As [`look`], with the disks already open.
///
/// # Errors
/// When a disk cannot be read.
pub fn look_at(source: &Source, disks: &[OpenDisk]) -> anyhow::Result<Inspection> {
    let mut findings = Vec::new();
    for (open, disk) in disks.iter().zip(&source.disks) {
        findings.extend(open.survey.findings.iter().map(|f| of_disk(&disk.label, f)));
    }
    let stack = logical::stack_of(disks)?;
    findings.extend(logical::findings(&stack));
    let seen = find_systems(disks, &source_hardware(source), &mut findings)?;
    let disks = source.disks.iter().zip(disks).enumerate();
    Ok(Inspection {
        p2v_inspect: VERSION,
        p2v_version: env!("CARGO_PKG_VERSION"),
        name: source.name.clone(),
        disks: disks
            .map(|(index, (disk, open))| describe_disk(index, &disk.label, open, &seen.uses))
            .collect(),
        logical_volumes: logical::describe(&stack, |names| {
            names.iter().find_map(|name| seen.by_name.get(name))
        }),
        systems: seen.systems,
        findings,
    })
}

fn of_disk(label: &str, finding: &disk_survey::Finding) -> Finding {
    let about = match finding.about {
        About::Disk => label.to_owned(),
        About::Table => format!("{label}, partition table"),
        About::Partition(number) => format!("{label}, partition {number}"),
    };
    Finding {
        level: match finding.severity {
            Severity::Note => Level::Note,
            Severity::Warning => Level::Warning,
            Severity::Doubtful => Level::Doubtful,
        },
        about,
        text: finding.text.clone(),
    }
}

/// Disk and partition of a volume.
type Place = (Option<usize>, Option<u32>);

/// What the systems use a volume for.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub(super) mount_points: Vec<String>,
    pub(super) os: Option<String>,
}

#[derive(Default)]
struct Systems {
    systems: Vec<System>,
    uses: BTreeMap<Place, Uses>,
    /// Of logical volumes, by their names below `/dev`.
    by_name: BTreeMap<String, Uses>,
}

/// Find every system, and what each uses which volume for.
fn find_systems(
    disks: &[OpenDisk],
    hardware: &SourceHardware,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Systems> {
    let mut seen = Systems::default();
    let volumes = open_volumes(disks)?;
    let facts: Vec<DeviceFacts> = volumes.iter().map(|v| v.facts.clone()).collect();
    findings.extend(volumes.iter().filter_map(of_volume));
    match Guest::assemble(volumes, hardware, &RootChoice::Only) {
        Ok(guest) => seen.add(&guest, &facts, findings),
        Err(AssembleError::SeveralRoots { roots }) => {
            for root in roots.iter().take(MOST_SYSTEMS) {
                let choice = RootChoice::Volume(root.volume);
                let guest = Guest::assemble(open_volumes(disks)?, hardware, &choice)?;
                seen.add(&guest, &facts, findings);
            }
        }
        Err(AssembleError::BlankDisk | AssembleError::NoOperatingSystem { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(seen)
}

/// Why a volume's files could not be read.
fn of_volume(volume: &GuestVolume) -> Option<Finding> {
    let text = volume.problem.clone()?;
    Some(Finding {
        level: Level::Note,
        about: volume.facts.describe(),
        text,
    })
}

impl Systems {
    fn add(&mut self, guest: &Guest, facts: &[DeviceFacts], findings: &mut Vec<Finding>) {
        let name = inspect::os_name(guest.files());
        let mut mounts = Vec::new();
        for (number, (used, volume)) in guest.uses().iter().enumerate() {
            let Some(facts) = facts.get(*volume) else {
                continue;
            };
            let at = used.to_string();
            let uses = match facts.lasting_names.first() {
                Some(lasting) => self.by_name.entry(lasting.clone()).or_default(),
                None => self.uses.entry((facts.disk, facts.partition)).or_default(),
            };
            if !uses.mount_points.contains(&at) {
                uses.mount_points.push(at.clone());
            }
            if number == 0 {
                uses.os = Some(name.clone());
            }
            let volume = facts.describe();
            mounts.push(Mount { at, volume });
        }
        findings.extend(guest.findings().iter().map(|finding| Finding {
            level: match finding.severity {
                driver_injection::Severity::Note => Level::Note,
                _ => Level::Warning,
            },
            about: name.clone(),
            text: finding.text.clone(),
        }));
        let root = guest.uses().first().map_or(0, |(_, volume)| *volume);
        self.systems.push(System { name, root, mounts });
    }
}

fn describe_disk(index: usize, label: &str, open: &OpenDisk, uses: &BTreeMap<Place, Uses>) -> Disk {
    let layout = &open.survey.layout;
    let mut volumes: Vec<Volume> = open
        .survey
        .volumes
        .iter()
        .map(|volume| {
            let partition = volume.partition.and_then(|number| layout.partition(number));
            let mut described = partition.map_or_else(Volume::default, |partition| {
                describe_partition(open, partition)
            });
            described.start = volume.range.start;
            described.size = volume.range.end - volume.range.start;
            described.used = volume.free_known.then_some(volume.used_bytes);
            if let Some(probe) = volume.probe.clone() {
                described.holds = Some(probe.kind.blkid_name().to_owned());
                (described.version, described.label) = (probe.version, probe.label);
                described.uuid = probe.uuid;
            }
            if let Some(used) = uses.get(&(Some(index), volume.partition)) {
                described.mount_points.clone_from(&used.mount_points);
                described.os.clone_from(&used.os);
            }
            described
        })
        .collect();
    let extended = layout.partitions.iter().filter(|p| p.is_extended());
    volumes.extend(extended.map(|partition| describe_partition(open, partition)));
    volumes.sort_by_key(|volume| volume.partition);
    Disk {
        label: label.to_owned(),
        size: open.disk.size(),
        used: open.survey.used_bytes(),
        sector_size: layout.sector_size.bytes(),
        table: layout.table.into(),
        id: layout.disk_id.map(|id| id.to_string()),
        volumes,
    }
}

fn describe_partition(open: &OpenDisk, partition: &Partition) -> Volume {
    Volume {
        partition: Some(partition.number),
        start: partition.range.start,
        size: partition.range.end - partition.range.start,
        kind: Some(partition.kind.to_string()),
        name: partition.name.clone().filter(|name| !name.is_empty()),
        partuuid: partition_uuid(open.survey.layout.disk_id.as_ref(), partition),
        bootable: partition.bootable,
        extended: partition.is_extended(),
        logical: partition.logical,
        ..Volume::default()
    }
}
