//! Which format an image file is, by its first and last bytes.
//!
//! Guessing is for files of one's own: a guest that owns a raw disk can write any format's header at
//! its start. Whoever knows the format says it ([`crate::open_as`]), and what was guessed is told
//! ([`crate::ImageInfo::guessed`]).

use block_io::BlockRead;

use crate::bytes::array;
use crate::{parallels, vdi, vhd, vhdx, vmdk};

/// The formats that can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageFormat {
    /// The bytes of the disk and nothing else.
    Raw,
    /// QEMU's qcow2, version 2 or 3.
    Qcow2,
    /// Hyper-V's VHDX.
    Vhdx,
    /// VMware's VMDK, of any kind.
    Vmdk,
    /// Microsoft's VHD, which QEMU calls `vpc`.
    Vhd,
    /// VirtualBox's VDI.
    Vdi,
    /// The expanding images and bundles of Parallels.
    Parallels,
}

impl ImageFormat {
    /// What QEMU calls the format.
    #[must_use]
    pub fn qemu_name(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Vhdx => "vhdx",
            ImageFormat::Vmdk => "vmdk",
            ImageFormat::Vhd => "vpc",
            ImageFormat::Vdi => "vdi",
            ImageFormat::Parallels => "parallels",
        }
    }

    /// The format that QEMU calls `name`.
    #[must_use]
    pub fn from_qemu_name(name: &str) -> Option<Self> {
        match name {
            "raw" => Some(ImageFormat::Raw),
            "qcow2" => Some(ImageFormat::Qcow2),
            "vhdx" => Some(ImageFormat::Vhdx),
            "vmdk" => Some(ImageFormat::Vmdk),
            "vpc" | "vhd" => Some(ImageFormat::Vhd),
            "vdi" => Some(ImageFormat::Vdi),
            "parallels" => Some(ImageFormat::Parallels),
            _ => None,
        }
    }
}

/// The format of `file`; raw where nothing else is recognised.
///
/// # Errors
/// When it cannot be read.
pub fn detect(file: &dyn BlockRead) -> block_io::Result<ImageFormat> {
    let mut start = [0; 128];
    let len = file.size().min(128) as usize;
    file.read_at(0, &mut start[..len])?;
    let head: [u8; 8] = array(&start, 0);
    // qcow2.rst, "Header": version 1 has the same magic and another layout.
    let qcow = head.starts_with(b"QFI\xfb\0\0\0");
    if qcow && matches!(head[7], 2 | 3) {
        return Ok(ImageFormat::Qcow2);
    }
    if head == *vhdx::SIGNATURE {
        return Ok(ImageFormat::Vhdx);
    }
    let sparse = head.starts_with(vmdk::SPARSE_MAGIC) || head.starts_with(vmdk::COWD_MAGIC);
    if sparse || head == vmdk::SESPARSE_MAGIC || is_descriptor(file)? {
        return Ok(ImageFormat::Vmdk);
    }
    let magic: [u8; 16] = array(&start, 0);
    if parallels::MAGICS.contains(&&magic) || parallels::starts_descriptor(&start[..len]) {
        return Ok(ImageFormat::Parallels);
    }
    // The text before it differs with the program that wrote it.
    if array(&start, vdi::SIGNATURE_AT) == vdi::SIGNATURE {
        return Ok(ImageFormat::Vdi);
    }
    if head == *vhd::COOKIE || ends_with_footer(file)? {
        return Ok(ImageFormat::Vhd);
    }
    Ok(ImageFormat::Raw)
}

/// A fixed VHD shows only at its end.
fn ends_with_footer(file: &dyn BlockRead) -> block_io::Result<bool> {
    let Some(place) = file.size().checked_sub(512) else {
        return Ok(false);
    };
    let mut tail = [0; 8];
    file.read_at(place, &mut tail)?;
    Ok(tail == *vhd::COOKIE)
}

/// A VMDK descriptor of its own: text that starts with its signature, comments and blank lines before
/// it allowed.
fn is_descriptor(file: &dyn BlockRead) -> block_io::Result<bool> {
    let mut head = [0; 512];
    let len = file.size().min(512) as usize;
    file.read_at(0, &mut head[..len])?;
    Ok(head
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty())
        .is_some_and(|line| line.starts_with(vmdk::DESCRIPTOR_SIGNATURE)))
}
