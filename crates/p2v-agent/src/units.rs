//! Sizes, durations and foreign text, written for people.

use std::fmt;

/// A size with three digits: `512 B`, `4.00 GiB`, `931 GiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for name in units {
        value /= 1024.0;
        unit = name;
        if value < 999.5 {
            break;
        }
    }
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// A duration by its two largest parts: `3 days 4 h`, `5 min 12 s`, `7 s`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min {rest} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (1, _, _) => format!("1 day {hours} h"),
        _ => format!("{days} days {hours} h"),
    }
}

/// Text from elsewhere, shown without the control characters that would steer the terminal.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_234, "9.99 KiB"),
            (4 << 30, "4.00 GiB"),
            (1000 << 20, "0.98 GiB"),
            (240_057_409_536, "224 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(size), text, "{size}");
        }
    }

    #[test]
    fn durations_have_two_parts() {
        assert_eq!(duration(7), "7 s");
        assert_eq!(duration(312), "5 min 12 s");
        assert_eq!(duration(7300), "2 h 1 min");
        assert_eq!(duration(90_000), "1 day 1 h");
    }

    #[test]
    fn a_host_name_cannot_steer_the_terminal() {
        assert_eq!(Plain("a\u{1b}[2Jb\n").to_string(), "a\\u{1b}[2Jb\\n");
    }
}
