//! Protocol and store together, where one seed decides everything that happens.
//!
//! The agent's state machine, the server's, what `p2v serve` puts between it and the store, and the
//! store run unchanged; clock, network and disk are
//! simulated. There are no threads, so the order of steps is the seed's alone. What may go wrong:
//! requests and answers are lost, late, doubled and overtake each other; the server is killed or loses
//! its power at any write; the disk is full, or fails reads, writes and syncs; what was not synced is
//! torn or gone; the agent is killed and its source has changed when it comes back; garbage is
//! collected in between.
//!
//! What must hold ([`Violation`] says what did not):
//! - a finished push reads back bit for bit, after whatever follows;
//! - a push that is not finished can be gone on with: no entry that was confirmed is lost;
//! - no chunk is sent again whose entry was confirmed;
//! - when nothing goes wrong any more, the push ends.

mod source;
mod world;

use std::fmt;

pub use world::Plant;

/// What a simulation did, to compare two runs and to see that it was not idle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Pushes that were finished.
    pub finished: u64,
    /// Times the server was killed, lost its power or could not open its store.
    pub server_crashes: u64,
    /// Times the agent was killed.
    pub agent_crashes: u64,
    /// Requests or answers that were lost.
    pub lost: u64,
    /// Requests that were refused for lack of room.
    pub full: u64,
    /// Chunks sent, each as often as it was.
    pub chunks_sent: u64,
    /// A hash over every step: equal runs, equal traces.
    pub trace: u64,
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Run the simulation of `seed`, with a bug planted in it or none.
///
/// # Errors
/// The first promise that was not kept.
pub fn simulate(seed: u64, plant: Plant) -> Result<Outcome, Violation> {
    world::World::new(seed, plant).run()
}
