//! Any bytes as the sectors of a disk: its partition table, a plan to mend it, and the bytes in use.

use block_io::{BlockRead, ExtentKind, MemoryDisk, SectorSize};

/// Feed `data` to all that reads partition tables, with both sector sizes.
pub fn feed(data: &[u8]) {
    for sector in [SectorSize::B512, SectorSize::B4096] {
        let disk = MemoryDisk::from(data.to_vec()).with_sector_size(sector);
        if let Ok(layout) = disk_layout::read_layout(&disk) {
            for partition in &layout.partitions {
                assert!(partition.range.start <= partition.range.end);
            }
        }
        if let Ok(plan) = disk_layout::plan_gpt_repair(&disk) {
            let _ = disk_layout::apply(&disk, &plan);
        }
    }
    let disk = MemoryDisk::from(data.to_vec());
    if let Ok(survey) = disk_survey::survey(&disk) {
        let used = survey.used_only(&disk);
        let (mut at, mut data) = (0, 0);
        for extent in block_io::extents(&used, 0..used.size()) {
            let Ok(extent) = extent else { break };
            assert_eq!(extent.start, at, "the map has no holes");
            at = extent.end();
            if extent.kind == ExtentKind::Data {
                data += extent.len;
            }
        }
        assert!(data <= survey.used_bytes());
    }
}
