//! What p2v writes, read by other people's crates; and what is wrong with those crates, held by tests, so that
//! it is noticed when they are mended. `qemu-img` and the libyal tools stay the first oracles: these are the second.
#![allow(clippy::unwrap_used)]

#[path = "../../../crates/image-formats/tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use block_io::{BlockRead, ExtentKind};
use qcow2_rs::dev::Qcow2DevParams;
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::utils::qcow2_setup_dev_sync;
use support::{corner_disks, make_disk, scratch, write_image};

const MIB: u64 = 1 << 20;

/// Hold what `read` gives against `source`: all its data, and its first and last MiB.
fn compare(what: &str, source: &dyn BlockRead, mut read: impl FnMut(u64, &mut [u8])) {
    let size = source.size();
    let mut places = vec![0, size.saturating_sub(1) / MIB * MIB];
    for extent in block_io::extents(source, 0..size) {
        let extent = extent.unwrap();
        if extent.kind != ExtentKind::Zero {
            places.extend((extent.start / MIB..extent.end().div_ceil(MIB)).map(|at| at * MIB));
        }
    }
    places.sort_unstable();
    places.dedup();
    for at in places {
        let len = MIB.min(size - at) as usize;
        let (mut left, mut right) = (vec![0; len], vec![0xEE; len]);
        source.read_at(at, &mut left).unwrap();
        read(at, &mut right);
        assert!(left == right, "{what}: differs in the MiB at {at}");
    }
}

/// Write every corner disk as each of `formats` and hand the file to `judge`.
fn each_corner(formats: &[&str], mut judge: impl FnMut(&str, &dyn BlockRead, &Path)) {
    let dir = scratch();
    for (name, size, runs) in corner_disks() {
        let raw = dir.path().join("source.raw");
        let source = make_disk(&raw, size, &runs);
        for format in formats {
            let path = write_image(&source, format, &dir.path().join("image"));
            judge(&format!("{name}: {format}"), &source, &path);
            std::fs::remove_file(path).unwrap();
        }
        std::fs::remove_file(raw).unwrap();
    }
}

fn qcow2_rs_reads(what: &str, source: &dyn BlockRead, path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    // Logical blocks of 512 bytes, read-only, through the page cache.
    let params = Qcow2DevParams::new(9, None, None, true, false);
    let disk = qcow2_setup_dev_sync(path, &params).unwrap();
    runtime.block_on(disk.qcow2_prep_io()).unwrap();
    compare(what, source, |at, buf| {
        let mut aligned = Qcow2IoBuf::<u8>::new(buf.len());
        runtime.block_on(disk.read_at(&mut aligned, at)).unwrap();
        buf.copy_from_slice(&aligned);
    });
    runtime.block_on(disk.check()).unwrap();
}

#[test]
fn qcow2_rs_reads_plain_and_zlib_images() {
    let formats = [
        "qcow2",
        "qcow2:zlib",
        "qcow2:cluster_size=2M",
        "qcow2:zlib,cluster_size=4K",
    ];
    each_corner(&formats, qcow2_rs_reads);
}

#[test]
fn qcow2_rs_still_opens_no_zstd() {
    let dir = scratch();
    let source = make_disk(&dir.path().join("source.raw"), 4 * MIB, &[(0, 4 * MIB)]);
    let path = write_image(&source, "qcow2:zstd", &dir.path().join("image"));
    let read = catch_unwind(AssertUnwindSafe(|| qcow2_rs_reads("zstd", &source, &path)));
    assert!(
        read.is_err(),
        "mended: give it zstd images above, and say so in docs/dependencies.md"
    );
}

fn seek_and_read(reader: &mut (impl Read + Seek), at: u64, buf: &mut [u8]) {
    reader.seek(SeekFrom::Start(at)).unwrap();
    reader.read_exact(buf).unwrap();
}

#[test]
fn vhdx_reads_images_below_4_gib() {
    each_corner(&["vhdx", "vhdx:block_size=2M"], |what, source, path| {
        if source.size() > 4 << 30 {
            return;
        }
        let mut disk = vhdx::Vhdx::load(path);
        compare(what, source, |at, buf| {
            seek_and_read(&mut disk.reader(), at, buf)
        });
    });
}

#[test]
fn vhdx_still_reads_zeroes_past_4_gib() {
    let dir = scratch();
    let source = make_disk(&dir.path().join("source.raw"), 6 << 30, &[(5 << 30, MIB)]);
    let path = write_image(&source, "vhdx", &dir.path().join("image"));
    let mut disk = vhdx::Vhdx::load(&path);
    let mut bytes = vec![0xEE; MIB as usize];
    seek_and_read(&mut disk.reader(), 5 << 30, &mut bytes);
    assert!(
        bytes.iter().all(|byte| *byte == 0),
        "mended: give it larger disks above, and say so in docs/dependencies.md"
    );
    // The file is right: two others read the data in it.
    let ours = image_formats::open(&path, &image_formats::StandAlone).unwrap();
    compare("ours", &source, |at, buf| ours.read_at(at, buf).unwrap());
    let mut theirs = vhdx_core::VhdxReader::open(&path).unwrap();
    compare("vhdx-core", &source, |at, buf| {
        seek_and_read(&mut theirs, at, buf)
    });
}

#[test]
fn vhdx_core_reads_every_vhdx() {
    let formats = ["vhdx", "vhdx:block_size=2M", "vhdx:sector_size=4096"];
    each_corner(&formats, |what, source, path| {
        // With sectors of 4096 bytes a disk ends at a whole one.
        let mut disk = vhdx_core::VhdxReader::open(path).unwrap();
        assert_eq!(
            disk.virtual_disk_size() / 4096,
            source
                .size()
                .next_multiple_of(u64::from(disk.logical_sector_size()))
                / 4096,
            "{what}"
        );
        compare(what, source, |at, buf| seek_and_read(&mut disk, at, buf));
    });
}

#[test]
fn vmdk_core_reads_sparse_and_stream_optimised_images() {
    let formats = ["vmdk:monolithicSparse", "vmdk:streamOptimized"];
    each_corner(&formats, |what, source, path| {
        let mut disk = vmdk_core::VmdkReader::open(File::open(path).unwrap()).unwrap();
        assert_eq!(disk.virtual_disk_size(), source.size(), "{what}");
        compare(what, source, |at, buf| seek_and_read(&mut disk, at, buf));
    });
}
