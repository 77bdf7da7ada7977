//! What the bytes of NTFS mean. No I/O. All numbers are little-endian.
//!
//! After the "NTFS Documentation" of the Linux-NTFS project and Microsoft's published structures; the
//! names are theirs.

use crate::bytes::{array, le16, le32, le64, slice, u8_at};

/// Logical cluster number.
pub(crate) type Lcn = u64;

/// Numbers of records with a fixed meaning.
pub(crate) const MFT: u64 = 0;
pub(crate) const LOG_FILE: u64 = 2;
pub(crate) const VOLUME: u64 = 3;
pub(crate) const ROOT: u64 = 5;
pub(crate) const BITMAP: u64 = 6;

pub(crate) const UPCASE: u64 = 10;
/// The first record that is not one of the system's own. // FILE_first_user
pub(crate) const FIRST_USER: u64 = 16;

/// Types of attributes.
pub(crate) const STANDARD_INFORMATION: u32 = 0x10;
pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
pub(crate) const FILE_NAME: u32 = 0x30;
pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
pub(crate) const DATA: u32 = 0x80;
pub(crate) const INDEX_ROOT: u32 = 0x90;
pub(crate) const INDEX_ALLOCATION: u32 = 0xA0;
pub(crate) const REPARSE_POINT: u32 = 0xC0;
pub(crate) const EA: u32 = 0xE0;

/// The 48 bits of a reference that are the number of a record; those above count its uses.
pub(crate) const NUMBER: u64 = 0xFFFF_FFFF_FFFF;

/// Fixups protect each 512 bytes, whatever the sector size.
pub(crate) const STRIDE: usize = 512;
/// Most records of a run list that are kept for one file (24 bytes each).
const MOST_RUNS: usize = 4 << 20;

/// Most clusters of a file: with clusters of 2 MiB, its length still fits into 64 bits.
const MOST_VCN: u64 = 1 << 42;

/// Bytes per cluster from a boot sector's count of sectors; from 0x81 on NTFS writes it as a negative
/// power of two, as Windows 10 does for clusters above 64 KiB.
pub(crate) fn cluster_size(sector: u64, count: u8) -> Option<u64> {
    match count {
        0 => None,
        1..=0x80 => Some(sector * u64::from(count)),
        _ => 1_u64
            .checked_shl(256 - u32::from(count))
            .and_then(|n| sector.checked_mul(n)),
    }
}

/// The boot sector.
/// Offsets: 3 "NTFS    ", 11 sector size, 13 sectors of a cluster, 0x28 sectors, 0x30 first cluster of
/// the MFT, 0x40 size of a record.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
    pub(crate) cluster: u64,
    pub(crate) clusters: u64,
    pub(crate) mft: Lcn,
    pub(crate) record: usize,
}

impl Boot {
    pub(crate) fn parse(raw: &[u8], disk_size: u64) -> Result<Self, String> {
        let fault = |what: &str, expected: &str, found: u64| {
            Err(format!(
                "NTFS boot sector: {what}: expected {expected}, found {found}"
            ))
        };
        if slice(raw, 3, 8) != b"NTFS    " {
            return Err("NTFS boot sector: no signature".to_owned());
        }
        let sector = u64::from(le16(raw, 11));
        if !sector.is_power_of_two() || !(256..=4096).contains(&sector) {
            return fault("bytes per sector", "256 to 4096", sector);
        }
        let cluster = cluster_size(sector, u8_at(raw, 13));
        let Some(cluster) = cluster.filter(|c| c.is_power_of_two() && *c <= 2 << 20) else {
            return fault(
                "sectors per cluster",
                "a power of two up to 2 MiB",
                u8_at(raw, 13).into(),
            );
        };
        let sectors = le64(raw, 0x28);
        let most = disk_size / sector;
        if sectors == 0 || sectors > most {
            return fault("sectors", &format!("1 to {most}"), sectors);
        }
        let record = match i8::from_le_bytes(array(raw, 0x40)) {
            n if n > 0 => cluster.saturating_mul(n as u64),
            n => 1_u64.checked_shl(u32::from(n.unsigned_abs())).unwrap_or(0),
        };
        if !record.is_power_of_two() || !(512..=65_536).contains(&record) {
            return fault("record size", "512 to 65536", record);
        }
        let boot = Self {
            sector,
            sectors,
            cluster,
            clusters: sectors * sector / cluster,
            mft: le64(raw, 0x30),
            record: record as usize,
        };
        if boot.mft == 0 || boot.mft >= boot.clusters {
            return fault(
                "first cluster of the MFT",
                &format!("1 to {}", boot.clusters),
                boot.mft,
            );
        }
        Ok(boot)
    }
}

