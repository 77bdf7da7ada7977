//! File names for names that others chose.
//!
//! A machine may be called `../../etc`, nothing at all, or 300 bytes of line feeds. What lies on the
//! disk is a readable rest of the name and a hash of all of it, so two names never meet in one
//! directory, not even on a file system that does not tell `a` from `A`.

/// How many characters of the name are kept for the reader.
const READABLE: usize = 32;
/// Bytes of the hash that go into the file name: 128 bits, as nobody can aim at a collision of a
/// name that an operator must accept first.
const HASHED: usize = 16;

/// A file name for `name`: 1 to 32 characters of `[a-z0-9_-]`, a `.`, and 32 hex digits.
pub(crate) fn encode(name: &str) -> String {
    let mut encoded: String = name
        .chars()
        .take(READABLE)
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '-') => c,
            _ => '_',
        })
        .collect();
    if encoded.is_empty() {
        encoded.push('_');
    }
    encoded.push('.');
    for byte in blake3::hash(name.as_bytes()).as_bytes().iter().take(HASHED) {
        encoded.push_str(&format!("{byte:02x}"));
    }
    encoded
}

/// Whether `text` is something [`encode`] can have answered.
pub(crate) fn is_encoded(text: &str) -> bool {
    let Some((readable, hash)) = text.split_once('.') else {
        return false;
    };
    (1..=READABLE).contains(&readable.len())
        && readable
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        && hash.len() == HASHED * 2
        && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hostile_names_become_distinct_harmless_file_names() {
        let long = "x".repeat(300);
        let names = [
            "",
            ".",
            "..",
            "../../etc",
            "a b",
            "a\nb",
            "A",
            "a",
            "wéb",
            "web01",
            "/",
            "a/b",
            "\0",
            "-rf",
            &long,
            "CON",
            "a.json",
            "🖥",
        ];
        let mut seen = HashSet::new();
        for name in names {
            let file = encode(name);
            assert!(is_encoded(&file), "{name:?} gives {file:?}");
            assert!(file.len() <= 65 && !file.starts_with('.') && !file.contains('/'));
            assert!(seen.insert(file), "{name:?} meets another name");
        }
        assert!(!is_encoded("../x.00"));
        assert!(!is_encoded("web01"));
    }
}
