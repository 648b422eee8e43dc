//! What the engine is asked and what it answers.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    cache::Layer,
    pattern::{Mode, Pattern},
    scope::Scope,
    store::Visibility,
    trace::TraceContext,
};

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The folder that `fs.*` and `git.*` steps work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workspace {
    /// A canonical directory.
    Root(PathBuf),
    /// None, and why: patterns that need one answer `denied` with this text and what to set.
    None {
        /// One sentence.
        reason: String,
    },
}

/// Who may run what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A model through `execute_pattern` or a prompt: read-only patterns only.
    Model,
    /// A model through a tool that the configuration made of one pattern: that pattern, also where it has effects.
    Promoted,
    /// The command line or `remember`: effectful patterns too, by name.
    Trusted,
}

/// What to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A pattern by name, optionally pinned: `repo.digest`, `repo.digest@1`.
    Pattern(String),
    /// A question in words, to be routed.
    Query(String),
}

/// One execution.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecuteRequest {
    /// What to run.
    pub target: Target,
    /// Inputs by name, before defaults.
    pub input: Map<String, Value>,
    /// Types and budget.
    pub mode: Mode,
    /// A session handle, which overrides the connection's own session.
    pub session: Option<String>,
    /// An etag: the answer is `unchanged` when it still holds.
    pub unless: Option<String>,
    /// Skips caches.
    pub fresh: bool,
    /// Who asks.
    pub caller: Caller,
}

/// Told how far a run is.
pub trait Observer: Send + Sync {
    /// `done` of `total` steps have ended; `step` is the one that just did.
    fn progress(&self, done: usize, total: usize, step: &str);

    /// A step has ended; `trace` is its span, where the run has a trace.
    fn stepped(&self, step: &StepReceipt, trace: Option<&TraceContext>) {
        let _ = (step, trace);
    }

    /// The trace that the run belongs to.
    fn trace(&self) -> Option<TraceContext> {
        None
    }

    /// This pattern runs now. `outlives_call`: it declares that it may take longer than a call.
    fn chosen(&self, pattern: &Arc<Pattern>, outlives_call: bool) {
        let _ = (pattern, outlives_call);
    }
}

/// Something that only whoever made the call can give.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// The user fills in a form (MCP: elicitation).
    Form {
        /// What is asked, for a person.
        message: String,
        /// The form: an object schema of the restricted kind that elicitation has.
        schema: Value,
    },
    /// The client's language model completes a prompt (MCP: sampling).
    Completion {
        /// System prompt.
        system: Option<String>,
        /// Prompt.
        prompt: String,
        /// Tokens of the completion at most.
        max_tokens: u32,
    },
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The form, filled in; it fits the schema.
    Accepted(Map<String, Value>),
    /// The user said no.
    Declined,
    /// The user closed the form.
    Dismissed,
    /// The completion.
    Completed {
        /// Its text.
        text: String,
        /// The model, as the client names it.
        model: String,
    },
}

/// Why nothing came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAnswered {
    /// Nobody can be asked: what is missing, and what to do.
    Unable(String),
    /// The asking failed.
    Failed(String),
    /// Not in this run: the question is recorded. The run ends as [`Outcome::Suspended`] as soon as nothing else in it can
    /// go on, and is made again with the answer at hand.
    Later,
}

/// Asks whoever made the call. Where a call can only be answered by being made again (each MCP era without tasks), the
/// run is suspended and comes again with the answer at hand: what precedes a question runs once more.
#[async_trait]
pub trait Asker: Send + Sync {
    /// Asks `question`. `key` names it within the run, the same each time that the run is made.
    async fn ask(&self, key: &str, question: Question) -> Result<Answer, NotAnswered>;

    /// Whether whoever made the call has a language model that may be asked.
    fn completes(&self) -> bool {
        false
    }
}

/// Nobody is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct NobodyToAsk;

#[async_trait]
impl Asker for NobodyToAsk {
    async fn ask(&self, _: &str, _: Question) -> Result<Answer, NotAnswered> {
        Err(NotAnswered::Unable("nobody can be asked here".to_owned()))
    }
}

