//! The simulated disk as a process sees it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::state::{Change, Node, State};
use crate::files::{Files, Held, StoredFile};
use crate::sync::lock;

/// The files of one process.
#[derive(Debug)]
pub(super) struct SimFiles {
    state: Arc<Mutex<State>>,
    epoch: u64,
}

impl SimFiles {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        let epoch = lock(&state).epoch;
        Self { state, epoch }
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        alive(&self.state, self.epoch)
    }

    /// The state for a call that changes something.
    fn changing(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.alive()?;
        if count_down(&mut state) {
            return Err(power_is_off());
        }
        Ok(state)
    }

    fn hold(&self, path: &str) -> Held {
        Box::new(SimLock {
            state: Arc::clone(&self.state),
            epoch: self.epoch,
            path: path.to_owned(),
        })
    }

    fn handle(&self, inode: u64, path: &str) -> Arc<dyn StoredFile> {
        Arc::new(SimFile {
            state: Arc::clone(&self.state),
            epoch: self.epoch,
            inode,
            path: path.to_owned(),
        })
    }
}

impl Files for SimFiles {
    fn create(&self, path: &str) -> io::Result<Arc<dyn StoredFile>> {
        let inode = self.changing()?.create(path)?;
        Ok(self.handle(inode, path))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn StoredFile>> {
        let node = self.alive()?.node(path);
        match node {
            Some(Node::File(inode)) => Ok(self.handle(inode, path)),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.changing()?.create_dir(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.alive()?;
        match state.node(dir) {
            Some(Node::Dir) => Ok(state.names_in(dir)),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.changing()?.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.changing()?.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.changing()?;
        let often = state.faults.sync;
        if state.rng.per_mille(often) {
            return Err(medium_error());
        }
        state.sync_dir(dir);
        Ok(())
    }

    fn lock(&self, path: &str) -> io::Result<Option<Held>> {
        let mut state = self.alive()?;
        if state.locked.contains_key(path) {
            return Ok(None);
        }
        if state.node(path).is_none() {
            state.create(path)?;
        }
        state.locked.insert(path.to_owned(), EXCLUSIVE);
        Ok(Some(self.hold(path)))
    }

    fn lock_shared(&self, path: &str) -> io::Result<Option<Held>> {
        let mut state = self.alive()?;
        if state.node(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let held = state.locked.entry(path.to_owned()).or_insert(0);
        if *held == EXCLUSIVE {
            return Ok(None);
        }
        *held += 1;
        Ok(Some(self.hold(path)))
    }
}

/// The count of a lock that is not shared.
const EXCLUSIVE: usize = usize::MAX;

struct SimLock {
    state: Arc<Mutex<State>>,
    epoch: u64,
    path: String,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.epoch != self.epoch {
            return;
        }
        match state.locked.get_mut(&self.path) {
            Some(held) if *held != EXCLUSIVE && *held > 1 => *held -= 1,
            _ => {
                state.locked.remove(&self.path);
            }
        }
    }
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    epoch: u64,
    inode: u64,
    path: String,
}

impl SimFile {
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        alive(&self.state, self.epoch)
    }

    fn seen<'s>(&self, state: &'s State) -> io::Result<&'s Vec<u8>> {
        let inode = state.inodes.get(&self.inode);
        inode
            .map(|inode| &inode.now)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl StoredFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.alive()?;
        Ok(self.seen(&state)?.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.alive()?;
        let often = state.faults.read;
        if state.rng.per_mille(often) {
            return Err(medium_error());
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.seen(&state)?;
        match bytes.get(from..from.saturating_add(buf.len())) {
            Some(found) => {
                buf.copy_from_slice(found);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.alive()?;
        let off = count_down(&mut state);
        let often = state.faults.write;
        let failed = !off && state.rng.per_mille(often);
        let end = offset.saturating_add(data.len() as u64);
        let growth = end.saturating_sub(self.seen(&state)?.len() as u64);
        let room = state.capacity.map(|all| all.saturating_sub(state.used()));
        let full = room.is_some_and(|room| growth > room);
        let written = if off || failed {
            state.rng.below(data.len() as u64 + 1)
        } else if full {
            // What fits is written, as write(2) does.
            data.len() as u64 - (growth - room.unwrap_or(0)).min(data.len() as u64)
        } else {
            data.len() as u64
        };
        if written > 0 {
            let data = data.get(..written as usize).unwrap_or(data).to_vec();
            state.change(self.inode, Change::Write { offset, data });
        }
        match (off, failed, full) {
            (true, _, _) => Err(power_is_off()),
            (_, true, _) => Err(medium_error()),
            (_, _, true) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        if count_down(&mut state) {
            return Err(power_is_off());
        }
        state.change(self.inode, Change::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        if count_down(&mut state) {
            return Err(power_is_off());
        }
        let ignored = state.ignored_syncs.as_deref();
        if ignored.is_some_and(|prefix| self.path.starts_with(prefix)) {
            return Ok(());
        }
        let often = state.faults.sync;
        if state.rng.per_mille(often) {
            state.fail_sync(self.inode);
            return Err(medium_error());
        }
        state.sync(self.inode);
        Ok(())
    }
}

/// The state, if the process of `epoch` still runs and the power is on.
fn alive(state: &Mutex<State>, epoch: u64) -> io::Result<MutexGuard<'_, State>> {
    let state = lock(state);
    if state.epoch != epoch {
        return Err(io::Error::other("the process was killed"));
    }
    if state.off {
        return Err(power_is_off());
    }
    Ok(state)
}

/// Count a changing call. Answers whether the power goes off in it.
fn count_down(state: &mut State) -> bool {
    state.calls += 1;
    match state.off_in.as_mut() {
        Some(0 | 1) => {
            state.off = true;
            true
        }
        Some(calls) => {
            *calls -= 1;
            false
        }
        None => false,
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

fn medium_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}
