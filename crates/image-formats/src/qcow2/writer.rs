//! Writes qcow2 version 3 in one pass, in ascending order, with memory that does not grow.
//!
//! Data goes behind the header cluster as it comes; an L2 table is placed as soon as the pass has left
//! its range, a refcount block as soon as nothing can change it. L1 table, refcount table and header
//! come last, the header after everything else is on the medium.

use std::path::Path;

use super::below::Below;
use super::format::{
    COMPRESSION_ZLIB, COMPRESSION_ZSTD, COPIED, DEFLATE_WINDOW_BITS, Geometry, MAX_BACKING_NAME,
    MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, NewHeader, ZERO, compressed_entry,
};
use super::host_space::{HostSpace, be_bytes_64, made};
use crate::codec::Codec;
use crate::output::{
    Barrier, Compression, EncodedChunk, ImageWriter, OutputError, PartFile, PlacedBytes, Placement,
    Qcow2Options, Repeated, Stored,
};

/// The layout of a new qcow2 file.
#[derive(Debug)]
pub struct Qcow2Writer {
    geometry: Geometry,
    virtual_size: u64,
    compression: Compression,
    backing: Option<(String, String)>,
    below: Option<Below>,
    /// Clusters below this one are mapped as they must be.
    reached: u64,
    l1: Vec<u64>,
    l2: Option<OpenL2>,
    space: HostSpace,
}

/// The L2 table the pass is in.
#[derive(Debug)]
struct OpenL2 {
    index: u64,
    entries: Vec<u64>,
}

impl Qcow2Writer {
    /// A layout for a disk of `virtual_size` bytes, which is rounded up to whole sectors.
    ///
    /// # Errors
    /// `Unfit` when clusters of that size cannot address such a disk.
    pub fn new(virtual_size: u64, options: &Qcow2Options) -> Result<Self, OutputError> {
        let unfit = |why: String| OutputError::Unfit {
            format: "qcow2",
            size: virtual_size,
            why,
        };
        let geometry = Geometry::new(options.cluster_size.trailing_zeros())
            .filter(|geometry| geometry.cluster_size() == options.cluster_size)
            .ok_or_else(|| unfit(format!("no clusters of {} bytes", options.cluster_size)))?;
        let sectors_size = virtual_size
            .checked_next_multiple_of(512)
            .filter(|size| *size <= i64::MAX as u64)
            .ok_or_else(|| unfit("the most is 2^63 bytes".to_owned()))?;
        let clusters = geometry.clusters(sectors_size);
        let l1_entries = clusters.div_ceil(geometry.l2_entries());
        // If every cluster is data: with their L2 tables, and an eighth more for all else.
        let most_clusters = clusters
            .saturating_add(l1_entries)
            .saturating_add(clusters / 8);
        let most_blocks = most_clusters / geometry.refcounts_per_block();
        if l1_entries > MAX_L1_BYTES / 8 || most_blocks > MAX_REFCOUNT_TABLE_BYTES / 8 {
            return Err(unfit(format!(
                "with clusters of {} bytes its tables would be larger than QEMU opens; take larger clusters",
                options.cluster_size
            )));
        }
        Ok(Self {
            geometry,
            virtual_size: sectors_size,
            compression: options.compression,
            backing: None,
            below: None,
            reached: 0,
            l1: vec![0; l1_entries as usize],
            l2: None,
            space: HostSpace::new(geometry),
        })
    }

    /// A layout for the file `path`, over the image its options name.
    ///
    /// # Errors
    /// As [`Qcow2Writer::new`], and `Below` when the image below cannot be opened.
    pub fn create(
        virtual_size: u64,
        options: &Qcow2Options,
        path: &Path,
    ) -> Result<Self, OutputError> {
        let writer = Self::new(virtual_size, options)?;
        let Some(backing) = &options.backing else {
            return Ok(writer);
        };
        let mut writer = writer.over(&backing.name, backing.format.qemu_name())?;
        writer.below = Some(Below::open(path, backing)?);
        Ok(writer)
    }

