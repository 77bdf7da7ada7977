//! What the bytes of a FAT file system mean. No I/O.

use crate::bytes::{array, le16, le32, put, put_le16, put_le32, u8_at};

/// Length of a directory entry, short or part of a long name. // [MS-FAT] 6 (fatgen103)
pub(crate) const ENTRY_LEN: usize = 32;

/// Number of a cluster; the first one is 2.
pub(crate) type Cluster = u32;

/// How wide the entries of the table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// What an entry of the table says of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Free,
    Next(Cluster),
    /// The last of its chain, or marked bad: Linux ends a chain at either.
    End,
}

/// Where everything lies, in bytes from the boot sector.
#[derive(Debug, Clone)]
pub(crate) struct Geometry {
    pub(crate) width: Width,
    pub(crate) sector: u64,
    /// Bytes of a cluster.
    pub(crate) cluster: u64,
    /// Where the first table begins.
    pub(crate) fat_start: u64,
    /// Bytes of one table.
    pub(crate) fat_len: u64,
    pub(crate) fats: u64,
    /// The only table in use, where they are not mirrored.
    pub(crate) active: Option<u64>,
    /// Where the root directory lies that has a fixed place; empty on FAT32.
    pub(crate) root: std::ops::Range<u64>,
    /// First cluster of the root directory on FAT32.
    pub(crate) root_cluster: Option<Cluster>,
    /// Where cluster 2 begins.
    pub(crate) data_start: u64,
    /// Number of clusters that lie on the disk and in the table.
    pub(crate) clusters: u64,
    /// All sectors.
    pub(crate) sectors: u64,
    /// Where the free-space summary of FAT32 lies.
    pub(crate) fs_info: Option<u64>,
}

