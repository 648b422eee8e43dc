//! TMWS itself as a [`Service`]: one table from method to answer.

use std::{sync::Arc, time::Instant};

use serde_json::{Map, Value};
use tokio::sync::broadcast;

use super::{
    Audience, Change, Context, Payload, Promoted, ReplyFuture, Service, Shelf, ToolName,
    arguments::InvalidArgument,
    asking::ClientAsker,
    catalog, completions, execute_pattern, find_patterns, get_result,
    profile::profile,
    prompts, remember, reply, resources, rights,
    tasks::{TaskOptions, Tasks, Worker},
};
use crate::{
    engine::{
        Asker, Caller, Clock, Engine, EngineError, ErrorKind, ExecuteRequest, Execution, MemoryListener,
        MemoryTouched, Observer, Outcome, StepReceipt, Surroundings, found_text,
    },
    limits::TaskLimits,
    nearest,
    pattern::Pattern,
    protocol::{Call, CallError, Notice, Profile, Reply, ServerEvent, TaskOffer},
    resilience,
    revision::Revision,
    scope::{ProjectId, Rights, Scope},
    store::{SharedStore, StoreError, Visibility},
    trace::TraceContext,
    wire::Method,
};

/// Events waiting for a slow listener; it misses the oldest and is told so.
const EVENTS_MAX: usize = 256;

/// What the service is made of. Nothing in it is opened or loaded yet.
pub struct Parts {
    /// Runs patterns.
    pub engine: Arc<Engine>,
    /// The patterns.
    pub shelf: Arc<Shelf>,
    /// Memories and results.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How results travel.
    pub payload: Payload,
    /// Limits of tasks.
    pub tasks: TaskLimits,
}

/// The four tools, the resources, the prompts and the completions of TMWS.
pub struct TmwsService {
    pub(super) engine: Arc<Engine>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) store: SharedStore,
    pub(super) clock: Arc<dyn Clock>,
    payload: Payload,
    profile: Arc<Profile>,
    events: broadcast::Sender<Change>,
    tasks: Arc<Tasks>,
}

