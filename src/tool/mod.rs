//! Where protocol meets domain: calls in, replies out.

pub mod arguments;
mod asking;
pub mod catalog;
mod completions;
mod execute_pattern;
mod find_patterns;
mod folders;
mod get_result;
mod mirror;
mod profile;
mod promoted;
mod prompts;
mod remember;
mod reply;
mod resources;
mod rights;
mod service;
mod shelf;
pub mod tasks;

pub use catalog::{SCHEMAS, ToolName};
pub use folders::{Files, FindRoot, Folders, Shelved};
pub use mirror::{MIRROR_KEYWORD, MirrorFault, mirrored_arguments};
pub use profile::{INSTRUCTIONS, profile};
pub use promoted::{Promoted, Promotion};
pub use reply::{Payload, receipt_meta};
pub use service::{Parts, TmwsService};
pub use shelf::{Loaded, PatternSource, Shelf};

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Instant};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use serde_json::{Map, Value};

use crate::{
    engine::StepReceipt,
    metrics::Transport,
    pattern::Pattern,
    protocol::{Call, Notice, Profile, Reply, ServerEvent},
    scope::{ProjectId, Rights, Scope},
    trace::TraceContext,
    wire::Method,
};

/// A reply in the making. First polled on the connection's own thread: what is ready at once costs no task switch;
/// anything that blocks must go elsewhere.
pub type ReplyFuture = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Tells the client something while a call runs. Never blocks; what comes too fast is dropped.
pub trait Notices: Send + Sync {
    /// Sends one notice.
    fn notify(&self, notice: Notice);

    /// Gives back the connection that the client holds open for the answer, where the client is one that comes again for
    /// it (Streamable HTTP of 2025-11-25). Elsewhere nothing happens.
    fn release_connection(&self) {}

    /// The call runs this pattern. For figures: the client is not told.
    fn choose_pattern(&self, pattern: &Arc<Pattern>) {
        let _ = pattern;
    }

    /// A step of it has ended; `trace` is its span, where there is a trace. For figures, likewise.
    fn end_step(&self, step: &StepReceipt, trace: Option<&TraceContext>) {
        let _ = (step, trace);
    }

    /// The trace that the call belongs to: the span that whatever it does is a child of.
    fn trace(&self) -> Option<TraceContext> {
        None
    }

    /// The pattern that the call runs, once it is chosen.
    fn chosen_pattern(&self) -> Option<Arc<Pattern>> {
        None
    }
}

/// Names one connection, HTTP session or stateless request within the process. Never reused, never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Whom a change concerns. Whoever it does not concern must not learn of it. All but [`Audience::Everyone`] and
/// [`Audience::Owner`] are for changes of memories, which whoever may not read memories does not hear of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody: patterns of the whole process.
    Everyone,
    /// Whoever works in the scope's project. `personal` is one project per principal.
    Project(Scope),
    /// The principal, in all of its projects.
    Principal(Scope),
    /// The principal in the scope's project, whatever it may read: its tasks.
    Owner(Scope),
    /// One agent of the principal in the scope's project.
    Agent(Scope),
    /// One session of the principal in the scope's project.
    Session(Scope),
}

impl Audience {
    /// Whether `listener` belongs to it.
    #[must_use]
    pub fn includes(&self, listener: &Scope) -> bool {
        let principal = |scope: &Scope| scope.principal() == listener.principal();
        let project = |scope: &Scope| {
            scope.project() == listener.project()
                && (principal(scope) || *scope.project() != ProjectId::personal())
        };
        match self {
            Self::Everyone => true,
            Self::Owner(scope) => scope.project() == listener.project() && principal(scope),
            _ if !listener.rights().include(Rights::MEMORY_READ) => false,
            Self::Project(scope) => project(scope),
            Self::Principal(scope) => principal(scope),
            Self::Agent(scope) => project(scope) && principal(scope) && scope.agent() == listener.agent(),
            Self::Session(scope) => {
                project(scope)
                    && principal(scope)
                    && scope.session().is_some_and(|session| listener.session() == Some(session))
            }
        }
    }
}

/// A change and whom it concerns.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Who may learn of it.
    pub audience: Audience,
    /// What changed.
    pub event: ServerEvent,
}

/// An argument of a tool that clients of 2026-07-28 repeat in a header (`x-mcp-header`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredArgument {
    /// The header's name after `Mcp-Param-`.
    pub header: String,
    /// Where the argument is: keys from the root of `arguments`.
    pub path: Vec<String>,
}

/// Where calls come from, as far as admission and the audit log have to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The address of the client; none on stdio.
    pub peer: Option<IpAddr>,
    /// The principal came with a token: all its calls share one rate. Else each connection has its own.
    pub has_token: bool,
    /// The connection is one request and nothing more (2026-07-28 over HTTP): what each connection has, such a one shares
    /// with all of its principal or, without a token, of its address.
    pub is_stateless: bool,
    /// How it reaches us.
    pub transport: Transport,
}

/// What surrounds one call.
#[derive(Clone)]
pub struct Context {
    /// The connection that it came on.
    pub connection: ConnectionId,
    /// Where that comes from.
    pub origin: Origin,
    /// Whose call it is.
    pub scope: Scope,
    /// Progress and log messages go here.
    pub notices: Arc<dyn Notices>,
    /// Cancelled when the client cancels or leaves.
    pub cancel: CancellationToken,
    /// When the call must have ended.
    pub deadline: Instant,
}

/// Whoever serves calls: TMWS itself, or a fixture.
pub trait Service: Send + Sync + 'static {
    /// What the server says of itself.
    fn profile(&self) -> Arc<Profile>;

    /// Serves one call. A panic is caught by the caller and answered as an internal error.
    fn call(self: Arc<Self>, call: Call, context: Context) -> ReplyFuture;

    /// Changes that clients may have subscribed to.
    fn events(&self) -> broadcast::Receiver<Change>;

    /// What a request needs its caller to be allowed, judged by method and params alone: HTTP refuses it with 403 before
    /// anything is begun.
    fn needs(&self, method: Method, params: &Map<String, Value>) -> Rights {
        let _ = (method, params);
        Rights::NONE
    }

    /// Whether a request changes nothing, whatever becomes of it, judged by method and params alone: of one that was
    /// stopped, its caller is told else that something may have been changed.
    fn reads_only(&self, method: Method, params: &Map<String, Value>) -> bool {
        let _ = params;
        method != Method::ToolsCall
    }

    /// The arguments of `tool` that are repeated in headers.
    fn mirrored(&self, tool: &str) -> Arc<[MirroredArgument]> {
        let _ = tool;
        Arc::new([])
    }
}
