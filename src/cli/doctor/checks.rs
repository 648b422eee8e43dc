//! The single checks. None of them changes anything that lasts: a store that is not there yet is not made.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::json;
use tokio::{process::Command, time::timeout};

use super::{
    Finding, Itself, Verdict,
    probe::{Launch, probe},
};
use crate::{
    cache::{SecondLayer as _, Told, redis::Redis},
    compose::Local,
    config::{Config, DatabaseUrl},
    embedding::EmbeddingError,
    engine::{Patterns as _, Workspace, llm::Fallback, steps::sql::SourceSpec, tokens},
    resilience::{BackendKind, Backends},
    store::{EmbeddingProgress, PostgresFacts, PostgresOptions, PostgresStore},
};

/// Longest wait for another program or the store.
const PATIENCE: Duration = Duration::from_secs(10);

/// The settings, and what of them was ignored.
pub(super) fn configuration(config: &Config) -> Finding {
    match config.warnings.as_slice() {
        [] => Finding::new("configuration", Verdict::Good, "valid"),
        warnings => Finding::new("configuration", Verdict::Warning, warnings.join("; "))
            .with(json!({"warnings": warnings})),
    }
}

/// Workspace, store and patterns.
pub(super) async fn parts(config: &Config) -> Vec<Finding> {
    let local = Local::new(config);
    let mut findings = vec![workspace(&local), store(config, &local).await, embedding(config, &local).await];
    findings.push(patterns(&local).await);
    findings.extend(promoted(config, &local).await);
    local.store.close(PATIENCE).await;
    findings
}

fn workspace(local: &Local) -> Finding {
    let project = local.project();
    match local.workspace() {
        Workspace::Root(root) => {
            Finding::new("workspace", Verdict::Good, format!("{} is project {project}", root.display()))
                .with(json!({"root": root.display().to_string(), "project": project.as_str()}))
        }
        Workspace::None { reason } => Finding::new(
            "workspace",
            Verdict::Warning,
            format!("no file or git steps: {reason}; project {project}"),
        )
        .with(json!({"project": project.as_str()})),
    }
}

