//! Reading recipe files, from the start or at an offset.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::RecipeEntry;
use super::format::{PAGE, decode_page};
use crate::error::{Damage, Lie, OnPath, Result};
use crate::files::{Files, StoredFile};
use crate::sync::lock;

/// First offsets of pages kept in memory: 64 Ki of them, about 3 MiB, steer the search through a
/// recipe of any length to within a few pages.
const FENCES: usize = 64 << 10;
/// Decoded pages kept: about 4 KiB each.
const PAGES: usize = 64;

/// A recipe file that does not change.
#[derive(Debug)]
pub(crate) struct Recipe {
    file: Arc<dyn StoredFile>,
    path: String,
    pages: u64,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    fences: BTreeMap<u64, u64>,
    pages: BTreeMap<u64, (u64, Arc<Vec<RecipeEntry>>)>,
    uses: u64,
}

impl Recipe {
    /// Open the recipe at `path`, which has `pages` pages if that is known.
    pub(crate) fn open(files: &dyn Files, path: &str, pages: Option<u64>) -> Result<Self> {
        let file = match files.open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Damage::new(path, 0, Lie::Absent).into());
            }
            other => other.on(path)?,
        };
        let len = file.len().on(path)?;
        let expected = pages.map_or(len, |pages| pages.saturating_mul(PAGE as u64));
        if len != expected {
            let lie = Lie::Short {
                expected,
                found: len,
            };
            return Err(Damage::new(path, len.min(expected), lie).into());
        }
        let pages = len / PAGE as u64;
        Ok(Self::new(file, path, pages))
    }

    /// The first `pages` pages of `file`.
    pub(crate) fn new(file: Arc<dyn StoredFile>, path: &str, pages: u64) -> Self {
        Self {
            file,
            path: path.to_owned(),
            pages,
            cache: Mutex::default(),
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// The entries of page `number`.
    pub(crate) fn read_page(&self, number: u64) -> Result<Vec<RecipeEntry>> {
        let mut page = [0; PAGE];
        let offset = number * PAGE as u64;
        match self.file.read_at(offset, &mut page) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let lie = Lie::Short {
                    expected: offset + PAGE as u64,
                    found: self.file.len().on(&self.path)?,
                };
                return Err(Damage::new(&self.path, offset, lie).into());
            }
            other => other.on(&self.path)?,
        }
        decode_page(number, &page).map_err(|lie| Damage::new(&self.path, offset, lie).into())
    }

    /// Call `on` with the entries of every page in order, checking the order from page to page.
    pub(crate) fn for_each_page(
        &self,
        on: &mut dyn FnMut(&[RecipeEntry]) -> Result<()>,
    ) -> Result<()> {
        let mut earliest = 0;
        for number in 0..self.pages {
            let entries = self.read_page(number)?;
            self.check_order(number, &entries, earliest)?;
            earliest = entries.last().map_or(earliest, RecipeEntry::end);
            on(&entries)?;
        }
        Ok(())
    }

    fn check_order(&self, number: u64, entries: &[RecipeEntry], earliest: u64) -> Result<()> {
        let found = entries.first().map_or(earliest, |entry| entry.offset);
        if found >= earliest {
            return Ok(());
        }
        let lie = Lie::Value {
            what: "the offset of the page's first entry, at least",
            expected: earliest,
            found,
        };
        Err(Damage::new(&self.path, number * PAGE as u64, lie).into())
    }

    /// The page that holds the last entry starting at or before `offset`; page 0 if there is none.
    pub(crate) fn page_of(&self, offset: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.pages);
        // Page `low` starts at or before the offset (or is the first), page `high` behind it.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.first_offset(middle)? <= offset {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The entries of page `number`, from memory if they are there.
    pub(crate) fn page(&self, number: u64) -> Result<Arc<Vec<RecipeEntry>>> {
        {
            let mut cache = lock(&self.cache);
            cache.uses += 1;
            let uses = cache.uses;
            if let Some((used, entries)) = cache.pages.get_mut(&number) {
                *used = uses;
                return Ok(Arc::clone(entries));
            }
        }
        let entries = Arc::new(self.read_page(number)?);
        let mut cache = lock(&self.cache);
        if cache.pages.len() >= PAGES {
            let oldest = cache.pages.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                cache.pages.remove(&oldest);
            }
        }
        let uses = cache.uses;
        cache.pages.insert(number, (uses, Arc::clone(&entries)));
        if let Some(first) = entries.first() {
            cache.remember(number, first.offset);
        }
        Ok(entries)
    }

    fn first_offset(&self, number: u64) -> Result<u64> {
        if let Some(offset) = lock(&self.cache).fences.get(&number) {
            return Ok(*offset);
        }
        let entries = self.read_page(number)?;
        let offset = entries.first().map_or(0, |entry| entry.offset);
        lock(&self.cache).remember(number, offset);
        Ok(offset)
    }
}

impl Cache {
    fn remember(&mut self, page: u64, offset: u64) {
        if self.fences.len() < FENCES {
            self.fences.insert(page, offset);
        }
    }
}
