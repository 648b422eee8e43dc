//! Runs the steps of one pattern: those that need nothing of each other at the same time, each under its deadline, all
//! under the run's.
//!
//! Everything runs inside the caller's future: dropping it ends the run. Blocking work of steps and of expressions is
//! waited for until its deadline, never longer; it goes on until it sees that its token is cancelled or its deadline is
//! over, and its result is thrown away. A panic in a step is caught and
//! is that step's error `internal`.

use std::{
    collections::{BTreeMap, HashSet},
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant as StdInstant},
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Asker, EngineError, ErrorKind, LlmReceipt, MemoryListener, Observer, Outside, StepReceipt,
    allowed::lacking,
    asking::{Counted, Suspending},
    parts::Status,
    relative,
    steps::{self, Foreach, StepContext, StepError, StepOutput, traced},
};
use crate::{
    pattern::{Effect, ExpressionError, Family, OnError, Pattern, StepSpec, Template},
    resilience,
    scope::{Rights, Scope},
    store::SharedStore,
};

/// An expression may take so long on the caller's thread; after that it starts again on a thread of its own.
pub(super) const INLINE: Duration = Duration::from_millis(2);

/// What is longer than this as JSON is not tried on the caller's thread: most of the time it would start again.
pub(super) const INLINE_BYTES_MAX: usize = 12 << 10;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a run is given.
pub(super) struct Given<'a> {
    pub(super) pattern: &'a Pattern,
    pub(super) scope: Scope,
    pub(super) store: SharedStore,
    /// Told of memories that steps touch.
    pub(super) listener: Option<Arc<dyn MemoryListener>>,
    /// Roots for `fs.*`, and for `git.*` and `exec.*`.
    pub(super) fs_roots: BTreeMap<String, PathBuf>,
    pub(super) git_roots: BTreeMap<String, PathBuf>,
    /// `{inputs, bind, query, session}`.
    pub(super) root: Map<String, Value>,
    /// Handle of the call's session.
    pub(super) session: Option<String>,
    pub(super) now: Timestamp,
    /// The caller's, or the pattern's own, whichever is earlier.
    pub(super) deadline: Instant,
    /// Whether that is the caller's.
    pub(super) is_cut: bool,
    pub(super) cancel: CancellationToken,
    pub(super) observer: &'a dyn Observer,
    /// Asks whoever made the call.
    pub(super) asker: Arc<dyn Asker>,
    /// Ways out of the process.
    pub(super) outside: Arc<Outside>,
    /// What git said of the workspace for the key of the answer.
    pub(super) status: Option<Arc<Status>>,
}

/// What a run gave.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// The pattern's output.
    pub(super) output: Value,
    /// The output with times in the place of ages, where it has ages, and when the first of them will be another.
    pub(super) lasting: Option<(Value, Timestamp)>,
    /// Of the steps at the top, then of those in blocks.
    pub(super) receipts: Vec<StepReceipt>,
    /// What all steps read or made.
    pub(super) bytes_seen: u64,
    /// Steps that failed where the pattern went on, with their codes.
    pub(super) partial: Vec<(String, String)>,
    /// What language models were used.
    pub(super) llm: Vec<LlmReceipt>,
    /// It ended because all that was left waits for answers; then there is no output.
    pub(super) is_suspended: bool,
}