    /// Where the disk is zero from the cluster reached up to `end` and what lies below may not be,
    /// clusters of zeroes are mapped, which takes no space. // qcow2.rst, "Cluster mapping", bit 0
    fn pass_over(&mut self, end: u64, placements: &mut Vec<Placement>) -> Result<(), OutputError> {
        let size = self.geometry.cluster_size();
        let end = end.min(self.geometry.clusters(self.virtual_size));
        while self.reached < end {
            let Some(below) = &self.below else {
                break;
            };
            let Some(data) = below.next_data(self.reached * size, end * size)? else {
                break;
            };
            let first = (data.start / size).max(self.reached);
            self.reached = data.end.div_ceil(size);
            for cluster in first..self.reached {
                self.map(cluster, ZERO, placements);
            }
            self.space.retire_blocks(placements);
        }
        self.reached = self.reached.max(end);
        Ok(())
    }

    /// Whether the image below holds what `stored` stands for already. Zeroes that it does not hold are
    /// mapped here.
    fn is_below(
        &mut self,
        cluster: u64,
        plain: &[u8],
        stored: &Stored,
        placements: &mut Vec<Placement>,
    ) -> Result<bool, OutputError> {
        let offset = cluster * self.geometry.cluster_size();
        let Some(below) = &mut self.below else {
            return Ok(*stored == Stored::Zero);
        };
        if offset >= self.virtual_size || below.holds(offset, plain)? {
            return Ok(true);
        }
        if *stored == Stored::Zero {
            self.map(cluster, ZERO, placements);
            return Ok(true);
        }
        Ok(false)
    }

    /// The same layout over another image, which is read where this one has nothing.
    ///
    /// # Errors
    /// `Unfit` when the name does not fit into the header.
    pub(crate) fn over(mut self, name: &str, format: &str) -> Result<Self, OutputError> {
        if name.len() > MAX_BACKING_NAME {
            return Err(OutputError::Unfit {
                format: "qcow2",
                size: self.virtual_size,
                why: format!("the backing file's name has more than {MAX_BACKING_NAME} bytes"),
            });
        }
        self.backing = Some((name.to_owned(), format.to_owned()));
        Ok(self)
    }

    /// Set the entry of guest cluster `cluster`, leaving the L2 table before its own.
    fn map(&mut self, cluster: u64, entry: u64, placements: &mut Vec<Placement>) {
        let per_table = self.geometry.l2_entries();
        let index = cluster / per_table;
        if self.l2.as_ref().is_some_and(|l2| l2.index != index) {
            self.leave_l2(placements);
        }
        let l2 = self.l2.get_or_insert_with(|| OpenL2 {
            index,
            entries: vec![0; per_table as usize],
        });
        l2.entries[(cluster % per_table) as usize] = entry;
    }

    fn leave_l2(&mut self, placements: &mut Vec<Placement>) {
        if let Some(l2) = self.l2.take() {
            let offset = self.space.allocate(1);
            self.l1[l2.index as usize] = offset | COPIED;
            placements.push(Placement {
                file: 0,
                offset,
                bytes: table_bytes(&l2.entries),
            });
        }
    }

    fn header(
        &self,
        l1_offset: u64,
        refcounts: &super::host_space::RefcountTable,
    ) -> NewHeader<'_> {
        NewHeader {
            geometry: self.geometry,
            virtual_size: self.virtual_size,
            l1_entries: self.l1.len() as u32,
            l1_offset,
            refcount_table_offset: refcounts.offset,
            refcount_table_clusters: refcounts.clusters as u32,
            compression_type: match self.compression {
                Compression::None | Compression::Zlib => COMPRESSION_ZLIB,
                Compression::Zstd => COMPRESSION_ZSTD,
            },
            backing: self
                .backing
                .as_ref()
                .map(|(name, format)| (name.as_str(), format.as_str())),
        }
    }

    fn too_large(&self, why: &str) -> OutputError {
        OutputError::Unfit {
            format: "qcow2",
            size: self.virtual_size,
            why: why.to_owned(),
        }
    }
}

