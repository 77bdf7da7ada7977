//! Used blocks of ext2, ext3 and ext4, from the block bitmaps, group by group.

use std::collections::VecDeque;
use std::ops::Range;

use block_io::{BlockErrorKind, BlockRead, Overlay, Result};

use super::checksum;
use super::feature;
use super::format::{SUPERBLOCK_LEN, SUPERBLOCK_OFFSET, Superblock};
use super::group::{BLOCK_UNINIT, GroupDesc};
use super::volume::Volume;
use crate::bytes::u8_at;
use crate::used::{Findings, Joined, UsedRanges, all_noting};

/// Most pieces of metadata lying in groups that have no bitmap of their own; sound file systems have
/// none.
const MOST_STRAYS: usize = 65_536;

/// The used ranges of the file system on `disk`, in bytes.
pub(crate) fn used_ranges<'a>(
    disk: &'a dyn BlockRead,
    findings: &Findings,
) -> Result<UsedRanges<'a>> {
    let mut raw = vec![0; SUPERBLOCK_LEN];
    let all_used = |why: String| Ok(all_noting(disk, why, findings));
    if let Err(error) = disk.read_at(SUPERBLOCK_OFFSET, &mut raw) {
        return match error.kind() {
            BlockErrorKind::Unreadable | BlockErrorKind::OutOfBounds => all_used(error.to_string()),
            _ => Err(error),
        };
    }
    let sb = match Superblock::parse(raw, disk.size()) {
        Ok(sb) => sb,
        Err(error) => return all_used(error.to_string()),
    };
    if let Some(why) = refusal(&sb) {
        return all_used(why);
    }
    let (disk, sb): (Box<dyn BlockRead + 'a>, _) = if sb.has_incompat(feature::RECOVER) {
        // What the journal committed is allocated, though the bitmaps do not say so yet.
        let volume = Volume::open(Overlay::new(disk));
        let replayed = volume.and_then(|mut volume| volume.replay_journal().map(|()| volume));
        match replayed {
            Ok(volume) => (Box::new(volume.disk), volume.sb),
            Err(error) => return all_used(error.to_string()),
        }
    } else {
        (Box::new(disk), sb)
    };
    let mut groups = Groups::new(disk, sb, findings.clone());
    groups.survey()?;
    Ok(Box::new(Joined::new(groups)))
}

/// Why the bitmaps cannot be believed, or not understood.
fn refusal(sb: &Superblock) -> Option<String> {
    let unknown = sb.incompat() & !feature::INCOMPAT_READ;
    if unknown != 0 {
        let names = feature::names(unknown, feature::INCOMPAT_NAMES);
        return Some(format!("ext feature not supported: {names}"));
    }
    let known = feature::RO_COMPAT_NAMES
        .iter()
        .fold(0, |all, (bit, _)| all | bit);
    let odd = sb.ro_compat() & (!known | feature::HAS_SNAPSHOT | feature::REPLICA);
    if odd != 0 {
        let names = feature::names(odd, feature::RO_COMPAT_NAMES);
        return Some(format!("ext feature not supported: {names}"));
    }
    if !sb.has_compat(feature::HAS_JOURNAL) && sb.state() & 1 == 0 {
        return Some("ext2 not cleanly unmounted: its bitmaps may be old".to_owned());
    }
    if sb.state() & 2 != 0 {
        return Some("the file system's error flag is set".to_owned());
    }
    None
}

struct Groups<D> {
    disk: D,
    sb: Superblock,
    findings: Findings,
    /// The next group to make ranges of.
    next: u64,
    ready: VecDeque<Range<u64>>,
    tail_done: bool,
    /// One block of the descriptor table, and which.
    table: (u64, Vec<u8>),
    /// Metadata of other groups inside groups without a bitmap, sorted.
    strays: Vec<Range<u64>>,
    /// False when a descriptor is damaged: then groups said to be empty may hold its metadata.
    trust_uninit: bool,
}

impl<D: BlockRead> Groups<D> {
    fn new(disk: D, sb: Superblock, findings: Findings) -> Self {
        let mut ready = VecDeque::new();
        ready.push_back(0..sb.first_data_block * sb.block_size);
        Self {
            disk,
            sb,
            findings,
            next: 0,
            ready,
            tail_done: false,
            table: (u64::MAX, Vec::new()),
            strays: Vec::new(),
            trust_uninit: true,
        }
    }

