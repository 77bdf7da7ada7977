//! The rules a VMDK file can break.

crate::finding::rules! {
    "vmdk", "Virtual Disk Format 5.0";
    HEADER = "header", "a sparse extent has its whole header", "Hosted Sparse Extent Header";
    VERSION = "version", "the version of a sparse extent is 1, 2 or 3", "Hosted Sparse Extent Header";
    NEWLINES = "newlines", "the newline bytes are unharmed", "Hosted Sparse Extent Header";
    GRAIN_SIZE = "grain-size", "the grain size is a power of two from 8 to 4096 sectors", "Hosted Sparse Extent Header";
    TABLE_LENGTH = "table-length", "a grain table has 512 entries (4096 in COWD)", "Hosted Sparse Extent Header";
    CAPACITY = "capacity", "the capacity fits 2^54 sectors", "Hosted Sparse Extent Header";
    COMPRESSION = "compression", "compressed grains are deflated", "Stream-Optimized Compressed Sparse Extents";
    FOOTER = "footer", "a stream ends with a footer that holds the directory's place", "Stream-Optimized Compressed Sparse Extents";
    DIRECTORY = "directory", "the grain directory lies inside the file", "Grain Directory";
    TABLE = "table", "a grain table lies inside the file", "Grain Table";
    GRAIN = "grain", "a grain lies inside the file", "Grain";
    GRAIN_MARKER = "grain-marker", "a compressed grain's marker names its place on the disk", "Grain Marker";
    GRAIN_DATA = "grain-data", "a compressed grain inflates to one grain", "Grain Marker";
    DESCRIPTOR = "descriptor", "the descriptor is text of at most 1 MiB with at least one extent", "Text Descriptor";
    EXTENT = "extent", "an extent line has access, sectors, kind and name", "Extent Description";
    EXTENT_SIZE = "extent-size", "an extent's file holds the sectors its line says", "Extent Description";
    PARENT = "parent", "a disk with a parent names it", "Header of the descriptor";
    PARENT_CHANGED = "parent-changed", "the parent's CID is the one the child was made over", "Header of the descriptor";
    FLAGS = "flags", "flags are known ones and agree with the version", "Hosted Sparse Extent Header";
    CAPACITY_GRAINS = "capacity-grains", "the capacity is whole grains", "Hosted Sparse Extent Header";
    HEADER_PADDING = "header-padding", "the rest of the header is zero", "Hosted Sparse Extent Header";
    FOOTER_COPY = "footer-copy", "the footer is the header but for the directory's place", "Stream-Optimized Compressed Sparse Extents";
    STREAM_END = "stream-end", "a stream ends with its end-of-stream marker and nothing behind it", "Stream-Optimized Compressed Sparse Extents";
    MARKER = "marker", "a marker is of a known type", "Metadata Marker";
    GRAIN_ORDER = "grain-order", "the grains of a stream come in ascending order", "Stream-Optimized Compressed Sparse Extents";
    TABLE_TWICE = "table-twice", "a grain table is named once", "Grain Directory";
    GRAIN_BEYOND = "grain-beyond", "entries behind the end of the disk are zero", "Grain Table";
    REDUNDANT = "redundant", "the redundant directory leads to the same grains", "Redundant Grain Directory";
    OVERLAP = "overlap", "header, descriptor, directories, tables and grains share no bytes", "Hosted Sparse Extent";
    LEAK = "leak", "space as large as a grain belongs to something", "Hosted Sparse Extent";
    DESCRIPTOR_VERSION = "descriptor-version", "the descriptor's version is 1, 2 or 3", "Header of the descriptor";
    DESCRIPTOR_PADDING = "descriptor-padding", "an embedded descriptor is padded with zeroes", "Text Descriptor";
    CID = "cid", "CID and parentCID are hexadecimal", "Header of the descriptor";
    CREATE_TYPE = "create-type", "createType is a known one", "Header of the descriptor";
    EXTENT_KIND = "extent-kind", "extents are of the kind that createType says", "Extent Description";
    EXTENTS_SUM = "extents-sum", "the extents' sectors are those of their headers", "Extent Description";
    FLAT_SIZE = "flat-size", "a flat extent's file is as long as its sectors", "Extent Description";
    ADAPTER = "adapter", "the adapter type is a known one", "Disk Data Base";
    SE_HEADER = "sesparse-header", "a seSparse extent has the version, grain and table sizes that have been seen, and both headers", "not published; QEMU block/vmdk.c";
    SE_ENTRY = "sesparse-entry", "an entry of a seSparse directory or table is of a known kind", "not published; QEMU block/vmdk.c";
    ALONE = "alone", "an extent of ESX is read by the descriptor that names it, which knows what lies below", "Text Descriptor";
    UNCLEAN = "unclean", "the disk was closed", "Hosted Sparse Extent Header";
}
