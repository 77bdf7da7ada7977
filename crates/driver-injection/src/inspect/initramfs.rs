//! What an initramfs holds: the names in it, and the few small files that matter.
//!
//! [initramfs buffer format]: a file is a sequence of cpio archives, each plain or packed, with zeroes
//! between them; a plain one starts at a multiple of four. Distributions put microcode first, in a
//! plain archive. Later entries win over earlier ones of the same name.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use serde::Serialize;

use super::file::{GuestFile, Skip};
use crate::cpio::{self, CpioError, EntryHeader};
use crate::kmod::module_name;
use crate::unpack::{Compression, unpack};

/// Name of the entry that starts an archive of ours, and tells what is in it.
pub const MARK_NAME: &str = ".p2v-injected";

/// Most bytes unpacked of one initramfs. The largest seen (rescue images with all firmware) unpack
/// to about 400 MB.
pub const MOST_UNPACKED: u64 = 2 << 30;
/// Most entries, and bytes of their names.
const MOST_ENTRIES: usize = 300_000;
const MOST_NAME_BYTES: usize = 32 << 20;
/// Longest link target and configuration file kept.
const LONGEST_LINK: u32 = 4096;
const LONGEST_CONFIG: u32 = 64 << 10;

/// How an initramfs can lie.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// Neither an archive nor anything packed the kernel knows.
    #[error("nothing the kernel can unpack at byte {offset}: {found:02x?}")]
    UnknownContents {
        /// Where in the file.
        offset: u64,
        /// The bytes there.
        found: Vec<u8>,
    },
    /// Packed in a way that is recognised but not read here.
    #[error("packed with {}, which is not read here (byte {offset})", .compression.name())]
    NotUnpacked {
        /// Where in the file.
        offset: u64,
        /// How it is packed.
        compression: Compression,
    },
    /// A plain archive that does not start at a multiple of four, which the kernel drops.
    #[error("a plain archive at byte {offset}, which is no multiple of four")]
    Misaligned {
        /// Where in the file.
        offset: u64,
    },
    /// Damaged.
    #[error("a damaged archive in the part that starts at byte {offset}")]
    Corrupt {
        /// Where the part starts.
        offset: u64,
        /// What is wrong.
        source: CpioError,
    },
    /// More than the bounds allow.
    #[error("more than {limit} {what} in the part that starts at byte {offset}")]
    TooMuch {
        /// Where the part starts.
        offset: u64,
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

/// Who made an initramfs, which decides how it finds drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// Debian's initramfs-tools.
    InitramfsTools,
    /// dracut.
    Dracut,
    /// Arch's mkinitcpio.
    Mkinitcpio,
    /// Alpine's mkinitfs.
    Mkinitfs,
    /// SUSE's old mkinitrd.
    SuseMkinitrd,
    /// Red Hat's old mkinitrd, whose script names each module: it never looks for devices.
    Nash,
    /// Unknown.
    Unknown,
}

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Where it starts.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// How it is packed; `None` for a plain archive.
    pub compression: Option<Compression>,
}

/// What a name in the archives is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A file or anything else.
    Other,
}

/// An archive of ours at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnArchive {
    /// Where it starts.
    pub offset: u64,
    /// What its mark says.
    pub mark: Vec<u8>,
}

/// What an initramfs holds besides an archive of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initramfs {
    /// Its parts, without ours.
    pub segments: Vec<Segment>,
    /// The names in it.
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// The small configuration files that can name devices.
    pub configs: BTreeMap<String, Vec<u8>>,
    /// Ours, if there is one.
    pub own: Option<OwnArchive>,
    /// Bytes of files in it, as they are unpacked.
    pub unpacked: u64,
}

