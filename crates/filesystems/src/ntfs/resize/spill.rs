//! Runs that became too many for their record: the rest of them goes into further records, which the
//! file's attribute list names.

use block_io::BlockRead;

use super::super::format::{
    ATTRIBUTE_LIST, Attribute, FIRST_USER, NUMBER, Run, STRIDE, attribute_list, encode_runs, joined,
};
use super::super::volume::{Stream, Volume};
use super::bits::{Bits, Free};
use super::records::{END_LEN, Editable, set_sizes, with_runs};
use super::scan::records_in_use;
use super::shrink::Plan;
use crate::bytes::{array, le16, le64, put, put_le16, put_le32, slice, u8_at};
use crate::fault::Result;

/// The first record that is given to files; those before are kept for the system.
const FIRST_FREE: u64 = 24;
/// Bytes of a non-resident attribute before its name, where it does not begin the attribute.
const HEADER: usize = 0x40;
/// Kept in a base record for its attribute list: the header, and one or two runs.
const LIST_LEN: usize = 0x58;

/// Records that are free, and those that were taken.
pub(super) struct Supply {
    in_use: Vec<u8>,
    next: u64,
    count: u64,
    pub(super) taken: Vec<u64>,
}

impl Supply {
    pub(super) fn new<D: BlockRead>(volume: &Volume<D>) -> Result<Self> {
        Ok(Self {
            in_use: records_in_use(volume)?,
            next: FIRST_FREE,
            count: volume.mft_size / volume.boot.record as u64,
            taken: Vec::new(),
        })
    }

    fn take(&mut self) -> Option<u64> {
        while self.next < self.count {
            let number = self.next;
            self.next += 1;
            let byte = self.in_use.get((number / 8) as usize)?;
            if byte >> (number % 8) & 1 == 0 {
                self.taken.push(number);
                return Some(number);
            }
        }
        None
    }

    /// The bytes of the bitmap of records that changed, and where they lie in it.
    pub(super) fn bitmap(&self) -> Vec<(u64, u8)> {
        let mut bits = self.in_use.clone();
        for number in &self.taken {
            if let Some(byte) = bits.get_mut((number / 8) as usize) {
                *byte |= 1 << (number % 8);
            }
        }
        let mut places: Vec<u64> = self.taken.iter().map(|number| number / 8).collect();
        places.dedup();
        places
            .into_iter()
            .map(|at| (at, u8_at(&bits, at as usize)))
            .collect()
    }
}

/// What a file becomes whose runs need more records.
pub(super) struct Spilled {
    pub(super) records: Vec<Editable>,
    /// Its attribute list, and where that lies afterwards.
    pub(super) list: Vec<u8>,
    pub(super) list_runs: Vec<Run>,
}

/// Where clusters and records come from.
pub(super) struct Stores<'a> {
    pub(super) free: &'a mut Free,
    pub(super) used: &'a mut Bits,
    pub(super) supply: &'a mut Supply,
}

/// Lay the file with base record `base` out anew, of which `over` are the records that became too full; or
/// why that cannot be done.
pub(super) fn spill<D: BlockRead>(
    volume: &Volume<D>,
    plan: &Plan,
    stores: &mut Stores,
    base: u64,
    over: &[u64],
) -> Result<Result<Spilled, String>> {
    // The volume's own files are found without their lists.
    if base < FIRST_USER {
        return Ok(Err(format!(
            "record {base}: a file of the system would be in too many pieces"
        )));
    }
    let record = volume.editable(base)?;
    let list = match record.attributes().find(|a| a.kind() == ATTRIBUTE_LIST) {
        Some(list) => entries(&volume.list_value(&list)?),
        None => record
            .attributes()
            .map(|a| entry(&a, record.reference()))
            .collect(),
    };
    let mut layout = Layout {
        volume,
        base: record,
        list,
        records: Vec::new(),
        kept: Vec::new(),
    };
    let mut numbers = over.to_vec();
    if !numbers.contains(&base) {
        numbers.push(base);
    }
    for number in numbers {
        if let Err(why) = layout.shorten(plan, stores, number)? {
            return Ok(Err(why));
        }
    }
    layout.finish(plan, stores)
}

