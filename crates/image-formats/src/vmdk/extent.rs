//! Reads one sparse extent: hosted (plain or stream-optimised) or COWD.

use block_io::{BlockError, BlockRead};

use super::format::{
    COWD_MAGIC, DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_NEWLINES, FLAG_ZERO_GRAINS, SECTOR,
    SPARSE_MAGIC,
};
use super::rules;
use crate::bytes::{array, le16, le32, le64};
use crate::cache::TableCache;
use crate::error::{ParseError, corrupt, require};
use crate::finding::{Finding, Severity};
use crate::image::ImageFile;
use crate::inflate::{unzlib, with_buffer};

/// Grain tables kept at most: 4 MiB of the largest.
const TABLES: usize = 256;
/// Inflated grains kept at most, for readers that take a grain in small pieces.
const GRAINS: usize = 32;
/// An embedded descriptor has at most this many bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;

/// A sparse extent.
pub(crate) struct SparseExtent {
    file: ImageFile,
    /// Sectors it maps.
    pub(crate) capacity: u64,
    pub(crate) grain: u64,
    table_entries: u64,
    directory: Vec<u32>,
    pub(crate) version: u32,
    pub(crate) compressed: bool,
    zero_grains: bool,
    tables: TableCache<Vec<u8>>,
    grains: TableCache<Vec<u8>>,
    pub(crate) descriptor: Option<Vec<u8>>,
    pub(crate) notes: Vec<Finding>,
}

/// Where a grain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grain {
    /// Nowhere: what lies below shows.
    Missing,
    /// It reads as zeroes.
    Zero,
    /// At this byte of the extent's file.
    Plain(u64),
    /// Compressed, its marker at this byte.
    Packed(u64),
}

/// An extent whose grains lie where tables say.
pub(crate) trait Grains: Send + Sync {
    /// Bytes of a grain.
    fn grain(&self) -> u64;

    /// Where the grain of byte `offset` of the extent is.
    fn find(&self, offset: u64) -> block_io::Result<Grain>;

    /// Where the grains end that are missing together with the one of byte `offset`, if that is cheaply
    /// known: a whole table may not be there.
    fn missing_until(&self, _offset: u64) -> Option<u64> {
        None
    }

    /// Read from the grain of `offset`, at `place` in the file, not beyond its end.
    fn read_plain(&self, place: u64, buf: &mut [u8], offset: u64) -> block_io::Result<()>;

    /// Read from the compressed grain of `offset`, whose marker is at `place`.
    fn read_packed(&self, place: u64, buf: &mut [u8], offset: u64) -> block_io::Result<()>;
}

impl Grains for SparseExtent {
    fn grain(&self) -> u64 {
        self.grain
    }

    fn find(&self, offset: u64) -> block_io::Result<Grain> {
        SparseExtent::find(self, offset)
    }

    fn missing_until(&self, offset: u64) -> Option<u64> {
        let span = self.grain * self.table_entries;
        let table = offset / span;
        let missing = self
            .directory
            .get(table as usize)
            .is_none_or(|entry| *entry == 0);
        missing.then(|| (table + 1).saturating_mul(span))
    }

    fn read_plain(&self, place: u64, buf: &mut [u8], offset: u64) -> block_io::Result<()> {
        SparseExtent::read_plain(self, place, buf, offset)
    }

    fn read_packed(&self, place: u64, buf: &mut [u8], offset: u64) -> block_io::Result<()> {
        SparseExtent::read_packed(self, place, buf, offset)
    }
}

/// What a header says, before the directory is read.
struct Layout {
    version: u32,
    capacity: u64,
    grain_sectors: u64,
    table_entries: u64,
    directory: u64,
    flags: u32,
    descriptor: (u64, u64),
    unclean: bool,
}

impl SparseExtent {
    /// Read and check the header and directory of `file`.
    pub(crate) fn open(file: ImageFile) -> Result<Self, ParseError> {
        let size = file.disk.size();
        require(size >= SECTOR, rules::HEADER, 0, "512 bytes or more", size)?;
        let mut head = [0; SECTOR as usize];
        file.disk.read_at(0, &mut head)?;
        let layout = match head.starts_with(COWD_MAGIC) {
            true => parse_cowd(&head)?,
            false => parse_hosted(&head, &file)?,
        };
        let grain = layout.grain_sectors * SECTOR;
        let span = grain * layout.table_entries;
        let bytes = layout.capacity.checked_mul(SECTOR).ok_or_else(|| {
            Finding::error(
                rules::CAPACITY,
                12,
                "less than 2^54",
                layout.capacity.to_string(),
            )
        })?;
        let len = bytes.div_ceil(span) * 4;
        let place = layout.directory.saturating_mul(SECTOR);
        let inside = place.checked_add(len).is_some_and(|end| end <= size);
        require(
            inside,
            rules::DIRECTORY,
            56,
            format!("{len} bytes below {size}"),
            place,
        )?;
        // Inside the file, so no larger than it.
        let mut directory = vec![0; len as usize];
        file.disk.read_at(place, &mut directory)?;
        let descriptor = read_descriptor(&file, layout.descriptor)?;
        let mut notes = Vec::new();
        if layout.unclean {
            let finding = Finding::error(rules::UNCLEAN, 72, "0", "1: it was not closed");
            notes.push(finding.with(Severity::Warning));
        }
        Ok(Self {
            file,
            capacity: layout.capacity,
            grain,
            table_entries: layout.table_entries,
            directory: directory
                .chunks_exact(4)
                .map(|entry| le32(entry, 0))
                .collect(),
            version: layout.version,
            compressed: layout.flags & FLAG_COMPRESSED != 0,
            zero_grains: layout.flags & FLAG_ZERO_GRAINS != 0,
            tables: TableCache::new(TABLES),
            grains: TableCache::new(GRAINS),
            descriptor,
            notes,
        })
    }

