//! Servers that are processes, and a step's context around them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tmws::{
    engine::{
        Outside, Workspace, Workspaces,
        steps::{
            StepContext, StepError,
            mcp::{self, Hidden, Pin, Reach, ServerSetting, Servers, ToolSetting, WorkingFolder},
        },
    },
    pattern::Permissions,
    scope::{ProjectId, Scope},
};

use crate::steps_support::Folder;

/// The server's script.
pub(super) fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mcp/unruly.py")
}

/// Its tools, as it lists them when it behaves.
pub(super) fn tools() -> BTreeMap<String, ToolSetting> {
    let listed = [
        json!({"name": "echo", "description": "Says it again.", "annotations": {"readOnlyHint": true}, "inputSchema": {
            "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"], "additionalProperties": false}}),
        json!({"name": "ask", "description": "Answers a question.", "inputSchema": {
            "type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}}),
        json!({"name": "act", "description": "Does something.", "inputSchema": {"type": "object"}}),
        json!({"name": "where", "description": "Tells of itself.", "inputSchema": {"type": "object"},
            "outputSchema": {"type": "object", "properties": {"cwd": {"type": "string"}}, "required": ["cwd"]}}),
    ];
    listed
        .into_iter()
        .map(|tool| {
            let name = tool["name"].as_str().unwrap().to_owned();
            let Value::Object(members) = &tool else { unreachable!("an object") };
            let query = (name == "ask").then(|| "question".to_owned());
            let setting = ToolSetting { pin: Pin::of(members), reads: name != "act", query };
            (name, setting)
        })
        .collect()
}

/// A server in this mode, which says in `pids` who it is.
pub(super) fn server(mode: &str, pids: &Path) -> ServerSetting {
    let script = script().to_str().unwrap().to_owned();
    let argv = ["python3", "-S", &script, mode].map(str::to_owned).to_vec();
    let environment = [("PIDS", pids.to_str().unwrap()), ("SECRET", "hunter2"), ("OWN", "signed")];
    let environment =
        environment.into_iter().map(|(name, text)| (name.to_owned(), Hidden::new(text.to_owned()))).collect();
    let mut setting = ServerSetting::new(Reach::Command {
        argv,
        environment,
        passed_on: Vec::new(),
        folder: WorkingFolder::Home,
    });
    setting.tools = tools();
    setting
}

struct At(PathBuf);

impl Workspaces for At {
    fn workspace(&self, _: &Scope) -> Workspace {
        Workspace::Root(self.0.clone())
    }
}

/// Servers, and where they tell who they are.
pub(super) struct Bench {
    pub(super) folder: Folder,
    pub(super) outside: Arc<Outside>,
    pub(super) pids: PathBuf,
}

impl Bench {
    /// One server for each mode, named after it, changed by `change`.
    pub(super) fn with(modes: &[&str], change: impl Fn(&mut ServerSetting)) -> Self {
        let folder = Folder::new();
        let pids = folder.path.join("pids");
        std::fs::create_dir(folder.path.join("home")).unwrap();
        let settings = modes.iter().map(|mode| {
            let mut setting = server(mode, &pids);
            change(&mut setting);
            ((*mode).to_owned(), setting)
        });
        let servers = Servers::new(
            settings,
            Box::new(|setting, scope| {
                setting
                    .projects
                    .as_ref()
                    .is_none_or(|names| names.iter().any(|name| name == scope.project().as_str()))
            }),
            Arc::new(At(folder.path.clone())),
            Some(folder.path.join("home")),
        );
        Self { outside: Arc::new(Outside { mcp: servers, ..Outside::default() }), folder, pids }
    }

    pub(super) fn new(modes: &[&str]) -> Self {
        Self::with(modes, |_| {})
    }

    pub(super) fn context(&self) -> StepContext {
        StepContext {
            outside: Arc::clone(&self.outside),
            permissions: Arc::new(Permissions { mcp: vec!["*".to_owned()], ..Permissions::default() }),
            ..self.folder.context()
        }
    }

    /// Calls as somebody.
    pub(super) async fn call_as(
        &self,
        project: &str,
        principal: &str,
        with: Value,
    ) -> Result<Value, StepError> {
        let scope = Scope::mint(ProjectId::parse(project).unwrap(), principal, "default", None);
        run("mcp.call", &StepContext { scope, ..self.context() }, with).await
    }

    /// Calls a tool.
    pub(super) async fn call(&self, server: &str, tool: &str, arguments: Value) -> Result<Value, StepError> {
        let with = json!({"server": server, "tool": tool, "arguments": arguments});
        run("mcp.call", &self.context(), with).await
    }

    /// `echo` of a word.
    pub(super) async fn echo(&self, server: &str, word: &str) -> Result<Value, StepError> {
        self.call(server, "echo", json!({"text": word})).await
    }

    /// Everybody who was started.
    pub(super) fn started(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(&self.pids).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Ends all servers; nobody is left.
    pub(super) async fn end(&self) {
        self.outside.close().await;
        assert_gone(&self.started()).await;
    }
}

pub(super) async fn run(uses: &str, context: &StepContext, with: Value) -> Result<Value, StepError> {
    let Value::Object(with) = with else { unreachable!("an object") };
    let with: Map<String, Value> = with;
    mcp::run(uses, context, &with).await.map(|output| output.value)
}

/// Whether a process runs; one that nobody waited for yet does not.
pub(super) fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Waits until none of them runs.
pub(super) async fn assert_gone(pids: &[u32]) {
    let until = Instant::now() + Duration::from_secs(20);
    while pids.iter().any(|pid| is_running(*pid)) {
        assert!(Instant::now() < until, "still there: {pids:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
