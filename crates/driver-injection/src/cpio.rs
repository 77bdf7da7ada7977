//! cpio archives of the "newc" kind: what the kernel unpacks into its first root.
//!
//! [initramfs buffer format] (Documentation/driver-api/early-userspace/buffer-format.rst): a header of
//! 110 ASCII bytes, the name with its NUL, zeroes to a multiple of four, the data, zeroes to a
//! multiple of four; the entry `TRAILER!!!` ends an archive.

use std::io::{self, Read};

/// Length of a header.
pub const HEADER_SIZE: usize = 110;
/// Longest name taken: the kernel's own limit is PATH_MAX.
const LONGEST_NAME: u32 = 4096;
/// Name of the last entry.
const TRAILER: &[u8] = b"TRAILER!!!";

/// File type bits of a mode. [cpio(5)]
const TYPE_MASK: u32 = 0o170_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;

/// What is known of an entry before its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryHeader {
    /// Name as stored, without the NUL.
    pub name: Vec<u8>,
    /// Type and permission bits.
    pub mode: u32,
    /// Length of the data.
    pub size: u32,
}

impl EntryHeader {
    /// Whether it ends the archive.
    #[must_use]
    pub fn is_trailer(&self) -> bool {
        self.name == TRAILER
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_DIRECTORY
    }

    /// Whether it is a symbolic link, the target being its data.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_SYMLINK
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_FILE
    }

    /// Zeroes behind the data.
    #[must_use]
    pub fn padding(&self) -> u64 {
        u64::from(self.size.wrapping_neg() & 3)
    }
}

/// How the bytes of an archive can lie.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// The header's magic is neither 070701 nor 070702.
    #[error("a cpio header was expected, found {found:02x?}")]
    BadMagic {
        /// The first six bytes.
        found: [u8; 6],
    },
    /// A number is not written in hexadecimal digits.
    #[error("the cpio header holds something else than hexadecimal digits at byte {at}")]
    BadNumber {
        /// Where, in the header.
        at: usize,
    },
    /// The name has no length, is longer than a path can be, or does not end with NUL.
    #[error("a cpio entry's name of {length} bytes, expected 2 to {LONGEST_NAME} ending with NUL")]
    BadName {
        /// The length it claims.
        length: u32,
    },
    /// The archive ends in the middle of an entry, or reading failed.
    #[error("reading a cpio entry")]
    Read(#[from] io::Error),
}

/// Read one header and its name, whose padding is read too. `source` must stand at its first byte.
///
/// # Errors
/// [`CpioError`].
pub fn read_header(source: &mut dyn Read) -> Result<EntryHeader, CpioError> {
    let mut header = [0; HEADER_SIZE];
    source.read_exact(&mut header)?;
    let mut magic = [0; 6];
    magic.copy_from_slice(&header[..6]);
    if !matches!(&magic, b"070701" | b"070702") {
        return Err(CpioError::BadMagic { found: magic });
    }
    // Thirteen numbers of eight digits: ino mode uid gid nlink mtime filesize devmajor devminor
    // rdevmajor rdevminor namesize check.
    let number = |index: usize| {
        let at = 6 + index * 8;
        let digits = std::str::from_utf8(&header[at..at + 8]).ok();
        digits
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or(CpioError::BadNumber { at })
    };
    let (mode, size, name_size) = (number(1)?, number(6)?, number(11)?);
    if !(2..=LONGEST_NAME).contains(&name_size) {
        return Err(CpioError::BadName { length: name_size });
    }
    let padded = (HEADER_SIZE + name_size as usize).next_multiple_of(4) - HEADER_SIZE;
    let mut name = vec![0; padded];
    source.read_exact(&mut name)?;
    name.truncate(name_size as usize);
    if name.pop() != Some(0) || name.contains(&0) {
        return Err(CpioError::BadName { length: name_size });
    }
    Ok(EntryHeader { name, mode, size })
}

/// Builds an archive in memory.
#[derive(Debug, Default)]
pub struct CpioWriter {
    bytes: Vec<u8>,
    next_inode: u32,
}

impl CpioWriter {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a directory.
    pub fn add_directory(&mut self, name: &[u8]) {
        self.add(name, TYPE_DIRECTORY | 0o755, &[]);
    }

    /// Add a regular file.
    pub fn add_file(&mut self, name: &[u8], data: &[u8]) {
        self.add(name, TYPE_FILE | 0o644, data);
    }

    /// Add the trailer, and give the archive: a multiple of four bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.next_inode = 0;
        self.add(TRAILER, 0, &[]);
        self.bytes
    }

    /// Length an entry takes.
    #[must_use]
    pub fn entry_size(name: &[u8], data: u64) -> u64 {
        ((HEADER_SIZE + name.len() + 1).next_multiple_of(4) as u64)
            .saturating_add(data.next_multiple_of(4))
    }

    /// Length of the trailer.
    #[must_use]
    pub fn trailer_size() -> u64 {
        Self::entry_size(TRAILER, 0)
    }

    fn add(&mut self, name: &[u8], mode: u32, data: &[u8]) {
        // Inode numbers only tell hard links apart, which are never written; owner, times and
        // devices are zero, so that the same input gives the same bytes.
        let links = if mode & TYPE_MASK == TYPE_DIRECTORY {
            2
        } else {
            1
        };
        let numbers = [
            self.next_inode,
            mode,
            0,
            0,
            links,
            0,
            data.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.next_inode = self.next_inode.wrapping_add(1);
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes
                .extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut writer = CpioWriter::new();
        writer.add_directory(b"usr");
        writer.add_file(b"usr/a", b"hello");
        writer.add_file(b"usr/bc", b"");
        writer.finish()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = archive();
        let mut source = bytes.as_slice();
        let first = read_header(&mut source).unwrap();
        assert!(first.is_directory());
        let file = read_header(&mut source).unwrap();
        assert_eq!(
            (file.name.as_slice(), file.size, file.padding()),
            (&b"usr/a"[..], 5, 3)
        );
        source = &source[8..];
        assert!(read_header(&mut source).unwrap().is_file());
        assert!(read_header(&mut source).unwrap().is_trailer());
        assert!(source.is_empty());
        let sizes = CpioWriter::entry_size(b"usr", 0)
            + CpioWriter::entry_size(b"usr/a", 5)
            + CpioWriter::entry_size(b"usr/bc", 0)
            + CpioWriter::trailer_size();
        assert_eq!(bytes.len() as u64, sizes);
    }

    #[test]
    fn lying_headers_are_errors() {
        let good = archive();
        let broken = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            read_header(&mut bytes.as_slice()).unwrap_err()
        };
        assert!(matches!(broken(0, b'1'), CpioError::BadMagic { .. }));
        assert!(matches!(
            broken(6 + 8, b'+'),
            CpioError::BadNumber { at: 14 }
        ));
        assert!(matches!(
            broken(6 + 11 * 8, b'F'),
            CpioError::BadName { .. }
        ));
        assert!(matches!(broken(HEADER_SIZE, 0), CpioError::BadName { .. }));
        let short = read_header(&mut &good[..50]).unwrap_err();
        assert!(matches!(short, CpioError::Read(_)));
    }
}
