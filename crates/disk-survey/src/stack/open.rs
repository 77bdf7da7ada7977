//! A volume of the stack as a disk, over the disks below.

use std::ops::Range;
use std::sync::Arc;

use block_io::{BlockError, BlockErrorKind, BlockRead, BlockWrite, Result, Window};
use disk_layout::volume::VolumeDisk;

use super::{Member, Stack, StackVolume};

impl Stack {
    /// Volume `index` of the stack, to read, over `disks`: those that were surveyed, in their order.
    ///
    /// # Errors
    /// `OutOfBounds` when there is no such volume, or a disk is missing or shorter than surveyed.
    pub fn open<'a>(
        &self,
        index: usize,
        disks: &[Arc<dyn BlockRead + 'a>],
    ) -> Result<Arc<dyn BlockRead + 'a>> {
        open_over(&self.volumes, index, disks)
    }

    /// As [`Stack::open`], to write as well: what is written goes to the disks below, to every copy.
    /// What cannot be written whole is refused; see [`disk_layout::volume`].
    ///
    /// # Errors
    /// As [`Stack::open`].
    pub fn open_rw<'a>(
        &self,
        index: usize,
        disks: &[Arc<dyn BlockWrite + 'a>],
    ) -> Result<Arc<dyn BlockWrite + 'a>> {
        let part = |disk: usize, range: Range<u64>| -> Result<Arc<dyn BlockWrite + 'a>> {
            let disk = disks.get(disk).ok_or_else(|| no_such(disk))?;
            Ok(Arc::new(Window::new(Arc::clone(disk), range)?))
        };
        descend(&self.volumes, index, &part, &|volume, members| {
            Arc::new(VolumeDisk::new(
                Arc::clone(&volume.map),
                members,
                &volume.name,
            ))
        })
    }
}

/// As [`Stack::open`], while the stack is still being built.
pub(super) fn open_over<'a>(
    volumes: &[StackVolume],
    index: usize,
    disks: &[Arc<dyn BlockRead + 'a>],
) -> Result<Arc<dyn BlockRead + 'a>> {
    let part = |disk: usize, range: Range<u64>| -> Result<Arc<dyn BlockRead + 'a>> {
        let disk = disks.get(disk).ok_or_else(|| no_such(disk))?;
        Ok(Arc::new(Window::new(Arc::clone(disk), range)?))
    };
    descend(volumes, index, &part, &|volume, members| {
        Arc::new(VolumeDisk::new(
            Arc::clone(&volume.map),
            members,
            &volume.name,
        ))
    })
}

/// A volume over its members, these over theirs. A volume's members come before it, so this ends.
fn descend<T>(
    volumes: &[StackVolume],
    index: usize,
    part: &dyn Fn(usize, Range<u64>) -> Result<T>,
    join: &dyn Fn(&StackVolume, Vec<T>) -> T,
) -> Result<T> {
    let below = volumes.get(..index).unwrap_or_default();
    let volume = volumes.get(index).ok_or_else(|| no_such(index))?;
    let mut members = Vec::new();
    for member in &volume.members {
        members.push(match member {
            Member::Partition { disk, range, .. } => part(*disk, range.clone())?,
            Member::Volume(other) => descend(below, *other, part, join)?,
        });
    }
    Ok(join(volume, members))
}

fn no_such(index: usize) -> BlockError {
    BlockError::new(BlockErrorKind::OutOfBounds, 0, 0)
        .detail(format!("the stack has no volume or disk number {index}"))
}
