//! Why part of a volume could not be understood: it lies, or its disk fails.

use block_io::{BlockError, BlockErrorKind};

use crate::tree::{TreeError, TreeErrorKind};

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

impl From<Fault> for TreeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Damage(why) => Self::of(TreeErrorKind::Corrupt, why),
            Fault::Disk(error) => error.into(),
        }
    }
}

/// What a reader of a volume answers.
pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;
