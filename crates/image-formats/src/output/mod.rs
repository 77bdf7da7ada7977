//! Outputs: which formats there are, and how one is started.

mod blocks;
mod device;
mod format;
pub mod journal;
mod parts;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use blocks::{BlockTable, place_in_blocks};
pub use device::lies_on;
pub use format::{
    BackingFile, Compression, FormatError, OutputFormat, ParallelsOptions, Qcow2Options,
    RawOptions, VdiOptions, VhdOptions, VhdxOptions, VmdkKind,
};
pub use parts::PartFile;
pub(crate) use parts::sync_directory;

use crate::codec::Codec;
use crate::parallels::{self, BundleWriter, ParallelsWriter};
use crate::qcow2::Qcow2Writer;
use crate::raw::RawWriter;
use crate::vdi::VdiWriter;
use crate::vhd::VhdWriter;
use crate::vhdx::VhdxWriter;
use crate::vmdk::{self, FlatWriter, SparseWriter, SplitWriter, StreamWriter};

/// How an output is made, beyond what its format says.
#[derive(Debug, Clone, Default)]
pub struct OutputOptions {
    /// Replace an output that exists. Without it an existing file is refused and left alone.
    pub overwrite: bool,
    /// Do not wait for the medium before the file gets its name. Faster; after a power cut the file
    /// may be there and incomplete. A killed process leaves no incomplete file either way.
    pub no_flush: bool,
}

/// Why an output could not be started, written or finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The output exists and was not to be overwritten.
    #[error("{} exists; name another output or allow overwriting", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Another process is writing the same output.
    #[error("{} is being written by another process", path.display())]
    Busy {
        /// The part file.
        path: PathBuf,
    },
    /// The medium is full.
    #[error(
        "no space left for {}: {needed} bytes more would surely do; its part file was removed",
        path.display()
    )]
    Full {
        /// The output.
        path: PathBuf,
        /// An upper bound of the bytes still to be written.
        needed: u64,
    },
    /// The operating system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// The output.
        path: PathBuf,
        /// What was being done, as a gerund.
        doing: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The output is a block device that cannot be written onto.
    #[error("not writing onto the device {}: {why}", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// Why not, and what the user can do.
        why: String,
    },
    /// The image that the output is to lie over could not be read.
    #[error("reading {}, which the output is to lie over", path.display())]
    Below {
        /// The image below.
        path: PathBuf,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The format cannot hold such a disk.
    #[error("{format} cannot hold a disk of {size} bytes: {why}")]
    Unfit {
        /// The format.
        format: &'static str,
        /// The size of the disk.
        size: u64,
        /// The limit, and what the user can do.
        why: String,
    },
}

impl OutputError {
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let full = matches!(
            rustix::io::Errno::from_io_error(&source),
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)
        );
        let path = path.to_owned();
        match full {
            true => OutputError::Full { path, needed: 0 },
            false => OutputError::Io {
                path,
                doing,
                source,
            },
        }
    }

    /// Say how much more space a full medium would have needed at most.
    pub(crate) fn needing(mut self, bytes: u64) -> Self {
        if let OutputError::Full { needed, .. } = &mut self {
            *needed = (*needed).max(bytes);
        }
        self
    }
}

/// How one unit of a chunk is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// All zeroes: not kept at all, where the format allows.
    Zero,
    /// As it is.
    Plain,
    /// Compressed; these bytes of [`EncodedChunk::packed`].
    Packed(std::ops::Range<usize>),
}

/// A window of the disk, cut into the units of one format, each zero, plain or compressed.
#[derive(Debug)]
pub struct EncodedChunk<'a> {
    /// Where on the disk the chunk starts, a multiple of the unit.
    pub start: u64,
    /// The plain bytes, whole units; zeroes past the end of the disk.
    pub plain: &'a [u8],
    /// The compressed units, one after another.
    pub packed: &'a [u8],
    /// What to do with each unit in turn.
    pub units: &'a [Stored],
}

/// Bytes that go into a file of the output.
#[derive(Debug)]
pub struct Placement {
    /// Which of the output's files.
    pub file: usize,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What.
    pub bytes: PlacedBytes,
}

impl Placement {
    /// Write it, where its bytes were made: what is left to place when the pass is over.
    pub(crate) fn write_made(&self, file: &PartFile) -> Result<(), OutputError> {
        match &self.bytes {
            PlacedBytes::Made(bytes) => file.write_at(self.offset, bytes),
            PlacedBytes::Repeated(word) => file.write_at(self.offset, &word.bytes()),
            PlacedBytes::Plain(_) | PlacedBytes::Packed(_) => Ok(()),
        }
    }
}

/// Where the bytes of a [`Placement`] come from.
#[derive(Debug)]
pub enum PlacedBytes {
    /// A range of [`EncodedChunk::plain`].
    Plain(std::ops::Range<usize>),
    /// A range of [`EncodedChunk::packed`].
    Packed(std::ops::Range<usize>),
    /// Bytes the writer made: tables, headers of grains.
    Made(Vec<u8>),
    /// A table all entries of which are equal. A gap of a large disk may need thousands of them at once.
    Repeated(Repeated),
}

