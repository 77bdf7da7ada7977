//! Volume managers' bytes that lie: no panic, no endless loop, no memory without bound, whatever is
//! changed; and what a map says of a whole range is what it says byte by byte.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_io::{BlockRead, BlockWrite, MemoryDisk, conformance};
use disk_layout::volume::{
    DeviceIndex, Mapping, ParityLayout, Place, Segment, Source, VolumeDisk, VolumeMap, Whereabouts,
};
use disk_layout::{lvm, md};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// CRC-32 as LVM2 has it, bit by bit.
fn lvm_sum(bytes: &[u8]) -> u32 {
    let mut crc = 0xF597_A6CF_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

const PV_ID: &str = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGG0";

/// A physical volume of 4 MiB with this text, every checksum right.
fn physical_volume(text: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; 4 << 20];
    let (area, room) = (4096, (1 << 20) - 4096_u64);
    disk[512..520].copy_from_slice(b"LABELONE");
    disk[520..528].copy_from_slice(&1_u64.to_le_bytes());
    disk[532..536].copy_from_slice(&32_u32.to_le_bytes());
    disk[536..544].copy_from_slice(b"LVM2 001");
    disk[544..576].copy_from_slice(PV_ID.replace('-', "").as_bytes());
    disk[576..584].copy_from_slice(&(4_u64 << 20).to_le_bytes());
    disk[584..592].copy_from_slice(&(1_u64 << 20).to_le_bytes());
    disk[616..624].copy_from_slice(&(area as u64).to_le_bytes());
    disk[624..632].copy_from_slice(&room.to_le_bytes());
    let sum = lvm_sum(&disk[532..1024]);
    disk[528..532].copy_from_slice(&sum.to_le_bytes());
    disk[area + 4..area + 20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    disk[area + 20..area + 24].copy_from_slice(&1_u32.to_le_bytes());
    disk[area + 24..area + 32].copy_from_slice(&(area as u64).to_le_bytes());
    disk[area + 32..area + 40].copy_from_slice(&room.to_le_bytes());
    disk[area + 40..area + 48].copy_from_slice(&512_u64.to_le_bytes());
    disk[area + 48..area + 56].copy_from_slice(&(text.len() as u64).to_le_bytes());
    disk[area + 56..area + 60].copy_from_slice(&lvm_sum(text).to_le_bytes());
    let sum = lvm_sum(&disk[area + 4..area + 512]);
    disk[area..area + 4].copy_from_slice(&sum.to_le_bytes());
    disk[area + 512..area + 512 + text.len()].copy_from_slice(text);
    disk
}

fn volume(name: &str, segment: &str) -> String {
    format!(
        "{name} {{\nid = \"A1g7p2-RsBy-Z5g2-f4fU-PfTu-BpnF-JXFjbR\"\nstatus = [\"READ\", \"VISIBLE\"]\n\
         segment_count = 1\nsegment1 {{\nstart_extent = 0\n{segment}\n}}\n}}\n"
    )
}

fn group_text() -> String {
    let volumes = [
        volume(
            "lin",
            "extent_count = 3\ntype = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 0]",
        ),
        volume(
            "str",
            "extent_count = 4\ntype = \"striped\"\nstripe_size = 8\nstripes = [\"pv0\", 3, \"pv0\", 5]",
        ),
        volume(
            "leg_a",
            "extent_count = 2\ntype = \"striped\"\nstripes = [\"pv0\", 7]",
        ),
        volume(
            "leg_b",
            "extent_count = 2\ntype = \"striped\"\nstripes = [\"pv0\", 9]",
        ),
        volume(
            "mir",
            "extent_count = 2\ntype = \"mirror\"\nmirrors = [\"leg_a\", 0, \"leg_b\", 0]",
        ),
        volume(
            "rd1",
            "extent_count = 2\ntype = \"raid1\"\nraids = [\"leg_a\", \"leg_a\", \"leg_b\", \"leg_b\"]",
        ),
        volume(
            "rd5",
            "extent_count = 2\ntype = \"raid5\"\nstripe_size = 8\n\
             raids = [\"lin\", \"leg_a\", \"lin\", \"leg_b\", \"lin\", \"lin\"]",
        ),
        volume(
            "thi",
            "extent_count = 2\ntype = \"thin\"\nthin_pool = \"lin\"",
        ),
        volume(
            "sna",
            "extent_count = 2\ntype = \"snapshot\"\ncow_store = \"str\"\norigin = \"lin\"",
        ),
    ];
    format!(
        "vg {{\nid = \"8SnPqV-8Dsf-nAsB-wqn3-4yxR-xHFz-3IGWHS\"\nseqno = 3\nextent_size = 128\n\
         physical_volumes {{\npv0 {{\nid = \"{PV_ID}\"\ndevice = \"/dev/sda\"\npe_start = 2048\n\
         pe_count = 40\n}}\n}}\nlogical_volumes {{\n{}}}\n}}\ncontents = \"Text Format Volume Group\"\n",
        volumes.concat()
    )
}

/// Everything there is to ask of a map.
fn ask(map: &Arc<VolumeMap>, disk: &dyn BlockRead) {
    let mut dice = Dice(7);
    map.places(0..map.size(), &mut |_, len| {
        assert!(len > 0 || map.size() == 0)
    });
    for _ in 0..20 {
        let at = dice.roll(map.size().max(1));
        if let Some(located) = map.locate(at) {
            assert!(located.len > 0);
        }
    }
    let volume = VolumeDisk::new(Arc::clone(map), vec![disk; 3], "volume");
    let mut bytes = [0; 5000];
    let _ = volume.read_at(0, &mut bytes);
    for at in [0, 1, 4095, map.size() / 2, map.size().saturating_sub(1)] {
        if let Ok(extent) = volume.extent_at(at) {
            assert!(extent.len > 0 && extent.end() <= map.size());
        }
    }
}

fn read_group(disk: &MemoryDisk) -> usize {
    let Ok(Some(pv)) = lvm::read_physical_volume(disk) else {
        return 0;
    };
    let groups = lvm::assemble(&[(disk, &pv)]);
    let mut readable = 0;
    for volume in groups.iter().flat_map(|group| &group.volumes) {
        if let Ok(map) = &volume.map {
            ask(map, disk);
            readable += 1;
        }
    }
    readable
}

#[test]
fn mutated_lvm_metadata_with_right_checksums() {
    let sound = group_text();
    let disk = MemoryDisk::from(physical_volume(sound.as_bytes()));
    assert_eq!(read_group(&disk), 6, "the sound group");
    let pieces: [&[u8]; 12] = [
        b"0",
        b"99999999999",
        b"9007199254740992",
        b"-1",
        b"{",
        b"}",
        b"\"",
        b"[",
        b"]",
        b"pv0",
        b"leg_a",
        b"rd5",
    ];
    let mut dice = Dice(0x1234_5678_9ABC_DEF1);
    let (begin, mut read, mut runs) = (Instant::now(), 0, 0);
    while begin.elapsed() < Duration::from_secs(4) {
        let mut text = sound.clone().into_bytes();
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(text.len() as u64) as usize;
            match dice.roll(4) {
                0 => text[at] = dice.roll(256) as u8,
                1 => drop(text.drain(at..(at + dice.roll(30) as usize).min(text.len()))),
                2 => {
                    let piece = pieces[dice.roll(pieces.len() as u64) as usize];
                    text.splice(at..at, piece.iter().copied());
                }
                _ => {
                    // Another number in place of one.
                    let digit = (at..text.len()).find(|at| text[*at].is_ascii_digit());
                    if let Some(at) = digit {
                        let piece = pieces[dice.roll(4) as usize];
                        text.splice(at..=at, piece.iter().copied());
                    }
                }
            }
        }
        read += usize::from(read_group(&MemoryDisk::from(physical_volume(&text))) > 0);
        runs += 1;
    }
    assert!(runs > 200 && read * 20 > runs, "{read} of {runs}");
}

