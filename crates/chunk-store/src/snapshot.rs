//! Snapshots: what a committed push is.

use std::fmt;
use std::ops::Range;

use block_io::SectorSize;
use serde::{Deserialize, Serialize};

use crate::disk::SnapshotDisk;
use crate::error::{Damage, OnPath, Refusal, Result, StoreError};
use crate::files::Files;
use crate::names;
use crate::store::{MACHINES_DIR, Store};
use crate::sync::lock;
use crate::text::{read_text, write_text};

const KIND: &str = "snapshot";
/// What the name of a snapshot's manifest ends in.
pub(crate) const MANIFEST: &str = ".snapshot";
/// What the name of an uncommitted push's description ends in.
pub(crate) const PUSH: &str = ".push";

/// The name of a snapshot in its store: text without spaces, fit for a file name but for one `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// The name that `text` is, if it can be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (machine, push) = text.split_once('/')?;
        (names::is_encoded(machine) && names::is_encoded(push)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn new(machine: &str, push: &str) -> Self {
        Self(format!("{machine}/{push}"))
    }

    /// The machine's directory and the push's file name in it, without its ending.
    pub(crate) fn parts(&self) -> (String, String) {
        let (machine, push) = self.0.split_once('/').unwrap_or((&self.0, ""));
        (machine_dir(machine), push.to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn machine_dir(machine: &str) -> String {
    format!("{MACHINES_DIR}/{machine}")
}

pub(crate) fn recipe_path(dir: &str, push: &str, disk: usize) -> String {
    format!("{dir}/{push}.{disk}.recipe")
}

/// The push a file of a machine's directory belongs to, if its name is one of ours.
pub(crate) fn push_of(file: &str) -> Option<&str> {
    let push = file
        .strip_suffix(MANIFEST)
        .or_else(|| file.strip_suffix(PUSH))
        .or_else(|| {
            let (push, disk) = file.strip_suffix(".recipe")?.rsplit_once('.')?;
            disk.bytes().all(|b| b.is_ascii_digit()).then_some(push)
        })?;
    names::is_encoded(push).then_some(push)
}

/// What a disk is, before anything of it has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// What the source calls it: `/dev/sda`, say. Never part of a path here.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its logical sector size in bytes.
    pub sector_size: u32,
}

/// A disk of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDisk {
    /// What it is.
    #[serde(flatten)]
    pub info: DiskInfo,
    /// The root hash of its recipe, in hex.
    pub root: String,
    /// How many entries its recipe has.
    pub entries: u64,
    /// How many pages its recipe file has.
    pub recipe_pages: u64,
    /// Bytes that the entries cover.
    pub used: u64,
    /// What the source could not read; it reads as zeroes here.
    pub unreadable: Vec<Range<u64>>,
}

/// A committed push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name in the store.
    pub id: SnapshotId,
    /// The machine's name, as the machine says it.
    pub machine: String,
    /// The key the push was known by.
    pub push_key: String,
    /// Counts the pushes of a machine: a later push has a higher number.
    pub sequence: u64,
    /// When it was committed, in seconds since 1970, as the caller's clock says.
    pub committed_at: u64,
    /// Whether what is stored is known to be what was sent. A commit sets it, as every chunk was
    /// verified when it arrived and every root hash fits; [`Store::verify_snapshot`] sets it anew.
    pub verified: bool,
    /// The disks, in the source's order.
    pub disks: Vec<StoredDisk>,
    /// What the machine says of itself.
    pub inventory: serde_json::Value,
}

/// The snapshots of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those that are whole, by machine and then in the order of their pushes.
    pub snapshots: Vec<Snapshot>,
    /// Manifests that are not what was written.
    pub damaged: Vec<Damage>,
}

