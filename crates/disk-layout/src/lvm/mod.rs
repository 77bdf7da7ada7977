//! LVM2: physical volumes, the newest metadata, and the logical volumes it describes.
//!
//! [`read_physical_volume`] looks at one device; [`assemble`] puts those of all devices together to volume
//! groups. The bytes are described in `docs/formats/lvm2.md`.

mod assemble;
mod format;
mod metadata;
mod pieces;
mod raid;
mod reader;
mod text;

pub use assemble::{GroupMember, LogicalVolume, Unusable, VolumeGroup, assemble};
pub use format::{Area, LvmId};
pub use metadata::MetadataError;
pub use reader::{LvmError, MetadataCopy, PhysicalVolume, read_physical_volume};
pub use text::SyntaxError;
