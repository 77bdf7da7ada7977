//! Files made to harm their reader. Each case ends in an error that names the rule, the place, what was
//! expected and what was found; none in a panic, an endless loop or another file of the machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_io::{BlockErrorKind, BlockRead, MemoryDisk};
use image_formats::{
    GateError, ImageFormat, OpenError, Report, SameFolder, StandAlone, Verdict, check_disk, open,
    open_as, open_disk,
};
use support::{make_disk, scratch, write_image};

const MIB: usize = 1 << 20;

/// A small image of our own in `format`, and the disk it holds.
fn sample(format: &str) -> Vec<u8> {
    let dir = scratch();
    let source = make_disk(
        &dir.path().join("source"),
        3 << 20,
        &[(0, 200_000), (2 << 20, 70_000)],
    );
    let path = write_image(&source, format, &dir.path().join("image"));
    std::fs::read(path).unwrap()
}

fn open_bytes(bytes: &[u8], format: ImageFormat) -> Result<image_formats::Image, OpenError> {
    let disk = Arc::new(MemoryDisk::from(bytes.to_vec()));
    open_disk(disk, "image", Some(format), &StandAlone)
}

fn check_bytes(bytes: &[u8], format: ImageFormat) -> Result<Report, OpenError> {
    let disk = Arc::new(MemoryDisk::from(bytes.to_vec()));
    check_disk(disk, "image", Some(format), &StandAlone)
}

/// The image does not open; the finding is of `rule` and says where, what it wants and what is there.
fn refused(bytes: &[u8], format: ImageFormat, rule: &str) {
    let error = open_bytes(bytes, format)
        .err()
        .unwrap_or_else(|| panic!("{rule}: it opens"));
    let finding = error.finding().unwrap_or_else(|| panic!("{rule}: {error}"));
    assert_eq!(finding.rule.id, rule, "{error}");
    assert!(
        !finding.expected.is_empty() && !finding.found.is_empty(),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("at byte") && text.contains(finding.rule.spec),
        "{text}"
    );
    let report = check_bytes(bytes, format).unwrap();
    assert_eq!(report.verdict(), Verdict::Broken, "{rule}");
}

/// It opens, but reading byte `offset` is refused with `rule`.
fn unreadable(bytes: &[u8], format: ImageFormat, offset: u64, rule: &str) {
    let image = open_bytes(bytes, format).unwrap();
    let error = image.read_at(offset, &mut [0; 512]).unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
    let text = error.to_string();
    assert!(text.contains(rule), "{rule}: {text}");
    assert!(
        text.contains("expected") && text.contains("found"),
        "{text}"
    );
}

