//! TMWS in a task: a server of its own, spoken to in frames, in a fresh copy of the fixture, at the fixture's time.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{runtime::Handle, sync::Notify, time::timeout};

use super::{
    Arm, Conversation, Definitions, Exchange, Task,
    data::{Data, exchange},
};
use crate::{
    compose::{LOCAL_PRINCIPAL, Local},
    config::{self, Sources},
    engine::{
        Clock,
        testing::{Scratch, Stopped, clone, copy, read_memories},
    },
    protocol::{BatchAnswers, Connection, Now, Signer},
    schema::Gate,
    scope::Rights,
    session::{Driver, Identity, Mailbox, Wake},
    tool::{ConnectionId, Service},
};

/// The time of all fixtures.
const NOW: &str = "2026-03-01T12:00:00Z";
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_mins(1);
/// Where recorded arms have their folders.
const HOME: &str = "/home/dev";
/// The store may take so long to close.
const CLOSE: Duration = Duration::from_secs(5);
/// Letters of the ids of memories.
const ULID: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Patterns that the promoted arm offers as tools, in no other arm.
const PROMOTED: &str = "promoted.txt";

/// What arm `arm` says in `task`, and what it defines. What it leaves to the host's own tools is taken from what they
/// said in `shell`.
pub(super) async fn converse(
    data: &Data,
    task: &Task,
    recipe: &[String],
    shell: &Conversation,
    arm: Arm,
) -> Result<(Conversation, Definitions), String> {
    let scratch = Scratch::new().map_err(|error| format!("no temporary folder: {error}"))?;
    let mut peer = Peer::new(data, task, scratch.path(), arm).await?;
    let root = format!("{HOME}/{}", task.name);
    let defined = peer.greet().await?;
    // All that a model has read, and paid for: what it names it must have from there.
    let mut read: Vec<String> =
        defined.instructions.iter().cloned().chain(defined.tools.iter().map(ToString::to_string)).collect();
    let mut said = Conversation::default();
    // What the answer before gave, for the call after it.
    let mut last = Value::Null;
    // What opens the rest of the last pattern's answer.
    let mut handle = Value::Null;
    // How many entries of it were shown: where the rest begins.
    let mut shown = Value::Null;
    for line in recipe {
        let (line, only_after_a_miss) = match line.strip_prefix("? ") {
            Some(line) => (line, true),
            None => (line.as_str(), false),
        };
        if only_after_a_miss && last.get("candidates").is_none() {
            continue;
        }
        let line = line.replace("$ROOT", &root);
        if let Some(host) = on_host(&line) {
            let call = host.to_string();
            let known = shell.exchanges.iter().find(|exchange| exchange.call == call);
            let known = known.ok_or_else(|| format!("arm C has no `{line}`"))?;
            said.exchanges.push(known.clone());
            continue;
        }
        let mut wanted = line.clone();
        for (mark, value) in
            [("$HANDLE", &handle), ("$SHOWN", &shown), ("$ETAG", &last["etag"]), ("$NEXT", &last["next"])]
        {
            if wanted.contains(mark) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                wanted = if value == "null" { String::new() } else { wanted.replace(mark, &value) };
            }
        }
        // Nothing was left out of the answer before, or all of the rest has come.
        let Some((name, arguments)) = wanted.split_once(' ') else { continue };
        let arguments: Value =
            serde_json::from_str(arguments).map_err(|error| format!("`{line}`: {error}"))?;
        if arguments["pattern"].as_str().is_some_and(|pattern| !names(&read, pattern)) {
            return Err(format!(
                "`{line}` names a pattern that nothing before it showed: ask in words, or let find_patterns come first"
            ));
        }
        let call = json!({"name": name, "arguments": arguments});
        let begun = Instant::now();
        let result = peer.ask("tools/call", &call).await?;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        // A refusal is an answer, too: it is paid, and lacks the facts.
        let heard = exchange(&call, &result, ms);
        last = serde_json::from_str(&heard.content).unwrap_or_default();
        if name != "get_result" {
            handle = last["more"]["handle"].clone();
            shown = shown_of(&last["more"]["cut"]);
        }
        read.push(heard.content.clone());
        said.exchanges.push(heard);
    }
    peer.local.store.close(CLOSE).await;
    let known = match &task.memories {
        Some(name) => fs::read_to_string(data.path(name)).map_err(|error| format!("{name}: {error}"))?,
        None => String::new(),
    };
    let scrub = Scrub { task: &task.id, scratch: &scratch.path().display().to_string(), known: &known };
    for exchange in &mut said.exchanges {
        scrub.exchange(exchange);
    }
    Ok((said, defined))
}

