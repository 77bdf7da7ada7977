//! Tables written by plan, judged by sfdisk, sgdisk and gptman.
#![allow(clippy::unwrap_used)]

mod tools;

use block_io::{BlockRead, BlockWrite, MemoryDisk, SectorSize};
use disk_layout::{
    GptTable, Layout, Lba, MbrTable, PlanError, apply, pending, plan_gpt, plan_mbr, read_layout,
};
use tools::{Image, MIB, has};

const GPT: &str = "label: gpt\n\
    1 : size=10M,name=\"Größe\",attrs=\"RequiredPartition,GUID:60\"\n\
    3 : size=20M,name=\"123456789012345678901234567890123456\"\n\
    7 : size=30M,type=21686148-6449-6E6F-744E-656564454649,attrs=LegacyBIOSBootable\n";
const MBR: &str = "label: dos\nlabel-id: 0x12345678\n1 : size=10M,bootable\n2 : size=80M,type=f\n\
    5 : size=10M\n6 : size=10M,type=8e\n7 : size=10M\n";

/// Boot code that must survive: 440 bytes of it.
fn put_boot_code(disk: &dyn BlockWrite) -> Vec<u8> {
    let code: Vec<u8> = (0..440).map(|i| (i * 11 + 3) as u8).collect();
    disk.write_at(0, &code).unwrap();
    code
}

fn boot_code(disk: &dyn BlockRead) -> Vec<u8> {
    let mut code = vec![0; 440];
    disk.read_at(0, &mut code).unwrap();
    code
}

fn plan_of(layout: &Layout, size: u64) -> Result<Vec<disk_layout::Patch>, PlanError> {
    let boot = layout.mbr.as_ref().map(|mbr| &mbr.boot_sector);
    match &layout.gpt {
        Some(gpt) => plan_gpt(gpt, boot, size),
        None => plan_mbr(layout.mbr.as_ref().unwrap(), size, layout.sector_size),
    }
}

#[test]
fn a_table_read_and_written_unchanged_changes_no_byte() {
    let test = "a_table_read_and_written_unchanged_changes_no_byte";
    if !has(test, &["sfdisk", "sgdisk", "parted", "fdisk"]) {
        return;
    }
    let sgdisk = Image::new(100 * MIB);
    sgdisk.run("sgdisk", &["-S", "56", "-n", "1::+10M", "-n", "9::+20M"]);
    sgdisk.run("sgdisk", &["-h", "1"]);
    let with_five = Image::new(100 * MIB).sfdisk(MBR);
    with_five.disk();
    let gone = std::process::Command::new("sfdisk")
        .args(["-q", "--delete"])
        .arg(with_five.path())
        .arg("5")
        .status()
        .unwrap();
    assert!(gone.success());
    let parted = Image::new(100 * MIB);
    for words in [
        "mklabel msdos",
        "mkpart extended 1MiB 90MiB",
        "mkpart logical 2MiB 20MiB",
        "mkpart logical 30MiB 40MiB",
        "mkpart logical 21MiB 29MiB",
    ] {
        let done = std::process::Command::new("parted")
            .arg("-s")
            .arg(parted.path())
            .args(words.split(' '))
            .status()
            .unwrap();
        assert!(done.success());
    }
    let four_k = Image::new(64 * MIB).fdisk_4k("g\nn\n1\n\n+10M\nn\n2\n\n+20M\nw\n");
    let four_k_mbr =
        Image::new(64 * MIB).fdisk_4k("o\nn\np\n1\n\n+10M\nn\ne\n2\n\n\nn\n\n+10M\nn\n\n+5M\nw\n");
    for (name, disk) in [
        ("gpt", Image::new(100 * MIB).sfdisk(GPT).memory()),
        ("mbr", Image::new(100 * MIB).sfdisk(MBR).memory()),
        ("sgdisk", sgdisk.memory()),
        ("without 5", with_five.memory()),
        ("parted", parted.memory()),
        ("4K GPT", four_k.memory_4k()),
        ("4K MBR", four_k_mbr.memory_4k()),
    ] {
        let code = put_boot_code(&disk);
        let before = disk.to_vec();
        let layout = read_layout(&disk).unwrap();
        assert!(!layout.partitions.is_empty(), "{name}");
        let plan = plan_of(&layout, disk.size()).unwrap();
        let changes = pending(&disk, plan.clone()).unwrap();
        assert!(
            changes.is_empty(),
            "{name}: {:?}",
            changes.iter().map(|c| (c.at, c.what)).collect::<Vec<_>>()
        );
        apply(&disk, &plan).unwrap();
        assert!(disk.to_vec() == before, "{name}");
        assert_eq!(boot_code(&disk), code);
    }
}

