//! A disk that forgets, tears and fills up, decided by a seed. For tests, here and elsewhere.
//!
//! It keeps what a process sees and what a power cut would leave apart. Until a file is synced, each
//! write to it since the last sync may after a power cut be there, be missing, or be torn at its
//! 512-byte sectors, whatever became of the writes before it. Until a directory is synced, only a
//! first part of the names made, changed and removed in it since are. That is harsher than any
//! file system is, and no harsher than what they promise.
//!
//! ```
//! use std::sync::Arc;
//! use chunk_store::{Limits, Store, sim::SimDisk};
//!
//! let disk = SimDisk::new(7);
//! let store = Store::open_with(disk.files(), Limits::default())?;
//! drop(store);
//! disk.cut_power();
//! let store = Store::open_with(disk.files(), Limits::default())?;
//! # Ok::<(), chunk_store::StoreError>(())
//! ```

mod files;
mod state;

use std::sync::{Arc, Mutex};

use crate::files::Files;
use crate::sync::lock;
use files::SimFiles;
use state::State;

pub use state::Rng;

/// How often calls fail, in parts of a thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads that fail with EIO.
    pub read: u32,
    /// Writes that fail with EIO, a first part of the bytes written or none.
    pub write: u32,
    /// Syncs that fail with EIO: what they were to keep may be lost, though a later one succeeds.
    pub sync: u32,
}

/// A simulated disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk whose accidents `seed` decides.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(seed))),
        }
    }

    /// The files of the disk, for one process. They are dead after [`SimDisk::kill`] and
    /// [`SimDisk::cut_power`].
    #[must_use]
    pub fn files(&self) -> Arc<dyn Files> {
        Arc::new(SimFiles::new(Arc::clone(&self.state)))
    }

    /// End the process that uses the disk: its handles are dead, its locks gone, and what it wrote
    /// stays in the kernel's memory.
    pub fn kill(&self) {
        lock(&self.state).kill();
    }

    /// Cut the power: as [`SimDisk::kill`], and what was not synced meets its fate.
    pub fn cut_power(&self) {
        lock(&self.state).cut_power();
    }

    /// Let the power go off by itself at the `calls`-th changing call from now on, in the midst of it:
    /// it and all that follow fail until [`SimDisk::cut_power`].
    pub fn cut_power_after(&self, calls: u64) {
        lock(&self.state).off_in = Some(calls);
    }

    /// Whether the power went off; see [`SimDisk::cut_power_after`].
    #[must_use]
    pub fn is_off(&self) -> bool {
        lock(&self.state).off
    }

    /// The room there is for the bytes of all files. `None`: no end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.state).capacity = bytes;
    }

    /// Bytes that all files have.
    #[must_use]
    pub fn used(&self) -> u64 {
        lock(&self.state).used()
    }

    /// How often calls fail from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }

    /// Plant a bug: a sync of files whose path begins with `prefix` does nothing and says that it
    /// did. What holds only because of these syncs must then break, and the tests must see it.
    pub fn ignore_syncs_of(&self, prefix: &str) {
        lock(&self.state).ignored_syncs = Some(prefix.to_owned());
    }

    /// Changing calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        lock(&self.state).calls
    }

    /// All files, with what a process sees in them.
    #[must_use]
    pub fn contents(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.state).contents()
    }

    /// Change a file behind everybody's back, durably: what a failing medium does. Nothing happens if
    /// there is no such file.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        lock(&self.state).damage(path, change);
    }
}
