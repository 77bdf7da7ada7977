//! When to try again, and when to give up.

use super::{Millis, Patience};

/// What is going wrong just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// When it began.
    pub since: Millis,
    /// What was last seen.
    pub reason: String,
    /// How many tries have failed in a row.
    pub failures: u32,
    /// When the next try is made.
    pub next_try: Millis,
}

/// Counts failures in a row; exponential delays with jitter.
pub(super) struct Backoff {
    patience: Patience,
    jitter: Box<dyn FnMut() -> u64 + Send>,
    pub(super) trouble: Option<Trouble>,
    /// The heaviest kind of request that failed.
    weight: u8,
}

impl Backoff {
    pub(super) fn new(patience: Patience, jitter: Box<dyn FnMut() -> u64 + Send>) -> Self {
        Self {
            patience,
            jitter,
            trouble: None,
            weight: 0,
        }
    }

    /// A request of this weight had success.
    pub(super) fn succeed(&mut self, weight: u8) {
        if weight >= self.weight {
            self.trouble = None;
            self.weight = 0;
        }
    }

    /// A try failed. Says whether patience has ended.
    pub(super) fn fail(&mut self, now: Millis, weight: u8, reason: String) -> bool {
        self.weight = self.weight.max(weight);
        let (since, failures) = match &self.trouble {
            // Several requests lost by one cut are one failure.
            Some(trouble) if now < trouble.next_try => return false,
            Some(trouble) => (trouble.since, trouble.failures.saturating_add(1)),
            None => (now, 1),
        };
        let doubled = self.patience.first_delay << (failures - 1).min(20);
        let delay = doubled.clamp(1, self.patience.longest_delay.max(1));
        // Between half and all of the delay, so that many agents do not come back at one instant.
        let delay = delay / 2 + (self.jitter)() % (delay / 2 + 1);
        self.trouble = Some(Trouble {
            since,
            reason,
            failures,
            next_try: Millis(now.0.saturating_add(delay)),
        });
        now.0.saturating_sub(since.0) >= self.patience.give_up_after
    }
}
