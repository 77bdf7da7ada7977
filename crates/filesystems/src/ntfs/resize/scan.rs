//! Everything a volume has in clusters: read from its records, held against its bitmap.

use block_io::BlockRead;

use super::super::format::{BITMAP, DATA, MFT, Run};
use super::super::volume::{Stream, Volume};
use super::records::Editable;
use super::{BAD_CLUSTERS, bits::Bits};
use crate::bytes::u8_at;
use crate::fault::{Fault, Result};

/// Bitmap of the records in use, an attribute of the MFT.
pub(super) const RECORDS_IN_USE: u32 = 0xB0;
/// Bytes of the MFT, and of the bitmap, read in one go.
const PIECE: u64 = 1 << 20;

/// A part of an attribute in clusters, of which some lie behind the end that is wanted.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) record: u64,
    /// Which attribute of the record.
    pub(super) index: usize,
    pub(super) runs: Vec<Run>,
}

/// What a volume has in clusters.
pub(super) struct Scan {
    pub(super) used: Bits,
    /// Parts that reach beyond `end`, by their records.
    pub(super) beyond: Vec<Part>,
}

/// Look at every record. What reaches beyond cluster `end` is listed, but for bad clusters: those stay
/// where they are.
pub(super) fn scan<D: BlockRead>(volume: &Volume<D>, end: u64) -> Result<Scan> {
    let mut scan = Scan {
        used: Bits::new(volume.boot.clusters),
        beyond: Vec::new(),
    };
    let record = volume.boot.record as u64;
    let in_use = records_in_use(volume)?;
    let count = volume.mft_size / record;
    let step = (PIECE / record).max(1);
    let mut first = 0;
    while first < count {
        let many = step.min(count - first);
        let mut piece = vec![0; (many * record) as usize];
        volume.read_runs(&volume.mft, first * record, &mut piece, "the MFT")?;
        for (number, raw) in (first..).zip(piece.chunks_exact(record as usize)) {
            let is_in_use = u8_at(&in_use, (number / 8) as usize) >> (number % 8) & 1 != 0;
            match Editable::parse(raw.to_vec(), number) {
                Ok(Some(record)) => scan.add(volume, &record, end)?,
                Ok(None) => {}
                // What is not in use may be anything.
                Err(Fault::Damage(_)) if !is_in_use => {}
                Err(fault) => return Err(fault),
            }
        }
        first += many;
    }
    check_bitmap(volume, &scan.used)?;
    Ok(scan)
}

impl Scan {
    fn add<D: BlockRead>(&mut self, volume: &Volume<D>, record: &Editable, end: u64) -> Result<()> {
        for (index, attribute) in record.attributes().enumerate() {
            let runs = attribute.own_runs(volume.boot.clusters)?;
            for run in &runs {
                let Some(lcn) = run.lcn else { continue };
                if let Some(twice) = self.used.add(lcn..lcn + run.count) {
                    return Err(Fault::Damage(format!(
                        "record {}: cluster {twice}: expected for this file alone, found in two; run chkdsk /f",
                        record.number
                    )));
                }
            }
            let reaches = |run: &Run| run.lcn.is_some_and(|lcn| lcn + run.count > end);
            let is_bad = record.number == BAD_CLUSTERS && attribute.kind() == DATA;
            if runs.iter().any(reaches) && !is_bad {
                self.beyond.push(Part {
                    record: record.number,
                    index,
                    runs,
                });
            }
        }
        Ok(())
    }
}

/// Which records are in use, by the MFT's own bitmap.
pub(super) fn records_in_use<D: BlockRead>(volume: &Volume<D>) -> Result<Vec<u8>> {
    let bytes = (volume.mft_size / volume.boot.record as u64).div_ceil(8);
    match volume.stream(MFT, RECORDS_IN_USE, "")? {
        Some(Stream::Resident(bits)) => Ok(bits),
        Some(Stream::Runs { runs, valid, .. }) => {
            let mut bits = vec![0; bytes.min(valid) as usize];
            volume.read_runs(&runs, 0, &mut bits, "the MFT's bitmap")?;
            Ok(bits)
        }
        None => Err(Fault::Damage("record 0: the MFT has no bitmap".to_owned())),
    }
}

/// The bitmap must say what the records say.
fn check_bitmap<D: BlockRead>(volume: &Volume<D>, used: &Bits) -> Result<()> {
    let Some(Stream::Runs { runs, valid, .. }) = volume.stream(BITMAP, DATA, "")? else {
        return Err(Fault::Damage(
            "record 6: $Bitmap has no clusters".to_owned(),
        ));
    };
    let clusters = volume.boot.clusters;
    let len = clusters.div_ceil(8);
    if valid < len {
        return Err(Fault::Damage(format!(
            "$Bitmap: expected at least {len} bytes, found {valid}"
        )));
    }
    let mut at = 0;
    while at < len {
        let many = (len - at).min(PIECE);
        let mut found = vec![0; many as usize];
        volume.read_runs(&runs, at, &mut found, "$Bitmap")?;
        let expected = used.bytes(at, many as usize);
        for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let first = (at + n as u64) * 8;
            // Bits behind the last cluster mean nothing.
            let mask = match clusters - first {
                left @ 0..8 => (1_u8 << left) - 1,
                _ => 0xFF,
            };
            let differing = (found ^ expected) & mask;
            if differing != 0 {
                let cluster = first + u64::from(differing.trailing_zeros());
                let state = match expected >> differing.trailing_zeros() & 1 {
                    1 => "used by a file, found free",
                    _ => "used by no file, found used",
                };
                return Err(Fault::Damage(format!(
                    "$Bitmap: cluster {cluster}: {state}; run chkdsk /f"
                )));
            }
        }
        at += many;
    }
    Ok(())
}
