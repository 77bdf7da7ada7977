//! What a disk holds: table, partitions, file systems and the bytes in use.
#![forbid(unsafe_code)]
