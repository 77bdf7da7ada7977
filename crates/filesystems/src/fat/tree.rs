//! [`FatTree`]: the files of a FAT file system.

use block_io::{BlockRead, BlockWrite, Overlay};

use super::dir::{Dir, DirPlace, Entry};
use super::format::{Cluster, READ_ONLY, Width};
use super::volume::{Volume, corrupt};
use crate::path::GuestPath;
use crate::tree::{
    Attributes, DirEntry, FileKind, FileTree, Recovery, Result, Space, Stat, TreeError,
    TreeErrorKind, Xattr,
};

/// The files of a FAT12, FAT16 or FAT32 file system on `D`.
///
/// Names are found whatever their case, by their long and by their short form, as in Windows and
/// Linux. There are no owners, links and extended attributes; the one permission is "read-only".
pub struct FatTree<D> {
    pub(super) volume: Volume<D>,
    /// Why nothing can be written (any more).
    closed: Option<(TreeErrorKind, String)>,
}

impl<D> std::fmt::Debug for FatTree<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FatTree")
            .field("geometry", &self.volume.geometry)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl<D: BlockRead> FatTree<Overlay<D>> {
    /// Open for reading only.
    ///
    /// # Errors
    /// `Corrupt` with position, expected and found.
    pub fn open(disk: D) -> Result<Self> {
        let why = "writing: the file system was opened for reading only".to_owned();
        Ok(Self {
            volume: Volume::open(Overlay::new(disk))?,
            closed: Some((TreeErrorKind::Unsupported, why)),
        })
    }
}

impl<D: BlockWrite> FatTree<D> {
    /// Open for reading and writing. Everything is written to `disk`, which is an overlay, or a
    /// window on one, in all uses but tests.
    ///
    /// A volume that was mounted when it was copied says it is dirty. FAT has no journal: with
    /// [`Recovery::Replay`] it is taken as it is if its tables agree, and stays marked, so that
    /// the guest checks it.
    ///
    /// # Errors
    /// `Dirty` when it was not cleanly unmounted and `recovery` says to refuse; `Corrupt`.
    pub fn open_rw(disk: D, recovery: Recovery) -> Result<Self> {
        let mut volume = Volume::open(disk)?;
        if recovery == Recovery::Refuse && volume.is_dirty()? {
            return Err(TreeError::of(
                TreeErrorKind::Dirty,
                "it is marked as mounted; open it with recovery, or unmount it cleanly on the source",
            ));
        }
        volume.prepare_writing()?;
        Ok(Self {
            volume,
            closed: None,
        })
    }

    /// Do `operation` as one change: all of it, or nothing. `given` are the bytes it writes.
    fn change(
        &mut self,
        path: &GuestPath,
        given: &[u8],
        operation: impl FnOnce(&mut Volume<D>) -> Result<()>,
    ) -> Result<()> {
        if let Some((kind, why)) = &self.closed {
            return Err(TreeError::new(*kind, path).detail(why.clone()));
        }
        if let Err(error) = operation(&mut self.volume) {
            self.volume.roll_back();
            return Err(error.on(path));
        }
        self.volume.commit(given).map_err(|error| {
            let why = "an earlier change failed while it was written".to_owned();
            self.closed = Some((TreeErrorKind::Corrupt, why));
            error.on(path)
        })
    }
}

/// What a path leads to.
pub(crate) enum Found {
    Root,
    Entry {
        parent: DirPlace,
        entry: Entry,
        at: u64,
    },
}

impl<D: BlockRead> Volume<D> {
    /// The directory an entry names.
    pub(crate) fn dir_of(&self, entry: &Entry) -> Result<DirPlace> {
        let first = entry.short.first(self.geometry.width);
        if !entry.short.is_dir() {
            return Err(TreeError::of(TreeErrorKind::NotADirectory, ""));
        }
        match first {
            // Only `..` may say 0 for the root; here it is a directory without a cluster.
            0 => Err(corrupt("directory without a cluster")),
            first => Ok(DirPlace::Chain(first)),
        }
    }

