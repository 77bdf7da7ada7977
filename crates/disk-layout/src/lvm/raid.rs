//! LVM's RAID types: which md layout each is, and which legs are in sync.

use block_io::BlockRead;

use super::assemble::Unusable;
use crate::bytes::{le32, le64};
use crate::volume::{Mapping, ParityLayout, Source};

/// What the metadata volume beside a leg says of it.
// Linux drivers/md/dm-raid.c, struct dm_raid_superblock: all little-endian, at the start of the volume.
//
// | offset | bytes | |
// |---|---|---|
// | 0 | 4 | "DmRd" |
// | 12 | 4 | position of this leg |
// | 16 | 8 | events |
// | 24 | 8 | legs that failed, one bit each |
// | 32 | 8 | up to which sector this leg is rebuilt; all ones when it is whole |
// | 40 | 8 | up to which sector the legs are in sync; all ones when they are |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    position: u32,
    events: u64,
    failed: u64,
    rebuilt: u64,
    resynced: u64,
}

/// The state in a metadata volume; `None` where there is none: the RAID was never in use.
pub(super) fn read_state(meta: &dyn BlockRead) -> Option<State> {
    let mut bytes = [0; 64];
    meta.read_at(0, &mut bytes).ok()?;
    bytes.starts_with(b"DmRd").then(|| State {
        position: le32(&bytes, 12),
        events: le64(&bytes, 16),
        failed: le64(&bytes, 24),
        rebuilt: le64(&bytes, 32),
        resynced: le64(&bytes, 40),
    })
}

/// A RAID segment to be mapped.
pub(super) struct Plan<'a> {
    pub(super) level: &'a str,
    pub(super) chunk: u64,
    /// The names of the legs.
    pub(super) names: Vec<&'a str>,
}

/// Why there is no mapping.
pub(super) enum Why {
    Kind(String),
    Broken(String),
}

impl Why {
    pub(super) fn at(self, volume: &str) -> Unusable {
        let volume = volume.to_owned();
        match self {
            Self::Kind(kind) => Unusable::Kind { volume, kind },
            Self::Broken(why) => Unusable::Broken { volume, why },
        }
    }
}

