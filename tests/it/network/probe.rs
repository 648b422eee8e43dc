//! The scripted service: what it is told to do is in the name of the tool, what happens to it can be watched.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use serde_json::{Map, Value, json};
use tmws::{
    protocol::{
        Ask, CacheHint, CacheScope, Call, CallError, Capabilities, LogLevel, Notice, Profile, Reply,
        ResourcesCapability, ServerEvent, Task, TaskState,
    },
    scope::Rights,
    tool::{Audience, Change, Context, MirroredArgument, ReplyFuture, Service, mirrored_arguments},
    wire::Method,
};
use tokio::sync::{Notify, broadcast, mpsc};

use super::within;

/// What happened to a call, named by its argument `tag`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It runs.
    Started(String),
    /// It answered.
    Ended(String),
    /// It was told to stop.
    Cancelled(String),
}

/// Tools: `echo {text}`; `whoami` (the scope); `wait {tag}` (until [`Probe::release`]); `poll {tag}` (the same, but
/// the client shall come again for the answer); `progress {tag, count}` (tells
/// so many steps, then waits for the release); `log {tag}`; `ask {}` (elicits once); `panic`; `big {bytes}`;
/// `task {tag}` (becomes the task with that id, where it may, and tells one step once released). The result of task `t`
/// waits for the release of `result t`.
pub(crate) struct Probe {
    changes: broadcast::Sender<Change>,
    seen: mpsc::UnboundedSender<Seen>,
    watched: tokio::sync::Mutex<mpsc::UnboundedReceiver<Seen>>,
    releases: Mutex<HashMap<String, Arc<Notify>>>,
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("no object: {other}"),
    }
}

fn text(text: impl Into<String>) -> Reply {
    Reply::Result(object(json!({"content": [{"type": "text", "text": text.into()}]})))
}

fn task(id: &str, state: TaskState) -> Reply {
    let (message, ttl, poll_interval) = (None, None, None);
    let id = id.to_owned();
    Reply::Task(Box::new(Task { id, state, message, created_ms: 0, updated_ms: 0, ttl, poll_interval }))
}

impl Probe {
    pub(crate) fn new() -> Arc<Self> {
        let (seen, watched) = mpsc::unbounded_channel();
        Arc::new(Self {
            changes: broadcast::channel(64).0,
            seen,
            watched: tokio::sync::Mutex::new(watched),
            releases: Mutex::default(),
        })
    }

    /// The next thing that happened.
    pub(crate) async fn next(&self) -> Seen {
        within("something that happens to a call", async { self.watched.lock().await.recv().await.unwrap() })
            .await
    }

    /// Lets the call with this tag end (before or after it began).
    pub(crate) fn release(&self, tag: &str) {
        self.gate(tag).notify_one();
    }

    /// Announces a change to whom it concerns.
    pub(crate) fn announce(&self, audience: Audience, event: ServerEvent) {
        let _ = self.changes.send(Change { audience, event });
    }

    fn gate(&self, tag: &str) -> Arc<Notify> {
        Arc::clone(self.releases.lock().unwrap().entry(tag.to_owned()).or_default())
    }

    fn tell(&self, seen: Seen) {
        let _ = self.seen.send(seen);
    }

    async fn released(&self, tag: &str, context: &Context) -> bool {
        let gate = self.gate(tag);
        tokio::select! {
            () = gate.notified() => true,
            () = context.cancel.cancelled() => {
                self.tell(Seen::Cancelled(tag.to_owned()));
                false
            }
        }
    }

