//! The two checksums of ext4, without the final inversions of the usual ones.

/// crc32c of `data`, going on from `seed`, as the kernel's `crc32c_le` counts: no inversion before or
/// after. // [ext4 disk layout] Checksums
pub(crate) fn crc32c(seed: u32, data: &[u8]) -> u32 {
    !::crc32c::crc32c_append(!seed, data)
}

/// CRC-16 with polynomial 0x8005, reflected, as `uninit_bg` uses it.
pub(crate) fn crc16(seed: u16, data: &[u8]) -> u16 {
    data.iter().fold(seed, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 != 0 { 0xA001 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // CRC-32C and CRC-16/MODBUS check values of the usual "123456789" (catalogue of CRCs).
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
        assert_eq!(crc16(!0, b"123456789"), 0x4B37);
    }
}
