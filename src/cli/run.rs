//! `tmws run`: the main job without a host.

use std::{
    future::Future,
    io::{self, Read as _},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, Output, arguments, asking::TerminalAsker, output, pattern};
use crate::{
    compose::Local,
    engine::{
        Caller, Candidate, EngineError, ExecuteRequest, Execution, Outcome, Surroundings, Target, Unobserved,
    },
    exit::Exit,
    pattern::Pattern,
    tool::receipt_meta,
};

/// Largest JSON of inputs, in bytes.
const INPUT_BYTES_MAX: u64 = 4 << 20;

/// Runs one pattern, effectful ones too, as the local user.
///
/// # Errors
/// The failure, with exit code.
pub(super) async fn run(
    arguments: arguments::Run,
    local: &Local,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let action = format!("run {}", clip(&arguments.target));
    local.shelf.ready().await.map_err(|error| Failure::of_engine(action.clone(), &error))?;
    let target = if arguments.query || arguments.target.contains(char::is_whitespace) {
        Target::Query(arguments.target.clone())
    } else {
        Target::Pattern(arguments.target.clone())
    };
    let named = match &target {
        Target::Pattern(name) => Some(
            local
                .engine
                .named(name, &local.allowed())
                .map_err(|error| unknown(&action, &error, name, local))?,
        ),
        Target::Query(_) => None,
    };
    let request = ExecuteRequest {
        target,
        input: inputs(&arguments, named.as_deref())?,
        mode: arguments.mode.into(),
        session: arguments.session,
        unless: arguments.unless,
        fresh: arguments.fresh,
        caller: Caller::Trusted,
    };
    let deadline = Instant::now() + longest(named.as_deref(), local);
    let cancel = CancellationToken::new();
    let around = Surroundings {
        observer: &Unobserved,
        asker: Arc::new(TerminalAsker::default()),
        cancel: cancel.clone(),
        deadline,
        task_deadline: None,
    };
    let scope = local.scope();
    let running = local.engine.execute(&scope, request, around);
    match ending_with_signals(running, &cancel)
        .await
        .map_err(|error| Failure::of_io(action.clone(), &error))?
    {
        Ok(execution) => {
            if let (Some(pattern), Some(note)) = (&execution.receipt.pattern, &execution.receipt.deprecated) {
                super::output::tell(&format!("{pattern} is {note}"));
            }
            for asked in execution.receipt.llm.iter().filter(|asked| asked.outcome != "ok") {
                let model = asked.model.as_deref().unwrap_or("the language model");
                super::output::tell(&format!(
                    "{model} gave no answer ({}); with TMWS_LOG=debug the log has why",
                    asked.outcome
                ));
            }
            show(&execution, output)
        }
        Err(error) => {
            if output.is_json() {
                output.json(&error_json(&error))?;
            }
            Err(Failure::of_engine(action, &error))
        }
    }
}

/// Awaits a run; an interrupt cancels it instead of leaving its programs behind.
async fn ending_with_signals<T>(
    running: impl Future<Output = T>,
    cancel: &CancellationToken,
) -> io::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut running = std::pin::pin!(running);
    tokio::select! {
        ended = &mut running => return Ok(ended),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel();
    Ok(running.await)
}

/// A person may wait longer than a host, for as long as the pattern itself allows: unless the limit was set.
fn longest(pattern: Option<&Pattern>, local: &Local) -> Duration {
    match pattern {
        Some(pattern) if !local.call_deadline_is_set => pattern.limits.timeout.max(local.call_deadline),
        Some(_) | None => local.call_deadline,
    }
}

fn unknown(action: &str, error: &EngineError, name: &str, local: &Local) -> Failure {
    let hint = pattern::hint_for(name, local);
    Failure::of_engine(action, error).with_hint(format!("{hint}; a question of one word needs --query"))
}

