//! What the user sees of a push: bars on a terminal, JSON lines for programs, or just the end.

mod bars;
mod json;
mod text;

use std::io::{IsTerminal, Write};

use crate::push::{Failure, Job, Snapshot};

use bars::Bars;
use json::JsonLines;

pub use text::{explain, summary};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Progress {
    /// Bars on a terminal, otherwise a line at the start and the sums at the end.
    Auto,
    /// Bars, also where standard error is no terminal.
    Bar,
    /// One JSON object a line on standard output; nothing else goes there.
    Json,
    /// Errors only.
    None,
}

/// Where progress goes.
pub enum Show {
    /// Bars on standard error.
    Bars(Bars),
    /// Start and end.
    Lines,
    /// JSON lines on standard output.
    Json(JsonLines),
    /// Nothing.
    Nothing,
}

impl Show {
    /// As the user chose.
    #[must_use]
    pub fn new(progress: Progress) -> Self {
        match progress {
            Progress::Auto if std::io::stderr().is_terminal() => Self::Bars(Bars::default()),
            Progress::Auto => Self::Lines,
            Progress::Bar => Self::Bars(Bars::default()),
            Progress::Json => Self::Json(JsonLines::default()),
            Progress::None => Self::Nothing,
        }
    }

    /// Something the user should know before it begins.
    pub fn warn(&mut self, warning: &str) {
        match self {
            Self::Bars(_) | Self::Lines => say(&format!("warning: {warning}")),
            Self::Json(lines) => lines.message("warning", warning),
            Self::Nothing => {}
        }
    }

    /// Something the user may want to know.
    pub fn remark(&mut self, remark: &str) {
        match self {
            Self::Bars(_) | Self::Lines => say(remark),
            Self::Json(lines) => lines.message("remark", remark),
            Self::Nothing => {}
        }
    }

    /// It begins.
    pub fn start(&mut self, job: &Job, converter: &str) {
        match self {
            Self::Bars(_) | Self::Lines => say(&text::start(job, converter)),
            Self::Json(lines) => lines.start(job, converter),
            Self::Nothing => {}
        }
    }

    /// So far it has come.
    pub fn update(&mut self, snapshot: &Snapshot) {
        match self {
            Self::Bars(bars) => bars.update(snapshot),
            Self::Json(lines) => lines.progress(snapshot),
            Self::Lines | Self::Nothing => {}
        }
    }

    /// The machine is complete at the converter.
    pub fn done(&mut self, machine: &str, snapshot: &Snapshot) {
        match self {
            Self::Bars(bars) => bars.clear(),
            Self::Json(lines) => return lines.done(machine, snapshot),
            Self::Lines => {}
            Self::Nothing => return,
        }
        say(&summary(machine, snapshot));
    }

    /// It failed, and the program ends with `exit_code`.
    pub fn failed(&mut self, job: &Job, failure: &Failure, exit_code: u8) {
        let explanation = explain(job, failure);
        match self {
            Self::Bars(bars) => bars.clear(),
            Self::Json(lines) => lines.failed(job, failure, &explanation, exit_code),
            Self::Lines | Self::Nothing => {}
        }
        say(&format!("p2v-agent: {explanation}"));
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
