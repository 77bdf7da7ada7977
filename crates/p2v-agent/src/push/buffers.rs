//! The memory that disks are read into: a fixed number of large buffers, used again and again.
//!
//! A chunk is a slice of its buffer, uncopied, all the way to the compressor. A buffer comes back when
//! the last slice of it is gone, and the disks are read no faster than that. So however large the
//! disk and however slow the network, raw data takes no more memory than the buffers.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// All buffers.
#[derive(Debug, Clone)]
pub(super) struct Buffers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    size: usize,
    most: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Vec<u8>>,
    made: usize,
    closed: bool,
}

/// One buffer; it returns to where it came from when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    pub bytes: Vec<u8>,
    home: Arc<Shared>,
}

impl Buffers {
    /// `most` buffers of `size` bytes, each made when it is first needed.
    pub fn new(most: usize, size: usize) -> Self {
        Self(Arc::new(Shared {
            size,
            most: most.max(1),
            state: Mutex::default(),
            freed: Condvar::new(),
        }))
    }

    /// A buffer, its contents unspecified. Waits for one to come back if need be; `None` once closed.
    pub fn take(&self) -> Option<Buffer> {
        let shared = &self.0;
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.closed {
                return None;
            }
            let bytes = match state.free.pop() {
                Some(bytes) => bytes,
                None if state.made < shared.most => {
                    state.made += 1;
                    vec![0; shared.size]
                }
                None => {
                    let waited = shared.freed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let home = Arc::clone(shared);
            return Some(Buffer { bytes, home });
        }
    }

    /// Let everybody who waits for a buffer go home.
    pub fn close(&self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        self.0.freed.notify_all();
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = self
            .home
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.free.push(std::mem::take(&mut self.bytes));
        self.home.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_buffer_comes_back_with_its_last_slice() {
        let buffers = Buffers::new(1, 16);
        let whole = Bytes::from_owner(buffers.take().unwrap());
        let slice = whole.slice(3..5);
        drop(whole);
        let waiting = std::thread::spawn({
            let buffers = buffers.clone();
            move || buffers.take().map(|buffer| buffer.bytes.len())
        });
        assert_eq!(slice.len(), 2);
        drop(slice);
        assert_eq!(waiting.join().unwrap(), Some(16));
    }

    #[test]
    fn closing_ends_the_wait() {
        let buffers = Buffers::new(1, 16);
        let _held = buffers.take().unwrap();
        let waiting = std::thread::spawn({
            let buffers = buffers.clone();
            move || buffers.take().is_none()
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        buffers.close();
        assert!(waiting.join().unwrap());
    }
}
