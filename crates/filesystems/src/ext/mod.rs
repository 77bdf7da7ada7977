//! ext2, ext3 and ext4: files read and written without mounting, own code throughout.
//!
//! What is supported and what is refused by name stands in `docs/formats/ext4.md`.
//!
//! Changes are made to metadata directly, not through the journal: the overlay below is the
//! transaction. A file system opened for writing has an empty journal, and keeps it empty.

mod blockmap;
mod checksum;
mod data;
mod dir;
mod extents;
mod format;
mod inode;
mod journal;
mod tree;
pub(crate) mod used;
mod volume;
mod xattr;

pub use tree::{ExtTree, Recovery};