impl Initramfs {
    /// Where its own parts end, and where something can be appended after padding.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments
            .last()
            .map_or(0, |last| last.offset + last.length)
    }

    /// How its last part is packed.
    #[must_use]
    pub fn last_compression(&self) -> Option<Compression> {
        self.segments.last().and_then(|last| last.compression)
    }

    /// Names of the modules it holds for kernel `version`, and whether it holds one packed like
    /// `suffix` (`.ko.xz`).
    #[must_use]
    pub fn modules_of(&self, version: &str) -> BTreeMap<String, String> {
        let directory = format!("lib/modules/{version}/");
        let below = |name: &Vec<u8>| {
            let name = std::str::from_utf8(name).ok()?;
            let (_, rest) = name.split_once(&directory)?;
            let file = rest.rsplit('/').next()?;
            let at = file.find(".ko")?;
            Some((module_name(file), file[at..].to_owned()))
        };
        self.entries.keys().filter_map(below).collect()
    }

    /// The directory in it, without links, where modules of `version` are or belong.
    #[must_use]
    pub fn module_directory(&self, version: &str) -> Vec<u8> {
        let directory = format!("lib/modules/{version}");
        let with_slash = format!("{directory}/");
        for name in self.entries.keys() {
            let at = find(name, with_slash.as_bytes());
            if let Some(at) = at.filter(|at| *at == 0 || name[at - 1] == b'/') {
                return name[..at + directory.len()].to_vec();
            }
        }
        self.resolve(directory.as_bytes())
            .unwrap_or_else(|| directory.into_bytes())
    }

    /// `name` with the archive's own symbolic links followed; `None` when they lead in a circle.
    #[must_use]
    pub fn resolve(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut resolved = GuestPath::root();
        let mut pending: Vec<Vec<u8>> = name.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        pending.reverse();
        let mut links = 0;
        while let Some(component) = pending.pop() {
            let candidate = resolved.join(&component);
            let stored = candidate.as_bytes().strip_prefix(b"/").unwrap_or_default();
            if let Some(Entry::Symlink(target)) = self.entries.get(stored) {
                links += 1;
                if links > 40 {
                    return None;
                }
                if target.first() == Some(&b'/') {
                    resolved = GuestPath::root();
                }
                pending.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
            } else {
                resolved = candidate;
            }
        }
        resolved.as_bytes().strip_prefix(b"/").map(<[u8]>::to_vec)
    }

    /// Who made it.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        let has = |name: &str| self.entries.contains_key(name.as_bytes());
        let starts = |prefix: &str| {
            let from = prefix.as_bytes().to_vec();
            let first = self.entries.range(from..).next();
            first.is_some_and(|(name, _)| name.starts_with(prefix.as_bytes()))
        };
        if starts("usr/lib/dracut/") || starts("lib/dracut/") || starts("usr/share/dracut/") {
            Flavour::Dracut
        } else if has("scripts/functions") {
            Flavour::InitramfsTools
        } else if has("init_functions") || has("buildconfig") {
            Flavour::Mkinitcpio
        } else if self.has_program("nlplug-findfs") {
            Flavour::Mkinitfs
        } else if has("bin/nash") || has("sbin/nash") {
            Flavour::Nash
        } else if has("run_all.sh") {
            Flavour::SuseMkinitrd
        } else {
            Flavour::Unknown
        }
    }

    /// Whether something in it looks for devices and loads their drivers by the modules' indexes.
    #[must_use]
    pub fn loads_drivers_by_itself(&self) -> bool {
        self.flavour() != Flavour::Nash
            && ["udevd", "systemd-udevd", "udevadm", "nlplug-findfs"]
                .iter()
                .any(|program| self.has_program(program))
    }

    /// Whether a file of that name is anywhere in it.
    #[must_use]
    pub fn has_program(&self, program: &str) -> bool {
        let ends = |name: &Vec<u8>| {
            name.strip_suffix(program.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with(b"/"))
        };
        self.entries.keys().any(ends)
    }
}

/// Read the initramfs at `path` (resolved), `size` bytes long, and unpack at most `most_unpacked` bytes
/// or `MOST_UNPACKED`, whichever is less.
///
/// # Errors
/// [`InitramfsError`].
pub fn read_initramfs(
    tree: &MountedTree,
    path: &GuestPath,
    size: u64,
    most_unpacked: u64,
) -> Result<Initramfs, InitramfsError> {
    let most_unpacked = most_unpacked.min(MOST_UNPACKED);
    let mut source = GuestFile::new(tree, path, size);
    let mut reader = ArchiveReader {
        most_unpacked,
        ..ArchiveReader::default()
    };
    loop {
        let corrupt = |offset, error| InitramfsError::Corrupt {
            offset,
            source: CpioError::Read(error),
        };
        skip_zeroes(&mut source).map_err(|error| corrupt(0, error))?;
        let offset = source.position();
        let start = source.fill_buf().map_err(|error| corrupt(offset, error))?;
        if start.is_empty() {
            break;
        }
        let compression = Compression::detect(start);
        reader.begin_segment(offset);
        match compression {
            _ if start.starts_with(b"0707") => {
                if !offset.is_multiple_of(4) {
                    return Err(InitramfsError::Misaligned { offset });
                }
                reader.read_archive(&mut source)?;
            }
            None => {
                let found = start[..start.len().min(8)].to_vec();
                return Err(InitramfsError::UnknownContents { offset, found });
            }
            Some(compression @ Compression::Lzo) => {
                return Err(InitramfsError::NotUnpacked {
                    offset,
                    compression,
                });
            }
            Some(compression) => {
                let budget = most_unpacked.saturating_sub(reader.unpacked);
                let unpacked = unpack(compression, &mut source)
                    .map_err(|error| corrupt(offset, error))?
                    .take(budget);
                reader.read_archives(BufReader::with_capacity(256 << 10, unpacked))?;
            }
        }
        let length = source.position() - offset;
        reader.end_segment(Segment {
            offset,
            length,
            compression,
        });
    }
    reader.found.unpacked = reader.unpacked;
    Ok(reader.found)
}

