//! Reads qcow2 versions 2 and 3.

use block_io::{BlockError, BlockRead, Extent, ExtentKind, Result, check_range};

use super::format::{COMPRESSED, COPIED, Geometry, OFFSET_MASK, ZERO, compressed_range};
use super::header::{Header, read_header};
use super::rules;
use crate::bytes::be64;
use crate::cache::TableCache;
use crate::details::Details;
use crate::detect::ImageFormat;
use crate::error::{OpenError, ParseError, corrupt};
use crate::finding::Finding;
use crate::image::{Image, ImageFile, Opened, Opener};
use crate::inflate::{undeflate, unzstd, with_buffer};

/// Bytes of L2 tables kept at most.
const L2_CACHE_BYTES: u64 = 16 << 20;
/// Inflated clusters kept at most, for readers that take a cluster in small pieces.
const CLUSTER_CACHE_BYTES: u64 = 4 << 20;
/// Clusters looked at for one extent, at most: the caller joins what is cut.
const EXTENT_CLUSTERS: u64 = 1 << 16;
/// The parts of a cluster with extended L2 entries. // qcow2.rst, "Extended L2 Entries"
const SUBCLUSTERS: u64 = 32;

/// Open `file`, and the files it names through the opener's gate.
pub(crate) fn open(file: ImageFile, opener: &Opener<'_>) -> std::result::Result<Opened, OpenError> {
    let path = file.path.clone();
    let header = read_header(&file.disk).map_err(|error| error.at(&path))?;
    let l1 = read_l1(&file, &header).map_err(|error| error.at(&path))?;
    let backing = match &header.backing {
        Some(name) => {
            let format = header.backing_format.as_deref();
            let format = format.map(|name| backing_format(&path, name)).transpose()?;
            Some(opener.open_named(name, &path, format)?)
        }
        None => None,
    };
    let data: Option<Image> = match (&header.data_file, header.external_data()) {
        (Some(name), true) => Some(opener.open_named(name, &path, Some(ImageFormat::Raw))?),
        _ => None,
    };
    let geometry = header.geometry;
    let mut notes = header.notes.clone();
    let variant = format!("version {}", header.version);
    let details = Details::Qcow2(header.details());
    let below = backing.as_ref().map(|image| image.info().clone());
    notes.extend(below.iter().flat_map(|below| below.notes.clone()));
    let disk = Qcow2Disk {
        l2_cache: TableCache::new((L2_CACHE_BYTES / geometry.cluster_size()) as usize),
        clusters: TableCache::new((CLUSTER_CACHE_BYTES / geometry.cluster_size()).min(64) as usize),
        file,
        header,
        l1,
        backing,
        data,
    };
    Ok(Opened {
        disk: Box::new(disk),
        details,
        variant,
        cluster_size: Some(geometry.cluster_size()),
        notes,
        identity: None,
        below,
    })
}

fn backing_format(
    path: &std::path::Path,
    name: &str,
) -> std::result::Result<ImageFormat, OpenError> {
    ImageFormat::from_qemu_name(name).ok_or_else(|| {
        let error = ParseError::Unsupported {
            feature: format!("a backing file of format {name:?}"),
            hint: "convert the chain with the program that wrote it",
        };
        error.at(path)
    })
}

fn read_l1(file: &ImageFile, header: &Header) -> std::result::Result<Vec<u64>, ParseError> {
    // Checked by the header: at most 32 MiB, and inside the file.
    let mut bytes = vec![0; (header.l1_entries * 8) as usize];
    file.disk.read_at(header.l1_offset, &mut bytes)?;
    Ok(bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect())
}

/// The disk inside a qcow2 file.
struct Qcow2Disk {
    file: ImageFile,
    header: Header,
    l1: Vec<u64>,
    l2_cache: TableCache<Vec<u8>>,
    clusters: TableCache<Vec<u8>>,
    backing: Option<Image>,
    data: Option<Image>,
}

/// Where a run of the disk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mapping {
    /// Reads as zeroes.
    Zero,
    /// Reads as the image below.
    Below,
    /// At this offset of the data file.
    Data(u64),
    /// Compressed: the L2 entry.
    Compressed(u64),
}

impl Mapping {
    /// Whether `next`, `len` bytes further on, continues this run.
    fn continues(self, len: u64, next: Mapping) -> bool {
        match (self, next) {
            (Mapping::Data(at), Mapping::Data(next)) => at.checked_add(len) == Some(next),
            (Mapping::Zero, Mapping::Zero) | (Mapping::Below, Mapping::Below) => true,
            _ => false,
        }
    }
}

