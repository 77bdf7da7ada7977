//! Directories: entries with their long names.

use block_io::BlockRead;

use super::format::{
    Cluster, ENTRY_LEN, LAST, LONG_NAME, REMOVED, ShortEntry, VOLUME_ID, name_checksum, part_units,
};
use super::names::{fold, is_component, long_text, short_text};
use super::volume::Volume;
use crate::bytes::{array, u8_at};
use crate::tree::Result;

/// Most bytes of a directory: 65,536 entries, as Linux and Windows have it.
const MOST_BYTES: u64 = 2 << 20;

/// Which directory: the root of FAT12 and FAT16 has a place instead of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirPlace {
    Fixed,
    Chain(Cluster),
}

/// A directory read into memory.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) place: DirPlace,
    pub(crate) raw: Vec<u8>,
    /// Its clusters; none for a fixed root.
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) entries: Vec<Entry>,
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The long name, or the short one where there is none.
    pub(crate) name: Vec<u8>,
    pub(crate) short: ShortEntry,
    /// Which 32-byte slots it takes, the short entry last.
    pub(crate) slots: std::ops::Range<usize>,
}

impl Entry {
    /// Whether `folded` (see [`fold`]) is its long or its short name.
    fn is_called(&self, folded: &[u8]) -> bool {
        fold(&self.name) == folded || fold(&short_text(&self.short.name(), 0)) == folded
    }
}

impl Dir {
    pub(crate) fn find(&self, name: &[u8]) -> Option<&Entry> {
        let folded = fold(name);
        self.entries.iter().find(|entry| entry.is_called(&folded))
    }

    /// Where slot number `slot` lies on the disk.
    pub(crate) fn slot_at<D: BlockRead>(&self, volume: &Volume<D>, slot: usize) -> Option<u64> {
        let geometry = &volume.geometry;
        let at = (slot * ENTRY_LEN) as u64;
        match self.place {
            DirPlace::Fixed => Some(geometry.root.start + at).filter(|at| *at < geometry.root.end),
            DirPlace::Chain(_) => {
                let cluster = self.clusters.get((at / geometry.cluster) as usize)?;
                Some(geometry.start_of(*cluster) + at % geometry.cluster)
            }
        }
    }
}

impl<D: BlockRead> Volume<D> {
    pub(crate) fn root_dir(&self) -> DirPlace {
        self.geometry
            .root_cluster
            .map_or(DirPlace::Fixed, DirPlace::Chain)
    }

    /// The clusters of a directory, as many as one may have.
    pub(crate) fn dir_chain(&self, first: Cluster) -> Result<Vec<Cluster>> {
        self.chain(first, MOST_BYTES.div_ceil(self.geometry.cluster))
    }

    pub(crate) fn dir(&self, place: DirPlace) -> Result<Dir> {
        let geometry = &self.geometry;
        let (mut raw, mut clusters) = (Vec::new(), Vec::new());
        match place {
            DirPlace::Fixed => {
                raw.resize((geometry.root.end - geometry.root.start) as usize, 0);
                self.read(geometry.root.start, &mut raw)?;
            }
            DirPlace::Chain(first) => {
                clusters = self.dir_chain(first)?;
                raw.resize(clusters.len() * geometry.cluster as usize, 0);
                for (part, cluster) in raw.chunks_mut(geometry.cluster as usize).zip(&clusters) {
                    self.read(geometry.start_of(*cluster), part)?;
                }
            }
        }
        let entries = parse(&raw);
        Ok(Dir {
            place,
            raw,
            clusters,
            entries,
        })
    }
}

/// The entries of a directory, without volume label, `.`, `..` and names that cannot be in a path.
fn parse(raw: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut long = LongName::default();
    for (slot, bytes) in raw.chunks_exact(ENTRY_LEN).enumerate() {
        match u8_at(bytes, 0) {
            LAST => break,
            REMOVED => {
                long.clear();
                continue;
            }
            _ => {}
        }
        if u8_at(bytes, 11) & 0x3F == LONG_NAME {
            long.add(slot, bytes);
            continue;
        }
        let short = ShortEntry {
            raw: array(bytes, 0),
        };
        let long_name = long.take(slot, &short.name());
        if short.attributes() & VOLUME_ID != 0 || short.name().starts_with(b".") {
            continue;
        }
        let first = long_name.as_ref().map_or(slot, |(first, _)| *first);
        let name = long_name
            .map(|(_, name)| name)
            .filter(|name| is_component(name))
            .unwrap_or_else(|| short_text(&short.name(), short.case()));
        if is_component(&name) {
            entries.push(Entry {
                name,
                short,
                slots: first..slot + 1,
            });
        }
    }
    entries
}

/// A long name being put together from its parts, of which the last comes first.
#[derive(Default)]
struct LongName {
    /// Slot of its first part, and the number of the part that must come next; 0 when it is whole.
    expected: Option<(usize, u8)>,
    checksum: u8,
    /// Parts as they come: reversed.
    parts: Vec<[u16; 13]>,
}

impl LongName {
    fn clear(&mut self) {
        self.expected = None;
        self.parts.clear();
    }

    fn add(&mut self, slot: usize, bytes: &[u8]) {
        let (order, checksum) = (u8_at(bytes, 0), u8_at(bytes, 13));
        let number = order & 0x1F;
        if order & 0x40 != 0 {
            self.clear();
            self.checksum = checksum;
            self.expected = Some((slot, number));
        }
        match &mut self.expected {
            // 20 parts hold 260 units, more than the longest name has.
            Some((_, next))
                if *next == number && (1..=20).contains(&number) && self.checksum == checksum =>
            {
                *next -= 1;
                self.parts.push(part_units(bytes));
            }
            _ => self.clear(),
        }
    }

    /// The name, and where its first part stands, if it is whole and belongs to `short` at `slot`.
    fn take(&mut self, slot: usize, short: &[u8; 11]) -> Option<(usize, Vec<u8>)> {
        let (first, left) = self.expected.take()?;
        let parts = std::mem::take(&mut self.parts);
        let whole =
            left == 0 && slot - first == parts.len() && self.checksum == name_checksum(short);
        let units: Vec<u16> = parts
            .into_iter()
            .rev()
            .flatten()
            .take_while(|unit| *unit != 0)
            .collect();
        whole.then(|| (first, long_text(&units)))
    }
}
