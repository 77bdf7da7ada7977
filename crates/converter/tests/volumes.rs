//! `p2v convert` of a system whose root is a logical volume over several disks, made by lvm2 and the
//! Linux kernel; judged by lvm2's own metadata, e2fsck and debugfs.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_oracles::{has_tools, search_path};

/// The disks of `tests/guests/volumes`.
fn made(test: &str) -> Option<Vec<PathBuf>> {
    let tools = [
        "lvm",
        "mdadm",
        "mke2fs",
        "busybox",
        "modprobe",
        "cpio",
        "qemu-system-x86_64",
        "e2fsck",
        "pvck",
    ];
    if !has_tools(test, &tools) {
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/volumes");
    let output = Command::new(script).output().unwrap();
    if output.status.code() == Some(3) {
        test_oracles::skip(test, String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    Some(
        (0..5)
            .map(|at| directory.join(format!("lvm{at}.img")))
            .collect(),
    )
}

fn run(program: &str, args: &[OsString]) -> String {
    let output = Command::new(program)
        .env("PATH", search_path())
        .args(args)
        .output()
        .unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program}: {text}");
    text
}

/// Where lvm2 says that volume `name` begins on its physical volume: the first extent, of 1 MiB each.
fn first_extent(disk: &Path, name: &str) -> u64 {
    let args = ["--driverloaded", "n", "--dump", "metadata"].map(OsString::from);
    let text = run("pvck", &[&args[..], &[disk.into()]].concat());
    let volume = text.split(&format!("\n{name} {{")).nth(1).unwrap();
    let stripes = volume.split("stripes = [").nth(1).unwrap();
    let extent = stripes.split([',', ']']).nth(1).unwrap();
    extent.trim().parse().unwrap()
}

#[test]
fn a_root_on_a_logical_volume_is_found_and_edited() {
    let test = "a_root_on_a_logical_volume_is_found_and_edited";
    let Some(disks) = made(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut args: Vec<OsString> = vec!["convert".into()];
    args.extend(disks.iter().map(|disk| disk.clone().into_os_string()));
    let tail: [OsString; 6] = [
        "--to".into(),
        "raw".into(),
        "--out".into(),
        out.clone().into(),
        "--name".into(),
        "lv".into(),
    ];
    args.extend(tail);
    let text = run(env!("CARGO_BIN_EXE_p2v"), &args);
    assert!(text.contains("/etc/fstab"), "{text}");
    let mut images: Vec<PathBuf> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "raw" || e == "img"))
        .collect();
    images.sort();
    assert_eq!(images.len(), 5, "{images:?}");
    // The root lies on the second disk, in one piece. LVM's own word says where.
    let start = (1 << 20) + first_extent(&images[1], "root") * (1 << 20);
    let bytes = fs::read(&images[1]).unwrap();
    let root = dir.path().join("root");
    let start = usize::try_from(start).unwrap();
    fs::write(&root, &bytes[start..start + (24 << 20)]).unwrap();
    run("e2fsck", &["-fn".into(), root.clone().into()]);
    let cat = |path: &str| {
        let command = format!("cat {path}");
        run(
            "debugfs",
            &["-R".into(), command.into(), root.clone().into()],
        )
    };
    let fstab = cat("/etc/fstab");
    assert!(fstab.contains("/dev/mapper/vg0-root / ext4"), "{fstab}");
    assert!(fstab.contains("nofail"), "{fstab}");
    assert!(
        !fs::read(&disks[1])
            .unwrap()
            .windows(6)
            .any(|w| w == b"nofail")
    );
}
