//! `p2v boot`: start a machine on a throw-away copy and say whether it came up.

mod accelerator;
mod child;
mod machine;
mod qmp;
pub mod screen;
pub mod signs;
mod target;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use stream_protocol::inventory::FirmwareKind;

use crate::describe::{DiskBus, ImageFormat, NicModel};
use accelerator::Choice;
use machine::{Running, Setting, with_suffix};
use signs::Watch;
use target::BootTarget;
use watch::Outcome;

/// The machine showed a sign of failure.
pub const SHOWED_A_BAD_SIGN: u8 = 3;
/// Neither a pass nor a sign of failure within the time given.
pub const TIMED_OUT: u8 = 4;
/// QEMU, or the firmware the machine needs, is not there.
pub const NO_QEMU: u8 = 5;
/// What was named is no machine, or QEMU cannot open it.
pub const BAD_INPUT: u8 = 6;
/// Ended by a signal, as shells count it.
pub const INTERRUPTED: u8 = 130;

/// Most memory a machine gets here unless `--memory` says otherwise: this only looks whether it starts.
const MOST_MEMORY: u64 = 2 << 30;
/// Most processors, likewise. Under TCG it is one.
const MOST_VCPUS: u32 = 4;

/// Start a machine on a throw-away copy of its disks and say whether it comes up.
///
/// The images are never written. The network is isolated: a DHCP server answers, nobody else does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0    the machine came up: a login prompt, or what --marker or --pass-on ask for
  1    something else went wrong; the message says what
  2    the command line is wrong
  3    the machine showed a sign of failure, which is named (kernel-panic, emergency-mode, …)
  4    neither within --timeout
  5    QEMU, or the firmware the machine needs, is not installed
  6    PATH is no machine, or QEMU cannot open its images
  130  interrupted

Kept whatever the outcome: a picture of the screen (NAME.boot.png), its text as far as it can be read
(NAME.boot.txt) and the serial log (NAME.boot.log).")]
pub struct Args {
    /// An output directory of `p2v convert`, a machine description (NAME.json) or a disk image
    path: PathBuf,
    /// Pass when this text appears on the serial line or the screen, and not on a login prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "pass_on")]
    marker: Option<String>,
    /// Pass when this regular expression matches there, and not on a login prompt
    #[arg(long, value_name = "REGEX")]
    pass_on: Option<String>,
    /// Give up after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Put the picture of the screen and the serial log here instead of beside the image
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Attach the disks to another controller than the description says
    #[arg(long)]
    bus: Option<DiskBus>,
    /// Give the machine other network cards than the description says
    #[arg(long, value_name = "MODEL")]
    nic: Option<NicModel>,
    /// Leave the network cards without a DHCP server too
    #[arg(long)]
    no_network: bool,
    /// Start with this firmware instead of the one the description or the partition table asks for
    #[arg(long)]
    firmware: Option<Firmware>,
    /// The format of PATH, when it is an image (default: told by its first bytes)
    #[arg(long)]
    format: Option<ImageFormat>,
    /// Memory in MiB (default: as described, 2048 at most)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    memory: Option<u64>,
    /// Processors (default: as described, 4 at most, 1 without KVM)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: Option<u32>,
    /// How guest code is run; auto tries KVM for a moment and takes TCG where that does not work
    #[arg(long, default_value = "auto")]
    accel: Choice,
    /// The QEMU program
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
}

/// As `--firmware` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Firmware {
    Bios,
    Uefi,
}

/// Do what `args` ask for.
///
/// # Errors
/// What no exit code of its own stands for.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let watch = watch_for(args)?;
    let target = match target::find(&args.path, args.format) {
        Ok(target) => with_changes(target, args),
        Err(error) => return Ok(refuse(BAD_INPUT, &error)),
    };
    let Some(program) = qemu_program(args) else {
        let error = anyhow::anyhow!(
            "QEMU is not installed (Debian: apt-get install qemu-system-x86); --qemu names one elsewhere"
        );
        return Ok(refuse(NO_QEMU, &error));
    };
    if target.machine.firmware == FirmwareKind::Uefi
        && crate::describe::qemu::uefi_firmware(target.machine.secure_boot).is_none()
    {
        let error = anyhow::anyhow!(
            "{} starts with UEFI, and no UEFI firmware is installed (Debian: apt-get install ovmf)",
            target.machine.name
        );
        return Ok(refuse(NO_QEMU, &error));
    }
    let stop = stop_on_signals()?;
    let scratch = tempfile::Builder::new()
        .prefix("p2v-boot-")
        .tempdir()
        .context("making a temporary directory")?;
    let accelerator = accelerator::choose(args.accel, &program, scratch.path())?;
    let (memory_bytes, vcpus) = share(&target, args, accelerator.is_kvm);
    eprintln!(
        "{}: starting under {} ({}), {} MiB, {vcpus} processor(s), {}",
        shown(&target.machine.name),
        if accelerator.is_kvm { "KVM" } else { "TCG" },
        accelerator.why,
        memory_bytes >> 20,
        bus_names(&target),
    );
    let setting = Setting {
        program: &program,
        accelerator: &accelerator,
        memory_bytes,
        vcpus,
        has_network: !args.no_network,
        scratch: scratch.path(),
    };
    let report = args.report.as_ref().unwrap_or(&target.directory);
    std::fs::create_dir_all(report).with_context(|| format!("making {}", report.display()))?;
    let started = Instant::now();
    let mut running = match Running::start(&target, &setting) {
        Ok(running) => running,
        Err(error) => return Ok(refuse(BAD_INPUT, &error)),
    };
    let stem = report.join(format!("{}.boot", target.stem));
    let log = with_suffix(&stem, ".log");
    let patience = Duration::from_secs(args.timeout);
    let mut tell = |elapsed: Duration, line: &str| eprintln!("{:4} s  {line}", elapsed.as_secs());
    let outcome = watch::until_decided(&mut running, &watch, patience, &log, &stop, &mut tell)?;
    if outcome != Outcome::Interrupted {
        save_screen(&mut running, &stem);
    }
    eprintln!("serial log: {}", log.display());
    Ok(announce(&outcome, started.elapsed(), patience))
}