/// The check names `rule`, and comes to an end.
fn told(bytes: &[u8], format: ImageFormat, rule: &str) {
    let start = Instant::now();
    let report = check_bytes(bytes, format).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{rule}");
    let rules: Vec<_> = report
        .findings
        .iter()
        .map(|finding| finding.rule.id)
        .collect();
    assert!(rules.contains(&rule), "{rule} in {rules:?}");
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn sizes_near_the_end_of_numbers_are_refused_by_rule() {
    let qcow2 = sample("qcow2");
    for size in [1u64 << 63, u64::MAX, u64::MAX - 511] {
        refused(
            &with(&qcow2, 24, &size.to_be_bytes()),
            ImageFormat::Qcow2,
            "qcow2.size",
        );
    }
    for size in [(1u64 << 63) - 512, 1 << 62, 1 << 50] {
        refused(
            &with(&qcow2, 24, &size.to_be_bytes()),
            ImageFormat::Qcow2,
            "qcow2.l1-size",
        );
    }
    // Tables at the end of all offsets.
    for place in [u64::MAX, 1 << 63, (1 << 63) - 65_536] {
        let moved = with(&qcow2, 40, &place.to_be_bytes());
        refused(&moved, ImageFormat::Qcow2, "qcow2.l1-offset");
        let moved = with(&qcow2, 48, &place.to_be_bytes());
        refused(&moved, ImageFormat::Qcow2, "qcow2.refcount-table");
    }
    let many = with(&qcow2, 36, &u32::MAX.to_be_bytes());
    refused(&many, ImageFormat::Qcow2, "qcow2.l1-size");
    let vmdk = sample("vmdk");
    for capacity in [u64::MAX, 1 << 63, 1 << 55, (1 << 53) - 1] {
        let error = open_bytes(&with(&vmdk, 12, &capacity.to_le_bytes()), ImageFormat::Vmdk);
        let error = error.err().unwrap();
        let rule = error.finding().unwrap().rule.id;
        assert!(
            matches!(rule, "vmdk.capacity" | "vmdk.directory"),
            "{error}"
        );
    }
    for place in [u64::MAX - 1, 1 << 55, 1 << 62] {
        refused(
            &with(&vmdk, 56, &place.to_le_bytes()),
            ImageFormat::Vmdk,
            "vmdk.directory",
        );
        refused(
            &with(&vmdk, 28, &place.to_le_bytes()),
            ImageFormat::Vmdk,
            "vmdk.descriptor",
        );
    }
    let fixed = sample("vhd:fixed");
    let footer = fixed.len() - 512;
    for size in [u64::MAX, 1 << 63] {
        refused(
            &with(&fixed, footer + 48, &size.to_be_bytes()),
            ImageFormat::Vhd,
            "vhd.size",
        );
    }
    let dynamic = sample("vhd");
    let footer = dynamic.len() - 512;
    for size in [u64::MAX, 1 << 63, 1 << 50] {
        refused(
            &with(&dynamic, footer + 48, &size.to_be_bytes()),
            ImageFormat::Vhd,
            "vhd.table",
        );
    }
    for place in [u64::MAX, 1 << 63] {
        let moved = with(&dynamic, footer + 16, &place.to_be_bytes());
        refused(&moved, ImageFormat::Vhd, "vhd.dynamic-header");
    }
    // VHDX keeps the size where no checksum covers it: the third item of ours, behind 64 KiB of table.
    let vhdx = sample("vhdx");
    for size in [u64::MAX, 1 << 63, (64 << 40) + 512] {
        let moved = with(&vhdx, 2 * MIB + 65_536 + 8, &size.to_le_bytes());
        refused(&moved, ImageFormat::Vhdx, "vhdx.virtual-size");
    }
    let long = with(&vhdx, 2 * MIB + 65_536 + 8, &(64u64 << 40).to_le_bytes());
    refused(&long, ImageFormat::Vhdx, "vhdx.bat-size");
    let vdi = sample("vdi");
    for size in [u64::MAX - 511, 1 << 63, 1 << 62] {
        let error = open_bytes(&with(&vdi, 368, &size.to_le_bytes()), ImageFormat::Vdi);
        assert!(error.err().unwrap().finding().is_some());
    }
    let parallels = sample("parallels");
    for sectors in [u64::MAX, 1 << 63, 1 << 54] {
        let error = open_bytes(
            &with(&parallels, 36, &sectors.to_le_bytes()),
            ImageFormat::Parallels,
        );
        assert!(error.err().unwrap().finding().is_some());
    }
}

#[test]
fn tables_that_name_themselves_end() {
    // qcow2: the L1 table is its own L2 table.
    let qcow2 = sample("qcow2");
    let l1 = be64(&qcow2, 40);
    let selfish = with(&qcow2, l1 as usize, &(l1 | 1 << 63).to_be_bytes());
    told(&selfish, ImageFormat::Qcow2, "qcow2.overlap");
    // Every L1 entry is the same L2 table, whose entries are all the table itself.
    let mut bytes = qcow2.clone();
    let l2 = be64(&bytes, l1 as usize) & 0x00ff_ffff_ffff_fe00;
    for entry in 0..8192 {
        let at = l2 as usize + entry * 8;
        bytes[at..at + 8].copy_from_slice(&(l2 | 1 << 63).to_be_bytes());
    }
    told(&bytes, ImageFormat::Qcow2, "qcow2.overlap");
    // The refcount table is its own first block.
    let table = be64(&qcow2, 48);
    let selfish = with(&qcow2, table as usize, &table.to_be_bytes());
    told(&selfish, ImageFormat::Qcow2, "qcow2.overlap");
    // VMDK: a grain table that is the directory.
    let vmdk = sample("vmdk");
    let directory = le64(&vmdk, 56) as usize;
    let selfish = with(&vmdk, directory * 512, &(directory as u32).to_le_bytes());
    told(&selfish, ImageFormat::Vmdk, "vmdk.overlap");
    // VHD: a block in the table. VHDX: a block in the BAT.
    told(
        &with(&sample("vhd"), 1536, &3u32.to_be_bytes()),
        ImageFormat::Vhd,
        "vhd.overlap",
    );
    let vhdx = sample("vhdx");
    let selfish = with(&vhdx, 3 * MIB, &((3u64 << 20) | 6).to_le_bytes());
    told(&selfish, ImageFormat::Vhdx, "vhdx.overlap");
}

/// A million L1 entries of one table of a quarter million: 2^38 entries out of 34 MiB of file.
#[test]
fn a_table_named_a_million_times_does_not_cost_its_square() {
    let cluster = 2 * MIB;
    let mut bytes = vec![0; 20 * cluster];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[20..24].copy_from_slice(&21u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&(1u64 << 58).to_be_bytes());
    bytes[36..40].copy_from_slice(&(1u32 << 22).to_be_bytes());
    bytes[40..48].copy_from_slice(&(cluster as u64).to_be_bytes());
    bytes[48..56].copy_from_slice(&(18 * cluster as u64).to_be_bytes());
    bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
    bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    let l2 = (17 * cluster as u64) | 1 << 63;
    for entry in bytes[cluster..17 * cluster].chunks_exact_mut(8) {
        entry.copy_from_slice(&l2.to_be_bytes());
    }
    for entry in bytes[17 * cluster..18 * cluster].chunks_exact_mut(8) {
        entry.copy_from_slice(&((19 * cluster as u64) | 1 << 63).to_be_bytes());
    }
    told(&bytes, ImageFormat::Qcow2, "qcow2.tangled");
}

#[test]
fn zip_bombs_are_cut_off() {
    // A cluster whose stream goes on behind the cluster, one that asks for 2 GiB of window, and one that
    // never comes to an end.
    let zstd = sample("qcow2:zstd,cluster_size=4096");
    let bit = 62 - 4;
    let first_packed = (0..zstd.len() / 8)
        .map(|index| index * 8)
        .filter(|at| *at >= 4096)
        .find(|at| {
            let entry = be64(&zstd, *at);
            let place = (entry & ((1 << bit) - 1)) as usize;
            entry >> 62 == 1 && zstd.get(place..place + 4) == Some(&[0x28, 0xb5, 0x2f, 0xfd])
        })
        .unwrap();
    let place = (be64(&zstd, first_packed) & ((1 << bit) - 1)) as usize;
    let guest = {
        let l1 = be64(&zstd, 40) as usize;
        let l2 = (be64(&zstd, l1) & 0x00ff_ffff_ffff_fe00) as usize;
        ((first_packed - l2) / 8 * 4096) as u64
    };
    // Window descriptor of 2^31: refused before anything is allocated.
    let greedy = with(&zstd, place + 4, &[0x00, 0xa8]);
    unreadable(&greedy, ImageFormat::Qcow2, guest, "qcow2.compressed-data");
    told(&greedy, ImageFormat::Qcow2, "qcow2.compressed-data");
    // A frame of nothing but skippable frames gives nothing.
    let idle = with(&zstd, place, &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
    unreadable(&idle, ImageFormat::Qcow2, guest, "qcow2.compressed-data");
    // A grain of VMDK that says it is longer than the file, and one whose stream is too long.
    let stream = sample("vmdk:streamOptimized");
    let long = with(&stream, 65_536 + 8, &u32::MAX.to_le_bytes());
    unreadable(&long, ImageFormat::Vmdk, 0, "vmdk.grain-marker");
    told(&long, ImageFormat::Vmdk, "vmdk.grain-marker");
    // Many clusters of one bomb: the check stops, and says so.
    let mut bytes = zstd.clone();
    let l1 = be64(&bytes, 40) as usize;
    let l2 = (be64(&bytes, l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let bomb = be64(&bytes, first_packed);
    for entry in 0..512 {
        bytes[l2 + entry * 8..l2 + entry * 8 + 8].copy_from_slice(&bomb.to_be_bytes());
    }
    told(&bytes, ImageFormat::Qcow2, "qcow2.refcount-low");
}

/// Every prefix of a small image is an error or a disk that can be read as far as it is there.
#[test]
fn truncated_anywhere() {
    for (format, kind) in [
        ("qcow2:cluster_size=512", ImageFormat::Qcow2),
        ("qcow2:zstd,cluster_size=4096", ImageFormat::Qcow2),
        ("vhdx", ImageFormat::Vhdx),
        ("vmdk", ImageFormat::Vmdk),
        ("vmdk:streamOptimized", ImageFormat::Vmdk),
        ("vhd", ImageFormat::Vhd),
        ("vhd:fixed", ImageFormat::Vhd),
        ("vdi", ImageFormat::Vdi),
        ("parallels", ImageFormat::Parallels),
    ] {
        let bytes = sample(format);
        let (mut opened, mut refused) = (0, 0);
        let step = (bytes.len() / 60).max(1);
        let places = (0..700)
            .step_by(7)
            .chain((700..bytes.len()).step_by(step))
            .chain([bytes.len() - 1]);
        for len in places.filter(|len| *len < bytes.len()) {
            match open_bytes(&bytes[..len], kind) {
                Ok(image) => {
                    opened += 1;
                    let mut buf = vec![0; 70_000];
                    for at in (0..image.size()).step_by(65_536) {
                        let len = (image.size() - at).min(70_000) as usize;
                        let _ = image.read_at(at, &mut buf[..len]);
                        let _ = image.extent_at(at);
                    }
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.finding().is_some(), "{format}, {len}: {error}");
                }
            }
            let report = check_bytes(&bytes[..len], kind).unwrap();
            // A dynamic VHD without its footer is read by the copy; a log or padding at the end is no data.
            let whole = report.verdict() == Verdict::Clean;
            assert!(
                !whole || len + 65_536 > bytes.len(),
                "{format}, {len}: nothing is missing"
            );
        }
        println!("{format}: {opened} opened, {refused} refused");
        assert!(refused > 5, "{format}");
    }
}

/// The gate refuses whatever leads out of the folder, in every format that names files.
#[test]
fn names_that_lead_elsewhere_are_refused() {
    let dir = scratch();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let outside = |image: &Path, format: ImageFormat, name: &str| {
        let mut error = open_as(image, format, &SameFolder)
            .err()
            .unwrap_or_else(|| panic!("{name} opens"));
        while let OpenError::Below { source, .. } = error {
            error = *source;
        }
        let OpenError::Gate { source, .. } = &error else {
            panic!("{name}: {error}");
        };
        let (GateError::Outside { name: told } | GateError::Link { name: told }) = source else {
            panic!("{name}: {source}");
        };
        assert_eq!(told, name);
        // The check says the same, and does not open it either.
        let report = image_formats::check(image, Some(format), &SameFolder).unwrap();
        assert_eq!(report.verdict(), Verdict::Broken);
        assert!(
            report
                .findings
                .iter()
                .any(|finding| finding.rule.id == "image.below"),
            "{name}"
        );
    };
    std::os::unix::fs::symlink("/etc/passwd", path("link")).unwrap();
    for name in ["/etc/passwd", "../../x", "sub/x", "link", "..", "/dev/zero"] {
        let flat = path("flat.vmdk");
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
             RW 1 FLAT \"{name}\" 0\n"
        );
        std::fs::write(&flat, text).unwrap();
        outside(&flat, ImageFormat::Vmdk, name);
        let overlay = path("overlay.qcow2");
        let _ = std::fs::remove_file(&overlay);
        image_formats::output::create_overlay(&overlay, name, "raw", 1 << 20, Default::default())
            .unwrap();
        outside(&overlay, ImageFormat::Qcow2, name);
    }
}

#[test]
fn parents_in_a_circle_end_in_every_format_that_has_them() {
    let dir = scratch();
    for (image, below) in [("a", "b"), ("b", "a"), ("own", "own")] {
        let path = dir.path().join(format!("{image}.qcow2"));
        let below = format!("{below}.qcow2");
        image_formats::output::create_overlay(&path, &below, "qcow2", 1 << 20, Default::default())
            .unwrap();
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=1\nparentFileNameHint=\"{}\"\n\
             createType=\"monolithicFlat\"\nRW 1 ZERO\n",
            below.replace("qcow2", "vmdk")
        );
        std::fs::write(dir.path().join(format!("{image}.vmdk")), text).unwrap();
    }
    for name in ["a.qcow2", "own.qcow2", "a.vmdk", "own.vmdk"] {
        let mut error = open(dir.path().join(name), &SameFolder).err().unwrap();
        while let OpenError::Below { source, .. } = error {
            error = *source;
        }
        let deep = matches!(
            &error,
            OpenError::Gate {
                source: GateError::TooDeep { .. },
                ..
            }
        );
        assert!(deep, "{name}: {error}");
    }
}

/// Maps of disks of 2^60 bytes in files of a few KiB: walked in moments.
#[test]
fn huge_disks_in_small_files_are_mapped_at_once() {
    let mut qcow2 = sample("qcow2:cluster_size=2M");
    // All the L1 table its cluster holds: 64 PiB... of nothing.
    let l1 = be64(&qcow2, 40) as usize;
    let entries = (qcow2.len() - l1).min(2 * MIB) / 8;
    qcow2[36..40].copy_from_slice(&(entries as u32).to_be_bytes());
    qcow2[24..32].copy_from_slice(&((entries as u64) << 39).to_be_bytes());
    let start = Instant::now();
    if let Ok(image) = open_bytes(&qcow2, ImageFormat::Qcow2) {
        let extents = block_io::extents(&image, 0..image.size())
            .filter_map(Result::ok)
            .count();
        assert!(extents < 100_000);
    }
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\nRW {} ZERO\n",
        1u64 << 53
    );
    let image = open_bytes(text.as_bytes(), ImageFormat::Vmdk).unwrap();
    assert_eq!(image.size(), 1 << 62);
    assert_eq!(block_io::extents(&image, 0..image.size()).count(), 1);
    assert_eq!(
        check_bytes(text.as_bytes(), ImageFormat::Vmdk)
            .unwrap()
            .corruptions,
        0
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    // A directory of a million tables that are not there.
    let mut sparse = sample("vmdk");
    let directory = 4 * MIB;
    sparse.resize(directory + 4 * MIB, 0);
    sparse[56..64].copy_from_slice(&((directory / 512) as u64).to_le_bytes());
    sparse[12..20].copy_from_slice(&((MIB as u64) * 512 * 128).to_le_bytes());
    assert_eq!(le32(&sparse, 44), 512);
    let start = Instant::now();
    let image = open_bytes(&sparse, ImageFormat::Vmdk).unwrap();
    assert_eq!(block_io::extents(&image, 0..image.size()).count(), 1);
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}
