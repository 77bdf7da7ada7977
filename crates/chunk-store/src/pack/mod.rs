//! Packs: the append-only files that hold the chunks.

pub(crate) mod format;
pub(crate) mod scan;
pub(crate) mod writer;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use chunking::{ChunkId, Packed};

use crate::error::{Damage, Lie, OnPath, Result, StoreError};
use crate::files::{Files, StoredFile};
use crate::sync::{lock, read, write};
use format::{PACK_HEADER_LEN, RECORD_HEADER_LEN, RecordHeader};

pub(crate) const PACKS_DIR: &str = "packs";
/// Packs kept open for reading. 10 TB are about 40,000 packs, more than a process may have open.
const OPEN_PACKS: usize = 128;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location {
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
}

impl Location {
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + RECORD_HEADER_LEN as u64 + u64::from(self.stored_len)
    }
}

/// The path of pack `number`.
pub(crate) fn pack_path(number: u32) -> String {
    format!("{PACKS_DIR}/{number:010}.pack")
}

fn pack_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".pack")?;
    (digits.len() == 10).then(|| digits.parse().ok()).flatten()
}

/// The packs there are, and how far each may be read.
#[derive(Debug)]
pub(crate) struct Packs {
    files: Arc<dyn Files>,
    known: RwLock<Known>,
    open: Mutex<OpenPacks>,
}

/// What is known of the packs; a view of it answers whether a location can be read.
#[derive(Debug, Default)]
pub(crate) struct Known {
    lengths: BTreeMap<u32, u64>,
    /// Places where a read found something else than the index says. A better copy is looked for
    /// elsewhere, and the chunk counts as lacking until there is one.
    bad: HashSet<(u32, u32)>,
}

impl Known {
    /// Whether the record at `location` is inside its pack and not known to be bad.
    pub(crate) fn holds(&self, location: &Location) -> bool {
        self.lengths
            .get(&location.pack)
            .is_some_and(|len| location.end() <= *len)
            && (self.bad.is_empty() || !self.bad.contains(&(location.pack, location.offset)))
    }

    /// How far a pack may be read.
    pub(crate) fn len(&self, pack: u32) -> Option<u64> {
        self.lengths.get(&pack).copied()
    }

    /// Whether the pack is there.
    pub(crate) fn has(&self, pack: u32) -> bool {
        self.lengths.contains_key(&pack)
    }
}

impl Packs {
    /// Find the packs of a store.
    pub(crate) fn open(files: Arc<dyn Files>) -> Result<Self> {
        let packs = Self {
            files,
            known: RwLock::default(),
            open: Mutex::default(),
        };
        packs.load()?;
        Ok(packs)
    }

    /// Look again which packs there are.
    pub(crate) fn load(&self) -> Result<()> {
        let mut lengths = BTreeMap::new();
        for name in self.files.list(PACKS_DIR).on(PACKS_DIR)? {
            let Some(number) = pack_number(&name) else {
                continue;
            };
            let path = pack_path(number);
            let file = self.files.open(&path).on(&path)?;
            lengths.insert(number, file.len().on(&path)?);
        }
        write(&self.known).lengths = lengths;
        Ok(())
    }

    pub(crate) fn view(&self) -> RwLockReadGuard<'_, Known> {
        read(&self.known)
    }

    /// Number and length of every pack, by number.
    pub(crate) fn lengths(&self) -> Vec<(u32, u64)> {
        let known = read(&self.known);
        known.lengths.iter().map(|(n, len)| (*n, *len)).collect()
    }

    pub(crate) fn set_len(&self, number: u32, len: u64) {
        write(&self.known).lengths.insert(number, len);
    }

    /// Forget a pack: from now on nothing is found in it.
    pub(crate) fn forget(&self, number: u32) {
        let mut known = write(&self.known);
        known.lengths.remove(&number);
        known.bad.retain(|(pack, _)| *pack != number);
        drop(known);
        lock(&self.open).by_number.remove(&number);
    }

    /// Do not look for a chunk at `location` any more.
    pub(crate) fn mark_bad(&self, location: &Location) {
        write(&self.known)
            .bad
            .insert((location.pack, location.offset));
    }

    pub(crate) fn file(&self, number: u32) -> Result<Arc<dyn StoredFile>> {
        lock(&self.open).get(self.files.as_ref(), number)
    }

    /// The chunk at `location`, still packed. Its header fits, its payload is not verified yet.
    pub(crate) fn read_packed(&self, location: &Location, id: &ChunkId) -> Result<Packed> {
        let path = pack_path(location.pack);
        let damage = |lie| Damage::new(&path, u64::from(location.offset), lie);
        let mut record = vec![0; RECORD_HEADER_LEN + location.stored_len as usize];
        match self
            .file(location.pack)?
            .read_at(u64::from(location.offset), &mut record)
        {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let found = self.file(location.pack)?.len().on(&path)?;
                let expected = location.end();
                return Err(damage(Lie::Short { expected, found }).into());
            }
            other => other.on(&path)?,
        }
        let bytes = record.split_off(RECORD_HEADER_LEN);
        let header = RecordHeader::decode(&crate::bytes::array(&record, 0)).map_err(damage)?;
        if header.id != *id {
            return Err(damage(Lie::OtherChunk {
                expected: *id,
                found: header.id,
            })
            .into());
        }
        if header.stored_len != location.stored_len {
            return Err(damage(Lie::Value {
                what: "the payload's length",
                expected: u64::from(location.stored_len),
                found: u64::from(header.stored_len),
            })
            .into());
        }
        Ok(Packed {
            id: *id,
            raw_len: header.raw_len,
            codec: header.codec,
            bytes,
        })
    }

    /// The raw bytes of the chunk at `location`, verified.
    pub(crate) fn read_chunk(&self, location: &Location, id: &ChunkId) -> Result<Vec<u8>> {
        let packed = self.read_packed(location, id)?;
        packed.unpack().map_err(|source| {
            let lie = Lie::Chunk { id: *id, source };
            Damage::new(pack_path(location.pack), u64::from(location.offset), lie).into()
        })
    }
}

/// The damage at the head of pack `number`, if any.
pub(crate) fn check_head(file: &dyn StoredFile, number: u32, len: u64) -> Result<Option<Damage>> {
    let path = pack_path(number);
    if len < PACK_HEADER_LEN as u64 {
        let lie = Lie::Short {
            expected: PACK_HEADER_LEN as u64,
            found: len,
        };
        return Ok(Some(Damage::new(path, 0, lie)));
    }
    let mut head = [0; PACK_HEADER_LEN];
    file.read_at(0, &mut head).on(&path)?;
    let checked = format::check_pack_header(&head, number);
    Ok(checked.err().map(|lie| Damage::new(path, 0, lie)))
}

/// Packs open for reading, the least recently used closed first.
#[derive(Debug, Default)]
struct OpenPacks {
    by_number: BTreeMap<u32, (u64, Arc<dyn StoredFile>)>,
    uses: u64,
}

impl OpenPacks {
    fn get(&mut self, files: &dyn Files, number: u32) -> Result<Arc<dyn StoredFile>> {
        self.uses += 1;
        if let Some((used, file)) = self.by_number.get_mut(&number) {
            *used = self.uses;
            return Ok(Arc::clone(file));
        }
        let path = pack_path(number);
        let file = match files.open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound { what: path });
            }
            other => other.on(&path)?,
        };
        if self.by_number.len() >= OPEN_PACKS {
            let oldest = self.by_number.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                self.by_number.remove(&oldest);
            }
        }
        self.by_number
            .insert(number, (self.uses, Arc::clone(&file)));
        Ok(file)
    }
}
