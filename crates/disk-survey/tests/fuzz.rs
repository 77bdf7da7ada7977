//! The entry of the fuzz target `partition_table`, on mutations of tables that a seed decides.
//! `P2V_FUZZ_SECONDS` says for how long; `scripts/fuzz` runs the same entry with coverage.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../../fuzz/entries/partition_table.rs"]
mod entry;
#[path = "../../../fuzz/entries/mutate.rs"]
mod mutate;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn mutated_partition_tables() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let mut seeds = Vec::new();
    for script in [
        "label: gpt\nstart=64,size=100\nsize=50\n",
        "label: dos\nstart=8,size=100,bootable\nstart=120,size=200,type=5\nstart=130,size=20\n",
    ] {
        std::fs::File::create(&disk)
            .unwrap()
            .set_len(200 << 10)
            .unwrap();
        let child = Command::new("sfdisk")
            .arg("-q")
            .arg(&disk)
            .stdin(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            test_oracles::skip("mutated_partition_tables", "sfdisk");
            return;
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
        seeds.push(std::fs::read(&disk).unwrap());
    }
    assert!(mutate::run(&seeds, Duration::from_secs(4), entry::feed) >= 100);
}
