//! LUKS1 and LUKS2 volumes: opened with a passphrase or the bytes of a key file, read and written.
//!
//! [`read_header`] says what a volume is without any secret; [`Header::unlock`] finds the volume key that a
//! secret opens; [`Volume`] is then the disk inside. A volume that can be written is written encrypted:
//! fix-ups of an encrypted guest go through it, and the guest keeps its key slots.
//!
//! The headers are hostile: sizes, costs and counts are bounded before they are followed, and a key
//! derivation that would take more than any real header asks for is refused.
//!
//! Sources: \[LUKS1\] "LUKS1 On-Disk Format Specification" 1.2.3, \[LUKS2\] "LUKS2 On-Disk Format
//! Specification" 1.1.4. The tables stand in `docs/formats/luks.md`.
#![forbid(unsafe_code)]

mod cipher;
mod error;
mod format;
mod hash;
mod header;
mod keyslot;
mod metadata;
mod split;
mod volume;
mod xts;

pub use error::LuksError;
pub use header::{Header, Token, Version, read_header};
pub use keyslot::VolumeKey;
pub use volume::Volume;
