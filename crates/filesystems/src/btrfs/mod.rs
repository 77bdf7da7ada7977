//! btrfs on one device: used blocks. Files are not read.
//!
//! What is supported and what is refused by name stands in `docs/formats/btrfs.md`.

mod format;
pub(crate) mod used;
mod volume;
