//! Extended attributes: setting and removing.

use block_io::BlockRead;

use super::feature;
use super::inode::Inode;
use super::volume::{Volume, unsupported};
use super::xattr::{self, Entry, XATTR_MAGIC};
use crate::bytes::{le32, put_le32};
use crate::tree::{Result, TreeError, TreeErrorKind};

/// Longest value Linux takes (XATTR_SIZE_MAX), and longest name.
const MOST_VALUE: usize = 65_536;
const MOST_NAME: usize = 255;

impl<D: BlockRead> Volume<D> {
    /// Lay these attributes out inside the inode, in place of those there.
    pub(crate) fn put_body_entries(&self, inode: &mut Inode, entries: &[Entry]) -> Result<()> {
        let full = || {
            TreeError::of(
                TreeErrorKind::NoSpace,
                "no room for attributes in the inode",
            )
        };
        let Some(at) = self.body_region(inode) else {
            return if entries.is_empty() {
                Ok(())
            } else {
                Err(full())
            };
        };
        let magic = if entries.is_empty() { 0 } else { XATTR_MAGIC };
        let region = inode.raw.get_mut(at..).unwrap_or_default();
        xattr::lay_out(region, 0, entries, false).ok_or_else(full)?;
        put_le32(&mut inode.raw, at - 4, magic);
        Ok(())
    }

    /// Set attribute `name` of a file, or remove it.
    pub(crate) fn set_xattr(
        &mut self,
        inode: &mut Inode,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        let Some(new) = Entry::new(name, value.unwrap_or_default()) else {
            return Err(unsupported(
                "attributes other than user., trusted., security. and system.",
            ));
        };
        if new.is_inline_data() || new.name.len() > MOST_NAME {
            return Err(TreeError::of(
                TreeErrorKind::BadName,
                "an attribute cannot have this name",
            ));
        }
        if new.value.len() > MOST_VALUE {
            return Err(TreeError::of(
                TreeErrorKind::TooLarge,
                "an attribute cannot be that long",
            ));
        }
        let mut body = self.body_entries(inode)?;
        let (mut block, _) = self.block_entries(inode)?;
        xattr::refuse_value_inodes(inode, &body)?;
        xattr::refuse_value_inodes(inode, &block)?;
        let before = block.clone();
        body.retain(|entry| !entry.same_name(&new));
        block.retain(|entry| !entry.same_name(&new));
        if value.is_some() {
            // As Linux does with the first attribute of a file system.
            self.sb.set_compat(feature::EXT_ATTR);
            body.push(new.clone());
            let mut probe = inode.clone();
            if self.put_body_entries(&mut probe, &body).is_err() {
                body.pop();
                block.push(new);
            }
        }
        self.put_body_entries(inode, &body)?;
        if block != before {
            self.put_block_entries(inode, block)?;
        }
        Ok(())
    }

    fn put_block_entries(&mut self, inode: &mut Inode, entries: Vec<Entry>) -> Result<()> {
        let size = self.block_size();
        let Some(mut block) = xattr::build_block(size, entries.clone(), 1) else {
            return Err(TreeError::of(
                TreeErrorKind::NoSpace,
                "no room for attributes in their block",
            ));
        };
        let (_, shared) = self.block_entries(inode)?;
        if entries.is_empty() || shared > 1 {
            self.drop_xattr_block(inode)?;
        }
        if entries.is_empty() {
            return Ok(());
        }
        if inode.xattr_block() == 0 {
            let (place, _) = self.allocate(self.goal_of(inode.number), 1)?;
            self.charge(inode, 1);
            inode.set_xattr_block(place);
        }
        let place = inode.xattr_block();
        self.seal_xattr_block(place, &mut block);
        self.put_block(place, block);
        Ok(())
    }

    fn seal_xattr_block(&self, place: u64, block: &mut [u8]) {
        if self.sb.has_metadata_csum() {
            let sum = xattr::block_checksum(self.sb.seed, place, block);
            put_le32(block, 16, sum);
        }
    }

    /// Let go of a file's attribute block: freed, unless other files share it.
    pub(crate) fn drop_xattr_block(&mut self, inode: &mut Inode) -> Result<()> {
        let place = inode.xattr_block();
        if place == 0 {
            return Ok(());
        }
        let (entries, shared) = self.block_entries(inode)?;
        xattr::refuse_value_inodes(inode, &entries)?;
        if shared > 1 {
            let mut block = self.block(place, "attribute block")?.to_vec();
            let count = le32(&block, 4) - 1;
            put_le32(&mut block, 4, count);
            self.seal_xattr_block(place, &mut block);
            self.put_block(place, block);
        } else {
            self.free(place, 1)?;
        }
        inode.set_xattr_block(0);
        self.charge(inode, -1);
        Ok(())
    }
}
