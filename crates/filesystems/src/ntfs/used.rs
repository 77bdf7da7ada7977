//! Used clusters of NTFS, from `$Bitmap`.

use std::collections::VecDeque;
use std::ops::Range;

use block_io::{BlockRead, ExtentKind, Result};

use super::format::{BITMAP, DATA};
use super::log;
use super::volume::{Stream, Volume};
use crate::bytes::u8_at;
use crate::fault::Fault;
use crate::used::{Batched, Findings, Joined, UsedRanges, all_noting};

/// Bytes of the bitmap looked at in one go.
const PIECE: u64 = 1 << 20;

/// The used ranges of the file system on `disk`, in bytes.
pub(crate) fn used_ranges<'a>(
    disk: &'a dyn BlockRead,
    findings: &Findings,
) -> Result<UsedRanges<'a>> {
    let mut bitmap = match Bitmap::open(disk, findings) {
        Ok(bitmap) => bitmap,
        Err(Fault::Disk(error)) => return Err(error),
        Err(Fault::Damage(why)) => {
            return Ok(all_noting(disk, format!("NTFS: {why}"), findings));
        }
    };
    let end = bitmap.volume.boot.clusters * bitmap.volume.boot.cluster;
    let mut next = 0;
    let bytes = bitmap.volume.boot.clusters.div_ceil(8);
    let batches = Batched::new(move |ready: &mut VecDeque<Range<u64>>| {
        let piece = next..(next + PIECE).min(bytes);
        next = piece.end;
        bitmap.add(piece, ready)?;
        if next < bytes {
            return Ok(true);
        }
        // The copy of the boot sector lies in the last sector, behind the last cluster.
        ready.push_back(end..disk.size());
        Ok(false)
    });
    Ok(Box::new(Joined::new(batches)))
}

struct Bitmap<'a> {
    volume: Volume<&'a dyn BlockRead>,
    stream: Stream,
    findings: Findings,
}

impl<'a> Bitmap<'a> {
    fn open(disk: &'a dyn BlockRead, findings: &Findings) -> Result<Self, Fault> {
        let volume = Volume::open(disk)?;
        // What was allocated last may stand in the log only.
        if !log::is_closed(&volume)? {
            return Err(Fault::Damage(
                "its log was not closed (it was in use, or Windows is hibernated)".to_owned(),
            ));
        }
        if volume.is_dirty()? {
            return Err(Fault::Damage(
                "it is marked dirty: chkdsk has not run".to_owned(),
            ));
        }
        let Some(stream) = volume.stream(BITMAP, DATA, "")? else {
            return Err(Fault::Damage("record 6: $Bitmap has no data".to_owned()));
        };
        let bitmap = Self {
            volume,
            stream,
            findings: findings.clone(),
        };
        bitmap.check_itself()?;
        Ok(bitmap)
    }

    /// A bitmap that calls the boot sector, the MFT or itself free is not one of this volume.
    fn check_itself(&self) -> Result<(), Fault> {
        let mut known = vec![0, self.volume.boot.mft];
        if let Stream::Runs { runs, .. } = &self.stream {
            known.extend(runs.iter().take(64).filter_map(|run| run.lcn));
        }
        for cluster in known {
            let mut byte = [0];
            self.read(cluster / 8, &mut byte)?;
            if byte[0] >> (cluster % 8) & 1 == 0 {
                return Err(Fault::Damage(format!(
                    "$Bitmap: cluster {cluster}: expected used, found free"
                )));
            }
        }
        Ok(())
    }

    /// Bytes of the bitmap. Those it does not have, or that were never written, are damage.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let end = at + buf.len() as u64;
        let found = match &self.stream {
            Stream::Resident(bytes) => bytes.len() as u64,
            Stream::Runs { size, valid, .. } => *size.min(valid),
        };
        if end > found {
            return Err(Fault::Damage(format!(
                "$Bitmap: expected at least {end} bytes, found {found}"
            )));
        }
        match &self.stream {
            Stream::Resident(bytes) => {
                crate::bytes::put(
                    buf,
                    0,
                    crate::bytes::slice(bytes, at as usize, (end - at) as usize),
                );
                Ok(())
            }
            Stream::Runs { runs, .. } => self.volume.read_runs(runs, at, buf, "$Bitmap"),
        }
    }

    /// Add the used clusters whose bits lie in these bytes of the bitmap.
    fn add(&mut self, piece: Range<u64>, ready: &mut VecDeque<Range<u64>>) -> Result<()> {
        let boot = &self.volume.boot;
        let clusters = piece.start * 8..(piece.end * 8).min(boot.clusters);
        let bytes = |run: Range<u64>| run.start * boot.cluster..run.end * boot.cluster;
        if self.is_hole(&piece) {
            return Ok(());
        }
        let mut bits = vec![0; (piece.end - piece.start) as usize];
        match self.read(piece.start, &mut bits) {
            Ok(()) => {}
            Err(Fault::Disk(error)) => return Err(error),
            Err(Fault::Damage(why)) => {
                let Range { start, end } = clusters;
                self.findings
                    .note(format!("{why}; clusters {start} to {end} count as used"));
                ready.push_back(bytes(clusters));
                return Ok(());
            }
        }
        ready.extend(set_runs(&bits, &clusters).into_iter().map(bytes));
        Ok(())
    }

    /// Whether the disk knows, without reading, that this piece of the bitmap is zero.
    fn is_hole(&self, piece: &Range<u64>) -> bool {
        let Stream::Runs { runs, size, valid } = &self.stream else {
            return false;
        };
        let cluster = self.volume.boot.cluster;
        let index = runs.partition_point(|run| (run.vcn + run.count) * cluster <= piece.start);
        let Some((run, lcn)) = runs
            .get(index)
            .and_then(|run| run.lcn.map(|lcn| (run, lcn)))
        else {
            return false;
        };
        if piece.end > *size.min(valid) || (run.vcn + run.count) * cluster < piece.end {
            return false;
        }
        let at = lcn * cluster + (piece.start - run.vcn * cluster);
        let extent = self.volume.disk.extent_at(at);
        extent
            .is_ok_and(|e| e.kind == ExtentKind::Zero && e.end() >= at + (piece.end - piece.start))
    }
}

/// The runs of set bits, lowest bit first, as numbers of `clusters`, of which the first has bit 0.
pub(crate) fn set_runs(bits: &[u8], clusters: &Range<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut add = |run: Range<u64>| match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    };
    let mut at = clusters.start;
    while at < clusters.end {
        let byte = u8_at(bits, ((at - clusters.start) / 8) as usize);
        let end = (at + 8).min(clusters.end);
        match byte {
            0 => {}
            0xFF => add(at..end),
            _ => (at..end)
                .filter(|n| byte >> (n - at) & 1 != 0)
                .for_each(|n| add(n..n + 1)),
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::set_runs;

    #[test]
    fn runs_of_bits_cross_bytes_and_end_with_the_volume() {
        let bits = [0b1000_0001, 0xFF, 0b0000_0111, 0, 0xFF];
        assert_eq!(set_runs(&bits, &(8..8 + 37)), [8..9, 15..27, 40..45]);
    }
}
