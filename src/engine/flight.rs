//! Equal concurrent reads run once.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

/// Flights by key. The first caller of a key leads: it does the work in its own future. Others wait for its result. A
/// leader that goes away (cancelled, or past its own deadline) leaves none; one of those who wait then leads.
#[derive(Debug)]
pub(super) struct Flights<K, T> {
    flying: Mutex<HashMap<K, watch::Receiver<Option<T>>>>,
    led: AtomicU64,
    landed: AtomicU64,
}

/// What a caller is to do.
pub(super) enum Turn<'a, K: Eq + Hash + Clone, T> {
    /// The work, then [`Lead::land`].
    Lead(Lead<'a, K, T>),
    /// Nothing: this is the result.
    Landed(T),
}

/// The right and duty to do the work. Dropped without landing, it passes to whoever waits.
pub(super) struct Lead<'a, K: Eq + Hash + Clone, T> {
    flights: &'a Flights<K, T>,
    key: K,
    sender: watch::Sender<Option<T>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { flying: Mutex::new(HashMap::new()), led: AtomicU64::new(0), landed: AtomicU64::new(0) }
    }
}

impl<K, T> Flights<K, T> {
    /// How many led, and how many got the result of another.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.led.load(Ordering::Relaxed), self.landed.load(Ordering::Relaxed))
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// Waits for a flight of `key`, or leads one. Safe to cancel.
    pub(super) async fn join(&self, key: &K) -> Turn<'_, K, T> {
        loop {
            let mut landing = {
                let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(landing) = flying.get(key) {
                    landing.clone()
                } else {
                    let (sender, landing) = watch::channel(None);
                    flying.insert(key.clone(), landing);
                    return Turn::Lead(Lead { flights: self, key: key.clone(), sender });
                }
            };
            if let Ok(result) = landing.wait_for(Option::is_some).await
                && let Some(result) = result.clone()
            {
                self.landed.fetch_add(1, Ordering::Relaxed);
                return Turn::Landed(result);
            }
            // The leader left: its entry is gone before its sender is, so the next turn leads or joins anew.
        }
    }
}

impl<K: Eq + Hash + Clone, T> Lead<'_, K, T> {
    /// The work begins: counted as a flight.
    pub(super) fn begin(&self) {
        self.flights.led.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing had to be done, the result is that of a flight elsewhere: counted as one that was shared.
    pub(super) fn spare(&self) {
        self.flights.landed.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives the result to all who wait.
    pub(super) fn land(self, result: T) {
        self.sender.send_replace(Some(result));
    }
}

impl<K: Eq + Hash + Clone, T> Drop for Lead<'_, K, T> {
    fn drop(&mut self) {
        self.flights.flying.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn equal_keys_fly_once_and_others_on_their_own() {
        let flights: Arc<Flights<u8, usize>> = Arc::default();
        let (runs, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let call = |key: u8| {
            let (flights, runs, release) = (Arc::clone(&flights), Arc::clone(&runs), Arc::clone(&release));
            tokio::spawn(async move {
                match flights.join(&key).await {
                    Turn::Landed(result) => result,
                    Turn::Lead(lead) => {
                        lead.begin();
                        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                        release.notified().await;
                        lead.land(run);
                        run
                    }
                }
            })
        };
        let calls = [call(1), call(1), call(1)];
        tokio::task::yield_now().await;
        release.notify_one();
        for call in calls {
            assert_eq!(call.await.unwrap(), 1);
        }
        let later = call(1);
        release.notify_one();
        assert_eq!(later.await.unwrap(), 2, "a result is shared, not kept");
        assert_eq!(flights.counts(), (2, 2));
        let Turn::Lead(lead) = flights.join(&2).await else { panic!("nobody flies") };
        lead.spare();
        lead.land(0);
        assert_eq!(flights.counts(), (2, 3), "another's flight");
    }

    #[tokio::test]
    async fn a_leader_that_leaves_is_replaced() {
        let flights: Arc<Flights<u8, usize>> = Arc::default();
        let Turn::Lead(first) = flights.join(&1).await else { panic!("nobody flies yet") };
        let waiting = {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move {
                match flights.join(&1).await {
                    Turn::Lead(lead) => {
                        lead.land(7);
                        true
                    }
                    Turn::Landed(_) => false,
                }
            })
        };
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap(), "who waited leads");
    }
}
