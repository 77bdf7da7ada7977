//! `scripts/fuzz guest`; see the entry.
#![no_main]

#[path = "../entries/guest.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(data));
