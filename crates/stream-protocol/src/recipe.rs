//! A recipe: which chunks, at which offsets, make up one disk.
//!
//! Entries are in ascending order and do not overlap; what no entry covers reads as zeroes.

use std::fmt;
use std::str::FromStr;

use chunking::ChunkId;
use serde::{Deserialize, Serialize};

/// Bytes of one entry, on the wire and under the root hash.
pub const ENTRY_LEN: usize = 44;

/// One chunk of a disk.
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 8 | offset on the disk, little-endian |
/// | 8 | 4 | length in bytes, little-endian |
/// | 12 | 32 | chunk id |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecipeEntry {
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes, at least one.
    pub len: u32,
    /// The chunk with exactly these bytes.
    pub id: ChunkId,
}

impl RecipeEntry {
    /// The entry as it travels and as it is hashed.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[0..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..44].copy_from_slice(self.id.as_bytes());
        bytes
    }

    /// The entry in these bytes. Its order and bounds are checked by who knows its neighbours.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ENTRY_LEN]) -> Self {
        let (mut offset, mut len, mut id) = ([0; 8], [0; 4], [0; 32]);
        offset.copy_from_slice(&bytes[0..8]);
        len.copy_from_slice(&bytes[8..12]);
        id.copy_from_slice(&bytes[12..44]);
        Self {
            offset: u64::from_le_bytes(offset),
            len: u32::from_le_bytes(len),
            id: ChunkId(id),
        }
    }

    /// The byte behind its last one; `None` past the end of 64 bits.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.len))
    }
}

/// BLAKE3 over the disk's size (u64, little-endian) and each entry in its 44 bytes: equal roots, equal disks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecipeRoot(pub [u8; 32]);

impl fmt::Display for RecipeRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RecipeRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipeRoot({self})")
    }
}

/// A text that is not the root of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a recipe root has 64 hex digits, found {found:?}")]
pub struct RootError {
    /// The text.
    pub found: String,
}

impl FromStr for RecipeRoot {
    type Err = RootError;

    fn from_str(text: &str) -> Result<Self, RootError> {
        match text.parse::<ChunkId>() {
            Ok(id) => Ok(Self(*id.as_bytes())),
            Err(_) => Err(RootError {
                found: text.chars().take(80).collect(),
            }),
        }
    }
}

impl TryFrom<String> for RecipeRoot {
    type Error = RootError;

    fn try_from(text: String) -> Result<Self, RootError> {
        text.parse()
    }
}

impl From<RecipeRoot> for String {
    fn from(root: RecipeRoot) -> Self {
        root.to_string()
    }
}

/// Computes a [`RecipeRoot`] entry by entry.
#[derive(Debug, Clone)]
pub struct RootHasher {
    hasher: blake3::Hasher,
    entries: u64,
}

impl RootHasher {
    /// For a disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&size.to_le_bytes());
        Self { hasher, entries: 0 }
    }

    /// Take the next entry.
    pub fn push(&mut self, entry: &RecipeEntry) {
        self.hasher.update(&entry.to_bytes());
        self.entries += 1;
    }

    /// How many entries it has taken.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The root of the entries taken so far.
    #[must_use]
    pub fn root(&self) -> RecipeRoot {
        RecipeRoot(self.hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_what_b3sum_prints_for_the_same_bytes() {
        // printf '\000\002\000\000\000\000\000\000' then the 44 bytes of the entry, into `b3sum`: the
        // same bytes through blake3 directly.
        let entry = RecipeEntry {
            offset: 0x0102_0304_0506_0708,
            len: 0x1122_3344,
            id: ChunkId([0xAB; 32]),
        };
        let mut hasher = RootHasher::new(512);
        hasher.push(&entry);
        let mut bytes = vec![0, 2, 0, 0, 0, 0, 0, 0];
        bytes.extend([8, 7, 6, 5, 4, 3, 2, 1, 0x44, 0x33, 0x22, 0x11]);
        bytes.extend([0xAB; 32]);
        assert_eq!(hasher.root().0, *blake3::hash(&bytes).as_bytes());
        assert_eq!(hasher.entries(), 1);
        assert_eq!(RecipeEntry::from_bytes(&entry.to_bytes()), entry);
    }

    #[test]
    fn roots_survive_json() {
        let root = RootHasher::new(7).root();
        let text = serde_json::to_string(&root).unwrap();
        assert_eq!(serde_json::from_str::<RecipeRoot>(&text).unwrap(), root);
        assert!(serde_json::from_str::<RecipeRoot>("\"abc\"").is_err());
    }
}