/// Runs a pattern.
///
/// # Errors
/// Of the step that ended the run, its `part` the step's id; of the output's expression (`part` is `output`). Either with
/// the receipts of the steps.
pub(super) async fn run(given: Given<'_>) -> Result<Ran, EngineError> {
    let cancel = given.cancel.child_token();
    let _ended = cancel.clone().drop_guard();
    let run = Run {
        given,
        cancel,
        begun: Instant::now(),
        started: AtomicUsize::new(0),
        produced: AtomicUsize::new(0),
        seen: AtomicU64::new(0),
        ended: AtomicUsize::new(0),
        busy: Arc::default(),
        waiting: Arc::default(),
        ledger: Mutex::default(),
    };
    let mut root = run.given.root.clone();
    root.insert("steps".to_owned(), Value::Object(Map::new()));
    let pattern = run.given.pattern;
    let ended = {
        let mut block = run.block(&pattern.steps, Value::Object(root), Place::default());
        poll_fn(|context| match block.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if run.only_waits() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    };
    let is_suspended = ended.is_none();
    let output = match ended {
        None => Ok((Value::Null, None)),
        Some(Err(Failed { id, error })) => Err(error.into_engine_error(&id)),
        Some(Ok(root)) => evaluate_output(&run.given, root)
            .await
            .map_err(|error| StepError::from(error).into_engine_error("output")),
    };
    let Ledger { mut receipts, nested, mut partial, llm } =
        run.ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    receipts.extend(nested);
    in_order(&pattern.steps, &mut partial);
    let bytes_seen = run.seen.into_inner();
    match output {
        Ok((output, lasting)) => {
            Ok(Ran { output, lasting, receipts, bytes_seen, partial, llm, is_suspended })
        }
        Err(error) => Err(error.with_receipt(|receipt| {
            (receipt.steps, receipt.llm, receipt.bytes_seen) = (receipts, llm, bytes_seen);
        })),
    }
}

/// The output, and as [`Ran::lasting`] what of it holds longer than its ages.
async fn evaluate_output(
    given: &Given<'_>,
    root: Value,
) -> Result<(Value, Option<(Value, Timestamp)>), ExpressionError> {
    let (template, bytes_max) = (&given.pattern.output.value, given.pattern.limits.max_bytes);
    let mut timeless = relative::has_age(&root["steps"]).then(|| root.clone());
    let until = timeless.as_mut().and_then(|root| relative::without_ages(root.get_mut("steps")?, given.now));
    let output = evaluate(template, root, given.deadline, bytes_max).await?;
    let (Some(timeless), Some(until)) = (timeless, until) else { return Ok((output, None)) };
    // What reckons with an age as a text may fail on the time: then the answer counts as it is.
    let lasting = evaluate(template, timeless, given.deadline, bytes_max).await.ok();
    let lasting = lasting.filter(|lasting| *lasting != output).map(|lasting| (lasting, until));
    Ok((output, lasting))
}

struct Run<'a> {
    given: Given<'a>,
    cancel: CancellationToken,
    begun: Instant,
    started: AtomicUsize,
    produced: AtomicUsize,
    seen: AtomicU64,
    ended: AtomicUsize,
    /// Steps at work that hold no others, and steps whose arguments are being made.
    busy: Arc<AtomicUsize>,
    /// Questions that get no answer in this run.
    waiting: Arc<AtomicUsize>,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    receipts: Vec<StepReceipt>,
    /// Of steps in blocks: one each, however often it is reached.
    nested: Vec<StepReceipt>,
    partial: Vec<(String, String)>,
    llm: Vec<LlmReceipt>,
}

/// Where a block of steps stands.
#[derive(Clone, Default)]
struct Place<'s> {
    /// The step that holds it; the block at the top has none.
    around: Option<&'s str>,
    /// What the ids of its steps begin with to be unique in the run: `each[3].`.
    prefix: Arc<str>,
}

impl<'s> Place<'s> {
    /// The place of a block that `step`, which stands here, holds; in a loop, that of one item.
    fn within(&self, step: &'s StepSpec, index: Option<usize>) -> Self {
        let (prefix, id) = (&self.prefix, &step.id);
        let prefix = match index {
            None => format!("{prefix}{id}."),
            Some(index) => format!("{prefix}{id}[{index}]."),
        };
        Self { around: Some(id), prefix: prefix.into() }
    }
}

impl Ledger {
    /// Adds what a step in a block cost.
    fn add(&mut self, receipt: StepReceipt) {
        let Some(sum) = self.nested.iter_mut().find(|sum| sum.id == receipt.id) else {
            return self.nested.push(receipt);
        };
        sum.n += receipt.n;
        sum.elapsed += receipt.elapsed;
        sum.bytes += receipt.bytes;
        let gravity = |outcome: &str| match outcome {
            "skipped" => 0,
            "ok" => 1,
            _ => 2,
        };
        if gravity(&receipt.outcome) > gravity(&sum.outcome) {
            sum.outcome = receipt.outcome;
        }
    }
}

/// A step that ended its block.
struct Failed {
    id: String,
    error: StepError,
}

