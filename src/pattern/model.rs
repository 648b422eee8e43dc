//! A pattern, loaded and checked.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Map, Value};

/// Whether running something changes anything outside the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Reads only (a minted session or result handle does not count).
    ReadOnly,
    /// Writes to the store.
    Writes,
    /// Runs programs.
    Executes,
}

/// `type:` of a pattern, checked against its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatternKind {
    /// No `memory.*` step.
    Infrastructure,
    /// Only `memory.*`, `data.*`, `control.*` (and `session.*`).
    Memory,
    /// Both.
    Hybrid,
}

impl PatternKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Infrastructure, Self::Memory, Self::Hybrid];

    /// As written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Memory => "memory",
            Self::Hybrid => "hybrid",
        }
    }
}

/// Where a pattern came from; a later scope shadows an earlier one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Ships in the binary.
    BuiltIn,
    /// The user's folder, or one named by `TMWS_PATTERNS`.
    User(PathBuf),
    /// The workspace's own folder, by the canonical root of the workspace; runs only once trusted.
    Project(PathBuf),
}

/// Semantic version of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "as in semver.org")]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// How a query chooses types and budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Infrastructure patterns only, half the budget.
    Fast,
    /// Every type, the budget as declared.
    #[default]
    Balanced,
    /// Every type, twice the budget.
    Comprehensive,
}

/// What routes a query here.
#[derive(Clone, Debug, Default)]
pub struct Triggers {
    /// Matched as whole words, ignoring case.
    pub phrases: Vec<String>,
    /// Linear-time regexes; named groups fill inputs.
    pub regexes: Vec<super::TriggerRegex>,
    /// Queries that must match.
    pub match_examples: Vec<String>,
    /// Queries that must not.
    pub no_match_examples: Vec<String>,
    /// Larger wins.
    pub priority: i32,
    /// Whether a query may run it.
    pub auto: Auto,
}

/// `triggers.auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto {
    /// Only named explicitly.
    #[default]
    Never,
    /// A unique match runs it (refused at load for patterns that write or execute).
    ReadOnly,
}

/// Where a bound value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindSource {
    /// Canonical workspace root as text.
    WorkspaceRoot,
    /// The project id.
    ProjectId,
    /// The agent's name.
    Agent,
    /// The current time, RFC 3339.
    Now,
}

/// What the steps may touch.
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    /// Names of `bind` values that are roots for `fs.*`.
    pub fs_read: Vec<String>,
    /// Allowed git commands: `status`, `log`, `diff`, `show`, `blame`.
    pub git: Vec<String>,
    /// May read memories.
    pub memory_read: bool,
    /// May write memories.
    pub memory_write: bool,
    /// Programs by name, each an argv template: a word `{name}` takes one argument of the step, `{name?}` one that may be
    /// absent.
    pub exec: BTreeMap<String, Vec<String>>,
    /// Hosts for `http.get`: `host` (port 443 or 80) or `host:port`, exact.
    pub http: Vec<String>,
    /// Sources for `sql.*`; `*` is every one that the configuration offers to the project.
    pub sql: Vec<String>,
    /// Tools that `mcp.call` may call to read: `server/tool`, `server/*` or `*`.
    pub mcp: Vec<String>,
    /// Tools that `mcp.call` may call though they write: `server/tool`. With any, the pattern writes.
    pub mcp_write: Vec<String>,
    /// May use `llm.complete`.
    pub llm: bool,
}

impl Permissions {
    /// The key of the permission that steps of `family` need, where there is none of it. For families whose permission
    /// is one key; what it grants is the step's to check.
    #[must_use]
    pub fn lacks(&self, family: super::Family) -> Option<&'static str> {
        use super::Family;
        let (granted, key) = match family {
            Family::Exec => (!self.exec.is_empty(), "exec"),
            Family::Http => (!self.http.is_empty(), "http"),
            Family::Sql => (!self.sql.is_empty(), "sql"),
            Family::Mcp => (!self.mcp.is_empty() || !self.mcp_write.is_empty(), "mcp"),
            Family::Llm => (self.llm, "llm"),
            Family::Memory
            | Family::Fs
            | Family::Git
            | Family::Data
            | Family::Control
            | Family::Session
            | Family::Server => return None,
        };
        (!granted).then_some(key)
    }
}

/// `limits:` of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatternLimits {
    /// Longest run.
    pub timeout: Duration,
    /// Steps executed, loops counted.
    pub max_steps: usize,
    /// Bytes that all steps together may produce.
    pub max_bytes: usize,
}

/// What a failing step does to the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The run ends with the step's error.
    #[default]
    Abort,
    /// The step's value is `{error: {code, message}}`, and the answer is marked partial.
    Continue,
    /// Tries again, then aborts. Only for read-only steps.
    Retry {
        /// At most so many further tries.
        max: u32,
        /// Pause before each.
        backoff: Duration,
    },
}

/// One step. `T` in `with` and `if` are templates of [`crate::pattern`]'s expression language.
#[derive(Clone, Debug)]
pub struct StepSpec {
    /// Unique within the pattern.
    pub id: String,
    /// A row of [`super::STEPS`].
    pub uses: &'static super::StepRow,
    /// The arguments, expressions compiled. For `control.*`, nested steps are in `children` instead.
    pub with: super::Template,
    /// Ids that must have ended first (declared, plus those its expressions mention).
    pub needs: Vec<String>,
    /// Skips the step unless true; its value is then null.
    pub condition: Option<Arc<super::Expression>>,
    /// Longest run of this step.
    pub timeout: Option<Duration>,
    /// What a failure does.
    pub on_error: OnError,
    /// Nested steps of `control.*`: one list per branch (`parallel`, `foreach`: one; `switch`: one per case, default last;
    /// its `with` keeps `cases: [{when: …}]`, and no steps).
    pub children: Vec<Vec<StepSpec>>,
}

