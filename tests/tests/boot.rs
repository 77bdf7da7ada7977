//! `p2v boot` judges real guests, and the guests are what they are said to be.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::guest::{GUEST_TOOLS, SMALL, has_tools, programs};
use tests::qemu::{MARKER, report_in, serial_until};

const PATIENCE: Duration = Duration::from_secs(600);

fn p2v_boot(image: &Path, report: &Path, more: &[&str]) -> Output {
    Command::new(programs().join("p2v"))
        .arg("boot")
        .arg(image)
        .arg("--report")
        .arg(report)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("starting p2v")
}

fn said(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

fn digest(file: &Path) -> String {
    let out = Command::new("sha256sum")
        .arg(file)
        .output()
        .expect("starting sha256sum");
    assert!(out.status.success());
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .next()
        .expect("a digest")
        .to_owned()
}

fn has_qemu_and_guests(test: &str) -> bool {
    has_tools(test, GUEST_TOOLS) && has_tools(test, &["qemu-system-x86_64", "sha256sum"])
}

// The end-to-end test means something only if its input boots where it was installed, and is whole there.
#[test]
fn the_guest_is_whole_on_the_machine_it_was_installed_on() {
    if !has_qemu_and_guests("the_guest_is_whole_on_the_machine_it_was_installed_on") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let serial = serial_until(
        &SMALL.own_machine(),
        &[MARKER, "(initramfs)"],
        PATIENCE,
        scratch.path(),
    );
    let report = report_in(&serial);
    assert_eq!(report["state"], "running", "{report}");
    assert_eq!(report["failed_units"], serde_json::json!([]), "{report}");
    assert_eq!(report["mounts"]["/srv"], "/dev/sda5", "{report}");
    assert_eq!(report["links"][SMALL.nic]["mac"], SMALL.mac, "{report}");
    assert_eq!(report["data"], true, "{report}");
    assert_eq!(report["gateway"], true, "{report}");
}

#[test]
fn an_unconverted_guest_fails_by_name_on_virtio_and_its_image_is_not_touched() {
    if !has_qemu_and_guests(
        "an_unconverted_guest_fails_by_name_on_virtio_and_its_image_is_not_touched",
    ) {
        return;
    }
    let image = SMALL.disk();
    let before = digest(&image);
    let dir = tempfile::tempdir().unwrap();
    let out = p2v_boot(&image, dir.path(), &["--bus", "virtio-blk"]);
    assert_eq!(out.status.code(), Some(3), "{}", said(&out));
    assert!(said(&out).contains("initramfs-prompt"), "{}", said(&out));
    let stem = image.file_stem().unwrap().to_str().unwrap();
    let log = std::fs::read_to_string(dir.path().join(format!("{stem}.boot.log"))).unwrap();
    assert!(
        log.contains("ALERT!  /dev/sda2 does not exist.  Dropping to a shell!"),
        "{log}"
    );
    let picture = std::fs::read(dir.path().join(format!("{stem}.boot.png"))).unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n"));

    let out = p2v_boot(&image, dir.path(), &["--bus", "ahci"]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(said(&out).contains("edge01 login:"), "{}", said(&out));
    assert_eq!(digest(&image), before);
}

#[test]
fn each_way_to_end_has_its_exit_code() {
    if !has_tools(
        "each_way_to_end_has_its_exit_code",
        &["qemu-system-x86_64", "qemu-img"],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let blank = dir.path().join("blank.raw");
    std::fs::File::create(&blank)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    let code = |image: &Path, more: &[&str]| {
        let out = p2v_boot(image, dir.path(), &[&["--accel", "tcg"], more].concat());
        (out.status.code(), said(&out))
    };
    let (ended, text) = code(&blank, &[]);
    assert_eq!(ended, Some(3), "{text}");
    assert!(text.contains("no-bootable-device"), "{text}");
    // The same screen, asked for.
    let (ended, text) = code(&blank, &["--pass-on", "^Booting from Hard Disk"]);
    assert_eq!(ended, Some(0), "{text}");
    let (ended, text) = code(&blank, &["--timeout", "2"]);
    assert_eq!(ended, Some(4), "{text}");
    let (ended, text) = code(&blank, &["--qemu", "/nowhere/qemu"]);
    assert_eq!(ended, Some(5), "{text}");
    let (ended, text) = code(&dir.path().join("absent"), &[]);
    assert_eq!(ended, Some(6), "{text}");
    let (ended, text) = code(&blank, &["--format", "qcow2"]);
    assert_eq!(ended, Some(6), "{text}");
    let (ended, text) = code(&blank, &["--pass-on", "("]);
    assert_eq!(ended, Some(1), "{text}");
    let (ended, text) = code(&blank, &["--bus", "floppy"]);
    assert_eq!(ended, Some(2), "{text}");
}

#[test]
fn nothing_is_left_when_it_is_told_to_stop_or_killed() {
    if !has_tools(
        "nothing_is_left_when_it_is_told_to_stop_or_killed",
        &["qemu-system-x86_64", "setpriv"],
    ) {
        return;
    }
    for (signal, code) in [("-TERM", Some(130)), ("-INT", Some(130)), ("-KILL", None)] {
        let dir = tempfile::tempdir().unwrap();
        let blank = dir.path().join("blank.raw");
        std::fs::File::create(&blank)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        let mut child = Command::new(programs().join("p2v"))
            .args(["boot", "--accel", "tcg", "--marker", "never", "--report"])
            .arg(dir.path())
            .arg(&blank)
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let needle = dir.path().to_str().unwrap();
        let wait_for = |wanted: bool| {
            (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                has_qemu_with(needle) == wanted
            })
        };
        assert!(wait_for(true), "QEMU did not start");
        // A moment into its work, with the monitor connected.
        std::thread::sleep(Duration::from_millis(700));
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        assert!(wait_for(false), "QEMU outlives {signal}");
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("p2v-boot-"))
            .collect();
        assert!(
            signal == "-KILL" || left.is_empty(),
            "{signal} leaves {left:?}"
        );
    }
}

/// Whether a QEMU with `needle` in its arguments is running.
fn has_qemu_with(needle: &str) -> bool {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .any(|entry| {
            std::fs::read(entry.path().join("cmdline")).is_ok_and(|bytes| {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                text.contains("qemu-system")
                    && text.contains(needle)
                    && text.contains("-nodefaults")
            })
        })
}
