//! VDI, the format of VirtualBox. There is no written specification: the layout is that of the header
//! structures VirtualBox publishes (`VDICore.h`); what this project does with it stands in
//! `docs/formats/vdi.md`.

mod check;
mod format;
mod reader;
mod rules;
mod writer;

pub(crate) use check::check;
pub(crate) use format::{SIGNATURE, SIGNATURE_AT};
pub(crate) use reader::open;
pub use writer::VdiWriter;
