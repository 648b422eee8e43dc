//! The door in front of one backend: the breaker, and places for a bounded number of calls.
//!
//! Places are of each backend alone, so that calls that hang in one take nothing from those of another. Who finds all
//! taken waits, with a bounded number of others, until its deadline or until the breaker opens. A connection may have a
//! bounded number of calls in one backend, those with them that wait, so that others of it find room for theirs.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::timeout_at,
};

use super::{
    Backend, BackendKind, Breaker, BreakerSettings, BreakerState, Permit, Refused, Standing,
    breaker::TOLD_FOR,
    call,
    visits::{Visit, Visits},
};

/// Of the patience, a wait must be this part to count as silence.
const SHORTEST: u32 = 10;
/// When it is worth asking again where there was no place.
const CROWDED: Duration = Duration::from_millis(200);

/// How one kind of backend is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// When the breaker opens.
    pub breaker: BreakerSettings,
    /// Calls at once.
    pub at_once: usize,
    /// Calls that wait for a place.
    pub queue: usize,
    /// A call that was given up after so long without an answer counts as a failure of the backend. One that was given up
    /// sooner does so too, once the backend was asked for so long and answered nobody.
    pub patience: Duration,
    /// Calls of one connection, those with them that wait. Further ones wait until one of these has ended, for
    /// [`grace`](Self::grace) at most: a burst goes through a backend that is quick, and one that hangs holds no more.
    pub per_connection: usize,
    /// See [`per_connection`](Self::per_connection).
    pub grace: Duration,
}

impl BackendKind {
    /// How such a backend is guarded where nobody says otherwise.
    #[must_use]
    pub const fn settings(self) -> GuardSettings {
        let (failures, pause, at_once, queue, patience, per_connection, grace) = match self {
            // Failures in a row, pause in ms, calls at once, calls that wait, patience in ms, calls of a connection, grace in ms.
            Self::Database => (5, 250, 64, 512, 1_000, 48, 2_000),
            // Its breaker alone is used: commands share connections, and have bounds of their own.
            Self::Redis => (5, 1_000, 0, 0, 0, 0, 0),
            // As many failures as places: where calls hang in all of them, it is known.
            Self::Source => (4, 1_000, 4, 64, 2_000, 16, 500),
            Self::Server => (5, 1_000, 32, 64, 2_000, 16, 500),
            Self::Model => (5, 30_000, 8, 32, 5_000, 16, 500),
            Self::Host => (5, 2_000, 16, 64, 2_000, 16, 500),
        };
        GuardSettings {
            breaker: BreakerSettings { failures, pause: Duration::from_millis(pause) },
            at_once,
            queue,
            patience: Duration::from_millis(patience),
            per_connection,
            grace: Duration::from_millis(grace),
        }
    }
}

/// The door in front of one backend.
#[derive(Debug)]
pub struct Guard {
    backend: Backend,
    settings: GuardSettings,
    breaker: Arc<Breaker>,
    places: Semaphore,
    visits: Visits,
    waiting: AtomicUsize,
    retries: AtomicU64,
    /// Until when whoever keeps its connections makes none, beside what the breaker says.
    alone: Mutex<Option<Instant>>,
    /// Told when the breaker opens: who waits for a place waits in vain.
    opened: Notify,
    silence: Mutex<Silence>,
}

/// How long it was asked in vain since it last answered anybody.
#[derive(Debug, Default)]
struct Silence {
    lasted: Duration,
    /// What was waited before this is counted, or was before the last answer: what waits at the same time counts once.
    from: Option<Instant>,
}

impl Silence {
    /// Somebody waited from `begun` until `now`. How long it lasts now.
    fn add(&mut self, begun: Instant, now: Instant) -> Duration {
        let from = self.from.map_or(begun, |from| from.max(begun));
        self.lasted += now.saturating_duration_since(from);
        self.from = Some(now);
        self.lasted
    }
}

