//! Growing and shrinking a file system in place, without mounting it.
//!
//! [`resize_limits`] says how far a file system can go, from its metadata alone; [`resize`] changes
//! it. Both take the range that holds the file system, and both leave partition tables to others.
//!
//! The contract:
//!
//! - The disk has room for the larger of the two sizes. After a shrink nothing at or behind the new
//!   size is in use, and the file system's own checker finds nothing to say about the disk cut there.
//! - Sizes are bytes. A size that is not a whole number of the file system's units is rounded down;
//!   [`Resized::after`] tells what became of it. `resize` to the present size changes nothing.
//! - What lay behind the end of a file system that grows may be any bytes.
//! - A `resize` that fails may leave the disk torn: **drop the overlay** it wrote to. An error that
//!   came up before anything was written says so with [`ResizeError::is_torn`] being false.
//! - Files keep their contents, names, owners, times and attributes. Numbers of inodes and clusters
//!   may change in a shrink.

use block_io::{BlockError, BlockErrorKind, BlockRead, BlockWrite};

use crate::probe::FsKind;
use crate::tree::{Recovery, TreeError, TreeErrorKind};

/// How small and how large a file system can be made now, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizeLimits {
    /// The smallest size [`resize`] reaches as the file system stands: metadata was read, no file data.
    pub smallest: u64,
    /// Its size today. May be less than the disk range it lies in.
    pub current: u64,
    /// The largest size its format allows without being made anew.
    pub largest: u64,
    /// What sets `largest`, to be shown to the user.
    pub largest_because: &'static str,
}

impl ResizeLimits {
    /// Limits that hold the present size in any case; `largest` with what sets it.
    pub(crate) fn around(current: u64, smallest: u64, largest: (u64, &'static str)) -> Self {
        Self {
            smallest: smallest.min(current),
            current,
            largest: largest.0.max(current),
            largest_because: largest.1,
        }
    }

    /// Refuse a size outside the limits.
    ///
    /// # Errors
    /// `TooSmall` or `TooLarge`.
    pub fn check(&self, new_size: u64) -> Result<(), ResizeError> {
        let asked = format!("expected a size it allows, found {new_size}");
        if new_size < self.smallest {
            let smallest = self.smallest;
            return Err(ResizeError::new(
                ResizeErrorKind::TooSmall { smallest },
                asked,
            ));
        }
        if new_size > self.largest {
            let largest = self.largest;
            let why = format!("{asked}; {}", self.largest_because);
            return Err(ResizeError::new(ResizeErrorKind::TooLarge { largest }, why));
        }
        Ok(())
    }
}

/// What a [`resize`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resized {
    /// Size in bytes before.
    pub before: u64,
    /// Size in bytes now: the size asked for, rounded down to what the file system counts in.
    pub after: u64,
    /// Bytes of files and metadata that lie elsewhere now.
    pub moved: u64,
    /// Files and directories whose number changed.
    pub renumbered: u64,
}

/// How far the file system of `kind` on `disk` can grow and shrink.
///
/// # Errors
/// [`ResizeErrorKind::Unsupported`] for kinds and features that cannot be resized here,
/// [`ResizeErrorKind::Dirty`], [`ResizeErrorKind::Damaged`], [`ResizeErrorKind::Disk`].
pub fn resize_limits(disk: &dyn BlockRead, kind: FsKind) -> Result<ResizeLimits, ResizeError> {
    match kind {
        kind if kind.is_ext() => crate::ext::resize::resize_limits(disk),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => crate::fat::resize::resize_limits(disk),
        FsKind::Swap | FsKind::SwapHibernated => crate::swap::resize_limits(disk),
        FsKind::Ntfs => crate::ntfs::resize::resize_limits(disk),
        other => Err(not_here(other)),
    }
}

