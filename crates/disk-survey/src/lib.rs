//! What a disk holds: its partition table, what lies in each partition, and which bytes are in use.
//!
//! [`survey_all`] looks at the disks of a machine together: volume groups over several of them are put
//! together, the file systems in their volumes are asked for their used blocks, and the answer is passed
//! down to each disk.
//!
//! [`survey`] looks at a disk once. [`Survey::used_only`] then shows the disk with everything that is
//! not in use as zeroes, so that whoever copies or sends it by its extents skips free space without
//! knowing why.
//!
//! The answer may call too much used, never too little. A byte is free only where a certain table says
//! that it lies between partitions, or where a file system that is understood, sound and alone in its
//! partition says so. Everything else is used: boot code and the gap behind it, every sector of the
//! table, the end of the disk, unknown content, and the whole disk as soon as its table is doubtful.
//!
//! A survey describes the disk as it was. Editing a file system takes free blocks into use: survey the
//! edited disk again before copying it.
#![forbid(unsafe_code)]

mod content;
mod draft;
mod map;
mod signatures;
mod stack;
mod survey;
mod used_only;

pub use content::LeaveOut;
pub use map::UsedMap;
pub use stack::{Member, Stack, StackVolume, VolumeOf, find_volumes, survey_all, survey_all_but};
pub use survey::{About, Finding, Survey, SurveyError, Volume, survey, survey_but};
pub use used_only::UsedOnly;