/// A memory that a run stored, found again, changed or forgot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryTouched {
    /// Its id.
    pub id: String,
    /// The project that it belongs to.
    pub project: String,
    /// Who may see it within that project.
    pub visibility: Visibility,
}

/// Told of every memory that a run touched, as soon as the store has acknowledged it.
pub trait MemoryListener: Send + Sync {
    /// `scope` is the run's, within the session that the call named.
    fn memory_touched(&self, scope: &Scope, memory: &MemoryTouched);
}

/// How an execution ended well.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// What happened.
    pub outcome: Outcome,
    /// The compact JSON text for the model: exactly what is counted against the budget.
    pub text: String,
    /// Honest accounting; not for the model.
    pub receipt: Receipt,
}

/// The answer itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The pattern ran. `value` is its output with the envelope members the model needs (`etag`, `more`, `partial`, `project`).
    Output {
        /// As rendered in `text`.
        value: Arc<Value>,
        /// Names this output; hand it back as `unless`.
        etag: String,
        /// Handle of the whole result where it was shrunk.
        handle: Option<String>,
    },
    /// The etag given as `unless` still holds.
    Unchanged {
        /// The same etag.
        etag: String,
    },
    /// The query matched nothing uniquely: the caller chooses.
    Candidates {
        /// At most three.
        candidates: Vec<Candidate>,
    },
    /// Nothing in the run can go on before its questions are answered ([`NotAnswered::Later`]): it is to be made again with
    /// the answers. There is no text.
    Suspended,
}

/// A pattern offered instead of run.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Name.
    pub name: String,
    /// One line.
    pub description: String,
    /// Required inputs that the query did not fill.
    pub missing: Vec<String>,
    /// All inputs by name.
    pub inputs: Vec<String>,
}

/// What a run really cost. "Saved" is only ever `tokens_seen - tokens_out`, called compression, and never estimated here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Receipt {
    /// `name@version`, where a pattern ran.
    pub pattern: Option<String>,
    /// Where the pattern is deprecated: since when, what to use, why.
    pub deprecated: Option<String>,
    /// Its type, as written in its file.
    pub kind: Option<&'static str>,
    /// SHA-256 of its file.
    pub hash: Option<String>,
    /// o200k_base tokens of the text.
    pub tokens_out: usize,
    /// The vocabulary was not loaded yet: `tokens_out` is bytes / 4.
    pub tokens_estimated: bool,
    /// Bytes that the steps produced or read; of a kept answer, those of the run that made it.
    pub bytes_seen: u64,
    /// `hit`: a kept answer, and no step ran. `miss`: none was kept. `off`: answers of this call are not kept.
    pub cache: &'static str,
    /// When the first of the ages that the answer tells will be another: it is kept no longer.
    pub ages_until: Option<Timestamp>,
    /// Where a kept answer was found.
    pub cache_layer: Option<Layer>,
    /// How long it took to find out what a kept answer depends on beside memories: a program of git, or a walk.
    pub keyed: Duration,
    /// How the target was chosen: `name`, `phrase`, `regex`, `llm`, `handle` (a kept result), or `none` (candidates).
    pub matched_by: &'static str,
    /// Whole duration.
    pub elapsed: Duration,
    /// Per step: those at the top in the order in which they ended, then those of blocks, each counted together.
    pub steps: Vec<StepReceipt>,
    /// Per completion of a language model.
    pub llm: Vec<LlmReceipt>,
    /// What was not as it should be: backends that were not asked, failed or were slow, and what did without them.
    pub degraded: Vec<String>,
}

impl Receipt {
    /// The receipt of a run of `pattern` that did nothing yet.
    #[must_use]
    pub(super) fn of(pattern: &Pattern) -> Self {
        let mut receipt = Self::default();
        receipt.name(pattern);
        receipt
    }