/// Undo the fixups of a record, a page of the log or an index block: the last two bytes of each 512 hold
/// a number that tells whether all of them were written together.
pub(crate) fn undo_fixups(bytes: &mut [u8], what: &str) -> Result<(), String> {
    let (at, count) = (usize::from(le16(bytes, 4)), usize::from(le16(bytes, 6)));
    let strides = bytes.len() / STRIDE;
    if count != strides + 1 || at + count * 2 > bytes.len() || at % 2 != 0 {
        return Err(format!(
            "{what}: fixups: expected {} at most, found {count} at {at}",
            strides + 1
        ));
    }
    let number = le16(bytes, at);
    for stride in 0..strides {
        let place = (stride + 1) * STRIDE - 2;
        let found = le16(bytes, place);
        if found != number {
            return Err(format!(
                "{what}: torn: expected {number:#x} at byte {place}, found {found:#x}"
            ));
        }
        let kept: [u8; 2] = array(bytes, at + 2 + stride * 2);
        crate::bytes::put(bytes, place, &kept);
    }
    Ok(())
}

/// A record of the MFT with its fixups undone.
/// Offsets: 0 "FILE", 0x14 first attribute, 0x16 flags, 0x18 bytes in use, 0x20 base record.
#[derive(Debug)]
pub(crate) struct Record {
    raw: Vec<u8>,
    number: u64,
}

impl Record {
    pub(crate) fn parse(mut raw: Vec<u8>, number: u64) -> Result<Self, String> {
        if slice(&raw, 0, 4) != b"FILE" {
            return Err(format!(
                "record {number}: magic: expected FILE, found {:02x?}",
                slice(&raw, 0, 4)
            ));
        }
        undo_fixups(&mut raw, &format!("record {number}"))?;
        if le16(&raw, 0x16) & 1 == 0 {
            return Err(format!("record {number}: is not in use"));
        }
        Ok(Self { raw, number })
    }

    /// How often this record was taken for a new file.
    pub(crate) fn sequence(&self) -> u16 {
        le16(&self.raw, 0x10)
    }

    pub(crate) fn is_directory(&self) -> bool {
        le16(&self.raw, 0x16) & 2 != 0
    }

    /// The record it continues; 0 for one that stands for itself.
    pub(crate) fn base(&self) -> u64 {
        le64(&self.raw, 0x20) & NUMBER
    }

    /// Its attributes, in order; a damaged one ends them.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = Attribute<'_>> {
        let mut at = usize::from(le16(&self.raw, 0x14));
        let used = (le32(&self.raw, 0x18) as usize).min(self.raw.len());
        std::iter::from_fn(move || {
            let len = le32(&self.raw, at + 4) as usize;
            if at < 0x2A
                || at + 16 > used
                || le32(&self.raw, at) == u32::MAX
                || len < 16
                || at + len > used
            {
                return None;
            }
            let raw = slice(&self.raw, at, len);
            at += len;
            Some(Attribute {
                raw,
                record: self.number,
            })
        })
    }

    /// The attribute of this type and name that begins at `vcn`.
    pub(crate) fn attribute(&self, kind: u32, name: &str, vcn: u64) -> Option<Attribute<'_>> {
        self.attributes()
            .find(|a| a.kind() == kind && a.is_named(name) && a.first_vcn() == vcn)
    }
}