/// Why a call was not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shut {
    /// What it asked for.
    pub backend: Backend,
    /// Whether the backend is asked too much, rather than in trouble.
    pub is_busy: bool,
    /// Worth asking again after so long.
    pub retry_after: Duration,
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, is_busy, retry_after } = self;
        let millis = retry_after.as_millis().max(1);
        if *is_busy {
            write!(f, "too many calls wait for the {backend}; try again in {millis} ms")
        } else {
            write!(
                f,
                "the {backend} failed several times and is left alone for now; try again in {millis} ms"
            )
        }
    }
}

/// A place, and the leave to try once. To be told how it went; dropped untold, it was [given up](Entry::give_up).
#[derive(Debug)]
#[must_use = "a call that is not told how it went may count as a failure"]
pub struct Entry<'a> {
    guard: &'a Guard,
    permit: Option<Permit<'a>>,
    _place: SemaphorePermit<'a>,
    _visit: Option<Visit<'a>>,
    begun: Instant,
}

/// Counts one who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guard {
    /// A closed breaker and free places.
    #[must_use]
    pub fn new(backend: Backend, settings: GuardSettings) -> Self {
        Self {
            backend,
            settings,
            breaker: Arc::new(Breaker::new(settings.breaker)),
            places: Semaphore::new(settings.at_once),
            visits: Visits::new(settings.per_connection),
            waiting: AtomicUsize::new(0),
            retries: AtomicU64::new(0),
            alone: Mutex::default(),
            opened: Notify::new(),
            silence: Mutex::default(),
        }
    }

    /// What it stands before.
    #[must_use]
    pub const fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Its breaker.
    #[must_use]
    pub const fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    /// Asks for a place and the leave to try. Waits until `deadline` at most.
    ///
    /// # Errors
    /// [`Shut`], which the account of the call is told of.
    pub async fn enter(&self, deadline: Instant) -> Result<Entry<'_>, Shut> {
        if let Some(retry_after) = self.breaker.shut(Instant::now()) {
            self.breaker.count_refusal();
            return Err(self.shut(retry_after));
        }
        let mut visit = call::caller().map(|caller| self.visits.visit(caller));
        if let Some(visit) = &mut visit
            && !visit.has_room()
        {
            let until = deadline.min(Instant::now() + self.settings.grace);
            self.wait(until, visit.wait()).await?;
        }
        let place = match self.places.try_acquire() {
            Ok(place) => place,
            // None closes them.
            Err(_) => self.wait(deadline, self.places.acquire()).await?.map_err(|_| self.crowded())?,
        };
        let begun = Instant::now();
        let admitted = self.breaker.admit(begun);
        let permit = admitted.map_err(|Refused { retry_after }| self.shut(retry_after))?;
        Ok(Entry { guard: self, permit: Some(permit), _place: place, _visit: visit, begun })
    }

    /// Waits for `what`, with a bounded number of others.
    async fn wait<T>(&self, until: Instant, what: impl Future<Output = T>) -> Result<T, Shut> {
        let opened = self.opened.notified();
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.settings.queue {
            return Err(self.crowded());
        }
        tokio::select! {
            biased;
            () = opened => {
                self.breaker.count_refusal();
                Err(self.shut(self.breaker.shut(Instant::now()).unwrap_or(CROWDED)))
            }
            waited = timeout_at(until.into(), what) => waited.map_err(|_| self.crowded()),
        }
    }

    fn shut(&self, retry_after: Duration) -> Shut {
        call::note(format!("{}: open", self.backend));
        Shut { backend: self.backend.clone(), is_busy: false, retry_after }
    }

    fn crowded(&self) -> Shut {
        self.breaker.count_refusal();
        call::note(format!("{}: busy", self.backend));
        Shut { backend: self.backend.clone(), is_busy: true, retry_after: CROWDED }
    }

    /// Something that was asked is asked again.
    pub fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        let counts = self.breaker.counts();
        let alone = *self.alone();
        let is_left_alone = alone.is_some_and(|until| now < until + TOLD_FOR);
        Standing {
            backend: self.backend.clone(),
            breaker: self.breaker.now(now),
            is_ailing: self.breaker.is_ailing(now) || is_left_alone,
            is_left_alone,
            retry_after: self.breaker.shut(now).or_else(|| alone?.checked_duration_since(now)),
            failures: counts.failures,
            opened: counts.opened,
            refused: counts.refused,
            in_use: self.settings.at_once.saturating_sub(self.places.available_permits()),
            waiting: self.waiting.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }

    fn failed(&self, permit: Permit<'_>, pause: Option<Duration>, why: &str) -> bool {
        let is_probe = permit.is_probe();
        let opens = permit.fail(Instant::now(), pause);
        if opens {
            // Once for each time that it stops working: a probe that fails is nothing new.
            if !is_probe {
                tracing::warn!(backend = %self.backend, why, "a backend failed and is left alone for a while");
            }
            self.opened.notify_waiters();
        }
        opens
    }

    /// A connection could not be made, and for `pause` none will be.
    pub fn leave_alone(&self, pause: Duration, why: &str) {
        let before = self.alone().replace(Instant::now() + pause);
        if before.is_none() {
            tracing::warn!(backend = %self.backend, why, "a backend failed and is left alone for a while");
        }
    }

    fn alone(&self) -> MutexGuard<'_, Option<Instant>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry<'_> {
    /// The backend answered, whatever it said.
    pub fn succeed(mut self) {
        let Some(permit) = self.permit.take() else { return };
        *self.guard.silence() = Silence { lasted: Duration::ZERO, from: Some(Instant::now()) };
        let was_alone = self.guard.alone().take().is_some();
        if was_alone || self.guard.breaker.now(Instant::now()) != BreakerState::Closed {
            tracing::info!(backend = %self.guard.backend, "a backend works again");
        }
        permit.succeed();
    }

    /// The backend failed. `pause`: as for [`Permit::fail`]; `why` goes to the log. Whether the breaker opened by this.
    pub fn fail(mut self, pause: Option<Duration>, why: &str) -> bool {
        call::note(format!("{}: failed", self.guard.backend));
        let Some(permit) = self.permit.take() else { return false };
        self.guard.failed(permit, pause, why)
    }

    /// The backend was not asked: whoever keeps its connections makes none for `rest`, since one failed.
    pub fn turn_away(mut self, rest: Duration, why: &str) {
        // It says nothing new.
        drop(self.permit.take());
        self.guard.leave_alone(rest, why);
        self.guard.breaker.count_refusal();
        call::note(format!("{}: left alone", self.guard.backend));
    }

    /// It says nothing of the backend: that was not asked, or something else was waited for.
    pub fn dismiss(mut self) {
        drop(self.permit.take());
    }

    /// The backend did not answer in all the time that it is given. As [`fail`](Self::fail), but slow.
    pub fn time_out(mut self, why: &str) -> bool {
        self.note_slow();
        let Some(permit) = self.permit.take() else { return false };
        self.guard.failed(permit, None, why)
    }

    /// Nobody waits any longer, and the backend had not answered. A failure where it had time enough for that, or was asked
    /// for so long, by this and others, and answered none of them: then whether the breaker opened by this.
    pub fn give_up(mut self) -> bool {
        self.note_slow();
        self.leave()
    }

    /// Nobody waits any longer for what somebody else asks of it, who tells how that goes.
    pub fn give_up_waiting(mut self) {
        self.note_slow();
        drop(self.permit.take());
    }

    fn note_slow(&self) {
        call::note(format!("{}: slow", self.guard.backend));
    }

    fn leave(&mut self) -> bool {
        let Some(permit) = self.permit.take() else { return false };
        let (now, patience) = (Instant::now(), self.guard.settings.patience);
        // What was hardly asked tells nothing, however often.
        if now.saturating_duration_since(self.begun) < patience / SHORTEST
            || self.guard.silence().add(self.begun, now) < patience
        {
            return false;
        }
        self.note_slow();
        self.guard.failed(permit, None, "it did not answer in time")
    }

    /// What it is of.
    #[must_use]
    pub const fn guard(&self) -> &Guard {
        self.guard
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        // What ends for another reason, such as a caller that leaves, was not waited for in vain.
        let is_over = call::deadline().is_some_and(|deadline| deadline <= Instant::now());
        if self.permit.is_some() && is_over {
            self.note_slow();
        }
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const SETTINGS: GuardSettings = GuardSettings {
        breaker: BreakerSettings { failures: 2, pause: Duration::from_mins(1) },
        at_once: 2,
        queue: 1,
        patience: Duration::from_mins(1),
        per_connection: 9,
        grace: Duration::from_millis(20),
    };

    fn guard(settings: GuardSettings) -> Guard {
        Guard::new(Backend { kind: BackendKind::Server, name: "s".into() }, settings)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn places_and_those_who_wait_for_one_are_bounded() {
        let guard = guard(SETTINGS);
        let (first, _second) = (guard.enter(soon()).await.unwrap(), guard.enter(soon()).await.unwrap());
        let waiting = guard.enter(Instant::now() + Duration::from_mins(1));
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!((guard.standing(soon()).in_use, guard.standing(soon()).waiting), (2, 1));
        let (shut, notes) = call::accounted(guard.enter(soon())).await;
        assert!(shut.is_err_and(|shut| shut.is_busy && shut.retry_after == CROWDED));
        assert_eq!(notes, ["server s: busy"]);
        first.succeed();
        waiting.await.unwrap().succeed();
        assert!(guard.enter(soon()).await.is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_a_place_does_not_wait_beyond_its_deadline_nor_for_a_backend_that_is_given_up() {
        let guard = guard(SETTINGS);
        let (first, second) = (guard.enter(soon()).await.unwrap(), guard.enter(soon()).await.unwrap());
        assert!(guard.enter(soon()).await.is_err_and(|shut| shut.is_busy), "the deadline");
        let waiting = guard.enter(Instant::now() + Duration::from_mins(1));
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        assert!(!first.fail(None, "gone"));
        assert!(second.fail(None, "gone"), "the second failure opens it");
        let shut = waiting.await.unwrap_err();
        assert!(!shut.is_busy && shut.retry_after > Duration::from_secs(50), "{shut:?}");
        let standing = guard.standing(Instant::now());
        assert_eq!((standing.breaker, standing.failures, standing.opened), (BreakerState::Open, 2, 1));
        assert!(standing.refused >= 2, "{standing:?}");
    }

    #[tokio::test]
    async fn a_backend_that_no_connection_is_made_to_is_told_of_until_one_call_goes_well() {
        let guard = guard(SETTINGS);
        guard.leave_alone(Duration::from_secs(9), "it does not start");
        let (entry, now) = (guard.enter(soon()).await.unwrap(), Instant::now());
        let ((), notes) = call::accounted(async { entry.turn_away(Duration::from_secs(7), "so") }).await;
        assert_eq!(notes, ["server s: left alone"]);
        let standing = guard.standing(now);
        assert_eq!((standing.is_ailing, standing.refused, standing.opened), (true, 1, 0));
        assert_eq!(standing.to_string(), "server s: left alone");
        assert!(standing.retry_after.is_some_and(|rest| rest > Duration::from_secs(5)), "{standing:?}");
        assert!(!guard.standing(now + TOLD_FOR * 2).is_ailing, "nobody looks any more");
        guard.enter(soon()).await.unwrap().succeed();
        assert!(!guard.standing(now).is_ailing);
    }

    #[tokio::test]
    async fn short_waits_count_once_it_was_asked_for_long_and_answered_nobody() {
        let patience = Duration::from_millis(100);
        let guard = guard(GuardSettings { patience, ..SETTINGS });
        let wait = async |times: u32| {
            let entry = guard.enter(soon()).await.unwrap();
            // The guard's clock is the system's.
            std::thread::sleep(patience / 10 * times);
            entry.give_up();
            guard.standing(Instant::now()).failures
        };
        assert_eq!(wait(6).await, 0, "it had little time");
        guard.enter(soon()).await.unwrap().succeed();
        assert_eq!(wait(6).await, 0, "it had answered");
        guard.enter(soon()).await.unwrap().dismiss();
        assert_eq!(wait(6).await, 1, "nobody was answered since");
        // What was hardly asked says nothing, now as before.
        assert_eq!(wait(0).await, 1);
        let (one, other) = (guard.enter(soon()).await.unwrap(), guard.enter(soon()).await.unwrap());
        std::thread::sleep(patience / 5);
        assert!(one.give_up(), "the second failure opens it");
        assert!(!other.give_up());
    }

    #[tokio::test]
    async fn the_account_says_what_was_waited_for_in_vain_and_of_nothing_else() {
        let guard = guard(SETTINGS);
        let hang = async || {
            let _entry = guard.enter(soon()).await.unwrap();
            std::future::pending::<()>().await;
        };
        let waited = call::accounted(call::by(soon(), hang())).await;
        assert!(waited.0.is_err());
        assert_eq!(waited.1, ["server s: slow"]);
        let left = async {
            let entry = guard.enter(soon()).await;
            assert!(call::by(soon(), async { drop(entry) }).await.is_ok());
            assert!(hang().now_or_never().is_none());
        };
        assert_eq!(call::accounted(left).await.1, [] as [&str; 0]);
        let told = call::accounted(async { guard.enter(soon()).await.unwrap().give_up() }).await;
        assert_eq!(told, (false, vec!["server s: slow".to_owned()]));
        let unasked = call::accounted(async { guard.enter(soon()).await.unwrap().give_up_waiting() }).await;
        assert_eq!(unasked.1, ["server s: slow"]);
        assert_eq!(guard.standing(Instant::now()).failures, 0, "none of it was long");
        let late = call::accounted(async { guard.enter(soon()).await.unwrap().time_out("late") }).await;
        assert_eq!((late.1, guard.standing(Instant::now()).failures), (vec!["server s: slow".to_owned()], 1));
    }

    #[tokio::test]
    async fn waits_at_the_same_time_are_one_silence() {
        let patience = Duration::from_millis(100);
        let guard = guard(GuardSettings { patience, ..SETTINGS });
        let (one, other) = (guard.enter(soon()).await.unwrap(), guard.enter(soon()).await.unwrap());
        std::thread::sleep(patience * 6 / 10);
        drop(one);
        drop(other);
        assert_eq!(guard.standing(Instant::now()).failures, 0);
    }

    #[tokio::test]
    async fn a_connection_has_room_in_a_backend_for_some_calls_and_a_moment_for_more() {
        let guard = guard(GuardSettings { per_connection: 1, queue: 9, ..SETTINGS });
        let of = |connection, call| call::on_behalf_of(connection, call, guard.enter(soon()));
        let first = of(1, 1).await.unwrap();
        let again = of(1, 1).await.unwrap();
        drop(again);
        let begun = Instant::now();
        let shut = of(1, 2).await.unwrap_err();
        assert!(shut.is_busy && begun.elapsed() >= SETTINGS.grace, "{shut:?}");
        let other = of(2, 1).await.unwrap();
        let waiting = of(1, 3);
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(guard.standing(begun).waiting, 1);
        drop(first);
        waiting.await.unwrap().succeed();
        other.succeed();
    }

    #[tokio::test]
    async fn what_is_given_up_counts_where_there_was_time_to_answer() {
        for (patience, opens) in [(Duration::ZERO, true), (Duration::from_mins(1), false)] {
            let guard = guard(GuardSettings { patience, ..SETTINGS });
            for _ in 0..3 {
                drop(guard.enter(soon()).await);
            }
            assert_eq!(guard.breaker().shut(Instant::now()).is_some(), opens, "{patience:?}");
        }
    }
}
