//! Block devices as outputs: a raw disk is written onto one that is there already.
//!
//! A device cannot be written aside and renamed. In its place, the first MiB, where partition tables and
//! most file systems begin, is emptied before anything else and written last: what was given up half way
//! holds no disk that a machine would start from.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use super::OutputError;

/// How much of the start is written last.
const HEAD: u64 = 1 << 20;

/// How much is written at once where the kernel cannot zero a range itself.
const ZEROES: usize = 1 << 20;

/// Whether `path` names a block device.
pub(crate) fn is_block_device(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// The first bytes of a device that is being written, until all others are there.
#[derive(Debug)]
pub(super) struct Head(Mutex<Vec<u8>>);

impl Head {
    /// Keep what of `data` belongs to the head; the rest is to be written now.
    pub(super) fn keep<'a>(&self, offset: u64, data: &'a [u8]) -> (u64, &'a [u8]) {
        let mut head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = (head.len() as u64)
            .saturating_sub(offset)
            .min(data.len() as u64) as usize;
        let (mine, rest) = data.split_at(kept);
        if let Some(place) = head
            .get_mut(offset as usize..)
            .and_then(|from| from.get_mut(..kept))
        {
            place.copy_from_slice(mine);
        }
        (offset + kept as u64, rest)
    }

    /// Write the head: with this the device holds the disk.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all_at(&head, 0)
    }
}

/// Open the device `path` for a disk of `size` bytes and make those bytes zero.
///
/// `overwrite` is the user's consent to lose what the device holds. A device that is mounted or part of
/// an array, a volume group or a multipath map is refused by the kernel (`O_EXCL`).
pub(super) fn open(path: &Path, size: u64, overwrite: bool) -> Result<(File, Head), OutputError> {
    let refused = |why: &str| OutputError::Device {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    if !overwrite {
        return Err(refused(
            "all that is on it would be lost; use --force if that is meant",
        ));
    }
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::EXCL.bits() as i32)
        .open(path)
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => refused("it is mounted, or part of something that is in use"),
            _ => OutputError::io(path, "opening", error),
        })?;
    let room = file
        .seek(SeekFrom::End(0))
        .map_err(|error| OutputError::io(path, "measuring", error))?;
    if room < size {
        return Err(refused(&format!(
            "it has {room} bytes, the disk {size}: take a larger one, or shrink the disk first"
        )));
    }
    // Whole sectors, of whatever size.
    let end = size.next_multiple_of(4096).min(room);
    make_zero(&file, end).map_err(|error| OutputError::io(path, "clearing", error))?;
    let head = vec![0; HEAD.min(size) as usize];
    Ok((file, Head(Mutex::new(head))))
}

/// Make the first `len` bytes zero: by the device's own means, or by writing.
fn make_zero(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    // On devices these are BLKZEROOUT without and with the kernel writing zeroes itself, since Linux 4.9.
    for how in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
        if rustix::fs::fallocate(file, how | FallocateFlags::KEEP_SIZE, 0, len).is_ok() {
            return Ok(());
        }
    }
    let zeroes = vec![0; ZEROES];
    let mut at = 0;
    while at < len {
        let part = (len - at).min(ZEROES as u64);
        file.write_all_at(&zeroes[..part as usize], at)?;
        at += part;
    }
    Ok(())
}

/// Whether `output` is a block device, and what is written onto it may change what `source` reads: they are
/// one device, one is a partition of the other, or one is made of the other (LVM, RAID, a loop device over
/// a file). Only what the kernel says of its own devices is known: not what another machine exports.
#[must_use]
pub fn lies_on(output: &Path, source: &Path) -> bool {
    if !is_block_device(output) {
        return false;
    }
    let (mut below_output, mut below_source) = (Vec::new(), Vec::new());
    gather_below(output, &mut below_output);
    gather_below(source, &mut below_source);
    below_output.iter().any(|a| {
        below_source
            .iter()
            .any(|b| a.starts_with(b) || b.starts_with(a))
    })
}

/// What `path` is made of: a file as its own path, a device as its folder of sysfs (a partition's lies in
/// its disk's), and what lies below that.
fn gather_below(path: &Path, found: &mut Vec<PathBuf>) {
    let Ok(metadata) = path.metadata() else {
        return;
    };
    let place = match metadata.file_type().is_block_device() {
        true => {
            let device = metadata.rdev();
            let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
            Path::new("/sys/dev/block").join(format!("{}:{}", numbers.0, numbers.1))
        }
        false => path.to_owned(),
    };
    let Ok(place) = place.canonicalize() else {
        return;
    };
    if found.contains(&place) {
        return;
    }
    found.push(place.clone());
    if let Ok(file) = std::fs::read_to_string(place.join("loop/backing_file")) {
        gather_below(Path::new(file.trim_end_matches('\n')), found);
    }
    let slaves = std::fs::read_dir(place.join("slaves"))
        .into_iter()
        .flatten();
    for slave in slaves.flatten() {
        let name = slave.file_name();
        gather_below(&Path::new("/dev").join(name), found);
    }
}

#[cfg(test)]
mod tests {
    use super::super::PartFile;
    use super::*;

    /// A regular file in the device's place: what is opened, emptied and written is the same.
    #[test]
    fn the_first_bytes_are_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let size = 3 * HEAD as usize;
        std::fs::write(&path, vec![0xee; size + 5000]).unwrap();
        let start = |path: &Path| PartFile::onto_device(path, size as u64, true).unwrap();
        let disk: Vec<u8> = (0..size).map(|at| (at % 251) as u8 + 1).collect();
        let at = HEAD as usize - 1000;

        let given_up = start(&path);
        given_up
            .write_slices(0, &[&disk[..at], &disk[at..]])
            .unwrap();
        drop(given_up);
        let left = std::fs::read(&path).unwrap();
        assert!(left[..HEAD as usize].iter().all(|byte| *byte == 0));
        assert!(left[HEAD as usize..size] == disk[HEAD as usize..]);

        let file = start(&path);
        file.write_at(at as u64, &disk[at..]).unwrap();
        file.write_slices(10, &[&disk[10..at]]).unwrap();
        file.publish(false).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert!(
            written[..10].iter().all(|byte| *byte == 0),
            "emptied before"
        );
        assert!(written[10..size] == disk[10..]);
        assert_eq!(written.len(), size + 5000, "a device keeps its size");
    }

    #[test]
    fn a_disk_smaller_than_the_head_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        std::fs::write(&path, vec![0xee; 8192]).unwrap();
        let file = PartFile::onto_device(&path, 700, true).unwrap();
        file.write_at(0, &[7; 700]).unwrap();
        file.publish(true).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert!(written[..700].iter().all(|byte| *byte == 7));
        assert!(
            written[700..4096].iter().all(|byte| *byte == 0),
            "whole sectors are emptied"
        );
        assert!(written[4096..].iter().all(|byte| *byte == 0xee));
    }
}
