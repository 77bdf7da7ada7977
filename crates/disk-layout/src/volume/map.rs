//! The map of a volume, checked as a whole when it is made.

use std::ops::Range;
use std::sync::Arc;

use super::{Place, Source};

/// Most legs of one segment: md has at most 1920 members, LVM fewer.
const MOST_LEGS: usize = 4096;
/// Volumes made of volumes made of volumes: LVM nests four deep (thin over raid over its legs).
const DEEPEST: u32 = 16;

/// Which member of a volume with parity holds what, stripe by stripe. The names are md's.
// Linux drivers/md/raid5.h, "RAID5 ... layout".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ParityLayout {
    LeftAsymmetric,
    RightAsymmetric,
    LeftSymmetric,
    RightSymmetric,
    /// Parity on the first members.
    ParityFirst,
    /// Parity on the last members.
    ParityLast,
    /// RAID6 of DDF: rotating, restarting at zero.
    RotatingZeroRestart,
    /// RAID6 of DDF: rotating, restarting at N.
    RotatingNRestart,
    /// RAID6 of DDF: rotating, continuing at N.
    RotatingNContinue,
}

/// How a segment is laid out over its legs. Every leg is named by where it begins.
#[derive(Debug, Clone)]
pub enum Mapping {
    /// Reads as zeroes: nothing was ever written there.
    Zero,
    /// One piece.
    Linear(Source),
    /// Chunks in turn over the legs.
    Striped {
        /// Bytes of a chunk.
        chunk: u64,
        /// The leg that holds the first chunk; the next ones follow.
        first: usize,
        /// The legs.
        legs: Vec<Source>,
    },
    /// The same bytes on every leg. The first is in sync and read; every one is written.
    Mirrored(Vec<Source>),
    /// md RAID10: each chunk `near` times beside and `far` times further down.
    Raid10 {
        /// Bytes of a chunk.
        chunk: u64,
        /// Copies beside each other.
        near: u32,
        /// Copies further down.
        far: u32,
        /// From a copy to the one further down: bytes.
        stride: u64,
        /// Copies further down are one stripe apart ("offset").
        offset: bool,
        /// Members among which copies rotate; the number of legs, or a part of it.
        set: usize,
        /// The legs.
        legs: Vec<Source>,
    },
    /// RAID4, RAID5 (one parity) or RAID6 (two, of which only the first is used).
    Parity {
        /// Bytes of a chunk.
        chunk: u64,
        /// Members' worth of parity: 1 or 2.
        parities: u32,
        /// Where data and parity lie.
        layout: ParityLayout,
        /// RAID6 over a RAID5 layout: the last member holds nothing but the second parity.
        last_is_second: bool,
        /// The legs.
        legs: Vec<Source>,
    },
}

/// A run of a volume that is laid out in one way.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The bytes of the volume.
    pub at: Range<u64>,
    /// Where they lie.
    pub mapping: Mapping,
}

/// Where every byte of a volume lies. Segments follow one another without holes from byte 0.
#[derive(Debug)]
pub struct VolumeMap {
    pub(super) segments: Vec<Segment>,
    size: u64,
    depth: u32,
}

/// Why segments do not make a volume.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MapError {
    /// A segment does not begin where the one before it ends, or is empty.
    #[error("segment at bytes {found:?} of the volume: expected one that begins at {expected}")]
    Hole {
        /// Where it should begin.
        expected: u64,
        /// The bytes it covers.
        found: Range<u64>,
    },
    /// A segment has no legs, or far too many.
    #[error("segment at byte {at}: expected {least} to 4096 legs, found {found}")]
    Legs {
        /// Where it begins.
        at: u64,
        /// The fewest that make sense.
        least: usize,
        /// How many it has.
        found: usize,
    },
    /// A number of a segment's geometry is impossible.
    #[error("segment at byte {at}: {what} {found} is impossible")]
    Geometry {
        /// Where it begins.
        at: u64,
        /// Which number.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// Volumes made of volumes, without end.
    #[error("segment at byte {at}: volumes nested more than 16 deep")]
    TooDeep {
        /// Where it begins.
        at: u64,
    },
}

