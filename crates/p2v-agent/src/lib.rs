//! Reads this machine and sends its disks to a converter.
//!
//! ```text
//!  inventory   /proc, /sys, /etc ──► what this machine is, as a table or as JSON
//!  push        disks, read-only by type ──► chunks ──► those the converter lacks ──► HTTPS
//! ```
//!
//! The agent never writes to a disk: it knows [`block_io::BlockRead`] alone, and a test of this
//! crate fails when anything of it opens a file for writing.
#![forbid(unsafe_code)]

pub mod cli;
pub mod inventory;
pub mod push;
pub mod show;
pub mod source;
pub mod units;
pub mod wire;