async fn store(config: &Config, local: &Local) -> Finding {
    if let DatabaseUrl::Sqlite(path) = &config.database
        && !path.exists()
    {
        return absent_store(path);
    }
    let mut server = None;
    if let DatabaseUrl::Postgres(url) = &config.database {
        match database(url, config).await {
            // The next use makes or migrates it; looking does not.
            Ok(facts) if facts.schema < facts.schema_known => {
                return Finding::new("store", verdict(&facts), told(&facts));
            }
            Ok(facts) => server = Some(facts),
            Err(finding) => return finding,
        }
    }
    let now = jiff::Timestamp::now();
    match timeout(PATIENCE, local.store.stats(&local.scope(), now)).await {
        Ok(Ok(stats)) => {
            let place = server.as_ref().map_or_else(|| config.database.to_string(), told);
            let counts =
                format!("memories of this project: {}, superseded: {}", stats.memories, stats.superseded);
            Finding::new(
                "store",
                server.as_ref().map_or(Verdict::Good, verdict),
                format!("{place}; {counts}"),
            )
            .with(json!({
                "url": config.database.to_string(), "memories": stats.memories, "superseded": stats.superseded,
            }))
        }
        Ok(Err(error)) => Finding::new("store", Verdict::Bad, error.to_string()),
        Err(_) => Finding::new("store", Verdict::Bad, format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// The layer of the cache that instances share: connected to, and what it does tried with a key of its own that lives
/// for a second; nothing where there is none.
pub(super) async fn redis(config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "redis";
    let url = config.redis.clone()?;
    let place = url.to_string();
    let breaker = Backends::default().breaker(BackendKind::Redis, SUBJECT);
    let redis = Redis::new(url, config.cache, breaker);
    let told = timeout(PATIENCE, redis.look()).await;
    let works = matches!(told, Ok(Told::Well));
    let lacking = if works { timeout(PATIENCE, redis.try_out()).await.unwrap_or_default() } else { None };
    let nodes = redis.figures().nodes;
    let asked = asked(&redis.asked());
    redis.close().await;
    Some(match told {
        Ok(Told::Well) if let Some(lacking) = lacking => {
            let detail = format!("{place}: {lacking}{asked}");
            Finding::new(SUBJECT, Verdict::Warning, detail).with(json!({"url": place}))
        }
        Ok(Told::Well) => {
            let servers = if nodes == 1 {
                "1 server, which tells".to_owned()
            } else {
                format!("{nodes} servers, which tell")
            };
            Finding::new(SUBJECT, Verdict::Good, format!("{place}: {servers} what changes{asked}"))
                .with(json!({"url": place, "servers": nodes}))
        }
        Ok(Told::Ailing(reason)) => {
            let detail = format!("{place}: {reason}; answers are kept in each process alone{asked}");
            Finding::new(SUBJECT, Verdict::Warning, detail).with(json!({"url": place}))
        }
        Ok(Told::Unused) | Err(_) => {
            let detail = format!("{place}: no answer within {} s", PATIENCE.as_secs());
            Finding::new(SUBJECT, Verdict::Warning, detail).with(json!({"url": place}))
        }
    })
}

/// Who was asked for the servers, and what came of it; nothing where nobody was.
fn asked(asked: &[(String, Option<String>)]) -> String {
    let told = asked.iter().map(|(place, trouble)| match trouble {
        None => format!("; {place} told of them"),
        Some(trouble) => format!("; asked {place} in vain: {trouble}"),
    });
    told.collect()
}

/// What makes the vectors of memories, and how many have one of it. Reads the model where it is in a folder.
async fn embedding(config: &Config, local: &Local) -> Finding {
    const SUBJECT: &str = "embedding";
    let identity = match timeout(PATIENCE, local.embeddings.identity()).await {
        Ok(Ok(identity)) => identity,
        Ok(Err(EmbeddingError::Off)) => {
            return Finding::new(SUBJECT, Verdict::Good, "none is wanted; memories are found by words alone");
        }
        Ok(Err(error)) => {
            let detail = format!("{error}; memories are found by words alone");
            return Finding::new(SUBJECT, Verdict::Warning, detail);
        }
        Err(_) => {
            let detail = format!("{} was not read within {} s", config.embedding_model, PATIENCE.as_secs());
            return Finding::new(SUBJECT, Verdict::Warning, detail);
        }
    };
    let model = format!("{}, {} numbers, {}", identity.name, identity.dimension, &identity.hash[..12]);
    let data = json!({"name": identity.name, "dimension": identity.dimension, "hash": identity.hash});
    if matches!(&config.database, DatabaseUrl::Sqlite(path) if !path.exists()) {
        return Finding::new(SUBJECT, Verdict::Good, model).with(json!({"model": data}));
    }
    match timeout(PATIENCE, local.store.embedding()).await {
        Ok(Ok(progress)) => {
            let EmbeddingProgress { embedded, memories, .. } = progress;
            let rest = if embedded < memories { "; the rest follows in the background" } else { "" };
            let detail = format!("{model}; vectors of {embedded} of {memories} memories of the store{rest}");
            let data = json!({"model": data, "embedded": embedded, "memories": memories});
            Finding::new(SUBJECT, Verdict::Good, detail).with(data)
        }
        // What is wrong with the store is its own finding.
        Ok(Err(_)) | Err(_) => Finding::new(SUBJECT, Verdict::Good, model).with(json!({"model": data})),
    }
}

/// The server at `url` and what it holds, looked at without changing anything.
async fn database(url: &str, config: &Config) -> Result<PostgresFacts, Finding> {
    let options = PostgresOptions { limits: config.store, ..PostgresOptions::new(url) };
    match timeout(PATIENCE, PostgresStore::inspect(&options)).await {
        Ok(Ok(facts)) => Ok(facts),
        Ok(Err(error)) => Err(Finding::new("store", Verdict::Bad, error.to_string())),
        Err(_) => {
            Err(Finding::new("store", Verdict::Bad, format!("no answer within {} s", PATIENCE.as_secs())))
        }
    }
}

fn told(facts: &PostgresFacts) -> String {
    let vector = facts
        .vector
        .as_deref()
        .map_or_else(|| "pgvector not there yet".to_owned(), |version| format!("pgvector {version}"));
    let schema = match facts.schema {
        0 => ", its tables will be made at the first use".to_owned(),
        found if found < facts.schema_known => {
            format!(", schema {found} (the next use brings it to {})", facts.schema_known)
        }
        found => format!(", schema {found}"),
    };
    let wall = if facts.is_walled {
        "row-level security holds"
    } else {
        "row-level security does not hold for this role, so that isolation rests on tmws alone: log in as a role that \
         is no superuser and has no BYPASSRLS"
    };
    let tls = if facts.is_encrypted { "with TLS" } else { "without TLS" };
    format!("{}: PostgreSQL {}, {vector}{schema}, {tls}, {wall}", facts.place, facts.server)
}

const fn verdict(facts: &PostgresFacts) -> Verdict {
    if facts.is_walled { Verdict::Good } else { Verdict::Warning }
}

/// A store is made at its first use; here only whether that can work.
fn absent_store(path: &Path) -> Finding {
    let folder = path.ancestors().skip(1).find(|folder| folder.exists());
    match folder.map(|folder| (folder, is_writable(folder))) {
        Some((_, true)) => Finding::new(
            "store",
            Verdict::Good,
            format!("sqlite:{} will be made at its first use", path.display()),
        ),
        Some((folder, false)) => Finding::new(
            "store",
            Verdict::Bad,
            format!(
                "sqlite:{} cannot be made: {} is not writable; set TMWS_DATABASE_URL",
                path.display(),
                folder.display()
            ),
        ),
        None => Finding::new(
            "store",
            Verdict::Bad,
            format!("sqlite:{} has no existing folder above it", path.display()),
        ),
    }
}

/// The databases of the configuration and who may read each; nothing where there is none. None is opened.
pub(super) fn databases(config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "databases";
    let told = |source: &SourceSpec| {
        let readers = match source.projects.as_deref() {
            None => "every project here, none of `serve` (`projects` would name some)".to_owned(),
            Some([]) => "no project".to_owned(),
            Some(projects) => projects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        format!("{} ({}) for {readers}", source.name, source.address.kind())
    };
    let lines: Vec<String> = config.sources.iter().map(told).collect();
    (!lines.is_empty()).then(|| Finding::new(SUBJECT, Verdict::Good, lines.join("; ")))
}

/// Which language model is asked, and for what; nothing where none is configured. None is asked here.
pub(super) fn models(config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "models";
    let llm = &config.llm;
    if llm.url.is_none() && llm.fallback == Fallback::Off {
        return None;
    }
    let provider =
        llm.url.as_ref().map(|url| format!("{} at {url}", llm.model.as_deref().unwrap_or("a model")));
    let provider = provider.as_deref();
    let chooses = match (llm.fallback, provider) {
        (Fallback::Off, _) => "nobody chooses a pattern where none matches".to_owned(),
        (Fallback::Client, _) => "the client's model chooses a pattern where none matches".to_owned(),
        (Fallback::Provider, who) => {
            format!("{} chooses a pattern where none matches", who.unwrap_or("the provider"))
        }
    };
    let completes = provider.map_or_else(String::new, |who| format!("; {who} completes prompts of patterns"));
    Some(Finding::new(SUBJECT, Verdict::Good, format!("{chooses}{completes}")))
}

#[cfg(unix)]
fn is_writable(folder: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

#[cfg(not(unix))]
fn is_writable(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|metadata| !metadata.permissions().readonly())
}

async fn patterns(local: &Local) -> Finding {
    if let Err(error) = local.shelf.ready().await {
        return Finding::new("patterns", Verdict::Bad, error.to_string());
    }
    let count = local.shelf.all().len();
    let faults = local.shelf.faults();
    let loaded = format!("{count} loaded");
    if faults.is_empty() {
        return Finding::new("patterns", Verdict::Good, loaded).with(json!({"loaded": count}));
    }
    Finding::new("patterns", Verdict::Warning, format!("{loaded}; not loaded: {}", faults.join("; ")))
        .with(json!({"loaded": count, "faults": *faults}))
}

/// What the patterns that are tools cost each session; nothing where there are none.
async fn promoted(config: &Config, local: &Local) -> Option<Finding> {
    const SUBJECT: &str = "promoted";
    if config.promote.is_empty() {
        return None;
    }
    let tools = local.shelf.promoted();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut counted = Vec::new();
    for tool in tools.iter() {
        let tokens = tokens::count_exactly(&tool.read_by_models(), deadline).await;
        counted.push((tool.tool().to_owned(), tokens.count));
    }
    let total: usize = counted.iter().map(|(_, tokens)| tokens).sum();
    let each: Vec<String> = counted.iter().map(|(tool, tokens)| format!("{tool} {tokens}")).collect();
    let data: serde_json::Map<String, serde_json::Value> =
        counted.into_iter().map(|(tool, tokens)| (tool, json!(tokens))).collect();
    let mut detail = format!("{} of {} tools, {total} tokens", tools.len(), config.promote.len());
    if !each.is_empty() {
        detail.push_str(": ");
        detail.push_str(&each.join(", "));
    }
    let verdict = if tools.len() == config.promote.len() { Verdict::Good } else { Verdict::Warning };
    Some(Finding::new(SUBJECT, verdict, detail).with(json!({"tokens": total, "tools": data})))
}

/// Steps of the family `git` need it; nothing else does.
pub(super) async fn git() -> Finding {
    let run = Command::new("git")
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(PATIENCE, run).await {
        Ok(Ok(output)) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Finding::new("git", Verdict::Good, version)
        }
        Ok(_) => {
            Finding::new("git", Verdict::Warning, "not found: patterns with git steps answer program_failed")
        }
        Err(_) => Finding::new("git", Verdict::Warning, format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Our own schemas compile. Those of MCP are compiled by the probe's conversation as they are needed.
pub(super) fn schemas() -> Finding {
    let documents = super::super::schema::documents();
    let broken: Vec<&str> = documents
        .iter()
        .filter(|document| {
            let parsed: Result<serde_json::Value, _> = serde_json::from_str(&document.text);
            // Those of MCP refer to each other; that they compile together is the gate's own test.
            let own = !document.name.starts_with("mcp/");
            !parsed.is_ok_and(|schema| !own || jsonschema::validator_for(&schema).is_ok())
        })
        .map(|document| document.name.as_str())
        .collect();
    if broken.is_empty() {
        Finding::new("schemas", Verdict::Good, format!("{} documents", documents.len()))
    } else {
        Finding::new("schemas", Verdict::Bad, format!("broken: {}", broken.join(", ")))
    }
}

/// A server like this one, launched as a host does.
pub(super) async fn stdio(itself: &Itself) -> Finding {
    let Some(program) = &itself.program else {
        return Finding::new("stdio", Verdict::Warning, "not probed: this binary's own path is unknown");
    };
    let launch = Launch { program: program.clone(), arguments: itself.flags.clone() };
    match probe(&launch).await {
        Ok(probed) => {
            let ms = |duration: Duration| duration.as_micros() as f64 / 1000.0;
            Finding::new(
                "stdio",
                Verdict::Good,
                format!(
                    "first answer after {:.1} ms, {} tools, ended {:.1} ms after the end of input",
                    ms(probed.first_answer),
                    probed.tools,
                    ms(probed.exit)
                ),
            )
            .with(json!({
                "cold_start_ms": ms(probed.first_answer), "exit_ms": ms(probed.exit),
                "tools": probed.tools, "bytes": probed.bytes,
            }))
        }
        Err(fault) => Finding::new("stdio", Verdict::Bad, fault),
    }
}