/// What was found out about a step before it starts.
enum Prepared {
    Skip,
    /// Its arguments, and the root where it needs one.
    Ready(Map<String, Value>, Option<Value>),
    /// Its expressions take long.
    Slow(Value),
    Failed(StepError),
}

impl<'a> Run<'a> {
    /// Whether all that is at work waits for answers that this run does not get.
    fn only_waits(&self) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        waiting > 0 && self.busy.load(Ordering::Relaxed) <= waiting
    }

    /// Runs a block of steps on `root`, and gives `root` with their values under `.steps`.
    fn block<'s>(
        &'s self,
        steps: &'s [StepSpec],
        root: Value,
        place: Place<'s>,
    ) -> Boxed<'s, Result<Value, Failed>>
    where
        'a: 's,
    {
        Box::pin(async move {
            let own: HashSet<&str> = steps.iter().map(|step| step.id.as_str()).collect();
            let mut root = root;
            let mut ended: HashSet<&str> = HashSet::new();
            let mut waiting: Vec<&StepSpec> = steps.iter().collect();
            let mut running = Group::default();
            loop {
                waiting.retain(|step| {
                    let ready = step
                        .needs
                        .iter()
                        .all(|needs| !own.contains(needs.as_str()) || ended.contains(needs.as_str()));
                    if ready {
                        running.push(self.step(step, self.prepare(step, &root), place.clone()));
                    }
                    !ready
                });
                let Some((step, result)) = running.next().await else { break };
                let value = match result {
                    Ok(value) => value,
                    Err(error) => {
                        let id = place
                            .around
                            .map_or_else(|| step.id.clone(), |around| format!("{around}.{}", step.id));
                        if step.on_error != OnError::Continue || self.is_over(&error) {
                            return Err(Failed { id, error });
                        }
                        let value = json!({"error": {"code": error.kind.code(), "message": error.message}});
                        self.ledger().partial.push((id, error.kind.code().to_owned()));
                        value
                    }
                };
                root["steps"][&step.id] = value;
                ended.insert(&step.id);
            }
            Ok(root)
        })
    }

    /// Whether the run itself is at its end, so that no step may go on.
    fn is_over(&self, error: &StepError) -> bool {
        error.kind == ErrorKind::Cancelled
            || Instant::now() >= self.given.deadline
            || self.started.load(Ordering::Relaxed) > self.given.pattern.limits.max_steps
            || self.produced.load(Ordering::Relaxed) > self.given.pattern.limits.max_bytes
    }

    fn prepare(&self, step: &StepSpec, root: &Value) -> Prepared {
        let inline = (StdInstant::now() + INLINE).min(self.given.deadline.into_std());
        match prepare(step, root, inline, self.given.pattern.limits.max_bytes) {
            Err(ExpressionError::Deadline) => Prepared::Slow(root.clone()),
            Err(error) => Prepared::Failed(error.into()),
            Ok(prepared) => prepared,
        }
    }

    /// One step from its arguments to its value.
    fn step<'s>(
        &'s self,
        step: &'s StepSpec,
        prepared: Prepared,
        place: Place<'s>,
    ) -> Boxed<'s, (&'s StepSpec, Result<Value, StepError>)>
    where
        'a: 's,
    {
        Box::pin(async move {
            let begun = Instant::now();
            let trace = self.given.observer.trace().map(|run| run.child());
            let busy = Counted::new(&self.busy);
            let prepared = self.settled(step, prepared).await;
            // A step that holds others is as busy as those are.
            let _busy = step.children.is_empty().then_some(busy);
            let result = match prepared {
                Prepared::Skip => Ok(None),
                Prepared::Ready(with, root) => {
                    traced(trace.clone(), self.tries(step, &place, with, root)).await.map(Some)
                }
                Prepared::Failed(error) => Err(error),
                Prepared::Slow(_) => Err(ExpressionError::Deadline.into()),
            };
            let (outcome, bytes) = match &result {
                Ok(None) => ("skipped", 0),
                Ok(Some(output)) => ("ok", output.bytes),
                Err(error) => (error.kind.code(), 0),
            };
            let receipt = StepReceipt {
                id: place.around.map_or_else(|| step.id.clone(), |around| format!("{around}.{}", step.id)),
                n: 1,
                outcome: outcome.to_owned(),
                began: begun - self.begun,
                elapsed: begun.elapsed(),
                bytes,
            };
            self.given.observer.stepped(&receipt, trace.as_ref());
            if place.around.is_some() {
                self.ledger().add(receipt);
            } else {
                self.ledger().receipts.push(receipt);
                let done = self.ended.fetch_add(1, Ordering::Relaxed) + 1;
                self.given.observer.progress(done, self.given.pattern.steps.len(), &step.id);
            }
            (step, result.map(|output| output.map_or(Value::Null, |output| output.value)))
        })
    }

    /// Evaluates slow expressions on a thread of their own.
    async fn settled(&self, step: &StepSpec, prepared: Prepared) -> Prepared {
        let Prepared::Slow(root) = prepared else { return prepared };
        let (step, deadline) = (step.clone(), self.deadline(step));
        let bytes_max = self.given.pattern.limits.max_bytes;
        let evaluated = off_thread(deadline, move || prepare(&step, &root, deadline.into_std(), bytes_max));
        match evaluated.await {
            Ok(prepared) => prepared,
            Err(error) => Prepared::Failed(error.into()),
        }
    }

    async fn tries<'s>(
        &'s self,
        step: &'s StepSpec,
        place: &Place<'s>,
        with: Map<String, Value>,
        root: Option<Value>,
    ) -> Result<StepOutput, StepError> {
        let (mut left, backoff) = match step.on_error {
            // What writes is never repeated: whether the first try took effect is unknown.
            OnError::Retry { max, backoff } if step.uses.effect == Effect::ReadOnly => (max, backoff),
            OnError::Retry { .. } | OnError::Abort | OnError::Continue => (0, Duration::ZERO),
        };
        loop {
            let begun = Instant::now();
            let result = self.attempt(step, place, &with, root.as_ref()).await;
            if step.uses.family == Family::Llm {
                let receipt = match &result {
                    Ok(output) => LlmReceipt::of_step(&output.value, begun.elapsed()),
                    Err(error) => {
                        LlmReceipt::failed(error.kind, self.given.outside.llm.model(), begun.elapsed())
                    }
                };
                self.ledger().llm.push(receipt);
            }
            match result {
                Err(error) if left > 0 && worth_another_try(error.kind) && !self.is_over(&error) => {
                    left -= 1;
                    tracing::debug!(step = step.id, code = error.kind.code(), "step is tried again");
                    tokio::select! {
                        () = self.cancel.cancelled() => return Err(cancelled()),
                        over = timeout_at(self.given.deadline, sleep(backoff)) => if over.is_err() {
                            return Err(error);
                        }
                    }
                }
                result => return result,
            }
        }
    }

    fn deadline(&self, step: &StepSpec) -> Instant {
        let run = self.given.deadline;
        step.timeout.map_or(run, |timeout| run.min(Instant::now() + timeout))
    }

    async fn attempt<'s>(
        &'s self,
        step: &'s StepSpec,
        place: &Place<'s>,
        with: &Map<String, Value>,
        root: Option<&Value>,
    ) -> Result<StepOutput, StepError> {
        let limits = self.given.pattern.limits;
        if self.started.fetch_add(1, Ordering::Relaxed) >= limits.max_steps {
            return Err(StepError::new(
                ErrorKind::LimitExceeded,
                format!(
                    "more than {} steps, loops counted (limits.max_steps of the pattern)",
                    limits.max_steps
                ),
            ));
        }
        let deadline = self.deadline(step);
        let cancel = self.cancel.child_token();
        let _ended = cancel.clone().drop_guard();
        let work = self.dispatch(step, place, with, root, deadline, cancel);
        let work: Boxed<'_, Result<StepOutput, StepError>> =
            Box::pin(resilience::until(deadline.into_std(), work));
        let output = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(cancelled()),
            output = timeout_at(deadline, caught(work)) => match output {
                Ok(Ok(output)) => output?,
                Ok(Err(Panicked)) => return Err(panicked(&format!("step `{}`", step.id))),
                Err(_) if Instant::now() < self.given.deadline => {
                    let timeout = step.timeout.unwrap_or_default();
                    return Err(StepError::new(
                        ErrorKind::Deadline,
                        format!("{} did not end within its {timeout:?}", step.uses.uses),
                    ));
                }
                Err(_) if self.given.is_cut => return Err(StepError::new(
                    ErrorKind::Deadline,
                    format!("the call's time was over before {} ended; ask for less", step.uses.uses),
                )),
                Err(_) => return Err(StepError::new(
                    ErrorKind::Deadline,
                    format!(
                        "the run's time was over before {} ended (limits.timeout of the pattern is {:?}); ask for less",
                        step.uses.uses, limits.timeout,
                    ),
                )),
            },
        };
        self.account(step, &output)?;
        Ok(output)
    }

    /// Counts what a step gave against `max_bytes`. Steps that hold others are counted by those.
    fn account(&self, step: &StepSpec, output: &StepOutput) -> Result<(), StepError> {
        if !step.children.is_empty() {
            return Ok(());
        }
        self.seen.fetch_add(output.bytes, Ordering::Relaxed);
        let bytes = steps::json_bytes(&output.value);
        let max = self.given.pattern.limits.max_bytes;
        if self.produced.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > max {
            return Err(StepError::new(
                ErrorKind::LimitExceeded,
                format!(
                    "the steps gave more than {max} bytes (limits.max_bytes of the pattern); ask for less"
                ),
            ));
        }
        Ok(())
    }

    async fn dispatch<'s>(
        &'s self,
        step: &'s StepSpec,
        place: &Place<'s>,
        with: &Map<String, Value>,
        root: Option<&Value>,
        deadline: Instant,
        cancel: CancellationToken,
    ) -> Result<StepOutput, StepError> {
        let root = root.unwrap_or(&Value::Null);
        let value = match step.uses.uses {
            "control.parallel" => self.parallel(step, place, root).await?,
            "control.foreach" => self.foreach(step, place, with, root).await?,
            "control.switch" => self.switch(step, place, with, root).await?,
            uses => {
                self.permit(step)?;
                if uses == "git.status"
                    && let Some(known) = self.given.status.as_ref().and_then(|status| status.answer(with))
                {
                    return Ok(known);
                }
                let context = self.context(step, place, deadline, cancel);
                return match (uses, self.given.session.as_ref()) {
                    ("data.jq", _) if !with.contains_key("input") => {
                        steps::run(step.uses, &context, &with_member(with, "input", root.clone())).await
                    }
                    ("session.close", Some(session)) if with.get("session").is_none_or(Value::is_null) => {
                        steps::run(step.uses, &context, &with_member(with, "session", json!(session))).await
                    }
                    _ => steps::run(step.uses, &context, with).await,
                };
            }
        };
        Ok(StepOutput::of(value))
    }

    fn context(
        &self,
        step: &StepSpec,
        place: &Place<'_>,
        deadline: Instant,
        cancel: CancellationToken,
    ) -> StepContext {
        let given = &self.given;
        let produced = self.produced.load(Ordering::Relaxed);
        StepContext {
            scope: given.scope.clone(),
            store: SharedStore::clone(&given.store),
            listener: given.listener.clone(),
            roots: match step.uses.family {
                Family::Fs => given.fs_roots.clone(),
                Family::Git | Family::Exec => given.git_roots.clone(),
                _ => BTreeMap::new(),
            },
            permissions: Arc::clone(&given.pattern.permissions),
            outside: Arc::clone(&given.outside),
            asker: Arc::new(Suspending::new(Arc::clone(&given.asker), Arc::clone(&self.waiting))),
            id: format!("{}{}", place.prefix, step.id),
            now: given.now,
            deadline: deadline.into_std(),
            cancel,
            bytes_max: given.pattern.limits.max_bytes.saturating_sub(produced),
        }
    }

    /// Checks the pattern's permissions, and the caller's rights, against what `step` touches.
    fn permit(&self, step: &StepSpec) -> Result<(), StepError> {
        let permissions = &self.given.pattern.permissions;
        let needed = match (step.uses.family, step.uses.effect) {
            (Family::Memory, Effect::ReadOnly) => Rights::MEMORY_READ,
            (Family::Memory, Effect::Writes | Effect::Executes) => Rights::MEMORY_WRITE,
            _ => Rights::NONE,
        };
        let missing = needed.without(self.given.scope.rights());
        if missing != Rights::NONE {
            return Err(StepError::new(ErrorKind::Denied, lacking(step.uses.uses, missing).message));
        }
        let (allowed, wanted) = match (step.uses.family, step.uses.effect) {
            (Family::Memory, Effect::ReadOnly) => (permissions.memory_read, "memory: [read]".to_owned()),
            (Family::Memory, Effect::Writes | Effect::Executes) => {
                (permissions.memory_write, "memory: [write]".to_owned())
            }
            (Family::Fs, _) => (!permissions.fs_read.is_empty(), "fs.read".to_owned()),
            (Family::Git, _) => {
                let command = step.uses.uses.trim_start_matches("git.");
                (permissions.git.iter().any(|git| git == command), format!("git: [{command}]"))
            }
            (family @ (Family::Exec | Family::Http | Family::Sql | Family::Mcp | Family::Llm), _) => {
                let Some(key) = permissions.lacks(family) else { return Ok(()) };
                (false, key.to_owned())
            }
            (Family::Data | Family::Control | Family::Session | Family::Server, _) => return Ok(()),
        };
        if allowed {
            return Ok(());
        }
        Err(StepError::new(
            ErrorKind::Denied,
            format!("{} needs the permission `{wanted}`, which the pattern does not declare", step.uses.uses),
        ))
    }

    async fn parallel<'s>(
        &'s self,
        step: &'s StepSpec,
        place: &Place<'s>,
        root: &Value,
    ) -> Result<Value, StepError> {
        let mut values = Map::new();
        for block in &step.children {
            let mut root = self.block(block, root.clone(), place.within(step, None)).await.map_err(inner)?;
            for child in block {
                values.insert(child.id.clone(), root["steps"][&child.id].take());
            }
        }
        Ok(Value::Object(values))
    }

    async fn foreach<'s>(
        &'s self,
        step: &'s StepSpec,
        place: &Place<'s>,
        with: &Map<String, Value>,
        root: &Value,
    ) -> Result<Value, StepError> {
        let args = Foreach::read(with)?;
        let block = step.children.first().map_or(&[][..], Vec::as_slice);
        let mut results = vec![Value::Null; args.items.len()];
        let mut running = Group::default();
        let mut items = args.items.iter().enumerate();
        loop {
            while running.len() < args.concurrency
                && let Some((index, item)) = items.next()
            {
                let mut root = root.clone();
                root[args.name] = item.clone();
                root["index"] = json!(index);
                let place = place.within(step, Some(index));
                running.push(Box::pin(async move { (index, self.block(block, root, place).await) }));
            }
            let Some((index, root)) = running.next().await else { break };
            results[index] = last_value(block, root.map_err(inner)?);
        }
        Ok(json!({"n": results.len(), "total": args.total, "results": results}))
    }

    async fn switch<'s>(
        &'s self,
        step: &'s StepSpec,
        place: &Place<'s>,
        with: &Map<String, Value>,
        root: &Value,
    ) -> Result<Value, StepError> {
        let cases = with.get("cases").and_then(Value::as_array).map_or(0, Vec::len);
        let block = match steps::first_case(with)? {
            Some(case) => step.children.get(case),
            None => step.children.get(cases),
        };
        let Some(block) = block else { return Ok(Value::Null) };
        let root = self.block(block, root.clone(), place.within(step, None)).await.map_err(inner)?;
        Ok(last_value(block, root))
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts what failed in the order of the file, each step once: which one ended first differs from run to run.
fn in_order(steps: &[StepSpec], partial: &mut Vec<(String, String)>) {
    fn note(steps: &[StepSpec], around: Option<&str>, ids: &mut Vec<String>) {
        for step in steps {
            ids.push(around.map_or_else(|| step.id.clone(), |around| format!("{around}.{}", step.id)));
            step.children.iter().for_each(|block| note(block, Some(&step.id), ids));
        }
    }
    if partial.len() < 2 {
        return;
    }
    let mut ids = Vec::new();
    note(steps, None, &mut ids);
    partial.sort_by_cached_key(|(id, code)| {
        (ids.iter().position(|known| known == id), id.clone(), code.clone())
    });
    partial.dedup_by(|later, first| later.0 == first.0);
}

/// Takes the value of the last step of `block` out of `root`.
fn last_value(block: &[StepSpec], mut root: Value) -> Value {
    block.last().map_or(Value::Null, |last| root["steps"][&last.id].take())
}

fn inner(failed: Failed) -> StepError {
    let Failed { id, error } = failed;
    StepError { message: format!("{id}: {}", error.message), ..error }
}

fn with_member(with: &Map<String, Value>, name: &str, value: Value) -> Map<String, Value> {
    let mut with = with.clone();
    with.insert(name.to_owned(), value);
    with
}

fn prepare(
    step: &StepSpec,
    root: &Value,
    deadline: StdInstant,
    bytes_max: usize,
) -> Result<Prepared, ExpressionError> {
    if let Some(condition) = &step.condition
        && condition.evaluate(root, deadline, bytes_max)? != Value::Bool(true)
    {
        return Ok(Prepared::Skip);
    }
    let Value::Object(with) = step.with.evaluate(root, deadline, bytes_max)? else {
        return Err(ExpressionError::Failed("`with` must be an object".to_owned()));
    };
    let needs_root = !step.children.is_empty() || step.uses.uses == "data.jq";
    Ok(Prepared::Ready(with, needs_root.then(|| root.clone())))
}

/// Fills in `template`: at once where that is quick, else on a thread of its own.
pub(super) async fn evaluate(
    template: &Template,
    root: Value,
    deadline: Instant,
    bytes_max: usize,
) -> Result<Value, ExpressionError> {
    if steps::json_bytes(&root) <= INLINE_BYTES_MAX {
        let inline = (StdInstant::now() + INLINE).min(deadline.into_std());
        match template.evaluate(&root, inline, bytes_max) {
            Err(ExpressionError::Deadline) => {}
            evaluated => return evaluated,
        }
    }
    let template = template.clone();
    off_thread(deadline, move || template.evaluate(&root, deadline.into_std(), bytes_max)).await
}

/// Evaluates on a thread of its own, which is waited for until `deadline`.
async fn off_thread<T: Send + 'static>(
    deadline: Instant,
    evaluate: impl FnOnce() -> Result<T, ExpressionError> + Send + 'static,
) -> Result<T, ExpressionError> {
    match timeout_at(deadline, tokio::task::spawn_blocking(evaluate)).await {
        Ok(Ok(evaluated)) => evaluated,
        Ok(Err(_)) => Err(ExpressionError::Failed(
            "the expression failed unexpectedly: a bug; the server's log has the details".to_owned(),
        )),
        Err(_) => Err(ExpressionError::Deadline),
    }
}