    pub(crate) fn look_up(&self, path: &GuestPath) -> Result<Found> {
        let mut found = Found::Root;
        for name in path.components() {
            let parent = self.place_of(&found, path)?;
            let dir = self.dir(parent).map_err(|e| e.on(path))?;
            let Some(entry) = dir.find(name) else {
                return Err(TreeError::new(TreeErrorKind::NotFound, path));
            };
            let at = position(self, &dir, entry);
            found = Found::Entry {
                parent,
                entry: entry.clone(),
                at,
            };
        }
        Ok(found)
    }

    /// The directory `found` is.
    pub(crate) fn place_of(&self, found: &Found, path: &GuestPath) -> Result<DirPlace> {
        match found {
            Found::Root => Ok(self.root_dir()),
            Found::Entry { entry, .. } if !entry.short.is_dir() => {
                Err(TreeError::new(TreeErrorKind::NotADirectory, path))
            }
            Found::Entry { entry, .. } => self.dir_of(entry).map_err(|e| e.on(path)),
        }
    }

    /// First cluster (0 for none) and size of the regular file at `path`.
    fn file(&self, path: &GuestPath) -> Result<(Cluster, u64)> {
        match self.look_up(path)? {
            Found::Entry { entry, .. } if !entry.short.is_dir() => {
                let size = u64::from(entry.short.size());
                let first = entry.short.first(self.geometry.width);
                if size > 0 && first == 0 {
                    let what = format!("{size} bytes, expected a first cluster, found none");
                    return Err(corrupt(what).on(path));
                }
                Ok((first, size))
            }
            _ => Err(TreeError::new(TreeErrorKind::NotAFile, path)),
        }
    }

    fn read_file_at(&self, path: &GuestPath, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (first, size) = self.file(path)?;
        let cluster_size = self.geometry.cluster;
        let len = (buf.len() as u64).min(size.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let Some(cluster) = self.nth(first, at / cluster_size).map_err(|e| e.on(path))? else {
                let what =
                    format!("chain from cluster {first}: expected {size} bytes, ends before {at}");
                return Err(corrupt(what).on(path));
            };
            let within = at % cluster_size;
            let mut run = cluster_size - within;
            let start = self.geometry.start_of(cluster) + within;
            // Neighbours are read in one go.
            let mut last = cluster;
            while run < (len - done) as u64 {
                match self
                    .nth(first, (at + run) / cluster_size)
                    .map_err(|e| e.on(path))?
                {
                    Some(next) if next == last + 1 => last = next,
                    _ => break,
                }
                run += cluster_size;
            }
            let part = run.min((len - done) as u64) as usize;
            if let Some(part) = buf.get_mut(done..done + part) {
                self.disk.read_at(start, part)?;
            }
            done += part;
        }
        Ok(len)
    }

