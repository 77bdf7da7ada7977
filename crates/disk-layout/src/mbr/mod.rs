//! MBR: the boot sector's table and the chain of extended boot records.

pub(crate) mod format;
pub(crate) mod reader;
pub(crate) mod writer;
