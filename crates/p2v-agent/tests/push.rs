//! Pushes against the protocol's own server over real TLS on loopback.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block_io::{BlockErrorKind, BlockRead, Fault, FaultyDisk, MemoryDisk};
use p2v_agent::push::{Failure, Identity, Job, Options, Snapshot, Source, Unread, push};
use stream_protocol::client::PushError;
use stream_protocol::{ErrorCode, Fingerprint, Inventory, MachineName, PushKey, Token};
use support::Converter;

/// Content that looks like a disk: some of it compresses, some repeats, some is zero.
fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut bytes = Vec::with_capacity(len + 65_536);
    while bytes.len() < len {
        match next() % 4 {
            0 => bytes.resize(bytes.len() + 300_000, 0),
            1 => (0..16_000).for_each(|_| bytes.extend(next().to_le_bytes())),
            2 => (0..20_000).for_each(|_| bytes.extend(format!("{:05} ", next() % 500).bytes())),
            _ => {
                let from = (next() as usize) % (bytes.len() + 1);
                let to = (from + 200_000).min(bytes.len());
                bytes.extend_from_within(from..to);
            }
        }
    }
    bytes.truncate(len);
    bytes
}

fn name() -> MachineName {
    MachineName::new("web 01 ../x").unwrap()
}

fn identity() -> Identity {
    Identity::default().with_disk(1, "test")
}

fn key() -> PushKey {
    identity().push_key(&name()).unwrap()
}

fn job(disks: Vec<Arc<dyn BlockRead>>) -> Job {
    let sources = disks.into_iter().enumerate().map(|(number, disk)| Source {
        name: format!("disk{number}"),
        disk,
    });
    Job::new(name(), &identity(), Inventory::default(), sources.collect()).unwrap()
}

fn memory(content: &[u8]) -> Arc<dyn BlockRead> {
    Arc::new(MemoryDisk::from(content.to_vec()))
}

fn quiet(_: &Snapshot) {}

fn assert_arrived(converter: &Converter, contents: &[&[u8]]) {
    assert!(converter.receiver.is_finished(&name(), &key()));
    for (number, content) in contents.iter().enumerate() {
        let disk = converter
            .receiver
            .read_disk(&name(), &key(), number)
            .unwrap();
        assert!(disk == *content, "disk {number} arrived otherwise");
    }
}

#[test]
fn two_disks_arrive_and_a_second_push_sends_almost_nothing() {
    let converter = Converter::start();
    let (first, second) = (content(30_000_000, 1), content(7_000_001, 2));
    let send = || {
        let job = job(vec![memory(&first), memory(&second)]);
        push(
            converter.connect_string(),
            job,
            Options::default(),
            &mut quiet,
        )
        .unwrap()
    };
    let (finished, snapshot) = send();
    assert_eq!(finished.machine, name());
    assert_arrived(&converter, &[&first, &second]);
    assert_eq!(snapshot.whole_bytes(), 37_000_001);
    assert_eq!(snapshot.read_bytes(), snapshot.to_read());
    assert_eq!(snapshot.zero_bytes + snapshot.fed_bytes, snapshot.to_read());
    let (deduplicated, skipped) = (snapshot.deduplicated_bytes(), snapshot.skipped_bytes());
    assert!(
        deduplicated > 1_000_000 && skipped > 5_000_000,
        "{snapshot:?}"
    );
    assert!(snapshot.sent_bytes < snapshot.used_bytes(), "{snapshot:?}");
    assert!(
        snapshot.sent_bytes > snapshot.new_bytes / 10,
        "{snapshot:?}"
    );
    let (_, again) = send();
    assert!(again.sent_bytes < first.len() as u64 / 50, "{again:?}");
    assert_eq!(again.new_bytes, 0);
    assert_eq!(again.deduplicated_bytes(), again.fed_bytes);
    assert_arrived(&converter, &[&first, &second]);
}

#[test]
fn blank_and_empty_disks_arrive() {
    let converter = Converter::start();
    let job = job(vec![memory(&[0; 1_000_000]), memory(&[])]);
    let (_, snapshot) = push(
        converter.connect_string(),
        job,
        Options::default(),
        &mut quiet,
    )
    .unwrap();
    assert_arrived(&converter, &[&[0; 1_000_000], &[]]);
    assert_eq!(snapshot.fed_bytes, 0);
}

#[test]
fn another_certificate_is_refused_at_once_and_the_token_is_never_shown_to_it() {
    let converter = Converter::start();
    let mut connect = converter.connect_string();
    connect.fingerprint = Fingerprint::from_bytes([1; 32]);
    let failure = push(
        connect,
        job(vec![memory(&[1; 512])]),
        Options::default(),
        &mut quiet,
    );
    let failure = failure.unwrap_err();
    assert!(matches!(failure, Failure::OtherConverter(_)), "{failure}");
    assert_eq!(converter.counts.requests.load(Ordering::Relaxed), 0);
}

