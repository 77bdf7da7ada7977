//! The directory under which `/proc`, `/sys`, `/etc` and `/run` are read: `/` on a live machine, a
//! fixture tree in tests, the mounted system on a live medium.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// No file of `/proc` or `/sys` we read is longer; `/proc/cpuinfo` of 2,048 processors is 3 MB.
const LONGEST_FILE: u64 = 16 << 20;

/// A tree to read the inventory from. Missing or unreadable files are simply absent values: what an
/// old kernel, a container or an ordinary user cannot see never stops an inventory.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// The tree at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Whether this is the running machine itself, which can also be asked by system calls.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.path == Path::new("/")
    }

    /// `relative` below this root.
    #[must_use]
    pub fn join(&self, relative: &str) -> PathBuf {
        self.path.join(relative)
    }

    /// Whether `relative` exists.
    #[must_use]
    pub fn exists(&self, relative: &str) -> bool {
        self.join(relative).exists()
    }

    /// The bytes of a file.
    #[must_use]
    pub fn bytes(&self, relative: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.join(relative)).ok()?;
        file.take(LONGEST_FILE).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// A file as text, surrounding white space and NULs removed; `None` when there is nothing left.
    #[must_use]
    pub fn text(&self, relative: &str) -> Option<String> {
        let bytes = self.bytes(relative)?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A file that holds one decimal number.
    #[must_use]
    pub fn number<N: std::str::FromStr>(&self, relative: &str) -> Option<N> {
        self.text(relative)?.parse().ok()
    }

    /// A file that holds `0` or `1`.
    #[must_use]
    pub fn flag(&self, relative: &str) -> Option<bool> {
        self.number::<u64>(relative).map(|number| number != 0)
    }

    /// The names in a directory, sorted as people count: `sda sdb … sdaa`, `cpu2` before `cpu10`.
    #[must_use]
    pub fn names(&self, relative: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.join(relative)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_by(|a, b| (a.len(), a.as_str()).cmp(&(b.len(), b.as_str())));
        names
    }

    /// The last component of what a symbolic link points to.
    #[must_use]
    pub fn link_name(&self, relative: &str) -> Option<String> {
        let target = std::fs::read_link(self.join(relative)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Where a symbolic link of `/sys` leads, as text: the chain of buses a device hangs on.
    #[must_use]
    pub fn resolved(&self, relative: &str) -> Option<String> {
        let resolved = self.join(relative).canonicalize().ok()?;
        let below = resolved.strip_prefix(self.path.canonicalize().ok()?).ok()?;
        Some(below.to_str()?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("blank"), " \n").unwrap();
        std::fs::write(dir.path().join("word"), " seven \0\n").unwrap();
        let root = Root::new(dir.path());
        assert_eq!(root.text("missing"), None);
        assert_eq!(root.text("blank"), None);
        assert_eq!(root.text("word").as_deref(), Some("seven"));
        assert_eq!(root.number::<u64>("word"), None);
        assert!(root.names("missing").is_empty());
        assert_eq!(root.names(""), ["word", "blank"]);
    }
}
