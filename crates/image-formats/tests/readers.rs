//! What is read, held against the disks that QEMU put into the images.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use block_io::{BlockErrorKind, BlockRead, conformance};
use image_formats::{
    GateError, ImageFormat, OpenError, SameFolder, Severity, StandAlone, open, open_as,
};
use support::{arg, make_disk, must, scratch, write_image};

/// What this crate writes.
const OUR_FORMATS: &[&str] = &[
    "qcow2",
    "qcow2:zstd",
    "qcow2:zlib",
    "qcow2:zstd,cluster_size=512",
    "vhdx",
    "vhdx:fixed,block_size=4M",
    "vhdx:block_size=256M",
    "vmdk:monolithicSparse",
    "vmdk:monolithicFlat",
    "vmdk:streamOptimized",
    "vmdk:twoGbMaxExtentSparse",
    "vhd",
    "vhd:fixed",
    "vdi",
    "vdi:fixed",
    "parallels",
];

const MIB: u64 = 1 << 20;

/// A disk of 9 MiB and a bit with data, holes and data that compresses.
fn small_disk(path: &Path) -> Vec<u8> {
    make_disk(
        path,
        9 * MIB + 3 * 512,
        &[
            (0, 300_000),
            (2 * MIB, 100),
            (3 * MIB - 5000, MIB),
            (9 * MIB, 1536),
        ],
    );
    std::fs::read(path).unwrap()
}

fn check_reads_as(image: &Path, expected: &[u8]) {
    let image = open(image, &SameFolder).unwrap();
    conformance::check_reads(&image, expected);
}

#[test]
fn qcow2_of_every_kind_that_qemu_writes() {
    let test = "qcow2_of_every_kind_that_qemu_writes";
    let dir = scratch();
    let (raw, image) = (dir.path().join("source.raw"), dir.path().join("image"));
    let expected = small_disk(&raw);
    for options in [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=2",
        "refcount_bits=4",
        "refcount_bits=8",
        "refcount_bits=32",
        "refcount_bits=64",
        "extended_l2=on",
        "extended_l2=on,cluster_size=2M",
        "extended_l2=on,cluster_size=16K,compression_type=zstd",
        "compression_type=zstd",
        "preallocation=metadata",
        "lazy_refcounts=on",
    ] {
        for compressed in [false, true] {
            let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            // QEMU neither compresses into preallocated images nor into refcounts of one bit.
            if compressed {
                if options.contains("preallocation")
                    || ["refcount_bits=1", "refcount_bits=2"].contains(&options)
                {
                    continue;
                }
                args.push("-c");
            }
            args.extend([arg(&raw), arg(&image)]);
            if must(test, "qemu-img", &args).is_none() {
                return;
            }
            println!("{options}, compressed {compressed}");
            check_reads_as(&image, &expected);
        }
    }
}

#[test]
fn our_own_images_read_back() {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let expected = small_disk(&raw);
    let source = block_io::FileDisk::open(&raw).unwrap();
    for format in OUR_FORMATS {
        let path = write_image(&source, format, &dir.path().join("image"));
        let image = open(&path, &SameFolder).unwrap();
        let written: image_formats::OutputFormat = format.parse().unwrap();
        assert_eq!(image.info().format.qemu_name(), written.qemu_name());
        assert!(image.info().guessed);
        conformance::check_reads(&image, &expected);
        support::remove_image(&path);
    }
}

