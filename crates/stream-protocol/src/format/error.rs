//! How a binary body can lie.

use chunking::MAX_CHUNK;

use super::FRAME_VERSION;

/// The ways a binary body can lie. Positions are counted from the body's first byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The body ends early.
    #[error("the {what} ends at byte {found}, expected {expected} bytes")]
    Truncated {
        /// Which body.
        what: &'static str,
        /// Bytes that its header and counts promise.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Bytes follow the body.
    #[error("the {what} goes on to byte {found}, expected {expected} bytes")]
    Overlong {
        /// Which body.
        what: &'static str,
        /// Bytes that its header and counts promise.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The first four bytes are others.
    #[error("the {what} begins with {found:02x?}, expected {expected:02x?}")]
    Magic {
        /// Which body.
        what: &'static str,
        /// The magic number of this body.
        expected: [u8; 4],
        /// What stands there.
        found: [u8; 4],
    },
    /// Another version.
    #[error("the {what} has version {found} at byte 4, expected {FRAME_VERSION}")]
    Version {
        /// Which body.
        what: &'static str,
        /// The version.
        found: u16,
    },
    /// Flags that mean nothing here.
    #[error("the {what} has flags {found:#06x} at byte 6, of which only {expected:#06x} are known")]
    Flags {
        /// Which body.
        what: &'static str,
        /// The flags that may be set.
        expected: u16,
        /// The flags.
        found: u16,
    },
    /// Reserved bytes, or unused bits of the last byte, that are not zero.
    #[error("the {what} has {found:#x} at byte {position}, which is reserved and must be 0")]
    Reserved {
        /// Which body.
        what: &'static str,
        /// Where.
        position: u64,
        /// The value.
        found: u32,
    },
    /// More items than the receiver takes.
    #[error("the {what} counts {found} items at byte 8, expected at most {expected}")]
    TooMany {
        /// Which body.
        what: &'static str,
        /// The most there may be.
        expected: u32,
        /// The count.
        found: u32,
    },
    /// An answer to a query of another length.
    #[error("the answer counts {found} bits at byte 8, expected {expected}, one for each id asked")]
    AnswerCount {
        /// Ids in the query.
        expected: u32,
        /// Bits in the answer.
        found: u32,
    },
    /// A chunk of no or too many raw bytes.
    #[error(
        "the chunk at byte {position} says it has {found} raw bytes, expected 1 to {MAX_CHUNK}"
    )]
    RawLength {
        /// Where the field stands.
        position: u64,
        /// The length.
        found: u32,
    },
    /// A stored length that does not go with raw length and codec.
    #[error("the chunk at byte {position} says it is stored in {found} bytes, expected {expected}")]
    StoredLength {
        /// Where the field stands.
        position: u64,
        /// What would go with the rest of the record.
        expected: StoredRange,
        /// The length.
        found: u32,
    },
    /// A codec that does not exist.
    #[error("the chunk has codec {found} at byte {position}, expected 0 (raw) or 1 (zstd)")]
    Codec {
        /// Where the field stands.
        position: u64,
        /// The codec.
        found: u8,
    },
    /// An entry of no or too many bytes.
    #[error("the entry has length {found} at byte {position}, expected 1 to {MAX_CHUNK}")]
    EntryLength {
        /// Where the field stands.
        position: u64,
        /// The length.
        found: u32,
    },
    /// An entry that begins before its predecessor ends, or ends past 64 bits.
    #[error(
        "the entry has offset {found} at byte {position}, expected {expected} or more, and an end below 2^64"
    )]
    EntryOrder {
        /// Where the field stands.
        position: u64,
        /// The end of the entry before it.
        expected: u64,
        /// The offset.
        found: u64,
    },
}

/// The stored lengths that go with a raw length and a codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRange {
    /// Fewest bytes.
    pub least: u32,
    /// Most bytes.
    pub most: u32,
}

impl std::fmt::Display for StoredRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.least == self.most {
            write!(f, "{}", self.least)
        } else {
            write!(f, "{} to {}", self.least, self.most)
        }
    }
}
