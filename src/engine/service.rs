//! The engine: finds a pattern, runs it, brings the answer within its budget.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant as StdInstant},
};

use jiff::Timestamp;
use jsonschema::Validator;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    sync::OnceCell,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Allowed, Asker, Caller, Clock, EngineError, ErrorKind, ExecuteRequest, Execution, MemoryListener,
    Observer, Outcome, Outside, Receipt, Workspace,
    allowed::lacking,
    budget::{self, Envelope, Keep},
    cached::{Cost, Depends, Times},
    etag::{canonical_object, etag},
    flight::{Flights, Turn},
    inputs,
    kept::{self, Answer, Keeping},
    parts::Status,
    plan::Plan,
    results::{self, ResultQuery},
    run::{self, Given},
    steps::{ENDS_EARLY, StepError, data_clip, json_bytes},
    tokens,
};
use crate::{
    cache::{Cache, CacheLimits, SecondLayer},
    limits::{ConnectionLimits, StoreLimits},
    pattern::{BindSource, Effect, Family, Mode, Pattern, StepSpec},
    resilience::{self, BackendKind, STORE},
    scope::{Rights, Scope},
    store::{SharedStore, StoreError, StoredResult},
};

/// Patterns kept compiled (plan and schemas); more are compiled anew.
const COMPILED_MAX: usize = 1_024;
/// How long an answer waits for the store to keep what does not fit into it.
const KEEP_MAX: Duration = Duration::from_secs(1);
/// When to try again after the store failed.
const RETRY_STORE: Duration = Duration::from_secs(1);
/// So long before its time is over a run may end for want of it: a wait for the store does.
const EARLY_MAX: Duration = Duration::from_millis(50);
/// How long behind its deadline a call may be answered.
const LATE_MAX: Duration = Duration::from_millis(50);
/// Inputs longer than this as JSON are checked on a thread of their own: their schema may hold regexes.
const INLINE_INPUT_BYTES: usize = 32 << 10;
/// Nobody is told to come again sooner.
const RETRY_MIN: Duration = Duration::from_millis(10);
/// When to try again after too much at once.
const RETRY_BUSY: Duration = Duration::from_millis(200);

/// Where the workspace of a call comes from. It may change while the process runs (a client may tell its roots late).
pub trait Workspaces: Send + Sync {
    /// The folder that `scope`'s calls work on.
    fn workspace(&self, scope: &Scope) -> Workspace;
}

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Budget of one page of a kept result, in o200k_base tokens.
    pub result_budget_tokens: usize,
    /// Longest that a call may take: a pattern whose `limits.timeout` is longer declares that it may outlive one.
    pub call_deadline: Duration,
    /// How long a handle lives in the store.
    pub handle_ttl: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            result_budget_tokens: 2_000,
            call_deadline: ConnectionLimits::default().call_deadline,
            handle_ttl: StoreLimits::default().handle_ttl,
        }
    }
}

/// Runs patterns. Shared by all connections.
pub struct Engine {
    pub(super) library: super::resolve::LibraryHandle,
    store: SharedStore,
    workspaces: Arc<dyn Workspaces>,
    clock: Arc<dyn Clock>,
    settings: EngineSettings,
    compiled: Mutex<HashMap<String, Arc<Compiled>>>,
    flights: Flights<FlightKey, Result<Execution, EngineError>>,
    listener: OnceLock<Arc<dyn MemoryListener>>,
    outside: Arc<Outside>,
    pub(super) cache: Cache<Answer>,
    /// See [`Engine::depends`].
    pub(super) store_name: OnceCell<[u8; 32]>,
    /// Whether the last result that was to be kept was not.
    keeping_fails: AtomicBool,
}

/// What is made of a pattern once.
#[derive(Debug)]
pub(super) struct Compiled {
    inputs: Validator,
    output: Validator,
    /// Equal calls may get one answer.
    is_shareable: bool,
    pub(super) reads_memory: bool,
    pub(super) keeping: Option<Keeping>,
    pub(super) cost: Cost,
}

/// Calls that may share one run: everything that the answer depends on, and the whole scope with its rights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FlightKey {
    scope: Scope,
    hash: String,
    mode: Mode,
    input: String,
    query: Option<String>,
    session: Option<String>,
    scratch: String,
    unless: Option<String>,
    /// Who comes after a write was acknowledged does not get what was read before it.
    generation: Option<u64>,
}

