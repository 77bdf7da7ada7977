//! Reads VMDK disks: one sparse file, or a descriptor and the files it names.

use std::path::Path;

use block_io::{BlockRead, Extent, ExtentKind, Result, check_range};

use super::descriptor::{Descriptor, ExtentLine, NO_PARENT};
use super::extent::{Grain, Grains, SparseExtent};
use super::format::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC, SPARSE_MAGIC};
use super::rules;
use super::sesparse::SeSparseExtent;
use crate::details::{Details, VmdkDetails, VmdkExtent};
use crate::detect::ImageFormat;
use crate::error::{OpenError, ParseError, require};
use crate::finding::{Finding, Severity};
use crate::image::{Image, ImageFile, Opened, Opener};
use crate::mapped::read_padded;

/// A descriptor file has at most this many bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// Grains looked at for one extent, at most: the caller joins what is cut.
const EXTENT_GRAINS: u64 = 1 << 16;

/// Open `file`, the files it names and its parent, all through the opener's gate.
pub(crate) fn open(file: ImageFile, opener: &Opener<'_>) -> std::result::Result<Opened, OpenError> {
    let path = file.path.clone();
    let mut head = [0; 4];
    let there = file.disk.size().min(4) as usize;
    file.disk
        .read_at(0, &mut head[..there])
        .map_err(|error| ParseError::from(error).at(&path))?;
    if there == 4 && head == SESPARSE_MAGIC[..4] {
        let error = ParseError::Unsupported {
            feature: "a seSparse extent without the disk's descriptor".to_owned(),
            hint: "open NAME.vmdk, which names it and knows what lies below",
        };
        return Err(error.at(&path));
    }
    let (descriptor, parts) = match head == *SPARSE_MAGIC || head == *COWD_MAGIC {
        true => open_sparse(file)?,
        false => open_descriptor(&file, opener)?,
    };
    let parent = open_parent(&path, &descriptor, opener)?;
    let mut size = 0;
    let mut notes = Vec::new();
    let mut cluster_size = None;
    for part in &parts {
        size += part.len;
        if let Source::Sparse(extent) = &part.source {
            notes.extend(extent.notes.clone());
            cluster_size.get_or_insert(extent.grain);
        }
    }
    let below = parent.as_ref().map(|image| image.info().clone());
    notes.extend(below.iter().flat_map(|below| below.notes.clone()));
    Ok(Opened {
        variant: descriptor.create_type.clone(),
        details: Details::Vmdk(details_of(&descriptor, &parts, &path)),
        cluster_size,
        notes,
        identity: Some(format!("{:08x}", descriptor.cid)),
        below,
        disk: Box::new(VmdkDisk {
            size,
            parts,
            parent,
        }),
    })
}

fn details_of(descriptor: &Descriptor, parts: &[Part], path: &Path) -> VmdkDetails {
    let extents = parts.iter().enumerate().map(|(index, part)| {
        let line = descriptor.extents.get(index).filter(|_| part.listed);
        let (file, grain, compressed) = match &part.source {
            Source::Zero => (None, None, false),
            Source::Flat(image, _) => (Some(image.info().path.clone()), None, false),
            Source::SeSparse(extent) => {
                (Some(extent.path().to_owned()), Some(extent.grain()), false)
            }
            Source::Sparse(extent) => (
                Some(extent.path().to_owned()),
                Some(extent.grain),
                extent.compressed,
            ),
        };
        VmdkExtent {
            file: file.or_else(|| line.is_none().then(|| path.to_owned())),
            kind: line.map_or_else(String::new, |line| line.kind.clone()),
            size: part.len,
            grain,
            compressed,
        }
    });
    VmdkDetails {
        create_type: descriptor.create_type.clone(),
        cid: descriptor.cid,
        parent_cid: descriptor.parent_cid,
        adapter: descriptor.adapter.clone(),
        hardware_version: descriptor.hardware_version.clone(),
        sparse_version: parts.iter().find_map(|part| match &part.source {
            Source::Sparse(extent) => Some(extent.version),
            _ => None,
        }),
        extents: extents.collect(),
    }
}

fn open_sparse(file: ImageFile) -> std::result::Result<(Descriptor, Vec<Part>), OpenError> {
    let path = file.path.clone();
    let mut extent = SparseExtent::open(file).map_err(|error| error.at(&path))?;
    let descriptor = match &extent.descriptor {
        Some(text) => {
            Descriptor::parse(text).map_err(|finding| ParseError::from(finding).at(&path))?
        }
        None => {
            // It may be a part of a disk, or a delta over another: only the descriptor knows.
            let finding = Finding::error(rules::ALONE, 0, "the descriptor", "one extent of it");
            extent.notes.push(finding.with(Severity::Warning));
            Descriptor {
                create_type: "one extent".to_owned(),
                parent_cid: NO_PARENT,
                ..Default::default()
            }
        }
    };
    let len = extent.capacity * SECTOR;
    let part = Part {
        listed: false,
        start: 0,
        len,
        source: Source::Sparse(extent),
    };
    Ok((descriptor, vec![part]))
}

