//! Paths inside a guest: bytes, absolute, with no way out.

use std::fmt;

/// An absolute path inside a guest, as bytes: `/boot/grub/grub.cfg`.
///
/// It is normalised: no empty component, no `.`; `..` is folded and stops at the root, as the
/// kernel does in `/`. The root itself has no components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GuestPath(Vec<u8>);

impl GuestPath {
    /// The root directory, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The path `text` means when it is looked up from the root.
    #[must_use]
    pub fn new(text: impl AsRef<[u8]>) -> Self {
        Self::root().join(text)
    }

    /// The path `relative` means when it is looked up from here. An absolute one starts anew.
    ///
    /// This folds `..` without looking at symbolic links; who resolves links does it component by
    /// component (see [`crate::mounts`]).
    #[must_use]
    pub fn join(&self, relative: impl AsRef<[u8]>) -> Self {
        let relative = relative.as_ref();
        let mut path = if relative.first() == Some(&b'/') {
            Self::root()
        } else {
            self.clone()
        };
        for component in relative.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => path.pop(),
                name => {
                    path.0.push(b'/');
                    path.0.extend_from_slice(name);
                }
            }
        }
        path
    }

    /// The components, from the root downwards.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
    }

    /// The directory it lies in; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        (!self.0.is_empty()).then(|| {
            let mut parent = self.clone();
            parent.pop();
            parent
        })
    }

    /// Its last component; `None` for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().last()
    }

    /// The rest of this path below `base`, if it lies there: `/boot/x` below `/boot` is `/x`.
    #[must_use]
    pub fn strip_prefix(&self, base: &GuestPath) -> Option<Self> {
        let rest = self.0.strip_prefix(base.0.as_slice())?;
        (rest.is_empty() || rest.first() == Some(&b'/')).then(|| Self(rest.to_vec()))
    }

    /// The bytes, beginning with `/`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        if self.0.is_empty() { b"/" } else { &self.0 }
    }

    fn pop(&mut self) {
        let cut = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.0.truncate(cut);
    }
}

impl From<&str> for GuestPath {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Printable: bytes that are not UTF-8 and control characters are escaped, so that a name from a
/// disk cannot write to the user's terminal.
impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() {
                    write!(f, "{}", c.escape_default())?
                } else {
                    write!(f, "{c}")?
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_root() {
        for (text, expected) in [
            ("/", "/"),
            ("", "/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("a/./b//c/", "/a/b/c"),
            ("/a/../../b", "/b"),
        ] {
            assert_eq!(GuestPath::new(text).to_string(), expected, "{text}");
        }
        assert_eq!(
            GuestPath::new("/etc").join("../boot"),
            GuestPath::new("/boot")
        );
        assert_eq!(
            GuestPath::new("/etc").join("/boot"),
            GuestPath::new("/boot")
        );
    }

    #[test]
    fn prefixes_end_at_components() {
        let boot = GuestPath::new("/boot");
        assert_eq!(
            GuestPath::new("/boot/x").strip_prefix(&boot),
            Some(GuestPath::new("/x"))
        );
        assert_eq!(
            GuestPath::new("/boot").strip_prefix(&boot),
            Some(GuestPath::root())
        );
        assert_eq!(GuestPath::new("/boot2/x").strip_prefix(&boot), None);
        let any = GuestPath::new("/any");
        assert_eq!(any.strip_prefix(&GuestPath::root()), Some(any.clone()));
    }

    #[test]
    fn control_characters_and_bytes_that_are_not_text_are_escaped() {
        assert_eq!(
            GuestPath::new(b"/a\n\x1b[31m\xff").to_string(),
            "/a\\n\\u{1b}[31m\\xff"
        );
    }
}
