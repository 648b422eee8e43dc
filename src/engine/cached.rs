//! The way of a call through the cache: what it depends on, lookup, one run for all who ask, keeping.
//!
//! What an answer depends on is read before anything else, so that an answer is never taken for newer than it is: calls
//! share a run only where the memories stood the same when each of them came, and an answer made while something
//! changed is kept under the state before, where it is no hit any more, or not at all.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use super::{
    Engine, EngineError, Execution, Surroundings, Workspace,
    kept::{Answer, Asked, Keeping},
    parts::{self, Around, Found, Status},
    service::Call,
};
use crate::{
    cache::{CacheFigures, Entry, Key, Layer, Lease, REDIS_NOTE, Wanted},
    resilience,
    store::SharedStore,
};

/// Longest wait for the layer that instances share.
const SHARED_MAX: Duration = Duration::from_millis(100);
/// Longest wait for what an answer depends on, and no more than half of what is left of the run's time: where the store is
/// slower than that, the rest is for the run.
const MARK_MAX: Duration = Duration::from_millis(500);
/// What comes after a run (counting its tokens, keeping its rest, keeping the answer) may end so long behind the run's time.
const AFTER_MAX: Duration = Duration::from_millis(250);
/// A pattern whose runs take so long is run by one instance, and the others wait for its answer.
const EXPENSIVE: Duration = Duration::from_millis(50);
/// A lease is as long as so many runs, within bounds: a holder that is gone keeps the others waiting for so long.
const LEASE_RUNS: u32 = 4;
const LEASE_MIN: Duration = Duration::from_millis(500);
const LEASE_MAX: Duration = Duration::from_secs(10);
/// How often one that waits asks for the lease itself.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// What of a call's time is left for its own run where another instance's answer does not come, in runs.
const RESERVE_RUNS: u32 = 2;

/// What the answer to a call depends on, as it was when the call came.
pub(super) struct Depends {
    /// Of the memories, where the pattern reads them.
    pub(super) generation: Option<u64>,
    /// Where its answer is kept, if it is.
    pub(super) place: Option<Place>,
}

/// Where an answer is kept.
pub(super) struct Place {
    key: Key,
    wanted: Wanted,
    /// The declared parts.
    parts: Found,
}

impl Place {
    /// What `git status` said when the key was made, where it was asked.
    pub(super) fn status(&self) -> Option<&Arc<Status>> {
        self.parts.status.as_ref()
    }

    /// How long it took to find out what the key is made of.
    pub(super) const fn elapsed(&self) -> Duration {
        self.parts.elapsed
    }
}

/// Until when a call may wait, from its beginning on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// For what makes its answer: what that depends on, a look at what is kept, the run.
    pub(super) run: Instant,
    /// Whether that is the caller's time, and not the pattern's.
    pub(super) is_cut: bool,
    /// For what comes after the run.
    pub(super) after: Instant,
}

impl Times {
    /// Of a call whose answer is due at `deadline`, and whose pattern may take `timeout`, both from now on.
    pub(super) fn new(deadline: Instant, timeout: Duration) -> Self {
        let own = Instant::now() + timeout;
        let run = own.min(deadline);
        Self { run, is_cut: deadline < own, after: deadline.min(run + AFTER_MAX) }
    }

    /// For a question that a run can do without.
    fn soon(self) -> Instant {
        let now = Instant::now();
        now + MARK_MAX.min(self.run.saturating_duration_since(now) / 2)
    }
}

/// How long runs of a pattern take: a moving average.
#[derive(Debug, Default)]
pub(super) struct Cost(AtomicU64);

impl Cost {
    /// Notes a run.
    fn note(&self, run: Duration) {
        let run = u64::try_from(run.as_micros()).unwrap_or(u64::MAX >> 2).clamp(1, u64::MAX >> 2);
        let known = self.0.load(Ordering::Relaxed);
        let mean = if known == 0 { run } else { known - known / 4 + run / 4 };
        self.0.store(mean, Ordering::Relaxed);
    }

