//! Parallels images and bundles, held against QEMU, which reads the images and not the bundles.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use block_io::{BlockRead, conformance};
use image_formats::{
    GateError, OpenError, OutputError, OutputOptions, SameFolder, StandAlone, open, output,
};
use support::{arg, make_disk, must, scratch, write_image};

const MIB: u64 = 1 << 20;
const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
const NIL: &str = "{00000000-0000-0000-0000-000000000000}";

#[test]
fn what_qemu_writes_reads_back() {
    let test = "what_qemu_writes_reads_back";
    let dir = scratch();
    let (raw, image) = (dir.path().join("source.raw"), dir.path().join("image"));
    let runs = [(0, 300_000), (2 * MIB, 100), (9 * MIB + 1024, 512)];
    make_disk(&raw, 9 * MIB + 1536, &runs);
    let mut expected = std::fs::read(&raw).unwrap();
    for options in ["cluster_size=1M", "cluster_size=64K", "cluster_size=32256"] {
        let args = [
            "convert",
            "-O",
            "parallels",
            "-o",
            options,
            arg(&raw),
            arg(&image),
        ];
        let Some((written, text)) = support::run(test, "qemu-img", &args) else {
            return;
        };
        if !written && options.contains("32256") {
            println!("{options}: {text}");
            continue;
        }
        assert!(written, "{text}");
        let opened = open(&image, &SameFolder).unwrap();
        assert_eq!(opened.info().format.qemu_name(), "parallels");
        // QEMU rounds the size of the disk up to whole clusters of its geometry.
        expected.resize(opened.size() as usize, 0);
        conformance::check_reads(&opened, &expected);
    }
}

fn hds_of(bundle: &Path) -> PathBuf {
    let name = bundle.file_name().unwrap().to_str().unwrap();
    bundle.join(format!("{name}.0.{TOP}.hds"))
}

#[test]
fn a_bundle_reads_back_and_qemu_reads_the_image_in_it() {
    let test = "a_bundle_reads_back_and_qemu_reads_the_image_in_it";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let runs = [(0, 300_000), (2 * MIB, 100), (9 * MIB + 1024, 512)];
    let source = make_disk(&raw, 9 * MIB + 1536, &runs);
    let expected = std::fs::read(&raw).unwrap();
    for (format, driver) in [("parallels", "parallels"), ("parallels:plain", "raw")] {
        let bundle = dir.path().join("my disk & more.hdd");
        let path = write_image(&source, format, &bundle);
        assert_eq!(path, bundle);
        for path in [bundle.clone(), bundle.join("DiskDescriptor.xml")] {
            let opened = open(&path, &SameFolder).unwrap();
            assert_eq!(opened.info().format.qemu_name(), "parallels");
            assert!(opened.info().variant.ends_with("bundle"));
            conformance::check_reads(&opened, &expected);
        }
        let hds = hds_of(&bundle);
        let args = ["compare", "-f", "raw", "-F", driver, arg(&raw), arg(&hds)];
        let Some(text) = must(test, "qemu-img", &args) else {
            return;
        };
        assert_eq!(text.trim(), "Images are identical.");
        let error = open(&bundle, &StandAlone).err().unwrap();
        assert!(matches!(error, OpenError::Gate { .. }), "{error}");
        std::fs::remove_dir_all(bundle).unwrap();
    }
}

#[test]
fn an_unfinished_bundle_leaves_nothing_and_one_that_is_there_stays() {
    let dir = scratch();
    let path = dir.path().join("disk.hdd");
    let format = "parallels".parse().unwrap();
    let sink = output::create(&path, &format, MIB, OutputOptions::default()).unwrap();
    assert!(path.is_dir());
    drop(sink);
    assert!(!path.exists());
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("DiskDescriptor.xml"), "mine").unwrap();
    let error = output::create(&path, &format, MIB, OutputOptions::default())
        .err()
        .unwrap();
    assert!(matches!(error, OutputError::Exists { .. }), "{error}");
    let kept = std::fs::read(path.join("DiskDescriptor.xml")).unwrap();
    assert_eq!(kept, b"mine");
}

/// A bundle made by hand: a plain root below two expanding images that QEMU wrote.
fn make_snapshots(test: &str, dir: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let bundle = dir.join("disk.hdd");
    std::fs::create_dir(&bundle).unwrap();
    let root = bundle.join("root.hds");
    make_disk(&root, 4 * MIB, &[(0, 4 * MIB)]);
    let mut expected = std::fs::read(&root).unwrap();
    let layers = [("mid.hds", 1, 0x11u8), ("top.hds", 2, 0x22)];
    for (name, cluster, byte) in layers {
        let path = bundle.join(name);
        let size = (4 * MIB).to_string();
        let args = ["create", "-f", "parallels", arg(&path), &size];
        must(test, "qemu-img", &args)?;
        let command = format!("write -P {byte} {cluster}M 2M");
        must(
            test,
            "qemu-io",
            &["-f", "parallels", "-c", &command, arg(&path)],
        )?;
        let start = (cluster * MIB) as usize;
        expected[start..start + 2 * MIB as usize].fill(byte);
    }
    let mid = "{11111111-2222-3333-4444-555555555555}";
    let base = "{aaaaaaaa-2222-3333-4444-555555555555}";
    let image = |id: &str, kind: &str, file: &str| {
        format!("<Image><GUID>{id}</GUID><Type>{kind}</Type><File>{file}</File></Image>")
    };
    let shot = |id: &str, parent: &str| {
        format!("<Shot><GUID>{id}</GUID><ParentGUID>{parent}</ParentGUID></Shot>")
    };
    let text = format!(
        "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\">\
         <Disk_Parameters><Disk_size>8192</Disk_size><Padding>0</Padding></Disk_Parameters>\
         <StorageData><Storage><Start>0</Start><End>8192</End><Blocksize>2048</Blocksize>{}{}{}\
         </Storage></StorageData><Snapshots>{}{}{}</Snapshots></Parallels_disk_image>\n",
        image(TOP, "Compressed", "top.hds"),
        image(base, "Plain", "root.hds"),
        image(mid, "Compressed", "mid.hds"),
        shot(base, NIL),
        shot(mid, base),
        shot(TOP, mid),
    );
    std::fs::write(bundle.join("DiskDescriptor.xml"), text).unwrap();
    Some((bundle, expected))
}

