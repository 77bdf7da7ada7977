//! FAT12, FAT16 and FAT32, with long names.
//!
//! Own code: the crates that were tried either write directories `fsck.vfat` flags (`fatfs` 0.3.6) or
//! bring unsafe code of their own (`hadris-fat`), and none gives the used clusters without reading the
//! table into memory. See `docs/formats/fat.md`.

mod dir;
mod edit;
mod format;
mod names;
pub(crate) mod resize;
mod tree;
pub(crate) mod used;
mod volume;

pub use tree::FatTree;

pub(crate) use format::{Geometry, Width};