    /// Its file.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.file.path
    }

    /// Where the grain of byte `offset` of the extent is.
    pub(crate) fn find(&self, offset: u64) -> block_io::Result<Grain> {
        let index = offset / self.grain;
        let table = index / self.table_entries;
        let entry = self.directory.get(table as usize).copied().unwrap_or(0);
        if entry == 0 {
            return Ok(Grain::Missing);
        }
        let size = self.file.disk.size();
        let place = u64::from(entry) * SECTOR;
        let len = self.table_entries * 4;
        if place + len > size {
            return Err(self.broken(
                rules::TABLE,
                place,
                format!("{len} bytes below {size}"),
                offset,
            ));
        }
        let entries = self.tables.get(place, || {
            let mut entries = vec![0; len as usize];
            self.file.disk.read_at(place, &mut entries)?;
            Ok::<_, BlockError>(entries)
        })?;
        let at = u64::from(le32(&entries, (index % self.table_entries * 4) as usize));
        match at {
            0 => Ok(Grain::Missing),
            1 if self.zero_grains => Ok(Grain::Zero),
            at if self.compressed => Ok(Grain::Packed(at * SECTOR)),
            at => Ok(Grain::Plain(at * SECTOR)),
        }
    }

    /// Read from the grain of `offset`, at `place` in the file, not beyond its end.
    pub(crate) fn read_plain(
        &self,
        place: u64,
        buf: &mut [u8],
        offset: u64,
    ) -> block_io::Result<()> {
        let at = place + offset % self.grain;
        let size = self.file.disk.size();
        if at + buf.len() as u64 > size {
            let expected = format!("{} bytes below {size}", buf.len());
            return Err(self.broken(rules::GRAIN, at, expected, offset));
        }
        self.file.disk.read_at(at, buf)
    }

    /// Read from the compressed grain of `offset`, whose marker is at `place`.
    pub(crate) fn read_packed(
        &self,
        place: u64,
        buf: &mut [u8],
        offset: u64,
    ) -> block_io::Result<()> {
        if buf.len() as u64 == self.grain {
            return self.inflate(place, buf, offset);
        }
        let grain = self.grains.get(place, || {
            let mut grain = vec![0; self.grain as usize];
            self.inflate(place, &mut grain, offset)?;
            Ok::<_, BlockError>(grain)
        })?;
        let within = (offset % self.grain) as usize;
        match grain.get(within..within + buf.len()) {
            Some(part) => buf.copy_from_slice(part),
            None => {
                return Err(BlockError::out_of_bounds(
                    self.grain,
                    within as u64,
                    buf.len() as u64,
                ));
            }
        }
        Ok(())
    }

    // [Virtual Disk Format 5.0] Grain Marker
    fn inflate(&self, place: u64, plain: &mut [u8], offset: u64) -> block_io::Result<()> {
        let size = self.file.disk.size();
        if place + 12 > size {
            return Err(self.broken(
                rules::GRAIN,
                place,
                format!("a marker below {size}"),
                offset,
            ));
        }
        let mut head = [0; 12];
        self.file.disk.read_at(place, &mut head)?;
        let (sector, len) = (le64(&head, 0), u64::from(le32(&head, 8)));
        let first = offset / self.grain * (self.grain / SECTOR);
        if sector != first {
            return Err(self.broken(
                rules::GRAIN_MARKER,
                place,
                format!("sector {first}"),
                offset,
            ));
        }
        // Incompressible bytes grow a little; twice the grain is no deflate stream of it.
        if len > 2 * self.grain || place + 12 + len > size {
            let expected = format!("at most {} bytes inside the file", 2 * self.grain);
            return Err(self.broken(rules::GRAIN_MARKER, place + 8, expected, offset));
        }
        // The last grain of a disk may hold less than a grain.
        let needed = self.grain.min(self.capacity * SECTOR - first * SECTOR) as usize;
        let inflated = with_buffer(len as usize, |packed| {
            self.file.disk.read_at(place + 12, packed)?;
            Ok::<_, BlockError>(unzlib(packed, plain))
        })?;
        match inflated {
            Ok(len) if len >= needed => {
                plain[len..].fill(0);
                Ok(())
            }
            Ok(len) => Err(self.broken(
                rules::GRAIN_DATA,
                place,
                format!("{needed} bytes, not {len}"),
                offset,
            )),
            Err(why) => Err(self.broken(
                rules::GRAIN_DATA,
                place,
                format!("a deflated grain, not: {why}"),
                offset,
            )),
        }
    }

    fn broken(
        &self,
        rule: &'static crate::finding::Rule,
        place: u64,
        expected: String,
        offset: u64,
    ) -> BlockError {
        let finding = Finding::error(rule, place, expected, "something else");
        corrupt(&finding, offset, 1).on(self.file.path.display().to_string())
    }
}