#[test]
fn a_backing_chain_reads_through_to_the_shorter_base() {
    let test = "a_backing_chain_reads_through_to_the_shorter_base";
    let dir = scratch();
    let raw = dir.path().join("base.raw");
    let mut expected = small_disk(&raw);
    expected.resize(12 << 20, 0);
    let (mid, top) = (dir.path().join("mid"), dir.path().join("top"));
    let create = |below: &str, format: &str, options: &str, path: &Path| {
        must(
            test,
            "qemu-img",
            &[
                "create",
                "-f",
                "qcow2",
                "-b",
                below,
                "-F",
                format,
                "-o",
                options,
                arg(path),
                "12M",
            ],
        )
    };
    if create("base.raw", "raw", "extended_l2=on", &mid).is_none() {
        return;
    }
    create("mid", "qcow2", "cluster_size=4K", &top).unwrap();
    let mut write = |image: &Path, start: usize, len: usize, byte: u8| {
        let command = format!("write -P {byte} {start} {len}");
        must(
            test,
            "qemu-io",
            &["-f", "qcow2", "-c", &command, arg(image)],
        )
        .unwrap();
        expected[start..start + len].fill(byte);
    };
    write(&mid, 1 << 20, 2048, 7);
    write(&mid, 5 << 20, 4096, 8);
    write(&top, (5 << 20) + 512, 512, 9);
    write(&top, 11 << 20, 70_144, 10);
    let command = "write -z 0 65536";
    must(test, "qemu-io", &["-f", "qcow2", "-c", command, arg(&top)]).unwrap();
    expected[..65_536].fill(0);
    check_reads_as(&top, &expected);
    let error = open(&top, &StandAlone).err().unwrap();
    assert!(matches!(error, OpenError::Gate { .. }), "{error}");
}

#[test]
fn an_external_data_file_is_read_through_the_gate() {
    let test = "an_external_data_file_is_read_through_the_gate";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let expected = small_disk(&raw);
    for raw_data in ["on", "off"] {
        let (image, data) = (dir.path().join("image"), dir.path().join("image.data"));
        let options = format!("data_file={},data_file_raw={raw_data}", arg(&data));
        let args = [
            "create",
            "-f",
            "qcow2",
            "-o",
            &options,
            arg(&image),
            "9438720",
        ];
        if must(test, "qemu-img", &args).is_none() {
            return;
        }
        // The name is kept as it was given: absolute, which the gate refuses.
        let error = open(&image, &SameFolder).err().unwrap();
        assert!(
            matches!(
                &error,
                OpenError::Gate {
                    source: GateError::Outside { .. },
                    ..
                }
            ),
            "{error}"
        );
        let target = format!(
            "driver=qcow2,file.filename={},data-file.driver=file,data-file.filename={}",
            arg(&image),
            arg(&data)
        );
        must(
            test,
            "qemu-img",
            &[
                "convert",
                "-n",
                "-f",
                "raw",
                "--target-image-opts",
                arg(&raw),
                &target,
            ],
        )
        .unwrap();
        let mut bytes = std::fs::read(&image).unwrap();
        relative_data_file(&mut bytes, arg(&data));
        std::fs::write(&image, bytes).unwrap();
        check_reads_as(&image, &expected);
    }
}

/// Cut the directory off the data file's name in the header extension.
fn relative_data_file(image: &mut [u8], name: &str) {
    let at = image.windows(4).position(|word| word == b"DATA").unwrap();
    let short = b"image.data";
    image[at + 8..at + 8 + name.len()].fill(0);
    image[at + 8..at + 8 + short.len()].copy_from_slice(short);
    let padded = name.len().next_multiple_of(8) - short.len().next_multiple_of(8);
    image[at + 7] = short.len() as u8;
    image[at + 6] = 0;
    // What is left over becomes an unknown extension of the rest, which readers skip.
    if padded >= 8 {
        let rest = at + 8 + short.len().next_multiple_of(8);
        image[rest..rest + 8].copy_from_slice(&[
            b'x',
            b'x',
            b'x',
            b'x',
            0,
            0,
            0,
            (padded - 8) as u8,
        ]);
    }
}