impl TmwsService {
    /// A service. Cheap: nothing is opened or read.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { engine, shelf, store, clock, payload, tasks } = parts;
        let (events, _) = broadcast::channel(EVENTS_MAX);
        shelf.announce_to(events.clone());
        engine.tell_of_memories(Arc::new(Announcer(events.clone())));
        // Where none may ever run, none is offered: a call is a call then, whatever its client would like.
        let offers_tasks = tasks.running_max > 0 && tasks.running_per_principal_max > 0;
        let tasks = Tasks::new(tasks, Some(SharedStore::clone(&store)), Arc::clone(&clock), events.clone());
        Arc::new(Self { engine, shelf, store, clock, payload, profile: profile(offers_tasks), events, tasks })
    }

    /// The tasks that calls became.
    #[must_use]
    pub fn tasks(&self) -> &Arc<Tasks> {
        &self.tasks
    }

    async fn serve(self: Arc<Self>, call: Call, context: Context) -> Reply {
        if let Some(refusal) = rights::refusal(&call, &context.scope, &self.shelf.promoted()) {
            return refusal;
        }
        match call.method() {
            Method::ToolsList => self.list_tools(&context.scope).await,
            Method::ToolsCall if call.task.is_some() => self.begin(&call, &context).await,
            Method::ToolsCall => self.call_tool(&call, &context).await,
            Method::PromptsList => prompts::list(&self, &context).await,
            Method::PromptsGet => prompts::get(&self, &call, &context).await,
            Method::ResourcesList => resources::list(&self, &context).await,
            Method::ResourcesRead => resources::read(&self, &call, &context).await,
            Method::CompletionComplete => completions::complete(&self, &call, &context).await,
            Method::TasksGet
            | Method::TasksResult
            | Method::TasksList
            | Method::TasksUpdate
            | Method::TasksCancel => self.tasks.serve(call, context).await,
            method => {
                tracing::error!(method = method.as_str(), "a method of the core's reached the service");
                Reply::Error(CallError::Internal)
            }
        }
    }

    /// A call that may become a task, or must.
    async fn begin(self: Arc<Self>, call: &Call, context: &Context) -> Reply {
        let params = call.params();
        let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
        let own = ToolName::parse(name);
        let request = match (own, self.promoted(name).await) {
            (Some(ToolName::ExecutePattern), _) => Some(execute_pattern::parse(params)),
            (None, Ok(Some(promoted))) => Some(promoted_request(&promoted, params)),
            (_, Err(error)) => return reply::failed(&error, &context.scope),
            _ => None,
        };
        match (own, request, call.task) {
            (_, Some(Err(error)), _) => {
                reply::invalid_arguments(call.client.revision, &error, &context.scope)
            }
            (_, Some(Ok(request)), Some(offer)) => {
                let tasks = Arc::clone(&self.tasks);
                let run = Run {
                    service: self,
                    request,
                    offer,
                    context: context.clone(),
                    revision: call.client.revision,
                    wants_progress: call.wants_progress,
                };
                let options = TaskOptions { on_request: true, ..TaskOptions::default() };
                let asker = |worker: &Worker| ClientAsker::new(call, Some(worker.clone()));
                tasks
                    .begin(call, context, &options, |worker| {
                        let asker = asker(&worker);
                        run.with(worker, asker)
                    })
                    .await
            }
            (Some(tool), None, Some(TaskOffer::Wanted { .. })) => Reply::Error(CallError::TaskSupport(
                format!("`{}` never runs as a task: leave `task` out", tool.as_str()),
            )),
            _ => self.call_tool(call, context).await,
        }
    }

    async fn call_tool(&self, call: &Call, context: &Context) -> Reply {
        let params = call.params();
        let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
        let ran = match (ToolName::parse(name), self.promoted(name).await) {
            (Some(tool), _) => self.run_tool(tool, call, context).await,
            (None, Ok(Some(promoted))) => self.run_promoted(&promoted, call, context).await,
            (None, Err(error)) => Err(error.into()),
            (None, Ok(None)) => return self.unknown_tool(name, &context.scope),
        };
        match ran {
            Ok(reply) | Err(Refused::Asking(reply)) => reply,
            Err(Refused::Arguments(error)) => {
                reply::invalid_arguments(call.client.revision, &error, &context.scope)
            }
            Err(Refused::Engine(error)) => reply::failed(&error, &context.scope),
        }
    }

    /// The tools that `scope` may call: ours, then the patterns that are tools, in the order configured.
    async fn list_tools(&self, scope: &Scope) -> Reply {
        let offers_tasks = self.profile.capabilities.tasks;
        let own = catalog::list(scope.rights(), offers_tasks);
        if let Err(error) = self.shelf.ready().await {
            return resources::internal(&error);
        }
        let promoted = self.shelf.promoted();
        if promoted.is_empty() {
            return Reply::List(own);
        }
        let allowed = self.engine.allowed(scope, Caller::Promoted);
        let admitted = promoted.iter().filter(|tool| allowed.admits(tool.pattern()));
        Reply::List(own.iter().cloned().chain(admitted.map(|tool| tool.listed(offers_tasks))).collect())
    }

    /// The pattern that is the tool `name`.
    async fn promoted(&self, name: &str) -> Result<Option<Promoted>, EngineError> {
        if !self.shelf.promotes() || ToolName::parse(name).is_some() {
            return Ok(None);
        }
        self.shelf.ready().await?;
        Ok(self.shelf.promoted().iter().find(|promoted| promoted.tool() == name).cloned())
    }

    async fn run_promoted(
        &self,
        promoted: &Promoted,
        call: &Call,
        context: &Context,
    ) -> Result<Reply, Refused> {
        let request = promoted_request(promoted, call.params())?;
        let execution = self.execute(request, call, context).await?;
        Ok(self.executed(call.client.revision, execution, context))
    }

    fn unknown_tool(&self, name: &str, scope: &Scope) -> Reply {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        let promoted = self.shelf.promoted();
        let allowed = (!promoted.is_empty()).then(|| self.engine.allowed(scope, Caller::Promoted));
        let admitted = promoted
            .iter()
            .filter(|tool| allowed.as_ref().is_some_and(|allowed| allowed.admits(tool.pattern())))
            .map(Promoted::tool);
        let hint = nearest::hint(name, ToolName::ALL.map(ToolName::as_str).into_iter().chain(admitted));
        Reply::Error(CallError::InvalidParams(format!("unknown tool `{shown}`{hint}")))
    }

    async fn run_tool(&self, tool: ToolName, call: &Call, context: &Context) -> Result<Reply, Refused> {
        let params = call.params();
        match tool {
            ToolName::ExecutePattern => {
                let request = execute_pattern::parse(params)?;
                let execution = self.execute(request, call, context).await?;
                Ok(self.executed(call.client.revision, execution, context))
            }
            ToolName::FindPatterns => {
                let wanted = find_patterns::parse(params)?;
                self.shelf.ready().await?;
                let query = (!wanted.query.is_empty()).then_some(wanted.query.as_str());
                let (found, total) = self
                    .engine
                    .find(query, &self.engine.allowed(&context.scope, Caller::Model), wanted.limit)
                    .await;
                let text = found_text(&found, total);
                Ok(self.complete(call.client.revision, text, Map::new()))
            }
            ToolName::GetResult => {
                let query = get_result::parse(params)?;
                let execution = self.engine.get_result(&context.scope, &query, context.deadline).await?;
                Ok(self.executed(call.client.revision, execution, context))
            }
            ToolName::Remember => {
                let request = remember::parse(params)?;
                let execution = self.execute(request, call, context).await?;
                Ok(self.executed(call.client.revision, execution, context))
            }
        }
    }

    /// The patterns that a model may run in `scope`, by name.
    pub(super) async fn runnable(&self, scope: &Scope) -> Result<Vec<Arc<Pattern>>, EngineError> {
        let mut patterns = self.shelf.readable().await?;
        let allowed = self.engine.allowed(scope, Caller::Model);
        patterns.retain(|pattern| allowed.admits(pattern));
        Ok(patterns)
    }

    /// Runs a pattern as the call's scope, telling progress where it is wanted.
    pub(super) async fn execute(
        &self,
        request: ExecuteRequest,
        call: &Call,
        context: &Context,
    ) -> Result<Execution, Stopped> {
        self.shelf.ready().await.map_err(Stopped::Failed)?;
        let asker = Arc::new(ClientAsker::new(call, None));
        let observer = Progress { context, is_wanted: call.wants_progress, worker: None };
        let around = Surroundings {
            observer: &observer,
            asker: Arc::clone(&asker) as Arc<dyn Asker>,
            cancel: context.cancel.clone(),
            deadline: context.deadline,
            task_deadline: None,
        };
        ended(&asker, self.engine.execute(&context.scope, request, around).await)
    }

    fn executed(&self, revision: Revision, execution: Execution, context: &Context) -> Reply {
        let Execution { text, receipt, .. } = execution;
        self.complete(revision, text, reply::meta(&receipt, &context.scope))
    }

    fn complete(&self, revision: Revision, text: String, meta: Map<String, Value>) -> Reply {
        reply::complete(revision, self.payload, text, meta)
    }

    /// What a store call gives before `deadline`.
    pub(super) async fn within<T>(
        deadline: Instant,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, EngineError> {
        match resilience::by(deadline, call).await {
            Ok(result) => result.map_err(|error| reply::of_store(&error)),
            Err(_) => Err(EngineError {
                kind: ErrorKind::Deadline,
                message: "the store did not answer in time".to_owned(),
                part: None,
                retry_after: None,
                receipt: None,
            }),
        }
    }
}

