//! Names: code units of 16 bits on the disk, bytes in a path, and the order of an index.

use std::cmp::Ordering;

use block_io::BlockRead;

use super::format::{DATA, UPCASE, utf16};
use super::volume::{Stream, Volume};
use crate::fault::{Fault, Result};

/// Bytes of a whole `$UpCase`: one code unit for each of 65,536.
const WHOLE: u64 = 128 << 10;

/// Which upper-case letter stands for each code unit: names are ordered and found by these.
pub(crate) struct UpCase(Vec<u16>);

impl UpCase {
    pub(crate) fn read<D: BlockRead>(volume: &Volume<D>) -> Result<Self> {
        let bytes = match volume.stream(UPCASE, DATA, "")? {
            Some(Stream::Resident(bytes)) => bytes,
            Some(Stream::Runs { runs, size, .. }) => {
                let mut bytes = vec![0; size.min(WHOLE) as usize];
                volume.read_runs(&runs, 0, &mut bytes, "$UpCase")?;
                bytes
            }
            None => return Err(Fault::Damage("record 10: $UpCase has no data".to_owned())),
        };
        Ok(Self(utf16(&bytes)))
    }

    fn upper(&self, unit: u16) -> u16 {
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    /// The order of two names, their case ignored. // COLLATION_FILE_NAME
    pub(crate) fn order(&self, a: &[u16], b: &[u16]) -> Ordering {
        let upper = |name: &[u16]| -> Vec<u16> { name.iter().map(|u| self.upper(*u)).collect() };
        // Most names differ early: nothing is collected for those.
        match (a.first(), b.first()) {
            (Some(x), Some(y)) if self.upper(*x) != self.upper(*y) => {
                self.upper(*x).cmp(&self.upper(*y))
            }
            _ => upper(a).cmp(&upper(b)),
        }
    }
}

/// A name as bytes: UTF-8, with each half of a pair that stands alone in three bytes of its own (WTF-8),
/// so that every name has one and no two share it.
pub(crate) fn to_bytes(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let n = lone.unpaired_surrogate();
                bytes.extend([0xED, 0x80 | (n >> 6 & 0x3F) as u8, 0x80 | (n & 0x3F) as u8]);
            }
        }
    }
    bytes
}

/// The code units of a name in bytes; `None` when no name of NTFS is written so.
pub(crate) fn to_units(name: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(name.len());
    let mut left = name;
    while !left.is_empty() {
        let (valid, rest) = match std::str::from_utf8(left) {
            Ok(all) => (all, &[][..]),
            Err(error) => {
                let (valid, rest) = left.split_at(error.valid_up_to());
                (std::str::from_utf8(valid).ok()?, rest)
            }
        };
        units.extend(valid.encode_utf16());
        left = match rest {
            [] => rest,
            [0xED, b @ 0xA0..=0xBF, c @ 0x80..=0xBF, rest @ ..] => {
                units.push(0xD000 | u16::from(b & 0x3F) << 6 | u16::from(c & 0x3F));
                rest
            }
            _ => return None,
        };
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_bytes_of_its_own_and_back() {
        for units in [
            &[0x41, 0xDC00, 0x42][..],
            &[0xD800, 0xD800, 0xDC00],
            &[0xDFFF],
            &[0xFC, 0x20AC, 0xD83D, 0xDE00],
        ] {
            assert_eq!(to_units(&to_bytes(units)).unwrap(), units);
        }
        assert_eq!(to_bytes(&[0xD83D, 0xDE00]), "😀".as_bytes());
        for bad in [&b"\xFF"[..], b"a\xED\x80", b"\xC3"] {
            assert!(to_units(bad).is_none());
        }
    }

    #[test]
    fn order_is_that_of_upper_case_and_shorter_names_come_first() {
        let table = UpCase(
            (0..0x80_u16)
                .map(|u| u8::to_ascii_uppercase(&(u as u8)).into())
                .collect(),
        );
        let name = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        for (a, b, expected) in [
            ("abc", "ABC", Ordering::Equal),
            ("ab", "ABC", Ordering::Less),
            ("_", "a", Ordering::Greater),
            ("b", "A", Ordering::Greater),
            ("ü", "Ü", Ordering::Greater),
        ] {
            assert_eq!(table.order(&name(a), &name(b)), expected, "{a} {b}");
        }
    }
}
