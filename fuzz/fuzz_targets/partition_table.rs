//! `scripts/fuzz partition_table`; see the entry.
#![no_main]

#[path = "../entries/partition_table.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(data));