/// Whether one of `texts` has `pattern` as a name, not as part of one.
fn names(texts: &[String], pattern: &str) -> bool {
    let is_of_name = |text: char| text.is_ascii_alphanumeric() || "-_.".contains(text);
    texts.iter().any(|text| {
        text.match_indices(pattern).any(|(at, _)| {
            !text[..at].ends_with(is_of_name) && !text[at + pattern.len()..].starts_with(is_of_name)
        })
    })
}

/// The first number of `{"found": "5 of 31"}`.
fn shown_of(cut: &Value) -> Value {
    let said = cut.as_object().and_then(|cut| cut.values().next()).and_then(Value::as_str);
    said.and_then(|said| said.split(' ').next()?.parse::<u64>().ok()).map_or(Value::Null, Value::from)
}

/// A call of the host's own tools, as recorded.
fn on_host(line: &str) -> Option<Value> {
    if let Some(command) = line.strip_prefix("$ ") {
        return Some(json!({"name": "Bash", "arguments": {"command": command}}));
    }
    let path = line.strip_prefix("Read ")?;
    Some(json!({"name": "Read", "arguments": {"file_path": path}}))
}

/// Replaces what differs from run to run by what does not and is as long: handles are random, folders temporary.
struct Scrub<'a> {
    task: &'a str,
    scratch: &'a str,
    /// What holds the ids that are the same in every run.
    known: &'a str,
}

impl Scrub<'_> {
    fn exchange(&self, exchange: &mut Exchange) {
        for text in [Some(&mut exchange.call), Some(&mut exchange.content), exchange.structured.as_mut()]
            .into_iter()
            .flatten()
        {
            *text = self.text(text);
        }
    }

    fn text(&self, text: &str) -> String {
        let text = text.replace(self.scratch, HOME);
        self.random(&self.random(&text, "\"r_"), "\"m_")
    }

    /// Of what begins with `mark`.
    fn random(&self, text: &str, mark: &str) -> String {
        let mut made = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(mark) {
            let (before, from) = rest.split_at(at + 3);
            made.push_str(before);
            let length =
                from.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)).count();
            let (id, after) = from.split_at(length);
            if self.known.contains(id) {
                made.push_str(id);
            } else {
                let digest = Sha256::digest(self.task.as_bytes());
                let digest = match mark {
                    // Ids are upper-case letters and digits.
                    "\"m_" => digest.iter().map(|byte| char::from(ULID[usize::from(byte & 31)])).collect(),
                    _ => URL_SAFE_NO_PAD.encode(&digest[..16]),
                };
                made.push_str(&digest[..length.min(digest.len())]);
            }
            rest = after;
        }
        made + rest
    }
}

struct Bell(Arc<Notify>);

impl Wake for Bell {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// A host that launched a server.
struct Peer {
    local: Local,
    driver: Driver,
    bell: Arc<Notify>,
    next: u64,
}

impl Peer {
    /// The server of `arm` on the fixture of `task`, made in `scratch`.
    async fn new(data: &Data, task: &Task, scratch: &Path, arm: Arm) -> Result<Self, String> {
        let root = scratch.join(&task.name);
        if let Some(repo) = &task.repo {
            clone(&data.path(repo), &root).await.map_err(|error| format!("{repo}: {error}"))?;
        }
        let io = |name: &str, error: std::io::Error| format!("{name}: {error}");
        fs::create_dir_all(&root).map_err(|error| io(&task.name, error))?;
        if let Some(overlay) = &task.overlay {
            copy(&data.path(overlay), &root).map_err(|error| io(overlay, error))?;
        }
        for name in &task.files {
            let from = data.path(name);
            let to = root.join("ci").join(from.file_name().unwrap_or_default());
            fs::create_dir_all(root.join("ci")).map_err(|error| io(name, error))?;
            fs::copy(&from, to).map_err(|error| io(name, error))?;
        }
        let now: Timestamp = NOW.parse().map_err(|error| format!("{NOW}: {error}"))?;
        let database = format!("sqlite:{}", scratch.join("store.db").display());
        let mut settings: Vec<(String, OsString)> =
            vec![("root".to_owned(), root.clone().into()), ("database_url".to_owned(), database.into())];
        if arm == Arm::Promoted {
            let names = fs::read_to_string(data.path(PROMOTED)).map_err(|error| io(PROMOTED, error))?;
            let names: Vec<&str> = names.lines().map(str::trim).filter(|name| !name.is_empty()).collect();
            settings.push(("promote".to_owned(), names.join(",").into()));
        }
        let flags = settings.into_iter().map(|(key, value)| (format!("--{key}"), key, value)).collect();
        let sources = Sources { environment: BTreeMap::new(), flags, file: None, working_directory: root };
        let config = config::load(&sources).map_err(|error| error.to_string())?;
        let clock: Arc<dyn Clock> = Arc::new(Stopped(now));
        let local = Local::at(&config, clock);
        if let Some(memories) = &task.memories {
            let text = fs::read_to_string(data.path(memories)).map_err(|error| io(memories, error))?;
            let scope = local.scope();
            let read = read_memories(&text, &scope, now).map_err(|error| format!("{memories}: {error}"))?;
            local.store.import(&scope, read, now).await.map_err(|error| format!("{memories}: {error}"))?;
        }
        let service: Arc<dyn Service> = local.service();
        let connection = Connection::new(
            service.profile(),
            Arc::new(Gate::new()),
            config.connection,
            Signer::new([7; 32]).for_audience(LOCAL_PRINCIPAL),
            BatchAnswers::Array,
        );
        let identity =
            Identity::new(local.project_later(), LOCAL_PRINCIPAL, &config.agent, "token-report", Rights::ALL);
        let bell = Arc::new(Notify::new());
        let driver = Driver::new(
            ConnectionId(0),
            connection,
            service,
            identity,
            Handle::current(),
            Mailbox::new(Bell(Arc::clone(&bell))),
            config.connection.call_deadline,
        );
        Ok(Self { local, driver, bell, next: 0 })
    }

