//! Damaged tables: what was found, what was done about it, and that no damage whatever ends in a
//! panic, an endless loop or a boundless list.
#![allow(clippy::unwrap_used)]

mod tools;

use block_io::{BlockErrorKind, BlockRead, BlockWrite, Fault, FaultyDisk, MemoryDisk};
use disk_layout::{
    Damage, Layout, LayoutError, Severity, TableKind, apply, plan_gpt_repair, read_layout,
};
use tools::{Dice, Image, MIB, has};

const GPT: &str =
    "label: gpt\n1 : size=10M,name=\"boot\"\n2 : size=20M,name=\"root\"\n5 : size=30M\n";
const MBR: &str = "label: dos\n1 : size=10M,bootable\n2 : size=80M,type=5\n\
                   5 : size=10M\n6 : size=10M\n7 : size=10M\n";

fn damages(layout: &Layout) -> Vec<Damage> {
    layout.findings.iter().map(|f| f.what).collect()
}

/// What of a layout a user sees of his partitions.
fn partitions(layout: &Layout) -> Vec<(u32, std::ops::Range<u64>)> {
    layout
        .partitions
        .iter()
        .map(|p| (p.number, p.range.clone()))
        .collect()
}

/// Repair a copy of `disk` by plan, and let sgdisk judge the outcome.
fn assert_repairable(disk: &MemoryDisk, expected: &Layout) {
    let plan = plan_gpt_repair(disk).unwrap();
    assert!(!plan.is_empty());
    apply(disk, &plan).unwrap();
    assert_eq!(plan_gpt_repair(disk).unwrap(), [], "done twice, done once");
    let image = Image::of(&disk.to_vec());
    image.assert_sgdisk_is_content();
    image.assert_sfdisk_is_content();
    let layout = read_layout(disk).unwrap();
    assert_eq!(layout.findings, []);
    assert_eq!(layout.partitions, expected.partitions);
    assert_eq!(layout.disk_id, expected.disk_id);
}

#[test]
fn a_damaged_primary_gpt_is_read_from_the_backup_and_restored() {
    let test = "a_damaged_primary_gpt_is_read_from_the_backup_and_restored";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let whole = read_layout(&image.disk()).unwrap();
    assert_eq!(whole.findings, []);
    for (at, what) in [
        (512, Damage::GptHeaderMissing),         // signature
        (512 + 13, Damage::GptHeaderField),      // header size
        (512 + 16, Damage::GptHeaderChecksum),   // its checksum
        (512 + 60, Damage::GptHeaderChecksum),   // disk GUID
        (1024 + 32, Damage::GptArrayChecksum),   // first entry
        (1024 + 8000, Damage::GptArrayChecksum), // an unused entry
    ] {
        let disk = image.memory();
        let mut byte = [0];
        disk.read_at(at, &mut byte).unwrap();
        disk.write_at(at, &[byte[0] ^ 0xFF]).unwrap();
        let layout = read_layout(&disk).unwrap();
        assert_eq!(layout.table, TableKind::Gpt);
        assert_eq!(damages(&layout), [what], "byte {at}");
        assert!(!layout.is_certain());
        assert_eq!(layout.partitions, whole.partitions);
        assert_repairable(&disk, &whole);
    }
    // All of it gone.
    let disk = image.memory();
    disk.write_at(512, &[0; 33 * 512]).unwrap();
    assert_eq!(read_layout(&disk).unwrap().partitions, whole.partitions);
    assert_repairable(&disk, &whole);
}

#[test]
fn a_damaged_backup_gpt_is_a_warning_and_restored() {
    let test = "a_damaged_backup_gpt_is_a_warning_and_restored";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let whole = read_layout(&image.disk()).unwrap();
    let end = 100 * MIB;
    for (at, what) in [
        (end - 512, Damage::GptHeaderMissing),
        (end - 512 + 40, Damage::GptHeaderChecksum),
        (end - 33 * 512 + 1, Damage::GptArrayChecksum),
    ] {
        let disk = image.memory();
        disk.write_at(at, &[0xA5; 8]).unwrap();
        let layout = read_layout(&disk).unwrap();
        assert_eq!(damages(&layout), [what]);
        assert!(layout.is_certain(), "the primary is whole");
        assert_eq!(layout.partitions, whole.partitions);
        assert_repairable(&disk, &whole);
    }
}

