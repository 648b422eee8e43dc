//! Who a shared server here would let in, and how.

use jiff::Timestamp;
use serde_json::json;

use super::{Finding, Verdict};
use crate::{
    access::{TokenSource, local_token, read_tokens},
    compose::{Local, unusable_roots},
    config::Config,
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
