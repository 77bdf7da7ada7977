//! GPT: two headers, two arrays of entries, and what to believe when they differ.

pub(crate) mod format;
pub(crate) mod reader;
pub(crate) mod writer;
