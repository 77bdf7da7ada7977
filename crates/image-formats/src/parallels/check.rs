//! Checks a Parallels disk: the descriptor of a bundle, and every expanding image with its BAT.

use std::path::Path;

use block_io::{BlockRead, FileDisk};

use super::descriptor::{read_descriptor, starts_descriptor};
use super::expanding::{check_header, read_header};
use super::format::{HEADER_LEN, Header, SECTOR};
use super::rules;
use crate::bytes::le32;
use crate::check::{Space, Tally, note, unclaimed, walk_entries, warning};
use crate::error::ParseError;
use crate::finding::{Finding, Severity};
use crate::gate::OpenGate;
use crate::image::ImageFile;

/// Check `file`, and the images it names through `gate`.
pub(crate) fn check(
    file: &ImageFile,
    gate: &dyn OpenGate,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let mut start = [0; 512];
    let there = file.disk.size().min(512) as usize;
    if let Some(part) = start.get_mut(..there) {
        file.disk.read_at(0, part)?;
    }
    if Header::parse(&start).is_some() || !starts_descriptor(&start) {
        return check_expanding(&file.disk, tally);
    }
    let descriptor = read_descriptor(&file.disk)?;
    for storage in &descriptor.storages {
        for image in storage.images.iter().filter(|image| !image.plain) {
            check_named(&image.file, &file.path, gate, tally)?;
        }
    }
    Ok(())
}

/// Check an image that the descriptor names. What the gate or the system refuses, the reader tells.
fn check_named(
    name: &str,
    from: &Path,
    gate: &dyn OpenGate,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let Ok(path) = gate.admit(name, from) else {
        return Ok(());
    };
    match FileDisk::open(path) {
        Ok(disk) => check_expanding(&disk, tally),
        Err(_) => Ok(()),
    }
}

// parallels.rst, "Header" and "BAT"
fn check_expanding(disk: &dyn BlockRead, tally: &mut Tally) -> Result<(), ParseError> {
    let mut header = read_header(disk)?;
    check_header(&mut header, disk.size())?;
    let mut flags = [0; HEADER_LEN];
    disk.read_at(0, &mut flags)?;
    let flags = le32(&flags, 52);
    if flags & !1 != 0 {
        let found = format!("{flags:#x}");
        tally.tell(note(rules::FLAGS, 52, "bit 0 or none", found));
    }
    let cluster = header.cluster();
    let needed = header.sectors.div_ceil(header.cluster_sectors);
    if header.entries != needed {
        let found = header.entries.to_string();
        tally.tell(warning(rules::ENTRIES, 32, needed.to_string(), found));
    }
    let data = header.data_start();
    let mut space = Space::default();
    space.claim(0, data, "header and BAT", 0);
    if header.extension != 0 {
        let place = header.extension.saturating_mul(SECTOR);
        space.claim(place, cluster, "the format extension", 56);
    }
    let mut allocated = 0;
    let end = disk.size();
    walk_entries::<4>(
        disk,
        HEADER_LEN as u64,
        header.entries,
        |index, from, entry| {
            let entry = u32::from_le_bytes(entry);
            if entry == 0 {
                return;
            }
            allocated += 1;
            let place = header.place(entry);
            let held = cluster.min((needed * cluster).saturating_sub(index * cluster));
            let inside = place.checked_add(held).is_some_and(|last| last <= end);
            if place < data || !inside {
                let expected = format!("from {data} on, below {end}");
                let found = place.to_string();
                tally.corrupt(Finding::error(rules::CLUSTER_PLACE, from, expected, found));
                return;
            }
            if !(place - data).is_multiple_of(cluster) {
                let expected = format!("whole clusters behind {data}");
                let found = place.to_string();
                tally.tell(warning(rules::CLUSTER_ALIGNED, from, expected, found));
            }
            space.claim(place, cluster.min(end - place), "a cluster", from);
        },
    )?;
    if flags & 1 != 0 && allocated > 0 {
        let found = format!("{allocated} clusters");
        tally.tell(warning(rules::FLAGS, 52, "an empty image", found));
    }
    settle(space, cluster, end, header.extension != 0, tally);
    tally.total_units = Some(tally.total_units.unwrap_or(0) + needed);
    tally.allocated_units = Some(tally.allocated_units.unwrap_or(0) + allocated);
    Ok(())
}

fn settle(space: Space, cluster: u64, file_end: u64, extended: bool, tally: &mut Tally) {
    let end = space.tell(
        cluster,
        file_end,
        rules::SHARED,
        tally,
        |from, to, tally| {
            let finding = unclaimed(rules::LEAK, from, to, "a cluster");
            match extended {
                // They may belong to the extension, a dirty bitmap for example, which is not looked at.
                true => tally.tell(finding.with(Severity::Note)),
                false => tally.leak((to - from) / cluster, finding),
            }
        },
    );
    tally.end = Some(end);
}
