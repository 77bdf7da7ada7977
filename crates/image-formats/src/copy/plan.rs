//! Which parts of the source are read, window by window.

use std::ops::Range;

use block_io::{BlockError, BlockRead, Extent, ExtentKind, Extents};

/// Data to be carried at once: where the window starts and which parts of it must be read.
#[derive(Default)]
pub(super) struct Window {
    pub(super) ticket: u64,
    pub(super) start: u64,
    pub(super) data: Vec<Range<u64>>,
}

/// Which window comes next.
pub(super) struct Plan<'a> {
    window: u64,
    extents: Extents<'a, dyn BlockRead + 'a>,
    pending: Option<Extent>,
    next_ticket: u64,
}

impl<'a> Plan<'a> {
    pub(super) fn new(source: &'a dyn BlockRead, window: u64) -> Self {
        Self {
            window,
            extents: block_io::extents(source, 0..source.size()),
            pending: None,
            next_ticket: 0,
        }
    }

    /// How many windows were given out.
    pub(super) fn given(&self) -> u64 {
        self.next_ticket
    }

    /// The next window that holds data, if there is one.
    pub(super) fn next_window(&mut self) -> Result<Option<Window>, BlockError> {
        let mut window: Option<Window> = None;
        loop {
            let extent = match self.pending.take() {
                Some(extent) => extent,
                None => match self.extents.next() {
                    Some(extent) => extent?,
                    None => break,
                },
            };
            if extent.kind == ExtentKind::Zero {
                continue;
            }
            let window = window.get_or_insert_with(|| Window {
                ticket: self.next_ticket,
                start: extent.start / self.window * self.window,
                data: Vec::new(),
            });
            let end = window.start.saturating_add(self.window);
            if extent.start >= end {
                self.pending = Some(extent);
                break;
            }
            window.data.push(extent.start..extent.end().min(end));
            if extent.end() > end {
                self.pending = Some(Extent {
                    kind: extent.kind,
                    start: end,
                    len: extent.end() - end,
                });
                break;
            }
        }
        self.next_ticket += u64::from(window.is_some());
        Ok(window)
    }
}
