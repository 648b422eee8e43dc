//! `tmws record`: what was typed, made into rules; and the server's exit code.

use regex::Regex;

use super::{Failure, arguments, output};
use crate::{
    exit::Exit,
    record::{self, Options, ProxyError, RecordError, Rules},
    telemetry::{self, LogFormat},
};

/// Records until the conversation ends, then exits with the server's code.
///
/// # Errors
/// Why nothing was recorded.
pub(super) fn run(arguments: arguments::Record, filter: impl FnOnce() -> String) -> Result<Exit, Failure> {
    if let Some(parent) = arguments.parent {
        let error = record::become_server(parent, &arguments.command);
        let code = match &error {
            RecordError::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 127,
            RecordError::Start { .. } | RecordError::SetUp(_) => 126,
        };
        output::tell(&failure(&error).to_string());
        std::process::exit(code);
    }
    telemetry::start(&filter(), LogFormat::Text)
        .map_err(|error| Failure::new(Exit::Usage, "begin logging", error.to_string()))?;
    let options = Options {
        rules: rules(&arguments)?,
        out: arguments.out,
        folder: arguments.dir,
        client: arguments.client,
        client_version: arguments.client_version,
        variant: arguments.variant,
    };
    if let (Some(listen), Some(to)) = (&arguments.listen, &arguments.to) {
        return record::proxy(listen, to, options).map(|()| Exit::Ok).map_err(|error| match error {
            ProxyError::Io(_) => {
                Failure::new(Exit::Unavailable, format!("listen on {listen}"), error.to_string())
                    .with_hint("port 0 takes a free one")
            }
            _ => Failure::new(Exit::Usage, "read the command line", error.to_string()),
        });
    }
    let code = record::stdio(&arguments.command, options).map_err(|error| failure(&error))?;
    // The threads that pass bytes on may be waiting for some; there is nothing else to be torn down.
    std::process::exit(code.into())
}

fn rules(arguments: &arguments::Record) -> Result<Rules, Failure> {
    let usage = |cause: String| Failure::new(Exit::Usage, "read the command line", cause);
    let patterns = arguments
        .redact
        .iter()
        .map(|text| {
            // The parser's picture of the mistake has many lines; the last one says what it is.
            Regex::new(text).map_err(|error| {
                let error = error.to_string();
                let cause = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                usage(format!("`--redact {text}` is no expression: {cause}"))
            })
        })
        .collect::<Result<_, _>>()?;
    let replacements = arguments
        .replace
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((from, to)) if !from.is_empty() => Ok((from.to_owned(), to.to_owned())),
            _ => Err(usage("`--replace` takes TEXT=WITH".to_owned())
                .with_hint("for instance `--replace /home/ada/project=/project`")),
        })
        .collect::<Result<_, _>>()?;
    Ok(Rules { patterns, replacements })
}

fn failure(error: &RecordError) -> Failure {
    match error {
        RecordError::Start { .. } => Failure::new(Exit::Usage, "record", error.to_string())
            .with_hint("what comes after `--` is launched as it stands, without a shell"),
        RecordError::SetUp(_) => Failure::new(Exit::Software, "record", error.to_string()),
    }
}
