//! The rules a qcow2 file can break.

crate::finding::rules! {
    "qcow2", "qcow2.rst";
    MAGIC = "magic", "the file starts with the magic number and version 2 or 3", "Header";
    TRUNCATED_HEADER = "header-truncated", "the file holds the whole header", "Header";
    CLUSTER_BITS = "cluster-bits", "cluster_bits is 9 to 21", "Header";
    HEADER_LENGTH = "header-length", "header_length is at least 104, a multiple of 8, and inside the first cluster", "Additional fields";
    REFCOUNT_ORDER = "refcount-order", "refcount_order is at most 6", "Additional fields";
    SIZE = "size", "the virtual size fits a signed 64-bit number", "Header";
    L1_SIZE = "l1-size", "the L1 table covers the virtual size and is at most 32 MiB", "Header";
    L1_OFFSET = "l1-offset", "the L1 table is cluster aligned and inside the file", "Header";
    REFCOUNT_TABLE = "refcount-table", "the refcount table is cluster aligned, inside the file and at most 8 MiB", "Header";
    COMPRESSION_TYPE = "compression-type", "the compression type agrees with incompatible bit 3", "Additional fields";
    EXTENDED_L2_CLUSTER = "extended-l2-cluster", "extended L2 entries need clusters of 16 KiB or more", "Extended L2 Entries";
    BACKING_NAME = "backing-name", "the backing file's name is at most 1023 bytes of UTF-8 inside the first cluster", "Header";
    EXTENSION = "extension", "header extensions end before the first cluster does", "Header extensions";
    DATA_FILE_NAME = "data-file-name", "the external data file's name is given", "Header extensions";
    CORRUPT_BIT = "corrupt-bit", "the corrupt bit is clear", "incompatible_features bit 1";
    DIRTY_BIT = "dirty-bit", "the dirty bit is clear", "incompatible_features bit 0";
    SNAPSHOTS = "snapshots", "internal snapshots are not read", "Snapshots";
    BACKING_FORMAT = "backing-format", "the backing file's format is named", "Backing file format name";
    L1_ENTRY = "l1-entry", "an L1 entry has no reserved bits set", "L1 table entry";
    L2_OFFSET = "l2-offset", "an L2 table is cluster aligned and inside the file", "L1 table entry";
    L2_ENTRY = "l2-entry", "an L2 entry has no reserved bits set", "L2 table entry";
    DATA_OFFSET = "data-offset", "a data cluster is cluster aligned", "Standard Cluster Descriptor";
    DATA_OUTSIDE = "data-outside", "a data cluster lies inside the file", "Standard Cluster Descriptor";
    COMPRESSED_OUTSIDE = "compressed-outside", "a compressed cluster starts inside the file", "Compressed Clusters Descriptor";
    COMPRESSED_EXTERNAL = "compressed-external", "there are no compressed clusters with an external data file", "Compressed Clusters Descriptor";
    COMPRESSED_DATA = "compressed-data", "a compressed cluster inflates to one cluster", "Compressed Clusters Descriptor";
    SIZE_SECTORS = "size-sectors", "the virtual size is whole sectors", "Header";
    UNKNOWN_BITS = "unknown-bits", "compatible and autoclear bits are known ones", "compatible_features";
    HEADER_PADDING = "header-padding", "the bytes behind the compression type are zero", "Additional fields";
    OUTSIDE = "outside", "a table or cluster ends inside the file", "Host cluster management";
    OVERLAP = "overlap", "tables, headers and refcounts share their clusters with nothing", "Host cluster management";
    TANGLED = "tangled", "tables are not named over and over", "Cluster mapping";
    COMPRESSED_COPIED = "compressed-copied", "a compressed cluster does not have the COPIED bit", "L2 table entry";
    COPIED = "copied", "the COPIED bit is set exactly where the refcount is 1", "L1 table entry";
    REFCOUNT_BLOCK = "refcount-block", "a refcount block is cluster aligned and inside the file", "Refcount table entry";
    REFCOUNT_LOW = "refcount-low", "a cluster's refcount is the number of its references", "Refcount block entry";
    LEAK = "leak", "a cluster with a refcount is in use", "Refcount block entry";
    REFCOUNT_BEYOND = "refcount-beyond", "no cluster behind the end of the file has a refcount", "Refcount block entry";
    SNAPSHOT_TABLE = "snapshot-table", "the snapshot table and its L1 tables are aligned and inside the file", "Snapshots";
    BITMAP_DIRECTORY = "bitmap-directory", "the bitmap directory is aligned and inside the file", "Bitmap directory";
    BITMAP_TABLE = "bitmap-table", "a bitmap table and its clusters are aligned and inside the file", "Bitmap table";
    SUBCLUSTERS = "subclusters", "no subcluster is both allocated and zero, and compressed clusters have none", "Extended L2 Entries";
}
