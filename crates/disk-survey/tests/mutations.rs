//! No damage of table or file system ends in a panic, an endless loop, or a map that does not cover
//! the disk.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};

use block_io::{BlockRead, BlockWrite, ExtentKind, MemoryDisk};
use disk_survey::survey;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A disk of 3 MiB with an ext4 file system in a logical partition, and one in a primary.
fn small_server() -> Option<Vec<u8>> {
    let test = "random_corruptions_of_table_and_file_systems";
    if !test_oracles::has_tools(test, &["sfdisk", "mke2fs"]) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (disk, part) = (dir.path().join("disk"), dir.path().join("part"));
    let mut bytes = vec![0xA5; 3 << 20];
    bytes[..1 << 19].fill(0);
    std::fs::write(&disk, &bytes).unwrap();
    let mut child = Command::new("sfdisk")
        .args(["-q", "--wipe", "never"])
        .arg(&disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let script = "label: dos\n1 : start=64,size=1536\n2 : start=2048,size=3000,type=5\n\
                  5 : start=2112,size=2048\n";
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    let mut bytes = std::fs::read(&disk).unwrap();
    for (kind, start, sectors) in [("ext2", 64, 1536), ("ext4", 2112, 2048)] {
        let place = start * 512..(start + sectors) * 512;
        std::fs::write(&part, &bytes[place.clone()]).unwrap();
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", kind, "-O", "^has_journal"])
            .args(["-E", "nodiscard"])
            .arg(&part)
            .status()
            .unwrap();
        assert!(made.success());
        bytes[place].copy_from_slice(&std::fs::read(&part).unwrap());
    }
    Some(bytes)
}

#[test]
fn random_corruptions_of_table_and_file_systems() {
    let Some(whole) = small_server() else { return };
    let disk = MemoryDisk::from(whole.clone());
    let sound = survey(&disk).unwrap();
    assert_eq!(sound.findings, []);
    assert_eq!(sound.volumes.len(), 2);
    assert!(sound.used_bytes() < 2 << 20, "{}", sound.used_bytes());
    // Where the bytes are that are looked at: table, chain, superblocks, descriptors, bitmaps.
    let hot = [
        (446, 66),
        (2048 * 512 + 446, 66),
        (64 * 512 + 1024, 1024),
        (64 * 512 + 2048, 1024),
        (2112 * 512 + 1024, 1024),
        (2112 * 512 + 2048, 1024),
        (2112 * 512 + 3072, 1024),
    ];
    let mut dice = Dice(0x1234_5678_9ABC_DEF1);
    let mut all_used = 0;
    for _ in 0..3000 {
        let mut touched = Vec::new();
        for _ in 0..=dice.roll(5) {
            let (start, len) = hot[dice.roll(hot.len() as u64) as usize];
            let at = start + dice.roll(len);
            let value = match dice.roll(3) {
                0 => 0,
                1 => 0xFF,
                _ => dice.roll(256) as u8,
            };
            disk.write_at(at, &[value]).unwrap();
            touched.push(at as usize);
        }
        let survey = survey(&disk).unwrap();
        all_used += u32::from(survey.used_bytes() == 3 << 20);
        let used = survey.used_only(&disk);
        let (mut at, mut data) = (0, 0);
        for extent in block_io::extents(&used, 0..used.size()) {
            let extent = extent.unwrap();
            assert_eq!(extent.start, at);
            at = extent.end();
            if extent.kind == ExtentKind::Data {
                data += extent.len;
            }
        }
        assert_eq!(at, used.size());
        assert!(data <= survey.used_bytes());
        let kept = survey.layout.metadata.iter().all(|range| {
            let mut at = range.start;
            while at < range.end {
                let (is_used, end) = survey.used.run_at(at);
                if !is_used {
                    return false;
                }
                at = end;
            }
            true
        });
        assert!(kept, "the table is always in use");
        for at in touched {
            disk.write_at(at as u64, &whole[at..=at]).unwrap();
        }
    }
    assert!(all_used > 100, "{all_used}");
}
