//! One conversation with one server: the handshake, what it lists, the calls.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use jsonschema::Validator;
use rmcp::{
    ClientHandler, RoleClient,
    model::{
        CallToolRequest, CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest,
        Implementation, ListToolsRequest, PaginatedRequestParams, ProtocolVersion, RequestMetaObject,
        RootsCapabilities, ServerResult,
    },
    service::{
        ClientInitializeError, ClientLifecycleMode, NotificationContext, Peer, PeerRequestOptions,
        RequestHandle, RunningService, ServiceError, serve_client_with_lifecycle,
    },
    transport::Transport,
};
use serde_json::{Map, Value};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    child::Process,
    pin::Pin,
    pipe::{Fate, Heard},
};
use crate::{
    engine::{inputs, steps::span},
    trace::TraceContext,
};

/// Calls at once on one connection.
const CALLS_MAX: usize = 8;
/// What a server lists is asked for again after so long, whether it said that it changed or not.
const LISTED_FOR: Duration = Duration::from_mins(1);
const PAGES_MAX: usize = 50;
const TOOLS_MAX: usize = 2_000;
/// rmcp's own end may take so long.
const CLOSE_MAX: Duration = Duration::from_millis(150);
/// A child that closed its output is waited for, to tell how it ended.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Why something asked of a server did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It cannot be started or reached, or does not speak as it should; a fragment that begins with what it did.
    #[error("{0}")]
    Failed(String),
    /// It refused with an error of its own: the code.
    #[error("it refused with error {0}")]
    Refused(i32),
    /// It did not answer in time.
    #[error("it did not answer within {0:?}")]
    Late(Duration),
}

/// A tool as its server lists it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) pin: Pin,
    pub(super) description: String,
    pub(super) input: Value,
    pub(super) output: Option<Value>,
    /// The server's own word.
    pub(super) read_only_hint: bool,
    checks_input: OnceLock<Result<Validator, String>>,
}

impl Listed {
    fn of(tool: &Map<String, Value>) -> Self {
        Self {
            pin: Pin::of(tool),
            description: tool.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
            input: tool.get("inputSchema").cloned().unwrap_or_default(),
            output: tool.get("outputSchema").filter(|schema| !schema.is_null()).cloned(),
            read_only_hint: tool.get("annotations").is_some_and(|all| all["readOnlyHint"] == true),
            checks_input: OnceLock::new(),
        }
    }

    /// Compares `arguments` with the schema.
    ///
    /// # Errors
    /// Where they do not fit, or that the schema is none: fragments.
    pub(super) fn check(&self, arguments: &Value) -> Result<(), String> {
        let checks = self.checks_input.get_or_init(|| inputs::schema(&self.input));
        let validator = checks.as_ref().map_err(|_| "its inputSchema is no JSON Schema".to_owned())?;
        match validator.iter_errors(arguments).next() {
            None => Ok(()),
            Some(error) => {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
                let why: String = error.to_string().chars().take(200).collect();
                Err(format!("the arguments do not fit its inputSchema{place}: {why}"))
            }
        }
    }
}

/// By name.
pub(super) type Tools = Arc<BTreeMap<String, Listed>>;

struct Listing {
    tools: Tools,
    until: Instant,
}

/// Who calls and how long ago: changed under one lock, so that nobody is given a connection that ends.
struct Use {
    calls: usize,
    last: Instant,
    over: bool,
}

/// What rmcp is told about us; what a server asks of it over HTTP, rmcp's defaults refuse.
struct Quiet {
    info: ClientConfig,
    heard: Arc<Heard>,
}

impl ClientHandler for Quiet {
    fn get_info(&self) -> ClientConfig {
        self.info.clone()
    }

    // Over HTTP; what a child says is heard before rmcp is.
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.heard.has_changed.store(true, Ordering::Release);
    }
}

/// How to greet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// `initialize`: what nearly every server speaks, and what no old one chokes on.
    Legacy,
    /// `server/discover`: for those that speak nothing else.
    Modern,
}

/// One conversation.
pub(super) struct Connection {
    service: tokio::sync::Mutex<Option<RunningService<RoleClient, Quiet>>>,
    peer: Peer<RoleClient>,
    process: Option<Process>,
    fate: Arc<Fate>,
    heard: Arc<Heard>,
    listing: tokio::sync::Mutex<Listing>,
    permits: Semaphore,
    usage: Mutex<Use>,
    over: CancellationToken,
}