const fn worth_another_try(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Busy
            | ErrorKind::Deadline
            | ErrorKind::StoreUnavailable
            | ErrorKind::ProgramFailed
            | ErrorKind::NotFound
    )
}

fn cancelled() -> StepError {
    StepError::new(ErrorKind::Cancelled, "the caller cancelled the run")
}

fn panicked(what: &str) -> StepError {
    StepError::new(
        ErrorKind::Internal,
        format!("{what} failed unexpectedly: a bug; the server's log has the details"),
    )
}

/// A panic that was caught. The panic's own text went to the log by the panic hook.
struct Panicked;

/// `work`, with a panic in it as a value.
async fn caught<T>(mut work: Boxed<'_, T>) -> Result<T, Panicked> {
    poll_fn(move |context| {
        // What a panicking step leaves behind is its own: it is dropped and its value is thrown away.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}

/// Futures that run together. Few enough (steps of a block, items at once) to poll all of them each time.
struct Group<'a, T> {
    running: Vec<Boxed<'a, T>>,
}

impl<T> Default for Group<'_, T> {
    fn default() -> Self {
        Self { running: Vec::new() }
    }
}

impl<'a, T> Group<'a, T> {
    fn push(&mut self, future: Boxed<'a, T>) {
        self.running.push(future);
    }

    fn len(&self) -> usize {
        self.running.len()
    }

    /// The next one to end; `None` where none runs.
    async fn next(&mut self) -> Option<T> {
        poll_fn(|context| {
            if self.running.is_empty() {
                return Poll::Ready(None);
            }
            for index in 0..self.running.len() {
                if let Poll::Ready(value) = self.running[index].as_mut().poll(context) {
                    drop(self.running.swap_remove(index));
                    return Poll::Ready(Some(value));
                }
            }
            Poll::Pending
        })
        .await
    }
}
