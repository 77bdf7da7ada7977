//! Signatures of Linux file systems, swap space, SquashFS and ISO 9660.

use block_io::Result;

use super::{Disk, FsKind, Probe, uuid};
use crate::bytes::{array, be32, be64, le16, le32, le64, slice, text};

/// Features an ext2 or ext3 may have and still be called so, as blkid and the kernel's drivers
/// had it. // [ext4 disk layout] Super Block
const EXT2_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
const EXT2_INCOMPAT: u32 = 0x2 | 0x10;
const EXT3_INCOMPAT: u32 = EXT2_INCOMPAT | 0x4;

pub(super) fn ext(disk: &Disk) -> Result<Option<Probe>> {
    let Some(sb) = disk.read_if(1024, 1024, 0x38, &[0x53, 0xEF])? else {
        return Ok(None);
    };
    let (compat, incompat, ro) = (le32(&sb, 0x5C), le32(&sb, 0x60), le32(&sb, 0x64));
    let journal = compat & 0x4 != 0;
    let kind = if incompat & 0x8 != 0 {
        FsKind::ExtJournal
    } else if !journal && ro & !EXT2_RO_COMPAT == 0 && incompat & !EXT2_INCOMPAT == 0 {
        FsKind::Ext2
    } else if journal && ro & !EXT2_RO_COMPAT == 0 && incompat & !EXT3_INCOMPAT == 0 {
        FsKind::Ext3
    } else {
        FsKind::Ext4
    };
    let shift = le32(&sb, 0x18);
    if shift > 6 {
        return Ok(None);
    }
    let block_size = 1024_u64 << shift;
    let high = if incompat & 0x80 != 0 {
        le32(&sb, 0x150)
    } else {
        0
    };
    let blocks = u64::from(le32(&sb, 0x04)) | u64::from(high) << 32;
    Ok(Some(Probe {
        label: text(slice(&sb, 0x78, 16)),
        uuid: uuid(&sb, 0x68),
        version: Some(format!("{}.{}", le32(&sb, 0x4C), le16(&sb, 0x3E))),
        block_size: Some(block_size),
        size: blocks.checked_mul(block_size),
        ..Probe::new(kind)
    }))
}

pub(super) fn xfs(disk: &Disk) -> Result<Option<Probe>> {
    let Some(sb) = disk.read_if(0, 512, 0, b"XFSB")? else {
        return Ok(None);
    };
    let block_size = u64::from(be32(&sb, 4));
    Ok(Some(Probe {
        label: text(slice(&sb, 108, 12)),
        uuid: uuid(&sb, 32),
        block_size: Some(block_size),
        size: be64(&sb, 8).checked_mul(block_size),
        ..Probe::new(FsKind::Xfs)
    }))
}

pub(super) fn btrfs(disk: &Disk) -> Result<Option<Probe>> {
    let Some(sb) = disk.read_if(65_536, 4096, 0x40, b"_BHRfS_M")? else {
        return Ok(None);
    };
    Ok(Some(Probe {
        label: text(slice(&sb, 0x12B, 256)),
        uuid: uuid(&sb, 0x20),
        block_size: Some(u64::from(le32(&sb, 0x90))),
        size: Some(le64(&sb, 0x70)),
        ..Probe::new(FsKind::Btrfs)
    }))
}

pub(super) fn reiserfs(disk: &Disk) -> Result<Option<Probe>> {
    for (offset, old) in [(65_536, false), (8192, true)] {
        let Some(sb) = disk.read(offset, 256)? else {
            continue;
        };
        let version = match array::<10>(&sb, 52) {
            [b'R', b'e', b'I', b's', b'E', b'r', b'F', b's', ..] => "3.5",
            [b'R', b'e', b'I', b's', b'E', b'r', b'2', b'F', b's', _] => "3.6",
            [b'R', b'e', b'I', b's', b'E', b'r', b'3', b'F', b's', _] => "JR",
            _ => continue,
        };
        let block_size = u64::from(le16(&sb, 44));
        let has_names = version != "3.5" && !old;
        return Ok(Some(Probe {
            label: text(slice(&sb, 100, 16)).filter(|_| has_names),
            uuid: uuid(&sb, 84).filter(|_| has_names),
            version: Some(version.to_owned()),
            block_size: Some(block_size),
            size: u64::from(le32(&sb, 0)).checked_mul(block_size),
            ..Probe::new(FsKind::ReiserFs)
        }));
    }
    Ok(None)
}

