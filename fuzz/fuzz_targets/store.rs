//! `scripts/fuzz store`; see the entry.
#![no_main]

#[path = "../entries/store.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(data));