#[test]
fn mutated_labels_headers_and_areas_of_lvm() {
    let sound = physical_volume(group_text().as_bytes());
    let disk = MemoryDisk::from(sound.clone());
    let mut dice = Dice(0xABCD_EF01_2345_6789);
    let mut refused = 0;
    for _ in 0..3000 {
        let at = [512, 4096][dice.roll(2) as usize] + dice.roll(140);
        let value = [0, 0xFF, dice.roll(256) as u8][dice.roll(3) as usize];
        disk.write_at(at, &[value]).unwrap();
        // With right checksums, so that what they guard is reached.
        let mut bytes = vec![0; 8192];
        disk.read_at(0, &mut bytes).unwrap();
        let label = lvm_sum(&bytes[532..1024]);
        disk.write_at(528, &label.to_le_bytes()).unwrap();
        let area = lvm_sum(&bytes[4100..4608]);
        disk.write_at(4096, &area.to_le_bytes()).unwrap();
        refused += usize::from(read_group(&disk) == 0);
        disk.write_at(0, &sound[..8192]).unwrap();
    }
    assert!((500..3000).contains(&refused), "{refused}");
}

/// A superblock 1.2 of member `number` of `raid_disks`, its checksum right.
fn superblock(number: u16, raid_disks: u32, level: i32, layout: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &0xA92B_4EFC_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, &[7; 16]);
    put(72, &level.to_le_bytes());
    put(76, &layout.to_le_bytes());
    put(80, &1024_u64.to_le_bytes());
    put(88, &8_u32.to_le_bytes());
    put(92, &raid_disks.to_le_bytes());
    put(128, &64_u64.to_le_bytes());
    put(136, &1024_u64.to_le_bytes());
    put(144, &8_u64.to_le_bytes());
    put(160, &u32::from(number).to_le_bytes());
    put(200, &9_u64.to_le_bytes());
    put(208, &u64::MAX.to_le_bytes());
    put(220, &8_u32.to_le_bytes());
    for role in 0..8_u16 {
        put(256 + 2 * usize::from(role), &role.to_le_bytes());
    }
    bytes
}

