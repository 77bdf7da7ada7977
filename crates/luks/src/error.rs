//! How opening an encrypted volume fails.

use block_io::BlockError;

/// Why a volume cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LuksError {
    /// There is no LUKS header.
    #[error("no LUKS header at byte 0")]
    NotLuks,
    /// The header contradicts itself.
    #[error(
        "the LUKS header is damaged: {what} at byte {offset}: expected {expected}, found {found}"
    )]
    Damaged {
        /// Where on the volume, in bytes.
        offset: u64,
        /// What is stored there.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// It is sound, and needs what is not built here.
    #[error("{what} cannot be opened: {advice}")]
    Unsupported {
        /// The cipher, hash or feature, by its name.
        what: String,
        /// What the user can do.
        advice: String,
    },
    /// No key slot takes the secret.
    #[error("no key slot of LUKS volume {uuid} opens with this secret; {tried} were tried{hint}")]
    WrongSecret {
        /// The volume's UUID.
        uuid: String,
        /// How many key slots were tried.
        tried: usize,
        /// What else may open it.
        hint: String,
    },
    /// The disk cannot be read.
    #[error("reading the LUKS header")]
    Disk(#[from] BlockError),
}

impl LuksError {
    pub(crate) fn damaged(
        offset: u64,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        // What is found may be any bytes of the disk: enough to see what it is.
        let mut found = found.to_string();
        if let Some((end, _)) = found.char_indices().nth(80) {
            found.truncate(end);
            found.push('…');
        }
        Self::Damaged {
            offset,
            what: what.into(),
            expected: expected.into(),
            found,
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            advice: advice.into(),
        }
    }
}