fn skip_zeroes(source: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let buffer = source.fill_buf()?;
        let zeroes = buffer.iter().take_while(|byte| **byte == 0).count();
        let (at_end, all) = (buffer.is_empty(), zeroes == buffer.len());
        source.consume(zeroes);
        if at_end || !all {
            return Ok(());
        }
    }
}

/// Collects what archives hold.
#[derive(Default)]
struct ArchiveReader {
    found: Initramfs,
    segment: u64,
    /// Whether the archive being read is ours.
    in_own: bool,
    entries: usize,
    name_bytes: usize,
    unpacked: u64,
    most_unpacked: u64,
}

impl ArchiveReader {
    fn begin_segment(&mut self, offset: u64) {
        self.segment = offset;
        self.in_own = false;
    }

    /// An archive of ours counts only at the end: what follows it is somebody else's again, and
    /// then ours is one part among others.
    fn end_segment(&mut self, segment: Segment) {
        if self.in_own {
            return;
        }
        if let Some(own) = self.found.own.take() {
            self.found.segments.push(Segment {
                offset: own.offset,
                length: segment.offset - own.offset,
                compression: None,
            });
        }
        self.found.segments.push(segment);
    }

    /// All archives of an unpacked part.
    fn read_archives<R: Read>(
        &mut self,
        mut source: BufReader<io::Take<R>>,
    ) -> Result<(), InitramfsError> {
        loop {
            skip_zeroes(&mut source).map_err(|error| self.corrupt(error.into()))?;
            let at_end = source
                .fill_buf()
                .map_err(|error| self.corrupt(error.into()))?
                .is_empty();
            if source.get_ref().limit() == 0 {
                return Err(self.too_much("bytes unpacked", self.most_unpacked));
            }
            if at_end {
                return Ok(());
            }
            let outcome = self.read_archive(&mut source);
            if source.get_ref().limit() == 0 {
                return Err(self.too_much("bytes unpacked", self.most_unpacked));
            }
            outcome?;
        }
    }

    /// One archive, up to its trailer.
    fn read_archive(&mut self, source: &mut impl Skip) -> Result<(), InitramfsError> {
        let mut first = true;
        loop {
            let entry = cpio::read_header(source).map_err(|error| self.corrupt(error))?;
            if entry.is_trailer() {
                return Ok(());
            }
            self.entries += 1;
            self.name_bytes += entry.name.len();
            if self.entries > MOST_ENTRIES {
                return Err(self.too_much("entries", MOST_ENTRIES as u64));
            }
            if self.name_bytes > MOST_NAME_BYTES {
                return Err(self.too_much("bytes of names", MOST_NAME_BYTES as u64));
            }
            self.unpacked += u64::from(entry.size);
            self.take_entry(source, &entry, first)
                .map_err(|error| self.corrupt(error.into()))?;
            first = false;
        }
    }

