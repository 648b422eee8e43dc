//! Where protocol meets domain: calls in, replies out.

pub mod arguments;
pub mod catalog;
mod completions;
mod execute_pattern;
mod find_patterns;
mod folders;
mod get_result;
mod profile;
mod prompts;
mod remember;
mod reply;
mod resources;
mod service;
mod shelf;

pub use catalog::{SCHEMAS, ToolName};
pub use folders::{Files, FindRoot, Folders, Shelved};
pub use profile::{INSTRUCTIONS, profile};
pub use reply::{Payload, receipt_meta};
pub use service::{Parts, TmwsService};
pub use shelf::{Loaded, PatternSource, Shelf};

use std::{future::Future, pin::Pin, sync::Arc, time::Instant};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::{
    protocol::{Call, Notice, Profile, Reply, ServerEvent},
    scope::Scope,
};

/// A reply in the making. First polled on the connection's own thread: what is ready at once costs no task switch;
/// anything that blocks must go elsewhere.
pub type ReplyFuture = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Tells the client something while a call runs. Never blocks; what comes too fast is dropped.
pub trait Notices: Send + Sync {
    /// Sends one notice.
    fn notify(&self, notice: Notice);
}

/// What surrounds one call.
#[derive(Clone)]
pub struct Context {
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
    fn events(&self) -> broadcast::Receiver<ServerEvent>;
}
