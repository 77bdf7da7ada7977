//! The journal (JBD2): finding what was committed but not yet put in place.
//! // [ext4 disk layout] Journal (jbd2)

mod format;
mod replay;

use block_io::{BlockRead, BlockWrite};

use self::format::JournalSuperblock;
use super::feature;
use super::format::Block;
use super::inode::Inode;
use super::volume::{Volume, corrupt, unsupported};
use crate::tree::Result;

/// A journal inside the file system, open.
pub(crate) struct Journal {
    inode: Inode,
    pub(crate) sb: JournalSuperblock,
}

impl Journal {
    /// Open the journal of `volume`.
    ///
    /// # Errors
    /// `Unsupported` for an external one and for features we do not know; `Corrupt`.
    pub(crate) fn open<D: BlockRead>(volume: &Volume<D>) -> Result<Self> {
        let number = volume.sb.journal_inode();
        if number == 0 {
            return Err(unsupported(
                "external journal: the log lies on another device",
            ));
        }
        let inode = volume.live_inode(number)?;
        let mut journal = Self {
            inode,
            sb: JournalSuperblock::default(),
        };
        let bytes = journal.read(volume, 0)?;
        journal.sb = JournalSuperblock::parse(&bytes, volume.sb.block_size)?;
        let blocks = journal.inode.size() / volume.sb.block_size;
        if u64::from(journal.sb.end) > blocks {
            return Err(corrupt(format!(
                "journal superblock: s_maxlen: expected at most {blocks}, found {}",
                journal.sb.end
            )));
        }
        Ok(journal)
    }

    fn place<D: BlockRead>(&self, volume: &Volume<D>, block: u32) -> Result<Block> {
        match volume.run(&self.inode, block.into())?.physical {
            Some(place) => Ok(place),
            None => Err(corrupt(format!(
                "journal block {block}: expected a block, found a hole"
            ))),
        }
    }

    /// Block `block` of the log, past the cache: logs are long and read twice at most.
    fn read<D: BlockRead>(&self, volume: &Volume<D>, block: u32) -> Result<Vec<u8>> {
        let place = self.place(volume, block)?;
        let mut bytes = vec![0; volume.block_size()];
        volume
            .disk
            .read_at(place * volume.sb.block_size, &mut bytes)?;
        Ok(bytes)
    }
}

impl<D: BlockWrite> Volume<D> {
    /// Put everything the journal committed in its place, and leave the journal empty.
    ///
    /// Everything is read and checked before the first byte is written.
    pub(crate) fn replay_journal(&mut self) -> Result<()> {
        if self.sb.has_compat(feature::HAS_JOURNAL) {
            let mut journal = Journal::open(self)?;
            let next = if journal.sb.start != 0 {
                let log = replay::scan(&journal, self)?;
                replay::check(&journal, self, &log)?;
                replay::refuse_fast_commits(&journal, self, log.next)?;
                replay::apply(&journal, self, &log)?;
                log.next.wrapping_add(1)
            } else {
                replay::refuse_fast_commits(&journal, self, journal.sb.sequence)?;
                journal.sb.sequence
            };
            let failed = journal.sb.error != 0;
            let place = journal.place(self, 0)?;
            journal.sb.set_empty(next);
            self.disk
                .write_at(place * self.sb.block_size, &journal.sb.raw)?;
            self.reload()?;
            if failed {
                self.sb.set_state(self.sb.state() | 2);
            }
        }
        self.sb.set_incompat(self.sb.incompat() & !feature::RECOVER);
        self.sb.seal();
        self.disk
            .write_at(super::format::SUPERBLOCK_OFFSET, &self.sb.raw)?;
        Ok(())
    }

    /// Read the superblock again, and forget all blocks.
    fn reload(&mut self) -> Result<()> {
        let mut raw = vec![0; super::format::SUPERBLOCK_LEN];
        self.disk
            .read_at(super::format::SUPERBLOCK_OFFSET, &mut raw)?;
        self.sb = super::format::Superblock::parse(raw, self.disk.size())
            .map_err(|e| corrupt(format!("after replay of the journal: {e}")))?;
        self.forget_all();
        Ok(())
    }
}