/// What a connection is made of.
pub(super) struct Parts<T> {
    pub(super) transport: T,
    pub(super) process: Option<Process>,
    /// Told to servers that ask for roots.
    pub(super) root: Option<PathBuf>,
    pub(super) fate: Arc<Fate>,
    pub(super) heard: Arc<Heard>,
}

impl Connection {
    /// Greets and lists the tools.
    ///
    /// # Errors
    /// [`Fault::Refused`] where the greeting is not this server's.
    pub(super) async fn open<T>(parts: Parts<T>, greeting: Greeting) -> Result<Self, Fault>
    where
        T: Transport<RoleClient> + Send + 'static,
    {
        let Parts { transport, process, root, fate, heard } = parts;
        let mut capabilities = ClientCapabilities::default();
        if root.is_some() && greeting == Greeting::Legacy {
            capabilities.roots = Some(RootsCapabilities::default());
        }
        let mut info =
            ClientConfig::new(capabilities, Implementation::new("tmws", env!("CARGO_PKG_VERSION")));
        info.protocol_version = ProtocolVersion::LATEST_WITH_INITIALIZE;
        let lifecycle = match greeting {
            Greeting::Legacy => ClientLifecycleMode::Initialize,
            Greeting::Modern => {
                ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
            }
        };
        let quiet = Quiet { info, heard: Arc::clone(&heard) };
        let service = match serve_client_with_lifecycle(quiet, transport, lifecycle).await {
            Ok(service) => service,
            Err(error) => return Err(unfit(&error, process.as_ref(), &fate).await),
        };
        let connection = Self {
            peer: service.peer().clone(),
            service: tokio::sync::Mutex::new(Some(service)),
            process,
            fate,
            heard,
            listing: tokio::sync::Mutex::new(Listing { tools: Tools::default(), until: Instant::now() }),
            permits: Semaphore::new(CALLS_MAX),
            usage: Mutex::new(Use { calls: 0, last: Instant::now(), over: false }),
            over: CancellationToken::new(),
        };
        let tools = connection.list().await?;
        *connection.listing.lock().await = Listing { tools, until: Instant::now() + LISTED_FOR };
        Ok(connection)
    }

    fn usage(&self) -> std::sync::MutexGuard<'_, Use> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it for a call, unless it has ended.
    pub(super) fn take(self: &Arc<Self>) -> Option<Taken> {
        let mut usage = self.usage();
        if usage.over || self.is_over() {
            return None;
        }
        usage.calls += 1;
        Some(Taken(Arc::clone(self)))
    }

    /// From now on nobody is given it.
    pub(super) fn retire(&self) {
        self.usage().over = true;
        self.over.cancel();
    }

    /// Retires it where nobody uses it since `idle`. When to look again where somebody does.
    pub(super) fn retire_idle(&self, idle: Duration) -> Option<Instant> {
        let mut usage = self.usage();
        let until = usage.last + idle;
        if usage.calls > 0 {
            return Some(Instant::now() + idle);
        }
        if until > Instant::now() {
            return Some(until);
        }
        usage.over = true;
        drop(usage);
        self.over.cancel();
        None
    }

