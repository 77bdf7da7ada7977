//! A running QEMU: started from a description, watched, and ended with its owner.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use stream_protocol::inventory::FirmwareKind;

use super::accelerator::Accelerator;
use super::child::{Child, command_for};
use super::qmp::{Event, Monitor};
use super::screen::{self, Screen};
use super::target::BootTarget;
use crate::describe::qemu;

/// How long QEMU may take to open its monitor.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most of what QEMU says on standard error that is kept.
const MOST_ERROR_TEXT: u64 = 16 << 10;

/// How to run a machine.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The QEMU program.
    pub program: &'a Path,
    /// How guest code is run.
    pub accelerator: &'a Accelerator,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processors.
    pub vcpus: u32,
    /// Whether the network cards have a cable: to a network with nobody on it but a DHCP server.
    pub has_network: bool,
    /// For the overlay of the disks, sockets and pictures.
    pub scratch: &'a Path,
}

/// QEMU at work. Dropped, it is ended.
#[derive(Debug)]
pub struct Running {
    // Dropped first: then the pipe of the serial line ends, and its thread with it.
    child: Child,
    monitor: Monitor,
    serial: Receiver<Vec<u8>>,
    errors: Option<JoinHandle<String>>,
    scratch: PathBuf,
}

impl Running {
    /// Start the machine. Its images are opened read-only; what the guest writes goes to a file in the scratch
    /// directory that has no name.
    ///
    /// # Errors
    /// QEMU cannot be started or refuses the machine.
    pub fn start(target: &BootTarget, setting: &Setting<'_>) -> anyhow::Result<Self> {
        let socket = setting.scratch.join("qmp");
        let listener = UnixListener::bind(&socket).context("making a socket for QEMU's monitor")?;
        listener
            .set_nonblocking(true)
            .context("making a socket for QEMU's monitor")?;
        let mut command = command_for(setting.program);
        command
            .args(arguments(target, setting)?)
            .arg("-qmp")
            .arg(prefixed("unix:", &socket))
            // Where `snapshot=on` puts its overlay.
            .env("TMPDIR", setting.scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Child::start(command)
            .with_context(|| format!("starting {}", setting.program.display()))?;
        let (send, serial) = sync_channel(64);
        if let Some(mut pipe) = child.pipes().stdout.take() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                    if send
                        .send(buffer.get(..length).unwrap_or(&[]).to_vec())
                        .is_err()
                    {
                        break;
                    }
                }
            });
        }
        let errors = child.pipes().stderr.take().map(|pipe| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                // A QEMU that says more than this has lost its mind; the pipe closes and it ends by itself.
                let _ = pipe.take(MOST_ERROR_TEXT).read_to_end(&mut text);
                String::from_utf8_lossy(&text).trim().to_owned()
            })
        });
        let monitor = match accept(&listener, &mut child)? {
            Some(stream) => Monitor::connect(stream)?,
            None => {
                drop(child);
                bail!("QEMU does not start this machine: {}", text_of(errors));
            }
        };
        Ok(Self {
            child,
            monitor,
            serial,
            errors,
            scratch: setting.scratch.to_owned(),
        })
    }

    /// What came out of the serial line since the last call; at most 256 KiB at a time.
    pub fn take_serial(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            match self.serial.try_recv() {
                Ok(more) => bytes.extend(more),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        bytes
    }

    /// What happened to the machine since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.monitor.take_events()
    }

    /// The text on the screen, as far as it can be read.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn read_screen(&mut self) -> anyhow::Result<String> {
        let picture = self.scratch.join("screen.ppm");
        self.monitor.dump_screen(&picture, "ppm")?;
        let bytes = std::fs::read(&picture).context("reading a picture of the screen")?;
        let Some(screen) = Screen::from_ppm(&bytes) else {
            return Ok(String::new());
        };
        if !screen.is_text_mode() {
            return Ok(screen.text());
        }
        let memory = self.scratch.join("text-memory");
        self.monitor
            .dump_memory(screen::TEXT_MEMORY, screen::TEXT_MEMORY_SIZE, &memory)?;
        let bytes = std::fs::read(&memory).context("reading the memory of the screen")?;
        Ok(screen::text_in_memory(&bytes))
    }

    /// Save a picture of the screen: as PNG, or as PPM where this QEMU cannot. Says where.
    ///
    /// # Errors
    /// QEMU does not answer, or the file cannot be written.
    pub fn save_screen(&mut self, stem: &Path) -> anyhow::Result<PathBuf> {
        for format in ["png", "ppm"] {
            let picture = self.scratch.join(format!("last.{format}"));
            if let Err(error) = self.monitor.dump_screen(&picture, format) {
                if format == "ppm" {
                    return Err(error);
                }
                continue;
            }
            let place = with_suffix(stem, &format!(".{format}"));
            std::fs::copy(&picture, &place)
                .with_context(|| format!("writing {}", place.display()))?;
            return Ok(place);
        }
        bail!("QEMU makes no picture of the screen")
    }

    /// Why QEMU ended, if it has.
    ///
    /// # Errors
    /// As `waitpid`.
    pub fn ended(&mut self) -> anyhow::Result<Option<String>> {
        let status = self.child.exit_status().context("waiting for QEMU")?;
        Ok(status.map(|status| format!("{status}: {}", text_of(self.errors.take()))))
    }
}

