//! What arrives, counted machine by machine and shown on a terminal.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use stream_protocol::message::MachineName;
use tokio::sync::watch;

use crate::progress::human_bytes;

const EVERY: Duration = Duration::from_secs(1);

/// What has arrived of one machine since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of chunks as they came over the wire.
    pub wire: u64,
    /// Raw bytes of those.
    pub raw: u64,
    /// Raw bytes under durable recipe entries.
    pub kept: u64,
    /// Bytes the agent expects to send, if it said.
    pub expected: u64,
    /// The push is complete.
    pub finished: bool,
}

/// Counts of all machines.
#[derive(Debug, Default)]
pub struct Meter {
    machines: Mutex<BTreeMap<MachineName, Counts>>,
}

impl Meter {
    /// Change the counts of `machine`.
    pub fn count(&self, machine: &MachineName, change: impl FnOnce(&mut Counts)) {
        let mut machines = self.lock();
        match machines.get_mut(machine) {
            Some(counts) => change(counts),
            None => change(machines.entry(machine.clone()).or_default()),
        }
    }

    /// The counts of `machine`.
    #[must_use]
    pub fn counts(&self, machine: &MachineName) -> Counts {
        self.lock().get(machine).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MachineName, Counts>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Show a line a machine on standard error, if that is a terminal, until `ending`.
pub async fn show(meter: Arc<Meter>, mut ending: watch::Receiver<bool>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let lines = MultiProgress::new();
    let mut shown: BTreeMap<MachineName, (ProgressBar, u64)> = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = ending.wait_for(|ending| *ending) => break,
        }
        let now = meter.lock().clone();
        for (machine, counts) in now {
            let (bar, before) = shown.entry(machine.clone()).or_insert_with(|| {
                let style = ProgressStyle::with_template("{msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
                (lines.add(ProgressBar::new_spinner().with_style(style)), 0)
            });
            let rate = counts.wire.saturating_sub(*before) / EVERY.as_secs().max(1);
            *before = counts.wire;
            bar.set_message(line(&machine, &counts, rate));
            if counts.finished && !bar.is_finished() {
                bar.finish();
            }
        }
    }
    for (bar, _) in shown.values() {
        bar.abandon();
    }
}

fn line(machine: &MachineName, counts: &Counts, rate: u64) -> String {
    let percent = (counts.kept * 100)
        .checked_div(counts.expected)
        .unwrap_or(0)
        .min(100);
    let state = match (counts.finished, counts.expected) {
        (true, _) => "complete".to_owned(),
        (false, 0) => format!("{} kept", human_bytes(counts.kept)),
        (false, _) => format!("{percent} %"),
    };
    let known = counts.kept.saturating_sub(counts.raw);
    format!(
        "{machine}: {state}, {}/s, received {}, not needed again {}",
        human_bytes(rate),
        human_bytes(counts.wire),
        human_bytes(known)
    )
}