    fn take_entry(
        &mut self,
        source: &mut impl Skip,
        entry: &EntryHeader,
        first: bool,
    ) -> io::Result<()> {
        let stored = GuestPath::new(&entry.name);
        let name = stored.as_bytes().strip_prefix(b"/").unwrap_or_default();
        if first && name == MARK_NAME.as_bytes() && entry.size <= LONGEST_CONFIG {
            self.in_own = true;
            let mark = read_data(source, entry)?;
            self.found.own = Some(OwnArchive {
                offset: self.segment,
                mark,
            });
            return Ok(());
        }
        if self.in_own {
            return source.skip(u64::from(entry.size) + entry.padding());
        }
        if entry.is_symlink() && entry.size <= LONGEST_LINK {
            let target = read_data(source, entry)?;
            self.found
                .entries
                .insert(name.to_vec(), Entry::Symlink(target));
            return Ok(());
        }
        let kind = if entry.is_directory() {
            Entry::Directory
        } else {
            Entry::Other
        };
        self.found.entries.insert(name.to_vec(), kind);
        match std::str::from_utf8(name) {
            Ok(name) if entry.is_file() && entry.size <= LONGEST_CONFIG && names_devices(name) => {
                let data = read_data(source, entry)?;
                self.found.configs.insert(name.to_owned(), data);
                Ok(())
            }
            _ => source.skip(u64::from(entry.size) + entry.padding()),
        }
    }

    fn corrupt(&self, source: CpioError) -> InitramfsError {
        InitramfsError::Corrupt {
            offset: self.segment,
            source,
        }
    }

    fn too_much(&self, what: &'static str, limit: u64) -> InitramfsError {
        InitramfsError::TooMuch {
            offset: self.segment,
            what,
            limit,
        }
    }
}

fn read_data(source: &mut impl Skip, entry: &EntryHeader) -> io::Result<Vec<u8>> {
    let mut data = vec![0; entry.size as usize];
    source.read_exact(&mut data)?;
    source.skip(entry.padding())?;
    Ok(data)
}

