//! `p2v`: receives machines, converts them, emits images, describes and boot-checks the result.
//!
//! One module per verb of the command line; [`cli`] is the table of contents.
#![forbid(unsafe_code)]

pub mod boot;
pub mod cli;
pub mod convert;
pub mod describe;
pub mod files;
pub mod image;
pub mod inspect;
pub mod layout;
pub mod machines;
pub mod plan;
pub mod progress;
pub mod serve;
pub mod store_cmd;
pub mod store_dir;
pub mod table;