/// What surrounds one execution.
#[derive(Clone)]
pub struct Surroundings<'a> {
    /// Told how far the run is.
    pub observer: &'a dyn Observer,
    /// Asks whoever made the call.
    pub asker: Arc<dyn Asker>,
    /// Cancelled when the caller goes away.
    pub cancel: CancellationToken,
    /// When the caller must have its answer.
    pub deadline: StdInstant,
    /// Until when a pattern that declares that it may outlive a call may run instead: the caller can wait for it.
    pub task_deadline: Option<StdInstant>,
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _: usize, _: usize, _: &str) {}
}

/// A pattern that was chosen, and with what.
pub(super) struct Chosen {
    pub(super) pattern: Arc<Pattern>,
    pub(super) input: Map<String, Value>,
    pub(super) query: Option<String>,
    pub(super) matched_by: &'static str,
}

impl Engine {
    /// An engine. Nothing is loaded or opened before the first call.
    #[must_use]
    pub fn new(
        library: super::resolve::LibraryHandle,
        store: SharedStore,
        workspaces: Arc<dyn Workspaces>,
        clock: Arc<dyn Clock>,
        settings: EngineSettings,
    ) -> Self {
        Self {
            library,
            store,
            workspaces,
            clock,
            settings,
            compiled: Mutex::default(),
            flights: Flights::default(),
            listener: OnceLock::new(),
            outside: Arc::default(),
            cache: Cache::new(CacheLimits { local_bytes_max: 0, ..CacheLimits::default() }, None),
            store_name: OnceCell::new(),
            keeping_fails: AtomicBool::new(false),
        }
    }

    /// The same engine with answers kept within `limits`, in `second` too where there is one. Without this none is kept.
    #[must_use]
    pub fn with_cache(self, limits: CacheLimits, second: Option<Arc<dyn SecondLayer>>) -> Self {
        Self { cache: Cache::new(limits, second), ..self }
    }

    /// The same engine with ways out of the process.
    #[must_use]
    pub fn with_outside(self, outside: Arc<Outside>) -> Self {
        Self { outside, ..self }
    }

    /// The ways out of the process.
    #[must_use]
    pub fn outside(&self) -> &Arc<Outside> {
        &self.outside
    }

    pub(super) const fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    pub(super) const fn store(&self) -> &SharedStore {
        &self.store
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Runs that were computed for those who wait for the same, and how many of these got one without computing.
    #[must_use]
    pub fn shared_runs(&self) -> (u64, u64) {
        self.flights.counts()
    }

    /// From now on `listener` is told of memories that runs touch. There is one a process: a second is not told.
    pub fn tell_of_memories(&self, listener: Arc<dyn MemoryListener>) {
        let _ = self.listener.set(listener);
    }

    /// What `caller` may run in `scope`. May look at the disk.
    #[must_use]
    pub fn allowed(&self, scope: &Scope, caller: Caller) -> Allowed {
        Allowed::new(caller, scope, self.workspaces.workspace(scope))
    }

    /// Runs a pattern, by name or by a query.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub async fn execute(
        &self,
        scope: &Scope,
        request: ExecuteRequest,
        around: Surroundings<'_>,
    ) -> Result<Execution, EngineError> {
        let begun = Instant::now();
        let mut pattern = None;
        let deadline = around.task_deadline.map_or(around.deadline, |task| task.max(around.deadline));
        // Each layer around a large future would be as large again.
        let attempt = Box::pin(self.attempt(scope, request, around, begun, &mut pattern));
        let attempt = resilience::until(deadline, attempt);
        let (result, degraded) = resilience::accounted(attempt).await;
        let result = timed(told(result, degraded), begun);
        // A run that waits for an answer of the client has not ended: it comes again.
        if !matches!(&result, Ok(execution) if matches!(execution.outcome, Outcome::Suspended)) {
            let pattern = pattern.as_deref();
            self.outside.figures.record(scope, pattern, &result, begun.elapsed(), self.clock.now());
        }
        result
    }

