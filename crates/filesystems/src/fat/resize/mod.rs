//! Growing and shrinking FAT12, FAT16 and FAT32, within the number of clusters the type allows.
//!
//! A table that gets longer pushes the data back by whole clusters: these are carried to free ones, and
//! all others keep their place on the disk and get a lower number. A table is never made shorter, so that
//! a shrink only carries the clusters behind the new end.
//!
//! - [`layout`]: where everything lies in another size, and which cluster goes where.
//! - [`table`]: the table in memory.
//! - [`names`]: the first clusters that directories name.

mod layout;
mod names;
mod table;

use block_io::{BlockRead, BlockWrite};

use self::layout::{Change, Layout};
use self::table::Table;
use super::format::{Cluster, Geometry, Width};
use super::volume::Volume;
use crate::bytes::{le16, le32, put_le16, put_le32};
use crate::resize::{ResizeError, ResizeErrorKind, ResizeLimits, Resized};
use crate::tree::Recovery;

/// Bytes copied at a time.
const PIECE: u64 = 1 << 20;

fn damaged(detail: impl Into<String>) -> ResizeError {
    ResizeError::new(ResizeErrorKind::Damaged, detail)
}

/// How far the file system on `disk` can grow and shrink: its table is read, no file.
pub(crate) fn resize_limits(disk: &dyn BlockRead) -> Result<ResizeLimits, ResizeError> {
    let volume = open(disk, Recovery::Replay)?;
    let table = Table::read(&volume.disk, &volume.geometry)?;
    Ok(limits(&volume.geometry, &table))
}

fn limits(geometry: &Geometry, table: &Table) -> ResizeLimits {
    let current = geometry.sectors * geometry.sector;
    let smallest = layout::smallest(geometry, table.used());
    ResizeLimits::around(current, smallest, layout::largest(geometry))
}

/// Make the file system on `disk` `new_size` bytes long.
pub(crate) fn resize(
    disk: &dyn BlockWrite,
    new_size: u64,
    recovery: Recovery,
) -> Result<Resized, ResizeError> {
    let volume = open(disk, recovery)?;
    let old = &volume.geometry;
    let table = Table::read(&volume.disk, old)?;
    limits(old, &table).check(new_size)?;
    let before = old.sectors * old.sector;
    let layout = Layout::of(old, new_size / old.sector, &table);
    if layout.sectors == old.sectors {
        return Ok(Resized {
            before,
            after: before,
            ..Resized::default()
        });
    }
    let mut boot = [0; 512];
    volume.disk.read_at(0, &mut boot)?;
    let changed = with_layout(old, &layout, &boot);
    let new = Geometry::parse(&changed).map_err(damaged)?;
    if new.width != old.width || new.clusters < layout.clusters {
        return Err(damaged(format!(
            "new boot sector: expected {:?} of {} clusters, found {:?} of {}",
            old.width, layout.clusters, new.width, new.clusters
        )));
    }
    let change = Change::plan(old, new, &layout, &table)?;
    let moved_table = table.changed(&change)?;
    let root = match change.root_cluster()? {
        Some(_) => Vec::new(),
        None => read_root(&volume.disk, old)?,
    };
    let done = write(disk, &change, &layout, moved_table, root);
    done.map_err(ResizeError::torn)?;
    Ok(Resized {
        before,
        after: layout.sectors * old.sector,
        moved: change.moved.len() as u64 * old.cluster,
        renumbered: 0,
    })
}

/// Open a volume whose tables agree and that is not in use.
fn open<D: BlockRead>(disk: D, recovery: Recovery) -> Result<Volume<D>, ResizeError> {
    let mut volume = Volume::open(disk)?;
    if recovery == Recovery::Refuse && volume.is_dirty()? {
        return Err(ResizeError::new(
            ResizeErrorKind::Dirty,
            "it is marked as mounted; unmount it cleanly on the source, or run fsck.vfat on it",
        ));
    }
    if volume.geometry.active.is_some() {
        return Err(ResizeError::new(
            ResizeErrorKind::Unsupported,
            "FAT32 whose tables are not mirrored (BPB_ExtFlags at byte 40, bit 7); run fsck.vfat or chkdsk on the source",
        ));
    }
    // Compares the copies of the table.
    volume.prepare_writing()?;
    Ok(volume)
}