#[test]
fn a_gpt_on_a_larger_disk_with_its_last_partition_grown() {
    let test = "a_gpt_on_a_larger_disk_with_its_last_partition_grown";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    let source = Image::new(100 * MIB).sfdisk(GPT);
    let code = put_boot_code(&source.disk());
    let before = read_layout(&source.disk()).unwrap();
    let target = Image::new(300 * MIB);
    let mut table = before.gpt.clone().unwrap();
    table.fit_to(300 * MIB);
    table.entries.last_mut().unwrap().last = table.last_usable;
    let boot = before.mbr.as_ref().map(|mbr| &mbr.boot_sector);
    let plan = plan_gpt(&table, boot, 300 * MIB).unwrap();
    apply(&target.disk(), &plan).unwrap();

    target.assert_sgdisk_is_content();
    target.assert_sfdisk_is_content();
    assert_eq!(boot_code(&target.disk()), code);
    let after = read_layout(&target.disk()).unwrap();
    assert_eq!(after.findings, []);
    assert_eq!(after.disk_id, before.disk_id);
    assert_eq!(after.partitions[..2], before.partitions[..2]);
    let theirs = target.json();
    let nodes = theirs["partitiontable"]["partitions"].as_array().unwrap();
    let numbers: Vec<bool> = nodes
        .iter()
        .zip(["disk1", "disk3", "disk7"])
        .map(|(their, end)| their["node"].as_str().unwrap().ends_with(end))
        .collect();
    assert_eq!(numbers, [true; 3], "numbers are kept");
    assert_eq!(nodes[0]["name"], "Größe");
    assert_eq!(nodes[0]["attrs"], "RequiredPartition GUID:60");
    assert_eq!(nodes[2]["attrs"], "LegacyBIOSBootable");
    let mut file = std::fs::File::open(target.path()).unwrap();
    let gptman = gptman::GPT::find_from(&mut file).unwrap();
    assert_eq!(gptman[7].ending_lba, table.last_usable.0);
    assert_eq!(gptman[7].attribute_bits, 4);
}

#[test]
fn a_new_gpt_made_from_nothing_in_both_sector_sizes() {
    let test = "a_new_gpt_made_from_nothing_in_both_sector_sizes";
    if !has(test, &["sgdisk", "fdisk"]) {
        return;
    }
    let guid = "12345678-1234-1234-1234-123456789abc".parse().unwrap();
    for sector_size in [SectorSize::B512, SectorSize::B4096] {
        let image = Image::new(64 * MIB);
        let table = GptTable::new(guid, 64 * MIB, sector_size);
        let plan = plan_gpt(&table, None, 64 * MIB).unwrap();
        apply(&image.disk(), &plan).unwrap();
        let disk = image.memory().with_sector_size(sector_size);
        let layout = read_layout(&disk).unwrap();
        assert_eq!(layout.findings, []);
        assert_eq!(layout.partitions, []);
        let size = sector_size.bytes().to_string();
        let said = image.run("fdisk", &["-b", &size, "-l"]);
        assert!(said.contains("Disklabel type: gpt"), "{said}");
        assert!(said.to_lowercase().contains(&guid.to_string()), "{said}");
        if sector_size == SectorSize::B512 {
            image.assert_sgdisk_is_content();
        }
    }
}