    /// The handshake, and what the server defines.
    async fn greet(&mut self) -> Result<Definitions, String> {
        let hello = json!({
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "tmws-token-report", "version": "1"},
        });
        let hello = self.ask("initialize", &hello).await?;
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.driver.frame(now(), ready.to_string().as_bytes());
        let listed = self.ask("tools/list", &json!({})).await?;
        Ok(Definitions {
            instructions: hello["instructions"].as_str().map(str::to_owned).into_iter().collect(),
            tools: listed["tools"].as_array().cloned().unwrap_or_default(),
        })
    }

    /// The result of one request.
    async fn ask(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        self.next += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        self.driver.frame(now(), request.to_string().as_bytes());
        loop {
            let frames: Vec<Value> = self
                .driver
                .take_outgoing()
                .filter_map(|frame| serde_json::from_slice(frame.as_bytes()).ok())
                .collect();
            if let Some(mut answer) = frames.into_iter().find(|frame| frame["id"] == self.next) {
                let result = answer["result"].take();
                return if result.is_null() {
                    Err(format!("{method}: {}", answer["error"]))
                } else {
                    Ok(result)
                };
            }
            timeout(ANSWER, self.bell.notified()).await.map_err(|_| format!("{method} is not answered"))?;
            self.driver.mail(now());
        }
    }
}

fn now() -> Now {
    Now { monotonic: Instant::now(), unix_ms: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `recipe` in an empty folder.
    async fn told(recipe: &[&str]) -> Result<Conversation, String> {
        let data = Data::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/tokens"))?;
        let mut task = data.tasks.iter().find(|task| task.memories.is_some()).unwrap().clone();
        (task.repo, task.overlay, task.files) = (None, None, Vec::new());
        let recipe: Vec<String> = recipe.iter().map(|line| (*line).to_owned()).collect();
        converse(&data, &task, &recipe, &Conversation::default(), Arm::Tmws).await.map(|(said, _)| said)
    }

    #[tokio::test]
    async fn a_pattern_is_named_only_after_something_has_shown_its_name() {
        let by_name = r#"execute_pattern {"pattern":"memory.by-tag","input":{"tag":"ci"}}"#;
        let find = |name: &str| format!(r#"find_patterns {{"query":"{name}","limit":1}}"#);
        let why = told(&[by_name]).await.unwrap_err();
        assert!(why.contains(by_name) && why.contains("nothing before it showed"), "{why}");
        // The name of another pattern does not show it, nor does the call itself.
        let why = told(&[&find("digest the log"), by_name]).await.unwrap_err();
        assert!(why.contains(by_name), "{why}");
        let said = told(&[&find("memories by tag"), by_name]).await.unwrap();
        assert!(said.exchanges[0].content.contains("memory.by-tag"), "{}", said.exchanges[0].content);
        assert_eq!(said.exchanges.len(), 2);
    }

    #[test]
    fn a_longer_name_does_not_show_a_shorter_one() {
        let table = [
            (r#"{"name":"code.find"}"#, true),
            ("code.find, code.outline", true),
            ("code.find-more", false),
            ("my.code.find", false),
            ("code.finder", false),
            ("code-find", false),
        ];
        for (text, shows) in table {
            assert_eq!(names(&[text.to_owned()], "code.find"), shows, "{text}");
        }
    }
}
