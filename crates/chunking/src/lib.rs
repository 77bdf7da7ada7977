//! What a chunk is: cut by content, named by BLAKE3, compressed, verified.
//!
//! ```text
//!   bytes of a disk ── Chunker::cut ──► raw chunk ── ChunkId::of ──► its name
//!                                          │
//!                                       compress ──► Packed ── unpack ──► raw chunk, verified
//! ```
//!
//! Where the cuts fall depends on the content alone, so that the same file at another place of
//! another disk gives the same chunks, and these are sent and kept once. The cut points are part of
//! the contract between an agent and what a store already holds: the constants in `cut` may not
//! change without every chunk being sent again. A test pins them.
//!
//! The default sizes come from a measurement which `examples/measure_sharing.rs` repeats.
#![forbid(unsafe_code)]

mod cut;
mod id;
mod pack;

pub use cut::{ChunkSizes, Chunker, Chunks, SizesError};
pub use id::{ChunkId, ParseIdError};
pub use pack::{Codec, MIN_SAVING, PackError, Packed, UnpackError, compress, unpack, unpack_into};

/// The longest chunk anybody may cut, send or keep, in bytes. Readers refuse a longer one before they
/// allocate anything for it.
pub const MAX_CHUNK: u32 = 1 << 20;
