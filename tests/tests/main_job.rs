//! The main job, from end to end: a server is pushed by the agent, received, converted, and starts on virtio.
//!
//! Its input boots on its own machine and not on virtio (`boot.rs` asserts both), so that a conversion that does nothing
//! fails here.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::guest::{DB, GUEST_TOOLS, Guest, WEB, has_tools, programs};
use tests::qemu::{MARKER, report_in, serial_until};

const PATIENCE: Duration = Duration::from_secs(900);

/// `p2v serve` on a port of its own; ended when dropped.
struct Converter {
    child: Child,
    connect: String,
    store: PathBuf,
}

impl Converter {
    fn start(store: PathBuf) -> Self {
        let mut child = Command::new(programs().join("p2v"))
            .args(["serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(&store)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting p2v serve");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let connect = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                Some(
                    line[line.find("p2v://")?..]
                        .split_whitespace()
                        .next()?
                        .to_owned(),
                )
            })
            .expect("p2v serve prints a connect string");
        // What it says later must not block it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self {
            child,
            connect,
            store,
        }
    }

    /// Push the disk of `guest` under its host name; the numbers of the agent's last line.
    fn push(&self, guest: &Guest, scratch: &Path) -> Value {
        let inventory = scratch.join(format!("{}.inventory.json", guest.host));
        std::fs::write(&inventory, guest.inventory()).unwrap();
        let out = Command::new(programs().join("p2v-agent"))
            .args([
                "push",
                &self.connect,
                "--name",
                guest.host,
                "--progress",
                "json",
                "--disk",
            ])
            .arg(guest.disk())
            .arg("--inventory")
            .arg(&inventory)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .expect("starting p2v-agent");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{}: {text}", out.status);
        let last = text
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .expect("a last line");
        let done: Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(done["event"], "done", "{last}");
        done
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

fn p2v(arguments: &[&str], more: &[&Path]) -> String {
    let out = Command::new(programs().join("p2v"))
        .args(arguments)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("starting p2v");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(
        out.status.success(),
        "p2v {arguments:?} {more:?}: {}\n{said}",
        out.status
    );
    said
}

fn digest(file: &Path) -> String {
    let out = Command::new("sha256sum")
        .arg(file)
        .output()
        .expect("starting sha256sum");
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .next()
        .expect("a digest")
        .to_owned()
}

/// What the issue promises of a converted guest, as the guest itself sees it.
fn assert_whole(report: &Value, guest: &Guest) {
    assert_eq!(report["host"], guest.host, "{report}");
    assert_eq!(report["state"], "running", "{report}");
    assert_eq!(report["failed_units"], json!([]), "{report}");
    for target in ["/", "/boot", "/srv"] {
        assert!(
            report["mounts"][target]
                .as_str()
                .is_some_and(|from| !from.is_empty()),
            "{target}: {report}"
        );
    }
    assert_eq!(
        report["swaps"].as_array().map(Vec::len),
        Some(1),
        "{report}"
    );
    let nic = &report["links"][guest.nic];
    assert_eq!(nic["mac"], guest.mac, "{report}");
    assert_eq!(nic["driver"], "virtio_net", "{report}");
    assert_eq!(nic["address"], "10.0.2.15/24", "{report}");
    assert_eq!(report["gateway"], true, "{report}");
    assert_eq!(report["data"], true, "{report}");
}

/// The files of `directory` with this ending.
fn files_of(directory: &Path, ending: &str) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().is_some_and(|name| name.ends_with(ending)))
        .collect()
}

/// The one file of `directory` with this ending.
fn only_file(directory: &Path, ending: &str) -> PathBuf {
    let mut found = files_of(directory, ending);
    assert_eq!(found.len(), 1, "{ending}: {found:?}");
    found.remove(0)
}

