//! How far a long step is, shown to a person: a bar on a terminal, silence elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes with rate and time left. Draws nothing when standard error is not a terminal.
#[derive(Debug)]
pub struct ByteBar(ProgressBar);

impl ByteBar {
    /// A bar that says `doing`.
    #[must_use]
    pub fn new(doing: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template(
            "{msg:<24} [{bar:32}] {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>13}, {eta} left",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
        bar.set_message(doing.to_owned());
        Self(bar)
    }

    /// Take the bar away; what it counted is told by the caller's own line.
    pub fn clear(self) {
        self.0.finish_and_clear();
    }
}

impl image_formats::Progress for ByteBar {
    fn advance(&self, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            self.0.set_length(total);
        }
        self.0.set_position(done);
    }
}

/// A number of bytes as people read it: `1.5 GiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
