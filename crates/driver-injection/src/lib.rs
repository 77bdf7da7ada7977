//! Make a guest boot elsewhere, offline: inspect, plan, apply.
//!
//! ```text
//! volumes ─► Guest::assemble ─► inspect ─► plan ─► apply
//!            root found,        read once  pure    writes through FileTree,
//!            fstab mounted                         answers Changed or AlreadyDone
//! ```
//!
//! A [`Plan`] is made of [`Edit`]s that are known in full before anything is written: a dry run prints
//! them, a report carries them. Applying one twice changes nothing. [`Capabilities`] say what the
//! guest can run on afterwards, and [`PlannedNic`]s which network cards it must get.
//!
//! No code of the guest is run. Where a distribution would make a new initramfs, an archive is put
//! behind the one there is: the kernel unpacks both.
#![forbid(unsafe_code)]

mod apply;
mod cpio;
mod devices;
mod diff;
mod edit;
mod finding;
mod fstab;
mod guest;
mod hardware;
pub mod inspect;
mod kmod;
mod plan;
mod unpack;

pub use apply::{ApplyError, Outcome, apply};
pub use devices::{DeviceFacts, DeviceNames, DiskIndex, Meaning, VolumeIndex};
pub use edit::{AppendArchive, ArchiveEntry, Change, Edit, Packing};
pub use finding::{Finding, Severity};
pub use guest::{AssembleError, FstabUse, Guest, GuestVolume, RootChoice, RootSeen};
pub use hardware::{Firmware, MacAddress, SourceDisk, SourceHardware, SourceNic, Target};
pub use inspect::{Inspection, inspect};
pub use plan::{BlockBus, Capabilities, Clock, NetModel, Plan, PlannedNic, plan};
pub use unpack::Compression;
