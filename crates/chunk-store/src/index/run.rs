//! A run: a sorted file of entries that never changes once it is there.

use std::ops::Range;
use std::sync::Arc;

use super::format::{
    BLOCK_LEN, BLOCKS_A_PAGE, ENTRIES_A_PAGE, ENTRY_LEN, Entry, Header, Key, PAGE, RANGE_LEN,
    bits_of, block_of, blocks_for, check, high, seal,
};
use super::{INDEX_DIR, PackRanges};
use crate::bytes::{put, u32_at, u64_at};
use crate::error::{Damage, Lie, OnPath, Result, StoreError};
use crate::files::{Files, StoredFile};
use crate::pack::Location;

/// Pages gathered before one write, and read at once when a run is walked.
const PAGES_AT_ONCE: usize = 64;

pub(crate) fn run_path(number: u64) -> String {
    format!("{INDEX_DIR}/{number:010}.run")
}

pub(crate) fn run_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".run")?;
    (digits.len() == 10).then(|| digits.parse().ok()).flatten()
}

/// An open run. In memory: 8 bytes a page of 127 entries, and the ranges of the packs.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) header: Header,
    pub(crate) ranges: PackRanges,
    fences: Vec<u64>,
    file: Arc<dyn StoredFile>,
}

impl Run {
    pub(crate) fn path(&self) -> String {
        run_path(self.number)
    }

    /// The length of the file.
    pub(crate) fn len(&self) -> u64 {
        self.header.tail_at() + self.header.tail_len
    }

    /// What it takes of memory.
    pub(crate) fn memory(&self) -> u64 {
        self.header.tail_len + std::mem::size_of::<Self>() as u64
    }

    /// Open run `number`: reads its header and its tail.
    pub(crate) fn open(files: &dyn Files, number: u64) -> Result<Self> {
        let path = run_path(number);
        let file = files.open(&path).on(&path)?;
        let len = file.len().on(&path)?;
        let damage = |offset, lie| StoreError::from(Damage::new(&path, offset, lie));
        let page = read_page(file.as_ref(), &path, number, 0)?.0;
        let header = Header::decode(&page, len).map_err(|lie| damage(0, lie))?;
        // The file is as long as the header says, so this allocates no more than the file has.
        let mut tail = vec![0; header.tail_len as usize];
        file.read_at(header.tail_at(), &mut tail).on(&path)?;
        let found = crc32c::crc32c(&tail);
        if found != header.tail_crc {
            let lie = Lie::Checksum {
                what: "the index tail",
                expected: header.tail_crc,
                found,
            };
            return Err(damage(header.tail_at(), lie));
        }
        let (fences, ranges) = tail.split_at(header.entry_pages as usize * 8);
        let mut covered = PackRanges::default();
        for range in ranges.chunks_exact(RANGE_LEN) {
            covered.add(
                u32_at(range, 0),
                u64::from(u32_at(range, 4))..u64::from(u32_at(range, 8)),
            );
        }
        Ok(Self {
            number,
            header,
            ranges: covered,
            fences: fences.chunks_exact(8).map(|b| u64_at(b, 0)).collect(),
            file,
        })
    }

    /// A cursor that finds keys in ascending order.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor {
            run: self,
            filter: Loaded::default(),
            entries: Loaded::default(),
        }
    }

    /// All entries in order, with their ordinals.
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk {
            run: self,
            next_page: 0,
            pages: Vec::new(),
            at: 0,
        }
    }

    /// Check every page. Answers the first damage.
    pub(crate) fn verify(&self) -> Result<()> {
        let mut previous: Option<Key> = None;
        for entry in self.walk() {
            let entry = entry?;
            if previous.is_some_and(|previous| previous >= entry.key) {
                let lie = Lie::Value {
                    what: "the order of keys: the first half of a key, above",
                    expected: previous.map_or(0, |key| high(&key)),
                    found: high(&entry.key),
                };
                return Err(Damage::new(self.path(), 0, lie).into());
            }
            previous = Some(entry.key);
        }
        for page in 0..self.header.filter_pages {
            self.page(1 + self.header.entry_pages + page)?;
        }
        Ok(())
    }

    fn page(&self, number: u64) -> Result<(Box<[u8; PAGE]>, usize)> {
        read_page(self.file.as_ref(), &self.path(), self.number, number)
    }

    /// How many entries stand before those of entry page `page`.
    fn ordinal(page: u64) -> u64 {
        page * ENTRIES_A_PAGE as u64
    }

    fn expected_on(&self, page: u64) -> u64 {
        (self.header.entries - Self::ordinal(page).min(self.header.entries))
            .min(ENTRIES_A_PAGE as u64)
    }

    fn check_count(&self, page: u64, found: usize) -> Result<()> {
        let expected = self.expected_on(page);
        if expected == found as u64 {
            return Ok(());
        }
        let lie = Lie::Value {
            what: "the page's entries",
            expected,
            found: found as u64,
        };
        Err(Damage::new(self.path(), (1 + page) * PAGE as u64, lie).into())
    }
}

