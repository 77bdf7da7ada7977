//! Differences of two texts for people, in the unified form.

use std::fmt::Write;

use crate::finding::escape_controls;

/// Unchanged lines shown around a change.
const CONTEXT: usize = 2;
/// How far ahead a line is looked for after a difference. Edits change or insert single lines, so
/// this is plenty; a difference beyond it is still shown right, only longer.
const LOOK_AHEAD: usize = 64;

/// Longest line shown whole.
const LONGEST_SHOWN: usize = 400;

#[derive(Clone, Copy)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// The lines that differ, with a little around them; empty when none do.
#[must_use]
pub fn unified(before: &[u8], after: &[u8]) -> String {
    let (before, after) = (
        String::from_utf8_lossy(before),
        String::from_utf8_lossy(after),
    );
    let lines = compare(&lines_of(&before), &lines_of(&after));
    let mut shown = vec![false; lines.len()];
    for (index, line) in lines.iter().enumerate() {
        if !matches!(line, Line::Same(_)) {
            let end = (index + CONTEXT + 1).min(lines.len());
            shown[index.saturating_sub(CONTEXT)..end].fill(true);
        }
    }
    let mut out = String::new();
    let (mut old_number, mut new_number) = (1, 1);
    for (index, line) in lines.iter().enumerate() {
        if shown[index] && (index == 0 || !shown[index - 1]) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "@@ -{old_number} +{new_number} @@");
        }
        let (sign, text) = match line {
            Line::Same(text) => (' ', text),
            Line::Gone(text) => ('-', text),
            Line::New(text) => ('+', text),
        };
        old_number += usize::from(sign != '+');
        new_number += usize::from(sign != '-');
        if shown[index] {
            let _ = writeln!(out, "{sign}{}", shown_line(text));
        }
    }
    out
}

/// A line as it is shown: without control characters, and not endless.
fn shown_line(line: &str) -> String {
    let length = line.chars().count();
    if length <= LONGEST_SHOWN {
        return escape_controls(line);
    }
    let start: String = line.chars().take(LONGEST_SHOWN / 2).collect();
    format!("{}… ({length} characters)", escape_controls(&start))
}

fn lines_of(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.split('\n').collect();
    if lines.last() == Some(&"") {
        lines.pop();
    }
    lines
}

/// A right sequence of kept, removed and added lines, short where changes are small.
fn compare<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<Line<'a>> {
    let mut lines = Vec::with_capacity(before.len().max(after.len()));
    let (mut i, mut j) = (0, 0);
    while i < before.len() && j < after.len() {
        if before[i] == after[j] {
            lines.push(Line::Same(before[i]));
            (i, j) = (i + 1, j + 1);
            continue;
        }
        // The nearest place where both agree again.
        let near = (1..=LOOK_AHEAD).find_map(|distance| {
            (0..=distance).find_map(|gone| {
                let new = distance - gone;
                let same = before.get(i + gone)? == after.get(j + new)?;
                same.then_some((gone, new))
            })
        });
        let (gone, new) = near.unwrap_or((before.len() - i, after.len() - j));
        lines.extend(before[i..i + gone].iter().map(|line| Line::Gone(line)));
        lines.extend(after[j..j + new].iter().map(|line| Line::New(line)));
        (i, j) = (i + gone, j + new);
    }
    lines.extend(before[i..].iter().map(|line| Line::Gone(line)));
    lines.extend(after[j..].iter().map(|line| Line::New(line)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_are_shown_with_their_neighbours() {
        let before = b"a\nb\nc\nd\ne\nf\ng\n";
        let after = b"a\nb\nc\nD\ne\nf\ng\nh\n";
        assert_eq!(
            unified(before, after),
            "@@ -2 +2 @@\n b\n c\n-d\n+D\n e\n f\n g\n+h\n"
        );
        assert_eq!(unified(before, before), "");
        assert_eq!(unified(b"", b"x\n"), "@@ -1 +1 @@\n+x\n");
    }

    #[test]
    fn what_a_disk_says_does_not_reach_the_terminal_raw() {
        assert_eq!(
            unified(b"", b"\x1b[31mred\n"),
            "@@ -1 +1 @@\n+\\u{1b}[31mred\n"
        );
    }
}
