//! What the tests of this crate share: foreign programs, awkward disks, outputs.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use block_io::{BlockRead, BlockWrite, FileDisk, FileDiskMut};
use image_formats::{CopyOptions, OutputOptions, copy, output};

/// Run a foreign program: whether it succeeded, and what it printed. `None`, said aloud, where it is not
/// installed.
pub fn run(test: &str, program: &str, args: &[&str]) -> Option<(bool, String)> {
    if !test_oracles::has_tools(test, &[program]) {
        return None;
    }
    let output = Command::new(program).args(args).output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Some((output.status.success(), text))
}

/// As [`run`], with the exit code.
pub fn status(test: &str, program: &str, args: &[&str]) -> Option<(i32, String)> {
    run(test, program, &["--version"])?;
    let output = Command::new(program).args(args).output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Some((output.status.code().unwrap_or(-1), text))
}

/// Run a foreign program that must succeed; `None` where it is not installed.
pub fn must(test: &str, program: &str, args: &[&str]) -> Option<String> {
    let (success, text) = run(test, program, args)?;
    assert!(success, "{test}: {program} {args:?}: {text}");
    Some(text)
}

/// A sparse raw disk with `runs` of bytes that do not repeat.
pub fn make_disk(path: &Path, size: u64, runs: &[(u64, u64)]) -> FileDisk {
    let disk = FileDiskMut::create_new(path, size).unwrap();
    for (start, len) in runs {
        let mut at = *start;
        while at < start + len {
            let step = (start + len - at).min(1 << 20);
            disk.write_at(at, &noise(at, step as usize)).unwrap();
            at += step;
        }
    }
    FileDisk::open(path).unwrap()
}

/// Bytes that differ everywhere; every other 16 KiB of them compresses well.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let easy = (bytes.len() / 16_384) % 2 == 1;
        let word = if easy { state & 0x0101 } else { state };
        bytes.extend((word | 1).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Name, size, and runs of data (start, length).
pub type CornerDisk = (&'static str, u64, Vec<(u64, u64)>);

/// The sizes and fillings that writers get wrong. All sizes are whole sectors.
pub fn corner_disks() -> Vec<CornerDisk> {
    const MIB: u64 = 1 << 20;
    vec![
        ("one sector", 512, vec![(0, 512)]),
        ("one empty sector", 512, vec![]),
        ("one block", 2 * MIB, vec![(0, 2 * MIB)]),
        ("a block and a sector", 2 * MIB + 512, vec![(2 * MIB, 512)]),
        ("all zero", 40 * MIB, vec![]),
        ("all data", 20 * MIB, vec![(0, 20 * MIB)]),
        (
            "no multiple of anything",
            33 * MIB + 77 * 512,
            vec![
                (0, 100),
                (70_000, 5),
                (5 * MIB - 3, 6),
                (33 * MIB, 77 * 512),
            ],
        ),
        (
            "64 KiB at the very end",
            3 * (1 << 30) + 64 * 1024,
            vec![(3 << 30, 64 * 1024)],
        ),
        (
            "stripes of 512 bytes",
            4 * MIB,
            (0..4096).map(|i| (i * 1024, 512)).collect(),
        ),
        (
            "a little in every table",
            5 * (1 << 30),
            (0..40).map(|i| (i * 128 * MIB + 4096 * i, 3000)).collect(),
        ),
    ]
}

/// Write `source` as `format` to `path`.
pub fn write_image(source: &dyn BlockRead, format: &str, path: &Path) -> PathBuf {
    let format = format.parse().unwrap();
    let options = OutputOptions {
        no_flush: true,
        ..Default::default()
    };
    let sink = output::create(path, &format, source.size(), options).unwrap();
    let mut paths = copy(source, vec![sink], &(), &CopyOptions::default()).unwrap();
    paths.remove(0)
}

/// Remove an image `NAME` and the files `NAME-*.vmdk` of a disk in several.
pub fn remove_image(path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        let part = entry.file_name().into_string().unwrap();
        if part == name || part.starts_with(&format!("{name}-")) {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// A temporary directory on a real disk: `/tmp` may be memory.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("image-formats-")
        .tempdir()
        .unwrap()
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The compressed images among the fixtures whose formats are known, unpacked into `dir`.
pub fn fixture_images(test: &str, dir: &tempfile::TempDir) -> Vec<std::path::PathBuf> {
    let mut images = Vec::new();
    let Some(fixtures) = test_oracles::fixture(test, "images") else {
        return images;
    };
    let sets = std::fs::read_dir(fixtures).unwrap();
    for set in sets.map(Result::unwrap).filter(|set| set.path().is_dir()) {
        for file in std::fs::read_dir(set.path()).unwrap().map(Result::unwrap) {
            let name = file.file_name().into_string().unwrap();
            let Some((plain, packer)) = name.rsplit_once('.') else {
                continue;
            };
            let program = match packer {
                "xz" => "xz",
                "gz" => "gzip",
                "bz2" => "bzip2",
                _ => continue,
            };
            if !FIXTURE_KINDS.iter().any(|kind| plain.contains(kind)) {
                continue;
            }
            let path = dir
                .path()
                .join(format!("{}-{plain}", set.file_name().display()));
            let unpacked = std::fs::File::create(&path).unwrap();
            let status = std::process::Command::new(program)
                .arg("-dc")
                .arg(file.path())
                .stdout(unpacked)
                .status()
                .unwrap();
            assert!(status.success());
            images.push(path);
        }
    }
    assert!(images.len() > 10);
    images
}

/// Parts of the names of fixtures that are read.
const FIXTURE_KINDS: &[&str] = &[".qcow2", ".vhdx", ".vmdk", ".vhd", "parallels-v"];