    /// Does what [`execute`](Self::execute) says; `pattern` becomes the name of what runs.
    async fn attempt(
        &self,
        scope: &Scope,
        request: ExecuteRequest,
        around: Surroundings<'_>,
        begun: Instant,
        pattern: &mut Option<String>,
    ) -> Result<Execution, EngineError> {
        tokens::warm();
        let allowed = self.allowed(scope, request.caller);
        allowed.check_any()?;
        let (resolved, spent) = match self.resolve(&request, &allowed).await? {
            super::resolve::Resolved::Candidates(query, candidates) => {
                self.fall_back(query, candidates, &request, &allowed, &around).await?
            }
            resolved => (resolved, None),
        };
        let result = match resolved {
            super::resolve::Resolved::Candidates(query, candidates) => {
                let project = project_name(allowed.workspace(), scope);
                let deadline = Instant::from_std(around.deadline);
                Ok(self.offer(scope, project, &query, candidates, begun, deadline).await)
            }
            super::resolve::Resolved::Suspended => {
                Ok(suspended(Receipt { cache: "off", matched_by: "none", ..Receipt::default() }))
            }
            super::resolve::Resolved::Chosen(chosen) => {
                *pattern = Some(chosen.pattern.name.clone());
                allowed.check(&chosen.pattern)?;
                let outlives_call = self.outlives_call(&chosen.pattern);
                around.observer.chosen(&chosen.pattern, outlives_call);
                let deadline = around.task_deadline.filter(|_| outlives_call).unwrap_or(around.deadline);
                let around = Surroundings { deadline, ..around };
                let (pattern, matched_by) = (Arc::clone(&chosen.pattern), chosen.matched_by);
                let run = self.run_chosen(scope, request, chosen, allowed.workspace(), around);
                // Every wait of a run has the deadline itself, and says more of what was late.
                let ran =
                    timeout_at(Instant::from_std(deadline) + LATE_MAX, run).await.unwrap_or_else(|_| {
                        Err(late(&format!(
                            "the call's time was over before the answer of {} was made; ask for less",
                            pattern.name
                        )))
                    });
                ran.map_err(|error| {
                    error.with_receipt(|receipt| {
                        receipt.name(&pattern);
                        receipt.matched_by = matched_by;
                    })
                })
            }
        };
        match result {
            Ok(mut execution) => {
                execution.receipt.llm.splice(..0, spent);
                Ok(execution)
            }
            Err(error) => {
                Err(self.hinted(error.with_receipt(|receipt| drop(receipt.llm.splice(..0, spent)))))
            }
        }
    }

    /// Says when to try again, where that may help: the store's breaker knows best.
    fn hinted(&self, error: EngineError) -> EngineError {
        let hint = match error.kind {
            ErrorKind::StoreUnavailable => {
                let pause = self.outside.backends.retry_after(BackendKind::Database, STORE);
                Some(pause.unwrap_or(RETRY_STORE))
            }
            ErrorKind::Busy => Some(RETRY_BUSY),
            _ => None,
        };
        let pause = error.retry_after.or(hint).map(|pause| pause.max(RETRY_MIN));
        EngineError { retry_after: pause, ..error }
    }

    /// Whether `pattern` declares that it may outlive a call.
    #[must_use]
    pub fn outlives_call(&self, pattern: &Pattern) -> bool {
        pattern.limits.timeout > self.settings.call_deadline
    }

    /// A part of a result that was kept behind a handle, within a budget of its own.
    ///
    /// # Errors
    /// `denied`, `unknown_handle`, `invalid_input`, `not_found`, `budget`, `store_unavailable`.
    pub async fn get_result(
        &self,
        scope: &Scope,
        query: &ResultQuery,
        deadline: StdInstant,
    ) -> Result<Execution, EngineError> {
        let begun = Instant::now();
        let (result, degraded) = resilience::accounted(self.page(scope, query, deadline)).await;
        timed(told(result, degraded), begun)
            .map_err(|error| error.with_receipt(|receipt| receipt.matched_by = "handle"))
    }

