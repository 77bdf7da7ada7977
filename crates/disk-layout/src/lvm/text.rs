//! The text format that LVM2 keeps its metadata in: names, numbers, strings, lists and sections.
// LVM2 libdm/libdm-config.c, lvm.conf(5).

use std::collections::BTreeMap;

/// Sections nest four deep in metadata.
const DEEPEST: u32 = 10;

/// Why a text is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SyntaxError {
    /// Something else stands where it should not.
    #[error("line {line}, byte {at}: expected {expected}, found {found}")]
    Unexpected {
        /// The line, from 1.
        line: usize,
        /// The byte of the text.
        at: usize,
        /// What should stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// A name is given twice in one section.
    #[error("line {line}: {name} is given twice in one section")]
    Twice {
        /// The line, from 1.
        line: usize,
        /// The name.
        name: String,
    },
    /// Sections in sections in sections.
    #[error("line {line}: sections nested more than 10 deep")]
    TooDeep {
        /// The line, from 1.
        line: usize,
    },
}

/// A value of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
}

/// A section: values and further sections by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Section {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) sections: BTreeMap<String, Section>,
}

/// Read a whole text. Zero bytes at its end are part of how it is stored.
pub(super) fn parse(text: &[u8]) -> Result<Section, SyntaxError> {
    let end = text.iter().rposition(|c| *c != 0).map_or(0, |at| at + 1);
    let mut reader = Reader {
        text: text.get(..end).unwrap_or_default(),
        at: 0,
    };
    reader.section(0)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Only for errors: counts from the start.
    fn line(&self) -> usize {
        let before = self.text.get(..self.at).unwrap_or_default();
        1 + before.iter().filter(|c| **c == b'\n').count()
    }

    fn unexpected(&self, expected: &'static str) -> SyntaxError {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some(c) => format!("{:?}", char::from(c)),
        };
        SyntaxError::Unexpected {
            line: self.line(),
            at: self.at,
            expected,
            found,
        }
    }

    fn skip_blanks(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b'#' => {
                    while self.peek().is_some_and(|c| c != b'\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        let taken = self.peek() == Some(wanted);
        self.at += usize::from(taken);
        taken
    }

    /// Names and values up to the brace that ends the section, or to the end of the outermost.
    fn section(&mut self, depth: u32) -> Result<Section, SyntaxError> {
        if depth > DEEPEST {
            return Err(SyntaxError::TooDeep { line: self.line() });
        }
        let mut section = Section::default();
        loop {
            self.skip_blanks();
            match self.peek() {
                None if depth == 0 => return Ok(section),
                Some(b'}') if depth > 0 => {
                    self.at += 1;
                    return Ok(section);
                }
                _ => {}
            }
            let name = self.name()?;
            if section.values.contains_key(&name) || section.sections.contains_key(&name) {
                return Err(SyntaxError::Twice {
                    line: self.line(),
                    name,
                });
            }
            self.skip_blanks();
            if self.take(b'{') {
                let inner = self.section(depth + 1)?;
                section.sections.insert(name, inner);
            } else if self.take(b'=') {
                self.skip_blanks();
                let value = self.value()?;
                section.values.insert(name, value);
            } else {
                return Err(self.unexpected("'=' or '{'"));
            }
        }
    }

    fn name(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        let known = |c: u8| c.is_ascii_alphanumeric() || b"_.+-/@:".contains(&c);
        while self.peek().is_some_and(known) {
            self.at += 1;
        }
        match self.text.get(start..self.at) {
            Some(name) if !name.is_empty() => Ok(String::from_utf8_lossy(name).into_owned()),
            _ => Err(self.unexpected("a name")),
        }
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        if !self.take(b'[') {
            return self.scalar();
        }
        let mut list = Vec::new();
        loop {
            self.skip_blanks();
            if self.take(b']') {
                return Ok(Value::List(list));
            }
            list.push(self.scalar()?);
            self.skip_blanks();
            if !self.take(b',') && self.peek() != Some(b']') {
                return Err(self.unexpected("',' or ']'"));
            }
        }
    }

    fn scalar(&mut self) -> Result<Value, SyntaxError> {
        if self.take(b'"') {
            return self.string();
        }
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok());
        number.map(Value::Number).ok_or_else(|| {
            self.at = start;
            self.unexpected("a number, a string or a list")
        })
    }

    /// The rest of a string, with its escapes undone.
    fn string(&mut self) -> Result<Value, SyntaxError> {
        let mut bytes = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()));
                }
                Some(b'\\') => {
                    self.at += 1;
                    let Some(escaped) = self.peek() else {
                        return Err(self.unexpected("an escaped character"));
                    };
                    bytes.push(escaped);
                }
                Some(b'\n') | None => return Err(self.unexpected("the end of a string")),
                Some(c) => bytes.push(c),
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn names_numbers_strings_lists_and_sections() {
        let parsed = parse(
            b"# comment\nvg {\nid = \"a-b\"\nseqno = -3\nlist = [\"x\", 0, \n \"y\"]\nnone = []\n\
              sub-1 { a = \"q\\\"\\\\\" } # more\n}\ncontents = \"c\"\n\0\0",
        )
        .unwrap();
        assert_eq!(parsed.values["contents"], text("c"));
        let vg = &parsed.sections["vg"];
        assert_eq!(vg.values["seqno"], Value::Number(-3));
        assert_eq!(
            vg.values["list"],
            Value::List(vec![text("x"), Value::Number(0), text("y")])
        );
        assert_eq!(vg.values["none"], Value::List(vec![]));
        assert_eq!(vg.sections["sub-1"].values["a"], text("q\"\\"));
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_place() {
        let wrong = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        assert_eq!(
            wrong(b"a = 1\nb 2"),
            "line 2, byte 8: expected '=' or '{', found '2'"
        );
        assert_eq!(
            wrong(b"a {"),
            "line 1, byte 3: expected a name, found the end"
        );
        assert_eq!(
            wrong(b"a = 1 a = 2"),
            "line 1: a is given twice in one section"
        );
        assert!(wrong(b"a = \"x").contains("the end of a string"));
        assert!(wrong(b"a = [1 2]").contains("',' or ']'"));
        assert!(wrong(b"a = 99999999999999999999").contains("a number"));
        assert!(wrong(b"}").contains("a name"));
        let deep = "a {".repeat(10_000);
        assert_eq!(
            wrong(deep.as_bytes()),
            "line 1: sections nested more than 10 deep"
        );
    }
}
