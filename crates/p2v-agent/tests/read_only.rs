//! The agent never writes to a disk: nothing in it opens a file for writing or knows a writable disk.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

/// What production code may not even name.
const WRITERS: [&str; 16] = [
    "BlockWrite",
    "FileDiskMut",
    "Overlay",
    "OpenOptions",
    "File::options",
    "File::create",
    ".write(true)",
    ".append(true)",
    ".create(true)",
    ".create_new(true)",
    ".truncate(true)",
    "fs::write",
    "fs::copy",
    "fs::rename",
    "fs::remove",
    "OFlags",
];

#[test]
fn nothing_opens_a_file_for_writing() {
    let mut files = 0;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![source];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            // Unit tests stand at the end of a file, and make their own scratch files.
            let code = text.split("#[cfg(test)]").next().unwrap();
            for writer in WRITERS {
                assert!(!code.contains(writer), "{} names {writer}", path.display());
            }
        }
    }
    assert!(files > 20, "only {files} files were looked at");
}