    /// Does what [`get_result`](Self::get_result) says.
    async fn page(
        &self,
        scope: &Scope,
        query: &ResultQuery,
        deadline: StdInstant,
    ) -> Result<Execution, EngineError> {
        let missing = Rights::PATTERN_RUN.without(scope.rights());
        if missing != Rights::NONE {
            return Err(lacking("reading a result", missing));
        }
        tokens::warm();
        let reading = self.store.get_result(scope, &query.handle, self.clock.now());
        let stored = resilience::by(deadline, reading)
            .await
            .map_err(|_| late("the store did not answer in time"))?
            .map_err(|error| {
                let unknown = matches!(error, StoreError::UnknownHandle);
                let error = self.hinted(StepError::from(error).into_engine_error("handle"));
                if unknown { advised(error, "run the pattern again for a new one") } else { error }
            })?;
        let value =
            results::page(stored.value, query, self.settings.result_budget_tokens, deadline.into()).await?;
        let text = value.to_string();
        let tokens = tokens::count(&text);
        Ok(Execution {
            receipt: Receipt {
                pattern: Some(stored.pattern),
                tokens_out: tokens.count,
                tokens_estimated: tokens.estimated,
                bytes_seen: text.len() as u64,
                cache: "off",
                matched_by: "handle",
                ..Receipt::default()
            },
            outcome: Outcome::Output {
                etag: etag(&query.handle, self.settings.result_budget_tokens, &value),
                value: Arc::new(value),
                handle: Some(query.handle.clone()),
            },
            text,
        })
    }

    async fn run_chosen(
        &self,
        scope: &Scope,
        request: ExecuteRequest,
        mut chosen: Chosen,
        workspace: &Workspace,
        around: Surroundings<'_>,
    ) -> Result<Execution, EngineError> {
        let given = std::mem::take(&mut chosen.input);
        let pattern = &chosen.pattern;
        let compiled = self.compiled(pattern)?;
        // From here on: what comes before the run's first step is the pattern's time as well.
        let times = Times::new(around.deadline, pattern.limits.timeout);
        let input = prepared(pattern, &compiled, given, times.run.into()).await?;
        let (within, scratch) = self.within_session(scope, request.session.as_deref(), times.run).await?;
        let mut call = Call {
            scope,
            within,
            times,
            request: &request,
            chosen: &chosen,
            compiled: &compiled,
            workspace,
            project: compiled.reads_memory.then(|| project_name(workspace, scope)),
            canonical: if compiled.is_shareable { canonical_object(&input) } else { String::new() },
            input,
            scratch,
            unless: request.unless.as_deref(),
        };
        let depends = if compiled.is_shareable { self.depends(&call, &around).await } else { None };
        let place = depends.as_ref().and_then(|depends| depends.place.as_ref());
        if place.is_some() {
            // The whole answer is kept; what the caller has of it is looked at afterwards.
            call.unless = None;
        }
        let mut execution = match &depends {
            Some(depends) if !request.fresh => self.answer(&call, depends, &around).await?,
            _ => Box::pin(self.make(&call, place, &around, &|| {})).await?,
        };
        if let Some(place) = place {
            execution.receipt.keyed = place.elapsed();
            execution = kept::unless(execution, request.unless.as_deref(), call.project.as_deref());
        }
        execution.receipt.matched_by = chosen.matched_by;
        Ok(execution)
    }

    /// The kept answer, or that of one run for all who ask.
    async fn answer(
        &self,
        call: &Call<'_>,
        depends: &Depends,
        around: &Surroundings<'_>,
    ) -> Result<Execution, EngineError> {
        if let Some(place) = &depends.place
            && let Some(kept) = self.lookup(call, place).await
        {
            return Ok(kept);
        }
        // A kept answer does not carry what a run needs.
        Box::pin(self.share(call, depends, around)).await
    }

    /// Runs once for all equal calls that wait at the same time.
    async fn share(
        &self,
        call: &Call<'_>,
        depends: &Depends,
        around: &Surroundings<'_>,
    ) -> Result<Execution, EngineError> {
        let key = FlightKey {
            scope: call.scope.clone(),
            hash: call.chosen.pattern.hash.clone(),
            mode: call.request.mode,
            input: call.canonical.clone(),
            query: call.chosen.query.clone(),
            session: call.request.session.clone(),
            scratch: call.scratch_text(),
            unless: call.unless.map(str::to_owned),
            generation: depends.generation,
        };
        let turn = tokio::select! {
            biased;
            turn = self.flights.join(&key) => turn,
            () = around.cancel.cancelled() => return Err(cancelled()),
            () = tokio::time::sleep_until(call.times.after.into()) => {
                return Err(late("an equal call is still running and did not end within this call's time; ask again later"));
            }
        };
        match turn {
            Turn::Landed(result) => {
                self.outside.figures.record_shared(call.scope, self.clock.now());
                result
            }
            Turn::Lead(lead) => {
                let result = self.make(call, depends.place.as_ref(), around, &|| lead.begin()).await;
                if result.as_ref().is_ok_and(|execution| execution.receipt.cache == "hit") {
                    // Another instance ran.
                    lead.spare();
                }
                // What only this caller suffers is not handed on: whoever waits came later, has time left, and runs on its
                // own.
                let is_late = result.is_err() && StdInstant::now() + EARLY_MAX >= call.times.run;
                if !is_late && !around.cancel.is_cancelled() {
                    lead.land(result.clone());
                }
                result
            }
        }
    }