impl Geometry {
    /// The geometry a boot sector of 512 bytes states, or what is wrong with it.
    ///
    /// The checks of the FAT specification and of Linux' driver: no field of a boot sector that holds
    /// code or another file system passes them all. // fatgen103 "Boot Sector and BPB"
    pub(crate) fn parse(boot: &[u8]) -> Result<Self, String> {
        let sector = u64::from(le16(boot, 11));
        let per_cluster = u64::from(u8_at(boot, 13));
        let (reserved, fats) = (u64::from(le16(boot, 14)), u64::from(u8_at(boot, 16)));
        let media = u8_at(boot, 21);
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return Err(format!(
                "bytes per sector: expected 512 to 4096, found {sector}"
            ));
        }
        if !per_cluster.is_power_of_two() {
            return Err(format!(
                "sectors per cluster: expected a power of two, found {per_cluster}"
            ));
        }
        if reserved == 0 {
            return Err("reserved sectors: expected at least 1, found 0".to_owned());
        }
        if !(1..=2).contains(&fats) {
            return Err(format!("number of tables: expected 1 or 2, found {fats}"));
        }
        if media != 0xF0 && media < 0xF8 {
            return Err(format!(
                "media byte: expected 0xf0 or from 0xf8, found {media:#x}"
            ));
        }
        let sectors = match u64::from(le16(boot, 19)) {
            0 => u64::from(le32(boot, 32)),
            n => n,
        };
        let short = u64::from(le16(boot, 22));
        // A FAT32 is told by its short length field, as Linux and blkid do, not by the count alone.
        let fat_sectors = if short == 0 {
            u64::from(le32(boot, 36))
        } else {
            short
        };
        let root_sectors = (u64::from(le16(boot, 17)) * 32).div_ceil(sector);
        let before_data = reserved + fats * fat_sectors + root_sectors;
        let clusters = sectors.saturating_sub(before_data) / per_cluster;
        if fat_sectors == 0 || clusters == 0 {
            return Err(format!(
                "no room for data: {sectors} sectors, of which {before_data} before the data, \
                 tables of {fat_sectors}"
            ));
        }
        // Boundary of Windows and Linux: 4084 (MAX_FAT12).
        let width = match short {
            0 => Width::Fat32,
            _ if clusters > 4084 => Width::Fat16,
            _ => Width::Fat12,
        };
        let root_start = (reserved + fats * fat_sectors) * sector;
        let is_32 = width == Width::Fat32;
        let fat_len = fat_sectors * sector;
        let held = match width {
            Width::Fat12 => fat_len * 2 / 3,
            Width::Fat16 => fat_len / 2,
            Width::Fat32 => fat_len / 4,
        };
        let flags = le16(boot, 40);
        let info = u64::from(le16(boot, 48));
        if is_32 && le32(boot, 44) < 2 {
            return Err(format!(
                "root directory: expected a cluster from 2, found {}",
                le32(boot, 44)
            ));
        }
        Ok(Self {
            width,
            sector,
            cluster: per_cluster * sector,
            fat_start: reserved * sector,
            fat_len,
            fats,
            active: (is_32 && flags & 0x80 != 0).then_some(u64::from(flags & 0xF)),
            root: root_start..if is_32 {
                root_start
            } else {
                before_data * sector
            },
            root_cluster: is_32.then(|| le32(boot, 44)),
            data_start: before_data * sector,
            clusters: clusters.min(held.saturating_sub(2)).min(0x0FFF_FFF5),
            sectors,
            fs_info: (is_32 && info != 0 && info < reserved).then_some(info * sector),
        })
    }

    /// Where `cluster` begins.
    pub(crate) fn start_of(&self, cluster: Cluster) -> u64 {
        self.data_start + u64::from(cluster.saturating_sub(2)) * self.cluster
    }

    /// Whether there is such a cluster.
    pub(crate) fn has(&self, cluster: Cluster) -> bool {
        cluster >= 2 && u64::from(cluster) < self.clusters + 2
    }

    /// Where the entry of `cluster` lies in a table, and how many bytes it touches.
    pub(crate) fn entry_place(&self, cluster: Cluster) -> (u64, usize) {
        let n = u64::from(cluster);
        match self.width {
            Width::Fat12 => (n + n / 2, 2),
            Width::Fat16 => (n * 2, 2),
            Width::Fat32 => (n * 4, 4),
        }
    }

    /// The number in the bytes of an entry.
    pub(crate) fn entry_value(&self, cluster: Cluster, raw: [u8; 4]) -> u32 {
        let low = u32::from(u16::from_le_bytes([raw[0], raw[1]]));
        match self.width {
            Width::Fat12 if cluster % 2 == 1 => low >> 4,
            Width::Fat12 => low & 0xFFF,
            Width::Fat16 => low,
            // The upper four bits are reserved and kept. // fatgen103 "FAT32 FAT entry"
            Width::Fat32 => u32::from_le_bytes(raw) & 0x0FFF_FFFF,
        }
    }

    /// The bytes of an entry after `value` was put into it.
    pub(crate) fn entry_with(&self, cluster: Cluster, mut raw: [u8; 4], value: u32) -> [u8; 4] {
        let old = u16::from_le_bytes([raw[0], raw[1]]);
        let low = value as u16;
        match self.width {
            Width::Fat12 if cluster % 2 == 1 => put_le16(&mut raw, 0, old & 0xF | low << 4),
            Width::Fat12 => put_le16(&mut raw, 0, old & 0xF000 | low & 0xFFF),
            Width::Fat16 => put_le16(&mut raw, 0, low),
            Width::Fat32 => {
                let kept = u32::from_le_bytes(raw) & 0xF000_0000;
                put_le32(&mut raw, 0, kept | value & 0x0FFF_FFFF);
            }
        }
        raw
    }

    /// The mark of the last cluster of a chain.
    pub(crate) fn end_mark(&self) -> u32 {
        match self.width {
            Width::Fat12 => 0xFFF,
            Width::Fat16 => 0xFFFF,
            Width::Fat32 => 0x0FFF_FFFF,
        }
    }

    /// What `value` says; `None` when it names a cluster that is not there.
    pub(crate) fn link(&self, value: u32) -> Option<Link> {
        match value {
            0 => Some(Link::Free),
            n if n >= self.end_mark() - 8 => Some(Link::End),
            n => self.has(n).then_some(Link::Next(n)),
        }
    }
}