    fn mean(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Who makes an answer.
enum Maker {
    /// Another instance did.
    Other(Entry<Answer>),
    /// This one, perhaps with a lease.
    This(Option<u64>),
}

impl Engine {
    /// What the cache counted.
    #[must_use]
    pub fn cache_figures(&self) -> CacheFigures {
        self.cache.figures()
    }

    /// Closes what it opened: connections, processes of child servers, the cache's layer behind this process.
    pub async fn close(&self) {
        tokio::join!(self.outside().close(), self.cache.close());
    }

    /// What the answer to `call` depends on; `None` where that cannot be found out now. Then it is neither shared nor
    /// kept.
    pub(super) async fn depends(&self, call: &Call<'_>, around: &Surroundings<'_>) -> Option<Depends> {
        let compiled = call.compiled;
        let mark = if compiled.reads_memory {
            let asked = resilience::by(call.times.soon(), self.store().mark(&call.within)).await;
            Some(asked.ok()?.ok()?)
        } else {
            None
        };
        let generation = mark.map(|mark| mark.generation);
        let place = match &compiled.keeping {
            Some(keeping) if self.cache.is_on() => {
                let has_session = mark.is_some_and(|mark| mark.has_session);
                self.place(keeping, call, around, generation, has_session).await
            }
            _ => None,
        };
        Some(Depends { generation, place })
    }

    async fn place(
        &self,
        keeping: &Keeping,
        call: &Call<'_>,
        around: &Surroundings<'_>,
        generation: Option<u64>,
        has_session: bool,
    ) -> Option<Place> {
        let parts = self.parts(keeping, call, around).await?;
        let store = if keeping.of_one_store && self.cache.is_shared() {
            *self.store_name.get_or_try_init(|| name_of(self.store(), call.times.soon())).await.ok()?
        } else {
            [0; 32]
        };
        // Another address, another query, a project taken out: what was kept before is not given any more.
        let sources = if keeping.asks_sources {
            self.outside().sql.mark(call.within.project()).to_vec()
        } else {
            Vec::new()
        };
        // Whoever searches with another model, or with none, finds something else.
        let embedding = match &self.outside().embeddings {
            Some(embeddings) if keeping.reads_memory && self.cache.is_shared() => embeddings.name(),
            _ => "",
        };
        let key = keeping.key(
            &Asked {
                pattern: &call.chosen.pattern,
                workspace: call.workspace,
                within: &call.within,
                scratch: &call.scratch_text(),
                project: call.project.as_deref().unwrap_or_default(),
                input: &call.canonical,
                query: call.chosen.query.as_deref(),
                mode: call.request.mode,
                parts: &parts.texts,
                sources: &sources,
                embedding,
                store,
            },
            has_session,
        )?;
        Some(Place { key, wanted: Wanted { now: self.now(), generation }, parts })
    }

    /// The declared parts, as they are now.
    async fn parts(&self, keeping: &Keeping, call: &Call<'_>, around: &Surroundings<'_>) -> Option<Found> {
        if keeping.parts.is_empty() {
            return Some(Found::default());
        }
        let Workspace::Root(root) = call.workspace else { return None };
        let with = self.around_parts(call, around, call.times.run);
        parts::found(&keeping.parts, Path::new(root), &with).await
    }

    /// Whether the declared parts are after a run what they were before it.
    async fn stand(
        &self,
        keeping: &Keeping,
        place: &Place,
        call: &Call<'_>,
        around: &Surroundings<'_>,
    ) -> bool {
        if keeping.parts.is_empty() {
            return true;
        }
        let Workspace::Root(root) = call.workspace else { return false };
        let with = self.around_parts(call, around, call.times.after);
        parts::stand(&keeping.parts, &place.parts, keeping.reads_tree, Path::new(root), &with).await
    }

    fn around_parts<'a>(
        &'a self,
        call: &'a Call<'_>,
        around: &'a Surroundings<'_>,
        deadline: Instant,
    ) -> Around<'a> {
        Around {
            pattern: &call.chosen.pattern,
            scope: &call.within,
            store: self.store(),
            outside: self.outside(),
            now: self.now(),
            deadline,
            cancel: &around.cancel,
        }
    }

    /// The kept answer, if there is one.
    pub(super) async fn lookup(&self, call: &Call<'_>, place: &Place) -> Option<Execution> {
        let (entry, layer) = self.cache.get(&place.key, place.wanted, wait(call.times.run)).await?;
        if !self.has_rest(call, &entry.value).await {
            return None;
        }
        Some(entry.value.execution(&call.chosen.pattern, layer))
    }

    /// Whether the rest of a kept answer is there, where it has one. It may be gone before its time: others took its room, or
    /// a copy of the store was put in the store's place.
    async fn has_rest(&self, call: &Call<'_>, answer: &Answer) -> bool {
        let Some(handle) = answer.handle() else { return true };
        let asked = self.store().has_result(&call.within, handle, self.now());
        matches!(resilience::by(call.times.soon(), asked).await, Ok(Ok(true)))
    }

