//! The byte tables, as data: the documentation prints them, a test holds the encoders to them.

use super::{APPEND_HEADER_LEN, HEADER_LEN, RECORD_LEN};
use crate::recipe::ENTRY_LEN;

/// One row of a byte table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset from the beginning of the table's structure.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// What it is.
    pub what: &'static str,
}

/// A byte table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The structure.
    pub name: &'static str,
    /// Bytes of it.
    pub len: usize,
    /// Its fields, without gaps.
    pub fields: &'static [Field],
}

const fn field(offset: usize, len: usize, what: &'static str) -> Field {
    Field { offset, len, what }
}

/// The common header.
pub const HEADER: Table = Table {
    name: "header",
    len: HEADER_LEN,
    fields: &[
        field(0, 4, "magic: `P2VQ`, `P2VA`, `P2VC` or `P2VR`"),
        field(4, 2, "version: 1"),
        field(6, 2, "flags: 0; in `P2VR` bit 0 is REPLACE"),
        field(8, 4, "count of ids, bits, records or entries"),
        field(12, 4, "reserved: 0"),
    ],
};

/// One record of a batch's table.
pub const RECORD: Table = Table {
    name: "batch record",
    len: RECORD_LEN,
    fields: &[
        field(0, 32, "chunk id: BLAKE3 of the raw bytes"),
        field(32, 4, "raw length: 1 to 1048576"),
        field(36, 4, "stored length: 1 to raw length"),
        field(40, 1, "codec: 0 raw, 1 zstd"),
        field(41, 3, "reserved: 0"),
    ],
};

/// The header of a recipe append.
pub const APPEND_HEADER: Table = Table {
    name: "append header",
    len: APPEND_HEADER_LEN,
    fields: &[
        field(0, 16, "header"),
        field(
            16,
            8,
            "index of the first entry, counted from the disk's beginning",
        ),
    ],
};

/// One entry of a recipe.
pub const ENTRY: Table = Table {
    name: "recipe entry",
    len: ENTRY_LEN,
    fields: &[
        field(0, 8, "offset on the disk"),
        field(8, 4, "length: 1 to 1048576"),
        field(12, 32, "chunk id"),
    ],
};

/// All byte tables, as the documentation prints them.
pub const TABLES: [Table; 4] = [HEADER, RECORD, APPEND_HEADER, ENTRY];