pub(super) fn jfs(disk: &Disk) -> Result<Option<Probe>> {
    let Some(sb) = disk.read_if(32_768, 256, 0, b"JFS1")? else {
        return Ok(None);
    };
    Ok(Some(Probe {
        label: text(slice(&sb, 152, 16)),
        uuid: uuid(&sb, 136),
        block_size: Some(u64::from(le32(&sb, 16))),
        ..Probe::new(FsKind::Jfs)
    }))
}

/// Page sizes Linux has on its architectures; the signature ends the first page.
pub(crate) const SWAP_PAGE_SIZES: [u64; 5] = [4096, 8192, 16_384, 32_768, 65_536];

pub(super) fn swap(disk: &Disk) -> Result<Option<Probe>> {
    for page in SWAP_PAGE_SIZES {
        let Some(magic) = disk.read(page - 10, 10)? else {
            continue;
        };
        let (kind, version) = match &magic[..] {
            b"SWAPSPACE2" => (FsKind::Swap, "1"),
            b"SWAP-SPACE" => (FsKind::Swap, "0"),
            // What hibernation writes over it. // Linux kernel/power/swap.c (S1SUSPEND), uswsusp
            // (S2SUSPEND, ULSUSPEND), Xen/LinHib (LINHIB0001)
            b"LINHIB0001" => (FsKind::SwapHibernated, "linhib0001"),
            m if m.starts_with(b"S1SUSPEND") => (FsKind::SwapHibernated, "s1suspend"),
            m if m.starts_with(b"S2SUSPEND") => (FsKind::SwapHibernated, "s2suspend"),
            m if m.starts_with(b"ULSUSPEND") => (FsKind::SwapHibernated, "ulsuspend"),
            _ => continue,
        };
        let mut found = Probe {
            version: Some(version.to_owned()),
            block_size: Some(page),
            ..Probe::new(kind)
        };
        if let Some(header) = disk.read(1024, 44)?.filter(|_| version != "0") {
            // The header is in the byte order of the machine that made it.
            let last = match (le32(&header, 0), be32(&header, 0)) {
                (1, _) => Some(le32(&header, 4)),
                (_, 1) => Some(be32(&header, 4)),
                _ => None,
            };
            found.uuid = uuid(&header, 12);
            found.label = text(slice(&header, 28, 16));
            found.size = last.map(|last| (u64::from(last) + 1) * page);
        }
        return Ok(Some(found));
    }
    Ok(None)
}

pub(super) fn tux_on_ice(disk: &Disk) -> Result<Option<Probe>> {
    let magic = [0xED, 0xC3, 0x02, 0xE9, 0x98, 0x56, 0xE5, 0x0C];
    Ok(disk.read_if(0, 2048, 0, &magic)?.map(|header| Probe {
        uuid: uuid(&header, 1024 + 12),
        label: text(slice(&header, 1024 + 28, 16)),
        version: Some("tuxonice".to_owned()),
        ..Probe::new(FsKind::SwapHibernated)
    }))
}

pub(super) fn squashfs(disk: &Disk) -> Result<Option<Probe>> {
    let Some(sb) = disk.read_if(0, 96, 0, b"hsqs")? else {
        return Ok(None);
    };
    let major = le16(&sb, 28);
    Ok(Some(Probe {
        version: Some(format!("{major}.{}", le16(&sb, 30))),
        block_size: (major >= 4).then(|| u64::from(le32(&sb, 12))),
        size: (major >= 4).then(|| le64(&sb, 40)),
        ..Probe::new(FsKind::SquashFs)
    }))
}

pub(super) fn iso9660(disk: &Disk) -> Result<Option<Probe>> {
    let Some(descriptor) = disk.read_if(32_768, 2048, 1, b"CD001")? else {
        return Ok(None);
    };
    let blocks = u64::from(le32(&descriptor, 80));
    Ok(Some(Probe {
        label: text(slice(&descriptor, 40, 32)),
        block_size: Some(2048),
        size: Some(blocks * 2048),
        ..Probe::new(FsKind::Iso9660)
    }))
}
