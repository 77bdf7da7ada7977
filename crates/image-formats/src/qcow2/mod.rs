//! qcow2, QEMU's own format. The specification is `docs/interop/qcow2.rst` of QEMU, cited below as
//! qcow2.rst; what this project does with it stands in `docs/formats/qcow2.md`.

mod aside;
mod below;
mod check;
mod format;
mod header;
mod host_space;
mod reader;
mod refcounts;
mod rules;
mod writer;

pub(crate) use check::check;
pub(crate) use reader::open;
pub use writer::Qcow2Writer;
