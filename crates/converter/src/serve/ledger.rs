//! What the store does not know of a push: which run of the agent it belongs to, how often its key was
//! used, and which of its disks are complete.
//!
//! An agent pushes a machine again and again under one key, and the store takes each key once: what it
//! is given is the key and a number that grows with each finished push.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use stream_protocol::RecipeRoot;
use stream_protocol::message::{ByteRange, MachineName, PushKey, RunId};

use super::identity::{make_directory, replace_file};

const FILE: &str = "pushes.json";

/// A complete disk of a push that is not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The root of its recipe.
    pub root: RecipeRoot,
    /// What the source could not read.
    pub unreadable: Vec<ByteRange>,
}

/// What is remembered of one machine and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The machine.
    pub machine: MachineName,
    /// The agent's key.
    pub key: PushKey,
    /// How many pushes with this key came before.
    pub number: u64,
    /// The run that has, or finished, the latest of them.
    pub run: RunId,
    /// The complete disks of the latest, by their place.
    #[serde(default)]
    pub sealed: BTreeMap<usize, Sealed>,
}

/// All records, kept in one small file that is replaced as a whole.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    records: Mutex<Vec<Record>>,
}

impl Record {
    /// The key the store is given.
    #[must_use]
    pub fn store_key(&self) -> String {
        format!("{}.{}", self.key, self.number)
    }
}

impl Ledger {
    /// The ledger of the store in directory `store`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(store: &Path) -> anyhow::Result<Self> {
        let path = make_directory(store)?.join(FILE);
        let reading = || format!("reading {}", path.display());
        let records = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(reading)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(reading),
        };
        Ok(Self {
            path,
            records: Mutex::new(records),
        })
    }

    /// What is remembered of `machine` and `key`.
    #[must_use]
    pub fn find(&self, machine: &MachineName, key: &PushKey) -> Option<Record> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = records.iter();
        records
            .find(|r| r.machine == *machine && r.key == *key)
            .cloned()
    }

    /// Remember `record` in the place of an older one, durably.
    ///
    /// # Errors
    /// When the file cannot be written; what was remembered then stays.
    pub fn put(&self, record: &Record) -> anyhow::Result<()> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = records.clone();
        next.retain(|r| r.machine != record.machine || r.key != record.key);
        next.push(record.clone());
        replace_file(&self.path, &serde_json::to_vec_pretty(&next)?)?;
        *records = next;
        Ok(())
    }
}
