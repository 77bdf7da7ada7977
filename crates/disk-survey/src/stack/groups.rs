//! Physical volumes to logical volumes, and the used bytes of both.

use std::sync::Arc;

use block_io::{BlockErrorKind, BlockRead};
use disk_layout::Severity;
use disk_layout::lvm::{
    LogicalVolume, LvmError, PhysicalVolume, VolumeGroup, assemble, read_physical_volume,
};
use filesystems::probe::FsKind;

use super::build::{Added, Builder, Device};
use super::{Member, StackVolume, VolumeOf};
use crate::survey::SurveyError;

impl<'a> Builder<'a> {
    pub(super) fn add_groups(&mut self, devices: &[Device<'a>]) -> Result<(), SurveyError> {
        let mut found: Vec<(&Device<'a>, PhysicalVolume)> = Vec::new();
        for device in devices
            .iter()
            .filter(|device| device.kind == FsKind::Lvm2Pv)
        {
            let name = self.name_of(&device.member);
            match read_physical_volume(&device.disk) {
                Ok(Some(mut volume)) => {
                    self.findings.append(&mut volume.findings);
                    found.push((device, volume));
                }
                Ok(None) => {}
                Err(LvmError::Disk(error)) if error.kind() != BlockErrorKind::Unreadable => {
                    return Err(error.into());
                }
                Err(error) => {
                    let text = format!("{error}; every byte of it counts as used");
                    self.note(Severity::Doubtful, &name, text);
                }
            }
        }
        let pairs: Vec<(&dyn BlockRead, &PhysicalVolume)> = found
            .iter()
            .map(|(device, volume)| (&device.disk as &dyn BlockRead, volume))
            .collect();
        let groups = assemble(&pairs);
        let devices: Vec<&Device<'a>> = found.iter().map(|(device, _)| *device).collect();
        for device in &devices {
            let index = devices
                .iter()
                .position(|other| std::ptr::eq(*other, *device));
            let known = groups.iter().flat_map(|group| &group.members);
            if !known.into_iter().any(|m| m.device.map(|d| d.0) == index) {
                let name = self.name_of(&device.member);
                let text =
                    "belongs to no volume group that is known here: every byte counts as used";
                self.note(Severity::Warning, &name, text);
                self.take(&device.member, 0..device.disk.size());
            }
        }
        for group in groups {
            self.add_group(group, &devices)?;
        }
        Ok(())
    }

    fn add_group(
        &mut self,
        group: VolumeGroup,
        devices: &[&Device<'a>],
    ) -> Result<(), SurveyError> {
        let certain = group.is_certain();
        let members: Vec<Member> = devices.iter().map(|device| device.member.clone()).collect();
        for member in &group.members {
            let Some(device) = member.device.and_then(|at| devices.get(at.0)) else {
                continue;
            };
            let size = device.disk.size();
            if certain {
                self.take(&device.member, 0..member.extents.start);
                self.take(&device.member, member.extents.end..size);
                self.follow(device);
            } else {
                self.take(&device.member, 0..size);
            }
        }
        self.findings.extend(group.findings.iter().cloned());
        for volume in &group.volumes {
            self.add_logical(&group, volume, &members, certain)?;
        }
        Ok(())
    }

    fn add_logical(
        &mut self,
        group: &VolumeGroup,
        volume: &LogicalVolume,
        members: &[Member],
        certain: bool,
    ) -> Result<(), SurveyError> {
        let name = format!("{}/{}", group.name, volume.name);
        let keep_whole = |builder: &mut Self| {
            for (place, len) in &volume.pieces {
                builder.take_place(members, *place, *len);
            }
        };
        if volume.covered {
            return Ok(());
        }
        let map = match &volume.map {
            Ok(map) if volume.visible => Arc::clone(map),
            Ok(_) => {
                keep_whole(self);
                return Ok(());
            }
            Err(why) => {
                if volume.visible {
                    self.note(Severity::Warning, &name, format!("{why}; kept as it is"));
                }
                keep_whole(self);
                return Ok(());
            }
        };
        for lost in map.lost() {
            let text = format!("incomplete: part of it lies on {lost}, which is missing");
            self.note(Severity::Warning, &name, text);
        }
        let plain = certain && !volume.shared && map.answers_for_its_legs();
        let top = StackVolume {
            of: VolumeOf::Lvm {
                group: group.name.clone(),
                group_id: group.id.to_string(),
                volume: volume.name.clone(),
                id: volume.id.map(|id| id.to_string()),
            },
            name,
            size: map.size(),
            map,
            members: members.to_vec(),
            probe: None,
            free_known: false,
            used_bytes: volume.size,
        };
        if !matches!(self.add_volume(top, plain, false)?, Added::Known) {
            keep_whole(self);
        }
        Ok(())
    }
}
