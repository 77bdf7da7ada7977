//! `p2v convert`: open, plan, apply on an overlay, write the images, describe the machine.

mod emit;
pub(crate) mod guest;
pub(crate) mod machine;
mod names;
mod report;
pub mod source;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use block_io::BlockRead;
use clap::Args as ClapArgs;
use driver_injection::{Guest, Outcome, Plan, RootChoice, Target, apply, inspect, plan};
use image_formats::OutputFormat;

use self::emit::Outputs;
use self::guest::OpenDisk;
use self::report::{Report, Stopwatch};
use self::source::{Source, SourceArgs};
use crate::describe;
use crate::layout::{self, LayoutArgs, Layouts};

/// What is to be converted and how: what `p2v plan` and `p2v convert` have in common.
#[derive(Debug, ClapArgs)]
pub struct Wanted {
    #[command(flatten)]
    source: SourceArgs,

    /// What the new machine is called [default: the source's name]
    #[arg(long)]
    name: Option<String>,

    /// Copy the disks without looking for an operating system to mend
    #[arg(long)]
    as_is: bool,

    /// Which system to convert where the disks hold several: `first`, or the number of its volume
    #[arg(long, value_name = "ROOT", value_parser = parse_root)]
    root: Option<RootChoice>,

    #[command(flatten)]
    layout: LayoutArgs,
}

/// Convert a machine that was pushed, or disks and image files given by path
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  p2v convert web01 --to qcow2 --out /vms/web01
  p2v convert /dev/sdb --to qcow2:zstd --out /vms/old-db --name db01
  p2v convert old.vmdk --to qcow2 --to vmdk:streamOptimized --out /vms/old
  p2v convert web01 --out /vms/web01 --disk-size 120G --grow /srv
  p2v convert web01 --out /vms/web01 --shrink 2=used+4G --disk-size fit
  p2v convert web01 --dry-run

The source is never written. Every change is made on an overlay and listed in NAME-report.json.
`p2v plan` with the same flags shows what would be done; docs/layout.md tells of disk layouts.
Exit codes: 0 converted (or planned, with --dry-run), 1 an error, 2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,

    /// Image format, with options after a colon: qcow2, qcow2:zstd, vmdk:streamOptimized, …; may be repeated
    #[arg(long, value_name = "FORMAT", default_value = "qcow2")]
    to: Vec<OutputFormat>,

    /// Directory for the images and descriptions; made if missing
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,

    /// Print every change that would be made and stop
    #[arg(long)]
    dry_run: bool,

    /// Replace outputs that exist
    #[arg(long)]
    force: bool,
}

/// Convert, and say where the result lies.
///
/// # Errors
/// Whatever stopped it; the outputs that were not finished are gone then.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.dry_run {
        return preview(&args.wanted, None);
    }
    let wanted = &args.wanted;
    let mut watch = Stopwatch::start();
    let source = wanted.source.open(wanted.name.as_deref())?;
    let stem = names::file_stem(wanted.name.as_deref().unwrap_or(&source.name));
    let out = args.out.unwrap_or_default();
    let outputs = Outputs::new(&out, &stem, args.to, args.force)?;
    outputs.prepare(source.disks.len(), &report::ENDINGS)?;

    let disks = guest::open_disks(&source)?;
    report::print_findings(&disks, &source);
    let layouts = layout::plan(&source, &disks, &wanted.layout)?;
    watch.lap("open");
    let disks = lay_out(disks, layouts.as_ref())?;
    let guest = open_guest(wanted, &source, &disks)?;
    let plan = guest
        .as_ref()
        .map(|guest| plan_fixups(guest, &source))
        .transpose()?;
    watch.lap("plan");
    let outcomes = apply_fixups(guest, plan.as_ref())?;
    watch.lap("apply");
    let images = outputs.write(&readable(&disks, layouts.as_ref())?)?;
    watch.lap("write");

    let machine = machine::describe_machine(&source, &images, plan.as_ref());
    let described = describe::write_all(&machine, &out, &stem)?;
    let report = Report::new(&source, &disks, plan.as_ref(), &outcomes, &images, watch);
    let report = report.with_layouts(layouts.as_ref());
    report.write(&outputs.file(report::ENDING))?;
    report::write_picture(layouts.as_ref(), &outputs.file(report::PICTURE))?;
    report.print(&described);
    Ok(ExitCode::SUCCESS)
}

