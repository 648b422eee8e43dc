//! Answers that are kept: the first layer in this process, the second one in Redis, shared by all instances.
//!
//! A cache is never asked whether it may answer: the key says all that an answer depends on, the scope first of all, and
//! an entry that read memories carries the generation that it saw, which whoever asks compares. So nothing is ever
//! answered from a cache that a run would not answer now; the layers only differ in what they spare.

mod frame;
mod key;
mod layer;
mod layered;
pub mod redis;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;

pub use key::Key;
pub use layer::{Invalidation, Lease, SecondLayer, Told};
pub use layered::{Cache, Wanted};

/// What notes of a call begin with that tell of Redis. It never changes an answer.
pub const REDIS_NOTE: &str = "redis cache: ";

/// What can be kept.
pub trait Value: Send + Sync + Sized + 'static {
    /// As bytes that another version of the program tells from its own.
    fn encode(&self) -> Vec<u8>;

    /// From such bytes; `None` where another version or somebody else wrote them.
    fn decode(bytes: &[u8]) -> Option<Self>;

    /// Bytes of memory that it takes, roughly.
    fn weight(&self) -> usize;
}

/// One kept answer.
#[derive(Debug)]
pub struct Entry<V> {
    /// The answer.
    pub value: Arc<V>,
    /// What [`crate::store::Store::generation`] said before it was made, where it read memories.
    pub generation: Option<u64>,
    /// Not to be used from then on.
    pub expires: Timestamp,
}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), generation: self.generation, expires: self.expires }
    }
}

/// Where an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// In this process.
    Local,
    /// In Redis.
    Shared,
}

impl Layer {
    /// As told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Shared => "shared",
        }
    }
}

/// Bounds of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes of the first layer; 0: nothing is kept.
    pub local_bytes_max: usize,
    /// Bytes of one value in the second layer.
    pub value_bytes_max: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { local_bytes_max: 64 << 20, value_bytes_max: 1 << 20 }
    }
}

/// What a cache counted since its process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Answers found in the first layer, and of good generation.
    pub local_hits: u64,
    /// Answers found in the second layer, likewise.
    pub shared_hits: u64,
    /// Lookups in vain, also those that another instance's run answered afterwards.
    pub misses: u64,
    /// Of these, those that found an entry of an older generation.
    pub stale: u64,
    /// Entries put.
    pub fills: u64,
    /// Entries that the second layer told to drop.
    pub invalidations: u64,
    /// Entries that made room for others, or outlived themselves.
    pub evictions: u64,
    /// Entries now, and their bytes.
    pub entries: u64,
    /// As above.
    pub bytes: u64,
}
