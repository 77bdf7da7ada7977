//! From a level and its layout to a map.

use std::ops::Range;

use super::format::MdMember;
use crate::Severity;
use crate::volume::{
    DeviceIndex, MapError, Mapping, ParityLayout, Place, Segment, Source, VolumeMap,
};

/// Why an array cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MdUnusable {
    /// Nothing of it is there.
    #[error("no member of the array is there")]
    NoMembers,
    /// It is changing its shape: where a byte lies depends on how far that has come.
    #[error("the array is being reshaped; let that finish on the source, then try again")]
    Reshaping,
    /// Writes are still in a journal.
    #[error("the array has a write journal, which is not supported")]
    Journal,
    /// A level that is not known, or holds no data of its own.
    #[error("md level {level} is not supported")]
    Level {
        /// The level.
        level: i32,
    },
    /// A layout that the level does not have.
    #[error("md level {level}: layout {layout:#x} is not known")]
    Layout {
        /// The level.
        level: i32,
        /// The layout.
        layout: u32,
    },
    /// A RAID0 of members of different sizes, and it is not said by which kernel it was made.
    #[error(
        "RAID0 of members of different sizes without a recorded layout: kernels before and after \
         3.14 place its data differently; set the layout with mdadm --update=layout-original or \
         layout-alternate on the source"
    )]
    Raid0Layout,
    /// More members are missing than the level bears.
    #[error("too many members are missing: {missing} of {of}")]
    Missing {
        /// How many.
        missing: usize,
        /// Of how many.
        of: usize,
    },
    /// A member is missing and the parity is not in sync.
    #[error("a member is missing and the parity is not in sync")]
    DirtyDegraded,
    /// The numbers do not fit each other.
    #[error("impossible geometry: {0}")]
    Geometry(String),
}

impl From<MapError> for MdUnusable {
    fn from(error: MapError) -> Self {
        Self::Geometry(error.to_string())
    }
}

/// A member that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) device: DeviceIndex,
    pub(super) data: Range<u64>,
    pub(super) in_sync: bool,
    pub(super) bad_blocks: bool,
}

impl Slot {
    fn len(&self) -> u64 {
        self.data.end - self.data.start
    }

    /// From `down` bytes into its data on.
    fn source(&self, down: u64) -> Source {
        Source::Device(Place {
            device: self.device,
            offset: self.data.start.saturating_add(down),
        })
    }
}

type Notes = Vec<(Severity, String)>;

/// The map of the array that `newest` describes, over the members by number.
pub(super) fn map_of(
    newest: &MdMember,
    slots: &[Option<Slot>],
) -> Result<(VolumeMap, Notes), MdUnusable> {
    if newest.reshaping {
        return Err(MdUnusable::Reshaping);
    }
    if newest.journal {
        return Err(MdUnusable::Journal);
    }
    let mut notes = Notes::new();
    let bad = slots.iter().flatten().any(|slot| slot.bad_blocks);
    if bad && newest.level != 1 {
        let text = "members have lists of bad blocks, which are not followed";
        notes.push((Severity::Warning, text.to_owned()));
    }
    let map = match newest.level {
        -1 => linear(newest, slots)?,
        0 => raid0(newest, slots)?,
        1 => raid1(newest, slots, &mut notes)?,
        4..=6 => parity(newest, slots)?,
        10 => raid10(newest, slots)?,
        level => return Err(MdUnusable::Level { level }),
    };
    Ok((map, notes))
}

fn all_there(slots: &[Option<Slot>]) -> Result<Vec<&Slot>, MdUnusable> {
    let there: Vec<&Slot> = slots.iter().flatten().filter(|slot| slot.in_sync).collect();
    if there.is_empty() {
        return Err(MdUnusable::NoMembers);
    }
    match slots.len() - there.len() {
        0 => Ok(there),
        missing => Err(MdUnusable::Missing {
            missing,
            of: slots.len(),
        }),
    }
}

/// `len` rounded down to whole chunks.
fn whole_chunks(len: u64, chunk: u64) -> u64 {
    len.checked_div(chunk).map_or(len, |chunks| chunks * chunk)
}

