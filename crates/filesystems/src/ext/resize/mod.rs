//! Growing and shrinking ext2, ext3 and ext4 without mounting.
//!
//! What is supported and what is refused by name stands in `docs/resize.md`.
//!
//! - [`geometry`]: the superblock a new size gives, and the largest size.
//! - [`grow`]: the last group filled up, new groups behind it. Nothing is ever moved: where the
//!   descriptor table has no room left, what follows goes into the new groups (`meta_bg`), as Linux
//!   does when it grows a mounted file system.
//! - [`shrink`]: planned by [`space`] from bitmaps alone; [`renumber`] and [`moves`] put inodes and
//!   blocks elsewhere and change all that names them.
//! - [`copies`]: descriptor tables and superblocks with their copies, and the resize inode.

mod copies;
mod geometry;
mod grow;
mod moves;
mod renumber;
mod shrink;
mod space;

use block_io::{BlockRead, BlockWrite, Overlay};

use super::feature;
use super::volume::Volume;
use crate::bytes::{le32, le64};
use crate::resize::{ResizeError, ResizeErrorKind, ResizeLimits, Resized};
use crate::tree::Recovery;

/// Features that do not stand in the way of another size.
const INCOMPAT: u32 = feature::INCOMPAT_READ;
const RO_COMPAT: u32 = feature::RO_COMPAT_WRITE | feature::QUOTA | feature::PROJECT;
const COMPAT: u32 = 0x3
    | feature::HAS_JOURNAL
    | feature::EXT_ATTR
    | feature::RESIZE_INODE
    | feature::DIR_INDEX
    | feature::SPARSE_SUPER2
    | feature::FAST_COMMIT
    | feature::STABLE_INODES
    | feature::ORPHAN_FILE;
/// s_mmp sequence number of a file system that nobody uses. // [ext4 disk layout] Multiple Mount
/// Protection
const MMP_CLEAN: u32 = 0xFF4D_4D50;

/// An error about bytes that contradict themselves.
fn damaged(detail: impl Into<String>) -> ResizeError {
    ResizeError::new(ResizeErrorKind::Damaged, detail)
}

fn unsupported(detail: impl Into<String>) -> ResizeError {
    ResizeError::new(ResizeErrorKind::Unsupported, detail)
}

fn dirty(detail: impl Into<String>) -> ResizeError {
    ResizeError::new(ResizeErrorKind::Dirty, detail)
}

/// How far the file system on `disk` can grow and shrink. What its journal holds is put in place in
/// memory first.
pub(crate) fn resize_limits(disk: &dyn BlockRead) -> Result<ResizeLimits, ResizeError> {
    let mut volume = Volume::open(Overlay::new(disk))?;
    recover(&mut volume, Recovery::Replay)?;
    volume.system.clear();
    volume.survey_system_blocks()?;
    let sb = &volume.sb;
    let smallest = space::Space::survey(&volume)?.smallest() * sb.block_size;
    let current = sb.blocks * sb.block_size;
    let largest = geometry::largest(sb);
    Ok(ResizeLimits::around(current, smallest, largest))
}

/// Make the file system on `disk` `new_size` bytes long.
pub(crate) fn resize(
    disk: &dyn BlockWrite,
    new_size: u64,
    recovery: Recovery,
) -> Result<Resized, ResizeError> {
    let mut volume = Volume::open(disk)?;
    let replayed = recover(&mut volume, recovery)?;
    let torn = |error: ResizeError| match replayed {
        true => error.torn(),
        false => error,
    };
    let blocks = new_size / volume.sb.block_size;
    let now = volume.sb.blocks;
    match blocks.cmp(&now) {
        std::cmp::Ordering::Equal => Ok(unchanged(&volume)),
        std::cmp::Ordering::Greater => grow::grow(&mut volume, blocks).map_err(torn),
        std::cmp::Ordering::Less => shrink::shrink(&mut volume, blocks).map_err(torn),
    }
}