/// A file that is being laid out anew.
struct Layout<'a, D> {
    volume: &'a Volume<D>,
    base: Editable,
    /// Entries of its attribute list.
    list: Vec<Vec<u8>>,
    /// Records that are done.
    records: Vec<Editable>,
    /// What stays in the base record, but for the list.
    kept: Vec<Vec<u8>>,
}

impl<D: BlockRead> Layout<'_, D> {
    /// Leave in record `number` what it has room for.
    fn shorten(
        &mut self,
        plan: &Plan,
        stores: &mut Stores,
        number: u64,
    ) -> Result<Result<(), String>> {
        let record = self.volume.editable(number)?;
        let is_base = number == self.base.number;
        let mut attributes = plan.moved_attributes(self.volume, &record)?;
        if is_base {
            attributes.retain(|raw| kind(raw) != ATTRIBUTE_LIST);
        }
        let room = record.room() - if is_base { LIST_LEN } else { 0 };
        loop {
            let all: usize = attributes.iter().map(Vec::len).sum();
            if all <= room {
                break;
            }
            let in_clusters = attributes.iter_mut().filter(|raw| u8_at(raw, 8) != 0);
            let Some(largest) = in_clusters.max_by_key(|raw| raw.len()) else {
                return Ok(Err(format!(
                    "record {number}: no room for an attribute list"
                )));
            };
            let budget = room.saturating_sub(all - largest.len());
            let attribute = Attribute {
                raw: largest,
                record: number,
            };
            let runs = joined(&attribute.own_runs(self.volume.boot.clusters)?);
            let head = fitting(&runs, usize::from(le16(largest, 0x20)), budget, &attribute);
            let Some((head, rest)) = head.filter(|(_, rest)| !rest.is_empty()) else {
                return Ok(Err(format!("record {number}: no room for one run")));
            };
            let at = position(&self.list, &attribute, record.reference());
            if let Err(why) = self.continue_in_others(stores, &attribute, at, rest)? {
                return Ok(Err(why));
            }
            *largest = with_runs(&attribute, &head);
        }
        if is_base {
            self.kept = attributes;
        } else if let Some(record) = record.rebuilt(&attributes) {
            self.records.push(record);
        }
        Ok(Ok(()))
    }

    /// Put the runs into further records; `at` is the entry of the part before them.
    fn continue_in_others(
        &mut self,
        stores: &mut Stores,
        attribute: &Attribute,
        mut at: usize,
        mut runs: Vec<Run>,
    ) -> Result<Result<(), String>> {
        let template = tail(attribute);
        let start = usize::from(le16(&template, 0x20));
        while !runs.is_empty() {
            let Some(new) = stores.supply.take() else {
                return Ok(Err("no free record in the MFT".to_owned()));
            };
            let part = Attribute {
                raw: &template,
                record: new,
            };
            let extension = Editable::extension(self.volume, new, self.base.reference())?;
            let Some((these, left)) = fitting(&runs, start, extension.room(), &part) else {
                return Ok(Err(format!("record {new}: no room for one run")));
            };
            let mut raw = with_runs(&part, &these);
            let first = these.first().map_or(0, |run| run.vcn);
            put(&mut raw, 0x10, &first.to_le_bytes());
            let part = Attribute {
                raw: &raw,
                record: new,
            };
            at += 1;
            let told = entry(&part, extension.reference());
            self.list.insert(at.min(self.list.len()), told);
            let Some(extension) = extension.rebuilt(std::slice::from_ref(&raw)) else {
                return Ok(Err(format!("record {new}: too small")));
            };
            self.records.push(extension);
            runs = left;
        }
        Ok(Ok(()))
    }

    /// Place the list, in its old clusters or in new ones, and put it into the base record.
    fn finish(mut self, plan: &Plan, stores: &mut Stores) -> Result<Result<Spilled, String>> {
        let cluster = self.volume.boot.cluster;
        let list = self.list.concat();
        let len = list.len() as u64;
        let needed = len.div_ceil(cluster);
        let old = self.base.attributes().find(|a| a.kind() == ATTRIBUTE_LIST);
        let list_runs = match old.filter(|old| !old.is_resident()) {
            Some(old) => plan.moved_runs(&old.own_runs(self.volume.boot.clusters)?),
            None => match stores.free.take(needed) {
                Some(range) if range.end - range.start == needed => {
                    stores.used.add(range.clone());
                    vec![Run {
                        vcn: 0,
                        lcn: Some(range.start),
                        count: needed,
                    }]
                }
                _ => return Ok(Err("no place for an attribute list".to_owned())),
            },
        };
        let clusters: u64 = list_runs.iter().map(|run| run.count).sum();
        let id = old.map_or(self.base.next_id(), |a| a.id());
        let mut raw = list_attribute(id, &list_runs);
        set_sizes(&mut raw, clusters * cluster, len, len);
        let base = self.base.number;
        if clusters < needed || raw.len() > LIST_LEN || len > 256 << 10 {
            return Ok(Err(format!(
                "record {base}: its attribute list would be too long"
            )));
        }
        let before = |raw: &&Vec<u8>| kind(raw) < ATTRIBUTE_LIST;
        let at = self.kept.iter().take_while(before).count();
        self.kept.insert(at, raw);
        let Some(record) = self.base.rebuilt(&self.kept) else {
            return Ok(Err(format!("record {base}: too small")));
        };
        self.records.push(record);
        Ok(Ok(Spilled {
            records: self.records,
            list,
            list_runs,
        }))
    }
}

