//! The log of a VHDX file: changes to its tables that may not have reached them yet.
//!
//! A file that was not closed holds them only here. They are replayed into an overlay; the file is
//! not written.

use std::collections::HashMap;
use std::sync::Arc;

use block_io::{BlockRead, BlockWrite, Extent, ExtentKind, Overlay, check_range};

use super::format::{Guid, Header, LOG_SECTOR, checksum};
use super::rules;
use crate::bytes::{le32, le64};
use crate::error::{ParseError, require};
use crate::finding::{Finding, Severity};

/// Bytes of the log that are summed at most, as a multiple of its length: entries that overlap would
/// otherwise cost the square of it.
const MAX_SUMMED: u64 = 8;
/// Entries that are followed at most, as a multiple of their number.
const MAX_STEPS: usize = 16;
/// A longer log than this is not replayed. Hyper-V's have 1 MiB.
const MAX_LOG: u64 = 64 << 20;

/// The file with the changes of its log, and a finding that says so.
pub(crate) type Replayed = (Arc<dyn BlockRead>, Finding);

/// A valid entry of the log.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at: usize,
    len: usize,
    tail: usize,
    sequence: u64,
    flushed: u64,
    last: u64,
}

/// Replay the log of `file`; `None` where it is empty.
pub(crate) fn replay(
    file: &Arc<dyn BlockRead>,
    header: &Header,
) -> Result<Option<Replayed>, ParseError> {
    if header.log.is_nil() {
        return Ok(None);
    }
    let len = u64::from(header.log_len);
    if len > MAX_LOG {
        return Err(ParseError::Unsupported {
            feature: format!("a log of {len} bytes to be replayed"),
            hint: "mount it once on Windows, which replays it",
        });
    }
    let mut log = vec![0; len as usize];
    file.read_at(header.log_offset, &mut log)?;
    let log = Log {
        bytes: log,
        offset: header.log_offset,
        id: header.log,
    };
    let sequence = log.active_sequence()?;
    let Some(head) = sequence.last() else {
        let found = "none".to_owned();
        return Err(Finding::error(rules::LOG_EMPTY, header.log_offset, "an entry", found).into());
    };
    // A shorter file has lost data that the log does not hold. // [MS-VHDX] 2.3.1.1
    let size = file.size();
    let expected = format!("{} bytes or more", head.flushed);
    require(
        head.flushed <= size,
        rules::LOG_FLUSHED,
        log.offset + head.at as u64,
        expected,
        size,
    )?;
    let grown = Grown {
        file: Arc::clone(file),
        size: size.max(head.last),
    };
    let overlay = Overlay::new(grown);
    let mut changes = 0;
    for entry in &sequence {
        changes += log.apply(entry, &overlay)?;
    }
    let found = format!("{changes} changes in {} entries, replayed", sequence.len());
    let finding = Finding::error(rules::LOG_REPLAYED, log.offset, "no log", found);
    Ok(Some((Arc::new(overlay), finding.with(Severity::Warning))))
}

struct Log {
    bytes: Vec<u8>,
    offset: u64,
    id: Guid,
}

impl Log {
    /// The bytes of a run of the log, which goes on at its start when it reaches the end.
    fn run(&self, at: usize, len: usize) -> Vec<u8> {
        let rest = self.bytes.get(at..).unwrap_or_default();
        let mut run = rest.get(..len.min(rest.len())).unwrap_or_default().to_vec();
        let missing = len - run.len();
        run.extend(self.bytes.get(..missing).unwrap_or_default());
        run
    }

    /// The entry at `at`, if it is one of this log and whole. // [MS-VHDX] 2.3.1.1
    fn entry(&self, at: usize, summed: &mut u64) -> Result<Option<Entry>, ParseError> {
        let head = self.run(at, 64);
        let len = le32(&head, 8) as usize;
        let tail = le32(&head, 12) as usize;
        let plausible = head.starts_with(b"loge")
            && Guid::at(&head, 32) == self.id
            && len >= LOG_SECTOR
            && len.is_multiple_of(LOG_SECTOR)
            && len <= self.bytes.len()
            && tail < self.bytes.len()
            && tail.is_multiple_of(LOG_SECTOR)
            && le64(&head, 16) > 0;
        if !plausible {
            return Ok(None);
        }
        *summed += len as u64;
        let most = MAX_SUMMED * self.bytes.len() as u64;
        let place = self.offset + at as u64;
        require(
            *summed <= most,
            rules::LOG_TANGLED,
            place,
            format!("{most} bytes"),
            *summed,
        )?;
        if le32(&head, 4) != checksum(&self.run(at, len), 4) {
            return Ok(None);
        }
        Ok(Some(Entry {
            at,
            len,
            tail,
            sequence: le64(&head, 16),
            flushed: le64(&head, 48),
            last: le64(&head, 56),
        }))
    }

