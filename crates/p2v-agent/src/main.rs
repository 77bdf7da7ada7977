//! Reads this machine and sends its disks to a converter.
#![forbid(unsafe_code)]

fn main() {}
