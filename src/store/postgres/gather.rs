//! Small writes that would wait for each other, as one: what comes while one is under way is done by the next, in one
//! transaction. Alone, a write waits for nobody.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::fault::closed;
use crate::store::StoreError;

/// Done by one transaction at most.
const GATHERED_MAX: usize = 32;

type Done = oneshot::Sender<Result<(), StoreError>>;

/// Writes of one kind that wait, by the lane in which they would wait for each other. A lane that is there has a task.
pub(super) struct Gathering<T>(Mutex<HashMap<String, Vec<(T, Done)>>>);

impl<T> Default for Gathering<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Send + 'static> Gathering<T> {
    /// Has `write` do `item` in `lane`, with whatever else waits there. Who stops waiting takes back what was not begun.
    pub(super) async fn put<Writing>(
        self: &Arc<Self>,
        lane: String,
        item: T,
        write: impl Fn(Vec<T>) -> Writing + Send + 'static,
    ) -> Result<(), StoreError>
    where
        Writing: Future<Output = Result<(), StoreError>> + Send,
    {
        let (done, answer) = oneshot::channel();
        let is_first = {
            let mut lanes = self.lock();
            let is_first = !lanes.contains_key(&lane);
            lanes.entry(lane.clone()).or_default().push((item, done));
            is_first
        };
        if is_first {
            let mut lane = Lane { gathering: Arc::clone(self), name: lane, is_open: true };
            tokio::spawn(async move {
                while let Some((items, waiting)) = lane.next() {
                    let written = write(items).await;
                    for done in waiting {
                        let _ = done.send(written.as_ref().map(|&()| ()).map_err(StoreError::repeated));
                    }
                }
            });
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<(T, Done)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lane whose writes this does. It closes with its task, also where that panics or its runtime ends: who waits is told,
/// and who comes next begins another one.
struct Lane<T: Send + 'static> {
    gathering: Arc<Gathering<T>>,
    name: String,
    is_open: bool,
}

impl<T: Send + 'static> Lane<T> {
    /// What is to be done next, and who waits for it. The lane is closed where that is nothing.
    fn next(&mut self) -> Option<(Vec<T>, Vec<Done>)> {
        let mut lanes = self.gathering.lock();
        let waiting = lanes.get_mut(&self.name)?;
        waiting.retain(|(_, done)| !done.is_closed());
        if waiting.is_empty() {
            lanes.remove(&self.name);
            self.is_open = false;
            return None;
        }
        let rest = waiting.split_off(waiting.len().min(GATHERED_MAX));
        Some(std::mem::replace(waiting, rest).into_iter().unzip())
    }
}

impl<T: Send + 'static> Drop for Lane<T> {
    fn drop(&mut self) {
        if self.is_open {
            self.gathering.lock().remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{future::join_all, poll};
    use tokio::sync::{Notify, Semaphore};

    use super::*;

    /// A write with this one fails.
    const FAILS: usize = 1_013;
    /// A write with this one panics.
    const PANICS: usize = 1_099;

    /// What was written, a write each, and how many more may be.
    struct Double {
        written: Mutex<Vec<Vec<usize>>>,
        begun: Notify,
        allowed: Semaphore,
    }

    impl Double {
        fn new() -> Arc<Self> {
            Arc::new(Self { written: Mutex::default(), begun: Notify::new(), allowed: Semaphore::new(0) })
        }

        fn put<'a>(
            self: &Arc<Self>,
            gathering: &'a Arc<Gathering<usize>>,
            lane: &str,
            item: usize,
        ) -> impl Future<Output = Result<(), StoreError>> + 'a {
            let double = Arc::clone(self);
            let write = move |items: Vec<usize>| {
                let double = Arc::clone(&double);
                async move {
                    double.begun.notify_one();
                    double.allowed.acquire().await.unwrap().forget();
                    let fails = items.contains(&FAILS);
                    assert!(!items.contains(&PANICS), "a write that panics");
                    double.written.lock().unwrap().push(items);
                    if fails { Err(StoreError::Busy) } else { Ok(()) }
                }
            };
            gathering.put(lane.to_owned(), item, write)
        }

        fn written(&self) -> Vec<Vec<usize>> {
            self.written.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn what_comes_while_one_is_written_is_written_together() {
        let (gathering, double) = (Arc::<Gathering<usize>>::default(), Double::new());
        let mut first = Box::pin(double.put(&gathering, "a", 0));
        assert!(poll!(&mut first).is_pending());
        double.begun.notified().await;
        let mut others: Vec<_> =
            (1..=GATHERED_MAX + 2).map(|item| Box::pin(double.put(&gathering, "a", item))).collect();
        for other in &mut others {
            assert!(poll!(other).is_pending());
        }
        // Who stops waiting takes back what was not begun.
        drop(others.remove(0));
        // Another lane waits for nobody.
        let mut beside = Box::pin(double.put(&gathering, "b", 500));
        assert!(poll!(&mut beside).is_pending());
        double.begun.notified().await;
        double.allowed.add_permits(4);
        assert!(join_all(others).await.iter().all(Result::is_ok));
        first.await.unwrap();
        beside.await.unwrap();
        let mut written = double.written();
        written.sort();
        assert_eq!(written, [vec![0], (2..GATHERED_MAX + 2).collect(), vec![GATHERED_MAX + 2], vec![500]]);
        assert!(gathering.lock().is_empty());
    }

    #[tokio::test]
    async fn all_are_told_of_a_failure_and_the_next_begin_anew() {
        let (gathering, double) = (Arc::<Gathering<usize>>::default(), Double::new());
        double.allowed.add_permits(8);
        let (one, other) = tokio::join!(double.put(&gathering, "a", FAILS), double.put(&gathering, "a", 1));
        assert!(matches!(one, Err(StoreError::Busy)));
        assert_eq!(other.is_err(), double.written()[0].len() == 2);
        assert!(matches!(double.put(&gathering, "a", PANICS).await, Err(StoreError::Unavailable { .. })));
        double.put(&gathering, "a", 2).await.unwrap();
    }
}
