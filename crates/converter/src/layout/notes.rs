//! What a new layout means for the guest, beyond the table: boot loaders that count sectors, file systems that only
//! the guest can grow, names that change.

use anyhow::bail;
use block_io::BlockRead;
use disk_layout::arrange::{NewLayout, Placed, Resize};
use disk_layout::{BootCode, Layout, Lba, TableKind, boot_code};
use filesystems::probe::FsKind;
use serde::Serialize;

use super::plan::Contents;
use crate::convert::guest::OpenDisk;
use crate::progress::human_bytes;

/// Free space at the end of a disk that is worth a word.
const MUCH: u64 = 64 << 20;

/// What the user should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Whether the guest needs a hand.
    pub warning: bool,
    /// A sentence.
    pub text: String,
}

fn note(text: impl Into<String>) -> Note {
    Note {
        warning: false,
        text: text.into(),
    }
}

fn warning(text: impl Into<String>) -> Note {
    Note {
        warning: true,
        text: text.into(),
    }
}

/// What `new` means for the guest on `open`.
///
/// # Errors
/// Where the guest could not start from it.
pub fn notes(open: &OpenDisk, new: &NewLayout, contents: &[Contents]) -> anyhow::Result<Vec<Note>> {
    let layout = &open.survey.layout;
    let mut notes = Vec::new();
    check_boot_code(open, new, &mut notes)?;
    for part in &new.parts {
        let held = contents.iter().find(|held| held.number == part.number);
        if let Some(held) = held {
            note_growth(part, held, &mut notes);
            note_windows(layout, part, held, &mut notes);
        }
        if part.new_number != part.number {
            notes.push(note(format!(
                "partition {} becomes {}: logical partitions are counted, their numbers are stored nowhere",
                part.number, part.new_number
            )));
        }
    }
    for held in contents
        .iter()
        .filter(|held| new.left_out.contains(&held.number))
    {
        if let Some(at) = held.mounted.first() {
            notes.push(warning(format!(
                "partition {} is left out, and the guest's fstab uses it for {at}: without `nofail` there its start \
                 waits for it",
                held.number
            )));
        }
    }
    if layout.table == TableKind::Mbr && new.table == TableKind::Gpt {
        notes.push(warning(
            "partitions get new PARTUUIDs with the GPT; file systems keep their UUIDs. What names a partition by \
             PARTUUID=… in fstab or on the kernel's command line must be changed",
        ));
    }
    let end = new.parts.iter().map(|part| part.new.end).max().unwrap_or(0);
    let free = new.size.saturating_sub(end);
    if free > MUCH && new.size > open.disk.size() {
        let free = human_bytes(free);
        notes.push(note(format!(
            "{free} at the end of the disk stay free; --grow gives them to partitions"
        )));
    }
    Ok(notes)
}

fn note_growth(part: &Placed, held: &Contents, notes: &mut Vec<Note>) {
    let (Resize::Grow { .. }, Some(why)) = (part.resize(), &held.fixed) else {
        return;
    };
    let number = part.number;
    let at = held
        .mounted
        .first()
        .map_or("its mount point", String::as_str);
    let how = match held.kind {
        Some(FsKind::Xfs) => format!("run `xfs_growfs {at}` in the guest"),
        Some(FsKind::Btrfs) => format!("run `btrfs filesystem resize max {at}` in the guest"),
        Some(FsKind::Lvm2Pv) => {
            "run `pvresize` on it in the guest, then `lvextend -r` on the volume".to_owned()
        }
        _ => format!("what it holds stays as it is ({why})"),
    };
    notes.push(warning(format!(
        "partition {number} grows, its contents do not: {how}"
    )));
}

/// [BCD and MountedDevices]: on an MBR disk both name a partition by disk signature and byte offset.
fn note_windows(layout: &Layout, part: &Placed, held: &Contents, notes: &mut Vec<Note>) {
    if held.kind == Some(FsKind::Ntfs) && part.is_moved() && layout.table == TableKind::Mbr {
        notes.push(warning(format!(
            "partition {} holds NTFS and moves: Windows names it by its byte offset in the boot configuration and for \
             drive letters, and may not start from it; grow the partition in place, or let it be the one that stays",
            part.number
        )));
    }
}