#[test]
fn tables_that_do_not_fit_are_refused_before_anything_is_written() {
    let test = "tables_that_do_not_fit_are_refused_before_anything_is_written";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(GPT);
    let table = read_layout(&image.disk()).unwrap().gpt.unwrap();
    let with = |change: &dyn Fn(&mut GptTable)| {
        let mut table = table.clone();
        change(&mut table);
        plan_gpt(&table, None, 100 * MIB)
    };
    use PlanError as E;
    assert!(with(&|_| {}).is_ok());
    assert!(matches!(
        with(&|t| t.fit_to(50 * MIB)),
        Err(E::PastEnd { number: 7, .. })
    ));
    assert!(matches!(
        with(&|t| t.fit_to(200 * MIB)),
        Err(E::TooSmall { .. })
    ));
    assert!(matches!(
        with(&|t| t.entries[1].first = Lba(4096)),
        Err(E::Overlap {
            first: 1,
            second: 3,
            ..
        })
    ));
    assert!(matches!(
        with(&|t| t.entries[0].first = Lba(40)),
        Err(E::TooEarly { number: 1, .. })
    ));
    assert!(matches!(
        with(&|t| t.entries[0].number = 3),
        Err(E::Number { number: 3, .. })
    ));
    assert!(matches!(
        with(&|t| t.entries[0].number = 129),
        Err(E::Number { number: 129, .. })
    ));
    assert!(matches!(
        with(&|t| t.entry_count = u32::MAX),
        Err(E::TooSmall { .. })
    ));
}

/// Move every logical partition and its record by `sectors`, and the extended one with them.
fn move_logicals(table: &mut MbrTable, sectors: u64) {
    let slot = table.extended_slot().unwrap();
    table.entries[slot].start += sectors as u32;
    for ebr in &mut table.ebrs {
        ebr.at = Lba(ebr.at.0 + sectors);
        ebr.start = Lba(ebr.start.0 + sectors);
    }
}

#[test]
fn logical_partitions_moved_behind_four_gibibytes_stay_right() {
    let test = "logical_partitions_moved_behind_four_gibibytes_stay_right";
    if !has(test, &["sfdisk"]) {
        return;
    }
    // A writer that multiplies 32-bit sectors by 512 in 32 bits puts the records into other
    // partitions' data here.
    let size = 2000 << 30;
    let image = Image::new(size).sfdisk(
        "label: dos\n1 : size=10G,bootable\n2 : start=3000000000,size=200G,type=f\n\
         5 : size=10G\n6 : size=20G,type=8e\n7 : size=30G\n",
    );
    let disk = image.disk();
    let code = put_boot_code(&disk);
    let before = read_layout(&disk).unwrap();
    assert_eq!(before.findings, []);
    let plan = plan_of(&before, size).unwrap();
    assert_eq!(pending(&disk, plan).unwrap(), [], "unchanged first");
    let mut table = before.mbr.clone().unwrap();
    let moved: u64 = 800_000;
    move_logicals(&mut table, moved);
    apply(&disk, &plan_mbr(&table, size, before.sector_size).unwrap()).unwrap();
    image.assert_sfdisk_is_content();
    assert_eq!(boot_code(&disk), code);
    let json = image.json();
    let theirs = json["partitiontable"]["partitions"].as_array().unwrap();
    assert_eq!(theirs.len(), 5);
    for (their, old) in theirs.iter().zip(&before.partitions) {
        let shift = if old.number == 1 { 0 } else { moved };
        assert_eq!(
            their["start"].as_u64().unwrap(),
            old.range.start / 512 + shift
        );
        let len = (old.range.end - old.range.start) / 512;
        assert_eq!(their["size"].as_u64().unwrap(), len);
    }
    let after = read_layout(&disk).unwrap();
    assert_eq!(after.findings, []);
    assert_eq!(after.disk_id, before.disk_id);
}

