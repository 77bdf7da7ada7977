//! [`NtfsTree`]: the files of an NTFS volume, for reading.

use std::cell::RefCell;
use std::sync::Arc;

use block_io::BlockRead;

use super::condition::{Condition, of_volume};
use super::dir::{self, Name};
use super::file::{DOS_ONLY, File, seconds};
use super::format::{BITMAP, DATA, EA, FIRST_USER, ROOT};
use super::names::{UpCase, to_bytes, to_units};
use super::reparse::{ReparsePoint, interix_target};
use super::volume::Volume;
use crate::bytes::{le16, le32, slice, u8_at};
use crate::path::GuestPath;
use crate::tree::{
    DirEntry, FileKind, FileTree, Result, Space, Stat, TreeError, TreeErrorKind, Xattr,
};

/// Most names of one directory that are listed: a hostile one may name one block many times.
const MOST_NAMES: usize = 4 << 20;
/// Largest extended attributes: 64 KiB for all of a file.
const MOST_EA: u64 = 64 << 10;
/// Longest target of a link that is kept in a file's data.
const MOST_TARGET: u64 = 8 + 2 * 4096;
/// File attributes.
const READ_ONLY: u32 = 0x1;
const SYSTEM: u32 = 0x4;
const IS_REPARSE_POINT: u32 = 0x400;
const IS_DIRECTORY: u32 = 0x1000_0000;

/// The files of an NTFS volume on `D`, for reading: changes are refused with
/// [`TreeErrorKind::Unsupported`].
///
/// Names are found as Windows finds them: one that is exactly so, else the only one that is so but for its
/// case; short (8.3) names are found, and not listed. The volume's own files (`$MFT` and others) are
/// found, and not listed.
pub struct NtfsTree<D> {
    volume: Volume<D>,
    upcase: UpCase,
    /// What was looked up last: paths come in order.
    last: RefCell<Option<(GuestPath, Arc<File>)>>,
    last_directory: RefCell<Option<(GuestPath, Arc<File>)>>,
}

/// What Windows knows of a file besides what [`Stat`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NtfsDetails {
    /// Times in units of 100 ns since 1601: made, contents changed, record changed, read.
    pub times: [i64; 4],
    /// File attributes (`FILE_ATTRIBUTE_…`).
    pub attributes: u32,
    /// Its security descriptor in `$Secure`, where it has one there.
    pub security_id: Option<u32>,
    /// Its reparse point.
    pub reparse_point: Option<ReparsePoint>,
    /// Its data streams with their sizes; the one without a name is what [`FileTree::read_at`] reads.
    pub streams: Vec<(Vec<u8>, u64)>,
}

impl<D> std::fmt::Debug for NtfsTree<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NtfsTree")
            .field("boot", &self.volume.boot)
            .finish_non_exhaustive()
    }
}

impl<D: BlockRead> NtfsTree<D> {
    /// Open for reading.
    ///
    /// # Errors
    /// `Dirty` when its log was not closed or the volume is marked; `Hibernated`; `Corrupt` with position,
    /// expected and found.
    pub fn open(disk: D) -> Result<Self> {
        let tree = Self::open_ignoring_log(disk)?;
        tree.condition()?.check_writable()?;
        Ok(tree)
    }

    /// Open for reading whatever the log holds: files are seen as they last were in their places.
    ///
    /// # Errors
    /// As [`NtfsTree::open`], but never `Dirty` or `Hibernated`.
    pub fn open_ignoring_log(disk: D) -> Result<Self> {
        let volume = Volume::open(disk)?;
        let upcase = UpCase::read(&volume)?;
        Ok(Self {
            volume,
            upcase,
            last: RefCell::new(None),
            last_directory: RefCell::new(None),
        })
    }

    /// In which condition it was left.
    ///
    /// # Errors
    /// `Corrupt`, `Disk`.
    pub fn condition(&self) -> Result<Condition> {
        of_volume(&self.volume)
    }

