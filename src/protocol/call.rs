//! What crosses the border between the core and whoever serves a request.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{Task, TaskOffer};
use crate::{
    revision::{Era, Revision},
    schema::Admitted,
    wire::Method,
};

/// Names one dispatched call within its connection. Never reused, never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Severity of a log message, least severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of RFC 5424")]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl LogLevel {
    /// All levels, least severe first.
    pub const ALL: [Self; 8] = [
        Self::Debug,
        Self::Info,
        Self::Notice,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Alert,
        Self::Emergency,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }

    /// The level spelled exactly `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == text)
    }
}

/// Who asks, as far as the protocol tells: the session's handshake (legacy) or this very request (modern).
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// The revision spoken.
    pub revision: Revision,
    /// `clientInfo`, where it was given. Untrusted; for logs only.
    pub info: Option<Map<String, Value>>,
    /// The client's capabilities.
    pub capabilities: Map<String, Value>,
}

/// What the client answered to an earlier [`Reply::InputRequired`] of the same call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Per key of the earlier requests the client's result object, validated; of an optional one that a legacy client
    /// answered with an error, what that says, as a text. Keys never asked for are gone; keys not answered are absent: ask
    /// again.
    pub responses: Map<String, Value>,
    /// The state given with the earlier reply, verified.
    pub state: Option<Value>,
}

/// One request to serve: `tools/list`, `tools/call`, `prompts/list`, `prompts/get`, `resources/list`,
/// `resources/templates/list`, `resources/read`, `completion/complete` or one of `tasks/*`. All others the core answers
/// itself.
#[derive(Debug)]
pub struct Call {
    /// Names the call towards the core.
    pub id: CallId,
    /// The validated request: method and params. Shared with the core, which still needs it when the reply comes.
    pub request: Arc<Admitted>,
    /// Who asks.
    pub client: Arc<Client>,
    /// Whether progress is wanted (a progress token was given).
    pub wants_progress: bool,
    /// Least severe log level wanted, if any.
    pub log_level: Option<LogLevel>,
    /// What the client answered, on a second or later round; for `tasks/update` its `inputResponses`, each validated as
    /// what it looks like.
    pub answers: Option<Answers>,
    /// Whether it may, or must, become a task (`tools/call` only).
    pub task: Option<TaskOffer>,
}

impl Call {
    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.request.method()
    }

    /// The params; empty where they were absent.
    #[must_use]
    pub fn params(&self) -> &Map<String, Value> {
        self.request.params()
    }

    /// Whether the client declared the capability at `path` (for instance `["elicitation", "url"]`).
    #[must_use]
    pub fn client_has(&self, path: &[&str]) -> bool {
        let mut members = Some(&self.client.capabilities);
        path.iter().all(|key| {
            let found = members.and_then(|members| members.get(*key));
            members = found.and_then(Value::as_object);
            found.is_some()
        })
    }
}

/// A request to the client: `roots/list`, `sampling/createMessage` or `elicitation/create`.
///
/// Towards a modern peer it travels in `inputRequests`; towards a legacy peer the core sends it as a request of the
/// server and calls the tool again with the answers. Either only where the client declared the capability.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// One of the three ask methods.
    pub method: Method,
    /// Its params in the newest shape (for `roots/list` empty).
    pub params: Map<String, Value>,
    /// A legacy client's error is an answer too: a text in [`Answers::responses`]. Else it ends the call.
    pub is_optional: bool,
}

/// How a call ended, in the newest vocabulary. The core adds the envelope (`resultType`, cache hints, `serverInfo`),
/// fits the content to the caller's revision, validates and seals it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The whole list (tools, prompts, resources or templates, as the method says) in a stable order, each item in the
    /// newest shape. The core pages it.
    List(Arc<[Value]>),
    /// The result object of `tools/call`, `prompts/get`, `resources/read` or `completion/complete`.
    Result(Map<String, Value>),
    /// More is needed from the client first. At least one of the two is given.
    InputRequired {
        /// Key chosen by the server, and what is asked.
        requests: Vec<(String, Ask)>,
        /// Handed back verified on the next round. The core protects it; its content is visible to the client.
        state: Option<Value>,
    },
    /// `tools/call` became a task (only where [`Call::task`] allows it), readable from now on; or the answer of
    /// `tasks/get` and `tasks/cancel`.
    Task(Box<Task>),
    /// The answer of `tasks/list`: all of the caller's, newest first. The core pages it.
    Tasks(Vec<Task>),
    /// The request itself was wrong, or we failed.
    Error(CallError),
}

/// A JSON-RPC error in the making. What a model can mend by calling differently is a `Result` with `isError` instead.
#[derive(Clone, Debug, PartialEq)]
pub enum CallError {
    /// Unknown tool or prompt, a missing prompt argument, a bad completion reference: -32602.
    InvalidParams(String),
    /// No such resource: -32002 in the legacy era, -32602 in the modern one, with `data.uri`.
    ResourceNotFound {
        /// The URI asked for.
        uri: String,
    },
    /// The client lacks this capability (an object as in `clientCapabilities`): -32021 in the modern era; in the
    /// legacy one a tool fails with `isError`, anything else with -32602.
    MissingCapability(Map<String, Value>),
    /// `tools/call` as a task of a tool that never is one, or otherwise of a tool that is nothing else: -32601, in
    /// 2026-07-28 -32021 with the extension's name.
    TaskSupport(String),
    /// A header that repeats an argument disagrees with it: -32020 in the modern era, the only one with such headers.
    HeaderMismatch(String),
    /// Too much at once: 429 (outside JSON-RPC's reserved range) with `data.retryAfterMs`.
    Busy {
        /// Worth trying again after so long.
        retry_after: Duration,
        /// What is too much, and what to do.
        message: String,
    },
    /// What was to be answered is lost, by no fault of the client's: -32603 with this text.
    Lost(String),
    /// Our bug or a lost backend; the log has the details: -32603 with a fixed text.
    Internal,
}

/// Something to tell the client while a call runs. Dropped by the core where the revision, the level or the lack of a
/// progress token forbids it.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Progress; values that do not increase are dropped.
    Progress {
        /// So far.
        progress: f64,
        /// Of how much, if known.
        total: Option<f64>,
        /// One line for a person.
        message: Option<String>,
    },
    /// A log message.
    Log {
        /// Severity.
        level: LogLevel,
        /// Which part speaks.
        logger: Option<String>,
        /// Any JSON.
        data: Value,
    },
}

/// A change that clients may have subscribed to.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEvent {
    /// The list of tools changed.
    ToolsChanged,
    /// The list of prompts changed.
    PromptsChanged,
    /// The list of resources changed.
    ResourcesChanged,
    /// One resource changed.
    ResourceUpdated {
        /// Its URI.
        uri: String,
    },
    /// A task changed.
    TaskChanged {
        /// The design that it was made under.
        era: Era,
        /// The whole of it.
        task: Arc<Task>,
    },
}
