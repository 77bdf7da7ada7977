//! [`ExtTree`]: the files of an ext2, ext3 or ext4 file system.

use block_io::{BlockRead, BlockWrite, Overlay};

use super::format::feature;
use super::inode::{Inode, ROOT_INODE};
use super::volume::{Volume, corrupt, unsupported};
use crate::path::GuestPath;
use crate::tree::{
    Attributes, DirEntry, FileKind, FileTree, Result, Space, Stat, TreeError, TreeErrorKind, Xattr,
};

/// What to do about a journal that was not replayed, when a file system is opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Replay it, and finish deletions that were under way, as the kernel would when mounting.
    Replay,
    /// Refuse with [`TreeErrorKind::Dirty`].
    Refuse,
}

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
    fn refuse(&self, path: &GuestPath) -> Result<()> {
        let kind = self.closed.unwrap_or(TreeErrorKind::Unsupported);
        Err(TreeError::new(kind, path).detail(self.why_closed.clone()))
    }
}

/// Read superblock and features, and replay a dirty journal.
fn open_volume<D: BlockWrite>(disk: D) -> Result<Volume<D>> {
    let mut volume = Volume::open(disk)?;
    refuse_unknown(&volume)?;
    if volume.sb.has_incompat(feature::RECOVER) {
        volume.replay_journal()?;
        refuse_unknown(&volume)?;
    }
    Ok(volume)
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

    fn write_file(&mut self, path: &GuestPath, _contents: &[u8], _new: Attributes) -> Result<()> {
        self.refuse(path)
    }

    fn write_at(&mut self, path: &GuestPath, _offset: u64, _data: &[u8]) -> Result<()> {
        self.refuse(path)
    }

    fn truncate(&mut self, path: &GuestPath, _size: u64) -> Result<()> {
        self.refuse(path)
    }

    fn create_dir(&mut self, path: &GuestPath, _new: Attributes) -> Result<()> {
        self.refuse(path)
    }

    fn create_symlink(&mut self, path: &GuestPath, _target: &[u8], _new: Attributes) -> Result<()> {
        self.refuse(path)
    }

    fn remove(&mut self, path: &GuestPath) -> Result<()> {
        self.refuse(path)
    }

    fn rename(&mut self, from: &GuestPath, _to: &GuestPath) -> Result<()> {
        self.refuse(from)
    }

    fn set_owner(&mut self, path: &GuestPath, _mode: u16, _uid: u32, _gid: u32) -> Result<()> {
        self.refuse(path)
    }

    fn set_xattr(&mut self, path: &GuestPath, _name: &[u8], _value: Option<&[u8]>) -> Result<()> {
        self.refuse(path)
    }

    fn sync(&mut self) -> Result<()> {
        Ok(self.volume.disk.flush()?)
    }
}