/// An attribute list in clusters, its sizes yet to come.
fn list_attribute(id: u16, runs: &[Run]) -> Vec<u8> {
    let mut raw = vec![0; HEADER];
    put_le32(&mut raw, 0, ATTRIBUTE_LIST);
    put(&mut raw, 8, &[1, 0]);
    put_le16(&mut raw, 10, HEADER as u16);
    put_le16(&mut raw, 14, id);
    put_le16(&mut raw, 0x20, HEADER as u16);
    let attribute = Attribute {
        raw: &raw,
        record: 0,
    };
    with_runs(&attribute, runs)
}

fn kind(raw: &[u8]) -> u32 {
    crate::bytes::le32(raw, 0)
}

/// As many of the runs as an attribute of at most `budget` bytes holds behind its first `start`, and the
/// rest. Clusters that are compressed together stay together.
fn fitting(
    runs: &[Run],
    start: usize,
    budget: usize,
    attribute: &Attribute,
) -> Option<(Vec<Run>, Vec<Run>)> {
    let unit = 1_u64.checked_shl(attribute.unit().into())?;
    let len = |runs: &[Run]| (start + encode_runs(runs).len()).next_multiple_of(8);
    let mut count = 0;
    while count < runs.len() && len(runs.get(..=count)?) <= budget {
        count += 1;
    }
    while count < runs.len() && runs.get(count).is_some_and(|next| next.vcn % unit != 0) {
        count = count.checked_sub(1)?;
    }
    let (head, rest) = runs.split_at(count);
    (count > 0).then(|| (head.to_vec(), rest.to_vec()))
}

/// The attribute as a part that does not begin it, its runs yet to come.
fn tail(attribute: &Attribute) -> Vec<u8> {
    let name = usize::from(u8_at(attribute.raw, 9)) * 2;
    let name = slice(attribute.raw, le16(attribute.raw, 10).into(), name);
    let mut raw = slice(attribute.raw, 0, HEADER).to_vec();
    set_sizes(&mut raw, 0, 0, 0);
    put_le16(&mut raw, 10, HEADER as u16);
    // The only one of its record.
    put_le16(&mut raw, 14, 0);
    raw.extend(name);
    raw.resize(raw.len().next_multiple_of(8), 0);
    let start = raw.len() as u16;
    put_le16(&mut raw, 0x20, start);
    raw
}

