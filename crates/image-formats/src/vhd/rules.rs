//! The rules a VHD file can break.

crate::finding::rules! {
    "vhd", "VHD 1.0";
    FOOTER = "footer", "the file ends with a footer whose cookie is conectix", "Hard Disk Footer Format";
    CHECKSUM = "footer-checksum", "the footer's checksum is right", "Checksum";
    VERSION = "version", "the format version is 1.0", "File Format Version";
    TYPE = "type", "the disk type is fixed, dynamic or differencing", "Disk Type";
    SIZE = "size", "a fixed disk's file is its size and a footer", "Current Size";
    DYNAMIC_HEADER = "dynamic-header", "the dynamic header lies inside the file, with cookie and checksum", "Dynamic Disk Header Format";
    BLOCK_SIZE = "block-size", "the block size is a power of two from 512 bytes to 256 MiB", "Block Size";
    TABLE = "table", "the block allocation table lies inside the file and has an entry for every block", "Block Allocation Table";
    BLOCK = "block", "a block lies inside the file", "Data Blocks";
    FEATURES = "features", "the reserved feature bit is set and no unknown one", "Features";
    LARGEST = "largest", "a disk has at most 2040 GiB", "Current Size";
    SECTORS = "sectors", "the size is whole sectors, and not none", "Current Size";
    RESIZED = "resized", "the disk has the size it was made with", "Original Size";
    GEOMETRY = "geometry", "the geometry is the one the appendix computes", "Appendix: CHS Calculation";
    IDENTITY = "identity", "the unique identifier is set", "Unique ID";
    SAVED_STATE = "saved-state", "the saved state is 0 or 1", "Saved State";
    RESERVED = "reserved", "reserved bytes are zero", "Hard Disk Footer Format";
    DATA_OFFSET = "data-offset", "a fixed disk has no data offset", "Data Offset";
    COPY = "footer-copy", "the copy at the start is the footer", "Dynamic Hard Disk Image";
    DYNAMIC_RESERVED = "dynamic-reserved", "reserved bytes of the dynamic header are as they should be", "Dynamic Disk Header Format";
    BEYOND = "beyond", "entries behind the end of the disk are unused", "Block Allocation Table";
    BITMAP = "bitmap", "every sector with data has its bit", "Data Blocks";
    OVERLAP = "overlap", "headers, table and blocks share no bytes", "Data Blocks";
    LEAK = "leak", "space as large as a block belongs to something", "Data Blocks";
    PARENT = "parent", "a differencing disk names its parent", "Parent Locator Entry";
    PARENT_CHANGED = "parent-changed", "the parent's identifier is the one the child was made over", "Parent Unique ID";
}
