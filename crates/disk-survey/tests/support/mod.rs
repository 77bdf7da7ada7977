//! Disks with volumes that others made: lvm2 on loop devices, or the guest of `tests/guests/volumes`.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use block_io::{BlockRead, FileDisk};

/// A file as a loop device.
pub struct Loop(pub String);

impl Loop {
    /// Attach `file`; `None`, and `test` is to end as skipped, where that is not possible.
    pub fn attach(test: &str, file: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self(
                String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            )),
            _ => {
                test_oracles::skip(test, "loop devices");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// Run a program of lvm2 without device-mapper, on `loops` only.
pub fn lvm(loops: &[&Loop], command: &str) -> String {
    let accept: Vec<String> = loops.iter().map(|l| format!("\"a|^{}$|\"", l.0)).collect();
    let config = format!(
        "devices {{ filter = [ {}, \"r|.*|\" ] use_devicesfile = 0 obtain_device_list_from_udev = 0 }} \
         backup {{ backup = 0 archive = 0 }}",
        accept.join(", ")
    );
    let mut words = command.split_whitespace();
    let program = test_oracles::find_program(words.next().unwrap()).unwrap();
    let output = Command::new(program)
        .args(["--driverloaded", "n", "--config", &config])
        .args(words)
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {text}{errors}");
    text
}

/// The disks of `tests/guests/volumes`, made now if they are not in the cache yet.
pub struct Made {
    directory: PathBuf,
    /// The lines of its report, in words.
    pub report: Vec<Vec<String>>,
    pub payload: Vec<u8>,
}

impl Made {
    pub fn get(test: &str) -> Option<Self> {
        let tools = ["lvm", "mdadm", "mke2fs", "busybox", "modprobe", "cpio"];
        if !test_oracles::has_tools(test, &[&tools[..], &["qemu-system-x86_64"]].concat()) {
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/volumes");
        let output = Command::new(script).output().unwrap();
        if output.status.code() == Some(3) {
            let needs = String::from_utf8_lossy(&output.stderr).into_owned();
            test_oracles::skip(test, needs.trim());
            return None;
        }
        assert!(output.status.success(), "{output:?}");
        let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let report = std::fs::read_to_string(directory.join("report.txt")).unwrap();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        Some(Self {
            report: report.lines().map(words).collect(),
            payload: std::fs::read(directory.join("payload.img")).unwrap(),
            directory,
        })
    }

    pub fn disk(&self, name: &str) -> FileDisk {
        FileDisk::open(self.directory.join(name)).unwrap()
    }

    /// The lines of the report that begin with `word`, without it.
    pub fn lines(&self, word: &str) -> Vec<&[String]> {
        let lines = self.report.iter().filter(|line| line[0] == word);
        lines.map(|line| &line[1..]).collect()
    }
}

/// All of a disk.
pub fn read_all(disk: &dyn BlockRead) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}