/// A word of eight bytes, over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Repeated {
    /// The word as it is stored.
    pub word: [u8; 8],
    /// How often.
    pub times: usize,
}

impl Repeated {
    /// The bytes it stands for.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.word.repeat(self.times)
    }
}

/// The layout of one format: it decides where bytes go; it compresses and writes nothing itself.
///
/// Contract: chunks come in ascending order and do not overlap; what no chunk covers reads as zeroes.
/// [`ImageWriter::place`] is called under a lock by one thread at a time and must be quick. The bytes
/// it places are written later, by several threads, in any order, all before
/// [`ImageWriter::finish`]. Until `finish` returns the file has no valid header.
pub trait ImageWriter: Send {
    /// Bytes of the unit it stores: a power of two, at most [`crate::copy::WINDOW`].
    fn unit(&self) -> u64;

    /// How units are to be compressed before they are placed.
    fn codec(&self) -> Codec {
        Codec::Plain
    }

    /// Decide where the units of `chunk` go, and add that to `placements`.
    ///
    /// # Errors
    /// When the format has no room for them.
    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError>;

    /// Write what makes the files valid: tables first, then, after `barrier`, the header.
    ///
    /// # Errors
    /// As the medium answers.
    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError>;
}

/// Place as `writer` does, into the second file of the output: the first is a descriptor.
pub(crate) fn place_behind_descriptor(
    writer: &mut dyn ImageWriter,
    chunk: &EncodedChunk<'_>,
    placements: &mut Vec<Placement>,
) -> Result<(), OutputError> {
    let first = placements.len();
    writer.place(chunk, placements)?;
    for placement in placements.iter_mut().skip(first) {
        placement.file = 1;
    }
    Ok(())
}

/// The point in [`ImageWriter::finish`] before which everything but the header must be on the medium.
#[derive(Debug)]
pub struct Barrier {
    flush: bool,
}

impl Barrier {
    /// Wait until all writes so far are durable.
    ///
    /// # Errors
    /// As the medium answers.
    pub fn reach(&self, files: &[PartFile]) -> Result<(), OutputError> {
        if self.flush {
            files.iter().try_for_each(PartFile::sync)?;
        }
        Ok(())
    }
}

/// One output being written: its files and its layout. Dropped before it is finished, it removes its
/// files.
pub struct Sink {
    pub(crate) writer: Box<dyn ImageWriter>,
    pub(crate) files: Vec<PartFile>,
    /// Behind the files: it goes when they are gone.
    bundle: Option<BundleFolder>,
    path: PathBuf,
    virtual_size: u64,
    options: OutputOptions,
}

/// Start the output `path` in `format` for a disk of `virtual_size` bytes.
///
/// Formats that count in sectors round the size up to the next multiple of 512.
///
/// # Errors
/// [`OutputError`]: it exists, the format cannot hold it, the operating system refuses.
pub fn create(
    path: impl AsRef<Path>,
    format: &OutputFormat,
    virtual_size: u64,
    options: OutputOptions,
) -> Result<Sink, OutputError> {
    let path = path.as_ref();
    if device::is_block_device(path) && !matches!(format, OutputFormat::Raw(_)) {
        return Err(OutputError::Device {
            path: path.to_owned(),
            why: "only raw disks are written onto devices; use --to raw".to_owned(),
        });
    }
    let (writer, names): (Box<dyn ImageWriter>, Vec<PathBuf>) = match format {
        OutputFormat::Raw(raw) => (
            Box::new(RawWriter::new(virtual_size, raw)),
            vec![path.to_owned()],
        ),
        OutputFormat::Qcow2(qcow2) => (
            Box::new(Qcow2Writer::create(virtual_size, qcow2, path)?),
            vec![path.to_owned()],
        ),
        OutputFormat::Vhdx(vhdx) => (
            Box::new(VhdxWriter::new(virtual_size, vhdx)?),
            vec![path.to_owned()],
        ),
        OutputFormat::Vhd(vhd) => (
            Box::new(VhdWriter::new(virtual_size, vhd)?),
            vec![path.to_owned()],
        ),
        OutputFormat::Vdi(vdi) => (
            Box::new(VdiWriter::new(virtual_size, vdi)?),
            vec![path.to_owned()],
        ),
        OutputFormat::Parallels(options) if options.is_bundle(path) => {
            let names = parallels::bundle_files(path);
            let writer = BundleWriter::new(virtual_size, options.plain, &names[1])?;
            (Box::new(writer), names.to_vec())
        }
        OutputFormat::Parallels(_) => (
            Box::new(ParallelsWriter::new(virtual_size)?),
            vec![path.to_owned()],
        ),
        OutputFormat::Vmdk(VmdkKind::StreamOptimized) => (
            Box::new(StreamWriter::new(virtual_size, path)?),
            vec![path.to_owned()],
        ),
        OutputFormat::Vmdk(VmdkKind::MonolithicSparse) => (
            Box::new(SparseWriter::new(virtual_size, path)?),
            vec![path.to_owned()],
        ),
        OutputFormat::Vmdk(VmdkKind::TwoGbMaxExtentSparse) => {
            let (writer, extents) = SplitWriter::new(virtual_size, path)?;
            let names = std::iter::once(path.to_owned()).chain(extents);
            (Box::new(writer), names.collect())
        }
        OutputFormat::Vmdk(VmdkKind::MonolithicFlat) => {
            let flat = vmdk::beside(path, "-flat.vmdk");
            (
                Box::new(FlatWriter::new(virtual_size, &flat)?),
                vec![path.to_owned(), flat],
            )
        }
    };
    let bundle = match names.first() {
        Some(first) if first.starts_with(path) && first != path => {
            Some(BundleFolder::make(path, options.overwrite)?)
        }
        _ => None,
    };
    let files = match format {
        OutputFormat::Raw(raw) => vec![create_raw(path, raw, virtual_size, options.overwrite)?],
        _ => names
            .iter()
            .map(|name| PartFile::create(name, options.overwrite))
            .collect::<Result<Vec<_>, _>>()?,
    };
    Ok(Sink {
        writer,
        files,
        bundle,
        path: path.to_owned(),
        virtual_size,
        options,
    })
}