#[test]
fn two_servers_become_machines_that_start_on_virtio() {
    let name = "two_servers_become_machines_that_start_on_virtio";
    let tools = [
        "qemu-system-x86_64",
        "qemu-img",
        "virt-xml-validate",
        "sha256sum",
    ];
    if !has_tools(name, GUEST_TOOLS) || !has_tools(name, &tools) {
        return;
    }
    // Gigabytes: not in /tmp, which may be memory.
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let converter = Converter::start(scratch.path().join("store"));
    let source = digest(&WEB.disk());
    let first = converter.push(&WEB, scratch.path());
    assert_eq!(digest(&WEB.disk()), source, "the source was written");
    let listed = p2v(&["machines", "--store"], &[&converter.store]);
    assert!(listed.contains(WEB.host), "{listed}");
    let again = converter.push(&DB, scratch.path());
    assert_most_is_not_sent_again(&first, &again);

    for guest in [&WEB, &DB] {
        let out = scratch.path().join(guest.host);
        let store = converter.store.to_str().unwrap();
        p2v(
            &[
                "convert", guest.host, "--to", "qcow2", "--store", store, "--out",
            ],
            &[&out],
        );
        let image = only_file(&out, ".qcow2");
        let checked = Command::new("qemu-img")
            .arg("check")
            .arg(&image)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stdout)
        );
        let xml = only_file(&out, ".xml");
        let valid = Command::new("virt-xml-validate")
            .arg(&xml)
            .arg("domain")
            .output()
            .unwrap();
        assert!(
            valid.status.success(),
            "{}",
            String::from_utf8_lossy(&valid.stderr)
        );
        let on_virtio = "virtio-blk-pci,drive=disk";
        assert_whole(
            &start(guest, &image, "qcow2", on_virtio, scratch.path()),
            guest,
        );
    }
    // The other virtio controller needs other modules; and the program's own judge agrees.
    let image = only_file(&scratch.path().join(WEB.host), ".qcow2");
    let scsi = "scsi-hd,drive=disk,bus=scsi0.0";
    assert_whole(&start(&WEB, &image, "qcow2", scsi, scratch.path()), &WEB);
    let before = digest(&image);
    let said = p2v(
        &["boot", "--marker", MARKER],
        &[&scratch.path().join(WEB.host)],
    );
    assert!(said.contains("pass after"), "{said}");
    assert_eq!(digest(&image), before);
}

/// What the guest is converted to and starts from: as `--to` takes it, and QEMU's name. Formats that share the end
/// of their file names stand in different columns: each column is one pass.
const FORMATS: [&[(&str, &str)]; 3] = [
    &[
        ("raw", "raw"),
        ("qcow2:zstd", "qcow2"),
        ("vhdx", "vhdx"),
        ("vmdk:streamOptimized", "vmdk"),
        ("vhd", "vpc"),
        ("vdi", "vdi"),
        ("parallels", "parallels"),
    ],
    &[
        ("qcow2:zlib", "qcow2"),
        ("vhdx:fixed", "vhdx"),
        ("vmdk:monolithicSparse", "vmdk"),
        ("vhd:fixed", "vpc"),
        ("vdi:fixed", "vdi"),
    ],
    &[("vmdk:monolithicFlat", "vmdk")],
];

/// Which of the formats this run starts the guest from. A start takes a minute where there is no KVM, so it is one a
/// day: that of the number of days since 1970, modulo how many there are. `P2V_FORMAT=vhdx` names it, and with
/// `P2V_LONG=1` it is all of them.
fn formats_of_this_run() -> Vec<&'static str> {
    let all: Vec<&str> = FORMATS.concat().iter().map(|(format, _)| *format).collect();
    if let Ok(named) = std::env::var("P2V_FORMAT") {
        let found: Vec<&str> = all.iter().copied().filter(|f| *f == named).collect();
        assert!(!found.is_empty(), "P2V_FORMAT={named} is none of {all:?}");
        return found;
    }
    if std::env::var_os("P2V_LONG").is_some_and(|value| value == "1") {
        return all;
    }
    let days = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 86_400;
    vec![all[days as usize % all.len()]]
}

