//! Reads the header of a qcow2 file and checks it before anything else is believed.

use block_io::BlockRead;

use super::format::{
    AUTOCLEAR_RAW_DATA, COMPATIBLE_LAZY_REFCOUNTS, COMPRESSION_ZLIB, COMPRESSION_ZSTD,
    EXTENSION_BACKING_FORMAT, EXTENSION_BITMAPS, EXTENSION_DATA_FILE, Geometry,
    INCOMPATIBLE_COMPRESSION_TYPE, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DATA_FILE,
    INCOMPATIBLE_DIRTY, INCOMPATIBLE_EXTENDED_L2, MAGIC, MAX_BACKING_NAME, MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES,
};
use super::rules;
use crate::bytes::{be32, be64};
use crate::details::Qcow2Details;
use crate::error::{ParseError, require};
use crate::finding::{Finding, Severity};

/// Bytes of a version 2 header, and of the part every version 3 header has.
const V2_LEN: u64 = 72;
const V3_LEN: u64 = 104;

/// What the header says, checked.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) geometry: Geometry,
    pub(crate) virtual_size: u64,
    pub(crate) l1_entries: u64,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u64,
    pub(crate) refcount_order: u32,
    pub(crate) snapshots: u32,
    pub(crate) incompatible: u64,
    pub(crate) compatible: u64,
    pub(crate) autoclear: u64,
    pub(crate) zstd: bool,
    pub(crate) backing: Option<String>,
    pub(crate) backing_format: Option<String>,
    pub(crate) data_file: Option<String>,
    /// Where the bitmaps extension's data stand.
    pub(crate) bitmaps: Option<u64>,
    pub(crate) notes: Vec<Finding>,
}

impl Header {
    pub(crate) fn extended_l2(&self) -> bool {
        self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0
    }

    pub(crate) fn external_data(&self) -> bool {
        self.incompatible & INCOMPATIBLE_DATA_FILE != 0
    }

    pub(crate) fn details(&self) -> Qcow2Details {
        Qcow2Details {
            version: self.version,
            refcount_bits: 1 << self.refcount_order,
            zstd: self.zstd,
            extended_l2: self.extended_l2(),
            lazy_refcounts: self.compatible & COMPATIBLE_LAZY_REFCOUNTS != 0,
            dirty: self.incompatible & INCOMPATIBLE_DIRTY != 0,
            corrupt: self.incompatible & INCOMPATIBLE_CORRUPT != 0,
            snapshots: self.snapshots,
            backing: self.backing.clone(),
            backing_format: self.backing_format.clone(),
            data_file: self.data_file.clone(),
            data_file_raw: self.autoclear & AUTOCLEAR_RAW_DATA != 0,
        }
    }

