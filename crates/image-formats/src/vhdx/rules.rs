//! The rules a VHDX file can break.

crate::finding::rules! {
    "vhdx", "[MS-VHDX]";
    SIGNATURE = "signature", "the file starts with the identifier vhdxfile", "2.2.1";
    HEADERS = "headers", "at least one header has its signature and checksum", "2.2.2";
    HEADER_LOST = "header-lost", "both headers have their signature and checksum", "2.2.2";
    VERSION = "version", "the version is 1 and the log's version 0", "2.2.2";
    LOG_PLACE = "log-place", "the log is a multiple of 1 MiB, starts at one, and lies inside the file", "2.2.2";
    LOG_ENTRY = "log-entry", "a log entry's descriptors and sectors fit and carry its sequence number", "2.3.1";
    LOG_EMPTY = "log-empty", "a log with an identifier holds an entry with it", "2.3.2";
    LOG_TANGLED = "log-tangled", "log entries do not overlap", "2.3.2";
    LOG_FLUSHED = "log-flushed", "the file is as long as it was when the log was written", "2.3.1.1";
    LOG_REPLAYED = "log-replayed", "the log is empty", "2.3.3";
    REGION_TABLES = "region-tables", "at least one region table has its signature and checksum", "2.2.3.1";
    REGION_PLACE = "region-place", "a region starts at 1 MiB or later, is a multiple of 1 MiB, lies inside the file and overlaps no other", "2.2.3.2";
    REGION_MISSING = "region-missing", "the BAT and metadata regions are there", "2.2.3.2";
    METADATA_TABLE = "metadata-table", "the metadata table has its signature and at most 2047 entries", "2.6.1.1";
    METADATA_ITEM = "metadata-item", "a metadata item lies behind the table and inside the region", "2.6.1.2";
    METADATA_MISSING = "metadata-missing", "file parameters, virtual size and logical sector size are there", "2.6.2";
    BLOCK_SIZE = "block-size", "the block size is a power of two from 1 MiB to 256 MiB", "2.6.2.1";
    SECTOR_SIZE = "sector-size", "the logical sector size is 512 or 4096", "2.6.2.4";
    VIRTUAL_SIZE = "virtual-size", "the virtual size is a multiple of the logical sector size, at most 64 TiB", "2.6.2.2";
    BAT_SIZE = "bat-size", "the BAT has an entry for every block", "2.5";
    BAT_STATE = "bat-state", "a BAT entry's state is one of those defined", "2.5.1.1";
    BAT_RESERVED = "bat-reserved", "a BAT entry has no reserved bits set", "2.5.1";
    BAT_PLACE = "bat-place", "a block lies inside the file, behind its first MiB", "2.5.1";
    HEADER_RESERVED = "header-reserved", "a header's reserved bytes are zero", "2.2.2";
    HEADER_SEQUENCE = "header-sequence", "headers that differ have different sequence numbers", "2.2.2.1";
    REGION_TABLE_LOST = "region-table-lost", "both region tables have their signature and checksum", "2.2.3.1";
    REGION_TABLES_DIFFER = "region-tables-differ", "both region tables are the same", "2.2.3";
    REGION_RESERVED = "region-reserved", "reserved bits of a region table are zero", "2.2.3.2";
    REGION_TWICE = "region-twice", "a region is named once", "2.2.3.2";
    METADATA_RESERVED = "metadata-reserved", "reserved bits of the metadata table are zero", "2.6.1";
    METADATA_TWICE = "metadata-twice", "a metadata item is named once", "2.6.1.2";
    METADATA_SHAPE = "metadata-shape", "a known metadata item has its length and flags", "2.6.2";
    METADATA_ABSENT = "metadata-absent", "disk identifier and physical sector size are there", "2.6.2";
    METADATA_OVERLAP = "metadata-overlap", "metadata items share no bytes", "2.6.1.2";
    PHYSICAL_SECTOR = "physical-sector", "the physical sector size is 512 or 4096", "2.6.2.5";
    BAT_BEYOND = "bat-beyond", "entries behind the end of the disk are zero", "2.5";
    BITMAP_STATE = "bitmap-state", "a sector bitmap is there exactly where a block needs it", "2.5.1.2";
    FIXED_ABSENT = "fixed-absent", "every block of a fixed file is there", "2.6.2.1";
    OVERLAP = "overlap", "header section, log, regions and blocks share no bytes", "2.1";
    LEAK = "leak", "space as large as a block belongs to something", "2.1";
    FILE_SIZE = "file-size", "the file is whole MiB", "2.1";
    PARENT_LOCATOR = "parent-locator", "a file with a parent names it by a known locator", "2.6.2.6";
    PARENT_CHANGED = "parent-changed", "the parent is the one this file was made from, unchanged", "2.6.2.6.3";
    NO_PARENT = "no-parent", "only a file with a parent has partly present blocks", "2.5.1.1";
}