impl Qcow2Disk {
    fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// Where `offset` comes from, and for how many bytes at least, not beyond its cluster (its whole
    /// L2 table's range where there is none).
    fn map_one(&self, offset: u64) -> Result<(Mapping, u64)> {
        let size = self.geometry().cluster_size();
        let cluster = offset / size;
        let table_len = self.header.l2_entries();
        let within = offset % size;
        let l1_index = cluster / table_len;
        let l1_entry = self.l1.get(l1_index as usize).copied().unwrap_or(0);
        let Some(table) = self.l2_table(l1_index, l1_entry, offset)? else {
            let table_end = (l1_index + 1).saturating_mul(table_len * size);
            return Ok((Mapping::Below, table_end - offset));
        };
        let at = (cluster % table_len * self.header.l2_entry_len()) as usize;
        let entry = be64(&table, at);
        let place = (l1_entry & OFFSET_MASK) + at as u64;
        if entry & COMPRESSED != 0 {
            let bitmap = match self.header.extended_l2() {
                true => be64(&table, at + 8),
                false => 0,
            };
            self.check_compressed(entry, bitmap, place, offset)?;
            return Ok((Mapping::Compressed(entry), size - within));
        }
        self.check_plain(entry, place, offset)?;
        let host = entry & OFFSET_MASK;
        if self.header.extended_l2() {
            return self.map_subcluster(host, be64(&table, at + 8), place, offset);
        }
        let mapping = match (entry & ZERO != 0 && self.header.version >= 3, host) {
            (true, _) => Mapping::Zero,
            // With an external data file 0 is an offset like any other, told by the COPIED bit.
            (false, 0) if !(self.header.external_data() && entry & COPIED != 0) => Mapping::Below,
            (false, host) => Mapping::Data(host + within),
        };
        Ok((mapping, size - within))
    }

    fn map_subcluster(
        &self,
        host: u64,
        bitmap: u64,
        place: u64,
        offset: u64,
    ) -> Result<(Mapping, u64)> {
        let size = self.geometry().cluster_size();
        let part_size = size / SUBCLUSTERS;
        let within = offset % size;
        let part = within / part_size;
        let allocated = bitmap & 1 << part != 0;
        let zero = bitmap & 1 << (32 + part) != 0;
        let mapping = match (allocated, zero) {
            (true, true) => {
                let finding = Finding::error(
                    rules::SUBCLUSTERS,
                    place + 8,
                    "allocated or zero",
                    format!("both, for subcluster {part}"),
                );
                return Err(self.broken(&finding, offset));
            }
            (true, false) => Mapping::Data(host + within),
            (false, true) => Mapping::Zero,
            (false, false) => Mapping::Below,
        };
        Ok((mapping, part_size - within % part_size))
    }

    fn check_plain(&self, entry: u64, place: u64, offset: u64) -> Result<()> {
        let zero_bit = if self.header.version >= 3 && !self.header.extended_l2() {
            ZERO
        } else {
            0
        };
        let reserved = entry & !(OFFSET_MASK | COPIED | zero_bit);
        if reserved != 0 {
            let found = format!("{entry:#018x}");
            let finding = Finding::error(rules::L2_ENTRY, place, "reserved bits 0", found);
            return Err(self.broken(&finding, offset));
        }
        let host = entry & OFFSET_MASK;
        if !host.is_multiple_of(self.geometry().cluster_size()) {
            let expected = format!("a multiple of {}", self.geometry().cluster_size());
            let finding = Finding::error(rules::DATA_OFFSET, place, expected, host.to_string());
            return Err(self.broken(&finding, offset));
        }
        Ok(())
    }

    fn check_compressed(&self, entry: u64, bitmap: u64, place: u64, offset: u64) -> Result<()> {
        let (rule, expected, found) = if self.data.is_some() {
            (
                rules::COMPRESSED_EXTERNAL,
                "a plain cluster",
                "a compressed one".to_owned(),
            )
        } else if bitmap != 0 {
            (rules::SUBCLUSTERS, "no subclusters", format!("{bitmap:#x}"))
        } else if compressed_range(self.geometry(), entry).0 >= self.file.disk.size() {
            let (at, _) = compressed_range(self.geometry(), entry);
            (
                rules::COMPRESSED_OUTSIDE,
                "an offset inside the file",
                at.to_string(),
            )
        } else {
            return Ok(());
        };
        Err(self.broken(&Finding::error(rule, place, expected, found), offset))
    }

    fn l2_table(
        &self,
        index: u64,
        entry: u64,
        offset: u64,
    ) -> Result<Option<std::sync::Arc<Vec<u8>>>> {
        let at = entry & OFFSET_MASK;
        if at == 0 {
            return Ok(None);
        }
        let size = self.geometry().cluster_size();
        let place = self.header.l1_offset + index * 8;
        let inside = at
            .checked_add(size)
            .is_some_and(|end| end <= self.file.disk.size());
        let finding = if entry & !(OFFSET_MASK | COPIED) != 0 {
            let found = format!("{entry:#018x}");
            Some(Finding::error(
                rules::L1_ENTRY,
                place,
                "reserved bits 0",
                found,
            ))
        } else if !inside || !at.is_multiple_of(size) {
            let expected = format!("aligned to {size}, below {}", self.file.disk.size());
            Some(Finding::error(
                rules::L2_OFFSET,
                place,
                expected,
                at.to_string(),
            ))
        } else {
            None
        };
        if let Some(finding) = finding {
            return Err(self.broken(&finding, offset));
        }
        let load = || {
            let mut table = vec![0; size as usize];
            self.file.disk.read_at(at, &mut table)?;
            Ok::<_, BlockError>(table)
        };
        self.l2_cache.get(at, load).map(Some)
    }

