//! What a crash at any moment leaves of a file being written: nothing that any tool takes for an image, or
//! all of it.
//!
//! Every step of a writer is recorded. For each moment the file is made anew as a medium may hold it then:
//! what was flushed is there; of what was not, some is, some is torn at a sector, some is not, in any order.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../../fuzz/entries/mutate.rs"]
#[allow(dead_code)]
mod mutate;
mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use block_io::{BlockRead, FileDisk};
use image_formats::output::journal::{Journal, Step};
use image_formats::{
    CopyOptions, ImageFormat, OutputFormat, OutputOptions, SameFolder, copy, open_as, output,
};
use mutate::Dice;
use support::{arg, make_disk, run, scratch};

/// Formats with a header. A raw image has none: its name is what makes it valid, and it gets that last.
const FORMATS: [&str; 16] = [
    "qcow2",
    "qcow2:zstd",
    "qcow2:zlib,cluster_size=512",
    "vhdx",
    "vhdx:fixed",
    "vmdk:monolithicSparse",
    "vmdk:monolithicFlat",
    "vmdk:twoGbMaxExtentSparse",
    "vmdk:streamOptimized",
    "vhd",
    "vhd:fixed",
    "vdi",
    "vdi:fixed",
    "parallels",
    "parallels:bundle",
    "parallels:plain",
];

/// Power cuts tried at every moment.
const CUTS: u64 = 4;
/// Of the states of one format, this many are shown to the foreign tools beyond those that this crate takes
/// for images.
const SHOWN: usize = 6;
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Taken {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
    Publish,
}

#[derive(Debug, Default)]
struct Record(Mutex<Vec<(usize, Taken)>>);

impl Journal for Record {
    fn record(&self, file: usize, step: Step<'_>) {
        let taken = match step {
            Step::Write { offset, bytes } => Taken::Write(offset, bytes.to_vec()),
            Step::SetLen(len) => Taken::SetLen(len),
            Step::Sync => Taken::Sync,
            Step::Publish => Taken::Publish,
        };
        self.0.lock().unwrap().push((file, taken));
    }
}

/// What the medium and the cache hold of one file.
#[derive(Debug, Clone, Default)]
struct Medium {
    durable: Vec<u8>,
    pending: Vec<Taken>,
}

fn write(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(data);
}

fn apply(bytes: &mut Vec<u8>, step: &Taken) {
    match step {
        Taken::Write(offset, data) => write(bytes, *offset, data),
        Taken::SetLen(len) => bytes.resize(*len as usize, 0),
        Taken::Sync | Taken::Publish => {}
    }
}

impl Medium {
    fn take(&mut self, step: &Taken) {
        match step {
            Taken::Sync => {
                for step in self.pending.drain(..) {
                    apply(&mut self.durable, &step);
                }
            }
            step => self.pending.push(step.clone()),
        }
    }

    /// After a kill the kernel still writes everything, in order.
    fn killed(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for step in &self.pending {
            apply(&mut bytes, step);
        }
        bytes
    }

    /// After a power cut: anything of what was not flushed.
    fn cut(&self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let mut pending: Vec<&Taken> = self.pending.iter().collect();
        // What came last is most often what is missing, but not always.
        for index in (1..pending.len()).rev() {
            pending.swap(index, dice.roll(index + 1));
        }
        for step in pending {
            match (dice.roll(4), step) {
                (0, _) => {}
                (1, Taken::Write(offset, data)) => {
                    let mut at = 0;
                    while at < data.len() {
                        let place = *offset as usize + at;
                        let len = (SECTOR - place % SECTOR).min(data.len() - at);
                        if dice.roll(2) == 0 {
                            write(&mut bytes, place as u64, &data[at..at + len]);
                        }
                        at += len;
                    }
                }
                (_, step) => apply(&mut bytes, step),
            }
        }
        bytes
    }
}

/// The steps of writing `format`, and the names of its files within the directory.
fn record(
    source: &FileDisk,
    format: &str,
    dir: &Path,
) -> (Vec<(usize, Taken)>, Vec<PathBuf>, PathBuf) {
    let parsed: OutputFormat = format.parse().unwrap();
    let name = match format {
        "parallels:bundle" | "parallels:plain" => "image.hdd".to_owned(),
        _ => format!("image.{}", parsed.extension()),
    };
    let journal = Arc::new(Record::default());
    let seen: Arc<dyn Journal> = Arc::clone(&journal) as Arc<dyn Journal>;
    let sink = output::create(
        dir.join(&name),
        &parsed,
        source.size(),
        OutputOptions::default(),
    )
    .unwrap();
    let sink = sink.watched_by(&seen);
    let names = sink
        .files()
        .map(|path| path.strip_prefix(dir).unwrap().to_owned())
        .collect();
    let options = CopyOptions {
        workers: std::num::NonZero::new(1),
        ..CopyOptions::default()
    };
    copy(source, vec![sink], &(), &options).unwrap();
    let steps = std::mem::take(&mut *journal.0.lock().unwrap());
    (steps, names, PathBuf::from(name))
}

