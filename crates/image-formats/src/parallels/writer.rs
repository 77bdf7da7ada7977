//! Writes Parallels disks: an expanding image alone, and bundles of one image, expanding or plain.

use std::path::{Path, PathBuf};

use super::DESCRIPTOR;
use super::descriptor::{TOP, braced, new_descriptor};
use super::format::{CLOSED, CLUSTER, HEADER_LEN, Header, SECTOR, VERSION};
use crate::codec::Codec;
use crate::output::{
    Barrier, BlockTable, EncodedChunk, ImageWriter, OutputError, PartFile, Placement, RawOptions,
    place_behind_descriptor, place_in_blocks,
};
use crate::raw::RawWriter;

/// Zeroes are told from data in this unit: what is zero inside a cluster is a hole of the file.
const UNIT: u64 = 64 << 10;
/// QEMU opens tables of less than 2 GiB.
const MAX_CLUSTERS: u64 = (1 << 29) - 1;

/// The layout of a new expanding image, with the newer magic: the older one ends at 2 TiB.
#[derive(Debug)]
pub struct ParallelsWriter {
    sectors: u64,
    table: BlockTable<4>,
    data_start: u64,
    next: u64,
}

fn whole_sectors(virtual_size: u64) -> Result<u64, OutputError> {
    let sectors = virtual_size.div_ceil(SECTOR);
    if sectors == 0 || (sectors * SECTOR).div_ceil(CLUSTER) > MAX_CLUSTERS {
        return Err(OutputError::Unfit {
            format: "parallels",
            size: virtual_size,
            why: "it holds 1 byte to 511 TiB".to_owned(),
        });
    }
    Ok(sectors)
}

impl ParallelsWriter {
    /// A layout for a disk of `virtual_size` bytes, rounded up to whole sectors.
    ///
    /// # Errors
    /// `Unfit` beyond 511 TiB, or for an empty disk.
    pub fn new(virtual_size: u64) -> Result<Self, OutputError> {
        let sectors = whole_sectors(virtual_size)?;
        let clusters = (sectors * SECTOR).div_ceil(CLUSTER);
        let table = HEADER_LEN as u64;
        let data_start = (table + clusters * 4).next_multiple_of(CLUSTER);
        Ok(Self {
            sectors,
            table: BlockTable::new(table, clusters, [0; 4]),
            data_start,
            next: data_start,
        })
    }

    fn header(&self) -> Header {
        Header {
            extended: true,
            version: VERSION,
            cluster_sectors: CLUSTER / SECTOR,
            entries: (self.sectors * SECTOR).div_ceil(CLUSTER),
            sectors: self.sectors,
            in_use: CLOSED,
            data_offset: self.data_start / SECTOR,
            extension: 0,
        }
    }
}

impl ImageWriter for ParallelsWriter {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        let (table, next) = (&mut self.table, &mut self.next);
        place_in_blocks(chunk, UNIT, CLUSTER, placements, |cluster, placements| {
            if let Some(entry) = table.get(cluster) {
                return Ok(u64::from(u32::from_le_bytes(entry)) * CLUSTER);
            }
            let place = *next;
            let entry = (place / CLUSTER) as u32;
            table.set(cluster, entry.to_le_bytes(), placements);
            *next += CLUSTER;
            Ok(place)
        })
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        self.table.finish(file)?;
        file.set_len(self.next)?;
        barrier.reach(files)?;
        file.write_at(0, &self.header().to_bytes())
    }
}

/// The layout of a bundle: the descriptor, and one image behind it.
pub struct BundleWriter {
    size: u64,
    plain: bool,
    image_name: String,
    image: Box<dyn ImageWriter>,
}

impl BundleWriter {
    /// A layout for a disk of `virtual_size` bytes, rounded up to whole sectors, its image in the file
    /// `image`; a plain one keeps the whole disk.
    ///
    /// # Errors
    /// As [`ParallelsWriter::new`], and for a file name that is not UTF-8.
    pub fn new(virtual_size: u64, plain: bool, image: &Path) -> Result<Self, OutputError> {
        let size = whole_sectors(virtual_size)? * SECTOR;
        let name = image.file_name().and_then(|name| name.to_str());
        let name = name.filter(|name| !name.contains(char::is_control));
        let unfit = || OutputError::Unfit {
            format: "parallels",
            size: virtual_size,
            why: "its descriptor cannot carry such a file name".to_owned(),
        };
        Ok(Self {
            size,
            plain,
            image_name: name.ok_or_else(unfit)?.to_owned(),
            image: match plain {
                true => Box::new(RawWriter::new(size, &RawOptions::default())),
                false => Box::new(ParallelsWriter::new(size)?),
            },
        })
    }
}

impl ImageWriter for BundleWriter {
    fn unit(&self) -> u64 {
        self.image.unit()
    }

    fn codec(&self) -> Codec {
        self.image.codec()
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        place_behind_descriptor(&mut *self.image, chunk, placements)
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let [descriptor, image, ..] = files else {
            return Ok(());
        };
        if self.plain {
            image.set_len(self.size)?;
        }
        self.image.finish(std::slice::from_ref(image), barrier)?;
        barrier.reach(files)?;
        let text = new_descriptor(self.size, CLUSTER, self.plain, &self.image_name);
        descriptor.write_at(0, text.as_bytes())
    }
}

/// The files of the bundle `path`, named as Parallels names them: the descriptor, and the image.
pub(crate) fn bundle_files(path: &Path) -> [PathBuf; 2] {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".0.{}.hds", braced(TOP)));
    [path.join(DESCRIPTOR), path.join(name)]
}
