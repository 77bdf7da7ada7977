//! Where a byte of a volume lies, and for how long that answer holds.

use std::ops::Range;
use std::sync::Arc;

use super::map::{Mapping, ParityLayout, VolumeMap};
use super::{Place, Source};

/// Where a run of a volume lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// For how many bytes the answer holds. Never 0.
    pub len: u64,
    /// Where.
    pub at: Whereabouts,
}

/// One of the ways a run can lie on devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Nowhere: it reads as zeroes and cannot be written.
    Zero,
    /// At one place.
    One(Place),
    /// At several. The first is read, every one is written.
    Copies(Vec<Place>),
    /// At one place, with parity elsewhere that writing would make wrong.
    Guarded(Place),
    /// In the exclusive or of these. Not written.
    Xor(Vec<Place>),
    /// On a device that is not there.
    Lost(Arc<str>),
}

impl Whereabouts {
    /// The place that is read, where one alone is.
    fn read_from(&self) -> Option<Place> {
        match self {
            Self::One(place) | Self::Guarded(place) => Some(*place),
            Self::Copies(places) => places.first().copied(),
            Self::Zero | Self::Xor(_) | Self::Lost(_) => None,
        }
    }
}

impl VolumeMap {
    /// Where the byte at `offset` lies. `None` past the end.
    #[must_use]
    pub fn locate(&self, offset: u64) -> Option<Located> {
        let index = self
            .segments
            .partition_point(|segment| segment.at.end <= offset);
        let segment = self.segments.get(index)?;
        let within = offset.checked_sub(segment.at.start)?;
        let mut located = segment.mapping.locate(within);
        located.len = located.len.min(segment.at.end - offset);
        Some(located)
    }

    /// Every run of every device that bytes of `range` lie on, all copies of them: what must be kept
    /// for the range to be kept. Runs may reach a chunk too far, and past the end of the device.
    pub fn places(&self, range: Range<u64>, found: &mut dyn FnMut(Place, u64)) {
        let first = self
            .segments
            .partition_point(|segment| segment.at.end <= range.start);
        for segment in self.segments.get(first..).unwrap_or_default() {
            let start = range.start.max(segment.at.start);
            let end = range.end.min(segment.at.end);
            if start >= end {
                return;
            }
            if start == segment.at.start && end == segment.at.end {
                segment.mapping.all_places(end - start, found);
            } else {
                self.places_step_by_step(start..end, found);
            }
        }
    }

    fn places_step_by_step(&self, range: Range<u64>, found: &mut dyn FnMut(Place, u64)) {
        let mut at = range.start;
        while at < range.end {
            let Some(located) = self.locate(at) else {
                return;
            };
            let len = located.len.min(range.end - at);
            match &located.at {
                Whereabouts::One(place) | Whereabouts::Guarded(place) => found(*place, len),
                Whereabouts::Copies(places) | Whereabouts::Xor(places) => {
                    places.iter().for_each(|place| found(*place, len));
                }
                Whereabouts::Zero | Whereabouts::Lost(_) => {}
            }
            at += len;
        }
    }
}

/// The byte `within` bytes after where `leg` begins.
fn locate_in(leg: &Source, within: u64) -> Located {
    match leg {
        Source::Device(start) => Located {
            len: u64::MAX - within,
            at: Whereabouts::One(Place {
                device: start.device,
                offset: start.offset.saturating_add(within),
            }),
        },
        Source::Volume { map, offset } => {
            map.locate(offset.saturating_add(within))
                .unwrap_or_else(|| Located {
                    len: u64::MAX - within,
                    at: Whereabouts::Lost("a part past the end of the volume below".into()),
                })
        }
        Source::Lost(name) => Located {
            len: u64::MAX - within,
            at: Whereabouts::Lost(Arc::clone(name)),
        },
    }
}

/// As [`locate_in`] for leg `index`, for at most `most` bytes.
fn locate_leg(legs: &[Source], index: usize, within: u64, most: u64) -> Located {
    let mut located = match legs.get(index) {
        Some(leg) => locate_in(leg, within),
        None => Located {
            len: most,
            at: Whereabouts::Lost("a member that the geometry does not have".into()),
        },
    };
    located.len = located.len.min(most).max(1);
    located
}

