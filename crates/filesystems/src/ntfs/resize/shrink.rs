//! Shrinking: what lies behind the new end moves before it.

use std::collections::BTreeMap;

use block_io::{BlockRead, BlockWrite};

use super::super::format::{BITMAP, DATA, MFT, Run, joined};
use super::super::volume::{Stream, Volume};
use super::bits::{Bits, Free};
use super::grow::set_bad_clusters;
use super::records::{Editable, set_sizes, with_runs};
use super::scan::{Part, RECORDS_IN_USE, scan};
use super::spill::{Spilled, Stores, Supply, spill};
use super::{Target, bitmap_len, empty_log, log_runs, places, whole_part, write_boot};
use crate::fault::{Fault, Result};

/// Bytes copied in one go.
const PIECE: u64 = 4 << 20;
/// Tries to find the smallest size.
const TRIES: u32 = 12;

/// What moves where.
pub(super) struct Plan {
    /// By where it was: where it goes, how many clusters.
    moves: BTreeMap<u64, (u64, u64)>,
    /// Records of which some part moves.
    records: Vec<u64>,
    /// The clusters in use afterwards.
    used: Bits,
    /// Files whose runs need more records.
    spilled: Vec<Spilled>,
    /// Bytes of the bitmap of records that change.
    records_in_use: Vec<(u64, u8)>,
}

impl Plan {
    /// Clusters that move.
    pub(super) fn moved(&self) -> u64 {
        self.moves.values().map(|(_, count)| count).sum()
    }

    /// The same runs after everything moved.
    pub(super) fn moved_runs(&self, runs: &[Run]) -> Vec<Run> {
        let mut out = Vec::with_capacity(runs.len());
        for run in runs {
            let Some(lcn) = run.lcn else {
                out.push(*run);
                continue;
            };
            let mut done = 0;
            while done < run.count {
                let (here, left) = (lcn + done, run.count - done);
                let before = self.moves.range(..=here).next_back();
                let moved = before.filter(|(from, (_, count))| here < **from + count);
                let (to, count) = match moved {
                    Some((from, (to, count))) => (to + here - from, left.min(from + count - here)),
                    None => {
                        let next = self.moves.range(here..).next();
                        (here, next.map_or(left, |(from, _)| left.min(from - here)))
                    }
                };
                out.push(Run {
                    vcn: run.vcn + done,
                    lcn: Some(to),
                    count,
                });
                done += count;
            }
        }
        joined(&out)
    }
}

/// The fewest clusters that [`plan`] finds a way for.
pub(super) fn smallest<D: BlockRead>(volume: &Volume<D>) -> Result<u64> {
    let all = volume.boot.clusters;
    let needed = scan(volume, all)?.used.count();
    // The bitmap becomes smaller, too.
    let saved = |clusters: u64| {
        let len = |clusters| bitmap_len(clusters).div_ceil(volume.boot.cluster);
        len(all) - len(clusters)
    };
    let mut low = needed.saturating_sub(saved(needed)).max(1);
    if plan(volume, low)?.is_ok() {
        return Ok(low);
    }
    // Where not everything fits, more room makes fewer pieces.
    let mut high = all;
    for _ in 0..TRIES {
        // The next larger ones are likelier than the middle.
        let middle = low + (high - low) / 4;
        if middle == low {
            break;
        }
        match plan(volume, middle)? {
            Ok(_) => high = middle,
            Err(_) => low = middle,
        }
    }
    Ok(high)
}