    /// Runs with an account of its own, which goes to all who get this answer. `status`: what git said of the workspace
    /// for the key under which it is kept.
    pub(super) async fn accounted(
        &self,
        call: &Call<'_>,
        status: Option<&Arc<Status>>,
        around: &Surroundings<'_>,
    ) -> Result<Execution, EngineError> {
        let (result, degraded) = resilience::accounted(Box::pin(self.produce(call, status, around))).await;
        told(result, degraded)
    }

    async fn produce(
        &self,
        call: &Call<'_>,
        status: Option<&Arc<Status>>,
        around: &Surroundings<'_>,
    ) -> Result<Execution, EngineError> {
        let pattern: &Pattern = &call.chosen.pattern;
        let now = self.clock.now();
        let Times { run: deadline, is_cut, after } = call.times;
        let (deadline, latest) = (Instant::from_std(deadline), Instant::from_std(after));
        let scope = call.within.clone();
        let bound = Bound::of(pattern, call.workspace, &scope, now)?;
        let root = Map::from_iter([
            ("inputs".to_owned(), Value::Object(call.input.clone())),
            ("bind".to_owned(), Value::Object(bound.values)),
            ("query".to_owned(), json!(call.chosen.query)),
            ("session".to_owned(), Value::Object(call.scratch.clone())),
        ]);
        let ran = run::run(Given {
            pattern,
            scope: scope.clone(),
            store: SharedStore::clone(&self.store),
            listener: self.listener.get().cloned(),
            fs_roots: bound.fs_roots,
            git_roots: bound.git_roots,
            root,
            session: call.request.session.clone(),
            now,
            deadline,
            is_cut,
            cancel: around.cancel.clone(),
            observer: around.observer,
            asker: Arc::clone(&around.asker),
            outside: Arc::clone(&self.outside),
            status: status.map(Arc::clone),
        })
        .await
        .map_err(|error| {
            let for_task = is_cut
                && error.kind == ErrorKind::Deadline
                && call.request.caller != Caller::Trusted
                && self.outlives_call(pattern)
                && Instant::now() + ENDS_EARLY >= deadline;
            if !for_task {
                return error;
            }
            let longest = pattern.limits.timeout;
            advised(error, &format!("a client that runs it as a task can wait for it, up to {longest:?}"))
        })?;

        if let Some(deprecated) = &pattern.deprecated {
            tracing::info!(pattern = pattern.name, %deprecated, "a deprecated pattern ran");
        }
        let budget_tokens = budget_of(pattern, call.request.mode);
        // An answer whose ages alone are others is no other answer.
        let (lasting, ages_until) = ran.lasting.unzip();
        let etag = etag(&pattern.hash, budget_tokens, lasting.as_ref().unwrap_or(&ran.output));
        drop(lasting);
        let mut receipt = Receipt {
            ages_until,
            bytes_seen: ran.bytes_seen,
            cache: "off",
            steps: ran.receipts,
            llm: ran.llm,
            ..Receipt::of(pattern)
        };
        if ran.is_suspended {
            return Ok(suspended(receipt));
        }
        let envelope = Envelope {
            etag: (pattern.effect == Effect::ReadOnly).then(|| etag.clone()),
            partial: ran.partial,
            project: call.project.clone(),
        };
        if pattern.effect == Effect::ReadOnly && call.unless == Some(etag.as_str()) {
            let unchanged = Execution {
                outcome: Outcome::Output { value: Arc::default(), etag, handle: None },
                text: String::new(),
                receipt,
            };
            return Ok(kept::unless(unchanged, call.unless, call.project.as_deref()));
        }
        let kept = Kept {
            store: &self.store,
            scope: &scope,
            pattern: named(pattern),
            now,
            latest,
            fails: &self.keeping_fails,
        };
        let fitted = budget::fit(
            ran.output,
            &pattern.output.shrink,
            budget_tokens,
            &envelope,
            pattern.output.overflow_handle.then_some(&kept),
            // Without the vocabulary, which a process reads once, an answer that fits might be refused.
            Instant::from_std(around.deadline),
        )
        .await
        .map_err(|error| error.with_receipt(|of_error| *of_error = receipt.clone()))?;
        if let Some(error) = call.compiled.output.iter_errors(&fitted.output).next() {
            let place = error.instance_path().to_string();
            let error = EngineError {
                kind: ErrorKind::PatternFault,
                message: format!(
                    "the output of {} breaks its own schema at `{place}`: {}; run `tmws pattern test {}`",
                    pattern.name,
                    data_clip(&error.masked().to_string(), 200),
                    pattern.name,
                ),
                part: Some("output".to_owned()),
                retry_after: None,
                receipt: Some(Box::new(receipt)),
            };
            return Err(error);
        }
        (receipt.tokens_out, receipt.tokens_estimated) = (fitted.tokens.count, fitted.tokens.estimated);
        Ok(Execution {
            outcome: Outcome::Output { value: Arc::new(fitted.value), etag, handle: fitted.handle },
            text: fitted.text,
            receipt,
        })
    }

