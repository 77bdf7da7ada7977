//! Sentences for people.

use std::fmt::Write;

use stream_protocol::ErrorCode;
use stream_protocol::client::PushError;
use stream_protocol::message::ByteRange;

use crate::push::{Failure, Job, Snapshot, Unread};
use crate::units::{Plain, bytes, duration};

/// So many bad ranges are printed; all of them go to the converter.
const RANGES_SHOWED: usize = 20;

/// The first line.
pub(super) fn start(job: &Job, converter: &str) -> String {
    let (whole, used) = (
        total(job, |sizes| sizes.whole),
        total(job, |sizes| sizes.used),
    );
    let disks = counted(job.sizes.len() as u64, "disk");
    let name = Plain(job.open.machine.as_str());
    format!(
        "sending {name} ({disks}, {} of {} used) to {converter}",
        bytes(used),
        bytes(whole)
    )
}

fn total(job: &Job, of: impl Fn(&crate::push::DiskSizes) -> u64) -> u64 {
    job.sizes.iter().map(of).sum()
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The sums, and what to do next.
#[must_use]
pub fn summary(machine: &str, snapshot: &Snapshot) -> String {
    let seconds = snapshot.elapsed.as_secs_f64();
    let rate = match seconds > 0.0 {
        true => (snapshot.read_bytes() as f64 / seconds) as u64,
        false => 0,
    };
    let time = match seconds < 10.0 {
        true => format!("{seconds:.1} s"),
        false => duration(snapshot.elapsed.as_secs()),
    };
    let mut text = format!(
        "{} is complete at the converter: {} on {}, of which {} used\n  \
         read {}, skipped {}, deduplicated {}, sent {} in {time} ({}/s read)\n",
        Plain(machine),
        bytes(snapshot.whole_bytes()),
        counted(snapshot.disks.len() as u64, "disk"),
        bytes(snapshot.used_bytes()),
        bytes(snapshot.read_bytes()),
        bytes(snapshot.skipped_bytes()),
        bytes(snapshot.deduplicated_bytes()),
        bytes(snapshot.sent_bytes),
        bytes(rate),
    );
    for disk in snapshot.disks.iter().filter(|disk| disk.unreadable > 0) {
        let _ = writeln!(
            text,
            "  {}: {} could not be read and are zeroes; the converter has the list",
            Plain(&disk.name),
            bytes(disk.unreadable)
        );
    }
    let machine = shell_quoted(machine);
    let _ = write!(
        text,
        "  next, on the converter: p2v convert {machine} --to qcow2 --out DIR"
    );
    text
}

/// A word as a shell takes it.
fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@%+=,".contains(c);
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// What failed, and what to do about it.
#[must_use]
pub fn explain(job: &Job, failure: &Failure) -> String {
    match failure {
        Failure::Unread(unread) => explain_unread(job, unread),
        Failure::NotReached(_) => {
            format!("{failure}\nIs `p2v serve` running there, and its port open to this machine?")
        }
        Failure::OtherConverter(_) => format!(
            "{failure}\nTake the connect string that `p2v serve` prints now. If it is the same, \
             somebody else answers at this address; nothing was sent."
        ),
        Failure::Converter(PushError::Refused(body)) if body.code == ErrorCode::Unauthorised => {
            format!("{failure}\nTake the connect string that `p2v serve` prints now.")
        }
        Failure::Converter(PushError::GaveUp { .. }) => format!(
            "{failure}\nWhat was sent is kept; run the same command again to go on from there."
        ),
        Failure::Interrupted => {
            "interrupted; what was sent is kept, run the same command again to go on from there"
                .to_owned()
        }
        Failure::Converter(_) | Failure::Other(_) => failure.to_string(),
    }
}

fn explain_unread(job: &Job, unread: &[Unread]) -> String {
    let mut text = String::new();
    let mut sectors = 0;
    let mut failed = false;
    for one in unread {
        match one {
            Unread::Sectors { disk, ranges } => {
                let sector = sector_size(job, *disk);
                let count = sectors_in(ranges, sector);
                sectors += count;
                let count = counted(count, "sector");
                let _ = writeln!(text, "{}: {count} cannot be read:", disk_name(job, *disk));
                write_ranges(&mut text, ranges, sector);
            }
            Unread::Failed { disk, error } => {
                failed = true;
                let _ = write!(text, "{}: {error}", disk_name(job, *disk));
                let mut cause = std::error::Error::source(error);
                while let Some(error) = cause {
                    let _ = write!(text, ": {error}");
                    cause = error.source();
                }
                let _ = writeln!(text);
            }
        }
    }
    text.push_str("All that could be read is kept at the converter. ");
    match (failed, sectors) {
        (true, _) => text
            .push_str("See to the disk, then run the same command again: it goes on from there."),
        (false, sectors) => {
            let these = match sectors {
                1 => "this sector".to_owned(),
                many => format!("these {many} sectors"),
            };
            let _ = write!(
                text,
                "To send zeroes for {these}, run the same command again with --skip-unreadable."
            );
        }
    }
    text
}

fn disk_name(job: &Job, disk: u32) -> Plain<'_> {
    let disk = job.open.disks.get(disk as usize);
    Plain(disk.map_or("disk", |disk| disk.name.as_str()))
}

fn sector_size(job: &Job, disk: u32) -> u64 {
    let disk = job.open.disks.get(disk as usize);
    disk.map_or(512, |disk| u64::from(disk.sector_size.max(1)))
}

fn sectors_in(ranges: &[ByteRange], sector: u64) -> u64 {
    ranges.iter().map(|range| range.len.div_ceil(sector)).sum()
}

fn write_ranges(text: &mut String, ranges: &[ByteRange], sector: u64) {
    for range in ranges.iter().take(RANGES_SHOWED) {
        let first = range.offset / sector;
        let last = first + range.len.div_ceil(sector).max(1) - 1;
        let sectors = match first == last {
            true => format!("sector {first}"),
            false => format!("sectors {first} to {last}"),
        };
        let _ = writeln!(
            text,
            "  {} bytes at byte {} ({sectors})",
            range.len, range.offset
        );
    }
    let more = ranges.len().saturating_sub(RANGES_SHOWED);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more ranges");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_the_shell() {
        assert_eq!(shell_quoted("web01.example"), "web01.example");
        assert_eq!(shell_quoted("web 01"), "'web 01'");
        assert_eq!(shell_quoted("a'b"), r"'a'\''b'");
        assert_eq!(shell_quoted("-x"), "'-x'");
    }

    #[test]
    fn bad_ranges_are_named_by_sector() {
        let mut text = String::new();
        let ranges = [
            ByteRange {
                offset: 5120,
                len: 512,
            },
            ByteRange {
                offset: 1_048_576,
                len: 8192,
            },
        ];
        write_ranges(&mut text, &ranges, 512);
        let expected = "  512 bytes at byte 5120 (sector 10)\n  \
                        8192 bytes at byte 1048576 (sectors 2048 to 2063)\n";
        assert_eq!(text, expected);
        let many = vec![ranges[0]; 30];
        text.clear();
        write_ranges(&mut text, &many, 512);
        assert!(text.ends_with("and 10 more ranges\n"), "{text}");
    }
}
