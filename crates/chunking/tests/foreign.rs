//! Chunks as foreign programs see them: `b3sum` must give our names, `zstd` must read our payloads and
//! we must read its.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use chunking::{ChunkId, Chunker, Codec, compress, unpack};
use test_oracles::has_tools;

/// Half text, half noise: some chunks compress, some do not.
fn sample() -> Vec<u8> {
    let mut state = 5u64;
    let mut bytes = Vec::new();
    while bytes.len() < 3 << 20 {
        for word in 0..20_000u32 {
            bytes.extend_from_slice(format!("line {} of the sample\n", word % 977).as_bytes());
        }
        for _ in 0..300_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            bytes.push((state >> 56) as u8);
        }
    }
    bytes
}

fn run(tool: &str, arguments: &[&str], file: &Path) -> Vec<u8> {
    let output = Command::new(tool)
        .args(arguments)
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn b3sum_gives_every_chunk_the_same_name() {
    if !has_tools("b3sum_gives_every_chunk_the_same_name", &["b3sum"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = sample();
    let mut count = 0;
    for chunk in Chunker::default().chunks(&data) {
        let file = dir.path().join("chunk");
        std::fs::write(&file, chunk).unwrap();
        let sum = String::from_utf8(run("b3sum", &["--no-names"], &file)).unwrap();
        assert_eq!(sum.trim().parse::<ChunkId>().unwrap(), ChunkId::of(chunk));
        count += 1;
    }
    assert!(count > 20);
}

#[test]
fn zstd_reads_every_compressed_payload() {
    if !has_tools("zstd_reads_every_compressed_payload", &["zstd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = sample();
    let (mut compressed, mut raw) = (0, 0);
    for chunk in Chunker::default().chunks(&data) {
        let packed = compress(ChunkId::of(chunk), chunk, 1).unwrap();
        if packed.codec == Codec::Raw {
            raw += 1;
            continue;
        }
        let file = dir.path().join("chunk.zst");
        std::fs::write(&file, &packed.bytes).unwrap();
        assert!(run("zstd", &["-d", "-c", "-q"], &file) == chunk);
        compressed += 1;
    }
    assert!(compressed > 10 && raw > 10, "{compressed} {raw}");
}

#[test]
fn a_frame_made_by_zstd_is_read() {
    if !has_tools("a_frame_made_by_zstd_is_read", &["zstd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let chunk = &sample()[..100_000];
    let file = dir.path().join("chunk");
    std::fs::write(&file, chunk).unwrap();
    let bytes = run("zstd", &["-19", "-c", "-q"], &file);
    let id = ChunkId::of(chunk);
    assert!(unpack(&id, 100_000, Codec::Zstd, &bytes).unwrap() == chunk);
}
