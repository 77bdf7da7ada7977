//! What a chunk is: cut by content, named by BLAKE3, compressed, verified.
#![forbid(unsafe_code)]
