//! A real process that writes a real directory is killed with SIGKILL, again and again.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use block_io::BlockRead;
use chunk_store::{Begun, Store};
use common::{Rng, Source, begin, commit_of, send};

const CHILD: &str = "P2V_CRASH_TEST_STORE";

fn source(number: u64) -> Source {
    Source::in_small_chunks(number, 600 << 10)
}

/// The child: pushes one source after the other, and says what it was promised.
fn push_until_killed(root: &str) {
    let store = Store::open(root).unwrap();
    for number in 0.. {
        let source = source(number);
        let key = number.to_string();
        let Begun::Open(push) = begin(&store, "web01", &key, std::slice::from_ref(&source)) else {
            continue;
        };
        while (push.entries()[0] as usize) < source.entries.len() {
            let at = push.entries()[0] as usize;
            let until = (at + 60).min(source.entries.len());
            let part = Source {
                bytes: Vec::new(),
                entries: source.entries[..until].to_vec(),
                chunks: source.chunks.clone(),
            };
            send(&push, 0, &part, 20).unwrap();
            println!("durable {number} {}", push.checkpoint().unwrap()[0]);
        }
        push.commit(&commit_of(std::slice::from_ref(&source)))
            .unwrap();
        println!("committed {number}");
        if number % 3 == 2 {
            store
                .collect_garbage(chunk_store::Collect::default())
                .unwrap();
        }
    }
}

#[test]
fn killed_at_any_moment_it_keeps_what_it_promised() {
    if let Ok(root) = std::env::var(CHILD) {
        return push_until_killed(&root);
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let mut rng = Rng::new(std::process::id().into());
    let (mut committed, mut durable) = (0u64, (0u64, 0u64));
    for _ in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed_at_any_moment", "--nocapture", "--test-threads=1"])
            .env(CHILD, &root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(30 + rng.below(250)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reading.join().unwrap() {
            let mut words = line.split_whitespace();
            let what = words.next();
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            match (what, number(), number()) {
                (Some("committed"), Some(of), _) => committed = committed.max(of + 1),
                (Some("durable"), Some(of), Some(count)) => durable = (of, count),
                _ => {}
            }
        }
        let store = Store::open(&root).unwrap();
        let snapshots = store.snapshots().unwrap();
        assert!(snapshots.damaged.is_empty());
        assert!(snapshots.snapshots.len() as u64 >= committed);
        for snapshot in snapshots.snapshots {
            let source = source(snapshot.push_key.parse().unwrap());
            let disk = store.open_disk(&snapshot, 0).unwrap();
            let mut bytes = vec![1; source.bytes.len()];
            disk.read_at(0, &mut bytes).unwrap();
            assert!(bytes == source.bytes, "snapshot {} differs", snapshot.id);
        }
        let found = store.verify(&mut |_| {}).unwrap();
        assert!(found.is_clean(), "{:?}", found.damaged);
        let (of, count) = durable;
        if let Begun::Open(push) = begin(&store, "web01", &of.to_string(), &[source(of)]) {
            assert!(push.durable_entries()[0] >= count);
        }
    }
    assert!(committed > 0, "no push was committed between the kills");
    println!("{committed} pushes were committed between 25 kills");
}
