//! [`Edit`]: one change to the guest, known in full before it is made.

use std::fmt;

use filesystems::path::GuestPath;
use serde::{Serialize, Serializer};

use crate::cpio::CpioWriter;
use crate::diff::unified;
use crate::finding::escape_controls;

/// One change to the guest: what, where, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What is done.
    pub what: Change,
    /// Where: a path without links.
    pub place: GuestPath,
    /// Why, in a sentence.
    pub why: String,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Other contents for a file, which keeps its owner, mode and attributes.
    ReplaceFile {
        /// What it must hold now.
        before: Vec<u8>,
        /// What it shall hold.
        after: Vec<u8>,
    },
    /// A new file.
    CreateFile {
        /// What it shall hold.
        after: Vec<u8>,
        /// Its permission bits.
        mode: u16,
    },
    /// A new directory.
    CreateDirectory {
        /// Its permission bits.
        mode: u16,
    },
    /// A file goes.
    Remove {
        /// What it must hold now.
        before: Vec<u8>,
    },
    /// An archive is put behind an initramfs, in the place of an earlier one of ours.
    AppendArchive(AppendArchive),
}

/// An archive to be put behind an initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendArchive {
    /// How long the file must be now.
    pub size_before: u64,
    /// Where what is not ours ends.
    pub base_end: u64,
    /// Whether an archive of ours is replaced.
    pub replaces: bool,
    /// How it is written.
    pub packing: Packing,
    /// What it holds.
    pub entries: Vec<ArchiveEntry>,
}

/// How an appended archive is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// A plain archive at a multiple of four bytes.
    Plain,
    /// As further blocks of the LZ4 stream it follows: that format has no end mark, so the kernel
    /// (before 5.11 on any bytes, later on any but zeroes) takes what follows for more blocks.
    Lz4Blocks,
}

/// An entry of an appended archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveEntry {
    /// A directory that the initramfs lacks.
    Directory {
        /// Its name in the archive.
        name: String,
    },
    /// A file whose contents the plan knows.
    Text {
        /// Its name in the archive.
        name: String,
        /// Its contents.
        contents: Vec<u8>,
    },
    /// A copy of a file of the guest.
    Copy {
        /// Its name in the archive.
        name: String,
        /// The file, without links.
        from: GuestPath,
        /// Its size.
        size: u64,
        /// Whether it is unpacked on the way: the initramfs shows no sign that it can load packed
        /// modules. The name stays, because the indexes say it; kmod tells by the contents.
        unpack: bool,
    },
}

impl ArchiveEntry {
    /// Its name in the archive.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Directory { name } | Self::Text { name, .. } | Self::Copy { name, .. } => name,
        }
    }

    /// How long its data will be; for a module to be unpacked, a safe guess.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Directory { .. } => 0,
            Self::Text { contents, .. } => contents.len() as u64,
            // Modules shrink to a third or a quarter when packed.
            Self::Copy { size, unpack, .. } => size.saturating_mul(if *unpack { 6 } else { 1 }),
        }
    }
}

impl AppendArchive {
    /// Where the archive starts.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self.packing {
            Packing::Plain => self.base_end.next_multiple_of(4),
            Packing::Lz4Blocks => self.base_end,
        }
    }

    /// How long the file will be, at most.
    #[must_use]
    pub fn size_after(&self) -> u64 {
        let entries = self.entries.iter();
        let sizes =
            entries.map(|entry| CpioWriter::entry_size(entry.name().as_bytes(), entry.size()));
        self.offset() + sizes.sum::<u64>() + CpioWriter::trailer_size()
    }
}

impl Edit {
    /// How many bytes more the file will take, at most.
    #[must_use]
    pub fn growth(&self) -> u64 {
        match &self.what {
            Change::ReplaceFile { before, after } => {
                (after.len() as u64).saturating_sub(before.len() as u64)
            }
            Change::CreateFile { after, .. } => after.len() as u64,
            Change::CreateDirectory { .. } => 4096,
            Change::Remove { .. } => 0,
            Change::AppendArchive(append) => append.size_after().saturating_sub(append.size_before),
        }
    }