    /// Look at all descriptors once: which groups have no bitmap, and does metadata of others lie in
    /// them? One bit a group is kept.
    fn survey(&mut self) -> Result<()> {
        let groups = self.sb.groups;
        let mut uninit = vec![0_u8; groups.div_ceil(8) as usize];
        for group in 0..groups {
            match self.desc(group)? {
                Some(desc) if self.is_uninit(&desc) => {
                    if let Some(byte) = uninit.get_mut((group / 8) as usize) {
                        *byte |= 1 << (group % 8);
                    }
                }
                Some(_) => {}
                None => self.trust_uninit = false,
            }
        }
        if !self.trust_uninit || uninit.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        for group in 0..groups {
            let Some(desc) = self.desc(group)? else {
                continue;
            };
            for range in metadata(&self.sb, &desc) {
                for other in self.sb.group_of(range.start)..=self.sb.group_of(range.end - 1) {
                    let bit = u8_at(&uninit, (other / 8) as usize) & 1 << (other % 8);
                    if other != group && bit != 0 {
                        self.strays.push(range.clone());
                    }
                }
            }
            if self.strays.len() > MOST_STRAYS {
                self.trust_uninit = false;
                self.strays.clear();
                self.findings
                    .note("metadata lies in groups said to be empty");
                break;
            }
        }
        self.strays.sort_by_key(|range| range.start);
        Ok(())
    }

    fn is_uninit(&self, desc: &GroupDesc) -> bool {
        self.sb.has_group_csum() && desc.flags() & BLOCK_UNINIT != 0
    }

    /// The descriptor of `group`, `None` (with a finding) when it is damaged or unreadable.
    fn desc(&mut self, group: u64) -> Result<Option<GroupDesc>> {
        let index = group / self.sb.descs_per_block();
        if self.table.0 != index {
            let block = self.sb.desc_block(index);
            let Some(bytes) = self.read_block(block, "descriptor table")? else {
                return Ok(None);
            };
            self.table = (index, bytes);
        }
        let at = (group % self.sb.descs_per_block()) as usize * self.sb.desc_size;
        let raw = crate::bytes::slice(&self.table.1, at, self.sb.desc_size).to_vec();
        let desc = GroupDesc { raw };
        match desc.fault(&self.sb, group) {
            None => Ok(Some(desc)),
            Some(fault) => {
                self.findings.note(fault);
                Ok(None)
            }
        }
    }

