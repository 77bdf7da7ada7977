//! The formats of `docs/chunk-store.md` are read by a program that shares no code with the store.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use chunk_store::Store;
use common::{Source, push_all};

/// Reads a store by the document alone: packs, recipes, manifest. `zstd` decompresses, `b3sum` hashes.
const READER: &str = r#"
import json, os, struct, subprocess, sys, tempfile
root, out = sys.argv[1], sys.argv[2]
table = []
for i in range(256):
    c = i
    for _ in range(8): c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    table.append(c)
def crc32c(b):
    c = 0xFFFFFFFF
    for x in b: c = table[(c ^ x) & 255] ^ c >> 8
    return c ^ 0xFFFFFFFF
work = tempfile.mkdtemp()
chunks = {}
for name in sorted(os.listdir(root + '/packs')):
    data = open(root + '/packs/' + name, 'rb').read()
    assert data[:8] == b'P2VPACK1' and struct.unpack_from('<I', data, 8)[0] == int(name.split('.')[0])
    assert struct.unpack_from('<I', data, 12)[0] == crc32c(data[:12])
    at = 16
    while at < len(data):
        assert data[at:at+4] == b'P2VC', (name, at)
        codec, raw, stored = data[at+4], *struct.unpack_from('<II', data, at + 8)
        ident = data[at+16:at+48].hex()
        pcrc, hcrc = struct.unpack_from('<II', data, at + 48)
        assert hcrc == crc32c(data[at:at+52])
        payload = data[at+56:at+56+stored]
        assert pcrc == crc32c(payload)
        path = f'{work}/{ident}'
        open(path + ('.zst' if codec else ''), 'wb').write(payload)
        if codec: subprocess.run(['zstd', '-q', '-d', '--rm', path + '.zst', '-o', path], check=True)
        assert os.path.getsize(path) == raw
        chunks[ident] = path
        at += 56 + stored
for sums in subprocess.run(['b3sum'] + list(chunks.values()), check=True, capture_output=True, text=True).stdout.splitlines():
    have, path = sums.split()
    assert have == os.path.basename(path), sums
machine = root + '/machines/' + os.listdir(root + '/machines')[0]
manifest = [n for n in os.listdir(machine) if n.endswith('.snapshot')][0]
head, body = open(f'{machine}/{manifest}', 'rb').read().split(b'\n', 1)
b3 = lambda b: subprocess.run(['b3sum', '--no-names'], input=b, check=True, capture_output=True).stdout.decode().strip()
assert head.decode() == 'p2v-store 1 snapshot ' + b3(body)
disk = json.loads(body)['disks'][0]
recipe = open(f'{machine}/{manifest[:-9]}.0.recipe', 'rb').read()
assert len(recipe) == 4096 * disk['recipe_pages']
canonical, image, entries = struct.pack('<Q', disk['size']), bytearray(disk['size']), 0
for number in range(disk['recipe_pages']):
    page = recipe[4096*number:4096*(number+1)]
    assert struct.unpack_from('<I', page, 4092)[0] == crc32c(page[:4092] + struct.pack('<Q', number))
    for place in range(93):
        entry = page[44*place:44*place+44]
        offset, length = struct.unpack_from('<QI', entry)
        if length == 0: break
        canonical += entry
        entries += 1
        image[offset:offset+length] = open(chunks[entry[12:].hex()], 'rb').read()
assert entries == disk['entries'] and b3(canonical) == disk['root']
open(out, 'wb').write(image)
"#;

#[test]
fn python_zstd_and_b3sum_read_the_same_disk_out_of_the_files() {
    let test = "python_zstd_and_b3sum_read_the_same_disk_out_of_the_files";
    if !test_oracles::has_tools(test, &["python3", "zstd", "b3sum"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let source = Source::in_small_chunks(9, 200 << 10);
    let store = Store::open(&root).unwrap();
    push_all(&store, "../web 01", "k", std::slice::from_ref(&source));
    drop(store);
    let out = dir.path().join("image");
    let read = Command::new("python3")
        .args(["-c", READER])
        .args([&root, &out])
        .output()
        .unwrap();
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    assert!(
        std::fs::read(&out).unwrap() == source.bytes,
        "the disk differs"
    );
}
