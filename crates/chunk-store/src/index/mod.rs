//! The index: from half a chunk's name to its place in a pack.
//!
//! New entries gather in memory; at a bound they are written as a sorted run, and runs of like size
//! are merged on the way, so that the bigger a run is the rarer it is read and written. Runs are
//! never changed. Each says which ranges of which packs it knows; what no run knows is read from the
//! packs again when a store is opened. So a run may be lost or damaged at any time.

pub(crate) mod format;
mod ranges;
pub(crate) mod run;

use std::collections::{BTreeSet, HashMap};
use std::iter::Peekable;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use crate::error::{Damage, OnPath, Result, StoreError};
use crate::files::Files;
use crate::pack::{Known, Location};
use crate::sync::{lock, read, write};
use format::{Entry, Key};
pub(crate) use ranges::PackRanges;
use run::{Run, Walk, run_number, run_path, write_run};

pub(crate) const INDEX_DIR: &str = "index";
/// So many runs of like size are merged into one. Each entry is then written about log4(n) times.
const FAN: usize = 4;

/// How large the index lets things grow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexLimits {
    /// Entries kept in memory.
    pub(crate) in_memory: usize,
    /// Entries of a run that is not merged further: bounds the work of one merge.
    pub(crate) a_run: u64,
}

/// The index of a store.
#[derive(Debug)]
pub(crate) struct Index {
    files: Arc<dyn Files>,
    limits: IndexLimits,
    state: RwLock<State>,
    /// Held while runs are written or removed; the number of the next one.
    next_run: Mutex<u64>,
}

#[derive(Debug, Default)]
struct State {
    memory: HashMap<Key, Location>,
    /// What of the packs is known by `memory` and by no run.
    ranges: PackRanges,
    /// Oldest first.
    runs: Vec<Arc<Run>>,
    /// How often entries were taken back.
    forgotten: u64,
}

/// Why keys could not be looked up.
pub(crate) enum FindError {
    /// A run is damaged: remove it, read its packs again, look again.
    Broken(Arc<Run>, Damage),
    /// Anything else.
    Other(StoreError),
}

/// What is to become a run.
pub(crate) struct Snapshot {
    entries: Vec<Entry>,
    ranges: PackRanges,
    forgotten: u64,
}

impl Index {
    /// Open the runs that are whole. Those that are not are removed, unless `read_only`, and told of.
    pub(crate) fn open(
        files: Arc<dyn Files>,
        limits: IndexLimits,
        read_only: bool,
    ) -> Result<(Self, Vec<Damage>)> {
        let index = Self {
            files,
            limits,
            state: RwLock::default(),
            next_run: Mutex::new(1),
        };
        let damaged = index.load(read_only)?;
        Ok((index, damaged))
    }