fn open_descriptor(
    file: &ImageFile,
    opener: &Opener<'_>,
) -> std::result::Result<(Descriptor, Vec<Part>), OpenError> {
    let parsed = read_descriptor(file).map_err(|error| error.at(&file.path))?;
    let mut parts = Vec::new();
    let mut start = 0u64;
    for line in &parsed.extents {
        let len = line
            .sectors
            .checked_mul(SECTOR)
            .filter(|len| start.checked_add(*len).is_some());
        let Some(len) = len else {
            let found = line.sectors.to_string();
            let finding = Finding::error(rules::EXTENT, 0, "less than 2^54 sectors", found);
            return Err(ParseError::from(finding).at(&file.path));
        };
        let source = open_extent(file, line, len, opener)?;
        parts.push(Part {
            listed: true,
            start,
            len,
            source,
        });
        start += len;
    }
    Ok((parsed, parts))
}

fn read_descriptor(file: &ImageFile) -> std::result::Result<Descriptor, ParseError> {
    let size = file.disk.size();
    require(
        size <= MAX_DESCRIPTOR,
        rules::DESCRIPTOR,
        0,
        "at most 1 MiB of text",
        size,
    )?;
    let mut text = vec![0; size as usize];
    file.disk.read_at(0, &mut text)?;
    let descriptor = Descriptor::parse(&text)?;
    let some = !descriptor.extents.is_empty();
    require(some, rules::DESCRIPTOR, 0, "an extent", "none")?;
    Ok(descriptor)
}

fn open_extent(
    file: &ImageFile,
    line: &ExtentLine,
    len: u64,
    opener: &Opener<'_>,
) -> std::result::Result<Source, OpenError> {
    let at = |error: ParseError| error.at(&file.path);
    let Some(name) = &line.name else {
        let zero = line.kind == "ZERO";
        require(zero, rules::EXTENT, 0, "a name", &line.kind).map_err(|f| at(f.into()))?;
        return Ok(Source::Zero);
    };
    let holds = |found: u64| {
        let expected = format!("{len} bytes for {name:?}");
        require(found >= len, rules::EXTENT_SIZE, 0, expected, found).map_err(|f| at(f.into()))
    };
    match line.kind.as_str() {
        "FLAT" | "VMFS" => {
            let flat = opener.open_named(name, &file.path, Some(ImageFormat::Raw))?;
            let start = line.start.saturating_mul(SECTOR);
            holds(flat.size().saturating_sub(start))?;
            Ok(Source::Flat(flat, start))
        }
        "SPARSE" | "VMFSSPARSE" => {
            let part = opener.open_file_named(name, &file.path)?;
            let path = part.path.clone();
            let extent = SparseExtent::open(part).map_err(|error| error.at(&path))?;
            holds(extent.capacity.saturating_mul(SECTOR))?;
            Ok(Source::Sparse(extent))
        }
        "SESPARSE" => {
            let part = opener.open_file_named(name, &file.path)?;
            let path = part.path.clone();
            let extent = SeSparseExtent::open(part).map_err(|error| error.at(&path))?;
            holds(extent.capacity() * SECTOR)?;
            Ok(Source::SeSparse(extent))
        }
        "ZERO" => Ok(Source::Zero),
        other => Err(at(ParseError::Unsupported {
            feature: format!("an extent of kind {other}"),
            hint: "clone it with vmkfstools -i, or export it as OVF",
        })),
    }
}

fn open_parent(
    path: &Path,
    descriptor: &Descriptor,
    opener: &Opener<'_>,
) -> std::result::Result<Option<Image>, OpenError> {
    if descriptor.parent_cid == NO_PARENT {
        return Ok(None);
    }
    let at = |finding: Finding| ParseError::from(finding).at(path);
    let Some(hint) = &descriptor.parent_hint else {
        return Err(at(Finding::error(
            rules::PARENT,
            0,
            "parentFileNameHint",
            "none",
        )));
    };
    // The hint is a path of the machine the disk comes from; its last component is looked for here.
    let name = hint.rsplit(['\\', '/']).next().unwrap_or(hint);
    let parent = opener.open_named(name, path, Some(ImageFormat::Vmdk))?;
    let expected = format!("{:08x}", descriptor.parent_cid);
    let found = parent.info().identity.clone().unwrap_or_default();
    require(found == expected, rules::PARENT_CHANGED, 0, expected, found).map_err(at)?;
    Ok(Some(parent))
}

