//! NTFS: used clusters, the state of its log, and where page and hibernation files lie.
//!
//! What is supported and what is not stands in `docs/formats/ntfs.md`.

mod format;
mod index;
mod log;
mod system_files;
pub(crate) mod used;
mod volume;

pub use system_files::{SystemFile, system_files};

pub(crate) use format::cluster_size;
pub(crate) use used::set_runs;
