//! [`ExtTree`]: the files of an ext2, ext3 or ext4 file system.

use block_io::{BlockRead, BlockWrite, Overlay};

use super::edit::{Named, New, check_writable};
use super::feature;
use super::inode::{Inode, ROOT_INODE};
use super::volume::{Volume, corrupt, unsupported};
use crate::path::GuestPath;
use crate::tree::{
    Attributes, DirEntry, FileKind, FileTree, Recovery, Result, Space, Stat, TreeError,
    TreeErrorKind, Xattr,
};

/// The files of an ext2, ext3 or ext4 file system on `D`.
pub struct ExtTree<D> {
    pub(super) volume: Volume<D>,
    /// Why nothing can be written (any more).
    pub(super) closed: Option<TreeErrorKind>,
    pub(super) why_closed: String,
}

impl<D> std::fmt::Debug for ExtTree<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExtTree")
            .field("closed", &self.why_closed)
            .finish_non_exhaustive()
    }
}

impl<D: BlockRead> ExtTree<Overlay<D>> {
    /// Open for reading only. A dirty journal is replayed into memory; `disk` is never written.
    ///
    /// # Errors
    /// `Corrupt` with position, expected and found; `Unsupported` with the feature's name.
    pub fn open(disk: D) -> Result<Self> {
        let volume = open_volume(Overlay::new(disk))?;
        Ok(Self {
            volume,
            closed: Some(TreeErrorKind::Unsupported),
            why_closed: "writing: the file system was opened for reading only".to_owned(),
        })
    }
}

impl<D: BlockWrite> ExtTree<D> {
    /// Open for reading and writing. Everything is written to `disk`, which is an overlay, or a
    /// window on one, in all uses but tests.
    ///
    /// # Errors
    /// `Dirty` when it was not cleanly unmounted and `recovery` says to refuse, or when there is no
    /// journal to replay; `Unsupported` with the name of a feature we cannot keep right; `Corrupt`.
    /// Nothing was written then, except where the disk itself fails.
    pub fn open_rw(disk: D, recovery: Recovery) -> Result<Self> {
        let volume = Volume::open(disk)?;
        refuse_unknown(&volume)?;
        refuse_unwritable(&volume)?;
        let dirty = volume.sb.has_incompat(feature::RECOVER)
            || volume.sb.last_orphan() != 0
            || volume.sb.has_ro_compat(feature::ORPHAN_PRESENT);
        if dirty && recovery == Recovery::Refuse {
            return Err(TreeError::of(
                TreeErrorKind::Dirty,
                "its journal holds changes; open it with recovery, or unmount it cleanly on the source",
            ));
        }
        let mut volume = replayed(volume)?;
        refuse_unwritable(&volume)?;
        volume.survey_system_blocks()?;
        if dirty {
            volume.finish_orphans()?;
            volume.begin();
            volume.recount()?;
            volume.commit(&[])?;
        }
        Ok(Self {
            volume,
            closed: None,
            why_closed: String::new(),
        })
    }

    /// The time, in seconds since 1970, that changes get which are told none: the time of deletion
    /// of inodes. Without it, the time the file system was last written to.
    pub fn set_clock(&mut self, seconds: i64) {
        self.volume.clock = seconds.max(946_684_800);
    }

    /// Do `operation` as one change: all of it, or nothing. `given` are the bytes it writes.
    fn change<T>(
        &mut self,
        path: &GuestPath,
        given: &[u8],
        operation: impl FnOnce(&mut Volume<D>) -> Result<T>,
    ) -> Result<T> {
        if let Some(kind) = self.closed {
            return Err(TreeError::new(kind, path).detail(self.why_closed.clone()));
        }
        self.volume.begin();
        let done = match operation(&mut self.volume) {
            Ok(done) => done,
            Err(error) => {
                self.volume.roll_back();
                return Err(error.on(path));
            }
        };
        match self.volume.commit(given) {
            Ok(()) => Ok(done),
            Err(error) => {
                self.closed = Some(TreeErrorKind::Disk);
                self.why_closed = "an earlier change failed half-way".to_owned();
                Err(error.on(path))
            }
        }
    }

    /// The directory a path lies in, and its name there.
    fn named<'a>(&self, path: &'a GuestPath) -> Result<Named<'a>> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(Named {
                dir: self.directory(&parent).map_err(|e| e.renamed(path))?,
                name,
            }),
            _ => Err(TreeError::new(TreeErrorKind::BadName, path)),
        }
    }

    fn make(&mut self, path: &GuestPath, new: New, attributes: Attributes) -> Result<()> {
        if path.file_name().is_none() {
            return Err(TreeError::new(TreeErrorKind::Exists, path));
        }
        let at = self.named(path)?;
        if self
            .volume
            .find(&at.dir, at.name)
            .map_err(|e| e.on(path))?
            .is_some()
        {
            return Err(TreeError::new(TreeErrorKind::Exists, path));
        }
        let given = match new {
            New::File(bytes) | New::Symlink(bytes) => bytes,
            New::Directory => &[],
        };
        self.change(path, given, |volume| volume.create(at, new, attributes))
    }

    /// Change one inode.
    fn change_inode(
        &mut self,
        path: &GuestPath,
        mut inode: Inode,
        given: &[u8],
        operation: impl FnOnce(&mut Volume<D>, &mut Inode) -> Result<()>,
    ) -> Result<()> {
        self.change(path, given, |volume| {
            operation(volume, &mut inode)?;
            volume.put_inode(&mut inode)
        })
    }
}

