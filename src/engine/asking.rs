//! Questions of a run: those that it waits for, and those that end it until their answers are at hand.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;

use super::{Answer, Asker, NotAnswered, Question};

/// One of those that a number counts, for as long as it lives.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// One more.
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What steps ask: a question that gets its answer only when the run is made again is waited for without end, and
/// counted. The run ends when all that is left waits so.
pub(super) struct Suspending {
    asker: Arc<dyn Asker>,
    waiting: Arc<AtomicUsize>,
}

impl Suspending {
    /// Asks through `asker`, counting in `waiting`.
    pub(super) fn new(asker: Arc<dyn Asker>, waiting: Arc<AtomicUsize>) -> Self {
        Self { asker, waiting }
    }
}

#[async_trait]
impl Asker for Suspending {
    async fn ask(&self, key: &str, question: Question) -> Result<Answer, NotAnswered> {
        match self.asker.ask(key, question).await {
            Err(NotAnswered::Later) => {
                let _waiting = Counted::new(&self.waiting);
                pending().await
            }
            answered => answered,
        }
    }

    fn completes(&self) -> bool {
        self.asker.completes()
    }
}
