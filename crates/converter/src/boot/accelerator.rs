//! Which accelerator really runs a guest here. `/dev/kvm` being there proves nothing: in nested set-ups it opens, and then
//! no instruction of the guest is ever executed. So it is tried, for a moment, with a boot sector that goes as far as
//! a 64-bit kernel does.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::child::{Child, command_for};

/// `probe.s`, assembled.
const BOOT_SECTOR: &[u8; 512] = include_bytes!("probe.bin");
/// What QEMU ends with when the boot sector came to its end: 0x2a * 2 + 1. [QEMU, hw/misc/debugexit.c]
const CAME_TO_ITS_END: i32 = 85;
/// It takes 0.15 s under TCG, which is the slow one.
const PATIENCE: Duration = Duration::from_secs(4);

/// How guest code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// KVM where it works, else TCG.
    Auto,
    /// The processor itself.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// An accelerator and why it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    /// Whether it is KVM.
    pub is_kvm: bool,
    /// For people.
    pub why: String,
}

impl Accelerator {
    /// For QEMU's `-accel`.
    #[must_use]
    pub fn argument(&self) -> &'static str {
        // TCG with a thread per processor aborted in QEMU 10.0.2 (`iotlb_to_section`), so all run in one.
        if self.is_kvm {
            "kvm"
        } else {
            "tcg,thread=single"
        }
    }
}

/// Take the accelerator asked for, or find out which works. Scratch files go to `scratch`.
///
/// # Errors
/// The probe could not be run at all, or KVM was asked for and does not work.
pub fn choose(choice: Choice, qemu: &Path, scratch: &Path) -> anyhow::Result<Accelerator> {
    if choice == Choice::Tcg {
        return Ok(Accelerator {
            is_kvm: false,
            why: "as asked".into(),
        });
    }
    let problem = if Path::new("/dev/kvm").exists() {
        run_probe(qemu, scratch)?
    } else {
        Some("there is no /dev/kvm".to_owned())
    };
    match (problem, choice) {
        (None, _) => Ok(Accelerator {
            is_kvm: true,
            why: "a probe ran to its end under KVM".into(),
        }),
        (Some(problem), Choice::Kvm) => anyhow::bail!("KVM was asked for, but {problem}"),
        (Some(problem), _) => Ok(Accelerator {
            is_kvm: false,
            why: format!("not KVM: {problem}"),
        }),
    }
}

/// `None` when the boot sector came to its end under KVM, else what happened.
fn run_probe(qemu: &Path, scratch: &Path) -> anyhow::Result<Option<String>> {
    let disk = scratch.join("probe.img");
    let mut file = std::fs::File::create(&disk).context("writing the KVM probe")?;
    file.write_all(BOOT_SECTOR)
        .context("writing the KVM probe")?;
    file.set_len(1 << 20).context("writing the KVM probe")?;
    let mut drive = std::ffi::OsString::from("if=none,id=d,format=raw,readonly=on,file=");
    drive.push(&disk);
    let mut command = command_for(qemu);
    command
        .args([
            "-accel",
            "kvm",
            "-machine",
            "q35",
            "-m",
            "32",
            "-nodefaults",
            "-display",
            "none",
        ])
        .args([
            "-no-user-config",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=1",
            "-drive",
        ])
        .arg(drive)
        .args(["-device", "virtio-blk-pci,drive=d"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = Child::start(command).context("starting QEMU to probe KVM")?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.exit_status().context("waiting for the KVM probe")? {
            return Ok(match status.code() {
                Some(CAME_TO_ITS_END) => None,
                _ => Some("QEMU cannot use /dev/kvm here".to_owned()),
            });
        }
        if started.elapsed() > PATIENCE {
            return Ok(Some(format!(
                "/dev/kvm opens, but a boot sector did not come to its end under it in {} s",
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_is_one() {
        assert_eq!(BOOT_SECTOR.last_chunk::<2>(), Some(&[0x55, 0xaa]));
    }

    // If the sector itself were wrong, KVM would be refused everywhere and nobody would notice: TCG must run it.
    #[test]
    fn the_boot_sector_comes_to_its_end_under_tcg() {
        let Some(qemu) = crate::boot::qemu_for_test("the_boot_sector_comes_to_its_end_under_tcg")
        else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("probe.img");
        let mut bytes = BOOT_SECTOR.to_vec();
        bytes.resize(1 << 20, 0);
        std::fs::write(&disk, bytes).unwrap();
        let status = std::process::Command::new(qemu)
            .args([
                "-accel",
                "tcg,thread=single",
                "-machine",
                "q35",
                "-m",
                "32",
                "-nodefaults",
            ])
            .args([
                "-display",
                "none",
                "-device",
                "isa-debug-exit,iobase=0xf4,iosize=1",
            ])
            .args(["-device", "virtio-blk-pci,drive=d", "-drive"])
            .arg(format!(
                "if=none,id=d,format=raw,readonly=on,file={}",
                disk.display()
            ))
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(CAME_TO_ITS_END));
    }
}
