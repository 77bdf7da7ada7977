//! Text in columns, for every verb that prints some.

use std::io::{self, Write};

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// `rows` as lines whose columns stand below one another, two blanks apart. Columns that are empty in
/// every row but the first are left out.
#[must_use]
pub fn table(rows: &[Vec<String>], align: &[Align]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let filled = |column: usize| {
        rows.iter()
            .skip(1)
            .any(|row| row.get(column).is_some_and(|cell| !cell.is_empty()))
    };
    let columns: Vec<(usize, Align, usize)> = align
        .iter()
        .enumerate()
        .filter(|(column, _)| filled(*column))
        .map(|(column, align)| (column, *align, width(column)))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = columns.iter().map(|(column, align, width)| {
            let cell = row.get(*column).map_or("", String::as_str);
            match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Print `text`. Whoever reads it may stop early: `p2v inspect … | head`.
///
/// # Errors
/// When standard output cannot be written otherwise.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// `text` as it may be printed on a terminal: labels and names come from disks, and none may move the
/// cursor.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let rows = [["A", "B", "C"], ["é", "", "1"], ["long", "", "22"]]
            .map(|row| row.map(str::to_owned).to_vec());
        let text = table(&rows, &[Align::Left, Align::Left, Align::Right]);
        assert_eq!(text, "A      C\né      1\nlong  22\n");
        assert_eq!(printable("a\x1b[2Jb"), "a\u{fffd}[2Jb");
    }
}
