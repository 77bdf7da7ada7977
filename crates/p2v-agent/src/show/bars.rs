//! Bars on standard error: one a disk, and the whole.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::push::Snapshot;
use crate::units::{Plain, bytes, duration};

/// The bars, made when the first numbers come.
#[derive(Debug, Default)]
pub struct Bars {
    drawn: Option<Drawn>,
}

#[derive(Debug)]
struct Drawn {
    all: MultiProgress,
    disks: Vec<ProgressBar>,
    total: ProgressBar,
    sums: ProgressBar,
    rate: Rate,
}

impl Bars {
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        let drawn = self.drawn.get_or_insert_with(|| Drawn::new(snapshot));
        for (bar, disk) in drawn.disks.iter().zip(&snapshot.disks) {
            bar.set_position(disk.read);
            let state = match (disk.complete, disk.read) {
                (true, _) => "read".to_owned(),
                (false, 0) => format!("{} used of {}", bytes(disk.used), bytes(disk.whole)),
                (false, read) => format!("{} of {}", bytes(read), bytes(disk.to_read)),
            };
            let bad = match disk.unreadable {
                0 => String::new(),
                bad => format!(", {} unreadable", bytes(bad)),
            };
            bar.set_message(format!("{state}{bad}"));
        }
        drawn.total.set_position(snapshot.read_bytes());
        drawn.total.set_message(drawn.rate.line(snapshot));
        let time = duration(snapshot.elapsed.as_secs());
        drawn.sums.set_message(match &snapshot.trouble {
            Some(trouble) => format!("trying again: {}", Plain(trouble)),
            None => format!(
                "skipped {}, deduplicated {}, sent {}, {time}",
                bytes(snapshot.skipped_bytes()),
                bytes(snapshot.deduplicated_bytes()),
                bytes(snapshot.sent_bytes),
            ),
        });
    }

    pub(super) fn clear(&mut self) {
        if let Some(drawn) = self.drawn.take() {
            drawn.disks.iter().for_each(ProgressBar::finish);
            drawn.total.finish();
            let _ = drawn.all.clear();
        }
    }
}

impl Drawn {
    fn new(snapshot: &Snapshot) -> Self {
        let all = MultiProgress::new();
        let bar = |name: &str, len: u64| {
            let bar = all.add(ProgressBar::new(len.max(1)));
            bar.set_style(style("{prefix:<10!} {bar:24} {percent:>3} %  {msg}"));
            bar.set_prefix(Plain(name).to_string());
            bar
        };
        let disks = snapshot.disks.iter();
        let disks = disks.map(|disk| bar(&disk.name, disk.to_read)).collect();
        let total = bar("total", snapshot.to_read());
        let sums = all.add(ProgressBar::new(1));
        sums.set_style(style("           {msg}"));
        Self {
            all,
            disks,
            total,
            sums,
            rate: Rate::default(),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are tested to be well formed.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The rate of the last seconds, and from it what is left.
#[derive(Debug, Default)]
struct Rate {
    bytes_per_second: f64,
    at: f64,
    read: u64,
}

impl Rate {
    fn line(&mut self, snapshot: &Snapshot) -> String {
        let (now, read) = (snapshot.elapsed.as_secs_f64(), snapshot.read_bytes());
        let passed = now - self.at;
        if passed >= 0.5 {
            let latest = read.saturating_sub(self.read) as f64 / passed;
            // Half of the weight lies on the last three seconds.
            let weight = 1.0 - 0.5_f64.powf(passed / 3.0);
            self.bytes_per_second = match self.at > 0.0 {
                true => self.bytes_per_second + weight * (latest - self.bytes_per_second),
                false => latest,
            };
            (self.at, self.read) = (now, read);
        }
        if !snapshot.open {
            return "connecting".to_owned();
        }
        if !snapshot.reading() {
            let waiting = snapshot.fed_bytes.saturating_sub(snapshot.kept_bytes);
            return format!("read; {} on their way", bytes(waiting));
        }
        let rate = self.bytes_per_second;
        let left = snapshot.to_read().saturating_sub(read) as f64 / rate;
        match left.is_finite() {
            true => format!(
                "{}/s, {} left",
                bytes(rate as u64),
                duration(left.ceil() as u64)
            ),
            false => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_well_formed() {
        for template in [
            "{prefix:<10!} {bar:24} {percent:>3} %  {msg}",
            "           {msg}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
