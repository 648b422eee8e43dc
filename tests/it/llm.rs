//! Language models over HTTP: `llm.complete` and the choice of a pattern, against a local server that speaks both formats,
//! and does what providers do on bad days.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tmws::{
    engine::{
        Caller, Clock, Engine, EngineError, EngineSettings, ErrorKind, ExecuteRequest, Execution,
        LiveLibrary, NobodyToAsk, Outcome, Outside, Surroundings, Target, Unobserved, Workspace, Workspaces,
        llm::{Endpoint, Fallback, Format, LlmSettings, Models},
    },
    pattern::{
        Mode, Origin,
        library::{Library, SourceFile},
        trust::Trust,
    },
    scope::{ProjectId, Scope},
    store::{SharedStore, SqliteOptions, SqliteStore},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

const KEY: &str = "sk-canary-5f1e0c";
const NOW: &str = "2026-03-01T12:00:00Z";
/// A backstop: whatever waits so long, waits for nothing.
const LONG: Duration = Duration::from_secs(20);

/// What the provider does with one request.
#[derive(Clone)]
enum Act {
    /// A completion with this text, in the format that was spoken.
    Say(&'static str),
    /// This, whatever it is; the key is put in the place of `KEY`.
    Raw(String),
    /// Half of what was announced, then the end.
    Half,
    /// Nothing, until the client leaves.
    Hang,
}

/// What the provider was asked.
#[derive(Debug)]
struct Asked {
    head: String,
    body: Value,
}

/// A provider on a port of its own.
struct Provider {
    url: String,
    asked: mpsc::UnboundedReceiver<Asked>,
    left: mpsc::UnboundedReceiver<()>,
    acts: Arc<Mutex<VecDeque<Act>>>,
}

impl Provider {
    async fn start(path: &str, acts: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        let acts: Arc<Mutex<VecDeque<Act>>> = Arc::new(Mutex::new(acts.iter().cloned().collect()));
        let ((tell, asked), (leave, left)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let script = Arc::clone(&acts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, tell, leave) = (Arc::clone(&script), tell.clone(), leave.clone());
                tokio::spawn(serve(stream, script, tell, leave));
            }
        });
        Self { url, asked, left, acts }
    }

    fn then(&self, act: Act) {
        self.acts.lock().unwrap().push_back(act);
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<Mutex<VecDeque<Act>>>,
    tell: mpsc::UnboundedSender<Asked>,
    leave: mpsc::UnboundedSender<()>,
) {
    while let Some(asked) = read(&mut stream).await {
        let is_anthropic = asked.head.to_ascii_lowercase().contains("anthropic-version");
        let model = asked.body["model"].clone();
        tell.send(asked).ok();
        let act = script.lock().unwrap().pop_front().expect("an act for each request");
        let answer = match act {
            Act::Say(text) if is_anthropic => ok(&json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn",
                "content": [{"type": "text", "text": text}], "usage": {"input_tokens": 31, "output_tokens": 7},
            })),
            Act::Say(text) => ok(&json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": 31, "completion_tokens": 7, "total_tokens": 38},
            })),
            Act::Raw(text) => text.replace("KEY", KEY),
            Act::Half => "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"choices\":".into(),
            Act::Hang => {
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
                leave.send(()).ok();
                return;
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err() || !answer.contains("keep-alive") {
            return;
        }
    }
}

