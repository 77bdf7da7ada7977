//! File names made from machine names: names come from the network and from disks, and no name may
//! lead out of the output directory, hide a file or break a script.

/// Longest file name stem we make, in bytes: leaves room for `-disk12.qcow2.part` in 255.
const LONGEST: usize = 120;

/// A file name stem for the machine `name`: letters, digits, `.`, `_` and `-` are kept, the rest
/// becomes `_`. Never empty, never hidden, never an option.
///
/// Two machines can end up with the same stem; outputs that exist are refused, so neither is lost.
#[must_use]
pub fn file_stem(name: &str) -> String {
    let mut stem: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(LONGEST)
        .collect();
    if stem.starts_with(['.', '-']) {
        stem.replace_range(..1, "_");
    }
    if stem.is_empty() {
        "machine".to_owned()
    } else {
        stem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["web01", "db-2.example.org", "PAY_ROLL"] {
            assert_eq!(file_stem(name), name);
        }
    }

    #[test]
    fn no_name_leads_out_hides_or_becomes_an_option() {
        for (name, stem) in [
            ("../../etc/passwd", "_._.._etc_passwd"),
            ("a b\nc", "a_b_c"),
            ("", "machine"),
            (".hidden", "_hidden"),
            ("-rf", "_rf"),
            ("..", "_."),
            ("/", "_"),
            ("büro", "b_ro"),
        ] {
            assert_eq!(file_stem(name), stem, "{name:?}");
        }
        assert_eq!(file_stem(&"x".repeat(5000)).len(), LONGEST);
    }
}
