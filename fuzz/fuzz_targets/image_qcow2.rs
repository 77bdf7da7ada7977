//! Any bytes as a Qcow2 image, opened, mapped, read and checked: `scripts/fuzz image_qcow2`.
#![no_main]

#[path = "../entries/image.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(
    Some(image_formats::ImageFormat::Qcow2),
    data
));
