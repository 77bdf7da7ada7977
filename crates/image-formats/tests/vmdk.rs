//! VMDK disks in several files, and those of ESX, held against QEMU and libvmdk.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use block_io::{BlockRead, conformance};
use image_formats::{GateError, OpenError, OutputError, OutputOptions, SameFolder, open, output};
use support::{arg, make_disk, must, scratch, write_image};

const MIB: u64 = 1 << 20;
const GRAIN: usize = 4096;

fn small_disk(path: &Path) -> Vec<u8> {
    let runs = [(0, 300_000), (2 * MIB, 100), (9 * MIB, 1536)];
    make_disk(path, 9 * MIB + 1536, &runs);
    std::fs::read(path).unwrap()
}

#[test]
fn every_subformat_that_qemu_writes_reads_back() {
    let test = "every_subformat_that_qemu_writes_reads_back";
    let dir = scratch();
    let (raw, image) = (dir.path().join("source.raw"), dir.path().join("image.vmdk"));
    let expected = small_disk(&raw);
    for kind in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let option = format!("subformat={kind}");
        let args = [
            "convert",
            "-O",
            "vmdk",
            "-o",
            &option,
            arg(&raw),
            arg(&image),
        ];
        if must(test, "qemu-img", &args).is_none() {
            return;
        }
        let opened = open(&image, &SameFolder).unwrap();
        assert_eq!(opened.info().variant, kind);
        conformance::check_reads(&opened, &expected);
    }
}

#[test]
fn a_disk_split_in_three_is_read_by_others_and_by_us() {
    let test = "a_disk_split_in_three_is_read_by_others_and_by_us";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let extent = 2047 * MIB;
    let size = 2 * extent + 5 * MIB + 512;
    let runs = [
        (0, 4096),
        (extent - 70_000, 140_000),
        (2 * extent - 512, 1024),
        (size - 512, 512),
    ];
    let source = make_disk(&raw, size, &runs);
    let path = write_image(
        &source,
        "vmdk:twoGbMaxExtentSparse",
        &dir.path().join("web.vmdk"),
    );
    for number in 1..=3 {
        assert!(dir.path().join(format!("web-s00{number}.vmdk")).is_file());
    }
    let image = open(&path, &SameFolder).unwrap();
    assert_eq!(
        (image.info().variant.as_str(), image.size()),
        ("twoGbMaxExtentSparse", size)
    );
    let (mut left, mut right) = (vec![0; 300_000], vec![0; 300_000]);
    for (at, _) in runs {
        let at = at.saturating_sub(100_000);
        let len = 300_000.min(size - at) as usize;
        source.read_at(at, &mut left[..len]).unwrap();
        image.read_at(at, &mut right[..len]).unwrap();
        assert!(left[..len] == right[..len], "{len} bytes at {at}");
    }
    if must(test, "qemu-img", &["check", "-f", "vmdk", arg(&path)]).is_none() {
        return;
    }
    let args = ["compare", "-f", "raw", "-F", "vmdk", arg(&raw), arg(&path)];
    let text = must(test, "qemu-img", &args).unwrap();
    assert_eq!(text.trim(), "Images are identical.");
    if let Some(text) = must(test, "vmdkinfo", &[arg(&path)]) {
        assert!(text.contains("2GB extent sparse"), "{text}");
        assert!(text.contains(&format!("({size} bytes)")), "{text}");
    }
}