    /// Since when nobody has used it; `None` while somebody does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let usage = self.usage();
        (usage.calls == 0).then_some(usage.last)
    }

    /// Whether it is retired, or its server gone.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled() || self.heard.over.is_cancelled() || self.peer.is_transport_closed()
    }

    /// Waits until then.
    pub(super) async fn over(&self) {
        tokio::select! {
            () = self.over.cancelled() => {}
            () = self.heard.over.cancelled() => {}
        }
    }

    /// Whether its server ended it, or was dropped for what it did.
    pub(super) fn has_broken(&self) -> bool {
        self.heard.over.is_cancelled() || self.fate.told().is_some()
    }

    /// Why it ended, where that is known.
    pub(super) fn told(&self) -> Option<&str> {
        self.fate.told()
    }

    /// Ends it: the server's stdin first, then whatever it takes.
    pub(super) async fn end(&self) {
        self.retire();
        if self.heard.over.is_cancelled() {
            // What it said last may answer somebody.
            let _ = timeout(CLOSE_MAX, self.heard.drained.cancelled()).await;
        }
        let service = self.service.lock().await.take();
        if let Some(mut service) = service {
            let _ = service.close_with_timeout(CLOSE_MAX).await;
        }
        if let Some(process) = &self.process {
            process.end().await;
        }
    }

    /// What it lists now.
    pub(super) async fn tools(&self, deadline: Instant, limit: Duration) -> Result<Tools, Fault> {
        let fetching = async {
            let mut listing = self.listing.lock().await;
            if self.heard.has_changed.swap(false, Ordering::AcqRel) || listing.until <= Instant::now() {
                // Until the answer is there nothing is listed: who gives up halfway has not looked.
                listing.until = Instant::now();
                listing.tools = self.list().await?;
                listing.until = Instant::now() + LISTED_FOR;
            }
            Ok(Arc::clone(&listing.tools))
        };
        timeout_at(deadline, fetching).await.map_err(|_| Fault::Late(limit))?
    }

    async fn list(&self) -> Result<Tools, Fault> {
        let mut tools = BTreeMap::new();
        let mut cursors = HashSet::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut request = ListToolsRequest::default();
            if let Some(cursor) = cursor.take() {
                let mut params = PaginatedRequestParams::default();
                params.cursor = Some(cursor);
                request.params = Some(params);
            }
            let page = self.ask(ClientRequest::ListToolsRequest(request)).await?;
            let listed = page.get("tools").and_then(Value::as_array);
            let listed =
                listed.ok_or_else(|| Fault::Failed("it answered tools/list without tools".to_owned()))?;
            for tool in listed.iter().filter_map(Value::as_object) {
                if let Some(name) = tool.get("name").and_then(Value::as_str)
                    && tools.insert(name.to_owned(), Listed::of(tool)).is_some()
                {
                    return Err(Fault::Failed("it lists two tools of one name".to_owned()));
                }
            }
            if tools.len() > TOOLS_MAX {
                return Err(Fault::Failed(format!("it lists more than {TOOLS_MAX} tools")));
            }
            cursor = page.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
            match &cursor {
                None => return Ok(Arc::new(tools)),
                Some(next) if !cursors.insert(next.clone()) => break,
                Some(_) => {}
            }
        }
        Err(Fault::Failed("its list of tools does not end".to_owned()))
    }

    /// Calls a tool: its result as it came.
    pub(super) async fn call(
        &self,
        tool: &str,
        arguments: Map<String, Value>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<Value, Fault> {
        let before = self.heard.lines.load(Ordering::Relaxed);
        let calling = async {
            let _permit =
                self.permits.acquire().await.map_err(|_| Fault::Failed("it has ended".to_owned()))?;
            let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
            self.ask(ClientRequest::CallToolRequest(CallToolRequest::new(params))).await
        };
        let Ok(result) = timeout_at(deadline, calling).await else {
            // A child that says nothing at all any more is replaced.
            if self.process.is_some() && self.heard.lines.load(Ordering::Relaxed) == before {
                self.fate.decide(|| "it stopped answering".to_owned());
                self.retire();
            }
            return Err(Fault::Late(limit));
        };
        let result = result?;
        match result.get("resultType").and_then(Value::as_str) {
            None | Some("complete") => Ok(result),
            Some("input_required") => Err(Fault::Failed(
                "it wants input before it answers, and nobody is there to give it".to_owned(),
            )),
            Some(_) => Err(Fault::Failed("it answered a call with something else than a result".to_owned())),
        }
    }

    /// Asks; a future that is dropped cancels the request.
    async fn ask(&self, request: ClientRequest) -> Result<Value, Fault> {
        let options = PeerRequestOptions::no_options();
        let options = match span::current() {
            None => options,
            Some(span) => options.with_meta(meta_of(&span)),
        };
        let sent = self.peer.send_cancellable_request(request, options).await;
        let handle = match sent {
            Ok(handle) => handle,
            Err(error) => return Err(self.fault(&error).await),
        };
        let mut asked = Asked(Some(handle));
        let answer = match asked.0.as_mut() {
            Some(handle) => (&mut handle.rx).await,
            None => return Err(Fault::Failed("it was not asked".to_owned())),
        };
        // Answered: nothing to cancel.
        asked.0 = None;
        match answer {
            Ok(Ok(ServerResult::CustomResult(result))) => Ok(result.0),
            Ok(Ok(result)) => serde_json::to_value(result)
                .map_err(|_| Fault::Failed("its answer cannot be read".to_owned())),
            Ok(Err(error)) => Err(self.fault(&error).await),
            Err(_) => Err(self.fault(&ServiceError::TransportClosed).await),
        }
    }

    async fn fault(&self, error: &ServiceError) -> Fault {
        match error {
            ServiceError::McpError(error) => Fault::Refused(error.code.0),
            ServiceError::Cancelled { .. } => Fault::Failed("it cancelled the request".to_owned()),
            ServiceError::TransportSend(_) if self.process.is_none() => {
                self.retire();
                if error.is_authorization_required() {
                    Fault::Failed(
                        "it wants another token; `token_env` names the variable that holds it".to_owned(),
                    )
                } else {
                    // The text of the error may name the URL, with what stands in it.
                    Fault::Failed(
                        "it cannot be reached, or answers otherwise than MCP over HTTP does".to_owned(),
                    )
                }
            }
            ServiceError::TransportSend(_) | ServiceError::TransportClosed => {
                self.retire();
                Fault::Failed(ending(self.process.as_ref(), &self.fate).await)
            }
            _ => Fault::Failed("it answered otherwise than it was asked".to_owned()),
        }
    }
}

