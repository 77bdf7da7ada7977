//! `p2v machines`: what has arrived, and what is arriving.
//!
//! Reads the store beside a running `p2v serve`.

use std::process::ExitCode;

use anyhow::Context;
use chunk_store::{InProgress, Snapshot, Store};
use serde::Serialize;

use crate::progress::human_bytes;
use crate::store_dir::StoreArgs;

/// List the machines that have arrived, and the pushes in progress.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// How far a machine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Complete, and what is stored is what was sent.
    Verified,
    /// Complete, but damage was found since.
    Damaged,
    /// Not complete: in progress, or waiting to be resumed.
    Arriving,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Name of the machine.
    pub machine: String,
    /// Name of the snapshot; a push in progress has none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Number of disks.
    pub disks: usize,
    /// Bytes of all disks.
    pub size: u64,
    /// Bytes of them that were in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// When it was complete, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<u64>,
    /// How far it has come.
    pub state: State,
    /// Of a push in progress: how much of the disks has been gone through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    /// Byte ranges that the source could not read.
    pub unreadable_ranges: usize,
}

/// Run the verb.
///
/// # Errors
/// When the store cannot be read.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let directory = args.store.directory()?;
    let lines = if directory.exists() {
        let opening = || format!("opening the store {}", directory.display());
        let store = Store::open_to_read(&directory).with_context(opening)?;
        let listing = store.snapshots().context("listing the machines")?;
        for damage in &listing.damaged {
            eprintln!("p2v: {damage}");
        }
        let pushes = store.pushes().context("listing the pushes in progress")?;
        let arrived = listing.snapshots.iter().map(Line::arrived);
        arrived.chain(pushes.iter().map(Line::arriving)).collect()
    } else {
        Vec::new()
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else if lines.is_empty() {
        println!(
            "Nothing has arrived in {} yet; `p2v serve` lets machines in.",
            directory.display()
        );
    } else {
        print!("{}", table(&lines));
    }
    Ok(ExitCode::SUCCESS)
}

impl Line {
    fn arrived(snapshot: &Snapshot) -> Self {
        Self {
            machine: snapshot.machine.clone(),
            snapshot: Some(snapshot.id.to_string()),
            disks: snapshot.disks.len(),
            size: snapshot.disks.iter().map(|disk| disk.info.size).sum(),
            used: Some(snapshot.disks.iter().map(|disk| disk.used).sum()),
            committed_at: Some(snapshot.committed_at),
            state: if snapshot.verified {
                State::Verified
            } else {
                State::Damaged
            },
            percent: None,
            unreadable_ranges: snapshot
                .disks
                .iter()
                .map(|disk| disk.unreadable.len())
                .sum(),
        }
    }

    fn arriving(push: &InProgress) -> Self {
        let size: u64 = push.disks.iter().map(|(disk, _)| disk.size).sum();
        let done: u64 = push.disks.iter().map(|(_, end)| end).sum();
        let percent = u128::from(done) * 100 / u128::from(size.max(1));
        Self {
            machine: push.machine.clone(),
            snapshot: None,
            disks: push.disks.len(),
            size,
            used: None,
            committed_at: None,
            state: State::Arriving,
            percent: Some(u64::try_from(percent).unwrap_or(100).min(100)),
            unreadable_ranges: 0,
        }
    }

    fn cells(&self) -> [String; 6] {
        let state = match (self.state, self.unreadable_ranges) {
            (State::Verified, 0) => "verified".to_owned(),
            (State::Verified, ranges) => format!("verified, {ranges} ranges were unreadable"),
            (State::Damaged, _) => "DAMAGED, see p2v store verify".to_owned(),
            (State::Arriving, _) => format!("arriving, {} %", self.percent.unwrap_or(0)),
        };
        [
            // A name may hold anything but must not move the cursor.
            self.machine
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect(),
            self.disks.to_string(),
            human_bytes(self.size),
            self.used.map_or_else(|| "-".to_owned(), human_bytes),
            self.committed_at.map_or_else(|| "-".to_owned(), utc),
            state,
        ]
    }
}

fn table(lines: &[Line]) -> String {
    let head = ["MACHINE", "DISKS", "SIZE", "USED", "ARRIVED", "STATE"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head)
        .chain(lines.iter().map(Line::cells))
        .collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `2026-11-22 18:01 UTC`.
#[must_use]
pub fn utc(seconds: u64) -> String {
    let (minute, hour, days) = (seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
    // Days since 0000-03-01, in the Gregorian calendar's eras of 400 years, whose years begin in March
    // so that the leap day is the last of a year.
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_date_prints_them() {
        // date -u -d @SECONDS '+%F %H:%M UTC'
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_709_251_200, "2024-03-01 00:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (1_795_370_496, "2026-11-22 18:01 UTC"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }

    #[test]
    fn a_table_of_odd_names_stays_a_table() {
        let line = |machine: &str, state, percent| Line {
            machine: machine.to_owned(),
            snapshot: None,
            disks: 2,
            size: 4 << 30,
            used: Some(1 << 30),
            committed_at: Some(0),
            state,
            percent,
            unreadable_ranges: 0,
        };
        let text = table(&[
            line("büro \u{1b}[2J", State::Verified, None),
            line("../../x", State::Arriving, Some(42)),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(!text.contains('\u{1b}'));
        let column = |line: &str, what: &str| line.split(what).next().map(|s| s.chars().count());
        assert_eq!(column(lines[0], "STATE"), column(lines[1], "verified"));
        assert_eq!(
            column(lines[0], "STATE"),
            column(lines[2], "arriving, 42 %")
        );
    }
}
