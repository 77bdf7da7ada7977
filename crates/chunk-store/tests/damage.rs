//! Damage to every kind of file is found and named, and no bytes end the process.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../fuzz/entries/store.rs"]
mod entry;
#[path = "../../../fuzz/entries/mutate.rs"]
mod mutate;

use std::panic::AssertUnwindSafe;

use block_io::BlockRead;
use chunk_store::sim::SimDisk;
use chunk_store::{Collect, Limits, Store};
use common::{Rng, Source, begin, push_all, send};

fn small() -> Limits {
    Limits {
        pack_bytes: 64 << 10,
        index_entries_in_memory: 60,
        index_entries_a_run: 5000,
        waiting_entries: 100,
        cache_bytes: 1 << 20,
    }
}

/// A disk with a snapshot and a push that is not committed.
fn filled() -> (SimDisk, Source) {
    let disk = SimDisk::new(1);
    let source = Source::in_small_chunks(1, 200 << 10);
    let store = Store::open_with(disk.files(), small()).unwrap();
    push_all(&store, "web01", "done", std::slice::from_ref(&source));
    let other = Source::in_small_chunks(2, 60 << 10);
    if let chunk_store::Begun::Open(push) = begin(&store, "web02", "begun", &[other]) {
        send(&push, 0, &Source::in_small_chunks(2, 60 << 10), 20).unwrap();
        push.checkpoint().unwrap();
    }
    store.write_index().unwrap();
    drop(store);
    (disk, source)
}

/// The same bytes on a disk of its own.
fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new(2);
    let files = copy.files();
    for dir in ["packs", "index", "machines"] {
        files.create_dir(dir).unwrap();
    }
    for (path, bytes) in disk.contents() {
        if path.starts_with("machines/") {
            files.create_dir(path.rsplit_once('/').unwrap().0).unwrap();
        }
        files.create(&path).unwrap().write_at(0, &bytes).unwrap();
    }
    drop(files);
    copy.kill();
    copy
}

#[test]
fn a_flipped_bit_in_any_file_is_named_or_mended() {
    let (disk, source) = filled();
    let mut rng = Rng::new(3);
    let mut kinds = std::collections::BTreeMap::new();
    for (path, bytes) in disk.contents() {
        if bytes.is_empty() {
            continue;
        }
        for _ in 0..12 {
            let (at, bit) = (rng.below(bytes.len() as u64) as usize, rng.below(8));
            let disk = copy(&disk);
            disk.damage(&path, |bytes| bytes[at] ^= 1 << bit);
            let kind = path.rsplit('.').next().unwrap().to_owned();
            let opened = Store::open_with(disk.files(), small());
            let store = match opened {
                // Only the file that says what the directory is keeps a store from being opened.
                Err(error) => {
                    assert_eq!(path, "FORMAT", "{error:?}");
                    assert!(format!("{error:?}").contains("FORMAT"));
                    continue;
                }
                Ok(store) => store,
            };
            let found = store.verify(&mut |_| {}).unwrap();
            let named = found.damaged.iter().any(|damage| damage.path == path)
                || store.mended().iter().any(|text| text.starts_with(&path));
            // The recipe of a push that is not committed is cut off there when it is resumed.
            let resumed = path.ends_with(".recipe") && !path.contains("web01");
            assert!(named || resumed, "byte {at} of {path}: {:?}", found.damaged);
            *kinds.entry(kind).or_insert(0) += 1;
            // What is not damaged reads as it was, what is gives an error, never other bytes.
            for snapshot in store.snapshots().unwrap().snapshots {
                let disk = store.open_disk(&snapshot, 0);
                let mut read = vec![0; source.bytes.len()];
                if disk.is_ok_and(|disk| disk.read_at(0, &mut read).is_ok()) {
                    assert!(
                        read == source.bytes,
                        "byte {at} of {path} gives other bytes"
                    );
                }
            }
        }
    }
    for kind in ["pack", "run", "recipe", "snapshot", "push"] {
        assert!(kinds.contains_key(kind), "no {kind} was damaged: {kinds:?}");
    }
}

