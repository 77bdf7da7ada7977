//! ext2, ext3 and ext4.
mod checksum;
mod format;
pub(crate) mod used;