    /// Names what ran.
    pub(super) fn name(&mut self, pattern: &Pattern) {
        self.pattern = Some(pattern.full_name());
        self.deprecated = pattern.deprecated.as_ref().map(ToString::to_string);
        self.kind = Some(pattern.kind.as_str());
        self.hash = Some(pattern.hash.clone());
    }

    /// Adds what was not as it should be.
    pub(super) fn degrade(&mut self, notes: Vec<String>) {
        self.degraded.extend(notes);
        self.degraded.sort_unstable();
        self.degraded.dedup();
    }
}

/// What one completion of a language model cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlmReceipt {
    /// The model as the client or the provider names it; as configured where it did not answer; nothing where not known.
    pub model: Option<String>,
    /// Tokens read and written, as reported; never estimated.
    pub tokens_in: Option<u64>,
    /// As above.
    pub tokens_out: Option<u64>,
    /// Its duration; of a completion that the client brought in an earlier round, that of handing it on.
    pub elapsed: Duration,
    /// `ok`, or the error code.
    pub outcome: String,
}

/// What one step cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReceipt {
    /// Its id; of a step in a block, behind the id of the step that holds it: `each.read`.
    pub id: String,
    /// How often it was reached: once, but for steps of blocks.
    pub n: usize,
    /// `ok`, `skipped`, or the error code; of a step that was reached more than once, the gravest.
    pub outcome: String,
    /// When it began, the first time, after the run's beginning.
    pub began: Duration,
    /// Its duration, or their sum.
    pub elapsed: Duration,
    /// Bytes it produced or read.
    pub bytes: u64,
}

/// Why an execution failed, as a model should see it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// The code.
    pub kind: ErrorKind,
    /// What happened, where, what to do.
    pub message: String,
    /// The step, input or file concerned.
    pub part: Option<String>,
    /// Worth trying again after so long.
    pub retry_after: Option<Duration>,
    /// What the call cost and met until then, so far as it is known.
    pub receipt: Option<Box<Receipt>>,
}

impl EngineError {
    /// The same with more in its receipt.
    #[must_use]
    pub(super) fn with_receipt(mut self, tell: impl FnOnce(&mut Receipt)) -> Self {
        tell(self.receipt.get_or_insert_with(|| {
            Box::new(Receipt { cache: "off", matched_by: "none", ..Receipt::default() })
        }));
        self
    }
}

macro_rules! error_kinds {
    ($(#[doc = $meaning:literal] $kind:ident $code:literal;)*) => {
        /// Codes of failed executions: one table, the same in tool results, on the command line and in the docs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorKind { $(#[doc = $meaning] $kind,)* }

        impl ErrorKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The code as written in answers.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code,)* }
            }

            /// What it means, for the docs.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$kind => $meaning.trim_ascii(),)* }
            }
        }
    };
}

error_kinds! {
    /// No such pattern (or none that the caller may run).
    UnknownPattern "unknown_pattern";
    /// Inputs do not fit.
    InvalidInput "invalid_input";
    /// The pattern's output breaks its own schema, or an expression failed: the pattern is wrong.
    PatternFault "pattern_fault";
    /// The answer cannot be brought within its budget.
    Budget "budget";
    /// Took longer than allowed.
    Deadline "deadline";
    /// Not allowed: permissions, roots, effectful pattern by a model, a repository that would run programs.
    Denied "denied";
    /// Too much at once; try again.
    Busy "busy";
    /// The store cannot be used now.
    StoreUnavailable "store_unavailable";
    /// A path, repository, memory or revision that is not there.
    NotFound "not_found";
    /// Unknown, expired or foreign handle.
    UnknownHandle "unknown_handle";
    /// More steps, bytes or items than allowed.
    LimitExceeded "limit_exceeded";
    /// A `control.assert` did not hold.
    AssertionFailed "assertion_failed";
    /// A program, server or host that a step needs is missing or failed.
    ProgramFailed "program_failed";
    /// Cancelled by the caller.
    Cancelled "cancelled";
    /// Our bug; the log has the details.
    Internal "internal";
}
