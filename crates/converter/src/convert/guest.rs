//! Open the guest: from disks to volumes to the tree of files its fstab describes.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use block_io::{BlockRead, BlockWrite, Overlay, Window};
use disk_layout::{DiskId, Partition};
use disk_survey::{Survey, Volume, survey_but};
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
    source
        .disks
        .iter()
        .map(|disk| {
            let doing = || format!("looking at what is on {}", disk.label);
            let survey = survey_but(&disk.disk, source.leave_out).with_context(doing)?;
            let used = survey.used_only(disk.disk.clone());
            Ok(OpenDisk {
                disk: Arc::new(Overlay::new(used)),
                survey,
                renumbered: BTreeMap::new(),
            })
        })
        .collect()
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
    let Some(probe) = &volume.probe else {
        return Ok(GuestVolume {
            facts,
            tree: None,
            problem: None,
        });
    };
    if !probe.kind.is_ext() {
        return Ok(GuestVolume {
            facts,
            tree: None,
            problem: not_read(probe),
        });
    }
    let window = Window::new(open.disk.clone(), volume.range.clone())?;
    Ok(match ExtTree::open_rw(window, Recovery::Replay) {
        Ok(tree) => GuestVolume {
            facts,
            tree: Some(Box::new(tree) as Box<dyn FileTree>),
            problem: None,
        },
        Err(error) => GuestVolume {
            facts,
            tree: None,
            problem: Some(format!("{:#}", anyhow::anyhow!(error))),
        },
    })
}

/// Why there are no files to see, for kinds that hold some.
fn not_read(probe: &Probe) -> Option<String> {
    let kind = probe.kind.blkid_name();
    (kind != "swap").then(|| format!("files on {kind} are not read by this version"))
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
        kind: probe
            .map(|p| p.kind.blkid_name().to_owned())
            .unwrap_or_default(),
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
