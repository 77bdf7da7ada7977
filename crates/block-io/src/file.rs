//! Disks that are files or devices of this machine.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom as RustixSeek;
use rustix::io::Errno;

use crate::{
    BlockError, BlockErrorKind, BlockRead, BlockWrite, Extent, ExtentKind, Result, SectorSize,
    check_range,
};

/// A raw image file or a block device, opened read-only.
///
/// Its type has no way to write: what is handed a `FileDisk` cannot change the source.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    path: PathBuf,
    size: u64,
    sector_size: SectorSize,
    sparse: bool,
}

impl FileDisk {
    /// Open `path`, a regular file or a block device, read-only.
    ///
    /// # Errors
    /// The operating system's; `InvalidInput` for a directory, pipe or character device.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        // Non-blocking, so that a pipe named by mistake is an error and not a wait for its writer.
        let file = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(path)?;
        Self::from_file(file, path)
    }

    fn from_file(mut file: File, path: &Path) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a regular file nor a block device",
            ));
        }
        let size = file.seek(SeekFrom::End(0))?;
        let sector_size = match kind.is_block_device() {
            true => device_sector_size(path),
            false => SectorSize::B512,
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            size,
            sector_size,
            sparse: kind.is_file(),
        })
    }

    /// The same disk counted in other sectors: for an image of a 4Kn disk, whose file cannot say so.
    #[must_use]
    pub fn with_sector_size(mut self, sector_size: SectorSize) -> Self {
        self.sector_size = sector_size;
        self
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn wrap(&self, error: io::Error, offset: u64, len: u64) -> BlockError {
        BlockError::from_io(error, offset, len).on(self.path.display().to_string())
    }

    /// Where the next byte of `what` is, at or after `offset`; `None` past the last.
    fn seek_hole_or_data(&self, what: RustixSeek) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.file, what) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// `/sys/class/block/NAME/queue/logical_block_size`, of the disk itself or of a partition's disk;
/// 512 where it cannot be told.
fn device_sector_size(path: &Path) -> SectorSize {
    let read = || -> Option<SectorSize> {
        let name = path.canonicalize().ok()?.file_name()?.to_owned();
        let sys = Path::new("/sys/class/block")
            .join(name)
            .canonicalize()
            .ok()?;
        let text = std::fs::read_to_string(sys.join("queue/logical_block_size"))
            .or_else(|_| std::fs::read_to_string(sys.join("../queue/logical_block_size")))
            .ok()?;
        SectorSize::new(text.trim().parse().ok()?)
    };
    read().unwrap_or(SectorSize::B512)
}

impl BlockRead for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let len = buf.len() as u64;
        check_range(self.size, offset, len)
            .map_err(|error| error.on(self.path.display().to_string()))?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| self.wrap(error, offset, len))
    }

    /// From `SEEK_DATA` and `SEEK_HOLE`; a device, which has no holes, is `Unknown` throughout.
    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let unknown = Extent {
            kind: ExtentKind::Unknown,
            start: offset,
            len: self.size - offset,
        };
        if !self.sparse {
            return Ok(unknown);
        }
        // A file system without SEEK_DATA reports no holes, which reads as one data extent. A file
        // cut short since it was opened has no data there any more: that must not read as zeroes.
        let data = self
            .seek_hole_or_data(RustixSeek::Data(offset))
            .map_err(|error| self.wrap(error, offset, 1))?;
        if data == Some(offset) {
            let hole = self
                .seek_hole_or_data(RustixSeek::Hole(offset))
                .map_err(|error| self.wrap(error, offset, 1))?
                .unwrap_or(self.size)
                .min(self.size);
            let len = hole.saturating_sub(offset).max(1);
            return Ok(Extent {
                kind: ExtentKind::Data,
                start: offset,
                len,
            });
        }
        let now = self
            .file
            .metadata()
            .map_err(|error| self.wrap(error, offset, 1))?
            .len();
        if now < self.size {
            return Err(
                BlockError::new(BlockErrorKind::Vanished, offset, self.size - offset)
                    .on(self.path.display().to_string())
                    .detail(format!(
                        "the file had {} bytes when it was opened, now {now}",
                        self.size
                    )),
            );
        }
        let end = data.unwrap_or(self.size).min(self.size);
        Ok(Extent {
            kind: ExtentKind::Zero,
            start: offset,
            len: end - offset,
        })
    }
}

/// A file or device opened for writing: outputs and scratch copies, never a source.
#[derive(Debug)]
pub struct FileDiskMut(FileDisk);

impl FileDiskMut {
    /// Make a new sparse file of `size` bytes. Fails if `path` exists.
    ///
    /// # Errors
    /// The operating system's.
    pub fn create_new(path: impl AsRef<Path>, size: u64) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path.as_ref())?;
        file.set_len(size)?;
        FileDisk::from_file(file, path.as_ref()).map(Self)
    }

    /// Open an existing file or device for reading and writing.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path.as_ref())?;
        FileDisk::from_file(file, path.as_ref()).map(Self)
    }
}

impl BlockRead for FileDiskMut {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.0.sector_size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.0.extent_at(offset)
    }
}

impl BlockWrite for FileDiskMut {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.0.size, offset, data.len() as u64)?;
        self.0
            .file
            .write_all_at(data, offset)
            .map_err(|error| self.0.wrap(error, offset, data.len() as u64))
    }

    fn flush(&self) -> Result<()> {
        self.0
            .file
            .sync_data()
            .map_err(|error| self.0.wrap(error, 0, self.0.size))
    }
}