    /// The entries to replay, in order: the run with the highest sequence number that is whole from
    /// the tail its last entry names. // [MS-VHDX] 2.3.2
    fn active_sequence(&self) -> Result<Vec<Entry>, ParseError> {
        let mut entries = Vec::new();
        let mut summed = 0;
        let mut at = 0;
        while at < self.bytes.len() {
            let entry = self.entry(at, &mut summed)?;
            at += entry.map_or(LOG_SECTOR, |entry| entry.len);
            entries.extend(entry);
        }
        let by_place: HashMap<usize, Entry> = entries.iter().map(|e| (e.at, *e)).collect();
        let mut steps = 0;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
        for head in &entries {
            // Follow from the tail to this head: sequence numbers rise by one.
            let mut run = Vec::new();
            let mut next = by_place.get(&head.tail);
            while let Some(entry) = next {
                run.push(*entry);
                if entry.at == head.at {
                    return Ok(run);
                }
                steps += 1;
                let most = MAX_STEPS * by_place.len();
                require(
                    steps <= most,
                    rules::LOG_TANGLED,
                    self.offset,
                    format!("{most} steps"),
                    steps,
                )?;
                let behind = (entry.at + entry.len) % self.bytes.len();
                let following = entry.sequence.wrapping_add(1);
                next = by_place
                    .get(&behind)
                    .filter(|next| next.sequence == following);
            }
        }
        Ok(Vec::new())
    }

    /// Write the changes of one entry; gives their number. // [MS-VHDX] 2.3.1.2 to 2.3.1.4
    fn apply(&self, entry: &Entry, disk: &Overlay<Grown>) -> Result<usize, ParseError> {
        let bytes = self.run(entry.at, entry.len);
        let place = self.offset + entry.at as u64;
        let broken = |what: &str| Finding::error(rules::LOG_ENTRY, place, "a whole entry", what);
        let count = le32(&bytes, 24) as usize;
        let descriptor_len = count
            .checked_mul(32)
            .and_then(|len| len.checked_add(64))
            .map(|len| len.next_multiple_of(LOG_SECTOR))
            .filter(|len| *len <= bytes.len())
            .ok_or_else(|| broken("more descriptors than fit"))?;
        let mut sectors = bytes
            .get(descriptor_len..)
            .unwrap_or_default()
            .chunks_exact(LOG_SECTOR);
        for index in 0..count {
            let descriptor = bytes
                .get(64 + index * 32..96 + index * 32)
                .unwrap_or_default();
            if le64(descriptor, 24) != entry.sequence {
                return Err(broken("a descriptor of another sequence number").into());
            }
            let at = le64(descriptor, 16);
            match descriptor.get(..4) {
                Some(b"zero") => write_zeroes(disk, at, le64(descriptor, 8))?,
                Some(b"desc") => {
                    let sector = sectors
                        .next()
                        .ok_or_else(|| broken("fewer sectors than descriptors"))?;
                    let sequence = u64::from(le32(sector, 4)) << 32 | u64::from(le32(sector, 4092));
                    if !sector.starts_with(b"data") || sequence != entry.sequence {
                        return Err(broken("a sector of another sequence number").into());
                    }
                    let mut data = sector.to_vec();
                    data[..8].copy_from_slice(&descriptor[8..16]);
                    data[4092..].copy_from_slice(&descriptor[4..8]);
                    disk.write_at(at, &data)?;
                }
                _ => return Err(broken("an unknown descriptor").into()),
            }
        }
        Ok(count)
    }
}

fn write_zeroes(disk: &Overlay<Grown>, at: u64, len: u64) -> Result<(), ParseError> {
    check_range(disk.size(), at, len)?;
    let zeroes = vec![0; 1 << 20];
    let mut done = 0;
    while done < len {
        let step = (len - done).min(zeroes.len() as u64);
        // What is a hole already needs no edit: an entry may zero the whole of a large file.
        let extent = disk.extent_at(at + done)?;
        let step = match extent.kind {
            ExtentKind::Zero => extent.len.min(len - done),
            _ => {
                disk.write_at(at + done, &zeroes[..step as usize])?;
                step
            }
        };
        done += step;
    }
    Ok(())
}

/// A file that reads as zeroes past its end, up to `size`.
struct Grown {
    file: Arc<dyn BlockRead>,
    size: u64,
}

impl BlockRead for Grown {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> block_io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        let there = self
            .file
            .size()
            .saturating_sub(offset)
            .min(buf.len() as u64) as usize;
        let (head, tail) = buf.split_at_mut(there);
        tail.fill(0);
        match head.is_empty() {
            true => Ok(()),
            false => self.file.read_at(offset, head),
        }
    }

    fn extent_at(&self, offset: u64) -> block_io::Result<Extent> {
        check_range(self.size, offset, 1)?;
        match offset < self.file.size() {
            true => self.file.extent_at(offset),
            false => Ok(Extent {
                kind: ExtentKind::Zero,
                start: offset,
                len: self.size - offset,
            }),
        }
    }
}