/// Why a conversation that broke off did.
async fn ending(process: Option<&Process>, fate: &Fate) -> String {
    if let Some(process) = process
        && fate.told().is_none()
    {
        let _ = timeout(LAST_WORDS, process.ended()).await;
    }
    fate.told().unwrap_or("it closed the connection").to_owned()
}

async fn unfit(error: &ClientInitializeError, process: Option<&Process>, fate: &Fate) -> Fault {
    match error {
        ClientInitializeError::JsonRpcError(error) => Fault::Refused(error.code.0),
        ClientInitializeError::NoCompatibleProtocolVersion { .. } => {
            Fault::Failed("it speaks no revision of MCP that this client does".to_owned())
        }
        _ if error.is_authorization_required() => {
            Fault::Failed("it wants a token; `token_env` names the variable that holds it".to_owned())
        }
        ClientInitializeError::TransportError { .. } if process.is_none() => {
            Fault::Failed("it cannot be reached, or does not speak MCP over HTTP there".to_owned())
        }
        ClientInitializeError::TransportError { .. } | ClientInitializeError::ConnectionClosed(_) => {
            Fault::Failed(ending(process, fate).await)
        }
        _ => Fault::Failed("it does not greet as MCP servers do".to_owned()),
    }
}

/// A request that is cancelled where nobody waits for its answer any more.
struct Asked(Option<RequestHandle<RoleClient>>);

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                // An error means that the connection has ended, and the request with it.
                let _ = handle.cancel(Some("nobody waits for it any more".to_owned())).await;
            });
        }
    }
}

/// A connection in use.
pub(super) struct Taken(Arc<Connection>);

impl std::ops::Deref for Taken {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut usage = self.0.usage();
        usage.calls -= 1;
        usage.last = Instant::now();
    }
}

/// What cannot be started, in words that name no value.
pub(super) fn not_started(program: &str, error: &io::Error) -> Fault {
    let program: String = program.chars().take(80).collect();
    Fault::Failed(match error.kind() {
        io::ErrorKind::NotFound => {
            format!("`{program}` was not found, or its working folder is not there")
        }
        _ => format!("`{program}` could not be started: {error}"),
    })
}

/// What tells a server whose call its call is.
fn meta_of(span: &TraceContext) -> RequestMetaObject {
    let mut meta = RequestMetaObject::new();
    meta.set_traceparent(span.to_string());
    if let Some(state) = span.state() {
        meta.set_tracestate(state);
    }
    meta
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_hands_its_trace_on() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let span = TraceContext::parse(parent, Some("vendor=x")).expect("a trace");
        let meta = meta_of(&span);
        assert_eq!((meta.get_traceparent(), meta.get_tracestate()), (Some(parent), Some("vendor=x")));
        assert_eq!(meta_of(&TraceContext::root()).get_tracestate(), None);
    }
}