impl Mapping {
    /// All that a segment of `len` bytes takes of its legs, without going through it chunk by chunk.
    fn all_places(&self, len: u64, found: &mut dyn FnMut(Place, u64)) {
        let legs = self.legs();
        // So many legs share the bytes; the others hold copies or parity.
        let (sharing, chunk) = match self {
            Self::Zero | Self::Linear(_) | Self::Mirrored(_) => (1, 1),
            Self::Striped { chunk, .. } => (legs.len() as u64, *chunk),
            Self::Parity {
                chunk, parities, ..
            } => (
                (legs.len() as u64).saturating_sub(u64::from(*parities)),
                *chunk,
            ),
            Self::Raid10 {
                chunk,
                near,
                far,
                stride,
                offset,
                ..
            } => return raid10_places(legs, len, (*chunk, *near, *far), *stride, *offset, found),
        };
        let share = len
            .div_ceil(chunk)
            .div_ceil(sharing.max(1))
            .saturating_mul(chunk);
        legs.iter().for_each(|leg| leg_places(leg, share, found));
    }

    fn locate(&self, within: u64) -> Located {
        match self {
            Self::Zero => Located {
                len: u64::MAX - within,
                at: Whereabouts::Zero,
            },
            Self::Linear(leg) => {
                let mut located = locate_in(leg, within);
                located.len = located.len.max(1);
                located
            }
            Self::Striped { chunk, first, legs } => {
                let (stripe, inside) = (within / chunk, within % chunk);
                let count = legs.len() as u64;
                let leg = (stripe + *first as u64) % count;
                let down = (stripe / count).saturating_mul(*chunk) + inside;
                locate_leg(legs, leg as usize, down, chunk - inside)
            }
            Self::Mirrored(legs) => join_copies(legs.iter().map(|leg| locate_in(leg, within))),
            Self::Raid10 { .. } => self.locate_raid10(within),
            Self::Parity { .. } => self.locate_parity(within),
        }
    }

    /// As the kernel finds the copies of a chunk.
    // Linux drivers/md/raid10.c, "layout": near copies beside, far copies `stride` down and
    // `near` members on, within a set of members.
    fn locate_raid10(&self, within: u64) -> Located {
        let Self::Raid10 {
            chunk,
            near,
            far,
            stride,
            offset,
            set,
            legs,
        } = self
        else {
            return lost_geometry();
        };
        let (members, near_copies) = (legs.len() as u64, u64::from(*near));
        let inside = within % chunk;
        let slot = (within / chunk).saturating_mul(near_copies);
        let mut member = slot % members;
        let row = slot / members;
        let row = if *offset {
            row.saturating_mul(u64::from(*far))
        } else {
            row
        };
        let mut down = row.saturating_mul(*chunk).saturating_add(inside);
        let mut copies = Vec::new();
        for _ in 0..*near {
            let (mut other, mut place) = (member, down);
            copies.push(locate_leg(legs, other as usize, place, chunk - inside));
            for _ in 1..*far {
                other = next_in_set(other, near_copies, *set as u64, members);
                place = place.saturating_add(*stride);
                copies.push(locate_leg(legs, other as usize, place, chunk - inside));
            }
            member += 1;
            if member >= members {
                member = 0;
                down = down.saturating_add(*chunk);
            }
        }
        // The other copy's own records say up to where it is rebuilt, and would not know of a write.
        let degraded = copies
            .iter()
            .any(|copy| matches!(copy.at, Whereabouts::Lost(_)));
        let mut joined = join_copies(copies.into_iter());
        if degraded && let Some(place) = joined.at.read_from() {
            joined.at = Whereabouts::Guarded(place);
        }
        joined
    }

    fn locate_parity(&self, within: u64) -> Located {
        let Self::Parity {
            chunk,
            parities,
            layout,
            last_is_second,
            legs,
        } = self
        else {
            return lost_geometry();
        };
        let members = legs.len() as u64;
        let (inside, number) = (within % chunk, within / chunk);
        let data_members = members - u64::from(*parities);
        let (index, stripe) = (number % data_members, number / data_members);
        let rotating = members - u64::from(*last_is_second);
        let parities = parities - u32::from(*last_is_second);
        let spot = layout.spot(index, stripe, rotating, parities);
        let second = if *last_is_second {
            Some(members - 1)
        } else {
            spot.second
        };
        let down = stripe.saturating_mul(*chunk).saturating_add(inside);
        let most = chunk - inside;
        let own = locate_leg(legs, spot.data as usize, down, most);
        let Whereabouts::Lost(_) = &own.at else {
            return match own.at.read_from() {
                Some(place) => Located {
                    len: own.len,
                    at: Whereabouts::Guarded(place),
                },
                None => own,
            };
        };
        let mut len = own.len;
        let mut places = Vec::new();
        for member in (0..members).filter(|m| *m != spot.data && Some(*m) != second) {
            let other = locate_leg(legs, member as usize, down, most);
            len = len.min(other.len);
            match (other.at.read_from(), other.at) {
                (Some(place), _) => places.push(place),
                (None, Whereabouts::Zero) => {}
                (None, Whereabouts::Lost(name)) => {
                    return Located {
                        len,
                        at: Whereabouts::Lost(name),
                    };
                }
                (None, _) => return lost_geometry(),
            }
        }
        Located {
            len,
            at: Whereabouts::Xor(places),
        }
    }
}

