//! Reading a long file of the guest as a stream that can skip.

use std::io::{self, BufRead, Read};

use filesystems::mounts::MountedTree;
use filesystems::path::GuestPath;
use filesystems::tree::FileTree;

/// Bytes read at once: large, because every read looks the path up.
const BUFFER: usize = 1 << 20;

/// A buffered reader of one file of the guest.
///
/// Its buffer never holds fewer than [`GuestFile::LOOK_AHEAD`] bytes where the file has as many, so
/// that magic numbers can be seen before they are consumed.
pub struct GuestFile<'a> {
    tree: &'a MountedTree,
    path: &'a GuestPath,
    size: u64,
    /// Where in the file the buffer starts.
    start: u64,
    buffer: Vec<u8>,
    read: usize,
}

impl<'a> GuestFile<'a> {
    /// Bytes that can always be seen ahead.
    pub const LOOK_AHEAD: usize = 64;

    /// Read the file at `path`, which is `size` bytes long.
    #[must_use]
    pub fn new(tree: &'a MountedTree, path: &'a GuestPath, size: u64) -> Self {
        Self {
            tree,
            path,
            size,
            start: 0,
            buffer: Vec::new(),
            read: 0,
        }
    }

    /// Where in the file the next byte comes from.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.start + self.read as u64
    }
}

impl Read for GuestFile<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buf.len());
        buf[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for GuestFile<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = self.buffer.len() - self.read;
        let end_of_buffer = self.start + self.buffer.len() as u64;
        if left < Self::LOOK_AHEAD && end_of_buffer < self.size {
            let position = self.position();
            let wanted = (self.size - position).min(BUFFER as u64) as usize;
            self.buffer.drain(..self.read);
            (self.start, self.read) = (position, 0);
            let mut filled = self.buffer.len();
            self.buffer.resize(wanted, 0);
            while filled < wanted {
                let at = position + filled as u64;
                let n = self
                    .tree
                    .read_at(self.path, at, &mut self.buffer[filled..])
                    .map_err(io::Error::other)?;
                if n == 0 {
                    // Shorter than its directory entry said.
                    self.size = at;
                    break;
                }
                filled += n;
            }
            self.buffer.truncate(filled);
        }
        Ok(&self.buffer[self.read..])
    }

    fn consume(&mut self, amount: usize) {
        self.read = (self.read + amount).min(self.buffer.len());
    }
}

/// A stream parts of which can be passed over.
pub trait Skip: BufRead {
    /// Pass over `amount` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` when there are not as many.
    fn skip(&mut self, mut amount: u64) -> io::Result<()> {
        while amount > 0 {
            let available = self.fill_buf()?.len();
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = (available as u64).min(amount);
            self.consume(step as usize);
            amount -= step;
        }
        Ok(())
    }
}

impl Skip for GuestFile<'_> {
    fn skip(&mut self, amount: u64) -> io::Result<()> {
        let left = (self.buffer.len() - self.read) as u64;
        if amount <= left {
            self.consume(amount as usize);
            return Ok(());
        }
        let target = self.position().saturating_add(amount);
        if target > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.clear();
        (self.start, self.read) = (target, 0);
        Ok(())
    }
}

impl<R: Read> Skip for io::BufReader<R> {}
