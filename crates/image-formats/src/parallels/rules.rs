//! The rules a Parallels image or bundle can break.

crate::finding::rules! {
    "parallels", "parallels.rst";
    HEADER = "header", "an expanding image starts with WithoutFreeSpace or WithouFreSpacExt", "Header: magic";
    VERSION = "version", "the version is 2", "Header: version";
    CLUSTER = "cluster-size", "a cluster has 1 to 4194304 sectors", "Header: tracks";
    ENTRIES = "bat-entries", "there is a BAT entry for every cluster, and the BAT lies inside the file", "Header: nb_bat_entries";
    SECTORS = "sectors", "the size has 32 bits in a WithoutFreeSpace image, and fits 2^54 sectors", "Header: nb_sectors";
    OPEN = "in-use", "the image was closed", "Header: in_use";
    DATA_OFFSET = "data-offset", "the data start behind the BAT, on a cluster", "Header: data_off";
    CLUSTER_PLACE = "cluster-place", "a cluster lies behind the data offset and inside the file", "BAT";
    CLUSTER_ALIGNED = "cluster-aligned", "a cluster lies whole clusters behind the data offset", "BAT";
    SHARED = "cluster-shared", "header, BAT, extension and clusters share no bytes", "BAT";
    LEAK = "leak", "space as large as a cluster belongs to one", "Data Area";
    FLAGS = "flags", "flags are known ones, and an empty image has no clusters", "Header: flags";
    EXTENSION = "extension", "what the format extension says is not needed to read the disk", "Format Extension";
}

/// Rules of the bundle's descriptor.
pub(crate) mod bundle {
    crate::finding::rules! {
        "parallels-bundle", "prl-xml.rst";
        XML = "xml", "DiskDescriptor.xml is XML of at most 1 MiB with the root Parallels_disk_image", "Description file";
        VALUE = "value", "an element that is needed is there, once, with a value that can be", "Disk_Parameters, StorageData";
        STORAGE = "storage", "the storages follow each other from the disk's start to its end", "StorageData element";
        IMAGE_TYPE = "image-type", "an image is Plain or Compressed, and one over another is Compressed", "StorageData element";
        SNAPSHOTS = "snapshots", "the snapshots lead from the top image to one root in at most 64 steps", "Snapshots element";
        IMAGE_SIZE = "image-size", "an image has the size of its storage", "StorageData element";
        BLOCK_SIZE = "block-size", "every expanding image has the cluster size the storage says", "StorageData element: Blocksize";
    }
}