/// Whether a file of an initramfs can name devices of the old machine: initramfs-tools' resume device
/// and parameters, dracut's stored command line, the crypttabs of both.
fn names_devices(name: &str) -> bool {
    matches!(
        name,
        "conf/param.conf" | "cryptroot/crypttab" | "etc/crypttab" | "etc/cmdline"
    ) || name.starts_with("conf/conf.d/")
        || (name.starts_with("etc/cmdline.d/") && name.ends_with(".conf"))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::CpioWriter;
    use crate::unpack::pack_lz4_legacy;
    use filesystems::memory::MemoryTree;
    use std::io::Write;

    fn read(bytes: Vec<u8>) -> Result<Initramfs, InitramfsError> {
        let mut tree = MemoryTree::new();
        let size = bytes.len() as u64;
        tree.add_file("/initrd", bytes).unwrap();
        let tree = MountedTree::new(Box::new(tree));
        read_initramfs(&tree, &"/initrd".into(), size, u64::MAX)
    }

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = CpioWriter::new();
        for (name, data) in files {
            writer.add_file(name.as_bytes(), data);
        }
        writer.finish()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn microcode_first_then_a_packed_archive_then_ours() {
        let mut bytes = archive(&[("kernel/x86/microcode/GenuineIntel.bin", &[7; 5000])]);
        bytes.resize(bytes.len() + 512, 0);
        let packed_at = bytes.len() as u64;
        bytes.extend(gzip(&archive(&[
            ("scripts/functions", b""),
            ("usr/lib/modules/6.1/kernel/ahci.ko", b"elf"),
            ("conf/conf.d/resume", b"RESUME=/dev/sda5\n"),
        ])));
        let end = bytes.len() as u64;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let own_at = bytes.len() as u64;
        bytes.extend(archive(&[
            (MARK_NAME, b"what is in it"),
            ("usr/lib/modules/6.1/kernel/virtio_blk.ko", b"elf"),
        ]));
        let found = read(bytes).unwrap();
        assert_eq!(found.segments.len(), 2);
        assert_eq!(found.segments[1].offset, packed_at);
        assert_eq!(found.last_compression(), Some(Compression::Gzip));
        assert_eq!(found.end(), end);
        assert_eq!(found.flavour(), Flavour::InitramfsTools);
        let own = found.own.clone().unwrap();
        assert_eq!(
            (own.offset, own.mark.as_slice()),
            (own_at, &b"what is in it"[..])
        );
        let modules = found.modules_of("6.1");
        assert_eq!(
            modules.into_iter().collect::<Vec<_>>(),
            [("ahci".into(), ".ko".into())]
        );
        assert_eq!(found.module_directory("6.1"), b"usr/lib/modules/6.1");
        assert_eq!(found.configs["conf/conf.d/resume"], b"RESUME=/dev/sda5\n");
    }

    #[test]
    fn lz4_blocks_of_ours_are_told_from_the_base() {
        let mut bytes = pack_lz4_legacy(&archive(&[("init", b"#!")]));
        let own_at = bytes.len() as u64;
        bytes.extend(pack_lz4_legacy(&archive(&[(MARK_NAME, b"m"), ("x", b"y")])));
        let found = read(bytes).unwrap();
        assert_eq!(found.own.unwrap().offset, own_at);
        assert_eq!(found.segments.len(), 1);
        assert!(!found.entries.contains_key(&b"x"[..]));
    }

    #[test]
    fn links_inside_the_archive_decide_where_modules_belong() {
        let mut found = Initramfs::default();
        assert_eq!(found.module_directory("5.4"), b"lib/modules/5.4");
        let link = |target: &str| Entry::Symlink(target.into());
        found.entries.insert(b"lib".to_vec(), link("usr/lib"));
        assert_eq!(found.module_directory("5.4"), b"usr/lib/modules/5.4");
        found.entries.insert(b"usr/lib".to_vec(), link("/usr/lib"));
        assert_eq!(found.resolve(b"lib/x"), None);
    }

    #[test]
    fn somebody_elses_archive_behind_ours_makes_ours_a_part() {
        let mut bytes = archive(&[("init", b"#!")]);
        bytes.extend(archive(&[(MARK_NAME, b"m"), ("x", b"y")]));
        let end = bytes.len() as u64 + archive(&[("later", b"1")]).len() as u64;
        bytes.extend(archive(&[("later", b"1")]));
        let found = read(bytes).unwrap();
        assert_eq!(found.own, None);
        assert_eq!(found.segments.len(), 3);
        assert_eq!(found.end(), end);
    }

    #[test]
    fn hostile_files_are_errors_with_their_place() {
        let good = archive(&[("init", b"#!")]);
        let mut misaligned = good.clone();
        misaligned.extend([0, 0, 0, 0, 0, 0]);
        misaligned.extend(&good);
        let error = read(misaligned).unwrap_err();
        assert!(
            matches!(error, InitramfsError::Misaligned { .. }),
            "{error}"
        );

        let mut junk = good.clone();
        junk.extend(b"junk");
        let error = read(junk).unwrap_err();
        assert!(
            matches!(error, InitramfsError::UnknownContents { .. }),
            "{error}"
        );

        let error = read(good[..good.len() - 8].to_vec()).unwrap_err();
        assert!(matches!(error, InitramfsError::Corrupt { .. }), "{error}");

        let mut packed = gzip(&good);
        packed.truncate(packed.len() / 2);
        let error = read(packed).unwrap_err();
        assert!(matches!(error, InitramfsError::Corrupt { .. }), "{error}");

        let error = read(b"\x89LZO\0\r\n".to_vec()).unwrap_err();
        assert!(
            matches!(error, InitramfsError::NotUnpacked { .. }),
            "{error}"
        );
        assert!(read(Vec::new()).unwrap().entries.is_empty());
    }

    #[test]
    fn a_bomb_of_zeroes_or_names_stops_at_the_bound() {
        let most = 1 << 20;
        let read_bomb = |bytes: Vec<u8>| {
            let mut tree = MemoryTree::new();
            let size = bytes.len() as u64;
            tree.add_file("/initrd", bytes).unwrap();
            let tree = MountedTree::new(Box::new(tree));
            read_initramfs(&tree, &"/initrd".into(), size, most)
        };
        let zeroes = gzip(&vec![0; 2 << 20]);
        let error = read_bomb(zeroes).unwrap_err();
        assert!(matches!(error, InitramfsError::TooMuch { .. }), "{error}");
        let large = gzip(&archive(&[("large", &vec![0; 2 << 20])]));
        let error = read_bomb(large).unwrap_err();
        assert!(matches!(error, InitramfsError::TooMuch { .. }), "{error}");
        let fits = gzip(&archive(&[("fits", &vec![0; 1 << 19])]));
        assert!(read_bomb(fits).is_ok());

        let mut writer = CpioWriter::new();
        for index in 0..MOST_ENTRIES as u32 + 1 {
            writer.add_file(&index.to_le_bytes().map(|b| b | 1), b"");
        }
        let error = read(writer.finish()).unwrap_err();
        assert!(
            matches!(
                error,
                InitramfsError::TooMuch {
                    what: "entries",
                    ..
                }
            ),
            "{error}"
        );
    }
}