/// An attribute of a record.
/// Offsets: 0 type, 4 length, 8 non-resident, 9 name length, 10 name; resident: 0x10 value length, 0x14
/// value; else: 0x10 first VCN, 0x18 last VCN, 0x20 runs, 0x28 allocated, 0x30 size, 0x38 valid size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub(crate) raw: &'a [u8],
    pub(crate) record: u64,
}

impl<'a> Attribute<'a> {
    pub(crate) fn kind(&self) -> u32 {
        le32(self.raw, 0)
    }

    pub(crate) fn is_resident(&self) -> bool {
        u8_at(self.raw, 8) == 0
    }

    pub(crate) fn name(&self) -> Vec<u16> {
        let len = usize::from(u8_at(self.raw, 9)) * 2;
        utf16(slice(self.raw, usize::from(le16(self.raw, 10)), len))
    }

    /// 0x0001 compressed, 0x4000 encrypted, 0x8000 sparse.
    pub(crate) fn flags(&self) -> u16 {
        le16(self.raw, 12)
    }

    /// Number that tells attributes of one record apart.
    pub(crate) fn id(&self) -> u16 {
        le16(self.raw, 14)
    }

    /// Power of two of the clusters that are compressed together.
    pub(crate) fn unit(&self) -> u8 {
        match self.is_resident() {
            true => 0,
            false => u8_at(self.raw, 0x22),
        }
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        let len = usize::from(u8_at(self.raw, 9)) * 2;
        is_utf16(
            slice(self.raw, usize::from(le16(self.raw, 10)), len),
            len,
            name,
        )
    }

    pub(crate) fn first_vcn(&self) -> u64 {
        if self.is_resident() {
            0
        } else {
            le64(self.raw, 0x10)
        }
    }

    /// The value of a resident one.
    pub(crate) fn value(&self) -> &'a [u8] {
        match self.is_resident() {
            true => slice(
                self.raw,
                usize::from(le16(self.raw, 0x14)),
                le32(self.raw, 0x10) as usize,
            ),
            false => &[],
        }
    }

    /// Length of the whole value, and how much of it was written.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        match self.is_resident() {
            true => (self.value().len() as u64, self.value().len() as u64),
            false => (le64(self.raw, 0x30), le64(self.raw, 0x38)),
        }
    }

    /// Append the runs of a non-resident one to `runs`, which end where it begins.
    pub(crate) fn add_runs(&self, runs: &mut Vec<Run>, clusters: u64) -> Result<(), String> {
        let vcn = self.first_vcn();
        let end = runs.last().map_or(0, |run| run.vcn + run.count);
        if self.is_resident() || vcn != end {
            return Err(format!(
                "record {}: runs: expected to begin at {end}, found {vcn}",
                self.record
            ));
        }
        self.decode_runs(runs, clusters)
    }

    /// The runs of this part alone, of a non-resident one.
    pub(crate) fn own_runs(&self, clusters: u64) -> Result<Vec<Run>, String> {
        let mut runs = Vec::new();
        if !self.is_resident() {
            self.decode_runs(&mut runs, clusters)?;
        }
        Ok(runs)
    }

    fn decode_runs(&self, runs: &mut Vec<Run>, clusters: u64) -> Result<(), String> {
        let fault = |what: String| Err(format!("record {}: runs: {what}", self.record));
        let mut at = usize::from(le16(self.raw, 0x20));
        let mut vcn = self.first_vcn();
        let mut lcn = 0_i64;
        loop {
            let head = u8_at(self.raw, at);
            let (count_len, lcn_len) = (usize::from(head & 15), usize::from(head >> 4));
            if head == 0 || at >= self.raw.len() {
                break;
            }
            let count = signed(slice(self.raw, at + 1, count_len));
            let delta = signed(slice(self.raw, at + 1 + count_len, lcn_len));
            let count = u64::try_from(count).unwrap_or(0);
            if count_len > 8 || lcn_len > 8 || count == 0 || count > clusters || vcn > MOST_VCN {
                return fault(format!("{count} clusters at cluster {vcn} of the file"));
            }
            lcn = lcn.wrapping_add(delta);
            let start = u64::try_from(lcn)
                .ok()
                .filter(|lcn| lcn.saturating_add(count) <= clusters);
            let lcn = match (lcn_len, start) {
                // A hole.
                (0, _) => None,
                (_, Some(start)) => Some(start),
                (_, None) => {
                    return fault(format!(
                        "{count} clusters at {lcn}, expected below {clusters}"
                    ));
                }
            };
            if runs.len() >= MOST_RUNS {
                return fault(format!("more than {MOST_RUNS}"));
            }
            runs.push(Run { vcn, lcn, count });
            vcn += count;
            at += 1 + count_len + lcn_len;
        }
        let expected = le64(self.raw, 0x18).wrapping_add(1);
        if vcn != expected {
            return fault(format!("expected to end at {expected}, found {vcn}"));
        }
        Ok(())
    }
}

