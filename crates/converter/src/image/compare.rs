//! `p2v image compare`.

use std::path::PathBuf;
use std::process::ExitCode;

use block_io::{BlockRead, ExtentKind};

use super::{DIFFERENT, open_image};

/// Bytes compared at once.
const STEP: u64 = 2 << 20;

/// Which images to compare.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0  both hold the same disk
  1  one of them could not be read
  2  they differ, in bytes or in size; the first offset and the number of bytes are printed")]
pub struct Args {
    /// One image
    first: PathBuf,
    /// The other
    second: PathBuf,
    /// The format of the first; guessed without it
    #[arg(long, value_name = "FORMAT")]
    first_format: Option<String>,
    /// The format of the second; guessed without it
    #[arg(long, value_name = "FORMAT")]
    second_format: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let first = open_image(&args.first, args.first_format.as_deref())?;
    let second = open_image(&args.second, args.second_format.as_deref())?;
    let (a, b) = (first.size(), second.size());
    if a != b {
        println!("sizes differ: {a} and {b} bytes; what is missing is taken for zeroes");
    }
    let found = count_differences(&first, &second)?;
    match found {
        None if a == b => println!("identical"),
        None => println!("identical but for the sizes"),
        Some((offset, count)) => println!("{count} bytes differ, the first at {offset}"),
    }
    let same = found.is_none() && a == b;
    Ok(if same {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERENT)
    })
}

/// The first byte that differs and how many do; the shorter disk goes on with zeroes.
fn count_differences(
    first: &dyn BlockRead,
    second: &dyn BlockRead,
) -> anyhow::Result<Option<(u64, u64)>> {
    let end = first.size().max(second.size());
    let (mut left, mut right) = (vec![0; STEP as usize], vec![0; STEP as usize]);
    let mut found: Option<(u64, u64)> = None;
    let mut at = 0;
    while at < end {
        let (left_zero, left_len) = zero_run(first, at, end)?;
        let (right_zero, right_len) = zero_run(second, at, end)?;
        let run = left_len.min(right_len);
        if left_zero && right_zero {
            at += run;
            continue;
        }
        let len = run.min(STEP) as usize;
        let (left, right) = (&mut left[..len], &mut right[..len]);
        read(first, at, left, left_zero)?;
        read(second, at, right, right_zero)?;
        if left != right {
            for (index, _) in left
                .iter()
                .zip(right.iter())
                .enumerate()
                .filter(|(_, (a, b))| a != b)
            {
                found.get_or_insert((at + index as u64, 0)).1 += 1;
            }
        }
        at += len as u64;
    }
    Ok(found)
}

/// Whether the run at `at` is zero, and how long it is.
fn zero_run(disk: &dyn BlockRead, at: u64, end: u64) -> anyhow::Result<(bool, u64)> {
    if at >= disk.size() {
        return Ok((true, end - at));
    }
    let extent = disk.extent_at(at)?;
    Ok((extent.kind == ExtentKind::Zero, extent.len))
}

fn read(disk: &dyn BlockRead, at: u64, buf: &mut [u8], zero: bool) -> anyhow::Result<()> {
    match zero {
        true => buf.fill(0),
        false => disk.read_at(at, buf)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_io::MemoryDisk;

    #[test]
    fn differences_are_counted_and_the_first_is_named() {
        let mut bytes = vec![0; 5 << 20];
        bytes[100_000] = 1;
        let disk = MemoryDisk::from(bytes.clone());
        assert_eq!(count_differences(&disk, &disk).unwrap(), None);
        bytes[3 << 20] = 7;
        bytes[70_000] = 7;
        let other = MemoryDisk::from(bytes.clone());
        assert_eq!(count_differences(&disk, &other).unwrap(), Some((70_000, 2)));
        bytes.resize(6 << 20, 0);
        let longer = MemoryDisk::from(bytes);
        assert_eq!(count_differences(&other, &longer).unwrap(), None);
    }
}
