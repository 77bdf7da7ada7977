//! [`FileTree`]: the files of one file system, by guest path.

use block_io::BlockError;

use crate::path::GuestPath;

/// Short for a result with a [`TreeError`].
pub type Result<T, E = TreeError> = std::result::Result<T, E>;

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket.
    Special,
}

/// What is known of a file besides its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Its length in bytes.
    pub size: u64,
    /// Permission bits (12 bits; 0o755 where the file system has none).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the contents, in seconds since 1970 (may be negative).
    pub mtime: i64,
    /// Number that tells two files of one file system apart; equal for hard links.
    pub inode: u64,
    /// Number of names it has.
    pub links: u32,
}

/// One name in a directory. `.` and `..` are never listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// What it names.
    pub kind: FileKind,
    /// As [`Stat::inode`].
    pub inode: u64,
}

/// An extended attribute with its full name (`security.selinux`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Full name.
    pub name: Vec<u8>,
    /// Value as stored.
    pub value: Vec<u8>,
}

/// How a new file or directory is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of its making, in seconds since 1970. The caller gives it, so that a plan applied twice
    /// gives the same bytes.
    pub mtime: i64,
}

impl Attributes {
    /// Owned by root.
    #[must_use]
    pub fn root_owned(mode: u16, mtime: i64) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            mtime,
        }
    }
}

/// Space left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes free for new files (reserved ones counted as free: we write as root).
    pub free: u64,
    /// Files that can still be made.
    pub free_inodes: u64,
}

/// What to do about a file system that was not cleanly unmounted, when it is opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Replay its journal, and finish deletions that were under way, as the kernel would when mounting.
    Replay,
    /// Refuse with [`TreeErrorKind::Dirty`].
    Refuse,
}

/// The files of one file system.
///
/// The contract:
///
/// - A path is resolved component by component **without following symbolic links**; a link met
///   before the last component is [`TreeErrorKind::IsSymlink`]. Links are followed across file
///   systems by [`crate::mounts::MountedTree`], which cannot be led out of the guest.
/// - Nothing panics or loops on any bytes; a file whose claimed size is absurd costs no memory:
///   [`FileTree::read_file`] takes the most the caller is ready for.
/// - Writing keeps what the file system knows about the file (owner, mode, extended attributes, hard
///   links) unless told otherwise, and leaves the file system such that its own checker finds
///   nothing to say. An operation that cannot be done safely is refused with
///   [`TreeErrorKind::Unsupported`], naming the feature, before anything is written. An operation
///   that fails half-way leaves the tree unusable for further writing, never silently torn.
/// - All changes are on the overlay when [`FileTree::sync`] returns.
pub trait FileTree: Send {
    /// What `path` names; a symbolic link is not followed.
    ///
    /// # Errors
    /// [`TreeError`], as all of them.
    fn stat(&self, path: &GuestPath) -> Result<Stat>;

    /// The names in a directory, in any order.
    ///
    /// # Errors
    /// `NotADirectory` among others.
    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>>;

