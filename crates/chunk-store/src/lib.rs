//! What has arrived: packs, index and snapshots, each snapshot a disk.
//!
//! ```text
//!  chunks ──► packs      append-only files of records; all that must never be lost
//!               │
//!             index      name → place in a pack; sorted runs; can be read from the packs again
//!               │
//!  entries ─► recipes    per disk: which chunk at which offset
//!               │
//!            snapshots   a committed push: inventory, disks, root hashes
//!               ▼
//!          SnapshotDisk  a BlockRead
//! ```
//!
//! A [`Store`] is opened, a [`Push`] is begun in it. The push asks what is [`lacking`](Push::lacking),
//! [`put`](Push::put)s that, [`append`](Push::append)s the recipes, makes it all durable at
//! [`checkpoint`](Push::checkpoint)s, and [`commit`](Push::commit)s. From then on the snapshot's disks
//! can be [opened](Store::open_disk).
//!
//! What holds at every moment, whatever process, machine or disk fails:
//!
//! - a committed snapshot reads back bit for bit, or the damage is named;
//! - an uncommitted push can be resumed, or is not there;
//! - an entry counts as durable only when its chunk is.
//!
//! All files are reached through [`files::Files`]; [`sim`] is one that forgets, tears and fills up.
//! The formats are described in `docs/chunk-store.md`.
#![forbid(unsafe_code)]

mod bytes;
mod claims;
mod disk;
mod error;
pub mod files;
mod garbage;
mod index;
mod names;
mod note;
mod pack;
mod push;
mod recipe;
mod recover;
mod revise;
pub mod sim;
mod snapshot;
mod stats;
mod store;
mod sync;
mod text;
mod verify;

pub use disk::SnapshotDisk;
pub use error::{Damage, Lie, Refusal, Result, StoreError};
pub use garbage::{Collect, Collected};
pub use push::{Begun, Commit, CommitDisk, Push};
pub use recipe::{RecipeEntry, RootHasher, recipe_root};
pub use revise::InProgress;
pub use snapshot::{DiskInfo, Listing, Snapshot, SnapshotId, StoredDisk};
pub use stats::Stats;
pub use store::{Kept, Limits, Store, Verified};
pub use verify::{Progress, Verification};
