//! Segments to maps: each logical volume by way of the volumes and devices it is made of.

use std::collections::HashMap;
use std::sync::Arc;

use block_io::BlockRead;

use super::assemble::{LogicalVolume, Unusable, VolumeGroup};
use super::metadata::{GroupText, Leg, SegmentKind, SegmentText, VolumeText};
use super::raid;
use super::reader::PhysicalVolume;
use crate::Severity;
use crate::volume::{Mapping, Place, Segment, Source, VolumeMap};

/// Logical volumes inside logical volumes: LVM itself stops at four.
const DEEPEST: u32 = 8;

/// What is known of a logical volume while its group is put together.
enum State {
    Unbuilt,
    /// Being built further up: to meet it again is a circle.
    Building,
    Built(Result<Arc<VolumeMap>, Unusable>),
}

/// Builds the logical volumes of one group.
pub(super) struct Builder<'a> {
    text: &'a GroupText,
    group: &'a mut VolumeGroup,
    devices: &'a [(&'a dyn BlockRead, &'a PhysicalVolume)],
    by_name: HashMap<&'a str, usize>,
    members: HashMap<String, usize>,
    states: Vec<State>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        text: &'a GroupText,
        group: &'a mut VolumeGroup,
        devices: &'a [(&'a dyn BlockRead, &'a PhysicalVolume)],
    ) -> Self {
        let names = text.volumes.iter().enumerate();
        let members = group.members.iter().enumerate();
        let members = members
            .map(|(at, member)| (member.name.clone(), at))
            .collect();
        Self {
            text,
            by_name: names
                .map(|(at, volume)| (volume.name.as_str(), at))
                .collect(),
            members,
            states: text.volumes.iter().map(|_| State::Unbuilt).collect(),
            group,
            devices,
        }
    }

    pub(super) fn build(mut self) -> Vec<LogicalVolume> {
        let texts = &self.text.volumes;
        for index in 0..texts.len() {
            // The answer is kept in the state.
            let _ = self.volume(index, 0);
        }
        let mut volumes = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let pieces = self.pieces_of(text);
            let map = match self.states.get(index) {
                Some(State::Built(map)) => map.clone(),
                _ => Err(broken(text, "it is part of itself")),
            };
            let extents: u64 = text.segments.iter().map(|s| s.extents).sum();
            volumes.push(LogicalVolume {
                name: text.name.clone(),
                id: text.id,
                visible: text.visible,
                size: extents.saturating_mul(self.text.extent),
                map,
                pieces,
                covered: false,
                shared: false,
            });
        }
        self.mark_parts(&mut volumes);
        self.mark_covered(&mut volumes);
        volumes
    }

    /// The map of volume `index`, built now or before.
    fn volume(&mut self, index: usize, depth: u32) -> Result<Arc<VolumeMap>, Unusable> {
        let group = self.text;
        let Some(text) = group.volumes.get(index) else {
            return Err(Unusable::Broken {
                volume: String::new(),
                why: "no such volume".to_owned(),
            });
        };
        match self.states.get_mut(index) {
            Some(State::Built(map)) => return map.clone(),
            Some(State::Building) => return Err(broken(text, "it is part of itself")),
            Some(state) => *state = State::Building,
            None => {}
        }
        let built = if depth > DEEPEST {
            Err(broken(text, "volumes nested more than 8 deep"))
        } else {
            self.map_of(text, depth).map(Arc::new)
        };
        if let Some(state) = self.states.get_mut(index) {
            *state = State::Built(built.clone());
        }
        built
    }

    fn map_of(&mut self, text: &VolumeText, depth: u32) -> Result<VolumeMap, Unusable> {
        let extent = self.text.extent;
        let mut segments = Vec::new();
        for segment in &text.segments {
            let start = segment.start.saturating_mul(extent);
            let end = start.saturating_add(segment.extents.saturating_mul(extent));
            segments.push(Segment {
                at: start..end,
                mapping: self.mapping(text, segment, depth)?,
            });
        }
        VolumeMap::new(segments).map_err(|error| broken(text, error.to_string()))
    }

    fn mapping(
        &mut self,
        text: &VolumeText,
        segment: &SegmentText,
        depth: u32,
    ) -> Result<Mapping, Unusable> {
        match &segment.kind {
            SegmentKind::Zero => Ok(Mapping::Zero),
            SegmentKind::Striped { chunk, legs } => {
                let len = share_of(segment, legs.len());
                let mut legs = self.legs(text, legs, len, depth)?;
                match (legs.len(), legs.pop()) {
                    (1, Some(only)) => Ok(Mapping::Linear(only)),
                    (_, last) => Ok(Mapping::Striped {
                        chunk: *chunk,
                        first: 0,
                        legs: legs.into_iter().chain(last).collect(),
                    }),
                }
            }
            // The first leg is the primary: the kernel reads from it wherever the log does not call
            // the others in sync. // Linux drivers/md/dm-raid1.c
            SegmentKind::Mirror { legs } => Ok(Mapping::Mirrored(self.legs(
                text,
                legs,
                segment.extents,
                depth,
            )?)),
            SegmentKind::Raid {
                level,
                chunk,
                pairs,
            } => self.raid(text, level, *chunk, pairs, depth),
            SegmentKind::Other { kind, names } => {
                self.report_unknown(text, kind, names);
                Err(Unusable::Kind {
                    volume: text.name.clone(),
                    kind: kind.clone(),
                })
            }
        }
    }

    fn legs(
        &mut self,
        text: &VolumeText,
        legs: &[Leg],
        extents: u64,
        depth: u32,
    ) -> Result<Vec<Source>, Unusable> {
        legs.iter()
            .map(|leg| self.leg(text, leg, extents, depth))
            .collect()
    }

    /// A leg of which `extents` are used.
    fn leg(
        &mut self,
        text: &VolumeText,
        leg: &Leg,
        extents: u64,
        depth: u32,
    ) -> Result<Source, Unusable> {
        let offset = leg.extent.saturating_mul(self.text.extent);
        let end = offset.saturating_add(extents.saturating_mul(self.text.extent));
        let member = self
            .members
            .get(&leg.of)
            .and_then(|at| self.group.members.get(*at));
        if let Some(member) = member {
            let place = &member.extents;
            if end > place.end.saturating_sub(place.start) {
                let why = format!(
                    "extents {} and {extents} on reach past the end of {}",
                    leg.extent, leg.of
                );
                return Err(broken(text, why));
            }
            let volume = member.device.and_then(|device| {
                let (_, volume) = self.devices.get(device.0)?;
                Some((device, *volume))
            });
            let hint = member.hint.as_deref().unwrap_or("an unknown device");
            let Some((device, volume)) = volume else {
                let name = format!("physical volume {} ({hint})", member.id);
                return Ok(Source::Lost(name.into()));
            };
            if place.start.saturating_add(end) > volume.size {
                let name = format!("the end of physical volume {} ({hint})", member.id);
                return Ok(Source::Lost(name.into()));
            }
            return Ok(Source::Device(Place {
                device,
                offset: place.start.saturating_add(offset),
            }));
        }
        let Some(index) = self.by_name.get(leg.of.as_str()).copied() else {
            let why = format!("it is made of {}, which its group does not have", leg.of);
            return Err(broken(text, why));
        };
        let map = self.volume(index, depth + 1)?;
        Ok(Source::Volume { map, offset })
    }

    fn raid(
        &mut self,
        text: &VolumeText,
        level: &str,
        chunk: u64,
        pairs: &[(Option<String>, String)],
        depth: u32,
    ) -> Result<Mapping, Unusable> {
        let mut legs = Vec::new();
        let mut states = Vec::new();
        for (meta, data) in pairs {
            let leg = Leg {
                of: data.clone(),
                extent: 0,
            };
            let source = self.leg(text, &leg, 0, depth)?;
            let lost = match &source {
                Source::Volume { map, .. } => map.lost().into_iter().next(),
                _ => None,
            };
            legs.push(lost.map_or(source, Source::Lost));
            states.push(self.raid_state(meta.as_deref(), depth));
        }
        let plan = raid::Plan {
            level,
            chunk,
            names: pairs.iter().map(|(_, data)| data.as_str()).collect(),
        };
        let (mapping, notes) = plan
            .mapping(legs, &states)
            .map_err(|why| why.at(&text.name))?;
        for note in notes {
            let note = format!("logical volume {}: {note}", text.name);
            self.group.note(Severity::Note, note);
        }
        Ok(mapping)
    }

    /// What the metadata volume of a RAID's leg says; nothing where it cannot be read.
    fn raid_state(&mut self, meta: Option<&str>, depth: u32) -> Option<raid::State> {
        let index = self.by_name.get(meta?).copied()?;
        let map = self.volume(index, depth + 1).ok()?;
        let disks: Vec<&dyn BlockRead> = self.devices.iter().map(|(disk, _)| *disk).collect();
        raid::read_state(&crate::volume::VolumeDisk::new(map, disks, "RAID metadata"))
    }

    /// A kind that is not known may lie directly on devices in a way that is not known either.
    fn report_unknown(&mut self, text: &VolumeText, kind: &str, names: &[String]) {
        if names.iter().any(|name| self.members.contains_key(name)) {
            let note = format!(
                "logical volume {} is of kind {kind}, which is not known, and lies on physical volumes",
                text.name
            );
            self.group.note(Severity::Doubtful, note);
        }
    }

    /// The runs of devices that the segments of one volume name themselves.
    fn pieces_of(&self, text: &VolumeText) -> Vec<(Place, u64)> {
        let mut pieces = Vec::new();
        for segment in &text.segments {
            let (legs, share): (&[Leg], usize) = match &segment.kind {
                SegmentKind::Striped { legs, .. } => (legs, legs.len()),
                SegmentKind::Mirror { legs } => (legs, 1),
                _ => continue,
            };
            let extents = share_of(segment, share);
            for leg in legs {
                let member = self.members.get(&leg.of);
                let Some(member) = member.and_then(|at| self.group.members.get(*at)) else {
                    continue;
                };
                let Some(device) = member.device else {
                    continue;
                };
                let offset = leg.extent.saturating_mul(self.text.extent);
                pieces.push((
                    Place {
                        device,
                        offset: member.extents.start.saturating_add(offset),
                    },
                    extents.saturating_mul(self.text.extent),
                ));
            }
        }
        pieces
    }

    /// What volumes of kinds that are not read say of others: those are parts of them and no volumes by
    /// themselves. The origin of a snapshot is one, but the snapshot needs its old blocks.
    // LVM2 lib/snapshot/snapshot.c: a third volume names the origin and the store of what changed.
    fn mark_parts(&self, volumes: &mut [LogicalVolume]) {
        let texts = self.text.volumes.iter().enumerate();
        let segments = texts.flat_map(|(at, text)| text.segments.iter().map(move |s| (at, s)));
        for (at, segment) in segments {
            let SegmentKind::Other { kind, names } = &segment.kind else {
                continue;
            };
            // The user knows a snapshot by the name of its store.
            if kind == "snapshot"
                && let Some(volume) = volumes.get_mut(at)
            {
                volume.visible = false;
            }
            for name in names {
                let at = self.by_name.get(name.as_str());
                let Some(volume) = at.and_then(|at| volumes.get_mut(*at)) else {
                    continue;
                };
                match kind.as_str() {
                    "thin" => volume.shared = true,
                    "snapshot" if !is_store(segment, name) => volume.shared = true,
                    "snapshot" => {
                        volume.visible = true;
                        volume.map = Err(Unusable::Kind {
                            volume: volume.name.clone(),
                            kind: kind.clone(),
                        });
                    }
                    _ => {
                        volume.map = Err(Unusable::Kind {
                            volume: volume.name.clone(),
                            kind: format!("part of a {kind}"),
                        });
                    }
                }
            }
        }
    }

    /// Only a volume that can be read answers for the bytes of its parts.
    fn mark_covered(&self, volumes: &mut [LogicalVolume]) {
        for (at, text) in self.text.volumes.iter().enumerate() {
            let map = volumes.get(at).and_then(|volume| volume.map.as_ref().ok());
            if !map.is_some_and(|map| map.answers_for_its_legs()) {
                continue;
            }
            for segment in &text.segments {
                let parts: Vec<&str> = match &segment.kind {
                    SegmentKind::Striped { legs, .. } | SegmentKind::Mirror { legs } => {
                        legs.iter().map(|leg| leg.of.as_str()).collect()
                    }
                    SegmentKind::Raid { pairs, .. } => {
                        pairs.iter().map(|(_, data)| data.as_str()).collect()
                    }
                    SegmentKind::Zero | SegmentKind::Other { .. } => Vec::new(),
                };
                for part in parts {
                    let at = self.by_name.get(part);
                    if let Some(volume) = at.and_then(|at| volumes.get_mut(*at)) {
                        volume.covered = true;
                    }
                }
            }
        }
    }
}

/// How many extents of each of `legs` a striped segment takes.
fn share_of(segment: &SegmentText, legs: usize) -> u64 {
    segment.extents.div_ceil(legs.max(1) as u64)
}

/// Whether `name` is the store of changes of a snapshot segment: the reader keeps names in the order of
/// their fields, `cow_store` or `merging_store` before `origin`.
fn is_store(segment: &SegmentText, name: &str) -> bool {
    matches!(&segment.kind, SegmentKind::Other { names, .. }
        if names.first().is_some_and(|first| first == name))
}

pub(super) fn broken(text: &VolumeText, why: impl Into<String>) -> Unusable {
    Unusable::Broken {
        volume: text.name.clone(),
        why: why.into(),
    }
}
