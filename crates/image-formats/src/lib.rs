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
//! Reading: [`open`] and [`open_as`] give an [`Image`], which is a `BlockRead`. What is wrong with a file
//! is a [`Finding`]: the rule it breaks, where, what was expected and found.
//!
//! Never in this crate: opening a path found inside an image without asking the caller's gate.
#![forbid(unsafe_code)]

mod bytes;
mod cache;
pub mod check;
pub mod codec;
pub mod copy;
pub mod details;
pub mod detect;
mod error;
pub mod finding;
pub mod gate;
mod image;
mod inflate;
mod mapped;
pub mod output;
pub mod parallels;
pub mod qcow2;
pub mod raw;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

pub use check::{Report, Verdict, check, check_disk};
pub use copy::{CopyError, CopyOptions, Progress, copy};
pub use details::Details;
pub use detect::{ImageFormat, detect};
pub use error::OpenError;
pub use finding::{Finding, Rule, Severity};
pub use gate::{GateError, OpenGate, SameFolder, StandAlone};
pub use image::{Image, ImageInfo, open, open_as, open_disk};
pub use output::{OutputError, OutputFormat, OutputOptions, Sink};
