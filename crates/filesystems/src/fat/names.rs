//! Names of FAT files: short ones of 8 and 3 characters, long ones in UTF-16, and how they are compared.

use std::collections::HashSet;

/// Code page 437, from 0x80: what short names are written in by DOS, and what Linux takes them for.
const CP437: [char; 128] = [
    'Ç', 'ü', 'é', 'â', 'ä', 'à', 'å', 'ç', 'ê', 'ë', 'è', 'ï', 'î', 'ì', 'Ä', 'Å', 'É', 'æ', 'Æ',
    'ô', 'ö', 'ò', 'û', 'ù', 'ÿ', 'Ö', 'Ü', '¢', '£', '¥', '₧', 'ƒ', 'á', 'í', 'ó', 'ú', 'ñ', 'Ñ',
    'ª', 'º', '¿', '⌐', '¬', '½', '¼', '¡', '«', '»', '░', '▒', '▓', '│', '┤', '╡', '╢', '╖', '╕',
    '╣', '║', '╗', '╝', '╜', '╛', '┐', '└', '┴', '┬', '├', '─', '┼', '╞', '╟', '╚', '╔', '╩', '╦',
    '╠', '═', '╬', '╧', '╨', '╤', '╥', '╙', '╘', '╒', '╓', '╫', '╪', '┘', '┌', '█', '▄', '▌', '▐',
    '▀', 'α', 'ß', 'Γ', 'π', 'Σ', 'σ', 'µ', 'τ', 'Φ', 'Θ', 'Ω', 'δ', '∞', 'φ', 'ε', '∩', '≡', '±',
    '≥', '≤', '⌠', '⌡', '÷', '≈', '°', '∙', '·', '√', 'ⁿ', '²', '■', '\u{A0}',
];

/// Most UTF-16 units of a long name. // fatgen103 "Long File Names"
const MOST_UNITS: usize = 255;

/// A short name as text, with the parts in lower case that `case` says (see
/// [`super::format::ShortEntry::case`]).
pub(crate) fn short_text(name: &[u8; 11], case: u8) -> Vec<u8> {
    let part = |bytes: &[u8], lower: bool| -> String {
        let end = bytes
            .iter()
            .rposition(|b| *b != b' ')
            .map_or(0, |at| at + 1);
        bytes
            .iter()
            .take(end)
            .map(|byte| match byte {
                0..0x80 if lower => char::from(byte.to_ascii_lowercase()),
                0..0x80 => char::from(*byte),
                high => CP437.get(usize::from(*high - 0x80)).copied().unwrap_or('_'),
            })
            .collect()
    };
    let mut name = *name;
    if name[0] == 0x05 {
        // 0xE5 marks a removed entry, so a name that begins with it has this instead.
        name[0] = 0xE5;
    }
    let mut text = part(&name[..8], case & 0x08 != 0);
    let extension = part(&name[8..], case & 0x10 != 0);
    if !extension.is_empty() {
        text.push('.');
        text.push_str(&extension);
    }
    text.into_bytes()
}

/// UTF-16 units as UTF-8; a surrogate without its partner as the three bytes it would have (WTF-8), so
/// that two different names stay different.
pub(crate) fn long_text(units: &[u16]) -> Vec<u8> {
    let mut text = Vec::new();
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(c) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let n = lone.unpaired_surrogate();
                text.extend([
                    0xE0 | (n >> 12) as u8,
                    0x80 | (n >> 6 & 63) as u8,
                    0x80 | (n & 63) as u8,
                ]);
            }
        }
    }
    text
}

/// Whether a name read from a directory can be part of a path.
pub(crate) fn is_component(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// A name so that two which FAT calls the same are equal.
pub(crate) fn fold(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(text) => text
            .chars()
            .map(|c| {
                // One character for one, as Windows' table has it.
                let mut upper = c.to_uppercase();
                match (upper.next(), upper.next()) {
                    (Some(one), None) => one,
                    _ => c,
                }
            })
            .collect::<String>()
            .into_bytes(),
        Err(_) => name.to_ascii_uppercase(),
    }
}