impl VolumeMap {
    /// Put a volume together.
    ///
    /// # Errors
    /// [`MapError`] where segments leave holes or cannot be.
    pub fn new(segments: Vec<Segment>) -> Result<Self, MapError> {
        let mut end = 0;
        let mut depth = 0;
        for segment in &segments {
            if segment.at.start != end || segment.at.is_empty() {
                return Err(MapError::Hole {
                    expected: end,
                    found: segment.at.clone(),
                });
            }
            check_geometry(segment)?;
            end = segment.at.end;
            for leg in segment.mapping.legs() {
                if let Source::Volume { map, .. } = leg {
                    depth = depth.max(map.depth + 1);
                }
            }
            if depth > DEEPEST {
                return Err(MapError::TooDeep {
                    at: segment.at.start,
                });
            }
        }
        Ok(Self {
            segments,
            size: end,
            depth,
        })
    }

    /// A volume that is one run of a device.
    #[must_use]
    pub fn linear(from: Place, len: u64) -> Self {
        let segments = if len == 0 {
            Vec::new()
        } else {
            vec![Segment {
                at: 0..len,
                mapping: Mapping::Linear(Source::Device(from)),
            }]
        };
        Self {
            segments,
            size: len,
            depth: 0,
        }
    }

    /// The size of the volume in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its segments, in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What of it lies on devices that are not there and cannot be had otherwise, by name; each once.
    #[must_use]
    pub fn lost(&self) -> Vec<Arc<str>> {
        let mut lost = Vec::new();
        for segment in &self.segments {
            segment.mapping.add_lost(&mut lost);
        }
        lost
    }

    /// Whether any part of it has parity: it is then read and never written.
    #[must_use]
    pub fn has_parity(&self) -> bool {
        self.any(&|mapping| matches!(mapping, Mapping::Parity { .. }))
    }

    /// Whether [`VolumeMap::places`] of a range of it is all that must be kept of its legs for the range:
    /// not with parity, which must fit what it was made of, and not where a leg is missing or out of
    /// sync, whose state elsewhere says which part of it is good.
    #[must_use]
    pub fn answers_for_its_legs(&self) -> bool {
        !self.any(&|mapping| {
            let lost = |leg: &Source| matches!(leg, Source::Lost(_));
            matches!(mapping, Mapping::Parity { .. }) || mapping.legs().iter().any(lost)
        })
    }

    fn any(&self, test: &dyn Fn(&Mapping) -> bool) -> bool {
        self.segments.iter().any(|segment| {
            test(&segment.mapping)
                || segment.mapping.legs().iter().any(|leg| match leg {
                    Source::Volume { map, .. } => map.any(test),
                    _ => false,
                })
        })
    }
}

impl Mapping {
    /// Its legs; one for a linear run, none for zeroes.
    #[must_use]
    pub fn legs(&self) -> &[Source] {
        match self {
            Self::Zero => &[],
            Self::Linear(leg) => std::slice::from_ref(leg),
            Self::Striped { legs, .. }
            | Self::Mirrored(legs)
            | Self::Raid10 { legs, .. }
            | Self::Parity { legs, .. } => legs,
        }
    }

    /// Add what cannot be read for want of a device.
    fn add_lost(&self, lost: &mut Vec<Arc<str>>) {
        let mut missing: Vec<Vec<Arc<str>>> = Vec::new();
        for leg in self.legs() {
            missing.push(match leg {
                Source::Device(_) => Vec::new(),
                Source::Lost(name) => vec![Arc::clone(name)],
                Source::Volume { map, .. } => map.lost(),
            });
        }
        let gone = missing.iter().filter(|names| !names.is_empty()).count();
        let bearable = match self {
            Self::Zero | Self::Linear(_) | Self::Striped { .. } => 0,
            Self::Mirrored(legs) => legs.len() - 1,
            // Which of the copies survive depends on the place: a map with one copy less is whole.
            Self::Raid10 { near, far, .. } => (near * far - 1) as usize,
            Self::Parity { .. } => 1,
        };
        if gone > bearable {
            for name in missing.into_iter().flatten() {
                if !lost.contains(&name) {
                    lost.push(name);
                }
            }
        }
    }
}

