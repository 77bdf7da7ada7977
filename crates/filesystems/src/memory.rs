//! A file system in memory, for tests and for planning against a guest that has no disk.

use std::collections::BTreeMap;

use crate::path::GuestPath;
use crate::tree::{
    Attributes, DirEntry, FileKind, FileTree, Result, Space, Stat, TreeError, TreeErrorKind, Xattr,
};

/// Longest name a directory takes, as Linux has it.
const NAME_MAX: usize = 255;

/// The files of a file system that lives in memory.
#[derive(Debug, Clone)]
pub struct MemoryTree {
    nodes: BTreeMap<u64, Node>,
    next_inode: u64,
    capacity: u64,
    inodes: u64,
}

#[derive(Debug, Clone)]
struct Node {
    body: Body,
    attributes: Attributes,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, u64>),
    Symlink(Vec<u8>),
    Special,
}

/// Number of the root directory.
const ROOT: u64 = 2;

impl Default for MemoryTree {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryTree {
    /// An empty file system of 1 GiB.
    #[must_use]
    pub fn new() -> Self {
        let root = Node {
            body: Body::Directory(BTreeMap::new()),
            attributes: Attributes::root_owned(0o755, 0),
            xattrs: BTreeMap::new(),
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next_inode: ROOT + 1,
            capacity: 1 << 30,
            inodes: 1 << 16,
        }
    }

    /// The same file system with room for `capacity` bytes of file contents.
    #[must_use]
    pub fn with_capacity(mut self, capacity: u64) -> Self {
        self.capacity = capacity;
        self
    }

    /// Put a file, making the directories above it.
    ///
    /// # Errors
    /// As [`FileTree::write_file`].
    pub fn add_file(&mut self, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = GuestPath::new(path);
        self.add_parents(&path)?;
        self.write_file(&path, contents.as_ref(), Attributes::root_owned(0o644, 0))
    }

    /// Put a symbolic link, making the directories above it.
    ///
    /// # Errors
    /// As [`FileTree::create_symlink`].
    pub fn add_symlink(&mut self, path: &str, target: impl AsRef<[u8]>) -> Result<()> {
        let path = GuestPath::new(path);
        self.add_parents(&path)?;
        self.create_symlink(&path, target.as_ref(), Attributes::root_owned(0o777, 0))
    }

    /// Put an empty directory, making the directories above it.
    ///
    /// # Errors
    /// As [`FileTree::create_dir`].
    pub fn add_dir(&mut self, path: &str) -> Result<()> {
        let path = GuestPath::new(path);
        self.add_parents(&path)?;
        if self.stat(&path).is_ok() {
            return Ok(());
        }
        self.create_dir(&path, Attributes::root_owned(0o755, 0))
    }

    /// Put a device node (which one does not matter here), making the directories above it.
    ///
    /// # Errors
    /// `Exists` when the name is taken.
    pub fn add_special(&mut self, path: &str) -> Result<()> {
        let path = GuestPath::new(path);
        self.add_parents(&path)?;
        self.insert(&path, Body::Special, Attributes::root_owned(0o600, 0))
    }

    fn add_parents(&mut self, path: &GuestPath) -> Result<()> {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(dir) = above {
            if self.stat(&dir).is_ok() {
                break;
            }
            above = dir.parent();
            missing.push(dir);
        }
        for dir in missing.iter().rev() {
            self.create_dir(dir, Attributes::root_owned(0o755, 0))?;
        }
        Ok(())
    }

    fn lookup(&self, path: &GuestPath) -> Result<u64> {
        let mut inode = ROOT;
        for name in path.components() {
            inode = match self.nodes.get(&inode).map(|node| &node.body) {
                Some(Body::Directory(names)) => *names
                    .get(name)
                    .ok_or_else(|| TreeError::new(TreeErrorKind::NotFound, path))?,
                Some(Body::Symlink(_)) => {
                    return Err(TreeError::new(TreeErrorKind::IsSymlink, path));
                }
                _ => return Err(TreeError::new(TreeErrorKind::NotADirectory, path)),
            };
        }
        Ok(inode)
    }

    fn node(&self, path: &GuestPath) -> Result<(u64, &Node)> {
        let inode = self.lookup(path)?;
        let node = self.nodes.get(&inode);
        node.map(|node| (inode, node))
            .ok_or_else(|| TreeError::new(TreeErrorKind::NotFound, path))
    }

    fn node_mut(&mut self, path: &GuestPath) -> Result<&mut Node> {
        let inode = self.lookup(path)?;
        let node = self.nodes.get_mut(&inode);
        node.ok_or_else(|| TreeError::new(TreeErrorKind::NotFound, path))
    }

    fn names_mut(&mut self, dir: &GuestPath) -> Result<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.node_mut(dir)?.body {
            Body::Directory(names) => Ok(names),
            _ => Err(TreeError::new(TreeErrorKind::NotADirectory, dir)),
        }
    }

    fn contents(&self, path: &GuestPath) -> Result<&Vec<u8>> {
        match &self.node(path)?.1.body {
            Body::File(contents) => Ok(contents),
            Body::Symlink(_) => Err(TreeError::new(TreeErrorKind::IsSymlink, path)),
            _ => Err(TreeError::new(TreeErrorKind::NotAFile, path)),
        }
    }

