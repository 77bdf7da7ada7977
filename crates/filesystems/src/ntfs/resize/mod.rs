//! Growing and shrinking NTFS in place.
//!
//! Growing touches `$Bitmap`, `$BadClus` and the boot sectors, whatever the size. Shrinking moves every
//! run behind the new end, of any attribute of any record, the MFT and its copy included.
//!
//! Afterwards `$LogFile` is emptied as chkdsk and ntfsresize empty it (filled with 0xFF): what it held was
//! closed, and speaks of clusters that moved. The volume is not marked dirty, as ntfsresize does: nothing
//! is left for chkdsk to mend, and a marked volume would be refused by whoever edits it next.

mod bits;
mod grow;
mod records;
mod scan;
mod shrink;
mod spill;

use block_io::{BlockRead, BlockWrite};

use super::condition;
use super::format::{DATA, LOG_FILE, Run};
use super::volume::{Stream, Volume};
use crate::bytes::put;
use crate::fault::{Fault, Result};
use crate::resize::{ResizeError, ResizeErrorKind, ResizeLimits, Resized};
use crate::tree::TreeError;
use records::{Editable, Places};

/// Record with the list of bad clusters.
const BAD_CLUSTERS: u64 = 8;
/// Record with the copy of the first records.
const MIRROR: u64 = 1;
/// What Windows allows. // [MS-FSA] 1.3, "NTFS": 2^32 - 1 clusters
const MOST_CLUSTERS: u64 = u32::MAX as u64;
/// Bytes of the log emptied in one go.
const PIECE: usize = 1 << 20;

/// How large a volume is to become.
#[derive(Debug, Clone, Copy)]
struct Target {
    sectors: u64,
    clusters: u64,
}

impl Target {
    /// The last sector of `size` bytes is for the copy of the boot sector.
    fn of_size<D>(volume: &Volume<D>, size: u64) -> Self {
        let boot = &volume.boot;
        let sectors = (size / boot.sector).saturating_sub(1);
        Self {
            sectors,
            clusters: sectors * boot.sector / boot.cluster,
        }
    }
}

/// Bytes of a bitmap for `clusters`: whole words of 8 bytes, as NTFS has it.
fn bitmap_len(clusters: u64) -> u64 {
    clusters.div_ceil(64) * 8
}

fn error(fault: Fault) -> ResizeError {
    TreeError::from(fault).into()
}

/// The volume, if its condition allows to change it.
fn open<D: BlockRead>(disk: D) -> Result<Volume<D>, ResizeError> {
    let volume = Volume::open(disk).map_err(error)?;
    if volume.boot.clusters > MOST_CLUSTERS {
        return Err(ResizeError::new(
            ResizeErrorKind::Unsupported,
            format!(
                "clusters: expected at most {MOST_CLUSTERS}, as Windows has them, found {}",
                volume.boot.clusters
            ),
        ));
    }
    condition::of_volume(&volume)?.check_writable()?;
    Ok(volume)
}

pub(crate) fn resize_limits(disk: &dyn BlockRead) -> Result<ResizeLimits, ResizeError> {
    let volume = open(disk)?;
    let smallest = shrink::smallest(&volume).map_err(error)?;
    Ok(limits(&volume, smallest))
}

fn limits<D>(volume: &Volume<D>, smallest: u64) -> ResizeLimits {
    let boot = &volume.boot;
    let size = |clusters: u64| clusters * boot.cluster + boot.sector;
    let current = (boot.sectors + 1) * boot.sector;
    ResizeLimits {
        smallest: size(smallest).min(current),
        current,
        largest: size(MOST_CLUSTERS).max(current),
        largest_because: "Windows counts the clusters of an NTFS with 32 bits",
    }
}

pub(crate) fn resize(disk: &dyn BlockWrite, new_size: u64) -> Result<Resized, ResizeError> {
    let volume = open(disk)?;
    let before = limits(&volume, 0);
    let target = Target::of_size(&volume, new_size);
    let mut resized = Resized {
        before: before.current,
        after: (target.sectors + 1) * volume.boot.sector,
        ..Resized::default()
    };
    if resized.after == resized.before {
        return Ok(resized);
    }
    before.check(new_size)?;
    if target.clusters >= volume.boot.clusters {
        let places = places(&volume).map_err(error)?;
        let grown = grow(&volume, &places, &target);
        grown.map_err(|fault| error(fault).torn())?;
        return Ok(resized);
    }
    let plan = match shrink::plan(&volume, target.clusters).map_err(error)? {
        Ok(plan) => plan,
        Err(why) => {
            let smallest = shrink::smallest(&volume).map_err(error)?;
            let smallest = limits(&volume, smallest).smallest;
            return Err(ResizeError::new(
                ResizeErrorKind::TooSmall { smallest },
                why,
            ));
        }
    };
    resized.moved = plan.moved() * volume.boot.cluster;
    let shrunk = shrink::apply(volume, &plan, &target);
    shrunk.map_err(|fault| error(fault).torn())?;
    Ok(resized)
}