    /// The bytes of a regular file at `offset`, as many as there are up to `buf.len()`; 0 at its end.
    ///
    /// # Errors
    /// `NotAFile` among others.
    fn read_at(&self, path: &GuestPath, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `NotASymlink` among others.
    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>>;

    /// The extended attributes of a file.
    ///
    /// # Errors
    /// As all of them.
    fn xattrs(&self, path: &GuestPath) -> Result<Vec<Xattr>>;

    /// Space left.
    ///
    /// # Errors
    /// As all of them.
    fn space(&self) -> Result<Space>;

    /// Whole contents of a regular file of at most `most` bytes.
    ///
    /// # Errors
    /// `TooLarge` when it is longer, before anything is read.
    fn read_file(&self, path: &GuestPath, most: u64) -> Result<Vec<u8>> {
        let stat = self.stat(path)?;
        if stat.size > most {
            return Err(TreeError::new(TreeErrorKind::TooLarge, path)
                .detail(format!("{} bytes, expected at most {most}", stat.size)));
        }
        let mut contents = vec![0; stat.size as usize];
        let mut filled = 0;
        while filled < contents.len() {
            match self.read_at(path, filled as u64, &mut contents[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        contents.truncate(filled);
        Ok(contents)
    }

    /// Replace the contents of a regular file, keeping its inode and attributes, or make it new with
    /// `new`.
    ///
    /// # Errors
    /// `NoSpace`, `NotAFile`, `Unsupported`, …
    fn write_file(&mut self, path: &GuestPath, contents: &[u8], new: Attributes) -> Result<()>;

    /// Write `data` at `offset` of an existing regular file, growing it where needed. A gap between
    /// its end and `offset` reads as zeroes.
    ///
    /// # Errors
    /// As [`FileTree::write_file`].
    fn write_at(&mut self, path: &GuestPath, offset: u64, data: &[u8]) -> Result<()>;

    /// Cut a regular file to `size`, or extend it with zeroes.
    ///
    /// # Errors
    /// As [`FileTree::write_file`].
    fn truncate(&mut self, path: &GuestPath, size: u64) -> Result<()>;

    /// Make a directory in an existing one.
    ///
    /// # Errors
    /// `Exists`, `NoSpace`, …
    fn create_dir(&mut self, path: &GuestPath, new: Attributes) -> Result<()>;

    /// Make a symbolic link at `path` pointing to `target`.
    ///
    /// # Errors
    /// `Exists`, `NoSpace`, …
    fn create_symlink(&mut self, path: &GuestPath, target: &[u8], new: Attributes) -> Result<()>;

    /// Remove a file, a symbolic link, or an empty directory.
    ///
    /// # Errors
    /// `NotEmpty` for a directory that is not.
    fn remove(&mut self, path: &GuestPath) -> Result<()>;

    /// Give a file another name in the same file system, replacing a regular file or link there.
    ///
    /// # Errors
    /// `Exists` when a directory is in the way.
    fn rename(&mut self, from: &GuestPath, to: &GuestPath) -> Result<()>;

    /// Change permission bits and owner.
    ///
    /// # Errors
    /// As all of them.
    fn set_owner(&mut self, path: &GuestPath, mode: u16, uid: u32, gid: u32) -> Result<()>;

    /// Set one extended attribute, or remove it with `None`.
    ///
    /// # Errors
    /// `NoSpace` where it does not fit, `Unsupported` where there are none.
    fn set_xattr(&mut self, path: &GuestPath, name: &[u8], value: Option<&[u8]>) -> Result<()>;

    /// Put every change onto the disk below.
    ///
    /// # Errors
    /// As the disk answers.
    fn sync(&mut self) -> Result<()>;
}

/// The methods of a [`FileTree`] that is for reading only: each refuses, saying `$what`.
macro_rules! refuse_writing {
    ($what:literal) => {
        fn write_file(
            &mut self,
            path: &$crate::path::GuestPath,
            _contents: &[u8],
            _new: $crate::tree::Attributes,
        ) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, path)
                    .detail($what),
            )
        }

        fn write_at(
            &mut self,
            path: &$crate::path::GuestPath,
            _offset: u64,
            _data: &[u8],
        ) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, path)
                    .detail($what),
            )
        }

        fn truncate(
            &mut self,
            path: &$crate::path::GuestPath,
            _size: u64,
        ) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, path)
                    .detail($what),
            )
        }

        fn create_dir(
            &mut self,
            path: &$crate::path::GuestPath,
            _new: $crate::tree::Attributes,
        ) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, path)
                    .detail($what),
            )
        }

        fn create_symlink(
            &mut self,
            path: &$crate::path::GuestPath,
            _target: &[u8],
            _new: $crate::tree::Attributes,
        ) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, path)
                    .detail($what),
            )
        }

        fn remove(&mut self, path: &$crate::path::GuestPath) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, path)
                    .detail($what),
            )
        }

        fn rename(
            &mut self,
            from: &$crate::path::GuestPath,
            _to: &$crate::path::GuestPath,
        ) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, from)
                    .detail($what),
            )
        }

        fn set_owner(
            &mut self,
            path: &$crate::path::GuestPath,
            _mode: u16,
            _uid: u32,
            _gid: u32,
        ) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, path)
                    .detail($what),
            )
        }

        fn set_xattr(
            &mut self,
            path: &$crate::path::GuestPath,
            _name: &[u8],
            _value: Option<&[u8]>,
        ) -> $crate::tree::Result<()> {
            Err(
                $crate::tree::TreeError::new($crate::tree::TreeErrorKind::Unsupported, path)
                    .detail($what),
            )
        }

        fn sync(&mut self) -> $crate::tree::Result<()> {
            Ok(())
        }
    };
}
pub(crate) use refuse_writing;