impl Store {
    /// All snapshots.
    ///
    /// # Errors
    /// As the files answer. A damaged manifest is no error, it is listed.
    pub fn snapshots(&self) -> Result<Listing> {
        let files = self.core.files.as_ref();
        let mut listing = Listing::default();
        for (dir, machine) in machine_dirs(files)? {
            for file in files.list(&dir).on(&dir)? {
                let Some(push) = file.strip_suffix(MANIFEST).filter(|p| names::is_encoded(p))
                else {
                    continue;
                };
                match self.snapshot(&SnapshotId::new(&machine, push)) {
                    Ok(snapshot) => listing.snapshots.push(snapshot),
                    Err(StoreError::Damaged(damage)) => listing.damaged.push(damage),
                    // It was removed between the listing and the look.
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        listing
            .snapshots
            .sort_by(|a, b| (&a.machine, a.sequence, &a.id).cmp(&(&b.machine, b.sequence, &b.id)));
        Ok(listing)
    }

    /// The snapshot named `id`.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, or as the files answer.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        let (dir, push) = id.parts();
        let name = format!("{push}{MANIFEST}");
        let found: Option<Snapshot> = read_text(self.core.files.as_ref(), &dir, &name, KIND)?;
        found.ok_or_else(|| StoreError::NotFound {
            what: format!("snapshot {id}"),
        })
    }

    /// Open a disk of a snapshot, by its number, for reading.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, or as the files answer.
    pub fn open_disk(&self, snapshot: &Snapshot, disk: usize) -> Result<SnapshotDisk> {
        let stored = snapshot
            .disks
            .get(disk)
            .ok_or_else(|| StoreError::NotFound {
                what: format!("disk {disk} of snapshot {}", snapshot.id),
            })?;
        let sector_size = sector_size(disk, &stored.info)?;
        let (dir, push) = snapshot.id.parts();
        SnapshotDisk::open(
            self.clone(),
            &recipe_path(&dir, &push, disk),
            stored.clone(),
            sector_size,
        )
    }

    /// Remove a snapshot. Its chunks stay until garbage is collected. Disks of it that are open fail
    /// from then on.
    ///
    /// # Errors
    /// `NotFound`, `GarbageBusy` if another process reads the store, or as the files answer.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<()> {
        self.to_write()?;
        let _maintenance = lock(&self.core.maintenance);
        let _readers = self.shut_readers_out()?;
        let files = self.core.files.as_ref();
        let (dir, push) = id.parts();
        let manifest = format!("{dir}/{push}{MANIFEST}");
        match files.remove(&manifest) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound {
                    what: format!("snapshot {id}"),
                });
            }
            other => other.on(&manifest)?,
        }
        // The manifest goes first and durably: recipes without one are garbage.
        files.sync_dir(&dir).on(&dir)?;
        remove_push_files(files, &dir, &push)
    }

    pub(crate) fn write_manifest(&self, snapshot: &Snapshot) -> Result<()> {
        let (dir, push) = snapshot.id.parts();
        let name = format!("{push}{MANIFEST}");
        write_text(self.core.files.as_ref(), &dir, &name, KIND, snapshot)
    }
}

/// The machines' directories, with their encoded names.
pub(crate) fn machine_dirs(files: &dyn Files) -> Result<Vec<(String, String)>> {
    let names = files.list(MACHINES_DIR).on(MACHINES_DIR)?;
    Ok(names
        .into_iter()
        .filter(|name| names::is_encoded(name))
        .map(|name| (machine_dir(&name), name))
        .collect())
}

/// Remove the recipes and the description of a push that is no snapshot.
pub(crate) fn remove_push_files(files: &dyn Files, dir: &str, push: &str) -> Result<()> {
    for file in files.list(dir).on(dir)? {
        if push_of(&file) == Some(push) && !file.ends_with(MANIFEST) {
            let path = format!("{dir}/{file}");
            files.remove(&path).on(&path)?;
        }
    }
    files.sync_dir(dir).on(dir)
}

pub(crate) fn sector_size(disk: usize, info: &DiskInfo) -> Result<SectorSize, Refusal> {
    SectorSize::new(info.sector_size).ok_or(Refusal::SectorSize {
        disk,
        found: info.sector_size,
    })
}