    fn contents_mut(&mut self, path: &GuestPath) -> Result<&mut Vec<u8>> {
        match &mut self.node_mut(path)?.body {
            Body::File(contents) => Ok(contents),
            Body::Symlink(_) => Err(TreeError::new(TreeErrorKind::IsSymlink, path)),
            _ => Err(TreeError::new(TreeErrorKind::NotAFile, path)),
        }
    }

    fn insert(&mut self, path: &GuestPath, body: Body, attributes: Attributes) -> Result<()> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(TreeError::new(TreeErrorKind::Exists, path));
        };
        if name.len() > NAME_MAX || name.contains(&0) {
            return Err(TreeError::new(TreeErrorKind::BadName, path));
        }
        if self.nodes.len() as u64 >= self.inodes {
            return Err(TreeError::new(TreeErrorKind::NoSpace, path));
        }
        let inode = self.next_inode;
        let names = self.names_mut(&dir)?;
        if names.contains_key(name) {
            return Err(TreeError::new(TreeErrorKind::Exists, path));
        }
        names.insert(name.to_vec(), inode);
        self.next_inode += 1;
        let node = Node {
            body,
            attributes,
            xattrs: BTreeMap::new(),
        };
        self.nodes.insert(inode, node);
        Ok(())
    }

    fn used(&self) -> u64 {
        let length = |node: &Node| match &node.body {
            Body::File(contents) => contents.len() as u64,
            _ => 0,
        };
        self.nodes.values().map(length).sum()
    }

    /// Refuse what would not fit when a file of `before` bytes becomes one of `after`.
    fn make_room(&self, path: &GuestPath, before: u64, after: u64) -> Result<()> {
        let would_use = (self.used() - before).saturating_add(after);
        if would_use > self.capacity {
            return Err(TreeError::new(TreeErrorKind::NoSpace, path));
        }
        Ok(())
    }
}

impl FileTree for MemoryTree {
    fn stat(&self, path: &GuestPath) -> Result<Stat> {
        let (inode, node) = self.node(path)?;
        let (kind, size) = match &node.body {
            Body::File(contents) => (FileKind::File, contents.len() as u64),
            Body::Directory(_) => (FileKind::Directory, 4096),
            Body::Symlink(target) => (FileKind::Symlink, target.len() as u64),
            Body::Special => (FileKind::Special, 0),
        };
        Ok(Stat {
            kind,
            size,
            mode: node.attributes.mode,
            uid: node.attributes.uid,
            gid: node.attributes.gid,
            mtime: node.attributes.mtime,
            inode,
            links: 1,
        })
    }

    fn read_dir(&self, path: &GuestPath) -> Result<Vec<DirEntry>> {
        let Body::Directory(names) = &self.node(path)?.1.body else {
            return Err(TreeError::new(TreeErrorKind::NotADirectory, path));
        };
        let entry = |(name, inode): (&Vec<u8>, &u64)| DirEntry {
            name: name.clone(),
            kind: match self.nodes.get(inode).map(|node| &node.body) {
                Some(Body::File(_)) => FileKind::File,
                Some(Body::Directory(_)) => FileKind::Directory,
                Some(Body::Symlink(_)) => FileKind::Symlink,
                Some(Body::Special) | None => FileKind::Special,
            },
            inode: *inode,
        };
        Ok(names.iter().map(entry).collect())
    }

    fn read_at(&self, path: &GuestPath, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let contents = self.contents(path)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = contents.get(start..).unwrap_or_default();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn read_link(&self, path: &GuestPath) -> Result<Vec<u8>> {
        match &self.node(path)?.1.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(TreeError::new(TreeErrorKind::NotASymlink, path)),
        }
    }

    fn xattrs(&self, path: &GuestPath) -> Result<Vec<Xattr>> {
        let pair = |(name, value): (&Vec<u8>, &Vec<u8>)| Xattr {
            name: name.clone(),
            value: value.clone(),
        };
        Ok(self.node(path)?.1.xattrs.iter().map(pair).collect())
    }

    fn space(&self) -> Result<Space> {
        Ok(Space {
            total: self.capacity,
            free: self.capacity.saturating_sub(self.used()),
            free_inodes: self.inodes.saturating_sub(self.nodes.len() as u64),
        })
    }

    fn write_file(&mut self, path: &GuestPath, contents: &[u8], new: Attributes) -> Result<()> {
        match self.contents(path) {
            Ok(before) => {
                self.make_room(path, before.len() as u64, contents.len() as u64)?;
                *self.contents_mut(path)? = contents.to_vec();
                Ok(())
            }
            Err(error) if error.kind() == TreeErrorKind::NotFound => {
                self.make_room(path, 0, contents.len() as u64)?;
                self.insert(path, Body::File(contents.to_vec()), new)
            }
            Err(error) => Err(error),
        }
    }