    /// Runs, and keeps the answer where it has a place. `begins` is told where it does run.
    pub(super) async fn make(
        &self,
        call: &Call<'_>,
        place: Option<&Place>,
        around: &Surroundings<'_>,
        begins: &(dyn Fn() + Sync),
    ) -> Result<Execution, EngineError> {
        let Some(place) = place else {
            begins();
            return self.accounted(call, None, around).await;
        };
        let is_expensive = call.compiled.cost.mean() >= EXPENSIVE;
        let lease = if is_expensive && !call.request.fresh && self.cache.is_shared() {
            match self.maker(call, place, around).await {
                Maker::Other(entry) => return Ok(entry.value.execution(&call.chosen.pattern, Layer::Shared)),
                Maker::This(lease) => lease,
            }
        } else {
            None
        };
        let begun = Instant::now();
        begins();
        let mut result = self.accounted(call, place.status(), around).await;
        if let Ok(execution) = &mut result {
            call.compiled.cost.note(begun.elapsed());
            execution.receipt.cache = "miss";
            self.keep(call, place, execution, lease, around).await;
        }
        if let Some(lease) = lease {
            self.cache.give_back(&place.key, lease, wait(call.times.after)).await;
        }
        result
    }

    /// Waits for another instance that makes the same answer now, as long as it may and the call's time allows.
    async fn maker(&self, call: &Call<'_>, place: &Place, around: &Surroundings<'_>) -> Maker {
        let run = call.compiled.cost.mean();
        let length = (run * LEASE_RUNS).clamp(LEASE_MIN, LEASE_MAX);
        let reserve = run.saturating_mul(RESERVE_RUNS);
        // The holder may know of longer runs, and so have a longer lease: who gave up before its end would run beside it.
        let patience = length + length / 4;
        let until =
            (Instant::now() + patience).min(call.times.run.checked_sub(reserve).unwrap_or_else(Instant::now));
        loop {
            match self.cache.lease(&place.key, length, wait(call.times.run)).await {
                Lease::Taken(lease) => {
                    // Its last holder may have ended between the look and the lease.
                    let (now, wait) = (Instant::now(), wait(call.times.run));
                    match self.cache.await_shared(&place.key, place.wanted, now, wait).await {
                        Some(entry) if self.has_rest(call, &entry.value).await => {
                            self.cache.give_back(&place.key, lease, wait).await;
                            return Maker::Other(entry);
                        }
                        _ => return Maker::This(Some(lease)),
                    }
                }
                Lease::Unavailable => return Maker::This(None),
                Lease::Held => {}
            }
            let now = Instant::now();
            if now >= until {
                return Maker::This(None);
            }
            let look = until.min(now + ASK_AGAIN);
            let waited = self.cache.await_shared(&place.key, place.wanted, look, wait(call.times.run));
            let waited = tokio::select! {
                waited = waited => waited,
                // The run will say so.
                () = around.cancel.cancelled() => return Maker::This(None),
            };
            if let Some(entry) = waited {
                // Without its rest it is the one that is being made anew: nothing tells when that is done.
                let is_whole = self.has_rest(call, &entry.value).await;
                return if is_whole { Maker::Other(entry) } else { Maker::This(None) };
            }
        }
    }

    async fn keep(
        &self,
        call: &Call<'_>,
        place: &Place,
        execution: &Execution,
        lease: Option<u64>,
        around: &Surroundings<'_>,
    ) {
        let Some(keeping) = &call.compiled.keeping else { return };
        // What was made without a part that did not work would outlive that part's recovery.
        // Where answers are kept is no part of an answer.
        if execution.receipt.degraded.iter().any(|note| !note.starts_with(REDIS_NOTE)) {
            return;
        }
        let Some(answer) = Answer::of(execution) else { return };
        // What changed while the run went on and changed back would make a lasting entry of a passing state.
        if !self.stand(keeping, place, call, around).await {
            return;
        }
        let now = place.wanted.now;
        let memories = if keeping.reads_memory {
            let until = keeping.expires(now, None, None);
            let asked = self.store().next_expiry(&call.within, now, until);
            let Ok(Ok(first)) = resilience::by(call.times.after, asked).await else { return };
            first
        } else {
            None
        };
        let handle = answer.handle().map(|_| self.settings().handle_ttl);
        let first = [memories, execution.receipt.ages_until].into_iter().flatten().min();
        let expires = keeping.expires(now, first, handle);
        let entry = Entry { value: answer.into(), generation: place.wanted.generation, expires };
        self.cache.put(&place.key, entry, self.now(), lease, wait(call.times.after)).await;
    }
}

