//! A real server whose disk is laid out anew starts from it: /boot and / grown, /srv shrunk, all but /boot moved.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::guest::{GUEST_TOOLS, WEB, has_tools, programs};
use tests::qemu::{MARKER, report_in, serial_until};

const PATIENCE: Duration = Duration::from_secs(900);

fn run(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program)
        .args(arguments)
        .env("PATH", test_oracles::search_path())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("starting {program}: {error}"));
    let said = [&out.stdout, &out.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let said = said.concat();
    assert!(out.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// First sector and sectors of each partition, by number.
fn table(image: &Path) -> Vec<(u64, u64, u64)> {
    let json: Value =
        serde_json::from_str(&run("sfdisk", &["-J", image.to_str().unwrap()])).unwrap();
    let parts = json["partitiontable"]["partitions"].as_array().unwrap();
    let number = |part: &Value| {
        let node = part["node"].as_str().unwrap();
        node[image.to_str().unwrap().len()..].parse().unwrap()
    };
    parts
        .iter()
        .map(|p| {
            (
                number(p),
                p["start"].as_u64().unwrap(),
                p["size"].as_u64().unwrap(),
            )
        })
        .collect()
}

/// A partition in a file of its own.
fn cut(image: &Path, (number, start, sectors): (u64, u64, u64), scratch: &Path) -> PathBuf {
    let file = scratch.join(format!("part{number}"));
    let arguments = [
        format!("if={}", image.display()),
        format!("of={}", file.display()),
        format!("skip={}", start * 512),
        format!("count={}", sectors * 512),
        "bs=1M".into(),
        "conv=sparse".into(),
        "iflag=skip_bytes,count_bytes".into(),
    ];
    run("dd", &arguments.each_ref().map(String::as_str));
    file
}

#[test]
fn a_server_whose_partitions_grew_shrank_and_moved_starts_on_virtio() {
    let name = "a_server_whose_partitions_grew_shrank_and_moved_starts_on_virtio";
    let tools = ["qemu-system-x86_64", "sfdisk", "e2fsck", "dumpe2fs", "dd"];
    if !has_tools(name, GUEST_TOOLS) || !has_tools(name, &tools) {
        return;
    }
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let p2v = programs().join("p2v");
    let source = WEB.disk();
    let (out, source_name) = (scratch.path().join("vms"), source.to_str().unwrap());
    let flags = [
        "--disk-size",
        "10G",
        "--grow",
        "/boot",
        "--grow",
        "/",
        "--weight",
        "/=9",
        "--shrink",
        "/srv=used+60M",
    ];
    let mut arguments = vec![
        "convert",
        source_name,
        "--from",
        "raw",
        "--to",
        "raw",
        "--name",
        WEB.host,
        "--out",
    ];
    arguments.push(out.to_str().unwrap());
    arguments.extend(flags);
    run(p2v.to_str().unwrap(), &arguments);

    let image = out.join(format!("{}-disk1.raw", WEB.host));
    assert!(run("sfdisk", &["--verify", image.to_str().unwrap()]).contains("No errors detected"));
    let (before, after) = (table(&source), table(&image));
    assert_eq!(before.len(), after.len());
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old.0, new.0, "{before:?} {after:?}");
        assert_eq!(
            old.1 == new.1,
            old.0 == 1,
            "all but the first moved: {before:?} {after:?}"
        );
    }
    let sectors = |number: u64| after.iter().find(|part| part.0 == number).unwrap().2;
    assert!(
        sectors(2) * 512 > 8 << 30 && sectors(5) * 512 < 128 << 20,
        "{after:?}"
    );
    for number in [1, 2, 5] {
        let part = *after.iter().find(|part| part.0 == number).unwrap();
        let file = cut(&image, part, scratch.path());
        run("e2fsck", &["-fn", file.to_str().unwrap()]);
        let told = run("dumpe2fs", &["-h", file.to_str().unwrap()]);
        let field = |name: &str| -> u64 {
            let line = told.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse().ok())
                .unwrap_or_else(|| panic!("{name}: {told}"))
        };
        let bytes = field("Block count:") * field("Block size:");
        assert!(
            bytes > part.2 * 512 * 99 / 100,
            "partition {number}: {bytes} of {}",
            part.2 * 512
        );
        std::fs::remove_file(file).unwrap();
    }

    let drive = format!(
        "if=none,id=disk,format=raw,snapshot=on,file={}",
        image.display()
    );
    // An image says nothing of its machine's cards: the address was made up, and is in the description.
    let described = std::fs::read(out.join(format!("{}.json", WEB.host))).unwrap();
    let described: Value = serde_json::from_slice(&described).unwrap();
    let mac = described["nics"][0]["mac"].as_str().unwrap();
    let card = format!("virtio-net-pci,netdev=net0,mac={mac}");
    let machine = [
        "-machine",
        "q35",
        "-drive",
        &drive,
        "-device",
        "virtio-blk-pci,drive=disk",
        "-netdev",
        "user,id=net0,restrict=on",
        "-device",
        &card,
    ];
    let machine: Vec<String> = machine.map(str::to_owned).into();
    let ends = [MARKER, "(initramfs)", "emergency mode", "grub rescue>"];
    let report = report_in(&serial_until(&machine, &ends, PATIENCE, scratch.path()));
    assert_eq!(report["state"], "running", "{report}");
    assert_eq!(report["failed_units"], json!([]), "{report}");
    assert_eq!(
        report["swaps"].as_array().map(Vec::len),
        Some(1),
        "{report}"
    );
    for target in ["/", "/boot", "/srv"] {
        assert!(report["mounts"][target].is_string(), "{target}: {report}");
    }
    assert_eq!(report["data"], true, "the digests of its files: {report}");
}
