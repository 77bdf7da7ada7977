//! Making, removing and renaming files, as changes to one volume.

use block_io::BlockRead;

use super::checksum::crc32c;
use super::data_edit::LONGEST_FAST_LINK;
use super::dir::edit::NewEntry;
use super::dir::{Found, NAME_MAX};
use super::inode::{Inode, flag};
use super::volume::{Volume, corrupt, unsupported};
use crate::bytes::{put, put_le32};
use crate::tree::{Attributes, Result, TreeError, TreeErrorKind};

/// What a new name is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum New<'a> {
    File(&'a [u8]),
    Directory,
    Symlink(&'a [u8]),
}

/// A name in a directory, found or not.
pub(crate) struct Named<'a> {
    pub(crate) dir: Inode,
    pub(crate) name: &'a [u8],
}

/// Refuse to change contents that are more than bytes.
pub(crate) fn check_writable(inode: &Inode) -> Result<()> {
    for (bit, name) in [
        (flag::ENCRYPT, "encrypt"),
        (flag::VERITY, "verity"),
        (flag::EA_INODE, "ea_inode"),
    ] {
        if inode.has(bit) {
            return Err(unsupported(format!(
                "changing inode {} with feature {name}",
                inode.number
            )));
        }
    }
    Ok(())
}

impl<D: BlockRead> Volume<D> {
    /// Make a new file, directory or link called `at.name`.
    pub(crate) fn create(&mut self, mut at: Named, new: New, attributes: Attributes) -> Result<()> {
        self.check_editable(&at.dir)?;
        check_writable(&at.dir)?;
        if at.name.len() > NAME_MAX {
            return Err(TreeError::of(
                TreeErrorKind::BadName,
                "names have 1 to 255 bytes",
            ));
        }
        let (kind, is_dir) = match new {
            New::File(_) => (0x8000, false),
            New::Directory => (0x4000, true),
            New::Symlink(_) => (0xA000, false),
        };
        let number = self.allocate_inode(at.dir.number, is_dir)?;
        let extra = self.sb.want_extra_isize();
        let mut inode = Inode::fresh(number, self.sb.inode_size, extra, kind, attributes);
        let generation = crc32c(number, &attributes.mtime.to_le_bytes());
        put_le32(&mut inode.raw, 0x64, generation);
        inode.set_links(if is_dir { 2 } else { 1 });
        if !matches!(new, New::Symlink(_)) {
            inode.set_flags(at.dir.flags() & flag::INHERITED);
        }
        match new {
            New::File(contents) => {
                self.init_map(&mut inode);
                self.write_contents(&mut inode, 0, contents)?;
            }
            New::Directory => {
                self.init_map(&mut inode);
                self.init_dir(&mut inode, at.dir.number)?;
                self.count_child(&mut at.dir, 1)?;
            }
            New::Symlink(target) => self.fill_link(&mut inode, target)?,
        }
        self.put_inode(&mut inode)?;
        let entry = NewEntry {
            name: at.name,
            inode: number,
            file_type: self.type_byte(&inode),
        };
        self.add_entry(&mut at.dir, entry)?;
        at.dir.touch(attributes.mtime);
        self.put_inode(&mut at.dir)
    }

    fn fill_link(&mut self, inode: &mut Inode, target: &[u8]) -> Result<()> {
        if target.is_empty() || target.contains(&0) || target.len() >= self.block_size().min(4096) {
            return Err(TreeError::of(
                TreeErrorKind::BadName,
                "link targets have 1 to 4095 bytes, fewer than a block, and no NUL",
            ));
        }
        if target.len() <= LONGEST_FAST_LINK {
            let mut block = [0; 60];
            put(&mut block, 0, target);
            inode.set_block(&block);
            inode.set_size(target.len() as u64);
            return Ok(());
        }
        self.init_map(inode);
        self.write_contents(inode, 0, target)
    }

    /// Remove a name, and its inode with it when it was the last one.
    pub(crate) fn remove(&mut self, mut at: Named, found: &Found) -> Result<()> {
        self.check_editable(&at.dir)?;
        let inode = self.live_inode(found.inode)?;
        let is_dir = inode.is_dir();
        if is_dir && !self.is_empty_dir(&inode)? {
            return Err(TreeError::of(
                TreeErrorKind::NotEmpty,
                "it still holds names",
            ));
        }
        self.change_entry(&mut at.dir, found, None)?;
        if is_dir {
            self.count_child(&mut at.dir, -1)?;
        }
        self.put_inode(&mut at.dir)?;
        self.drop_name(inode)
    }

    /// One name less for `inode`.
    fn drop_name(&mut self, mut inode: Inode) -> Result<()> {
        if inode.number < self.sb.first_inode() {
            return Err(corrupt(format!(
                "inode {}: expected a file of a user, found one of the file system",
                inode.number
            )));
        }
        let links = if inode.is_dir() { 0 } else { inode.links() - 1 };
        inode.set_links(links);
        if links > 0 {
            return self.put_inode(&mut inode);
        }
        self.delete_inode(&mut inode)
    }

    /// Free an inode that has no names, and all it owns.
    pub(crate) fn delete_inode(&mut self, inode: &mut Inode) -> Result<()> {
        super::xattr::refuse_value_inodes(inode, &self.body_entries(inode)?)?;
        self.drop_contents(inode)?;
        self.drop_xattr_block(inode)?;
        inode.set_size(0);
        inode.set_links(0);
        inode.set_dtime(self.clock as u32);
        self.put_inode(inode)?;
        self.free_inode(inode.number, inode.is_dir())
    }

    /// Give `moved`, called `from.name`, the name `to.name`, in place of `replaced` if that is there.
    /// `to` is `None` within one directory.
    pub(crate) fn rename(
        &mut self,
        mut from: Named,
        to: (Option<Inode>, &[u8]),
        moved: u32,
        replaced: Option<Found>,
    ) -> Result<()> {
        let (mut to_dir, to_name) = to;
        let mut moved = self.live_inode(moved)?;
        self.check_editable(&from.dir)?;
        let file_type = self.type_byte(&moved);
        let target = to_dir.as_mut().unwrap_or(&mut from.dir);
        self.check_editable(target)?;
        match &replaced {
            Some(found) => {
                self.change_entry(target, found, Some((moved.number, file_type)))?;
            }
            None => {
                let entry = NewEntry {
                    name: to_name,
                    inode: moved.number,
                    file_type,
                };
                self.add_entry(target, entry)?;
            }
        }
        // The new name may have moved the old one to another block.
        let Some(old) = self.find(&from.dir, from.name)? else {
            return Err(corrupt(format!(
                "directory inode {}: expected the old name, found none",
                from.dir.number
            )));
        };
        self.change_entry(&mut from.dir, &old, None)?;
        if let Some(to_dir) = &mut to_dir {
            if moved.is_dir() {
                self.set_parent(&mut moved, to_dir.number)?;
                self.put_inode(&mut moved)?;
                self.count_child(&mut from.dir, -1)?;
                self.count_child(to_dir, 1)?;
            }
            self.put_inode(to_dir)?;
        }
        self.put_inode(&mut from.dir)?;
        match replaced {
            Some(found) => {
                let gone = self.live_inode(found.inode)?;
                self.drop_name(gone)
            }
            None => Ok(()),
        }
    }
}