    /// Look again which runs there are; what is in memory is forgotten.
    pub(crate) fn load(&self, read_only: bool) -> Result<Vec<Damage>> {
        let files = self.files.as_ref();
        let mut next = lock(&self.next_run);
        let mut state = State::default();
        let mut damaged = Vec::new();
        for name in files.list(INDEX_DIR).on(INDEX_DIR)? {
            let path = format!("{INDEX_DIR}/{name}");
            let Some(number) = run_number(&name) else {
                // What a crash left of a run that was being written.
                if name.starts_with('~') && !read_only {
                    files.remove(&path).on(&path)?;
                }
                continue;
            };
            *next = (*next).max(number + 1);
            match Run::open(files, number) {
                Ok(run) => state.runs.push(Arc::new(run)),
                Err(StoreError::Damaged(damage)) => {
                    if !read_only {
                        files.remove(&path).on(&path)?;
                    }
                    damaged.push(damage);
                }
                // The process that writes has merged it meanwhile.
                Err(StoreError::Io { source, .. })
                    if read_only && source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        state.runs.sort_by_key(|run| run.number);
        *write(&self.state) = state;
        Ok(damaged)
    }

    /// Stop using a damaged run, without removing it.
    pub(crate) fn pass_over(&self, run: &Run) {
        write(&self.state)
            .runs
            .retain(|other| other.number != run.number);
    }

    /// The runs, oldest first.
    pub(crate) fn runs(&self) -> Vec<Arc<Run>> {
        read(&self.state).runs.clone()
    }

    /// What of the packs the index knows.
    pub(crate) fn covered(&self) -> PackRanges {
        let state = read(&self.state);
        let mut covered = state.ranges.clone();
        for run in &state.runs {
            covered.add_all(&run.ranges);
        }
        covered
    }

    /// Entries in memory.
    pub(crate) fn in_memory(&self) -> Vec<Entry> {
        let state = read(&self.state);
        let entries = state.memory.iter();
        entries
            .map(|(key, location)| Entry {
                key: *key,
                location: *location,
            })
            .collect()
    }

    /// Whether memory holds as much as it may.
    pub(crate) fn is_full(&self) -> bool {
        read(&self.state).memory.len() >= self.limits.in_memory
    }

    /// Note entries of `pack`, which account for `range` of it.
    pub(crate) fn insert(
        &self,
        pack: u32,
        range: std::ops::Range<u64>,
        entries: impl Iterator<Item = Entry>,
    ) {
        let mut state = write(&self.state);
        for entry in entries {
            let known = state.memory.entry(entry.key).or_insert(entry.location);
            // The newest copy counts: an older one may be damaged.
            *known = entry.location.max(*known);
        }
        state.ranges.add(pack, range);
    }

    /// Take back what was noted of `pack` from byte `from` on.
    pub(crate) fn forget(&self, pack: u32, from: u64) {
        let mut state = write(&self.state);
        state
            .memory
            .retain(|_, location| location.pack != pack || location.end() <= from);
        state.ranges.remove(pack, from..u64::MAX);
        state.forgotten += 1;
    }

    /// Where the chunks of `keys` lie; the keys are ascending. `known` tells which places still count.
    pub(crate) fn find(
        &self,
        keys: &[Key],
        known: &Known,
    ) -> std::result::Result<Vec<Option<Location>>, FindError> {
        let mut found: Vec<Option<Location>> = vec![None; keys.len()];
        let runs = {
            let state = read(&self.state);
            for (key, place) in keys.iter().zip(&mut found) {
                *place = state
                    .memory
                    .get(key)
                    .copied()
                    .filter(|location| known.holds(location));
            }
            state.runs.clone()
        };
        for run in runs.iter().rev() {
            let mut cursor = run.cursor();
            for (key, place) in keys.iter().zip(&mut found) {
                if place.is_some() {
                    continue;
                }
                match cursor.find(key) {
                    Ok(Some((_, location))) if known.holds(&location) => *place = Some(location),
                    Ok(_) => {}
                    Err(StoreError::Damaged(damage)) => {
                        return Err(FindError::Broken(Arc::clone(run), damage));
                    }
                    Err(error) => return Err(FindError::Other(error)),
                }
            }
        }
        Ok(found)
    }

    /// Remove a run that is damaged.
    pub(crate) fn remove_run(&self, run: &Run) -> Result<()> {
        let _writing = lock(&self.next_run);
        self.drop_runs(&[run.number])
    }

    /// What memory holds now, to be written by [`Index::write`] once the packs are durable.
    pub(crate) fn snapshot(&self, known: &Known) -> Snapshot {
        let state = read(&self.state);
        let mut entries: Vec<Entry> = state
            .memory
            .iter()
            .filter(|(_, location)| known.has(location.pack))
            .map(|(key, location)| Entry {
                key: *key,
                location: *location,
            })
            .collect();
        let mut ranges = state.ranges.clone();
        let forgotten = state.forgotten;
        drop(state);
        ranges.retain(|pack| known.has(pack));
        entries.sort_unstable_by_key(|entry| entry.key);
        Snapshot {
            entries,
            ranges,
            forgotten,
        }
    }

    /// Write `snapshot`, whose packs are durable, as a run. Answers `false`, having done nothing, if
    /// entries were taken back since it was made.
    pub(crate) fn write(&self, snapshot: &Snapshot) -> Result<bool> {
        let mut next = lock(&self.next_run);
        if read(&self.state).forgotten != snapshot.forgotten {
            return Ok(false);
        }
        if snapshot.entries.is_empty() && snapshot.ranges.iter().next().is_none() {
            return Ok(true);
        }
        let number = take_number(&mut next);
        let run = write_run(
            self.files.as_ref(),
            number,
            snapshot.entries.len() as u64,
            &snapshot.ranges,
            &mut snapshot.entries.iter().map(|entry| Ok(*entry)),
        )?;
        let mut state = write(&self.state);
        for entry in &snapshot.entries {
            if state.memory.get(&entry.key) == Some(&entry.location) {
                state.memory.remove(&entry.key);
            }
        }
        state.ranges.remove_all(&snapshot.ranges);
        state.runs.push(Arc::new(run));
        Ok(true)
    }

    /// Merge runs of like size until there are few of each.
    pub(crate) fn merge(&self, packs: &BTreeSet<u32>) -> Result<()> {
        let mut next = lock(&self.next_run);
        while let Some(group) = self.pick() {
            self.merge_runs(&mut next, &group, packs)?;
        }
        Ok(())
    }

    /// Write again those runs of which at least a quarter lies in packs that are gone.
    pub(crate) fn shed(&self, packs: &BTreeSet<u32>) -> Result<()> {
        let mut next = lock(&self.next_run);
        for run in self.runs() {
            let mut gone = 0;
            for entry in run.walk() {
                gone += u64::from(!packs.contains(&entry?.location.pack));
            }
            if gone > 0 && gone * 4 >= run.header.entries {
                self.merge_runs(&mut next, &[run], packs)?;
            }
        }
        Ok(())
    }

    fn merge_runs(
        &self,
        next: &mut MutexGuard<'_, u64>,
        group: &[Arc<Run>],
        packs: &BTreeSet<u32>,
    ) -> Result<()> {
        let mut ranges = PackRanges::default();
        for run in group {
            ranges.add_all(&run.ranges);
        }
        ranges.retain(|pack| packs.contains(&pack));
        let most = group.iter().map(|run| run.header.entries).sum();
        let number = take_number(next);
        let mut merged = Merged {
            walks: group.iter().map(|run| run.walk().peekable()).collect(),
            packs,
        };
        let run = write_run(self.files.as_ref(), number, most, &ranges, &mut merged)?;
        write(&self.state).runs.push(Arc::new(run));
        let old: Vec<u64> = group.iter().map(|run| run.number).collect();
        self.drop_runs(&old)
    }

    fn drop_runs(&self, numbers: &[u64]) -> Result<()> {
        write(&self.state)
            .runs
            .retain(|run| !numbers.contains(&run.number));
        for number in numbers {
            let path = run_path(*number);
            match self.files.remove(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.on(&path)?,
            }
        }
        Ok(())
    }

    /// Runs to merge: the smaller tier first, and never into more than a run may have.
    fn pick(&self) -> Option<Vec<Arc<Run>>> {
        let mut tiers: std::collections::BTreeMap<u32, Vec<Arc<Run>>> = Default::default();
        for run in self.runs() {
            let size = run.header.entries / self.limits.in_memory.max(1) as u64;
            let tier = size.max(1).ilog(FAN as u64);
            tiers.entry(tier).or_default().push(run);
        }
        tiers.into_values().find(|group| {
            let entries: u64 = group.iter().map(|run| run.header.entries).sum();
            group.len() >= FAN && entries <= self.limits.a_run
        })
    }
}

fn take_number(next: &mut MutexGuard<'_, u64>) -> u64 {
    let number = **next;
    **next += 1;
    number
}

/// The entries of several runs in order: of each key the newest place in a pack that is there.
struct Merged<'r> {
    walks: Vec<Peekable<Walk<'r>>>,
    packs: &'r BTreeSet<u32>,
}

impl Merged<'_> {
    /// The least key at the heads, or the first error.
    fn least(&mut self) -> Option<Result<Key>> {
        let mut least: Option<Key> = None;
        for walk in &mut self.walks {
            match walk.peek() {
                Some(Ok(entry)) => {
                    least = Some(least.map_or(entry.key, |least| least.min(entry.key)));
                }
                Some(Err(_)) => return walk.next().map(|bad| bad.map(|entry| entry.key)),
                None => {}
            }
        }
        least.map(Ok)
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        loop {
            let key = match self.least()? {
                Ok(key) => key,
                Err(error) => return Some(Err(error)),
            };
            let mut best: Option<Location> = None;
            for walk in &mut self.walks {
                let same = |head: &Result<Entry>| head.as_ref().is_ok_and(|e| e.key == key);
                if let Some(Ok(entry)) = walk.next_if(same)
                    && self.packs.contains(&entry.location.pack)
                {
                    best = best.max(Some(entry.location));
                }
            }
            if let Some(location) = best {
                return Some(Ok(Entry { key, location }));
            }
        }
    }
}
