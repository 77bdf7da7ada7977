//! `p2v image`: look at disk images, convert and compare them. No edits, no machine around them.

mod check;
mod compare;
mod convert;
mod info;
mod map;
mod profile;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use image_formats::{Image, ImageFormat, SameFolder, open, open_as};

/// Exit code of `check` for a broken image and of `compare` for different ones.
pub const DIFFERENT: u8 = 2;

/// Look at disk images, convert and compare them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what an image is
    Info(info::Args),
    /// List which parts of the disk hold data and which are zero
    Map(map::Args),
    /// Name every rule an image breaks, and say whether a platform would take it
    Check(check::Args),
    /// Write a disk in one or several formats, from one read pass
    Convert(convert::Args),
    /// Say whether two images hold the same disk; exit code 2 if not
    Compare(compare::Args),
}

/// Run one of the image verbs.
///
/// # Errors
/// What failed, with its causes.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Info(args) => info::run(&args),
        Verb::Map(args) => map::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Convert(args) => convert::run(&args),
        Verb::Compare(args) => compare::run(&args),
    }
}

/// An image named on the command line.
#[derive(Debug, clap::Args)]
struct Source {
    /// The image; files it names are opened only in its own folder
    image: PathBuf,
    /// Its format; without it the format is guessed, and the guess is told
    #[arg(long, value_name = "FORMAT")]
    from: Option<String>,
}

impl Source {
    /// The format the user named.
    fn format(&self) -> anyhow::Result<Option<ImageFormat>> {
        self.from.as_deref().map(format_named).transpose()
    }

    fn open(&self) -> anyhow::Result<Image> {
        open_image(&self.image, self.from.as_deref())
    }
}

fn format_named(name: &str) -> anyhow::Result<ImageFormat> {
    ImageFormat::from_qemu_name(name)
        .with_context(|| format!("{name:?} is no format that can be read"))
}

fn open_image(path: &Path, format: Option<&str>) -> anyhow::Result<Image> {
    let opened = match format {
        Some(name) => open_as(path, format_named(name)?, &SameFolder),
        None => open(path, &SameFolder),
    };
    opened.with_context(|| format!("opening {}", path.display()))
}