    /// The scope within the session that the call names, and its scratch.
    async fn within_session(
        &self,
        scope: &Scope,
        session: Option<&str>,
        deadline: StdInstant,
    ) -> Result<(Scope, Map<String, Value>), EngineError> {
        let Some(handle) = session else { return Ok((scope.clone(), Map::new())) };
        let reading = self.store.session_scratch(scope, handle, self.clock.now());
        let scratch = resilience::by(deadline, reading)
            .await
            .map_err(|_| late("the store did not answer in time"))?
            .map_err(|error| {
                let unknown = matches!(error, StoreError::UnknownHandle);
                let error = StepError::from(error).into_engine_error("session");
                if unknown { advised(error, "session.open gives a new one") } else { error }
            })?;
        let key = Sha256::digest(handle.as_bytes())
            .iter()
            .take(16)
            .fold(String::new(), |key, byte| key + &format!("{byte:02x}"));
        Ok((scope.with_session(&key), scratch))
    }

    /// Whether `input` is what `pattern` takes.
    pub(super) fn fits(&self, pattern: &Pattern, input: &Map<String, Value>) -> bool {
        let compiled = self.compiled(pattern);
        compiled
            .is_ok_and(|compiled| inputs::prepare(&pattern.inputs, &compiled.inputs, input.clone()).is_ok())
    }

    pub(super) fn compiled(&self, pattern: &Pattern) -> Result<Arc<Compiled>, EngineError> {
        let lock = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = lock().get(&pattern.hash) {
            return Ok(Arc::clone(compiled));
        }
        let fault = |part: &str, message: String| EngineError {
            kind: ErrorKind::PatternFault,
            message: format!("{}: {message}; run `tmws pattern lint`", pattern.name),
            part: Some(part.to_owned()),
            retry_after: None,
            receipt: None,
        };
        Plan::of(pattern).map_err(|error| fault("steps", error.to_string()))?;
        let compiled = Arc::new(Compiled {
            inputs: inputs::schema(&pattern.inputs).map_err(|error| fault("inputs", error))?,
            output: inputs::schema(&pattern.output.schema).map_err(|error| fault("output.schema", error))?,
            // What asks has an answer of this caller's own.
            is_shareable: pattern.effect == Effect::ReadOnly
                && !has(pattern, Family::Session)
                && !has(pattern, Family::Llm)
                && !uses(&pattern.steps, "control.ask"),
            reads_memory: has(pattern, Family::Memory),
            keeping: Keeping::of(pattern),
            cost: Cost::default(),
        });
        let mut all = lock();
        if all.len() >= COMPILED_MAX {
            all.clear();
        }
        all.insert(pattern.hash.clone(), Arc::clone(&compiled));
        Ok(compiled)
    }
}