/// `stem` with `suffix` after it, dots in it and all.
#[must_use]
pub fn with_suffix(stem: &Path, suffix: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn accept(
    listener: &UnixListener,
    child: &mut Child,
) -> anyhow::Result<Option<std::os::unix::net::UnixStream>> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        match listener.accept() {
            Ok((stream, _)) => {
                stream
                    .set_nonblocking(false)
                    .context("talking to QEMU's monitor")?;
                return Ok(Some(stream));
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("talking to QEMU's monitor"),
        }
        if child.exit_status().context("waiting for QEMU")?.is_some() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}

fn text_of(errors: Option<JoinHandle<String>>) -> String {
    let text = errors
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let text = text.replace(|c: char| c.is_control() && c != '\n', "?");
    if text.is_empty() {
        "it gives no reason".to_owned()
    } else {
        text
    }
}

fn arguments(target: &BootTarget, setting: &Setting<'_>) -> anyhow::Result<Vec<OsString>> {
    let machine = &target.machine;
    let mut all: Vec<OsString> = ["-accel", setting.accelerator.argument()]
        .map(Into::into)
        .into();
    all.extend(["-nodefaults", "-no-user-config", "-no-shutdown"].map(Into::into));
    all.extend(["-display", "none", "-vga", "std", "-boot", "strict=on"].map(Into::into));
    all.extend(
        [
            "-cpu",
            if setting.accelerator.is_kvm {
                "host"
            } else {
                "max"
            },
        ]
        .map(Into::into),
    );
    let mib = (setting.memory_bytes >> 20).max(1).to_string();
    all.extend(["-m", &mib, "-smp", &setting.vcpus.to_string()].map(Into::into));
    // As a character device, not as `-serial stdio`: that would take this terminal's settings and its Ctrl-C.
    all.extend(
        [
            "-chardev",
            "file,id=serial0,path=/dev/stdout",
            "-serial",
            "chardev:serial0",
        ]
        .map(Into::into),
    );
    all.extend(["-device", "virtio-rng-pci"].map(Into::into));
    all.extend(qemu::board(machine));
    // The images are base files that nobody writes; what the guest writes may be lost at any time.
    all.extend(qemu::disks(
        machine,
        &target.directory,
        "snapshot=on,cache=unsafe,",
    ));
    // Without its option ROM a card is not started from, which on a virtual one only takes time.
    let netdev = if setting.has_network {
        ",restrict=on"
    } else {
        ",restrict=on,ipv4=off,ipv6=off"
    };
    all.extend(qemu::nics(machine, netdev, ",romfile="));
    if machine.firmware == FirmwareKind::Uefi {
        let (code, variables) = qemu::uefi_firmware(machine.secure_boot).context(
            "this machine needs UEFI firmware, and none is installed (Debian: apt-get install ovmf)",
        )?;
        let own = setting.scratch.join("nvram");
        std::fs::copy(variables, &own).context("copying the UEFI variable store")?;
        let code = format!("if=pflash,unit=0,format=raw,readonly=on,file={code}");
        all.extend(["-drive".into(), code.into(), "-drive".into()]);
        all.push(prefixed("if=pflash,unit=1,format=raw,file=", &own));
    }
    Ok(all)
}

fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(qemu::doubled_commas(path.as_os_str()));
    text
}