/// Read superblock and features, and replay a dirty journal.
fn open_volume<D: BlockWrite>(disk: D) -> Result<Volume<D>> {
    let volume = Volume::open(disk)?;
    refuse_unknown(&volume)?;
    replayed(volume)
}

fn replayed<D: BlockWrite>(mut volume: Volume<D>) -> Result<Volume<D>> {
    if volume.sb.has_incompat(feature::RECOVER) {
        volume.replay_journal()?;
        refuse_unknown(&volume)?;
    }
    Ok(volume)
}

/// Refuse to write what we could not keep right.
fn refuse_unwritable<D: BlockRead>(volume: &Volume<D>) -> Result<()> {
    let sb = &volume.sb;
    let cannot = sb.ro_compat() & !feature::RO_COMPAT_WRITE;
    if cannot != 0 {
        return Err(unsupported(format!(
            "writing with feature: {}",
            feature::names(cannot, feature::RO_COMPAT_NAMES)
        )));
    }
    let journal = sb.has_compat(feature::HAS_JOURNAL);
    if journal && sb.journal_inode() == 0 {
        return Err(unsupported("writing with an external journal"));
    }
    if !journal && sb.state() & 1 == 0 {
        return Err(TreeError::of(
            TreeErrorKind::Dirty,
            "it has no journal and was not cleanly unmounted; unmount it, or run e2fsck on the source",
        ));
    }
    Ok(())
}

fn refuse_unknown<D: BlockRead>(volume: &Volume<D>) -> Result<()> {
    let unknown = volume.sb.incompat() & !feature::INCOMPAT_READ;
    if unknown != 0 {
        return Err(unsupported(format!(
            "incompatible feature: {}",
            feature::names(unknown, feature::INCOMPAT_NAMES)
        )));
    }
    Ok(())
}

impl<D: BlockRead> ExtTree<D> {
    /// The inode a path names, its last component not followed if a link.
    pub(super) fn resolve(&self, path: &GuestPath) -> Result<Inode> {
        self.walk(path).map_err(|e| e.on(path))
    }

    fn walk(&self, path: &GuestPath) -> Result<Inode> {
        let mut inode = self.volume.live_inode(ROOT_INODE)?;
        if !inode.is_dir() {
            return Err(corrupt(format!(
                "inode 2: expected the root directory, found mode {:#06x}",
                inode.mode()
            )));
        }
        let mut chain = vec![inode.number];
        for name in path.components() {
            match inode.kind() {
                Some(FileKind::Directory) => {}
                Some(FileKind::Symlink) => {
                    return Err(TreeError::new(TreeErrorKind::IsSymlink, path));
                }
                _ => return Err(TreeError::new(TreeErrorKind::NotADirectory, path)),
            }
            let Some(found) = self.volume.find(&inode, name)? else {
                return Err(TreeError::new(TreeErrorKind::NotFound, path));
            };
            // A directory has one parent; met twice on the way, it is its own ancestor.
            if chain.contains(&found.inode) {
                return Err(corrupt(format!(
                    "directory inode {}: expected a tree, found inode {} below itself",
                    inode.number, found.inode
                )));
            }
            chain.push(found.inode);
            inode = self.volume.live_inode(found.inode)?;
        }
        Ok(inode)
    }

    pub(super) fn file(&self, path: &GuestPath) -> Result<Inode> {
        let inode = self.resolve(path)?;
        match inode.kind() {
            Some(FileKind::File) => Ok(inode),
            Some(FileKind::Symlink) => Err(TreeError::new(TreeErrorKind::IsSymlink, path)),
            _ => Err(TreeError::new(TreeErrorKind::NotAFile, path)),
        }
    }

    pub(super) fn directory(&self, path: &GuestPath) -> Result<Inode> {
        let inode = self.resolve(path)?;
        match inode.kind() {
            Some(FileKind::Directory) => Ok(inode),
            Some(FileKind::Symlink) => Err(TreeError::new(TreeErrorKind::IsSymlink, path)),
            _ => Err(TreeError::new(TreeErrorKind::NotADirectory, path)),
        }
    }
}

