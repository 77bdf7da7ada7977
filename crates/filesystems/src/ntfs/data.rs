//! Reading what a file holds: in its record, in clusters, compressed, overlaid.

use block_io::BlockRead;

use super::file::{File, Named};
use super::format::{DATA, REPARSE_POINT, Run};
use super::reparse::{Keeping, ReparsePoint};
use super::volume::{Stream, Volume};
use super::{lznt1, lzx, xpress};
use crate::bytes::{le32, le64, put, slice};
use crate::fault::{Fault, Result};
use crate::tree::{TreeError, TreeErrorKind};

/// Largest unit of compression: 16 clusters of 64 KiB.
const MOST_UNIT: u64 = 1 << 20;
/// Largest value of a reparse point. // [MS-FSCC] 2.1.2.1
const MOST_REPARSE: u64 = 16 << 10;
/// File attributes of one whose data are not here: offline, recalled when opened, recalled when read.
const IS_REMOTE: u32 = 0x0000_1000 | 0x0004_0000 | 0x0040_0000;

/// The stream with the compressed bytes of an overlaid file.
const OVERLAID: &str = "WofCompressedData";

impl<D: BlockRead> Volume<D> {
    /// Bytes of an attribute from `at` on, which all lie inside its size.
    pub(crate) fn read_attribute(&self, attribute: &Named, at: u64, buf: &mut [u8]) -> Result<()> {
        match &attribute.stream {
            Stream::Resident(bytes) => {
                buf.fill(0);
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                put(buf, 0, slice(bytes, at, buf.len()));
                Ok(())
            }
            Stream::Runs { runs, valid, .. } => {
                let written = valid.saturating_sub(at).min(buf.len() as u64) as usize;
                let (head, tail) = buf.split_at_mut(written);
                tail.fill(0);
                match attribute.is_compressed() && attribute.unit != 0 {
                    true => self.read_compressed(attribute, runs, at, head),
                    false => self.read_sparse(runs, at, head),
                }
            }
        }
    }

    /// As [`Volume::read_runs`], with holes that read as zeroes.
    fn read_sparse(&self, runs: &[Run], mut at: u64, mut buf: &mut [u8]) -> Result<()> {
        let cluster = self.boot.cluster;
        while !buf.is_empty() {
            let vcn = at / cluster;
            let index = runs.partition_point(|run| run.vcn + run.count <= vcn);
            let Some(run) = runs.get(index) else {
                return Err(Fault::Damage(format!("no run for cluster {vcn} of a file")));
            };
            let left = (run.vcn + run.count) * cluster - at;
            let len = left.min(buf.len() as u64) as usize;
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            match run.lcn {
                Some(lcn) => {
                    let from = (lcn + vcn - run.vcn) * cluster + at % cluster;
                    self.disk.read_at(from, head)?;
                }
                None => head.fill(0),
            }
            at += len as u64;
            buf = tail;
        }
        Ok(())
    }

    fn read_compressed(
        &self,
        attribute: &Named,
        runs: &[Run],
        mut at: u64,
        mut buf: &mut [u8],
    ) -> Result<()> {
        let clusters = 1_u64.checked_shl(attribute.unit.into()).unwrap_or(0);
        let size = self.boot.cluster.saturating_mul(clusters);
        if size == 0 || size > MOST_UNIT || attribute.compression() != 1 {
            return Err(Fault::Damage(format!(
                "units of compression of {size} bytes, method {}: expected up to {MOST_UNIT}, method 1",
                attribute.compression()
            )));
        }
        let mut unit = vec![0; size as usize];
        while !buf.is_empty() {
            let start = at - at % size;
            let vcn = start / self.boot.cluster;
            let stored = allocated(runs, vcn, clusters);
            let whole = unit.as_mut_slice();
            if stored == clusters {
                self.read_sparse(runs, start, whole)?;
            } else if stored == 0 {
                whole.fill(0);
            } else {
                let mut compressed = vec![0; (stored * self.boot.cluster) as usize];
                self.read_sparse(runs, start, &mut compressed)?;
                lznt1::decompress(&compressed, whole)?;
            }
            let within = (at - start) as usize;
            let len = (whole.len() - within).min(buf.len());
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            put(head, 0, slice(whole, within, len));
            at += len as u64;
            buf = tail;
        }
        Ok(())
    }

    /// The reparse point of a file.
    pub(crate) fn reparse_point(&self, file: &File) -> Result<Option<ReparsePoint>> {
        let Some(attribute) = file.attribute(REPARSE_POINT, "") else {
            return Ok(None);
        };
        let size = attribute.size();
        if size > MOST_REPARSE + 8 {
            return Err(Fault::Damage(format!(
                "record {}: reparse point of {size} bytes, expected at most {MOST_REPARSE}",
                file.number
            )));
        }
        let mut value = vec![0; size as usize];
        self.read_attribute(attribute, 0, &mut value)?;
        Ok(ReparsePoint::parse(&value))
    }

