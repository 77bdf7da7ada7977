//! XFS, versions 4 and 5: used blocks and reading of files. Own code, read-only.
//!
//! What is supported and what is refused by name stands in `docs/formats/xfs.md`.

mod attr;
mod bmap;
mod dir;
mod format;
mod log;
mod tree;
pub(crate) mod used;
mod volume;

pub use tree::XfsTree;
