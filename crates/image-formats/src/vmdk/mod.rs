//! VMDK, the format of VMware. The specification is the "Virtual Disk Format 5.0" technical note; what
//! this project does with it stands in `docs/formats/vmdk.md`.

mod check;
mod check_sparse;
mod descriptor;
mod extent;
mod format;
mod reader;
mod rules;
mod sesparse;
mod sparse;
mod writer;

pub(crate) use check::check;
pub(crate) use descriptor::SIGNATURE as DESCRIPTOR_SIGNATURE;
pub(crate) use format::{COWD_MAGIC, SESPARSE_MAGIC, SPARSE_MAGIC};
pub(crate) use reader::open;
pub(crate) use writer::beside;
pub use writer::{FlatWriter, SparseWriter, SplitWriter, StreamWriter};
