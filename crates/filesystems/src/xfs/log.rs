//! The state of the log: whether it holds changes that are not yet in their places.
//!
//! A log ends where the cycle number of its blocks drops by one. If the record before that place says
//! "unmounted", everything was written back. // XFS Algorithms & Data Structures, "Journaling Log"

use block_io::{BlockRead, Result};

use super::format::Superblock;
use crate::bytes::{be32, u8_at};

/// The log is addressed in blocks of 512 bytes.
const BLOCK: u64 = 512;
const RECORD_MAGIC: u32 = 0xFEED_BABE;
/// Flag of an operation that says the file system was unmounted.
const UNMOUNT: u8 = 0x20;
/// Bytes of a record one header block can describe.
const HEADER_COVERS: u64 = 32_768;
/// Most blocks from one record's start to its end: 256 KiB, and its headers.
const MOST_RECORD: u64 = 512 + 8;

/// What the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogState {
    /// All changes are in their places.
    Clean,
    /// Changes may be only in the log; the sentence says why it is thought so.
    Dirty(String),
}

/// Look at the log of the file system on `disk`.
pub(crate) fn log_state(disk: &dyn BlockRead, sb: &Superblock) -> Result<LogState> {
    let start = match sb.block_of(sb.log_start) {
        Some(block) if sb.log_start != 0 => block * sb.block_size,
        _ => return Ok(LogState::Dirty("its log is on another device".to_owned())),
    };
    let log = Log {
        disk,
        start,
        blocks: sb.log_blocks * sb.block_size / BLOCK,
    };
    let head = log.head()?;
    let Some((record, header)) = log.record_before(head)? else {
        return Ok(LogState::Dirty(
            "no record was found where its log ends".to_owned(),
        ));
    };
    let sentence = "its log holds changes that were not written to their places";
    let (len, operations) = (u64::from(be32(&header, 12)), be32(&header, 40));
    let headers = match be32(&header, 8) & 2 {
        0 => 1,
        _ => u64::from(be32(&header, 320))
            .div_ceil(HEADER_COVERS)
            .clamp(1, 8),
    };
    let end = (record + headers + len.div_ceil(BLOCK)) % log.blocks;
    if operations == 1 && end == head {
        let operation = log.read((record + headers) % log.blocks)?;
        // xlog_op_header: transaction, length, client, flags.
        if u8_at(&operation, 9) & UNMOUNT != 0 {
            return Ok(LogState::Clean);
        }
    }
    Ok(LogState::Dirty(sentence.to_owned()))
}

struct Log<'a> {
    disk: &'a dyn BlockRead,
    start: u64,
    blocks: u64,
}

impl Log<'_> {
    fn read(&self, block: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; BLOCK as usize];
        self.disk.read_at(self.start + block * BLOCK, &mut bytes)?;
        Ok(bytes)
    }

    /// The cycle in which `block` was written: its first word, or the second where a record begins.
    fn cycle(&self, block: u64) -> Result<u32> {
        let bytes = self.read(block)?;
        Ok(match be32(&bytes, 0) {
            RECORD_MAGIC => be32(&bytes, 4),
            cycle => cycle,
        })
    }

    /// The block the next record would be written to.
    fn head(&self) -> Result<u64> {
        let first = self.cycle(0)?;
        if self.cycle(self.blocks - 1)? == first {
            return Ok(0);
        }
        // From `low` back all is of the first block's cycle, from `high` on it is not.
        let (mut low, mut high) = (0, self.blocks - 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.cycle(middle)? == first {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(high)
    }

    /// The last record that begins before `head`, and its header.
    fn record_before(&self, head: u64) -> Result<Option<(u64, Vec<u8>)>> {
        for back in 1..=MOST_RECORD.min(self.blocks) {
            let block = (head + self.blocks - back) % self.blocks;
            let bytes = self.read(block)?;
            if be32(&bytes, 0) == RECORD_MAGIC {
                return Ok(Some((block, bytes)));
            }
        }
        Ok(None)
    }
}