impl Plan<'_> {
    /// The mapping over `legs`, and remarks on which are used.
    pub(super) fn mapping(
        &self,
        mut legs: Vec<Source>,
        states: &[Option<State>],
    ) -> Result<(Mapping, Vec<String>), Why> {
        let mut notes = Vec::new();
        if self.level == "raid1" {
            let order = self.order_of_legs(&legs, states, &mut notes)?;
            let legs = order.iter().filter_map(|at| legs.get(*at).cloned());
            return Ok((Mapping::Mirrored(legs.collect()), notes));
        }
        let chunk = self.chunk;
        if matches!(self.level, "raid0" | "raid0_meta") {
            let first = 0;
            return Ok((Mapping::Striped { chunk, first, legs }, notes));
        }
        let unfit = self.unfit_legs(&legs, states);
        for at in &unfit {
            let name = self.names.get(*at).copied().unwrap_or_default();
            if let Some(leg) = legs.get_mut(*at)
                && !matches!(leg, Source::Lost(_))
            {
                notes.push(format!("leg {name} is not in sync and is not read"));
                *leg = Source::Lost(format!("leg {name}, which is not in sync").into());
            }
        }
        if self.level == "raid10" || self.level == "raid10_near" {
            return Ok((self.raid10(legs), notes));
        }
        let unsynced = states
            .iter()
            .flatten()
            .any(|state| state.resynced != u64::MAX);
        if unsynced && legs.iter().any(|leg| matches!(leg, Source::Lost(_))) {
            let why = "its parity is not in sync and a leg is missing".to_owned();
            return Err(Why::Broken(why));
        }
        let (parities, layout, last_is_second) =
            parity_of(self.level).ok_or_else(|| Why::Kind(self.level.to_owned()))?;
        let mapping = Mapping::Parity {
            chunk,
            parities,
            layout,
            last_is_second,
            legs,
        };
        Ok((mapping, notes))
    }

    /// LVM makes RAID10 of two copies beside each other.
    fn raid10(&self, legs: Vec<Source>) -> Mapping {
        Mapping::Raid10 {
            chunk: self.chunk,
            near: 2,
            far: 1,
            stride: self.chunk,
            offset: false,
            set: legs.len(),
            legs,
        }
    }

    /// Legs of a mirror, one in sync first; those that are missing left out unless all are.
    fn order_of_legs(
        &self,
        legs: &[Source],
        states: &[Option<State>],
        notes: &mut Vec<String>,
    ) -> Result<Vec<usize>, Why> {
        let unfit = self.unfit_legs(legs, states);
        let is_lost = |at: &usize| matches!(legs.get(*at), Some(Source::Lost(_)));
        let mut order: Vec<usize> = (0..legs.len()).filter(|at| !unfit.contains(at)).collect();
        let Some(first) = order.first().copied() else {
            if legs.iter().all(|leg| matches!(leg, Source::Lost(_))) {
                return Ok((0..legs.len()).collect());
            }
            return Err(Why::Broken("none of its legs is in sync".to_owned()));
        };
        // Legs out of sync are written all the same, so that a rebuild half done stays right.
        order.extend(unfit.iter().copied().filter(|at| !is_lost(at)));
        let name = |at: usize| self.names.get(at).copied().unwrap_or_default();
        notes.push(format!("mirror, read from leg {}", name(first)));
        for at in unfit {
            let what = if is_lost(&at) {
                "missing"
            } else {
                "not in sync"
            };
            notes.push(format!("leg {} is {what}", name(at)));
        }
        Ok(order)
    }

    /// Legs that are missing, failed, behind the others, or not rebuilt yet. Without any state, and
    /// while the first resync runs, the first leg of a mirror is the one to believe.
    fn unfit_legs(&self, legs: &[Source], states: &[Option<State>]) -> Vec<usize> {
        let known = states.iter().flatten();
        let newest = known.clone().map(|state| state.events).max();
        let failed = known
            .filter(|state| Some(state.events) == newest)
            .fold(0, |failed, state| failed | state.failed);
        let never_used = newest.is_none();
        let unfit = |at: &usize| {
            let lost = matches!(legs.get(*at), Some(Source::Lost(_)));
            let stale = match states.get(*at) {
                Some(Some(state)) => {
                    Some(state.events) != newest
                        || state.rebuilt != u64::MAX
                        || state.position != *at as u32
                }
                _ => !never_used,
            };
            lost || stale || failed.checked_shr(*at as u32).unwrap_or(0) & 1 != 0
        };
        (0..legs.len()).filter(unfit).collect()
    }
}

/// Parities, layout, and whether the last leg holds the second parity alone.
// Linux drivers/md/dm-raid.c, raid_types[].
fn parity_of(level: &str) -> Option<(u32, ParityLayout, bool)> {
    use ParityLayout::{
        LeftAsymmetric, LeftSymmetric, ParityFirst, ParityLast, RightAsymmetric, RightSymmetric,
        RotatingNContinue, RotatingNRestart, RotatingZeroRestart,
    };
    Some(match level {
        "raid4" | "raid5_0" => (1, ParityFirst, false),
        "raid5_n" => (1, ParityLast, false),
        "raid5" | "raid5_ls" => (1, LeftSymmetric, false),
        "raid5_rs" => (1, RightSymmetric, false),
        "raid5_la" => (1, LeftAsymmetric, false),
        "raid5_ra" => (1, RightAsymmetric, false),
        "raid6" | "raid6_zr" => (2, RotatingZeroRestart, false),
        "raid6_nr" => (2, RotatingNRestart, false),
        "raid6_nc" => (2, RotatingNContinue, false),
        "raid6_n_6" => (2, ParityLast, false),
        "raid6_0_6" => (2, ParityFirst, true),
        "raid6_ls_6" => (2, LeftSymmetric, true),
        "raid6_rs_6" => (2, RightSymmetric, true),
        "raid6_la_6" => (2, LeftAsymmetric, true),
        "raid6_ra_6" => (2, RightAsymmetric, true),
        _ => return None,
    })
}