/// The bytes that tell these runs, of which the first begins where the part does, with the 0 that ends
/// them. Runs that follow each other are told as one.
pub(crate) fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut last = 0_i64;
    for run in joined(runs) {
        let count = signed_bytes(run.count as i64);
        let delta = match run.lcn {
            Some(lcn) => {
                let delta = lcn as i64 - last;
                last = lcn as i64;
                signed_bytes(delta)
            }
            None => Vec::new(),
        };
        bytes.push((delta.len() << 4 | count.len()) as u8);
        bytes.extend(count);
        bytes.extend(delta);
    }
    bytes.push(0);
    bytes
}

/// The same runs, those that follow each other joined.
pub(crate) fn joined(runs: &[Run]) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match out.last_mut() {
            Some(last)
                if last.lcn.map(|lcn| lcn + last.count) == run.lcn
                    || (last.lcn, run.lcn) == (None, None) =>
            {
                last.count += run.count;
            }
            _ => out.push(*run),
        }
    }
    out
}

/// A number in as few bytes as hold it and its sign.
fn signed_bytes(number: i64) -> Vec<u8> {
    let bytes = number.to_le_bytes();
    let is_enough = |len: &usize| signed(slice(&bytes, 0, *len)) == number;
    let len = (1..8).find(is_enough).unwrap_or(8);
    slice(&bytes, 0, len).to_vec()
}

/// Whether `len` bytes of UTF-16 are `text`, which is ASCII.
fn is_utf16(bytes: &[u8], len: usize, text: &str) -> bool {
    bytes.len() == len
        && len == text.len() * 2
        && bytes
            .chunks_exact(2)
            .zip(text.bytes())
            .all(|(unit, byte)| unit == [byte, 0])
}

/// A little-endian number of up to 8 bytes, with its sign.
fn signed(bytes: &[u8]) -> i64 {
    let mut raw = match bytes.last() {
        Some(last) if last & 0x80 != 0 => [0xFF; 8],
        _ => [0; 8],
    };
    raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    i64::from_le_bytes(raw)
}

/// A run of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// First cluster within the file.
    pub(crate) vcn: u64,
    /// Where it lies; `None` for a hole.
    pub(crate) lcn: Option<Lcn>,
    pub(crate) count: u64,
}

/// An entry of an attribute list: which attribute, from which cluster on, is in which record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListEntry {
    pub(crate) kind: u32,
    pub(crate) name: Vec<u16>,
    pub(crate) vcn: u64,
    pub(crate) id: u16,
    pub(crate) record: u64,
}

/// The entries of an attribute list; a damaged one ends them.
/// Offsets: 0 type, 4 length, 6 name length, 7 name, 8 first VCN, 16 record, 24 number.
pub(crate) fn attribute_list(list: &[u8]) -> Vec<ListEntry> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let len = usize::from(le16(list, at + 4));
        if len < 26 || at + len > list.len() {
            break;
        }
        let entry = slice(list, at, len);
        let name_len = usize::from(u8_at(entry, 6)) * 2;
        found.push(ListEntry {
            kind: le32(entry, 0),
            name: utf16(slice(entry, u8_at(entry, 7).into(), name_len)),
            vcn: le64(entry, 8),
            id: le16(entry, 24),
            record: le64(entry, 16) & NUMBER,
        });
        at += len;
    }
    found
}

