//! Dynamic disks of a Windows Server 2003 R2, held against ldmtool; and databases that lie.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::process::Command;
use std::sync::Arc;

use block_io::{BlockRead, BlockWrite, MemoryDisk};
use disk_layout::ldm::{LdmDisk, VolumeKind, assemble, read_disk};
use disk_layout::read_layout;
use disk_layout::volume::VolumeDisk;

const NAMES: [&str; 10] = [
    "simple-1",
    "spanned-1",
    "spanned-2",
    "striped-1",
    "striped-2",
    "mirrored-1",
    "mirrored-2",
    "raid5-1",
    "raid5-2",
    "raid5-3",
];

/// The sample's disks, unpacked.
fn sample(test: &str) -> Option<tempfile::TempDir> {
    if !test_oracles::has_tools(test, &["tar", "xz"]) {
        return None;
    }
    let archive = test_oracles::fixture(test, "volumes/libldm/ldm-2003r2-dev.tar.xz")?;
    let dir = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(dir.path())
        .status();
    assert!(unpacked.unwrap().success());
    Some(dir)
}

fn open(dir: &tempfile::TempDir, name: &str) -> (MemoryDisk, LdmDisk) {
    let bytes = std::fs::read(dir.path().join(format!("ldm-2003r2-{name}.img"))).unwrap();
    let disk = MemoryDisk::from(bytes);
    let read = read_disk(&disk, &read_layout(&disk).unwrap())
        .unwrap()
        .unwrap();
    (disk, read)
}

#[test]
fn volumes_are_those_ldmtool_finds_and_each_holds_its_file_system() {
    let test = "volumes_are_those_ldmtool_finds_and_each_holds_its_file_system";
    if !test_oracles::has_tools(test, &["ldmtool"]) {
        return;
    }
    let Some(dir) = sample(test) else { return };
    let disks: Vec<(MemoryDisk, LdmDisk)> = NAMES.iter().map(|name| open(&dir, name)).collect();
    let read: Vec<&LdmDisk> = disks.iter().map(|(_, read)| read).collect();
    let groups = assemble(&read);
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].findings, []);
    let mut kinds = Vec::new();
    for volume in &groups[0].volumes {
        let mut show = Command::new("ldmtool");
        for name in NAMES {
            show.arg("-d")
                .arg(dir.path().join(format!("ldm-2003r2-{name}.img")));
        }
        let id = groups[0].id.to_string();
        let shown = show
            .args(["show", "volume", &id, &volume.name])
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let size = format!("\"size\" : {},", volume.size / 512);
        let kind = format!("\"type\" : \"{}\"", volume.kind);
        assert!(shown.contains(&size), "{volume:?}: {shown}");
        assert!(shown.contains(&kind), "{volume:?}: {shown}");
        let hint = format!("\"hint\" : \"{}\"", volume.drive.as_deref().unwrap());
        assert!(shown.contains(&hint), "{volume:?}: {shown}");
        kinds.push(volume.kind);
        let map = volume.map.as_ref().unwrap();
        let all: Vec<&MemoryDisk> = disks.iter().map(|(disk, _)| disk).collect();
        let mounted = VolumeDisk::new(Arc::clone(map), all, &volume.name);
        let mut boot = [0; 512];
        mounted.read_at(0, &mut boot).unwrap();
        assert_eq!(boot[3..11], *b"NTFS    ", "{}", volume.name);
        // The backup boot sector lies behind the file system, the MFT and its mirror inside: a chunk
        // in a wrong place would move them.
        let sectors = u64::from_le_bytes(boot[40..48].try_into().unwrap());
        let mut backup = [0; 512];
        mounted.read_at(sectors * 512, &mut backup).unwrap();
        assert!(backup == boot, "{}", volume.name);
        for field in [48, 56] {
            let cluster = u64::from_le_bytes(boot[field..field + 8].try_into().unwrap());
            let at = cluster * u64::from(boot[13]) * 512;
            let mut records = [0; 4096];
            mounted.read_at(at, &mut records).unwrap();
            assert!(
                records.chunks(1024).all(|r| r.starts_with(b"FILE")),
                "{}",
                volume.name
            );
        }
    }
    for kind in [
        VolumeKind::Simple,
        VolumeKind::Spanned,
        VolumeKind::Striped,
        VolumeKind::Mirrored,
        VolumeKind::Raid5,
    ] {
        assert!(kinds.contains(&kind), "{kind} of {kinds:?}");
    }
}

#[test]
fn missing_disks_are_named_and_a_mirror_does_without_one() {
    let test = "missing_disks_are_named_and_a_mirror_does_without_one";
    let Some(dir) = sample(test) else { return };
    let (_, mirror) = open(&dir, "mirrored-1");
    let (_, spanned) = open(&dir, "spanned-1");
    let group = assemble(&[&mirror, &spanned]).remove(0);
    assert_eq!(group.findings.len(), 8, "{:?}", group.findings);
    for volume in &group.volumes {
        let map = volume.map.as_ref().unwrap();
        let complete = map.lost().is_empty();
        assert_eq!(complete, volume.kind == VolumeKind::Mirrored, "{volume:?}");
    }
}

#[test]
fn mutated_databases() {
    let Some(dir) = sample("mutated_databases") else {
        return;
    };
    let (disk, _) = open(&dir, "spanned-1");
    let mut state = 0x1234_5678_9ABC_DEF1_u64;
    let mut roll = |sides: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % sides
    };
    let places = [
        (3072, 0x140),
        (51_380_736, 0x60),
        (51_388_928, 0x90),
        (51_389_440, 6000),
    ];
    let (mut refused, mut read) = (0, 0);
    for _ in 0..2000 {
        let (start, len) = places[roll(4) as usize];
        let at = start + roll(len);
        let mut old = [0];
        disk.read_at(at, &mut old).unwrap();
        let new = [0, 0xFF, roll(256) as u8][roll(3) as usize];
        disk.write_at(at, &[new]).unwrap();
        match read_disk(&disk, &read_layout(&disk).unwrap()) {
            Ok(Some(one)) => {
                for volume in assemble(&[&one]).iter().flat_map(|group| &group.volumes) {
                    if let Ok(map) = &volume.map {
                        map.places(0..map.size(), &mut |_, _| {});
                        assert!(map.size() == 0 || map.locate(map.size() - 1).is_some());
                    }
                }
                read += 1;
            }
            _ => refused += 1,
        }
        disk.write_at(at, &old).unwrap();
    }
    assert!(refused > 50 && read > 50, "{refused} {read}");
}
