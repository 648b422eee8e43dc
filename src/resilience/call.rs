//! What a call takes along to each backend, however deep it asks: until when it can wait, whose it is, and an account of
//! what it met.
//!
//! All are of the task: work that is handed to another task has none.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::time::{error::Elapsed, timeout_at};

/// Different things that one account tells of.
const NOTES_MAX: usize = 16;

tokio::task_local! {
    static DEADLINE: Instant;
    static CALLER: Caller;
    static ACCOUNT: Arc<Account>;
}

#[derive(Default)]
struct Account(Mutex<BTreeSet<String>>);

impl Account {
    fn notes(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does `work`, none of whose waits on a backend goes beyond `deadline`, nor beyond that of what surrounds it.
pub async fn until<T>(deadline: Instant, work: impl Future<Output = T>) -> T {
    let outer = self::deadline();
    DEADLINE.scope(outer.map_or(deadline, |outer| outer.min(deadline)), work).await
}

/// Does `work` as [`until`] does, and gives it up at `deadline`.
///
/// # Errors
/// It had not ended then.
pub async fn by<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout_at(deadline.into(), until(deadline, work)).await
}

/// Until when the call that is served can wait; `None` where nobody said.
#[must_use]
pub fn deadline() -> Option<Instant> {
    DEADLINE.try_with(|deadline| *deadline).ok()
}

/// Whose call is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) connection: u64,
    /// Its name within the connection.
    pub(super) call: u64,
}

/// Does `work` for a call of a connection that may have a bounded number of them: of any one backend it gets no more than
/// what one connection may have.
pub async fn on_behalf_of<T>(connection: u64, call: u64, work: impl Future<Output = T>) -> T {
    CALLER.scope(Caller { connection, call }, work).await
}

/// Whose call is served; `None` where nobody said.
pub(super) fn caller() -> Option<Caller> {
    CALLER.try_with(|caller| *caller).ok()
}

/// Does `work` with an account of its own, and gives what was [noted](note) in it, in the order of the alphabet.
pub async fn accounted<T>(work: impl Future<Output = T>) -> (T, Vec<String>) {
    let account = Arc::<Account>::default();
    let output = ACCOUNT.scope(Arc::clone(&account), work).await;
    let notes = std::mem::take(&mut *account.notes());
    (output, notes.into_iter().collect())
}

/// Notes in the account of the call that is served, where there is one, that something was not as it should be:
/// `database store: open`. For everybody to read.
pub fn note(what: impl Into<String>) {
    let _ = ACCOUNT.try_with(|account| {
        let mut notes = account.notes();
        if notes.len() < NOTES_MAX {
            notes.insert(what.into());
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_nearest_deadline_holds() {
        let now = Instant::now();
        let (near, far) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        assert_eq!(deadline(), None);
        for (outer, inner) in [(near, far), (far, near)] {
            let held = until(outer, until(inner, async { deadline() })).await;
            assert_eq!(held, Some(near));
        }
    }

    #[tokio::test]
    async fn each_call_has_an_account_of_its_own() {
        note("nobody listens");
        let (inner, notes) = accounted(async {
            note("b");
            let inner = accounted(async { note("own") }).await.1;
            note("a");
            note("b");
            inner
        })
        .await;
        assert_eq!((inner, notes), (vec!["own".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
        let ((), notes) = accounted(async { (0..100).for_each(|n| note(n.to_string())) }).await;
        assert_eq!(notes.len(), NOTES_MAX);
    }
}