    fn write_at(&mut self, path: &GuestPath, offset: u64, data: &[u8]) -> Result<()> {
        let before = self.contents(path)?.len() as u64;
        let end = offset.saturating_add(data.len() as u64);
        self.make_room(path, before, before.max(end))?;
        let (start, end) = (offset as usize, end as usize);
        let contents = self.contents_mut(path)?;
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[start..end].copy_from_slice(data);
        Ok(())
    }

    fn truncate(&mut self, path: &GuestPath, size: u64) -> Result<()> {
        self.make_room(path, self.contents(path)?.len() as u64, size)?;
        self.contents_mut(path)?.resize(size as usize, 0);
        Ok(())
    }

    fn create_dir(&mut self, path: &GuestPath, new: Attributes) -> Result<()> {
        self.insert(path, Body::Directory(BTreeMap::new()), new)
    }

    fn create_symlink(&mut self, path: &GuestPath, target: &[u8], new: Attributes) -> Result<()> {
        self.insert(path, Body::Symlink(target.to_vec()), new)
    }

    fn remove(&mut self, path: &GuestPath) -> Result<()> {
        let (inode, node) = self.node(path)?;
        if matches!(&node.body, Body::Directory(names) if !names.is_empty()) {
            return Err(TreeError::new(TreeErrorKind::NotEmpty, path));
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(TreeError::new(TreeErrorKind::BadName, path));
        };
        self.names_mut(&dir)?.remove(name);
        self.nodes.remove(&inode);
        Ok(())
    }

    fn rename(&mut self, from: &GuestPath, to: &GuestPath) -> Result<()> {
        let (inode, _) = self.node(from)?;
        match self.stat(to) {
            Ok(stat) if stat.inode == inode => return Ok(()),
            Ok(stat) if stat.kind == FileKind::Directory => {
                return Err(TreeError::new(TreeErrorKind::Exists, to));
            }
            Ok(_) => self.remove(to)?,
            Err(error) if error.kind() == TreeErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // A directory cannot become its own child.
        if to.strip_prefix(from).is_some() {
            return Err(TreeError::new(TreeErrorKind::BadName, to));
        }
        let (Some(to_dir), Some(to_name)) = (to.parent(), to.file_name()) else {
            return Err(TreeError::new(TreeErrorKind::BadName, to));
        };
        self.names_mut(&to_dir)?.insert(to_name.to_vec(), inode);
        if let (Some(from_dir), Some(from_name)) = (from.parent(), from.file_name()) {
            self.names_mut(&from_dir)?.remove(from_name);
        }
        Ok(())
    }

    fn set_owner(&mut self, path: &GuestPath, mode: u16, uid: u32, gid: u32) -> Result<()> {
        let attributes = &mut self.node_mut(path)?.attributes;
        (attributes.mode, attributes.uid, attributes.gid) = (mode, uid, gid);
        Ok(())
    }

    fn set_xattr(&mut self, path: &GuestPath, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        let xattrs = &mut self.node_mut(path)?.xattrs;
        match value {
            Some(value) => xattrs.insert(name.to_vec(), value.to_vec()),
            None => xattrs.remove(name),
        };
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_inode_and_attributes_when_written_again() {
        let mut tree = MemoryTree::new();
        tree.add_file("/etc/fstab", "old").unwrap();
        let path = GuestPath::new("/etc/fstab");
        tree.set_owner(&path, 0o600, 1, 2).unwrap();
        tree.set_xattr(&path, b"security.selinux", Some(b"etc_t"))
            .unwrap();
        let before = tree.stat(&path).unwrap();
        tree.write_file(&path, b"newer", Attributes::root_owned(0o644, 9))
            .unwrap();
        let after = tree.stat(&path).unwrap();
        assert_eq!((before.inode, before.mode), (after.inode, after.mode));
        assert_eq!(tree.read_file(&path, 10).unwrap(), b"newer");
        assert_eq!(tree.xattrs(&path).unwrap()[0].value, b"etc_t");
    }

    #[test]
    fn a_full_file_system_refuses() {
        let mut tree = MemoryTree::new().with_capacity(10);
        tree.add_file("/a", "12345678").unwrap();
        let error = tree.add_file("/b", "123").unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::NoSpace);
        assert_eq!(tree.space().unwrap().free, 2);
        let error = tree.write_at(&GuestPath::new("/a"), 8, b"abc").unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::NoSpace);
    }

    #[test]
    fn a_gap_reads_as_zeroes_and_links_are_not_followed() {
        let mut tree = MemoryTree::new();
        tree.add_file("/d/a", "x").unwrap();
        tree.write_at(&GuestPath::new("/d/a"), 3, b"y").unwrap();
        let contents = tree.read_file(&GuestPath::new("/d/a"), 9).unwrap();
        assert_eq!(contents, b"x\0\0y");
        tree.add_symlink("/l", "d").unwrap();
        let error = tree.stat(&GuestPath::new("/l/a")).unwrap_err();
        assert_eq!(error.kind(), TreeErrorKind::IsSymlink);
        tree.rename(&GuestPath::new("/d/a"), &GuestPath::new("/b"))
            .unwrap();
        assert!(tree.stat(&GuestPath::new("/d/a")).is_err());
        assert!(tree.stat(&GuestPath::new("/b")).is_ok());
    }
}
