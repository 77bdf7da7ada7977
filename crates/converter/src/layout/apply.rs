//! Making the new disks: shrink in place, compose from pieces, put the table on, tell boot sectors, grow.

use std::sync::Arc;

use anyhow::Context;
use block_io::{BlockRead, Overlay, Piece, Remap, Window};
use disk_layout::arrange::{Placed, Resize};
use disk_survey::survey;
use filesystems::hidden_sectors::set_partition_start;
use filesystems::probe::FsKind;
use filesystems::resize::resize;
use filesystems::tree::Recovery;

use super::plan::{Contents, DiskPlan, Layouts};
use crate::convert::guest::{EditedDisk, OpenDisk};

/// The disks as `layouts` plans them; those it leaves alone as they are.
///
/// # Errors
/// When a file system cannot be resized, or a disk cannot be read.
pub fn apply(disks: Vec<OpenDisk>, layouts: &Layouts) -> anyhow::Result<Vec<OpenDisk>> {
    let pairs = disks.into_iter().zip(&layouts.disks);
    pairs
        .map(|(open, plan)| match plan {
            Some(plan) => {
                apply_to(open, plan).with_context(|| format!("laying out {}", plan.label))
            }
            None => Ok(open),
        })
        .collect()
}

fn apply_to(open: OpenDisk, plan: &DiskPlan) -> anyhow::Result<OpenDisk> {
    let parts = plan.new.parts.iter().filter(|part| !part.extended);
    let parts: Vec<(&Placed, Option<&Contents>)> = parts
        .map(|part| {
            (
                part,
                plan.contents.iter().find(|held| held.number == part.number),
            )
        })
        .collect();
    for (part, held) in &parts {
        if let (Resize::Shrink { to }, Some(kind)) = (part.resize(), resizable(*held)) {
            let window = Window::new(open.disk.clone(), part.old.clone())?;
            let doing = || format!("shrinking partition {} ({kind})", part.number);
            resize(&window, kind, to, Recovery::Replay).with_context(doing)?;
        }
    }
    let disk = compose(&open, plan)?;
    disk_layout::apply(&*disk, &plan.new.patches).context("writing the new partition table")?;
    for (part, held) in &parts {
        let window = Window::new(disk.clone(), part.new.clone())?;
        let kind = held.and_then(|held| held.kind);
        if let (true, Some(kind)) = (part.is_moved(), kind.filter(|kind| says_its_start(*kind))) {
            let doing = || format!("telling partition {} ({kind}) where it begins", part.number);
            set_partition_start(&window, kind, part.new.start).with_context(doing)?;
        }
        if let (Resize::Grow { to }, Some(kind)) = (part.resize(), resizable(*held)) {
            let doing = || format!("growing partition {} ({kind})", part.number);
            resize(&window, kind, to, Recovery::Replay).with_context(doing)?;
        }
    }
    let survey = survey(&disk).context("looking at the new disk")?;
    let renumbered = plan
        .new
        .parts
        .iter()
        .map(|part| (part.new_number, part.number))
        .collect();
    Ok(OpenDisk {
        disk,
        survey,
        renumbered,
    })
}

/// What can be resized here.
fn resizable(held: Option<&Contents>) -> Option<FsKind> {
    held.filter(|held| held.fixed.is_none())
        .and_then(|held| held.kind)
}

fn says_its_start(kind: FsKind) -> bool {
    let told = [
        FsKind::Fat12,
        FsKind::Fat16,
        FsKind::Fat32,
        FsKind::Ntfs,
        FsKind::ExFat,
    ];
    told.contains(&kind)
}

/// The disk made of what is kept, each partition at its new place.
fn compose(open: &OpenDisk, plan: &DiskPlan) -> anyhow::Result<EditedDisk> {
    let from: Arc<dyn BlockRead> = open.disk.clone();
    let kept = plan
        .new
        .kept
        .iter()
        .map(|range| (range.clone(), range.start));
    let parts = plan
        .new
        .parts
        .iter()
        .filter(|part| !part.extended)
        .map(|part| {
            let len = (part.old.end - part.old.start).min(part.new.end - part.new.start);
            (part.new.start..part.new.start + len, part.old.start)
        });
    let pieces = kept
        .chain(parts)
        .filter(|(at, _)| !at.is_empty())
        .map(|(at, offset)| Piece {
            at,
            from: Arc::clone(&from),
            offset,
        })
        .collect();
    let disk = Remap::new(plan.new.size, plan.new.sector_size, pieces)
        .context("putting the partitions at their new places")?;
    Ok(Arc::new(Overlay::new(disk)))
}

/// The disks with what is in use of them now: a shrink leaves bytes behind, a growth takes more.
///
/// # Errors
/// When a disk cannot be read.
pub fn only_used(disks: &[OpenDisk], layouts: &Layouts) -> anyhow::Result<Vec<Arc<dyn BlockRead>>> {
    disks
        .iter()
        .zip(&layouts.disks)
        .map(|(open, plan)| {
            let disk: Arc<dyn BlockRead> = open.disk.clone();
            match plan {
                None => Ok(disk),
                Some(_) => {
                    let survey =
                        survey(&disk).context("looking at what is in use of the new disk")?;
                    Ok(Arc::new(survey.used_only(disk)) as Arc<dyn BlockRead>)
                }
            }
        })
        .collect()
}
