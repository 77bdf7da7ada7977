//! Every message there and back, every field where the byte tables say, every lie by its name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use chunking::{ChunkId, Codec, MAX_CHUNK};
use proptest::prelude::*;
use stream_protocol::format::{
    APPEND_HEADER, Answer, Append, Batch, ENTRY, FrameError, HEADER, PackedChunk, Query, RECORD,
    StoredRange, TABLES,
};
use stream_protocol::inventory::{Disk, Nic};
use stream_protocol::message::*;
use stream_protocol::{Inventory, RecipeEntry, RecipeRoot};

#[path = "../../../fuzz/entries/stream_protocol.rs"]
mod entry;

fn any_id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

fn any_chunk() -> impl Strategy<Value = PackedChunk> {
    let bytes = prop::collection::vec(any::<u8>(), 1..300);
    (any_id(), bytes, any::<bool>(), 0_u32..1000).prop_map(|(id, bytes, raw, more)| {
        let stored = bytes.len() as u32;
        PackedChunk {
            id,
            raw_len: if raw { stored } else { stored + more },
            codec: if raw { Codec::Raw } else { Codec::Zstd },
            bytes: bytes.into(),
        }
    })
}

fn any_entries() -> impl Strategy<Value = Vec<RecipeEntry>> {
    let step = (any_id(), 0_u64..1 << 40, 1..=MAX_CHUNK);
    prop::collection::vec(step, 0..50).prop_map(|steps| {
        let mut end = 0;
        let entry = |(id, gap, len): (ChunkId, u64, u32)| {
            let offset = end + gap;
            end = offset + u64::from(len);
            RecipeEntry { offset, len, id }
        };
        steps.into_iter().map(entry).collect()
    })
}

proptest! {
    #[test]
    fn queries_come_back(ids in prop::collection::vec(any_id(), 0..100)) {
        let body = Query::encode(&ids);
        prop_assert_eq!(body.len() as u64, Query::len_for(ids.len() as u32));
        prop_assert_eq!(Query::decode(&body, 100).unwrap().ids, ids);
    }

    #[test]
    fn answers_come_back(lacking in prop::collection::vec(any::<bool>(), 0..100)) {
        let body = Answer::encode(&lacking);
        let read = Answer::decode(&body, lacking.len() as u32).unwrap();
        prop_assert_eq!(read.lacking, lacking);
    }

    #[test]
    fn batches_come_back(chunks in prop::collection::vec(any_chunk(), 0..20)) {
        let body = Batch::encode(&chunks).concat();
        let read = Batch::decode(&body).unwrap();
        prop_assert_eq!(read.chunks.len(), chunks.len());
        for (read, sent) in read.chunks.iter().zip(&chunks) {
            prop_assert_eq!(read.bytes, &sent.bytes[..]);
            prop_assert_eq!((read.id, read.raw_len, read.codec), (sent.id, sent.raw_len, sent.codec));
        }
    }

    #[test]
    fn appends_come_back(start: u64, replace: bool, entries in any_entries()) {
        let body = Append::encode(start, replace, entries.iter());
        let read = Append::decode(&body, 50).unwrap();
        prop_assert_eq!(read, Append { start, replace, entries });
    }

    #[test]
    fn control_messages_come_back(push: u64, entries: u64, root: [u8; 32], name in "[a-z ./]{0,10}x",
        numbers: (u32, u32, u32, u32), texts: (String, String), option: Option<u64>)
    {
        let root = RecipeRoot(root);
        let machine = MachineName::new(name.clone()).unwrap();
        check(&Hello { oldest: numbers.0, newest: numbers.1, program: texts.0.clone() })?;
        check(&Welcome { version: numbers.0, program: texts.1.clone() })?;
        check(&OpenPush {
            machine: machine.clone(),
            push_key: PushKey::new("k-1.x_Y").unwrap(),
            run: RunId::new("r").unwrap(),
            inventory: Inventory {
                version: numbers.2,
                hostname: Some(texts.0.clone()),
                memory_bytes: option,
                disks: vec![Disk { path: texts.1.clone(), size: push, ..Disk::default() }],
                nics: vec![Nic { name: texts.0.clone(), mtu: Some(numbers.3), ..Nic::default() }],
                ..Inventory::default()
            },
            disks: vec![PushDisk { name, size: entries, sector_size: numbers.1, expected_bytes: option }],
        })?;
        let progress = DiskProgress { durable_entries: entries, durable_end: push, committed: Some(root) };
        check(&Opened { push, disks: vec![progress, DiskProgress::default()], limits: Limits::default(), finished: None })?;
        check(&ChunksTaken { received: numbers.0, new: numbers.1 })?;
        check(&Appended { durable_entries: entries })?;
        let unreadable = vec![ByteRange { offset: push, len: entries }];
        check(&CommitDisk { entries, root, unreadable })?;
        check(&DiskCommitted { root })?;
        check(&Finish { notes: vec![texts.0.clone()] })?;
        check(&Finished { machine, snapshot: texts.1.clone() })?;
        check(&Sign::Alive)?;
        check(&Sign::Leaving)?;
        check(&SignSeen { lease_seconds: numbers.2 })?;
        check(&ErrorBody { code: ErrorCode::RecipeGap, message: texts.0, advice: texts.1 })?;
    }

    #[test]
    fn a_changed_byte_is_refused_or_means_what_it_says(chunks in prop::collection::vec(any_chunk(), 0..5),
        entries in any_entries(), ids in prop::collection::vec(any_id(), 0..9),
        at: prop::sample::Index, bit in 0_u8..8, cut: prop::sample::Index)
    {
        let bodies = [
            Batch::encode(&chunks).concat(),
            Append::encode(7, true, entries.iter()),
            Query::encode(&ids),
            Answer::encode(&[true; 13]),
        ];
        for mut body in bodies {
            let cut = cut.index(body.len());
            entry::feed(&body[..cut]);
            prop_assert!(refused_by_all(&body[..cut]));
            let at = at.index(body.len());
            body[at] ^= 1 << bit;
            entry::feed(&body);
            body.push(0);
            prop_assert!(refused_by_all(&body));
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(data: Vec<u8>, magic in 0_usize..5, count in 0_u8..4) {
        entry::feed(&data);
        let magics: [&[u8]; 5] = [b"P2VQ", b"P2VA", b"P2VC", b"P2VR", b"{\"a\":"];
        let mut framed = magics[magic].to_vec();
        framed.extend([1, 0, 0, 0, count, 0, 0, 0, 0, 0, 0, 0]);
        framed.extend(&data);
        entry::feed(&framed);
    }
}

fn check<T>(message: &T) -> Result<(), TestCaseError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_string(message).unwrap();
    prop_assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), message);
    Ok(())
}

