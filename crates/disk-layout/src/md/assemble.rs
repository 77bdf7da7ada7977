//! Members to arrays: who is fresh, who is stale, who is missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::format::{MdMember, MdVersion, Role};
use super::levels::{MdUnusable, Slot, map_of};
use crate::Severity;
use crate::volume::{DeviceIndex, VolumeFinding, VolumeMap};

/// An array.
#[derive(Debug, Clone)]
pub struct MdArray {
    /// Its id.
    pub id: Uuid,
    /// Its name, 1.x only.
    pub name: Option<String>,
    /// Which superblocks it has.
    pub version: MdVersion,
    /// Which kind: 0, 1, 4, 5, 6, 10, -1 for linear.
    pub level: i32,
    /// Its members that are there, and those that are missing.
    pub members: Vec<ArrayMember>,
    /// Where its bytes lie, or why they cannot be read.
    pub map: Result<Arc<VolumeMap>, MdUnusable>,
    /// What was noticed.
    pub findings: Vec<VolumeFinding>,
}

/// A member as the array sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayMember {
    /// The device; `None` where it is missing.
    pub device: Option<DeviceIndex>,
    /// What it is.
    pub state: MemberState,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// In its place and in sync.
    InSync(u32),
    /// In its place, and not rebuilt to its end.
    Rebuilding(u32),
    /// Nobody is in this place.
    Missing(u32),
    /// It was left behind when others went on, or the others call it failed.
    Stale,
    /// It waits, and holds nothing.
    Spare,
}

impl MdArray {
    /// What to call it: its name without the host's, or its id.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("md/{}", name.rsplit(':').next().unwrap_or(name)),
            None => format!("md/{}", self.id),
        }
    }
}

/// Put the members on a machine together. Each [`DeviceIndex`] in the answer counts in `members`.
#[must_use]
pub fn assemble(members: &[&MdMember]) -> Vec<MdArray> {
    let mut arrays: BTreeMap<Uuid, Vec<(DeviceIndex, &MdMember)>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        let array = arrays.entry(member.array).or_default();
        array.push((DeviceIndex(index), member));
    }
    arrays
        .into_values()
        .filter_map(|members| {
            let newest = members.iter().max_by_key(|(_, member)| member.events)?.1;
            Some(build(newest, &members))
        })
        .collect()
}

fn build(newest: &MdMember, members: &[(DeviceIndex, &MdMember)]) -> MdArray {
    let mut array = MdArray {
        id: newest.array,
        name: newest.name.clone(),
        version: newest.version,
        level: newest.level,
        members: Vec::new(),
        map: Err(MdUnusable::NoMembers),
        findings: Vec::new(),
    };
    let mut slots: Vec<Option<Slot>> = vec![None; newest.raid_disks.min(4096) as usize];
    for (device, member) in members {
        let state = array.place(newest, *device, member, &mut slots);
        array.members.push(ArrayMember {
            device: Some(*device),
            state,
        });
    }
    for (number, slot) in slots.iter().enumerate() {
        if slot.is_none() {
            array.members.push(ArrayMember {
                device: None,
                state: MemberState::Missing(number as u32),
            });
            array.note(Severity::Warning, format!("member {number} is missing"));
        }
    }
    if newest.version == MdVersion::V090BigEndian {
        let text =
            "its superblocks were made by a big-endian machine: Linux on x86 does not know them";
        array.note(Severity::Warning, text);
    }
    match map_of(newest, &slots) {
        Ok((map, notes)) => {
            for (severity, note) in notes {
                array.note(severity, note);
            }
            array.map = Ok(Arc::new(map));
        }
        Err(why) => array.map = Err(why),
    }
    array
}

impl MdArray {
    fn note(&mut self, severity: Severity, text: impl Into<String>) {
        let subject = format!("md array {}", self.label());
        self.findings
            .push(VolumeFinding::new(severity, subject, text));
    }

    /// Where `member` belongs, by what the newest one knows.
    fn place(
        &mut self,
        newest: &MdMember,
        device: DeviceIndex,
        member: &MdMember,
        slots: &mut [Option<Slot>],
    ) -> MemberState {
        let Role::Active(number) = member.role else {
            return match member.role {
                Role::Faulty => MemberState::Stale,
                _ => MemberState::Spare,
            };
        };
        // Linux drivers/md/md.c: one event less is what a crash between two updates leaves.
        let stale = member.events.saturating_add(1) < newest.events;
        let known = newest.roles.get(member.device_number as usize).copied();
        if stale || known != Some(member.role) {
            let text = format!(
                "member {number} is stale and left out: it has seen {} events, the others {}; what \
                 changes from now on, it does not get",
                member.events, newest.events
            );
            self.note(Severity::Warning, text);
            return MemberState::Stale;
        }
        let rebuilding = member.rebuilt_to.is_some_and(|to| to < member.used_size);
        let Some(slot) = slots.get_mut(number as usize) else {
            let text = format!(
                "a member says it is number {number} of {}: left out",
                newest.raid_disks
            );
            self.note(Severity::Doubtful, text);
            return MemberState::Stale;
        };
        if slot.is_some() {
            let text = format!("more than one device is member {number}: the first is used");
            self.note(Severity::Doubtful, text);
            return MemberState::Stale;
        }
        *slot = Some(Slot {
            device,
            data: member.data.clone(),
            in_sync: !rebuilding,
            bad_blocks: member.bad_blocks,
        });
        if rebuilding {
            self.note(
                Severity::Warning,
                format!("member {number} is not rebuilt yet and not read"),
            );
            return MemberState::Rebuilding(number);
        }
        MemberState::InSync(number)
    }
}
