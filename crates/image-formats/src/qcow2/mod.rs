//! qcow2, QEMU's own format. The specification is `docs/interop/qcow2.rst` of QEMU, cited below as
//! qcow2.rst; what this project does with it stands in `docs/formats/qcow2.md`.

mod format;
mod host_space;
mod writer;

pub use writer::Qcow2Writer;
