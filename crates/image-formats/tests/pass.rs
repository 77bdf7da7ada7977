//! How the copy pass runs: in order, ahead of a slow window, and no further than its bound.

#![allow(clippy::unwrap_used)]

mod support;

use std::num::NonZero;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use block_io::{BlockRead, Extent, MemoryDisk};
use image_formats::copy::WINDOW;
use image_formats::{CopyOptions, OutputOptions, Sink, copy, output};
use support::{noise, scratch};

/// Longer than any machine takes for a window; a pass that does not run ahead waits so long, once.
const PATIENCE: Duration = Duration::from_secs(20);

/// A disk one window of which is not read until others have been, or patience ends.
struct SlowWindow {
    disk: MemoryDisk,
    slow: u64,
    /// Windows whose reading must have begun before the slow one is given out.
    until: usize,
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    /// Windows begun, the slow one among them.
    begun: Vec<u64>,
    /// How many of them, when the slow one was given out.
    at_release: Option<usize>,
}

impl SlowWindow {
    fn new(windows: u64, slow: u64, until: usize) -> Self {
        Self {
            disk: MemoryDisk::from(noise(7, (windows * WINDOW) as usize)),
            slow,
            until,
            seen: Mutex::default(),
            changed: Condvar::new(),
        }
    }
}

impl BlockRead for SlowWindow {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> block_io::Result<()> {
        let window = offset / WINDOW;
        let mut seen = self.seen.lock().unwrap();
        seen.begun.push(window);
        self.changed.notify_all();
        if window == self.slow {
            let enough = |seen: &mut Seen| seen.begun.len() < self.until;
            (seen, _) = self
                .changed
                .wait_timeout_while(seen, PATIENCE, enough)
                .unwrap();
            drop(seen);
            // Time for those that would go further than they may.
            std::thread::sleep(Duration::from_millis(300));
            seen = self.seen.lock().unwrap();
            seen.at_release = Some(seen.begun.len());
        }
        drop(seen);
        self.disk.read_at(offset, buf)
    }

    fn extent_at(&self, offset: u64) -> block_io::Result<Extent> {
        self.disk.extent_at(offset)
    }
}

fn sink(path: &Path, format: &str, size: u64) -> Sink {
    let options = OutputOptions {
        no_flush: true,
        ..Default::default()
    };
    output::create(path, &format.parse().unwrap(), size, options).unwrap()
}

#[test]
fn the_pass_runs_ahead_of_a_slow_window_as_far_as_its_queue_and_no_further() {
    let dir = scratch();
    let (windows, slow) = (24, 5);
    for (workers, queue) in [(2, 2), (2, 7), (4, 4), (3, 9)] {
        // The windows before the slow one are finished; behind it each other carrier holds one.
        let bound = slow as usize + queue;
        let source = SlowWindow::new(windows, slow, bound);
        let path = dir.path().join(format!("slow-{workers}-{queue}"));
        let options = CopyOptions {
            workers: NonZero::new(workers),
            windows: NonZero::new(queue),
        };
        // Clusters of 2 MiB: a window is no smaller than a unit.
        let sinks = vec![sink(&path, "qcow2:zstd,cluster_size=2M", source.size())];
        copy(&source, sinks, &(), &options).unwrap();
        let seen = source.seen.into_inner().unwrap();
        assert_eq!(
            seen.at_release,
            Some(bound),
            "{workers}, {queue}: {:?}",
            seen.begun
        );
        assert_eq!(seen.begun.len(), windows as usize, "each window once");

        // What waited is in its place.
        let image = image_formats::open(&path, &image_formats::StandAlone).unwrap();
        let (mut left, mut right) = (vec![0; WINDOW as usize], vec![0; WINDOW as usize]);
        for window in 0..windows {
            source.disk.read_at(window * WINDOW, &mut left).unwrap();
            image.read_at(window * WINDOW, &mut right).unwrap();
            assert!(left == right, "{workers}, {queue}: window {window}");
        }
    }
}

#[test]
fn nobody_idles_while_one_window_is_slow() {
    let dir = scratch();
    let cores = std::thread::available_parallelism().unwrap().get();
    // As usual: the slow window, one for each other worker, and some that are done ahead of it.
    let under_way = cores.max(2) + 4;
    let source = SlowWindow::new(2 * cores as u64 + 16, 0, under_way);
    let format = "qcow2:cluster_size=2M";
    let sinks = vec![sink(&dir.path().join("image"), format, source.size())];
    copy(&source, sinks, &(), &CopyOptions::default()).unwrap();
    let seen = source.seen.into_inner().unwrap();
    assert_eq!(seen.at_release, Some(under_way), "{:?}", seen.begun);
}
