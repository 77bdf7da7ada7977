//! [`XfsTree`]: the files of an XFS file system, for reading.

use block_io::BlockRead;

use super::format::{ForkFormat, Inode};
use super::log::{LogState, log_state};
use super::volume::{REMOTE, Volume, corrupt};
use crate::bytes::slice;
use crate::path::GuestPath;
use crate::tree::{
    DirEntry, FileKind, FileTree, Result, Space, Stat, TreeError, TreeErrorKind, Xattr,
};

/// Longest target of a symbolic link. // XFS_SYMLINK_MAXLEN
const MOST_TARGET: u64 = 1024;

/// Most names of one directory that are listed: a hostile one may name one block many times.
const MOST_NAMES: usize = 4 << 20;

/// The files of an XFS file system on `D`, for reading: changes are refused with
/// [`TreeErrorKind::Unsupported`].
pub struct XfsTree<D> {
    volume: Volume<D>,
}

impl<D> std::fmt::Debug for XfsTree<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XfsTree")
            .field("superblock", &self.volume.sb)
            .finish_non_exhaustive()
    }
}

impl<D: BlockRead> XfsTree<D> {
    /// Open for reading.
    ///
    /// # Errors
    /// `Dirty` when its log holds changes that are not in their places; `Unsupported` with the name of
    /// a feature; `Corrupt` with position, expected and found.
    pub fn open(disk: D) -> Result<Self> {
        let tree = Self::open_ignoring_log(disk)?;
        match log_state(&tree.volume.disk, &tree.volume.sb)? {
            LogState::Clean => Ok(tree),
            LogState::Dirty(why) => Err(TreeError::of(
                TreeErrorKind::Dirty,
                format!("{why}; unmount it cleanly on the source"),
            )),
        }
    }

    /// Open for reading whatever the log holds: files are seen as they last were in their places, and
    /// what was changed since the log was last written back may be missing or contradict itself.
    ///
    /// # Errors
    /// As [`XfsTree::open`], but never `Dirty`.
    pub fn open_ignoring_log(disk: D) -> Result<Self> {
        Ok(Self {
            volume: Volume::open(disk)?,
        })
    }

    fn look_up(&self, path: &GuestPath) -> Result<Inode> {
        let mut inode = self
            .volume
            .inode(self.volume.sb.root)
            .map_err(|e| e.on(path))?;
        for name in path.components() {
            match kind_of(&inode) {
                FileKind::Directory => {}
                FileKind::Symlink => return Err(TreeError::new(TreeErrorKind::IsSymlink, path)),
                _ => return Err(TreeError::new(TreeErrorKind::NotADirectory, path)),
            }
            let mut found = None;
            let mut see = |entry: &super::dir::Name| {
                found = (entry.name == name).then_some(entry.inode);
                found.is_none()
            };
            self.volume
                .names(&inode, &mut see)
                .map_err(|e| e.on(path))?;
            let Some(number) = found else {
                return Err(TreeError::new(TreeErrorKind::NotFound, path));
            };
            inode = self.volume.inode(number).map_err(|e| e.on(path))?;
        }
        Ok(inode)
    }

    fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let fork = inode.data_fork();
        if inode.size() > MOST_TARGET {
            return Err(corrupt(format!(
                "inode {}: link target of {} bytes",
                inode.number,
                inode.size()
            )));
        }
        let size = inode.size() as usize;
        let mut target = Vec::with_capacity(size);
        if fork.format == ForkFormat::Local {
            target.extend_from_slice(slice(fork.bytes, 0, size));
        } else {
            let extents = self.volume.extents(&fork)?;
            let blocks = extents
                .iter()
                .flat_map(|e| (0..e.count.min(4)).map(|n| e.start + n));
            for block in blocks.take(4) {
                if target.len() >= size {
                    break;
                }
                let raw = self.volume.block(block, REMOTE, inode.number)?;
                // xfs_dsymlink_hdr has 56 bytes.
                let from = if self.volume.sb.is_v5 { 56 } else { 0 };
                let len = (size - target.len()).min(raw.len() - from);
                target.extend_from_slice(slice(&raw, from, len));
            }
        }
        if target.len() != size || target.contains(&0) {
            return Err(corrupt(format!(
                "inode {}: link target is not whole",
                inode.number
            )));
        }
        Ok(target)
    }
}