/// The disk of a VMDK.
struct VmdkDisk {
    size: u64,
    parts: Vec<Part>,
    parent: Option<Image>,
}

/// A run of the disk and where it lies.
struct Part {
    /// Whether a line of the descriptor names it; otherwise it is the file itself.
    listed: bool,
    start: u64,
    len: u64,
    source: Source,
}

enum Source {
    Zero,
    /// A file, and the byte of it where the run starts.
    Flat(Image, u64),
    Sparse(SparseExtent),
    SeSparse(SeSparseExtent),
}

impl VmdkDisk {
    fn part(&self, offset: u64) -> Result<&Part> {
        let index = self
            .parts
            .partition_point(|part| part.start + part.len <= offset);
        self.parts
            .get(index)
            .ok_or_else(|| block_io::BlockError::out_of_bounds(self.size, offset, 1))
    }

    fn read_sparse(&self, extent: &dyn Grains, at: u64, buf: &mut [u8], offset: u64) -> Result<()> {
        let grain = extent.grain();
        let mut done = 0;
        while done < buf.len() {
            let at = at + done as u64;
            let len = ((grain - at % grain) as usize).min(buf.len() - done);
            let part = &mut buf[done..done + len];
            match extent.find(at)? {
                Grain::Zero => part.fill(0),
                Grain::Plain(place) => extent.read_plain(place, part, at)?,
                Grain::Packed(place) => extent.read_packed(place, part, at)?,
                Grain::Missing => match &self.parent {
                    Some(parent) => read_padded(parent, offset + done as u64, part)?,
                    None => part.fill(0),
                },
            }
            done += len;
        }
        Ok(())
    }

    /// The run of grains of one kind at byte `at` of the extent.
    fn sparse_extent(
        &self,
        extent: &dyn Grains,
        at: u64,
        most: u64,
    ) -> Result<(ExtentKind, bool, u64)> {
        let grain = extent.grain();
        let first = extent.find(at)?;
        let kind = |found| match found {
            Grain::Missing => 0,
            Grain::Zero => 1,
            Grain::Plain(_) | Grain::Packed(_) => 2,
        };
        // The end of the missing table, or of the grain, `place` is in.
        let step = |place: u64| match extent.missing_until(place) {
            Some(end) => end,
            None => (place / grain + 1) * grain,
        };
        let mut end = step(at);
        let mut looked_at = 0;
        while end < at + most && looked_at < EXTENT_GRAINS {
            match extent.find(end) {
                Ok(next) if kind(next) == kind(first) => end = step(end),
                // What cannot be read is met again, and told, when its turn comes.
                _ => break,
            }
            looked_at += 1;
        }
        let data = matches!(first, Grain::Plain(_) | Grain::Packed(_));
        let kind = if data {
            ExtentKind::Data
        } else {
            ExtentKind::Zero
        };
        Ok((kind, first == Grain::Missing, (end - at).min(most)))
    }
}

impl BlockRead for VmdkDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        while !buf.is_empty() {
            let part = self.part(offset)?;
            let at = offset - part.start;
            let len = (part.len - at).min(buf.len() as u64) as usize;
            let (head, rest) = buf.split_at_mut(len);
            match &part.source {
                Source::Zero => head.fill(0),
                Source::Flat(file, start) => file.read_at(start + at, head)?,
                Source::Sparse(extent) => self.read_sparse(extent, at, head, offset)?,
                Source::SeSparse(extent) => self.read_sparse(extent, at, head, offset)?,
            }
            offset += len as u64;
            buf = rest;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let part = self.part(offset)?;
        let at = offset - part.start;
        let most = part.len - at;
        let (kind, missing, len) = match &part.source {
            Source::Zero => (ExtentKind::Zero, false, most),
            Source::Flat(file, start) => {
                let below = file.extent_at(start + at)?;
                (below.kind, false, below.len.min(most))
            }
            Source::Sparse(extent) => self.sparse_extent(extent, at, most)?,
            Source::SeSparse(extent) => self.sparse_extent(extent, at, most)?,
        };
        match &self.parent {
            Some(parent) if missing && offset < parent.size() => {
                Ok(parent.extent_at(offset)?.clipped_to(offset + len))
            }
            _ => Ok(Extent {
                kind,
                start: offset,
                len,
            }),
        }
    }
}
