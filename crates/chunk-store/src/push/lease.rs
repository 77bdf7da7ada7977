//! The lease: one push of a machine at a time.

use crate::error::{Result, StoreError};
use crate::store::Store;
use crate::sync::lock;

/// The right to push a machine, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    store: Store,
    machine: String,
    pub(super) push: u64,
}

impl Lease {
    pub(super) fn take(store: &Store, machine: &str) -> Result<Self> {
        let mut leases = lock(&store.core.leases);
        if leases.contains_key(machine) {
            return Err(StoreError::MachineBusy {
                machine: machine.to_owned(),
            });
        }
        let push = lock(&store.core.claims).begin();
        leases.insert(machine.to_owned(), push);
        Ok(Self {
            store: store.clone(),
            machine: machine.to_owned(),
            push,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.store.core.claims).end(self.push);
        lock(&self.store.core.leases).remove(&self.machine);
    }
}
