//! Why an image cannot be opened.

use std::io;
use std::path::{Path, PathBuf};

use block_io::{BlockError, BlockErrorKind};

use crate::finding::{Finding, Rule};
use crate::gate::GateError;

/// Why an image could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The operating system refused.
    #[error("opening {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Which bytes.
        source: BlockError,
    },
    /// The file breaks a rule of its format.
    #[error("{}: {finding}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The rule, the place, what was expected and found.
        finding: Finding,
    },
    /// The file is right and uses something that is not supported.
    #[error("{}: {feature} is not supported: {hint}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it uses.
        feature: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// The file names another that must not be opened.
    #[error("{} names another file", path.display())]
    Gate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: GateError,
    },
    /// The file it names could not be opened.
    #[error("opening the file that {} names", path.display())]
    Below {
        /// The file.
        path: PathBuf,
        /// What was wrong with the one below.
        source: Box<OpenError>,
    },
    /// The file says that another lies below it, not under which name, and none that fits is there.
    #[error(
        "{}: {parent} lies below it and is not in its folder: put both into one folder",
        path.display()
    )]
    NoParent {
        /// The file.
        path: PathBuf,
        /// What lies below it.
        parent: String,
    },
    /// The file is another format than the caller said.
    #[error("{} is not {format}", path.display())]
    NotThis {
        /// The file.
        path: PathBuf,
        /// What the caller said.
        format: &'static str,
    },
}

impl OpenError {
    /// The finding, where the file breaks a rule.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        match self {
            OpenError::Broken { finding, .. } => Some(finding),
            _ => None,
        }
    }
}

/// Why the bytes of an image cannot be understood; the path is added by who opened it.
#[derive(Debug)]
pub(crate) enum ParseError {
    Read(BlockError),
    Broken(Finding),
    Unsupported { feature: String, hint: &'static str },
}

impl ParseError {
    pub(crate) fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            ParseError::Read(source) => OpenError::Read { path, source },
            ParseError::Broken(finding) => OpenError::Broken { path, finding },
            ParseError::Unsupported { feature, hint } => OpenError::Unsupported {
                path,
                feature,
                hint,
            },
        }
    }
}

impl From<BlockError> for ParseError {
    fn from(error: BlockError) -> Self {
        ParseError::Read(error)
    }
}

impl From<Finding> for ParseError {
    fn from(finding: Finding) -> Self {
        ParseError::Broken(finding)
    }
}

/// A table met while reading breaks a rule.
pub(crate) fn corrupt(finding: &Finding, offset: u64, len: u64) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, offset, len).detail(finding.to_string())
}

/// Check a rule: `Err` with the finding unless it holds.
pub(crate) fn require(
    holds: bool,
    rule: &'static Rule,
    offset: u64,
    expected: impl Into<String>,
    found: impl ToString,
) -> Result<(), Finding> {
    match holds {
        true => Ok(()),
        false => Err(Finding::error(rule, offset, expected, found.to_string())),
    }
}
