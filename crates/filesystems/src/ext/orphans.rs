//! Deletions and truncations that were under way when the machine stopped: finished here as the
//! kernel would when mounting. // [ext4 disk layout] Orphan file

use block_io::BlockWrite;

use super::checksum::crc32c;
use super::feature;
use super::inode::Inode;
use super::volume::{Volume, corrupt};
use crate::bytes::{le32, put_le32, slice};
use crate::tree::{FileKind, Result};

/// What ends every block of the orphan file.
const ORPHAN_MAGIC: u32 = 0x0B10_CA04;

impl<D: BlockWrite> Volume<D> {
    /// Finish what the list of orphans and the orphan file name, and empty both.
    pub(crate) fn finish_orphans(&mut self) -> Result<()> {
        let mut number = self.sb.last_orphan();
        let mut left = self.sb.inodes;
        while number != 0 {
            if left == 0 {
                return Err(corrupt(
                    "list of orphan inodes: expected an end, found a circle",
                ));
            }
            left -= 1;
            self.begin();
            let mut inode = self.inode(number)?;
            let next = inode.dtime();
            self.finish_orphan(&mut inode)?;
            self.sb.set_last_orphan(next);
            self.commit(&[])?;
            number = next;
        }
        if self.sb.has_ro_compat(feature::ORPHAN_PRESENT) {
            self.finish_orphan_file()?;
        }
        Ok(())
    }

    /// Put the right checksums into an orphan file that moved: they cover where its blocks lie and
    /// which inode it is.
    pub(crate) fn seal_orphan_file(&mut self) -> Result<()> {
        if !self.sb.has_compat(feature::ORPHAN_FILE) || !self.sb.has_metadata_csum() {
            return Ok(());
        }
        let file = self.live_inode(self.sb.orphan_file_inode())?;
        let tail = self.block_size() - 8;
        for logical in 0..(file.size() / self.sb.block_size).min(self.sb.blocks) {
            let whose = format!("orphan file, block {logical}");
            let Some(place) = self.run(&file, logical)?.physical else {
                return Err(corrupt(format!("{whose}: expected a block, found a hole")));
            };
            let block = self.block(place, &whose)?;
            let sum = crc32c(file.seed(self.sb.seed), &place.to_le_bytes());
            let sum = crc32c(sum, slice(&block, 0, tail));
            let block = self.edit_block(place, &whose)?;
            put_le32(block, tail + 4, sum);
        }
        Ok(())
    }

    fn finish_orphan(&mut self, inode: &mut Inode) -> Result<()> {
        if inode.number < self.sb.first_inode() || inode.kind().is_none() {
            return Err(corrupt(format!(
                "orphan inode {}: expected a file, found mode {:#06x}",
                inode.number,
                inode.mode()
            )));
        }
        if inode.links() == 0 {
            return self.delete_inode(inode);
        }
        inode.set_dtime(0);
        if inode.kind() == Some(FileKind::File) {
            let size = inode.size();
            self.cut_beyond(inode, size)?;
        }
        self.put_inode(inode)
    }

    fn finish_orphan_file(&mut self) -> Result<()> {
        let file = self.live_inode(self.sb.orphan_file_inode())?;
        let blocks = (file.size() / self.sb.block_size).min(self.sb.blocks);
        let tail = self.block_size() - 8;
        for logical in 0..blocks {
            let whose = format!("orphan file, block {logical}");
            let Some(place) = self.run(&file, logical)?.physical else {
                return Err(corrupt(format!("{whose}: expected a block, found a hole")));
            };
            let block = self.block(place, &whose)?;
            if le32(&block, tail) != ORPHAN_MAGIC {
                return Err(corrupt(format!(
                    "{whose}: magic: expected {ORPHAN_MAGIC:#x}, found {:#x}",
                    le32(&block, tail)
                )));
            }
            let sum = |block: &[u8], volume: &Self| {
                let sum = crc32c(file.seed(volume.sb.seed), &place.to_le_bytes());
                crc32c(sum, slice(block, 0, tail))
            };
            let (expected, found) = (sum(&block, self), le32(&block, tail + 4));
            if self.sb.has_metadata_csum() && expected != found {
                return Err(corrupt(format!(
                    "{whose}: checksum: expected {expected:#010x}, found {found:#010x}"
                )));
            }
            let numbers: Vec<u32> = slice(&block, 0, tail)
                .chunks_exact(4)
                .map(|n| le32(n, 0))
                .collect();
            for number in numbers.into_iter().filter(|number| *number != 0) {
                self.begin();
                let mut inode = self.inode(number)?;
                self.finish_orphan(&mut inode)?;
                self.commit(&[])?;
            }
            self.begin();
            let mut block = block.to_vec();
            block.get_mut(..tail).unwrap_or_default().fill(0);
            if self.sb.has_metadata_csum() {
                let right = sum(&block, self);
                put_le32(&mut block, tail + 4, right);
            }
            self.put_block(place, block);
            self.commit(&[])?;
        }
        self.begin();
        self.sb
            .set_ro_compat(self.sb.ro_compat() & !feature::ORPHAN_PRESENT);
        self.commit(&[])
    }
}
