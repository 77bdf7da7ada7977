//! Contents of files, wherever they lie: extents, block maps, inside the inode.

use block_io::BlockRead;

use super::extents::Run;
use super::inode::{Inode, flag};
use super::volume::{Volume, corrupt, unsupported};
use crate::tree::Result;

impl<D: BlockRead> Volume<D> {
    /// Where block `logical` of `inode` lies.
    pub(crate) fn run(&self, inode: &Inode, logical: u64) -> Result<Run> {
        if inode.has(flag::EXTENTS) {
            self.extent_run(inode, logical)
        } else {
            self.mapped_run(inode, logical)
        }
    }

    /// Bytes of a file's contents at `offset`, as many as there are up to `buf.len()`.
    pub(crate) fn read_contents(
        &self,
        inode: &Inode,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize> {
        if inode.has(flag::ENCRYPT) {
            return Err(unsupported(format!(
                "inode {} is encrypted (fscrypt, feature encrypt)",
                inode.number
            )));
        }
        let left = inode.size().saturating_sub(offset);
        let want = left.min(buf.len() as u64) as usize;
        let Some(buf) = buf.get_mut(..want) else {
            return Ok(0);
        };
        if inode.has(flag::INLINE_DATA) {
            let data = self.inline_contents(inode)?;
            let Some(data) = data.get(offset as usize..offset as usize + want) else {
                return Err(corrupt(format!(
                    "inode {}: inline data: expected {} bytes, found {}",
                    inode.number,
                    inode.size(),
                    data.len()
                )));
            };
            buf.copy_from_slice(data);
            return Ok(want);
        }
        let size = self.sb.block_size;
        let mut done = 0;
        while done < want {
            let at = offset + done as u64;
            let run = self.run(inode, at / size)?;
            let inside = at % size;
            let len = (run.len.saturating_mul(size) - inside).min((want - done) as u64) as usize;
            let part = buf.get_mut(done..done + len).unwrap_or_default();
            match run.physical.filter(|_| !run.unwritten) {
                Some(block) => self.disk.read_at(block * size + inside, part)?,
                None => part.fill(0),
            }
            done += len;
        }
        Ok(want)
    }

    /// All contents of a small file (a link's target, a directory kept inline), at most `most`.
    pub(crate) fn small_contents(&self, inode: &Inode, most: u64) -> Result<Vec<u8>> {
        if inode.size() > most {
            return Err(corrupt(format!(
                "inode {}: size: expected at most {most}, found {}",
                inode.number,
                inode.size()
            )));
        }
        let mut contents = vec![0; inode.size() as usize];
        let n = self.read_contents(inode, 0, &mut contents)?;
        contents.truncate(n);
        Ok(contents)
    }

    /// The target of a symbolic link: in the inode when short, else in a block.
    pub(crate) fn link_target(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.has(flag::ENCRYPT) {
            return Err(unsupported(format!(
                "inode {} is encrypted (fscrypt, feature encrypt)",
                inode.number
            )));
        }
        let in_inode = !inode.has(flag::INLINE_DATA | flag::EXTENTS)
            && inode.size() < 60
            && inode.blocks_field() <= self.xattr_units(inode);
        let target = if in_inode {
            inode
                .block()
                .get(..inode.size() as usize)
                .unwrap_or_default()
                .to_vec()
        } else {
            self.small_contents(inode, self.sb.block_size)?
        };
        match target.contains(&0) || target.is_empty() {
            true => Err(corrupt(format!(
                "inode {}: link target: expected {} bytes without NUL, found {} before it",
                inode.number,
                inode.size(),
                target.iter().position(|b| *b == 0).unwrap_or(0)
            ))),
            false => Ok(target),
        }
    }

    /// What the attribute block adds to i_blocks.
    pub(crate) fn xattr_units(&self, inode: &Inode) -> u64 {
        match inode.xattr_block() {
            0 => 0,
            _ if inode.has(flag::HUGE_FILE) => 1,
            _ => self.sb.block_size / 512 * self.sb.cluster_ratio,
        }
    }
}
