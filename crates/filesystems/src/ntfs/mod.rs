//! NTFS: reading of files, used clusters, the condition a volume was left in, and where page and
//! hibernation files lie, growing and shrinking. Own code.
//!
//! What is supported and what is refused by name stands in `docs/formats/ntfs.md`.

mod condition;
mod data;
mod dir;
mod file;
mod format;
mod huffman;
mod log;
mod lznt1;
mod lzx;
mod names;
mod reparse;
pub(crate) mod resize;
mod system_files;
mod tree;
pub(crate) mod used;
mod volume;
mod xpress;

pub use condition::{Condition, condition};
pub use reparse::ReparsePoint;
pub use system_files::{SystemFile, system_files};
pub use tree::{NtfsDetails, NtfsTree};

pub(crate) use format::cluster_size;
pub(crate) use used::set_runs;
