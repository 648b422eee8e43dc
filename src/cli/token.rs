//! `tmws token`: the tokens of a shared server by hand.

use std::{ffi::OsString, path::Path};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Failure, Output, arguments::TokenCommand, output};
use crate::{
    access::{
        EditError, NewToken, Projects, TokenEntry, TokensError, add_token, parse_expires, read_tokens,
        revoke_tokens,
    },
    config::{Config, parse_duration},
    exit::Exit,
    serve::projects,
};

/// Runs one command on the file that `config` names. `agent` is what `--agent` says.
///
/// # Errors
/// The failure, with exit code.
pub(super) fn run(
    command: TokenCommand,
    agent: Option<OsString>,
    config: &Config,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let file = config.tokens_file.as_deref().ok_or_else(|| {
        Failure::new(Exit::Config, "find the tokens", "no tokens file is set").with_hint(
            "set `tokens_file` in tmws.toml, TMWS_TOKENS_FILE or --tokens-file, for `tmws serve`, too; without \
             one it has a single token, that of its first start",
        )
    })?;
    let projects = projects(config, None);
    let now = Timestamp::now();
    match command {
        TokenCommand::New { principal, project, scope, expires } => {
            let action = "make a token";
            let agent = agent
                .map(|agent| agent.into_string().map_err(|_| usage(action, "the agent is not UTF-8")))
                .transpose()?;
            let expires =
                expires.map(|text| expiry(&text, now)).transpose().map_err(|fault| usage(action, fault))?;
            if let Some(expires) = expires.filter(|expires| *expires <= now) {
                return Err(usage(action, format!("`expires` {expires} is over already")));
            }
            let new = NewToken { principal, agent, projects: project, scopes: scope, expires };
            add(file, &new, &projects, output)
        }
        TokenCommand::List => list(file, &projects, now, output),
        TokenCommand::Revoke { which } => revoke(file, &which, &projects, now, output),
    }
}

fn add(file: &Path, new: &NewToken, projects: &Projects, output: &mut Output) -> Result<Exit, Failure> {
    let (token, entry) = add_token(file, new, projects).map_err(|error| of_edit("make a token", &error))?;
    tell_doubts(file, projects);
    if output.is_json() {
        let mut value = as_json(&entry);
        value["token"] = token.into();
        value["file"] = file.display().to_string().into();
        output.json(&value)?;
        return Ok(Exit::Ok);
    }
    output.line(&token)?;
    output::tell(&format!(
        "{} is let in with it ({}; {}); its hash was added to {}. It is not shown again.",
        entry.principal,
        entry.grants,
        entry.rights,
        file.display()
    ));
    Ok(Exit::Ok)
}

/// What the file's last token may not mean as it stands: a server would only log it.
fn tell_doubts(file: &Path, projects: &Projects) {
    let Ok(tokens) = read_tokens(file, projects) else { return };
    let Some((line, _)) = tokens.entries.last() else { return };
    for doubt in tokens.warnings.iter().filter(|doubt| doubt.line >= *line) {
        output::tell(&format!("tmws: {}:{}: {}", file.display(), doubt.line, doubt.message));
    }
}

fn list(file: &Path, projects: &Projects, now: Timestamp, output: &mut Output) -> Result<Exit, Failure> {
    let tokens = read_tokens(file, projects).map_err(|error| of_tokens("list the tokens", &error))?;
    show(tokens.entries.iter().map(|(_, entry)| entry), now, output)
}

fn revoke(
    file: &Path,
    which: &str,
    projects: &Projects,
    now: Timestamp,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let gone = revoke_tokens(file, which, projects).map_err(|error| of_edit("withdraw a token", &error))?;
    show(gone.iter(), now, output)
}

fn show<'a>(
    entries: impl Iterator<Item = &'a TokenEntry>,
    now: Timestamp,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if output.is_json() {
        output.json(&entries.map(as_json).collect())?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<[String; 6]> = entries
        .map(|entry| {
            let until = match entry.expires {
                Some(at) if entry.is_expired(now) => format!("over since {at}"),
                Some(at) => format!("until {at}"),
                None => String::new(),
            };
            [
                entry.short_hash(),
                entry.principal.to_string(),
                entry.agent.as_deref().unwrap_or("any agent").to_owned(),
                entry.grants.to_string(),
                entry.rights.to_string(),
                until,
            ]
        })
        .collect();
    output.table(&rows)?;
    Ok(Exit::Ok)
}

fn as_json(entry: &TokenEntry) -> Value {
    let projects: serde_json::Map<String, Value> =
        entry.grants.each().map(|(name, level)| (name.to_owned(), level.as_str().into())).collect();
    json!({
        "hash": entry.short_hash(), "principal": entry.principal, "agent": entry.agent,
        "projects": projects, "scopes": entry.rights.names().collect::<Vec<_>>(),
        "expires": entry.expires.map(|at| at.to_string()),
    })
}

/// A time, or how long from `now`.
fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    match parse_duration(text) {
        Ok(duration) => SignedDuration::try_from(duration)
            .ok()
            .and_then(|duration| now.checked_add(duration).ok())
            .and_then(|at| Timestamp::from_second(at.as_second()).ok())
            .ok_or_else(|| "`expires` is too far away".to_owned()),
        Err(_) => parse_expires(text),
    }
}

fn usage(action: &str, cause: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, action, cause)
}

fn of_edit(action: &str, error: &EditError) -> Failure {
    match error {
        EditError::Tokens(error) => of_tokens(action, error),
        EditError::Refused(_) => usage(action, error.to_string()),
        EditError::Io { .. } | EditError::Form { .. } => {
            Failure::new(Exit::Failed, action, error.to_string())
        }
    }
}

fn of_tokens(action: &str, error: &TokensError) -> Failure {
    Failure::new(Exit::Config, action, error.to_string())
}
