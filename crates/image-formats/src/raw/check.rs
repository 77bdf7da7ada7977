//! Checks a raw image: there is little that can be wrong.

use crate::check::{Tally, note, warning};
use crate::detect::{ImageFormat, detect};
use crate::error::ParseError;
use crate::image::ImageFile;

mod rules {
    crate::finding::rules! {
        "raw", "docs/formats/raw.md";
        SECTORS = "sectors", "a disk is whole sectors of 512 bytes", "Size";
        EMPTY = "empty", "a disk has bytes", "Size";
        LOOKS = "looks-like", "the first bytes are not the header of another format", "Guessing";
    }
}

/// Check `file`.
pub(crate) fn check(file: &ImageFile, guessed: bool, tally: &mut Tally) -> Result<(), ParseError> {
    let size = file.disk.size();
    if size == 0 {
        tally.tell(warning(rules::EMPTY, 0, "bytes", "none"));
    }
    if !size.is_multiple_of(512) {
        let expected = format!("{} bytes", size.next_multiple_of(512));
        tally.tell(warning(rules::SECTORS, size, expected, size.to_string()));
    }
    // A guest that owns the disk can write any header: only a program that guesses is misled.
    if !guessed {
        let looks = detect(&file.disk)?;
        if looks != ImageFormat::Raw {
            let found = format!("a header of {}", looks.qemu_name());
            tally.tell(note(rules::LOOKS, 0, "no header", found));
        }
    }
    Ok(())
}
