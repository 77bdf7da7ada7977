//! Any bytes as a Vhdx image, opened, mapped, read and checked: `scripts/fuzz image_vhdx`.
#![no_main]

#[path = "../entries/image.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(
    Some(image_formats::ImageFormat::Vhdx),
    data
));