/// The entry of an attribute in its file's list. Offsets: 0 type, 4 length, 6 name length, 7 name, 8 first
/// VCN, 16 record, 24 number.
fn entry(attribute: &Attribute, reference: u64) -> Vec<u8> {
    let name_len = u8_at(attribute.raw, 9);
    let name = slice(
        attribute.raw,
        le16(attribute.raw, 10).into(),
        usize::from(name_len) * 2,
    );
    let mut raw = vec![0; 26];
    put_le32(&mut raw, 0, attribute.kind());
    put(&mut raw, 6, &[name_len, 26]);
    put(&mut raw, 8, &attribute.first_vcn().to_le_bytes());
    put(&mut raw, 16, &reference.to_le_bytes());
    put_le16(&mut raw, 24, attribute.id());
    raw.extend(name);
    raw.resize(raw.len().next_multiple_of(8), 0);
    let len = raw.len() as u16;
    put_le16(&mut raw, 4, len);
    raw
}

/// The entries of a list, as they are.
fn entries(list: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut at = 0;
    for _ in attribute_list(list) {
        let len = usize::from(le16(list, at + 4));
        found.push(slice(list, at, len).to_vec());
        at += len;
    }
    found
}

/// Which entry of the list is that of `attribute` in the record `reference`.
fn position(list: &[Vec<u8>], attribute: &Attribute, reference: u64) -> usize {
    let wanted = (attribute.kind(), reference & NUMBER, attribute.id());
    let at = list
        .iter()
        .position(|raw| (kind(raw), le64(raw, 16) & NUMBER, le16(raw, 24)) == wanted);
    at.unwrap_or(list.len())
}

impl Editable {
    /// An empty record that continues the file `base`.
    fn extension<D: BlockRead>(volume: &Volume<D>, number: u64, base: u64) -> Result<Self> {
        let size = volume.boot.record;
        let mut raw = vec![0; size];
        volume.read_runs(&volume.mft, number * size as u64, &mut raw, "the MFT")?;
        // A record that was used before goes on counting its uses.
        let sequence = match slice(&raw, 0, 4) {
            b"FILE" => le16(&raw, 0x10).max(1),
            _ => 1,
        };
        let strides = size / STRIDE;
        let first = (0x30 + 2 * (strides + 1)).next_multiple_of(8);
        raw.fill(0);
        put(&mut raw, 0, b"FILE");
        put_le16(&mut raw, 4, 0x30);
        put_le16(&mut raw, 6, strides as u16 + 1);
        put_le16(&mut raw, 0x10, sequence);
        put_le16(&mut raw, 0x14, first as u16);
        put_le16(&mut raw, 0x16, 1);
        put_le32(&mut raw, 0x1C, size as u32);
        put(&mut raw, 0x20, &base.to_le_bytes());
        put_le16(&mut raw, 0x28, 1);
        put_le32(&mut raw, 0x2C, number as u32);
        Ok(Self::empty(number, raw))
    }

    /// What refers to this record: its number, and how often it was used.
    fn reference(&self) -> u64 {
        self.number | u64::from(u16::from_le_bytes(array(self.raw(), 0x10))) << 48
    }

    fn next_id(&self) -> u16 {
        le16(self.raw(), 0x28)
    }

    /// Bytes there are for attributes.
    fn room(&self) -> usize {
        let first = usize::from(le16(self.raw(), 0x14));
        self.raw().len().saturating_sub(first + END_LEN)
    }
}

impl<D: BlockRead> Volume<D> {
    /// The attribute list in this attribute.
    fn list_value(&self, list: &Attribute) -> Result<Vec<u8>> {
        match self.stream_of(list)? {
            Stream::Resident(bytes) => Ok(bytes),
            Stream::Runs { runs, size, .. } => {
                let mut bytes = vec![0; size.min(256 << 10) as usize];
                self.read_runs(&runs, 0, &mut bytes, "an attribute list")?;
                Ok(bytes)
            }
        }
    }
}
