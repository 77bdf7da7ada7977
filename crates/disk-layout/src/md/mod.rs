//! Linux software RAID (md): superblocks 0.90, 1.0, 1.1 and 1.2, and the arrays they describe.
//!
//! [`read_member`] looks at one device; [`assemble`] puts those of all devices together to arrays. The bytes
//! are described in `docs/formats/md.md`.

mod assemble;
mod format;
mod levels;
mod reader;

pub use assemble::{ArrayMember, MdArray, MemberState, assemble};
pub use format::{MdMember, MdVersion, Role};
pub use levels::MdUnusable;
pub use reader::{MdError, read_member};
