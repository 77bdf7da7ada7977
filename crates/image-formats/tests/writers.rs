//! What is written, held against QEMU.

#![allow(clippy::unwrap_used)]

mod support;

use std::num::NonZero;
use std::path::Path;
use std::sync::Mutex;

use block_io::{BlockErrorKind, BlockRead, Fault, FaultyDisk, FileDisk, MemoryDisk};
use image_formats::{CopyError, CopyOptions, OutputError, OutputOptions, Progress, copy, output};
use support::{arg, corner_disks, make_disk, must, noise, scratch, write_image};

/// Every format that `qemu-img` reads, with the options that change the layout.
const FORMATS: &[&str] = &[
    "raw",
    "raw:preallocated",
    "qcow2",
    "qcow2:zstd",
    "qcow2:zlib",
    "qcow2:cluster_size=512",
    "qcow2:zstd,cluster_size=512",
    "qcow2:zlib,cluster_size=4K",
    "qcow2:cluster_size=2M",
    "qcow2:zstd,cluster_size=2M",
    "vhdx",
    "vmdk:monolithicSparse",
    "vmdk:monolithicFlat",
    "vmdk:streamOptimized",
    "vmdk:twoGbMaxExtentSparse",
    "vhd",
    "vhd:fixed",
    "vhdx:block_size=2M",
    "vhdx:fixed",
    "vhdx:fixed,block_size=32M",
    "vdi",
    "vdi:fixed",
    "parallels",
];

#[test]
fn qemu_finds_every_corner_disk_clean_and_identical() {
    let test = "qemu_finds_every_corner_disk_clean_and_identical";
    let dir = scratch();
    for (name, size, runs) in corner_disks() {
        let raw = dir.path().join("source.raw");
        let source = make_disk(&raw, size, &runs);
        for format in FORMATS {
            // QEMU reads every byte of these: large ones take minutes and tell nothing new.
            let whole = ["preallocated", "fixed", "512"]
                .iter()
                .any(|word| format.contains(word));
            if whole && size > 1 << 30 {
                continue;
            }
            let path = write_image(&source, format, &dir.path().join("image"));
            let Some(()) = check_with_qemu(test, format, &raw, &path) else {
                return;
            };
            support::remove_image(&path);
            println!("{name}: {format}: clean and identical");
        }
        std::fs::remove_file(raw).unwrap();
    }
}

fn check_with_qemu(test: &str, format: &str, raw: &Path, image: &Path) -> Option<()> {
    let driver = format
        .parse::<image_formats::OutputFormat>()
        .unwrap()
        .qemu_name();
    // QEMU has no check for VHD.
    if driver != "raw" && driver != "vpc" {
        let text = must(test, "qemu-img", &["check", "-f", driver, arg(image)])?;
        assert!(text.contains("No errors were found"), "{format}: {text}");
        assert!(!text.contains("leaked"), "{format}: {text}");
    }
    let args = ["compare", "-f", "raw", "-F", driver, arg(raw), arg(image)];
    let text = must(test, "qemu-img", &args)?;
    assert_eq!(
        text.trim(),
        "Images are identical.",
        "{format}: sizes differ?"
    );
    Some(())
}

#[test]
fn a_size_that_is_no_whole_sector_is_padded_with_zeroes() {
    let test = "a_size_that_is_no_whole_sector_is_padded_with_zeroes";
    let dir = scratch();
    let mut bytes = noise(3, 100_001);
    let path = write_image(
        &MemoryDisk::from(bytes.clone()),
        "qcow2:zstd",
        &dir.path().join("image"),
    );
    bytes.resize(100_001usize.next_multiple_of(512), 0);
    let raw = dir.path().join("padded");
    std::fs::write(&raw, bytes).unwrap();
    check_with_qemu(test, "qcow2", &raw, &path);
}

