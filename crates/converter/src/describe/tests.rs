//! The three descriptions, judged by those who will read them: libvirt's schema, the shell, QEMU.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use test_oracles::has_tools;

use super::*;

const HOSTILE: &[&str] = &[
    "web 01",
    "two\nlines\r\t",
    "../../etc/passwd",
    "\"quotes\" & <tags> 'single' ]]>",
    "$(touch owned) `touch owned` ; touch owned",
    "-rf",
    "a,b,,c=d",
    "\u{1}\u{7f}\u{fffe}",
    "服务器 ☃",
    "",
];

fn machine(name: &str) -> Machine {
    Machine {
        version: MACHINE_VERSION,
        name: name.into(),
        memory_bytes: 512 << 20,
        vcpus: 2,
        firmware: FirmwareKind::Bios,
        secure_boot: false,
        board: Board::Q35,
        clock: Clock::Utc,
        disks: vec![disk("disk0.qcow2", DiskBus::VirtioBlk)],
        nics: vec![NicDevice {
            mac: Some("00:25:90:12:34:56".into()),
            model: NicModel::Virtio,
        }],
    }
}

fn disk(file: &str, bus: DiskBus) -> DiskDevice {
    DiskDevice {
        file: file.into(),
        format: ImageFormat::Qcow2,
        bus,
    }
}

/// Every combination worth writing, with a name for the message.
fn machines() -> Vec<(String, Machine)> {
    let mut all: Vec<(String, Machine)> = HOSTILE
        .iter()
        .map(|name| (format!("name {name:?}"), machine(name)))
        .collect();
    for bus in [
        DiskBus::VirtioBlk,
        DiskBus::VirtioScsi,
        DiskBus::Ahci,
        DiskBus::Ide,
        DiskBus::Nvme,
    ] {
        for board in [Board::Q35, Board::Pc] {
            for model in [
                NicModel::Virtio,
                NicModel::E1000e,
                NicModel::E1000,
                NicModel::Rtl8139,
            ] {
                let mut m = machine("m");
                m.board = board;
                m.disks = vec![disk("a b'c\".qcow2", bus), disk("d,e&<f>.qcow2", bus)];
                m.nics = vec![
                    NicDevice { mac: None, model },
                    NicDevice {
                        mac: Some("52:54:00:AA:bb:0C".into()),
                        model,
                    },
                ];
                m.clock = Clock::Localtime;
                all.push((format!("{bus:?} on {board:?} with {model:?}"), m));
            }
        }
    }
    for secure_boot in [false, true] {
        let mut m = machine("uefi");
        m.firmware = FirmwareKind::Uefi;
        m.secure_boot = secure_boot;
        all.push((format!("UEFI, Secure Boot {secure_boot}"), m));
    }
    let mut m = machine("many");
    m.disks = (0..30)
        .map(|i| disk(&format!("{i}.qcow2"), DiskBus::VirtioScsi))
        .collect();
    all.push(("thirty disks".into(), m));
    let mut m = machine("sata");
    m.disks = (0..8)
        .map(|i| disk(&format!("{i}.qcow2"), DiskBus::Ahci))
        .collect();
    all.push(("eight SATA disks".into(), m));
    all
}

#[test]
fn libvirts_schema_accepts_every_description() {
    if !has_tools(
        "libvirts_schema_accepts_every_description",
        &["virt-xml-validate"],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (what, machine) in machines() {
        let written = write_all(&machine, dir.path(), "m").unwrap();
        let out = Command::new("virt-xml-validate")
            .arg(&written.libvirt)
            .arg("domain")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            out.status.success(),
            "{what}: {said}\n{}",
            fs::read_to_string(&written.libvirt).unwrap()
        );
    }
    // The judge can say no.
    let wrong = dir.path().join("wrong.xml");
    fs::write(
        &wrong,
        "<domain type='kvm'><name>a</name><memory>lots</memory></domain>",
    )
    .unwrap();
    let out = Command::new("virt-xml-validate")
        .arg(&wrong)
        .arg("domain")
        .output()
        .unwrap();
    assert!(!out.status.success());
}

