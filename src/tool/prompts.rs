//! Prompts: every pattern that declares one and that the caller may run. Getting one runs the pattern and hands its answer over as one
//! message of the user.

use rmcp::model::{GetPromptResult, Prompt, PromptArgument, PromptMessage, Role};
use serde_json::{Map, Value};

use super::{Context, TmwsService, reply, resources, service::Stopped};
use crate::{
    engine::{Caller, EngineError, ErrorKind, ExecuteRequest, Target},
    nearest,
    pattern::{Mode, Pattern, PromptSpec},
    protocol::{Call, CallError, Reply},
};

/// The prompts in the order of their names.
pub(super) async fn list(service: &TmwsService, context: &Context) -> Reply {
    let patterns = match service.runnable(&context.scope).await {
        Ok(patterns) => patterns,
        Err(error) => return resources::internal(&error),
    };
    let prompts = patterns.iter().filter_map(|pattern| Some(describe(pattern, pattern.prompt.as_ref()?)));
    Reply::List(prompts.map(|prompt| reply::to_value(&prompt)).collect())
}

fn describe(pattern: &Pattern, spec: &PromptSpec) -> Prompt {
    let arguments = spec.arguments.iter().map(|name| {
        let argument = PromptArgument::new(name.as_str()).with_required(is_required(pattern, name));
        match property(pattern, name).and_then(|property| property.get("description")).and_then(Value::as_str)
        {
            Some(description) => argument.with_description(description),
            None => argument,
        }
    });
    Prompt::new(pattern.name.as_str(), Some(&*pattern.told()), Some(arguments.collect()))
        .with_title(spec.title.as_str())
}

/// Runs the prompt's pattern.
pub(super) async fn get(service: &TmwsService, call: &Call, context: &Context) -> Reply {
    match message(service, call, context).await {
        Ok(reply) | Err(Refused::Asking(reply)) => reply,
        Err(Refused::Caller(message)) => Reply::Error(CallError::InvalidParams(message)),
        Err(Refused::Engine(error)) => match error.kind {
            ErrorKind::Internal | ErrorKind::PatternFault | ErrorKind::StoreUnavailable => {
                resources::internal(&error)
            }
            // The caller can act on all others, and a prompt has no `isError` to say it with.
            _ => Reply::Error(CallError::InvalidParams(format!("{} ({})", error.message, error.kind.code()))),
        },
    }
}

async fn message(service: &TmwsService, call: &Call, context: &Context) -> Result<Reply, Refused> {
    let name = call.params().get("name").and_then(Value::as_str).unwrap_or_default();
    let patterns = service.shelf.readable().await?;
    let prompts = || patterns.iter().filter_map(|pattern| Some((pattern, pattern.prompt.as_ref()?)));
    // One that the caller may not run is refused below with what is missing, but no hint names it.
    let (pattern, spec) = prompts().find(|(pattern, _)| pattern.name == name).ok_or_else(|| {
        let allowed = service.engine.allowed(&context.scope, Caller::Model);
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        let runnable = prompts().filter(|(pattern, _)| allowed.admits(pattern));
        let hint = nearest::hint(name, runnable.map(|(pattern, _)| pattern.name.as_str()));
        Refused::Caller(format!("unknown prompt `{shown}`{hint}"))
    })?;
    let given = call.params().get("arguments").and_then(Value::as_object);
    let request = ExecuteRequest {
        target: Target::Pattern(pattern.name.clone()),
        input: inputs(pattern, spec, given)?,
        mode: Mode::Balanced,
        session: None,
        unless: None,
        fresh: false,
        caller: Caller::Model,
    };
    let execution = service.execute(request, call, context).await?;
    let text = format!("{} (answered by the pattern {}):\n{}", spec.title, pattern.name, execution.text);
    let result = GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)])
        .with_description(pattern.description.as_str());
    let mut result = reply::to_map(&result);
    result.insert("_meta".to_owned(), Value::Object(reply::meta(&execution.receipt, &context.scope)));
    Ok(Reply::Result(result))
}

/// The pattern's inputs from a prompt's arguments, which are strings.
fn inputs(
    pattern: &Pattern,
    spec: &PromptSpec,
    given: Option<&Map<String, Value>>,
) -> Result<Map<String, Value>, Refused> {
    let mut inputs = Map::new();
    for (name, value) in given.into_iter().flatten() {
        if !spec.arguments.contains(name) {
            let hint = nearest::hint(name, spec.arguments.iter().map(String::as_str));
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(Refused::Caller(format!("unknown argument `{shown}`{hint}")));
        }
        // Hosts send an empty text for what the user left out.
        match value.as_str() {
            Some("") | None => {}
            Some(text) => {
                inputs.insert(name.clone(), typed(property(pattern, name), text));
            }
        }
    }
    for name in &spec.arguments {
        if is_required(pattern, name) && !inputs.contains_key(name) {
            return Err(Refused::Caller(format!("missing required argument `{name}`")));
        }
    }
    Ok(inputs)
}

/// `text` as the type that `property` wants, where it can be read as such; else as it is, for the engine to refuse.
fn typed(property: Option<&Value>, text: &str) -> Value {
    match property.and_then(|property| property.get("type")).and_then(Value::as_str) {
        Some("string") | None => text.into(),
        Some(_) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

/// The schema of input `name`.
pub(super) fn property<'a>(pattern: &'a Pattern, name: &str) -> Option<&'a Value> {
    pattern.inputs.get("properties")?.get(name)
}

fn is_required(pattern: &Pattern, name: &str) -> bool {
    let required = pattern.inputs.get("required").and_then(Value::as_array);
    let listed = required.is_some_and(|names| names.iter().any(|listed| listed == name));
    listed && property(pattern, name).is_none_or(|property| property.get("default").is_none())
}

enum Refused {
    /// The request is wrong.
    Caller(String),
    /// The run failed.
    Engine(EngineError),
    /// The client is to be asked first.
    Asking(Reply),
}

impl From<Stopped> for Refused {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Failed(error) => Self::Engine(error),
            Stopped::Asking(reply) => Self::Asking(reply),
        }
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
