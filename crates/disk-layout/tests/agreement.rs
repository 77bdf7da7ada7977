//! Tables made by sfdisk, sgdisk, parted and fdisk are read as those tools and the gptman and gpt
//! crates read them, value by value.
#![allow(clippy::unwrap_used)]

mod tools;

use block_io::{BlockRead, FileDisk, SectorSize};
use disk_layout::{Damage, DiskId, Layout, PartitionKind, Severity, TableKind, read_layout};
use tools::{Image, MIB, has};

/// Compare a layout with `sfdisk -J`.
fn assert_agrees_with_sfdisk(layout: &Layout, image: &Image) {
    let json = &image.json()["partitiontable"];
    let label = match layout.table {
        TableKind::Mbr => "dos",
        _ => "gpt",
    };
    assert_eq!(json["label"], label);
    let id = layout.disk_id.unwrap().to_string();
    assert_eq!(json["id"].as_str().unwrap().to_lowercase(), id);
    let sector = json["sectorsize"].as_u64().unwrap();
    assert_eq!(sector, layout.sector_size.bytes());
    let theirs = json["partitions"].as_array().unwrap();
    assert_eq!(theirs.len(), layout.partitions.len(), "{theirs:?}");
    for their in theirs {
        let node = their["node"].as_str().unwrap();
        let number = node.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap();
        let our = layout.partition(number.parse().unwrap()).unwrap();
        assert_eq!(their["start"].as_u64().unwrap() * sector, our.range.start);
        let size = their["size"].as_u64().unwrap() * sector;
        assert_eq!(size, our.range.end - our.range.start);
        let kind = match our.kind {
            PartitionKind::Mbr(byte) => format!("{byte:x}"),
            PartitionKind::Gpt(guid) => guid.to_string().to_uppercase(),
        };
        assert_eq!(their["type"], kind.as_str());
        assert_eq!(their["name"].as_str(), our.name.as_deref());
        let guid = our.guid.map(|guid| guid.to_string().to_uppercase());
        assert_eq!(their["uuid"].as_str(), guid.as_deref());
        if label == "dos" {
            assert_eq!(their["bootable"].as_bool().unwrap_or(false), our.bootable);
            assert_eq!(our.logical, our.number > 4);
        }
        let attributes = their["attrs"].as_str().unwrap_or("");
        let said: u64 = attributes
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .map(|word| match word {
                "RequiredPartition" => 1,
                "NoBlockIOProtocol" => 2,
                "LegacyBIOSBootable" => 4,
                other => {
                    let bits = other.trim_start_matches("GUID:");
                    1 << bits.parse::<u64>().unwrap()
                }
            })
            .sum();
        assert_eq!(said, our.attributes.0, "{attributes}");
    }
}

#[test]
fn mbr_with_logical_partitions_in_each_flavour_of_extended() {
    if !has(
        "mbr_with_logical_partitions_in_each_flavour_of_extended",
        &["sfdisk"],
    ) {
        return;
    }
    for extended in ["5", "f", "85"] {
        let image = Image::new(300 * MIB).sfdisk(&format!(
            "label: dos\nlabel-id: 0xdeadbeef\n\
             size=10M,type=83,bootable\nsize=20M,type=82\nsize=200M,type={extended}\nsize=5M,type=ef\n\
             size=10M,type=83\nsize=20M,type=8e\nsize=30M,type=7\nsize=1M,type=fd\n"
        ));
        let layout = read_layout(&image.disk()).unwrap();
        assert_eq!(layout.table, TableKind::Mbr);
        assert_eq!(layout.disk_id, Some(DiskId::Mbr(0xdead_beef)));
        assert_eq!(layout.findings, []);
        assert_eq!(layout.partitions.len(), 8);
        assert_agrees_with_sfdisk(&layout, &image);
        // Every record of the chain is kept, and the gap in front of the first partition.
        let mbr = layout.mbr.as_ref().unwrap();
        assert_eq!(mbr.ebrs.len(), 4);
        for ebr in &mbr.ebrs {
            let at = ebr.at.0 * 512;
            assert!(layout.metadata.iter().any(|r| r.contains(&at)), "{at}");
        }
        assert_eq!(layout.metadata[0], 0..MIB);
    }
}