fn ok(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: keep-alive\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn status(line: &str, headers: &str, body: &str) -> Act {
    Act::Raw(format!("HTTP/1.1 {line}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(Asked { head, body: serde_json::from_slice(&bytes[head_end..]).unwrap() })
}

struct At;

impl Clock for At {
    fn now(&self) -> jiff::Timestamp {
        NOW.parse().unwrap()
    }
}

struct Nowhere;

impl Workspaces for Nowhere {
    fn workspace(&self, _: &Scope) -> Workspace {
        Workspace::None { reason: "there is none".to_owned() }
    }
}

/// An engine whose provider is at `url`, with the built-ins and a pattern that completes.
struct Bench {
    engine: Engine,
    scope: Scope,
    _folder: TempDir,
}

const COMPLETE: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: test.complete
version: 1.0.0
type: infrastructure
description: Completes. For tests only.
inputs: {type: object, additionalProperties: false, required: [prompt], properties: {prompt: {type: string}}}
permissions: {llm: true}
limits: {timeout: 20s, max_steps: 4, max_bytes: 4MiB}
steps:
  - {id: said, uses: llm.complete, with: {prompt: '${ .inputs.prompt }', system: Be brief., max_tokens: 50}}
output:
  schema: {type: object}
  value: '${ .steps.said }'
  budget: {tokens: 400}
";

impl Bench {
    async fn new(settings: LlmSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        let file = SourceFile {
            file: "test.complete.yaml".to_owned(),
            text: COMPLETE.to_owned(),
            origin: Origin::User(PathBuf::from("test.complete.yaml")),
        };
        let library = Library::load(&[file], &Trust::default());
        let engine = Engine::new(
            Arc::new(LiveLibrary::new(library)),
            Arc::new(store) as SharedStore,
            Arc::new(Nowhere),
            Arc::new(At),
            EngineSettings::default(),
        )
        .with_outside(Arc::new(Outside { llm: Models::new(settings), ..Outside::default() }));
        let scope = Scope::mint(ProjectId::parse("p1").unwrap(), "local", "default", None);
        Self { engine, scope, _folder: folder }
    }

    async fn execute(
        &self,
        target: Target,
        input: Value,
        cancel: &CancellationToken,
    ) -> Result<Execution, EngineError> {
        self.within(LONG, target, input, cancel).await
    }

    async fn within(
        &self,
        time: Duration,
        target: Target,
        input: Value,
        cancel: &CancellationToken,
    ) -> Result<Execution, EngineError> {
        let Value::Object(input) = input else { panic!("inputs are an object") };
        let request = ExecuteRequest {
            target,
            input,
            mode: Mode::Balanced,
            session: None,
            unless: None,
            fresh: false,
            caller: Caller::Model,
        };
        let around = Surroundings {
            observer: &Unobserved,
            asker: Arc::new(NobodyToAsk),
            cancel: cancel.clone(),
            deadline: Instant::now() + time,
            task_deadline: None,
        };
        self.engine.execute(&self.scope, request, around).await
    }

    async fn complete(&self, prompt: &str) -> Result<Execution, EngineError> {
        let target = Target::Pattern("test.complete".to_owned());
        self.execute(target, json!({"prompt": prompt}), &CancellationToken::new()).await
    }

    async fn ask(&self, query: &str) -> Execution {
        self.execute(Target::Query(query.to_owned()), json!({}), &CancellationToken::new()).await.unwrap()
    }
}

fn settings(url: &str, format: Format, key: &TempDir) -> LlmSettings {
    let path = key.path().join("key");
    fs::write(&path, format!("{KEY}\n")).unwrap();
    LlmSettings {
        url: Some(Endpoint::parse(url).unwrap()),
        format,
        model: Some("m-1".to_owned()),
        key_file: Some(path),
        timeout: Duration::from_secs(10),
        ..LlmSettings::default()
    }
}

fn value(execution: &Execution) -> &Value {
    match &execution.outcome {
        Outcome::Output { value, .. } => value,
        other => panic!("no output: {other:?}"),
    }
}

#[tokio::test]
async fn both_formats_complete_and_are_accounted_for() {
    let key = tempfile::tempdir().unwrap();
    for (format, path) in [(Format::OpenAi, "/v1/chat/completions"), (Format::Anthropic, "/v1/messages")] {
        let mut provider = Provider::start(path, &[Act::Say("yes"), Act::Say("again")]).await;
        let bench = Bench::new(settings(&provider.url, format, &key)).await;
        let done = bench.complete("Say yes.").await.unwrap();
        let said = value(&done);
        assert_eq!((&said["text"], &said["model"]), (&json!("yes"), &json!("m-1")));
        assert_eq!((&said["tokens_in"], &said["tokens_out"]), (&json!(31), &json!(7)));
        let receipt = &done.receipt.llm[0];
        assert_eq!(receipt.model.as_deref(), Some("m-1"));
        assert_eq!(
            (receipt.tokens_in, receipt.tokens_out, receipt.outcome.as_str()),
            (Some(31), Some(7), "ok")
        );
        let asked = provider.asked.recv().await.unwrap();
        assert!(asked.head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{}", asked.head);
        match format {
            Format::OpenAi => {
                assert!(asked.head.contains(&format!("authorization: Bearer {KEY}\r\n")), "{}", asked.head);
                assert_eq!(asked.body["messages"][0], json!({"role": "system", "content": "Be brief."}));
                assert_eq!(asked.body["messages"][1], json!({"role": "user", "content": "Say yes."}));
            }
            Format::Anthropic => {
                assert!(asked.head.contains(&format!("x-api-key: {KEY}\r\n")), "{}", asked.head);
                assert!(asked.head.contains("anthropic-version: 2023-06-01\r\n"));
                assert_eq!(asked.body["system"], "Be brief.");
                assert_eq!(asked.body["messages"], json!([{"role": "user", "content": "Say yes."}]));
            }
        }
        assert_eq!(asked.body["max_tokens"], 50);
        assert_eq!(value(&bench.complete("Once more.").await.unwrap())["text"], "again");
    }
}

/// Each bad day: what the provider does, which code it comes to, and a word of what is said.
#[tokio::test]
async fn what_a_provider_does_wrong_is_an_error_of_its_own_and_never_shows_the_key() {
    let key = tempfile::tempdir().unwrap();
    let huge = "x".repeat(2 << 20);
    let rows: Vec<(&str, Act, ErrorKind, &str)> = vec![
        (
            "429",
            status("429 Too Many Requests", "retry-after: 7\r\n", "KEY"),
            ErrorKind::Busy,
            "try again in 7 s",
        ),
        (
            "429 by date",
            status("429 Too Many Requests", "retry-after: Sun, 01 Mar 2026 12:00:09 GMT\r\n", ""),
            ErrorKind::Busy,
            "try again in 9 s",
        ),
        ("429 bare", status("429 Too Many Requests", "", ""), ErrorKind::Busy, "try again later"),
        ("500", status("500 Internal Server Error", "", "KEY"), ErrorKind::ProgramFailed, "status 500"),
        (
            "401",
            status("401 Unauthorized", "content-type: application/json\r\n", "{\"error\":\"bad KEY\"}"),
            ErrorKind::Denied,
            "refuses the key",
        ),
        ("400", status("400 Bad Request", "", "KEY"), ErrorKind::ProgramFailed, "status 400"),
        (
            "redirect",
            status("307 Temporary Redirect", "location: http://127.0.0.1:1/KEY\r\n", ""),
            ErrorKind::ProgramFailed,
            "not followed",
        ),
        (
            "no JSON",
            status("200 OK", "content-type: application/json\r\n", "KEY, but no JSON"),
            ErrorKind::ProgramFailed,
            "in the format",
        ),
        (
            "other JSON",
            status("200 OK", "content-type: application/json\r\n", "{\"key\":\"KEY\"}"),
            ErrorKind::ProgramFailed,
            "in the format",
        ),
        (
            "HTML",
            status("200 OK", "content-type: text/html\r\n", "<p>KEY"),
            ErrorKind::ProgramFailed,
            "with JSON",
        ),
        (
            "huge",
            status("200 OK", "content-type: application/json\r\n", &huge),
            ErrorKind::LimitExceeded,
            "1 MiB",
        ),
        ("half", Act::Half, ErrorKind::ProgramFailed, "did not finish"),
        ("no HTTP", Act::Raw("KEY KEY KEY\r\n\r\n".to_owned()), ErrorKind::ProgramFailed, "connection broke"),
        ("gone", Act::Raw(String::new()), ErrorKind::ProgramFailed, "connection broke"),
    ];
    for (name, act, kind, word) in rows {
        let provider = Provider::start("/v1", &[act]).await;
        let bench = Bench::new(settings(&provider.url, Format::OpenAi, &key)).await;
        let error = bench.complete("x").await.unwrap_err();
        assert_eq!(error.kind, kind, "{name}: {error:?}");
        assert!(error.message.contains(word), "{name}: {}", error.message);
        assert!(!format!("{error:?}").contains("canary"), "{name}: {error:?}");
        assert_eq!(error.part.as_deref(), Some("said"), "{name}");
    }
    // Nobody there at all.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bench = Bench::new(settings(&format!("http://{closed}/v1"), Format::OpenAi, &key)).await;
    let error = bench.complete("x").await.unwrap_err();
    assert_eq!((error.kind, error.message.contains("cannot be reached")), (ErrorKind::ProgramFailed, true));
}

/// The program as a host launches it, logging all it can: its key is in nothing that it says.
#[tokio::test]
async fn the_key_is_in_no_log_and_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("config/tmws/patterns")).unwrap();
    fs::create_dir(path("workspace")).unwrap();
    fs::write(path("config/tmws/patterns/test.complete.yaml"), COMPLETE).unwrap();
    let acts = [
        status("401 Unauthorized", "content-type: application/json\r\n", "{\"error\":\"bad KEY\"}"),
        status("200 OK", "content-type: application/json\r\nx-echo: KEY\r\n", "KEY"),
        Act::Raw("KEY\r\n\r\n".to_owned()),
        Act::Say("yes"),
    ];
    let provider = Provider::start("/v1/chat/completions", &acts).await;
    let run = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tmws"));
        command
            .args(arguments)
            .current_dir(path("workspace"))
            .env("TMWS_DATABASE_URL", format!("sqlite:{}", path("store.db").display()))
            .env("XDG_CONFIG_HOME", path("config"))
            .env("XDG_DATA_HOME", path("data"))
            .env_remove("TMWS_ROOT")
            .env_remove("CLAUDE_PROJECT_DIR")
            .env("TMWS_LOG", "trace")
            .env("TMWS_LLM_URL", &provider.url)
            .env("TMWS_LLM_MODEL", "m-1")
            .env("TMWS_LLM_KEY_ENV", "PROVIDERS_KEY")
            .env("PROVIDERS_KEY", KEY)
            .stdin(std::process::Stdio::null());
        command
    };
    for code in ["denied", "program_failed", "program_failed", ""] {
        let output = run(&["run", "test.complete", "--set", "prompt=x", "--json"]).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(code), "{said}");
        assert_eq!(output.status.success(), code.is_empty(), "{said}");
        let all = said + &String::from_utf8_lossy(&output.stderr);
        assert!(!all.contains("canary"), "{all}");
    }
    let doctor = run(&["doctor"]).output().await.unwrap();
    let said =
        String::from_utf8_lossy(&doctor.stdout).into_owned() + &String::from_utf8_lossy(&doctor.stderr);
    assert!(said.contains("PROVIDERS_KEY") && !said.contains("canary"), "{said}");
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_no_key() {
    let key = tempfile::tempdir().unwrap();
    let provider = Provider::start("/v1", &[]).await;
    let mut without = settings(&provider.url, Format::OpenAi, &key);
    without.key_file = Some(key.path().join("absent"));
    let bench = Bench::new(without).await;
    let error = bench.complete("x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(!error.message.contains("absent"), "{}", error.message);
    // A model of this machine may need none.
    let provider = Provider::start("/v1", &[Act::Say("yes")]).await;
    let keyless = LlmSettings { key_file: None, ..settings(&provider.url, Format::OpenAi, &key) };
    assert_eq!(value(&Bench::new(keyless).await.complete("x").await.unwrap())["text"], "yes");
}

#[tokio::test]
async fn a_provider_that_hangs_is_left_in_time() {
    let key = tempfile::tempdir().unwrap();
    let mut provider = Provider::start("/v1", &[Act::Hang]).await;
    let slow =
        LlmSettings { timeout: Duration::from_millis(50), ..settings(&provider.url, Format::OpenAi, &key) };
    let error = Bench::new(slow).await.complete("x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline, "{error:?}");
    assert_eq!(error.receipt.unwrap().degraded, ["model 127.0.0.1: slow"]);
    tokio::time::timeout(LONG, provider.left.recv()).await.unwrap().unwrap();
    // Where it has more time than its caller.
    let mut provider = Provider::start("/v1", &[Act::Hang]).await;
    let bench = Bench::new(settings(&provider.url, Format::OpenAi, &key)).await;
    let target = Target::Pattern("test.complete".to_owned());
    let within = Duration::from_millis(200);
    let error =
        bench.within(within, target, json!({"prompt": "x"}), &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline, "{error:?}");
    assert_eq!(error.receipt.unwrap().degraded, ["model 127.0.0.1: slow"]);
    tokio::time::timeout(LONG, provider.left.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn cancelling_closes_the_connection() {
    let key = tempfile::tempdir().unwrap();
    let mut provider = Provider::start("/v1", &[Act::Hang]).await;
    let bench = Bench::new(settings(&provider.url, Format::OpenAi, &key)).await;
    let cancel = CancellationToken::new();
    let target = Target::Pattern("test.complete".to_owned());
    let running = bench.execute(target, json!({"prompt": "x"}), &cancel);
    let cancelling = async {
        provider.asked.recv().await.unwrap();
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(running, cancelling);
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
    tokio::time::timeout(LONG, provider.left.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_provider_that_fails_again_and_again_is_left_alone() {
    let key = tempfile::tempdir().unwrap();
    let failing = status("500 Internal Server Error", "", "");
    let mut provider = Provider::start("/v1", &vec![failing; 5]).await;
    let bench = Bench::new(settings(&provider.url, Format::OpenAi, &key)).await;
    for _ in 0..5 {
        assert_eq!(bench.complete("x").await.unwrap_err().kind, ErrorKind::ProgramFailed);
        provider.asked.recv().await.unwrap();
    }
    let error = bench.complete("x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "{error:?}");
    assert!(error.message.contains("left alone"), "{}", error.message);
    assert!(error.retry_after.is_some_and(|wait| wait > Duration::from_secs(1)), "{error:?}");
    assert!(provider.asked.try_recv().is_err(), "nothing was sent");
}

#[tokio::test]
async fn after_the_pause_one_probe_decides() {
    let key = tempfile::tempdir().unwrap();
    let failing = status("500 Internal Server Error", "", "");
    let mut provider =
        Provider::start("/v1", &[failing.clone(), failing, Act::Hang, Act::Say("yes"), Act::Say("yes")])
            .await;
    let bench = Bench::new(LlmSettings {
        breaker_failures: 2,
        breaker_pause: Duration::ZERO,
        ..settings(&provider.url, Format::OpenAi, &key)
    })
    .await;
    for _ in 0..2 {
        bench.complete("x").await.unwrap_err();
        provider.asked.recv().await.unwrap();
    }
    // The pause is over: one probe is out, and nobody else is let through until it is known how that went.
    let cancel = CancellationToken::new();
    let target = || Target::Pattern("test.complete".to_owned());
    let probe = bench.execute(target(), json!({"prompt": "probe"}), &cancel);
    let others = async {
        provider.asked.recv().await.unwrap();
        let error = bench.complete("other").await.unwrap_err();
        assert_eq!((error.kind, provider.asked.try_recv().is_err()), (ErrorKind::Busy, true));
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(probe, others);
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
    // A probe that was given up says nothing; the next one closes the breaker.
    for _ in 0..2 {
        assert_eq!(value(&bench.complete("x").await.unwrap())["text"], "yes");
        provider.asked.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_provider_that_asks_for_a_pause_gets_it() {
    let key = tempfile::tempdir().unwrap();
    let mut provider =
        Provider::start("/v1", &[status("429 Too Many Requests", "retry-after: 60\r\n", "")]).await;
    let bench = Bench::new(settings(&provider.url, Format::OpenAi, &key)).await;
    bench.complete("x").await.unwrap_err();
    provider.asked.recv().await.unwrap();
    let error = bench.complete("x").await.unwrap_err();
    assert_eq!((error.kind, provider.asked.try_recv().is_err()), (ErrorKind::Busy, true));
}

#[tokio::test]
async fn tokens_are_spent_and_then_there_are_none() {
    let key = tempfile::tempdir().unwrap();
    let mut provider = Provider::start("/v1", &[Act::Say("yes"), Act::Say("yes")]).await;
    // Each completion may write 50 and is reported with 38: two fit, not three.
    let few = LlmSettings { tokens_per_hour: 120, ..settings(&provider.url, Format::OpenAi, &key) };
    let bench = Bench::new(few).await;
    for _ in 0..2 {
        bench.complete("x").await.unwrap();
        provider.asked.recv().await.unwrap();
    }
    let error = bench.complete("x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "{error:?}");
    assert!(
        error.message.contains("llm.tokens_per_hour") && error.message.contains("3600 s"),
        "{}",
        error.message
    );
    assert_eq!(error.retry_after, Some(Duration::from_hours(1)), "as long as it really takes");
    assert!(provider.asked.try_recv().is_err(), "nothing was sent");
}

#[tokio::test]
async fn without_a_model_a_completion_says_what_to_set() {
    let error = Bench::new(LlmSettings::default()).await.complete("x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    for word in ["llm.url", "llm.model", "`sampling`"] {
        assert!(error.message.contains(word), "{}", error.message);
    }
}

#[tokio::test]
async fn the_model_chooses_a_pattern_that_only_reads() {
    let key = tempfile::tempdir().unwrap();
    let choice = r#"{"pattern": "memory.timeline", "input": {"query": "ports"}}"#;
    let mut provider = Provider::start("/v1", &[Act::Say(choice)]).await;
    let on = |provider: &Provider| LlmSettings {
        fallback: Fallback::Provider,
        ..settings(&provider.url, Format::Anthropic, &key)
    };
    let query = "zwei drei vier";
    let bench = Bench::new(on(&provider)).await;
    let done = bench.ask(query).await;
    assert_eq!((done.receipt.matched_by, done.receipt.llm.len()), ("llm", 1), "{done:?}");
    let asked = provider.asked.recv().await.unwrap();
    let prompt: Value = serde_json::from_str(asked.body["messages"][0]["content"].as_str().unwrap()).unwrap();
    assert_eq!(prompt["question"], query);
    let names: Vec<&str> = prompt["patterns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pattern| pattern["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"memory.timeline"), "{names:?}");
    // What writes, and what needs a folder where there is none, is not even shown.
    for absent in ["memory.remember", "memory.forget", "repo.digest"] {
        assert!(!names.contains(&absent), "{names:?}");
    }
    for (text, outcome) in [
        (r#"{"pattern": "memory.remember", "input": {"content": "x"}}"#, "ok"),
        (r#"{"pattern": "repo.digest", "input": {}}"#, "ok"),
        (r#"{"pattern": "memory.timeline", "input": {"query": "x", "k": 3, "root": "/etc"}}"#, "ok"),
        (r#"{"pattern": null}"#, "ok"),
        ("Sure! memory.timeline", "ok"),
        ("", "ok"),
    ] {
        provider.then(Act::Say(text));
        let done = bench.ask(query).await;
        assert!(matches!(done.outcome, Outcome::Candidates { .. }), "{text}: {done:?}");
        assert_eq!(
            (done.receipt.matched_by, done.receipt.llm[0].outcome.as_str()),
            ("none", outcome),
            "{text}"
        );
    }
    provider.then(status("500 Internal Server Error", "", ""));
    let done = bench.ask(query).await;
    assert!(matches!(done.outcome, Outcome::Candidates { .. }));
    assert_eq!(done.receipt.llm[0].outcome, "program_failed");
}

#[tokio::test]
async fn nobody_is_asked_where_it_is_off_or_a_trigger_matches() {
    let key = tempfile::tempdir().unwrap();
    let mut provider = Provider::start("/v1", &[]).await;
    let off = Bench::new(settings(&provider.url, Format::OpenAi, &key)).await;
    assert!(matches!(off.ask("zwei drei vier").await.outcome, Outcome::Candidates { .. }));
    let on = LlmSettings { fallback: Fallback::Provider, ..settings(&provider.url, Format::OpenAi, &key) };
    let on = Bench::new(on).await;
    let matched = on.ask("what did we decide about ports").await;
    assert_ne!(matched.receipt.matched_by, "llm");
    assert!(provider.asked.try_recv().is_err(), "nothing was sent");
}
