//! QEMU's monitor, as far as a boot check needs it. [QEMU, docs/interop/qmp-spec]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Longest line taken from QEMU. Its answers here are short.
const LONGEST_LINE: usize = 1 << 20;
/// Longest wait for an answer: taking a screenshot while TCG is busy takes a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// Something that happened to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was reset, by the guest or by a triple fault.
    Reset,
    /// It was switched off.
    PowerOff,
}

/// A connection to the monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    received: Vec<u8>,
    events: Vec<Event>,
}

impl Monitor {
    /// Connect to `socket`, which QEMU makes soon after its start.
    ///
    /// # Errors
    /// What answers there is no QEMU monitor.
    pub fn connect(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut monitor = Self {
            stream,
            received: Vec::new(),
            events: Vec::new(),
        };
        let greeting = monitor.wait_for(|message| message.get("QMP").is_some())?;
        if greeting.is_none() {
            bail!("QEMU's monitor does not greet");
        }
        monitor.execute("qmp_capabilities", Value::Null)?;
        Ok(monitor)
    }

    /// Run a command and wait for its answer.
    ///
    /// # Errors
    /// QEMU refuses it, ends, or does not answer in time.
    pub fn execute(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let mut message = json!({ "execute": command });
        if let (Some(object), false) = (message.as_object_mut(), arguments.is_null()) {
            object.insert("arguments".into(), arguments);
        }
        self.stream
            .write_all(format!("{message}\n").as_bytes())
            .with_context(|| format!("asking QEMU for {command}"))?;
        let answer = self.wait_for(|m| m.get("return").is_some() || m.get("error").is_some())?;
        let answer = answer.with_context(|| format!("QEMU did not answer to {command}"))?;
        if let Some(error) = answer.get("error") {
            let text = error
                .get("desc")
                .and_then(Value::as_str)
                .unwrap_or("no reason given");
            bail!("QEMU refuses {command}: {text}");
        }
        Ok(answer.get("return").cloned().unwrap_or(Value::Null))
    }

    /// Write the screen to `file` as `format`, `ppm` or `png`.
    ///
    /// # Errors
    /// As [`Monitor::execute`]; PNG needs QEMU 7.1.
    pub fn dump_screen(&mut self, file: &Path, format: &str) -> anyhow::Result<()> {
        // Without a format QEMU writes PPM, and versions before 7.1 do not know the word.
        let arguments = match format {
            "ppm" => json!({ "filename": file }),
            _ => json!({ "filename": file, "format": format }),
        };
        self.execute("screendump", arguments).map(drop)
    }

    /// Write `size` bytes of the guest's memory at `address` to `file`.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn dump_memory(&mut self, address: u64, size: u64, file: &Path) -> anyhow::Result<()> {
        let arguments = json!({ "val": address, "size": size, "filename": file });
        self.execute("pmemsave", arguments).map(drop)
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        // Ends at the first read that finds nothing. A monitor that is gone shows in QEMU's exit status.
        while let Ok(Some(message)) = self.next_message() {
            self.note(&message);
        }
        std::mem::take(&mut self.events)
    }

    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Option<Value>> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            match self.next_message()? {
                Some(message) if wanted(&message) => return Ok(Some(message)),
                Some(message) => self.note(&message),
                None => {}
            }
        }
        Ok(None)
    }

    fn note(&mut self, message: &Value) {
        match message.get("event").and_then(Value::as_str) {
            Some("RESET") => self.events.push(Event::Reset),
            Some("SHUTDOWN") => self.events.push(Event::PowerOff),
            _ => {}
        }
    }

    /// The next line of QEMU, or `None` when nothing comes for a moment.
    fn next_message(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(end) = self.received.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(Some(
                    serde_json::from_slice(&line).context("reading QEMU's monitor")?,
                ));
            }
            if self.received.len() > LONGEST_LINE {
                bail!("QEMU's monitor says more than {LONGEST_LINE} bytes in one line");
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("QEMU closed its monitor"),
                Ok(length) => self
                    .received
                    .extend_from_slice(buffer.get(..length).unwrap_or(&[])),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("reading QEMU's monitor"),
            }
        }
    }
}