/// The first `len` bytes of a leg.
fn leg_places(leg: &Source, len: u64, found: &mut dyn FnMut(Place, u64)) {
    match leg {
        Source::Device(place) => found(*place, len),
        Source::Volume { map, offset } => {
            map.places(*offset..offset.saturating_add(len), found);
        }
        Source::Lost(_) => {}
    }
}

fn raid10_places(
    legs: &[Source],
    len: u64,
    (chunk, near, far): (u64, u32, u32),
    stride: u64,
    offset: bool,
    found: &mut dyn FnMut(Place, u64),
) {
    let slots = len.div_ceil(chunk).saturating_mul(u64::from(near));
    let rows = slots.div_ceil((legs.len() as u64).max(1));
    let far = u64::from(far);
    let taken = if offset {
        rows.saturating_mul(far).saturating_mul(chunk)
    } else {
        let further = stride.saturating_mul(far.saturating_sub(1));
        further.saturating_add(rows.saturating_mul(chunk))
    };
    legs.iter().for_each(|leg| leg_places(leg, taken, found));
}

fn lost_geometry() -> Located {
    Located {
        len: 1,
        at: Whereabouts::Lost("a part whose layout is not understood".into()),
    }
}

/// Where a data chunk and the second parity of its stripe lie.
struct Spot {
    data: u64,
    second: Option<u64>,
}

impl ParityLayout {
    /// The member of data chunk `index` of `stripe`.
    // Linux drivers/md/raid5.c, raid5_compute_sector; Documentation/admin-guide/md.rst, "layout".
    fn spot(self, index: u64, stripe: u64, members: u64, parities: u32) -> Spot {
        let last = members - 1;
        let falling = last - stripe % members;
        let rising = stripe % members;
        let single = parities == 1;
        let after = |parity: u64| match single {
            true => index + u64::from(index >= parity),
            // Two parities beside each other, the pair may wrap round the end.
            false if parity == last => index + 1,
            false => index + if index >= parity { 2 } else { 0 },
        };
        let follow = |parity: u64| (parity + u64::from(parities) + index) % members;
        let next = |parity: u64| (!single).then_some((parity + 1) % members);
        let (data, second) = match self {
            Self::LeftAsymmetric => (after(falling), next(falling)),
            Self::RightAsymmetric | Self::RotatingZeroRestart => (after(rising), next(rising)),
            Self::LeftSymmetric => (follow(falling), next(falling)),
            Self::RightSymmetric => (follow(rising), next(rising)),
            Self::ParityFirst => (index + u64::from(parities), next(0)),
            Self::ParityLast => (index, (!single).then_some(last)),
            Self::RotatingNRestart => {
                let parity = last - (stripe + 1) % members;
                (after(parity), next(parity))
            }
            Self::RotatingNContinue => (
                (falling + 1 + index) % members,
                Some((falling + last) % members),
            ),
        };
        Spot { data, second }
    }
}

/// The member `by` further on in the set that `member` belongs to. Where the members do not make whole
/// sets, the last set takes the rest. // Linux drivers/md/raid10.c, "far sets".
fn next_in_set(member: u64, by: u64, set: u64, members: u64) -> u64 {
    let rest = members % set;
    let last_start = (members / set).saturating_sub(1) * set;
    if rest != 0 && member + by > last_start {
        return last_start + (member + by - last_start) % (members - last_start);
    }
    member / set * set + (member + by) % set
}

/// Several places that hold the same.
fn join_copies(copies: impl Iterator<Item = Located>) -> Located {
    let mut len = u64::MAX;
    let mut places: Vec<Place> = Vec::new();
    let mut unusual = None;
    let mut lost = None;
    for copy in copies {
        len = len.min(copy.len.max(1));
        match copy.at {
            Whereabouts::One(place) => places.push(place),
            Whereabouts::Copies(more) => places.extend(more),
            Whereabouts::Lost(name) => {
                lost.get_or_insert(name);
            }
            other => {
                unusual.get_or_insert(other);
            }
        }
    }
    let at = match (unusual, places.as_slice(), lost) {
        // A mirror with a leg that cannot be written is read only, from that leg or a plain one.
        (Some(unusual), [], _) => unusual,
        (Some(_), [first, ..], _) => Whereabouts::Guarded(*first),
        (None, [one], _) => Whereabouts::One(*one),
        (None, [], Some(name)) => Whereabouts::Lost(name),
        (None, [], None) => return lost_geometry(),
        (None, _, _) => Whereabouts::Copies(places),
    };
    Located { len, at }
}