    fn stat(&self, path: &GuestPath) -> Result<Stat> {
        let (entry, at) = match self.look_up(path)? {
            Found::Root => (None, 0),
            Found::Entry { entry, at, .. } => (Some(entry), at),
        };
        let short = entry.as_ref().map(|entry| &entry.short);
        let is_dir = short.is_none_or(|short| short.is_dir());
        let place = match &entry {
            None => Some(self.root_dir()),
            Some(entry) if is_dir => Some(self.dir_of(entry).map_err(|e| e.on(path))?),
            Some(_) => None,
        };
        let size = match place {
            Some(DirPlace::Fixed) => self.geometry.root.end - self.geometry.root.start,
            Some(DirPlace::Chain(first)) => {
                let chain = self.dir_chain(first).map_err(|e| e.on(path))?;
                chain.len() as u64 * self.geometry.cluster
            }
            None => short.map_or(0, |short| u64::from(short.size())),
        };
        let read_only = short.is_some_and(|short| short.attributes() & READ_ONLY != 0);
        Ok(Stat {
            kind: if is_dir {
                FileKind::Directory
            } else {
                FileKind::File
            },
            size,
            mode: if read_only { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            mtime: short.map_or(0, |short| short.mtime()),
            inode: inode(at),
            links: 1,
        })
    }

    fn list(&self, path: &GuestPath) -> Result<Vec<DirEntry>> {
        let place = self.place_of(&self.look_up(path)?, path)?;
        let dir = self.dir(place).map_err(|e| e.on(path))?;
        let entries = dir.entries.iter().map(|entry| DirEntry {
            name: entry.name.clone(),
            kind: match entry.short.is_dir() {
                true => FileKind::Directory,
                false => FileKind::File,
            },
            inode: inode(position(self, &dir, entry)),
        });
        Ok(entries.collect())
    }
}

/// Where the short entry lies on the disk.
fn position<D: BlockRead>(volume: &Volume<D>, dir: &Dir, entry: &Entry) -> u64 {
    dir.slot_at(volume, entry.slots.end.saturating_sub(1))
        .unwrap_or(0)
}

/// FAT has no inode numbers: the place of the entry serves; 1 is the root.
fn inode(at: u64) -> u64 {
    (at / 32).max(1)
}

impl<D: BlockWrite> FileTree for FatTree<D> {
    fn stat(&self, path: &GuestPath) -> Result<Stat> {
        self.volume.stat(path)
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>> {
        self.volume.list(path)
    }

    fn read_at(&self, path: &GuestPath, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.volume.read_file_at(path, offset, buf)
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>> {
        self.volume.look_up(path)?;
        Err(TreeError::new(TreeErrorKind::NotASymlink, path))
    }

    fn xattrs(&self, path: &GuestPath) -> Result<Vec<Xattr>> {
        self.volume.look_up(path)?;
        Ok(Vec::new())
    }

    fn space(&self) -> Result<Space> {
        let geometry = &self.volume.geometry;
        let free = self.volume.free_clusters()?;
        Ok(Space {
            total: geometry.clusters * geometry.cluster,
            free: free * geometry.cluster,
            // A file takes an entry of a directory, which grows with the volume.
            free_inodes: free * geometry.cluster / 64,
        })
    }

    fn write_file(&mut self, path: &GuestPath, contents: &[u8], new: Attributes) -> Result<()> {
        self.change(path, contents, |v| {
            v.write_file(path, contents.len() as u64, new.mtime)
        })
    }

    fn write_at(&mut self, path: &GuestPath, offset: u64, data: &[u8]) -> Result<()> {
        self.change(path, data, |v| v.write_part(path, offset, data.len()))
    }

    fn truncate(&mut self, path: &GuestPath, size: u64) -> Result<()> {
        self.change(path, &[], |v| v.truncate(path, size))
    }

    fn create_dir(&mut self, path: &GuestPath, new: Attributes) -> Result<()> {
        self.change(path, &[], |v| v.create_dir(path, new.mtime))
    }

    fn create_symlink(&mut self, path: &GuestPath, _target: &[u8], _new: Attributes) -> Result<()> {
        Err(TreeError::new(TreeErrorKind::Unsupported, path).detail("FAT has no symbolic links"))
    }

    fn remove(&mut self, path: &GuestPath) -> Result<()> {
        self.change(path, &[], |v| v.remove(path))
    }

    fn rename(&mut self, from: &GuestPath, to: &GuestPath) -> Result<()> {
        self.change(from, &[], |v| v.rename(from, to))
    }

    fn set_owner(&mut self, path: &GuestPath, mode: u16, uid: u32, gid: u32) -> Result<()> {
        if (uid, gid) != (0, 0) {
            return Err(
                TreeError::new(TreeErrorKind::Unsupported, path).detail("FAT has no owners")
            );
        }
        self.change(path, &[], |v| v.set_read_only(path, mode & 0o200 == 0))
    }

    fn set_xattr(&mut self, path: &GuestPath, _name: &[u8], _value: Option<&[u8]>) -> Result<()> {
        Err(TreeError::new(TreeErrorKind::Unsupported, path)
            .detail("FAT has no extended attributes"))
    }

    fn sync(&mut self) -> Result<()> {
        Ok(self.volume.disk.flush()?)
    }
}

impl<D> FatTree<D> {
    /// `FAT12`, `FAT16` or `FAT32`.
    #[must_use]
    pub fn kind(&self) -> crate::probe::FsKind {
        match self.volume.geometry.width {
            Width::Fat12 => crate::probe::FsKind::Fat12,
            Width::Fat16 => crate::probe::FsKind::Fat16,
            Width::Fat32 => crate::probe::FsKind::Fat32,
        }
    }
}
