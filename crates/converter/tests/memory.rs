//! Huge sparse disks: converted in seconds, and in less than 256 MB, whatever their size.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const TIB: u64 = 1 << 40;
/// The bound of the project, in kB as GNU time counts.
const MOST_MEMORY: u64 = 256_000;
/// Seconds here; what reads or writes a table entry by entry of 64 TiB takes minutes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pages of data in a source, spread evenly: every table of every format has some.
const PAGES: u64 = 400;

/// Whether GNU time is here, which tells the peak of a program's memory.
fn has_gnu_time(test: &str) -> bool {
    let here = Path::new("/usr/bin/time").exists();
    if !here {
        test_oracles::skip(test, "/usr/bin/time (Debian package time)");
    }
    here
}

/// Run `p2v image` within the bounds of memory and time.
fn p2v_image(dir: &Path, args: &[&str]) {
    let report = dir.join("time");
    let started = Instant::now();
    let out = Command::new("/usr/bin/time")
        .arg("-o")
        .arg(&report)
        .args(["-f", "%M", env!("CARGO_BIN_EXE_p2v"), "image"])
        .args(args)
        .output()
        .unwrap();
    let elapsed = started.elapsed();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {}: {said}", out.status);
    let text = std::fs::read_to_string(&report).unwrap();
    let memory: u64 = text.trim().parse().unwrap();
    println!("{args:?}: {memory} kB, {elapsed:?}");
    assert!(memory <= MOST_MEMORY, "{args:?}: {memory} kB");
    assert!(elapsed <= PATIENCE, "{args:?}: {elapsed:?}");
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A sparse file of `size` bytes with a page here and there, the last one at its very end.
fn make_sparse(path: &Path, size: u64) {
    let file = File::create_new(path).unwrap();
    file.set_len(size).unwrap();
    let step = size / PAGES / 4096 * 4096;
    for page in 0..PAGES {
        let mut bytes = [0; 4096];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = (page + index as u64 * 31) as u8 | 1;
        }
        file.write_all_at(&bytes, page * step).unwrap();
    }
    file.write_all_at(&[0xE5; 512], size - 512).unwrap();
}

/// Write `source` in every one of `formats` from one pass, then read each back against it.
fn convert_and_compare(dir: &Path, source: &Path, formats: &[&str]) {
    let outputs: Vec<(&str, PathBuf)> = formats
        .iter()
        .enumerate()
        .map(|(index, format)| (*format, dir.join(format!("out-{index}"))))
        .collect();
    let mut args = vec!["convert", text(source), "--no-flush"];
    for (format, path) in &outputs {
        args.extend(["--to", format, text(path)]);
    }
    p2v_image(dir, &args);
    for (_, path) in &outputs {
        p2v_image(dir, &["compare", text(source), text(path)]);
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_sparse_disk_of_16_tib_takes_seconds_and_little_memory() {
    if !has_gnu_time("a_sparse_disk_of_16_tib_takes_seconds_and_little_memory") {
        return;
    }
    let dir = scratch();
    let source = dir.path().join("source.raw");
    // A page less than 16 TiB: the largest file that ext4 holds.
    make_sparse(&source, 16 * TIB - 4096);
    let formats = ["qcow2", "qcow2:zstd", "vhdx", "vdi", "parallels", "raw"];
    convert_and_compare(dir.path(), &source, &formats);
}

#[test]
fn every_vmdk_and_vhd_at_its_limit_takes_little_memory() {
    if !has_gnu_time("every_vmdk_and_vhd_at_its_limit_takes_little_memory") {
        return;
    }
    let dir = scratch();
    let source = dir.path().join("source.raw");
    make_sparse(&source, 2 * TIB - 64 * (1 << 30));
    let formats = ["vmdk:streamOptimized", "vmdk:monolithicSparse", "vhd"];
    convert_and_compare(dir.path(), &source, &formats);
}

#[test]
fn a_sparse_disk_of_64_tib_is_read_and_written_in_little_memory() {
    if !has_gnu_time("a_sparse_disk_of_64_tib_is_read_and_written_in_little_memory") {
        return;
    }
    let dir = scratch();
    // No file system here holds such a raw file: an empty qcow2 is the way in.
    let size = 64 * TIB;
    let source = dir.path().join("source.qcow2");
    let test = "a_sparse_disk_of_64_tib_is_read_and_written_in_little_memory";
    if !test_oracles::has_tools(test, &["qemu-img", "qemu-io"]) {
        return;
    }
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&source)
        .arg(size.to_string())
        .status();
    assert!(made.unwrap().success());
    let mut io = Command::new("qemu-io");
    io.args(["-f", "qcow2"]);
    for page in 0..PAGES / 4 {
        let at = size / (PAGES / 4) * page / 65536 * 65536;
        io.arg("-c")
            .arg(format!("write -q -P {} {at} 64k", page % 255 + 1));
    }
    assert!(io.arg(&source).output().unwrap().status.success());
    convert_and_compare(dir.path(), &source, &["qcow2:zstd", "vhdx", "parallels"]);
}
