//! Appending to the recipe of a push.

use std::sync::Arc;

use chunking::MAX_CHUNK;

use super::RecipeEntry;
use super::format::{ENTRIES_A_PAGE, PAGE, encode_page};
use super::reader::Recipe;
use crate::error::{OnPath, Refusal, Result, StoreError};
use crate::files::{Files, StoredFile, sync_again};

/// The recipe of one disk of a push: what is durable, and what waits for its chunks to be.
#[derive(Debug)]
pub(crate) struct RecipeWriter {
    disk: usize,
    size: u64,
    path: String,
    file: Arc<dyn StoredFile>,
    pages: u64,
    /// Entries on the disk.
    durable: u64,
    /// Where the last entry ends, waiting ones included.
    end: u64,
    waiting: Vec<RecipeEntry>,
    /// A page and the number of its first entry, where the last comparison stopped: the next one most
    /// often goes on there.
    compared: (u64, u64),
    /// Whether the file was put in the place of another, and its name is not durable yet.
    renamed: bool,
}

impl RecipeWriter {
    /// Begin an empty recipe for disk number `disk`.
    pub(crate) fn create(files: &dyn Files, path: String, disk: usize, size: u64) -> Result<Self> {
        let file = files.create(&path).on(&path)?;
        file.sync().on(&path)?;
        Ok(Self::empty(path, file, disk, size))
    }

    fn empty(path: String, file: Arc<dyn StoredFile>, disk: usize, size: u64) -> Self {
        Self {
            disk,
            size,
            path,
            file,
            pages: 0,
            durable: 0,
            end: 0,
            waiting: Vec::new(),
            compared: (0, 0),
            renamed: false,
        }
    }