fn check_geometry(segment: &Segment) -> Result<(), MapError> {
    let at = segment.at.start;
    let bad = |what, found: u64| Err(MapError::Geometry { at, what, found });
    let count = segment.mapping.legs().len();
    let (least, chunk) = match &segment.mapping {
        Mapping::Zero => return Ok(()),
        Mapping::Linear(_) | Mapping::Mirrored(_) => (1, None),
        Mapping::Striped { chunk, .. } => (1, Some(*chunk)),
        Mapping::Raid10 { chunk, .. } => (2, Some(*chunk)),
        Mapping::Parity {
            chunk, parities, ..
        } => (1 + *parities as usize, Some(*chunk)),
    };
    if !(least..=MOST_LEGS).contains(&count) {
        return Err(MapError::Legs {
            at,
            least,
            found: count,
        });
    }
    if let Some(chunk) = chunk
        && (!(512..=1 << 40).contains(&chunk) || !chunk.is_multiple_of(512))
    {
        return bad("a chunk size in bytes of", chunk);
    }
    match &segment.mapping {
        Mapping::Raid10 {
            near,
            far,
            set,
            legs,
            ..
        } => {
            let copies = u64::from(*near) * u64::from(*far);
            if *near == 0 || *far == 0 || copies > legs.len() as u64 {
                return bad("a number of copies of", copies);
            }
            if *set == 0 || *set > legs.len() {
                return bad("a far set of", *set as u64);
            }
        }
        Mapping::Parity { parities, .. } if !(1..=2).contains(parities) => {
            return bad("a number of parities of", u64::from(*parities));
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::DeviceIndex;

    fn leg(device: usize) -> Source {
        Source::Device(Place {
            device: DeviceIndex(device),
            offset: 0,
        })
    }

    fn one(at: Range<u64>, mapping: Mapping) -> Result<VolumeMap, MapError> {
        VolumeMap::new(vec![Segment { at, mapping }])
    }

    #[test]
    fn holes_overlaps_and_empty_segments_are_refused() {
        for at in [1..2, 0..0] {
            assert!(matches!(
                one(at, Mapping::Zero),
                Err(MapError::Hole { expected: 0, .. })
            ));
        }
        let twice = [0..10, 5..20].map(|at| Segment {
            at,
            mapping: Mapping::Zero,
        });
        assert!(matches!(
            VolumeMap::new(twice.into()),
            Err(MapError::Hole { expected: 10, .. })
        ));
    }

    #[test]
    fn impossible_geometry_is_refused() {
        let striped = |chunk, legs| Mapping::Striped {
            chunk,
            first: 0,
            legs,
        };
        assert!(matches!(
            one(0..9, striped(0, vec![leg(0)])),
            Err(MapError::Geometry { found: 0, .. })
        ));
        assert!(matches!(
            one(0..9, striped(512, vec![])),
            Err(MapError::Legs { found: 0, .. })
        ));
        let raid10 = Mapping::Raid10 {
            chunk: 512,
            near: 2,
            far: 2,
            stride: 512,
            offset: false,
            set: 2,
            legs: vec![leg(0), leg(1)],
        };
        assert!(matches!(
            one(0..9, raid10),
            Err(MapError::Geometry { found: 4, .. })
        ));
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let mut map = Arc::new(VolumeMap::linear(
            Place {
                device: DeviceIndex(0),
                offset: 0,
            },
            10,
        ));
        let refused = (0..20).find_map(|_| {
            let inner = Source::Volume {
                map: Arc::clone(&map),
                offset: 0,
            };
            match one(0..10, Mapping::Linear(inner)) {
                Ok(deeper) => {
                    map = Arc::new(deeper);
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert_eq!(refused, Some(MapError::TooDeep { at: 0 }));
    }
}
