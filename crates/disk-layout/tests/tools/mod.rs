//! Foreign programs that make and read partition tables.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use block_io::{FileDiskMut, MemoryDisk, SectorSize};

pub const MIB: u64 = 1 << 20;

pub use test_oracles::has_tools as has;

/// A scratch directory with one disk image in it.
pub struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    pub fn new(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("disk"))
            .unwrap()
            .set_len(size)
            .unwrap();
        Self { dir }
    }

    pub fn of(bytes: &[u8]) -> Self {
        let image = Self::new(0);
        std::fs::write(image.path(), bytes).unwrap();
        image
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    pub fn disk(&self) -> FileDiskMut {
        FileDiskMut::open(self.path()).unwrap()
    }

    pub fn memory(&self) -> MemoryDisk {
        MemoryDisk::from(std::fs::read(self.path()).unwrap())
    }

    pub fn memory_4k(&self) -> MemoryDisk {
        self.memory().with_sector_size(SectorSize::B4096)
    }

    pub fn sfdisk(self, script: &str) -> Self {
        feed("sfdisk", &["-q", "--wipe", "never"], &self.path(), script);
        self
    }

    /// fdisk counting in sectors of 4096 bytes; the only tool that does on a file.
    pub fn fdisk_4k(self, script: &str) -> Self {
        feed(
            "fdisk",
            &["-b", "4096", "-w", "never"],
            &self.path(),
            script,
        );
        self
    }

    pub fn run(&self, tool: &str, arguments: &[&str]) -> String {
        let output = Command::new(tool)
            .args(arguments)
            .arg(self.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{tool} {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.run("sfdisk", &["-J"])).unwrap()
    }

    /// `sgdisk -v` finds nothing to say.
    pub fn assert_sgdisk_is_content(&self) {
        let said = self.run("sgdisk", &["-v"]);
        assert!(said.contains("No problems found"), "{said}");
    }

    /// `sfdisk --verify` finds nothing to say.
    pub fn assert_sfdisk_is_content(&self) {
        let said = self.run("sfdisk", &["--verify"]);
        assert!(
            said.contains("No errors detected") || said.trim().is_empty(),
            "{said}"
        );
    }
}

fn feed(tool: &str, arguments: &[&str], path: &Path, script: &str) {
    let mut child = Command::new(tool)
        .args(arguments)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(script.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{tool} {script:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Numbers without a pattern, always the same.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