    fn read_block(&self, block: u64, what: &str) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; self.sb.block_size as usize];
        match self
            .disk
            .read_at(block.saturating_mul(self.sb.block_size), &mut bytes)
        {
            Ok(()) => Ok(Some(bytes)),
            Err(error) => match error.kind() {
                BlockErrorKind::Unreadable | BlockErrorKind::OutOfBounds => {
                    self.findings
                        .note(format!("{what} in block {block}: {error}"));
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    fn bytes_of(&self, blocks: Range<u64>) -> Range<u64> {
        blocks.start * self.sb.block_size..blocks.end * self.sb.block_size
    }

    /// The used ranges of one group, in blocks and in order.
    fn group(&mut self, group: u64) -> Result<Vec<Range<u64>>> {
        let start = self.sb.group_start(group);
        let whole = start..start + self.sb.group_len(group);
        let Some(desc) = self.desc(group)? else {
            return Ok(vec![whole]);
        };
        if self.is_uninit(&desc) {
            return Ok(match self.trust_uninit {
                true => self.without_bitmap(group, &desc, &whole),
                false => vec![whole],
            });
        }
        let at = desc.block_bitmap();
        let Some(bitmap) = self.read_block(at, "block bitmap")? else {
            return Ok(vec![whole]);
        };
        if let Some(fault) = self.bitmap_fault(group, &desc, &bitmap) {
            self.findings.note(format!(
                "group {group}: block bitmap in block {at}: {fault}"
            ));
            return Ok(vec![whole]);
        }
        Ok(runs(&bitmap, &whole, self.sb.cluster_ratio))
    }

    /// What a group without a bitmap holds: its copies of superblock and descriptors, and metadata.
    fn without_bitmap(&self, group: u64, desc: &GroupDesc, whole: &Range<u64>) -> Vec<Range<u64>> {
        let head = whole.start..whole.start + self.sb.group_head(group);
        let strays = self.strays.partition_point(|r| r.end <= whole.start);
        let strays = self
            .strays
            .iter()
            .skip(strays)
            .take_while(|r| r.start < whole.end);
        let mut used: Vec<_> = metadata(&self.sb, desc)
            .into_iter()
            .chain([head])
            .chain(strays.cloned())
            .map(|r| {
                let ratio = self.sb.cluster_ratio;
                let out = |block: u64| block.saturating_sub(whole.start).div_ceil(ratio) * ratio;
                let start = r.start.saturating_sub(whole.start) / ratio * ratio;
                (whole.start + start).min(whole.end)..(whole.start + out(r.end)).min(whole.end)
            })
            .filter(|r| !r.is_empty())
            .collect();
        used.sort_by_key(|r| r.start);
        used
    }

    fn bitmap_fault(&self, group: u64, desc: &GroupDesc, bitmap: &[u8]) -> Option<String> {
        let sb = &self.sb;
        let bytes = crate::bytes::slice(bitmap, 0, (sb.clusters_per_group / 8) as usize);
        if sb.has_metadata_csum() {
            let mask = desc.bitmap_csum_mask();
            let expected = checksum::crc32c(sb.seed, bytes) & mask;
            let found = desc.block_bitmap_csum() & mask;
            if expected != found {
                return Some(format!(
                    "checksum: expected {expected:#x}, found {found:#x}"
                ));
            }
        }
        let len = sb.group_len(group).div_ceil(sb.cluster_ratio);
        let used: u64 = (0..len).filter(|bit| is_set(bytes, *bit)).count() as u64;
        let (expected, found) = (u64::from(desc.free_blocks()), len - used);
        if expected != found {
            return Some(format!("free clusters: expected {expected}, found {found}"));
        }
        let start = sb.group_start(group);
        let head = start..start + sb.group_head(group);
        let own = metadata(sb, desc).into_iter().chain([head]);
        let clear = own.flatten().find(|block| {
            let bit = block.wrapping_sub(start) / sb.cluster_ratio;
            bit < len && !is_set(bytes, bit)
        });
        clear.map(|block| format!("metadata block {block}: expected used, found free"))
    }
}

fn is_set(bitmap: &[u8], bit: u64) -> bool {
    u8_at(bitmap, (bit / 8) as usize) & 1 << (bit % 8) != 0
}

/// Bitmaps and inode table of a group, in blocks.
fn metadata(sb: &Superblock, desc: &GroupDesc) -> Vec<Range<u64>> {
    let table = desc.inode_table();
    vec![
        desc.block_bitmap()..desc.block_bitmap() + 1,
        desc.inode_bitmap()..desc.inode_bitmap() + 1,
        table..table + sb.inode_table_blocks(),
    ]
}

/// The runs of set bits as ranges of blocks.
pub(super) fn runs(bitmap: &[u8], whole: &Range<u64>, ratio: u64) -> Vec<Range<u64>> {
    let len = (whole.end - whole.start).div_ceil(ratio);
    let mut runs = Vec::new();
    let mut bit = 0;
    while bit < len {
        let byte = u8_at(bitmap, (bit / 8) as usize);
        if bit % 8 == 0 && byte == 0 {
            bit += 8;
            continue;
        }
        if !is_set(bitmap, bit) {
            bit += 1;
            continue;
        }
        let first = bit;
        while bit < len && is_set(bitmap, bit) {
            let full = bit % 8 == 0 && u8_at(bitmap, (bit / 8) as usize) == 0xFF;
            bit += if full { 8 } else { 1 };
        }
        let end = whole.start + bit.min(len) * ratio;
        runs.push(whole.start + first * ratio..end.min(whole.end));
    }
    runs
}

impl<D: BlockRead> Iterator for Groups<D> {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(range) = self.ready.pop_front() {
                return Some(Ok(range));
            }
            if self.next < self.sb.groups {
                let group = self.next;
                self.next += 1;
                match self.group(group) {
                    Ok(ranges) => {
                        let bytes = ranges.into_iter().map(|r| self.bytes_of(r));
                        let bytes: Vec<_> = bytes.collect();
                        self.ready.extend(bytes);
                    }
                    Err(error) => {
                        self.next = self.sb.groups;
                        self.tail_done = true;
                        return Some(Err(error));
                    }
                }
            } else if self.tail_done {
                return None;
            } else {
                self.tail_done = true;
                let end = self.sb.blocks * self.sb.block_size;
                self.ready.push_back(end..self.disk.size());
            }
        }
    }
}
