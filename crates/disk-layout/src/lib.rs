//! What the sectors of a disk are divided into: MBR, GPT and their damage.
#![forbid(unsafe_code)]
