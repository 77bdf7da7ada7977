//! What a disk or image holds, and how long it took to find out:
//!
//! ```text
//! cargo run --release -p disk-survey --example show_survey -- DISK
//! ```

use std::time::Instant;

use block_io::{BlockRead, FileDisk};
use disk_survey::survey;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("usage: show_survey DISK")?;
    let disk = FileDisk::open(path)?;
    let start = Instant::now();
    let survey = survey(&disk)?;
    let took = start.elapsed();
    println!(
        "{}, sectors of {} bytes",
        survey.layout.table,
        survey.layout.sector_size.bytes()
    );
    for volume in &survey.volumes {
        let number = volume
            .partition
            .map_or("whole disk".to_owned(), |n| format!("partition {n}"));
        let kind = volume
            .probe
            .as_ref()
            .map_or("unknown".to_owned(), |probe| probe.kind.to_string());
        println!(
            "{number}: bytes {:?}, {kind}, {} bytes in use{}",
            volume.range,
            volume.used_bytes,
            if volume.free_known { "" } else { " (all)" }
        );
    }
    for finding in &survey.findings {
        println!("{:?}: {finding}", finding.severity);
    }
    println!(
        "{} of {} bytes in use, found in {took:?}",
        survey.used_bytes(),
        disk.size()
    );
    Ok(())
}
