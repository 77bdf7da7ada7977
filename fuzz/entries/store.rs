//! Any bytes as the files of a store: open it, verify it, read its snapshots, collect its garbage.
//!
//! The bytes are a list of files: two bytes length of the path, the path, four bytes length, the content
//! (numbers little-endian).

use block_io::BlockRead;
use chunk_store::sim::SimDisk;
use chunk_store::{Collect, Limits, Store};

/// Bytes read of one disk of a snapshot, at most.
const MOST_READ: u64 = 1 << 20;

/// The list that stands for these files.
#[allow(dead_code)]
pub fn list(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, bytes) in files {
        out.extend((path.len() as u16).to_le_bytes());
        out.extend(path.as_bytes());
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
    }
    out
}

fn parse(mut data: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    while !data.is_empty() {
        let (len, rest) = data.split_first_chunk::<2>()?;
        let (path, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        files.push((String::from_utf8(path.to_vec()).ok()?, bytes.to_vec()));
        data = rest;
    }
    Some(files)
}

/// Feed the files listed in `data` to all that reads a store.
pub fn feed(data: &[u8]) {
    let Some(contents) = parse(data) else { return };
    let sim = SimDisk::new(1);
    let files = sim.files();
    for dir in ["packs", "index", "machines"] {
        let _ = files.create_dir(dir);
    }
    for (path, bytes) in contents {
        if path.starts_with("machines/")
            && let Some((dir, _)) = path.rsplit_once('/')
        {
            let _ = files.create_dir(dir);
        }
        if let Ok(file) = files.create(&path) {
            let _ = file.write_at(0, &bytes);
        }
    }
    drop(files);
    sim.kill();
    let limits = Limits {
        pack_bytes: 64 << 10,
        index_entries_in_memory: 60,
        index_entries_a_run: 5000,
        waiting_entries: 100,
        cache_bytes: 1 << 20,
    };
    let Ok(store) = Store::open_with(sim.files(), limits) else {
        return;
    };
    let _ = store.verify(&mut |_| {});
    let _ = (store.stats(), store.pushes());
    for snapshot in store
        .snapshots()
        .map(|list| list.snapshots)
        .unwrap_or_default()
    {
        let _ = store.verify_snapshot(&snapshot.id, &mut |_| {});
        if let Ok(disk) = store.open_disk(&snapshot, 0) {
            let _ = disk.read_at(0, &mut vec![0; disk.size().min(MOST_READ) as usize]);
            for extent in block_io::extents(&disk, 0..disk.size()).take(10_000) {
                let _ = extent;
            }
        }
    }
    let _ = store.collect_garbage(Collect::default());
    let _ = store.rebuild_index();
}