fn read_page(
    file: &dyn StoredFile,
    path: &str,
    run: u64,
    number: u64,
) -> Result<(Box<[u8; PAGE]>, usize)> {
    let offset = number * PAGE as u64;
    let mut page = Box::new([0; PAGE]);
    match file.read_at(offset, &mut page[..]) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            let lie = Lie::Short {
                expected: offset + PAGE as u64,
                found: file.len().on(path)?,
            };
            return Err(Damage::new(path, offset, lie).into());
        }
        other => other.on(path)?,
    }
    let entries = check(&page, run, number).map_err(|lie| Damage::new(path, offset, lie))?;
    Ok((page, entries))
}

/// The page last used, so that neighbouring keys cost one read.
#[derive(Default)]
struct Loaded {
    number: u64,
    page: Option<(Box<[u8; PAGE]>, usize)>,
}

impl Loaded {
    fn get(&mut self, run: &Run, number: u64) -> Result<(&[u8; PAGE], usize)> {
        if self.number != number || self.page.is_none() {
            self.page = None;
            self.number = number;
        }
        let (page, entries) = match self.page.take() {
            Some(loaded) => self.page.insert(loaded),
            None => self.page.insert(run.page(number)?),
        };
        Ok((page, *entries))
    }
}

/// Finds keys in a run.
pub(crate) struct Cursor<'r> {
    run: &'r Run,
    filter: Loaded,
    entries: Loaded,
}

impl Cursor<'_> {
    /// Where the chunk of `key` lies, and the entry's ordinal.
    pub(crate) fn find(&mut self, key: &Key) -> Result<Option<(u64, Location)>> {
        let run = self.run;
        let after = run.fences.partition_point(|fence| *fence <= high(key));
        if after == 0 || !self.may_hold(key)? {
            return Ok(None);
        }
        // Keys may share their first 8 bytes across a page's edge: then the page before counts too.
        for page in (0..after as u64).rev() {
            let (bytes, count) = self.entries.get(run, 1 + page)?;
            run.check_count(page, count)?;
            let content = &bytes[..count * ENTRY_LEN];
            let (found, first) = find_in_page(content, key);
            if let Some((slot, entry)) = found {
                return Ok(Some((Run::ordinal(page) + slot, entry.location)));
            }
            if first < Some(*key) {
                break;
            }
        }
        Ok(None)
    }

    fn may_hold(&mut self, key: &Key) -> Result<bool> {
        let run = self.run;
        let block = block_of(key, run.header.filter_blocks);
        let page = 1 + run.header.entry_pages + block / BLOCKS_A_PAGE as u64;
        let (bytes, _) = self.filter.get(run, page)?;
        let at = (block % BLOCKS_A_PAGE as u64) as usize * BLOCK_LEN;
        let bits = bytes.get(at..at + BLOCK_LEN).unwrap_or_default();
        Ok(bits_of(key).into_iter().all(|bit| {
            bits.get(bit / 8)
                .is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
        }))
    }
}

/// The entry of `key` in a page, if it is there, and the page's first key.
fn find_in_page(content: &[u8], key: &Key) -> (Option<(u64, Entry)>, Option<Key>) {
    let (entries, _) = content.as_chunks::<ENTRY_LEN>();
    let first = entries.first().map(|entry| Entry::decode(entry).key);
    let slot = entries.partition_point(|entry| entry[..16] < key[..]);
    let found = entries
        .get(slot)
        .map(|entry| Entry::decode(entry))
        .filter(|entry| entry.key == *key);
    (found.map(|entry| (slot as u64, entry)), first)
}

/// Iterator over the entries of a run; see [`Run::walk`].
pub(crate) struct Walk<'r> {
    run: &'r Run,
    next_page: u64,
    pages: Vec<Entry>,
    at: usize,
}

impl Walk<'_> {
    fn load(&mut self) -> Result<()> {
        self.pages.clear();
        self.at = 0;
        let left = self.run.header.entry_pages - self.next_page;
        let count = left.min(PAGES_AT_ONCE as u64);
        let mut bytes = vec![0; count as usize * PAGE];
        let offset = (1 + self.next_page) * PAGE as u64;
        let path = self.run.path();
        self.run.file.read_at(offset, &mut bytes).on(&path)?;
        for page in bytes.as_chunks::<PAGE>().0 {
            let number = 1 + self.next_page;
            let entries = check(page, self.run.number, number)
                .map_err(|lie| Damage::new(&path, number * PAGE as u64, lie))?;
            self.run.check_count(self.next_page, entries)?;
            self.pages.extend(
                page.as_chunks::<ENTRY_LEN>()
                    .0
                    .iter()
                    .take(entries)
                    .map(|entry| Entry::decode(entry)),
            );
            self.next_page += 1;
        }
        Ok(())
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.at == self.pages.len() {
            if self.next_page >= self.run.header.entry_pages {
                return None;
            }
            if let Err(error) = self.load() {
                self.next_page = self.run.header.entry_pages;
                self.pages.clear();
                return Some(Err(error));
            }
        }
        let entry = self.pages.get(self.at).copied()?;
        self.at += 1;
        Some(Ok(entry))
    }
}

