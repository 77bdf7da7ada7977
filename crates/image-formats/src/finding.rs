//! What is wrong with an image: which rule it breaks, where, what was expected and what was found.

use std::fmt;

/// A rule an image file can break. Every way its bytes can lie is a rule of its own.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// A short name for matching, `qcow2.l2-alignment`.
    pub id: &'static str,
    /// What must hold, as a sentence without a full stop.
    pub says: &'static str,
    /// The document and section it comes from.
    pub spec: &'static str,
}

/// The rules of a format: constants of type `&Rule`, their identifiers led by the format's name.
macro_rules! rules {
    ($format:literal, $spec:literal; $($name:ident = $id:literal, $says:literal, $section:literal;)*) => {$(
        pub(crate) const $name: &crate::finding::Rule = &crate::finding::Rule {
            id: concat!($format, ".", $id),
            says: $says,
            spec: concat!($spec, ", ", $section),
        };
    )*};
}
pub(crate) use rules;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; the data are right.
    Note,
    /// Against the rules, or space lost; the data are right.
    Warning,
    /// Data are wrong or cannot be read.
    Error,
}

/// A broken rule, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule.
    pub rule: &'static Rule,
    /// The byte of the file where it shows.
    pub offset: u64,
    /// What should stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl Finding {
    /// An error against `rule` at `offset`.
    pub fn error(
        rule: &'static Rule,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            rule,
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The same finding, not as bad.
    #[must_use]
    pub fn with(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule,
            offset,
            expected,
            found,
            ..
        } = self;
        write!(
            f,
            "{}: at byte {offset}: expected {expected}, found {found} ({}; rule {})",
            rule.says, rule.spec, rule.id
        )
    }
}
