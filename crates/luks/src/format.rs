//! The bytes of both binary headers. No I/O here.

use crate::LuksError;

/// At byte 0 of every volume. // [LUKS1] 4.4.2, [LUKS2] 2.1
pub(crate) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
/// At the start of the second header of version 2.
pub(crate) const MAGIC_SECOND: &[u8; 6] = b"SKUL\xba\xbe";
/// The version, two bytes.
pub(crate) const VERSION: usize = 6;

/// Bytes of the header of version 1, its eight key slots among them.
pub(crate) const LUKS1_BYTES: usize = 592;
/// Bytes of the binary header of version 2; JSON follows.
pub(crate) const LUKS2_BYTES: usize = 4096;
/// A key slot of version 1 that holds a key.
const SLOT_ENABLED: u32 = 0x00ac_71f3;
/// A key slot of version 1 that does not.
const SLOT_DISABLED: u32 = 0x0000_dead;

/// Where version 2 may have its second header: it is as far from the start as the first is long.
/// // [LUKS2] 2.2
pub(crate) const SECOND_OFFSETS: [u64; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
];

/// Big-endian numbers and strings of a header, by offset.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&self, at: usize, len: usize) -> &'a [u8] {
        self.0.get(at..at + len).unwrap_or_default()
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes(at, N).try_into().unwrap_or([0; N])
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    /// The string at `at`, up to its NUL.
    pub(crate) fn text(&self, at: usize, len: usize) -> String {
        let bytes = self.bytes(at, len);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(len);
        String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
    }
}

/// The header of version 1. // [LUKS1] 4.4.2, "PHDR layout"
#[derive(Debug)]
pub(crate) struct Luks1 {
    /// `aes`
    pub(crate) cipher: String,
    /// `xts-plain64`
    pub(crate) mode: String,
    /// Of the key derivation and the splitter.
    pub(crate) hash: String,
    /// Where the data starts, in sectors of 512 bytes.
    pub(crate) payload: u32,
    /// Bytes of the volume key.
    pub(crate) key_bytes: u32,
    /// What the volume key is checked by.
    pub(crate) digest: [u8; 20],
    pub(crate) digest_salt: [u8; 32],
    pub(crate) digest_iterations: u32,
    pub(crate) uuid: String,
    /// Those that hold a key, with their numbers.
    pub(crate) slots: Vec<(usize, Luks1Slot)>,
}

/// A key slot of version 1. // [LUKS1] 4.4.3, "Key slot layout"
#[derive(Debug)]
pub(crate) struct Luks1Slot {
    pub(crate) iterations: u32,
    pub(crate) salt: [u8; 32],
    /// Where the key material starts, in sectors of 512 bytes.
    pub(crate) material: u32,
    pub(crate) stripes: u32,
}

impl Luks1 {
    /// Parse [`LUKS1_BYTES`] bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, LuksError> {
        let fields = Fields(bytes);
        let mut slots = Vec::new();
        for number in 0..8 {
            let at = 208 + number * 48;
            match fields.u32(at) {
                SLOT_ENABLED => slots.push((
                    number,
                    Luks1Slot {
                        iterations: fields.u32(at + 4),
                        salt: fields.array(at + 8),
                        material: fields.u32(at + 40),
                        stripes: fields.u32(at + 44),
                    },
                )),
                SLOT_DISABLED => {}
                other => {
                    return Err(LuksError::damaged(
                        at as u64,
                        format!("the state of key slot {number}"),
                        format!("{SLOT_ENABLED:#010x} or {SLOT_DISABLED:#010x}"),
                        format!("{other:#010x}"),
                    ));
                }
            }
        }
        Ok(Self {
            cipher: fields.text(8, 32),
            mode: fields.text(40, 32),
            hash: fields.text(72, 32),
            payload: fields.u32(104),
            key_bytes: fields.u32(108),
            digest: fields.array(112),
            digest_salt: fields.array(132),
            digest_iterations: fields.u32(164),
            uuid: fields.text(168, 40),
            slots,
        })
    }
}

/// The binary header of version 2. // [LUKS2] 2.1, figure 3
#[derive(Debug)]
pub(crate) struct Luks2 {
    /// Bytes of the header and its JSON.
    pub(crate) header_size: u64,
    /// The header with the higher number is the newer one.
    pub(crate) sequence: u64,
    pub(crate) label: String,
    pub(crate) checksum_hash: String,
    pub(crate) uuid: String,
    /// Where this header says it lies.
    pub(crate) offset: u64,
    checksum: Vec<u8>,
}

/// Where the checksum stands: zeroes while it is computed.
const CHECKSUM: std::ops::Range<usize> = 448..512;

impl Luks2 {
    /// Parse [`LUKS2_BYTES`] bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let fields = Fields(bytes);
        Self {
            header_size: fields.u64(8),
            sequence: fields.u64(16),
            label: fields.text(24, 48),
            checksum_hash: fields.text(72, 32),
            uuid: fields.text(168, 40),
            offset: fields.u64(256),
            checksum: fields.bytes(CHECKSUM.start, CHECKSUM.len()).to_vec(),
        }
    }

    /// Whether the checksum holds for `header`, the binary header with its JSON.
    pub(crate) fn is_sound(&self, header: &[u8]) -> Result<bool, LuksError> {
        let hash = crate::hash::Hash::named(&self.checksum_hash)?;
        let (before, rest) = header
            .split_at_checked(CHECKSUM.start)
            .unwrap_or((header, &[]));
        let after = rest.get(CHECKSUM.len()..).unwrap_or_default();
        let digest = hash.digest(&[before, &[0; CHECKSUM.end - CHECKSUM.start], after]);
        Ok(self.checksum.starts_with(&digest))
    }
}