    async fn tool(&self, call: &Call, context: &Context) -> Reply {
        let params = call.params();
        let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
        let arguments = params.get("arguments").cloned().unwrap_or_default();
        let argument = |key: &str| arguments.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let tag = argument("tag");
        match name {
            "echo" => text(argument("text")),
            "whoami" => {
                let scope = &context.scope;
                text(
                    json!({
                        "principal": scope.principal(),
                        "agent": scope.agent(),
                        "project": scope.project().as_str(),
                        "session": scope.session(),
                        "rights": scope.rights().to_string(),
                    })
                    .to_string(),
                )
            }
            "wait" => {
                self.tell(Seen::Started(tag.clone()));
                if !self.released(&tag, context).await {
                    return Reply::Error(CallError::Internal);
                }
                self.tell(Seen::Ended(tag.clone()));
                text(tag)
            }
            "poll" => {
                context.notices.release_connection();
                self.tell(Seen::Started(tag.clone()));
                if !self.released(&tag, context).await {
                    return Reply::Error(CallError::Internal);
                }
                self.tell(Seen::Ended(tag.clone()));
                text(tag)
            }
            "progress" => {
                let count = arguments.get("count").and_then(Value::as_u64).unwrap_or(1);
                for step in 1..=count {
                    context.notices.notify(Notice::Progress {
                        progress: step as f64,
                        total: Some(count as f64),
                        message: None,
                    });
                }
                self.tell(Seen::Started(tag.clone()));
                if !self.released(&tag, context).await {
                    return Reply::Error(CallError::Internal);
                }
                self.tell(Seen::Ended(tag.clone()));
                text(tag)
            }
            "log" => {
                context.notices.notify(Notice::Log {
                    level: LogLevel::Warning,
                    logger: None,
                    data: json!({"tag": tag}),
                });
                text(tag)
            }
            "ask" => match &call.answers {
                Some(answers) => text(answers.responses.get("name").cloned().unwrap_or_default().to_string()),
                None => Reply::InputRequired {
                    requests: vec![(
                        "name".to_owned(),
                        Ask {
                            method: Method::ElicitationCreate,
                            params: object(json!({
                                "message": "Who?",
                                "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
                            })),
                            is_optional: false,
                        },
                    )],
                    state: None,
                },
            },
            "task" if call.task.is_some() => {
                let (notices, gate) = (Arc::clone(&context.notices), self.gate(&tag));
                tokio::spawn(async move {
                    gate.notified().await;
                    notices.notify(Notice::Progress { progress: 1.0, total: None, message: None });
                });
                task(&tag, TaskState::Working)
            }
            "panic" => panic!("asked to"),
            "big" => text("x".repeat(arguments.get("bytes").and_then(Value::as_u64).unwrap_or(0) as usize)),
            "mirrored" => text("mirrored"),
            other => Reply::Error(CallError::InvalidParams(format!("unknown tool `{other}`"))),
        }
    }
}

impl Service for Probe {
    fn profile(&self) -> Arc<Profile> {
        let hint = CacheHint { ttl_ms: 0, scope: CacheScope::Private };
        Arc::new(Profile {
            server_info: object(json!({"name": "probe", "version": "1"})),
            instructions: None,
            capabilities: Capabilities {
                tools: Some(true),
                prompts: Some(true),
                resources: Some(ResourcesCapability { subscribe: true, list_changed: true }),
                logging: true,
                completions: true,
                tasks: true,
                ..Capabilities::default()
            },
            list_cache: hint,
            read_cache: hint,
        })
    }

    fn call(self: Arc<Self>, call: Call, context: Context) -> ReplyFuture {
        match call.method() {
            Method::ToolsList => {
                let names = ["echo", "whoami", "wait", "progress", "log", "ask", "panic", "big", "mirrored"];
                let tools: Vec<Value> = names
                    .iter()
                    .map(|name| json!({"name": name, "inputSchema": {"type": "object"}}))
                    .collect();
                Box::pin(std::future::ready(Reply::List(tools.into())))
            }
            Method::ToolsCall => Box::pin(async move { self.tool(&call, &context).await }),
            Method::ResourcesRead => {
                let uri = call.params().get("uri").and_then(Value::as_str).unwrap_or_default().to_owned();
                let reply = if uri == "test://a" {
                    Reply::Result(object(json!({"contents": [{"uri": uri, "text": "a"}]})))
                } else {
                    Reply::Error(CallError::ResourceNotFound { uri })
                };
                Box::pin(std::future::ready(reply))
            }
            Method::PromptsGet => Box::pin(std::future::ready(Reply::Result(object(
                json!({"messages": [{"role": "user", "content": {"type": "text", "text": "p"}}]}),
            )))),
            Method::TasksGet | Method::TasksCancel => {
                let id = call.params().get("taskId").and_then(Value::as_str).unwrap_or_default();
                Box::pin(std::future::ready(task(id, TaskState::Cancelled)))
            }
            Method::TasksList => Box::pin(std::future::ready(Reply::Tasks(Vec::new()))),
            Method::TasksUpdate => Box::pin(std::future::ready(Reply::Result(Map::new()))),
            Method::TasksResult => Box::pin(async move {
                let id = call.params().get("taskId").and_then(Value::as_str).unwrap_or_default();
                let tag = format!("result {id}");
                self.tell(Seen::Started(tag.clone()));
                if self.released(&tag, &context).await {
                    text(tag)
                } else {
                    Reply::Error(CallError::Internal)
                }
            }),
            Method::CompletionComplete => {
                Box::pin(std::future::ready(Reply::Result(object(json!({"completion": {"values": []}})))))
            }
            _ => Box::pin(std::future::ready(Reply::List(Arc::new([])))),
        }
    }

    fn events(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn needs(&self, method: Method, params: &Map<String, Value>) -> Rights {
        let tool = params.get("name").and_then(Value::as_str);
        if method == Method::ToolsCall && tool == Some("big") { Rights::MEMORY_WRITE } else { Rights::NONE }
    }

    fn mirrored(&self, tool: &str) -> Arc<[MirroredArgument]> {
        let schema = json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "floor": {"type": "integer", "x-mcp-header": "Floor"},
        }});
        match tool {
            "mirrored" => mirrored_arguments(&object(schema)).unwrap().into(),
            _ => Arc::new([]),
        }
    }
}