/// The inputs: `--input` first, then each `--set` on top, read as the pattern's schema wants it.
fn inputs(arguments: &arguments::Run, pattern: Option<&Pattern>) -> Result<Map<String, Value>, Failure> {
    let mut inputs = match arguments.input.as_deref() {
        None => Map::new(),
        Some("-") => {
            let mut text = String::new();
            io::stdin()
                .lock()
                .take(INPUT_BYTES_MAX)
                .read_to_string(&mut text)
                .map_err(|error| Failure::of_io("read inputs from stdin", &error))?;
            object(&text)?
        }
        Some(text) => object(text)?,
    };
    for pair in &arguments.set {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Failure::new(Exit::Usage, "read the command line", "`--set` takes KEY=VALUE")
                .with_hint("for instance `--set since=14d`")
        })?;
        let schema = pattern.and_then(|pattern| pattern.inputs.get("properties")?.get(key));
        inputs.insert(key.to_owned(), typed(schema, value));
    }
    Ok(inputs)
}

fn object(text: &str) -> Result<Map<String, Value>, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::new(Exit::Usage, "read the inputs", format!("not a JSON object: {error}"))
            .with_hint("for instance `--input '{\"since\": \"14d\"}'`")
    })
}

/// `text` as the input's type: text where the schema wants text, lists split at commas where it wants a list of text,
/// JSON where it is some; else text.
fn typed(schema: Option<&Value>, text: &str) -> Value {
    match schema.and_then(|schema| schema.get("type")).and_then(Value::as_str) {
        Some("string") => text.into(),
        Some("array") if !text.trim_start().starts_with('[') => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect::<Vec<_>>().into()
        }
        _ => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

fn show(execution: &Execution, output: &mut Output) -> Result<Exit, Failure> {
    let receipt = receipt_meta(&execution.receipt);
    match &execution.outcome {
        Outcome::Output { value, .. } => {
            if output.is_json() {
                output.json(&json!({"outcome": "output", "output": **value, "receipt": receipt}))?;
            } else {
                output.pretty(value)?;
            }
            Ok(Exit::Ok)
        }
        Outcome::Unchanged { etag } => {
            if output.is_json() {
                output.json(&json!({"outcome": "unchanged", "etag": etag, "receipt": receipt}))?;
            } else {
                output.line("unchanged")?;
            }
            Ok(Exit::Ok)
        }
        Outcome::Suspended => {
            Err(Failure::new(Exit::Failed, "run a pattern", "it waits for answers that nobody gives"))
        }
        Outcome::Candidates { candidates } => {
            if output.is_json() {
                let candidates: Vec<Value> = candidates.iter().map(candidate_json).collect();
                output
                    .json(&json!({"outcome": "candidates", "candidates": candidates, "receipt": receipt}))?;
            } else {
                output.line(if candidates.is_empty() {
                    "no pattern fits this question"
                } else {
                    "no pattern fits this question alone; the nearest are:"
                })?;
                let rows: Vec<[String; 3]> = candidates
                    .iter()
                    .map(|candidate| {
                        [candidate.name.clone(), inputs_line(candidate), candidate.description.clone()]
                    })
                    .collect();
                output.table(&rows)?;
            }
            output::tell("hint: name one, as in `tmws run NAME --set KEY=VALUE`");
            Ok(Exit::Failed)
        }
    }
}

fn candidate_json(candidate: &Candidate) -> Value {
    json!({
        "name": candidate.name, "description": candidate.description,
        "inputs": candidate.inputs, "missing": candidate.missing,
    })
}

fn inputs_line(candidate: &Candidate) -> String {
    let mark =
        |name: &String| if candidate.missing.contains(name) { format!("{name}*") } else { name.clone() };
    candidate.inputs.iter().map(mark).collect::<Vec<_>>().join(" ")
}

fn error_json(error: &EngineError) -> Value {
    let mut value = json!({"outcome": "error", "error": error.kind.code(), "message": error.message});
    if let Some(part) = &error.part {
        value["part"] = json!(part);
    }
    value
}

fn clip(text: &str) -> String {
    output::clean(text).chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_value_is_read_as_the_schema_wants() {
        for (schema, text, expected) in [
            (json!({"type": "string"}), "14", json!("14")),
            (json!({"type": "integer"}), "14", json!(14)),
            (json!({"type": "boolean"}), "true", json!(true)),
            (json!({"type": "array"}), "a, b", json!(["a", "b"])),
            (json!({"type": "array"}), "[1]", json!([1])),
            (json!({"type": "integer"}), "many", json!("many")),
        ] {
            assert_eq!(typed(Some(&schema), text), expected, "{text}");
        }
        assert_eq!(typed(None, "14d"), json!("14d"));
    }
}
