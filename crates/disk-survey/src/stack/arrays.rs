//! Members of arrays to arrays, and the used bytes of both.

use std::sync::Arc;

use block_io::BlockErrorKind;
use disk_layout::Severity;
use disk_layout::md::{MdArray, MdError, MdMember, MemberState, assemble, read_member};
use filesystems::probe::FsKind;

use super::build::{Added, Builder, Device};
use super::{StackVolume, VolumeOf};
use crate::survey::SurveyError;

/// Arrays of arrays of arrays: mdadm itself makes two.
const MOST_ROUNDS: usize = 4;

impl<'a> Builder<'a> {
    /// Add the arrays that `devices` are members of, and the arrays that those are members of. Arrays that
    /// are physical volumes join `devices`.
    pub(super) fn add_arrays(&mut self, devices: &mut Vec<Device<'a>>) -> Result<(), SurveyError> {
        let mut waiting = Vec::new();
        devices.retain_mut(|device| {
            let is_md = device.kind == FsKind::MdMember;
            if is_md {
                waiting.push(device.clone());
            }
            !is_md
        });
        for _ in 0..MOST_ROUNDS {
            if waiting.is_empty() {
                return Ok(());
            }
            let added = self.add_round(&waiting)?;
            let (arrays, others): (Vec<_>, Vec<_>) = added
                .into_iter()
                .partition(|device| device.kind == FsKind::MdMember);
            devices.extend(others);
            waiting = arrays;
        }
        for device in &waiting {
            let name = self.name_of(&device.member);
            let text = "arrays of arrays more than 4 deep: every byte counts as used";
            self.note(Severity::Doubtful, &name, text);
            self.take(&device.member, 0..device.disk.size());
        }
        Ok(())
    }

    fn add_round(&mut self, devices: &[Device<'a>]) -> Result<Vec<Device<'a>>, SurveyError> {
        let mut found: Vec<(&Device<'a>, MdMember)> = Vec::new();
        for device in devices {
            match read_member(&device.disk) {
                Ok(Some(member)) => found.push((device, member)),
                Ok(None) => self.take(&device.member, 0..device.disk.size()),
                Err(MdError::Disk(error)) if error.kind() != BlockErrorKind::Unreadable => {
                    return Err(error.into());
                }
                Err(error) => {
                    let name = self.name_of(&device.member);
                    let text = format!("{error}; every byte of it counts as used");
                    self.note(Severity::Doubtful, &name, text);
                    self.take(&device.member, 0..device.disk.size());
                }
            }
        }
        let members: Vec<&MdMember> = found.iter().map(|(_, member)| member).collect();
        let mut again = Vec::new();
        for array in assemble(&members) {
            again.extend(self.add_array(array, &found)?);
        }
        Ok(again)
    }

    /// What is in use of a member: everything outside its data, and of its data what the array uses. Of a
    /// member that takes no part, and of every member where anything is doubtful, all.
    fn add_array(
        &mut self,
        array: MdArray,
        found: &[(&Device<'a>, MdMember)],
    ) -> Result<Option<Device<'a>>, SurveyError> {
        let name = self.unused_name(array.label());
        self.findings.extend(array.findings.iter().cloned());
        let certain = array
            .findings
            .iter()
            .all(|f| f.severity < Severity::Doubtful);
        let plain = certain
            && array
                .map
                .as_ref()
                .is_ok_and(|map| map.answers_for_its_legs());
        for member in &array.members {
            let Some((device, about)) = member.device.and_then(|at| found.get(at.0)) else {
                continue;
            };
            let size = device.disk.size();
            let takes_part = matches!(
                member.state,
                MemberState::InSync(_) | MemberState::Rebuilding(_)
            );
            if plain && takes_part {
                self.take(&device.member, 0..about.data.start);
                self.take(&device.member, about.data.end..size);
                self.follow(device);
            } else {
                self.take(&device.member, 0..size);
            }
        }
        let map = match &array.map {
            Ok(map) => Arc::clone(map),
            Err(why) => {
                self.note(Severity::Warning, &name, format!("{why}; kept as it is"));
                return Ok(None);
            }
        };
        for lost in map.lost() {
            let text = format!("incomplete: part of it lies on {lost}, which is missing");
            self.note(Severity::Warning, &name, text);
        }
        let volume = StackVolume {
            of: VolumeOf::Md {
                id: array.id,
                name: array.name.clone(),
                level: array.level,
            },
            name,
            size: map.size(),
            used_bytes: map.size(),
            map,
            members: found
                .iter()
                .map(|(device, _)| device.member.clone())
                .collect(),
            probe: None,
            free_known: false,
        };
        Ok(match self.add_volume(volume, plain, true)? {
            Added::Member(device) => Some(device),
            Added::Known | Added::Whole => None,
        })
    }

    /// Two arrays may have one name: the later gets a number after it.
    fn unused_name(&self, name: String) -> String {
        let taken = |name: &str| self.volumes.iter().any(|volume| volume.name == name);
        match taken(&name) {
            false => name,
            true => (2..)
                .map(|number| format!("{name}_{number}"))
                .find(|name| !taken(name))
                .unwrap_or(name),
        }
    }
}
