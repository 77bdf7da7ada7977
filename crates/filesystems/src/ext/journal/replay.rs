//! Replay: find the committed transactions, check every block of them, put the blocks in place.

use std::collections::HashMap;

use block_io::{BlockRead, BlockWrite};

use super::Journal;
use super::format::{COMMIT, DESCRIPTOR, MAGIC, REVOKE, Tag, crc32_be};
use crate::bytes::{be32, be64, le16, le32, put_be32, u8_at};
use crate::ext::checksum::crc32c;
use crate::ext::volume::{Volume, corrupt, unsupported};
use crate::tree::Result;

/// Most revoked blocks a log may name; the largest journals hold fewer.
const MOST_REVOKED: usize = 16 << 20;

/// What a log holds.
pub(super) struct Log {
    /// Blocks in the order they were written, each with its transaction and its place in the log.
    writes: Vec<(u32, u32, Tag)>,
    /// Blocks that must not be written by this transaction or earlier ones.
    revoked: HashMap<u64, u32>,
    /// The sequence number behind the last committed transaction.
    pub(super) next: u32,
}

/// Sequence numbers wrap around.
fn is_at_or_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

/// One transaction while it is read.
#[derive(Default)]
struct Open {
    writes: Vec<(u32, Tag)>,
    revoked: Vec<u64>,
    /// A damaged block of it: an error only if the transaction turns out to be committed.
    fault: Option<String>,
    /// Version 1 checksum so far.
    sum: u32,
}

impl Open {
    fn new() -> Self {
        Self {
            sum: !0,
            ..Self::default()
        }
    }
}

/// Walk the log from its start to its end, which is the first block that is not of the expected
/// transaction.
pub(super) fn scan<D: BlockRead>(journal: &Journal, volume: &Volume<D>) -> Result<Log> {
    let sb = &journal.sb;
    let mut log = Log {
        writes: Vec::new(),
        revoked: HashMap::new(),
        next: sb.sequence,
    };
    let mut at = sb.start;
    let mut left = sb.log_end() - sb.first;
    let mut open = Open::new();
    let mut last_commit_time = 0;
    while left > 0 {
        let block = journal.read(volume, at)?;
        if be32(&block, 0) != MAGIC || be32(&block, 8) != log.next {
            break;
        }
        let tail = block.len() - 4;
        let place = at;
        at = advance(journal, at, &mut left);
        match be32(&block, 4) {
            DESCRIPTOR => {
                if let Some((expected, found)) = sb.block_fault(&block, tail) {
                    open.fault
                        .get_or_insert_with(|| fault("descriptor", place, expected, found));
                }
                open.sum = if sb.old_checksums() {
                    crc32_be(open.sum, &block)
                } else {
                    0
                };
                for tag in sb.tags(&block) {
                    if left == 0 {
                        return Ok(log);
                    }
                    if sb.old_checksums() {
                        open.sum = crc32_be(open.sum, &journal.read(volume, at)?);
                    }
                    open.writes.push((at, tag));
                    at = advance(journal, at, &mut left);
                }
            }
            REVOKE => {
                if let Some((expected, found)) = sb.block_fault(&block, tail) {
                    open.fault
                        .get_or_insert_with(|| fault("revoke", place, expected, found));
                }
                match sb.revoked(&block) {
                    Ok(blocks) => open.revoked.extend(blocks),
                    Err(used) => {
                        open.fault.get_or_insert_with(|| {
                            format!("journal revoke block {place}: r_count: expected from 16 to {tail}, found {used}")
                        });
                    }
                }
            }
            COMMIT => {
                let time = be64(&block, 0x30);
                if open.fault.is_some() && time < last_commit_time {
                    // Left over from an earlier round of the log: its end is here.
                    return Ok(log);
                }
                check_commit(journal, &block, place, &open)?;
                last_commit_time = time;
                close(&mut log, std::mem::replace(&mut open, Open::new()))?;
            }
            _ => break,
        }
    }
    Ok(log)
}

fn fault(what: &str, place: u32, expected: u32, found: u32) -> String {
    format!(
        "journal {what} block {place}: checksum: expected {expected:#010x}, found {found:#010x}"
    )
}

fn advance(journal: &Journal, at: u32, left: &mut u32) -> u32 {
    *left -= 1;
    if at + 1 >= journal.sb.log_end() {
        journal.sb.first
    } else {
        at + 1
    }
}

