//! Raw images: the bytes of the disk and nothing else.

mod check;
mod writer;

pub(crate) use check::check;
pub use writer::RawWriter;