/// The inputs, checked: long ones elsewhere than where calls are answered.
async fn prepared(
    pattern: &Arc<Pattern>,
    compiled: &Arc<Compiled>,
    given: Map<String, Value>,
    deadline: Instant,
) -> Result<Map<String, Value>, EngineError> {
    if json_bytes(&given) <= INLINE_INPUT_BYTES {
        return inputs::prepare(&pattern.inputs, &compiled.inputs, given);
    }
    let (pattern, compiled) = (Arc::clone(pattern), Arc::clone(compiled));
    let checking = spawn_blocking(move || inputs::prepare(&pattern.inputs, &compiled.inputs, given));
    match timeout_at(deadline, checking).await {
        Ok(Ok(checked)) => checked,
        Ok(Err(_)) => Err(EngineError {
            kind: ErrorKind::Internal,
            message: "checking the input failed unexpectedly; the server's log has the details".to_owned(),
            part: Some("input".to_owned()),
            retry_after: None,
            receipt: None,
        }),
        Err(_) => Err(late("the call's time was over before its input was checked; give less")),
    }
}

/// One call, complete.
pub(super) struct Call<'a> {
    scope: &'a Scope,
    /// The same within the session that the call names.
    pub(super) within: Scope,
    pub(super) times: Times,
    pub(super) request: &'a ExecuteRequest,
    pub(super) chosen: &'a Chosen,
    pub(super) compiled: &'a Compiled,
    pub(super) workspace: &'a Workspace,
    /// What the answer calls the project, where it tells of memories.
    pub(super) project: Option<String>,
    input: Map<String, Value>,
    /// The inputs as canonical JSON, where equal calls may get one answer.
    pub(super) canonical: String,
    scratch: Map<String, Value>,
    /// The etag that the run itself looks at.
    unless: Option<&'a str>,
}

impl Call<'_> {
    /// The session's scratch as canonical JSON; nothing where the call names no session.
    pub(super) fn scratch_text(&self) -> String {
        if self.request.session.is_some() { canonical_object(&self.scratch) } else { String::new() }
    }
}

/// What the server fills in.
struct Bound {
    values: Map<String, Value>,
    fs_roots: BTreeMap<String, PathBuf>,
    /// For programs: git, and those of `permissions.exec`.
    git_roots: BTreeMap<String, PathBuf>,
}

impl Bound {
    fn of(
        pattern: &Pattern,
        workspace: &Workspace,
        scope: &Scope,
        now: Timestamp,
    ) -> Result<Self, EngineError> {
        let mut bound = Self { values: Map::new(), fs_roots: BTreeMap::new(), git_roots: BTreeMap::new() };
        for (name, source) in &pattern.binds {
            let value = match source {
                BindSource::WorkspaceRoot => {
                    let root = match workspace {
                        Workspace::Root(root) => root,
                        Workspace::None { reason } => return Err(no_workspace(pattern, reason)),
                    };
                    let text = root.to_string_lossy().into_owned();
                    if pattern.permissions.fs_read.contains(name) {
                        bound.fs_roots.insert(text.clone(), root.clone());
                    }
                    if !pattern.permissions.git.is_empty() || !pattern.permissions.exec.is_empty() {
                        bound.git_roots.insert(text.clone(), root.clone());
                    }
                    text
                }
                BindSource::ProjectId => scope.project().to_string(),
                BindSource::Agent => scope.agent().to_owned(),
                BindSource::Now => now.to_string(),
            };
            bound.values.insert(name.clone(), Value::String(value));
        }
        Ok(bound)
    }
}

/// Keeps whole outputs in the store; where it fails, the answer is still given and says that nothing was kept.
struct Kept<'a> {
    store: &'a SharedStore,
    scope: &'a Scope,
    pattern: String,
    now: Timestamp,
    /// When the answer is due.
    latest: Instant,
    /// Whether the last try failed: what goes on is told once.
    fails: &'a AtomicBool,
}

impl Keep for Kept<'_> {
    async fn keep(&self, output: &Value) -> Option<String> {
        let result = StoredResult { pattern: self.pattern.clone(), value: output.clone() };
        let keeping = self.store.put_result(self.scope, result, self.now);
        // Counted from here: what came before (the vocabulary that is loaded at first) is not the store's time.
        let until = self.latest.min(Instant::now() + KEEP_MAX);
        let kept = resilience::by(until.into_std(), keeping).await;
        let pattern = self.pattern.as_str();
        let why = match kept {
            Ok(Ok(handle)) => {
                if self.fails.swap(false, Ordering::Relaxed) {
                    tracing::info!("results are kept again");
                }
                return Some(handle);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store did not answer in time".to_owned(),
        };
        if self.fails.swap(true, Ordering::Relaxed) {
            tracing::debug!(pattern, why, "a result could not be kept");
        } else {
            tracing::warn!(
                pattern,
                why,
                "a result could not be kept; further ones are not told of until one is"
            );
        }
        None
    }
}