// Linux drivers/md/md-linear.c, linear_conf.
fn linear(newest: &MdMember, slots: &[Option<Slot>]) -> Result<VolumeMap, MdUnusable> {
    let mut segments = Vec::new();
    let mut at = 0_u64;
    for slot in all_there(slots)? {
        let end = at.saturating_add(whole_chunks(slot.len(), newest.chunk));
        segments.push(Segment {
            at: at..end,
            mapping: Mapping::Linear(slot.source(0)),
        });
        at = end;
    }
    Ok(VolumeMap::new(segments)?)
}

/// Zones: over all members as far as the smallest goes, then over the others as far as the next goes.
// Linux drivers/md/raid0.c, create_strip_zones and map_sector.
fn raid0(newest: &MdMember, slots: &[Option<Slot>]) -> Result<VolumeMap, MdUnusable> {
    const ORIGINAL: u32 = 1;
    const ALTERNATE: u32 = 2;
    let members = all_there(slots)?;
    let chunk = newest.chunk;
    if chunk == 0 {
        return Err(MdUnusable::Geometry("a chunk size of 0".to_owned()));
    }
    let len = |slot: &Slot| whole_chunks(slot.len(), chunk);
    let mut segments: Vec<Segment> = Vec::new();
    let (mut at, mut down) = (0_u64, 0);
    loop {
        let zone: Vec<&&Slot> = members.iter().filter(|slot| len(slot) > down).collect();
        let Some(shortest) = zone.iter().map(|slot| len(slot)).min() else {
            break;
        };
        let count = zone.len() as u64;
        let first = match newest.layout {
            _ if segments.is_empty() => 0,
            ORIGINAL => (at / chunk) % count,
            ALTERNATE => 0,
            _ => return Err(MdUnusable::Raid0Layout),
        };
        let end = at.saturating_add((shortest - down).saturating_mul(count));
        segments.push(Segment {
            at: at..end,
            mapping: Mapping::Striped {
                chunk,
                first: first as usize,
                legs: zone.iter().map(|slot| slot.source(down)).collect(),
            },
        });
        at = end;
        down = shortest;
    }
    Ok(VolumeMap::new(segments)?)
}

fn raid1(
    newest: &MdMember,
    slots: &[Option<Slot>],
    notes: &mut Notes,
) -> Result<VolumeMap, MdUnusable> {
    let mut legs: Vec<(usize, &Slot)> = Vec::new();
    for (number, slot) in slots.iter().enumerate() {
        legs.extend(slot.as_ref().map(|slot| (number, slot)));
    }
    // In sync first, those without bad blocks before the others; the rest is written only.
    legs.sort_by_key(|(number, slot)| (!slot.in_sync, slot.bad_blocks, *number));
    let Some((number, first)) = legs.first().filter(|(_, slot)| slot.in_sync) else {
        return Err(MdUnusable::NoMembers);
    };
    notes.push((Severity::Note, format!("mirror, read from member {number}")));
    if first.bad_blocks {
        let text = "every member has a list of bad blocks, which is not followed";
        notes.push((Severity::Warning, text.to_owned()));
    }
    for (number, slot) in &legs {
        if slot.len() < newest.used_size {
            return Err(too_short(*number, slot, newest.used_size));
        }
    }
    let segment = Segment {
        at: 0..newest.used_size,
        mapping: Mapping::Mirrored(legs.iter().map(|(_, slot)| slot.source(0)).collect()),
    };
    Ok(VolumeMap::new(vec![segment])?)
}

fn too_short(number: usize, slot: &Slot, expected: u64) -> MdUnusable {
    MdUnusable::Geometry(format!(
        "member {number}: expected {expected} bytes of data, found {}",
        slot.len()
    ))
}

