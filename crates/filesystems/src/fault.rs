//! Why part of a volume could not be understood: it lies, or its disk fails.

use block_io::{BlockError, BlockErrorKind};

/// What a reader of a volume meets. Damage is noted as a finding, and what it hides counts as used; a
/// disk that fails ends the reading.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes contradict themselves, or cannot be read: where, expected, found.
    Damage(String),
    /// The disk fails otherwise.
    Disk(BlockError),
}

impl From<BlockError> for Fault {
    fn from(error: BlockError) -> Self {
        match error.kind() {
            BlockErrorKind::Unreadable | BlockErrorKind::OutOfBounds => {
                Self::Damage(error.to_string())
            }
            _ => Self::Disk(error),
        }
    }
}

impl From<String> for Fault {
    fn from(damage: String) -> Self {
        Self::Damage(damage)
    }
}

/// What a reader of a volume answers.
pub(crate) type Result<T> = std::result::Result<T, Fault>;
