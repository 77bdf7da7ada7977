//! How reading and writing blocks fails.
//!
//! Conduct: an error tells its kind, the disk it came from where one has a name, and the byte range.
//! `Display` does not repeat the source; callers print the chain.

use std::fmt;
use std::io;

/// Short for a result with a [`BlockError`].
pub type Result<T, E = BlockError> = std::result::Result<T, E>;

/// What went wrong, for matching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockErrorKind {
    /// The range does not lie inside the disk.
    OutOfBounds,
    /// The medium reports that these sectors cannot be read (EIO, EILSEQ); neighbours may be fine.
    Unreadable,
    /// The disk is gone, or shrank (ENODEV, ENXIO, an early end of file).
    Vanished,
    /// No space left to write to (ENOSPC, EDQUOT).
    Full,
    /// What the bytes are read out of (an image, a store, a map) contradicts itself.
    Corrupt,
    /// Any other error of the operating system.
    Io,
}

/// A failed read, write or mapping of a byte range of a disk.
#[derive(Debug)]
pub struct BlockError {
    kind: BlockErrorKind,
    disk: Option<String>,
    offset: u64,
    len: u64,
    detail: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl BlockError {
    /// An error of `kind` about `len` bytes at `offset`.
    #[must_use]
    pub fn new(kind: BlockErrorKind, offset: u64, len: u64) -> Self {
        Self {
            kind,
            disk: None,
            offset,
            len,
            detail: None,
            source: None,
        }
    }

    /// A range that does not lie inside a disk of `size` bytes.
    #[must_use]
    pub fn out_of_bounds(size: u64, offset: u64, len: u64) -> Self {
        Self::new(BlockErrorKind::OutOfBounds, offset, len)
            .detail(format!("the disk ends at {size}"))
    }

    /// The operating system's answer, its kind read from the error number.
    #[must_use]
    pub fn from_io(error: io::Error, offset: u64, len: u64) -> Self {
        Self::new(kind_of(&error), offset, len).source(error)
    }

    /// Name the disk the error came from, unless it has a name already.
    #[must_use]
    pub fn on(mut self, disk: impl Into<String>) -> Self {
        self.disk.get_or_insert_with(|| disk.into());
        self
    }

    /// Say more: expected and found, or what the user can do.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Attach the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> BlockErrorKind {
        self.kind
    }

    /// Where the failed range starts, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How long the failed range is, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the failed range is empty (an out-of-bounds position, say).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

fn kind_of(error: &io::Error) -> BlockErrorKind {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::IO | Errno::ILSEQ | Errno::NODATA) => BlockErrorKind::Unreadable,
        Some(Errno::NODEV | Errno::NXIO | Errno::NOMEDIUM) => BlockErrorKind::Vanished,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => BlockErrorKind::Full,
        _ if error.kind() == io::ErrorKind::UnexpectedEof => BlockErrorKind::Vanished,
        _ => BlockErrorKind::Io,
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            BlockErrorKind::OutOfBounds => "range outside the disk",
            BlockErrorKind::Unreadable => "unreadable sectors",
            BlockErrorKind::Vanished => "the disk vanished or shrank",
            BlockErrorKind::Full => "no space left",
            BlockErrorKind::Corrupt => "corrupt data",
            BlockErrorKind::Io => "input/output error",
        };
        if let Some(disk) = &self.disk {
            write!(f, "{disk}: ")?;
        }
        write!(f, "{what} at byte {} ({} bytes)", self.offset, self.len)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for BlockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
