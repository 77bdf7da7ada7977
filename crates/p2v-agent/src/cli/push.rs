//! `p2v-agent push`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use disk_survey::LeaveOut;
use stream_protocol::inventory::INVENTORY_VERSION;
use stream_protocol::{ConnectString, Inventory, MachineName};

use crate::inventory::{self, Root};
use crate::push::{self, DEFAULT_LEVEL, Failure, Job, Options, Unread};
use crate::show::{Progress, Show};
use crate::source::{Chosen, choose};
use crate::units::bytes;

/// Send disks of this machine to a converter
///
/// Only what is in use is read, and only what the converter lacks is sent. The disks are opened
/// read-only. What was sent stays at the converter: after a failure, run the same command again.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    /// The connect string that `p2v serve` prints, in single quotes
    #[arg(value_name = "CONNECT", env = "P2V_CONNECT", hide_env_values = true)]
    connect: ConnectString,
    /// Send this disk or raw image file; may be given several times. Without it, all disks of this
    /// machine that are not removable
    #[arg(long = "disk", value_name = "PATH")]
    disks: Vec<PathBuf>,
    /// The name to list the machine under [default: the host name; of image files the file's name]
    #[arg(long)]
    name: Option<String>,
    /// Say of the machine what is in this file, made by `p2v-agent inventory --json`. For disks
    /// that belong to another machine
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Connections at one time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// zstd level: -7 (fastest) to 19 (smallest)
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LEVEL, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-7..=19))]
    level: i32,
    /// Threads for naming and compressing [default: one a processor, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=128))]
    threads: Option<u8>,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    progress: Progress,
    /// Send zeroes for sectors that cannot be read
    #[arg(long)]
    skip_unreadable: bool,
    /// Do not send what is in Windows' page, swap and hibernation files: Windows makes them anew
    #[arg(long)]
    skip_pagefiles: bool,
    /// Send at most so many bytes a second; k, M and G stand for 1000, 1000² and 1000³
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    bandwidth: Option<u64>,
}

/// Exit codes beyond 1 and 2; [`super::EXIT_CODES`] tells the user.
const UNREADABLE: u8 = 3;
const DISK_FAILED: u8 = 4;
const CONVERTER: u8 = 5;
const INTERRUPTED: u8 = 130;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut show = Show::new(args.progress);
    let here = inventory::read(&Root::new("/"));
    let leave_out = LeaveOut {
        page_files: args.skip_pagefiles,
    };
    let chosen = choose(&here, &args.disks, leave_out)?;
    chosen.remarks.iter().for_each(|remark| show.remark(remark));
    chosen
        .warnings
        .iter()
        .for_each(|warning| show.warn(warning));
    let job = match job(args, here, chosen) {
        Ok(job) => job,
        Err(Failure::Other(error)) => return Err(error),
        Err(failure) => return Err(anyhow::Error::new(failure)),
    };
    show.start(&job, &args.connect.authority());
    let mut observe = |snapshot: &push::Snapshot| show.update(snapshot);
    match push::push(
        args.connect.clone(),
        job.clone(),
        options(args),
        &mut observe,
    ) {
        Ok((finished, snapshot)) => {
            show.done(finished.machine.as_str(), &snapshot);
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            let code = exit_code(&failure);
            show.failed(&job, &failure, code);
            Ok(ExitCode::from(code))
        }
    }
}

fn options(args: &Args) -> Options {
    let usual = Options::default();
    Options {
        connections: usize::from(args.connections),
        level: args.level,
        threads: args.threads.map_or(usual.threads, usize::from),
        skip_unreadable: args.skip_unreadable,
        bytes_per_second: args.bandwidth,
    }
}

fn job(args: &Args, here: Inventory, chosen: Chosen) -> Result<Job, Failure> {
    let name = machine_name(args, &here, &chosen).map_err(Failure::Other)?;
    let inventory = sent_inventory(args, here, &chosen).map_err(Failure::Other)?;
    let job = Job::new(name, &chosen.identity, inventory, chosen.sources)?;
    Ok(chosen.warnings.into_iter().fold(job, Job::with_note))
}

fn machine_name(args: &Args, here: &Inventory, chosen: &Chosen) -> anyhow::Result<MachineName> {
    let name = match (&args.name, &here.hostname) {
        (Some(name), _) => name.clone(),
        (None, Some(hostname)) if chosen.of_this_machine => hostname.clone(),
        _ => {
            let stem = chosen.first_path.file_stem();
            let stem = stem.context("the machine has no name; give one with --name")?;
            stem.to_string_lossy().into_owned()
        }
    };
    MachineName::new(name.as_str()).with_context(|| format!("naming the machine {name:?}"))
}

/// What is said of the machine. Of image files alone this machine says nothing: they are another's.
fn sent_inventory(args: &Args, here: Inventory, chosen: &Chosen) -> anyhow::Result<Inventory> {
    let Some(path) = &args.inventory else {
        return Ok(match chosen.of_this_machine {
            true => here,
            false => Inventory {
                version: INVENTORY_VERSION,
                ..Inventory::default()
            },
        });
    };
    let shown = path.display();
    let text = read_text(path).with_context(|| format!("reading the inventory {shown}"))?;
    serde_json::from_str(&text).with_context(|| {
        format!("reading the inventory {shown}: `p2v-agent inventory --json` makes such files")
    })
}

/// An inventory is some kilobytes; of a disk named by mistake no more than this is read.
const LONGEST_INVENTORY: u64 = 8 << 20;

fn read_text(path: &Path) -> anyhow::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let len = file.take(LONGEST_INVENTORY + 1).read_to_string(&mut text)?;
    anyhow::ensure!(
        len as u64 <= LONGEST_INVENTORY,
        "it is longer than {}",
        bytes(LONGEST_INVENTORY)
    );
    Ok(text)
}

fn exit_code(failure: &Failure) -> u8 {
    match failure {
        Failure::Unread(unread) => {
            let only_sectors = unread
                .iter()
                .all(|one| matches!(one, Unread::Sectors { .. }));
            if only_sectors {
                UNREADABLE
            } else {
                DISK_FAILED
            }
        }
        Failure::NotReached(_) | Failure::OtherConverter(_) | Failure::Converter(_) => CONVERTER,
        Failure::Interrupted => INTERRUPTED,
        Failure::Other(_) => 1,
    }
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let rate: u64 = number
        .parse()
        .map_err(|_| "expected a number of bytes, like 10M".to_owned())?;
    match rate.checked_mul(factor) {
        Some(rate) if rate >= 1000 => Ok(rate),
        _ => Err("expected at least 1k bytes a second".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(parse_rate("10M"), Ok(10_000_000));
        assert_eq!(parse_rate("2500"), Ok(2500));
        for wrong in [
            "",
            "M",
            "10",
            "0k",
            "-1",
            "1.5M",
            "99999999999999999999G",
            "10µ",
        ] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
