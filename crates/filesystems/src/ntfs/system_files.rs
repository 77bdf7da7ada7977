//! Where Windows keeps what is of no use to a guest elsewhere: page files, and the memory of a
//! hibernated system.

use std::ops::Range;

use block_io::BlockRead;

use super::dir;
use super::format::{DATA, ROOT};
use super::names::UpCase;
use super::volume::{Stream, Volume};
use crate::tree::Result;

/// Names that Windows gives, in the root directory.
const NAMES: [&str; 3] = ["pagefile.sys", "swapfile.sys", "hiberfil.sys"];

/// A page file, swap file or hibernation file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemFile {
    /// Its name in the root directory, in lower case.
    pub name: &'static str,
    /// Its length in bytes.
    pub size: u64,
    /// Where its clusters lie, in bytes from the start of the volume, in the order of the file.
    pub ranges: Vec<Range<u64>>,
    /// Whether it holds the memory of a system that wants to wake up: then it must not be left out, and
    /// the volume must not be written.
    pub is_hibernated: bool,
}

/// The page, swap and hibernation files of the NTFS on `disk`.
///
/// # Errors
/// `Corrupt` with position, expected and found; `Disk`.
pub fn system_files(disk: &dyn BlockRead) -> Result<Vec<SystemFile>> {
    Ok(find_all(&Volume::open(disk)?)?)
}

/// As [`system_files`].
pub(super) fn find_all<D: BlockRead>(volume: &Volume<D>) -> crate::fault::Result<Vec<SystemFile>> {
    let upcase = UpCase::read(volume)?;
    let root = volume.file(ROOT, 0)?;
    let mut files = Vec::new();
    for name in NAMES {
        let units: Vec<u16> = name.encode_utf16().collect();
        let found = dir::find(volume, &upcase, &root, &units)?;
        let Some(found) = found.first() else {
            continue;
        };
        // A file that fits into its record has no clusters to leave out.
        let Some(Stream::Runs { runs, size, .. }) = volume.stream(found.record, DATA, "")? else {
            continue;
        };
        let cluster = volume.boot.cluster;
        let ranges: Vec<Range<u64>> = runs
            .iter()
            .filter_map(|run| {
                run.lcn
                    .map(|lcn| lcn * cluster..(lcn + run.count) * cluster)
            })
            .collect();
        let is_hibernated = name == "hiberfil.sys" && holds_memory(&volume.disk, &ranges)?;
        files.push(SystemFile {
            name,
            size,
            ranges,
            is_hibernated,
        });
    }
    Ok(files)
}

/// Windows writes "hibr" (8 and later "HIBR") at the start of the file when it goes to sleep, "wake"
/// while it wakes up, and zeroes the page or changes the word when it is done.
fn holds_memory<D: BlockRead>(disk: &D, ranges: &[Range<u64>]) -> crate::fault::Result<bool> {
    let Some(first) = ranges.first() else {
        return Ok(false);
    };
    let mut magic = [0; 4];
    disk.read_at(first.start, &mut magic)?;
    let magic = magic.map(|byte| byte.to_ascii_lowercase());
    Ok(matches!(&magic, b"hibr" | b"rstr"))
}
