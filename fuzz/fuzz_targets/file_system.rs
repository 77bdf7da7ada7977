//! `scripts/fuzz file_system`; see the entry.
#![no_main]

#[path = "../entries/file_system.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(data));
