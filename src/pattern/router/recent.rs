//! What was made lately and may be needed again, in bounded memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

type Half<T> = HashMap<u32, Arc<T>>;

/// Keeps the last used values, at most twice `HALF`.
#[derive(Debug)]
pub(super) struct Recent<T, const HALF: usize> {
    halves: Mutex<(Half<T>, Half<T>)>,
}

impl<T, const HALF: usize> Default for Recent<T, HALF> {
    fn default() -> Self {
        Self { halves: Mutex::default() }
    }
}

impl<T, const HALF: usize> Recent<T, HALF> {
    /// The value of `key`, made by `make` where it is not there (any more).
    pub(super) fn get(&self, key: usize, make: impl FnOnce() -> T) -> Arc<T> {
        let key = key as u32;
        if let Some(known) = self.known(key) {
            return known;
        }
        // Outside the lock: two may make the same, and one of them wins.
        let value = Arc::new(make());
        self.keep(key, value.clone());
        value
    }

    fn known(&self, key: u32) -> Option<Arc<T>> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = halves.0.get(&key) {
            return Some(known.clone());
        }
        let known = halves.1.remove(&key)?;
        halves.0.insert(key, known.clone());
        Some(known)
    }

    fn keep(&self, key: u32, value: Arc<T>) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.0.len() >= HALF {
            halves.1 = std::mem::take(&mut halves.0);
        }
        halves.0.insert(key, value);
    }
}
