//! Lines of fstab and crypttab, which keep their spacing and comments when a field changes.
//!
//! [fstab(5)], [crypttab(5)]: fields are separated by blanks and tabs, `#` starts a comment line, and
//! `\040` stands for a blank inside a field.

use std::ops::Range;

use filesystems::path::GuestPath;

/// One line of a table, its fields as ranges of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLine {
    /// Its number, from 1.
    pub number: usize,
    /// Where its fields lie in the text.
    pub fields: Vec<Range<usize>>,
}

/// The lines of `text` that hold fields.
#[must_use]
pub fn table_lines(text: &[u8]) -> Vec<TableLine> {
    let mut lines = Vec::new();
    let mut start = 0;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let mut fields: Vec<Range<usize>> = Vec::new();
        let mut inside = false;
        for (column, byte) in line.iter().enumerate() {
            let at = start + column;
            match byte {
                b' ' | b'\t' | b'\r' => inside = false,
                _ if inside => {
                    if let Some(field) = fields.last_mut() {
                        field.end = at + 1;
                    }
                }
                _ => {
                    fields.push(at..at + 1);
                    inside = true;
                }
            }
        }
        let comment = fields
            .first()
            .is_some_and(|field| text.get(field.start) == Some(&b'#'));
        if !fields.is_empty() && !comment {
            let number = index + 1;
            lines.push(TableLine { number, fields });
        }
        start += line.len() + 1;
    }
    lines
}

/// A field with `\040` and its like undone.
#[must_use]
pub fn unescape_octal(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0u32, |n, d| n * 8 + u32::from(d - b'0'));
                out.push(value as u8);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// Put `new` where `field` stands, taking what it is longer (or giving what it is shorter) from the
/// blanks behind it, so that the columns stay. Tabs stay as they are. The next field, if there is
/// one, stays apart by at least one blank.
#[must_use]
pub fn replace_field(text: &[u8], field: &Range<usize>, new: &[u8]) -> Vec<u8> {
    let after = text.get(field.end..).unwrap_or_default();
    let blanks = after.iter().take_while(|byte| **byte == b' ').count();
    let at_end = matches!(after.get(blanks), None | Some(b'\n' | b'\r' | b'\t'));
    let width = field.len() + blanks;
    let pad = if blanks <= 1 || at_end {
        blanks
    } else {
        width.saturating_sub(new.len()).max(1)
    };
    let mut out = text.get(..field.start).unwrap_or_default().to_vec();
    out.extend_from_slice(new);
    out.resize(out.len() + pad, b' ');
    out.extend_from_slice(&after[blanks..]);
    out
}

/// One mount fstab asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// Line number, from 1.
    pub number: usize,
    /// The device as written.
    pub device: String,
    /// Where it is mounted; `None` for swap and `none`.
    pub at: Option<GuestPath>,
    /// Type of file system, as written.
    pub kind: String,
    /// Options, as written.
    pub options: String,
}

/// The mounts fstab asks for, and what is wrong with the lines that make no sense.
#[must_use]
pub fn read_fstab(text: &[u8]) -> (Vec<MountLine>, Vec<String>) {
    let mut mounts = Vec::new();
    let mut nonsense = Vec::new();
    for line in table_lines(text) {
        let field = |index: usize| {
            let range = line.fields.get(index)?.clone();
            Some(unescape_octal(text.get(range)?))
        };
        let number = line.number;
        let (Some(device), Some(at), Some(kind)) = (field(0), field(1), field(2)) else {
            nonsense.push(format!(
                "line {number}: {} fields, expected at least 3",
                line.fields.len()
            ));
            continue;
        };
        let at = match at.first() {
            Some(b'/') => Some(GuestPath::new(&at)),
            _ if kind == b"swap" || at == b"none" || at == b"swap" => None,
            _ => {
                nonsense.push(format!(
                    "line {number}: mount point {:?} is not absolute",
                    String::from_utf8_lossy(&at)
                ));
                continue;
            }
        };
        let text_of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        mounts.push(MountLine {
            number,
            device: text_of(device),
            at,
            kind: text_of(kind),
            options: field(3).map(text_of).unwrap_or_default(),
        });
    }
    (mounts, nonsense)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(text: &str, new: &str) -> String {
        let lines = table_lines(text.as_bytes());
        let out = replace_field(text.as_bytes(), &lines[0].fields[0], new.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_stay_where_they_are_as_long_as_they_can() {
        assert_eq!(
            replace("/dev/sda1      / ext4\n", "UUID=12345"),
            "UUID=12345     / ext4\n"
        );
        assert_eq!(
            replace("/dev/sda1  / ext4\n", "UUID=123456789"),
            "UUID=123456789 / ext4\n"
        );
        assert_eq!(
            replace("/dev/sda1 / ext4", "UUID=1234567"),
            "UUID=1234567 / ext4"
        );
        assert_eq!(
            replace("/dev/sda1\t/\text4", "UUID=1234567"),
            "UUID=1234567\t/\text4"
        );
        assert_eq!(
            replace("LABEL=averylongone   /", "UUID=1"),
            "UUID=1               /"
        );
        assert_eq!(replace("/dev/sda1   \n", "UUID=1"), "UUID=1   \n");
    }

    #[test]
    fn nonsense_lines_are_findings_and_the_rest_is_read() {
        let text = b"# comment\n/dev/sda1 / ext4 defaults 0 1\n\njust-one\nUUID=x relative ext4\n\
            /dev/sdb1 /with\\040blank vfat\n/dev/sda2 none swap sw\n\xff\xfe /x y\r\n";
        let (mounts, nonsense) = read_fstab(text);
        let seen: Vec<_> = mounts.iter().map(|m| (m.number, m.at.clone())).collect();
        let path = |text: &str| Some(GuestPath::new(text));
        assert_eq!(
            seen,
            [
                (2, path("/")),
                (6, path("/with blank")),
                (7, None),
                (8, path("/x"))
            ]
        );
        assert_eq!(nonsense.len(), 2, "{nonsense:?}");
        assert!(nonsense[1].contains("line 5"), "{nonsense:?}");
    }

    #[test]
    fn octal_escapes_are_undone_only_when_whole() {
        assert_eq!(unescape_octal(b"a\\040b\\1\\"), b"a b\\1\\");
    }
}