    fn verb(&self) -> &'static str {
        match &self.what {
            Change::ReplaceFile { .. } => "change",
            Change::CreateFile { .. } => "create",
            Change::CreateDirectory { .. } => "create directory",
            Change::Remove { .. } => "remove",
            Change::AppendArchive(append) if append.replaces => "replace the archive appended to",
            Change::AppendArchive(_) => "append an archive to",
        }
    }
}

/// As in a dry run: what, where, why, and the lines that change.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.verb(), self.place)?;
        writeln!(f, "    because {}", escape_controls(&self.why))?;
        for line in self.details().lines() {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

impl Edit {
    fn details(&self) -> String {
        match &self.what {
            Change::ReplaceFile { before, after } => text_or_digest(Some(before), Some(after)),
            Change::CreateFile { after, .. } => text_or_digest(None, Some(after)),
            Change::Remove { before } => text_or_digest(Some(before), None),
            Change::CreateDirectory { .. } => String::new(),
            Change::AppendArchive(append) => append.describe(),
        }
    }
}

impl AppendArchive {
    fn describe(&self) -> String {
        let mut lines = vec![format!(
            "at byte {}, at most {} bytes, {} entries:",
            self.offset(),
            self.size_after() - self.offset(),
            self.entries.len()
        )];
        for entry in &self.entries {
            let name = escape_controls(entry.name());
            lines.push(match entry {
                ArchiveEntry::Directory { .. } => format!("  {name}/"),
                ArchiveEntry::Text { contents, .. } => {
                    format!("  {name} ({} bytes)", contents.len())
                }
                ArchiveEntry::Copy { size, unpack, .. } => {
                    let note = if *unpack { ", unpacked" } else { "" };
                    format!("  {name} ({size} bytes{note})")
                }
            });
        }
        lines.join("\n")
    }
}

fn text_or_digest(before: Option<&Vec<u8>>, after: Option<&Vec<u8>>) -> String {
    let is_text = |bytes: &&Vec<u8>| std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0);
    let sides = [before, after];
    if sides.iter().flatten().all(is_text) {
        let bytes = |side: Option<&Vec<u8>>| side.cloned().unwrap_or_default();
        return unified(&bytes(before), &bytes(after));
    }
    let line = |(sign, side): (&str, Option<&Vec<u8>>)| {
        side.map(|bytes| {
            format!(
                "{sign} {} bytes, blake3 {}",
                bytes.len(),
                blake3::hash(bytes)
            )
        })
    };
    let lines = [("-", before), ("+", after)].into_iter().filter_map(line);
    lines.collect::<Vec<_>>().join("\n")
}

/// For the report: bytes as a difference of lines, or length and digest.
impl Serialize for Edit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Digest {
            length: u64,
            blake3: String,
        }
        #[derive(Serialize)]
        struct View<'a> {
            what: &'static str,
            place: String,
            why: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            before: Option<Digest>,
            #[serde(skip_serializing_if = "Option::is_none")]
            after: Option<Digest>,
            details: String,
        }
        let digest = |bytes: &Vec<u8>| Digest {
            length: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_string(),
        };
        let (what, before, after) = match &self.what {
            Change::ReplaceFile { before, after } => {
                ("replace-file", Some(digest(before)), Some(digest(after)))
            }
            Change::CreateFile { after, .. } => ("create-file", None, Some(digest(after))),
            Change::CreateDirectory { .. } => ("create-directory", None, None),
            Change::Remove { before } => ("remove", Some(digest(before)), None),
            Change::AppendArchive(_) => ("append-archive", None, None),
        };
        View {
            what,
            place: self.place.to_string(),
            why: &self.why,
            before,
            after,
            details: self.details(),
        }
        .serialize(serializer)
    }
}