#[test]
fn libvirt_reads_back_what_was_meant() {
    if !has_tools("libvirt_reads_back_what_was_meant", &["xmllint"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut m = machine("a & b");
    m.disks = vec![disk("it's <1> & \"2\".qcow2", DiskBus::VirtioBlk)];
    let written = write_all(&m, dir.path(), "m").unwrap();
    let ask = |xpath: &str| {
        let out = Command::new("xmllint")
            .args(["--xpath", xpath])
            .arg(&written.libvirt)
            .output()
            .unwrap();
        String::from_utf8(out.stdout)
            .unwrap()
            .trim_end_matches('\n')
            .to_owned()
    };
    let file = dir
        .path()
        .canonicalize()
        .unwrap()
        .join("it's <1> & \"2\".qcow2");
    assert_eq!(ask("string(//disk/source/@file)"), file.to_str().unwrap());
    assert_eq!(ask("string(/domain/name)"), "a & b");
    assert_eq!(ask("string(//interface/mac/@address)"), "00:25:90:12:34:56");
    assert_eq!(ask("string(//disk/target/@bus)"), "virtio");
    assert_eq!(ask("string(/domain/memory)"), (512 * 1024).to_string());
}

#[test]
fn the_script_is_shell_and_runs_nothing_out_of_a_name() {
    if !has_tools(
        "the_script_is_shell_and_runs_nothing_out_of_a_name",
        &["bash"],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // In place of QEMU, a program that prints its arguments one a line.
    let tools = dir.path().join("bin");
    fs::create_dir(&tools).unwrap();
    let fake = tools.join("qemu-system-x86_64");
    fs::write(
        &fake,
        "#!/bin/sh\nfor a in \"$@\"; do printf '%s\\0' \"$a\"; done\n",
    )
    .unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", tools.display());
    for (what, machine) in machines() {
        if machine.firmware == FirmwareKind::Uefi {
            continue;
        }
        let written = write_all(&machine, dir.path(), "m").unwrap();
        let parsed = Command::new("bash")
            .arg("-n")
            .arg(&written.script)
            .output()
            .unwrap();
        assert!(
            parsed.status.success(),
            "{what}: {}",
            String::from_utf8_lossy(&parsed.stderr)
        );
        let out = Command::new(&written.script)
            .env("PATH", &path)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{what}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let arguments: Vec<String> = String::from_utf8(out.stdout)
            .unwrap()
            .split_terminator('\0')
            .map(str::to_owned)
            .collect();
        for device in &machine.disks {
            let name = device.file.to_str().unwrap().replace(',', ",,");
            assert!(
                arguments
                    .iter()
                    .any(|a| a.ends_with(&format!("file.filename={name}"))),
                "{what}: {arguments:?}"
            );
        }
        let entries: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(entries.len(), 4, "{what} left {entries:?}");
    }
}

#[test]
fn qemu_takes_every_machine() {
    if !has_tools(
        "qemu_takes_every_machine",
        &["qemu-system-x86_64", "qemu-img"],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (what, machine) in machines() {
        // Thirty disks are the libvirt test's; the name decides nothing here that "a,b,,c=d" does not.
        if what.starts_with("name") && machine.name != "a,b,,c=d" {
            continue;
        }
        for disk in &machine.disks {
            let image = dir.path().join(&disk.file);
            if !image.exists() {
                let mut create = Command::new("qemu-img");
                create
                    .args(["create", "-q", "-f", "qcow2"])
                    .arg(&image)
                    .arg("1M");
                assert!(create.status().unwrap().success());
            }
        }
        let written = write_all(&machine, dir.path(), "m").unwrap();
        let _ = fs::remove_file(dir.path().join("m.nvram"));
        // Built, not started (-S), and ended by its monitor.
        let mut child = Command::new(&written.script)
            .args(["-S", "-display", "none"])
            .env("ACCEL", "-accel tcg")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"\x01cquit\n")
            .unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(
            out.status.success(),
            "{what}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

#[test]
fn what_was_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    for (what, machine) in machines() {
        let written = write_all(&machine, dir.path(), "m").unwrap();
        assert_eq!(read(&written.json).unwrap(), machine, "{what}");
        assert!(is_description(&written.json));
        assert!(!is_description(&written.libvirt));
    }
}

#[test]
fn a_newer_description_is_refused_by_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.json");
    fs::write(&path, r#"{"p2v_machine": 2, "name": "x", "quantum": true}"#).unwrap();
    assert!(matches!(
        read(&path),
        Err(DescribeError::Version { found: 2, .. })
    ));
    assert!(is_description(&path));
    fs::write(&path, r#"{"format": "report"}"#).unwrap();
    assert!(matches!(
        read(&path),
        Err(DescribeError::NotADescription { .. })
    ));
    fs::write(&path, vec![b' '; LONGEST as usize + 1]).unwrap();
    assert!(matches!(read(&path), Err(DescribeError::TooLong { .. })));
}

#[test]
fn machines_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let change: &[fn(&mut Machine)] = &[
        |m| m.disks.clear(),
        |m| m.disks[0].file = PathBuf::new(),
        |m| m.disks = (0..5).map(|_| disk("x", DiskBus::Ide)).collect(),
        |m| m.memory_bytes = 0,
        |m| m.vcpus = 0,
        |m| m.secure_boot = true,
        |m| m.nics[0].mac = Some("00:25:90:12:34".into()),
        |m| m.nics[0].mac = Some("01:00:5e:00:00:01".into()),
        |m| m.nics[0].mac = Some("00:25:90:12:34:56,romfile=/etc/shadow".into()),
    ];
    for (number, change) in change.iter().enumerate() {
        let mut m = machine("m");
        change(&mut m);
        let answer = write_all(&m, dir.path(), "m");
        assert!(
            matches!(answer, Err(DescribeError::Impossible { .. })),
            "case {number}"
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