fn check_commit(journal: &Journal, block: &[u8], place: u32, open: &Open) -> Result<()> {
    if let Some(fault) = &open.fault {
        return Err(corrupt(fault.clone()));
    }
    if let Some((expected, found)) = journal.sb.block_fault(block, 0x10) {
        return Err(corrupt(fault("commit", place, expected, found)));
    }
    let carries_old = u8_at(block, 0x0C) == 1 && u8_at(block, 0x0D) == 4;
    if journal.sb.old_checksums() && carries_old && be32(block, 0x10) != open.sum {
        return Err(corrupt(fault("commit", place, open.sum, be32(block, 0x10))));
    }
    Ok(())
}

/// Take a committed transaction into the log.
fn close(log: &mut Log, open: Open) -> Result<()> {
    let sequence = log.next;
    log.writes
        .extend(open.writes.into_iter().map(|(at, tag)| (sequence, at, tag)));
    for block in open.revoked {
        let last = log.revoked.entry(block).or_insert(sequence);
        if is_at_or_after(sequence, *last) {
            *last = sequence;
        }
    }
    if log.revoked.len() > MOST_REVOKED {
        return Err(corrupt(format!(
            "journal: revoked blocks: expected at most {MOST_REVOKED}, found more"
        )));
    }
    log.next = sequence.wrapping_add(1);
    Ok(())
}

/// The block of the log that goes to a place, checked.
fn contents<D: BlockRead>(
    journal: &Journal,
    volume: &Volume<D>,
    (sequence, at, tag): &(u32, u32, Tag),
) -> Result<Vec<u8>> {
    let mut block = journal.read(volume, *at)?;
    if let Some(found) = tag.checksum {
        let sum = crc32c(journal.sb.seed(), &sequence.to_be_bytes());
        let sum = crc32c(sum, &block);
        let expected = if tag.short_checksum {
            sum & 0xFFFF
        } else {
            sum
        };
        if expected != found {
            return Err(corrupt(fault("data", *at, expected, found)));
        }
    }
    if tag.escaped {
        put_be32(&mut block, 0, MAGIC);
    }
    Ok(block)
}

impl Log {
    /// The writes that no later or same transaction revoked.
    fn standing(&self) -> impl Iterator<Item = &(u32, u32, Tag)> {
        self.writes.iter().filter(|(sequence, _, tag)| {
            !self
                .revoked
                .get(&tag.block)
                .is_some_and(|last| is_at_or_after(*last, *sequence))
        })
    }
}

/// Read everything once: nothing is written when a block is damaged or has no place.
pub(super) fn check<D: BlockRead>(journal: &Journal, volume: &Volume<D>, log: &Log) -> Result<()> {
    for write in log.standing() {
        if write.2.block >= volume.sb.blocks {
            return Err(corrupt(format!(
                "journal block {}: its place: expected a block below {}, found {}",
                write.1, volume.sb.blocks, write.2.block
            )));
        }
        if write.2.checksum.is_some() {
            contents(journal, volume, write)?;
        }
    }
    Ok(())
}

/// Refuse a log that goes on with fast commits: they tell operations, not blocks.
pub(super) fn refuse_fast_commits<D: BlockRead>(
    journal: &Journal,
    volume: &Volume<D>,
    next: u32,
) -> Result<()> {
    if !journal.sb.has_fast_commits() || journal.sb.log_end() >= journal.sb.end {
        return Ok(());
    }
    let block = journal.read(volume, journal.sb.log_end())?;
    // A tag HEAD (9) with the number of the transaction it follows on. // [ext4 disk layout] fast
    // commits
    if le16(&block, 0) == 9 && le32(&block, 8) == next {
        return Err(unsupported(
            "fast_commit: the journal ends with fast commits that were not put in place; mount and unmount the source, or run e2fsck on it",
        ));
    }
    Ok(())
}

/// Put the blocks in their places, in order.
pub(super) fn apply<D: BlockWrite>(journal: &Journal, volume: &Volume<D>, log: &Log) -> Result<()> {
    // The log itself is found through the volume's blocks: read each before it is written over.
    let size = volume.sb.block_size;
    for write in log.standing() {
        let block = contents(journal, volume, write)?;
        volume.disk.write_at(write.2.block * size, &block)?;
    }
    Ok(())
}
