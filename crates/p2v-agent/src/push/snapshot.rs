//! How far a push has come: numbers for whoever shows them.

use std::time::Duration;

use stream_protocol::message::ByteRange;

use super::Job;

/// How far one disk has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSnapshot {
    /// What it is called.
    pub name: String,
    /// Bytes of the disk.
    pub whole: u64,
    /// Bytes in use on it.
    pub used: u64,
    /// Bytes to be read.
    pub to_read: u64,
    /// Bytes read.
    pub read: u64,
    /// Whether nothing more is read from it.
    pub complete: bool,
    /// Bytes that could not be read.
    pub unreadable: u64,
}

/// How far the whole push has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The disks in order.
    pub disks: Vec<DiskSnapshot>,
    /// Whether the converter has answered and the push is open.
    pub open: bool,
    /// Bytes read that were all zero, and need not be sent.
    pub zero_bytes: u64,
    /// Bytes read that hold something.
    pub fed_bytes: u64,
    /// Of those, bytes in chunks that the converter had before they were met.
    pub known_bytes: u64,
    /// Of those, bytes in chunks that it lacked.
    pub new_bytes: u64,
    /// Of those, bytes that the converter keeps for good.
    pub kept_bytes: u64,
    /// Bytes sent over the network, all protocols included.
    pub sent_bytes: u64,
    /// Bytes received from the network.
    pub received_bytes: u64,
    /// Since the start.
    pub elapsed: Duration,
    /// What goes wrong just now, while it is tried again.
    pub trouble: Option<String>,
}

impl Snapshot {
    pub(super) fn of(job: &Job) -> Self {
        let disks = job.open.disks.iter().zip(&job.sizes);
        Self {
            disks: disks
                .map(|(disk, sizes)| DiskSnapshot {
                    name: disk.name.clone(),
                    whole: sizes.whole,
                    used: sizes.used,
                    to_read: sizes.read,
                    read: 0,
                    complete: false,
                    unreadable: 0,
                })
                .collect(),
            open: false,
            zero_bytes: 0,
            fed_bytes: 0,
            known_bytes: 0,
            new_bytes: 0,
            kept_bytes: 0,
            sent_bytes: 0,
            received_bytes: 0,
            elapsed: Duration::ZERO,
            trouble: None,
        }
    }

    /// Bytes of all disks.
    #[must_use]
    pub fn whole_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.whole).sum()
    }

    /// Bytes in use on all disks.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.used).sum()
    }

    /// Bytes to be read of all disks.
    #[must_use]
    pub fn to_read(&self) -> u64 {
        self.disks.iter().map(|disk| disk.to_read).sum()
    }

    /// Bytes read of all disks.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.read).sum()
    }

    /// Bytes that were not read because nothing is there, and bytes read that were all zero.
    #[must_use]
    pub fn skipped_bytes(&self) -> u64 {
        let unused = self.whole_bytes().saturating_sub(self.used_bytes());
        unused.saturating_add(self.zero_bytes)
    }

    /// Bytes that were not sent because the same chunk was at the converter, or on its way.
    #[must_use]
    pub fn deduplicated_bytes(&self) -> u64 {
        let met_twice = self.fed_bytes.saturating_sub(self.new_bytes);
        match self.reading() {
            // While chunks are being asked for it is not known of all whether they are lacking.
            true => self.known_bytes.min(met_twice),
            false => met_twice,
        }
    }

    /// Whether some disk is still being read.
    #[must_use]
    pub fn reading(&self) -> bool {
        self.disks.iter().any(|disk| !disk.complete)
    }

    pub(super) fn read(&mut self, disk: u32, bytes: u64, zero: bool) {
        if zero {
            self.zero_bytes += bytes;
        }
        if let Some(disk) = self.disks.get_mut(disk as usize) {
            disk.read += bytes;
        }
    }

    pub(super) fn complete(&mut self, disk: u32) {
        if let Some(disk) = self.disks.get_mut(disk as usize) {
            disk.complete = true;
        }
    }

    pub(super) fn unreadable(&mut self, disk: u32, ranges: &[ByteRange]) {
        if let Some(disk) = self.disks.get_mut(disk as usize) {
            disk.unreadable = ranges.iter().map(|range| range.len).sum();
        }
    }
}