    /// Go on with a recipe. `check` answers how many of a page's entries, from the first on, have
    /// their chunks; what follows a page that is damaged or not complete is cut off.
    pub(crate) fn resume(
        files: &dyn Files,
        path: String,
        disk: usize,
        size: u64,
        check: &mut dyn FnMut(&[RecipeEntry]) -> Result<usize>,
    ) -> Result<Self> {
        let file = match files.open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Self::create(files, path, disk, size);
            }
            other => other.on(&path)?,
        };
        let len = file.len().on(&path)?;
        let recipe = Recipe::new(Arc::clone(&file), &path, len / PAGE as u64);
        let mut writer = Self::empty(path, file, disk, size);
        for number in 0..recipe.pages() {
            let entries = match recipe.read_page(number) {
                Ok(entries) => entries,
                Err(StoreError::Damaged(_)) => break,
                Err(error) => return Err(error),
            };
            if writer.check(writer.durable, &entries).is_err() || check(&entries)? < entries.len() {
                break;
            }
            writer.pages += 1;
            writer.durable += entries.len() as u64;
            writer.end = entries.last().map_or(writer.end, RecipeEntry::end);
        }
        let kept = writer.pages * PAGE as u64;
        if kept < len {
            writer.file.set_len(kept).on(&writer.path)?;
        }
        // What was read may be in the kernel's memory alone: a power cut must not take it now.
        sync_again(writer.file.as_ref(), 0..kept).on(&writer.path)?;
        Ok(writer)
    }

    /// Entries that survive a power cut.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Entries that have arrived.
    pub(crate) fn count(&self) -> u64 {
        self.durable + self.waiting.len() as u64
    }

    pub(crate) fn waiting(&self) -> &[RecipeEntry] {
        &self.waiting
    }

    /// The durable part, to be read.
    pub(crate) fn recipe(&self) -> Recipe {
        Recipe::new(Arc::clone(&self.file), &self.path, self.pages)
    }

    /// Which of `entries`, the first of which has the number `at`, are new. Those that are here
    /// already are not looked at: the root hash tells at commit whether they were the same.
    pub(crate) fn select<'e>(
        &self,
        at: u64,
        entries: &'e [RecipeEntry],
    ) -> Result<&'e [RecipeEntry], Refusal> {
        let known = self.count().checked_sub(at).ok_or(Refusal::Gap {
            disk: self.disk,
            expected: self.count(),
            found: at,
        })?;
        let fresh = usize::try_from(known)
            .ok()
            .and_then(|known| entries.get(known..))
            .unwrap_or_default();
        self.check(self.count(), fresh)?;
        Ok(fresh)
    }

    /// Take `entries`, which [`RecipeWriter::select`] let through.
    pub(crate) fn push(&mut self, entries: &[RecipeEntry]) {
        self.waiting.extend_from_slice(entries);
        self.end = entries.last().map_or(self.end, RecipeEntry::end);
    }

    /// Write the waiting entries, whose chunks are durable, and make them durable.
    pub(crate) fn flush(&mut self, files: &dyn Files) -> Result<()> {
        self.sync_name(files)?;
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut pages = self.pages;
        for entries in self.waiting.chunks(ENTRIES_A_PAGE) {
            bytes.extend_from_slice(&encode_page(pages, entries));
            pages += 1;
        }
        // After an error the next flush writes the same place again.
        self.file
            .write_at(self.pages * PAGE as u64, &bytes)
            .on(&self.path)?;
        if let Err(error) = self.file.sync() {
            // These pages must not be believed by a later run that finds them in the kernel's memory.
            let _ = self.file.set_len(self.pages * PAGE as u64);
            return Err(error).on(&self.path);
        }
        self.pages = pages;
        self.durable += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// The number of the first of `entries`, which begin at number `at`, that differs from the one
    /// here; `None` if all that are here are equal.
    pub(crate) fn first_difference(
        &mut self,
        at: u64,
        entries: &[RecipeEntry],
    ) -> Result<Option<u64>> {
        let (mut number, mut rest) = (at, entries);
        while number < self.durable && !rest.is_empty() {
            let (first, kept) = self.page_with(number)?;
            let kept = usize::try_from(number - first)
                .ok()
                .and_then(|n| kept.get(n..));
            let kept = kept.unwrap_or_default();
            let differs = kept.iter().zip(rest).position(|(kept, new)| kept != new);
            if let Some(place) = differs {
                return Ok(Some(number + place as u64));
            }
            let same = kept.len().min(rest.len());
            number += same as u64;
            rest = rest.get(same..).unwrap_or_default();
        }
        let waiting = usize::try_from(number.saturating_sub(self.durable)).ok();
        let waiting = waiting
            .and_then(|n| self.waiting.get(n..))
            .unwrap_or_default();
        let differs = waiting.iter().zip(rest).position(|(kept, new)| kept != new);
        Ok(differs.map(|place| number + place as u64))
    }

    /// Forget all entries from number `count` on, at once and durably.
    pub(crate) fn cut(&mut self, files: &dyn Files, count: u64) -> Result<()> {
        if count >= self.count() {
            return Ok(());
        }
        if count >= self.durable {
            let keep = usize::try_from(count - self.durable).unwrap_or(usize::MAX);
            return self.drop_waiting(keep);
        }
        let (first, kept) = self.page_with(count)?;
        let whole = self.compared.0;
        let keep = usize::try_from(count - first)
            .ok()
            .and_then(|n| kept.get(..n));
        self.rewrite(files, whole, keep.unwrap_or_default(), count)
    }

    /// Forget the waiting entries from the one at `keep` among them on.
    pub(crate) fn drop_waiting(&mut self, keep: usize) -> Result<()> {
        self.waiting.truncate(keep);
        self.end = match (self.waiting.last(), self.pages.checked_sub(1)) {
            (Some(last), _) => last.end(),
            (None, Some(page)) => {
                let kept = self.recipe().read_page(page)?;
                kept.last().map_or(0, RecipeEntry::end)
            }
            (None, None) => 0,
        };
        Ok(())
    }

    /// Put a file with the first `whole` pages and one of `last` in the place of this one. What was
    /// durable of them stays so at every moment, which no change in place could promise.
    fn rewrite(
        &mut self,
        files: &dyn Files,
        whole: u64,
        last: &[RecipeEntry],
        count: u64,
    ) -> Result<()> {
        let end = match (last.last(), whole.checked_sub(1)) {
            (Some(last), _) => last.end(),
            (None, Some(page)) => {
                let kept = self.recipe().read_page(page)?;
                kept.last().map_or(0, RecipeEntry::end)
            }
            (None, None) => 0,
        };
        let (dir, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let temporary = format!("{dir}/~{name}");
        let file = files.create(&temporary).on(&temporary)?;
        let mut at = 0;
        let mut bytes = Vec::new();
        while at < whole * PAGE as u64 {
            bytes.resize((whole * PAGE as u64 - at).min(1 << 20) as usize, 0);
            self.file.read_at(at, &mut bytes).on(&self.path)?;
            file.write_at(at, &bytes).on(&temporary)?;
            at += bytes.len() as u64;
        }
        if !last.is_empty() {
            let page = encode_page(whole, last);
            file.write_at(at, &page).on(&temporary)?;
        }
        file.sync().on(&temporary)?;
        files.rename(&temporary, &self.path).on(&temporary)?;
        self.file = file;
        self.pages = whole + u64::from(!last.is_empty());
        self.durable = count;
        self.end = end;
        self.waiting.clear();
        self.compared = (0, 0);
        self.renamed = true;
        self.sync_name(files)
    }

    /// Make sure that the file's name leads to it after a power cut too.
    fn sync_name(&mut self, files: &dyn Files) -> Result<()> {
        if self.renamed {
            let dir = self.path.rsplit_once('/').map_or("", |(dir, _)| dir);
            files.sync_dir(dir).on(dir)?;
            self.renamed = false;
        }
        Ok(())
    }

    /// The page that holds the durable entry `number`, and the number of its first entry.
    fn page_with(&mut self, number: u64) -> Result<(u64, Vec<RecipeEntry>)> {
        let recipe = self.recipe();
        let (mut page, mut first) = self.compared;
        if first > number {
            (page, first) = (0, 0);
        }
        loop {
            let kept = recipe.read_page(page)?;
            let next = first + kept.len() as u64;
            if number < next {
                self.compared = (page, first);
                return Ok((first, kept));
            }
            (page, first) = (page + 1, next);
        }
    }

    fn check(&self, first: u64, entries: &[RecipeEntry]) -> Result<(), Refusal> {
        let disk = self.disk;
        let mut end = self.end;
        for (entry, number) in entries.iter().zip(first..) {
            if entry.len == 0 {
                return Err(Refusal::EmptyEntry {
                    disk,
                    entry: number,
                });
            }
            if entry.len > MAX_CHUNK {
                return Err(Refusal::LongEntry {
                    disk,
                    entry: number,
                    max: MAX_CHUNK,
                    found: entry.len,
                });
            }
            if entry.offset < end {
                return Err(Refusal::OutOfOrder {
                    disk,
                    entry: number,
                    expected: end,
                    found: entry.offset,
                });
            }
            end = entry.end();
            if end > self.size {
                return Err(Refusal::PastEnd {
                    disk,
                    entry: number,
                    size: self.size,
                    found: end,
                });
            }
        }
        Ok(())
    }
}
