//! Parallels disks: expanding images (`.hds`, older `.hdd` files), and the bundles they stand in.
//!
//! The specifications are QEMU's `docs/interop/parallels.rst` and `docs/interop/prl-xml.rst`, by the
//! format's owner; what this project does with them stands in `docs/formats/parallels.md`.

mod bundle;
mod check;
mod descriptor;
mod expanding;
mod format;
mod rules;
mod writer;

use std::path::{Path, PathBuf};

pub(crate) use bundle::open;
pub(crate) use check::check;
pub(crate) use descriptor::starts_descriptor;
pub(crate) use format::MAGICS;
pub(crate) use writer::bundle_files;
pub use writer::{BundleWriter, ParallelsWriter};

/// The file of a bundle that describes it.
pub(crate) const DESCRIPTOR: &str = "DiskDescriptor.xml";

/// The image in the bundle `path`, as it is written here: what QEMU opens of it.
#[must_use]
pub fn image_in_bundle(path: &Path) -> PathBuf {
    let [_, image] = bundle_files(path);
    image
}

/// The file to open for `path`: a bundle is a directory with a descriptor in it.
pub(crate) fn file_to_open(path: &Path) -> PathBuf {
    let descriptor = path.join(DESCRIPTOR);
    match path.is_dir() && descriptor.is_file() {
        true => descriptor,
        false => path.to_owned(),
    }
}
