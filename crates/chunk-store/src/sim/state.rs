//! What a simulated disk holds, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::Faults;

/// What a medium writes whole or not at all.
const SECTOR: usize = 512;

/// Numbers that a seed decides, by SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The numbers of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        // [Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014], figure 15.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound.max(1)
    }

    /// Whether what happens so often in a thousand happens.
    pub fn per_mille(&mut self, often: u32) -> bool {
        often > 0 && self.below(1000) < u64::from(often)
    }
}

/// A change of a file since its last sync.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

/// A change of a directory's names since its last sync.
#[derive(Debug, Clone)]
enum NameChange {
    Set(String, Node),
    Remove(String),
    Rename(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(u64),
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    /// What a process sees.
    pub(super) now: Vec<u8>,
    /// What is surely on the medium.
    durable: Vec<u8>,
    /// What may or may not be.
    pending: Vec<Change>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    now: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: BTreeMap<String, Vec<NameChange>>,
    /// Counts the processes; handles of earlier ones are dead.
    pub(super) epoch: u64,
    /// How many hold each lock.
    pub(super) locked: BTreeMap<String, usize>,
    pub(super) capacity: Option<u64>,
    pub(super) faults: Faults,
    pub(super) ignored_syncs: Option<String>,
    pub(super) calls: u64,
    pub(super) off_in: Option<u64>,
    pub(super) off: bool,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            inodes: BTreeMap::new(),
            next_inode: 1,
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: BTreeMap::new(),
            epoch: 0,
            locked: BTreeMap::new(),
            capacity: None,
            faults: Faults::default(),
            ignored_syncs: None,
            calls: 0,
            off_in: None,
            off: false,
        }
    }

    pub(super) fn kill(&mut self) {
        self.epoch += 1;
        self.locked.clear();
        let changes = self.pending.values().flatten();
        let pending = changes.filter_map(|change| match change {
            NameChange::Set(_, node) => Some(node),
            NameChange::Remove(_) | NameChange::Rename(..) => None,
        });
        let named = self
            .now
            .values()
            .chain(self.durable.values())
            .chain(pending);
        let linked: BTreeSet<u64> = named
            .filter_map(|node| match node {
                Node::File(inode) => Some(*inode),
                Node::Dir => None,
            })
            .collect();
        self.inodes.retain(|number, _| linked.contains(number));
    }

    pub(super) fn cut_power(&mut self) {
        self.off = false;
        self.off_in = None;
        let mut names = std::mem::take(&mut self.durable);
        for changes in std::mem::take(&mut self.pending).into_values() {
            let kept = self.rng.below(changes.len() as u64 + 1) as usize;
            for change in changes.iter().take(kept) {
                apply_name(&mut names, change);
            }
        }
        // A directory that was lost takes what is in it along.
        let dirs: BTreeSet<String> = names
            .iter()
            .filter(|(_, node)| **node == Node::Dir)
            .map(|(path, _)| path.clone())
            .collect();
        names.retain(|path, _| {
            let dir = parent(path);
            dir.is_empty() || dirs.contains(dir)
        });
        let rng = &mut self.rng;
        for inode in self.inodes.values_mut() {
            for change in std::mem::take(&mut inode.pending) {
                apply_by_chance(rng, &mut inode.durable, &change);
            }
            inode.now = inode.durable.clone();
        }
        self.now = names.clone();
        self.durable = names;
        self.kill();
    }

    pub(super) fn used(&self) -> u64 {
        let files = self.now.values().filter_map(|node| match node {
            Node::File(inode) => self.inodes.get(inode),
            Node::Dir => None,
        });
        files.map(|inode| inode.now.len() as u64).sum()
    }

    pub(super) fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let files = self.now.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((path.clone(), self.inodes.get(inode)?.now.clone())),
            Node::Dir => None,
        });
        files.collect()
    }

    pub(super) fn damage(&mut self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(Node::File(inode)) = self.now.get(path)
            && let Some(inode) = self.inodes.get_mut(inode)
        {
            change(&mut inode.now);
            inode.durable = inode.now.clone();
            inode.pending.clear();
        }
    }

    pub(super) fn node(&self, path: &str) -> Option<Node> {
        if path.is_empty() {
            return Some(Node::Dir);
        }
        self.now.get(path).copied()
    }

    /// The names directly in `dir`.
    pub(super) fn names_in(&self, dir: &str) -> Vec<String> {
        let inside = self.now.keys().filter(|path| parent(path) == dir);
        inside
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect()
    }

    /// Make a file or empty the one that is there.
    pub(super) fn create(&mut self, path: &str) -> io::Result<u64> {
        if self.node(parent(path)) != Some(Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        match self.node(path) {
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(inode)) => {
                self.change(inode, Change::SetLen(0));
                Ok(inode)
            }
            None => {
                let inode = self.next_inode;
                self.next_inode += 1;
                self.inodes.insert(inode, Inode::default());
                self.name(path, NameChange::Set(path.to_owned(), Node::File(inode)));
                Ok(inode)
            }
        }
    }

    pub(super) fn create_dir(&mut self, path: &str) -> io::Result<()> {
        match self.node(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => {
                self.name(path, NameChange::Set(path.to_owned(), Node::Dir));
                Ok(())
            }
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        if self.node(from).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.name(from, NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        match self.node(path) {
            Some(Node::File(_)) => {
                self.name(path, NameChange::Remove(path.to_owned()));
                Ok(())
            }
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &str) {
        for change in self.pending.remove(dir).unwrap_or_default() {
            apply_name(&mut self.durable, &change);
        }
    }

    /// Change what a process sees of a file, and note it for the next sync or power cut.
    pub(super) fn change(&mut self, inode: u64, change: Change) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            apply(&mut inode.now, &change);
            inode.pending.push(change);
        }
    }

    pub(super) fn sync(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            for change in std::mem::take(&mut inode.pending) {
                apply(&mut inode.durable, &change);
            }
        }
    }

    /// A sync fails: the kernel forgets some of what it was to write, and believes it written.
    pub(super) fn fail_sync(&mut self, inode: u64) {
        let rng = &mut self.rng;
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.pending.retain(|_| rng.below(2) == 0);
        }
    }

    fn name(&mut self, path: &str, change: NameChange) {
        apply_name(&mut self.now, &change);
        let dir = parent(path).to_owned();
        self.pending.entry(dir).or_default().push(change);
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn apply_name(names: &mut BTreeMap<String, Node>, change: &NameChange) {
    match change {
        NameChange::Set(path, node) => {
            names.insert(path.clone(), *node);
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
        NameChange::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::SetLen(len) => bytes.resize(*len as usize, 0),
        Change::Write { offset, data } => write_part(bytes, *offset, data, 0..data.len()),
    }
}

fn write_part(bytes: &mut Vec<u8>, offset: u64, data: &[u8], part: std::ops::Range<usize>) {
    let at = offset as usize;
    if bytes.len() < at + part.end {
        bytes.resize(at + part.end, 0);
    }
    bytes[at + part.start..at + part.end].copy_from_slice(&data[part.clone()]);
}

/// Let a change that was not synced be there, be missing, or be torn.
fn apply_by_chance(rng: &mut Rng, bytes: &mut Vec<u8>, change: &Change) {
    match (rng.below(4), change) {
        (0 | 1, _) => apply(bytes, change),
        (2, Change::Write { offset, data }) => {
            let mut at = 0;
            while at < data.len() {
                // Sectors of the file, not of the write.
                let sector_end = SECTOR - (*offset as usize + at) % SECTOR;
                let end = (at + sector_end).min(data.len());
                if rng.below(2) == 0 {
                    write_part(bytes, *offset, data, at..end);
                }
                at = end;
            }
        }
        _ => {}
    }
}