#[test]
fn a_split_disk_that_is_too_large_or_unfinished_leaves_nothing() {
    let dir = scratch();
    let path = dir.path().join("web.vmdk");
    let format = "vmdk:twoGbMaxExtentSparse".parse().unwrap();
    let create = |size| output::create(&path, &format, size, OutputOptions::default());
    for size in [0, 2 << 40] {
        let error = create(size).err().unwrap();
        assert!(matches!(error, OutputError::Unfit { .. }), "{error}");
    }
    drop(create(5 << 30).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A seSparse extent of `disk` by what is known of the layout, and its descriptor. Grains for which
/// `here` is false are left out.
fn make_sesparse(dir: &Path, disk: &[u8], parent: &str, here: impl Fn(usize) -> bool) -> PathBuf {
    let tables = disk.len().div_ceil(GRAIN * 4096);
    let (directory, first_table) = (16u64, 24u64);
    let grains = first_table + tables as u64 * 64;
    let mut header = vec![0u8; 512];
    for (at, value) in [
        (0, 0xcafe_babe),
        (8, 0x2_0000_0001),
        (16, disk.len() as u64 / 512),
        (24, 8),
        (32, 64),
        (80, 1),
        (88, 1),
        (128, directory),
        (136, 8),
        (144, first_table),
        (152, tables as u64 * 64),
        (192, grains),
    ] {
        header[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
    }
    let mut file = header;
    file.extend(0xcafe_cafe_u64.to_le_bytes());
    file.resize(directory as usize * 512, 0);
    for table in 0..tables as u64 {
        file.extend((0x1000_0000_0000_0000 | table).to_le_bytes());
    }
    file.resize(first_table as usize * 512, 0);
    let mut data = Vec::new();
    for index in 0..tables * 4096 {
        let part = disk.get(index * GRAIN..).unwrap_or_default();
        let part = &part[..part.len().min(GRAIN)];
        let entry: u64 = match (here(index), part.iter().all(|byte| *byte == 0)) {
            (false, _) => 0,
            (true, true) => 0x2000_0000_0000_0000,
            (true, false) => {
                let number = (data.len() / GRAIN) as u64;
                data.extend(part);
                data.resize(data.len().next_multiple_of(GRAIN), 0);
                0x3000_0000_0000_0000 | (number & 0xfff) << 48 | number >> 12
            }
        };
        file.extend(entry.to_le_bytes());
    }
    file.extend(data);
    std::fs::write(dir.join("top-sesparse.vmdk"), file).unwrap();
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\n{parent}createType=\"seSparse\"\n\
         RW {} SESPARSE \"top-sesparse.vmdk\"\n",
        disk.len() / 512
    );
    let path = dir.join("top.vmdk");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_sesparse_extent_reads_as_qemu_reads_it() {
    let test = "a_sesparse_extent_reads_as_qemu_reads_it";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    // Three tables, of which the middle one is empty, and more than 4096 grains of data.
    let size = 33 * MIB + 8192;
    make_disk(&raw, size, &[(5000, 17 * MIB), (33 * MIB, 8192)]);
    let expected = std::fs::read(&raw).unwrap();
    let none = "parentCID=ffffffff\n";
    let path = make_sesparse(dir.path(), &expected, none, |_| true);
    let image = open(&path, &SameFolder).unwrap();
    conformance::check_reads(&image, &expected);
    let back = dir.path().join("back.raw");
    let args = ["convert", "-f", "vmdk", "-O", "raw", arg(&path), arg(&back)];
    if must(test, "qemu-img", &args).is_some() {
        assert!(
            std::fs::read(back).unwrap() == expected,
            "QEMU reads it otherwise"
        );
    }
    // QEMU takes the extent alone for a raw disk.
    let error = open(dir.path().join("top-sesparse.vmdk"), &SameFolder)
        .err()
        .unwrap();
    assert!(matches!(error, OpenError::Unsupported { .. }), "{error}");
}

#[test]
fn a_sesparse_delta_reads_through_to_its_parent() {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let base = make_disk(&raw, 20 * MIB, &[(0, 20 * MIB)]);
    let below = write_image(&base, "vmdk", &dir.path().join("base.vmdk"));
    let mut expected = std::fs::read(&raw).unwrap();
    let cid = open(below, &SameFolder)
        .unwrap()
        .info()
        .identity
        .clone()
        .unwrap();
    let parent = format!("parentCID={cid}\nparentFileNameHint=\"/vmfs/volumes/a/base.vmdk\"\n");
    let mut changed = expected.clone();
    changed[GRAIN..9 * GRAIN].fill(0xab);
    changed[9 * GRAIN..12 * GRAIN].fill(0);
    let path = make_sesparse(dir.path(), &changed, &parent, |index| {
        (1..12).contains(&index)
    });
    expected[..12 * GRAIN].copy_from_slice(&changed[..12 * GRAIN]);
    let image = open(&path, &SameFolder).unwrap();
    assert_eq!(
        image.info().below.as_ref().unwrap().variant,
        "monolithicSparse"
    );
    conformance::check_reads(&image, &expected);
}

#[test]
fn a_sesparse_extent_that_lies_is_refused_by_rule() {
    let dir = scratch();
    let disk = support::noise(7, MIB as usize);
    let path = make_sesparse(dir.path(), &disk, "", |_| true);
    let extent = dir.path().join("top-sesparse.vmdk");
    let good = std::fs::read(&extent).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= byte;
        std::fs::write(&extent, bytes).unwrap();
    };
    for (at, rule) in [
        (8, "vmdk.sesparse-header"),
        (24, "vmdk.sesparse-header"),
        (40, "vmdk.sesparse-header"),
        (86, "vmdk.sesparse-header"),
        (130, "vmdk.directory"),
        (512, "vmdk.sesparse-header"),
    ] {
        with(at, 0x80);
        let error = open(&path, &SameFolder).err().unwrap();
        assert_eq!(error.finding().unwrap().rule.id, rule, "{at}: {error}");
    }
    with(512 + 24, 1);
    let error = open(&path, &SameFolder).err().unwrap().to_string();
    assert!(error.contains("journal"), "{error}");
    // The directory's entry, a table's kind, a grain's number.
    for (at, byte) in [(16 * 512, 0x80), (24 * 512 + 7, 0x40), (24 * 512 + 3, 0x10)] {
        with(at, byte);
        let image = open(&path, &SameFolder).unwrap();
        let error = image.read_at(0, &mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), block_io::BlockErrorKind::Corrupt, "{at}");
    }
    // Cut in the directory and in a table.
    for len in [16 * 512 + 4, 24 * 512 + 4] {
        std::fs::write(&extent, &good[..len]).unwrap();
        let read = open(&path, &SameFolder).map(|image| image.read_at(0, &mut [0; 512]));
        if let Ok(read) = read {
            let error = read.unwrap_err();
            assert_eq!(error.kind(), block_io::BlockErrorKind::Corrupt, "{error}");
        }
    }
    std::fs::write(&extent, &good[..good.len() - 1]).unwrap();
    let image = open(&path, &SameFolder).unwrap();
    assert!(image.read_at(MIB - 512, &mut [0; 512]).is_err());
}

#[test]
fn a_flat_disk_of_vmfs_reads_through_its_descriptor_and_no_further() {
    let dir = scratch();
    let flat = dir.path().join("web-flat.vmdk");
    make_disk(&flat, 4 * MIB, &[(MIB, 5000)]);
    let path = dir.path().join("web.vmdk");
    let descriptor = |name: &str| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=fffffffe\n\
             parentCID=ffffffff\ncreateType=\"vmfs\"\n\nRW 8192 VMFS \"{name}\"\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    descriptor("web-flat.vmdk");
    let image = open(&path, &SameFolder).unwrap();
    assert_eq!(image.info().variant, "vmfs");
    conformance::check_reads(&image, &std::fs::read(&flat).unwrap());
    for name in ["/etc/passwd", "../../x", "[datastore] x"] {
        descriptor(name);
        let error = open(&path, &SameFolder).err().unwrap();
        let outside = matches!(
            &error,
            OpenError::Gate {
                source: GateError::Outside { .. },
                ..
            }
        );
        assert!(outside || name.starts_with('['), "{name}: {error}");
    }
}

/// A COWD extent by libvmdk's notes, with its descriptor.
#[test]
fn a_cowd_delta_reads_through_to_its_parent_as_qemu_reads_it() {
    let test = "a_cowd_delta_reads_through_to_its_parent_as_qemu_reads_it";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let base = make_disk(&raw, 4 * MIB, &[(0, 4 * MIB)]);
    let below = write_image(&base, "vmdk", &dir.path().join("base.vmdk"));
    let mut expected = std::fs::read(&raw).unwrap();
    let cid = open(below, &SameFolder)
        .unwrap()
        .info()
        .identity
        .clone()
        .unwrap();
    // Header of 4 sectors, a directory of one entry, a table of 4096, grains of one sector.
    let mut file = b"COWD".to_vec();
    for number in [1u32, 3, 8192, 1, 4, 2, 44] {
        file.extend(number.to_le_bytes());
    }
    file.resize(4 * 512, 0);
    for table in [5u32, 0] {
        file.extend(table.to_le_bytes());
    }
    file.resize(5 * 512, 0);
    let mut entries = vec![0u32; 4096];
    (entries[3], entries[9]) = (37, 38);
    for entry in entries {
        file.extend(entry.to_le_bytes());
    }
    for (sector, byte) in [(3, 0x5a), (9, 0xa5)] {
        file.extend([byte; 512]);
        expected[sector * 512..(sector + 1) * 512].fill(byte);
    }
    file.resize(file.len().next_multiple_of(65_536), 0);
    std::fs::write(dir.path().join("top-delta.vmdk"), file).unwrap();
    let path = dir.path().join("top.vmdk");
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID={cid}\ncreateType=\"vmfsSparse\"\n\
         parentFileNameHint=\"base.vmdk\"\nRW 8192 VMFSSPARSE \"top-delta.vmdk\"\n"
    );
    std::fs::write(&path, text).unwrap();
    let image = open(&path, &SameFolder).unwrap();
    conformance::check_reads(&image, &expected);
    let back = dir.path().join("back.raw");
    let args = ["convert", "-f", "vmdk", "-O", "raw", arg(&path), arg(&back)];
    if must(test, "qemu-img", &args).is_some() {
        assert!(
            std::fs::read(back).unwrap() == expected,
            "QEMU reads it otherwise"
        );
    }
    let alone = open(dir.path().join("top-delta.vmdk"), &SameFolder).unwrap();
    assert!(
        alone
            .info()
            .notes
            .iter()
            .any(|note| note.rule.id == "vmdk.alone")
    );
}
