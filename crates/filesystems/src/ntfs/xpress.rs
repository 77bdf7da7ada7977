//! XPRESS with Huffman codes, one of the two ways Windows compresses its own files. No I/O.

use super::huffman::Code;
use crate::bytes::{le16, le32, slice, u8_at};

/// Bytes of the lengths of 512 symbols, 4 bits each.
const TABLE: usize = 256;

/// Fill `out`, of at most 64 KiB, from `compressed`. // [MS-XCA] 2.2.4
pub(super) fn decompress(compressed: &[u8], out: &mut [u8]) -> Result<(), String> {
    let fault = |why: String| format!("XPRESS: {why}");
    let table = slice(compressed, 0, TABLE);
    if table.len() != TABLE {
        return Err(fault(format!(
            "expected at least {TABLE} bytes, found {}",
            compressed.len()
        )));
    }
    let lengths: Vec<u8> = table.iter().flat_map(|b| [b & 15, b >> 4]).collect();
    let code = Code::new(&lengths).map_err(fault)?;
    let mut input = Words::new(compressed, TABLE);
    let mut done = 0;
    while done < out.len() {
        let (symbol, len) = code.decode(input.peek()).map_err(fault)?;
        input.skip(len.into());
        let Some(pair) = symbol.checked_sub(256) else {
            crate::bytes::put(out, done, &[symbol as u8]);
            done += 1;
            continue;
        };
        let mut length = usize::from(pair & 15);
        if length == 15 {
            length = match input.byte() {
                255 => match input.word() {
                    0 => input.double(),
                    length => length.into(),
                },
                more => usize::from(more) + 15,
            };
        }
        let bits = u32::from(pair >> 4);
        let distance = (1 << bits) + input.take(bits) as usize;
        if distance > done || length < usize::from(pair & 15) {
            return Err(fault(format!(
                "byte {done}: expected {done} bytes back at most, found {distance}"
            )));
        }
        let length = length.saturating_add(3);
        repeat(out, done, distance, length);
        done = done.saturating_add(length).min(out.len());
    }
    Ok(())
}

/// Repeat, at `done`, `length` bytes from `distance` bytes before; what does not fit is left out.
pub(super) fn repeat(out: &mut [u8], done: usize, distance: usize, length: usize) {
    let end = done.saturating_add(length).min(out.len());
    if distance >= end - done {
        out.copy_within(done - distance..end - distance, done);
        return;
    }
    for at in done..end {
        // Bytes just written are repeated, too.
        let byte = u8_at(out, at - distance);
        crate::bytes::put(out, at, &[byte]);
    }
}

/// A stream of bits in words of 16, the highest bit first. Behind its end come zeroes.
pub(super) struct Words<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bits that are ready, from the highest on; 16 at least.
    ready: u32,
    count: u32,
}

impl<'a> Words<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        let mut words = Self {
            bytes,
            at,
            ready: 0,
            count: 0,
        };
        words.fill();
        words.fill();
        words
    }

    fn fill(&mut self) {
        let word = u32::from(le16(self.bytes, self.at));
        self.at += 2;
        self.ready |= word << (16 - self.count);
        self.count += 16;
    }

    /// The next 16 bits.
    pub(super) fn peek(&self) -> u16 {
        (self.ready >> 16) as u16
    }

    /// Go past `count` bits, at most 16.
    pub(super) fn skip(&mut self, count: u32) {
        self.ready <<= count;
        self.count -= count;
        if self.count < 16 {
            self.fill();
        }
    }

    /// The next `count` bits, at most 16, as a number.
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let bits = u32::from(self.peek()) >> (16 - count);
        self.skip(count);
        bits
    }

    /// The byte behind the words that were taken in.
    fn byte(&mut self) -> u8 {
        self.at += 1;
        u8_at(self.bytes, self.at - 1)
    }

    fn word(&mut self) -> u16 {
        self.at += 2;
        le16(self.bytes, self.at - 2)
    }

    fn double(&mut self) -> usize {
        self.at += 4;
        le32(self.bytes, self.at - 4) as usize
    }

    /// Where the next byte lies when the rest of the word that is being read is passed over: a whole one,
    /// if none of it was read.
    pub(super) fn aligned(&self) -> usize {
        // Of the bits that are ready, a word goes back, unless it is the one to be passed over.
        self.at - if self.count > 16 { 2 } else { 0 }
    }
}