#[test]
fn huge_sparse_disks_take_little_space_and_memory() {
    let test = "huge_sparse_disks_take_little_space_and_memory";
    let dir = scratch();
    for size in [(2 << 40) + 512, 15 << 40] {
        let raw = dir.path().join("source.raw");
        let source = make_disk(
            &raw,
            size,
            &[(0, 4096), (size / 2, 70_000), (size - 512, 512)],
        );
        for format in ["qcow2", "qcow2:zstd"] {
            let path = write_image(&source, format, &dir.path().join("image"));
            assert!(std::fs::metadata(&path).unwrap().len() < 64 << 20);
            check_with_qemu(test, format, &raw, &path);
            std::fs::remove_file(path).unwrap();
        }
        // QEMU asks a VHDX about every block on its own, which takes it hours: our reader's word.
        let path = write_image(&source, "vhdx", &dir.path().join("image"));
        assert!(std::fs::metadata(&path).unwrap().len() < 64 << 20);
        let image = image_formats::open(&path, &image_formats::StandAlone).unwrap();
        let (mut left, mut right) = (vec![0; 70_000], vec![0; 70_000]);
        for (at, len) in [(0, 70_000), (size / 2 - 4096, 70_000), (size - 512, 512)] {
            source.read_at(at, &mut left[..len]).unwrap();
            image.read_at(at, &mut right[..len]).unwrap();
            assert!(left == right, "{size}: {len} bytes at {at}");
        }
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(raw).unwrap();
    }
}

#[test]
fn zero_clusters_are_not_allocated() {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let source = make_disk(&raw, 64 << 20, &[(10 << 20, 100)]);
    let path = write_image(&source, "qcow2", &dir.path().join("image"));
    // Header, one cluster of data, L2, L1, refcount block, refcount table.
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 6 * 65_536);
    let sparse = write_image(&source, "raw", &dir.path().join("raw"));
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(sparse).unwrap());
    assert!(
        blocks <= 16,
        "{blocks} blocks of 512 bytes for one page of data"
    );
}

