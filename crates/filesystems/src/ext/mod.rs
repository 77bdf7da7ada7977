//! ext2, ext3 and ext4: files read and written without mounting, own code throughout.
//!
//! What is supported and what is refused by name stands in `docs/formats/ext4.md`.
//!
//! Changes are made to metadata directly, not through the journal: the overlay below is the
//! transaction. A file system opened for writing has an empty journal, and keeps it empty.

mod alloc;
mod blockmap;
mod blockmap_edit;
mod checksum;
mod data;
mod data_edit;
mod dir;
mod edit;
mod extents;
mod extents_edit;
mod feature;
mod format;
mod group;
mod inode;
mod journal;
mod orphans;
pub(crate) mod resize;
mod tree;
pub(crate) mod used;
mod volume;
mod xattr;
mod xattr_edit;

pub use crate::tree::Recovery;
pub use tree::ExtTree;
