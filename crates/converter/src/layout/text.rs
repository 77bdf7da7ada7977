//! Today's layout beside the new one, for people.

use std::fmt::Write;

use super::plan::{DiskPlan, Layouts, PartPlan};
use crate::progress::human_bytes;
use crate::table::{Align, printable, table};

/// Every disk that changes, and what to know about it.
#[must_use]
pub fn describe(layouts: &Layouts) -> String {
    let mut text = String::new();
    for plan in layouts.disks.iter().flatten() {
        describe_disk(plan, &mut text);
    }
    text
}

fn describe_disk(plan: &DiskPlan, text: &mut String) {
    let size = |old: u64, new: u64| match old == new {
        true => human_bytes(old),
        false => format!("{} -> {}", human_bytes(old), human_bytes(new)),
    };
    let tables = match plan.old_table == plan.new_table {
        true => plan.old_table.clone(),
        false => format!("{} -> {}", plan.old_table, plan.new_table),
    };
    let label = printable(&plan.label);
    let _ = writeln!(
        text,
        "{label}: {}, {tables}",
        size(plan.old_size, plan.new_size)
    );
    let mut rows = vec![
        [
            "PART", "HOLDS", "USED", "SIZE", "AT", "NEW SIZE", "NEW AT", "CHANGE",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(plan.parts.iter().map(row));
    let (left, right) = (Align::Left, Align::Right);
    text.push_str(&table(
        &rows,
        &[left, left, right, right, right, right, right, left],
    ));
    for note in &plan.notes {
        let level = if note.warning { "warning" } else { "note" };
        let _ = writeln!(text, "{level}: {}", printable(&note.text));
    }
}

fn row(part: &PartPlan) -> Vec<String> {
    let number = match part.number {
        0 => "disk".to_owned(),
        number => number.to_string(),
    };
    let (new_size, new_at) = match part.new {
        Some((start, size)) => (human_bytes(size), human_bytes(start)),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let change = match part.change.as_str() {
        "" => "stays".to_owned(),
        change => change.to_owned(),
    };
    vec![
        number,
        printable(&part.holds),
        part.used.map(human_bytes).unwrap_or_default(),
        human_bytes(part.old.1),
        human_bytes(part.old.0),
        new_size,
        new_at,
        change,
    ]
}