fn create_raw(
    path: &Path,
    options: &RawOptions,
    size: u64,
    overwrite: bool,
) -> Result<PartFile, OutputError> {
    if device::is_block_device(path) {
        return PartFile::onto_device(path, size, overwrite);
    }
    let file = PartFile::create(path, overwrite)?;
    file.set_len(size)?;
    if options.preallocated {
        file.allocate(size)?;
    }
    Ok(file)
}

/// Make `path`, an empty qcow2 over the image `backing`: reads fall through to it, writes stay in `path`.
///
/// `backing` is written into the header as it is given, and is looked up relative to the directory of
/// `path`; `backing_format` is what QEMU calls its format. Neither is opened here.
///
/// # Errors
/// As [`create`], and `Unfit` where the name is too long for the header.
pub fn create_overlay(
    path: impl AsRef<Path>,
    backing: &str,
    backing_format: &str,
    virtual_size: u64,
    options: OutputOptions,
) -> Result<PathBuf, OutputError> {
    let writer = Qcow2Writer::new(virtual_size, &Qcow2Options::default())?;
    let sink = Sink {
        writer: Box::new(writer.over(backing, backing_format)?),
        files: vec![PartFile::create(path.as_ref(), options.overwrite)?],
        bundle: None,
        path: path.as_ref().to_owned(),
        virtual_size,
        options,
    };
    sink.finish()
}

impl Sink {
    /// The size the disk was announced with.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Its name: that of its first file, or of the bundle its files are in.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names its files will have.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PartFile::path)
    }

    /// Let `journal` see every step that is taken with the output's files.
    #[must_use]
    pub fn watched_by(mut self, journal: &std::sync::Arc<dyn journal::Journal>) -> Self {
        for (number, file) in self.files.iter_mut().enumerate() {
            file.watch(number, std::sync::Arc::clone(journal));
        }
        self
    }

    /// Make the output valid and give its files their names.
    ///
    /// # Errors
    /// As the medium answers, or when an output of that name has appeared meanwhile.
    pub fn finish(mut self) -> Result<PathBuf, OutputError> {
        let path = std::mem::take(&mut self.path);
        let barrier = Barrier {
            flush: !self.options.no_flush,
        };
        self.writer.finish(&self.files, &barrier)?;
        barrier.reach(&self.files)?;
        // The first file is the one users open: it appears last.
        for file in self.files.drain(..).rev() {
            file.publish(self.options.overwrite)?;
        }
        if barrier.flush {
            if self.bundle.is_some() {
                sync_directory(&path.join(parallels::DESCRIPTOR))?;
            }
            sync_directory(&path)?;
        }
        Ok(path)
    }
}

/// The folder of an output that is a bundle. Dropped while nothing is in it, it goes.
struct BundleFolder(PathBuf);

impl BundleFolder {
    fn make(path: &Path, overwrite: bool) -> Result<Self, OutputError> {
        match std::fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Into a bundle of the same name only where it may be replaced, never into a file.
                if !overwrite || !path.is_dir() {
                    let path = path.to_owned();
                    return Err(OutputError::Exists { path });
                }
            }
            Err(source) => return Err(OutputError::io(path, "making", source)),
        }
        Ok(Self(path.to_owned()))
    }
}

impl Drop for BundleFolder {
    fn drop(&mut self) {
        // Fails, and rightly, while there is a file in it.
        let _ = std::fs::remove_dir(&self.0);
    }
}
