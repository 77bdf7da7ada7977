//! Any bytes to every decoder of `stream-protocol`: `cargo +nightly fuzz run stream_protocol`.
#![no_main]

#[path = "../entries/stream_protocol.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(data));
