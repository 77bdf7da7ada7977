//! Physical volumes to volume groups: whose metadata is newest, who belongs to it, who is missing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use block_io::BlockRead;

use super::format::LvmId;
use super::metadata::{GroupText, MemberText};
use super::pieces::Builder;
use super::reader::PhysicalVolume;
use crate::Severity;
use crate::volume::{DeviceIndex, Place, VolumeFinding, VolumeMap};

/// A volume group.
#[derive(Debug, Clone)]
pub struct VolumeGroup {
    /// Its name. Two groups may have one; their ids differ.
    pub name: String,
    /// Its id.
    pub id: LvmId,
    /// The sequence number of the metadata in force.
    pub seqno: u64,
    /// Bytes of an extent.
    pub extent_size: u64,
    /// Its physical volumes, missing ones among them.
    pub members: Vec<GroupMember>,
    /// Its logical volumes by name, those it only uses inside others among them.
    pub volumes: Vec<LogicalVolume>,
    /// What was noticed. A doubtful finding: every byte of every member counts as used.
    pub findings: Vec<VolumeFinding>,
}

/// A physical volume as its group knows it.
#[derive(Debug, Clone)]
pub struct GroupMember {
    /// Its id.
    pub id: LvmId,
    /// Where it was when last seen, as the group remembers: `/dev/sdb2`.
    pub hint: Option<String>,
    /// The device it is on; `None` where it is missing.
    pub device: Option<DeviceIndex>,
    /// The bytes of the device that hold extents. What lies outside, label and metadata, is in use.
    pub extents: Range<u64>,
    pub(super) name: String,
}

/// A logical volume.
#[derive(Debug, Clone)]
pub struct LogicalVolume {
    /// Its name inside its group.
    pub name: String,
    /// Its id.
    pub id: Option<LvmId>,
    /// Whether it is one for users, not a part of another.
    pub visible: bool,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes lie, or why they cannot be read.
    pub map: Result<Arc<VolumeMap>, Unusable>,
    /// The runs of devices that belong to it itself, and not to volumes it is made of.
    pub pieces: Vec<(Place, u64)>,
    /// It is the data of another volume that can be read: that one's bytes are its own.
    pub covered: bool,
    /// Others keep data in its blocks that its file system calls free: it has snapshots.
    pub shared: bool,
}

/// Why a logical volume cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Of a kind that is not supported.
    #[error("logical volume {volume}: {kind} is not supported")]
    Kind {
        /// The volume.
        volume: String,
        /// The kind as LVM names it.
        kind: String,
    },
    /// It does not hang together.
    #[error("logical volume {volume}: {why}")]
    Broken {
        /// The volume.
        volume: String,
        /// Why.
        why: String,
    },
}

impl VolumeGroup {
    /// Whether free extents, and free blocks in volumes, may count as free.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.severity < Severity::Doubtful)
    }
}

/// Put the physical volumes of a machine together. Each [`DeviceIndex`] in the answer counts in `devices`.
/// The devices are read for the state of RAID volumes only.
#[must_use]
pub fn assemble(devices: &[(&dyn BlockRead, &PhysicalVolume)]) -> Vec<VolumeGroup> {
    let mut newest: BTreeMap<LvmId, Newest> = BTreeMap::new();
    for (_, volume) in devices {
        for copy in &volume.copies {
            match newest.get_mut(&copy.group.id) {
                Some(known) => known.consider(&copy.group),
                None => {
                    newest.insert(copy.group.id, Newest::new(&copy.group));
                }
            }
        }
    }
    let names: Vec<(String, LvmId)> = newest
        .values()
        .map(|newest| (newest.group.name.clone(), newest.group.id))
        .collect();
    newest
        .into_values()
        .map(|newest| {
            let mut group = build(&newest, devices);
            report_namesakes(&mut group, &names);
            group
        })
        .collect()
}

/// The newest copy of a group's metadata seen so far.
struct Newest<'a> {
    group: &'a GroupText,
    /// The oldest valid copy that is not it.
    stale: Option<u64>,
    /// Another of the same number says something else.
    disputed: bool,
}

impl<'a> Newest<'a> {
    fn new(group: &'a GroupText) -> Self {
        Self {
            group,
            stale: None,
            disputed: false,
        }
    }

    fn consider(&mut self, other: &'a GroupText) {
        let (older, newer) = if other.seqno > self.group.seqno {
            self.disputed = false;
            (self.group, other)
        } else {
            (other, self.group)
        };
        if older.seqno == newer.seqno {
            self.disputed |= older != newer;
        } else {
            self.stale = Some(self.stale.map_or(older.seqno, |s| s.min(older.seqno)));
        }
        self.group = newer;
    }
}