/// Whether `path` opens, and then holds the whole source.
fn ours(path: &Path, format: ImageFormat, source: &[u8], what: &str) -> bool {
    let Ok(image) = open_as(path, format, &SameFolder) else {
        return false;
    };
    let mut bytes = vec![0; source.len()];
    let read = image.read_at(0, &mut bytes);
    assert!(
        read.is_ok() && bytes == source,
        "{what}: it opens and does not hold the disk: {read:?}"
    );
    true
}

/// What the foreign tools make of it: each rejects it, or finds the whole source in it.
fn theirs(test: &str, path: &Path, format: &str, raw: &Path, complete: bool, what: &str) {
    // QEMU opens the image of a bundle, not the bundle.
    if format != "parallels" || path.is_file() {
        let args = ["compare", "-f", "raw", "-F", format, arg(raw), arg(path)];
        if let Some(output) = support::status(test, "qemu-img", &args) {
            let (code, text) = output;
            assert!(
                code != 1,
                "{what}: QEMU opens it and reads another disk: {text}"
            );
            assert!(
                complete || code != 0,
                "{what}: QEMU takes what we reject: {text}"
            );
        }
    }
    let program = match format {
        "qcow2" => "qcowinfo",
        "vmdk" => "vmdkinfo",
        "vpc" | "vhdx" => "vhdiinfo",
        _ => return,
    };
    if let Some((taken, text)) = run(test, program, &[arg(path)]) {
        assert!(
            complete || !taken,
            "{what}: {program} takes what we reject: {text}"
        );
    }
}

fn check_format(test: &str, format: &str) {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let source = make_disk(
        &raw,
        5 << 20,
        &[(0, 70_000), (3 << 20, 300_000), ((5 << 20) - 512, 512)],
    );
    let plain = std::fs::read(&raw).unwrap();
    let written = dir.path().join("written");
    std::fs::create_dir(&written).unwrap();
    let (steps, names, open) = record(&source, format, &written);
    let kind: OutputFormat = format.parse().unwrap();
    let qemu = kind.qemu_name();
    let kind = ImageFormat::from_qemu_name(qemu).unwrap();
    let mut media = vec![Medium::default(); names.len()];
    let crashed = dir.path().join("crashed");
    let (mut rejected, mut complete, mut shown) = (0, 0, 0);
    let mut dice = Dice(format.len() as u64);
    let mut published = 0;
    for (number, (file, step)) in steps.iter().enumerate() {
        if matches!(step, Taken::Publish) {
            // From here on the file has its name, whatever happens.
            let flushed = media.iter().all(|medium| medium.pending.is_empty());
            assert!(
                flushed,
                "{format}: a file gets its name before all is on the medium"
            );
            published += 1;
            continue;
        }
        media[*file].take(step);
        for cut in 0..=CUTS {
            let _ = std::fs::remove_dir_all(&crashed);
            std::fs::create_dir(&crashed).unwrap();
            for (medium, name) in media.iter().zip(&names) {
                let path = crashed.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let bytes = if cut == 0 {
                    medium.killed()
                } else {
                    medium.cut(&mut dice)
                };
                std::fs::write(path, bytes).unwrap();
            }
            let path = crashed.join(&open);
            let what = format!("{format}, step {number} of {}, cut {cut}", steps.len());
            let whole = ours(&path, kind, &plain, &what);
            match whole {
                true => complete += 1,
                false => rejected += 1,
            }
            // The last states before and all after the header are the ones that matter.
            let late = number + 8 > steps.len();
            if whole || (late && cut < 2) || (shown < SHOWN && cut == 1) {
                shown += 1;
                if shown < 60 {
                    theirs(test, &path, qemu, &raw, whole, &what);
                }
            }
        }
    }
    assert_eq!(published, names.len(), "{format}");
    println!(
        "{format}: {} steps, {rejected} states rejected, {complete} complete, {shown} shown to others",
        steps.len()
    );
    assert!(
        rejected > 0 && complete > 0,
        "{format}: {rejected} {complete}"
    );
}

#[test]
fn a_crash_leaves_nothing_that_opens_or_all_of_it() {
    let test = "a_crash_leaves_nothing_that_opens_or_all_of_it";
    for format in FORMATS {
        check_format(test, format);
    }
}

/// A raw image has no header: until everything is on the medium it does not have its name.
#[test]
fn a_raw_image_gets_its_name_when_all_of_it_is_there() {
    let dir = scratch();
    let source = make_disk(
        &dir.path().join("source.raw"),
        5 << 20,
        &[(0, 70_000), (3 << 20, 300_000)],
    );
    for format in ["raw", "raw:preallocated"] {
        let written = dir.path().join(format.replace(':', "-"));
        std::fs::create_dir(&written).unwrap();
        let (steps, _, _) = record(&source, format, &written);
        let mut medium = Medium::default();
        for (number, (_, step)) in steps.iter().enumerate() {
            if matches!(step, Taken::Publish) {
                assert!(medium.pending.is_empty(), "flushed before it is named");
                assert_eq!(number + 1, steps.len());
                break;
            }
            medium.take(step);
        }
        let expected = std::fs::read(dir.path().join("source.raw")).unwrap();
        assert!(medium.durable == expected, "{format}");
    }
}
