//! From the disks up: who is a member of what, what that holds, and what of it is in use.

use std::ops::Range;
use std::sync::Arc;

use block_io::{BlockRead, Window};
use disk_layout::Severity;
use disk_layout::volume::{Place, VolumeFinding};
use filesystems::probe::{FsKind, Probe};

use super::open::open_over;
use super::{Member, Stack, StackVolume};
use crate::content::{LeaveOut, Remarks, find_used, identify};
use crate::draft::{Draft, is_member};
use crate::survey::SurveyError;

/// Look at the disks of one machine together, in any order.
///
/// What is in use of a physical volume: its label and metadata, the used blocks of the file systems in its
/// logical volumes, and whole logical volumes of other content. Where anything about a volume group is
/// doubtful, or one of its physical volumes is missing, all of it. Every leg of a mirror counts, since the
/// guest will read from any.
///
/// # Errors
/// [`SurveyError`] where a disk fails otherwise than by bad sectors. Damage is findings.
pub fn survey_all(disks: &[&dyn BlockRead]) -> Result<Stack, SurveyError> {
    survey_all_but(disks, LeaveOut::default())
}

/// As [`survey_all`]; what `leave_out` names counts as free.
///
/// # Errors
/// As [`survey_all`].
pub fn survey_all_but(disks: &[&dyn BlockRead], leave_out: LeaveOut) -> Result<Stack, SurveyError> {
    build(disks, Some(leave_out))
}

/// As [`survey_all`], without asking any file system which of its blocks are in use: every byte of every
/// disk counts as used. For whoever wants to know what volumes there are, and open them.
///
/// # Errors
/// As [`survey_all`].
pub fn find_volumes(disks: &[&dyn BlockRead]) -> Result<Stack, SurveyError> {
    build(disks, None)
}

fn build(disks: &[&dyn BlockRead], leave_out: Option<LeaveOut>) -> Result<Stack, SurveyError> {
    let drafts = disks.iter().map(|disk| Draft::of(*disk, leave_out));
    let drafts = drafts.collect::<Result<Vec<_>, SurveyError>>()?;
    let shared = disks
        .iter()
        .map(|disk| Arc::new(*disk) as Arc<dyn BlockRead + '_>);
    let mut builder = Builder {
        disks: shared.collect(),
        free_wanted: leave_out.is_some(),
        followed: drafts.iter().map(|_| Vec::new()).collect(),
        drafts,
        volumes: Vec::new(),
        findings: Vec::new(),
        leave_out: leave_out.unwrap_or_default(),
    };
    let mut devices = builder.find_devices()?;
    builder.add_arrays(&mut devices)?;
    builder.add_groups(&devices)?;
    let Builder {
        drafts,
        followed,
        volumes,
        findings,
        ..
    } = builder;
    let finished = drafts.into_iter().zip(&followed);
    Ok(Stack {
        disks: finished
            .map(|(draft, followed)| draft.finish(followed))
            .collect(),
        volumes,
        findings,
    })
}

/// A partition, a disk or a volume that is a member of something.
#[derive(Clone)]
pub(super) struct Device<'a> {
    pub(super) member: Member,
    pub(super) disk: Arc<dyn BlockRead + 'a>,
    pub(super) kind: FsKind,
    /// Where it stands in its disk's survey.
    pub(super) home: Option<(usize, usize)>,
}

/// What became of a volume that was added.
pub(super) enum Added<'a> {
    /// Its free bytes are known.
    Known,
    /// All of it counts as used.
    Whole,
    /// It is a member of something again.
    Member(Device<'a>),
}

pub(super) struct Builder<'a> {
    disks: Vec<Arc<dyn BlockRead + 'a>>,
    free_wanted: bool,
    drafts: Vec<Draft>,
    /// For each disk, its volumes whose free bytes are known by what they are members of.
    followed: Vec<Vec<usize>>,
    pub(super) volumes: Vec<StackVolume>,
    pub(super) findings: Vec<VolumeFinding>,
    leave_out: LeaveOut,
}

impl<'a> Builder<'a> {
    pub(super) fn note(&mut self, severity: Severity, subject: &str, text: impl Into<String>) {
        self.findings.push(VolumeFinding {
            severity,
            subject: subject.to_owned(),
            text: text.into(),
        });
    }

