//! What a check has found so far.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::detect::ImageFormat;
use crate::finding::{Finding, Severity};
use crate::image::ImageInfo;

/// Findings of one rule that are kept; more are counted.
const TOLD: u64 = 20;

/// What a check found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// Whether the format was found by looking.
    pub guessed: bool,
    /// What the image is, where it opens.
    pub info: Option<ImageInfo>,
    /// The findings, the first twenty of every rule.
    pub findings: Vec<Finding>,
    /// Findings that were counted and not kept.
    pub untold: u64,
    /// Places where data are wrong or will be when somebody writes; counted as `qemu-img check` counts.
    pub corruptions: u64,
    /// Units of the file (clusters, blocks, grains) that nothing refers to.
    pub leaks: u64,
    /// Units of the disk.
    pub total_units: Option<u64>,
    /// Units that lie in the file.
    pub allocated_units: Option<u64>,
    /// Units that are compressed.
    pub compressed_units: Option<u64>,
    /// Where the last byte in use ends.
    pub end: Option<u64>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing but notes.
    Clean,
    /// Space is lost or a rule broken; the data are right.
    Untidy,
    /// Data are wrong, or will be.
    Broken,
}

impl Report {
    /// The worst that was found.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Error) => Verdict::Broken,
            Some(Severity::Warning) => Verdict::Untidy,
            Some(Severity::Note) | None => Verdict::Clean,
        }
    }
}

/// Collects findings; see [`Report`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    findings: Vec<Finding>,
    told: HashMap<&'static str, u64>,
    untold: u64,
    corruptions: u64,
    leaks: u64,
    pub(crate) total_units: Option<u64>,
    pub(crate) allocated_units: Option<u64>,
    pub(crate) compressed_units: Option<u64>,
    pub(crate) end: Option<u64>,
}

impl Tally {
    /// Data are wrong, or will be when somebody writes.
    pub(crate) fn corrupt(&mut self, finding: Finding) {
        self.corruptions += 1;
        self.tell(finding);
    }

    /// The same, unless it was told before.
    pub(crate) fn corrupt_once(&mut self, finding: Finding) {
        if !self.findings.contains(&finding) {
            self.corrupt(finding);
        }
    }

    /// `units` of the file that nothing refers to.
    pub(crate) fn leak(&mut self, units: u64, finding: Finding) {
        self.leaks += units;
        self.tell(finding.with(Severity::Warning));
    }

    /// Whatever `finding` says, without counting it.
    pub(crate) fn tell(&mut self, finding: Finding) {
        let told = self.told.entry(finding.rule.id).or_insert(0);
        *told += 1;
        match *told <= TOLD {
            true => self.findings.push(finding),
            false => self.untold += 1,
        }
    }

    pub(crate) fn corruptions(&self) -> u64 {
        self.corruptions
    }

    pub(crate) fn report(
        mut self,
        path: &Path,
        format: ImageFormat,
        guessed: bool,
        file_size: u64,
        info: Option<ImageInfo>,
    ) -> Report {
        self.findings
            .sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        Report {
            path: path.to_owned(),
            format,
            guessed,
            info,
            findings: self.findings,
            untold: self.untold,
            corruptions: self.corruptions,
            leaks: self.leaks,
            total_units: self.total_units,
            allocated_units: self.allocated_units,
            compressed_units: self.compressed_units,
            end: Some(self.end.unwrap_or(file_size)),
        }
    }
}
