//! What is done to the files of an output, as a witness sees it: for tests of what a crash leaves behind.

use std::fmt::Debug;

/// Sees every step. Called before the step is taken, from several threads.
pub trait Journal: Send + Sync + Debug {
    /// `step` is about to be taken with the output's file `file`.
    fn record(&self, file: usize, step: Step<'_>);
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Bytes are written.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// The file gets this length.
    SetLen(u64),
    /// All steps before are made durable.
    Sync,
    /// The file gets its real name.
    Publish,
}
