//! What tests are held against: foreign programs and fixtures that others made.
//!
//! A test that misses one says so by name and counts as skipped. With `P2V_REQUIRE_TOOLS=1`, as in CI, it
//! fails instead. Used by tests only.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Directories of system programs that a user's `PATH` may lack.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Say that `test` is skipped because it needs `needs`.
///
/// # Panics
/// With `P2V_REQUIRE_TOOLS=1`: then nothing may be missing.
pub fn skip(test: &str, needs: &str) {
    assert!(
        std::env::var_os("P2V_REQUIRE_TOOLS").is_none_or(|value| value != "1"),
        "{test} needs {needs}, and P2V_REQUIRE_TOOLS=1 lets no test be skipped"
    );
    println!("SKIPPED {test}: needs {needs}");
}

/// Where a program lies: on the `PATH` or among the system's programs.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

/// A `PATH` on which the system's programs are found too, for a command that calls them by name.
#[must_use]
pub fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:{}", SYSTEM_DIRECTORIES.join(":"))
}

/// Whether all `tools` are there; if not, `test` is to end, as it was [skipped](skip).
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn has_tools(test: &str, tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|t| find_program(t).is_none()).collect();
    if !missing.is_empty() {
        skip(test, &format!("{missing:?}"));
    }
    missing.is_empty()
}

/// A Python that has `module`: the first on the `PATH`, or the system's own, whose modules are its
/// packages. If there is none, `test` is to end, as it was [skipped](skip).
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn python_with(test: &str, module: &str) -> Option<PathBuf> {
    let has_module = |python: &PathBuf| {
        Command::new(python)
            .args(["-c", &format!("import {module}")])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let on_path = find_program("python3");
    let found = on_path
        .into_iter()
        .chain([PathBuf::from("/usr/bin/python3")])
        .find(has_module);
    if found.is_none() {
        skip(test, &format!("python3 with {module}"));
    }
    found
}

/// Where the fixture `relative` lies, below `P2V_FIXTURES` or beside the checkout. If it is not there,
/// `test` is to end, as it was [skipped](skip).
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn fixture(test: &str, relative: &str) -> Option<PathBuf> {
    let root = std::env::var_os("P2V_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures"),
        PathBuf::from,
    );
    let found = root.join(relative);
    if found.exists() {
        return Some(found);
    }
    skip(test, &format!("the fixture {relative}"));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_missing_ones_are_not() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-anywhere"), None);
        assert!(has_tools("this test", &["sh", "ls"]));
    }
}