/// The picture and its text. A machine that came up and cannot be photographed still came up.
fn save_screen(running: &mut Running, stem: &Path) {
    match running.save_screen(stem) {
        Ok(picture) => eprintln!("screen: {}", picture.display()),
        Err(error) => eprintln!("no picture of the screen: {error:#}"),
    }
    let file = with_suffix(stem, ".txt");
    let saved = running
        .read_screen()
        .and_then(|text| Ok(std::fs::write(&file, text + "\n")?));
    if let Err(error) = saved {
        eprintln!("no text of the screen: {error:#}");
    }
}

fn watch_for(args: &Args) -> anyhow::Result<Watch> {
    match (&args.marker, &args.pass_on) {
        (Some(marker), _) => Watch::for_marker(marker),
        (None, Some(pattern)) => Watch::for_pattern(pattern),
        (None, None) => Watch::for_login(),
    }
    .context("reading the pattern of --pass-on")
}

fn with_changes(mut target: BootTarget, args: &Args) -> BootTarget {
    let machine = &mut target.machine;
    if let Some(bus) = args.bus {
        machine.disks.iter_mut().for_each(|disk| disk.bus = bus);
    }
    if let Some(model) = args.nic {
        machine.nics.iter_mut().for_each(|nic| nic.model = model);
    }
    match args.firmware {
        Some(Firmware::Bios) => {
            machine.firmware = FirmwareKind::Bios;
            machine.secure_boot = false;
        }
        Some(Firmware::Uefi) => machine.firmware = FirmwareKind::Uefi,
        None => {}
    }
    target
}

fn qemu_program(args: &Args) -> Option<PathBuf> {
    if let Some(program) = &args.qemu {
        return program.is_file().then(|| program.clone());
    }
    // Red Hat ships it under another name, outside PATH.
    let elsewhere = PathBuf::from("/usr/libexec/qemu-kvm");
    child::program_on_path("qemu-system-x86_64")
        .or_else(|| elsewhere.is_file().then_some(elsewhere))
}

/// Memory and processors: as described, but not more than a look needs.
fn share(target: &BootTarget, args: &Args, is_kvm: bool) -> (u64, u32) {
    let memory = target.machine.memory_bytes.min(MOST_MEMORY);
    let here =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let most = if is_kvm { MOST_VCPUS.min(here) } else { 1 };
    let vcpus = target.machine.vcpus.clamp(1, most);
    (
        args.memory.map_or(memory, |mib| mib << 20),
        args.cpus.unwrap_or(vcpus),
    )
}

fn bus_names(target: &BootTarget) -> String {
    let disks = &target.machine.disks;
    let bus = disks.first().map_or("no disk".into(), |disk| {
        clap::ValueEnum::to_possible_value(&disk.bus)
            .map_or_else(String::new, |value| value.get_name().to_owned())
    });
    format!("{} disk(s) on {bus}", disks.len())
}

fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("catching signals")?;
    }
    Ok(stop)
}

fn refuse(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("p2v: {error:#}");
    ExitCode::from(code)
}

fn announce(outcome: &Outcome, elapsed: Duration, patience: Duration) -> ExitCode {
    let seconds = elapsed.as_secs_f32();
    match outcome {
        Outcome::Passed(line) => {
            println!("pass after {seconds:.0} s: {}", shown(line));
            ExitCode::SUCCESS
        }
        Outcome::Failed {
            name,
            meaning,
            line,
        } => {
            println!(
                "fail after {seconds:.0} s: {name}: {meaning}: {}",
                shown(line)
            );
            ExitCode::from(SHOWED_A_BAD_SIGN)
        }
        Outcome::TimedOut => {
            println!(
                "no answer: neither a pass nor a sign of failure within {} s",
                patience.as_secs()
            );
            ExitCode::from(TIMED_OUT)
        }
        Outcome::Interrupted => {
            println!("interrupted after {seconds:.0} s");
            ExitCode::from(INTERRUPTED)
        }
    }
}

/// Without what would steer a terminal: names and lines come from guests.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// QEMU for a test, or a named skip.
#[cfg(test)]
fn qemu_for_test(test: &str) -> Option<PathBuf> {
    let found = child::program_on_path("qemu-system-x86_64");
    if found.is_none() {
        test_oracles::skip(test, "qemu-system-x86_64");
    }
    found
}