/// The budget of `pattern` in `mode`, in tokens.
pub(super) const fn budget_of(pattern: &Pattern, mode: Mode) -> usize {
    match mode {
        Mode::Fast => pattern.output.budget_tokens / 2,
        Mode::Balanced => pattern.output.budget_tokens,
        Mode::Comprehensive => pattern.output.budget_tokens * 2,
    }
}

fn named(pattern: &Pattern) -> String {
    pattern.full_name()
}

/// Whether any step of `pattern` touches `family`.
fn has(pattern: &Pattern, family: Family) -> bool {
    fn any(steps: &[StepSpec], family: Family) -> bool {
        steps
            .iter()
            .any(|step| step.uses.family == family || step.children.iter().any(|block| any(block, family)))
    }
    any(&pattern.steps, family)
}

/// Whether any of `steps` is a `step`.
fn uses(steps: &[StepSpec], step: &str) -> bool {
    steps.iter().any(|spec| spec.uses.uses == step || spec.children.iter().any(|block| uses(block, step)))
}

/// The same with what was not as it should be in its receipt.
fn told(result: Result<Execution, EngineError>, degraded: Vec<String>) -> Result<Execution, EngineError> {
    match result {
        Ok(mut execution) => {
            execution.receipt.degrade(degraded);
            Ok(execution)
        }
        Err(error) => Err(error.with_receipt(|receipt| receipt.degrade(degraded))),
    }
}

/// The same with how long it took in its receipt.
fn timed(result: Result<Execution, EngineError>, begun: Instant) -> Result<Execution, EngineError> {
    match result {
        Ok(mut execution) => {
            execution.receipt.elapsed = begun.elapsed();
            Ok(execution)
        }
        Err(error) => Err(error.with_receipt(|receipt| receipt.elapsed = begun.elapsed())),
    }
}

/// The answer of a run that is to be made again.
fn suspended(receipt: Receipt) -> Execution {
    Execution { outcome: Outcome::Suspended, text: String::new(), receipt }
}

/// What a model calls the project: the workspace folder's name, else the id.
fn project_name(workspace: &Workspace, scope: &Scope) -> String {
    match workspace {
        Workspace::Root(root) => root.file_name().map(|name| data_clip(&name.to_string_lossy(), 40)),
        Workspace::None { .. } => None,
    }
    .unwrap_or_else(|| scope.project().to_string())
}

pub(super) fn effectful(pattern: &Pattern) -> EngineError {
    let does = if pattern.effect == Effect::Executes { "runs programs" } else { "writes" };
    let way =
        if pattern.name == "memory.remember" { "use the tool `remember`" } else { "ask the user to run it" };
    EngineError {
        kind: ErrorKind::Denied,
        message: format!(
            "{} {does}, and execute_pattern only reads: {way}, or on the command line `tmws run {}`",
            pattern.name, pattern.name
        ),
        part: Some("pattern".to_owned()),
        retry_after: None,
        receipt: None,
    }
}

pub(super) fn no_workspace(pattern: &Pattern, reason: &str) -> EngineError {
    EngineError {
        kind: ErrorKind::Denied,
        message: format!("{} works on a folder, and there is none: {reason}", pattern.name),
        part: Some("workspace".to_owned()),
        retry_after: None,
        receipt: None,
    }
}

pub(super) fn cancelled() -> EngineError {
    EngineError {
        kind: ErrorKind::Cancelled,
        message: "the caller cancelled the run".to_owned(),
        part: None,
        retry_after: None,
        receipt: None,
    }
}

fn late(message: &str) -> EngineError {
    EngineError {
        kind: ErrorKind::Deadline,
        message: message.to_owned(),
        part: None,
        retry_after: None,
        receipt: None,
    }
}

/// The same error with what to do about it.
fn advised(error: EngineError, advice: &str) -> EngineError {
    EngineError { message: format!("{}; {advice}", error.message), ..error }
}