fn sum_up(bytes: &mut [u8]) {
    let devices = u32::from_le_bytes(bytes[220..224].try_into().unwrap()).min(1920) as usize;
    bytes[216..220].fill(0);
    let covered = &bytes[..256 + 2 * devices];
    let words = covered.chunks(4).map(|word| {
        let mut whole = [0; 4];
        whole[..word.len()].copy_from_slice(word);
        u64::from(u32::from_le_bytes(whole))
    });
    let sum: u64 = words.sum();
    let folded = (sum as u32).wrapping_add((sum >> 32) as u32);
    bytes[216..220].copy_from_slice(&folded.to_le_bytes());
}

#[test]
fn mutated_md_superblocks_with_right_checksums() {
    let mut dice = Dice(0x0F0F_1234_5678_9ABC);
    let kinds = [
        (-1, 0),
        (0, 2),
        (1, 0),
        (4, 0),
        (5, 2),
        (6, 2),
        (10, 0x102),
        (10, 0x2_0201),
        (10, 0x1_0201),
    ];
    let (begin, mut read, mut runs) = (Instant::now(), 0, 0);
    while begin.elapsed() < Duration::from_secs(4) {
        let (level, layout) = kinds[dice.roll(kinds.len() as u64) as usize];
        let mut members = Vec::new();
        let mutated = dice.roll(5);
        for number in 0..4 {
            let mut bytes = superblock(number, 4, level, layout);
            if mutated != 0 && dice.roll(2) == 0 {
                for _ in 0..=dice.roll(3) {
                    let at = dice.roll(280) as usize;
                    bytes[at] = [0, 0xFF, dice.roll(256) as u8][dice.roll(3) as usize];
                }
            }
            sum_up(&mut bytes);
            let disk = MemoryDisk::zeroed(600 << 10);
            disk.write_at(4096, &bytes).unwrap();
            members.extend(md::read_member(&disk).ok().flatten());
        }
        let references: Vec<&md::MdMember> = members.iter().collect();
        let disk = MemoryDisk::zeroed(600 << 10);
        let arrays = md::assemble(&references);
        for array in &arrays {
            if let Ok(map) = &array.map {
                ask(map, &disk);
                read += 1;
            }
        }
        if mutated == 0 {
            assert!(
                arrays.len() == 1 && arrays[0].map.is_ok(),
                "{:?}",
                arrays[0].map
            );
        }
        runs += 1;
    }
    assert!(runs > 500 && read * 3 > runs, "{read} of {runs}");
}

fn legs(count: usize) -> Vec<Source> {
    let leg = |device: usize| {
        Source::Device(Place {
            device: DeviceIndex(device),
            offset: 512 * device as u64,
        })
    };
    (0..count).map(leg).collect()
}