/// Say what a conversion would do, and draw it into `svg`; nothing else is written.
///
/// # Errors
/// What would stop the conversion before it wrote anything.
pub fn preview(wanted: &Wanted, svg: Option<&Path>) -> anyhow::Result<ExitCode> {
    let source = wanted.source.open(wanted.name.as_deref())?;
    let disks = guest::open_disks(&source)?;
    report::print_findings(&disks, &source);
    let layouts = layout::plan(&source, &disks, &wanted.layout)?;
    report::print_layouts(layouts.as_ref());
    if let Some(path) = svg {
        report::write_picture(layouts.as_ref(), path)?;
    }
    // A shrink moves data, which is not done for a look: the guest's files are the same before it.
    let disks = match &layouts {
        Some(layouts) if !layouts.shrinks() => layout::apply(disks, layouts)?,
        _ => disks,
    };
    let guest = open_guest(wanted, &source, &disks)?;
    let plan = guest
        .as_ref()
        .map(|guest| plan_fixups(guest, &source))
        .transpose()?;
    report::print_plan(plan.as_ref());
    Ok(ExitCode::SUCCESS)
}

/// Lay the disks out anew, told before.
fn lay_out(disks: Vec<OpenDisk>, layouts: Option<&Layouts>) -> anyhow::Result<Vec<OpenDisk>> {
    match layouts {
        Some(layouts) => {
            eprint!("{}", layout::describe(layouts));
            layout::apply(disks, layouts)
        }
        None => Ok(disks),
    }
}

fn open_guest(
    wanted: &Wanted,
    source: &Source,
    disks: &[OpenDisk],
) -> anyhow::Result<Option<Guest>> {
    if wanted.as_is {
        return Ok(None);
    }
    let hardware = machine::source_hardware(source);
    let root = wanted.root.clone().unwrap_or_default();
    let guest = guest::open_guest(disks, &hardware, &root).map_err(|error| {
        anyhow!("{error:#}\nuse --as-is to copy the disks without changing what is on them")
    })?;
    Ok(Some(guest))
}

fn plan_fixups(guest: &Guest, source: &Source) -> anyhow::Result<Plan> {
    let target = Target {
        boot_disk: 0,
        time: change_time()?,
    };
    Ok(plan(
        &inspect(guest),
        &machine::source_hardware(source),
        &target,
    ))
}

/// Make the planned changes on the overlay, each told before.
fn apply_fixups(guest: Option<Guest>, plan: Option<&Plan>) -> anyhow::Result<Vec<Outcome>> {
    let (Some(mut guest), Some(plan)) = (guest, plan) else {
        return Ok(Vec::new());
    };
    report::print_changes(plan);
    let outcomes = apply(plan, &mut guest).context("changing the guest's files on the overlay")?;
    guest.sync().context("putting the changes on the overlay")?;
    Ok(outcomes)
}

/// The disks to be written. What is in use of one that was laid out anew is looked up again.
fn readable(
    disks: &[OpenDisk],
    layouts: Option<&Layouts>,
) -> anyhow::Result<Vec<Arc<dyn BlockRead>>> {
    match layouts {
        Some(layouts) => layout::only_used(disks, layouts),
        None => {
            let disks = disks.iter().map(|open| Arc::clone(&open.disk));
            Ok(disks.map(|disk| disk as Arc<dyn BlockRead>).collect())
        }
    }
}

/// The time that changed files get: `SOURCE_DATE_EPOCH`, so that a conversion can be repeated to the
/// bit, or now.
fn change_time() -> anyhow::Result<i64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("reading SOURCE_DATE_EPOCH={text:?}")),
        Err(_) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            Ok(i64::try_from(now.as_secs())?)
        }
    }
}

/// `first`, or a volume's number as the error that lists the systems prints it.
fn parse_root(text: &str) -> Result<RootChoice, String> {
    match text {
        "first" => Ok(RootChoice::First),
        number => number
            .parse()
            .map(RootChoice::Volume)
            .map_err(|_| format!("{number:?} is neither \"first\" nor the number of a volume")),
    }
}
