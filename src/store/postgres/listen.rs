//! Listening for what any process commits, on a connection of its own, for as long as anybody wants to know.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    Executor as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

use super::transaction::Database;
use crate::store::{Change, Changes};

/// The channel that `tmws.bump` notifies.
const CHANNEL: &str = "tmws_changed";
/// Changes kept for a subscriber that is slow; one that misses more is told that anything may have changed.
const KEPT: usize = 1_024;
/// After so long without a word the connection is looked at.
const QUIET: Duration = Duration::from_secs(15);
/// Longest wait for an answer then.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Pauses between tries to listen again: they double up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where the changes come from: a task that lives while there are subscribers.
pub(super) struct Listening {
    connect: PgConnectOptions,
    sender: Mutex<Option<broadcast::Sender<Change>>>,
    ended: CancellationToken,
}

impl Listening {
    pub(super) fn new(connect: PgConnectOptions) -> Arc<Self> {
        Arc::new(Self { connect, sender: Mutex::default(), ended: CancellationToken::new() })
    }

    /// A subscription; the first one starts the task. It is told [`Change::Everything`] when listening has begun.
    pub(super) fn subscribe(self: &Arc<Self>, database: &Arc<Database>) -> Changes {
        let mut kept = self.lock();
        if let Some(sender) = &*kept {
            return Changes(sender.subscribe());
        }
        let (sender, receiver) = broadcast::channel(KEPT);
        if !self.ended.is_cancelled() {
            *kept = Some(sender.clone());
            let (listening, database) = (Arc::clone(self), Arc::clone(database));
            tokio::spawn(async move {
                let run = listening.run(&database, &sender);
                listening.ended.run_until_cancelled(run).await;
                // Whoever still waits is told that it is over.
                listening.lock().take_if(|kept| kept.same_channel(&sender));
            });
        }
        Changes(receiver)
    }

    /// Ends the task and every subscription.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<broadcast::Sender<Change>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody subscribes any more; then no more changes are to be had from `sender`.
    fn is_over(&self, sender: &broadcast::Sender<Change>) -> bool {
        let mut kept = self.lock();
        let over = sender.receiver_count() == 0;
        if over {
            kept.take();
        }
        over
    }

    async fn run(&self, database: &Database, sender: &broadcast::Sender<Change>) {
        let mut pause = PAUSE;
        while !self.is_over(sender) {
            match self.listen().await {
                Ok(mut listener) => {
                    pause = PAUSE;
                    // What was committed before is not told any more.
                    let _ = sender.send(Change::Everything);
                    if self.forward(&mut listener, sender).await {
                        return;
                    }
                    let _ = sender.send(Change::Everything);
                }
                Err(error) => {
                    let error = database.told(error);
                    tracing::debug!(%error, "changes cannot be listened for; trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        // A pool of its own: the other's connections are for calls.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ANSWER_MAX)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(self.connect.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    /// Tells what comes until the connection is lost (`false`) or nobody listens any more (`true`).
    async fn forward(&self, listener: &mut PgListener, sender: &broadcast::Sender<Change>) -> bool {
        loop {
            match timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => {
                    // Nobody may be listening; that is looked at below.
                    let _ = sender.send(change(notification.payload()));
                }
                Ok(Ok(None) | Err(_)) => return false,
                Err(_) => {
                    if !matches!(timeout(ANSWER_MAX, listener.execute("SELECT 1")).await, Ok(Ok(_))) {
                        return false;
                    }
                }
            }
            if self.is_over(sender) {
                return true;
            }
        }
    }
}

/// What a notification says; whoever else may notify on our channel can at most make somebody read anew.
fn change(payload: &str) -> Change {
    let written = payload.split_once(' ').and_then(|(audience, generation)| {
        Some(Change::Written { audience: audience.to_owned(), generation: generation.parse().ok()? })
    });
    written.unwrap_or(Change::Everything)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_that_is_not_ours_means_everything() {
        let written = Change::Written { audience: "p12".into(), generation: 7 };
        for (payload, expected) in [
            ("p12 7", written),
            ("p12", Change::Everything),
            ("p12 x", Change::Everything),
            ("", Change::Everything),
        ] {
            assert_eq!(change(payload), expected, "{payload:?}");
        }
    }
}
