//! What the sectors of a disk are divided into: MBR, GPT and their damage; and what volume managers
//! make of partitions: LVM2, Linux md and Windows dynamic disks.
//!
//! [`read_layout`] reads whatever table a disk has, as the Linux kernel would number its partitions,
//! and says in [`Finding`]s what is wrong with it and what was done about that. A damaged table is no
//! error: an error means that the disk could not be read.
//!
//! Changing a table goes the other way: take [`Layout::gpt`] or [`Layout::mbr`], move things in it,
//! make a plan of [`Patch`]es ([`plan_gpt`], [`plan_mbr`], [`plan_gpt_repair`]), look at the plan, and
//! [`apply`] it to a disk that can be written. Numbers, boot code, signatures, attributes, names and
//! bytes we do not understand stay as they were.
//!
//! [`arrange`] plans a whole new layout: partitions grown, shrunk, moved, left out, MBR turned into GPT.
//!
//! Volume managers are read in two steps: what one device says of itself ([`lvm::read_physical_volume`],
//! [`md::read_member`]), and what the devices of a machine give together ([`lvm::assemble`],
//! [`md::assemble`]). Either ends in a [`volume::VolumeMap`], which a [`volume::VolumeDisk`] turns into a disk.
//!
//! The byte meanings stand in `mbr/format.rs` and `gpt/format.rs` and in `docs/formats/mbr-gpt.md`.
#![forbid(unsafe_code)]

pub mod arrange;
mod boot_code;
mod bytes;
mod checks;
mod finding;
mod gpt;
mod kinds;
mod layout;
mod lba;
pub mod ldm;
pub mod lvm;
mod mbr;
pub mod md;
mod patch;
mod read;
pub mod volume;

pub use boot_code::{BootCode, boot_code};
pub use finding::{Damage, Finding, Severity};
pub use gpt::format::{Attributes, GptEntry, GptTable};
pub use gpt::writer::{plan_gpt, plan_gpt_repair};
pub use kinds::PartitionKind;
pub use layout::{DiskId, Layout, LayoutError, Partition, TableKind};
pub use lba::Lba;
pub use mbr::format::{MbrEntry, MbrTable};
pub use mbr::reader::{Ebr, MAX_EBRS};
pub use mbr::writer::plan_mbr;
pub use patch::{Patch, PlanError, apply, pending};
pub use read::read_layout;