fn kind_of(inode: &Inode) -> FileKind {
    match inode.mode() & 0xF000 {
        0x8000 => FileKind::File,
        0x4000 => FileKind::Directory,
        0xA000 => FileKind::Symlink,
        _ => FileKind::Special,
    }
}

impl<D: BlockRead> FileTree for XfsTree<D> {
    fn stat(&self, path: &GuestPath) -> Result<Stat> {
        let inode = self.look_up(path)?;
        Ok(Stat {
            kind: kind_of(&inode),
            size: inode.size(),
            mode: inode.mode() & 0o7777,
            uid: inode.uid(),
            gid: inode.gid(),
            mtime: inode.mtime(),
            inode: inode.number,
            links: inode.links(),
        })
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>> {
        let inode = self.look_up(path)?;
        if kind_of(&inode) != FileKind::Directory {
            return Err(TreeError::new(TreeErrorKind::NotADirectory, path));
        }
        let mut entries = Vec::new();
        let mut unknown = Vec::new();
        let mut see = |entry: &super::dir::Name| {
            if entry.kind.is_none() {
                unknown.push(entries.len());
            }
            entries.push(DirEntry {
                name: entry.name.to_vec(),
                kind: entry.kind.unwrap_or(FileKind::Special),
                inode: entry.inode,
            });
            entries.len() <= MOST_NAMES
        };
        self.volume
            .names(&inode, &mut see)
            .map_err(|e| e.on(path))?;
        if entries.len() > MOST_NAMES {
            return Err(TreeError::new(TreeErrorKind::TooLarge, path)
                .detail(format!("more than {MOST_NAMES} names")));
        }
        for index in unknown {
            if let Some(entry) = entries.get_mut(index) {
                entry.kind = kind_of(&self.volume.inode(entry.inode).map_err(|e| e.on(path))?);
            }
        }
        Ok(entries)
    }

    fn read_at(&self, path: &GuestPath, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inode = self.look_up(path)?;
        if kind_of(&inode) != FileKind::File {
            return Err(TreeError::new(TreeErrorKind::NotAFile, path));
        }
        let len = (buf.len() as u64).min(inode.size().saturating_sub(offset)) as usize;
        let Some(buf) = buf.get_mut(..len).filter(|buf| !buf.is_empty()) else {
            return Ok(0);
        };
        let extents = self.volume.mapped(&inode).map_err(|e| e.on(path))?;
        let read = self.volume.read_mapped(&extents, inode.number, offset, buf);
        read.map_err(|e| e.on(path))?;
        Ok(len)
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>> {
        let inode = self.look_up(path)?;
        if kind_of(&inode) != FileKind::Symlink {
            return Err(TreeError::new(TreeErrorKind::NotASymlink, path));
        }
        self.target(&inode).map_err(|e| e.on(path))
    }

    fn xattrs(&self, path: &GuestPath) -> Result<Vec<Xattr>> {
        let inode = self.look_up(path)?;
        self.volume.attributes(&inode).map_err(|e| e.on(path))
    }

    fn space(&self) -> Result<Space> {
        let sb = &self.volume.sb;
        let free = sb.free_blocks.min(sb.blocks) * sb.block_size;
        Ok(Space {
            total: sb.blocks * sb.block_size,
            free,
            // Inodes are made as they are needed.
            free_inodes: sb.free_inodes.saturating_add(free / sb.inode_size as u64),
        })
    }

    crate::tree::refuse_writing!("writing XFS");
}