/// The UTF-16 units of a name that can be given to a file; `None` when it cannot.
pub(crate) fn units_of(name: &[u8]) -> Option<Vec<u16>> {
    let text = std::str::from_utf8(name).ok()?;
    let units: Vec<u16> = text.encode_utf16().collect();
    let bad = |c: char| (c as u32) < 0x20 || "\"*/:<>?\\|\u{7F}".contains(c);
    // Windows cuts blanks and dots at the end off, and then does not find the file.
    let fits = is_component(name)
        && units.len() <= MOST_UNITS
        && !text.contains(bad)
        && !text.ends_with([' ', '.'])
        && !text.starts_with(' ');
    fits.then_some(units)
}

/// A short name for `name` that is not among `taken`, and whether it says all of it, so that no long
/// name is needed. // fatgen103 "Short Name Generation"
pub(crate) fn short_name(name: &[u8], taken: &HashSet<[u8; 11]>) -> Option<([u8; 11], bool)> {
    let text = std::str::from_utf8(name).ok()?;
    let inner = text.trim_start_matches('.');
    let (stem, extension) = match inner.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => (stem, extension),
        _ => (inner, ""),
    };
    let mut lossy = inner.len() != text.len();
    let mut cut = |part: &str, most: usize| -> Vec<u8> {
        let mut out = Vec::new();
        for c in part.chars() {
            match c {
                ' ' | '.' => lossy = true,
                _ if out.len() == most => lossy = true,
                'A'..='Z' | 'a'..='z' | '0'..='9' => out.push(c.to_ascii_uppercase() as u8),
                _ if "$%'-_@~`!(){}^#&".contains(c) => out.push(c as u8),
                _ => {
                    out.push(b'_');
                    lossy = true;
                }
            }
        }
        out
    };
    let (stem, extension) = (cut(stem, 8), cut(extension, 3));
    let build = |stem: &[u8], tail: &[u8]| {
        let mut short = [b' '; 11];
        let stem = stem.iter().take(8 - tail.len()).chain(tail);
        short
            .iter_mut()
            .zip(stem)
            .for_each(|(to, from)| *to = *from);
        short[8..]
            .iter_mut()
            .zip(&extension)
            .for_each(|(to, from)| *to = *from);
        short
    };
    let plain = build(&stem, b"");
    if !lossy && !stem.is_empty() && !taken.contains(&plain) {
        return Some((plain, short_text(&plain, 0) == name));
    }
    (1..1_000_000_u32)
        .map(|n| build(&stem, format!("~{n}").as_bytes()))
        .find(|short| !taken.contains(short))
        .map(|short| (short, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_made_as_windows_makes_them() {
        let mut taken = HashSet::new();
        for (name, short, whole) in [
            ("BOOTX64.EFI", b"BOOTX64 EFI", true),
            ("grub.cfg", b"GRUB    CFG", false),
            ("The quick brown.fox", b"THEQUI~1FOX", false),
            ("The quick brown.foxes", b"THEQUI~2FOX", false),
            (".fsevents", b"FSEVEN~1   ", false),
            ("a+b.tar.gz", b"A_BTAR~1GZ ", false),
            ("EFI", b"EFI        ", true),
            ("efi", b"EFI~1      ", false),
        ] {
            let (made, all) = short_name(name.as_bytes(), &taken).unwrap();
            assert_eq!((&made, all), (short, whole), "{name}");
            taken.insert(made);
        }
    }

    #[test]
    fn names_windows_cannot_hold_are_refused() {
        for name in [
            "", ".", "..", "a:b", "tail.", "tail ", " head", "a\u{1}", "x\\y", "q?",
        ] {
            assert!(units_of(name.as_bytes()).is_none(), "{name:?}");
        }
        assert!(units_of(&[b'a'; 256]).is_none());
        assert!(units_of(&[b'a'; 255]).is_some());
        assert!(units_of("grün.txt".as_bytes()).is_some());
    }

    #[test]
    fn lone_surrogates_stay_apart() {
        assert_ne!(long_text(&[0xD800]), long_text(&[0xD801]));
        assert_eq!(long_text(&[0xD83D, 0xDE00]), "😀".as_bytes());
        assert_eq!(short_text(b"\x05AB     TXT", 0x18), "σab.txt".as_bytes());
    }
}
