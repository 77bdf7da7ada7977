//! Disk image formats: detect, open, write, check.
#![forbid(unsafe_code)]
