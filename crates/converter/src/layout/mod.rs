//! Laying disks out anew on the way: partitions grown, shrunk, moved, left out, MBR turned into GPT.
//!
//! ```text
//! flags, TOML ─► Wanted ─► plan (pure: disk_layout::arrange) ─► text, SVG, report
//!                              └─► apply: shrink in place ─► Remap ─► table, boot sectors, grow
//! ```
//!
//! Moving a partition copies nothing: the images are written from the new places in the one pass there is.

mod apply;
mod args;
mod names;
mod notes;
mod plan;
mod svg;
mod text;
mod wanted;

pub use self::apply::{apply, only_used};
pub use self::args::LayoutArgs;
pub use self::notes::Note;
pub use self::plan::{Contents, DiskPlan, Layouts, PartPlan, plan};
pub use self::svg::picture;
pub use self::text::describe;
