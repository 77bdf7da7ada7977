//! Used clusters of exFAT, from its allocation bitmap. Files are not read.
//!
//! After Microsoft's "exFAT file system specification"; numbers in comments are its sections.

use std::collections::VecDeque;
use std::ops::Range;

use block_io::{BlockRead, Result};

use crate::bytes::{le16, le32, le64, slice, u8_at};
use crate::fault::Fault;
use crate::ntfs::set_runs;
use crate::used::{Batched, Findings, Joined, UsedRanges, all_noting};

/// Bytes of the bitmap looked at in one go.
const PIECE: u64 = 1 << 20;
/// Most bytes of the root directory that are looked through for the bitmap's entry.
const MOST_ROOT: u64 = 1 << 20;

/// The used ranges of the file system on `disk`, in bytes.
pub(crate) fn used_ranges<'a>(
    disk: &'a dyn BlockRead,
    findings: &Findings,
) -> Result<UsedRanges<'a>> {
    let (volume, bitmap) = match open(disk) {
        Ok(opened) => opened,
        Err(Fault::Disk(error)) => return Err(error),
        Err(Fault::Damage(why)) => {
            return Ok(all_noting(disk, format!("exFAT: {why}"), findings));
        }
    };
    let findings = findings.clone();
    let bytes = volume.clusters.div_ceil(8);
    let mut next = 0;
    let mut started = false;
    let batches = Batched::new(move |ready: &mut VecDeque<Range<u64>>| {
        if !started {
            started = true;
            // Boot regions, tables and what lies between them and the clusters.
            ready.push_back(0..volume.heap);
            return Ok(true);
        }
        let piece = next..(next + PIECE).min(bytes);
        next = piece.end;
        volume.add(&bitmap, piece, &findings, ready)?;
        if next < bytes {
            return Ok(true);
        }
        ready.push_back(volume.heap + volume.clusters * volume.cluster..disk.size());
        Ok(false)
    });
    Ok(Box::new(Joined::new(batches)))
}

/// Offsets of the boot sector (3.1): 72 volume length, 80 FAT offset, 84 FAT length, 88 cluster heap,
/// 92 clusters, 96 root, 106 flags, 108 sector shift, 109 cluster shift, 110 number of FATs.
struct Volume<'a> {
    disk: &'a dyn BlockRead,
    cluster: u64,
    clusters: u64,
    /// Where cluster 2 begins.
    heap: u64,
    fat: u64,
    root: u64,
    /// Which of two tables and bitmaps is in use.
    second: bool,
}

/// The volume, and the clusters of its bitmap.
fn open(disk: &dyn BlockRead) -> Result<(Volume<'_>, Vec<u64>), Fault> {
    let mut boot = vec![0; 512];
    disk.read_at(0, &mut boot)?;
    let volume = Volume::parse(disk, &boot)?;
    check_boot_region(disk, 1 << u8_at(&boot, 108))?;
    let flags = le16(&boot, 106);
    // 3.1.13.2: then files may have clusters that the bitmap calls free.
    if flags & 2 != 0 {
        return Err(Fault::Damage(
            "it is marked dirty (mounted, or not cleanly unmounted)".to_owned(),
        ));
    }
    let bitmap = volume.find_bitmap()?;
    for cluster in [Some(&volume.root), bitmap.first()].into_iter().flatten() {
        let mut byte = [0];
        volume.read(&bitmap, (cluster - 2) / 8, &mut byte)?;
        if byte[0] >> ((cluster - 2) % 8) & 1 == 0 {
            return Err(Fault::Damage(format!(
                "bitmap: cluster {cluster}: expected used, found free"
            )));
        }
    }
    Ok((volume, bitmap))
}

/// The sum of the first eleven sectors of a boot region, without what changes while mounted.
pub(crate) fn region_sum(sectors: &[u8]) -> u32 {
    let bytes = sectors
        .iter()
        .enumerate()
        .filter(|(at, _)| !matches!(at, 106 | 107 | 112));
    bytes.fold(0_u32, |sum, (_, byte)| {
        sum.rotate_right(1).wrapping_add(u32::from(*byte))
    })
}

/// 3.4: the sum of the first eleven sectors, without what changes while mounted, fills the twelfth.
fn check_boot_region(disk: &dyn BlockRead, sector: usize) -> Result<(), Fault> {
    let mut region = vec![0; sector * 12];
    disk.read_at(0, &mut region)?;
    let (summed, sums) = region.split_at(sector * 11);
    let expected = region_sum(summed);
    match sums
        .chunks_exact(4)
        .find(|found| le32(found, 0) != expected)
    {
        None => Ok(()),
        Some(found) => Err(Fault::Damage(format!(
            "boot region: checksum: expected {expected:#x}, found {:#x}",
            le32(found, 0)
        ))),
    }
}

