//! `docs/stream-protocol.md` says what the code does: tables, paths, limits and codes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;

use chunking::MAX_CHUNK;
use stream_protocol::client::Patience;
use stream_protocol::connect::DEFAULT_PORT;
use stream_protocol::format::{FRAME_VERSION, TABLES};
use stream_protocol::message::{
    Limits, MAX_DISKS, MAX_KEY_LEN, MAX_NAME_LEN, MAX_UNREADABLE, WireVersion,
};
use stream_protocol::route::{EPOCH_HEADER, MAX_CONTROL_BYTES};
use stream_protocol::{ErrorCode, Route};

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/stream-protocol.md");
    std::fs::read_to_string(path).unwrap()
}

fn expect(page: &str, text: &str) {
    assert!(
        page.contains(text),
        "docs/stream-protocol.md lacks:\n{text}"
    );
}

#[test]
fn the_byte_tables_are_those_of_the_code() {
    let page = page();
    for table in TABLES {
        let mut text = format!("### {}: {} bytes\n\n", table.name, table.len);
        text.push_str("| offset | bytes | what |\n|---|---|---|\n");
        for field in table.fields {
            writeln!(
                text,
                "| {} | {} | {} |",
                field.offset, field.len, field.what
            )
            .unwrap();
        }
        expect(&page, &text);
    }
    expect(&page, &format!("version: {FRAME_VERSION} |"));
    assert_eq!(MAX_CHUNK, 1_048_576, "the tables name the longest chunk");
}

#[test]
fn the_paths_are_those_of_the_code() {
    let page = page();
    let (push, disk) = (0x0123_4567_89ab_cdef, 7);
    let routes = [
        Route::Hello,
        Route::Open,
        Route::Query { push },
        Route::Chunks { push },
        Route::Recipe { push, disk },
        Route::Commit { push, disk },
        Route::Finish { push },
        Route::Sign { push },
    ];
    for route in routes {
        let path = route.path().replace("0123456789abcdef", "PUSH");
        expect(&page, &format!("| `{}` |", path.replace("/7/", "/DISK/")));
    }
    expect(&page, &format!("`{EPOCH_HEADER}`"));
    expect(&page, &format!("| port | 1 to 65535; {DEFAULT_PORT} where"));
}

#[test]
fn the_limits_are_those_of_the_code() {
    let page = page();
    let limits = Limits::default();
    expect(
        &page,
        &format!("| chunk batch | {} bytes |", limits.max_batch_bytes),
    );
    expect(
        &page,
        &format!("| ids in a query | {} |", limits.max_query_ids),
    );
    expect(
        &page,
        &format!("| entries in an append | {} |", limits.max_append_entries),
    );
    expect(
        &page,
        &format!(
            "| silence until a lease ends | {} s |",
            limits.lease_seconds
        ),
    );
    expect(&page, &format!("| raw bytes of a chunk | {MAX_CHUNK} |"));
    expect(
        &page,
        &format!("| control message | {MAX_CONTROL_BYTES} bytes |"),
    );
    expect(&page, &format!("| machine name | {MAX_NAME_LEN} bytes,"));
    expect(&page, &format!("| push key, run id | {MAX_KEY_LEN} of"));
    expect(&page, &format!("| disks | {MAX_DISKS} |"));
    expect(
        &page,
        &format!("| unreadable ranges of a disk | {MAX_UNREADABLE} |"),
    );
    let patience = Patience::default();
    assert_eq!(
        (
            patience.first_delay,
            patience.longest_delay,
            patience.give_up_after
        ),
        (250, 15_000, 600_000),
        "the page says these in words"
    );
}

#[test]
fn the_codes_are_those_of_the_code() {
    let page = page();
    let codes = [
        ErrorCode::Unauthorised,
        ErrorCode::VersionUnmatched,
        ErrorCode::NoSuchRoute,
        ErrorCode::BadMessage,
        ErrorCode::BadFrame,
        ErrorCode::BadChunk,
        ErrorCode::TooLarge,
        ErrorCode::MachineBusy,
        ErrorCode::PushUnknown,
        ErrorCode::PushSuperseded,
        ErrorCode::DiskMismatch,
        ErrorCode::RecipeConflict,
        ErrorCode::RecipeGap,
        ErrorCode::ChunkMissing,
        ErrorCode::RootMismatch,
        ErrorCode::NotComplete,
        ErrorCode::StoreFull,
        ErrorCode::Unavailable,
        ErrorCode::Internal,
    ];
    for code in codes {
        let name = serde_json::to_string(&code).unwrap().replace('"', "`");
        let row = format!("| {name} | {} | ", code.status());
        expect(&page, &row);
        let passing = page.contains(&format!("{row}tries again later |"));
        assert_eq!(passing, code.is_passing(), "{name}");
    }
    let rows = page
        .lines()
        .filter(|line| line.contains(" | ends |") || line.contains(" again"));
    assert!(
        rows.count() >= codes.len() - 1,
        "a code is missing in this test or on the page"
    );
    for number in WireVersion::OLDEST.number()..=WireVersion::NEWEST.number() {
        expect(&page, &format!("\n| {number} | The first"));
    }
}