/// Whether no decoder takes a body that is too short or too long.
fn refused_by_all(body: &[u8]) -> bool {
    Query::decode(body, u32::MAX).is_err()
        && Answer::decode(body, 13).is_err()
        && Batch::decode(body).is_err()
        && Append::decode(body, u32::MAX).is_err()
}

#[test]
fn the_byte_tables_have_no_gaps() {
    for table in TABLES {
        let mut end = 0;
        for field in table.fields {
            assert_eq!(field.offset, end, "{}: {}", table.name, field.what);
            end += field.len;
        }
        assert_eq!(end, table.len, "{}", table.name);
    }
}

/// The bytes of `body` that the table of a structure at `base` gives to its field `what`.
fn at<'b>(
    body: &'b [u8],
    base: usize,
    table: &stream_protocol::format::Table,
    what: &str,
) -> &'b [u8] {
    let field = table.fields.iter().find(|f| f.what.starts_with(what));
    let field = field.unwrap_or_else(|| panic!("{} has no field {what}", table.name));
    &body[base + field.offset..][..field.len]
}

#[test]
fn each_field_is_where_the_tables_say() {
    let chunk = PackedChunk {
        id: ChunkId([0xC1; 32]),
        raw_len: 0x0001_0203,
        codec: Codec::Zstd,
        bytes: Bytes::from_static(b"stored"),
    };
    let body = Batch::encode(&[chunk]).concat();
    assert_eq!(at(&body, 0, &HEADER, "magic"), b"P2VC");
    assert_eq!(at(&body, 0, &HEADER, "version"), [1, 0]);
    assert_eq!(at(&body, 0, &HEADER, "flags"), [0, 0]);
    assert_eq!(at(&body, 0, &HEADER, "count"), [1, 0, 0, 0]);
    assert_eq!(at(&body, HEADER.len, &RECORD, "chunk id"), [0xC1; 32]);
    assert_eq!(at(&body, HEADER.len, &RECORD, "raw length"), [3, 2, 1, 0]);
    assert_eq!(
        at(&body, HEADER.len, &RECORD, "stored length"),
        [6, 0, 0, 0]
    );
    assert_eq!(at(&body, HEADER.len, &RECORD, "codec"), [1]);
    assert_eq!(&body[HEADER.len + RECORD.len..], b"stored");

    let entry = RecipeEntry {
        offset: 0x0102_0304_0506_0708,
        len: 0x000A_0B0C,
        id: ChunkId([0xE1; 32]),
    };
    let body = Append::encode(0x1122, true, [entry].iter());
    assert_eq!(at(&body, 0, &HEADER, "flags"), [1, 0]);
    assert_eq!(
        at(&body, 0, &APPEND_HEADER, "index"),
        [0x22, 0x11, 0, 0, 0, 0, 0, 0]
    );
    let base = APPEND_HEADER.len;
    assert_eq!(at(&body, base, &ENTRY, "offset"), [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(at(&body, base, &ENTRY, "length"), [0x0C, 0x0B, 0x0A, 0]);
    assert_eq!(at(&body, base, &ENTRY, "chunk id"), [0xE1; 32]);

    let body = Answer::encode(&[true, false, false, false, false, false, false, true, true]);
    assert_eq!(&body[HEADER.len..], [0b1000_0001, 1]);
}

#[test]
fn every_lie_has_its_name_and_place() {
    let chunk = |raw_len, codec, bytes: &'static [u8]| PackedChunk {
        id: ChunkId([7; 32]),
        raw_len,
        codec,
        bytes: Bytes::from_static(bytes),
    };
    let good = Batch::encode(&[chunk(3, Codec::Raw, b"abc")]).concat();
    let batch = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = good.clone();
        change(&mut body);
        Batch::decode(&body).unwrap_err()
    };
    use FrameError as E;
    assert!(matches!(
        batch(&|b| b.truncate(9)),
        E::Truncated {
            expected: 16,
            found: 9,
            ..
        }
    ));
    assert!(matches!(
        batch(&|b| b[0] = b'X'),
        E::Magic {
            found: [b'X', ..],
            ..
        }
    ));
    assert!(matches!(batch(&|b| b[4] = 9), E::Version { found: 9, .. }));
    assert!(matches!(batch(&|b| b[6] = 1), E::Flags { found: 1, .. }));
    // A count of 2^32 - 1 is refused by the bytes at hand, before anything is allocated for it.
    let huge = batch(&|b| b[8..12].fill(0xFF));
    let expected = 16 + 44 * u64::from(u32::MAX);
    assert!(matches!(huge, E::Truncated { expected: e, found: 63, .. } if e == expected));
    assert!(matches!(
        batch(&|b| b[12] = 1),
        E::Reserved { position: 12, .. }
    ));
    assert!(matches!(
        batch(&|b| b[16 + 34] = 0xFF),
        E::RawLength { position: 48, .. }
    ));
    assert!(matches!(
        batch(&|b| b[16 + 36] = 2),
        E::StoredLength {
            position: 52,
            expected: StoredRange { least: 3, most: 3 },
            found: 2
        }
    ));
    assert!(matches!(
        batch(&|b| b[16 + 40] = 2),
        E::Codec {
            position: 56,
            found: 2
        }
    ));
    assert!(matches!(
        batch(&|b| b[16 + 43] = 2),
        E::Reserved { position: 57, .. }
    ));
    assert!(matches!(
        batch(&|b| b.truncate(62)),
        E::Truncated {
            expected: 63,
            found: 62,
            ..
        }
    ));
    assert!(matches!(
        batch(&|b| b.push(0)),
        E::Overlong {
            expected: 63,
            found: 64,
            ..
        }
    ));

    let ids = [ChunkId([1; 32]), ChunkId([2; 32])];
    let too_many = Query::decode(&Query::encode(&ids), 1).unwrap_err();
    assert!(matches!(
        too_many,
        E::TooMany {
            expected: 1,
            found: 2,
            ..
        }
    ));
    let other = Answer::decode(&Answer::encode(&[true; 3]), 4).unwrap_err();
    assert_eq!(
        other,
        E::AnswerCount {
            expected: 4,
            found: 3
        }
    );
    let mut loose = Answer::encode(&[true; 3]);
    loose[16] |= 0b1000;
    assert!(matches!(
        Answer::decode(&loose, 3),
        Err(E::Reserved {
            position: 16,
            found: 8,
            ..
        })
    ));

    let entry = |offset, len| RecipeEntry {
        offset,
        len,
        id: ChunkId([1; 32]),
    };
    let append = |entries: &[RecipeEntry]| {
        Append::decode(&Append::encode(0, false, entries.iter()), 9).unwrap_err()
    };
    assert_eq!(
        append(&[entry(0, 8), entry(7, 1)]),
        E::EntryOrder {
            position: 68,
            expected: 8,
            found: 7
        }
    );
    assert!(matches!(
        append(&[entry(u64::MAX, 1)]),
        E::EntryOrder { position: 24, .. }
    ));
    assert_eq!(
        append(&[entry(0, 0)]),
        E::EntryLength {
            position: 32,
            found: 0
        }
    );
    assert!(matches!(
        append(&[entry(0, MAX_CHUNK + 1)]),
        E::EntryLength { .. }
    ));
}
