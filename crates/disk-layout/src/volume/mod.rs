//! What volume managers give: volumes made of pieces of other devices.
//!
//! A [`VolumeMap`] says for every byte of a volume where it lies: at one place, at several with the same
//! bytes, in the exclusive or of several, nowhere (zeroes), or on a device that is not there. LVM2, md
//! and Windows dynamic disks all end in one. It knows devices by their [`DeviceIndex`] only;
//! [`VolumeDisk`] puts a map over real ones and is then a disk like any other.
//!
//! What is read and what is written:
//! - a mirror is read from its first leg in sync and written on every leg, so that they stay equal;
//! - a volume with parity is read, from the exclusive or of the others where one member is missing, and
//!   never written: the parity would have to be made anew;
//! - RAID10 with a member missing or out of sync is read and not written;
//! - what lies on a missing device is an error that names it, in both directions.

mod disk;
mod locate;
mod map;

use std::fmt;
use std::sync::Arc;

pub use disk::VolumeDisk;
pub use locate::{Located, Whereabouts};
pub use map::{MapError, Mapping, ParityLayout, Segment, VolumeMap};

use crate::Severity;

/// Which of the devices that a volume manager was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIndex(pub usize);

/// A byte of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The device.
    pub device: DeviceIndex,
    /// The byte of it.
    pub offset: u64,
}

/// Where a run of a volume begins.
#[derive(Debug, Clone)]
pub enum Source {
    /// On a device.
    Device(Place),
    /// Inside another volume, from this byte of it on.
    Volume {
        /// The other volume.
        map: Arc<VolumeMap>,
        /// The byte of it.
        offset: u64,
    },
    /// On a device that is not there; the text names it.
    Lost(Arc<str>),
}

/// Something noticed while volumes were put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFinding {
    /// How much it matters. `Doubtful`: every byte of what it is about counts as used.
    pub severity: Severity,
    /// What it is about: a volume group, an array, a device.
    pub subject: String,
    /// A sentence for the user.
    pub text: String,
}

impl fmt::Display for VolumeFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.text)
    }
}

impl VolumeFinding {
    pub(crate) fn new(
        severity: Severity,
        subject: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            subject: subject.into(),
            text: text.into(),
        }
    }
}