fn grow<D: BlockWrite>(volume: &Volume<D>, places: &Places, target: &Target) -> Result<()> {
    if target.clusters > volume.boot.clusters {
        grow::grow_bitmap(volume, places, target)?;
        grow::set_bad_clusters(volume, places, target)?;
    }
    write_boot(volume, target, volume.boot.mft, None)?;
    empty_log(volume, &log_runs(volume)?)
}

/// Where the MFT and its copy are.
fn places<D: BlockRead>(volume: &Volume<D>) -> Result<Places> {
    match volume.stream(MIRROR, DATA, "")? {
        Some(Stream::Runs { runs, size, .. }) => Ok(Places {
            mft: volume.mft.clone(),
            mirror: runs,
            mirrored: size,
        }),
        _ => Err(Fault::Damage(
            "record 1: $MFTMirr has no clusters".to_owned(),
        )),
    }
}

fn log_runs<D: BlockRead>(volume: &Volume<D>) -> Result<Vec<Run>> {
    match volume.stream(LOG_FILE, DATA, "")? {
        Some(Stream::Runs { runs, .. }) => Ok(runs),
        _ => Err(Fault::Damage(
            "record 2: the log has no clusters".to_owned(),
        )),
    }
}

/// The attribute `kind` and `name` of a record of the system, which is there whole: its number and runs.
fn whole_part<D: BlockRead>(
    volume: &Volume<D>,
    record: &Editable,
    kind: u32,
    name: &str,
) -> Result<(usize, Vec<Run>)> {
    let mut attributes = record.attributes().enumerate();
    let found = attributes.find(|(_, a)| a.kind() == kind && a.is_named(name));
    match found {
        Some((index, attribute)) if !attribute.is_resident() => {
            let runs = attribute.own_runs(volume.boot.clusters)?;
            let end = runs.last().map_or(0, |run| run.vcn + run.count);
            let (size, _) = attribute.sizes();
            if attribute.first_vcn() == 0 && end * volume.boot.cluster >= size {
                return Ok((index, runs));
            }
            Err(Fault::Damage(format!(
                "record {}: attribute {kind:#x}: expected whole, found {end} clusters of {size} bytes",
                record.number
            )))
        }
        _ => Err(Fault::Damage(format!(
            "record {}: no attribute {kind:#x} in clusters",
            record.number
        ))),
    }
}

/// Write both boot sectors. Offsets: 0x28 sectors, 0x30 first cluster of the MFT, 0x38 of its copy.
fn write_boot<D: BlockWrite>(
    volume: &Volume<D>,
    target: &Target,
    mft: u64,
    mirror: Option<u64>,
) -> Result<()> {
    let mut sector = vec![0; volume.boot.sector.max(512) as usize];
    volume.disk.read_at(0, &mut sector)?;
    put(&mut sector, 0x28, &target.sectors.to_le_bytes());
    put(&mut sector, 0x30, &mft.to_le_bytes());
    if let Some(mirror) = mirror {
        put(&mut sector, 0x38, &mirror.to_le_bytes());
    }
    volume.disk.write_at(0, &sector)?;
    let copy = target.sectors * volume.boot.sector;
    volume.disk.write_at(copy, &sector)?;
    Ok(())
}

/// Empty the log: fill it with 0xFF, where it is not yet.
fn empty_log<D: BlockWrite>(volume: &Volume<D>, runs: &[Run]) -> Result<()> {
    let cluster = volume.boot.cluster;
    let empty = vec![0xFF; PIECE];
    let mut found = vec![0; PIECE];
    for run in runs {
        let Some(lcn) = run.lcn else { continue };
        let (mut at, end) = (lcn * cluster, (lcn + run.count) * cluster);
        while at < end {
            let len = (end - at).min(PIECE as u64) as usize;
            let (found, empty) = (found.get_mut(..len), empty.get(..len));
            if let (Some(found), Some(empty)) = (found, empty) {
                volume.disk.read_at(at, found)?;
                if found != empty {
                    volume.disk.write_at(at, empty)?;
                }
            }
            at += len as u64;
        }
    }
    Ok(())
}
