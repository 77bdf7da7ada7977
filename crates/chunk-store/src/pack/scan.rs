//! Reading a pack from one end to the other: what recovery, verification and rewriting have in common.

use std::io;
use std::ops::Range;

use super::format::{RECORD_HEADER_LEN, RECORD_MAGIC, RecordHeader, decode_void};
use crate::bytes::array;
use crate::error::{Damage, Lie, OnPath, Result};
use crate::files::StoredFile;

/// Bytes read at once.
const WINDOW: u64 = 4 << 20;
/// After damage the next record is looked for byte by byte, and a chunk may hold bytes that look
/// like records. Candidates that prove false may cost this many times the range, then the search ends.
const PATIENCE: u64 = 8;

/// What a scan meets.
pub(crate) enum Found<'a> {
    /// A record whose checksums fit.
    Record {
        offset: u64,
        header: RecordHeader,
        payload: &'a [u8],
    },
    /// A place that is no record, or a damaged one.
    Damage(Damage),
    /// The damage told of last reached as far as this: the next record follows.
    Gap(Range<u64>),
}

/// Read the records of `range`, which starts at a record, and tell `on` of each.
///
/// A damaged payload is stepped over by its header. After a damaged header the next record is
/// searched for, and from there on a record is believed only if its bytes hash to its name: a hostile
/// chunk may contain what looks like a record of another.
pub(crate) fn scan(
    file: &dyn StoredFile,
    path: &str,
    range: Range<u64>,
    on: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    let mut window = Window::new(file, range.end);
    let mut patience = range
        .end
        .saturating_sub(range.start)
        .saturating_mul(PATIENCE);
    let mut at = range.start;
    let mut trusted = true;
    let mut gap: Option<u64> = None;
    while at < range.end {
        let bad = match read_record(&mut window, at, trusted).on(path)? {
            Ok(Good::Void(len)) => {
                at += len;
                continue;
            }
            Ok(Good::Record(header, payload)) => {
                if let Some(start) = gap.take() {
                    on(Found::Gap(start..at))?;
                }
                on(Found::Record {
                    offset: at,
                    header,
                    payload,
                })?;
                at += header.record_len();
                continue;
            }
            Err(bad) => bad,
        };
        // Inside a gap the false candidates are no news.
        if gap.is_none() {
            gap = Some(at);
            on(Found::Damage(Damage::new(path, at, bad.lie)))?;
        }
        patience = patience.saturating_sub(bad.cost);
        if patience == 0 {
            return Ok(());
        }
        match bad.step.filter(|_| trusted) {
            Some(step) => at += step,
            None => {
                trusted = false;
                match window.find_magic(at + 1).on(path)? {
                    Some(next) => at = next,
                    None => return Ok(()),
                }
            }
        }
    }
    Ok(())
}

enum Good<'a> {
    Record(RecordHeader, &'a [u8]),
    /// So many bytes that hold nothing.
    Void(u64),
}

/// A place that is no good record.
struct Bad {
    lie: Lie,
    /// How far the next record is, where the header can still be believed.
    step: Option<u64>,
    /// How many bytes were looked at to find out.
    cost: u64,
}

type Read<'a> = std::result::Result<Good<'a>, Bad>;

fn read_record<'a>(window: &'a mut Window<'_>, at: u64, trusted: bool) -> io::Result<Read<'a>> {
    let end = window.end;
    let short = |expected| Bad {
        lie: Lie::Short {
            expected,
            found: end,
        },
        step: None,
        cost: 64,
    };
    let head_len = RECORD_HEADER_LEN as u64;
    let header = match window.get(at, head_len)? {
        None => return Ok(Err(short(at + head_len))),
        // A void inside a chunk could hide what follows, so it counts only where a record is due.
        Some(head) if trusted && let Some(len) = decode_void(&array(head, 0)) => {
            return Ok(Ok(Good::Void(len)));
        }
        Some(head) => match RecordHeader::decode(&array(head, 0)) {
            Err(lie) => {
                return Ok(Err(Bad {
                    lie,
                    step: None,
                    cost: 64,
                }));
            }
            Ok(header) => header,
        },
    };
    let Some(payload) = window.get(at + head_len, u64::from(header.stored_len))? else {
        return Ok(Err(short(at + header.record_len())));
    };
    let bad = |lie| Bad {
        lie,
        step: Some(header.record_len()),
        cost: u64::from(header.stored_len) + u64::from(header.raw_len),
    };
    if let Err(lie) = header.check_payload(payload) {
        return Ok(Err(bad(lie)));
    }
    if !trusted
        && let Err(source) = chunking::unpack(&header.id, header.raw_len, header.codec, payload)
    {
        let id = header.id;
        return Ok(Err(bad(Lie::Chunk { id, source })));
    }
    Ok(Ok(Good::Record(header, payload)))
}

/// A part of a file in memory that moves forward.
struct Window<'f> {
    file: &'f dyn StoredFile,
    base: u64,
    bytes: Vec<u8>,
    end: u64,
}

impl<'f> Window<'f> {
    fn new(file: &'f dyn StoredFile, end: u64) -> Self {
        Self {
            file,
            base: 0,
            bytes: Vec::new(),
            end,
        }
    }

    /// `len` bytes at `at`, or `None` where the range ends before.
    fn get(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        if at.saturating_add(len) > self.end {
            return Ok(None);
        }
        let have = self.base..self.base + self.bytes.len() as u64;
        if at < have.start || at + len > have.end {
            let want = len.max(WINDOW).min(self.end - at);
            self.base = at;
            self.bytes.resize(want as usize, 0);
            if let Err(error) = self.file.read_at(at, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let from = (at - self.base) as usize;
        Ok(self.bytes.get(from..from + len as usize))
    }

    /// Where the next record magic stands, from `at` on.
    fn find_magic(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        loop {
            let len = self.end.saturating_sub(at).min(64 << 10);
            if len < RECORD_HEADER_LEN as u64 {
                return Ok(None);
            }
            let Some(bytes) = self.get(at, len)? else {
                return Ok(None);
            };
            if let Some(found) = bytes.windows(4).position(|four| four == RECORD_MAGIC) {
                return Ok(Some(at + found as u64));
            }
            at += len - 3;
        }
    }
}
