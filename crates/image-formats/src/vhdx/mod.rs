//! VHDX, the format of Hyper-V. The specification is [MS-VHDX]; what this project does with it stands
//! in `docs/formats/vhdx.md`.

mod check;
mod format;
mod log;
mod metadata;
mod reader;
mod rules;
mod writer;

pub(crate) use check::check;
pub(crate) use format::SIGNATURE;
pub(crate) use reader::open;
pub use writer::VhdxWriter;