impl<D: BlockWrite> FileTree for ExtTree<D> {
    fn stat(&self, path: &GuestPath) -> Result<Stat> {
        let inode = self.resolve(path)?;
        Ok(Stat {
            kind: inode.kind().unwrap_or(FileKind::Special),
            size: inode.size(),
            mode: inode.mode() & 0o7777,
            uid: inode.uid(),
            gid: inode.gid(),
            mtime: inode.mtime(),
            inode: u64::from(inode.number),
            links: u32::from(inode.links()),
        })
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>> {
        let dir = self.directory(path)?;
        self.volume.list(&dir).map_err(|e| e.on(path))
    }

    fn read_at(&self, path: &GuestPath, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inode = self.file(path)?;
        self.volume
            .read_contents(&inode, offset, buf)
            .map_err(|e| e.on(path))
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>> {
        let inode = self.resolve(path)?;
        if inode.kind() != Some(FileKind::Symlink) {
            return Err(TreeError::new(TreeErrorKind::NotASymlink, path));
        }
        self.volume.link_target(&inode).map_err(|e| e.on(path))
    }

    fn xattrs(&self, path: &GuestPath) -> Result<Vec<Xattr>> {
        let inode = self.resolve(path)?;
        self.volume.xattrs(&inode).map_err(|e| e.on(path))
    }

    fn space(&self) -> Result<Space> {
        let sb = &self.volume.sb;
        Ok(Space {
            total: sb.blocks * sb.block_size,
            free: sb.free_blocks().min(sb.blocks) * sb.block_size,
            free_inodes: u64::from(sb.free_inodes()),
        })
    }

    fn write_file(&mut self, path: &GuestPath, contents: &[u8], new: Attributes) -> Result<()> {
        let inode = match self.file(path) {
            Ok(inode) => inode,
            Err(error) if error.kind() == TreeErrorKind::NotFound => {
                return self.make(path, New::File(contents), new);
            }
            Err(error) => return Err(error),
        };
        self.change_inode(path, inode, contents, |volume, inode| {
            check_writable(inode)?;
            volume.resize(inode, 0)?;
            volume.write_contents(inode, 0, contents)?;
            inode.touch(new.mtime);
            Ok(())
        })
    }

    fn write_at(&mut self, path: &GuestPath, offset: u64, data: &[u8]) -> Result<()> {
        let inode = self.file(path)?;
        self.change_inode(path, inode, data, |volume, inode| {
            check_writable(inode)?;
            volume.write_contents(inode, offset, data)
        })
    }

    fn truncate(&mut self, path: &GuestPath, size: u64) -> Result<()> {
        let inode = self.file(path)?;
        self.change_inode(path, inode, &[], |volume, inode| {
            check_writable(inode)?;
            volume.resize(inode, size)
        })
    }

    fn create_dir(&mut self, path: &GuestPath, new: Attributes) -> Result<()> {
        self.make(path, New::Directory, new)
    }

    fn create_symlink(&mut self, path: &GuestPath, target: &[u8], new: Attributes) -> Result<()> {
        self.make(path, New::Symlink(target), new)
    }

    fn remove(&mut self, path: &GuestPath) -> Result<()> {
        let at = self.named(path)?;
        let Some(found) = self.volume.find(&at.dir, at.name).map_err(|e| e.on(path))? else {
            return Err(TreeError::new(TreeErrorKind::NotFound, path));
        };
        self.change(path, &[], |volume| volume.remove(at, &found))
    }

    fn rename(&mut self, from: &GuestPath, to: &GuestPath) -> Result<()> {
        let moved = self.resolve(from)?;
        match self.resolve(to) {
            Ok(there) if there.number == moved.number => return Ok(()),
            Ok(there) if there.is_dir() => return Err(TreeError::new(TreeErrorKind::Exists, to)),
            // Only a directory is never put in place of a file.
            Ok(_) if moved.is_dir() => return Err(TreeError::new(TreeErrorKind::Exists, to)),
            Ok(_) => {}
            Err(error) if error.kind() == TreeErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if to.strip_prefix(from).is_some() {
            return Err(TreeError::new(TreeErrorKind::BadName, to)
                .detail("a directory cannot be moved below itself"));
        }
        let (source, target) = (self.named(from)?, self.named(to)?);
        let replaced = self
            .volume
            .find(&target.dir, target.name)
            .map_err(|e| e.on(to))?;
        let other = (target.dir.number != source.dir.number).then_some(target.dir);
        self.change(from, &[], |volume| {
            volume.rename(source, (other, target.name), moved.number, replaced)
        })
    }

    fn set_owner(&mut self, path: &GuestPath, mode: u16, uid: u32, gid: u32) -> Result<()> {
        let inode = self.resolve(path)?;
        self.change_inode(path, inode, &[], |_, inode| {
            inode.set_mode(inode.mode() & 0xF000 | mode & 0o7777);
            inode.set_owner(uid, gid);
            Ok(())
        })
    }

    fn set_xattr(&mut self, path: &GuestPath, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        let inode = self.resolve(path)?;
        self.change_inode(path, inode, &[], |volume, inode| {
            volume.set_xattr(inode, name, value)
        })
    }

    fn sync(&mut self) -> Result<()> {
        Ok(self.volume.disk.flush()?)
    }
}
