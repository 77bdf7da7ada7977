#![allow(clippy::unwrap_used)] // Integration tests: a failure is a failed test.
//! What is pushed reads back, resumes, and is deduplicated.

mod common;

use block_io::conformance::check_reads;
use chunk_store::{Begun, Collect, Store, StoreError};
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

#[test]
fn a_reader_sees_what_another_process_commits_and_keeps_it_from_being_removed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    assert!(matches!(
        Store::open_to_read(dir.path()),
        Err(StoreError::NotAStore { .. })
    ));
    let writer = Store::open(&root).unwrap();
    let first = Source::with_holes(1, 1 << 20);
    push_all(&writer, "web01", "1", std::slice::from_ref(&first));
    let reader = Store::open_to_read(&root).unwrap();
    // What is pushed after the reader was opened is found as well, though it lies in new packs.
    let second = Source::with_holes(2, 1 << 20);
    let known = push_all(&writer, "web01", "2", std::slice::from_ref(&second));
    let snapshots = reader.snapshots().unwrap().snapshots;
    assert_eq!(snapshots.len(), 2);
    for (snapshot, source) in snapshots.iter().zip([&first, &second]) {
        check_reads(&reader.open_disk(snapshot, 0).unwrap(), &source.bytes);
    }
    assert!(reader.verify(&mut |_| {}).unwrap().is_clean());
    assert!(
        reader
            .verify_snapshot(&known.id, &mut |_| {})
            .unwrap()
            .is_clean()
    );
    assert_eq!(reader.stats().unwrap().snapshots, 2);
    // A reader changes nothing, and nothing is removed under it.
    let disks = [disk_info("sda", 4096)];
    let begun = reader.begin_push("m", "a", &disks, &serde_json::Value::Null);
    assert!(matches!(begun, Err(StoreError::ReadOnly)));
    assert!(matches!(
        writer.remove_snapshot(&known.id),
        Err(StoreError::GarbageBusy { .. })
    ));
    drop(reader);
    writer.remove_snapshot(&known.id).unwrap();
    assert!(writer.collect_garbage(Collect::default()).unwrap().packs > 0);
}