// [Virtual Disk Format 5.0] Hosted Sparse Extent Header
fn parse_hosted(head: &[u8], file: &ImageFile) -> Result<Layout, ParseError> {
    let version = le32(head, 4);
    let right = head.starts_with(SPARSE_MAGIC);
    require(right, rules::HEADER, 0, "KDMV", "something else")?;
    require(
        (1..=3).contains(&version),
        rules::VERSION,
        4,
        "1 to 3",
        version,
    )?;
    let flags = le32(head, 8);
    let newlines: [u8; 4] = array(head, 73);
    let unharmed = flags & FLAG_NEWLINES == 0 || newlines == *b"\n \r\n";
    require(
        unharmed,
        rules::NEWLINES,
        73,
        "\\n \\r\\n",
        "other bytes: copied as text?",
    )?;
    let grain_sectors = le64(head, 20);
    let right = grain_sectors.is_power_of_two() && (8..=4096).contains(&grain_sectors);
    require(
        right,
        rules::GRAIN_SIZE,
        20,
        "a power of two from 8 to 4096",
        grain_sectors,
    )?;
    let table_entries = u64::from(le32(head, 44));
    require(
        table_entries == 512,
        rules::TABLE_LENGTH,
        44,
        "512",
        table_entries,
    )?;
    let compression = le16(head, 77);
    let right = flags & FLAG_COMPRESSED == 0 || compression == 1;
    require(right, rules::COMPRESSION, 77, "1", compression)?;
    let directory = match le64(head, 56) {
        DIRECTORY_AT_END => read_footer(file)?,
        directory => directory,
    };
    Ok(Layout {
        version,
        capacity: le64(head, 12),
        grain_sectors,
        table_entries,
        directory,
        flags,
        descriptor: (le64(head, 28), le64(head, 36)),
        unclean: head.get(72) == Some(&1),
    })
}

/// The directory's place out of the footer, which lies before the end-of-stream marker.
fn read_footer(file: &ImageFile) -> Result<u64, ParseError> {
    let size = file.disk.size();
    let place = (size / SECTOR * SECTOR).saturating_sub(2 * SECTOR);
    let mut footer = [0; SECTOR as usize];
    if place > 0 {
        file.disk.read_at(place, &mut footer)?;
    }
    let right = footer.starts_with(SPARSE_MAGIC) && le64(&footer, 56) != DIRECTORY_AT_END;
    require(
        right,
        rules::FOOTER,
        place,
        "a header that names the directory",
        "none",
    )?;
    Ok(le64(&footer, 56))
}

/// The header of an ESX copy-on-write extent, of which no vendor's document is public; the layout is
/// that of libvmdk's notes. 0 magic, 4 version, 8 flags, 12 sectors, 16 grain sectors, 20 directory,
/// 24 directory entries.
fn parse_cowd(head: &[u8]) -> Result<Layout, ParseError> {
    let version = le32(head, 4);
    require(version == 1, rules::VERSION, 4, "1", version)?;
    let grain_sectors = u64::from(le32(head, 16));
    let right = grain_sectors.is_power_of_two() && grain_sectors <= 4096;
    require(
        right,
        rules::GRAIN_SIZE,
        16,
        "a power of two up to 4096",
        grain_sectors,
    )?;
    Ok(Layout {
        version,
        capacity: u64::from(le32(head, 12)),
        grain_sectors,
        table_entries: 4096,
        directory: u64::from(le32(head, 20)),
        flags: 0,
        descriptor: (0, 0),
        unclean: false,
    })
}

fn read_descriptor(
    file: &ImageFile,
    (start, sectors): (u64, u64),
) -> Result<Option<Vec<u8>>, ParseError> {
    if start == 0 || sectors == 0 {
        return Ok(None);
    }
    let place = start.saturating_mul(SECTOR);
    let len = sectors.saturating_mul(SECTOR);
    let inside = place
        .checked_add(len)
        .is_some_and(|end| end <= file.disk.size());
    let found = format!("{sectors} sectors at {start}");
    require(
        inside && len <= MAX_DESCRIPTOR,
        rules::DESCRIPTOR,
        28,
        "inside the file",
        found,
    )?;
    let mut text = vec![0; len as usize];
    file.disk.read_at(place, &mut text)?;
    Ok(Some(text))
}
