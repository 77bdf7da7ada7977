//! Watch a machine start, until it is clear how that went.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::machine::Running;
use super::qmp::Event;
use super::signs::{Verdict, Watch, last_line, plain_text};

/// How a start went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It came up; the line that says so.
    Passed(String),
    /// It did not.
    Failed {
        /// Short and stable: for scripts.
        name: &'static str,
        /// What it means.
        meaning: &'static str,
        /// The line that says so, where there is one.
        line: String,
    },
    /// Neither within the time given.
    TimedOut,
    /// The user ended it.
    Interrupted,
}

/// Where progress goes: a line now and then.
pub type Tell<'a> = &'a mut dyn FnMut(Duration, &str);

/// Most of a serial line's last output that is looked at, in bytes.
const WINDOW: usize = 64 << 10;
/// Most of it that is saved: a machine that says more says the same again.
const MOST_LOGGED: u64 = 16 << 20;
/// A guest resets once or twice on its own account (a relabel, a first start). After this many it is going round.
const MOST_RESETS: u32 = 4;
const SCREEN_EVERY: Duration = Duration::from_secs(2);
const TELL_EVERY: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);

/// Watch `running` until the signs of `watch` decide, `patience` is over or `stop` is set. All that comes out of the serial
/// line is written to `log`.
///
/// # Errors
/// QEMU ends by itself, or the log cannot be written.
pub fn until_decided(
    running: &mut Running,
    watch: &Watch,
    patience: Duration,
    log: &Path,
    stop: &Arc<AtomicBool>,
    tell: Tell<'_>,
) -> anyhow::Result<Outcome> {
    let file = std::fs::File::create(log).with_context(|| format!("writing {}", log.display()))?;
    let mut seen = Seen::new(file);
    let started = Instant::now();
    let (mut told, mut looked) = (Instant::now(), Instant::now());
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(Outcome::Interrupted);
        }
        if let Some(why) = running.ended()? {
            anyhow::bail!("QEMU ended by itself, {why}");
        }
        seen.take_serial(&running.take_serial())
            .with_context(|| format!("writing {}", log.display()))?;
        for event in running.take_events() {
            if let Some(outcome) = seen.take_event(event) {
                return Ok(outcome);
            }
        }
        if looked.elapsed() >= SCREEN_EVERY {
            seen.take_screen(running.read_screen()?);
            looked = Instant::now();
        }
        if let Some(outcome) = seen.judge(watch) {
            return Ok(outcome);
        }
        if started.elapsed() >= patience {
            return Ok(Outcome::TimedOut);
        }
        if told.elapsed() >= TELL_EVERY {
            tell(started.elapsed(), &seen.last_words());
            told = Instant::now();
        }
        std::thread::sleep(TICK);
    }
}

/// What was seen of the machine so far.
struct Seen {
    log: std::fs::File,
    logged: u64,
    /// The last bytes of the serial line, and their text.
    bytes: Vec<u8>,
    serial: String,
    screen: String,
    changed: Instant,
    has_news: bool,
    resets: u32,
}

impl Seen {
    fn new(log: std::fs::File) -> Self {
        Self {
            log,
            logged: 0,
            bytes: Vec::new(),
            serial: String::new(),
            screen: String::new(),
            changed: Instant::now(),
            has_news: false,
            resets: 0,
        }
    }

    fn take_serial(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let room = usize::try_from(MOST_LOGGED.saturating_sub(self.logged)).unwrap_or(usize::MAX);
        let part = bytes.get(..bytes.len().min(room)).unwrap_or(bytes);
        self.log.write_all(part)?;
        self.logged += part.len() as u64;
        self.bytes.extend_from_slice(bytes);
        let surplus = self.bytes.len().saturating_sub(WINDOW);
        self.bytes.drain(..surplus);
        self.serial = plain_text(&self.bytes);
        self.changed = Instant::now();
        self.has_news = true;
        Ok(())
    }

    fn take_screen(&mut self, text: String) {
        if text != self.screen {
            self.screen = text;
            self.changed = Instant::now();
            self.has_news = true;
        }
    }

