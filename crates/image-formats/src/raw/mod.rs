//! Raw images: the bytes of the disk and nothing else.

mod writer;

pub use writer::RawWriter;