/// Attribute bits of a directory entry. // fatgen103 "DIR_Attr"
pub(crate) const READ_ONLY: u8 = 0x01;
pub(crate) const VOLUME_ID: u8 = 0x08;
pub(crate) const DIRECTORY: u8 = 0x10;
pub(crate) const ARCHIVE: u8 = 0x20;
/// Of a part of a long name.
pub(crate) const LONG_NAME: u8 = 0x0F;
/// First byte of an entry that was removed, and of the one behind the last.
pub(crate) const REMOVED: u8 = 0xE5;
pub(crate) const LAST: u8 = 0x00;

/// A short entry.
/// Offsets: 0 name (11), 11 attributes, 12 case, 13 creation tenths, 14 creation time, 16 creation
/// date, 18 access date, 20 high half of the first cluster, 22 time, 24 date, 26 low half, 28 size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShortEntry {
    pub(crate) raw: [u8; ENTRY_LEN],
}

impl ShortEntry {
    pub(crate) fn new(name: [u8; 11], attributes: u8, mtime: i64) -> Self {
        let mut entry = Self {
            raw: [0; ENTRY_LEN],
        };
        put(&mut entry.raw, 0, &name);
        put(&mut entry.raw, 11, &[attributes]);
        let (date, time) = to_dos_time(mtime);
        put_le16(&mut entry.raw, 14, time);
        put_le16(&mut entry.raw, 16, date);
        put_le16(&mut entry.raw, 18, date);
        entry.set_mtime(mtime);
        entry
    }

    pub(crate) fn name(&self) -> [u8; 11] {
        array(&self.raw, 0)
    }

    pub(crate) fn attributes(&self) -> u8 {
        u8_at(&self.raw, 11)
    }

    /// Windows NT keeps here which of the two parts are in lower case: 8 the name, 16 the extension.
    pub(crate) fn case(&self) -> u8 {
        u8_at(&self.raw, 12)
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.attributes() & DIRECTORY != 0
    }

    /// The first cluster, 0 for none.
    pub(crate) fn first(&self, width: Width) -> Cluster {
        let low = u32::from(le16(&self.raw, 26));
        // On FAT12 and FAT16 OS/2 keeps something else in the upper half.
        match width {
            Width::Fat32 => low | u32::from(le16(&self.raw, 20)) << 16,
            _ => low,
        }
    }

    pub(crate) fn set_first(&mut self, first: Cluster, width: Width) {
        put_le16(&mut self.raw, 26, first as u16);
        if width == Width::Fat32 {
            put_le16(&mut self.raw, 20, (first >> 16) as u16);
        }
    }

    pub(crate) fn size(&self) -> u32 {
        le32(&self.raw, 28)
    }

    pub(crate) fn set_size(&mut self, size: u32) {
        put_le32(&mut self.raw, 28, size);
    }

    pub(crate) fn set_attributes(&mut self, attributes: u8) {
        put(&mut self.raw, 11, &[attributes]);
    }

    pub(crate) fn mtime(&self) -> i64 {
        from_dos_time(le16(&self.raw, 24), le16(&self.raw, 22))
    }

    pub(crate) fn set_mtime(&mut self, mtime: i64) {
        let (date, time) = to_dos_time(mtime);
        put_le16(&mut self.raw, 22, time);
        put_le16(&mut self.raw, 24, date);
    }
}

/// A DOS date and time as seconds since 1970. It is local time; the zone is not kept, so it is taken
/// as UTC, as Linux does for a volume mounted with `tz=UTC`.
fn from_dos_time(date: u16, time: u16) -> i64 {
    let (date, time) = (i64::from(date), i64::from(time));
    let (year, month, day) = (
        1980 + (date >> 9),
        (date >> 5 & 15).clamp(1, 12),
        (date & 31).max(1),
    );
    let seconds = (time >> 11) * 3600 + (time >> 5 & 63) * 60 + (time & 31) * 2;
    days_of(year, month, day) * 86_400 + seconds
}

