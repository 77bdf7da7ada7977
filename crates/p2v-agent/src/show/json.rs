//! One JSON object a line, for programs. `docs/agent.md` lists the fields.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::push::{Failure, Job, Snapshot, Unread};

/// Between two lines about progress.
const EVERY: Duration = Duration::from_secs(1);

/// Writes the lines to standard output.
#[derive(Debug, Default)]
pub struct JsonLines {
    last: Option<Instant>,
}

impl JsonLines {
    pub(super) fn message(&mut self, event: &str, text: &str) {
        write_line(&json!({ "event": event, "message": text }));
    }

    pub(super) fn start(&mut self, job: &Job, converter: &str) {
        let disks: Vec<Value> = job
            .open
            .disks
            .iter()
            .zip(&job.sizes)
            .map(|(disk, sizes)| {
                json!({
                    "name": disk.name,
                    "bytes": sizes.whole,
                    "used": sizes.used,
                    "to_read": sizes.read,
                    "sector_size": disk.sector_size,
                })
            })
            .collect();
        write_line(&json!({
            "event": "start",
            "machine": job.open.machine.as_str(),
            "converter": converter,
            "disks": disks,
        }));
    }

    pub(super) fn progress(&mut self, snapshot: &Snapshot) {
        if self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let mut line = numbers("progress", snapshot);
        let left = seconds_left(snapshot);
        line["seconds_left"] = left.map_or(Value::Null, Value::from);
        line["trouble"] = snapshot.trouble.clone().map_or(Value::Null, Value::from);
        write_line(&line);
    }

    pub(super) fn done(&mut self, machine: &str, snapshot: &Snapshot) {
        let mut line = numbers("done", snapshot);
        line["machine"] = machine.into();
        write_line(&line);
    }

    pub(super) fn failed(&mut self, job: &Job, failure: &Failure, text: &str, exit_code: u8) {
        let mut unreadable = Vec::new();
        if let Failure::Unread(unread) = failure {
            for one in unread {
                if let Unread::Sectors { disk, ranges } = one {
                    let name = job.open.disks.get(*disk as usize).map(|disk| &disk.name);
                    unreadable.push(json!({ "disk": name, "ranges": ranges }));
                }
            }
        }
        write_line(&json!({
            "event": "failed",
            "exit_code": exit_code,
            "message": text,
            "unreadable": unreadable,
        }));
    }
}

fn numbers(event: &str, snapshot: &Snapshot) -> Value {
    let disks: Vec<Value> = snapshot
        .disks
        .iter()
        .map(|disk| {
            json!({
                "name": disk.name,
                "read": disk.read,
                "to_read": disk.to_read,
                "complete": disk.complete,
                "unreadable": disk.unreadable,
            })
        })
        .collect();
    json!({
        "event": event,
        "seconds": snapshot.elapsed.as_secs_f64(),
        "bytes": snapshot.whole_bytes(),
        "used": snapshot.used_bytes(),
        "to_read": snapshot.to_read(),
        "read": snapshot.read_bytes(),
        "skipped": snapshot.skipped_bytes(),
        "zero": snapshot.zero_bytes,
        "deduplicated": snapshot.deduplicated_bytes(),
        "new": snapshot.new_bytes,
        "kept": snapshot.kept_bytes,
        "sent": snapshot.sent_bytes,
        "received": snapshot.received_bytes,
        "disks": disks,
    })
}

/// By the mean rate so far.
fn seconds_left(snapshot: &Snapshot) -> Option<u64> {
    let read = snapshot.read_bytes();
    let left = snapshot.to_read().saturating_sub(read);
    let rate = read as f64 / snapshot.elapsed.as_secs_f64();
    (rate.is_finite() && rate > 0.0).then(|| (left as f64 / rate).ceil() as u64)
}

fn write_line(line: &Value) {
    // A reader that has gone away does not stop the push.
    let _ = writeln!(std::io::stdout(), "{line}");
}
