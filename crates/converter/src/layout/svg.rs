//! Today's layout above the new one, as a picture that needs nothing but itself.

use std::fmt::Write;

use super::plan::{DiskPlan, Layouts, PartPlan};
use crate::progress::human_bytes;

/// Width of a disk of the largest size, in pixels.
const WIDTH: u64 = 960;
const MARGIN: u64 = 20;
/// Height of a bar.
const BAR: u64 = 44;
/// Between the bars of today and those of the new disk.
const BETWEEN: u64 = 56;
/// Height of one disk with its words.
const DISK: u64 = 230;
/// A partition is drawn at least this wide.
const LEAST: u64 = 3;
/// Pixels of a letter.
const LETTER: u64 = 7;

/// The picture of every disk that changes.
#[must_use]
pub fn picture(layouts: &Layouts) -> String {
    let plans: Vec<&DiskPlan> = layouts.disks.iter().flatten().collect();
    let (width, height) = (WIDTH + 2 * MARGIN, MARGIN + DISK * plans.len() as u64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
         {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<title>Disk layout, today and new</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (index, plan) in plans.iter().enumerate() {
        draw_disk(plan, MARGIN + DISK * index as u64, &mut svg);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_disk(plan: &DiskPlan, top: u64, svg: &mut String) {
    let scale = plan.old_size.max(plan.new_size).max(1);
    let pixels = |bytes: u64| (u128::from(bytes) * u128::from(WIDTH) / u128::from(scale)) as u64;
    let title = format!(
        "{}: {} {}, then {} {}",
        plan.label,
        human_bytes(plan.old_size),
        plan.old_table,
        human_bytes(plan.new_size),
        plan.new_table
    );
    text_at(svg, MARGIN, top + 14, "#111", &title);
    let (above, below) = (top + 26, top + 26 + BAR + BETWEEN);
    for (y, size) in [(above, plan.old_size), (below, plan.new_size)] {
        let _ = writeln!(
            svg,
            "<rect x=\"{MARGIN}\" y=\"{y}\" width=\"{}\" height=\"{BAR}\" fill=\"#eee\" stroke=\"#999\"/>",
            pixels(size)
        );
    }
    // The extended partition first, so that what lies in it lies over it.
    let mut parts: Vec<&PartPlan> = plan.parts.iter().collect();
    parts.sort_by_key(|part| part.used.is_some());
    for part in parts {
        let colour = colour(part);
        let place = |(start, size): (u64, u64)| (MARGIN + pixels(start), pixels(size).max(LEAST));
        let old = place(part.old);
        if let (Some(new), Some(_)) = (part.new.map(place), part.used) {
            let _ = writeln!(
                svg,
                "<polygon points=\"{},{y1} {},{y1} {},{below} {},{below}\" fill=\"{colour}\" opacity=\"0.18\"/>",
                old.0,
                old.0 + old.1,
                new.0 + new.1,
                new.0,
                y1 = above + BAR
            );
        }
        let number = part.number;
        draw_part(svg, part, old, above, (number, part.old.1), colour);
        if let (Some(place), Some(size)) = (part.new.map(place), part.new.map(|new| new.1)) {
            let number = part.new_number.unwrap_or(number);
            draw_part(svg, part, place, below, (number, size), colour);
        }
    }
    text_at(svg, MARGIN, above + BAR + 14, "#666", "today");
    text_at(svg, MARGIN, below + BAR + 14, "#666", "new");
}

fn draw_part(
    svg: &mut String,
    part: &PartPlan,
    (x, width): (u64, u64),
    y: u64,
    (number, size): (u32, u64),
    colour: &str,
) {
    let size = human_bytes(size);
    let words = format!("{number}: {} {size}", part.holds);
    let tip = escape(&format!("{words} {}", part.change));
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{BAR}\" fill=\"{colour}\" stroke=\"#fff\">\
         <title>{tip}</title></rect>"
    );
    if part.used.is_none() {
        return;
    }
    let letters = |text: &str| text.chars().count() as u64 * LETTER;
    let name = format!("{number} {}", part.holds);
    if letters(&name) + 8 <= width {
        text_at(svg, x + 4, y + 18, "#fff", &name);
        text_at(svg, x + 4, y + 34, "#fff", &size);
    } else if letters("0") + 4 <= width {
        text_at(svg, x + 2, y + 26, "#fff", &number.to_string());
    }
}

fn colour(part: &PartPlan) -> &'static str {
    const COLOURS: [&str; 6] = [
        "#2f6db5", "#3a8f5c", "#b5622f", "#7b4ea3", "#a33b5e", "#3c7f8c",
    ];
    match part.used {
        None => "#c8c8c8",
        Some(_) => COLOURS[part.number as usize % COLOURS.len()],
    }
}

fn text_at(svg: &mut String, x: u64, y: u64, colour: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{text}</text>"
    );
}

/// Names come from disks: no character of theirs means anything to XML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
