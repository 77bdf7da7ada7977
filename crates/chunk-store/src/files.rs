//! The few things the store asks of a file system, and the real one.
//!
//! Everything the store does to a disk goes through [`Files`], so that the same code runs on a
//! directory and on the simulated disk of [`crate::sim`], which forgets what was not synced.
//!
//! Paths are relative to the store, with `/` between the parts, and made by the store alone: no name
//! that came from a network is ever part of one unencoded.

use std::any::Any;
use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory tree of named files.
///
/// What is promised, and no more: a file's bytes survive a power cut once [`StoredFile::sync`] came
/// back; a name (made, renamed, removed) survives once [`Files::sync_dir`] of its directory came
/// back; a rename inside one directory happens whole or not at all.
pub trait Files: Send + Sync + Debug {
    /// Make an empty file, for reading and writing. One that is there is emptied.
    ///
    /// # Errors
    /// As the operating system answers.
    fn create(&self, path: &str) -> io::Result<Arc<dyn StoredFile>>;

    /// Open a file that is there, for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or as the operating system answers.
    fn open(&self, path: &str) -> io::Result<Arc<dyn StoredFile>>;

    /// Make a directory. One that is there is left as it is.
    ///
    /// # Errors
    /// As the operating system answers.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, sorted. Names that are not text are left out: the store made none.
    ///
    /// # Errors
    /// As the operating system answers.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Give a file another name in the same directory, in the place of one that has it.
    ///
    /// # Errors
    /// As the operating system answers.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Remove a file.
    ///
    /// # Errors
    /// As the operating system answers.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Make the names in a directory durable.
    ///
    /// # Errors
    /// As the operating system answers.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Lock a file against other processes, until what is returned is dropped. `None`: it is locked.
    ///
    /// # Errors
    /// As the operating system answers.
    fn lock(&self, path: &str) -> io::Result<Option<Held>>;

    /// Lock a file that is there against [`Files::lock`], until what is returned is dropped. Any number
    /// may hold it so. `None`: it is locked.
    ///
    /// # Errors
    /// `NotFound`, or as the operating system answers.
    fn lock_shared(&self, path: &str) -> io::Result<Option<Held>>;
}

/// A lock that is held as long as this lives.
pub type Held = Box<dyn Any + Send + Sync>;

/// An open file.
pub trait StoredFile: Send + Sync + Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// As the operating system answers.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// As the operating system answers.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fill `buf` from the bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; otherwise as the operating system answers.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Write all of `data` at `offset`. After an error any part of it may have been written.
    ///
    /// # Errors
    /// As the operating system answers.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cut the file off, or let it grow by zeroes.
    ///
    /// # Errors
    /// As the operating system answers.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Make the bytes and the length durable.
    ///
    /// # Errors
    /// As the operating system answers. What was written since the last sync may then be lost, even
    /// if a later sync succeeds.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    read_only: bool,
}

impl Directory {
    /// The directory at `root`, made if it is not there (its parent must be).
    ///
    /// # Errors
    /// As the operating system answers.
    pub fn open(root: impl AsRef<Path>) -> io::Result<Self> {
        let root = root.as_ref();
        ignore_existing(std::fs::create_dir(root))?;
        Ok(Self {
            root: root.canonicalize()?,
            read_only: false,
        })
    }

    /// The directory at `root`, which must be there, to be read alone.
    ///
    /// # Errors
    /// As the operating system answers.
    pub fn open_to_read(root: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            root: root.as_ref().canonicalize()?,
            read_only: true,
        })
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            return self.root.clone();
        }
        self.root.join(path)
    }
}

// std opens every file with O_CLOEXEC on Unix, so no child of ours holds the lock or a pack open.
impl Files for Directory {
    fn create(&self, path: &str) -> io::Result<Arc<dyn StoredFile>> {
        self.writable()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.at(path))?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn StoredFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .open(self.at(path))?;
        Ok(Arc::new(file))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.writable()?;
        ignore_existing(std::fs::create_dir(self.at(path)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.at(dir))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.writable()?;
        std::fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.writable()?;
        std::fs::remove_file(self.at(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.writable()?;
        File::open(self.at(dir))?.sync_all()
    }

    /// By `flock`, which the kernel gives back when the process ends in whatever way.
    fn lock(&self, path: &str) -> io::Result<Option<Held>> {
        self.writable()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.at(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn lock_shared(&self, path: &str) -> io::Result<Option<Held>> {
        let file = File::open(self.at(path))?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl StoredFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Make bytes durable that another process wrote, or that were written before.
///
/// A kernel that fails to write a page back says so once and takes the page for written. So after a
/// failure the bytes are written once more: then the next sync tells the truth about them.
pub(crate) fn sync_again(file: &dyn StoredFile, range: std::ops::Range<u64>) -> io::Result<()> {
    let synced = file.sync();
    if synced.is_err() {
        let mut bytes = Vec::new();
        let mut at = range.start;
        while at < range.end {
            bytes.resize((range.end - at).min(1 << 20) as usize, 0);
            file.read_at(at, &mut bytes)?;
            file.write_at(at, &bytes)?;
            at += bytes.len() as u64;
        }
    }
    synced
}

fn ignore_existing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