#[test]
fn a_wrong_token_is_refused_at_once() {
    let converter = Converter::start();
    let mut connect = converter.connect_string();
    connect.token = Token::from_bytes([1; 32]);
    let failure = push(
        connect,
        job(vec![memory(&[1; 512])]),
        Options::default(),
        &mut quiet,
    );
    match failure.unwrap_err() {
        Failure::Converter(PushError::Refused(body)) => {
            assert_eq!(body.code, ErrorCode::Unauthorised);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn nobody_at_the_address_is_told_within_a_minute() {
    let mut converter = Converter::start();
    converter.kill();
    let job = job(vec![memory(&[1; 512])]);
    let failure = push(
        converter.connect_string(),
        job,
        Options::default(),
        &mut quiet,
    );
    let failure = failure.unwrap_err();
    assert!(matches!(failure, Failure::NotReached(_)), "{failure}");
    assert!(failure.to_string().contains("refused"), "{failure}");
}

#[test]
fn a_converter_that_dies_and_comes_back_gets_the_rest() {
    let mut converter = Converter::start();
    let content = content(60_000_000, 3);
    let connect = converter.connect_string();
    let disk = memory(&content);
    // Slowly enough to be cut in the middle.
    let options = Options {
        bytes_per_second: Some(12_000_000),
        ..Options::default()
    };
    let pushing = std::thread::spawn(move || {
        let mut troubled = false;
        let mut observe = |snapshot: &Snapshot| troubled |= snapshot.trouble.is_some();
        let outcome = push(connect, job(vec![disk]), options, &mut observe);
        (outcome, troubled)
    });
    while converter.counts.chunk_bytes.load(Ordering::Relaxed) < 8_000_000 {
        assert!(!pushing.is_finished());
        std::thread::sleep(Duration::from_millis(5));
    }
    converter.kill();
    std::thread::sleep(Duration::from_millis(700));
    converter.restart();
    let (outcome, troubled) = pushing.join().unwrap();
    outcome.unwrap();
    assert!(troubled, "the user was told");
    assert_arrived(&converter, &[&content]);
}

#[test]
fn sectors_that_pass_on_the_second_try_are_read() {
    let converter = Converter::start();
    let content = content(5_000_000, 4);
    let fault = Fault::Times(BlockErrorKind::Unreadable, 2);
    let disk =
        FaultyDisk::new(MemoryDisk::from(content.clone())).failing(1_000_000..1_000_512, fault);
    let job = job(vec![Arc::new(disk)]);
    let (_, snapshot) = push(
        converter.connect_string(),
        job,
        Options::default(),
        &mut quiet,
    )
    .unwrap();
    assert_arrived(&converter, &[&content]);
    assert_eq!(snapshot.disks[0].unreadable, 0);
}

#[test]
fn unreadable_sectors_are_named_and_sent_as_zeroes_only_with_consent() {
    let converter = Converter::start();
    let mut content = content(20_000_000, 5);
    content[3_000_000..3_002_000].fill(9);
    let good = memory(&content);
    let bad = || -> Arc<dyn BlockRead> {
        let fault = Fault::Always(BlockErrorKind::Unreadable);
        let disk = FaultyDisk::new(MemoryDisk::from(content.clone()));
        Arc::new(disk.failing(3_000_100..3_001_000, fault))
    };
    let refused = push(
        converter.connect_string(),
        job(vec![bad(), Arc::clone(&good)]),
        Options::default(),
        &mut quiet,
    );
    let Err(Failure::Unread(unread)) = refused else {
        panic!("{refused:?}");
    };
    let [Unread::Sectors { disk: 0, ranges }] = unread.as_slice() else {
        panic!("{unread:?}");
    };
    // 3,000,100 lies in the sector at 2,999,808, 3,000,999 in that at 3,000,832.
    let found: Vec<_> = ranges
        .iter()
        .map(|range| (range.offset, range.len))
        .collect();
    assert_eq!(found, [(2_999_808, 1536)]);
    assert!(!converter.receiver.is_finished(&name(), &key()));

    let options = Options {
        skip_unreadable: true,
        ..Options::default()
    };
    let job = job(vec![bad(), good]);
    let (_, snapshot) = push(converter.connect_string(), job, options, &mut quiet).unwrap();
    assert_eq!(
        snapshot.new_bytes, 0,
        "what could be read was kept: {snapshot:?}"
    );
    let mut expected = content.clone();
    expected[2_999_808..3_001_344].fill(0);
    assert_arrived(&converter, &[&expected, &content]);
}

#[test]
fn a_disk_that_vanishes_leaves_what_was_read_and_the_other_disks() {
    let converter = Converter::start();
    let (broken, whole) = (content(20_000_000, 6), content(3_000_000, 7));
    let fault = Fault::Always(BlockErrorKind::Vanished);
    let vanishing =
        FaultyDisk::new(MemoryDisk::from(broken.clone())).failing(15_000_000..20_000_000, fault);
    let disks: Vec<Arc<dyn BlockRead>> = vec![Arc::new(vanishing), memory(&whole)];
    let outcome = push(
        converter.connect_string(),
        job(disks),
        Options::default(),
        &mut quiet,
    );
    let Err(Failure::Unread(unread)) = outcome else {
        panic!("{outcome:?}");
    };
    let [Unread::Failed { disk: 0, error }] = unread.as_slice() else {
        panic!("{unread:?}");
    };
    assert_eq!(error.kind(), BlockErrorKind::Vanished);
    let job = job(vec![memory(&broken), memory(&whole)]);
    let (_, snapshot) = push(
        converter.connect_string(),
        job,
        Options::default(),
        &mut quiet,
    )
    .unwrap();
    assert!(
        snapshot.new_bytes < 8_000_000,
        "the first part was kept: {snapshot:?}"
    );
    assert_arrived(&converter, &[&broken, &whole]);
}
