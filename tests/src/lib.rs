//! End-to-end tests live in `tests/`; this library holds what they share.
#![forbid(unsafe_code)]

pub mod guest;
pub mod qemu;
pub mod simulation;