/// Seconds since 1970 as a DOS date and time, the nearest there is.
fn to_dos_time(seconds: i64) -> (u16, u16) {
    let seconds = seconds.clamp(
        days_of(1980, 1, 1) * 86_400,
        days_of(2107, 12, 31) * 86_400 + 86_398,
    );
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let mut year = 1970 + days / 366;
    while days_of(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12)
        .rev()
        .find(|m| days_of(year, *m, 1) <= days)
        .unwrap_or(1);
    let day = days - days_of(year, month, 1) + 1;
    let date = (year - 1980) << 9 | month << 5 | day;
    let time = (rest / 3600) << 11 | (rest / 60 % 60) << 5 | (rest % 60 / 2);
    (date as u16, time as u16)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March: the leap day is then the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// Checksum of a short name, kept in each part of its long name. // fatgen103 "ChkSum"
pub(crate) fn name_checksum(name: &[u8; 11]) -> u8 {
    name.iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Where the 13 units of a part of a long name lie in its entry.
const UNIT_PLACES: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// The UTF-16 units of a part of a long name.
pub(crate) fn part_units(entry: &[u8]) -> [u16; 13] {
    UNIT_PLACES.map(|at| le16(entry, at))
}

/// The entries of a long name, in the order they stand on the disk: the last part first.
pub(crate) fn long_entries(units: &[u16], checksum: u8) -> Vec<[u8; ENTRY_LEN]> {
    let parts = units.chunks(13).enumerate().map(|(index, part)| {
        let mut entry = [0; ENTRY_LEN];
        let is_last = (index + 1) * 13 >= units.len();
        let order = (index as u8 + 1) | if is_last { 0x40 } else { 0 };
        put(&mut entry, 0, &[order]);
        put(&mut entry, 11, &[LONG_NAME]);
        put(&mut entry, 13, &[checksum]);
        for (n, at) in UNIT_PLACES.into_iter().enumerate() {
            // A NUL ends a name that does not fill its last part; then 0xFFFF.
            let unit = match n.cmp(&part.len()) {
                std::cmp::Ordering::Less => part.get(n).copied().unwrap_or(0),
                std::cmp::Ordering::Equal => 0,
                std::cmp::Ordering::Greater => 0xFFFF,
            };
            put_le16(&mut entry, at, unit);
        }
        entry
    });
    let mut entries: Vec<_> = parts.collect();
    entries.reverse();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dos_times_go_both_ways() {
        // `date -u -d @N` says so.
        for (seconds, date, time) in [
            (315_532_800, 0x0021, 0),
            (951_782_400, (20 << 9) | (2 << 5) | 29, 0),
            (
                1_700_000_000,
                (43 << 9) | (11 << 5) | 14,
                (22 << 11) | (13 << 5) | 10,
            ),
        ] {
            assert_eq!(to_dos_time(seconds), (date, time), "{seconds}");
            assert_eq!(from_dos_time(date, time), seconds);
        }
        assert_eq!(to_dos_time(0), (0x0021, 0));
        assert_eq!(to_dos_time(i64::MAX).0, (127 << 9) | (12 << 5) | 31);
    }

    #[test]
    fn entries_of_twelve_bits_leave_their_neighbours_alone() {
        let mut boot = [0; 512];
        put(
            &mut boot,
            11,
            &[0, 2, 1, 1, 0, 2, 0xE0, 0, 0x40, 0x0B, 0xF0, 9, 0],
        );
        let geometry = Geometry::parse(&boot).unwrap();
        assert_eq!(geometry.width, Width::Fat12);
        let mut table = [0_u8; 12];
        for cluster in [2, 3, 4, 5] {
            let (at, _) = geometry.entry_place(cluster);
            let raw = geometry.entry_with(cluster, array(&table, at as usize), 0x100 + cluster);
            put(&mut table, at as usize, &raw[..2]);
        }
        for cluster in [2, 3, 4, 5] {
            let (at, _) = geometry.entry_place(cluster);
            assert_eq!(
                geometry.entry_value(cluster, array(&table, at as usize)),
                0x100 + cluster
            );
        }
    }
}