#[test]
fn the_server_starts_from_every_image_format() {
    let name = "the_server_starts_from_every_image_format";
    if !has_tools(name, GUEST_TOOLS) || !has_tools(name, &["qemu-system-x86_64", "qemu-img"]) {
        return;
    }
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let converter = Converter::start(scratch.path().join("store"));
    converter.push(&WEB, scratch.path());
    let store = converter.store.to_str().unwrap().to_owned();
    let wanted = formats_of_this_run();
    for (index, column) in FORMATS.iter().enumerate() {
        if !column.iter().any(|(format, _)| wanted.contains(format)) {
            continue;
        }
        let out = scratch.path().join(index.to_string());
        let mut arguments = vec!["convert", WEB.host, "--store", &store];
        for (format, _) in *column {
            arguments.extend(["--to", format]);
        }
        arguments.push("--out");
        p2v(&arguments, &[&out]);
        for (format, driver) in *column {
            // Parallels' own name for an image of its bundles is `.hds`.
            let ending = match *driver {
                "vpc" => ".vhd",
                "parallels" => ".hds",
                driver => &format!(".{driver}"),
            };
            let flat = |path: &Path| path.to_string_lossy().ends_with("-flat.vmdk");
            let image = files_of(&out, ending).into_iter().find(|path| !flat(path));
            let image = image.unwrap_or_else(|| panic!("{format}: no image"));
            assert_readable(&image, driver);
            if wanted.contains(format) {
                println!("starting from {format}");
                let on_virtio = "virtio-blk-pci,drive=disk";
                assert_whole(
                    &start(&WEB, &image, driver, on_virtio, scratch.path()),
                    &WEB,
                );
                // The program's own judge takes the image, its format told by its bytes: as far as the guest's kernel,
                // which is where the format has done its part.
                let loads = ["boot", "--pass-on", "Loading (Linux|initial ramdisk)"];
                let said = p2v(&loads, &[&image]);
                assert!(said.contains("pass after"), "{format}: {said}");
            }
        }
        std::fs::remove_dir_all(out).unwrap();
    }
}

/// Whether QEMU opens the image as what it is, and finds nothing wrong where it has a check.
fn assert_readable(image: &Path, driver: &str) {
    let verb = match driver {
        "raw" | "vpc" => "info",
        _ => "check",
    };
    let out = Command::new("qemu-img")
        .args([verb, "-f", driver])
        .arg(image)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    // 63: this kind of image has no check (a flat VMDK).
    let fine = out.status.success() || out.status.code() == Some(63);
    assert!(fine, "{}: {said}", image.display());
}

/// Start a converted image in QEMU without `p2v boot`, with the network card the source had, on a virtio one's place.
fn start(guest: &Guest, image: &Path, format: &str, disk: &str, scratch: &Path) -> Value {
    let drive = format!(
        "if=none,id=disk,format={format},snapshot=on,file={}",
        image.display()
    );
    let card = format!("virtio-net-pci,netdev=net0,mac={}", guest.mac);
    let arguments: Vec<String> = [
        "-machine",
        "q35",
        "-device",
        "virtio-scsi-pci,id=scsi0",
        "-drive",
        &drive,
        "-device",
        disk,
        "-netdev",
        "user,id=net0,restrict=on",
        "-device",
        &card,
    ]
    .map(str::to_owned)
    .into();
    report_in(&serial_until(
        &arguments,
        &[MARKER, "(initramfs)", "emergency mode"],
        PATIENCE,
        scratch,
    ))
}

/// Of what the second server has in use, at least 55 % was known from the first.
fn assert_most_is_not_sent_again(first: &Value, again: &Value) {
    let number = |line: &Value, field: &str| {
        line[field]
            .as_u64()
            .unwrap_or_else(|| panic!("{field}: {line}"))
    };
    let (known, new) = (number(again, "deduplicated"), number(again, "new"));
    assert!(
        known * 100 >= (known + new) * 55,
        "{known} bytes known, {new} new: {again}"
    );
    // A push that claims to know everything would pass that; the first had to send nearly all of its own.
    assert!(
        number(first, "deduplicated") * 2 < number(first, "read"),
        "{first}"
    );
}