impl Service for TmwsService {
    fn profile(&self) -> Arc<Profile> {
        Arc::clone(&self.profile)
    }

    fn call(self: Arc<Self>, call: Call, context: Context) -> ReplyFuture {
        match call.method() {
            // Where no pattern is a tool, the list needs no pattern: it is ready at once.
            Method::ToolsList if !self.shelf.promotes() => Box::pin(std::future::ready(Reply::List(
                catalog::list(context.scope.rights(), self.profile.capabilities.tasks),
            ))),
            Method::ResourcesTemplatesList => {
                Box::pin(std::future::ready(Reply::List(resources::templates())))
            }
            _ => {
                let place = connection_place(&call, &context);
                let served = self.serve(call, context);
                match place {
                    Some((connection, call)) => Box::pin(resilience::on_behalf_of(connection, call, served)),
                    None => Box::pin(served),
                }
            }
        }
    }

    fn needs(&self, method: Method, params: &Map<String, Value>) -> Rights {
        rights::needs(method, params, &self.shelf.promoted())
    }

    fn reads_only(&self, method: Method, params: &Map<String, Value>) -> bool {
        let Some(name) = params.get("name").and_then(Value::as_str) else {
            return method != Method::ToolsCall;
        };
        method != Method::ToolsCall
            || match ToolName::parse(name) {
                Some(tool) => tool.reads_only(),
                None => self.shelf.promoted().iter().any(|tool| tool.tool() == name && tool.reads_only()),
            }
    }

    fn events(&self) -> broadcast::Receiver<Change> {
        self.events.subscribe()
    }
}

/// The connection whose room a call takes, and its name there. One that is its own connection takes room of nobody's.
fn connection_place(call: &Call, context: &Context) -> Option<(u64, u64)> {
    (!context.origin.is_stateless).then_some((context.connection.0, call.id.0))
}

/// Tells subscribers of memories that runs touch.
struct Announcer(broadcast::Sender<Change>);

impl MemoryListener for Announcer {
    fn memory_touched(&self, scope: &Scope, memory: &MemoryTouched) {
        // No listener is no fault.
        let _ = self.0.send(Change {
            audience: audience(scope, memory),
            event: ServerEvent::ResourceUpdated { uri: format!("{}{}", resources::MEMORY, memory.id) },
        });
    }
}

