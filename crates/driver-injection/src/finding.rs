//! What a person should know about a guest, besides the edits.

use serde::Serialize;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// May need a hand.
    Warning,
    /// The guest will probably not boot.
    Blocker,
}

/// Something seen in the guest that no edit mends, or that explains one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A short name that does not change, for rules and scripts: `fstab-absent-device`.
    pub code: &'static str,
    /// A sentence for people. Names from the guest are escaped.
    pub text: String,
}

impl Finding {
    /// Good to know.
    #[must_use]
    pub fn note(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, text)
    }

    /// May need a hand.
    #[must_use]
    pub fn warning(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, text)
    }

    /// The guest will probably not boot.
    #[must_use]
    pub fn blocker(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(Severity::Blocker, code, text)
    }

    fn new(severity: Severity, code: &'static str, text: impl Into<String>) -> Self {
        let text = escape_controls(&text.into());
        Self {
            severity,
            code,
            text,
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Blocker => "blocker",
        };
        write!(f, "{severity}: {} [{}]", self.text, self.code)
    }
}

/// Most findings of one code kept: a file of a million wrong lines is one problem.
const MOST_OF_ONE_CODE: usize = 20;

/// Add a finding, unless it is there already or there are enough of its code.
pub(crate) fn tell(findings: &mut Vec<Finding>, finding: Finding) {
    let same_code = findings
        .iter()
        .filter(|known| known.code == finding.code)
        .count();
    if findings.contains(&finding) || same_code > MOST_OF_ONE_CODE {
        return;
    }
    let last = same_code == MOST_OF_ONE_CODE;
    findings.push(if last {
        Finding {
            text: "and more of the same kind".to_owned(),
            ..finding
        }
    } else {
        finding
    });
}

/// The text with control characters escaped, so that nothing from a disk writes to a terminal.
#[must_use]
pub fn escape_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
