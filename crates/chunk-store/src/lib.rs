//! What has arrived: packs, index and snapshots, each snapshot a disk.
#![forbid(unsafe_code)]
