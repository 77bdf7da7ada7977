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
    ALLOCATED = "allocated", "as many blocks are in use as the header says", "VDIHEADER1PLUS cBlocksAllocated";
    SHARED = "block-shared", "header, table and blocks share no bytes", "VDIIMAGEBLOCKPOINTER";
    LEAK = "leak", "space as large as a block belongs to one", "VDIIMAGEBLOCKPOINTER";
    FIXED = "fixed", "every block of a fixed disk is there", "VDIIMAGETYPE";
    FLAGS = "flags", "flags are known ones", "VDIHEADER1PLUS fFlags";
    ID = "id", "the image has an identifier and one for its last change", "VDIHEADER1PLUS uuidCreate";
    RESERVED = "reserved", "what lies behind the header's fields is zero", "VDIHEADER1PLUS";
    LENGTH = "length", "the file ends behind its last block", "VDIHEADER1PLUS cBlocksAllocated";
    LINK = "link", "a differencing image names its parent's identifier, and no other image does", "VDIHEADER1PLUS uuidLinkage";
    PARENT_CHANGED = "parent-changed", "the parent has not been changed since the child was made", "VDIHEADER1PLUS uuidParentModify";
}
