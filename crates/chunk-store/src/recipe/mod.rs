//! Recipes: which chunks, at which offsets, make up a disk.

pub(crate) mod format;
pub(crate) mod reader;
pub(crate) mod writer;

use chunking::ChunkId;

/// A run of a disk and the chunk that holds its bytes. What no entry covers reads as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecipeEntry {
    /// Where the run starts on the disk, in bytes.
    pub offset: u64,
    /// How long it is, in bytes: the length of the raw chunk.
    pub len: u32,
    /// The chunk.
    pub id: ChunkId,
}

impl RecipeEntry {
    /// Bytes of an encoded entry.
    pub const ENCODED_LEN: usize = 44;

    /// The canonical encoding: offset (8 bytes), length (4 bytes), both little-endian, then the name.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let mut bytes = [0; Self::ENCODED_LEN];
        crate::bytes::put(&mut bytes, 0, &self.offset.to_le_bytes());
        crate::bytes::put(&mut bytes, 8, &self.len.to_le_bytes());
        crate::bytes::put(&mut bytes, 12, self.id.as_bytes());
        bytes
    }

    /// The entry of a canonical encoding.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::ENCODED_LEN]) -> Self {
        Self {
            offset: crate::bytes::u64_at(bytes, 0),
            len: crate::bytes::u32_at(bytes, 8),
            id: ChunkId(crate::bytes::array(bytes, 12)),
        }
    }

    /// Where the run ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.len))
    }
}

/// The root hash of a disk of `size` bytes: BLAKE3 over the size (8 bytes, little-endian) and the
/// canonical encoding of its entries in order.
#[must_use]
pub fn recipe_root<'a>(size: u64, entries: impl IntoIterator<Item = &'a RecipeEntry>) -> [u8; 32] {
    let mut hasher = RootHasher::new(size);
    for entry in entries {
        hasher.update(entry);
    }
    hasher.finish()
}

/// Computes [`recipe_root`] entry by entry.
#[derive(Debug, Clone)]
pub struct RootHasher(blake3::Hasher);

impl RootHasher {
    /// For a disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&size.to_le_bytes());
        Self(hasher)
    }

    /// Add the next entry.
    pub fn update(&mut self, entry: &RecipeEntry) {
        self.0.update(&entry.encode());
    }

    /// The root hash.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