#[test]
fn incompressible_clusters_are_stored_as_they_are() {
    let test = "incompressible_clusters_are_stored_as_they_are";
    let dir = scratch();
    let mut state = 88_172_645_463_325_252u64;
    let mut bytes = Vec::new();
    while bytes.len() < 8 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    let raw = dir.path().join("source.raw");
    std::fs::write(&raw, bytes).unwrap();
    for format in ["qcow2:zstd", "qcow2:zlib"] {
        let path = write_image(
            &FileDisk::open(&raw).unwrap(),
            format,
            &dir.path().join("image"),
        );
        check_with_qemu(test, format, &raw, &path);
        let Some(map) = must(test, "qemu-img", &["check", arg(&path)]) else {
            return;
        };
        assert!(map.contains("0.00% compressed"), "{map}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn several_outputs_come_from_one_read_pass() {
    let test = "several_outputs_come_from_one_read_pass";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    make_disk(&raw, 30 << 20, &[(0, 9 << 20), (20 << 20, 10 << 20)]);
    let source = Counting::new(FileDisk::open(&raw).unwrap());
    let formats = ["raw", "qcow2", "qcow2:zstd"];
    let sinks = formats.iter().enumerate().map(|(index, format)| {
        let path = dir.path().join(index.to_string());
        output::create(
            path,
            &format.parse().unwrap(),
            30 << 20,
            OutputOptions::default(),
        )
        .unwrap()
    });
    let paths = copy(&source, sinks.collect(), &(), &CopyOptions::default()).unwrap();
    assert_eq!(
        *source.read.lock().unwrap(),
        19 << 20,
        "each byte of data once"
    );
    for (path, format) in paths.iter().zip(formats) {
        check_with_qemu(test, format, &raw, path);
    }
}

#[test]
fn one_worker_and_many_write_the_same_bytes() {
    let dir = scratch();
    let source = make_disk(&dir.path().join("source"), 50 << 20, &[(1 << 20, 45 << 20)]);
    let images = [1, 7].map(|workers| {
        let path = dir.path().join(workers.to_string());
        let format = "qcow2:zstd".parse().unwrap();
        let sink = output::create(&path, &format, 50 << 20, OutputOptions::default()).unwrap();
        let options = CopyOptions {
            workers: NonZero::new(workers),
            ..CopyOptions::default()
        };
        copy(&source, vec![sink], &(), &options).unwrap();
        std::fs::read(path).unwrap()
    });
    assert!(images[0] == images[1]);
}

#[test]
fn an_existing_output_is_refused_and_left_alone() {
    let dir = scratch();
    let path = dir.path().join("image.qcow2");
    std::fs::write(&path, "mine").unwrap();
    let format = "qcow2".parse().unwrap();
    let error = output::create(&path, &format, 512, OutputOptions::default())
        .err()
        .unwrap();
    assert!(matches!(error, OutputError::Exists { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let options = OutputOptions {
        overwrite: true,
        ..Default::default()
    };
    let sink = output::create(&path, &format, 512, options).unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"mine",
        "until it is finished"
    );
    sink.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[..4], *b"QFI\xfb");
}

#[test]
fn an_output_that_appears_meanwhile_is_not_replaced() {
    let dir = scratch();
    let path = dir.path().join("image");
    let format = "qcow2".parse().unwrap();
    let sink = output::create(&path, &format, 512, OutputOptions::default()).unwrap();
    std::fs::write(&path, "theirs").unwrap();
    let error = sink.finish().unwrap_err();
    assert!(matches!(error, OutputError::Exists { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
}

#[test]
fn two_at_once_do_not_write_one_file() {
    let dir = scratch();
    let path = dir.path().join("image");
    let format = "raw".parse().unwrap();
    let _first = output::create(&path, &format, 512, OutputOptions::default()).unwrap();
    let error = output::create(&path, &format, 512, OutputOptions::default())
        .err()
        .unwrap();
    assert!(matches!(error, OutputError::Busy { .. }), "{error}");
}

#[test]
fn a_source_that_fails_leaves_no_file_and_is_told_apart() {
    let dir = scratch();
    let disk = FaultyDisk::new(MemoryDisk::from(noise(1, 40 << 20))).failing(
        30 << 20..(30 << 20) + 512,
        Fault::Always(BlockErrorKind::Unreadable),
    );
    for format in ["raw", "qcow2", "qcow2:zstd"] {
        let path = dir.path().join("image");
        let format = format.parse().unwrap();
        let sink = output::create(&path, &format, disk.size(), OutputOptions::default()).unwrap();
        let error = copy(&disk, vec![sink], &(), &CopyOptions::default()).unwrap_err();
        assert!(matches!(error, CopyError::Read(_)), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// Runs itself again in a mount namespace of its own, on a file system of 3 MiB.
#[test]
fn a_full_disk_names_the_output_and_leaves_no_file() {
    let test = "a_full_disk_names_the_output_and_leaves_no_file";
    let Some(small) = std::env::var_os("P2V_TEST_SMALL_DISK") else {
        let dir = scratch();
        let this = std::env::current_exe().unwrap();
        let script = format!(
            "mount -t tmpfs -o size=3m none {0} && P2V_TEST_SMALL_DISK={0} {1} --exact {test}",
            arg(dir.path()),
            arg(&this)
        );
        must(test, "unshare", &["-rm", "sh", "-c", &script]);
        return;
    };
    for format in ["raw", "raw:preallocated", "qcow2", "qcow2:zstd"] {
        let path = Path::new(&small).join("image");
        let disk = MemoryDisk::from(noise(1, 8 << 20));
        let error = output::create(
            &path,
            &format.parse().unwrap(),
            8 << 20,
            OutputOptions::default(),
        )
        .map_err(CopyError::from)
        .and_then(|sink| copy(&disk, vec![sink], &(), &CopyOptions::default()))
        .unwrap_err();
        let CopyError::Write(error) = error else {
            panic!("{format}: {error:?}");
        };
        let OutputError::Full {
            path: named,
            needed,
        } = &error
        else {
            panic!("{format}: {error:?}");
        };
        assert_eq!(*named, path);
        assert!((1..=8 << 20).contains(needed), "{format}: {error}");
        assert_eq!(std::fs::read_dir(&small).unwrap().count(), 0, "{format}");
    }
}

#[test]
fn progress_never_falls_and_ends_at_all() {
    struct Seen(Mutex<Vec<(u64, u64)>>);
    impl Progress for Seen {
        fn advance(&self, done: u64, total: u64) {
            self.0.lock().unwrap().push((done, total));
        }
    }
    let dir = scratch();
    let source = make_disk(&dir.path().join("source"), 64 << 20, &[(4096, 30 << 20)]);
    let seen = Seen(Mutex::default());
    let path = dir.path().join("image");
    let format = "qcow2".parse().unwrap();
    let sink = output::create(path, &format, 64 << 20, OutputOptions::default()).unwrap();
    copy(&source, vec![sink], &seen, &CopyOptions::default()).unwrap();
    let seen = seen.0.into_inner().unwrap();
    assert_eq!(seen[0], (0, 30 << 20));
    assert_eq!(seen.last().unwrap(), &(30 << 20, 30 << 20));
    assert!(seen.is_sorted());
}

#[test]
fn an_overlay_reads_as_the_image_below() {
    let test = "an_overlay_reads_as_the_image_below";
    let dir = scratch();
    let raw = dir.path().join("base.raw");
    make_disk(&raw, 10 << 20, &[(0, 10 << 20)]);
    let path = dir.path().join("overlay.qcow2");
    output::create_overlay(&path, "base.raw", "raw", 10 << 20, OutputOptions::default()).unwrap();
    check_with_qemu(test, "qcow2", &raw, &path);
}

/// Counts the bytes that are read.
struct Counting {
    disk: FileDisk,
    read: Mutex<u64>,
}

impl Counting {
    fn new(disk: FileDisk) -> Self {
        Self {
            disk,
            read: Mutex::default(),
        }
    }
}

impl BlockRead for Counting {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> block_io::Result<()> {
        *self.read.lock().unwrap() += buf.len() as u64;
        self.disk.read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64) -> block_io::Result<block_io::Extent> {
        self.disk.extent_at(offset)
    }
}

/// Equal, changed, zeroed and new parts over an image below that is shorter.
#[test]
fn only_what_differs_from_the_image_below_is_written() {
    let test = "only_what_differs_from_the_image_below_is_written";
    let dir = scratch();
    let base = dir.path().join("base.raw");
    make_disk(
        &base,
        20 << 20,
        &[(0, 9 << 20), (12 << 20, 3 << 20), (19 << 20, 1 << 20)],
    );
    let mut bytes = std::fs::read(&base).unwrap();
    bytes[3 << 20..(3 << 20) + 10].fill(7);
    bytes[5 << 20..(5 << 20) + 300_000].fill(0);
    bytes[12 << 20..].fill(0);
    bytes.resize(23 << 20, 0);
    bytes[22 << 20..(22 << 20) + 5].fill(9);
    let raw = dir.path().join("source.raw");
    std::fs::write(&raw, &bytes).unwrap();
    let source = MemoryDisk::from(bytes);
    let below = write_image(
        &FileDisk::open(&base).unwrap(),
        "vmdk",
        &dir.path().join("base.vmdk"),
    );
    assert!(below.is_file());
    for (name, kind) in [("base.raw", "raw"), ("base.vmdk", "vmdk")] {
        for options in ["", ",zstd", ",cluster_size=512", ",cluster_size=2M"] {
            let format = format!("qcow2:backing={name},backing_format={kind}{options}");
            let path = write_image(&source, &format, &dir.path().join("top.qcow2"));
            let report = image_formats::check(&path, None, &image_formats::SameFolder).unwrap();
            assert_eq!(
                report.corruptions + report.leaks,
                0,
                "{format}: {report:#?}"
            );
            let Some(()) = check_with_qemu(test, "qcow2", &raw, &path) else {
                return;
            };
            // Two clusters of data, and tables.
            let len = std::fs::metadata(&path).unwrap().len();
            let most = if options.contains("2M") {
                24 << 20
            } else {
                1 << 20
            };
            assert!(len < most, "{format}: {len}");
            std::fs::remove_file(path).unwrap();
        }
    }
    let format = "qcow2:backing=gone.raw,backing_format=raw".parse().unwrap();
    let path = dir.path().join("top.qcow2");
    let error = output::create(&path, &format, 512, OutputOptions::default())
        .err()
        .unwrap();
    assert!(matches!(error, OutputError::Below { .. }), "{error}");
    assert!(!path.exists());
}
