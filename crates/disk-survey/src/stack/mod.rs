//! Disks, partitions, what these are members of, and what lies in that: from the disks up to the file
//! systems, and the used bytes down again.

mod arrays;
mod build;
mod groups;
mod open;

use std::ops::Range;
use std::sync::Arc;

use disk_layout::volume::{VolumeFinding, VolumeMap};
use filesystems::probe::Probe;
use uuid::Uuid;

use crate::draft::is_member;
use crate::survey::{About, Finding, Survey};

pub use build::{find_volumes, survey_all, survey_all_but};

/// What the disks of a machine hold together.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Each disk, in the order they were given, with the used bytes that all layers above it tell.
    pub disks: Vec<Survey>,
    /// Volumes that volume managers make of partitions, those first that others lie on.
    pub volumes: Vec<StackVolume>,
    /// What was noticed about volume groups, arrays and volumes.
    pub findings: Vec<VolumeFinding>,
}

/// A volume that is made of others or of partitions.
#[derive(Debug, Clone)]
pub struct StackVolume {
    /// Who makes it.
    pub of: VolumeOf,
    /// What it is called: `vg/root`, `md/0`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes lie. Its devices count in `members`.
    pub map: Arc<VolumeMap>,
    /// What it lies on.
    pub members: Vec<Member>,
    /// What it holds, where that is known.
    pub probe: Option<Probe>,
    /// Whether its free bytes are known. Otherwise all of it counts as used.
    pub free_known: bool,
    /// Bytes of it in use.
    pub used_bytes: u64,
}

/// Which volume manager makes a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VolumeOf {
    /// LVM2.
    Lvm {
        /// The volume group's name.
        group: String,
        /// Its id.
        group_id: String,
        /// The logical volume's name.
        volume: String,
        /// Its id.
        id: Option<String>,
    },
    /// Linux md.
    Md {
        /// The array's id.
        id: Uuid,
        /// Its name, often `host:0`; arrays with superblock 0.90 have none.
        name: Option<String>,
        /// Its level; -1 for linear.
        level: i32,
    },
}

/// What a volume lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A partition, or a whole disk.
    Partition {
        /// Which disk.
        disk: usize,
        /// The number of the partition; `None` for the whole disk.
        partition: Option<u32>,
        /// The bytes of the disk.
        range: Range<u64>,
    },
    /// Another volume of the stack, by its place in [`Stack::volumes`].
    Volume(usize),
}

impl Stack {
    /// The surveys of the disks alone; what was noticed about volumes stands in the first.
    #[must_use]
    pub fn into_surveys(self) -> Vec<Survey> {
        let mut surveys = self.disks;
        if let Some(first) = surveys.first_mut() {
            let findings = self.findings.iter().map(|finding| Finding {
                about: About::Disk,
                severity: finding.severity,
                text: finding.to_string(),
            });
            first.findings.extend(findings);
        }
        surveys
    }
}

impl StackVolume {
    /// Whether it holds something of its own, and is no member of something else.
    #[must_use]
    pub fn is_top(&self) -> bool {
        !self
            .probe
            .as_ref()
            .is_some_and(|probe| is_member(probe.kind))
    }

    /// The names below `/dev` that lead to it on every machine, the one in use first:
    /// `mapper/vg-root`, `vg/root`; `disk/by-id/md-uuid-…`, `md/root`.
    #[must_use]
    pub fn device_names(&self) -> Vec<String> {
        match &self.of {
            // lvm(8): a dash inside a name is written twice in the mapper's.
            VolumeOf::Lvm { group, volume, .. } => {
                let escape = |name: &str| name.replace('-', "--");
                vec![
                    format!("mapper/{}-{}", escape(group), escape(volume)),
                    format!("{group}/{volume}"),
                ]
            }
            VolumeOf::Md { id, name, .. } => {
                let short = name.as_deref().map(|n| n.rsplit(':').next().unwrap_or(n));
                let digits: Vec<char> = id.simple().to_string().chars().collect();
                let words: Vec<String> =
                    digits.chunks(8).map(|word| word.iter().collect()).collect();
                let mut names = vec![format!("disk/by-id/md-uuid-{}", words.join(":"))];
                names.extend(
                    name.as_ref()
                        .map(|name| format!("disk/by-id/md-name-{name}")),
                );
                names.extend(short.map(|short| format!("md/{short}")));
                names
            }
        }
    }

    /// Whether every byte of it can be read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.map.lost().is_empty()
    }
}
