//! Opening a store: to write, alone, or to read, beside others.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

use super::{Core, Limits, MACHINES_DIR, READERS, Store};
use crate::error::{OnPath, Result, StoreError};
use crate::files::{Directory, Files, Held};
use crate::index::{INDEX_DIR, Index, IndexLimits};
use crate::pack::writer::Writer;
use crate::pack::{PACKS_DIR, Packs};
use crate::snapshot::machine_dirs;
use crate::text::{read_text, write_text};

const FORMAT: &str = "FORMAT";
const LOCK: &str = "LOCK";
/// Packs hold their offsets in 32 bits; a limit above this is lowered to it.
const LONGEST_PACK: u64 = 1 << 30;

impl Store {
    /// Open the store in directory `root`, or make one if the directory is empty or not there.
    ///
    /// # Errors
    /// `Locked` if another process has it, `NotAStore`, or as the files answer.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let files = Directory::open(root).on(&root.display().to_string())?;
        Self::open_with(Arc::new(files), Limits::default())
    }

    /// Open a store on `files`, which may be simulated.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(files: Arc<dyn Files>, limits: Limits) -> Result<Self> {
        refuse_foreign(files.as_ref())?;
        let held = files.lock(LOCK).on(LOCK)?.ok_or(StoreError::Locked {
            path: LOCK.to_owned(),
        })?;
        lay_out(files.as_ref())?;
        // What an earlier process removed must stay removed: a pack's number is chosen below so that no
        // index run knows it, and a run that came back later would.
        // A commit that a killed process did not live to sync is one all the same, as it can be seen.
        let machines = machine_dirs(files.as_ref())?
            .into_iter()
            .map(|(dir, _)| dir);
        let ours = ["", PACKS_DIR, INDEX_DIR, MACHINES_DIR].map(str::to_owned);
        for dir in ours.into_iter().chain(machines) {
            files.sync_dir(&dir).on(&dir)?;
        }
        Self::assemble(files, limits, held, false)
    }

    /// Open the store in directory `root` to read it, while another process may write to it: list it,
    /// read its disks, verify it, count it. Nothing on the disk is changed, and nothing can be removed
    /// from the store as long as this one is open.
    ///
    /// # Errors
    /// `NotAStore`, `Locked` while garbage is being collected, or as the files answer.
    pub fn open_to_read(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let files = Directory::open_to_read(root).on(&root.display().to_string())?;
        Self::open_to_read_with(Arc::new(files), Limits::default())
    }

    /// As [`Store::open_to_read`], on `files`.
    ///
    /// # Errors
    /// As [`Store::open_to_read`].
    pub fn open_to_read_with(files: Arc<dyn Files>, limits: Limits) -> Result<Self> {
        check_format(files.as_ref())?;
        let held = files.lock_shared(READERS).on(READERS)?;
        let held = held.ok_or(StoreError::Locked {
            path: READERS.to_owned(),
        })?;
        Self::assemble(files, limits, held, true)
    }

    fn assemble(
        files: Arc<dyn Files>,
        mut limits: Limits,
        held: Held,
        read_only: bool,
    ) -> Result<Self> {
        limits.pack_bytes = limits.pack_bytes.clamp(1, LONGEST_PACK);
        let index_limits = IndexLimits {
            in_memory: limits.index_entries_in_memory,
            a_run: limits.index_entries_a_run,
        };
        // Runs before packs: what a run knows lies in packs that were there before it.
        let (index, damaged) = Index::open(Arc::clone(&files), index_limits, read_only)?;
        let packs = Packs::open(Arc::clone(&files))?;
        let last_indexed = index.covered().last_pack();
        let last_there = packs.lengths().last().map(|(number, _)| *number);
        // A number is never given twice, or old index entries would point into a new pack.
        let next = last_indexed
            .max(last_there)
            .map_or(1, |last| last.saturating_add(1));
        let store = Self {
            core: Arc::new(Core {
                writer: Mutex::new(Writer::new(Arc::clone(&files), next, limits.pack_bytes)),
                files,
                limits,
                packs,
                index,
                read_only,
                syncing: Mutex::default(),
                gate: RwLock::default(),
                claims: Mutex::default(),
                leases: Mutex::default(),
                maintenance: Mutex::default(),
                removed_runs: AtomicU64::new(1),
                made_good: Mutex::new(0),
                index_was_whole: damaged.is_empty(),
                mended: Mutex::new(damaged),
                _lock: held,
            }),
        };
        store.complete_index()?;
        Ok(store)
    }
}

/// Whether the directory is empty, or a store.
fn refuse_foreign(files: &dyn Files) -> Result<()> {
    let names = files.list("").on("")?;
    if names.iter().any(|name| name == FORMAT) {
        return Ok(());
    }
    let ours = [LOCK, READERS, PACKS_DIR, INDEX_DIR, MACHINES_DIR, "~FORMAT"];
    match names
        .into_iter()
        .find(|name| !ours.contains(&name.as_str()))
    {
        None => Ok(()),
        Some(found) => Err(StoreError::NotAStore {
            path: FORMAT.to_owned(),
            expected: "an empty directory or a store".to_owned(),
            found,
        }),
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct FormatVersion {
    version: u32,
}

fn lay_out(files: &dyn Files) -> Result<()> {
    match check_format(files) {
        Err(StoreError::NotAStore { found, .. }) if found.is_empty() => {
            for dir in [PACKS_DIR, INDEX_DIR, MACHINES_DIR] {
                files.create_dir(dir).on(dir)?;
            }
            files.create(READERS).on(READERS)?;
            write_text(files, "", FORMAT, "format", &FormatVersion { version: 1 })
        }
        other => other,
    }
}

/// Check that this is a store of our version.
fn check_format(files: &dyn Files) -> Result<()> {
    let found = match read_text::<FormatVersion>(files, "", FORMAT, "format")? {
        Some(found) if found.version == 1 => return Ok(()),
        Some(found) => format!("version {}", found.version),
        None => String::new(),
    };
    Err(StoreError::NotAStore {
        path: FORMAT.to_owned(),
        expected: "version 1".to_owned(),
        found,
    })
}