/// A table as it is stored; one of equal entries, as they come by the thousand where a large disk is zero
/// and the image below is not, in few bytes.
fn table_bytes(entries: &[u64]) -> PlacedBytes {
    match entries.first() {
        Some(first) if entries.iter().all(|entry| entry == first) => {
            PlacedBytes::Repeated(Repeated {
                word: first.to_be_bytes(),
                times: entries.len(),
            })
        }
        _ => PlacedBytes::Made(be_bytes_64(entries)),
    }
}

impl ImageWriter for Qcow2Writer {
    fn unit(&self) -> u64 {
        self.geometry.cluster_size()
    }

    fn codec(&self) -> Codec {
        match self.compression {
            Compression::None => Codec::Plain,
            // Measured on 1 GiB of a Linux root: 2 % larger than level 6, in 72 % of its time.
            Compression::Zlib => Codec::Deflate {
                level: 3,
                window_bits: DEFLATE_WINDOW_BITS,
            },
            Compression::Zstd => Codec::Zstd { level: 1 },
        }
    }

    fn place(
        &mut self,
        chunk: &EncodedChunk<'_>,
        placements: &mut Vec<Placement>,
    ) -> Result<(), OutputError> {
        let size = self.geometry.cluster_size();
        let first = chunk.start / size;
        self.pass_over(first, placements)?;
        self.reached = first + chunk.units.len() as u64;
        let plain = chunk.plain.chunks(size as usize);
        for ((index, stored), plain) in chunk.units.iter().enumerate().zip(plain) {
            let cluster = first + index as u64;
            if self.is_below(cluster, plain, stored, placements)? {
                continue;
            }
            let (entry, placement) = match stored {
                Stored::Zero => continue,
                Stored::Plain => {
                    let offset = self.space.allocate(1);
                    let start = index * size as usize;
                    let bytes = PlacedBytes::Plain(start..start + size as usize);
                    (
                        offset | COPIED,
                        Placement {
                            file: 0,
                            offset,
                            bytes,
                        },
                    )
                }
                Stored::Packed(range) => {
                    let len = range.len() as u64;
                    let offset = self.space.allocate_packed(len);
                    let entry = compressed_entry(self.geometry, offset, len)
                        .ok_or_else(|| self.too_large("compressed clusters lie too far out"))?;
                    let bytes = PlacedBytes::Packed(range.clone());
                    (
                        entry,
                        Placement {
                            file: 0,
                            offset,
                            bytes,
                        },
                    )
                }
            };
            self.map(cluster, entry, placements);
            placements.push(placement);
            self.space.retire_blocks(placements);
        }
        Ok(())
    }

    fn finish(&mut self, files: &[PartFile], barrier: &Barrier) -> Result<(), OutputError> {
        let Some(file) = files.first() else {
            return Ok(());
        };
        let mut placements = Vec::new();
        self.pass_over(u64::MAX, &mut placements)?;
        self.leave_l2(&mut placements);
        let l1_bytes = self.l1.len() as u64 * 8;
        let l1_offset = self.space.allocate(self.geometry.clusters(l1_bytes));
        placements.push(made(l1_offset, be_bytes_64(&self.l1)));
        self.space.retire_blocks(&mut placements);
        let space = std::mem::replace(&mut self.space, HostSpace::new(self.geometry));
        let refcounts = space.finish(&mut placements);
        placements
            .iter()
            .try_for_each(|made| made.write_made(file))?;
        let end = refcounts.offset + refcounts.clusters * self.geometry.cluster_size();
        file.set_len(end)?;
        let header = self
            .header(l1_offset, &refcounts)
            .to_bytes()
            .ok_or_else(|| self.too_large("the header does not fit into a cluster"))?;
        barrier.reach(files)?;
        file.write_at(0, &header)
    }
}