/// Who may see `memory`, and so may learn that it changed.
fn audience(scope: &Scope, memory: &MemoryTouched) -> Audience {
    let scope = scope.clone();
    match memory.visibility {
        Visibility::Session => Audience::Session(scope),
        Visibility::Agent => Audience::Agent(scope),
        // What is personal is seen from all projects of the principal, and by nobody else.
        Visibility::Project if memory.project == ProjectId::personal().as_str() => Audience::Principal(scope),
        Visibility::Project => Audience::Project(scope),
        Visibility::Shared => Audience::Principal(scope),
    }
}

/// The run that a call of a pattern's tool stands for.
fn promoted_request(
    promoted: &Promoted,
    params: &Map<String, Value>,
) -> Result<ExecuteRequest, InvalidArgument> {
    match params.get("arguments") {
        None => Ok(promoted.request(Map::new())),
        Some(Value::Object(arguments)) => Ok(promoted.request(arguments.clone())),
        Some(_) => Err(InvalidArgument::new("arguments", "`arguments` must be an object")),
    }
}

/// Why a tool did not run to its end.
enum Refused {
    Arguments(InvalidArgument),
    Engine(EngineError),
    Asking(Reply),
}

/// Why a run has no output.
pub(super) enum Stopped {
    Failed(EngineError),
    /// The client is to be asked first, or cannot be: this is the reply.
    Asking(Reply),
}

/// What a run that may have asked through `asker` came to.
fn ended(asker: &ClientAsker, result: Result<Execution, EngineError>) -> Result<Execution, Stopped> {
    match result {
        Ok(Execution { outcome: Outcome::Suspended, .. }) => {
            Err(asker.reply().map_or_else(Stopped::Failed, Stopped::Asking))
        }
        Ok(execution) => Ok(execution),
        Err(error) => {
            Err(asker.missing_capability(&error).map_or_else(|| Stopped::Failed(error), Stopped::Asking))
        }
    }
}

impl From<Stopped> for Refused {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Failed(error) => Self::Engine(error),
            Stopped::Asking(reply) => Self::Asking(reply),
        }
    }
}

impl From<InvalidArgument> for Refused {
    fn from(error: InvalidArgument) -> Self {
        Self::Arguments(error)
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// A pattern that runs as a task, or may come to.
struct Run {
    service: Arc<TmwsService>,
    request: ExecuteRequest,
    offer: TaskOffer,
    context: Context,
    revision: Revision,
    wants_progress: bool,
}

impl Run {
    async fn with(self, worker: Worker, asker: ClientAsker) -> Reply {
        let asker = Arc::new(asker);
        let Self { service, request, offer, context, revision, wants_progress } = self;
        let observer = Progress { context: &context, is_wanted: wants_progress, worker: Some(&worker) };
        // Where the server decides, only a pattern that declares it outlives its call.
        let (deadline, task_deadline) = match offer {
            TaskOffer::Wanted { .. } => (worker.deadline(), None),
            TaskOffer::Allowed => (context.deadline, Some(worker.deadline())),
        };
        let cancel = worker.cancel().clone();
        let around = Surroundings {
            observer: &observer,
            asker: Arc::clone(&asker) as Arc<dyn Asker>,
            cancel,
            deadline,
            task_deadline,
        };
        let executed = async {
            service.shelf.ready().await?;
            service.engine.execute(&context.scope, request, around).await
        };
        match ended(&asker, executed.await) {
            Ok(execution) => service.executed(revision, execution, &context),
            Err(Stopped::Failed(error)) => reply::failed(&error, &context.scope),
            Err(Stopped::Asking(reply)) => reply,
        }
    }
}

/// Hands progress on as notices, where the client asked for it, to the task, where it is one, and what runs to whoever
/// counts.
struct Progress<'a> {
    context: &'a Context,
    is_wanted: bool,
    worker: Option<&'a Worker>,
}

impl Observer for Progress<'_> {
    fn progress(&self, done: usize, total: usize, step: &str) {
        if self.is_wanted {
            self.context.notices.notify(Notice::Progress {
                progress: done as f64,
                total: Some(total as f64),
                message: Some(step.to_owned()),
            });
        }
        if let Some(worker) = self.worker {
            worker.set_message(format!("{done} of {total} steps done, last {step}"));
        }
    }

    fn stepped(&self, step: &StepReceipt, trace: Option<&TraceContext>) {
        self.context.notices.end_step(step, trace);
    }

    fn trace(&self) -> Option<TraceContext> {
        self.context.notices.trace()
    }

    fn chosen(&self, pattern: &Arc<Pattern>, outlives_call: bool) {
        self.context.notices.choose_pattern(pattern);
        match self.worker {
            Some(worker) if outlives_call => worker.outlive_call(),
            Some(worker) => worker.stay_call(),
            None => {}
        }
    }
}
