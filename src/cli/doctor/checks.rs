//! The single checks. None of them changes anything: a store that is not there yet is not made.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::json;
use tokio::{process::Command, time::timeout};

use super::{
    Finding, Itself, Verdict,
    probe::{Launch, probe},
};
use crate::{
    compose::Local,
    config::{Config, DatabaseUrl},
    engine::{Patterns as _, Workspace, llm::Fallback, steps::sql::SourceSpec, tokens},
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
    let mut findings = vec![workspace(&local), store(config, &local).await];
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
    let DatabaseUrl::Sqlite(path) = &config.database;
    if !path.exists() {
        return absent_store(path);
    }
    let now = jiff::Timestamp::now();
    match timeout(PATIENCE, local.store.stats(&local.scope(), now)).await {
        Ok(Ok(stats)) => Finding::new(
            "store",
            Verdict::Good,
            format!("{}; memories of this project: {}, superseded: {}", config.database, stats.memories, stats.superseded),
        )
        .with(json!({"url": config.database.to_string(), "memories": stats.memories, "superseded": stats.superseded})),
        Ok(Err(error)) => Finding::new("store", Verdict::Bad, error.to_string()),
        Err(_) => Finding::new("store", Verdict::Bad, format!("no answer within {} s", PATIENCE.as_secs())),
    }
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
