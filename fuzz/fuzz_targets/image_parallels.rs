//! Any bytes as a Parallels image, opened, mapped, read and checked: `scripts/fuzz image_parallels`.
#![no_main]

#[path = "../entries/image.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::feed(
    Some(image_formats::ImageFormat::Parallels),
    data
));
