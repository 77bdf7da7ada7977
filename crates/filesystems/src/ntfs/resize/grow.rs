//! Growing: the bitmap, the list of bad clusters and the boot sectors learn of more clusters.

use block_io::BlockWrite;

use super::super::format::{BITMAP, DATA, Run};
use super::super::volume::Volume;
use super::records::{Places, set_sizes, with_runs};
use super::{BAD_CLUSTERS, Target, bitmap_len, whole_part};
use crate::fault::{Fault, Result};

/// Bytes of the bitmap written in one go.
const PIECE: u64 = 1 << 20;

/// Make the bitmap hold `target`'s clusters, the new ones free. Further clusters it needs itself are the
/// first of the new ones: nothing can claim those.
pub(super) fn grow_bitmap<D: BlockWrite>(
    volume: &Volume<D>,
    places: &Places,
    target: &Target,
) -> Result<()> {
    let (old, cluster) = (volume.boot.clusters, volume.boot.cluster);
    let mut record = volume.editable(BITMAP)?;
    let (index, mut runs) = whole_part(volume, &record, DATA, "")?;
    let valid = record.attributes().nth(index).map_or(0, |a| a.sizes().1);
    if valid < old.div_ceil(8) {
        return Err(Fault::Damage(format!(
            "$Bitmap: expected at least {} bytes, found {valid}",
            old.div_ceil(8)
        )));
    }
    let len = bitmap_len(target.clusters);
    let had = runs.last().map_or(0, |run| run.vcn + run.count);
    let more = len.div_ceil(cluster).saturating_sub(had);
    if more > 0 {
        runs.push(Run {
            vcn: had,
            lcn: Some(old),
            count: more,
        });
    }
    let mut raw = match record.attributes().nth(index) {
        Some(attribute) => with_runs(&attribute, &runs),
        None => Vec::new(),
    };
    set_sizes(&mut raw, (had + more) * cluster, len, len);
    if !record.replace(index, &raw) {
        return Err(Fault::Damage(
            "record 6: $Bitmap: no room for one more run".to_owned(),
        ));
    }
    // The byte that old and new clusters share, then whole ones.
    let first = old / 8;
    let mut shared = [0];
    volume.read_runs(&runs, first.min(len - 1), &mut shared, "$Bitmap")?;
    let mut at = first;
    while at < len {
        let end = (at + PIECE).min(len);
        let mut bytes = vec![0_u8; (end - at) as usize];
        if at == first {
            let kept = shared.map(|byte| byte & ((1_u16 << (old % 8)) - 1) as u8);
            crate::bytes::put(&mut bytes, 0, &kept);
        }
        let set = |bytes: &mut [u8], cluster: u64| {
            if let Some(byte) = (cluster / 8)
                .checked_sub(at)
                .and_then(|n| bytes.get_mut(n as usize))
            {
                *byte |= 1 << (cluster % 8);
            }
        };
        (old..old + more).for_each(|n| set(&mut bytes, n));
        // Bits behind the last cluster are set, as mkntfs and Windows leave them.
        (target.clusters..len * 8).for_each(|n| set(&mut bytes, n));
        volume.write_runs(&runs, at, &bytes, "$Bitmap")?;
        at = end;
    }
    volume.write_record(places, &record)
}

/// Make the list of bad clusters, a file of nothing but holes where none is bad, as long as the volume.
pub(super) fn set_bad_clusters<D: BlockWrite>(
    volume: &Volume<D>,
    places: &Places,
    target: &Target,
) -> Result<()> {
    let mut record = volume.editable(BAD_CLUSTERS)?;
    let (index, runs) = whole_part(volume, &record, DATA, "$Bad")?;
    let mut fitted: Vec<Run> = Vec::new();
    for run in runs.iter().filter(|run| run.vcn < target.clusters) {
        let count = run.count.min(target.clusters - run.vcn);
        fitted.push(Run { count, ..*run });
    }
    let end = fitted.last().map_or(0, |run| run.vcn + run.count);
    if end < target.clusters {
        fitted.push(Run {
            vcn: end,
            lcn: None,
            count: target.clusters - end,
        });
    }
    let size = target.clusters * volume.boot.cluster;
    let mut raw = Vec::new();
    if let Some(attribute) = record.attributes().nth(index) {
        let (old, valid) = attribute.sizes();
        raw = with_runs(&attribute, &super::super::format::joined(&fitted));
        // Nothing of it was ever written on some systems, all of it on others.
        let valid = if valid >= old { size } else { valid.min(size) };
        set_sizes(&mut raw, size, size, valid);
    }
    if !record.replace(index, &raw) {
        return Err(Fault::Damage(
            "record 8: $BadClus: no room for its runs".to_owned(),
        ));
    }
    volume.write_record(places, &record)
}
