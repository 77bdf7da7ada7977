//! Files and used blocks without mounting.
//!
//! Four questions can be asked of a disk range, each in its own module:
//!
//! - [`probe`]: which file system is this (type, label, UUID)? Cheap, reads a few KiB.
//! - [`used`]: which byte ranges are in use? When unsure, the answer is "used".
//! - [`tree`]: the files, as a [`FileTree`](tree::FileTree): stat, list, read, write, create,
//!   remove by guest path.
//! - [`resize`]: how small and how large can it be made, and make it so.
//!
//! One folder per file system ([`ext`], …), each with the same rooms: `format` (what the bytes mean,
//! no I/O), the readers, the writers.
#![forbid(unsafe_code)]

pub mod ext;
pub mod fat;
pub mod hidden_sectors;
pub mod memory;
pub mod mounts;
pub mod ntfs;
pub mod path;
pub mod probe;
pub mod resize;
pub mod tree;
pub mod used;
pub mod xfs;

mod btrfs;
mod bytes;
mod exfat;
mod fault;
mod swap;
