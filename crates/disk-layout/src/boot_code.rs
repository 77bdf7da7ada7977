//! Which boot loader's first sector this is, and where it goes on from there.
//!
//! What matters when partitions move: some loaders find their next part by the number of a sector of the disk.

use crate::bytes::{array, le32};
use crate::lba::Lba;

/// What the code in a boot sector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootCode {
    /// None: the sector's first bytes are zeroes.
    Empty,
    /// GRUB 2. Its core image begins at this sector of the disk: behind the boot sector, or inside a partition, by
    /// a list of blocks.
    Grub2 {
        /// The first sector of its core image.
        core: Lba,
    },
    /// GRUB 0.9x. Its next stage begins at this sector of the disk: stage 1.5 behind the boot sector, which reads
    /// file systems, or stage 2 inside one, by a list of blocks.
    GrubLegacy {
        /// The first sector of its next stage.
        stage: Lba,
    },
    /// LILO: its map lists the sectors of every file it loads.
    Lilo,
    /// Code that starts the active partition's boot sector by the partition table: DOS, Windows, Syslinux.
    ByTable,
    /// Something else.
    Unknown,
}

/// What the code in `sector` is.
#[must_use]
pub fn boot_code(sector: &[u8; 512]) -> BootCode {
    let holds = |text: &[u8]| sector.windows(text.len()).any(|window| window == text);
    let code = sector.get(..440).unwrap_or_default();
    if code.iter().all(|byte| *byte == 0) {
        return BootCode::Empty;
    }
    // lilo first.S: the signature stands at 6, behind a jump.
    if sector.get(6..10) == Some(b"LILO") {
        return BootCode::Lilo;
    }
    if holds(b"GRUB ") {
        // GRUB 0.97 stage1/stage1.h: version 3.2 at 0x3E, sector of the next stage at 0x44.
        if sector.get(0x3E..0x40) == Some(&[3, 2]) {
            let stage = Lba(u64::from(le32(sector, 0x44)));
            return BootCode::GrubLegacy { stage };
        }
        // GRUB 2 include/grub/i386/pc/boot.h: GRUB_BOOT_MACHINE_KERNEL_SECTOR is 0x5C, 64 bits.
        let core = Lba(array(sector, 0x5C).map_or(0, u64::from_le_bytes));
        return BootCode::Grub2 { core };
    }
    let told = [
        &b"Missing operating system"[..],
        b"Invalid partition table",
        b"Error loading operating system",
    ];
    if told.iter().any(|text| holds(text)) {
        return BootCode::ByTable;
    }
    BootCode::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_oracles::skip;

    #[test]
    fn the_sectors_of_grub_2_and_syslinux_are_known() {
        const TEST: &str = "the_sectors_of_grub_2_and_syslinux_are_known";
        assert_eq!(boot_code(&[0; 512]), BootCode::Empty);
        match std::fs::read("/usr/lib/grub/i386-pc/boot.img") {
            Ok(image) => {
                let sector = image.get(..512).and_then(|bytes| bytes.try_into().ok());
                let code = sector.map(boot_code);
                assert_eq!(code, Some(BootCode::Grub2 { core: Lba(1) }));
            }
            Err(_) => skip(TEST, "grub-pc-bin"),
        }
    }

    #[test]
    fn old_loaders_are_known_by_their_marks() {
        let mut sector = [0x90; 512];
        assert_eq!(boot_code(&sector), BootCode::Unknown);
        sector[6..10].copy_from_slice(b"LILO");
        assert_eq!(boot_code(&sector), BootCode::Lilo);
        let mut sector = [0x90; 512];
        sector[0x17E..0x183].copy_from_slice(b"GRUB ");
        sector[0x3E..0x40].copy_from_slice(&[3, 2]);
        sector[0x44..0x48].copy_from_slice(&2048_u32.to_le_bytes());
        assert_eq!(
            boot_code(&sector),
            BootCode::GrubLegacy { stage: Lba(2048) }
        );
    }
}
