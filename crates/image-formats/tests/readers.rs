//! What is read, held against the disks that QEMU put into the images.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use block_io::{BlockErrorKind, BlockRead, conformance};
use image_formats::{
    GateError, ImageFormat, OpenError, SameFolder, Severity, StandAlone, open, open_as,
};
use support::{arg, make_disk, must, scratch, write_image};

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
                if options.contains("preallocation") || options.contains("refcount_bits=1") {
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
    for format in [
        "qcow2",
        "qcow2:zstd",
        "qcow2:zlib",
        "qcow2:zstd,cluster_size=512",
    ] {
        let path = write_image(&source, format, &dir.path().join("image"));
        let image = open(&path, &SameFolder).unwrap();
        assert_eq!(image.info().format, ImageFormat::Qcow2);
        assert!(image.info().guessed);
        conformance::check_reads(&image, &expected);
        std::fs::remove_file(path).unwrap();
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

/// Every byte of the metadata is changed in turn, and the file cut at many places: whatever comes
/// out, it is an answer, not a panic, and what is called zero reads as zero.
#[test]
fn no_changed_byte_and_no_cut_makes_the_reader_panic() {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let source = make_disk(
        &raw,
        3 * MIB,
        &[(0, 40_000), (MIB, 9000), (3 * MIB - 512, 512)],
    );
    let target = dir.path().join("changed");
    for format in [
        "qcow2:cluster_size=512",
        "qcow2:zstd,cluster_size=4K",
        "qcow2:zlib",
    ] {
        let path = write_image(&source, format, &dir.path().join("image"));
        let good = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let mut opened = 0;
        for step in 0..600u64 {
            let mut bytes = good.clone();
            let at = (step * 7919 % 97) as usize * (bytes.len() / 97);
            match step % 3 {
                0 => bytes[(step / 3) as usize % 120] ^= 1 << (step % 8),
                1 => bytes[at + (step % 16) as usize] ^= 0x80 >> (step % 8),
                _ => bytes.truncate(at),
            }
            std::fs::write(&target, bytes).unwrap();
            if let Ok(image) = open_as(&target, ImageFormat::Qcow2, &StandAlone) {
                opened += 1;
                read_all(&image);
            }
        }
        println!("{format}: {opened} of 600 could be opened");
        assert!(opened > 100, "the test must get past the header");
    }
}

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