    /// Bytes of an L2 entry.
    pub(crate) fn l2_entry_len(&self) -> u64 {
        if self.extended_l2() { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub(crate) fn l2_entries(&self) -> u64 {
        self.geometry.cluster_size() / self.l2_entry_len()
    }
}

/// Read and check the header of `file`.
pub(crate) fn read_header(file: &dyn BlockRead) -> Result<Header, ParseError> {
    let file_size = file.size();
    require(
        file_size >= V2_LEN,
        rules::TRUNCATED_HEADER,
        0,
        "72 bytes or more",
        file_size,
    )?;
    let mut head = vec![0; file_size.min(V3_LEN + 8) as usize];
    file.read_at(0, &mut head)?;
    let version = be32(&head, 4);
    let right = head.starts_with(&MAGIC) && matches!(version, 2 | 3);
    require(
        right,
        rules::MAGIC,
        0,
        "QFI\\xfb and 2 or 3",
        format!("version {version}"),
    )?;
    let cluster_bits = be32(&head, 20);
    let Some(geometry) = Geometry::new(cluster_bits) else {
        return Err(
            Finding::error(rules::CLUSTER_BITS, 20, "9 to 21", cluster_bits.to_string()).into(),
        );
    };
    refuse_encryption(be32(&head, 32))?;
    let mut header = Header {
        version,
        geometry,
        virtual_size: be64(&head, 24),
        l1_entries: u64::from(be32(&head, 36)),
        l1_offset: be64(&head, 40),
        refcount_table_offset: be64(&head, 48),
        refcount_table_clusters: u64::from(be32(&head, 56)),
        refcount_order: 4,
        snapshots: be32(&head, 60),
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        zstd: false,
        backing: None,
        backing_format: None,
        data_file: None,
        bitmaps: None,
        notes: Vec::new(),
    };
    let header_len = match version {
        2 => V2_LEN,
        _ => read_version_3(&head, &mut header)?,
    };
    check_tables(&header, file_size)?;
    read_names(file, &head, header_len, &mut header)?;
    add_notes(&mut header);
    Ok(header)
}

// qcow2.rst, "crypt_method"
fn refuse_encryption(method: u32) -> Result<(), ParseError> {
    let feature = match method {
        0 => return Ok(()),
        1 => "AES encryption".to_owned(),
        2 => "LUKS encryption".to_owned(),
        other => format!("encryption method {other}"),
    };
    Err(ParseError::Unsupported {
        feature,
        hint: "decrypt it first, with qemu-img convert and its secret",
    })
}

/// The fields only version 3 has; gives the header's length. // qcow2.rst, "Additional fields"
fn read_version_3(head: &[u8], header: &mut Header) -> Result<u64, ParseError> {
    let file_size = head.len() as u64;
    require(
        file_size >= V3_LEN,
        rules::TRUNCATED_HEADER,
        72,
        "104 bytes or more",
        file_size,
    )?;
    header.incompatible = be64(head, 72);
    header.compatible = be64(head, 80);
    header.autoclear = be64(head, 88);
    header.refcount_order = be32(head, 96);
    let header_len = u64::from(be32(head, 100));
    let fits = header_len >= V3_LEN
        && header_len.is_multiple_of(8)
        && header_len <= header.geometry.cluster_size();
    require(
        fits,
        rules::HEADER_LENGTH,
        100,
        "104 or more, a multiple of 8",
        header_len,
    )?;
    require(
        header.refcount_order <= 6,
        rules::REFCOUNT_ORDER,
        96,
        "0 to 6",
        header.refcount_order,
    )?;
    let known = INCOMPATIBLE_DIRTY
        | INCOMPATIBLE_CORRUPT
        | INCOMPATIBLE_DATA_FILE
        | INCOMPATIBLE_COMPRESSION_TYPE
        | INCOMPATIBLE_EXTENDED_L2;
    let unknown = header.incompatible & !known;
    if unknown != 0 {
        return Err(ParseError::Unsupported {
            feature: format!("incompatible feature bit {}", unknown.trailing_zeros()),
            hint: "convert it with the program that wrote it",
        });
    }
    let kind = match header_len > V3_LEN {
        true => head.get(104).copied().unwrap_or(0),
        false => COMPRESSION_ZLIB,
    };
    let flagged = header.incompatible & INCOMPATIBLE_COMPRESSION_TYPE != 0;
    header.zstd = kind == COMPRESSION_ZSTD;
    let agrees = matches!(
        (kind, flagged),
        (COMPRESSION_ZLIB, false) | (COMPRESSION_ZSTD, true)
    );
    require(
        agrees,
        rules::COMPRESSION_TYPE,
        104,
        "0 without bit 3, 1 with it",
        kind,
    )?;
    let extended = header.extended_l2();
    let fits = !extended || header.geometry.cluster_bits() >= 14;
    let found = header.geometry.cluster_size();
    require(fits, rules::EXTENDED_L2_CLUSTER, 20, "16384 or more", found)?;
    Ok(header_len)
}

fn check_tables(header: &Header, file_size: u64) -> Result<(), ParseError> {
    let size = header.virtual_size;
    require(
        size <= i64::MAX as u64,
        rules::SIZE,
        24,
        "at most 2^63 - 1",
        size,
    )?;
    let aligned = |offset: u64| offset.is_multiple_of(header.geometry.cluster_size());
    let inside =
        |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= file_size);
    let needed = header.geometry.clusters(size).div_ceil(header.l2_entries());
    let bytes = header.l1_entries * 8;
    let covers = header.l1_entries >= needed && bytes <= MAX_L1_BYTES;
    require(
        covers,
        rules::L1_SIZE,
        36,
        format!("{needed} or more"),
        header.l1_entries,
    )?;
    let lies = aligned(header.l1_offset) && inside(header.l1_offset, bytes);
    let expected = format!("aligned, with {bytes} bytes below {file_size}");
    require(
        lies || bytes == 0,
        rules::L1_OFFSET,
        40,
        expected,
        header.l1_offset,
    )?;
    let bytes = header.refcount_table_clusters * header.geometry.cluster_size();
    let lies = aligned(header.refcount_table_offset)
        && inside(header.refcount_table_offset, bytes)
        && bytes <= MAX_REFCOUNT_TABLE_BYTES;
    let expected = format!("aligned, with {bytes} bytes below {file_size}");
    require(
        lies,
        rules::REFCOUNT_TABLE,
        48,
        expected,
        header.refcount_table_offset,
    )?;
    Ok(())
}

/// Header extensions and the backing file's name, all inside the first cluster.
fn read_names(
    file: &dyn BlockRead,
    head: &[u8],
    header_len: u64,
    header: &mut Header,
) -> Result<(), ParseError> {
    let mut first = vec![0; file.size().min(header.geometry.cluster_size()) as usize];
    file.read_at(0, &mut first)?;
    let (name_at, name_len) = (be64(head, 8), be32(head, 16));
    if name_at != 0 {
        let name = usize::try_from(name_at).ok().and_then(|start| {
            let end = start.checked_add(name_len as usize)?;
            std::str::from_utf8(first.get(start..end)?).ok()
        });
        let fits = name_len as usize <= MAX_BACKING_NAME;
        let Some(name) = name.filter(|_| fits) else {
            let found = format!("{name_len} bytes at {name_at}");
            return Err(Finding::error(rules::BACKING_NAME, 8, "a name", found).into());
        };
        header.backing = (!name.is_empty()).then(|| name.to_owned());
    }
    // The extensions end with type 0, or where the backing file's name starts.
    let end = match usize::try_from(name_at) {
        Ok(start) if start != 0 => start.min(first.len()),
        _ => first.len(),
    };
    read_extensions(
        first.get(..end).unwrap_or_default(),
        header_len as usize,
        header,
    )?;
    let named = !header.external_data() || header.data_file.is_some();
    require(named, rules::DATA_FILE_NAME, header_len, "a name", "none")?;
    Ok(())
}

// qcow2.rst, "Header extensions"
fn read_extensions(first: &[u8], mut at: usize, header: &mut Header) -> Result<(), ParseError> {
    while at + 8 <= first.len() {
        let (kind, len) = (be32(first, at), be32(first, at + 4) as usize);
        if kind == 0 {
            return Ok(());
        }
        let data = first.get(at + 8..).and_then(|rest| rest.get(..len));
        let Some(data) = data else {
            let found = format!("{len} bytes");
            let expected = "an end inside the first cluster";
            return Err(Finding::error(rules::EXTENSION, at as u64, expected, found).into());
        };
        let text = || String::from_utf8_lossy(data).into_owned();
        match kind {
            EXTENSION_BACKING_FORMAT => header.backing_format = Some(text()),
            EXTENSION_DATA_FILE => header.data_file = Some(text()),
            EXTENSION_BITMAPS if len >= 24 => header.bitmaps = Some(at as u64 + 8),
            _ => {}
        }
        at += 8 + len.next_multiple_of(8);
    }
    Ok(())
}

fn add_notes(header: &mut Header) {
    let mut note = |severity, rule, offset, expected: &str, found: String| {
        let finding = Finding::error(rule, offset, expected, found).with(severity);
        header.notes.push(finding);
    };
    if header.incompatible & INCOMPATIBLE_CORRUPT != 0 {
        let found = "marked corrupt by the program that wrote it".to_owned();
        note(Severity::Error, rules::CORRUPT_BIT, 72, "clear", found);
    }
    if header.incompatible & INCOMPATIBLE_DIRTY != 0 {
        let found = "not closed; refcounts may be wrong, data are not".to_owned();
        note(Severity::Warning, rules::DIRTY_BIT, 72, "clear", found);
    }
    if header.snapshots != 0 {
        let found = format!("{}; the current state is read", header.snapshots);
        note(Severity::Note, rules::SNAPSHOTS, 60, "0", found);
    }
    if header.backing.is_some() && header.backing_format.is_none() {
        let found = "none; it is guessed".to_owned();
        note(
            Severity::Warning,
            rules::BACKING_FORMAT,
            8,
            "a format",
            found,
        );
    }
}
