//! The rules a VDI file can break.

crate::finding::rules! {
    "vdi", "VDICore.h";
    HEADER = "header", "the file starts with a whole header with the signature 0xbeda107f", "VDIPREHEADER";
    TYPE = "type", "the image type is normal, fixed or differencing", "VDIIMAGETYPE";
    HEADER_LEN = "header-length", "the header's length is 384 or 400 bytes", "VDIHEADER1PLUS cbHeader";
    SECTOR = "sector-size", "sectors have 512 bytes, or the size is not given", "VDIDISKGEOMETRY cbSector";
    SIZE = "size", "the disk's size is whole sectors", "VDIHEADER1PLUS cbDisk";
    BLOCK_SIZE = "block-size", "the block size is a power of two from 4 KiB to 256 MiB", "VDIHEADER1PLUS cbBlock";
    BLOCKS = "blocks", "there is a table entry for every block of the disk", "VDIHEADER1PLUS cBlocks";
    TABLE = "table", "the block table lies inside the file, behind the header and before the data", "VDIHEADER1PLUS offBlocks";
    DATA = "data", "the data start on a sector, behind the table", "VDIHEADER1PLUS offData";
    BLOCK = "block", "a block lies inside the file", "VDIIMAGEBLOCKPOINTER";
    LINK = "link", "a differencing image names its parent's identifier, and no other image does", "VDIHEADER1PLUS uuidLinkage";
    PARENT_CHANGED = "parent-changed", "the parent has not been changed since the child was made", "VDIHEADER1PLUS uuidParentModify";
}
