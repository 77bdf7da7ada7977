//! A small bounded cache of tables, shared by the threads that read an image.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps the values used last, at most so many.
#[derive(Debug)]
pub(crate) struct TableCache<V> {
    capacity: usize,
    state: Mutex<State<V>>,
}

#[derive(Debug)]
struct State<V> {
    clock: u64,
    slots: HashMap<u64, (u64, Arc<V>)>,
}

impl<V> TableCache<V> {
    /// A cache of at most `capacity` values, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            state: Mutex::new(State {
                clock: 0,
                slots: HashMap::new(),
            }),
        }
    }

    /// The value of `key`, loaded where it is not there. Loading happens outside the lock: two
    /// threads may load the same value, none waits for another's disk.
    pub(crate) fn get<E>(
        &self,
        key: u64,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, E> {
        if let Some(found) = self.find(key) {
            return Ok(found);
        }
        let value = Arc::new(load()?);
        self.insert(key, &value);
        Ok(value)
    }

    fn find(&self, key: u64) -> Option<Arc<V>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        let (used, value) = state.slots.get_mut(&key)?;
        *used = now;
        Some(Arc::clone(value))
    }

    fn insert(&self, key: u64, value: &Arc<V>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.slots.len() >= self.capacity {
            // The capacity is a few hundred: a scan is cheaper than keeping order at every hit.
            let oldest = state.slots.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                state.slots.remove(&oldest);
            }
        }
        let now = state.clock;
        state.slots.insert(key, (now, Arc::clone(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_not_used_for_longest_makes_room() {
        let cache = TableCache::new(2);
        let load = |value: u64| cache.get(value, || Ok::<_, ()>(value)).unwrap();
        load(1);
        load(2);
        load(1);
        load(3);
        let loaded = std::cell::Cell::new(0);
        for (key, loads) in [(1, 0), (3, 0), (2, 1)] {
            cache
                .get(key, || {
                    loaded.set(loaded.get() + 1);
                    Ok::<_, ()>(key)
                })
                .unwrap();
            assert_eq!(loaded.get(), loads, "{key}");
        }
    }
}