fn read_root<D: BlockRead>(disk: &D, old: &Geometry) -> Result<Vec<u8>, ResizeError> {
    let mut root = vec![0; (old.root.end - old.root.start) as usize];
    disk.read_at(old.root.start, &mut root)?;
    Ok(root)
}

/// A boot sector that says what `layout` says. // fatgen103 "Boot Sector and BPB"
fn with_layout(old: &Geometry, layout: &Layout, boot: &[u8; 512]) -> [u8; 512] {
    let mut boot = *boot;
    let fat = (layout.fat_len / old.sector) as u32;
    let is_32 = old.width == Width::Fat32;
    let short = !is_32 && layout.sectors < 65_536;
    put_le16(&mut boot, 19, if short { layout.sectors as u16 } else { 0 });
    put_le32(&mut boot, 32, if short { 0 } else { layout.sectors as u32 });
    match is_32 {
        true => put_le32(&mut boot, 36, fat),
        false => put_le16(&mut boot, 22, fat as u16),
    }
    boot
}

fn write(
    disk: &dyn BlockWrite,
    change: &Change,
    layout: &Layout,
    table: Table,
    mut root: Vec<u8>,
) -> Result<(), ResizeError> {
    for (from, to) in change.runs() {
        copy(disk, change, from, to)?;
    }
    for copy in 0..change.new.fats {
        table.write(
            &disk,
            &change.new,
            change.new.fat_start + copy * change.new.fat_len,
        )?;
    }
    names::tell_all(disk, change, &table, &mut root)?;
    disk.write_at(change.new.root.start, &root)?;
    write_boot(disk, change, layout, 0)?;
    if change.new.width == Width::Fat32 {
        let mut boot = [0; 512];
        disk.read_at(0, &mut boot)?;
        // BPB_BkBootSec
        let backup = u64::from(le16(&boot, 50)) * change.new.sector;
        if backup != 0 && backup < change.new.fat_start {
            write_boot(disk, change, layout, backup)?;
        }
    }
    write_summary(disk, &change.new, &table)
}

/// Copy clusters, from the number the first of them had to the one it has.
fn copy(
    disk: &dyn BlockWrite,
    change: &Change,
    from: std::ops::Range<Cluster>,
    to: Cluster,
) -> Result<(), ResizeError> {
    let len = u64::from(from.end - from.start) * change.old.cluster;
    let (from, to) = (change.old.start_of(from.start), change.new.start_of(to));
    let mut buf = vec![0; PIECE.min(len) as usize];
    let mut done = 0;
    while done < len {
        let part = buf.get_mut(..(len - done).min(PIECE) as usize);
        let part = part.unwrap_or_default();
        disk.read_at(from + done, part)?;
        disk.write_at(to + done, part)?;
        done += part.len() as u64;
    }
    Ok(())
}

/// Change the boot sector at `at`, or its copy, if one is there.
fn write_boot(
    disk: &dyn BlockWrite,
    change: &Change,
    layout: &Layout,
    at: u64,
) -> Result<(), ResizeError> {
    let mut boot = [0; 512];
    disk.read_at(at, &mut boot)?;
    if at != 0 && Geometry::parse(&boot).is_err() {
        return Ok(());
    }
    let mut boot = with_layout(&change.old, layout, &boot);
    if let Some(root) = change.root_cluster()? {
        put_le32(&mut boot, 44, root);
    }
    Ok(disk.write_at(at, &boot)?)
}

/// The count of free clusters FAT32 keeps. // fatgen103 "FSInfo"
fn write_summary(disk: &dyn BlockWrite, new: &Geometry, table: &Table) -> Result<(), ResizeError> {
    let Some(at) = new.fs_info else { return Ok(()) };
    let mut info = [0; 512];
    disk.read_at(at, &mut info)?;
    if le32(&info, 0) != 0x4161_5252 || le32(&info, 484) != 0x6141_7272 {
        return Ok(());
    }
    put_le32(&mut info, 488, (new.clusters - table.used()) as u32);
    put_le32(&mut info, 492, table.first_free().unwrap_or(2));
    Ok(disk.write_at(at, &info)?)
}