    /// The run of one mapping at `offset`, not beyond `end`.
    fn map_run(&self, offset: u64, end: u64) -> Result<(Mapping, u64)> {
        let (mapping, mut len) = self.map_one(offset)?;
        let mut looked_at = 0;
        while offset.saturating_add(len) < end && looked_at < EXTENT_CLUSTERS {
            // A table that cannot be read is met again, and told, when its turn comes.
            let Ok((next, more)) = self.map_one(offset + len) else {
                break;
            };
            if !mapping.continues(len, next) {
                break;
            }
            len = len.saturating_add(more);
            looked_at += 1;
        }
        Ok((mapping, len.min(end - offset)))
    }

    fn read_data(&self, host: u64, buf: &mut [u8], offset: u64) -> Result<()> {
        let disk: &dyn BlockRead = match &self.data {
            Some(data) => data,
            None => &self.file.disk,
        };
        if check_range(disk.size(), host, buf.len() as u64).is_err() {
            let expected = format!("{} bytes below {}", buf.len(), disk.size());
            let finding =
                Finding::error(rules::DATA_OUTSIDE, host, expected, "the end of the file");
            return Err(self.broken(&finding, offset));
        }
        disk.read_at(host, buf)
    }

    fn read_below(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some(backing) = &self.backing else {
            buf.fill(0);
            return Ok(());
        };
        // A shorter image below reads as zeroes past its end. // qcow2.rst, "Backing files"
        let there = backing.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (head, tail) = buf.split_at_mut(there);
        tail.fill(0);
        match head.is_empty() {
            true => Ok(()),
            false => backing.read_at(offset, head),
        }
    }

    fn read_compressed(&self, entry: u64, buf: &mut [u8], offset: u64) -> Result<()> {
        let size = self.geometry().cluster_size();
        if buf.len() as u64 == size {
            return self.inflate(entry, buf, offset);
        }
        let cluster = self.clusters.get(entry, || {
            let mut cluster = vec![0; size as usize];
            self.inflate(entry, &mut cluster, offset)?;
            Ok::<_, BlockError>(cluster)
        })?;
        let within = (offset % size) as usize;
        match cluster.get(within..within + buf.len()) {
            Some(part) => buf.copy_from_slice(part),
            None => {
                return Err(BlockError::out_of_bounds(
                    size,
                    within as u64,
                    buf.len() as u64,
                ));
            }
        }
        Ok(())
    }

    fn inflate(&self, entry: u64, plain: &mut [u8], offset: u64) -> Result<()> {
        let (at, most) = compressed_range(self.geometry(), entry);
        let len = most.min(self.file.disk.size().saturating_sub(at));
        let inflated = with_buffer(len as usize, |packed| {
            self.file.disk.read_at(at, packed)?;
            Ok::<_, BlockError>(match self.header.zstd {
                true => unzstd(packed, plain),
                false => undeflate(packed, plain),
            })
        })?;
        inflated.map_err(|why| {
            let expected = format!("{} bytes", plain.len());
            let finding = Finding::error(rules::COMPRESSED_DATA, at, expected, why);
            self.broken(&finding, offset)
        })
    }

    fn broken(&self, finding: &Finding, offset: u64) -> BlockError {
        corrupt(finding, offset, 1).on(self.file.path.display().to_string())
    }
}

impl BlockRead for Qcow2Disk {
    fn size(&self) -> u64 {
        self.header.virtual_size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        while offset < end {
            let (mapping, len) = self.map_run(offset, end)?;
            let (part, rest) = buf.split_at_mut(len as usize);
            match mapping {
                Mapping::Zero => part.fill(0),
                Mapping::Below => self.read_below(offset, part)?,
                Mapping::Data(host) => self.read_data(host, part, offset)?,
                Mapping::Compressed(entry) => self.read_compressed(entry, part, offset)?,
            }
            offset += len;
            buf = rest;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let (mapping, len) = self.map_run(offset, self.size())?;
        let kind = match (mapping, &self.backing) {
            (Mapping::Data(_) | Mapping::Compressed(_), _) => ExtentKind::Data,
            (Mapping::Below, Some(backing)) if offset < backing.size() => {
                return Ok(backing.extent_at(offset)?.clipped_to(offset + len));
            }
            (Mapping::Zero | Mapping::Below, _) => ExtentKind::Zero,
        };
        Ok(Extent {
            kind,
            start: offset,
            len,
        })
    }
}
