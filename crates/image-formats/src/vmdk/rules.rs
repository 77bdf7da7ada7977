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
    UNCLEAN = "unclean", "the disk was closed", "Hosted Sparse Extent Header";
}