fn build(newest: &Newest, devices: &[(&dyn BlockRead, &PhysicalVolume)]) -> VolumeGroup {
    let text = newest.group;
    let mut group = VolumeGroup {
        name: text.name.clone(),
        id: text.id,
        seqno: text.seqno,
        extent_size: text.extent,
        members: Vec::new(),
        volumes: Vec::new(),
        findings: Vec::new(),
    };
    if let Some(stale) = newest.stale {
        let text = format!(
            "copies of the metadata differ in age: the newest, number {}, is used, the oldest is \
             number {stale}",
            text.seqno
        );
        group.note(Severity::Warning, text);
    }
    if newest.disputed {
        let text = format!(
            "two copies of the metadata with number {} differ",
            text.seqno
        );
        group.note(Severity::Doubtful, text);
    }
    for member in &text.members {
        let member = group.find_member(member, devices);
        group.members.push(member);
    }
    group.report_left_out(devices);
    group.volumes = Builder::new(text, &mut group, devices).build();
    group.check_overlaps();
    group
}

impl VolumeGroup {
    pub(super) fn note(&mut self, severity: Severity, text: impl Into<String>) {
        let subject = format!("volume group {}", self.name);
        self.findings
            .push(VolumeFinding::new(severity, subject, text));
    }

    fn find_member(
        &mut self,
        member: &MemberText,
        devices: &[(&dyn BlockRead, &PhysicalVolume)],
    ) -> GroupMember {
        let mut found = devices
            .iter()
            .enumerate()
            .filter(|(_, (_, volume))| volume.id == member.id);
        let device = found.next();
        let hint = member
            .device
            .as_deref()
            .map_or(String::new(), |hint| format!(", last seen as {hint}"));
        if found.next().is_some() {
            let text = format!(
                "more than one device is physical volume {}: the first is used",
                member.id
            );
            self.note(Severity::Doubtful, text);
        }
        let length = member.extents.saturating_mul(self.extent_size);
        let extents = member.start..member.start.saturating_add(length);
        match device {
            None => {
                let text = format!(
                    "physical volume {}{hint} is missing; newer metadata may be on it",
                    member.id
                );
                self.note(Severity::Doubtful, text);
            }
            Some((_, (_, volume))) => self.check_place(volume, &extents),
        }
        if member.missing && device.is_some() {
            let text = format!(
                "physical volume {} is here, and the group had given it up as missing: what is on \
                 it may be old",
                member.id
            );
            self.note(Severity::Doubtful, text);
        }
        GroupMember {
            id: member.id,
            hint: member.device.clone(),
            device: device.map(|(index, _)| DeviceIndex(index)),
            extents,
            name: member.name.clone(),
        }
    }

    fn check_place(&mut self, volume: &PhysicalVolume, extents: &Range<u64>) {
        if extents.end > volume.size {
            let text = format!(
                "physical volume {}: expected extents up to byte {}, found a device that ends at {}",
                volume.id, extents.end, volume.size
            );
            self.note(Severity::Doubtful, text);
        }
        if let Some(area) = volume.data_areas.first()
            && area.offset != extents.start
        {
            let text = format!(
                "physical volume {}: its header says extents begin at byte {}, the metadata {}; the \
                 metadata is used, as LVM does",
                volume.id, area.offset, extents.start
            );
            self.note(Severity::Doubtful, text);
        }
    }

    /// Devices with metadata of this group which the newest metadata does not count as members.
    fn report_left_out(&mut self, devices: &[(&dyn BlockRead, &PhysicalVolume)]) {
        for (_, volume) in devices {
            let speaks = volume.copies.iter().any(|copy| copy.group.id == self.id);
            if speaks && self.members.iter().all(|member| member.id != volume.id) {
                let text = format!(
                    "physical volume {} has metadata of this group, which no longer counts it as a \
                     member",
                    volume.id
                );
                self.note(Severity::Warning, text);
            }
        }
    }

    /// No byte of a device may belong to two logical volumes.
    fn check_overlaps(&mut self) {
        let mut pieces: Vec<(Place, u64, usize)> = Vec::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            let own = volume.pieces.iter();
            pieces.extend(own.map(|(place, len)| (*place, *len, index)));
        }
        pieces.sort_unstable();
        let mut reach: Option<(Place, u64, usize)> = None;
        let mut clash = None;
        for piece in pieces {
            if let Some((place, len, index)) = reach
                && place.device == piece.0.device
                && place.offset.saturating_add(len) > piece.0.offset
            {
                clash = Some((index, piece.2, piece.0.offset));
                break;
            }
            reach = Some(piece);
        }
        if let Some((first, second, at)) = clash {
            let name = |index: usize| self.volumes.get(index).map_or("", |v| v.name.as_str());
            let text = format!(
                "logical volumes {} and {} overlap at byte {at} of a physical volume",
                name(first),
                name(second)
            );
            self.note(Severity::Doubtful, text);
        }
    }
}

fn report_namesakes(group: &mut VolumeGroup, names: &[(String, LvmId)]) {
    for (name, id) in names {
        if *name == group.name && *id != group.id {
            let text = format!(
                "another volume group has this name: this one is {}, the other {id}",
                group.id
            );
            group.note(Severity::Warning, text);
        }
    }
}