    /// The partitions and disks that are members of something.
    fn find_devices(&self) -> Result<Vec<Device<'a>>, SurveyError> {
        let mut devices = Vec::new();
        for (index, (draft, disk)) in self.drafts.iter().zip(&self.disks).enumerate() {
            for at in draft.members() {
                let Some(volume) = draft.volumes.get(at) else {
                    continue;
                };
                let Some(probe) = &volume.probe else { continue };
                devices.push(Device {
                    member: Member::Partition {
                        disk: index,
                        partition: volume.partition,
                        range: volume.range.clone(),
                    },
                    disk: Arc::new(Window::new(Arc::clone(disk), volume.range.clone())?),
                    kind: probe.kind,
                    home: Some((index, at)),
                });
            }
        }
        Ok(devices)
    }

    /// Take `range` of `member` for used, down to the disks.
    pub(super) fn take(&mut self, member: &Member, range: Range<u64>) {
        match member {
            Member::Partition {
                disk, range: whole, ..
            } => {
                let start = whole.start.saturating_add(range.start).min(whole.end);
                let end = whole.start.saturating_add(range.end).min(whole.end);
                if let Some(draft) = self.drafts.get_mut(*disk) {
                    draft.take(start..end);
                }
            }
            Member::Volume(index) => {
                let Some(volume) = self.volumes.get(*index) else {
                    return;
                };
                let (map, members) = (Arc::clone(&volume.map), volume.members.clone());
                map.places(range, &mut |place, len| {
                    self.take_place(&members, place, len)
                });
            }
        }
    }

    pub(super) fn take_place(&mut self, members: &[Member], place: Place, len: u64) {
        if let Some(member) = members.get(place.device.0) {
            self.take(member, place.offset..place.offset.saturating_add(len));
        }
    }

    /// The free bytes of this device are known by what it is a member of.
    pub(super) fn follow(&mut self, device: &Device<'a>) {
        if let Some((disk, at)) = device.home
            && let Some(followed) = self.followed.get_mut(disk)
        {
            followed.push(at);
        }
    }

    pub(super) fn name_of(&self, member: &Member) -> String {
        match member {
            Member::Partition {
                disk,
                partition: Some(number),
                ..
            } => format!("disk {disk} partition {number}"),
            Member::Partition { disk, .. } => format!("disk {disk}"),
            Member::Volume(index) => self
                .volumes
                .get(*index)
                .map_or(String::new(), |volume| volume.name.clone()),
        }
    }

    /// Add a volume, look at what it holds, and take what is in use of it; its free bytes are asked for
    /// only if `free_wanted`. What is a member of something again is left for later.
    pub(super) fn add_volume(
        &mut self,
        volume: StackVolume,
        free_wanted: bool,
        members_follow: bool,
    ) -> Result<Added<'a>, SurveyError> {
        let index = self.volumes.len();
        let free_wanted = free_wanted && self.free_wanted;
        let name = volume.name.clone();
        let complete = volume.is_complete();
        self.volumes.push(volume);
        let disk = open_over(&self.volumes, index, &self.disks)?;
        let mut remarks = Remarks::new();
        let probe = match identify(&disk, &mut remarks) {
            // Its first bytes may lie on what is missing.
            Err(_) if !complete => None,
            found => found?,
        };
        let kind = probe.as_ref().map(|probe: &Probe| probe.kind);
        let this = Member::Volume(index);
        let follow = kind.filter(|kind| members_follow && is_member(*kind));
        let mut sum = None;
        match kind.filter(|kind| free_wanted && complete && !is_member(*kind)) {
            Some(kind) => {
                let leave_out = self.leave_out;
                let mut sink = |range| self.take(&this, range);
                sum = find_used(&disk, kind, leave_out, &mut remarks, &mut sink)?;
                if sum.is_none() {
                    self.take(&this, 0..disk.size());
                }
            }
            None if free_wanted && complete && follow.is_some() => {}
            None => self.take(&this, 0..disk.size()),
        }
        for (severity, text) in remarks {
            self.note(severity, &name, text);
        }
        if let Some(volume) = self.volumes.get_mut(index) {
            volume.probe = probe;
            volume.free_known = sum.is_some();
            volume.used_bytes = sum.unwrap_or(volume.used_bytes);
        }
        Ok(match follow {
            Some(kind) => Added::Member(Device {
                member: this,
                disk,
                kind,
                home: None,
            }),
            None if sum.is_some() => Added::Known,
            None => Added::Whole,
        })
    }
}
