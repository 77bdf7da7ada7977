//! `p2v image info`.

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use image_formats::ImageInfo;
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

/// Bytes the file takes on the medium.
fn actual_size(info: &ImageInfo) -> Option<u64> {
    let metadata = std::fs::metadata(&info.path).ok()?;
    Some(metadata.blocks() * 512)
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
    });
    if let Some(size) = info.cluster_size {
        value["cluster-size"] = json!(size);
    }
    if let Some(identity) = &info.identity {
        value["identity"] = json!(identity);
    }
    if let Some(below) = &info.below {
        value["backing-image"] = as_json(below);
    }
    value
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
    for note in info.notes.iter().filter(|_| depth == 0) {
        text += &format!("{indent}note: {note}\n");
    }
    if let Some(below) = &info.below {
        text += &format!("{indent}below:\n{}", as_text(below, depth + 1));
    }
    text
}