/// Make the file system of `kind` on `disk` `new_size` bytes long. `recovery` says what to do about
/// one that was not cleanly unmounted.
///
/// # Errors
/// [`ResizeError`]; where [`ResizeError::is_torn`] says so, what was written must be dropped.
pub fn resize(
    disk: &dyn BlockWrite,
    kind: FsKind,
    new_size: u64,
    recovery: Recovery,
) -> Result<Resized, ResizeError> {
    if new_size > disk.size() {
        return Err(ResizeError::new(
            ResizeErrorKind::TooLarge {
                largest: disk.size(),
            },
            format!(
                "new size: expected at most the {} bytes of the disk range, found {new_size}; enlarge the range first",
                disk.size()
            ),
        ));
    }
    match kind {
        kind if kind.is_ext() => crate::ext::resize::resize(disk, new_size, recovery),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => {
            crate::fat::resize::resize(disk, new_size, recovery)
        }
        FsKind::Swap | FsKind::SwapHibernated => crate::swap::resize(disk, new_size),
        FsKind::Ntfs => crate::ntfs::resize::resize(disk, new_size),
        other => Err(not_here(other)),
    }
}

fn not_here(kind: FsKind) -> ResizeError {
    ResizeError::new(
        ResizeErrorKind::Unsupported,
        format!(
            "{kind} cannot be resized offline; let the guest's own tools do it after its first start"
        ),
    )
}

/// What stands against a resize, for matching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResizeErrorKind {
    /// The kind of file system, or a feature of it that the detail names, cannot be resized here.
    Unsupported,
    /// It was not cleanly unmounted, or its system is hibernated; the detail says what to do.
    Dirty,
    /// Smaller than what it holds allows.
    TooSmall {
        /// The smallest size in bytes that would do.
        smallest: u64,
    },
    /// Larger than its format or the disk range allows.
    TooLarge {
        /// The largest size in bytes that would do.
        largest: u64,
    },
    /// The bytes contradict themselves; the detail says where, what was expected, what was found.
    Damaged,
    /// The disk below failed.
    Disk,
}

/// A resize that was refused or failed.
#[derive(Debug)]
pub struct ResizeError {
    kind: ResizeErrorKind,
    detail: String,
    torn: bool,
    // Boxed: results should not carry a large error.
    source: Option<Box<BlockError>>,
}

impl ResizeError {
    /// An error of `kind`; `detail` says what, where, expected, found, and what to do.
    #[must_use]
    pub fn new(kind: ResizeErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            torn: false,
            source: None,
        }
    }

    /// The same error, after something was written.
    #[must_use]
    pub fn torn(mut self) -> Self {
        self.torn = true;
        self
    }

    /// What stands against it.
    #[must_use]
    pub fn kind(&self) -> ResizeErrorKind {
        self.kind
    }

    /// Whether the disk was written to before the error came up: the overlay must then be dropped.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.torn
    }
}

impl From<BlockError> for ResizeError {
    fn from(source: BlockError) -> Self {
        let kind = match source.kind() {
            BlockErrorKind::Corrupt => ResizeErrorKind::Damaged,
            _ => ResizeErrorKind::Disk,
        };
        Self {
            kind,
            detail: String::new(),
            torn: false,
            source: Some(Box::new(source)),
        }
    }
}

impl From<TreeError> for ResizeError {
    fn from(error: TreeError) -> Self {
        let kind = match error.kind() {
            TreeErrorKind::Unsupported => ResizeErrorKind::Unsupported,
            TreeErrorKind::Dirty | TreeErrorKind::Hibernated => ResizeErrorKind::Dirty,
            TreeErrorKind::Disk => ResizeErrorKind::Disk,
            _ => ResizeErrorKind::Damaged,
        };
        let cause = std::error::Error::source(&error).map(|e| format!(": {e}"));
        Self::new(kind, format!("{error}{}", cause.unwrap_or_default()))
    }
}

impl std::fmt::Display for ResizeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            ResizeErrorKind::Unsupported => f.write_str("resizing is not supported"),
            ResizeErrorKind::Dirty => f.write_str("file system not cleanly unmounted"),
            ResizeErrorKind::TooSmall { smallest } => {
                write!(
                    f,
                    "too small for what it holds: at least {smallest} bytes are needed"
                )
            }
            ResizeErrorKind::TooLarge { largest } => {
                write!(f, "too large: at most {largest} bytes are possible")
            }
            ResizeErrorKind::Damaged => {
                f.write_str("damaged file system, repair it with its own checker first")
            }
            ResizeErrorKind::Disk => f.write_str("reading or writing the disk"),
        }?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if self.torn {
            f.write_str("; the change stopped half-way: drop the overlay it was written to")?;
        }
        Ok(())
    }
}

impl std::error::Error for ResizeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