/// The members as legs; those that are missing or not in sync are lost.
fn legs_of(newest: &MdMember, slots: &[Option<Slot>]) -> Result<Vec<Source>, MdUnusable> {
    let mut legs = Vec::new();
    for (number, slot) in slots.iter().enumerate() {
        legs.push(match slot {
            Some(slot) if slot.in_sync => {
                if slot.len() < newest.used_size {
                    return Err(too_short(number, slot, newest.used_size));
                }
                slot.source(0)
            }
            Some(_) => Source::Lost(format!("member {number}, which is not rebuilt").into()),
            None => Source::Lost(format!("member {number} of the array").into()),
        });
    }
    Ok(legs)
}

fn count_lost(legs: &[Source]) -> usize {
    let lost = |leg: &&Source| matches!(leg, Source::Lost(_));
    legs.iter().filter(lost).count()
}

// Linux drivers/md/raid5.c, "layout"; the algorithms' numbers in raid5.h.
fn parity(newest: &MdMember, slots: &[Option<Slot>]) -> Result<VolumeMap, MdUnusable> {
    let level = newest.level;
    let parities = if level == 6 { 2 } else { 1 };
    let unknown = || MdUnusable::Layout {
        level,
        layout: newest.layout,
    };
    let (number, last_is_second) = match (level, newest.layout) {
        (4, _) => (5, false),
        (6, 16..=20) => (newest.layout - 16, true),
        (_, layout) => (layout, false),
    };
    let layout = match (number, level) {
        (0, _) => ParityLayout::LeftAsymmetric,
        (1, _) => ParityLayout::RightAsymmetric,
        (2, _) => ParityLayout::LeftSymmetric,
        (3, _) => ParityLayout::RightSymmetric,
        (4, _) => ParityLayout::ParityFirst,
        (5, _) => ParityLayout::ParityLast,
        (8, 6) => ParityLayout::RotatingZeroRestart,
        (9, 6) => ParityLayout::RotatingNRestart,
        (10, 6) => ParityLayout::RotatingNContinue,
        _ => return Err(unknown()),
    };
    let legs = legs_of(newest, slots)?;
    let missing = count_lost(&legs);
    let of = legs.len();
    if missing > 1 || of <= parities as usize {
        return Err(MdUnusable::Missing { missing, of });
    }
    if missing == 1 && !newest.clean {
        return Err(MdUnusable::DirtyDegraded);
    }
    let data = (of - parities as usize) as u64;
    let size = whole_chunks(newest.used_size, newest.chunk).checked_mul(data);
    let segment = Segment {
        at: 0..size.unwrap_or(0),
        mapping: Mapping::Parity {
            chunk: newest.chunk,
            parities,
            layout,
            last_is_second,
            legs,
        },
    };
    Ok(VolumeMap::new(vec![segment])?)
}

// Linux drivers/md/raid10.c, setup_geo and calc_sectors; md(4).
fn raid10(newest: &MdMember, slots: &[Option<Slot>]) -> Result<VolumeMap, MdUnusable> {
    let layout = newest.layout;
    let unknown = || MdUnusable::Layout { level: 10, layout };
    let (near, far) = (layout & 0xFF, layout >> 8 & 0xFF);
    let offset = layout & 0x1_0000 != 0;
    let legs = legs_of(newest, slots)?;
    let members = legs.len() as u64;
    let set = match layout >> 17 {
        0 => legs.len(),
        1 => legs.len() / (far as usize).max(1),
        2 => (far * near) as usize,
        _ => return Err(unknown()),
    };
    let copies = u64::from(near) * u64::from(far);
    let chunk = newest.chunk;
    if copies == 0 || copies > members || chunk == 0 {
        return Err(unknown());
    }
    let missing = count_lost(&legs);
    if missing as u64 >= members {
        return Err(MdUnusable::NoMembers);
    }
    let rows = newest.used_size / chunk;
    let chunks = (rows / u64::from(far)).saturating_mul(members) / u64::from(near);
    let used = chunks.saturating_mul(copies).div_ceil(members);
    let stride = if offset { 1 } else { used / u64::from(far) };
    let segment = Segment {
        at: 0..chunks.saturating_mul(chunk),
        mapping: Mapping::Raid10 {
            chunk,
            near,
            far,
            stride: stride.saturating_mul(chunk),
            offset,
            set,
            legs,
        },
    };
    Ok(VolumeMap::new(vec![segment])?)
}