/// Find a place before cluster `end` for everything behind it; or why that cannot be done.
pub(super) fn plan<D: BlockRead>(volume: &Volume<D>, end: u64) -> Result<Result<Plan, String>> {
    let mut scan = scan(volume, end)?;
    cut_bitmap(volume, &mut scan.used, &mut scan.beyond, end)?;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for run in scan.beyond.iter().flat_map(|part| &part.runs) {
        if let Some(lcn) = run.lcn
            && lcn + run.count > end
        {
            let start = lcn.max(end);
            runs.push((lcn + run.count - start, start));
        }
    }
    // The largest first: they find gaps that hold them whole.
    runs.sort_unstable_by(|a, b| b.cmp(a));
    let mut free = Free::new(scan.used.gaps(end));
    let mut moves = BTreeMap::new();
    for (count, from) in runs {
        let mut done = 0;
        while done < count {
            let Some(to) = free.take(count - done) else {
                return Ok(Err(format!(
                    "{} clusters behind cluster {end} find no place before it",
                    count - done
                )));
            };
            let taken = to.end - to.start;
            moves.insert(from + done, (to.start, taken));
            scan.used.add(to);
            done += taken;
        }
        scan.used.remove(from..from + count);
    }
    let mut records: Vec<u64> = scan.beyond.iter().map(|part| part.record).collect();
    records.dedup();
    // Bad clusters behind the end are gone.
    scan.used.remove(end..volume.boot.clusters);
    let mut plan = Plan {
        moves,
        records,
        used: scan.used,
        spilled: Vec::new(),
        records_in_use: Vec::new(),
    };
    // A record is read in one go, unless it was in two places before.
    let (cluster, record) = (volume.boot.cluster, volume.boot.record as u64);
    let torn = |runs: &[Run]| -> Vec<u64> {
        let starts = runs.iter().map(|run| run.vcn * cluster);
        starts.filter(|at| !at.is_multiple_of(record)).collect()
    };
    let before = torn(&joined(&volume.mft));
    let after = torn(&plan.moved_runs(&volume.mft));
    if after.iter().any(|at| !before.contains(at)) {
        return Ok(Err("records of the MFT would be in two places".to_owned()));
    }
    if let Err(why) = spill_full(volume, &mut plan, &mut free)? {
        return Ok(Err(format!("{why}; defragment the volume on the source")));
    }
    Ok(Ok(plan))
}

/// Lay out anew the files of which some record becomes too full; or why that cannot be done.
fn spill_full<D: BlockRead>(
    volume: &Volume<D>,
    plan: &mut Plan,
    free: &mut Free,
) -> Result<Result<(), String>> {
    let mut over: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for number in &plan.records {
        let mut record = volume.editable(*number)?;
        if !plan.rewrite(volume, &mut record)? {
            over.entry(record.base()).or_default().push(*number);
        }
    }
    if over.is_empty() {
        return Ok(Ok(()));
    }
    let mut supply = Supply::new(volume)?;
    let mut used = std::mem::replace(&mut plan.used, Bits::new(0));
    for (base, over) in over {
        let mut stores = Stores {
            free,
            used: &mut used,
            supply: &mut supply,
        };
        match spill(volume, plan, &mut stores, base, &over)? {
            Ok(spilled) => {
                let written: Vec<u64> = spilled.records.iter().map(|r| r.number).collect();
                plan.records.retain(|number| !written.contains(number));
                plan.spilled.push(spilled);
            }
            Err(why) => return Ok(Err(why)),
        }
    }
    plan.used = used;
    plan.records_in_use = supply.bitmap();
    Ok(Ok(()))
}

impl Plan {
    /// The attributes of a record with the runs they have afterwards.
    pub(super) fn moved_attributes<D: BlockRead>(
        &self,
        volume: &Volume<D>,
        record: &Editable,
    ) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        for attribute in record.attributes() {
            let runs = attribute.own_runs(volume.boot.clusters)?;
            let moved = self.moved_runs(&runs);
            all.push(match moved != joined(&runs) {
                true => with_runs(&attribute, &moved),
                false => attribute.raw.to_vec(),
            });
        }
        Ok(all)
    }

    /// Give the attributes of a record the runs they have afterwards; false when they do not fit.
    fn rewrite<D: BlockRead>(&self, volume: &Volume<D>, record: &mut Editable) -> Result<bool> {
        let mut changed = Vec::new();
        for (index, attribute) in record.attributes().enumerate() {
            let runs = attribute.own_runs(volume.boot.clusters)?;
            let moved = self.moved_runs(&runs);
            if moved != joined(&runs) {
                changed.push((index, with_runs(&attribute, &moved)));
            }
        }
        // Those that become shorter make room for others.
        changed.sort_by_key(|(_, raw)| raw.len());
        Ok(changed
            .iter()
            .all(|(index, raw)| record.replace(*index, raw)))
    }
}

/// What of the bitmap is not needed any more is free.
fn cut_bitmap<D: BlockRead>(
    volume: &Volume<D>,
    used: &mut Bits,
    beyond: &mut [Part],
    end: u64,
) -> Result<()> {
    let record = volume.editable(BITMAP)?;
    let (index, runs) = whole_part(volume, &record, DATA, "")?;
    let kept = bitmap_len(end).div_ceil(volume.boot.cluster);
    for run in &runs {
        let from = kept.max(run.vcn);
        if let Some(lcn) = run.lcn
            && from < run.vcn + run.count
        {
            used.remove(lcn + from - run.vcn..lcn + run.count);
        }
    }
    for part in beyond.iter_mut() {
        if part.record == BITMAP && part.index == index {
            part.runs = cut(&runs, kept);
        }
    }
    Ok(())
}

