//! The image verbs as a user meets them, held against `qemu-img`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const MIB: u64 = 1 << 20;

fn p2v(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_p2v"))
        .args(args)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// `None`, said aloud, where `qemu-img` is not installed.
fn qemu_img(test: &str, args: &[&str]) -> Option<Output> {
    if !test_oracles::has_tools(test, &["qemu-img"]) {
        return None;
    }
    Some(Command::new("qemu-img").args(args).output().unwrap())
}

fn qemu_json(test: &str, verb: &str, format: &str, path: &Path) -> Option<Value> {
    let args = [
        verb,
        "--output",
        "json",
        "-f",
        format,
        path.to_str().unwrap(),
    ];
    let output = qemu_img(test, &args)?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// A raw disk with something at its start, in its middle and at its end.
fn raw_disk(dir: &Path, size: u64) -> PathBuf {
    let path = dir.join("disk.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    for (offset, len) in [(0, 70_000), (5 * MIB + 512, 200_000), (size - 512, 512)] {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8 + 1).collect();
        file.write_all_at(&bytes, offset).unwrap();
    }
    path
}

/// Every field that `qemu-img info` gives has the same value here, but for those that tell of its own
/// block layer.
fn assert_fields(theirs: &Value, ours: &Value, at: &str) {
    for (name, value) in theirs.as_object().unwrap() {
        let place = format!("{at}.{name}");
        match value {
            Value::Object(_) => assert_fields(value, &ours[name], &place),
            Value::Array(list) if name == "extents" => {
                for (index, extent) in list.iter().enumerate() {
                    assert_fields(extent, &ours[name][index], &format!("{place}[{index}]"));
                }
            }
            Value::Array(_) => assert_eq!(name, "children", "{place}"),
            _ => assert_eq!(&ours[name], value, "{place}"),
        }
    }
}

#[test]
fn info_agrees_with_qemu_img_field_by_field() {
    let test = "info_agrees_with_qemu_img_field_by_field";
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path(), 20 * MIB);
    for (format, options) in [
        ("raw", ""),
        ("qcow2", "compat=0.10"),
        ("qcow2", "compat=1.1,lazy_refcounts=on,cluster_size=4k"),
        ("qcow2", "compression_type=zstd,refcount_bits=64"),
        ("qcow2", "extended_l2=on"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vhdx", "block_size=2M"),
        ("vdi", ""),
        ("parallels", ""),
    ] {
        let image = dir.path().join("image");
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([raw.to_str().unwrap(), image.to_str().unwrap()]);
        let Some(output) = qemu_img(test, &args) else {
            return;
        };
        assert!(output.status.success(), "{format} {options}");
        let theirs = qemu_json(test, "info", format, &image).unwrap();
        let (code, text, errors) = p2v(&[
            "image",
            "info",
            "--json",
            "--from",
            format,
            image.to_str().unwrap(),
        ]);
        assert_eq!(code, 0, "{format} {options}: {errors}");
        let ours: Value = serde_json::from_str(&text).unwrap();
        assert_fields(&theirs, &ours, &format!("{format} {options}"));
        let (_, text, _) = p2v(&["image", "info", "--from", format, image.to_str().unwrap()]);
        assert!(text.contains("virtual size: 20"), "{text}");
    }
    // A chain: the names as the header gives them.
    let top = dir.path().join("top.qcow2");
    let args = [
        "create",
        "-f",
        "qcow2",
        "-b",
        "disk.raw",
        "-F",
        "raw",
        top.to_str().unwrap(),
    ];
    assert!(qemu_img(test, &args).unwrap().status.success());
    let theirs = qemu_json(test, "info", "qcow2", &top).unwrap();
    let (_, text, _) = p2v(&["image", "info", "--json", top.to_str().unwrap()]);
    assert_fields(&theirs, &serde_json::from_str(&text).unwrap(), "chain");
}

/// Which bytes are zero, as runs. What a sparse file holds in holes is zero wherever it is told.
fn zero_runs(map: &Value) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for extent in map.as_array().unwrap() {
        let (start, len) = (
            extent["start"].as_u64().unwrap(),
            extent["length"].as_u64().unwrap(),
        );
        if extent["zero"].as_bool().unwrap() {
            match runs.last_mut() {
                Some((at, run)) if *at + *run == start => *run += len,
                _ => runs.push((start, len)),
            }
        }
    }
    runs
}

#[test]
fn map_agrees_with_qemu_img() {
    let test = "map_agrees_with_qemu_img";
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path(), 20 * MIB);
    for (format, options) in [
        ("qcow2", "cluster_size=64k"),
        ("qcow2", "cluster_size=4k"),
        ("qcow2", "extended_l2=on"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
    ] {
        let image = dir.path().join("image");
        let args = [
            "convert",
            "-f",
            "raw",
            "-O",
            format,
            "-o",
            options,
            raw.to_str().unwrap(),
            image.to_str().unwrap(),
        ];
        let Some(output) = qemu_img(test, &args) else {
            return;
        };
        assert!(output.status.success());
        let theirs = qemu_json(test, "map", format, &image).unwrap();
        let (code, text, errors) = p2v(&[
            "image",
            "map",
            "--json",
            "--from",
            format,
            image.to_str().unwrap(),
        ]);
        assert_eq!(code, 0, "{errors}");
        let ours: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(zero_runs(&ours), zero_runs(&theirs), "{format} {options}");
        let mut at = 0;
        for extent in ours.as_array().unwrap() {
            assert_eq!(extent["start"].as_u64().unwrap(), at);
            at += extent["length"].as_u64().unwrap();
            assert_ne!(extent["zero"], extent["data"]);
        }
        assert_eq!(at, 20 * MIB);
    }
}

/// A loop device over a file, as root makes it; `None`, said aloud, where that is not allowed.
struct LoopDevice(String);

impl LoopDevice {
    fn over(test: &str, file: &Path) -> Option<Self> {
        if !test_oracles::has_tools(test, &["losetup"]) {
            return None;
        }
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .env("PATH", test_oracles::search_path())
            .output()
            .unwrap();
        if !made.status.success() {
            test_oracles::skip(test, "loop devices");
            return None;
        }
        Some(Self(
            String::from_utf8(made.stdout).unwrap().trim().to_owned(),
        ))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .args(["--detach", &self.0])
            .env("PATH", test_oracles::search_path())
            .status();
    }
}

#[test]
fn a_block_device_is_written_by_consent_and_never_the_source() {
    let test = "a_block_device_is_written_by_consent_and_never_the_source";
    let dir = tempfile::tempdir().unwrap();
    let disk = raw_disk(dir.path(), 20 * MIB);
    let before = std::fs::read(&disk).unwrap();
    let full = |name: &str, size: u64| {
        let path = dir.path().join(name);
        std::fs::write(&path, vec![0xee; size as usize]).unwrap();
        path
    };
    let (target, small) = (full("target", 24 * MIB), full("small", 10 * MIB));
    let Some(device) = LoopDevice::over(test, &target) else {
        return;
    };
    let (Some(short), Some(own)) = (
        LoopDevice::over(test, &small),
        LoopDevice::over(test, &disk),
    ) else {
        return;
    };
    let disk_path = disk.to_str().unwrap();
    let refused = |args: &[&str], says: &str| {
        let (code, _, errors) = p2v(args);
        assert!(code == 1 && errors.contains(says), "{args:?}: {errors}");
    };
    let onto =
        |device: &str| ["image", "convert", disk_path, "--to", "raw", device].map(String::from);
    let unasked = onto(&device.0);
    refused(&unasked.each_ref().map(String::as_str), "--force");
    let forced = |device: &str, format: &str| {
        p2v(&[
            "image", "convert", disk_path, "--from", "raw", "--force", "--to", format, device,
        ])
    };
    for (device, format, says) in [
        (&short.0, "raw", "it has 10485760 bytes"),
        (&own.0, "raw", "one medium"),
        (&device.0, "qcow2", "only raw"),
    ] {
        let (code, _, errors) = forced(device, format);
        assert!(
            code == 1 && errors.contains(says),
            "{device} {format}: {errors}"
        );
    }
    assert!(
        std::fs::read(&disk).unwrap() == before,
        "the source was written"
    );
    let untouched = std::fs::read(&target)
        .unwrap()
        .iter()
        .all(|byte| *byte == 0xee);
    assert!(untouched, "a refused device was written");

    let (code, _, errors) = forced(&device.0, "raw");
    assert_eq!(code, 0, "{errors}");
    let args = [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        disk_path,
        device.0.as_str(),
    ];
    let compared = qemu_img(test, &args).unwrap();
    // What lies behind the disk is not ours; qemu-img compares it with zeroes.
    let said = String::from_utf8_lossy(&compared.stdout);
    assert!(
        said.contains(&format!("mismatch at offset {}", 20 * MIB)),
        "{said}"
    );
    let written = std::fs::read(&target).unwrap();
    assert!(written[..20 * MIB as usize] == before[..]);
    assert!(
        written[20 * MIB as usize..]
            .iter()
            .all(|byte| *byte == 0xee)
    );
}

#[test]
fn compare_names_the_first_difference_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path(), 20 * MIB);
    let raw = raw.to_str().unwrap();
    let qcow2 = dir.path().join("disk.qcow2");
    let qcow2 = qcow2.to_str().unwrap();
    assert_eq!(
        p2v(&[
            "image", "convert", "--from", "raw", raw, "--to", "qcow2", qcow2
        ])
        .0,
        0
    );
    let compare = |first: &str, second: &str| p2v(&["image", "compare", first, second]);
    let (code, text, _) = compare(raw, qcow2);
    assert_eq!((code, text.as_str()), (0, "identical\n"));
    let other = dir.path().join("other.raw");
    std::fs::copy(raw, &other).unwrap();
    let file = std::fs::File::options().write(true).open(&other).unwrap();
    file.write_all_at(&[0xee; 3], 9 * MIB + 7).unwrap();
    file.write_all_at(&[0xee; 2], 19 * MIB).unwrap();
    let (code, text, _) = compare(qcow2, other.to_str().unwrap());
    assert_eq!(
        (code, text.as_str()),
        (2, "5 bytes differ, the first at 9437191\n")
    );
    let (code, _, errors) = compare(raw, "/nowhere");
    assert_eq!(code, 1);
    assert!(errors.contains("/nowhere"), "{errors}");
}

