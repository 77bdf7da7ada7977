#![allow(clippy::unwrap_used)] // Integration tests: a failure is a failed test.
//! What is pushed reads back, resumes, and is deduplicated.

mod common;

use block_io::conformance::check_reads;
use chunk_store::{Begun, Store, StoreError};
use common::{Source, disk_info, push_all};

#[test]
fn a_pushed_disk_reads_back_bit_for_bit_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::with_holes(1, 3 << 20);
    let snapshot = {
        let store = Store::open(dir.path()).unwrap();
        push_all(&store, "web01", "key", std::slice::from_ref(&source))
    };
    let store = Store::open(dir.path()).unwrap();
    let listing = store.snapshots().unwrap();
    assert_eq!(listing.snapshots, [snapshot]);
    let disk = store.open_disk(&listing.snapshots[0], 0).unwrap();
    check_reads(&disk, &source.bytes);
    assert!(store.mended().is_empty(), "{:?}", store.mended());
}

#[test]
fn two_processes_or_two_pushes_do_not_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let disks = [disk_info("sda", 4096)];
    let first = store
        .begin_push("m", "a", &disks, &serde_json::Value::Null)
        .unwrap();
    let error = store
        .begin_push("m", "b", &disks, &serde_json::Value::Null)
        .unwrap_err();
    assert!(matches!(error, StoreError::MachineBusy { .. }), "{error}");
    assert!(
        store
            .begin_push("n", "b", &disks, &serde_json::Value::Null)
            .is_ok()
    );
    drop(first);
    assert!(matches!(
        store.begin_push("m", "b", &disks, &serde_json::Value::Null),
        Ok(Begun::Open(_))
    ));
}
