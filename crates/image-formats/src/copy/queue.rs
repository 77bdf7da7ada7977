//! The order of the pass: who may start a window, and whose turn it is to be placed.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a worker does next. `C` is what carries a window from reading to writing.
pub(super) enum Job<C> {
    /// Fill this carrier with the next window.
    Fill(C),
    /// Place what this carrier holds: it is its turn, and nobody else's until [`Queue::placed`].
    Place(C),
    /// Every window is placed, or the pass was stopped.
    Done,
}

/// Windows that are done wait here, each in its carrier, for those before them. There are only so many
/// carriers: they are what bounds how far the workers run ahead of a slow window.
pub(super) struct Queue<C, E> {
    state: Mutex<State<C, E>>,
    changed: Condvar,
}

struct State<C, E> {
    /// The one used last is on top: what it holds may still be in a core's cache.
    free: Vec<C>,
    filled: BTreeMap<u64, C>,
    /// The ticket to be placed next.
    next: u64,
    placing: bool,
    /// How many windows there are, once that is known.
    windows: Option<u64>,
    stopped: bool,
    failed: Option<E>,
}

impl<C, E> Queue<C, E> {
    pub(super) fn new(carriers: Vec<C>) -> Self {
        Self {
            state: Mutex::new(State {
                free: carriers,
                filled: BTreeMap::new(),
                next: 0,
                placing: false,
                windows: None,
                stopped: false,
                failed: None,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<C, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until there is something to do.
    pub(super) fn next_job(&self) -> Job<C> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.windows == Some(state.next) {
                return Job::Done;
            }
            let turn = state.next;
            if let Some(carrier) = state.filled_at(turn) {
                return Job::Place(carrier);
            }
            if state.windows.is_none()
                && let Some(carrier) = state.free.pop()
            {
                return Job::Fill(carrier);
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The window with `ticket` is read and packed; it waits for its turn.
    ///
    /// Nobody is woken: who calls this asks for a job next, and takes the turn where it has come.
    pub(super) fn filled(&self, ticket: u64, carrier: C) {
        self.lock().filled.insert(ticket, carrier);
    }

    /// What [`Job::Place`] asked for is done: the next one may come.
    pub(super) fn placed(&self) {
        let mut state = self.lock();
        state.placing = false;
        state.next += 1;
        let (ready, all) = (
            state.filled.contains_key(&state.next),
            state.windows == Some(state.next),
        );
        drop(state);
        match (all, ready) {
            (true, _) => self.changed.notify_all(),
            (false, true) => self.changed.notify_one(),
            (false, false) => {}
        }
    }

    /// `carrier` is written, and empty again.
    pub(super) fn emptied(&self, carrier: C) {
        self.lock().free.push(carrier);
        self.changed.notify_one();
    }

    /// There are `windows` in all.
    pub(super) fn end(&self, windows: u64) {
        self.lock().windows = Some(windows);
        self.changed.notify_all();
    }

    /// Stop the pass. The first error is kept.
    pub(super) fn stop(&self, error: Option<E>) {
        let mut state = self.lock();
        state.stopped = true;
        if let (None, Some(error)) = (&state.failed, error) {
            state.failed = Some(error);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// What stopped the pass, if something did.
    pub(super) fn into_result(self) -> Result<(), E> {
        let state = self.state.into_inner();
        match state.unwrap_or_else(PoisonError::into_inner).failed {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl<C, E> State<C, E> {
    fn filled_at(&mut self, turn: u64) -> Option<C> {
        if self.placing {
            return None;
        }
        let carrier = self.filled.remove(&turn)?;
        self.placing = true;
        Some(carrier)
    }
}

/// Stops the pass when a worker unwinds, so that the others do not wait for its window for ever.
pub(super) struct StopOnPanic<'a, C, E>(pub(super) &'a Queue<C, E>);

impl<C, E> Drop for StopOnPanic<'_, C, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(None);
        }
    }
}
