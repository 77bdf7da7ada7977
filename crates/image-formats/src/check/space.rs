//! Which bytes of a file belong to what: finds what overlaps and what belongs to nothing.

use super::Tally;
use crate::finding::{Finding, Rule};

/// A claim on bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where the reference stands that made it.
    pub(crate) from: u64,
    /// What claims it: `a block`, `the log`, …
    pub(crate) by: &'static str,
}

/// The claims made so far. Claims of one kind that follow each other in the file are joined, so that a
/// file written in order takes one entry.
#[derive(Debug, Default)]
pub(crate) struct Space {
    claims: Vec<Claim>,
}

impl Space {
    /// Claim `len` bytes from `start` on. Nothing for nothing.
    pub(crate) fn claim(&mut self, start: u64, len: u64, by: &'static str, from: u64) {
        let end = start.saturating_add(len);
        if end <= start {
            return;
        }
        if let Some(last) = self.claims.last_mut()
            && last.end == start
            && last.by == by
        {
            last.end = end;
            return;
        }
        self.claims.push(Claim {
            start,
            end,
            from,
            by,
        });
    }

    /// Sort the claims; gives each pair that overlaps and each gap of at least `least` bytes before
    /// `file_end`.
    pub(crate) fn settle(
        mut self,
        least: u64,
        file_end: u64,
        mut overlap: impl FnMut(Claim, Claim),
        mut gap: impl FnMut(u64, u64),
    ) -> u64 {
        self.claims.sort_unstable();
        let mut reached: Option<Claim> = None;
        for claim in self.claims {
            let end = reached.map_or(0, |reached| reached.end);
            if let Some(before) = reached.filter(|before| claim.start < before.end) {
                overlap(before, claim);
            } else if claim.start - end >= least {
                gap(end, claim.start);
            }
            if claim.end > end {
                reached = Some(claim);
            }
        }
        let end = reached.map_or(0, |reached| reached.end);
        if file_end > end && file_end - end >= least {
            gap(end, file_end);
        }
        end
    }

    /// Settle, tell every overlap against `rule`, and hand every gap to `gap`. Gives where the last claim
    /// ends.
    pub(crate) fn tell(
        self,
        least: u64,
        file_end: u64,
        rule: &'static Rule,
        tally: &mut Tally,
        mut gap: impl FnMut(u64, u64, &mut Tally),
    ) -> u64 {
        let (mut overlaps, mut gaps) = (Vec::new(), Vec::new());
        let end = self.settle(
            least,
            file_end,
            |before, claim| overlaps.push((before, claim)),
            |from, to| gaps.push((from, to)),
        );
        for (before, claim) in overlaps {
            let found = format!("{} at {}, inside {}", claim.by, claim.start, before.by);
            let expected = "bytes of its own";
            tally.corrupt(Finding::error(rule, claim.from, expected, found));
        }
        for (from, to) in gaps {
            gap(from, to, tally);
        }
        end
    }
}

/// That nothing refers to the bytes from `from` to `to`, where `expected` could lie.
pub(crate) fn unclaimed(rule: &'static Rule, from: u64, to: u64, expected: &str) -> Finding {
    let found = format!("{} bytes that nothing refers to", to - from);
    Finding::error(rule, from, expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_and_gaps_are_found_in_any_order() {
        let mut space = Space::default();
        space.claim(100, 50, "b", 2);
        space.claim(0, 10, "a", 0);
        space.claim(10, 10, "a", 1);
        space.claim(140, 5, "c", 3);
        space.claim(149, 10, "d", 4);
        let (mut overlaps, mut gaps) = (Vec::new(), Vec::new());
        let end = space.settle(
            20,
            200,
            |a, b| overlaps.push((a.by, b.by)),
            |from, to| gaps.push((from, to)),
        );
        assert_eq!(overlaps, [("b", "c"), ("b", "d")]);
        assert_eq!(gaps, [(20, 100), (159, 200)]);
        assert_eq!(end, 159);
    }
}
