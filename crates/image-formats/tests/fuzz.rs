//! The entries of the fuzz targets, on mutations of real images that a seed decides: a few seconds a format.
//! `P2V_FUZZ_SECONDS` says how many; `scripts/fuzz` runs the same entries with coverage.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../../fuzz/entries/image.rs"]
mod entry;
#[path = "../../../fuzz/entries/mutate.rs"]
mod mutate;
mod support;

use std::time::Duration;

use image_formats::ImageFormat;
use support::{arg, make_disk, scratch, write_image};

/// Images of `format`: ours in every kind, and QEMU's where it is installed.
fn seeds(test: &str, ours: &[&str], theirs: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let source = make_disk(
        &raw,
        600 << 10,
        &[(0, 5000), (100 << 10, 90_000), (590 << 10, 512)],
    );
    let mut seeds = Vec::new();
    for format in ours {
        let path = write_image(&source, format, &dir.path().join("image"));
        seeds.push(std::fs::read(&path).unwrap());
        std::fs::remove_file(path).unwrap();
    }
    let image = dir.path().join("theirs");
    for (format, options) in theirs {
        let mut args = vec!["convert", "-f", "raw", "-O", *format, "-o", *options];
        if options.contains("compression_type") {
            args.push("-c");
        }
        args.extend([arg(&raw), arg(&image)]);
        if support::must(test, "qemu-img", &args).is_some() {
            seeds.push(std::fs::read(&image).unwrap());
        }
    }
    seeds
}

fn run(test: &str, format: ImageFormat, ours: &[&str], theirs: &[(&str, &str)]) {
    let seeds = seeds(test, ours, theirs);
    let rounds = mutate::run(&seeds, Duration::from_secs(4), |data| {
        entry::feed(Some(format), data);
        entry::feed(None, data.get(..data.len().min(4096)).unwrap());
    });
    assert!(rounds >= 100);
}

#[test]
fn mutated_qcow2_files() {
    run(
        "mutated_qcow2_files",
        ImageFormat::Qcow2,
        &[
            "qcow2:cluster_size=4096",
            "qcow2:zstd,cluster_size=4096",
            "qcow2:zlib,cluster_size=512",
        ],
        &[
            ("qcow2", "cluster_size=512,refcount_bits=1"),
            ("qcow2", "cluster_size=4k,refcount_bits=64"),
            ("qcow2", "cluster_size=16k,extended_l2=on"),
            ("qcow2", "cluster_size=4k,compression_type=zstd"),
        ],
    );
}

#[test]
fn mutated_vhdx_files() {
    run(
        "mutated_vhdx_files",
        ImageFormat::Vhdx,
        &["vhdx"],
        &[("vhdx", "log_size=1M,block_size=1M")],
    );
}

#[test]
fn mutated_vmdk_files() {
    run(
        "mutated_vmdk_files",
        ImageFormat::Vmdk,
        &["vmdk", "vmdk:streamOptimized"],
        &[("vmdk", "subformat=streamOptimized")],
    );
}

#[test]
fn mutated_vhd_files() {
    let theirs = [("vpc", "subformat=dynamic")];
    run(
        "mutated_vhd_files",
        ImageFormat::Vhd,
        &["vhd", "vhd:fixed"],
        &theirs,
    );
}

#[test]
fn mutated_vdi_files() {
    run(
        "mutated_vdi_files",
        ImageFormat::Vdi,
        &["vdi"],
        &[("vdi", "static=off")],
    );
}

#[test]
fn mutated_parallels_files() {
    let theirs = [("parallels", "cluster_size=65536")];
    run(
        "mutated_parallels_files",
        ImageFormat::Parallels,
        &["parallels"],
        &theirs,
    );
}