    /// What Windows knows of a file besides its [`Stat`].
    ///
    /// # Errors
    /// As [`FileTree::stat`].
    pub fn details(&self, path: &GuestPath) -> Result<NtfsDetails> {
        let file = self.look_up(path)?;
        let reparse_point = self.volume.reparse_point(&file);
        let streams = file.attributes.iter().filter(|a| a.kind == DATA);
        Ok(NtfsDetails {
            times: file.times(),
            attributes: file.file_attributes(),
            security_id: file.security_id(),
            reparse_point: reparse_point.map_err(|e| TreeError::from(e).on(path))?,
            streams: streams.map(|a| (to_bytes(&a.name), a.size())).collect(),
        })
    }

    /// The bytes of the data stream `stream` of a file at `offset`, as many as there are up to
    /// `buf.len()`, as they are stored.
    ///
    /// # Errors
    /// `NotFound` when it has no such stream; `Unsupported` when it is encrypted.
    pub fn read_stream_at(
        &self,
        path: &GuestPath,
        stream: &[u8],
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize> {
        let file = self.look_up(path)?;
        let mut streams = file.attributes.iter().filter(|a| a.kind == DATA);
        let Some(found) = streams.find(|a| to_bytes(&a.name) == stream) else {
            return Err(TreeError::new(TreeErrorKind::NotFound, path).detail("no such stream"));
        };
        if found.is_encrypted() {
            return Err(TreeError::new(TreeErrorKind::Unsupported, path)
                .detail("reading a stream encrypted by EFS"));
        }
        let len = (buf.len() as u64).min(found.size().saturating_sub(offset)) as usize;
        let buf = buf.get_mut(..len).unwrap_or_default();
        let read = self.volume.read_attribute(found, offset, buf);
        read.map_err(|e| TreeError::from(e).on(path))?;
        Ok(len)
    }

    fn look_up(&self, path: &GuestPath) -> Result<Arc<File>> {
        if let Some((last, file)) = &*self.last.borrow()
            && last == path
        {
            return Ok(Arc::clone(file));
        }
        let file = self.resolve(path)?;
        *self.last.borrow_mut() = Some((path.clone(), Arc::clone(&file)));
        Ok(file)
    }

    /// Find `path` from the nearest directory that is known.
    fn resolve(&self, path: &GuestPath) -> Result<Arc<File>> {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else {
            let root = self.volume.file(ROOT, 0);
            return Ok(Arc::new(root.map_err(|e| TreeError::from(e).on(path))?));
        };
        let known = self.last_directory.borrow().clone();
        let directory = match known.filter(|(known, _)| *known == parent) {
            Some((_, directory)) => directory,
            None => {
                let directory = self.resolve_directory(path, &parent)?;
                *self.last_directory.borrow_mut() = Some((parent, Arc::clone(&directory)));
                directory
            }
        };
        self.child(path, &directory, name)
    }

    /// The directory `parent`, on the way to `path`.
    fn resolve_directory(&self, path: &GuestPath, parent: &GuestPath) -> Result<Arc<File>> {
        let root = self.volume.file(ROOT, 0);
        let mut directory = Arc::new(root.map_err(|e| TreeError::from(e).on(path))?);
        for name in parent.components() {
            directory = self.child(path, &directory, name)?;
            self.check_directory(path, &directory)?;
        }
        Ok(directory)
    }

    fn check_directory(&self, path: &GuestPath, file: &File) -> Result<()> {
        match self.kind_of(file).map_err(|e| e.on(path))? {
            FileKind::Directory => Ok(()),
            FileKind::Symlink => Err(TreeError::new(TreeErrorKind::IsSymlink, path)),
            _ => Err(TreeError::new(TreeErrorKind::NotADirectory, path)),
        }
    }

    fn child(&self, path: &GuestPath, directory: &File, name: &[u8]) -> Result<Arc<File>> {
        let not_found = || TreeError::new(TreeErrorKind::NotFound, path);
        let wanted = to_units(name).filter(|units| units.len() <= 255);
        let wanted = wanted.ok_or_else(not_found)?;
        let found = dir::find(&self.volume, &self.upcase, directory, &wanted);
        let found = found.map_err(|e| TreeError::from(e).on(path))?;
        let exact = found.iter().find(|entry| entry.name == wanted);
        let entry = match (exact, found.as_slice()) {
            (Some(exact), _) => exact,
            (None, [first, rest @ ..]) if rest.iter().all(|e| e.record == first.record) => first,
            (None, []) => return Err(not_found()),
            (None, _) => return Err(not_found().detail("several names differ in their case only")),
        };
        let file = self.volume.file(entry.record, entry.sequence);
        Ok(Arc::new(file.map_err(|e| TreeError::from(e).on(path))?))
    }

    fn kind_of(&self, file: &File) -> Result<FileKind> {
        if let Some(point) = self.volume.reparse_point(file)? {
            return Ok(point.kind(file.is_directory));
        }
        if file.is_directory {
            return Ok(FileKind::Directory);
        }
        if file.file_attributes() & SYSTEM != 0 && self.interix(file)?.is_some() {
            return Ok(FileKind::Symlink);
        }
        Ok(FileKind::File)
    }

    /// Where a link leads that is kept in the data of a system file.
    fn interix(&self, file: &File) -> Result<Option<Vec<u8>>> {
        let size = file.attribute(DATA, "").map_or(0, |data| data.size());
        if !(9..=MOST_TARGET).contains(&size) {
            return Ok(None);
        }
        let mut data = vec![0; size as usize];
        match self.volume.read_data(file, 0, &mut data) {
            Ok(_) => Ok(interix_target(&data)),
            Err(error) if error.kind() == TreeErrorKind::Disk => Err(error),
            // Encrypted, or damaged: not a link that can be followed.
            Err(_) => Ok(None),
        }
    }

    /// What a name in a directory stands for; its record is read only where its attributes leave it open.
    fn kind_of_name(&self, name: &Name) -> Result<FileKind> {
        if name.attributes & (IS_REPARSE_POINT | SYSTEM) != 0 {
            return self.kind_of(&self.volume.file(name.record, name.sequence)?);
        }
        Ok(match name.attributes & IS_DIRECTORY {
            0 => FileKind::File,
            _ => FileKind::Directory,
        })
    }
}

/// Whether a name is listed. Those for DOS stand beside a long one; the root has itself and the volume's
/// own files in it; and nothing that is a path of its own is a name.
fn is_listed(name: &Name, bytes: &[u8], directory: u64) -> bool {
    let is_own = directory == ROOT && name.record < FIRST_USER;
    let is_path =
        bytes.iter().any(|b| matches!(b, b'/' | 0)) || matches!(bytes, b"" | b"." | b"..");
    name.space != DOS_ONLY && !is_own && !is_path
}

/// Extended attributes. Offsets: 0 distance to the next, 4 flags, 5 name length, 6 value length, 8 name,
/// behind a NUL the value. // [MS-FSCC] 2.4.16
fn extended_attributes(raw: &[u8]) -> Vec<Xattr> {
    let mut found = Vec::new();
    let mut at = 0_usize;
    while at + 8 < raw.len() {
        let name_len = usize::from(u8_at(raw, at + 5));
        let value_len = usize::from(le16(raw, at + 6));
        let name = slice(raw, at + 8, name_len);
        if name.is_empty() || at + 9 + name_len + value_len > raw.len() {
            break;
        }
        found.push(Xattr {
            name: name.to_vec(),
            value: slice(raw, at + 9 + name_len, value_len).to_vec(),
        });
        match le32(raw, at) as usize {
            0 => break,
            next if next < 9 => break,
            next => at = at.saturating_add(next),
        }
    }
    found
}

impl<D: BlockRead> FileTree for NtfsTree<D> {
    fn stat(&self, path: &GuestPath) -> Result<Stat> {
        let file = self.look_up(path)?;
        let kind = self.kind_of(&file).map_err(|e| e.on(path))?;
        let size = match kind {
            FileKind::Directory => 0,
            FileKind::Symlink => self.target(&file).map_err(|e| e.on(path))?.len() as u64,
            _ => file.attribute(DATA, "").map_or(0, |data| data.size()),
        };
        let is_read_only = kind == FileKind::File && file.file_attributes() & READ_ONLY != 0;
        let [_, written, ..] = file.times();
        Ok(Stat {
            kind,
            size,
            mode: if is_read_only { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            mtime: seconds(written),
            inode: file.number,
            links: file.links(),
        })
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>> {
        let directory = self.look_up(path)?;
        if self.kind_of(&directory).map_err(|e| e.on(path))? != FileKind::Directory {
            return Err(TreeError::new(TreeErrorKind::NotADirectory, path));
        }
        let mut entries = Vec::new();
        let mut failed = None;
        let mut see = |name: Name| {
            let bytes = to_bytes(&name.name);
            if !is_listed(&name, &bytes, directory.number) {
                return true;
            }
            match self.kind_of_name(&name) {
                Ok(kind) => entries.push(DirEntry {
                    name: bytes,
                    kind,
                    inode: name.record,
                }),
                Err(error) => failed = Some(error.on(&path.join(&bytes))),
            }
            failed.is_none() && entries.len() <= MOST_NAMES
        };
        dir::names(&self.volume, &directory, &mut see).map_err(|e| TreeError::from(e).on(path))?;
        if let Some(error) = failed {
            return Err(error);
        }
        if entries.len() > MOST_NAMES {
            return Err(TreeError::new(TreeErrorKind::TooLarge, path)
                .detail(format!("more than {MOST_NAMES} names")));
        }
        *self.last_directory.borrow_mut() = Some((path.clone(), directory));
        Ok(entries)
    }

    fn read_at(&self, path: &GuestPath, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.look_up(path)?;
        if self.kind_of(&file).map_err(|e| e.on(path))? != FileKind::File {
            return Err(TreeError::new(TreeErrorKind::NotAFile, path));
        }
        let read = self.volume.read_data(&file, offset, buf);
        read.map_err(|e| e.on(path))
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>> {
        let file = self.look_up(path)?;
        if self.kind_of(&file).map_err(|e| e.on(path))? != FileKind::Symlink {
            return Err(TreeError::new(TreeErrorKind::NotASymlink, path));
        }
        self.target(&file).map_err(|e| e.on(path))
    }

    fn xattrs(&self, path: &GuestPath) -> Result<Vec<Xattr>> {
        let file = self.look_up(path)?;
        let Some(attribute) = file.attribute(EA, "") else {
            return Ok(Vec::new());
        };
        let mut raw = vec![0; attribute.size().min(MOST_EA) as usize];
        let read = self.volume.read_attribute(attribute, 0, &mut raw);
        read.map_err(|e| TreeError::from(e).on(path))?;
        Ok(extended_attributes(&raw))
    }

    fn space(&self) -> Result<Space> {
        let boot = &self.volume.boot;
        let used = self.count_used()?;
        let free = boot.clusters.saturating_sub(used) * boot.cluster;
        Ok(Space {
            total: boot.clusters * boot.cluster,
            free,
            // Records are made as they are needed.
            free_inodes: free / boot.record as u64,
        })
    }

    crate::tree::refuse_writing!("writing NTFS");
}

impl<D: BlockRead> NtfsTree<D> {
    fn target(&self, file: &File) -> Result<Vec<u8>> {
        let target = match self.volume.reparse_point(file)? {
            Some(point) => point.target(),
            None => self.interix(file)?,
        };
        target.ok_or_else(|| {
            TreeError::of(
                TreeErrorKind::Corrupt,
                format!("record {}: a link without a target", file.number),
            )
        })
    }

    /// Used clusters, by the bitmap.
    fn count_used(&self) -> Result<u64> {
        let bitmap = self.volume.file(BITMAP, 0)?;
        let Some(bits) = bitmap.attribute(DATA, "") else {
            return Err(TreeError::of(
                TreeErrorKind::Corrupt,
                "record 6: $Bitmap has no data",
            ));
        };
        let boot_clusters = self.volume.boot.clusters;
        let bytes = boot_clusters.div_ceil(8).min(bits.size());
        let mut used = 0;
        let mut piece = vec![0; bytes.min(1 << 20) as usize];
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(piece.len() as u64) as usize;
            let part = piece.get_mut(..len).unwrap_or_default();
            self.volume.read_attribute(bits, at, part)?;
            // Bits behind the last cluster are set, or not.
            let clusters = at * 8..boot_clusters.min((at + len as u64) * 8);
            let runs = super::used::set_runs(part, &clusters);
            used += runs.iter().map(|run| run.end - run.start).sum::<u64>();
            at += len as u64;
        }
        Ok(used)
    }
}
