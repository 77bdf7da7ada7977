//! What the bytes of a VHD file mean. All numbers are big-endian.

use crate::bytes::be32;

/// The first bytes of a footer. // [VHD 1.0] Cookie
pub(crate) const COOKIE: &[u8; 8] = b"conectix";
/// The first bytes of a dynamic header.
pub(crate) const DYNAMIC_COOKIE: &[u8; 8] = b"cxsparse";
/// VHD counts in sectors of this size, and the footer fills one.
pub(crate) const SECTOR: u64 = 512;
/// Bytes of a dynamic header.
pub(crate) const DYNAMIC_LEN: u64 = 1024;
/// A block that is not there. // [VHD 1.0] Block Allocation Table
pub(crate) const UNUSED: u32 = u32::MAX;
/// Disk types. // [VHD 1.0] Disk Type
pub(crate) const FIXED: u32 = 2;
pub(crate) const DYNAMIC: u32 = 3;
pub(crate) const DIFFERENCING: u32 = 4;
/// Hyper-V's limit.
pub(crate) const MAX_SIZE: u64 = 2040 << 30;
/// Where the checksums lie in footer and dynamic header.
pub(crate) const FOOTER_SUM: usize = 64;
pub(crate) const DYNAMIC_SUM: usize = 36;
/// Seconds from 1970 to 2000, when the time stamps start.
const EPOCH: u64 = 946_684_800;

/// The ones' complement of the sum of all bytes but the checksum's own. // [VHD 1.0] Checksum
pub(crate) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let sum = bytes
        .iter()
        .enumerate()
        .filter(|(at, _)| !(field..field + 4).contains(at))
        .fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    !sum
}

/// Whether the checksum at `field` is right.
pub(crate) fn is_sealed(bytes: &[u8], field: usize) -> bool {
    be32(bytes, field) == checksum(bytes, field)
}

fn seal(bytes: &mut [u8], field: usize) {
    let sum = checksum(bytes, field).to_be_bytes();
    if let Some(slot) = bytes.get_mut(field..field + 4) {
        slot.copy_from_slice(&sum);
    }
}

/// Cylinders, heads and sectors of a disk. // [VHD 1.0] Appendix: CHS Calculation
pub(crate) fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65_535 * 16 * 255);
    let (track, heads, cylinder_heads) = if total >= 65_535 * 16 * 63 {
        (255, 16, total / 255)
    } else {
        let (mut track, mut by_head) = (17, total / 17);
        let mut heads = by_head.div_ceil(1024).max(4);
        if by_head >= heads * 1024 || heads > 16 {
            (track, heads) = (31, 16);
            by_head = total / track;
        }
        if by_head >= heads * 1024 {
            (track, heads) = (63, 16);
            by_head = total / track;
        }
        (track, heads, by_head)
    };
    ((cylinder_heads / heads) as u16, heads as u8, track as u8)
}

/// The footer of a new disk.
pub(crate) fn new_footer(size: u64, kind: u32) -> Vec<u8> {
    let since_1970 = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(EPOCH, |time| time.as_secs());
    let data_offset = if kind == FIXED { u64::MAX } else { SECTOR };
    let (cylinders, heads, track) = geometry(size / SECTOR);
    let mut bytes = COOKIE.to_vec(); // 0
    bytes.extend(2u32.to_be_bytes()); // 8: features, the reserved bit that is always set
    bytes.extend(0x0001_0000u32.to_be_bytes()); // 12: version
    bytes.extend(data_offset.to_be_bytes()); // 16
    bytes.extend((since_1970.saturating_sub(EPOCH) as u32).to_be_bytes()); // 24
    // QEMU takes the size from the geometry, which rounds it, unless it knows the creator: "win " is
    // one it knows (qemu block/vpc.c).
    bytes.extend(b"win "); // 28: creator application
    bytes.extend(0x000a_0000u32.to_be_bytes()); // 32: its version
    bytes.extend(b"Wi2k"); // 36: creator host, Windows
    bytes.extend(size.to_be_bytes()); // 40: original size
    bytes.extend(size.to_be_bytes()); // 48: current size
    bytes.extend(cylinders.to_be_bytes()); // 56
    bytes.extend([heads, track]);
    bytes.extend(kind.to_be_bytes()); // 60
    bytes.extend([0; 4]); // 64: checksum
    bytes.extend(uuid::Uuid::new_v4().as_bytes()); // 68
    bytes.resize(SECTOR as usize, 0); // 84: saved state, reserved
    seal(&mut bytes, FOOTER_SUM);
    bytes
}

/// The dynamic header of a new disk. // [VHD 1.0] Dynamic Disk Header Format
pub(crate) fn new_dynamic_header(table_offset: u64, entries: u32, block_size: u32) -> Vec<u8> {
    let mut bytes = DYNAMIC_COOKIE.to_vec(); // 0
    bytes.extend(u64::MAX.to_be_bytes()); // 8: data offset, unused
    bytes.extend(table_offset.to_be_bytes()); // 16
    bytes.extend(0x0001_0000u32.to_be_bytes()); // 24: version
    bytes.extend(entries.to_be_bytes()); // 28
    bytes.extend(block_size.to_be_bytes()); // 32
    bytes.resize(DYNAMIC_LEN as usize, 0); // 36: checksum; 40: parent
    seal(&mut bytes, DYNAMIC_SUM);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_follows_the_appendix() {
        // 127 GB as Virtual PC made it, the largest, and a small one.
        assert_eq!(geometry(266_338_304), (65_278, 16, 255));
        assert_eq!(geometry(u64::MAX), (65_535, 16, 255));
        assert_eq!(geometry(1 << 21), (2080, 16, 63));
        assert_eq!(geometry(68_000), (1000, 4, 17));
    }

    #[test]
    fn a_footer_is_sealed_and_a_changed_one_is_not() {
        let mut footer = new_footer(1 << 30, FIXED);
        assert_eq!(footer.len(), 512);
        assert!(is_sealed(&footer, FOOTER_SUM));
        footer[50] ^= 1;
        assert!(!is_sealed(&footer, FOOTER_SUM));
    }
}