    fn take_event(&mut self, event: Event) -> Option<Outcome> {
        match event {
            Event::PowerOff => Some(Outcome::Failed {
                name: "powered-off",
                meaning: "the machine switched itself off before it was up",
                line: self.last_words(),
            }),
            Event::Reset => {
                self.resets += 1;
                let line = self.last_words();
                // What was said before belongs to another start.
                self.bytes.clear();
                self.serial.clear();
                self.screen.clear();
                (self.resets >= MOST_RESETS).then_some(Outcome::Failed {
                    name: "reboot-loop",
                    meaning: "the machine resets again and again",
                    line,
                })
            }
        }
    }

    fn judge(&mut self, watch: &Watch) -> Option<Outcome> {
        let quiet = self.changed.elapsed();
        // Without news only the signs that need quiet can have changed, and those ripen within whole seconds.
        if !self.has_news && quiet.subsec_millis() > 2 * TICK.subsec_millis() {
            return None;
        }
        self.has_news = false;
        let texts = [&self.serial, &self.screen];
        let verdict = texts
            .into_iter()
            .find_map(|text| watch.judge(text, quiet))?;
        Some(match verdict {
            Verdict::Passed(line) => Outcome::Passed(line),
            Verdict::Failed(sign, line) => Outcome::Failed {
                name: sign.name,
                meaning: sign.meaning,
                line,
            },
        })
    }

    fn last_words(&self) -> String {
        let line = last_line(&self.serial);
        let line = if line.is_empty() {
            last_line(&self.screen)
        } else {
            line
        };
        // It goes to a terminal: nothing in it may steer that.
        line.chars().filter(|c| !c.is_control()).take(120).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> (tempfile::NamedTempFile, Seen) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let seen = Seen::new(file.reopen().unwrap());
        (file, seen)
    }

    #[test]
    fn a_sign_split_over_two_reads_is_seen() {
        let (file, mut seen) = seen();
        let watch = Watch::for_login().unwrap();
        seen.take_serial(b"Kernel panic - not syn").unwrap();
        assert_eq!(seen.judge(&watch), None);
        seen.take_serial(b"cing: VFS").unwrap();
        assert!(matches!(
            seen.judge(&watch),
            Some(Outcome::Failed {
                name: "kernel-panic",
                ..
            })
        ));
        assert_eq!(
            std::fs::read(file.path()).unwrap(),
            b"Kernel panic - not syncing: VFS"
        );
    }

    #[test]
    fn a_machine_that_never_stops_talking_fills_neither_memory_nor_disk() {
        let (file, mut seen) = seen();
        let flood = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            seen.take_serial(&flood).unwrap();
        }
        assert_eq!(seen.bytes.len(), WINDOW);
        assert_eq!(file.as_file().metadata().unwrap().len(), MOST_LOGGED);
    }

    #[test]
    fn a_reset_forgets_what_the_last_start_said_and_a_loop_of_them_fails() {
        let (_file, mut seen) = seen();
        let watch = Watch::for_login().unwrap();
        seen.take_serial(b"web01 login: ").unwrap();
        assert_eq!(seen.take_event(Event::Reset), None);
        assert_eq!(seen.judge(&watch), None);
        assert_eq!(seen.take_event(Event::Reset), None);
        assert_eq!(seen.take_event(Event::Reset), None);
        let outcome = seen.take_event(Event::Reset);
        assert!(matches!(
            outcome,
            Some(Outcome::Failed {
                name: "reboot-loop",
                ..
            })
        ));
    }

    #[test]
    fn what_stands_on_the_screen_counts_too() {
        let (_file, mut seen) = seen();
        let watch = Watch::for_login().unwrap();
        seen.take_serial(b"SeaBIOS\r\n").unwrap();
        seen.take_screen("Debian GNU/Linux 12 web01 tty1\n\nweb01 login:".into());
        assert_eq!(
            seen.judge(&watch),
            Some(Outcome::Passed("web01 login:".into()))
        );
    }

    #[test]
    fn progress_does_not_steer_the_terminal() {
        let (_file, mut seen) = seen();
        seen.take_serial("evil \u{9b}2J\u{1b}]0;x\u{7} line \u{85}".as_bytes())
            .unwrap();
        assert!(
            seen.last_words().chars().all(|c| !c.is_control()),
            "{:?}",
            seen.last_words()
        );
    }
}
