//! A disk of a snapshot, read like any other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use block_io::{
    BlockError, BlockErrorKind, BlockRead, Extent, ExtentKind, SectorSize, check_range,
};
use chunking::ChunkId;

use crate::error::{Result, StoreError};
use crate::recipe::RecipeEntry;
use crate::recipe::reader::Recipe;
use crate::snapshot::StoredDisk;
use crate::store::Store;
use crate::sync::lock;

/// Parts of the cache, each with its own lock, so that threads rarely wait for each other.
const SHARDS: usize = 16;

/// A disk of a snapshot. Memory is bounded: some pages of the recipe and [`crate::Limits::cache_bytes`]
/// of chunks. Chunks are unpacked outside of any lock, so threads read in parallel.
#[derive(Debug)]
pub struct SnapshotDisk {
    store: Store,
    stored: StoredDisk,
    sector_size: SectorSize,
    recipe: Recipe,
    cache: Vec<Mutex<Shard>>,
    shard_bytes: usize,
}

impl SnapshotDisk {
    pub(crate) fn open(
        store: Store,
        recipe: &str,
        stored: StoredDisk,
        sector_size: SectorSize,
    ) -> Result<Self> {
        let recipe = Recipe::open(store.core.files.as_ref(), recipe, Some(stored.recipe_pages))?;
        let shard_bytes = store.core.limits.cache_bytes / SHARDS;
        Ok(Self {
            recipe,
            stored,
            sector_size,
            cache: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shard_bytes,
            store,
        })
    }

    /// What the snapshot says of the disk.
    #[must_use]
    pub fn info(&self) -> &StoredDisk {
        &self.stored
    }

    /// What the source could not read. It reads as zeroes.
    #[must_use]
    pub fn unreadable(&self) -> &[Range<u64>] {
        &self.stored.unreadable
    }

    fn chunk(&self, entry: &RecipeEntry) -> Result<Arc<Vec<u8>>> {
        let shard = usize::from(entry.id.as_bytes()[31]) % SHARDS;
        let shard = self.cache.get(shard);
        if let Some(chunk) = shard.and_then(|shard| lock(shard).get(&entry.id)) {
            return Ok(chunk);
        }
        let chunk = Arc::new(self.store.read_chunk(&entry.id)?);
        if let Some(shard) = shard {
            lock(shard).insert(entry.id, &chunk, self.shard_bytes);
        }
        Ok(chunk)
    }

    /// Fill `buf`, the bytes at `offset`, from the part of `entry` that lies in it.
    fn copy(&self, entry: &RecipeEntry, offset: u64, buf: &mut [u8]) -> Result<()> {
        let from = entry.offset.max(offset);
        let to = entry.end().min(offset + buf.len() as u64);
        let chunk = self.chunk(entry)?;
        let (start, end) = ((from - entry.offset) as usize, (to - entry.offset) as usize);
        let target = buf.get_mut((from - offset) as usize..(to - offset) as usize);
        // The recipe was checked against the chunks' lengths at commit; a damaged one that still fits
        // its checksum is caught here.
        match (target, chunk.get(start..end)) {
            (Some(target), Some(bytes)) => {
                target.copy_from_slice(bytes);
                Ok(())
            }
            _ => {
                let lie = crate::Lie::Value {
                    what: "the length of a chunk",
                    expected: u64::from(entry.len),
                    found: chunk.len() as u64,
                };
                Err(crate::Damage::new(self.recipe.path(), entry.offset, lie).into())
            }
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        let mut page = self.recipe.page_of(offset)?;
        while page < self.recipe.pages() {
            let entries = self.recipe.page(page)?;
            let first = entries.partition_point(|entry| entry.end() <= offset);
            for entry in entries.iter().skip(first) {
                if entry.offset >= end {
                    page = self.recipe.pages();
                    break;
                }
                if at < entry.offset {
                    zero(buf, offset, at..entry.offset);
                }
                self.copy(entry, offset, buf)?;
                at = entry.end().min(end);
            }
            page = page.saturating_add(1);
        }
        zero(buf, offset, at..end);
        Ok(())
    }

    fn map(&self, offset: u64) -> Result<Extent> {
        let extent = |kind, start, end: u64| Extent {
            kind,
            start,
            len: end - start,
        };
        let mut page = self.recipe.page_of(offset)?;
        while page < self.recipe.pages() {
            let entries = self.recipe.page(page)?;
            let at = entries.partition_point(|entry| entry.end() <= offset);
            let Some(entry) = entries.get(at) else {
                page += 1;
                continue;
            };
            if entry.offset > offset {
                return Ok(extent(ExtentKind::Zero, offset, entry.offset));
            }
            // Join what follows without a gap, as far as this page tells.
            let mut end = entry.end();
            for next in entries.iter().skip(at + 1) {
                if next.offset != end {
                    break;
                }
                end = next.end();
            }
            return Ok(extent(ExtentKind::Data, offset, end));
        }
        Ok(extent(ExtentKind::Zero, offset, self.stored.info.size))
    }

    fn block_error(&self, error: StoreError, offset: u64, len: u64) -> BlockError {
        let kind = match &error {
            StoreError::Io { .. } => BlockErrorKind::Io,
            _ => BlockErrorKind::Corrupt,
        };
        BlockError::new(kind, offset, len)
            .on(self.stored.info.name.clone())
            .source(error)
    }
}

impl BlockRead for SnapshotDisk {
    fn size(&self) -> u64 {
        self.stored.info.size
    }

    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> block_io::Result<()> {
        let len = buf.len() as u64;
        check_range(self.size(), offset, len)?;
        if buf.is_empty() {
            return Ok(());
        }
        self.read(offset, buf)
            .map_err(|error| self.block_error(error, offset, len))
    }

    fn extent_at(&self, offset: u64) -> block_io::Result<Extent> {
        check_range(self.size(), offset, 1)?;
        self.map(offset)
            .map(|extent| extent.clipped_to(self.size()))
            .map_err(|error| self.block_error(error, offset, 1))
    }
}

/// Zero the part `range` of the disk in `buf`, which holds the bytes from `offset` on.
fn zero(buf: &mut [u8], offset: u64, range: Range<u64>) {
    if range.start < range.end
        && let Some(gap) =
            buf.get_mut((range.start - offset) as usize..(range.end - offset) as usize)
    {
        gap.fill(0);
    }
}

/// Unpacked chunks, the least recently used dropped first.
#[derive(Debug, Default)]
struct Shard {
    chunks: BTreeMap<ChunkId, (u64, Arc<Vec<u8>>)>,
    by_use: BTreeMap<u64, ChunkId>,
    bytes: usize,
    uses: u64,
}

impl Shard {
    fn get(&mut self, id: &ChunkId) -> Option<Arc<Vec<u8>>> {
        let (used, chunk) = self.chunks.get_mut(id)?;
        self.uses += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.uses, *id);
        *used = self.uses;
        Some(Arc::clone(chunk))
    }

    fn insert(&mut self, id: ChunkId, chunk: &Arc<Vec<u8>>, limit: usize) {
        self.uses += 1;
        if let Some((used, old)) = self.chunks.insert(id, (self.uses, Arc::clone(chunk))) {
            self.by_use.remove(&used);
            self.bytes -= old.len();
        }
        self.by_use.insert(self.uses, id);
        self.bytes += chunk.len();
        while self.bytes > limit {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            if let Some((_, chunk)) = self.chunks.remove(&oldest) {
                self.bytes -= chunk.len();
            }
        }
    }
}