fn unchanged<D>(volume: &Volume<D>) -> Resized {
    let size = volume.sb.blocks * volume.sb.block_size;
    Resized {
        before: size,
        after: size,
        ..Resized::default()
    }
}

/// Refuse what cannot be resized; put in place what the journal holds. Whether anything was written.
fn recover<D: BlockWrite>(volume: &mut Volume<D>, recovery: Recovery) -> Result<bool, ResizeError> {
    refuse_features(volume)?;
    let sb = &volume.sb;
    let has_orphans = sb.last_orphan() != 0 || sb.has_ro_compat(feature::ORPHAN_PRESENT);
    let is_dirty = sb.has_incompat(feature::RECOVER) || has_orphans;
    if is_dirty && recovery == Recovery::Refuse {
        return Err(dirty(
            "its journal holds changes; replay it, or unmount it cleanly on the source",
        ));
    }
    if !sb.has_compat(feature::HAS_JOURNAL) && sb.state() & 1 == 0 {
        return Err(dirty(
            "it has no journal to recover from; run e2fsck on the source, or unmount it cleanly there",
        ));
    }
    refuse_in_use(volume)?;
    if is_dirty {
        let done = finish(volume);
        done.map_err(ResizeError::torn)?;
    }
    if volume.sb.state() & 2 != 0 {
        let error = damaged(
            "s_state at byte 1082: the file system's error flag is set; run e2fsck -f on it",
        );
        return Err(if is_dirty { error.torn() } else { error });
    }
    Ok(is_dirty)
}

/// Put what the journal holds in place, and finish deletions that were under way.
fn finish<D: BlockWrite>(volume: &mut Volume<D>) -> Result<(), ResizeError> {
    volume.replay_journal()?;
    let sb = &volume.sb;
    let has_orphans = sb.last_orphan() != 0 || sb.has_ro_compat(feature::ORPHAN_PRESENT);
    if has_orphans && sb.has_ro_compat(feature::QUOTA) {
        return Err(dirty(
            "quota: deletions under way change what users are charged for; mount it once on the source and unmount it",
        ));
    }
    volume.survey_system_blocks()?;
    volume.finish_orphans()?;
    volume.begin();
    volume.recount()?;
    Ok(volume.commit(&[])?)
}

fn refuse_features<D: BlockRead>(volume: &Volume<D>) -> Result<(), ResizeError> {
    let sb = &volume.sb;
    if sb.groups > geometry::MOST_GROUPS {
        return Err(unsupported(format!(
            "{} block groups: at most {} can be handled",
            sb.groups,
            geometry::MOST_GROUPS
        )));
    }
    let sets = [
        (le32(&sb.raw, 0x5C) & !COMPAT, feature::COMPAT_NAMES),
        (sb.incompat() & !INCOMPAT, feature::INCOMPAT_NAMES),
        (sb.ro_compat() & !RO_COMPAT, feature::RO_COMPAT_NAMES),
    ];
    for (bits, names) in sets {
        if bits != 0 {
            return Err(unsupported(format!(
                "ext feature {}; resize it with the guest's own resize2fs",
                feature::names(bits, names)
            )));
        }
    }
    Ok(())
}

/// Refuse a file system that a running system says it uses.
fn refuse_in_use<D: BlockRead>(volume: &Volume<D>) -> Result<(), ResizeError> {
    if !volume.sb.has_incompat(feature::MMP) {
        return Ok(());
    }
    let block = le64(&volume.sb.raw, 0x168);
    let bytes = volume.block(block, "s_mmp_block")?;
    match (le32(&bytes, 0), le32(&bytes, 4)) {
        (0x004D_4D50, MMP_CLEAN) => Ok(()),
        (0x004D_4D50, sequence) => Err(dirty(format!(
            "mmp: sequence in block {block}: expected {MMP_CLEAN:#x} (not in use), found {sequence:#x}; unmount it on the source"
        ))),
        (magic, _) => Err(damaged(format!(
            "mmp: magic in block {block}: expected 0x4d4d50, found {magic:#x}"
        ))),
    }
}