#[test]
fn check_tells_leaks_from_corruption_by_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_disk(dir.path(), 20 * MIB);
    let image = dir.path().join("disk.qcow2");
    let image = image.to_str().unwrap();
    assert_eq!(
        p2v(&[
            "image",
            "convert",
            raw.to_str().unwrap(),
            "--to",
            "qcow2",
            image
        ])
        .0,
        0
    );
    let (code, text, _) = p2v(&["image", "check", image]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("no errors"), "{text}");
    let sound = std::fs::read(image).unwrap();
    let l1 = u64::from_be_bytes(sound[40..48].try_into().unwrap()) as usize;
    // Without its table the clusters are lost: space, not data that the image still has.
    let mut bytes = sound.clone();
    bytes[l1..l1 + 8].fill(0);
    std::fs::write(image, &bytes).unwrap();
    let (code, text, _) = p2v(&["image", "check", image]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("leaked units"), "{text}");
    bytes = sound;
    bytes[l1 + 7] |= 1;
    std::fs::write(image, &bytes).unwrap();
    let (code, text, _) = p2v(&["image", "check", "--json", image]);
    assert_eq!(code, 2, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["corruptions"], 1);
    assert_eq!(report["findings"][0]["rule"], "qcow2.l1-entry");
    let (code, _, errors) = p2v(&["image", "check", "/nowhere"]);
    assert_eq!(code, 1, "{errors}");
}

