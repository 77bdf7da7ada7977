//! Make a guest boot elsewhere, offline: inspect, plan, apply.
#![forbid(unsafe_code)]
