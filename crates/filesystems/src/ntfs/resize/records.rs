//! Records of the MFT, changed and written back.

use std::ops::Range;

use block_io::{BlockRead, BlockWrite};

use super::super::format::{Attribute, Run, STRIDE, encode_runs, undo_fixups};
use super::super::volume::Volume;
use crate::bytes::{array, le16, le32, put, put_le16, put_le32, slice};
use crate::fault::{Fault, Result};

/// The end of the attributes of a record: this type, and 4 bytes that are not looked at.
const END: u32 = u32::MAX;
pub(super) const END_LEN: usize = 8;

/// A record with its fixups undone, and where its attributes are.
pub(super) struct Editable {
    pub(super) number: u64,
    raw: Vec<u8>,
    attributes: Vec<Range<usize>>,
}

impl Editable {
    /// Take in a record; `None` for one that is not in use.
    pub(super) fn parse(mut raw: Vec<u8>, number: u64) -> Result<Option<Self>> {
        if slice(&raw, 0, 4) != b"FILE" {
            return Err(Fault::Damage(format!(
                "record {number}: magic: expected FILE, found {:02x?}",
                slice(&raw, 0, 4)
            )));
        }
        undo_fixups(&mut raw, &format!("record {number}"))?;
        if le16(&raw, 0x16) & 1 == 0 {
            return Ok(None);
        }
        let mut attributes = Vec::new();
        let mut at = usize::from(le16(&raw, 0x14));
        let used = (le32(&raw, 0x18) as usize).min(raw.len());
        loop {
            if le32(&raw, at) == END && at + 4 <= used {
                break;
            }
            let len = le32(&raw, at + 4) as usize;
            let is_aligned = (at | len).is_multiple_of(8);
            if at < 0x2A || !is_aligned || len < 24 || at + len + 4 > used {
                return Err(Fault::Damage(format!(
                    "record {number}: attribute of {len} bytes at byte {at}, expected to end before {used}"
                )));
            }
            attributes.push(at..at + len);
            at += len;
        }
        Ok(Some(Self {
            number,
            raw,
            attributes,
        }))
    }

    pub(super) fn attributes(&self) -> impl Iterator<Item = Attribute<'_>> {
        self.attributes.iter().map(|place| Attribute {
            raw: slice(&self.raw, place.start, place.len()),
            record: self.number,
        })
    }

    /// Put `new` in the place of attribute `index`; false when it does not fit.
    pub(super) fn replace(&mut self, index: usize, new: &[u8]) -> bool {
        let Some(place) = self.attributes.get(index).cloned() else {
            return false;
        };
        let end = self.attributes.last().map_or(place.end, |last| last.end);
        let grown = end - place.len() + new.len();
        if grown + END_LEN > self.raw.len() {
            return false;
        }
        let behind = slice(&self.raw, place.end, end - place.end).to_vec();
        put(&mut self.raw, place.start, new);
        put(&mut self.raw, place.start + new.len(), &behind);
        put_le32(&mut self.raw, grown, END);
        if let Some(rest) = self.raw.get_mut(grown + 4..) {
            rest.fill(0);
        }
        put_le32(&mut self.raw, 0x18, (grown + END_LEN) as u32);
        for (n, attribute) in self.attributes.iter_mut().enumerate().skip(index) {
            if n == index {
                attribute.end = attribute.start + new.len();
            } else {
                let start = attribute.start - place.end + place.start + new.len();
                *attribute = start..start + attribute.len();
            }
        }
        true
    }

    /// A record without attributes.
    pub(super) fn empty(number: u64, raw: Vec<u8>) -> Self {
        Self {
            number,
            raw,
            attributes: Vec::new(),
        }
    }

    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The same record with these attributes, `None` when they do not fit.
    pub(super) fn rebuilt(&self, attributes: &[Vec<u8>]) -> Option<Self> {
        let mut at = usize::from(le16(&self.raw, 0x14));
        let len: usize = attributes.iter().map(Vec::len).sum();
        if at + len + END_LEN > self.raw.len() {
            return None;
        }
        let mut record = Self::empty(self.number, self.raw.clone());
        record.raw.get_mut(at..)?.fill(0);
        let mut next = le16(&self.raw, 0x28);
        for attribute in attributes {
            put(&mut record.raw, at, attribute);
            record.attributes.push(at..at + attribute.len());
            at += attribute.len();
            next = next.max(le16(attribute, 14).saturating_add(1));
        }
        put_le16(&mut record.raw, 0x28, next);
        put_le32(&mut record.raw, at, END);
        put_le32(&mut record.raw, 0x18, (at + END_LEN) as u32);
        Some(record)
    }

    /// The base record of its file.
    pub(super) fn base(&self) -> u64 {
        match crate::bytes::le64(&self.raw, 0x20) & super::super::format::NUMBER {
            0 => self.number,
            base => base,
        }
    }

    /// The record with fixups: each 512 bytes end with the number of this writing.
    fn sealed(&self) -> Vec<u8> {
        let mut raw = self.raw.clone();
        let at = usize::from(le16(&raw, 4));
        // 0 and 0xFFFF are not used.
        let number = match le16(&raw, at).wrapping_add(1) {
            0 | u16::MAX => 1,
            number => number,
        };
        put_le16(&mut raw, at, number);
        for stride in 0..raw.len() / STRIDE {
            let place = (stride + 1) * STRIDE - 2;
            let kept: [u8; 2] = array(&raw, place);
            put(&mut raw, at + 2 + stride * 2, &kept);
            put_le16(&mut raw, place, number);
        }
        raw
    }
}

