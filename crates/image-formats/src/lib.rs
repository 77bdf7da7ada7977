//! Disk image formats: detect, open, write, check.
//!
//! ```text
//!   any BlockRead ──► copy: one read pass ──► Sink (qcow2)    layout: qcow2::Qcow2Writer
//!                     zero detection,    ├──► Sink (raw)      layout: raw::RawWriter
//!                     compression        └──► …
//! ```
//!
//! Writing: [`output::create`] starts an output, [`copy::copy`] drives any number of them from one
//! pass over the source. A format only decides where bytes go ([`output::ImageWriter`]); reading,
//! zero detection, compression on all cores and the writing itself are in one place, `copy`.
//!
//! Never in this crate: opening a path found inside an image without asking the caller's gate.
#![forbid(unsafe_code)]

pub mod codec;
pub mod copy;
pub mod output;
pub mod qcow2;
pub mod raw;

pub use copy::{CopyError, CopyOptions, Progress, copy};
pub use output::{OutputError, OutputFormat, OutputOptions, Sink};
