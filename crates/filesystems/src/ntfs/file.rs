//! A file as a whole: what its record says, and the further ones its attribute list names.

use std::collections::BTreeMap;

use block_io::BlockRead;

use super::format::{
    ATTRIBUTE_LIST, Attribute, FILE_NAME, Record, STANDARD_INFORMATION, attribute_list,
};
use super::volume::{Stream, Volume};
use crate::bytes::{le32, le64, u8_at};
use crate::fault::{Fault, Result};

/// Flags of an attribute.
const COMPRESSED: u16 = 0x00FF;
const ENCRYPTED: u16 = 0x4000;

/// Name space of a name that exists for DOS only, beside a long one.
pub(crate) const DOS_ONLY: u8 = 2;

/// Seconds from 1601, where Windows begins to count, to 1970.
const EPOCH: i64 = 11_644_473_600;

/// An attribute with all its parts.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) kind: u32,
    pub(crate) name: Vec<u16>,
    flags: u16,
    /// Power of two of the clusters that are compressed together.
    pub(crate) unit: u8,
    pub(crate) stream: Stream,
}

impl Named {
    pub(crate) fn is_compressed(&self) -> bool {
        self.flags & COMPRESSED != 0
    }

    /// How it is compressed: 1 is LZNT1.
    pub(crate) fn compression(&self) -> u16 {
        self.flags & COMPRESSED
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }

    pub(crate) fn size(&self) -> u64 {
        match &self.stream {
            Stream::Resident(bytes) => bytes.len() as u64,
            Stream::Runs { size, .. } => *size,
        }
    }
}

/// A file, directory or whatever else has a base record.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) number: u64,
    pub(crate) is_directory: bool,
    pub(crate) attributes: Vec<Named>,
}

impl File {
    pub(crate) fn attribute(&self, kind: u32, name: &str) -> Option<&Named> {
        self.attributes
            .iter()
            .find(|a| a.kind == kind && a.name.iter().copied().eq(name.encode_utf16()))
    }

    /// The value of a resident attribute without a name, empty when there is none.
    pub(crate) fn value(&self, kind: u32) -> &[u8] {
        match self.attribute(kind, "").map(|a| &a.stream) {
            Some(Stream::Resident(bytes)) => bytes,
            _ => &[],
        }
    }

    /// $STANDARD_INFORMATION: four times, 0x20 file attributes, 0x34 security id.
    pub(crate) fn times(&self) -> [i64; 4] {
        let value = self.value(STANDARD_INFORMATION);
        [0, 8, 16, 24].map(|at| le64(value, at) as i64)
    }

    pub(crate) fn file_attributes(&self) -> u32 {
        le32(self.value(STANDARD_INFORMATION), 0x20)
    }

    /// The security descriptor in `$Secure`; `None` for volumes of NT 4, whose files carry their own.
    pub(crate) fn security_id(&self) -> Option<u32> {
        let value = self.value(STANDARD_INFORMATION);
        (value.len() >= 0x48).then(|| le32(value, 0x34))
    }

    /// Names it has, not counting those for DOS only.
    pub(crate) fn links(&self) -> u32 {
        let names = self.attributes.iter().filter(|a| a.kind == FILE_NAME);
        let long = names.filter(|a| match &a.stream {
            Stream::Resident(value) => u8_at(value, 0x41) != DOS_ONLY,
            Stream::Runs { .. } => false,
        });
        long.count() as u32
    }
}

/// A time of Windows in seconds since 1970.
pub(crate) fn seconds(ticks: i64) -> i64 {
    ticks.div_euclid(10_000_000) - EPOCH
}

impl<D: BlockRead> Volume<D> {
    /// The file with base record `number`; `sequence` is how often the record was taken for a new file
    /// when something came to refer to it, 0 where that is not known.
    pub(crate) fn file(&self, number: u64, sequence: u16) -> Result<File> {
        let record = self.record(number)?;
        if sequence != 0 && record.sequence() != sequence {
            return Err(Fault::Damage(format!(
                "record {number}: expected its use number {sequence}, found {}",
                record.sequence()
            )));
        }
        if record.base() != 0 {
            return Err(Fault::Damage(format!(
                "record {number}: expected a file, found a part of record {}",
                record.base()
            )));
        }
        let is_directory = record.is_directory();
        let attributes = match self.list_of(&record)? {
            None => {
                let whole = record.attributes().map(|a| self.named(&a));
                whole.collect::<Result<_>>()?
            }
            Some(list) => self.gather(number, record, &list)?,
        };
        Ok(File {
            number,
            is_directory,
            attributes,
        })
    }

    /// The attributes of a file with an attribute list, each put together of its parts.
    fn gather(&self, number: u64, base: Record, list: &[u8]) -> Result<Vec<Named>> {
        let mut entries = attribute_list(list);
        entries.dedup();
        let mut records = BTreeMap::from([(number, base)]);
        let mut found: Vec<Named> = Vec::new();
        for entry in entries.iter().filter(|e| e.kind != ATTRIBUTE_LIST) {
            let record = match records.entry(entry.record) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    let part = self.record(entry.record)?;
                    if part.base() != number {
                        return Err(Fault::Damage(format!(
                            "record {}: expected a part of record {number}, found one of {}",
                            entry.record,
                            part.base()
                        )));
                    }
                    new.insert(part)
                }
            };
            let part = record
                .attributes()
                .find(|a| {
                    a.kind() == entry.kind && a.id() == entry.id && a.first_vcn() == entry.vcn
                })
                .filter(|a| a.name() == entry.name);
            let Some(part) = part else {
                return Err(Fault::Damage(format!(
                    "record {}: no attribute {:#x} number {} from cluster {} on",
                    entry.record, entry.kind, entry.id, entry.vcn
                )));
            };
            if entry.vcn == 0 {
                found.push(self.named(&part)?);
                continue;
            }
            // The parts of one attribute follow each other in the list.
            match found.last_mut() {
                Some(Named {
                    kind,
                    name,
                    stream: Stream::Runs { runs, .. },
                    ..
                }) if *kind == entry.kind && *name == entry.name => {
                    part.add_runs(runs, self.boot.clusters)?;
                }
                _ => {
                    return Err(Fault::Damage(format!(
                        "record {number}: attribute {:#x} has no beginning",
                        entry.kind
                    )));
                }
            }
        }
        Ok(found)
    }

    fn named(&self, part: &Attribute) -> Result<Named> {
        Ok(Named {
            kind: part.kind(),
            name: part.name(),
            flags: part.flags(),
            unit: part.unit(),
            stream: self.stream_of(part)?,
        })
    }
}
