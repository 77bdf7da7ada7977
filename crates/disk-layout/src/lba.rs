//! Sector numbers.

use block_io::SectorSize;

/// A logical block address: the number of a sector, counted from the start of the disk in the sector
/// size of the table that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

impl Lba {
    /// The byte this sector starts at, unless that is more than 2^64.
    #[must_use]
    pub fn byte(self, sector_size: SectorSize) -> Option<u64> {
        self.0.checked_mul(sector_size.bytes())
    }

    /// The sector that holds `byte`.
    #[must_use]
    pub fn holding(byte: u64, sector_size: SectorSize) -> Self {
        Self(byte / sector_size.bytes())
    }

    /// The sector `sectors` further on.
    #[must_use]
    pub fn checked_add(self, sectors: u64) -> Option<Self> {
        self.0.checked_add(sectors).map(Self)
    }
}

impl std::fmt::Display for Lba {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sector {}", self.0)
    }
}