    /// Bytes of a file's data from `at` on, at most to its end; how many.
    pub(crate) fn read_data(
        &self,
        file: &File,
        at: u64,
        buf: &mut [u8],
    ) -> Result<usize, TreeError> {
        let Some(data) = file.attribute(DATA, "") else {
            return Ok(0);
        };
        let len = (buf.len() as u64).min(data.size().saturating_sub(at)) as usize;
        let Some(buf) = buf.get_mut(..len).filter(|buf| !buf.is_empty()) else {
            return Ok(0);
        };
        let refuse = |why: String| Err(TreeError::of(TreeErrorKind::Unsupported, why));
        let point = self.reparse_point(file)?;
        if data.is_encrypted() {
            return refuse(
                "reading a file encrypted by EFS: only its owner's key opens it".to_owned(),
            );
        }
        match point.as_ref().map_or(Keeping::Plain, ReparsePoint::keeping) {
            Keeping::Plain if point.is_some() && file.file_attributes() & IS_REMOTE != 0 => {
                refuse("reading a file that is in the cloud only (OneDrive and others)".to_owned())
            }
            Keeping::Plain => {
                self.read_attribute(data, at, buf)?;
                Ok(len)
            }
            Keeping::Elsewhere(how) => refuse(format!("reading a file that is {how}")),
            Keeping::Wof { chunk_bits, is_lzx } => {
                let Some(stored) = file.attribute(DATA, OVERLAID) else {
                    return Err(TreeError::of(
                        TreeErrorKind::Corrupt,
                        format!("record {}: no stream {OVERLAID}", file.number),
                    ));
                };
                let overlaid = Overlaid {
                    stored,
                    size: data.size(),
                    chunk_bits,
                    is_lzx,
                };
                let read = self.read_overlaid(&overlaid, at, buf);
                read.map_err(|fault| match fault {
                    Fault::Damage(why) => Fault::Damage(format!("record {}: {why}", file.number)),
                    other => other,
                })?;
                Ok(len)
            }
        }
    }

    /// Read a file compressed chunk by chunk. Its stream begins with the ends of all chunks but the last,
    /// counted from the end of that table, in 4 bytes each, or 8 for files from 4 GiB on.
    fn read_overlaid(&self, overlaid: &Overlaid, mut at: u64, mut buf: &mut [u8]) -> Result<()> {
        let size = 1_u64 << overlaid.chunk_bits;
        let mut whole = vec![0; size as usize];
        while !buf.is_empty() {
            let number = at >> overlaid.chunk_bits;
            let start = number << overlaid.chunk_bits;
            let len = size.min(overlaid.size - start) as usize;
            let chunk = whole.get_mut(..len).unwrap_or_default();
            self.read_chunk(overlaid, number, chunk)?;
            let within = (at - start) as usize;
            let len = (chunk.len() - within).min(buf.len());
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            put(head, 0, slice(chunk, within, len));
            at += len as u64;
            buf = tail;
        }
        Ok(())
    }

    fn read_chunk(&self, overlaid: &Overlaid, number: u64, chunk: &mut [u8]) -> Result<()> {
        let stored = overlaid.stored;
        let width = if overlaid.size > u64::from(u32::MAX) {
            8
        } else {
            4
        };
        let count = overlaid.size.div_ceil(1 << overlaid.chunk_bits);
        let table = (count - 1) * width;
        let end_of = |index: u64| -> Result<u64> {
            if index + 1 >= count {
                return Ok(stored.size().saturating_sub(table));
            }
            let mut raw = [0; 8];
            let field = raw.get_mut(..width as usize).unwrap_or_default();
            if (index + 1) * width > stored.size() {
                return Err(Fault::Damage(format!(
                    "chunk {index}: the table ends before it"
                )));
            }
            self.read_attribute(stored, index * width, field)?;
            Ok(match width {
                4 => le32(&raw, 0).into(),
                _ => le64(&raw, 0),
            })
        };
        let start = match number {
            0 => 0,
            _ => end_of(number - 1)?,
        };
        let end = end_of(number)?;
        let most = chunk.len() as u64;
        let inside = table
            .checked_add(end)
            .is_some_and(|end| end <= stored.size());
        if start >= end || end - start > most || !inside {
            return Err(Fault::Damage(format!(
                "chunk {number}: from {start} to {end}: expected 1 to {most} bytes in {}",
                stored.size()
            )));
        }
        let mut compressed = vec![0; (end - start) as usize];
        self.read_attribute(stored, table + start, &mut compressed)?;
        // A chunk that would not become smaller is kept as it is.
        if compressed.len() == chunk.len() {
            chunk.copy_from_slice(&compressed);
            return Ok(());
        }
        let expanded = match overlaid.is_lzx {
            true => lzx::decompress(&compressed, chunk),
            false => xpress::decompress(&compressed, chunk),
        };
        expanded.map_err(|why| Fault::Damage(format!("chunk {number}: {why}")))
    }
}

/// A file that is compressed by the Windows Overlay Filter.
struct Overlaid<'a> {
    stored: &'a Named,
    size: u64,
    chunk_bits: u32,
    is_lzx: bool,
}

/// How many of `count` clusters from `vcn` on are not holes.
fn allocated(runs: &[Run], vcn: u64, count: u64) -> u64 {
    let first = runs.partition_point(|run| run.vcn + run.count <= vcn);
    let those = runs
        .iter()
        .skip(first)
        .take_while(|run| run.vcn < vcn + count);
    those
        .filter(|run| run.lcn.is_some())
        .map(|run| (run.vcn + run.count).min(vcn + count) - run.vcn.max(vcn))
        .sum()
}