/// How an output is brought within its budget, in the order declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shrink {
    /// Removes an optional output field.
    Drop {
        /// The field.
        field: String,
    },
    /// Keeps the first items of an array field (or characters of a text field).
    Truncate {
        /// The field.
        field: String,
        /// How many.
        keep: usize,
    },
}

/// `output:` of a pattern.
#[derive(Clone, Debug)]
pub struct OutputSpec {
    /// JSON Schema 2020-12, checked after shrinking.
    pub schema: Value,
    /// What is returned.
    pub value: super::Template,
    /// Budget in o200k_base tokens at mode `balanced`.
    pub budget_tokens: usize,
    /// Steps towards the budget.
    pub shrink: Vec<Shrink>,
    /// What does not fit goes behind a handle (else it is cut and said so).
    pub overflow_handle: bool,
}

/// Whose calls may share a cached answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CacheScopeRule {
    Never,
    Call,
    Session,
    Principal,
    Project,
    Public,
}

/// `cache:` of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Longest life of an entry.
    pub ttl: Duration,
    /// Whose calls may share it.
    pub scope: CacheScopeRule,
    /// Declared parts: `git.head`, `git.dirty_hash`, `memory.generation`, `fs.mtime`.
    pub key: Vec<String>,
}

/// `prompt:` of a pattern: offered as an MCP prompt too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptSpec {
    /// For people.
    pub title: String,
    /// Inputs offered as prompt arguments.
    pub arguments: Vec<String>,
}

/// A database that a test makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestSource {
    /// Its name.
    pub name: String,
    /// SQL statements that an SQLite file is made of.
    pub file: String,
    /// Queries that its configuration has: name, SQL, description, names of the values.
    pub queries: Vec<(String, String, String, Vec<String>)>,
}

/// One of a pattern's own tests.
#[derive(Clone, Debug)]
pub struct TestSpec {
    /// What it shows.
    pub name: String,
    /// A git bundle, a folder, or nothing; relative to the pattern file (built-ins: embedded fixtures).
    pub fixture: Option<String>,
    /// JSON Lines of memories to start from.
    pub memories: Option<String>,
    /// JSON of MCP servers that are configured.
    pub servers: Option<String>,
    /// Databases that `sql.*` may read, by name.
    pub sources: Vec<TestSource>,
    /// The time to run at.
    pub now: Option<jiff::Timestamp>,
    /// Inputs.
    pub inputs: Map<String, Value>,
    /// jq over the output that must be true.
    pub expect_jq: Option<String>,
    /// Budget that must hold.
    pub expect_max_tokens: Option<usize>,
    /// Error code that must come instead of an output.
    pub expect_error: Option<String>,
}

/// `deprecated:` of a pattern: it still runs, and something else should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deprecated {
    /// Name of the pattern that does the same better, perhaps with a pin.
    pub replaced_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Since which version of the pattern, or which date.
    pub since: Option<String>,
}

impl std::fmt::Display for Deprecated {
    /// `deprecated since 2.0.0, use other.name: reason`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("deprecated")?;
        if let Some(since) = &self.since {
            write!(f, " since {since}")?;
        }
        if let Some(name) = &self.replaced_by {
            write!(f, ", use {name}")?;
        }
        match &self.reason {
            Some(reason) => write!(f, ": {}", reason.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

/// A pattern, loaded and checked: nothing in it can fail to parse any more.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// `^[a-z][a-z0-9]*(\.[a-z0-9-]+)*$`.
    pub name: String,
    /// Semantic version.
    pub version: Version,
    /// Checked against the steps.
    pub kind: PatternKind,
    /// What and when, one or two sentences.
    pub description: String,
    /// What routes here.
    pub triggers: Triggers,
    /// JSON Schema 2020-12 of the inputs; `x-from-query: true` on a property lets a query fill it.
    pub inputs: Value,
    /// Bound values by name.
    pub binds: Vec<(String, BindSource)>,
    /// What steps may touch.
    pub permissions: Arc<Permissions>,
    /// Bounds of a run.
    pub limits: PatternLimits,
    /// In file order; `needs` makes the graph, which has no cycle.
    pub steps: Vec<StepSpec>,
    /// What is returned.
    pub output: OutputSpec,
    /// Caching, if any.
    pub cache: Option<CacheSpec>,
    /// Also a prompt.
    pub prompt: Option<PromptSpec>,
    /// Hints for hosts of the tool that it may become, as in MCP.
    pub annotations: Map<String, Value>,
    /// Where something else should be used.
    pub deprecated: Option<Deprecated>,
    /// Its own tests.
    pub tests: Vec<TestSpec>,
    /// The largest effect of its steps.
    pub effect: Effect,
    /// Where it came from.
    pub origin: Origin,
    /// SHA-256 of the file, hexadecimal.
    pub hash: String,
    /// The file's text.
    pub source: Arc<str>,
}

impl Pattern {
    /// The description as told: of a deprecated pattern, that comes first.
    #[must_use]
    pub fn told(&self) -> std::borrow::Cow<'_, str> {
        match &self.deprecated {
            Some(deprecated) => format!("({deprecated}) {}", self.description).into(),
            None => self.description.as_str().into(),
        }
    }

    /// Name and full version: `repo.digest@1.2.0`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}
