//! Whether a volume was left such that it can be changed: its log closed, not marked, not hibernated.

use block_io::BlockRead;

use super::log;
use super::system_files::find_all;
use super::volume::Volume;
use crate::fault::Fault;
use crate::tree::{Result, TreeError, TreeErrorKind};

/// In which condition a volume was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether `$LogFile` was closed, so that all changes are in their places.
    pub log_is_closed: bool,
    /// Whether the volume's own flag says that it must be checked (chkdsk).
    pub is_marked_dirty: bool,
    /// Whether a system sleeps in `hiberfil.sys`: hibernated, or shut down with fast start-up. It would
    /// wake up with its own idea of what is on the volume.
    pub is_hibernated: bool,
}

impl Condition {
    /// Whether the volume can be changed as it is.
    ///
    /// # Errors
    /// `Hibernated`, or `Dirty`, with what to do.
    pub fn check_writable(&self) -> Result<()> {
        if self.is_hibernated {
            return Err(TreeError::of(
                TreeErrorKind::Hibernated,
                "hiberfil.sys holds a system that sleeps; start it and shut it down fully \
                 (shutdown /s /f /t 0, or turn fast start-up off)",
            ));
        }
        if !self.log_is_closed {
            return Err(TreeError::of(
                TreeErrorKind::Dirty,
                "$LogFile was not closed, so changes may stand in it only; start Windows and shut it down, \
                 or take a snapshot (VSS)",
            ));
        }
        if self.is_marked_dirty {
            return Err(TreeError::of(
                TreeErrorKind::Dirty,
                "$Volume is marked dirty; run chkdsk /f on the source",
            ));
        }
        Ok(())
    }
}

/// The condition of the NTFS on `disk`.
///
/// # Errors
/// `Corrupt` with position, expected and found; `Disk`.
pub fn condition(disk: &dyn BlockRead) -> Result<Condition> {
    of_volume(&Volume::open(disk)?)
}

pub(super) fn of_volume<D: BlockRead>(volume: &Volume<D>) -> Result<Condition> {
    let log_is_closed = match log::is_closed(volume) {
        Ok(is_closed) => is_closed,
        // A log that cannot be understood may hold anything.
        Err(Fault::Damage(_)) => false,
        Err(Fault::Disk(error)) => return Err(error.into()),
    };
    Ok(Condition {
        log_is_closed,
        is_marked_dirty: volume.is_dirty()?,
        is_hibernated: find_all(volume)?.iter().any(|file| file.is_hibernated),
    })
}
