//! Who a shared server here would let in, and how.

use jiff::Timestamp;
use serde_json::json;

use super::{Finding, Verdict};
use crate::{
    access::{TokenSource, local_token, read_tokens},
    compose::{Local, unusable_roots},
    config::Config,
    engine::steps::mcp::ServerSetting,
    serve::{projects, token_source},
    transport::tls_acceptor,
};

const SUBJECT: &str = "serve";

/// What `tmws serve` would do; nothing is made, and no token is told.
pub(super) fn door(config: &Config) -> Finding {
    let loopback = config.listen.ip().to_canonical().is_loopback();
    if let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key)
        && let Err(error) = tls_acceptor(certificate, key)
    {
        return Finding::new(SUBJECT, Verdict::Bad, error.to_string());
    }
    let finding = match token_source(config) {
        Err(error) => return Finding::new(SUBJECT, Verdict::Warning, error.to_string()),
        Ok(None) if loopback => {
            Finding::new(SUBJECT, Verdict::Warning, "everybody on this machine is let in (no_auth)")
        }
        Ok(None) => Finding::new(
            SUBJECT,
            Verdict::Bad,
            format!("no_auth is refused on {}: it is no loopback address", config.listen),
        ),
        Ok(Some(source)) => tokens(config, &source),
    };
    if finding.verdict == Verdict::Good && !loopback && config.tls_cert.is_none() {
        let detail = format!("{}; {} is reached without TLS", finding.detail, config.listen);
        return Finding::new(SUBJECT, Verdict::Warning, detail).with(finding.data);
    }
    finding
}

/// Whether the projects that the configuration names are where it says; nothing where it names none.
pub(super) fn projects_with_roots(config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "projects";
    let faults: Vec<String> =
        unusable_roots(config).map(|(project, reason)| format!("{project}: {reason}")).collect();
    match (config.projects.len(), faults.is_empty()) {
        (0, _) => None,
        (count, true) => Some(Finding::new(SUBJECT, Verdict::Good, format!("{count} for `serve`"))),
        (_, false) => Some(Finding::new(SUBJECT, Verdict::Warning, faults.join("; "))),
    }
}

/// The other MCP servers, as configured; nothing is started. Nothing where there are none.
pub(super) fn servers(config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "servers";
    if config.servers.is_empty() {
        return None;
    }
    let pinned: usize = config.servers.iter().map(|(_, server)| server.tools.len()).sum();
    let detail =
        format!("{} configured, {pinned} tools pinned; `tmws tools` asks them", config.servers.len());
    let named = |what: fn(&ServerSetting) -> bool| -> Vec<&str> {
        config.servers.iter().filter(|(_, server)| what(server)).map(|(name, _)| name.as_str()).collect()
    };
    let mut notes = Vec::new();
    let unpinned = named(|server| server.tools.is_empty());
    if !unpinned.is_empty() {
        notes.push(format!("nothing of {} can be called: no tool is pinned", unpinned.join(", ")));
    }
    let private = named(|server| server.projects.is_none());
    if !private.is_empty() {
        notes.push(format!(
            "under `serve` no project may call {} (`projects` is not set)",
            private.join(", ")
        ));
    }
    let data =
        json!({"servers": config.servers.len(), "pinned": pinned, "unpinned": unpinned, "private": private});
    let verdict = if unpinned.is_empty() { Verdict::Good } else { Verdict::Warning };
    notes.insert(0, detail);
    Some(Finding::new(SUBJECT, verdict, notes.join("; ")).with(data))
}

fn tokens(config: &Config, source: &TokenSource) -> Finding {
    let place = source.path();
    let place = place.display();
    match source {
        TokenSource::Local { data_folder, .. } => match local_token(data_folder) {
            Ok(Some(_)) => Finding::new(SUBJECT, Verdict::Good, format!("clients need the token in {place}")),
            Ok(None) => Finding::new(
                SUBJECT,
                Verdict::Good,
                format!("the first `tmws serve` makes a token in {place}"),
            ),
            Err(error) => Finding::new(SUBJECT, Verdict::Bad, error.to_string()),
        },
        TokenSource::File(file) => {
            let local = Local::new(config);
            match read_tokens(file, &projects(config, Some(local.project()))) {
                Ok(tokens) => {
                    let now = Timestamp::now();
                    let count = tokens.entries.len();
                    let over = tokens.entries.iter().filter(|(_, entry)| entry.is_expired(now)).count();
                    let plural = if count == 1 { "" } else { "s" };
                    let told = format!("{count} token{plural} in {place}");
                    let mut doubts: Vec<String> = tokens
                        .warnings
                        .iter()
                        .map(|warning| format!("{place}:{}: {}", warning.line, warning.message))
                        .collect();
                    if over > 0 {
                        doubts.push(format!("{over} of them over"));
                    }
                    let data = json!({"tokens": count, "expired": over});
                    if doubts.is_empty() {
                        Finding::new(SUBJECT, Verdict::Good, told).with(data)
                    } else {
                        Finding::new(SUBJECT, Verdict::Warning, format!("{told}; {}", doubts.join("; ")))
                            .with(data)
                    }
                }
                Err(error) => Finding::new(SUBJECT, Verdict::Bad, error.to_string()),
            }
        }
    }
}