/// Every mapping there is, over a few legs.
fn mappings() -> Vec<(Mapping, u64)> {
    let mut all = vec![
        (Mapping::Linear(legs(1).remove(0)), 10_000),
        (Mapping::Mirrored(legs(3)), 10_000),
    ];
    for count in 1..5 {
        for first in 0..count {
            let (chunk, legs) = (1024, legs(count));
            all.push((
                Mapping::Striped { chunk, first, legs },
                1024 * 3 * count as u64,
            ));
        }
    }
    for (near, far, offset) in [
        (2, 1, false),
        (1, 2, false),
        (1, 2, true),
        (2, 2, false),
        (3, 1, false),
    ] {
        for count in 4..7_usize {
            let rows = 12 * count as u64;
            let mapping = Mapping::Raid10 {
                chunk: 512,
                near,
                far,
                stride: if offset { 512 } else { rows * 512 },
                offset,
                set: count,
                legs: legs(count),
            };
            all.push((mapping, 512 * count as u64 * 4));
        }
    }
    use ParityLayout::{
        LeftAsymmetric, LeftSymmetric, ParityFirst, ParityLast, RightAsymmetric, RightSymmetric,
        RotatingNContinue, RotatingNRestart, RotatingZeroRestart,
    };
    for layout in [
        LeftAsymmetric,
        RightAsymmetric,
        LeftSymmetric,
        RightSymmetric,
        ParityFirst,
        ParityLast,
        RotatingZeroRestart,
        RotatingNRestart,
        RotatingNContinue,
    ] {
        for (parities, last_is_second) in [(1, false), (2, false), (2, true)] {
            let rotating = matches!(
                layout,
                RotatingZeroRestart | RotatingNRestart | RotatingNContinue
            );
            if rotating && (parities == 1 || last_is_second) {
                continue;
            }
            for count in 4..7_usize {
                let mapping = Mapping::Parity {
                    chunk: 512,
                    parities,
                    layout,
                    last_is_second,
                    legs: legs(count),
                };
                all.push((mapping, 512 * (count as u64 - u64::from(parities)) * 14));
            }
        }
    }
    all
}

#[test]
fn no_two_bytes_of_a_volume_lie_in_one_place_and_ranges_say_what_bytes_say() {
    for (mapping, size) in mappings() {
        let shown = format!("{mapping:?}");
        let map = VolumeMap::new(vec![Segment {
            at: 0..size,
            mapping,
        }])
        .unwrap();
        let mut taken = BTreeSet::new();
        let mut at = 0;
        while at < size {
            let located = map.locate(at).unwrap();
            let places = match located.at {
                Whereabouts::One(place) | Whereabouts::Guarded(place) => vec![place],
                Whereabouts::Copies(places) => places,
                other => panic!("{other:?} in {shown}"),
            };
            for place in places {
                for byte in 0..located.len.div_ceil(512) {
                    let byte = place.offset + byte * 512;
                    assert!(
                        taken.insert((place.device.0, byte / 512)),
                        "byte {at} of {shown}"
                    );
                }
            }
            at += located.len;
        }
        let mut ranges = BTreeSet::new();
        map.places(0..size, &mut |place, len| {
            for sector in place.offset / 512..(place.offset + len).div_ceil(512) {
                ranges.insert((place.device.0, sector));
            }
        });
        assert!(ranges.is_superset(&taken), "{shown}");
        let mut some = BTreeSet::new();
        map.places(512..size - 512, &mut |place, len| {
            for sector in place.offset / 512..(place.offset + len).div_ceil(512) {
                some.insert((place.device.0, sector));
            }
        });
        assert!(some.is_subset(&ranges), "{shown}");
    }
}

#[test]
fn every_volume_keeps_the_contract_of_disks() {
    for (mapping, size) in mappings() {
        let devices: Vec<MemoryDisk> = (0..7_u64)
            .map(|seed| {
                let bytes: Vec<u8> = (0..200_000_u64)
                    .map(|i| (i * 7 + seed * 31 + i / 251) as u8)
                    .collect();
                MemoryDisk::from(bytes)
            })
            .collect();
        let map = Arc::new(
            VolumeMap::new(vec![Segment {
                at: 0..size,
                mapping,
            }])
            .unwrap(),
        );
        let volume = VolumeDisk::new(map, devices, "volume");
        let mut expected = vec![0; size as usize];
        for (at, byte) in expected.iter_mut().enumerate() {
            volume
                .read_at(at as u64, std::slice::from_mut(byte))
                .unwrap();
        }
        conformance::check_reads(&volume, &expected);
    }
}
