//! The entry of the fuzz target `file_system`, on mutations of small real file systems that a seed decides.
//! `P2V_FUZZ_SECONDS` says for how long; `scripts/fuzz` runs the same entry with coverage.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

#[path = "../../../fuzz/entries/file_system.rs"]
mod entry;
#[path = "../../../fuzz/entries/mutate.rs"]
mod mutate;

use std::process::Command;
use std::time::Duration;

#[test]
fn mutated_file_systems() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("d")).unwrap();
    std::fs::write(root.join("big"), vec![7; 30_000]).unwrap();
    std::fs::write(root.join("d/small"), "x").unwrap();
    std::os::unix::fs::symlink("big", root.join("link")).unwrap();
    let mut seeds = Vec::new();
    for options in ["-t ext2 -b 1024", "-t ext4 -b 1024 -O ^has_journal"] {
        let image = dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(400 << 10)
            .unwrap();
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-N", "64", "-d"])
            .arg(&root)
            .args(options.split(' '))
            .arg(&image)
            .status();
        let Ok(made) = made else {
            test_oracles::skip("mutated_file_systems", "mke2fs");
            return;
        };
        assert!(made.success());
        seeds.push(std::fs::read(&image).unwrap());
    }
    assert!(mutate::run(&seeds, Duration::from_secs(4), entry::feed) >= 100);
}