#[test]
fn logical_partitions_keep_their_numbers_when_the_first_is_gone() {
    let test = "logical_partitions_keep_their_numbers_when_the_first_is_gone";
    if !has(test, &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(
        "label: dos\n1 : size=10M\n2 : size=80M,type=5\n\
             5 : size=10M\n6 : size=10M\n7 : size=10M\n",
    );
    let delete = std::process::Command::new("sfdisk")
        .args(["-q", "--delete"])
        .arg(image.path())
        .arg("5")
        .output()
        .unwrap();
    assert!(delete.status.success(), "{delete:?}");
    let layout = read_layout(&image.disk()).unwrap();
    assert_agrees_with_sfdisk(&layout, &image);
}

#[test]
fn gpt_with_names_attributes_and_holes_between_the_numbers() {
    let test = "gpt_with_names_attributes_and_holes_between_the_numbers";
    if !has(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    let image = Image::new(200 * MIB).sfdisk(
        "label: gpt\nlabel-id: ABA2C92D-D089-0542-9C92-32570F6367EA\n\
         1 : size=10M,name=\"Größe ☃\",attrs=\"RequiredPartition,LegacyBIOSBootable,GUID:60\"\n\
         3 : size=1M,type=21686148-6449-6E6F-744E-656564454649\n\
         128 : size=50M,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name=\"123456789012345678901234567890123456\"\n",
    );
    let layout = read_layout(&image.disk()).unwrap();
    assert_eq!(layout.table, TableKind::Gpt);
    assert_eq!(layout.findings, []);
    assert_agrees_with_sfdisk(&layout, &image);
    assert_eq!(layout.partition(3).unwrap().kind, PartitionKind::BIOS_BOOT);
    assert_eq!(
        layout.partition(128).unwrap().kind,
        PartitionKind::EFI_SYSTEM
    );
    assert!(layout.partition(1).unwrap().bootable);
    // sgdisk says the same in its own words.
    for partition in &layout.partitions {
        let option = format!("--info={}", partition.number);
        let said = image.run("sgdisk", &[&option]);
        let first = partition.range.start / 512;
        let last = partition.range.end / 512 - 1;
        for line in [
            format!("First sector: {first} "),
            format!("Last sector: {last} "),
            format!("Attribute flags: {:016X}", partition.attributes.0),
            format!(
                "Partition name: '{}'",
                partition.name.as_deref().unwrap_or("")
            ),
            format!("{}", partition.guid.unwrap()).to_uppercase(),
        ] {
            assert!(said.contains(&line), "{line} is not in {said}");
        }
    }
}

#[test]
fn tables_by_parted() {
    if !has("tables_by_parted", &["parted", "sfdisk"]) {
        return;
    }
    let part = |image: &Image, words: &str| {
        let path = image.path();
        let output = std::process::Command::new("parted")
            .arg("-s")
            .arg(path)
            .args(words.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let mbr = Image::new(200 * MIB);
    for words in [
        "mklabel msdos",
        "mkpart primary ext4 1MiB 20MiB",
        "mkpart extended 20MiB 190MiB",
        "mkpart logical ext4 21MiB 50MiB",
        "mkpart logical linux-swap 51MiB 80MiB",
        "set 1 boot on",
    ] {
        part(&mbr, words);
    }
    let layout = read_layout(&mbr.disk()).unwrap();
    assert_eq!(layout.findings, []);
    assert_agrees_with_sfdisk(&layout, &mbr);
    let gpt = Image::new(200 * MIB);
    for words in [
        "mklabel gpt",
        "mkpart ESP fat32 1MiB 20MiB",
        "mkpart root ext4 20MiB 190MiB",
        "set 1 esp on",
    ] {
        part(&gpt, words);
    }
    let layout = read_layout(&gpt.disk()).unwrap();
    assert_eq!(layout.findings, []);
    assert_agrees_with_sfdisk(&layout, &gpt);
}

/// `fdisk -b 4096 -l` in columns: number, start, end.
fn fdisk_4k_list(image: &Image) -> Vec<(u32, u64, u64)> {
    let said = image.run("fdisk", &["-b", "4096", "-l", "-o", "Device,Start,End"]);
    said.lines()
        .filter(|line| line.starts_with('/') && !line.ends_with(':'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let node = words.next()?;
            let number = node.rsplit(|c: char| !c.is_ascii_digit()).next()?;
            Some((
                number.parse().ok()?,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
            ))
        })
        .collect()
}

fn assert_agrees_with_fdisk_4k(layout: &Layout, image: &Image) {
    let ours: Vec<_> = layout
        .partitions
        .iter()
        .map(|p| (p.number, p.range.start / 4096, p.range.end / 4096 - 1))
        .collect();
    assert!(!ours.is_empty());
    assert_eq!(ours, fdisk_4k_list(image));
}

#[test]
fn disks_with_4096_byte_sectors() {
    if !has("disks_with_4096_byte_sectors", &["fdisk"]) {
        return;
    }
    let gpt = Image::new(64 * MIB).fdisk_4k("g\nn\n1\n\n+10M\nn\n2\n\n+20M\nw\n");
    let layout = read_layout(&gpt.memory_4k()).unwrap();
    assert_eq!(layout.table, TableKind::Gpt);
    assert_eq!(layout.findings, []);
    assert_agrees_with_fdisk_4k(&layout, &gpt);
    let mbr =
        Image::new(64 * MIB).fdisk_4k("o\nn\np\n1\n\n+10M\nn\ne\n2\n\n\nn\n\n+10M\nn\n\n+5M\nw\n");
    let layout = read_layout(&mbr.memory_4k()).unwrap();
    assert_eq!(layout.sector_size, SectorSize::B4096);
    assert_eq!(layout.partitions.len(), 4);
    assert_agrees_with_fdisk_4k(&layout, &mbr);
}

#[test]
fn a_table_in_the_other_sector_size_is_found_and_said() {
    let test = "a_table_in_the_other_sector_size_is_found_and_said";
    if !has(test, &["fdisk", "sfdisk"]) {
        return;
    }
    let gpt = Image::new(64 * MIB).fdisk_4k("g\nn\n1\n\n+10M\nn\n2\n\n+20M\nw\n");
    let layout = read_layout(&gpt.disk()).unwrap();
    assert_eq!(layout.sector_size, SectorSize::B4096);
    assert_eq!(layout.findings.len(), 1);
    assert_eq!(layout.findings[0].what, Damage::SectorSize);
    assert!(layout.is_certain(), "the checksums say so");
    assert_agrees_with_fdisk_4k(&layout, &gpt);

    let gpt = Image::new(64 * MIB).sfdisk("label: gpt\nsize=10M\nsize=20M\n");
    let layout = read_layout(&gpt.memory_4k()).unwrap();
    assert_eq!(layout.sector_size, SectorSize::B512);
    assert_eq!(layout.findings[0].what, Damage::SectorSize);
    assert_agrees_with_sfdisk(&layout, &gpt);

    // An MBR says nothing about it: the chain of extended boot records does.
    let mbr =
        Image::new(64 * MIB).fdisk_4k("o\nn\np\n1\n\n+10M\nn\ne\n2\n\n\nn\n\n+10M\nn\n\n+5M\nw\n");
    let disk = mbr.disk();
    for (_, start, _) in fdisk_4k_list(&mbr) {
        if start * 4096 >= MIB && start != 2816 {
            block_io::BlockWrite::write_at(&disk, start * 4096 + 1024, b"superblock").unwrap();
        }
    }
    let layout = read_layout(&disk).unwrap();
    assert_eq!(layout.sector_size, SectorSize::B4096);
    assert!(!layout.is_certain());
    assert_agrees_with_fdisk_4k(&layout, &mbr);
}

#[test]
fn fixtures_of_gptman_are_read_as_gptman_reads_them() {
    let mut read = 0;
    for name in [
        "disk1.img",
        "disk2.img",
        "disk3.img",
        "disk4.img",
        "disk5.img",
    ] {
        let test = "fixtures_of_gptman_are_read_as_gptman_reads_them";
        let Some(path) = test_oracles::fixture(test, &format!("volumes/gptman/{name}")) else {
            return;
        };
        let disk = FileDisk::open(&path).unwrap();
        let layout = read_layout(&disk).unwrap();
        let mut file = std::fs::File::open(&path).unwrap();
        let Ok(theirs) = gptman::GPT::find_from(&mut file) else {
            assert!(layout.gpt.is_none(), "{name}: {:?}", layout.findings);
            continue;
        };
        assert_eq!(theirs.sector_size, layout.sector_size.bytes(), "{name}");
        let table = layout.gpt.as_ref().unwrap();
        assert_eq!(theirs.header.disk_guid, table.disk_guid.to_bytes_le());
        let used: Vec<_> = theirs.iter().filter(|(_, p)| p.is_used()).collect();
        assert_eq!(used.len(), layout.partitions.len());
        for (number, their) in used {
            let our = table.entry(number).unwrap();
            assert_eq!(their.starting_lba, our.first.0);
            assert_eq!(their.ending_lba, our.last.0);
            assert_eq!(their.partition_name.as_str(), our.name());
            assert_eq!(their.attribute_bits, our.attributes.0);
            assert_eq!(
                their.partition_type_guid,
                our.kind.to_bytes_le(),
                "partition {number}"
            );
            assert_eq!(their.unique_partition_guid, our.guid.to_bytes_le());
            read += 1;
        }
    }
    assert!(read > 3, "{read}");
}

#[test]
fn the_gpt_crate_reads_the_same() {
    if !has("the_gpt_crate_reads_the_same", &["sfdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB).sfdisk(
        "label: gpt\n1 : size=10M,name=\"boot\"\n2 : size=20M,name=\"root\"\n7 : size=30M,name=\"data\"\n",
    );
    let layout = read_layout(&image.disk()).unwrap();
    let theirs = gpt::GptConfig::new()
        .writable(false)
        .open(image.path())
        .unwrap();
    assert_eq!(theirs.partitions().len(), 3);
    for (number, their) in theirs.partitions() {
        let our = layout.partition(*number).unwrap();
        assert_eq!(our.range.start, their.first_lba * 512);
        assert_eq!(our.range.end, (their.last_lba + 1) * 512);
        assert_eq!(our.name.as_deref(), Some(their.name.as_str()));
        assert_eq!(our.guid.unwrap().as_bytes(), their.part_guid.as_bytes());
    }
}

#[test]
fn a_hybrid_mbr_by_sgdisk() {
    if !has("a_hybrid_mbr_by_sgdisk", &["sgdisk"]) {
        return;
    }
    let image = Image::new(100 * MIB);
    image.run(
        "sgdisk",
        &["-n", "1::+10M", "-n", "2::+20M", "-n", "3::+5M"],
    );
    image.run("sgdisk", &["-h", "1:2"]);
    let layout = read_layout(&image.disk()).unwrap();
    assert_eq!(layout.table, TableKind::HybridGpt);
    assert_eq!(layout.partitions.len(), 3);
    assert!(layout.is_certain(), "{:?}", layout.findings);
    assert!(layout.findings.iter().all(|f| f.severity == Severity::Note));
    assert_eq!(layout.findings[0].what, Damage::HybridMbr);
}

#[test]
fn file_systems_on_the_whole_disk_are_no_tables() {
    let tools: [(&str, &[&str]); 4] = [
        ("mke2fs", &["-q", "-F"]),
        ("mkfs.vfat", &["-I"]),
        ("mkfs.xfs", &["-q", "-f"]),
        ("mkfs.ntfs", &["-q", "-F"]),
    ];
    for (tool, arguments) in tools {
        if !has("file_systems_on_the_whole_disk_are_no_tables", &[tool]) {
            continue;
        }
        let image = Image::new(400 * MIB);
        image.run(tool, arguments);
        let layout = read_layout(&image.disk()).unwrap();
        assert_eq!(layout.table, TableKind::None, "{tool}");
        assert_eq!(layout.findings, [], "{tool}");
        assert!(layout.disk_id.is_none());
    }
}

#[test]
fn blank_and_tiny_disks_have_no_table() {
    for size in [0, 1, 511, 512, 513, 1024, 4096, 100_000] {
        let disk = block_io::MemoryDisk::zeroed(size);
        for sector_size in [SectorSize::B512, SectorSize::B4096] {
            let disk = block_io::MemoryDisk::from(disk.to_vec()).with_sector_size(sector_size);
            let layout = read_layout(&disk).unwrap();
            assert_eq!(layout.table, TableKind::None, "{size}");
            assert_eq!(layout.findings, [], "{size}");
            assert_eq!(disk.size(), size as u64);
        }
    }
}

/// Partitions but the extended one as libblkid sees them: number, first sector, sectors. It is not
/// the library sfdisk uses, and follows the kernel's numbering on its own.
fn partx(image: &Image) -> Vec<(u32, u64, u64)> {
    let said = image.run("partx", &["-g", "-o", "NR,START,SECTORS,TYPE"]);
    said.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let row = (
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
            );
            (!matches!(words.next()?, "0x5" | "0xf" | "0x85")).then_some(row)
        })
        .collect()
}

fn without_extended(layout: &Layout) -> Vec<(u32, u64, u64)> {
    layout
        .partitions
        .iter()
        .filter(|p| !p.is_extended())
        .map(|p| {
            let len = p.range.end - p.range.start;
            (p.number, p.range.start / 512, len / 512)
        })
        .collect()
}

#[test]
fn libblkid_numbers_the_partitions_alike_in_damaged_chains_too() {
    let test = "libblkid_numbers_the_partitions_alike_in_damaged_chains_too";
    if !has(test, &["sfdisk", "partx"]) {
        return;
    }
    const CHAIN: &str = "label: dos\n1 : size=10M\n3 : size=80M,type=5\n\
                         5 : size=10M\n6 : size=10M\n7 : size=10M\n8 : size=5M\n";
    let record = |image: &Image, index: usize| {
        let layout = read_layout(&image.disk()).unwrap();
        layout.mbr.unwrap().ebrs[index].at.0 * 512
    };
    let entry = |kind: u8, start: u32, sectors: u32| {
        let mut bytes = [0; 16];
        bytes[4] = kind;
        bytes[8..12].copy_from_slice(&start.to_le_bytes());
        bytes[12..].copy_from_slice(&sectors.to_le_bytes());
        bytes
    };
    type Damaging = Box<dyn Fn(&Image) -> (u64, Vec<u8>)>;
    let damages: Vec<(&str, Damaging)> = vec![
        ("whole", Box::new(|_| (0, Vec::new()))),
        (
            "a record without its magic",
            Box::new(move |i| (record(i, 2) + 510, vec![0, 0])),
        ),
        (
            "a record without a partition",
            Box::new(move |i| (record(i, 1) + 446, vec![0; 16])),
        ),
        (
            "rubbish in the third entry",
            Box::new(move |i| (record(i, 1) + 446 + 32, entry(0x83, 1 << 31, 77).to_vec())),
        ),
        (
            "links first, data second",
            Box::new(move |i| {
                let at = record(i, 1) + 446;
                let mut pair = vec![0; 32];
                i.disk().read_at(at, &mut pair).unwrap();
                pair.rotate_left(16);
                (at, pair)
            }),
        ),
    ];
    for (what, damaging) in damages {
        let image = Image::new(100 * MIB).sfdisk(CHAIN);
        let (at, bytes) = damaging(&image);
        block_io::BlockWrite::write_at(&image.disk(), at, &bytes).unwrap();
        let layout = read_layout(&image.disk()).unwrap();
        let theirs = partx(&image);
        assert!(theirs.len() >= 3, "{what}");
        assert_eq!(without_extended(&layout), theirs, "{what}");
    }
    let gpt = Image::new(100 * MIB).sfdisk("label: gpt\n2 : size=10M\n9 : size=20M\n");
    let layout = read_layout(&gpt.disk()).unwrap();
    assert_eq!(without_extended(&layout), partx(&gpt));
    // Both believe the backup of a damaged primary.
    block_io::BlockWrite::write_at(&gpt.disk(), 1024, &[0xEE; 200]).unwrap();
    let layout = read_layout(&gpt.disk()).unwrap();
    assert!(!layout.is_certain());
    assert_eq!(without_extended(&layout), partx(&gpt));
}
