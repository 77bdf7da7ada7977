//! How much of a second disk need not be sent once the first has arrived, and what that costs:
//!
//! ```text
//! cargo run --release -p chunking --example measure_sharing -- FIRST.img SECOND.img
//! ```
//!
//! Both images are cut with several sizes; zero blocks are left out, as they are when a disk
//! is sent. One line each: the mean size that comes out, how many cuts were forced, the share of the
//! second's bytes whose chunks the first has (and with those which the second repeats itself), the
//! bytes the second then costs on the wire (names asked for, and what is lacking at zstd level 1),
//! what an index of 48 bytes a chunk weighs for a terabyte, and the speed of cutting and hashing on
//! one core. The default in `ChunkSizes` was chosen by this table.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chunking::{ChunkId, ChunkSizes, Chunker, compress};

/// Zero runs are left out in blocks of this size.
const BLOCK: usize = 4096;
/// Bytes of index a chunk: its name, and where it lies.
const INDEX_ENTRY: f64 = 48.0;
/// Bytes on the wire to ask whether a chunk is lacking: its name.
const QUESTION: usize = ChunkId::LEN;

/// Smallest, average and largest size, in KiB.
const SIZES: [(u32, u32, u32); 9] = [
    (1, 4, 16),
    (2, 8, 32),
    (4, 16, 64),
    (2, 16, 64),
    (8, 32, 128),
    (4, 32, 128),
    (2, 32, 256),
    (16, 64, 256),
    (32, 128, 512),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let images: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [first, second] = images.as_slice() else {
        return Err("usage: measure_sharing FIRST.img SECOND.img".into());
    };
    println!(
        "{:>11} {:>7} {:>7} {:>8} {:>6} {:>9} {:>8} {:>9} {:>9}",
        "sizes KiB",
        "mean",
        "max cut",
        "in first",
        "+ own",
        "sent",
        "index/TB",
        "cut MB/s",
        "hash MB/s"
    );
    for (min, kib, max) in SIZES {
        let chunker = Chunker::new(ChunkSizes::new(min << 10, kib << 10, max << 10)?);
        let mut tally = Tally::default();
        let mut known = HashSet::new();
        cut_image(first, &chunker, &mut tally, &mut |id, _| {
            known.insert(id);
        })?;
        let mut second_tally = Tally::default();
        let (mut shared, mut repeated, mut sent) = (0, 0, 0);
        let mut own = HashSet::new();
        cut_image(second, &chunker, &mut second_tally, &mut |id, raw| {
            if known.contains(&id) {
                shared += raw.len();
            } else if !own.insert(id) {
                repeated += raw.len();
            } else if let Ok(packed) = compress(id, raw, 1) {
                sent += packed.bytes.len() + QUESTION;
            }
        })?;
        sent += QUESTION * (second_tally.chunks - own.len());
        let (bytes, chunks) = (
            tally.bytes + second_tally.bytes,
            tally.chunks + second_tally.chunks,
        );
        let mean = bytes as f64 / chunks as f64;
        let percent = |part: usize| 100.0 * part as f64 / second_tally.bytes as f64;
        let speed = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
        println!(
            "{:>11} {:>7.0} {:>6.1}% {:>7.1}% {:>5.1}% {:>6.1} MB {:>5.2} GB {:>9.0} {:>9.0}",
            format!("{min}/{kib}/{max}"),
            mean,
            100.0 * (tally.at_max + second_tally.at_max) as f64 / chunks as f64,
            percent(shared),
            percent(shared + repeated),
            sent as f64 / 1e6,
            1e3 / mean * INDEX_ENTRY,
            speed(tally.cutting + second_tally.cutting),
            speed(tally.hashing + second_tally.hashing),
        );
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    bytes: usize,
    chunks: usize,
    at_max: usize,
    cutting: Duration,
    hashing: Duration,
}

/// Cut every run of an image that is not zero.
fn cut_image(
    path: &Path,
    chunker: &Chunker,
    tally: &mut Tally,
    found: &mut dyn FnMut(ChunkId, &[u8]),
) -> io::Result<()> {
    let mut image = File::open(path)?;
    let mut run = Vec::new();
    let mut piece = vec![0; 4 << 20];
    loop {
        let len = fill(&mut image, &mut piece)?;
        for block in piece[..len].chunks(BLOCK) {
            if block.iter().all(|byte| *byte == 0) {
                cut_run(&mut run, true, chunker, tally, found);
            } else {
                run.extend_from_slice(block);
            }
        }
        let ended = len < piece.len();
        cut_run(&mut run, ended, chunker, tally, found);
        if ended {
            return Ok(());
        }
    }
}

/// Take the chunks off the front of `run` that are certain.
fn cut_run(
    run: &mut Vec<u8>,
    last: bool,
    chunker: &Chunker,
    tally: &mut Tally,
    found: &mut dyn FnMut(ChunkId, &[u8]),
) {
    let mut ends = Vec::new();
    let mut at = 0;
    let start = Instant::now();
    while let Some(len) = chunker.cut(&run[at..], last) {
        at += len;
        ends.push(at);
    }
    tally.cutting += start.elapsed();
    let mut begin = 0;
    for end in ends {
        let start = Instant::now();
        let id = ChunkId::of(&run[begin..end]);
        tally.hashing += start.elapsed();
        tally.bytes += end - begin;
        tally.chunks += 1;
        tally.at_max += usize::from(end - begin == chunker.sizes().max() as usize);
        found(id, &run[begin..end]);
        begin = end;
    }
    run.drain(..at);
}

fn fill(from: &mut File, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match from.read(&mut buf[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}
