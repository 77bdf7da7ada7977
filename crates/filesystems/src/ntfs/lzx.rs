//! LZX in the variant of WIM files, with a window of 32 KiB. No I/O.
//!
//! After "[MS-PATCH] LZX DELTA" 2 and the published description of the CAB variant; what WIM files have
//! instead: no header, no frames, a bit for the usual block size, calls translated for a file of a fixed
//! size.

use super::huffman::Code;
use super::xpress::{Words, repeat};
use crate::bytes::{le32, slice, u8_at};

/// Slots of distances below 32 KiB.
const SLOTS: usize = 30;
/// Symbols: bytes, and 8 lengths for each slot.
const MAIN: usize = 256 + 8 * SLOTS;
const LENGTHS: usize = 249;
/// Blocks that say so have this size.
const USUAL: usize = 32_768;
/// The size of a file that calls are translated for.
const FILE: i32 = 12_000_000;

/// Fill `out`, of at most 32 KiB, from `compressed`.
pub(super) fn decompress(compressed: &[u8], out: &mut [u8]) -> Result<(), String> {
    let mut state = State {
        input: Words::new(compressed, 0),
        main: vec![0; MAIN],
        lengths: vec![0; LENGTHS],
        recent: [1; 3],
    };
    let mut done = 0;
    while done < out.len() {
        let next = state.block(compressed, out, done);
        done = next.map_err(|why| format!("LZX: byte {done}: {why}"))?;
    }
    translate_calls(out);
    Ok(())
}

struct State<'a> {
    input: Words<'a>,
    /// Lengths of the codes: each block tells how they differ from the last one's.
    main: Vec<u8>,
    lengths: Vec<u8>,
    recent: [usize; 3],
}

impl<'a> State<'a> {
    /// Expand the block that begins at `done`; where it ends.
    fn block(
        &mut self,
        compressed: &'a [u8],
        out: &mut [u8],
        done: usize,
    ) -> Result<usize, String> {
        let kind = self.input.take(3);
        let size = match self.input.take(1) {
            1 => USUAL,
            _ => self.input.take(16) as usize,
        };
        let end = done + size;
        if size == 0 || end > out.len() {
            // The last block of a short chunk says the usual size, too.
            if size != USUAL || done != 0 {
                return Err(format!(
                    "expected a block of at most {} bytes, found {size}",
                    out.len() - done
                ));
            }
        }
        let end = end.min(out.len());
        match kind {
            1 => self.compressed(out, done, end, false),
            2 => self.compressed(out, done, end, true),
            3 => self.plain(compressed, out, done, end),
            _ => Err(format!("kind of block: expected 1 to 3, found {kind}")),
        }
    }

    fn plain(
        &mut self,
        compressed: &'a [u8],
        out: &mut [u8],
        done: usize,
        end: usize,
    ) -> Result<usize, String> {
        // The rest of the word is passed over, a whole one if none of it was read.
        let at = self.input.aligned();
        for (index, recent) in self.recent.iter_mut().enumerate() {
            *recent = le32(compressed, at + 4 * index) as usize;
        }
        let bytes = slice(compressed, at + 12, end - done);
        if bytes.len() != end - done {
            return Err("expected more bytes, found the end".to_owned());
        }
        crate::bytes::put(out, done, bytes);
        let next = at + 12 + bytes.len();
        self.input = Words::new(compressed, next + next % 2);
        Ok(end)
    }

    fn compressed(
        &mut self,
        out: &mut [u8],
        mut done: usize,
        end: usize,
        is_aligned: bool,
    ) -> Result<usize, String> {
        let mut low = vec![0_u8; 8];
        if is_aligned {
            for len in &mut low {
                *len = self.input.take(3) as u8;
            }
        }
        let low = Code::new(&low)?;
        let (bytes, matches) = self.main.split_at_mut(256);
        read_lengths(&mut self.input, bytes)?;
        read_lengths(&mut self.input, matches)?;
        read_lengths(&mut self.input, &mut self.lengths)?;
        let (main, lengths) = (Code::new(&self.main)?, Code::new(&self.lengths)?);
        while done < end {
            let symbol = symbol(&mut self.input, &main)?;
            let Some(pair) = symbol.checked_sub(256) else {
                crate::bytes::put(out, done, &[symbol as u8]);
                done += 1;
                continue;
            };
            let mut length = (pair & 7) + 2;
            if pair & 7 == 7 {
                length += self::symbol(&mut self.input, &lengths)?;
            }
            let distance = self.distance(pair >> 3, is_aligned.then_some(&low))?;
            if distance == 0 || distance > done || done + length > end {
                return Err(format!(
                    "expected {done} bytes back at most and {} long, found {distance} and {length}",
                    end - done
                ));
            }
            repeat(out, done, distance, length);
            done += length;
        }
        Ok(done)
    }

    /// The distance of a slot: one of the last three, or a new one.
    fn distance(&mut self, slot: usize, low: Option<&Code>) -> Result<usize, String> {
        if slot < 3 {
            self.recent.swap(0, slot);
            return Ok(self.recent[0]);
        }
        let bits = (slot / 2).saturating_sub(1) as u32;
        let base = (2 + slot % 2) << bits;
        let extra = match low {
            Some(low) if bits >= 3 => {
                let high = self.input.take(bits - 3) as usize;
                high << 3 | symbol(&mut self.input, low)?
            }
            _ => self.input.take(bits) as usize,
        };
        let distance = base + extra - 2;
        self.recent = [distance, self.recent[0], self.recent[1]];
        Ok(distance)
    }
}

fn symbol(input: &mut Words, code: &Code) -> Result<usize, String> {
    let (symbol, len) = code.decode(input.peek())?;
    input.skip(len.into());
    Ok(symbol.into())
}

/// Read how the lengths of a code differ from those of the block before.
fn read_lengths(input: &mut Words, lengths: &mut [u8]) -> Result<(), String> {
    let mut own = [0_u8; 20];
    for len in &mut own {
        *len = input.take(4) as u8;
    }
    let own = Code::new(&own)?;
    let less = |old: u8, by: usize| ((usize::from(old) + 17 - by.min(16)) % 17) as u8;
    let mut at = 0;
    while at < lengths.len() {
        let old = u8_at(lengths, at);
        let (count, len) = match symbol(input, &own)? {
            17 => (4 + input.take(4), 0),
            18 => (20 + input.take(5), 0),
            19 => {
                let count = 4 + input.take(1);
                match symbol(input, &own)? {
                    by @ 0..=16 => (count, less(old, by)),
                    other => return Err(format!("a length less by {other}")),
                }
            }
            by => (1, less(old, by)),
        };
        let end = (at + count as usize).min(lengths.len());
        if let Some(run) = lengths.get_mut(at..end) {
            run.fill(len);
        }
        at = end;
    }
    Ok(())
}

/// Calls of x86 (E8) were made absolute before compressing; make them relative again.
fn translate_calls(out: &mut [u8]) {
    let end = out.len().saturating_sub(10);
    let mut at = 0;
    while at < end {
        if u8_at(out, at) != 0xE8 {
            at += 1;
            continue;
        }
        let (here, target) = (at as i32, le32(out, at + 1) as i32);
        if (-here..FILE).contains(&target) {
            let relative = match target >= 0 {
                true => target - here,
                false => target + FILE,
            };
            crate::bytes::put(out, at + 1, &relative.to_le_bytes());
        }
        at += 5;
    }
}