#[test]
fn a_disk_that_grew_has_its_backup_in_the_middle() {
    let test = "a_disk_that_grew_has_its_backup_in_the_middle";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let whole = read_layout(&image.disk()).unwrap();
    let mut bytes = image.memory().to_vec();
    bytes.resize(150 << 20, 0);
    let disk = MemoryDisk::from(bytes);
    let layout = read_layout(&disk).unwrap();
    assert_eq!(
        damages(&layout),
        [Damage::GptBackupPlace, Damage::ProtectiveMbrExtent]
    );
    assert!(layout.is_certain());
    assert_eq!(layout.partitions, whole.partitions);
    let old_backup = 100 * MIB - 512;
    assert!(layout.metadata.iter().any(|r| r.contains(&old_backup)));
    assert_repairable(&disk, &whole);
    let mut header = [1; 512];
    disk.read_at(old_backup, &mut header).unwrap();
    assert_eq!(header, [0; 512], "the old backup is wiped");
}

#[test]
fn a_truncated_disk_keeps_what_it_has() {
    if !has("a_truncated_disk_keeps_what_it_has", &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let whole = read_layout(&image.disk()).unwrap();
    let mut bytes = image.memory().to_vec();
    // In the middle of partition 5, which begins at 31 MiB.
    bytes.truncate(40 << 20);
    let layout = read_layout(&MemoryDisk::from(bytes.clone())).unwrap();
    assert!(!layout.is_certain());
    assert!(damages(&layout).contains(&Damage::PastEnd));
    assert_eq!(layout.partitions[..2], whole.partitions[..2]);
    assert_eq!(layout.partition(5).unwrap().range, 31 * MIB..40 * MIB);
    assert!(plan_gpt_repair(&MemoryDisk::from(bytes.clone())).is_err());
    // In front of partition 5.
    bytes.truncate(31 << 20);
    let layout = read_layout(&MemoryDisk::from(bytes)).unwrap();
    assert_eq!(layout.partitions, whole.partitions[..2]);
}

#[test]
fn a_protective_mbr_alone_and_a_gpt_alone() {
    if !has("a_protective_mbr_alone_and_a_gpt_alone", &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let whole = read_layout(&image.disk()).unwrap();
    let disk = image.memory();
    disk.write_at(512, &[0; 512]).unwrap();
    disk.write_at(100 * MIB - 512, &[0; 512]).unwrap();
    let layout = read_layout(&disk).unwrap();
    assert_eq!(layout.table, TableKind::ProtectiveOnly);
    assert!(!layout.is_certain());
    assert!(damages(&layout).contains(&Damage::GptMissing));
    assert!(plan_gpt_repair(&disk).is_err());

    let disk = image.memory();
    disk.write_at(0, &[0; 512]).unwrap();
    let layout = read_layout(&disk).unwrap();
    assert_eq!(layout.table, TableKind::Gpt);
    assert_eq!(damages(&layout), [Damage::ProtectiveMbrMissing]);
    assert_eq!(layout.partitions, whole.partitions);
    assert_repairable(&disk, &whole);
}

#[test]
fn two_valid_copies_that_differ_are_doubtful() {
    if !has("two_valid_copies_that_differ_are_doubtful", &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let mut old = image.memory().to_vec();
    let image = image.sfdisk("label: gpt\nsize=40M\n");
    let new = image.memory().to_vec();
    // The primary of the new table, the backup of the old.
    old[..1 << 20].copy_from_slice(&new[..1 << 20]);
    let layout = read_layout(&MemoryDisk::from(old)).unwrap();
    assert_eq!(damages(&layout), [Damage::GptCopiesDiffer]);
    assert!(!layout.is_certain());
    assert_eq!(partitions(&layout), [(1, MIB..41 * MIB)]);
}

#[test]
fn a_gpt_left_over_under_an_mbr() {
    if !has("a_gpt_left_over_under_an_mbr", &["sfdisk"]) {
        return;
    }
    let gpt = Image::new(100 * MIB).sfdisk(GPT).memory().to_vec();
    let disk = Image::new(100 * MIB).sfdisk(MBR).memory();
    disk.write_at(512, &gpt[512..34 * 512]).unwrap();
    let backup = gpt.len() - 33 * 512;
    disk.write_at(backup as u64, &gpt[backup..]).unwrap();
    let layout = read_layout(&disk).unwrap();
    assert_eq!(layout.table, TableKind::Mbr);
    assert_eq!(damages(&layout), [Damage::StaleGpt]);
    assert!(!layout.is_certain());
    assert_eq!(layout.partitions.len(), 5);
    // With the primary gone, the backup alone casts no doubt.
    disk.write_at(512, &[0; 33 * 512]).unwrap();
    let layout = read_layout(&disk).unwrap();
    assert_eq!(damages(&layout), [Damage::StaleGpt]);
    assert!(layout.is_certain());
    assert_eq!(layout.partitions.len(), 5);
}

#[test]
fn a_backup_gpt_left_over_under_a_file_system_on_the_whole_disk() {
    let test = "a_backup_gpt_left_over_under_a_file_system_on_the_whole_disk";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let whole = read_layout(&image.disk()).unwrap();
    let disk = image.memory();
    disk.write_at(0, &[0; 34 * 512]).unwrap();
    // Wiped: the backup is what is left of the table.
    let layout = read_layout(&disk).unwrap();
    assert_eq!(layout.partitions, whole.partitions);
    assert!(!layout.is_certain());
    // A superblock at 1 KiB: a file system has taken its place.
    disk.write_at(1024 + 56, &[0x53, 0xEF]).unwrap();
    let layout = read_layout(&disk).unwrap();
    assert_eq!(layout.table, TableKind::None);
    assert_eq!(damages(&layout), [Damage::StaleGpt]);
    assert!(layout.is_certain());
}

#[test]
fn unreadable_sectors_of_a_gpt() {
    if !has("unreadable_sectors_of_a_gpt", &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let whole = read_layout(&image.disk()).unwrap();
    for (range, what) in [
        (0..512, Damage::BootSectorUnreadable),
        (512..1024, Damage::GptHeaderMissing),
        (4096..4608, Damage::GptArrayChecksum),
    ] {
        let disk = FaultyDisk::new(image.memory())
            .failing(range, Fault::Always(BlockErrorKind::Unreadable));
        let layout = read_layout(&disk).unwrap();
        assert_eq!(layout.findings[0].what, what);
        assert!(!layout.is_certain());
        assert_eq!(layout.partitions, whole.partitions);
    }
    let disk =
        FaultyDisk::new(image.memory()).failing(0..1024, Fault::Always(BlockErrorKind::Vanished));
    assert!(matches!(read_layout(&disk), Err(LayoutError::Disk { .. })));
}

/// The entry at `slot` of the record at `at`.
fn put_entry(disk: &MemoryDisk, at: u64, slot: u64, kind: u8, start: u32, sectors: u32) {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    disk.write_at(at + 446 + slot * 16, &entry).unwrap();
}

/// Where the second record of the chain of [`MBR`] lies.
fn second_record(layout: &Layout) -> u64 {
    layout.mbr.as_ref().unwrap().ebrs[1].at.0 * 512
}

#[test]
fn chains_that_circle_break_or_leave_the_extended_partition() {
    let test = "chains_that_circle_break_or_leave_the_extended_partition";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(MBR);
    let whole = read_layout(&image.disk()).unwrap();
    assert_eq!(whole.findings, []);
    let second = second_record(&whole);
    // Back to the first record, and to itself.
    let own = (second - whole.partition(2).unwrap().range.start) / 512;
    for (link, kept) in [(0, 2), (own as u32, 2)] {
        let disk = image.memory();
        put_entry(&disk, second, 1, 5, link, 1000);
        let layout = read_layout(&disk).unwrap();
        assert_eq!(damages(&layout), [Damage::EbrCircle]);
        assert_eq!(layout.partitions.len(), 2 + kept);
        assert_eq!(layout.partitions[..4], whole.partitions[..4]);
    }
    // The magic number of a record gone.
    let disk = image.memory();
    disk.write_at(second + 510, &[0, 0]).unwrap();
    let layout = read_layout(&disk).unwrap();
    assert_eq!(damages(&layout), [Damage::EbrMissing]);
    assert_eq!(layout.partitions[..], whole.partitions[..3]);
    // A link out of the extended partition and the disk, beyond 2^32 sectors.
    let disk = image.memory();
    put_entry(&disk, second, 1, 5, u32::MAX, 1000);
    let layout = read_layout(&disk).unwrap();
    let said = damages(&layout);
    for what in [
        Damage::OutsideExtended,
        Damage::EbrBeyond32Bits,
        Damage::EbrMissing,
    ] {
        assert!(said.contains(&what), "{said:?}");
    }
    // A logical partition outside of the extended one, past the end of the disk.
    let disk = image.memory();
    put_entry(&disk, second, 0, 0x83, 2048, u32::MAX);
    let layout = read_layout(&disk).unwrap();
    assert!(damages(&layout).contains(&Damage::OutsideExtended));
    assert!(damages(&layout).contains(&Damage::PastEnd));
    assert_eq!(layout.partition(6).unwrap().range.end, 100 * MIB);
}

#[test]
fn an_endless_chain_ends() {
    // Every second sector is a record that links to the next one, further than anybody goes.
    let disk = MemoryDisk::zeroed(4 << 20);
    disk.write_at(510, &[0x55, 0xAA]).unwrap();
    put_entry(&disk, 0, 0, 5, 1, 8000);
    for index in 0..3000u32 {
        let at = u64::from(1 + index * 2) * 512;
        put_entry(&disk, at, 0, 0x83, 1, 1);
        put_entry(&disk, at, 1, 5, (index + 1) * 2, 2);
        disk.write_at(at + 510, &[0x55, 0xAA]).unwrap();
    }
    let layout = read_layout(&disk).unwrap();
    assert!(damages(&layout).contains(&Damage::EbrEndless));
    assert_eq!(layout.partitions.len(), 1 + disk_layout::MAX_EBRS);
}

#[test]
fn partitions_that_overlap_or_pass_the_end_are_doubtful() {
    let test = "partitions_that_overlap_or_pass_the_end_are_doubtful";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk("label: dos\nsize=10M\nsize=10M\n");
    for (start, sectors, what) in [
        (4096, 20_480, Damage::Overlap),
        (2048, 1000, Damage::Overlap),
        (30_000, u32::MAX, Damage::PastEnd),
        (u32::MAX, u32::MAX, Damage::PastEnd),
    ] {
        let disk = image.memory();
        put_entry(&disk, 0, 3, 0x83, start, sectors);
        let layout = read_layout(&disk).unwrap();
        assert!(damages(&layout).contains(&what), "{:?}", layout.findings);
        assert!(!layout.is_certain());
        assert!(layout.partitions.iter().all(|p| p.range.end <= disk.size()));
    }
}

#[test]
fn absurd_counts_in_a_gpt_cost_nothing() {
    if !has("absurd_counts_in_a_gpt_cost_nothing", &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    for (offset, value) in [
        (80, u32::MAX),
        (80, 0),
        (84, u32::MAX),
        (84, 0),
        (84, 127),
        (84, 132),
        (72, 0),
        (72, u32::MAX),
        (12, u32::MAX),
        (12, 0),
    ] {
        let disk = image.memory();
        disk.write_at(100 * MIB - 512, &[0; 512]).unwrap();
        let mut header = [0; 512];
        disk.read_at(512, &mut header).unwrap();
        header[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        // With a right checksum, so that only the bound stands in the way.
        header[16..20].fill(0);
        let crc = crc32(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        disk.write_at(512, &header).unwrap();
        let layout = read_layout(&disk).unwrap();
        assert_eq!(layout.table, TableKind::ProtectiveOnly, "{offset} {value}");
        assert!(!layout.is_certain());
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

#[test]
fn ten_thousand_random_corruptions_end_without_panic_and_in_bounds() {
    let test = "ten_thousand_random_corruptions_end_without_panic_and_in_bounds";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut doubtful = 0;
    for script in [GPT, MBR] {
        // Small, so that the chain and the backup lie in what is copied each time.
        let small = script.replace("size=80M", "size=1600K").replace("0M", "0K");
        let image = Image::new(3 * MIB).sfdisk(&small);
        let whole = image.memory().to_vec();
        let hot: Vec<u64> = whole
            .chunks(512)
            .enumerate()
            .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
            .map(|(index, _)| index as u64 * 512)
            .collect();
        assert!(hot.len() >= 4, "{hot:?}");
        let disk = MemoryDisk::from(whole.clone());
        for _ in 0..5000 {
            for _ in 0..=dice.roll(6) {
                let at = hot[dice.roll(hot.len() as u64) as usize] + dice.roll(512);
                let value = match dice.roll(4) {
                    0 => 0,
                    1 => 0xFF,
                    2 => 5,
                    _ => dice.roll(256) as u8,
                };
                disk.write_at(at, &[value]).unwrap();
            }
            // Half of the time with right checksums, so that the fields behind them are reached.
            if dice.roll(2) == 0 {
                seal(&disk);
            }
            let layout = read_layout(&disk).unwrap();
            doubtful += u32::from(!layout.is_certain());
            assert!(layout.findings.len() <= 201);
            for partition in &layout.partitions {
                assert!(partition.range.start < partition.range.end);
                assert!(partition.range.end <= disk.size());
            }
            let mut end = 0;
            for range in &layout.metadata {
                assert!(end <= range.start && range.start < range.end);
                assert!(range.end <= disk.size());
                end = range.end;
            }
            let _ = plan_gpt_repair(&disk);
            if let Some(mbr) = &layout.mbr {
                let _ = disk_layout::plan_mbr(mbr, disk.size(), layout.sector_size);
            }
            for finding in &layout.findings {
                assert!(!finding.to_string().is_empty());
            }
            for at in hot.iter().chain(&[512]) {
                let at = *at as usize;
                disk.write_at(at as u64, &whole[at..at + 512]).unwrap();
            }
        }
    }
    assert!(doubtful > 1000, "{doubtful}");
}

/// Make the checksums of the primary GPT right again.
fn seal(disk: &MemoryDisk) {
    let mut array = vec![0; 128 * 128];
    disk.read_at(1024, &mut array).unwrap();
    disk.write_at(512 + 88, &crc32(&array).to_le_bytes())
        .unwrap();
    let mut header = [0; 92];
    disk.read_at(512, &mut header).unwrap();
    header[16..20].fill(0);
    disk.write_at(512 + 16, &crc32(&header).to_le_bytes())
        .unwrap();
}

#[test]
fn every_finding_says_where_what_was_expected_and_what_was_done() {
    let test = "every_finding_says_where_what_was_expected_and_what_was_done";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let disk = image.memory();
    disk.write_at(512 + 16, &[1, 2, 3, 4]).unwrap();
    let layout = read_layout(&disk).unwrap();
    assert_eq!(layout.findings[0].severity, Severity::Doubtful);
    let text = layout.findings[0].to_string();
    assert!(
        text.starts_with("bad checksum of the GPT header at byte 528: expected 0x"),
        "{text}"
    );
    assert!(
        text.contains("found 0x04030201; the backup GPT is used"),
        "{text}"
    );
}
