//! The gate: which files an image may make us open.
//!
//! An image names other files: the image below it, the files its data lie in. The name comes out of
//! the image, and so from a stranger. Nothing in this crate opens such a name without asking the
//! [`OpenGate`] its caller passed.

use std::path::{Component, Path, PathBuf};

/// Images over images, at most.
pub const MAX_DEPTH: u32 = 64;

/// Entries of a folder that are looked at for siblings, at most.
const MAX_ENTRIES: usize = 10_000;

/// Decides whether a name found inside an image may be opened, and which file it is.
pub trait OpenGate: Sync {
    /// The file that `name`, found inside the image `image`, stands for.
    ///
    /// # Errors
    /// [`GateError`] when it must not be opened.
    fn admit(&self, name: &str, image: &Path) -> Result<PathBuf, GateError>;

    /// Names of files with the ending `.extension` beside `image` that may be looked into, for formats
    /// that name what lies below by an identifier alone. Each still goes through [`OpenGate::admit`].
    fn siblings(&self, _image: &Path, _extension: &str) -> Vec<String> {
        Vec::new()
    }
}

/// Why the gate stayed shut.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum GateError {
    /// The name leads out of the image's folder.
    #[error("{name:?} is not a file in the folder of the image")]
    Outside {
        /// The name, as the image gives it.
        name: String,
    },
    /// A link in the folder leads out of it.
    #[error("{name:?} is a link that leads out of the folder of the image")]
    Link {
        /// The name, as the image gives it.
        name: String,
    },
    /// The gate lets nothing through.
    #[error("{name:?} must not be opened: the image was to stand alone")]
    Closed {
        /// The name, as the image gives it.
        name: String,
    },
    /// Too many images over images, or a circle of them.
    #[error(
        "{name:?} is more than {MAX_DEPTH} images deep, or the images name each other in a circle"
    )]
    TooDeep {
        /// The name, as the image gives it.
        name: String,
    },
}

/// Lets plain names of files in the image's own folder through. The default.
#[derive(Debug, Clone, Copy, Default)]
pub struct SameFolder;

impl OpenGate for SameFolder {
    fn admit(&self, name: &str, image: &Path) -> Result<PathBuf, GateError> {
        let plain = name.strip_prefix("./").unwrap_or(name);
        let mut components = Path::new(plain).components();
        let alone = matches!(
            (components.next(), components.next()),
            (Some(Component::Normal(_)), None)
        );
        if !alone || plain.contains(['/', '\\', ':', '\0']) {
            return Err(GateError::Outside {
                name: name.to_owned(),
            });
        }
        let folder = folder_of(image);
        let path = folder.join(plain);
        // A file that is not there fails when it is opened, with the operating system's words.
        if let (Ok(real), Ok(folder)) = (path.canonicalize(), folder.canonicalize())
            && real.parent() != Some(&folder)
        {
            return Err(GateError::Link {
                name: name.to_owned(),
            });
        }
        Ok(path)
    }

    fn siblings(&self, image: &Path, extension: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(folder_of(image)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .take(MAX_ENTRIES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| {
                let ending = Path::new(name).extension();
                ending.is_some_and(|ending| ending.eq_ignore_ascii_case(extension))
            })
            .collect();
        names.sort();
        names
    }
}

fn folder_of(image: &Path) -> &Path {
    match image.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Lets nothing through.
#[derive(Debug, Clone, Copy, Default)]
pub struct StandAlone;

impl OpenGate for StandAlone {
    fn admit(&self, name: &str, _image: &Path) -> Result<PathBuf, GateError> {
        Err(GateError::Closed {
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_of_the_same_folder_pass() {
        let image = Path::new("/vms/web01/disk.qcow2");
        for name in ["base.raw", "./base.raw", "a b\n.raw", "..raw"] {
            assert!(SameFolder.admit(name, image).is_ok(), "{name:?}");
        }
        for name in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "../base.raw",
            "sub/base.raw",
            "sub/../base.raw",
            "nbd://host/x",
            "json:{}",
            "c:\\base.vhd",
            "\\\\host\\x",
            "a\0b",
            "./../x",
            ".//etc/passwd",
        ] {
            let error = SameFolder.admit(name, image).unwrap_err();
            assert!(
                matches!(error, GateError::Outside { .. }),
                "{name:?}: {error}"
            );
        }
    }

    #[test]
    fn a_link_out_of_the_folder_is_refused_one_inside_passes() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.qcow2");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        std::fs::write(dir.path().join("base"), "").unwrap();
        std::os::unix::fs::symlink("base", dir.path().join("in")).unwrap();
        let error = SameFolder.admit("out", &image).unwrap_err();
        assert!(matches!(error, GateError::Link { .. }), "{error}");
        assert!(SameFolder.admit("in", &image).is_ok());
        assert!(StandAlone.admit("in", &image).is_err());
    }
}
