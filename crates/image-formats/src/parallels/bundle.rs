//! Opens a Parallels disk: an expanding image alone, or a bundle by its descriptor.

use block_io::{BlockRead, Extent, Result, check_range};

use super::descriptor::{Descriptor, ImageEntry, Storage, braced, read_descriptor};
use super::expanding::Expanding;
use super::format::{HEADER_LEN, Header, SECTOR};
use super::rules::bundle as rules;
use super::{DESCRIPTOR, starts_descriptor};
use crate::detect::ImageFormat;
use crate::error::{OpenError, ParseError, require};
use crate::finding::Finding;
use crate::image::{Image, ImageFile, ImageInfo, Opened, Opener};

/// Open `file`, and what it names through the opener's gate.
pub(crate) fn open(file: ImageFile, opener: &Opener<'_>) -> std::result::Result<Opened, OpenError> {
    let path = file.path.clone();
    let mut head = [0; HEADER_LEN];
    let there = file.disk.size().min(HEADER_LEN as u64) as usize;
    file.disk
        .read_at(0, &mut head[..there])
        .map_err(|error| ParseError::from(error).at(&path))?;
    if Header::parse(&head).is_none() && may_be_descriptor(&file) {
        return open_bundle(&file, opener);
    }
    refuse_a_part_of_a_bundle(&file, opener)?;
    let image = Expanding::open(file).map_err(|error| error.at(&path))?;
    Ok(Opened {
        details: crate::details::Details::None,
        variant: "expanding".to_owned(),
        cluster_size: Some(image.header.cluster()),
        notes: image.notes.clone(),
        identity: None,
        below: None,
        disk: image.into_disk(None),
    })
}

fn may_be_descriptor(file: &ImageFile) -> bool {
    let mut start = [0; 512];
    let there = file.disk.size().min(512) as usize;
    let read = file.disk.read_at(0, &mut start[..there]);
    read.is_ok() && starts_descriptor(&start)
}

/// An image over another does not know that it is: read alone it would give zeroes for what lies below.
fn refuse_a_part_of_a_bundle(
    file: &ImageFile,
    opener: &Opener<'_>,
) -> std::result::Result<(), OpenError> {
    let Ok(beside) = opener.open_file_named(DESCRIPTOR, &file.path) else {
        return Ok(());
    };
    let Ok(descriptor) = read_descriptor(&beside.disk) else {
        return Ok(());
    };
    let name = file.path.file_name().and_then(|name| name.to_str());
    let part = descriptor.storages.iter().any(|storage| {
        let over = storage.images.iter().skip(1);
        let split = descriptor.storages.len() > 1;
        let mut over = over.chain(storage.images.first().filter(|_| split));
        over.any(|image| Some(image.file.as_str()) == name)
    });
    if part {
        let error = ParseError::Unsupported {
            feature: "one image out of a bundle of several".to_owned(),
            hint: "open the bundle, or its DiskDescriptor.xml",
        };
        return Err(error.at(&file.path));
    }
    Ok(())
}

fn open_bundle(file: &ImageFile, opener: &Opener<'_>) -> std::result::Result<Opened, OpenError> {
    let descriptor = read_descriptor(&file.disk).map_err(|error| error.at(&file.path))?;
    let mut parts = Vec::new();
    for storage in &descriptor.storages {
        parts.push(open_storage(file, storage, opener)?);
    }
    let kind = parts
        .first()
        .map_or("", |part| part.info().variant.as_str());
    let variant = match parts.len() {
        1 => format!("{kind}, bundle"),
        split => format!("{kind}, bundle of {split} parts"),
    };
    let notes = parts.iter().flat_map(|part| part.info().notes.clone());
    Ok(Opened {
        details: crate::details::Details::None,
        variant,
        cluster_size: parts.first().and_then(|part| part.info().cluster_size),
        notes: notes.collect(),
        identity: None,
        below: match parts.as_slice() {
            [one] => one.info().below.as_deref().cloned(),
            _ => None,
        },
        disk: Box::new(BundleDisk::new(&descriptor, parts)),
    })
}

