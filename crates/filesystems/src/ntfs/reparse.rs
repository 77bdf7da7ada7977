//! Reparse points: what a file is that is more than its data. No I/O.

use super::format::utf16;
use super::names::to_bytes;
use crate::bytes::{le16, le32, slice};
use crate::tree::FileKind;

/// Tags. // [MS-FSCC] 2.1.2.1
const MOUNT_POINT: u32 = 0xA000_0003;
const SYMLINK: u32 = 0xA000_000C;
const LX_SYMLINK: u32 = 0xA000_001D;
const WOF: u32 = 0x8000_0017;
const DEDUP: u32 = 0x8000_0013;
/// Bit of a tag: it stands for another named thing.
const IS_SURROGATE: u32 = 0x2000_0000;
/// Bits of a tag of OneDrive and other cloud files that number its variants.
const CLOUD_VARIANT: u32 = 0x0000_F000;
const CLOUD: u32 = 0x9000_001A;

/// A reparse point as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReparsePoint {
    /// Whose it is: `IO_REPARSE_TAG_…`.
    pub tag: u32,
    /// What its owner stores, without the header.
    pub data: Vec<u8>,
}

/// How the data of a file are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keeping {
    /// In its data attribute.
    Plain,
    /// Compressed by the Windows Overlay Filter, in chunks that become 2^n bytes.
    Wof { chunk_bits: u32, is_lzx: bool },
    /// Elsewhere, or in a way that is not known; how it is called.
    Elsewhere(String),
}

impl ReparsePoint {
    /// Offsets: 0 tag, 4 length of the data, 8 data. // [MS-FSCC] 2.1.2.2
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let len = usize::from(le16(value, 4));
        (value.len() >= 8).then(|| Self {
            tag: le32(value, 0),
            data: slice(value, 8, len.min(value.len() - 8)).to_vec(),
        })
    }

    pub(super) fn kind(&self, is_directory: bool) -> FileKind {
        match self.tag {
            MOUNT_POINT | SYMLINK | LX_SYMLINK => FileKind::Symlink,
            // Sockets, pipes and devices of WSL, and aliases of packaged programs.
            0x8000_0023..=0x8000_0026 | 0x8000_001B => FileKind::Special,
            tag if tag & IS_SURROGATE != 0 => FileKind::Special,
            _ if is_directory => FileKind::Directory,
            _ => FileKind::File,
        }
    }

    /// Where a link leads. Links relative to their place, and those of WSL, are paths as they are; those
    /// with a drive or volume keep Windows' writing (`C:\Users`), without the prefix `\??\`.
    pub(super) fn target(&self) -> Option<Vec<u8>> {
        if self.tag == LX_SYMLINK {
            // Version 2, then UTF-8.
            return (le32(&self.data, 0) == 2)
                .then(|| slice(&self.data, 4, self.data.len() - 4).to_vec());
        }
        // Offsets: 0 and 2 place and length of the name to be used; 8 flags of a symbolic link; the
        // names follow.
        let (names, is_relative) = match self.tag {
            MOUNT_POINT => (8, false),
            SYMLINK => (12, le32(&self.data, 8) & 1 != 0),
            _ => return None,
        };
        let (at, len) = (le16(&self.data, 0), le16(&self.data, 2));
        let name = utf16(slice(&self.data, names + usize::from(at), len.into()));
        let name = to_bytes(&name);
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        if is_relative {
            return Some(
                name.iter()
                    .map(|b| if *b == b'\\' { b'/' } else { *b })
                    .collect(),
            );
        }
        Some(name.strip_prefix(br"\??\").unwrap_or(&name).to_vec())
    }

    /// How the file's data are kept.
    pub(super) fn keeping(&self) -> Keeping {
        match self.tag {
            WOF => self.overlaid(),
            // OneDrive keeps what is here in the data attribute; what is not is told by file attributes.
            tag if tag & !CLOUD_VARIANT == CLOUD => Keeping::Plain,
            DEDUP => {
                Keeping::Elsewhere("deduplicated by Windows Server (tag 0x80000013)".to_owned())
            }
            tag => Keeping::Elsewhere(format!("kept by the owner of reparse tag {tag:#010x}")),
        }
    }

    /// WOF_EXTERNAL_INFO: 0 version, 4 provider; of files: 8 version, 12 algorithm. // winioctl.h
    fn overlaid(&self) -> Keeping {
        let data = |at| le32(&self.data, at);
        match (data(0), data(4), data(8), data(12)) {
            (1, 2, 1, algorithm @ 0..=3) => Keeping::Wof {
                chunk_bits: [12, 15, 13, 14]
                    .get(algorithm as usize)
                    .copied()
                    .unwrap_or(12),
                is_lzx: algorithm == 1,
            },
            (1, 1, ..) => Keeping::Elsewhere("in a WIM file (WIMBoot)".to_owned()),
            other => Keeping::Elsewhere(format!("in an unknown variant of WOF: {other:?}")),
        }
    }
}

/// The target of a symbolic link as Interix and ntfs-3g keep it: in the data of a system file.
pub(super) fn interix_target(data: &[u8]) -> Option<Vec<u8>> {
    let name = data.strip_prefix(b"IntxLNK\x01")?;
    Some(to_bytes(&utf16(name)))
}
