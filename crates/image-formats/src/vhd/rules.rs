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
    PARENT = "parent", "a differencing disk names its parent", "Parent Locator Entry";
    PARENT_CHANGED = "parent-changed", "the parent's identifier is the one the child was made over", "Parent Unique ID";
}
