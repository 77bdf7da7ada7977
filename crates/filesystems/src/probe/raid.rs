//! Signatures of what holds file systems: md, LUKS, LVM2.

use block_io::Result;

use super::{Disk, FsKind, Probe, uuid};
use crate::bytes::{be16, le32, le64, slice, text};

const MD_MAGIC: [u8; 4] = 0xA92B_4EFC_u32.to_le_bytes();

pub(super) fn md(disk: &Disk) -> Result<Option<Probe>> {
    let sectors = disk.size() / 512;
    // Version 1.0 lies near the end, 1.1 at the start, 1.2 at 4 KiB. // md(4), md_p.h
    let at_end = sectors.checked_sub(16).map(|s| (s & !7) * 512);
    let places = [(at_end, "1.0"), (Some(0), "1.1"), (Some(4096), "1.2")];
    for (offset, version) in places {
        let Some(offset) = offset else { continue };
        let Some(sb) = disk.read_if(offset, 256, 0, &MD_MAGIC)? else {
            continue;
        };
        if le32(&sb, 4) == 1 && le64(&sb, 144) == offset / 512 {
            return Ok(Some(Probe {
                label: text(slice(&sb, 32, 32)),
                uuid: uuid(&sb, 16),
                version: Some(version.to_owned()),
                ..Probe::new(FsKind::MdMember)
            }));
        }
    }
    md_090(disk)
}

/// Version 0.90: in the last whole 64 KiB of the device, in the byte order of its maker.
fn md_090(disk: &Disk) -> Result<Option<Probe>> {
    let Some(offset) = (disk.size() & !0xFFFF).checked_sub(0x1_0000) else {
        return Ok(None);
    };
    let Some(sb) = disk.read_if(offset, 256, 0, &MD_MAGIC)? else {
        return Ok(None);
    };
    if le32(&sb, 4) != 0 {
        return Ok(None);
    }
    let mut id = [0; 16];
    for (to, from) in [(0, 20), (4, 52), (8, 56), (12, 60)] {
        crate::bytes::put(&mut id, to, &le32(&sb, from).to_be_bytes());
    }
    Ok(Some(Probe {
        uuid: uuid(&id, 0),
        version: Some(format!("0.{}.{}", le32(&sb, 8), le32(&sb, 12))),
        ..Probe::new(FsKind::MdMember)
    }))
}

pub(super) fn luks(disk: &Disk) -> Result<Option<Probe>> {
    // The second header of LUKS2, used when the first is damaged, lies at one of these places.
    // // LUKS2 on-disk format 2.1
    const SECOND: [u64; 9] = [
        0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
    ];
    let mut header = disk.read_if(0, 512, 0, b"LUKS\xba\xbe")?;
    for offset in SECOND {
        if header.is_some() {
            break;
        }
        header = disk
            .read_if(offset, 512, 0, b"SKUL\xba\xbe")?
            .filter(|h| be16(h, 6) == 2 && crate::bytes::be64(h, 256) == offset);
    }
    let Some(header) = header else {
        return Ok(None);
    };
    let kind = match be16(&header, 6) {
        1 => FsKind::Luks1,
        2 => FsKind::Luks2,
        _ => return Ok(None),
    };
    Ok(Some(Probe {
        label: text(slice(&header, 24, 48)).filter(|_| kind == FsKind::Luks2),
        uuid: text(slice(&header, 168, 40)),
        version: Some(be16(&header, 6).to_string()),
        ..Probe::new(kind)
    }))
}

pub(super) fn lvm2(disk: &Disk) -> Result<Option<Probe>> {
    // The label is in one of the first four sectors.
    for sector in 0..4_u64 {
        let Some(label) = disk.read_if(sector * 512, 512, 0, b"LABELONE")? else {
            continue;
        };
        if slice(&label, 24, 8) != b"LVM2 001" || le64(&label, 8) != sector {
            continue;
        }
        let header = le32(&label, 20) as usize;
        let id = slice(&label, header, 32);
        if id.len() != 32 || !id.is_ascii() {
            continue;
        }
        let mut shown = String::new();
        for (at, c) in id.iter().enumerate() {
            if [6, 10, 14, 18, 22, 26].contains(&at) {
                shown.push('-');
            }
            shown.push(char::from(*c));
        }
        return Ok(Some(Probe {
            uuid: Some(shown),
            version: Some("LVM2 001".to_owned()),
            size: Some(le64(&label, header.saturating_add(32))),
            ..Probe::new(FsKind::Lvm2Pv)
        }));
    }
    Ok(None)
}
