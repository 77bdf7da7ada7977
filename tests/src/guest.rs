//! Guests built by script, and the programs under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the checkout.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_owned()
}

pub use test_oracles::has_tools;

/// What [`Guest::disk`] needs.
pub const GUEST_TOOLS: &[&str] = &[
    "mmdebstrap",
    "mke2fs",
    "sfdisk",
    "mkswap",
    "grub-mkimage",
    "tar",
    "perl",
];

/// A guest of `tests/guests/debian12-bios-ext4`, which says what it is made of.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    variant: &'static str,
    /// Its host name.
    pub host: &'static str,
    /// Its network card's name.
    pub nic: &'static str,
    /// And address.
    pub mac: &'static str,
}

/// 4 GiB, a web server with a static address.
pub const WEB: Guest = Guest {
    variant: "web",
    host: "web01",
    nic: "enp3s0",
    mac: "00:25:90:12:34:56",
};
/// 4 GiB, a database server made apart from [`WEB`], with DHCP.
pub const DB: Guest = Guest {
    variant: "db",
    host: "db01",
    nic: "eno1",
    mac: "00:25:90:ab:cd:ef",
};
/// 1.5 GiB, little more than a kernel and systemd.
pub const SMALL: Guest = Guest {
    variant: "small",
    host: "edge01",
    nic: "enp3s0",
    mac: "00:25:90:00:00:0e",
};

impl Guest {
    /// Its disk, a raw image in the cache. Not to be written: copy it first.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        PathBuf::from(self.script(&[]))
    }

    /// What `p2v-agent inventory --json` says on the machine it was installed on.
    ///
    /// # Panics
    /// When the script fails.
    #[must_use]
    pub fn inventory(&self) -> String {
        self.script(&["--inventory"])
    }

    /// QEMU's arguments for the machine it was installed on, its disk on AHCI included.
    ///
    /// # Panics
    /// When the script fails.
    #[must_use]
    pub fn own_machine(&self) -> Vec<String> {
        let disk = format!(
            "if=none,id=disk,format=raw,snapshot=on,file={}",
            self.disk().display()
        );
        let machine = self.script(&["--machine"]);
        let words = machine.split_whitespace().map(str::to_owned);
        words
            .chain([
                "-drive".into(),
                disk,
                "-device".into(),
                "ide-hd,drive=disk,bus=ide.0".into(),
            ])
            .collect()
    }

    fn script(&self, more: &[&str]) -> String {
        let script = workspace().join("tests/guests/debian12-bios-ext4");
        let out = Command::new(&script)
            .args(["--variant", self.variant])
            .args(more)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .expect("starting the guest's script");
        assert!(
            out.status.success(),
            "{} {}: {}",
            script.display(),
            self.variant,
            out.status
        );
        String::from_utf8(out.stdout)
            .expect("a path in UTF-8")
            .trim()
            .to_owned()
    }
}

/// The directory with `p2v` and `p2v-agent`, built for release: they read and hash whole disks. `P2V_PROGRAMS` in the
/// environment names one where they are built already.
///
/// # Panics
/// When they do not build.
#[must_use]
pub fn programs() -> PathBuf {
    if let Some(directory) = std::env::var_os("P2V_PROGRAMS") {
        return directory.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--bin",
            "p2v",
            "--bin",
            "p2v-agent",
        ])
        .current_dir(workspace())
        .status()
        .expect("starting cargo");
    assert!(built.success(), "p2v and p2v-agent do not build");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("release")
}
