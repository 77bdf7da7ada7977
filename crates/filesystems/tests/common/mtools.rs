//! FAT images filled and read by mtools.

use std::path::Path;

use super::oracle::host_tree;
use super::{run_ok, text};

/// Run one of the mtools on `image`.
pub fn mtools(tool: &str, image: &Path, args: &[&str]) -> String {
    let mut all = vec![
        "MTOOLS_SKIP_CHECK=1",
        "LC_ALL=C.UTF-8",
        tool,
        "-i",
        text(image),
    ];
    all.extend(args);
    run_ok("env", &all)
}

/// Fill with mtools, then remove some files, so that chains are fragmented.
pub fn fill(image: &Path, from: &Path) {
    let mut args = vec!["-s", "-Q", "-m"];
    let entries: Vec<_> = std::fs::read_dir(from)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    args.extend(entries.iter().map(|path| text(path)));
    args.push("::");
    mtools("mcopy", image, &args);
    mtools(
        "mdel",
        image,
        &["::etc/FILE0.BIN", "::EFI/BOOT/FILE9.BIN", "::etc/n8"],
    );
    mtools(
        "mcopy",
        image,
        &[text(&from.join("etc/FILE24.BIN")), "::/late.bin"],
    );
}

/// All files of `image`.
pub fn read_back(image: &Path) -> std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let out = tempfile::tempdir().unwrap();
    mtools("mcopy", image, &["-s", "-n", "::*", text(out.path())]);
    host_tree(out.path())
}
