//! Checks a VMDK: its descriptor, and every sparse extent with its directories, tables, grains and markers.

use std::path::Path;

use block_io::{BlockRead, FileDisk};

use super::check_sparse::check_sparse;
use super::descriptor::{Descriptor, NO_PARENT};
use super::format::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC, SPARSE_MAGIC};
use super::rules;
use crate::check::{Tally, note, warning};
use crate::error::ParseError;
use crate::finding::Finding;
use crate::gate::OpenGate;
use crate::image::ImageFile;

/// A descriptor file has at most this many bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;

/// The kinds of disk, and the kinds of extents each is made of. // [Virtual Disk Format 5.0] createType
const CREATE_TYPES: [(&str, &[&str]); 14] = [
    ("monolithicSparse", &["SPARSE"]),
    ("monolithicFlat", &["FLAT"]),
    ("streamOptimized", &["SPARSE"]),
    ("twoGbMaxExtentSparse", &["SPARSE"]),
    ("twoGbMaxExtentFlat", &["FLAT"]),
    ("2GbMaxExtentSparse", &["SPARSE"]),
    ("2GbMaxExtentFlat", &["FLAT"]),
    ("vmfs", &["VMFS"]),
    ("vmfsSparse", &["VMFSSPARSE"]),
    ("vmfsThin", &["VMFS"]),
    ("vmfsEagerZeroedThick", &["VMFS"]),
    ("seSparse", &["SESPARSE"]),
    ("fullDevice", &["FLAT"]),
    ("partitionedDevice", &["FLAT", "ZERO"]),
];

/// Check `file` and the extents it names through `gate`.
pub(crate) fn check(
    file: &ImageFile,
    gate: &dyn OpenGate,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let mut head = [0; 4];
    let there = file.disk.size().min(4) as usize;
    if let Some(part) = head.get_mut(..there) {
        file.disk.read_at(0, part)?;
    }
    // COWD has no field that could be checked beyond what its reader does; seSparse is refused by it.
    if head == *COWD_MAGIC || head == SESPARSE_MAGIC[..4] {
        return Ok(());
    }
    if head == *SPARSE_MAGIC {
        let sparse = check_sparse(&file.disk, tally)?;
        if let Some(text) = sparse.descriptor {
            let descriptor = check_text(&text, tally)?;
            let sectors: u64 = descriptor
                .extents
                .iter()
                .map(|extent| extent.sectors)
                .fold(0, u64::saturating_add);
            if sectors != sparse.capacity {
                let expected = format!("{} sectors, as the header says", sparse.capacity);
                tally.tell(warning(
                    rules::EXTENTS_SUM,
                    12,
                    expected,
                    sectors.to_string(),
                ));
            }
        }
        return Ok(());
    }
    let size = file.disk.size();
    if size > MAX_DESCRIPTOR {
        let expected = "at most 1 MiB of text";
        return Err(Finding::error(rules::DESCRIPTOR, 0, expected, size.to_string()).into());
    }
    let mut text = vec![0; size as usize];
    file.disk.read_at(0, &mut text)?;
    let descriptor = check_text(&text, tally)?;
    check_extents(&descriptor, &file.path, gate, tally)
}

// [Virtual Disk Format 5.0] Text Descriptor
fn check_text(text: &[u8], tally: &mut Tally) -> Result<Descriptor, ParseError> {
    let descriptor = Descriptor::parse(text)?;
    let end = text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(text.len());
    let text = String::from_utf8_lossy(text.get(..end).unwrap_or_default());
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().trim_matches('"').to_owned())
    };
    let version = value("version").unwrap_or_default();
    if !matches!(version.as_str(), "1" | "2" | "3") {
        tally.tell(warning(rules::DESCRIPTOR_VERSION, 0, "1, 2 or 3", version));
    }
    for name in ["CID", "parentCID"] {
        let found = value(name).unwrap_or_default();
        if u32::from_str_radix(&found, 16).is_err() {
            tally.tell(warning(
                rules::CID,
                0,
                format!("{name} of eight hexadecimal digits"),
                found,
            ));
        }
    }
    let kind = &descriptor.create_type;
    match CREATE_TYPES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(kind))
    {
        None => tally.tell(warning(
            rules::CREATE_TYPE,
            0,
            "a known createType",
            kind.clone(),
        )),
        Some((_, extents)) => {
            // A file that another made over a parent keeps its parent's kinds.
            let strange = descriptor
                .extents
                .iter()
                .find(|extent| !extents.contains(&extent.kind.as_str()));
            if let Some(extent) = strange {
                let expected = format!("{} in {kind}", extents.join(" or "));
                tally.tell(warning(
                    rules::EXTENT_KIND,
                    0,
                    expected,
                    extent.kind.clone(),
                ));
            }
        }
    }
    if let Some(adapter) = &descriptor.adapter
        && !["ide", "buslogic", "lsilogic", "legacyesx"]
            .contains(&adapter.to_ascii_lowercase().as_str())
    {
        let expected = "ide, buslogic, lsilogic or legacyESX";
        tally.tell(note(rules::ADAPTER, 0, expected, adapter.clone()));
    }
    if descriptor.parent_cid != NO_PARENT && descriptor.parent_hint.is_none() {
        tally.tell(warning(rules::PARENT, 0, "parentFileNameHint", "none"));
    }
    Ok(descriptor)
}

fn check_extents(
    descriptor: &Descriptor,
    path: &Path,
    gate: &dyn OpenGate,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    for extent in &descriptor.extents {
        // What the gate refuses, or is not there, the reader tells.
        let disk = extent
            .name
            .as_ref()
            .and_then(|name| gate.admit(name, path).ok())
            .and_then(|path| FileDisk::open(path).ok());
        let Some(disk) = disk else {
            continue;
        };
        match extent.kind.as_str() {
            "SPARSE" => {
                let sparse = check_sparse(&disk, tally)?;
                if sparse.capacity != extent.sectors {
                    let expected = format!("{} sectors, as the descriptor says", extent.sectors);
                    let found = sparse.capacity.to_string();
                    tally.tell(warning(rules::EXTENTS_SUM, 12, expected, found));
                }
            }
            "FLAT" | "VMFS" => {
                let end = extent
                    .start
                    .saturating_add(extent.sectors)
                    .saturating_mul(SECTOR);
                if disk.size() > end && extent.start == 0 {
                    let found = format!(
                        "{} in {:?}",
                        disk.size(),
                        extent.name.as_deref().unwrap_or("")
                    );
                    tally.tell(note(rules::FLAT_SIZE, 0, format!("{end} bytes"), found));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