#[test]
fn snapshots_read_through_to_the_root() {
    let test = "snapshots_read_through_to_the_root";
    let dir = scratch();
    let Some((bundle, expected)) = make_snapshots(test, dir.path()) else {
        return;
    };
    let image = open(&bundle, &SameFolder).unwrap();
    conformance::check_reads(&image, &expected);
    let mid = image.info().below.as_ref().unwrap();
    assert_eq!(mid.below.as_ref().unwrap().variant, "plain");
    // Alone the top image would read as zeroes where the others have data.
    let error = open(bundle.join("top.hds"), &SameFolder).err().unwrap();
    assert!(matches!(error, OpenError::Unsupported { .. }), "{error}");
}

#[test]
fn names_that_lead_out_of_the_bundle_are_refused() {
    let test = "names_that_lead_out_of_the_bundle_are_refused";
    let dir = scratch();
    let Some((bundle, _)) = make_snapshots(test, dir.path()) else {
        return;
    };
    let descriptor = bundle.join("DiskDescriptor.xml");
    let good = std::fs::read_to_string(&descriptor).unwrap();
    for name in ["/etc/passwd", "../../x", "..\\x"] {
        std::fs::write(&descriptor, good.replace("root.hds", name)).unwrap();
        let error = open(&bundle, &SameFolder).err().unwrap();
        assert!(
            matches!(
                &error,
                OpenError::Gate {
                    source: GateError::Outside { .. },
                    ..
                }
            ),
            "{name}: {error}"
        );
    }
    std::fs::write(&descriptor, good.replace("8192", "4096")).unwrap();
    let error = open(&bundle, &SameFolder).err().unwrap();
    let rule = error.finding().unwrap().rule.id;
    assert_eq!(rule, "parallels-bundle.image-size");
}

#[test]
fn a_split_disk_reads_as_one() {
    let test = "a_split_disk_reads_as_one";
    let dir = scratch();
    let Some((bundle, _)) = make_snapshots(test, dir.path()) else {
        return;
    };
    let part = |start: u64, file: &str| {
        let end = start + 8192;
        format!(
            "<Storage><Start>{start}</Start><End>{end}</End><Blocksize>2048</Blocksize><Image>\
             <GUID>{TOP}</GUID><Type>Plain</Type><File>{file}</File></Image></Storage>"
        )
    };
    let second = bundle.join("second.hds");
    make_disk(&second, 4 * MIB, &[(MIB, 5000)]);
    let text = format!(
        "<Parallels_disk_image Version=\"1.0\"><Disk_Parameters><Disk_size>16384</Disk_size>\
         </Disk_Parameters><StorageData>{}{}</StorageData></Parallels_disk_image>",
        part(0, "root.hds"),
        part(8192, "second.hds"),
    );
    std::fs::write(bundle.join("DiskDescriptor.xml"), text).unwrap();
    let mut expected = std::fs::read(bundle.join("root.hds")).unwrap();
    expected.extend(std::fs::read(second).unwrap());
    let image = open(&bundle, &SameFolder).unwrap();
    assert_eq!(image.info().variant, "plain, bundle of 2 parts");
    conformance::check_reads(&image, &expected);
}

#[test]
fn damage_is_told_by_rule() {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let source = make_disk(&raw, 5 * MIB, &[(0, 100), (2 * MIB, 100), (4 * MIB, 100)]);
    let bundle = write_image(&source, "parallels", &dir.path().join("image.hdd"));
    let hds = hds_of(&bundle);
    let good = std::fs::read(&hds).unwrap();
    let check = |path: &Path| image_formats::check(path, None, &SameFolder).unwrap();
    for path in [&bundle, &hds] {
        let report = check(path);
        let clean = image_formats::Verdict::Clean;
        assert_eq!(report.verdict(), clean, "{report:#?}");
        let units = (report.total_units, report.allocated_units);
        assert_eq!(units, (Some(5), Some(3)));
    }
    for (rule, at, value) in [
        ("parallels.cluster-shared", 64, 2u32),
        ("parallels.cluster-place", 64, 77),
        ("parallels.in-use", 44, 0x746F_6E59),
        ("parallels.data-offset", 48, 1),
        ("parallels.flags", 52, 1),
        ("parallels.leak", 64, 0),
        ("parallels.bat-entries", 32, 6),
        ("parallels.bat-entries", 32, u32::MAX),
        ("parallels.cluster-size", 28, u32::MAX),
        ("parallels.sectors", 40, u32::MAX),
        ("parallels.version", 16, 3),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&hds, bytes).unwrap();
        for path in [&bundle, &hds] {
            let report = check(path);
            let told: Vec<_> = report.findings.iter().map(|found| found.rule.id).collect();
            assert!(told.contains(&rule), "{rule}: {told:?}");
        }
    }
}