#[test]
fn an_mbr_with_logical_partitions_on_a_larger_disk() {
    if !has(
        "an_mbr_with_logical_partitions_on_a_larger_disk",
        &["sfdisk"],
    ) {
        return;
    }
    let source = Image::new(100 * MIB).sfdisk(MBR);
    let before = read_layout(&source.disk()).unwrap();
    let mut table = before.mbr.clone().unwrap();
    // The extended partition grows to the end, the last logical one with it; the one before it
    // becomes a swap partition.
    let sectors = 300 * MIB / 512;
    table.entries[1].sectors = sectors as u32 - table.entries[1].start;
    let last = table.ebrs.last_mut().unwrap();
    last.entry.sectors = (sectors - last.start.0) as u32;
    table.ebrs[1].entry.kind = 0x82;
    let target = Image::new(300 * MIB);
    let disk = target.disk();
    apply(
        &disk,
        &plan_mbr(&table, 300 * MIB, before.sector_size).unwrap(),
    )
    .unwrap();
    target.assert_sfdisk_is_content();
    let json = target.json();
    let json = &json["partitiontable"];
    assert_eq!(json["id"], "0x12345678");
    let theirs = json["partitions"].as_array().unwrap();
    assert_eq!(theirs[3]["type"], "82");
    let end = theirs[4]["start"].as_u64().unwrap() + theirs[4]["size"].as_u64().unwrap();
    assert_eq!(end, sectors);
    assert_eq!(theirs[0]["bootable"], true);
    assert_eq!(read_layout(&disk).unwrap().findings, []);
}

#[test]
fn chains_that_cannot_be_written_are_refused() {
    if !has("chains_that_cannot_be_written_are_refused", &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(MBR);
    let before = read_layout(&image.disk()).unwrap();
    let with = |change: &dyn Fn(&mut MbrTable)| {
        let mut table = before.mbr.clone().unwrap();
        change(&mut table);
        plan_mbr(&table, 100 * MIB, before.sector_size)
    };
    use PlanError as E;
    assert!(with(&|_| {}).is_ok());
    assert!(matches!(
        with(&|t| t.ebrs[0].at = Lba(t.ebrs[0].at.0 + 1)),
        Err(E::Chain { .. })
    ));
    assert!(matches!(
        with(&|t| t.entries[1] = disk_layout::MbrEntry::default()),
        Err(E::Chain { .. })
    ));
    assert!(matches!(
        with(&|t| t.unusual = Some("for the test")),
        Err(E::Chain { .. })
    ));
    assert!(matches!(
        with(&|t| t.ebrs[1].at = t.ebrs[0].start),
        Err(E::Overlap { .. })
    ));
    assert!(matches!(
        with(&|t| t.ebrs[2].entry.sectors = u32::MAX),
        Err(E::PastEnd { number: 7, .. })
    ));
    assert!(matches!(
        with(&|t| t.ebrs[1].start = Lba(100)),
        Err(E::TooEarly { number: 6, .. })
    ));
    assert!(matches!(
        with(&|t| t.entries[0].sectors = u32::MAX),
        Err(E::PastEnd { number: 1, .. })
    ));
    assert!(matches!(
        with(&|t| t.ebrs[1].number = Some(9)),
        Err(E::Number { number: 9, .. })
    ));
    let small = plan_mbr(before.mbr.as_ref().unwrap(), 20 * MIB, before.sector_size);
    assert!(matches!(small, Err(E::PastEnd { .. })));
}

#[test]
fn a_new_mbr_from_nothing() {
    if !has("a_new_mbr_from_nothing", &["sfdisk"]) {
        return;
    }
    let image = Image::new(64 * MIB);
    let mut table = MbrTable::new(0xCAFE_F00D);
    table.entries[2] = disk_layout::MbrEntry {
        status: 0x80,
        kind: 0x83,
        start: 2048,
        sectors: 20_480,
        ..Default::default()
    };
    let plan = plan_mbr(&table, 64 * MIB, SectorSize::B512).unwrap();
    apply(&image.disk(), &plan).unwrap();
    let json = image.json();
    let json = &json["partitiontable"];
    assert_eq!(json["id"], "0xcafef00d");
    assert_eq!(json["partitions"][0]["start"], 2048);
    assert!(
        json["partitions"][0]["node"]
            .as_str()
            .unwrap()
            .ends_with("disk3")
    );
    // What sfdisk writes for the same partition is the same, byte for byte.
    let theirs = Image::new(64 * MIB)
        .sfdisk("label: dos\nlabel-id: 0xcafef00d\n3 : start=2048,size=20480,type=83,bootable\n");
    assert!(theirs.memory().to_vec() == image.memory().to_vec());
}

#[test]
fn a_failing_disk_is_an_error_of_the_plan() {
    let disk = MemoryDisk::zeroed(1 << 20);
    assert!(matches!(
        disk_layout::plan_gpt_repair(&disk),
        Err(PlanError::NothingToRepairFrom)
    ));
}