/// Write `entries`, ascending and at most `most` of them, as run `number`. It is there, whole and
/// durable, when this comes back, and not there at all after an error.
pub(crate) fn write_run(
    files: &dyn Files,
    number: u64,
    most: u64,
    ranges: &PackRanges,
    entries: &mut dyn Iterator<Item = Result<Entry>>,
) -> Result<Run> {
    let temporary = format!("{INDEX_DIR}/~{number:010}");
    let written = write_temporary(files, &temporary, number, most, ranges, entries)
        .and_then(|()| files.rename(&temporary, &run_path(number)).on(&temporary))
        .and_then(|()| files.sync_dir(INDEX_DIR).on(INDEX_DIR));
    if let Err(error) = written {
        // Room is what may be lacking: give back what was taken. A leftover is removed at the next open.
        let _ = files.remove(&temporary);
        let _ = files.remove(&run_path(number));
        return Err(error);
    }
    Run::open(files, number)
}

fn write_temporary(
    files: &dyn Files,
    temporary: &str,
    number: u64,
    most: u64,
    ranges: &PackRanges,
    entries: &mut dyn Iterator<Item = Result<Entry>>,
) -> Result<()> {
    let file = files.create(temporary).on(temporary)?;
    let mut out = PageWriter {
        file: file.as_ref(),
        path: temporary,
        run: number,
        next: 1,
        gathered: Vec::new(),
    };
    let mut header = Header {
        filter_blocks: blocks_for(most),
        ..Header::default()
    };
    let mut filter = vec![0u8; header.filter_blocks as usize * BLOCK_LEN];
    let mut tail = Vec::new();
    let mut page = [0; PAGE];
    let mut on_page = 0;
    for entry in entries {
        let entry = entry?;
        if on_page == 0 {
            tail.extend_from_slice(&high(&entry.key).to_le_bytes());
        }
        entry.encode(&mut page[on_page * ENTRY_LEN..(on_page + 1) * ENTRY_LEN]);
        on_page += 1;
        set_bits(&mut filter, &entry.key, header.filter_blocks);
        header.entries += 1;
        header.raw_sum += u64::from(entry.location.raw_len);
        header.stored_sum += u64::from(entry.location.stored_len);
        if on_page == ENTRIES_A_PAGE {
            out.push(&mut page, on_page)?;
            on_page = 0;
        }
    }
    if on_page > 0 {
        out.push(&mut page, on_page)?;
    }
    header.entry_pages = out.next - 1;
    for blocks in filter.chunks(BLOCKS_A_PAGE * BLOCK_LEN) {
        put(&mut page, 0, blocks);
        out.push(&mut page, 0)?;
    }
    header.filter_pages = out.next - 1 - header.entry_pages;
    ranges.encode(&mut tail);
    header.tail_len = tail.len() as u64;
    header.tail_crc = crc32c::crc32c(&tail);
    out.flush()?;
    file.write_at(header.tail_at(), &tail).on(temporary)?;
    header.encode(&mut page);
    seal(&mut page, 0, number, 0);
    file.write_at(0, &page).on(temporary)?;
    file.sync().on(temporary)
}

fn set_bits(filter: &mut [u8], key: &Key, blocks: u64) {
    let at = block_of(key, blocks) as usize * BLOCK_LEN;
    for bit in bits_of(key) {
        if let Some(byte) = filter.get_mut(at + bit / 8) {
            *byte |= 1 << (bit % 8);
        }
    }
}

/// Numbers, seals and writes pages.
struct PageWriter<'f> {
    file: &'f dyn StoredFile,
    path: &'f str,
    run: u64,
    next: u64,
    gathered: Vec<u8>,
}

impl PageWriter<'_> {
    /// Add `page`, and clear it for the next.
    fn push(&mut self, page: &mut [u8; PAGE], entries: usize) -> Result<()> {
        seal(page, entries, self.run, self.next);
        self.gathered.extend_from_slice(page);
        page.fill(0);
        self.next += 1;
        if self.gathered.len() >= PAGES_AT_ONCE * PAGE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let at = self.next * PAGE as u64 - self.gathered.len() as u64;
        self.file.write_at(at, &self.gathered).on(self.path)?;
        self.gathered.clear();
        Ok(())
    }
}

impl PackRanges {
    fn encode(&self, out: &mut Vec<u8>) {
        for (pack, range) in self.iter() {
            let Range { start, end } = range;
            out.extend_from_slice(&pack.to_le_bytes());
            // Packs stay far below 4 GiB.
            out.extend_from_slice(&(start as u32).to_le_bytes());
            out.extend_from_slice(&(end as u32).to_le_bytes());
        }
    }
}