impl<'a> Volume<'a> {
    fn parse(disk: &'a dyn BlockRead, boot: &[u8]) -> Result<Self, Fault> {
        let fault = |what: &str, found: u64| {
            Err(Fault::Damage(format!("boot sector: {what}: found {found}")))
        };
        if slice(boot, 3, 8) != b"EXFAT   " {
            return fault("no signature", 0);
        }
        let (sector_shift, cluster_shift) = (u8_at(boot, 108), u8_at(boot, 109));
        if !(9..=12).contains(&sector_shift) {
            return fault("sector shift: expected 9 to 12", sector_shift.into());
        }
        if cluster_shift > 25 - sector_shift {
            return fault(
                "cluster shift: expected clusters up to 32 MiB",
                cluster_shift.into(),
            );
        }
        let sector = 1_u64 << sector_shift;
        let cluster = sector << cluster_shift;
        let sectors = le64(boot, 72);
        if sectors == 0 || sectors > disk.size() / sector {
            return fault("sectors: more than the disk has", sectors);
        }
        let (heap, clusters) = (
            u64::from(le32(boot, 88)) * sector,
            u64::from(le32(boot, 92)),
        );
        if clusters == 0 || heap + clusters * cluster > sectors * sector {
            return fault("clusters: more than the volume has", clusters);
        }
        let (fat, fat_len) = (
            u64::from(le32(boot, 80)) * sector,
            u64::from(le32(boot, 84)) * sector,
        );
        let (fats, second) = (u64::from(u8_at(boot, 110)), le16(boot, 106) & 1 != 0);
        let tables = fat + fats * fat_len;
        if !(1..=2).contains(&fats)
            || tables > heap
            || fat_len < (clusters + 2) * 4
            || (second && fats < 2)
        {
            return fault(
                "FATs do not fit before the clusters, or are too short",
                fats,
            );
        }
        let root = u64::from(le32(boot, 96));
        if root < 2 || root >= clusters + 2 {
            return fault("root directory: no such cluster", root);
        }
        let fat = if second { fat + fat_len } else { fat };
        Ok(Self {
            disk,
            cluster,
            clusters,
            heap,
            fat,
            root,
            second,
        })
    }

    /// The clusters that follow from `first` through the table, at most `most`.
    fn chain(&self, first: u64, most: u64) -> Result<Vec<u64>, Fault> {
        let mut chain = Vec::new();
        let mut at = first;
        while (chain.len() as u64) < most {
            if at < 2 || at >= self.clusters + 2 {
                return Err(Fault::Damage(format!(
                    "chain from cluster {first}: no cluster {at}"
                )));
            }
            chain.push(at);
            let mut raw = [0; 4];
            self.disk.read_at(self.fat + at * 4, &mut raw)?;
            at = u64::from(le32(&raw, 0));
            if at == 0xFFFF_FFFF {
                break;
            }
        }
        Ok(chain)
    }

    /// 7.1: the entry of type 0x81 in the root directory: 1 which bitmap, 20 first cluster, 24 length.
    fn find_bitmap(&self) -> Result<Vec<u64>, Fault> {
        let needed = self.clusters.div_ceil(8);
        for cluster in self.chain(self.root, MOST_ROOT.div_ceil(self.cluster))? {
            let mut entries = vec![0; self.cluster.min(MOST_ROOT) as usize];
            self.disk.read_at(self.start_of(cluster), &mut entries)?;
            for entry in entries.chunks_exact(32) {
                match u8_at(entry, 0) {
                    0 => {
                        return Err(Fault::Damage(
                            "root directory: no allocation bitmap".to_owned(),
                        ));
                    }
                    0x81 if (u8_at(entry, 1) & 1 != 0) == self.second => {}
                    _ => continue,
                }
                let (first, len) = (u64::from(le32(entry, 20)), le64(entry, 24));
                if len < needed {
                    return Err(Fault::Damage(format!(
                        "bitmap: expected {needed} bytes, found {len}"
                    )));
                }
                let count = needed.div_ceil(self.cluster);
                let chain = self.chain(first, count)?;
                if (chain.len() as u64) < count {
                    return Err(Fault::Damage(format!(
                        "bitmap: expected {count} clusters, found {}",
                        chain.len()
                    )));
                }
                return Ok(chain);
            }
        }
        Err(Fault::Damage(
            "root directory: no allocation bitmap".to_owned(),
        ))
    }

    fn start_of(&self, cluster: u64) -> u64 {
        self.heap + (cluster - 2) * self.cluster
    }

    /// Fill `buf` from byte `at` of a file with these clusters.
    fn read(&self, clusters: &[u64], mut at: u64, mut buf: &mut [u8]) -> Result<(), Fault> {
        while !buf.is_empty() {
            let Some(cluster) = clusters.get((at / self.cluster) as usize) else {
                return Err(Fault::Damage(format!("bitmap: nothing at byte {at}")));
            };
            let len = (self.cluster - at % self.cluster).min(buf.len() as u64) as usize;
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            self.disk
                .read_at(self.start_of(*cluster) + at % self.cluster, head)?;
            at += len as u64;
            buf = tail;
        }
        Ok(())
    }

    /// Add the used clusters whose bits lie in these bytes of the bitmap; the first has bit 0.
    fn add(
        &self,
        bitmap: &[u64],
        piece: Range<u64>,
        findings: &Findings,
        ready: &mut VecDeque<Range<u64>>,
    ) -> Result<()> {
        let clusters = piece.start * 8..(piece.end * 8).min(self.clusters);
        let bytes = |run: Range<u64>| {
            self.heap + run.start * self.cluster..self.heap + run.end * self.cluster
        };
        let mut bits = vec![0; (piece.end - piece.start) as usize];
        match self.read(bitmap, piece.start, &mut bits) {
            Ok(()) => ready.extend(set_runs(&bits, &clusters).into_iter().map(bytes)),
            Err(Fault::Disk(error)) => return Err(error),
            Err(Fault::Damage(why)) => {
                let Range { start, end } = clusters;
                findings.note(format!(
                    "exFAT: {why}; clusters {start} to {end} count as used"
                ));
                ready.push_back(bytes(clusters));
            }
        }
        Ok(())
    }
}