/// The first `count` clusters of a file.
fn cut(runs: &[Run], count: u64) -> Vec<Run> {
    let those = runs.iter().filter(|run| run.vcn < count);
    those
        .map(|run| Run {
            count: run.count.min(count - run.vcn),
            ..*run
        })
        .collect()
}

/// Carry out a plan.
pub(super) fn apply<D: BlockWrite>(
    mut volume: Volume<D>,
    plan: &Plan,
    target: &Target,
) -> Result<()> {
    let log = plan.moved_runs(&log_runs(&volume)?);
    let mut places = places(&volume)?;
    for (from, (to, count)) in &plan.moves {
        copy(&volume, *from, *to, *count)?;
    }
    places.mft = plan.moved_runs(&volume.mft);
    places.mirror = plan.moved_runs(&places.mirror);
    // Records are still read where they were, and written where they will be.
    for number in &plan.records {
        let mut record = volume.editable(*number)?;
        if !plan.rewrite(&volume, &mut record)? {
            return Err(Fault::Damage(format!("record {number}: became too small")));
        }
        volume.write_record(&places, &record)?;
    }
    for spilled in &plan.spilled {
        volume.write_runs(&spilled.list_runs, 0, &spilled.list, "an attribute list")?;
        for record in &spilled.records {
            volume.write_record(&places, record)?;
        }
    }
    volume.mft = places.mft.clone();
    write_records_in_use(&volume, plan)?;
    write_bitmap(&volume, plan, &places, target)?;
    set_bad_clusters(&volume, &places, target)?;
    let first = |runs: &[Run]| runs.first().and_then(|run| run.lcn);
    let mft = first(&places.mft).unwrap_or(volume.boot.mft);
    write_boot(&volume, target, mft, first(&places.mirror))?;
    empty_log(&volume, &log)
}

/// Mark the records that were taken. The volume's MFT is where it will be, and so are its runs.
fn write_records_in_use<D: BlockWrite>(volume: &Volume<D>, plan: &Plan) -> Result<()> {
    if plan.records_in_use.is_empty() {
        return Ok(());
    }
    let Some(Stream::Runs { runs, .. }) = volume.stream(MFT, RECORDS_IN_USE, "")? else {
        return Err(Fault::Damage(
            "record 0: the MFT's bitmap has no clusters".to_owned(),
        ));
    };
    for (at, byte) in &plan.records_in_use {
        volume.write_runs(&runs, *at, &[*byte], "the MFT's bitmap")?;
    }
    Ok(())
}

fn copy<D: BlockWrite>(volume: &Volume<D>, from: u64, to: u64, count: u64) -> Result<()> {
    let cluster = volume.boot.cluster;
    let (from, to, len) = (from * cluster, to * cluster, count * cluster);
    let mut done = 0;
    let mut piece = vec![0; PIECE.min(len) as usize];
    while done < len {
        let many = (len - done).min(PIECE) as usize;
        let part = piece.get_mut(..many).unwrap_or_default();
        volume.disk.read_at(from + done, part)?;
        volume.disk.write_at(to + done, part)?;
        done += many as u64;
    }
    Ok(())
}

/// Write the bitmap, cut to its new length. Its record was given its new runs already.
fn write_bitmap<D: BlockWrite>(
    volume: &Volume<D>,
    plan: &Plan,
    places: &super::records::Places,
    target: &Target,
) -> Result<()> {
    let mut record = volume.editable(BITMAP)?;
    let (index, runs) = whole_part(volume, &record, DATA, "")?;
    let len = bitmap_len(target.clusters);
    let kept = len.div_ceil(volume.boot.cluster);
    let runs = cut(&runs, kept);
    let mut raw = match record.attributes().nth(index) {
        Some(attribute) => with_runs(&attribute, &runs),
        None => Vec::new(),
    };
    set_sizes(&mut raw, kept * volume.boot.cluster, len, len);
    if !record.replace(index, &raw) {
        return Err(Fault::Damage("record 6: became too small".to_owned()));
    }
    let mut at = 0;
    while at < len {
        let many = (len - at).min(1 << 20) as usize;
        let mut bytes = plan.used.bytes(at, many);
        // Bits behind the last cluster are set, as mkntfs and Windows leave them.
        let spare =
            (target.clusters..len * 8).filter(|n| (at..at + many as u64).contains(&(n / 8)));
        for bit in spare {
            if let Some(byte) = bytes.get_mut((bit / 8 - at) as usize) {
                *byte |= 1 << (bit % 8);
            }
        }
        volume.write_runs(&runs, at, &bytes, "$Bitmap")?;
        at += many as u64;
    }
    volume.write_record(places, &record)
}