/// The entries of an attribute list that are about `kind` and `name`: where each begins, and its record.
pub(crate) fn list_entries(list: &[u8], kind: u32, name: &str) -> Vec<(u64, u64)> {
    let mut found: Vec<_> = attribute_list(list)
        .into_iter()
        .filter(|e| e.kind == kind && e.name.iter().copied().eq(name.encode_utf16()))
        .map(|e| (e.vcn, e.record))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The code units in `bytes`.
pub(crate) fn utf16(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| le16(pair, 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_decoded_with_their_signs_and_held_against_the_volume() {
        let mut raw = vec![0; 0x60];
        crate::bytes::put(&mut raw, 8, &[1]);
        crate::bytes::put_le16(&mut raw, 0x20, 0x40);
        crate::bytes::put(&mut raw, 0x18, &(0x18_u64 + 0x20 + 8 - 1).to_le_bytes());
        // Linux-NTFS "Data runs": 24 clusters at 0x5634, 32 as hole, 8 some before.
        crate::bytes::put(
            &mut raw,
            0x40,
            &[0x21, 0x18, 0x34, 0x56, 0x01, 0x20, 0x11, 0x08, 0xF0, 0],
        );
        let attribute = Attribute {
            raw: &raw,
            record: 9,
        };
        let mut runs = Vec::new();
        attribute.add_runs(&mut runs, 0x6000).unwrap();
        let run = |vcn, lcn, count| Run { vcn, lcn, count };
        assert_eq!(
            runs,
            [
                run(0, Some(0x5634), 24),
                run(24, None, 32),
                run(56, Some(0x5624), 8)
            ]
        );
        assert!(attribute.add_runs(&mut Vec::new(), 0x5600).is_err());
        assert!(
            attribute.add_runs(&mut runs, 0x6000).is_err(),
            "does not begin where the others end"
        );
    }

    #[test]
    fn runs_are_encoded_as_they_are_decoded() {
        let run = |vcn, lcn, count| Run { vcn, lcn, count };
        let runs = [
            run(0, Some(0x5634), 24),
            run(24, None, 32),
            run(56, Some(0x5624), 8),
        ];
        let bytes = [0x21, 0x18, 0x34, 0x56, 0x01, 0x20, 0x11, 0x08, 0xF0, 0];
        assert_eq!(encode_runs(&runs), bytes);
        let halves = [
            run(0, Some(0x5634), 20),
            run(20, Some(0x5648), 4),
            runs[1],
            runs[2],
        ];
        assert_eq!(encode_runs(&halves), bytes, "joined");
        // A count of 128 needs two bytes, or it would be negative.
        assert_eq!(encode_runs(&[run(0, Some(1), 128)]), [0x12, 0x80, 0, 1, 0]);
    }

    #[test]
    fn torn_records_are_told_by_their_fixups() {
        let mut raw = vec![0; 1024];
        crate::bytes::put_le16(&mut raw, 4, 0x30);
        crate::bytes::put_le16(&mut raw, 6, 3);
        crate::bytes::put(&mut raw, 0x30, &[7, 0, 0xAA, 0xBB, 0xCC, 0xDD]);
        crate::bytes::put(&mut raw, 510, &[7, 0]);
        crate::bytes::put(&mut raw, 1022, &[7, 0]);
        let mut torn = raw.clone();
        undo_fixups(&mut raw, "x").unwrap();
        assert_eq!(
            (&raw[510..512], &raw[1022..]),
            (&[0xAA, 0xBB][..], &[0xCC, 0xDD][..])
        );
        torn[1022] = 6;
        assert!(undo_fixups(&mut torn, "x").unwrap_err().contains("torn"));
    }
}
