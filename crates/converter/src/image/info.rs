//! `p2v image info`.

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use image_formats::details::{Qcow2Details, VmdkDetails};
use image_formats::{Details, ImageInfo};
use serde_json::{Value, json};

use super::Source;
use crate::progress::human_bytes;

/// What to say of which image.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print JSON, with qemu-img's names where they mean the same
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let image = args.source.open()?;
    match args.json {
        true => println!("{:#}", as_json(image.info())),
        false => print!("{}", as_text(image.info(), 0)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes its files take on the medium, the one below not counted.
fn actual_size(info: &ImageInfo) -> Option<u64> {
    let mut files = vec![&info.path];
    if let Details::Vmdk(vmdk) = &info.details {
        files.extend(
            vmdk.extents
                .iter()
                .filter_map(|extent| extent.file.as_ref()),
        );
        files.sort();
        files.dedup();
    }
    let sizes = files
        .into_iter()
        .map(|file| Some(std::fs::metadata(file).ok()?.blocks() * 512));
    sizes.sum()
}

fn as_json(info: &ImageInfo) -> Value {
    let notes: Vec<Value> = info
        .notes
        .iter()
        .map(|note| json!(note.to_string()))
        .collect();
    let mut value = json!({
        "filename": info.path.display().to_string(),
        "format": info.format.qemu_name(),
        "guessed": info.guessed,
        "variant": info.variant,
        "virtual-size": info.virtual_size,
        "actual-size": actual_size(info),
        "file-size": info.file_size,
        "notes": notes,
        "dirty-flag": is_dirty(info),
    });
    if let Some(specific) = format_specific(&info.details) {
        value["format-specific"] = specific;
    }
    if let Some(size) = info.cluster_size {
        value["cluster-size"] = json!(size);
    }
    if let Some(identity) = &info.identity {
        value["identity"] = json!(identity);
    }
    if let Details::Qcow2(qcow2) = &info.details
        && let Some(name) = &qcow2.backing
    {
        value["backing-filename"] = json!(name);
        let folder = info.path.parent().unwrap_or(std::path::Path::new(""));
        value["full-backing-filename"] = json!(folder.join(name).display().to_string());
        if let Some(format) = &qcow2.backing_format {
            value["backing-filename-format"] = json!(format);
        }
    }
    if let Some(below) = &info.below {
        value["backing-image"] = as_json(below);
    }
    value
}

/// Whether the program that wrote it last did not close it.
fn is_dirty(info: &ImageInfo) -> bool {
    match &info.details {
        Details::Qcow2(qcow2) => qcow2.dirty,
        _ => false,
    }
}

/// What `qemu-img info` gives under that name.
fn format_specific(details: &Details) -> Option<Value> {
    let (kind, data) = match details {
        Details::Qcow2(qcow2) => ("qcow2", qcow2_specific(qcow2)),
        Details::Vmdk(vmdk) => ("vmdk", vmdk_specific(vmdk)),
        _ => return None,
    };
    Some(json!({ "type": kind, "data": data }))
}

fn qcow2_specific(qcow2: &Qcow2Details) -> Value {
    let mut data = json!({
        "compat": if qcow2.version == 2 { "0.10" } else { "1.1" },
        "compression-type": if qcow2.zstd { "zstd" } else { "zlib" },
        "refcount-bits": qcow2.refcount_bits,
    });
    if qcow2.version >= 3 {
        data["lazy-refcounts"] = json!(qcow2.lazy_refcounts);
        data["corrupt"] = json!(qcow2.corrupt);
        data["extended-l2"] = json!(qcow2.extended_l2);
    }
    if let Some(name) = &qcow2.data_file {
        data["data-file"] = json!(name);
        data["data-file-raw"] = json!(qcow2.data_file_raw);
    }
    data
}

fn vmdk_specific(vmdk: &VmdkDetails) -> Value {
    let extents = vmdk.extents.iter().map(|extent| {
        let mut value = json!({ "virtual-size": extent.size, "format": extent.kind });
        if let Some(file) = &extent.file {
            value["filename"] = json!(file.display().to_string());
        }
        if let Some(grain) = extent.grain {
            value["cluster-size"] = json!(grain);
        }
        if extent.compressed {
            value["compressed"] = json!(true);
        }
        value
    });
    json!({
        "cid": vmdk.cid,
        "parent-cid": vmdk.parent_cid,
        "create-type": vmdk.create_type,
        "extents": extents.collect::<Vec<_>>(),
    })
}

/// What its format says and people ask about, a line each.
fn details_text(details: &Details, indent: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    match details {
        Details::Qcow2(qcow2) => {
            let kind = if qcow2.zstd { "zstd" } else { "zlib" };
            lines.push(format!(
                "compression type: {kind}, refcounts of {} bits",
                qcow2.refcount_bits
            ));
            if let Some(name) = &qcow2.backing {
                let format = qcow2.backing_format.as_deref().unwrap_or("not named");
                lines.push(format!("backing file: {name} (format {format})"));
            }
            if qcow2.snapshots > 0 {
                lines.push(format!("internal snapshots: {}", qcow2.snapshots));
            }
        }
        Details::Vmdk(vmdk) => {
            let adapter = vmdk.adapter.as_deref().unwrap_or("not named");
            lines.push(format!("CID: {:08x}, adapter: {adapter}", vmdk.cid));
            for extent in &vmdk.extents {
                let file = extent.file.as_ref().map(|file| file.display().to_string());
                let kind = if extent.kind.is_empty() {
                    "SPARSE"
                } else {
                    &extent.kind
                };
                let size = human_bytes(extent.size);
                lines.push(format!(
                    "extent: {size} {kind} {}",
                    file.unwrap_or_default()
                ));
            }
        }
        Details::Vhd(vhd) => {
            let (cylinders, heads, sectors) = vhd.geometry;
            lines.push(format!(
                "made by: {:?}, geometry {cylinders}/{heads}/{sectors}",
                vhd.creator
            ));
        }
        Details::Vhdx(vhdx) => {
            lines.push(format!("logical sector: {} bytes", vhdx.logical_sector));
        }
        _ => {}
    }
    lines
        .iter()
        .map(|line| format!("{indent}{line}\n"))
        .collect()
}

fn as_text(info: &ImageInfo, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let guessed = if info.guessed { ", guessed" } else { "" };
    let kind = match info.variant.is_empty() {
        true => String::new(),
        false => format!(" ({})", info.variant),
    };
    let mut text = format!("{indent}image: {}\n", info.path.display());
    text += &format!(
        "{indent}format: {}{kind}{guessed}\n",
        info.format.qemu_name()
    );
    let size = info.virtual_size;
    text += &format!(
        "{indent}virtual size: {} ({size} bytes)\n",
        human_bytes(size)
    );
    if let Some(actual) = actual_size(info) {
        text += &format!("{indent}disk size: {}\n", human_bytes(actual));
    }
    if let Some(size) = info.cluster_size {
        text += &format!("{indent}cluster size: {size}\n");
    }
    text += &details_text(&info.details, &indent);
    for note in info.notes.iter().filter(|_| depth == 0) {
        text += &format!("{indent}note: {note}\n");
    }
    if let Some(below) = &info.below {
        text += &format!("{indent}below:\n{}", as_text(below, depth + 1));
    }
    text
}
