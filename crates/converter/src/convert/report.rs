//! What was found, changed and written: shown to the user and kept beside the images.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use block_io::BlockRead;
use driver_injection::{Outcome, Plan};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::emit::Image;
use super::guest::OpenDisk;
use super::source::Source;
use crate::describe::Written;
use crate::files::put_whole;
use crate::layout::{self, DiskPlan, Layouts};
use crate::progress::human_bytes;

/// What the report's file name ends with.
pub const ENDING: &str = "-report.json";
/// What the file name of the picture of the new layout ends with.
pub const PICTURE: &str = "-layout.svg";
/// What the names of the files beside the images end with.
pub const ENDINGS: [&str; 5] = [".json", ".xml", ".sh", ENDING, PICTURE];

/// The report of a conversion, as it is written to `NAME-report.json`.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    p2v_report: u32,
    p2v_version: &'static str,
    machine: &'a str,
    disks: Vec<DiskReport<'a>>,
    /// New layouts of disks that got one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layouts: Vec<&'a DiskPlan>,
    #[serde(flatten)]
    plan: Option<&'a Plan>,
    outcomes: &'a [Outcome],
    images: &'a [Image],
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct DiskReport<'a> {
    label: &'a str,
    size: u64,
    used: u64,
    /// Bytes that are zeroes in the images because the source could not be read there.
    unreadable: Vec<Range<u64>>,
    findings: Vec<String>,
}

/// How long a step took.
#[derive(Debug, Clone, Serialize)]
struct Step {
    name: &'static str,
    wall_seconds: f64,
    cpu_seconds: f64,
}

impl<'a> Report<'a> {
    /// The report of what was done.
    #[must_use]
    pub fn new(
        source: &'a Source,
        disks: &[OpenDisk],
        plan: Option<&'a Plan>,
        outcomes: &'a [Outcome],
        images: &'a [Image],
        watch: Stopwatch,
    ) -> Self {
        let disk_report = |(disk, open): (&'a super::source::SourceDisk, &OpenDisk)| DiskReport {
            label: &disk.label,
            size: open.disk.size(),
            used: open.survey.used_bytes(),
            unreadable: disk.unreadable(),
            findings: open
                .survey
                .findings
                .iter()
                .map(ToString::to_string)
                .collect(),
        };
        Self {
            p2v_report: 1,
            p2v_version: env!("CARGO_PKG_VERSION"),
            machine: &source.name,
            disks: source.disks.iter().zip(disks).map(disk_report).collect(),
            layouts: Vec::new(),
            plan,
            outcomes,
            images,
            steps: watch.steps,
        }
    }

    /// The same, with how the disks were laid out anew.
    #[must_use]
    pub fn with_layouts(mut self, layouts: Option<&'a Layouts>) -> Self {
        let plans = layouts
            .into_iter()
            .flat_map(|layouts| layouts.disks.iter().flatten());
        self.layouts = plans.collect();
        self
    }

    /// Keep it in `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self).context("writing the report as JSON")?;
        put_whole(path, (json + "\n").as_bytes(), 0o644)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Say what was done and what to do next.
    pub fn print(&self, described: &Written) {
        for disk in &self.disks {
            print_unreadable(disk);
        }
        let changed = self
            .outcomes
            .iter()
            .filter(|o| **o == Outcome::Changed)
            .count();
        if self.plan.is_some() {
            println!("{changed} changes made on the copy; the source is as it was");
        }
        for image in self.images {
            println!(
                "{}  ({})",
                image.path.display(),
                size_on_medium(&image.path)
            );
        }
        let total: f64 = self.steps.iter().map(|step| step.wall_seconds).sum();
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|step| format!("{} {:.2}", step.name, step.wall_seconds))
            .collect();
        println!("{total:.2} s ({})", steps.join(", "));
        println!("machine: {}", described.libvirt.display());
        println!("next: p2v boot {}", described.json.display());
    }
}

fn print_unreadable(disk: &DiskReport<'_>) {
    for range in &disk.unreadable {
        println!(
            "{}: bytes {} to {} could not be read and are zeroes in the images",
            disk.label, range.start, range.end
        );
    }
}

fn size_on_medium(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    path.metadata().map_or_else(
        |_| "size unknown".to_owned(),
        |m| human_bytes(m.blocks() * 512),
    )
}

/// Print every change that would be made, or that there is none.
pub fn print_plan(plan: Option<&Plan>) {
    match plan {
        Some(plan) => println!("{plan}"),
        None => println!("the disks are copied as they are: no change is planned"),
    }
}

/// Print today's layouts beside the new ones, if there are any.
pub fn print_layouts(layouts: Option<&Layouts>) {
    match layouts {
        Some(layouts) => println!("{}", layout::describe(layouts)),
        None => println!("the disks keep their layout\n"),
    }
}

/// Draw the new layouts into `path`, if there are any.
///
/// # Errors
/// When the file cannot be written.
pub fn write_picture(layouts: Option<&Layouts>, path: &Path) -> anyhow::Result<()> {
    match layouts {
        Some(layouts) => put_whole(path, layout::picture(layouts).as_bytes(), 0o644)
            .with_context(|| format!("writing {}", path.display())),
        None => Ok(()),
    }
}

/// Print what was noticed about the disks. What was noticed about the guest stands in the plan.
pub fn print_findings(disks: &[OpenDisk], source: &Source) {
    for (open, disk) in disks.iter().zip(&source.disks) {
        for finding in &open.survey.findings {
            eprintln!("{}: {finding}", disk.label);
        }
    }
}

/// One line for each change, before it is made.
pub fn print_changes(plan: &Plan) {
    eprintln!("{}: {} changes planned", plan.os, plan.edits.len());
    for edit in &plan.edits {
        eprintln!("  {}: {}", edit.place, edit.why);
    }
    for finding in &plan.findings {
        eprintln!("  {finding}");
    }
}

/// Wall and CPU time, step by step.
#[derive(Debug)]
pub struct Stopwatch {
    since: Instant,
    cpu: Duration,
    steps: Vec<Step>,
}

impl Stopwatch {
    /// Start the first step.
    #[must_use]
    pub fn start() -> Self {
        Self {
            since: Instant::now(),
            cpu: cpu_time(),
            steps: Vec::new(),
        }
    }

    /// End a step, which was `name`, and start the next.
    pub fn lap(&mut self, name: &'static str) {
        let (now, cpu) = (Instant::now(), cpu_time());
        self.steps.push(Step {
            name,
            wall_seconds: (now - self.since).as_secs_f64(),
            cpu_seconds: cpu.saturating_sub(self.cpu).as_secs_f64(),
        });
        (self.since, self.cpu) = (now, cpu);
    }
}

/// CPU time of this process so far, all threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