#[test]
fn snapshots_are_ignored_and_said_so() {
    let test = "snapshots_are_ignored_and_said_so";
    let dir = scratch();
    let (raw, image) = (dir.path().join("source.raw"), dir.path().join("image"));
    let mut expected = small_disk(&raw);
    let args = [
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        arg(&raw),
        arg(&image),
    ];
    if must(test, "qemu-img", &args).is_none() {
        return;
    }
    must(test, "qemu-img", &["snapshot", "-c", "before", arg(&image)]).unwrap();
    let args = ["-f", "qcow2", "-c", "write -P 5 0 100k", arg(&image)];
    must(test, "qemu-io", &args).unwrap();
    expected[..102_400].fill(5);
    check_reads_as(&image, &expected);
    let notes = open(&image, &SameFolder).unwrap().info().notes.clone();
    assert_eq!(notes.len(), 1);
    assert_eq!(
        (notes[0].rule.id, notes[0].severity),
        ("qcow2.snapshots", Severity::Note)
    );
}

#[test]
fn encryption_is_refused_by_name() {
    let test = "encryption_is_refused_by_name";
    let dir = scratch();
    let image = dir.path().join("image");
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let args = [
        "create",
        "-f",
        "qcow2",
        "--object",
        "secret,id=s,data=x",
        "-o",
        options,
        arg(&image),
        "1M",
    ];
    if must(test, "qemu-img", &args).is_none() {
        return;
    }
    let error = open(&image, &SameFolder).err().unwrap().to_string();
    assert!(
        error.contains("LUKS encryption is not supported"),
        "{error}"
    );
}