#[test]
fn no_bytes_in_any_file_end_the_process() {
    let (disk, _) = filled();
    let mut rng = Rng::new(4);
    for round in 0..250 {
        let disk = copy(&disk);
        let contents = disk.contents();
        for _ in 0..1 + rng.below(3) {
            let (path, bytes) = &contents[rng.below(contents.len() as u64) as usize];
            let len = bytes.len() as u64;
            let (kind, at, some) = (rng.below(5), rng.below(len) as usize, rng.below(5000));
            let noise = rng.bytes(some as usize);
            disk.damage(path, |bytes| match kind {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_slice(&noise),
                2 if !bytes.is_empty() => {
                    let end = (at + noise.len()).min(bytes.len());
                    bytes[at..end].copy_from_slice(&noise[..end - at]);
                }
                3 => bytes.fill(0xFF),
                _ => bytes.clear(),
            });
        }
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let Ok(store) = Store::open_with(disk.files(), small()) else {
                return;
            };
            let _ = store.verify(&mut |_| {});
            let _ = store.stats();
            let _ = store.pushes();
            for snapshot in store.snapshots().map(|l| l.snapshots).unwrap_or_default() {
                let _ = store.verify_snapshot(&snapshot.id, &mut |_| {});
                if let Ok(disk) = store.open_disk(&snapshot, 0) {
                    let _ = disk.read_at(0, &mut vec![0; disk.size() as usize]);
                    for extent in block_io::extents(&disk, 0..disk.size()).take(10_000) {
                        let _ = extent;
                    }
                }
            }
            let _ = store.collect_garbage(Collect::default());
            let _ = store.rebuild_index();
            let source = Source::in_small_chunks(2, 60 << 10);
            let disks = common::infos(std::slice::from_ref(&source));
            let null = serde_json::Value::Null;
            if let Ok(chunk_store::Begun::Open(push)) =
                store.begin_push("web02", "begun", &disks, &null)
            {
                let _ = send(&push, 0, &source, 20);
                let _ = push.checkpoint();
            }
        }));
        assert!(ran.is_ok(), "round {round}");
    }
}

#[test]
fn a_lost_index_is_read_from_the_packs_again() {
    let (disk, source) = filled();
    for (path, _) in disk.contents() {
        if path.starts_with("index/") {
            disk.files().remove(&path).unwrap();
        }
    }
    let store = Store::open_with(disk.files(), small()).unwrap();
    let snapshots = store.snapshots().unwrap().snapshots;
    let disk = store.open_disk(&snapshots[0], 0).unwrap();
    block_io::conformance::check_reads(&disk, &source.bytes);
}

#[test]
fn a_damaged_chunk_counts_as_lacking_once_it_was_met_and_is_mended_by_the_next_push() {
    let (disk, source) = filled();
    disk.damage("packs/0000000001.pack", |bytes| bytes[16 + 56 + 3] ^= 1);
    let store = Store::open_with(disk.files(), small()).unwrap();
    let id = store.snapshots().unwrap().snapshots[0].id.clone();
    let found = store.verify_snapshot(&id, &mut |_| {}).unwrap();
    assert_eq!(found.damaged.len(), 1);
    assert_eq!(found.damaged[0].path, "packs/0000000001.pack");
    assert_eq!(found.damaged[0].offset, 16);
    assert!(!store.snapshot(&id).unwrap().verified);
    push_all(&store, "web01", "again", std::slice::from_ref(&source));
    assert!(store.verify_snapshot(&id, &mut |_| {}).unwrap().is_clean());
    assert!(store.snapshot(&id).unwrap().verified);
}

/// The fuzz target's entry, on bytes that a seed decides. With `P2V_WRITE_SEEDS=DIR` its seed is kept there.
#[test]
fn no_bytes_of_the_fuzz_entry_end_the_process() {
    let (disk, _) = filled();
    let seed = entry::list(&disk.contents());
    if let Some(dir) = std::env::var_os("P2V_WRITE_SEEDS") {
        std::fs::write(std::path::Path::new(&dir).join("seed-1"), &seed).unwrap();
    }
    mutate::run(&[seed], std::time::Duration::from_secs(3), entry::feed);
}
