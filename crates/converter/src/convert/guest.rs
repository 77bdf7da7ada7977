//! Open the guest: from disks to volumes to the tree of files its fstab describes.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use block_io::{BlockRead, BlockWrite, Overlay, Window};
use disk_layout::{DiskId, Partition};
use disk_survey::{Survey, Volume, find_volumes, survey_all_but};
use driver_injection::{DeviceFacts, Guest, GuestVolume, RootChoice, SourceHardware};
use filesystems::ext::{ExtTree, Recovery};
use filesystems::probe::Probe;
use filesystems::tree::FileTree;

use super::source::Source;

/// A disk as it will be written: what is in use of the source, laid out anew where that is wanted, with
/// the edits over it.
pub type EditedDisk = Arc<dyn BlockWrite>;

/// A disk and what was found on it.
pub struct OpenDisk {
    /// Its bytes, with room for edits.
    pub disk: EditedDisk,
    /// Its table and volumes.
    pub survey: Survey,
    /// The numbers its partitions had on the source, where that is another disk layout: by these the
    /// guest's configuration names them.
    pub renumbered: BTreeMap<u32, u32>,
}

/// Look at every disk of `source` and put an overlay over it.
///
/// # Errors
/// When a disk cannot be read.
pub fn open_disks(source: &Source) -> anyhow::Result<Vec<OpenDisk>> {
    let disks: Vec<&dyn BlockRead> = source.disks.iter().map(|disk| &disk.disk as _).collect();
    let labels: Vec<&str> = source
        .disks
        .iter()
        .map(|disk| disk.label.as_str())
        .collect();
    let doing = || format!("looking at what is on {}", labels.join(", "));
    let stack = survey_all_but(&disks, source.leave_out).with_context(doing)?;
    let pairs = source.disks.iter().zip(stack.into_surveys());
    Ok(pairs
        .map(|(disk, survey)| OpenDisk {
            disk: Arc::new(Overlay::new(survey.used_only(disk.disk.clone()))),
            survey,
            renumbered: BTreeMap::new(),
        })
        .collect())
}

/// Put the volumes of all disks together as the guest's own fstab does.
///
/// # Errors
/// No operating system, several without a choice, and why, by what was seen.
pub fn open_guest(
    disks: &[OpenDisk],
    hardware: &SourceHardware,
    root: &RootChoice,
) -> anyhow::Result<Guest> {
    Ok(Guest::assemble(open_volumes(disks)?, hardware, root)?)
}

/// Open every volume of all disks. What cannot be read says why.
///
/// # Errors
/// When a disk cannot be read.
pub fn open_volumes(disks: &[OpenDisk]) -> anyhow::Result<Vec<GuestVolume>> {
    let mut volumes = Vec::new();
    for (index, open) in disks.iter().enumerate() {
        if is_blank(open)? {
            continue;
        }
        for volume in &open.survey.volumes {
            volumes.push(open_volume(index, open, volume)?);
        }
    }
    volumes.extend(open_stacked(disks)?);
    Ok(volumes)
}

/// Open what lies in logical volumes and arrays, over the disks as they are edited.
fn open_stacked(disks: &[OpenDisk]) -> anyhow::Result<Vec<GuestVolume>> {
    let below: Vec<Arc<dyn BlockWrite>> = disks.iter().map(|open| open.disk.clone()).collect();
    let seen: Vec<&dyn BlockRead> = below.iter().map(|disk| disk as _).collect();
    let stack =
        find_volumes(&seen).context("looking for volumes inside volume groups and arrays")?;
    let mut volumes = Vec::new();
    for (index, volume) in stack.volumes.iter().enumerate() {
        if !volume.is_top() {
            continue;
        }
        let facts = DeviceFacts {
            uuid: volume.probe.as_ref().and_then(|p| p.uuid.clone()),
            label: volume.probe.as_ref().and_then(|p| p.label.clone()),
            kind: kind_of(volume.probe.as_ref()),
            lasting_names: volume.device_names(),
            ..DeviceFacts::default()
        };
        let disk = stack.open_rw(index, &below)?;
        volumes.push(open_files(facts, volume.probe.as_ref(), disk));
    }
    Ok(volumes)
}

/// Whether a disk was never used: no table, nothing that probing knows, and zeroes at both ends,
/// where everything that was ever put on a disk begins or leaves its mark.
fn is_blank(open: &OpenDisk) -> anyhow::Result<bool> {
    if !open.survey.is_unknown() {
        return Ok(false);
    }
    let size = open.disk.size();
    let mut end = vec![0; usize::try_from(size.min(1 << 20))?];
    for offset in [0, size - end.len() as u64] {
        open.disk.read_at(offset, &mut end)?;
        if end.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn open_volume(index: usize, open: &OpenDisk, volume: &Volume) -> anyhow::Result<GuestVolume> {
    let partition = volume
        .partition
        .and_then(|number| open.survey.layout.partition(number));
    let facts = facts_of(index, open, partition, volume.probe.as_ref());
    let window = Window::new(open.disk.clone(), volume.range.clone())?;
    Ok(open_files(facts, volume.probe.as_ref(), Arc::new(window)))
}

/// The files of what `disk`, a partition or a volume, holds.
fn open_files(facts: DeviceFacts, probe: Option<&Probe>, disk: EditedDisk) -> GuestVolume {
    let (tree, problem) = match probe {
        None => (None, None),
        Some(probe) if !probe.kind.is_ext() => (None, not_read(probe)),
        Some(_) => match ExtTree::open_rw(disk, Recovery::Replay) {
            Ok(tree) => (Some(Box::new(tree) as Box<dyn FileTree>), None),
            Err(error) => (None, Some(format!("{:#}", anyhow::anyhow!(error)))),
        },
    };
    GuestVolume {
        facts,
        tree,
        problem,
    }
}

fn kind_of(probe: Option<&Probe>) -> String {
    let name = probe.map(|probe| probe.kind.blkid_name().to_owned());
    name.unwrap_or_default()
}

/// Why there are no files to see, for kinds that hold some. What is a member of a volume group or an array
/// holds none itself, and why that cannot be read is among the findings.
fn not_read(probe: &Probe) -> Option<String> {
    let kind = probe.kind.blkid_name();
    let holds_files = !matches!(kind, "swap" | "LVM2_member" | "linux_raid_member");
    holds_files.then(|| format!("files on {kind} are not read by this version"))
}

fn facts_of(
    index: usize,
    open: &OpenDisk,
    partition: Option<&Partition>,
    probe: Option<&Probe>,
) -> DeviceFacts {
    DeviceFacts {
        disk: Some(index),
        partition: partition.map(|p| open.renumbered.get(&p.number).copied().unwrap_or(p.number)),
        partuuid: partition.and_then(|p| partition_uuid(open.survey.layout.disk_id.as_ref(), p)),
        partlabel: partition
            .and_then(|p| p.name.clone())
            .filter(|name| !name.is_empty()),
        uuid: probe.and_then(|p| p.uuid.clone()),
        label: probe.and_then(|p| p.label.clone()),
        kind: kind_of(probe),
        lasting_names: Vec::new(),
    }
}

/// PARTUUID as the kernel and blkid write it.
pub fn partition_uuid(disk: Option<&DiskId>, partition: &Partition) -> Option<String> {
    match (partition.guid, disk) {
        (Some(guid), _) => Some(guid.to_string()),
        (None, Some(DiskId::Mbr(signature))) if *signature != 0 => {
            Some(format!("{signature:08x}-{:02x}", partition.number))
        }
        _ => None,
    }
}