const PROFILES: [&str; 9] = [
    "kvm",
    "esxi-import",
    "workstation",
    "hyperv-gen1",
    "hyperv-gen2",
    "azure",
    "xcp-ng",
    "virtualbox",
    "parallels",
];

/// Whatever a platform refuses, the command that is printed makes an image it takes.
#[test]
fn the_printed_command_mends_what_a_platform_refuses() {
    let dir = tempfile::tempdir().unwrap();
    // No whole MiB: Azure's rule is met by rounding.
    let raw = raw_disk(dir.path(), 24 * MIB + 512);
    let sources = [
        ("raw", "it's a disk.raw"),
        ("qcow2:zstd", "disk.qcow2"),
        ("vmdk:streamOptimized", "stream.vmdk"),
        ("vmdk", "sparse.vmdk"),
        ("vhd", "dynamic.vhd"),
        ("vhd:fixed", "fixed.vhd"),
        ("vhdx", "disk.vhdx"),
        ("vdi", "disk.vdi"),
    ];
    let bin = Path::new(env!("CARGO_BIN_EXE_p2v")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let (mut taken, mut mended) = (0, 0);
    for (format, name) in sources {
        let image = dir.path().join(name);
        let image = image.to_str().unwrap();
        let args = [
            "image",
            "convert",
            "--from",
            "raw",
            raw.to_str().unwrap(),
            "--to",
            format,
            image,
        ];
        assert_eq!(p2v(&args).0, 0, "{format}");
        let kind = match format.split(':').next().unwrap() {
            "vhd" => "vpc",
            other => other,
        };
        for profile in PROFILES {
            let (code, text, errors) = p2v(&[
                "image",
                "check",
                "--from",
                kind,
                "--profile",
                profile,
                "--json",
                image,
            ]);
            let report: Value = serde_json::from_str(&text).expect(&errors);
            if code == 0 {
                taken += 1;
                assert_eq!(report["profile"]["accepted"], true);
                continue;
            }
            assert_eq!(code, 4, "{format} for {profile}: {text}");
            assert!(!report["profile"]["findings"].as_array().unwrap().is_empty());
            let command = report["profile"]["mend"].as_str().expect("a command");
            assert!(command.starts_with("p2v image convert "), "{command}");
            let output = Command::new("sh")
                .args(["-c", command])
                .env("PATH", &path)
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command}: {errors}");
            // The shell's own parsing of the last word.
            let words = Command::new("sh")
                .args([
                    "-c",
                    &format!("set -- {command}; shift $(($# - 1)); printf %s \"$1\""),
                ])
                .output()
                .unwrap();
            let made = PathBuf::from(String::from_utf8(words.stdout).unwrap());
            let (code, text, errors) = p2v(&[
                "image",
                "check",
                "--profile",
                profile,
                made.to_str().unwrap(),
            ]);
            assert_eq!(
                code, 0,
                "{format} for {profile}, after {command}: {text}{errors}"
            );
            assert!(text.contains("would take it"), "{text}");
            mended += 1;
            match made.is_dir() {
                true => std::fs::remove_dir_all(made).unwrap(),
                false => std::fs::remove_file(made).unwrap(),
            }
        }
    }
    println!("{taken} taken as they are, {mended} mended");
    assert!(taken >= 9 && mended >= 40, "{taken} {mended}");
}

#[test]
fn what_no_conversion_mends_gets_no_command() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("huge.raw");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(2041 << 30)
        .unwrap();
    let args = [
        "image",
        "check",
        "--from",
        "raw",
        "--profile",
        "azure",
        image.to_str().unwrap(),
    ];
    let (code, text, _) = p2v(&args);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("no conversion mends that"), "{text}");
    assert!(text.contains("azure.size"), "{text}");
}
