//! Pushes that meet what an earlier run left.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use chunk_store::{
    Begun, Commit, CommitDisk, DiskInfo, Push, RecipeEntry, Store, Verified, recipe_root,
};
use chunking::{ChunkId, compress};

const SIZE: u64 = 1 << 30;

fn raw(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(16)
}

fn entries(numbers: impl IntoIterator<Item = u64>) -> Vec<RecipeEntry> {
    let entry = |(place, number)| RecipeEntry {
        offset: place as u64 * 4096,
        len: 128,
        id: ChunkId::of(&raw(number)),
    };
    numbers.into_iter().enumerate().map(entry).collect()
}

fn begin(store: &Store) -> Push {
    let disk = DiskInfo {
        name: "sda".into(),
        size: SIZE,
        sector_size: 512,
    };
    let begun = store.begin_push("web01", "k", &[disk], &serde_json::Value::Null);
    let Begun::Open(push) = begun.unwrap() else {
        panic!("the push is open");
    };
    push
}

fn put(push: &Push, numbers: impl IntoIterator<Item = u64>) {
    let pack = |number| {
        let raw = raw(number);
        Verified::check(compress(ChunkId::of(&raw), &raw, 1).unwrap()).unwrap()
    };
    let chunks: Vec<_> = numbers.into_iter().map(pack).collect();
    push.put(&chunks).unwrap();
}

#[test]
fn a_source_that_changed_replaces_the_rest_of_its_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let push = begin(&store);
    put(&push, 0..2000);
    let old = entries(0..1000);
    // Several checkpoints make pages of several lengths.
    for at in (0..900).step_by(130) {
        let end = (at + 130).min(900);
        push.append(0, at as u64, &old[at..end]).unwrap();
        push.checkpoint().unwrap();
    }
    push.append(0, 900, &old[900..]).unwrap();
    assert_eq!(push.first_difference(0, 0, &old).unwrap(), None);
    assert_eq!(push.first_difference(0, 1000, &old).unwrap(), None);

    let new = entries((0..333).chain(1333..2000));
    assert_eq!(push.first_difference(0, 0, &new).unwrap(), Some(333));
    assert_eq!(
        push.first_difference(0, 400, &new[400..]).unwrap(),
        Some(400)
    );
    assert_eq!(
        push.first_difference(0, 950, &new[950..]).unwrap(),
        Some(950)
    );
    assert_eq!(push.first_difference(0, 100, &new[100..333]).unwrap(), None);

    push.cut(0, 333).unwrap();
    assert_eq!(push.entries(), [333]);
    assert_eq!(push.durable_entries(), [333]);
    push.append(0, 333, &new[333..]).unwrap();
    assert_eq!(push.root(0).unwrap(), recipe_root(SIZE, &new));
    let commit = Commit {
        time: 7,
        disks: vec![CommitDisk {
            root: recipe_root(SIZE, &new),
            unreadable: Vec::new(),
        }],
    };
    assert_eq!(store.pushes().unwrap().len(), 1);
    push.commit(&commit).unwrap();
    assert!(store.pushes().unwrap().is_empty());
}

#[test]
fn a_cut_survives_the_store_being_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let all = entries(0..500);
    for cut in [0, 1, 92, 93, 94, 186, 250, 499] {
        let store = Store::open(&path).unwrap();
        let push = begin(&store);
        push.cut(0, 0).unwrap();
        put(&push, 0..500);
        push.append(0, 0, &all).unwrap();
        push.checkpoint().unwrap();
        push.cut(0, cut).unwrap();
        let known = store.pushes().unwrap();
        assert_eq!(
            known[0].disks[0].1,
            if cut == 0 { 0 } else { (cut - 1) * 4096 + 128 }
        );
        drop((push, store));
        let store = Store::open(&path).unwrap();
        let push = begin(&store);
        assert_eq!(push.durable_entries(), [cut]);
        assert_eq!(push.first_difference(0, 0, &all).unwrap(), None);
    }
}

#[test]
fn waiting_entries_are_compared_and_cut_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let push = begin(&store);
    put(&push, 0..20);
    let old = entries(0..10);
    push.append(0, 0, &old[..4]).unwrap();
    push.checkpoint().unwrap();
    push.append(0, 4, &old[4..]).unwrap();
    let new = entries((0..6).chain(16..20));
    assert_eq!(push.first_difference(0, 2, &new[2..]).unwrap(), Some(6));
    push.cut(0, 6).unwrap();
    push.append(0, 6, &new[6..]).unwrap();
    assert_eq!(push.checkpoint().unwrap(), [10]);
    assert_eq!(push.root(0).unwrap(), recipe_root(SIZE, &new));
    assert!(push.first_difference(1, 0, &new).is_err());
    assert!(push.cut(1, 0).is_err());
}