/// How long the layer that instances share may be waited for by who has time until `deadline`.
fn wait(deadline: Instant) -> Duration {
    SHARED_MAX.min(deadline.saturating_duration_since(Instant::now()) / 4)
}

/// What tells this store from others, without giving its secret away.
async fn name_of(store: &SharedStore, deadline: Instant) -> Result<[u8; 32], ()> {
    let key = resilience::by(deadline, store.state_key()).await.map_err(|_| ())?.map_err(|_| ())?;
    let mut digest = Sha256::new();
    digest.update(b"tmws cache\0");
    digest.update(key);
    Ok(digest.finalize().into())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::Map;
    use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        cache::{CacheLimits, SecondLayer, testing::Chosen},
        engine::{
            Caller, Clock, EngineSettings, ExecuteRequest, LiveLibrary, NobodyToAsk, Outcome, Patterns as _,
            Target, Unobserved, Workspaces,
        },
        pattern::{Mode, library::Library},
        scope::{ProjectId, Scope},
        store::{NewMemory, SqliteOptions, SqliteStore},
    };

    struct Now;

    impl Clock for Now {
        fn now(&self) -> Timestamp {
            "2026-03-01T12:00:00Z".parse().unwrap()
        }
    }

    struct Nowhere;

    impl Workspaces for Nowhere {
        fn workspace(&self, _: &Scope) -> Workspace {
            Workspace::None { reason: "none is needed".to_owned() }
        }
    }

    const PATTERN: &str = "memory.by-tag";

    /// Instances on one store and one second layer.
    struct Instances {
        second: Arc<Chosen>,
        store: SharedStore,
        library: Arc<LiveLibrary>,
        folder: tempfile::TempDir,
    }

    impl Instances {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
            let library = Arc::new(LiveLibrary::new(Library::built_in()));
            Self { second: Arc::default(), store: Arc::new(store), library, folder }
        }

        fn instance(&self) -> Arc<Engine> {
            let engine = Engine::new(
                Arc::clone(&self.library) as super::super::LibraryHandle,
                Arc::clone(&self.store),
                Arc::new(Nowhere),
                Arc::new(Now),
                EngineSettings::default(),
            );
            let second = Arc::clone(&self.second) as Arc<dyn SecondLayer>;
            Arc::new(engine.with_cache(CacheLimits::default(), Some(second)))
        }

        /// One that knows that runs take long.
        fn slow_instance(&self) -> Arc<Engine> {
            let engine = self.instance();
            let pattern = self.library.named(PATTERN).unwrap();
            engine.compiled(&pattern).unwrap().cost.note(EXPENSIVE * 2);
            engine
        }
    }

    fn scope() -> Scope {
        Scope::mint(ProjectId::personal(), "ada", "default", None)
    }

    async fn ask(engine: &Engine) -> Execution {
        let request = ExecuteRequest {
            target: Target::Pattern(PATTERN.to_owned()),
            // More than an answer holds, so that there is a rest.
            input: Map::from_iter([("tag".to_owned(), "berth".into()), ("k".to_owned(), 50.into())]),
            mode: Mode::Balanced,
            session: None,
            unless: None,
            fresh: false,
            caller: Caller::Model,
        };
        let around = Surroundings {
            observer: &Unobserved,
            asker: Arc::new(NobodyToAsk),
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_mins(1),
            task_deadline: None,
        };
        engine.execute(&scope(), request, around).await.unwrap()
    }

    fn way(execution: &Execution) -> (&'static str, Option<Layer>) {
        (execution.receipt.cache, execution.receipt.cache_layer)
    }

    const MISS: (&str, Option<Layer>) = ("miss", None);
    const SHARED: (&str, Option<Layer>) = ("hit", Some(Layer::Shared));
    const LOCAL: (&str, Option<Layer>) = ("hit", Some(Layer::Local));

    #[tokio::test]
    async fn what_one_instance_ran_the_others_find_until_something_is_written() {
        let instances = Instances::new().await;
        let (one, other) = (instances.instance(), instances.instance());
        let first = ask(&one).await;
        assert_eq!(way(&first), MISS);
        let found = ask(&other).await;
        assert_eq!((way(&found), &found.text), (SHARED, &first.text));
        assert_eq!(way(&ask(&other).await), LOCAL);
        let new = NewMemory { content: "berth 7".into(), tags: vec!["berth".into()], ..NewMemory::default() };
        instances.store.remember(&scope(), new, Now.now()).await.unwrap();
        let after = ask(&other).await;
        assert_eq!(way(&after), MISS);
        assert!(after.text.contains("berth 7"));
        assert_eq!(ask(&one).await.text, after.text);
    }

    #[tokio::test]
    async fn an_expensive_answer_is_waited_for_and_then_made() {
        let instances = Instances::new().await;
        let (waiting, quick) = (instances.slow_instance(), instances.instance());
        instances.second.is_held.store(true, Ordering::SeqCst);
        let waits = tokio::spawn({
            let waiting = Arc::clone(&waiting);
            async move { ask(&waiting).await }
        });
        while instances.second.wanted.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(way(&ask(&quick).await), MISS);
        assert_eq!(way(&waits.await.unwrap()), SHARED, "the other's answer");
        // One lookup, once in vain; and one run, which was the other's.
        let figures = waiting.cache_figures();
        assert_eq!((figures.local_hits, figures.shared_hits, figures.misses, figures.stale), (0, 0, 1, 0));
        assert_eq!((waiting.shared_runs(), quick.shared_runs()), ((0, 1), (1, 0)));
        // Whoever holds the lease is gone: nothing comes, and the time of the lease passes.
        instances.second.kept.lock().unwrap().clear();
        let late = instances.slow_instance();
        let begun = Instant::now();
        assert_eq!(way(&ask(&late).await), MISS);
        assert!(begun.elapsed() >= LEASE_MIN && begun.elapsed() < LEASE_MAX, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_lease_is_taken_for_the_run_and_given_back() {
        let instances = Instances::new().await;
        let slow = instances.slow_instance();
        assert_eq!(way(&ask(&slow).await), MISS);
        assert_eq!(instances.second.wanted.load(Ordering::SeqCst), 1);
        assert_eq!(instances.second.kept.lock().unwrap().len(), 1, "put with its number");
        instances.second.kept.lock().unwrap().clear();
        let next = instances.slow_instance();
        let begun = Instant::now();
        assert_eq!(way(&ask(&next).await), MISS);
        assert!(begun.elapsed() < LEASE_MIN, "nobody held it any more");
    }

    #[tokio::test]
    async fn an_expensive_answer_whose_rest_is_gone_is_made_anew() {
        let instances = Instances::new().await;
        for number in 0..60 {
            let content = format!("berth {number}: {}", "harbour ".repeat(60));
            let new = NewMemory { content, tags: vec!["berth".into()], ..NewMemory::default() };
            instances.store.remember(&scope(), new, Now.now()).await.unwrap();
        }
        let handle = |execution: &Execution| match &execution.outcome {
            Outcome::Output { handle: Some(handle), .. } => handle.clone(),
            _ => panic!("no handle: {}", execution.text),
        };
        let one = instances.slow_instance();
        let first = ask(&one).await;
        let mut file = SqliteConnectOptions::new()
            .filename(instances.folder.path().join("store.db"))
            .connect()
            .await
            .unwrap();
        sqlx::query("DELETE FROM result").execute(&mut file).await.unwrap();
        file.close().await.unwrap();
        // The layer that instances share has it still: neither who made it nor another gives it.
        let made = ask(&one).await;
        assert_eq!(way(&made), MISS);
        assert_ne!(handle(&made), handle(&first));
        assert_eq!(handle(&ask(&instances.slow_instance()).await), handle(&made));
    }

    #[test]
    fn the_cost_of_a_pattern_is_a_moving_average() {
        let cost = Cost::default();
        assert_eq!(cost.mean(), Duration::ZERO);
        cost.note(Duration::from_millis(80));
        assert_eq!(cost.mean(), Duration::from_millis(80));
        for _ in 0..20 {
            cost.note(Duration::from_millis(8));
        }
        assert!((8..10).contains(&cost.mean().as_millis()), "{:?}", cost.mean());
        cost.note(Duration::MAX);
        assert!(cost.mean() > Duration::from_hours(1));
    }
}