/// Whether boot loaders find their next part where it will be.
fn check_boot_code(open: &OpenDisk, new: &NewLayout, notes: &mut Vec<Note>) -> anyhow::Result<()> {
    let layout = &open.survey.layout;
    let code = code_at(open, 0)?;
    let to_gpt = layout.table == TableKind::Mbr && new.table == TableKind::Gpt;
    match code {
        BootCode::Lilo => check_lilo(new, "the disk's boot sector")?,
        BootCode::Grub2 { core } => check_next(layout, new, core, "GRUB's core image", notes)?,
        BootCode::GrubLegacy { stage } => {
            check_next(layout, new, stage, "GRUB's next stage", notes)?
        }
        BootCode::Empty | BootCode::ByTable | BootCode::Unknown => {}
    }
    let embeds = matches!(
        code,
        BootCode::Grub2 { .. } | BootCode::GrubLegacy { .. } | BootCode::Unknown
    );
    if to_gpt && embeds {
        bail!(
            "its boot loader keeps its image behind the boot sector, where a GPT has its entries: the guest would not \
             start from BIOS any more. Leave --table out; the disk can have up to 2 TiB with its MBR"
        );
    }
    if to_gpt && code == BootCode::ByTable {
        notes.push(warning(
            "its boot code starts the active partition of an MBR, and finds none in a GPT",
        ));
    }
    for part in new
        .parts
        .iter()
        .filter(|part| part.is_moved() && !part.extended)
    {
        let (start, number) = (part.old.start, part.number);
        match code_at(open, start)? {
            BootCode::Lilo => check_lilo(new, &format!("partition {number}"))?,
            BootCode::Grub2 { core: place } | BootCode::GrubLegacy { stage: place }
                if place != Lba(0) =>
            {
                notes.push(warning(format!(
                    "partition {number} moves, and GRUB in its own boot sector goes on at {place} of the disk: if the \
                     guest starts through it, run grub-install in the guest before it is moved"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

fn code_at(open: &OpenDisk, start: u64) -> anyhow::Result<BootCode> {
    let mut sector = [0; 512];
    if open.disk.size() < start.saturating_add(512) {
        return Ok(BootCode::Empty);
    }
    open.disk.read_at(start, &mut sector)?;
    let has_magic = sector.get(510..) == Some(&[0x55, 0xAA]);
    Ok(if has_magic {
        boot_code(&sector)
    } else {
        BootCode::Empty
    })
}

/// A next part behind the boot sector is kept where it is. One inside a partition is found by sector number.
fn check_next(
    layout: &Layout,
    new: &NewLayout,
    place: Lba,
    what: &str,
    notes: &mut Vec<Note>,
) -> anyhow::Result<()> {
    let at = place.byte(layout.sector_size).unwrap_or(u64::MAX);
    let holder = new
        .parts
        .iter()
        .find(|part| !part.extended && part.old.contains(&at));
    let Some(part) = holder else {
        return Ok(());
    };
    let shrinks = matches!(part.resize(), Resize::Shrink { .. });
    if part.is_moved() || shrinks {
        bail!(
            "{what} lies in partition {} and is found by its sector number ({place}): that partition can neither be \
             moved nor shrunk. Run grub-install in the guest first, so that it lies behind the boot sector",
            part.number
        );
    }
    notes.push(note(format!(
        "{what} lies in partition {}, which stays where it is",
        part.number
    )));
    Ok(())
}

/// LILO's map lists the sectors of the kernel and of everything else it reads.
fn check_lilo(new: &NewLayout, whose: &str) -> anyhow::Result<()> {
    let touched = new.parts.iter().find(|part| {
        !part.extended && (part.is_moved() || matches!(part.resize(), Resize::Shrink { .. }))
    });
    if let Some(part) = touched {
        bail!(
            "LILO in {whose} loads kernels by lists of sectors, which would be wrong once partition {} is moved or \
             shrunk: partitions can only be grown in place, or the disk made larger",
            part.number
        );
    }
    Ok(())
}
