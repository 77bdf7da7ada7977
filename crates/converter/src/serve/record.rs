//! What a push is beyond chunks and recipes, kept in the store's notes: which run of the agent it belongs
//! to, how often its key was used, and which of its disks are complete.
//!
//! An agent pushes a machine again and again under one key, and the store takes each key once: what it
//! is given is the key and a number that grows with each finished push.

use std::collections::BTreeMap;

use chunk_store::Store;
use serde::{Deserialize, Serialize};
use stream_protocol::RecipeRoot;
use stream_protocol::message::{ByteRange, MachineName, PushKey, RunId};

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

impl Record {
    /// The key the store is given.
    #[must_use]
    pub fn store_key(&self) -> String {
        format!("{}.{}", self.key, self.number)
    }

    /// What `store` remembers of `machine` and `key`.
    ///
    /// # Errors
    /// As the store's files answer.
    pub fn find(
        store: &Store,
        machine: &MachineName,
        key: &PushKey,
    ) -> chunk_store::Result<Option<Self>> {
        let found: Option<Self> = store.note(machine.as_str(), key.as_str())?;
        Ok(found.filter(|record| record.machine == *machine && record.key == *key))
    }

    /// Remember this in the place of an older record, durably.
    ///
    /// # Errors
    /// As the store's files answer; what was remembered then stays, or this is remembered already.
    pub fn put(&self, store: &Store) -> chunk_store::Result<()> {
        store.put_note(self.machine.as_str(), self.key.as_str(), self)
    }
}
