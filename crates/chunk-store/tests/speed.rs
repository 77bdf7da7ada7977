#![allow(clippy::unwrap_used)]
//! Measure writing, looking up and reading: `cargo test -p chunk-store --release --test speed -- --ignored --nocapture`.

mod common;

use std::time::Instant;

use block_io::BlockRead;
use chunk_store::{Begun, Store};
use chunking::ChunkId;
use common::{Rng, Source, begin, commit_of};

#[test]
#[ignore = "a measurement, not a check"]
fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let mut bytes = Rng::new(1).bytes(512 << 20);
    // Half of it compresses.
    for page in bytes.chunks_mut(8192) {
        page[4096..].fill(7);
    }
    let len = bytes.len();
    let all = 0..len;
    let source = Source::new(bytes, std::slice::from_ref(&all));
    let sources = std::slice::from_ref(&source);
    let rate = |what: &str, bytes: usize, since: Instant| {
        let seconds = since.elapsed().as_secs_f64();
        println!("{what}: {:.0} MB/s", bytes as f64 / seconds / 1e6);
    };
    let since = Instant::now();
    let chunks: Vec<_> = source
        .entries
        .iter()
        .map(|e| source.verified(&e.id))
        .collect();
    rate("verify, one thread", len, since);
    let Begun::Open(push) = begin(&store, "m", "k", sources) else {
        return;
    };
    let since = Instant::now();
    for batch in chunks.chunks(256) {
        push.put(batch).unwrap();
    }
    rate("put verified chunks, raw bytes", len, since);
    push.append(0, 0, &source.entries).unwrap();
    let snapshot = push.commit(&commit_of(sources)).unwrap();
    let mut ids: Vec<ChunkId> = (0..100_000u64)
        .map(|n| ChunkId::of(&n.to_le_bytes()))
        .collect();
    ids[..source.entries.len()]
        .iter_mut()
        .zip(&source.entries)
        .for_each(|(id, e)| *id = e.id);
    let since = Instant::now();
    let lacking = store.lacking(&ids).unwrap().len();
    println!(
        "lacking of 100,000 ids ({lacking} lack): {:?}",
        since.elapsed()
    );
    let disk = store.open_disk(&snapshot, 0).unwrap();
    let since = Instant::now();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let disk = &disk;
            scope.spawn(move || {
                let mut buf = vec![0; 1 << 20];
                for at in (0..len as u64 / 2).step_by(1 << 20) {
                    disk.read_at(half * len as u64 / 2 + at, &mut buf).unwrap();
                }
            });
        }
    });
    rate("read, two threads", len, since);
    println!("{:?}", store.stats().unwrap());
}
