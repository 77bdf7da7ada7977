//! The files of one output while they are being written.
//!
//! Every file is written under the name `NAME.part`, locked, and gets its real name only when it is
//! complete. What is dropped before that is removed. A block device has no other name: see `device`.

use std::fs::{File, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FallocateFlags, RenameFlags};
use rustix::io::Errno;

use super::OutputError;
use super::device::{self, Head};
use super::journal::{Journal, Step};

/// More slices than this in one call the kernel refuses (`IOV_MAX`).
const MAX_SLICES: usize = 1024;

/// One file of an output, under its temporary name until it is published.
#[derive(Debug)]
pub struct PartFile {
    file: File,
    place: Place,
    path: PathBuf,
    published: bool,
    journal: Option<(usize, Arc<dyn Journal>)>,
}

/// Where the bytes lie until the file is complete.
#[derive(Debug)]
enum Place {
    /// In a file of this name, beside where it will be.
    Beside(PathBuf),
    /// On the device, but for its first bytes.
    Device(Head),
}

impl PartFile {
    /// Start on the block device `path`, which must have room for `size` bytes; they are made zero.
    pub(crate) fn onto_device(
        path: &Path,
        size: u64,
        overwrite: bool,
    ) -> Result<Self, OutputError> {
        let (file, head) = device::open(path, size, overwrite)?;
        Ok(Self {
            file,
            place: Place::Device(head),
            path: path.to_owned(),
            published: false,
            journal: None,
        })
    }

    /// Start `path` under its temporary name. An abandoned part file of that name is started over;
    /// one that another process is writing is left alone.
    pub(crate) fn create(path: &Path, overwrite: bool) -> Result<Self, OutputError> {
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(OutputError::Exists {
                path: path.to_owned(),
            });
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let failed = |source| OutputError::io(&part, "creating", source);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OutputError::Busy { path: part }),
            // A file system without locks: the names still keep two outputs apart.
            Err(TryLockError::Error(_)) => {}
        }
        // Only where there is something to cut off: ext4 takes a truncation to nothing as a sign that the
        // file replaces another, and starts writing it all back when it is closed ("auto_da_alloc").
        if file.metadata().map_err(failed)?.len() > 0 {
            file.set_len(0).map_err(failed)?;
        }
        Ok(Self {
            file,
            place: Place::Beside(part),
            path: path.to_owned(),
            published: false,
            journal: None,
        })
    }

    /// Tell `journal` of every step from here on, as the output's file `number`.
    pub(crate) fn watch(&mut self, number: usize, journal: Arc<dyn Journal>) {
        let len = self.file.metadata().map_or(0, |metadata| metadata.len());
        self.journal = Some((number, journal));
        self.record(Step::SetLen(len));
    }

    fn record(&self, step: Step<'_>) {
        if let Some((number, journal)) = &self.journal {
            journal.record(*number, step);
        }
    }

    /// The name it will have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), OutputError> {
        self.record(Step::Write {
            offset,
            bytes: data,
        });
        let (offset, data) = match &self.place {
            Place::Device(head) => head.keep(offset, data),
            Place::Beside(_) => (offset, data),
        };
        self.file
            .write_all_at(data, offset)
            .map_err(|source| self.failed("writing", source))
    }

    /// Write slices one after another from `offset` on, in as few calls as may be.
    pub(crate) fn write_slices(&self, offset: u64, slices: &[&[u8]]) -> Result<(), OutputError> {
        if let Place::Device(_) = &self.place {
            return self.write_rest(offset, slices, 0);
        }
        let mut at = offset;
        for group in slices.chunks(MAX_SLICES) {
            let total: usize = group.iter().map(|slice| slice.len()).sum();
            if self.journal.is_some() {
                let bytes = group.concat();
                self.record(Step::Write {
                    offset: at,
                    bytes: &bytes,
                });
            }
            let vectors: Vec<IoSlice<'_>> = group.iter().map(|slice| IoSlice::new(slice)).collect();
            let written = match rustix::io::pwritev(&self.file, &vectors, at) {
                Ok(written) => written,
                Err(Errno::INTR) => 0,
                Err(error) => return Err(self.failed("writing", error.into())),
            };
            if written < total {
                self.write_rest(at, group, written)?;
            }
            at += total as u64;
        }
        Ok(())
    }

    /// What a short vectored write left over.
    fn write_rest(&self, at: u64, group: &[&[u8]], written: usize) -> Result<(), OutputError> {
        let mut start = 0;
        for slice in group {
            let done = written.saturating_sub(start).min(slice.len());
            self.write_at(at + (start + done) as u64, &slice[done..])?;
            start += slice.len();
        }
        Ok(())
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<(), OutputError> {
        self.record(Step::SetLen(len));
        self.file
            .set_len(len)
            .map_err(|source| self.failed("setting the length of", source))
    }

    /// Reserve `len` bytes on the medium, so that a full disk is met before the work and not in it.
    pub(crate) fn allocate(&self, len: u64) -> Result<(), OutputError> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            Err(Errno::NOSPC | Errno::FBIG | Errno::DQUOT) => Err(OutputError::Full {
                path: self.path.clone(),
                needed: len,
            }),
            Err(error) => Err(self.failed("preallocating", error.into())),
        }
    }

    pub(crate) fn sync(&self) -> Result<(), OutputError> {
        self.record(Step::Sync);
        self.file
            .sync_data()
            .map_err(|source| self.failed("flushing", source))
    }

    /// Give the file its real name.
    pub(crate) fn publish(mut self, overwrite: bool) -> Result<(), OutputError> {
        self.record(Step::Publish);
        let part = match &self.place {
            Place::Beside(part) => part,
            Place::Device(head) => {
                head.write(&self.file)
                    .map_err(|source| self.failed("writing the first bytes of", source))?;
                self.published = true;
                return self.sync();
            }
        };
        let failed = |source| OutputError::io(&self.path, "giving its name to", source);
        let flags = match overwrite {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        match rustix::fs::renameat_with(CWD, part, CWD, &self.path, flags) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(OutputError::Exists {
                    path: self.path.clone(),
                });
            }
            // File systems that know no flags (NFS, some FUSE ones).
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                if !overwrite && self.path.symlink_metadata().is_ok() {
                    return Err(OutputError::Exists {
                        path: self.path.clone(),
                    });
                }
                std::fs::rename(part, &self.path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        self.published = true;
        Ok(())
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> OutputError {
        OutputError::io(&self.path, doing, source)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if let (false, Place::Beside(part)) = (self.published, &self.place) {
            // Nothing can be done about a failure here, and every tool rejects the file anyway: its
            // header is written last.
            let _ = std::fs::remove_file(part);
        }
    }
}

/// Make the names in the directory of `path` durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), OutputError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    match synced {
        Ok(()) => Ok(()),
        // Some file systems (FUSE, CIFS) cannot flush a directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        Err(source) => Err(OutputError::io(directory, "flushing", source)),
    }
}