/// The attribute with other runs: their bytes, its last cluster, its length.
pub(super) fn with_runs(attribute: &Attribute, runs: &[Run]) -> Vec<u8> {
    let at = usize::from(le16(attribute.raw, 0x20));
    let mut raw = slice(attribute.raw, 0, at).to_vec();
    raw.extend(encode_runs(runs));
    raw.resize(raw.len().next_multiple_of(8), 0);
    let last = runs.last().map_or(0, |run| run.vcn + run.count);
    put(&mut raw, 0x18, &last.wrapping_sub(1).to_le_bytes());
    let len = raw.len() as u32;
    put_le32(&mut raw, 4, len);
    raw
}

/// Set the allocated size and size of a non-resident attribute, and how much of it was written.
pub(super) fn set_sizes(raw: &mut [u8], allocated: u64, size: u64, valid: u64) {
    put(raw, 0x28, &allocated.to_le_bytes());
    put(raw, 0x30, &size.to_le_bytes());
    put(raw, 0x38, &valid.to_le_bytes());
}

/// Where records are written: the MFT, and the copy of its first ones.
pub(super) struct Places {
    pub(super) mft: Vec<Run>,
    pub(super) mirror: Vec<Run>,
    /// Bytes of the copy.
    pub(super) mirrored: u64,
}

impl<D: BlockRead> Volume<D> {
    /// The record `number`, to be changed.
    pub(super) fn editable(&self, number: u64) -> Result<Editable> {
        let mut raw = vec![0; self.boot.record];
        let at = number.saturating_mul(self.boot.record as u64);
        self.read_runs(&self.mft, at, &mut raw, "the MFT")?;
        match Editable::parse(raw, number)? {
            Some(record) => Ok(record),
            None => Err(Fault::Damage(format!("record {number}: is not in use"))),
        }
    }
}

impl<D: BlockWrite> Volume<D> {
    /// Write a record to its place, and to the copy if it is one of the first.
    pub(super) fn write_record(&self, places: &Places, record: &Editable) -> Result<()> {
        let raw = record.sealed();
        let at = record.number * raw.len() as u64;
        self.write_runs(&places.mft, at, &raw, "the MFT")?;
        if at + raw.len() as u64 <= places.mirrored {
            self.write_runs(&places.mirror, at, &raw, "$MFTMirr")?;
        }
        Ok(())
    }

    /// Write `data` from byte `at` of a file with these runs on.
    pub(super) fn write_runs(
        &self,
        runs: &[Run],
        mut at: u64,
        mut data: &[u8],
        what: &str,
    ) -> Result<()> {
        while !data.is_empty() {
            let (place, left) = self.place(runs, at, what)?;
            let (head, tail) = data.split_at(left.min(data.len() as u64) as usize);
            self.disk.write_at(place, head)?;
            at += head.len() as u64;
            data = tail;
        }
        Ok(())
    }
}
