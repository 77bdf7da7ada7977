//! Opening an image: detect its format, parse it, open what lies below through the gate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_io::{BlockRead, Extent, FileDisk, SectorSize};

use crate::details::Details;
use crate::detect::{ImageFormat, detect};
use crate::error::OpenError;
use crate::finding::Finding;
use crate::gate::{GateError, MAX_DEPTH, OpenGate};
use crate::{parallels, qcow2, vdi, vhd, vhdx, vmdk};

/// An open image, read as the disk it holds.
pub struct Image {
    disk: Box<dyn BlockRead>,
    info: ImageInfo,
}

/// What an image is.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// Whether the format was found by looking, not named by the caller.
    pub guessed: bool,
    /// The kind within the format: `dynamic`, `streamOptimized`, …
    pub variant: String,
    /// Bytes of the disk it holds.
    pub virtual_size: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// Bytes of the unit it allocates in, where it has one.
    pub cluster_size: Option<u64>,
    /// What tells it from others of its format, where it has that: children name it so.
    pub identity: Option<String>,
    /// What only its format says.
    pub details: Details,
    /// What is worth knowing.
    pub notes: Vec<Finding>,
    /// The image below, where there is one.
    pub below: Option<Box<ImageInfo>>,
}

/// Open the image `path` with the format found by looking at it.
///
/// Files it names are opened only through `gate`. [`ImageInfo::guessed`] is set.
///
/// # Errors
/// [`OpenError`].
pub fn open(path: impl AsRef<Path>, gate: &dyn OpenGate) -> Result<Image, OpenError> {
    Opener { gate, depth: 0 }.open(path.as_ref(), None)
}

/// Open the image `path` as `format`, never as another.
///
/// # Errors
/// [`OpenError`].
pub fn open_as(
    path: impl AsRef<Path>,
    format: ImageFormat,
    gate: &dyn OpenGate,
) -> Result<Image, OpenError> {
    Opener { gate, depth: 0 }.open(path.as_ref(), Some(format))
}

/// Open the image whose bytes are `disk`, as `format` or as what it looks like. `path` is what it is called
/// in messages, and where the gate looks for what it names.
///
/// # Errors
/// [`OpenError`].
pub fn open_disk(
    disk: Arc<dyn BlockRead>,
    path: impl Into<PathBuf>,
    format: Option<ImageFormat>,
    gate: &dyn OpenGate,
) -> Result<Image, OpenError> {
    let file = ImageFile {
        path: path.into(),
        disk,
    };
    Opener { gate, depth: 0 }.open_file(file, format)
}

impl Image {
    pub(crate) fn new(disk: Box<dyn BlockRead>, info: ImageInfo) -> Self {
        Self { disk, info }
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }
}

impl BlockRead for Image {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> block_io::Result<()> {
        self.disk.read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64) -> block_io::Result<Extent> {
        self.disk.extent_at(offset)
    }
}

/// An image file as its format's reader gets it.
pub(crate) struct ImageFile {
    pub(crate) path: PathBuf,
    pub(crate) disk: Arc<dyn BlockRead>,
}

/// What a format's reader makes of an image file.
pub(crate) struct Opened {
    pub(crate) disk: Box<dyn BlockRead>,
    pub(crate) details: Details,
    pub(crate) variant: String,
    pub(crate) cluster_size: Option<u64>,
    pub(crate) notes: Vec<Finding>,
    pub(crate) identity: Option<String>,
    pub(crate) below: Option<ImageInfo>,
}

/// Opens images and what they name, to a bounded depth.
pub(crate) struct Opener<'g> {
    gate: &'g dyn OpenGate,
    depth: u32,
}

impl Opener<'_> {
    fn open(&self, path: &Path, format: Option<ImageFormat>) -> Result<Image, OpenError> {
        self.open_file(read_file(path)?, format)
    }

    /// The file `name` that the image `from` names, its format left to the caller.
    pub(crate) fn open_file_named(&self, name: &str, from: &Path) -> Result<ImageFile, OpenError> {
        let path = self.admit(name, from)?;
        read_file(&path).map_err(|source| OpenError::Below {
            path: from.to_owned(),
            source: Box::new(source),
        })
    }

    /// Whether the gate lets the image `from` name the file `name`, be it there or not.
    pub(crate) fn admits(&self, name: &str, from: &Path) -> Result<(), OpenError> {
        self.admit(name, from).map(|_| ())
    }

    /// Names of files beside `from` that may be looked into.
    pub(crate) fn siblings(&self, from: &Path, extension: &str) -> Vec<String> {
        self.gate.siblings(from, extension)
    }

    fn admit(&self, name: &str, from: &Path) -> Result<PathBuf, OpenError> {
        let shut = |source| OpenError::Gate {
            path: from.to_owned(),
            source,
        };
        if self.depth >= MAX_DEPTH {
            return Err(shut(GateError::TooDeep {
                name: name.to_owned(),
            }));
        }
        self.gate.admit(name, from).map_err(shut)
    }

    pub(crate) fn open_file(
        &self,
        file: ImageFile,
        format: Option<ImageFormat>,
    ) -> Result<Image, OpenError> {
        let path = file.path.clone();
        let file_size = file.disk.size();
        let guessed = format.is_none();
        let format = match format {
            Some(format) => format,
            None => detect(&file.disk).map_err(|source| OpenError::Read {
                path: path.clone(),
                source,
            })?,
        };
        let opened = match format {
            ImageFormat::Raw => Opened {
                disk: Box::new(file.disk),
                details: Details::None,
                variant: String::new(),
                cluster_size: None,
                notes: Vec::new(),
                identity: None,
                below: None,
            },
            ImageFormat::Qcow2 => qcow2::open(file, self)?,
            ImageFormat::Vhdx => vhdx::open(file, self)?,
            ImageFormat::Vmdk => vmdk::open(file, self)?,
            ImageFormat::Vhd => vhd::open(file, self)?,
            ImageFormat::Vdi => vdi::open(file, self)?,
            ImageFormat::Parallels => parallels::open(file, self)?,
        };
        Ok(Image {
            info: ImageInfo {
                path,
                format,
                guessed,
                variant: opened.variant,
                virtual_size: opened.disk.size(),
                file_size,
                cluster_size: opened.cluster_size,
                identity: opened.identity,
                details: opened.details,
                notes: opened.notes,
                below: opened.below.map(Box::new),
            },
            disk: opened.disk,
        })
    }

    /// Open the file `name` that the image `from` names.
    pub(crate) fn open_named(
        &self,
        name: &str,
        from: &Path,
        format: Option<ImageFormat>,
    ) -> Result<Image, OpenError> {
        let path = self.admit(name, from)?;
        let deeper = Opener {
            gate: self.gate,
            depth: self.depth + 1,
        };
        deeper
            .open(&path, format)
            .map_err(|source| OpenError::Below {
                path: from.to_owned(),
                source: Box::new(source),
            })
    }
}

/// The file to read for `path`.
pub(crate) fn read_file(path: &Path) -> Result<ImageFile, OpenError> {
    let path = &*parallels::file_to_open(path);
    let disk = FileDisk::open(path).map_err(|source| OpenError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(ImageFile {
        path: path.to_owned(),
        disk: Arc::new(disk),
    })
}
