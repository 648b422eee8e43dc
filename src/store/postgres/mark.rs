//! What reads of a scope depend on. One statement answers all who asked before it was sent, so that many at once cost
//! hardly more than one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{mpsc, oneshot};

use super::transaction::Database;
use crate::store::{Mark, StoreError, view::View};

/// Answered by one statement at most.
const ASKED_MAX: usize = 256;

/// Someone asks.
struct Asked {
    view: View,
    /// Exactly who reads what only the session sees, where there is one.
    session: Option<String>,
    answer: oneshot::Sender<Result<Mark, StoreError>>,
}

/// The marks of one store. The task that reads them begins with the first question.
#[derive(Default)]
pub(super) struct Marks(Mutex<Option<mpsc::UnboundedSender<Asked>>>);

impl Marks {
    /// The mark of what `view` sees, as of a moment after this was called.
    pub(super) async fn get(&self, database: &Arc<Database>, view: View) -> Result<Mark, StoreError> {
        let (answer, answered) = oneshot::channel();
        let session = view.session_reader();
        let mut asked = Asked { view, session, answer };
        loop {
            let sender = self.sender(database);
            // The task ended with the runtime that it lived on: another one begins.
            match sender.send(asked) {
                Ok(()) => break,
                Err(back) => {
                    asked = back.0;
                    *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
            }
        }
        answered.await.unwrap_or_else(|_| Err(super::fault::closed()))
    }

    fn sender(&self, database: &Arc<Database>) -> mpsc::UnboundedSender<Asked> {
        let mut sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = sender.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(answer_all(Arc::downgrade(database), receiver));
            sender
        });
        sender.clone()
    }
}

async fn answer_all(database: Weak<Database>, mut questions: mpsc::UnboundedReceiver<Asked>) {
    let mut asked = Vec::new();
    while questions.recv_many(&mut asked, ASKED_MAX).await > 0 {
        let Some(database) = database.upgrade() else { return };
        let found = read(&database, &asked).await;
        for one in asked.drain(..) {
            let answer = match &found {
                Ok(values) => Ok(one.mark(values)),
                Err(error) => Err(error.repeated()),
            };
            // Whoever does not wait any more needs none.
            let _ = one.answer.send(answer);
        }
    }
}

impl Asked {
    fn audiences(&self) -> impl Iterator<Item = &String> {
        let view = &self.view;
        [&view.realm, &view.personal, &view.shared].into_iter().chain(&self.session)
    }

    fn mark(&self, values: &HashMap<String, i64>) -> Mark {
        let View { realm, personal, shared, .. } = &self.view;
        let of = |audience| values.get(audience).copied().unwrap_or(0);
        let twice = if personal == realm { 0 } else { of(personal) };
        let generation = of(realm).wrapping_add(twice).wrapping_add(of(shared));
        let has_session = self.session.as_ref().is_some_and(|session| values.contains_key(session));
        Mark { generation: generation.cast_unsigned(), has_session }
    }
}

/// The values of all that is asked for, by audience.
async fn read(database: &Database, asked: &[Asked]) -> Result<HashMap<String, i64>, StoreError> {
    let mut audiences: Vec<&str> = asked.iter().flat_map(Asked::audiences).map(String::as_str).collect();
    audiences.sort_unstable();
    audiences.dedup();
    let audiences = &audiences;
    let ask = || async move {
        let mut connection = database.waits.acquire(&database.pool).await?;
        sqlx::query_as("SELECT audience, value FROM tmws.generation WHERE audience = ANY ($1)")
            .bind(audiences)
            .fetch_all(&mut *connection)
            .await
    };
    let rows: Vec<(String, i64)> = database.on_a_live_one(ask).await?;
    Ok(rows.into_iter().collect())
}