/// What went wrong, for matching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TreeErrorKind {
    /// Nothing has that name.
    NotFound,
    /// The name is taken.
    Exists,
    /// A directory was needed.
    NotADirectory,
    /// A regular file was needed.
    NotAFile,
    /// A symbolic link was needed.
    NotASymlink,
    /// A symbolic link stands in the way of a path.
    IsSymlink,
    /// Links lead in a circle, or too deep.
    SymlinkLoop,
    /// The directory holds something.
    NotEmpty,
    /// The name is too long, empty, or holds `/` or NUL.
    BadName,
    /// More bytes than the caller is ready for.
    TooLarge,
    /// No free blocks or inodes.
    NoSpace,
    /// Safe only with a feature this implementation does not have; the detail names it.
    Unsupported,
    /// The file system was not cleanly unmounted, and its log was not replayed.
    Dirty,
    /// The file system belongs to a hibernated system.
    Hibernated,
    /// The bytes contradict themselves or their checksums; the detail says where.
    Corrupt,
    /// The disk below failed.
    Disk,
}

/// A failed operation on a file tree.
#[derive(Debug)]
pub struct TreeError {
    kind: TreeErrorKind,
    path: Option<GuestPath>,
    detail: Option<String>,
    // Boxed: results of small reads should not carry a large error.
    source: Option<Box<BlockError>>,
}

impl TreeError {
    /// An error of `kind` about `path`.
    #[must_use]
    pub fn new(kind: TreeErrorKind, path: &GuestPath) -> Self {
        Self {
            kind,
            path: Some(path.clone()),
            detail: None,
            source: None,
        }
    }

    /// An error of `kind` about the file system as a whole.
    #[must_use]
    pub fn of(kind: TreeErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            path: None,
            detail: Some(detail.into()),
            source: None,
        }
    }

    /// Say more: where, expected, found, what the user can do.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Name the path it is about, unless it names one already.
    #[must_use]
    pub fn on(mut self, path: &GuestPath) -> Self {
        self.path.get_or_insert_with(|| path.clone());
        self
    }

    /// The same error about another path: how a mount point is put before the path of its tree.
    #[must_use]
    pub fn renamed(mut self, path: &GuestPath) -> Self {
        self.path = Some(path.clone());
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> TreeErrorKind {
        self.kind
    }

    /// The path it is about, if it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&GuestPath> {
        self.path.as_ref()
    }
}

impl From<BlockError> for TreeError {
    fn from(source: BlockError) -> Self {
        Self {
            kind: TreeErrorKind::Disk,
            path: None,
            detail: None,
            source: Some(Box::new(source)),
        }
    }
}

impl std::fmt::Display for TreeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            TreeErrorKind::NotFound => "no such file or directory",
            TreeErrorKind::Exists => "already exists",
            TreeErrorKind::NotADirectory => "not a directory",
            TreeErrorKind::NotAFile => "not a regular file",
            TreeErrorKind::NotASymlink => "not a symbolic link",
            TreeErrorKind::IsSymlink => "a symbolic link stands in the way",
            TreeErrorKind::SymlinkLoop => "too many levels of symbolic links",
            TreeErrorKind::NotEmpty => "directory not empty",
            TreeErrorKind::BadName => "not a valid file name",
            TreeErrorKind::TooLarge => "file too large",
            TreeErrorKind::NoSpace => "no space left in the file system",
            TreeErrorKind::Unsupported => "feature not supported",
            TreeErrorKind::Dirty => "file system not cleanly unmounted",
            TreeErrorKind::Hibernated => "file system of a hibernated system",
            TreeErrorKind::Corrupt => "corrupt file system",
            TreeErrorKind::Disk => "reading or writing the disk",
        };
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(what)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for TreeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
