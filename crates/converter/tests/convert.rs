//! `p2v convert` as a user meets it: a small server made with sfdisk and mke2fs, judged by qemu-img,
//! e2fsck and debugfs; and what can be wrong with a source or a target.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use test_oracles::{has_tools, search_path};

const MIB: u64 = 1 << 20;
/// Where the root file system starts and how long it is.
const ROOT: (u64, u64) = (MIB, 30 * MIB);
const TOOLS: &[&str] = &["sfdisk", "mke2fs", "e2fsck", "debugfs", "qemu-img"];

type Arg<'a> = &'a dyn AsRef<OsStr>;

fn tool(program: &str, args: &[Arg]) -> Output {
    let mut command = Command::new(program);
    command
        .env("PATH", search_path())
        .args(args.iter().map(|arg| arg.as_ref()));
    command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn text_of(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    parts.concat()
}

fn run_tool(program: &str, args: &[Arg]) -> String {
    let output = tool(program, args);
    let text = text_of(&output);
    assert!(
        output.status.success(),
        "{program}: {}\n{text}",
        output.status
    );
    text
}

/// Run p2v; its exit code and what it printed.
fn p2v(args: &[Arg]) -> (i32, String) {
    let output = tool(env!("CARGO_BIN_EXE_p2v"), args);
    (output.status.code().unwrap_or(-1), text_of(&output))
}

/// A server's disk: one ext4 partition with the files that make it a Debian, /dev/sda1 in its fstab.
fn server(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for sub in ["etc", "sbin", "usr/lib", "boot/grub", "var", "srv"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    let files = [
        (
            "etc/os-release",
            "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
        ),
        ("etc/fstab", "/dev/sda1 / ext4 errors=remount-ro 0 1\n"),
        ("sbin/init", "#!/bin/sh\n"),
        (
            "boot/grub/grub.cfg",
            "menuentry 'Debian' {\n linux /boot/vmlinuz root=/dev/sda1 ro\n}\n",
        ),
        ("table", "label: dos\n2048,61440,L,*\n"),
    ];
    for (name, contents) in files {
        fs::write(root.join(name), contents).unwrap();
    }
    fs::write(root.join("srv/payroll"), vec![0x5a; 300_000]).unwrap();
    let disk = dir.join("server.img");
    fs::File::create(&disk).unwrap().set_len(32 * MIB).unwrap();
    let sfdisk = format!(
        "sfdisk -q {} < {}",
        disk.display(),
        root.join("table").display()
    );
    run_tool("sh", &[&"-c", &sfdisk]);
    let offset = format!("offset={}", ROOT.0);
    let make = ["-q", "-t", "ext4", "-F", "-b", "1024", "-E", &offset, "-d"];
    let mut args: Vec<Arg> = make.iter().map(|arg| arg as Arg).collect();
    args.extend([&root as Arg, &disk, &"30M"]);
    run_tool("mke2fs", &args);
    disk
}

fn digest(path: &Path) -> String {
    run_tool("sha256sum", &[&path])
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

/// The root file system inside an image, as a raw file.
fn root_of(image: &Path, dir: &Path) -> PathBuf {
    let (raw, root) = (dir.join("converted.raw"), dir.join("converted.ext4"));
    run_tool("qemu-img", &[&"convert", &"-O", &"raw", &image, &raw]);
    let bytes = fs::read(raw).unwrap();
    fs::write(&root, &bytes[ROOT.0 as usize..(ROOT.0 + ROOT.1) as usize]).unwrap();
    root
}

#[test]
fn a_server_is_converted_and_its_source_stays_as_it_was() {
    if !has_tools("a_server_is_converted", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let before = digest(&disk);
    let out = dir.path().join("vms");
    let (code, text) = p2v(&[&"convert", &disk, &"--out", &out, &"--name", &"web01"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(digest(&disk), before, "the source was written");
    let image = out.join("web01-disk1.qcow2");
    run_tool("qemu-img", &[&"check", &image]);
    let root = root_of(&image, dir.path());
    run_tool("e2fsck", &[&"-fn", &root]);
    let fstab = run_tool("debugfs", &[&"-R", &"cat /etc/fstab", &root]);
    assert!(
        fstab.contains("UUID=") && !fstab.contains("/dev/sda1"),
        "{fstab}"
    );
    let report = fs::read(out.join("web01-report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert!(
        report["edits"]
            .as_array()
            .is_some_and(|edits| !edits.is_empty()),
        "{report}"
    );
    for file in ["web01.json", "web01.xml", "web01.sh"] {
        assert!(out.join(file).exists(), "{file}");
    }
    if has_tools("the libvirt description is valid", &["virt-xml-validate"]) {
        run_tool("virt-xml-validate", &[&out.join("web01.xml"), &"domain"]);
    }
}

#[test]
fn compressed_and_raw_come_from_one_run_and_hold_the_same() {
    if !has_tools("compressed_and_raw", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let out = dir.path().join("vms");
    let (code, text) = p2v(&[
        &"convert",
        &disk,
        &"--to",
        &"qcow2:zstd",
        &"--to",
        &"raw",
        &"--out",
        &out,
    ]);
    assert_eq!(code, 0, "{text}");
    let (zstd, raw) = (out.join("server-disk1.qcow2"), out.join("server-disk1.raw"));
    run_tool("qemu-img", &[&"check", &zstd]);
    run_tool("qemu-img", &[&"compare", &zstd, &raw]);
}

#[test]
fn converting_what_was_converted_changes_nothing() {
    if !has_tools("converting_twice", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    let (code, text) = p2v(&[&"convert", &disk, &"--to", &"raw", &"--out", &first]);
    assert_eq!(code, 0, "{text}");
    let once = first.join("server-disk1.raw");
    let (code, text) = p2v(&[
        &"convert", &once, &"--to", &"raw", &"--out", &second, &"--name", &"server",
    ]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        digest(&once),
        digest(&second.join("server-disk1.raw")),
        "{text}"
    );
}

#[test]
fn a_dry_run_shows_the_changes_and_writes_nothing() {
    if !has_tools("a_dry_run", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let before = digest(&disk);
    let out = dir.path().join("vms");
    let (code, text) = p2v(&[&"convert", &disk, &"--out", &out, &"--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("-/dev/sda1 / ext4") && text.contains("+UUID="),
        "{text}"
    );
    assert!(!out.exists() && digest(&disk) == before);
}

#[test]
fn an_output_that_exists_is_kept_unless_forced() {
    if !has_tools("an_output_that_exists", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let out = dir.path().join("vms");
    fs::create_dir(&out).unwrap();
    let image = out.join("server-disk1.qcow2");
    fs::write(&image, "precious").unwrap();
    let (code, text) = p2v(&[&"convert", &disk, &"--out", &out]);
    assert!(
        code == 1 && text.contains("exists") && text.contains("--force"),
        "{code} {text}"
    );
    assert_eq!(fs::read(&image).unwrap(), b"precious");
    let (code, text) = p2v(&[&"convert", &disk, &"--out", &out, &"--force"]);
    assert_eq!(code, 0, "{text}");
    run_tool("qemu-img", &[&"check", &image]);
}

#[test]
fn a_hostile_name_stays_in_the_output_directory() {
    if !has_tools("a_hostile_name", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let out = dir.path().join("a/vms");
    let name = "../../$(touch x)\n\"&<' web";
    let (code, text) = p2v(&[&"convert", &disk, &"--out", &out, &"--name", &name]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    for entry in fs::read_dir(&out).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(file.starts_with("_._.._"), "{file}");
    }
}

/// Convert `disk`, which must fail and leave no file; the message.
fn refusal(dir: &Path, disk: &Path) -> String {
    let out = dir.join("vms");
    let (code, text) = p2v(&[&"convert", &disk, &"--out", &out]);
    assert_eq!(code, 1, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let left = fs::read_dir(&out).map(Iterator::count).unwrap_or(0);
    assert_eq!(left, 0, "files were left behind: {text}");
    text
}

fn noise(len: u64) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

#[test]
fn a_blank_disk_is_named() {
    let dir = TempDir::new().unwrap();
    let disk = dir.path().join("blank.img");
    fs::File::create(&disk).unwrap().set_len(8 * MIB).unwrap();
    let text = refusal(dir.path(), &disk);
    assert!(
        text.contains("no operating system found: blank disk"),
        "{text}"
    );
}

#[test]
fn a_disk_of_noise_without_a_table_holds_no_system() {
    let dir = TempDir::new().unwrap();
    let disk = dir.path().join("noise.img");
    fs::write(&disk, noise(MIB)).unwrap();
    let text = refusal(dir.path(), &disk);
    assert!(
        text.contains("no operating system found") && text.contains("--as-is"),
        "{text}"
    );
}

#[test]
fn an_empty_file_a_missing_one_and_a_directory_are_errors() {
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    assert!(refusal(dir.path(), &empty).contains("is empty"));
    assert!(refusal(dir.path(), &dir.path().join("none")).contains("opening"));
    assert!(refusal(dir.path(), dir.path()).contains("neither a regular file nor a block device"));
}

#[test]
fn an_image_of_any_format_is_converted_as_the_disk_it_holds() {
    if !has_tools("an_image_of_any_format", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    for format in ["qcow2", "vmdk", "vhdx", "vdi", "parallels", "vpc"] {
        let image = dir.path().join("old.img");
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"convert", &"-O", &format];
        if format == "vpc" {
            args.extend([
                &"-o" as &dyn AsRef<std::ffi::OsStr>,
                &"subformat=fixed,force_size",
            ]);
        }
        args.extend([&disk as &dyn AsRef<std::ffi::OsStr>, &image]);
        run_tool("qemu-img", &args);
        let out = dir.path().join(format);
        let (code, text) = p2v(&[
            &"convert", &image, &"--as-is", &"--to", &"raw", &"--out", &out,
        ]);
        assert_eq!(code, 0, "{format}: {text}");
        assert!(text.contains(&format!("taken for {format}")), "{text}");
        run_tool(
            "qemu-img",
            &[
                &"compare",
                &"-f",
                &"raw",
                &"-F",
                &"raw",
                &disk,
                &out.join("old-disk1.raw"),
            ],
        );
        // Changed by way of the image, not only copied.
        if format == "qcow2" {
            let (code, text) = p2v(&[&"convert", &image, &"--from", &format, &"--dry-run"]);
            assert_eq!(code, 0, "{text}");
            assert!(
                text.contains("+UUID=") && !text.contains("taken for"),
                "{text}"
            );
            // What the user names is never replaced by a guess: as raw it is no system.
            let (code, text) = p2v(&[&"convert", &image, &"--from", &"raw", &"--dry-run"]);
            assert!(code == 1 && text.contains("no operating system"), "{text}");
        }
    }
}

#[test]
fn an_image_below_that_lies_elsewhere_is_refused() {
    if !has_tools("an_image_below_that_lies_elsewhere", &["qemu-img"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = dir.path().join("disk.qcow2");
    run_tool(
        "qemu-img",
        &[
            &"create",
            &"-q",
            &"-u",
            &"-f",
            &"qcow2",
            &"-b",
            &"/etc/passwd",
            &"-F",
            &"raw",
            &disk,
            &"16M",
        ],
    );
    let text = refusal(dir.path(), &disk);
    assert!(
        text.contains("not a file in the folder of the image"),
        "{text}"
    );
}

/// Change two bytes of the superblock of [`server`]'s root.
fn patch_superblock(disk: &Path, field: u64, bytes: [u8; 2]) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(disk).unwrap();
    file.write_all_at(&bytes, ROOT.0 + 1024 + field).unwrap();
}

#[test]
fn an_unknown_ext4_feature_is_named_with_its_partition() {
    if !has_tools("an_unknown_ext4_feature", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    let at = format!("{}?offset={}", disk.display(), ROOT.0);
    run_tool("debugfs", &[&"-w", &"-R", &"feature FEATURE_I31", &at]);
    let text = refusal(dir.path(), &disk);
    assert!(
        text.contains("partition 1") && text.contains("feature"),
        "{text}"
    );
}

#[test]
fn a_corrupted_superblock_is_an_error_that_says_where() {
    if !has_tools("a_corrupted_superblock", TOOLS) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let disk = server(dir.path());
    // s_log_block_size
    patch_superblock(&disk, 0x18, [0xff, 0xff]);
    let text = refusal(dir.path(), &disk);
    assert!(text.contains("partition 1"), "{text}");
    let out = dir.path().join("vms");
    let (code, text) = p2v(&[&"convert", &disk, &"--as-is", &"--out", &out]);
    assert_eq!(code, 0, "a raw copy is still possible: {text}");
    run_tool(
        "qemu-img",
        &[&"compare", &disk, &out.join("server-disk1.qcow2")],
    );
}

#[test]
fn a_full_target_leaves_no_image_and_says_so() {
    let test = "a_full_target_leaves_no_image_and_says_so";
    if !has_tools(test, &["unshare", "mount"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let big = dir.path().join("big.img");
    fs::write(&big, noise(20 * MIB)).unwrap();
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=4M tmpfs {small} || exit 77; \
         {p2v} convert --as-is {big} --out {small}/vms; echo code $?; ls {small}/vms",
        p2v = env!("CARGO_BIN_EXE_p2v"),
        small = small.display(),
        big = big.display(),
    );
    let output = tool(
        "unshare",
        &[&"--mount", &"--map-root-user", &"sh", &"-c", &script],
    );
    let text = text_of(&output);
    if output.status.code() == Some(77) || text.contains("Operation not permitted") {
        test_oracles::skip(test, "user and mount namespaces");
        return;
    }
    assert!(
        text.contains("code 1") && text.contains("no space left"),
        "{text}"
    );
    assert!(
        !String::from_utf8_lossy(&output.stdout).contains("big-disk1"),
        "{text}"
    );
}