/// The images of one storage, each over the one before.
fn open_storage(
    file: &ImageFile,
    storage: &Storage,
    opener: &Opener<'_>,
) -> std::result::Result<Image, OpenError> {
    let mut top: Option<Image> = None;
    for entry in &storage.images {
        let part = opener.open_file_named(&entry.file, &file.path)?;
        top = Some(open_image(part, entry, storage, top).map_err(|(path, error)| error.at(&path))?);
    }
    let none = || Finding::error(rules::SNAPSHOTS, 0, "an image", "none");
    top.ok_or_else(|| ParseError::from(none()).at(&file.path))
}

fn open_image(
    file: ImageFile,
    entry: &ImageEntry,
    storage: &Storage,
    below: Option<Image>,
) -> std::result::Result<Image, (std::path::PathBuf, ParseError)> {
    let path = file.path.clone();
    let build = || -> std::result::Result<Image, ParseError> {
        let file_size = file.disk.size();
        let expected = (storage.end - storage.start) * SECTOR;
        let mut info = ImageInfo {
            details: crate::details::Details::None,
            path: file.path.clone(),
            format: ImageFormat::Parallels,
            guessed: false,
            variant: if entry.plain { "plain" } else { "expanding" }.to_owned(),
            virtual_size: expected,
            file_size,
            cluster_size: None,
            identity: Some(braced(entry.id)),
            notes: Vec::new(),
            below: below.as_ref().map(|below| Box::new(below.info().clone())),
        };
        let size = |found: u64| {
            let says = format!("{expected} bytes");
            require(found == expected, rules::IMAGE_SIZE, 36, says, found)
        };
        if entry.plain {
            size(file_size)?;
            return Ok(Image::new(Box::new(file.disk), info));
        }
        let image = Expanding::open(file)?;
        size(image.size())?;
        let found = image.header.cluster_sectors;
        let right = found == storage.cluster_sectors;
        let expected = storage.cluster_sectors.to_string();
        require(right, rules::BLOCK_SIZE, 28, expected, found)?;
        info.cluster_size = Some(image.header.cluster());
        info.notes = image.notes.clone();
        info.notes
            .extend(below.iter().flat_map(|below| below.info().notes.clone()));
        Ok(Image::new(image.into_disk(below), info))
    };
    build().map_err(|error| (path, error))
}

/// The storages of a bundle one after another.
struct BundleDisk {
    size: u64,
    /// Where each ends, and what it holds.
    parts: Vec<(u64, Image)>,
}

impl BundleDisk {
    fn new(descriptor: &Descriptor, parts: Vec<Image>) -> Self {
        let ends = descriptor.storages.iter().map(|part| part.end * SECTOR);
        Self {
            size: descriptor.sectors * SECTOR,
            parts: ends.zip(parts).collect(),
        }
    }

    /// The part of `offset`: its image, where it starts and where it ends.
    fn part(&self, offset: u64) -> Result<(&Image, u64, u64)> {
        let index = self.parts.partition_point(|(end, _)| *end <= offset);
        match self.parts.get(index) {
            Some((end, image)) => Ok((image, end - image.size(), *end)),
            None => Err(block_io::BlockError::out_of_bounds(self.size, offset, 1)),
        }
    }
}

impl BlockRead for BundleDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        while !buf.is_empty() {
            let (image, start, end) = self.part(offset)?;
            let len = (end - offset).min(buf.len() as u64) as usize;
            let (head, rest) = buf.split_at_mut(len);
            image.read_at(offset - start, head)?;
            offset += len as u64;
            buf = rest;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let (image, start, _) = self.part(offset)?;
        let extent = image.extent_at(offset - start)?;
        Ok(Extent {
            start: offset,
            ..extent
        })
    }
}
