//! `scripts/fuzz luks`; see the entry.
#![no_main]

#[path = "../entries/luks.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(data));
