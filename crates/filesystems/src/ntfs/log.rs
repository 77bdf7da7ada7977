//! The state of `$LogFile`: whether it holds changes that are not yet in their places.

use block_io::BlockRead;

use super::format::{DATA, LOG_FILE, undo_fixups};
use super::volume::{Stream, Volume};
use crate::bytes::{le16, le32, le64, slice};
use crate::fault::{Fault, Result};

/// Pages of the log are 4 KiB on every system that was.
const PAGE: usize = 4096;
/// No client has the log open.
const NO_CLIENT: u16 = 0xFFFF;
/// Flag of a restart area: the volume was dismounted.
const IS_CLEAN: u16 = 0x0002;

/// Whether the log was closed, so that `$Bitmap` and the MFT are as the system would see them.
pub(crate) fn is_closed<D: BlockRead>(volume: &Volume<D>) -> Result<bool> {
    let Some(Stream::Runs { runs, size, .. }) = volume.stream(LOG_FILE, DATA, "")? else {
        return Err(Fault::Damage("record 2: the log has no data".to_owned()));
    };
    if size < 2 * PAGE as u64 {
        return Err(Fault::Damage(format!("log of {size} bytes")));
    }
    let mut pages = vec![0; 2 * PAGE];
    volume.read_runs(&runs, 0, &mut pages, "the log")?;
    // chkdsk, ntfs-3g and mkntfs empty the log by filling it so.
    if pages.iter().all(|byte| *byte == 0xFF) {
        return Ok(true);
    }
    let newest = pages
        .chunks_exact(PAGE)
        .filter_map(restart_area)
        .max_by_key(|area| area.lsn);
    match newest {
        Some(area) => Ok(area.is_closed),
        None => Err(Fault::Damage("the log has no restart area".to_owned())),
    }
}

struct RestartArea {
    lsn: u64,
    is_closed: bool,
}

/// A restart page. Offsets: 0 "RSTR", 0x10 system page size, 0x18 restart area; in that: 0 LSN, 0x0C
/// first client in use, 0x0E flags.
fn restart_area(page: &[u8]) -> Option<RestartArea> {
    if slice(page, 0, 4) != b"RSTR" || le32(page, 0x10) as usize != PAGE {
        return None;
    }
    let mut page = page.to_vec();
    undo_fixups(&mut page, "restart page").ok()?;
    let area = slice(&page, usize::from(le16(&page, 0x18)), 0x30);
    (area.len() == 0x30).then(|| RestartArea {
        lsn: le64(area, 0),
        is_closed: le16(area, 0x0C) == NO_CLIENT || le16(area, 0x0E) & IS_CLEAN != 0,
    })
}
