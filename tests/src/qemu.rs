//! A guest run by QEMU itself, without `p2v boot`: what is under test does not judge itself.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a guest of ours prints when its start is over.
pub const MARKER: &str = "P2V-GUEST-REPORT ";

/// Start QEMU with `arguments` and watch its serial line until one of `ends` is on it. The text so far is returned.
///
/// # Panics
/// When QEMU ends by itself or none of `ends` comes within `patience`.
#[must_use]
pub fn serial_until(
    arguments: &[String],
    ends: &[&str],
    patience: Duration,
    scratch: &Path,
) -> String {
    let log = scratch.join("serial.log");
    // The words of the guest before are not this one's.
    std::fs::File::create(&log).expect("emptying the serial log");
    let mut guest = Ended(
        Command::new("qemu-system-x86_64")
            // One thread: the multi-threaded translator aborted in QEMU 10.0.2.
            .args([
                "-accel",
                "tcg,thread=single",
                "-m",
                "1024",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-monitor", "none", "-serial"])
            .arg(format!("file:{}", log.display()))
            .args(arguments)
            .env("TMPDIR", scratch)
            .stdin(Stdio::null())
            .spawn()
            .expect("starting QEMU"),
    );
    let started = Instant::now();
    loop {
        let bytes = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let whole = |end: &&str| {
            text.find(*end)
                .is_some_and(|at| !end.starts_with(MARKER) || text[at..].contains('\n'))
        };
        if ends.iter().any(whole) {
            return text;
        }
        if let Some(status) = guest.0.try_wait().expect("waiting for QEMU") {
            panic!("QEMU ended by itself, {status}:\n{}", tail(&text));
        }
        assert!(
            started.elapsed() < patience,
            "none of {ends:?} within {patience:?}:\n{}",
            tail(&text)
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The guest's report in `serial`.
///
/// # Panics
/// When there is none, or it is no JSON.
#[must_use]
pub fn report_in(serial: &str) -> Value {
    let at = serial
        .rfind(MARKER)
        .unwrap_or_else(|| panic!("no report in:\n{}", tail(serial)));
    let line = serial[at + MARKER.len()..]
        .lines()
        .next()
        .unwrap_or_default();
    serde_json::from_str(line.trim()).unwrap_or_else(|e| panic!("{e} in {line}"))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
