//! Logical volumes and arrays: what lies between the partitions and the file systems.

use std::collections::BTreeSet;

use block_io::BlockRead;
use disk_layout::volume::{DeviceIndex, Source, VolumeMap};
use disk_survey::{Member, Stack, StackVolume, VolumeOf, survey_all};

use super::model::{Finding, Level, LogicalVolume, On};
use super::read::Uses;
use crate::convert::guest::OpenDisk;

/// Maps lie in maps (mirrors of stripes, pools) at most this deep.
const DEEPEST: usize = 4;

/// Look for them on all disks together.
///
/// # Errors
/// When a disk cannot be read.
pub fn stack_of(disks: &[OpenDisk]) -> anyhow::Result<Stack> {
    let all: Vec<&dyn BlockRead> = disks
        .iter()
        .map(|open| &open.disk as &dyn BlockRead)
        .collect();
    Ok(survey_all(&all)?)
}

/// Each volume of `stack`; `uses` tells what a volume of some of these names is used for.
pub fn describe<'a>(
    stack: &Stack,
    uses: impl Fn(&[String]) -> Option<&'a Uses>,
) -> Vec<LogicalVolume> {
    let all = &stack.volumes;
    let describe = |volume: &StackVolume| {
        let probe = volume.probe.clone();
        let used_as = uses(&volume.device_names());
        LogicalVolume {
            name: volume.name.clone(),
            manager: match volume.of {
                VolumeOf::Lvm { .. } => "lvm",
                _ => "md",
            },
            size: volume.size,
            used: volume.free_known.then_some(volume.used_bytes),
            holds: probe
                .as_ref()
                .map(|probe| probe.kind.blkid_name().to_owned()),
            label: probe.as_ref().and_then(|probe| probe.label.clone()),
            uuid: probe.and_then(|probe| probe.uuid),
            mount_points: used_as
                .map(|used| used.mount_points.clone())
                .unwrap_or_default(),
            os: used_as.and_then(|used| used.os.clone()),
            complete: volume.is_complete(),
            on: lies_on(volume, all),
        }
    };
    all.iter().map(describe).collect()
}

/// What a volume really lies on: `members` are all that its manager was shown.
fn lies_on(volume: &StackVolume, all: &[StackVolume]) -> Vec<On> {
    let mut devices = BTreeSet::new();
    add_devices(&volume.map, &mut devices, DEEPEST);
    let members = devices
        .iter()
        .filter_map(|device| volume.members.get(device.0));
    members.filter_map(|member| on(member, all)).collect()
}

fn add_devices(map: &VolumeMap, devices: &mut BTreeSet<DeviceIndex>, depth: usize) {
    for leg in map
        .segments()
        .iter()
        .flat_map(|segment| segment.mapping.legs())
    {
        match leg {
            Source::Device(place) => {
                devices.insert(place.device);
            }
            Source::Volume { map, .. } if depth > 0 => add_devices(map, devices, depth - 1),
            Source::Volume { .. } | Source::Lost(_) => {}
        }
    }
}

fn on(member: &Member, all: &[StackVolume]) -> Option<On> {
    match member {
        Member::Partition {
            disk, partition, ..
        } => Some(On::Partition {
            disk: *disk,
            partition: *partition,
        }),
        Member::Volume(index) => {
            let volume = all.get(*index)?.name.clone();
            Some(On::Volume { volume })
        }
    }
}

/// What was noticed about groups, arrays and volumes.
pub fn findings(stack: &Stack) -> impl Iterator<Item = Finding> + '_ {
    stack.findings.iter().map(|finding| Finding {
        level: match finding.severity {
            disk_layout::Severity::Note => Level::Note,
            disk_layout::Severity::Warning => Level::Warning,
            disk_layout::Severity::Doubtful => Level::Doubtful,
        },
        about: "volumes".to_owned(),
        text: finding.to_string(),
    })
}
