//! Any bytes as an image of a format that is guessed: `scripts/fuzz image_any`.
#![no_main]

#[path = "../entries/image.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(None, data));
