//! VHD, the format of Virtual PC, Hyper-V, Azure and XenServer. The specification is Microsoft's "Virtual
//! Hard Disk Image Format Specification" 1.0; what this project does with it stands in
//! `docs/formats/vhd.md`.

mod check;
mod format;
mod reader;
mod rules;
mod writer;

pub(crate) use check::check;
pub(crate) use format::COOKIE;
pub(crate) use reader::open;
pub use writer::VhdWriter;
