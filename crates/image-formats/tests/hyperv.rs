//! VHD and VHDX where QEMU cannot be asked: children, 4096-byte sectors and the largest sizes, held
//! against 7-Zip and libvhdi.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use block_io::{BlockRead, SectorSize, conformance};
use image_formats::{OpenError, OutputError, OutputOptions, SameFolder, StandAlone, open, output};
use support::{arg, make_disk, must, noise, scratch, write_image};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 2 << 20;

/// The checksum of a footer or dynamic header at `field`. // [VHD 1.0] Checksum
fn seal(bytes: &mut [u8], field: usize) {
    bytes[field..field + 4].fill(0);
    let sum = bytes.iter().fold(0u32, |sum, byte| sum + u32::from(*byte));
    bytes[field..field + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// A base and a child over it whose block 1 has every third sector; what the child reads as.
fn make_vhd_pair(dir: &Path) -> (PathBuf, PathBuf, Vec<u8>) {
    let raw = dir.join("source.raw");
    let size = 3 * BLOCK as u64 + 1536;
    let base_disk = make_disk(&raw, size, &[(0, size)]);
    let base = write_image(&base_disk, "vhd", &dir.join("base.vhd"));
    let mut expected = std::fs::read(raw).unwrap();
    let parent = std::fs::read(&base).unwrap();
    let mut footer = parent[..512].to_vec();
    footer[60..64].copy_from_slice(&4u32.to_be_bytes());
    footer[68] ^= 0x55;
    seal(&mut footer, 64);
    let mut header = parent[512..1536].to_vec();
    header[40..56].copy_from_slice(&parent[68..84]);
    header[56..60].copy_from_slice(&parent[24..28]);
    for (at, unit) in "base.vhd".encode_utf16().enumerate() {
        header[64 + at * 2..66 + at * 2].copy_from_slice(&unit.to_be_bytes());
    }
    let name: Vec<u8> = ".\\base.vhd"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    header[576..580].copy_from_slice(b"W2ru");
    header[580..584].copy_from_slice(&512u32.to_be_bytes());
    header[584..588].copy_from_slice(&(name.len() as u32).to_be_bytes());
    header[592..600].copy_from_slice(&2048u64.to_be_bytes());
    seal(&mut header, 36);
    let mut child = footer.clone();
    child.extend(header);
    for entry in [u32::MAX, 5, u32::MAX, u32::MAX] {
        child.extend(entry.to_be_bytes());
    }
    child.resize(2048, 0xff);
    child.extend(name);
    child.resize(2560, 0);
    let own = noise(77, BLOCK);
    let mut bitmap = vec![0u8; 512];
    for sector in (0..BLOCK / 512).step_by(3) {
        bitmap[sector / 8] |= 0x80 >> (sector % 8);
        let at = sector * 512;
        expected[BLOCK + at..BLOCK + at + 512].copy_from_slice(&own[at..at + 512]);
    }
    child.extend(bitmap);
    child.extend(own);
    child.extend(footer);
    let path = dir.join("child.vhd");
    std::fs::write(&path, child).unwrap();
    (base, path, expected)
}

#[test]
fn a_vhd_child_reads_sector_by_sector_as_7zip_reads_it() {
    let test = "a_vhd_child_reads_sector_by_sector_as_7zip_reads_it";
    let dir = scratch();
    let (base, child, expected) = make_vhd_pair(dir.path());
    let image = open(&child, &SameFolder).unwrap();
    assert_eq!(image.info().variant, "differencing");
    assert_eq!(image.info().below.as_ref().unwrap().path, base);
    conformance::check_reads(&image, &expected);
    let error = open(&child, &StandAlone).err().unwrap();
    assert!(matches!(error, OpenError::Gate { .. }), "{error}");
    let out = format!("-o{}", dir.path().join("out").display());
    if must(test, "7zz", &["x", "-tvhd", "-y", &out, arg(&child)]).is_some() {
        let mut files = std::fs::read_dir(dir.path().join("out")).unwrap();
        let theirs = std::fs::read(files.next().unwrap().unwrap().path()).unwrap();
        assert!(theirs == expected, "7-Zip reads it otherwise");
    }
    let mut bytes = std::fs::read(&base).unwrap();
    let end = bytes.len() - 512;
    for start in [0, end] {
        bytes[start + 68] ^= 1;
        seal(&mut bytes[start..start + 512], 64);
    }
    std::fs::write(&base, bytes).unwrap();
    let error = open(&child, &SameFolder).err().unwrap();
    assert_eq!(error.finding().unwrap().rule.id, "vhd.parent-changed");
}

#[test]
fn a_vhd_holds_2040_gib_and_not_a_sector_more() {
    let test = "a_vhd_holds_2040_gib_and_not_a_sector_more";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let size = 2040 << 30;
    let source = make_disk(&raw, size, &[(0, 512), (size / 2, 512), (size - 512, 512)]);
    let path = write_image(&source, "vhd", &dir.path().join("image.vhd"));
    let image = open(&path, &StandAlone).unwrap();
    assert_eq!(image.size(), size);
    let (mut left, mut right) = ([0; 512], [0; 512]);
    for at in [0, size / 2, size - 512, 512, size / 2 - 512] {
        source.read_at(at, &mut left).unwrap();
        image.read_at(at, &mut right).unwrap();
        assert_eq!(left, right, "{at}");
    }
    if let Some(text) = must(test, "vhdiinfo", &[arg(&path)]) {
        assert!(text.contains(&format!("({size} bytes)")), "{text}");
    }
    let format = "vhd".parse().unwrap();
    let create = |size| {
        output::create(
            dir.path().join("b"),
            &format,
            size,
            OutputOptions::default(),
        )
    };
    let error = create(size + 512).err().unwrap();
    assert!(matches!(error, OutputError::Unfit { .. }), "{error}");
}

#[test]
fn sizes_are_exact_whatever_a_geometry_could_say() {
    let test = "sizes_are_exact_whatever_a_geometry_could_say";
    let dir = scratch();
    for sectors in [1u64, 2047, 68_001, 1_000_003, 4_194_304] {
        let source = make_disk(&dir.path().join("raw"), sectors * 512, &[(0, 512)]);
        for format in ["vhd", "vhd:fixed", "vhd:azure"] {
            let path = write_image(&source, format, &dir.path().join("image.vhd"));
            let expected = match format {
                // A whole MiB, and the footer. // Azure, "Prepare a VHD for upload"
                "vhd:azure" => (sectors * 512).next_multiple_of(MIB),
                _ => sectors * 512,
            };
            assert_eq!(
                open(&path, &StandAlone).unwrap().size(),
                expected,
                "{format}"
            );
            if format != "vhd" {
                let len = std::fs::metadata(&path).unwrap().len();
                assert_eq!(len, expected + 512, "{format}");
            }
            let Some(text) = must(test, "qemu-img", &["info", "-f", "vpc", arg(&path)]) else {
                return;
            };
            assert!(
                text.contains(&format!("({expected} bytes)")),
                "{format}: {text}"
            );
            if let Some(text) = must(test, "vhdiinfo", &[arg(&path)]) {
                assert!(text.contains("Disk type"), "{text}");
            }
            std::fs::remove_file(path).unwrap();
        }
        std::fs::remove_file(dir.path().join("raw")).unwrap();
    }
}

#[test]
fn a_vhdx_of_4096_byte_sectors_keeps_them() {
    let test = "a_vhdx_of_4096_byte_sectors_keeps_them";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let runs = [(0, 300_000), (2 * MIB, 100), (9 * MIB, 32_768)];
    // Whole eights of sectors: 7-Zip opens no others, be they QEMU's or ours.
    let source = make_disk(&raw, 9 * MIB + 32_768, &runs);
    let expected = std::fs::read(&raw).unwrap();
    for format in [
        "vhdx:sector_size=4096",
        "vhdx:fixed,sector_size=4096,block_size=2M",
    ] {
        let path = write_image(&source, format, &dir.path().join("image.vhdx"));
        let image = open(&path, &StandAlone).unwrap();
        assert_eq!(image.sector_size(), SectorSize::B4096);
        conformance::check_reads(&image, &expected);
        if let Some(text) = must(test, "vhdiinfo", &[arg(&path)]) {
            assert!(
                text.contains(&format!("({} bytes)", expected.len())),
                "{text}"
            );
        }
        let out = dir.path().join("out");
        let argument = format!("-o{}", out.display());
        if must(test, "7zz", &["x", "-tvhdx", "-y", &argument, arg(&path)]).is_some() {
            let mut files = std::fs::read_dir(&out).unwrap();
            let theirs = std::fs::read(files.next().unwrap().unwrap().path()).unwrap();
            assert!(theirs == expected, "7-Zip reads {format} otherwise");
            std::fs::remove_dir_all(&out).unwrap();
        }
        std::fs::remove_file(path).unwrap();
    }
}
