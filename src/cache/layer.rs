//! What the first layer knows of the second.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast::Receiver;

use super::Key;

/// Something in the second layer changed, by whatever instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The entry under this digest: see [`Key::digest`].
    Entry([u8; 32]),
    /// What happened meanwhile is unknown: any entry may have changed.
    Everything,
}

/// The right to make what others wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It is ours; the number grows with every lease of the key, so that what an earlier holder puts late is refused.
    Taken(u64),
    /// Another instance makes it.
    Held,
    /// There is nobody to ask: make it.
    Unavailable,
}

/// How the second layer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nobody has needed it yet, or it is being connected for the first time.
    Unused,
    /// It works.
    Well,
    /// It does not; why, without address and password.
    Ailing(String),
}

/// Bytes by key, shared by all instances. Every method answers within what it is given, and a failure is an answer: the
/// cache works without.
#[async_trait]
pub trait SecondLayer: Send + Sync {
    /// The bytes under `key`, or `None` where there are none, or it cannot be asked within `within`.
    async fn get(&self, key: &Key, within: Duration) -> Option<Vec<u8>>;

    /// Keeps `bytes` for `ttl`. With the number of a lease: only while no later one was taken. Whether it is kept.
    async fn put(
        &self,
        key: &Key,
        bytes: Vec<u8>,
        ttl: Duration,
        lease: Option<u64>,
        within: Duration,
    ) -> bool;

    /// Asks to make what is under `key`, for `length` at most.
    async fn lease(&self, key: &Key, length: Duration, within: Duration) -> Lease;

    /// Gives a lease back before its time.
    async fn give_back(&self, key: &Key, lease: u64, within: Duration);

    /// Tells what changed from now on. After [`Invalidation::Everything`] whatever was read before is to be dropped, and
    /// so it is where the receiver lags. What is put here is not told here, except that what is put under a lease may be.
    fn invalidations(&self) -> Receiver<Invalidation>;

    /// How it stands, without looking.
    fn told(&self) -> Told;

    /// Closes its connections.
    async fn close(&self);
}
