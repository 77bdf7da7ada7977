//! The fuzz entry, fed with small file systems and damaged copies of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "../../../fuzz/entries/file_system.rs"]
mod entry;

use common::*;

#[test]
fn no_bytes_of_the_fuzz_entry_end_the_process() {
    let test = "no_bytes_of_the_fuzz_entry_end_the_process";
    if !has_tools(test, &["mkfs.vfat", "mkntfs", "mke2fs", "mkfs.exfat"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let makers: [(&[&str], u64); 4] = [
        (&["mkfs.vfat", "-F", "12"], 300 << 10),
        (&["mkntfs", "-F", "-Q", "-q", "-c", "512"], 1200 << 10),
        (&["mke2fs", "-q", "-F", "-b", "1024", "-N", "16"], 400 << 10),
        (&["mkfs.exfat", "-c", "512", "-b", "4096"], 1 << 20),
    ];
    entry::feed(b"");
    for (command, size) in makers {
        std::fs::write(&image, vec![0; size as usize]).unwrap();
        let args: Vec<&str> = command[1..].iter().copied().chain([text(&image)]).collect();
        run_ok(command[0], &args);
        let sound = std::fs::read(&image).unwrap();
        entry::feed(&sound);
        let mut random = Seeded(size);
        for _ in 0..40 {
            let mut bytes = sound.clone();
            for _ in 0..1 + random.below(8) {
                let at = random.below(size.min(80_000)) as usize;
                bytes[at] = random.next() as u8;
            }
            bytes.truncate(size as usize - random.below(2000) as usize * 100);
            entry::feed(&bytes);
        }
    }
}