#[test]
fn images_that_name_each_other_in_a_circle_end() {
    let test = "images_that_name_each_other_in_a_circle_end";
    let dir = scratch();
    for (image, below) in [("a", "b"), ("b", "a")] {
        let path = dir.path().join(image);
        let args = [
            "create",
            "-u",
            "-f",
            "qcow2",
            "-b",
            below,
            "-F",
            "qcow2",
            arg(&path),
            "1M",
        ];
        if must(test, "qemu-img", &args).is_none() {
            return;
        }
    }
    let mut error = open(dir.path().join("a"), &SameFolder).err().unwrap();
    while let OpenError::Below { source, .. } = error {
        error = *source;
    }
    assert!(
        matches!(
            &error,
            OpenError::Gate {
                source: GateError::TooDeep { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_named_format_is_never_replaced_by_a_guess() {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let source = make_disk(&raw, MIB, &[(0, MIB)]);
    let path = write_image(&source, "qcow2", &dir.path().join("image"));
    let image = open_as(&path, ImageFormat::Raw, &SameFolder).unwrap();
    assert_eq!(image.size(), std::fs::metadata(&path).unwrap().len());
    assert!(!image.info().guessed);
    let error = open_as(&raw, ImageFormat::Qcow2, &SameFolder)
        .err()
        .unwrap();
    assert_eq!(error.finding().unwrap().rule.id, "qcow2.magic");
}

/// Images made by other programs, among them those of their vendors, read as QEMU reads them.
#[test]
fn foreign_images_read_as_qemu_reads_them() {
    let test = "foreign_images_read_as_qemu_reads_them";
    let dir = scratch();
    let images = support::fixture_images(test, &dir);
    for image in &images {
        let raw = dir.path().join("as-qemu.raw");
        let opened = match open(image, &SameFolder) {
            Ok(opened) => opened,
            Err(error) => panic!("{}: {error}", image.display()),
        };
        let format = opened.info().format.qemu_name();
        // QEMU rounds the size of a VHD whose creator it does not know, unless told otherwise.
        let vhd = format!(
            "driver=vpc,force_size_calc=current_size,file.driver=file,file.filename={}",
            arg(image)
        );
        let args = match format {
            "vpc" => vec!["convert", "--image-opts", &vhd, "-O", "raw", arg(&raw)],
            _ => vec!["convert", "-f", format, "-O", "raw", arg(image), arg(&raw)],
        };
        let Some((converted, text)) = support::run(test, "qemu-img", &args) else {
            return;
        };
        if text.contains("Incorrect header checksum") {
            // Written by Windows, refused by QEMU: read here, and said.
            let notes = &opened.info().notes;
            assert!(
                notes
                    .iter()
                    .any(|note| note.rule.id == "vhd.footer-checksum")
            );
            println!("{}: QEMU refuses its checksum", image.display());
            continue;
        }
        assert!(converted, "{}: {text}", image.display());
        let same = same_bytes(&opened, &block_io::FileDisk::open(&raw).unwrap());
        assert!(same, "{} differs from what QEMU reads", image.display());
        println!(
            "{}: {format} {}, identical",
            image.display(),
            opened.info().variant
        );
    }
}

/// Compare what either map does not call zero.
fn same_bytes(ours: &dyn BlockRead, theirs: &dyn BlockRead) -> bool {
    assert_eq!(ours.size(), theirs.size(), "virtual size");
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for map in [ours, theirs] {
        for extent in block_io::extents(map, 0..map.size()).map(Result::unwrap) {
            let mut at = extent.start;
            while at < extent.end() && extent.kind != block_io::ExtentKind::Zero {
                let len = (extent.end() - at).min(1 << 20) as usize;
                ours.read_at(at, &mut left[..len]).unwrap();
                theirs.read_at(at, &mut right[..len]).unwrap();
                if left[..len] != right[..len] {
                    return false;
                }
                at += len as u64;
            }
        }
    }
    true
}

/// A table that only the log holds reads as after QEMU has replayed it.
#[test]
fn a_dirty_vhdx_reads_as_after_its_repair() {
    let test = "a_dirty_vhdx_reads_as_after_its_repair";
    let dir = scratch();
    let image = dir.path().join("dirty.vhdx");
    let options = "block_size=1M,log_size=1M";
    let args = ["create", "-f", "vhdx", "-o", options, arg(&image), "64M"];
    if must(test, "qemu-img", &args).is_none() {
        return;
    }
    for write in ["write -P 1 0 1M", "write -P 2 9M 3M", "write -P 3 40M 64k"] {
        // It dies by SIGABRT, so that its log keeps the entries.
        let args = ["-f", "vhdx", "-c", write, "-c", "abort", arg(&image)];
        support::run(test, "qemu-io", &args).unwrap();
    }
    let mut bytes = std::fs::read(&image).unwrap();
    forget_what_was_flushed(&mut bytes);
    std::fs::write(&image, &bytes).unwrap();
    let opened = open(&image, &SameFolder).unwrap();
    let notes = &opened.info().notes;
    assert!(
        notes.iter().any(|note| note.rule.id == "vhdx.log-replayed"),
        "{notes:?}"
    );
    let mut first = [0; 4];
    opened.read_at(9 * MIB, &mut first).unwrap();
    assert_eq!(first, [2; 4], "the writes are there");
    let (copy, raw) = (
        dir.path().join("repaired.vhdx"),
        dir.path().join("repaired.raw"),
    );
    std::fs::copy(&image, &copy).unwrap();
    must(
        test,
        "qemu-img",
        &["check", "-r", "all", "-f", "vhdx", arg(&copy)],
    )
    .unwrap();
    let args = ["convert", "-f", "vhdx", "-O", "raw", arg(&copy), arg(&raw)];
    must(test, "qemu-img", &args).unwrap();
    assert!(same_bytes(
        &opened,
        &block_io::FileDisk::open(&raw).unwrap()
    ));
    assert!(
        std::fs::read(&image).unwrap() == bytes,
        "reading changes nothing"
    );
    // A log that lost a byte is refused, not half replayed.
    let entry = MIB as usize + 4096 + 100;
    bytes[entry] ^= 1;
    std::fs::write(&image, &bytes).unwrap();
    let error = open(&image, &SameFolder).err().unwrap();
    assert_eq!(error.finding().unwrap().rule.id, "vhdx.log-empty");
}

/// Clear the BAT and name the log's entries in the headers: as if nothing had reached its place.
fn forget_what_was_flushed(image: &mut [u8]) {
    let number = |bytes: &[u8], at: usize| -> usize {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
    };
    let table = 192 << 10;
    for entry in [table + 16, table + 48] {
        if image[entry..entry + 4] == [0x66, 0x77, 0xc2, 0x2d] {
            let at = number(image, entry + 16);
            image[at..at + 4096].fill(0);
        }
    }
    let log_id = image[MIB as usize + 32..MIB as usize + 48].to_vec();
    for header in [64 << 10, 128 << 10] {
        image[header + 48..header + 64].copy_from_slice(&log_id);
        image[header + 4..header + 8].fill(0);
        let sum = crc32c::crc32c(&image[header..header + 4096]);
        image[header + 4..header + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Bytes of the tables are changed, and the file is cut at many places: whatever comes out, it is an
/// answer, not a panic, and what is called zero reads as zero.
#[test]
fn no_changed_byte_and_no_cut_makes_a_reader_panic() {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let source = make_disk(
        &raw,
        3 * MIB,
        &[(0, 40_000), (MIB, 9000), (3 * MIB - 512, 512)],
    );
    let target = dir.path().join("changed");
    for (format, tables) in CHANGED {
        let path = write_image(&source, format, &dir.path().join("image"));
        let kind = open(&path, &StandAlone).unwrap().info().format;
        let good = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let mut opened = 0;
        for step in 0..600usize {
            let mut bytes = good.clone();
            let anywhere = step * 7919 % 97 * (bytes.len() / 97);
            let table = &tables[step / 3 % tables.len()];
            let in_table = (table.start + step * 31 % table.len()).min(bytes.len() - 1);
            match step % 3 {
                0 => bytes[in_table] ^= 1 << (step / 3 % 8),
                1 => bytes[anywhere + step % 16] ^= 0x80 >> (step % 8),
                _ => bytes.truncate(anywhere),
            }
            std::fs::write(&target, bytes).unwrap();
            if let Ok(image) = open_as(&target, kind, &StandAlone) {
                opened += 1;
                read_all(&image);
            }
        }
        println!("{format}: {opened} of 600 could be opened");
        assert!(opened > 100, "the test must get past the header");
    }
}

/// Formats, and where their tables lie.
const CHANGED: &[(&str, &[std::ops::Range<usize>])] = &[
    ("qcow2:cluster_size=512", &[0..112, 49_000..52_000]),
    ("qcow2:zstd,cluster_size=4K", &[0..112, 30_000..42_000]),
    ("qcow2:zlib", &[0..64, 64..112]),
    (
        "vmdk:monolithicSparse",
        &[0..96, 0x200..0x400, 21 * 512..40 * 512],
    ),
    (
        "vmdk:streamOptimized",
        &[0..96, 0x200..0x400, 0x1_0000..0x2_0000],
    ),
    ("vhd", &[0..84, 512..600, 1536..1552]),
    ("parallels", &[0..64, 64..84]),
    ("vdi", &[64..84, 340..460, 0x10_0000..0x10_000c]),
    (
        "vhdx",
        &[
            0x20_0000..0x20_0100,
            0x21_0000..0x21_0040,
            0x30_0000..0x30_0020,
            0x1_0000..0x1_0060,
        ],
    ),
];

fn read_all(image: &dyn BlockRead) {
    let mut buf = vec![0; 1 << 20];
    let end = image.size().min(16 << 20);
    for extent in block_io::extents(image, 0..end) {
        let Ok(extent) = extent else { return };
        let len = extent.len.min(buf.len() as u64) as usize;
        match image.read_at(extent.start, &mut buf[..len]) {
            Ok(()) if extent.kind == block_io::ExtentKind::Zero => {
                assert!(buf[..len].iter().all(|byte| *byte == 0));
            }
            Ok(()) => {}
            Err(error) => assert_ne!(error.kind(), BlockErrorKind::OutOfBounds, "{error}"),
        }
    }
}
