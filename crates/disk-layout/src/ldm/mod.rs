//! Windows dynamic disks (LDM): the database at the end of each disk, and the volumes it describes.
//!
//! [`read_disk`] looks at one disk; [`assemble`] puts the disks of a machine together. The bytes are described
//! in `docs/formats/ldm.md`.

mod assemble;
mod format;
mod reader;

pub use assemble::{DynamicVolume, LdmGroup, VolumeKind, assemble};
pub use reader::{LdmDisk, LdmError, read_disk};
