//! Checks image files strictly: every table, every reference, every reserved bit, then every byte.
//!
//! ```text
//!   format's own check ──► Tally: findings, corruptions, leaks      structure, refcounts, overlaps
//!   open and read all  ──► Tally: what the reader meets             data, images below
//! ```
//!
//! A format's check reads the tables itself and stops nowhere: what is broken is told, and the walk goes
//! on behind it. Memory does not grow with the disk: findings are told up to a number for each rule and
//! counted beyond, references are counted in windows (`recount`) or kept as joined runs (`space`).

mod recount;
mod space;
mod tally;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_io::{BlockErrorKind, BlockRead, ExtentKind};

pub use tally::{Report, Verdict};

pub(crate) use recount::{Mark, Recount};
pub(crate) use space::{Space, unclaimed};
pub(crate) use tally::Tally;
pub(crate) use walk::walk_entries;

use crate::detect::{ImageFormat, detect};
use crate::error::{OpenError, ParseError};
use crate::finding::{Finding, Severity};
use crate::gate::OpenGate;
use crate::image::{Image, ImageFile, open_disk, read_file};
use crate::{parallels, qcow2, raw, vdi, vhd, vhdx, vmdk};

/// Bytes read at once when everything is read.
const STEP: u64 = 2 << 20;
/// What is read or inflated of an image, at most: so many times its file, and this much of a small one.
/// Deflate makes a thousandth of zeroes; what is far more than that was made to keep somebody busy.
const MOST_INFLATED: u64 = 1100;
const LEAST_INFLATED: u64 = 256 << 20;
/// Steps over what cannot be mapped.
const SKIP: u64 = 64 << 10;

mod rules {
    crate::finding::rules! {
        "image", "this project";
        READ = "read", "every byte of the disk can be read", "docs/formats";
        BELOW = "below", "the files the image names can be opened", "docs/formats";
        OPENS = "opens", "the image opens", "docs/formats";
        BOMB = "bomb", "what the image inflates to is in keeping with its file", "docs/formats";
    }
}

/// Check the image `path`, as `format` or as what it looks like.
///
/// # Errors
/// [`OpenError`] when the file cannot be read at all, or uses what is not supported. What is wrong with
/// its bytes is no error but a finding of the [`Report`].
pub fn check(
    path: impl AsRef<Path>,
    format: Option<ImageFormat>,
    gate: &dyn OpenGate,
) -> Result<Report, OpenError> {
    let file = read_file(path.as_ref())?;
    check_disk(file.disk, file.path, format, gate)
}

/// Check the image whose bytes are `disk`; `path` is what it is called, and where the gate looks for
/// what it names.
///
/// # Errors
/// As [`check`].
pub fn check_disk(
    disk: Arc<dyn BlockRead>,
    path: impl Into<PathBuf>,
    format: Option<ImageFormat>,
    gate: &dyn OpenGate,
) -> Result<Report, OpenError> {
    let file = ImageFile {
        path: path.into(),
        disk,
    };
    let guessed = format.is_none();
    let format = match format {
        Some(format) => format,
        None => detect(&file.disk).map_err(|error| ParseError::from(error).at(&file.path))?,
    };
    let mut tally = Tally::default();
    let walked = match format {
        ImageFormat::Raw => raw::check(&file, guessed, &mut tally),
        ImageFormat::Qcow2 => qcow2::check(&file, &mut tally),
        ImageFormat::Vhdx => vhdx::check(&file, &mut tally),
        ImageFormat::Vmdk => vmdk::check(&file, gate, &mut tally),
        ImageFormat::Vhd => vhd::check(&file, &mut tally),
        ImageFormat::Vdi => vdi::check(&file, &mut tally),
        ImageFormat::Parallels => parallels::check(&file, gate, &mut tally),
    };
    let readable = match walked {
        Ok(()) => true,
        // The reader would stop at the same place.
        Err(ParseError::Broken(finding)) => {
            tally.corrupt(finding);
            false
        }
        Err(other) => return Err(other.at(&file.path)),
    };
    let mut info = None;
    if readable {
        match open_disk(Arc::clone(&file.disk), &file.path, Some(format), gate) {
            Ok(image) => {
                for note in &image.info().notes {
                    tally.tell(note.clone());
                }
                read_all(&image, file.disk.size(), &mut tally);
                info = Some(image.info().clone());
            }
            Err(error) => tell_unopened(error, &mut tally)?,
        }
    }
    Ok(tally.report(&file.path, format, guessed, file.disk.size(), info))
}

/// Why the image does not open is a finding, unless the machine or this program is the reason.
fn tell_unopened(error: OpenError, tally: &mut Tally) -> Result<(), OpenError> {
    let finding = match error {
        OpenError::Broken { finding, .. } => finding,
        OpenError::Gate { .. } | OpenError::Below { .. } => {
            Finding::error(rules::BELOW, 0, "files that open", chain(&error))
        }
        OpenError::Io { .. } | OpenError::Read { .. } | OpenError::Unsupported { .. } => {
            return Err(error);
        }
        other => Finding::error(rules::OPENS, 0, "an image that opens", chain(&other)),
    };
    tally.corrupt_once(finding);
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Map and read the whole disk. What the format's check has told is not told again.
fn read_all(image: &Image, file_size: u64, tally: &mut Tally) {
    let known = tally.corruptions() > 0;
    let mut left = most_inflated(file_size);
    let mut tell = |offset: u64, error: &block_io::BlockError| {
        let broken = error.kind() == BlockErrorKind::Corrupt;
        if !(broken && known) {
            let found = chain(error);
            tally.corrupt(Finding::error(rules::READ, offset, "readable bytes", found));
        }
    };
    let mut buf = vec![0; STEP.min(image.size()) as usize];
    let mut at = 0;
    while at < image.size() {
        let rest = image.size() - at;
        let extent = match image.extent_at(at) {
            Ok(extent) => extent,
            Err(error) => {
                tell(at, &error);
                at += (SKIP - at % SKIP).min(rest);
                continue;
            }
        };
        if extent.kind == ExtentKind::Zero {
            at += extent.len.min(rest);
            continue;
        }
        let len = extent.len.min(STEP).min(rest);
        // What lies in other files is not counted against this one's size.
        let below = image.info().below.is_some() || image.info().variant.contains("Flat");
        if left < len && !below {
            tally.tell(bomb(file_size));
            return;
        }
        left = left.saturating_sub(len);
        if let Some(part) = buf.get_mut(..len as usize)
            && let Err(error) = image.read_at(at, part)
        {
            tell(at, &error);
        }
        at += len;
    }
}

/// Bytes that may be inflated out of a file of `file_size` bytes.
pub(crate) fn most_inflated(file_size: u64) -> u64 {
    file_size.saturating_mul(MOST_INFLATED).max(LEAST_INFLATED)
}

/// More than that is there.
pub(crate) fn bomb(file_size: u64) -> Finding {
    let expected = format!("at most {MOST_INFLATED} times the {file_size} bytes of the file");
    warning(rules::BOMB, 0, expected, "more; the rest was not read")
}

/// A finding that costs nothing but the space it names.
pub(crate) fn note(
    rule: &'static crate::finding::Rule,
    offset: u64,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Finding {
    Finding::error(rule, offset, expected, found).with(Severity::Note)
}

/// A finding against the rules that leaves the data right.
pub(crate) fn warning(
    rule: &'static crate::finding::Rule,
    offset: u64,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Finding {
    Finding::error(rule, offset, expected, found).with(Severity::Warning)
}

/// Where the first byte of `bytes` that is not zero lies.
pub(crate) fn first_set(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte != 0)
}
