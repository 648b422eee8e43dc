//! Fitting: one newest vocabulary in, the vocabulary of each revision out.
//!
//! What a revision does not know is left out or told in its own words; nothing here can fail except an ask that an
//! older client has no words for. Where a revision needs nothing, nothing is walked.

use serde_json::{Map, Value, json};

use super::{Capabilities, meta, rules, tasks};
use crate::{
    revision::{Era, Revision},
    wire::Method,
};

/// A kind of object whose members differ between revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Tool,
    Prompt,
    PromptArgument,
    Resource,
    ResourceTemplate,
    Content,
    ResourceContents,
    Annotations,
    Implementation,
    Result,
    Sampling,
    SamplingMessage,
    Elicitation,
}

use Revision::{V2025_03_26 as B, V2025_06_18 as C, V2025_11_25 as D, V2026_07_28 as E};

/// Members that some revision lacks: subject, member, first and last revision that has it. What stands nowhere here
/// exists in all.
const FIELDS: &[(Subject, &str, Revision, Revision)] = &[
    (Subject::Tool, "annotations", B, E),
    (Subject::Tool, "title", C, E),
    (Subject::Tool, "outputSchema", C, E),
    (Subject::Tool, "_meta", C, E),
    (Subject::Tool, "icons", D, E),
    (Subject::Tool, "execution", D, D),
    (Subject::Prompt, "title", C, E),
    (Subject::Prompt, "_meta", C, E),
    (Subject::Prompt, "icons", D, E),
    (Subject::PromptArgument, "title", C, E),
    (Subject::Resource, "title", C, E),
    (Subject::Resource, "_meta", C, E),
    (Subject::Resource, "icons", D, E),
    (Subject::ResourceTemplate, "title", C, E),
    (Subject::ResourceTemplate, "_meta", C, E),
    (Subject::ResourceTemplate, "icons", D, E),
    (Subject::Content, "title", C, E),
    (Subject::Content, "_meta", C, E),
    (Subject::Content, "icons", D, E),
    (Subject::ResourceContents, "_meta", C, E),
    (Subject::Annotations, "lastModified", C, E),
    (Subject::Implementation, "title", C, E),
    (Subject::Implementation, "description", D, E),
    (Subject::Implementation, "websiteUrl", D, E),
    (Subject::Implementation, "icons", D, E),
    (Subject::Result, "structuredContent", C, E),
    (Subject::Result, "resultType", E, E),
    (Subject::Result, "ttlMs", E, E),
    (Subject::Result, "cacheScope", E, E),
    (Subject::Sampling, "tools", D, E),
    (Subject::Sampling, "toolChoice", D, E),
    (Subject::Sampling, "_meta", D, D),
    (Subject::Sampling, "task", D, D),
    (Subject::SamplingMessage, "_meta", D, E),
    (Subject::Elicitation, "mode", D, E),
    (Subject::Elicitation, "elicitationId", D, D),
    (Subject::Elicitation, "_meta", D, D),
    (Subject::Elicitation, "task", D, D),
];

/// First revision with audio content; before, audio travels as an embedded resource.
const AUDIO_SINCE: Revision = B;
/// First revision with resource links; before, a link is told as text.
const LINK_SINCE: Revision = C;
/// First revision where `structuredContent` and the root of `outputSchema` may be anything.
const STRUCTURED_ANY_SINCE: Revision = E;
/// First revision with boolean subschemas under `properties`.
const BOOLEAN_SCHEMA_SINCE: Revision = E;
/// First revision whose content needs no walk at all.
const CONTENT_AS_IS_SINCE: Revision = D;
/// Most values of one completion, in every revision.
const COMPLETION_VALUES_MAX: usize = 100;

/// Server capability keys: name, first and last revision that has it.
const CAPABILITIES: &[(&str, Revision, Revision)] = &[
    ("tools", Revision::V2024_11_05, E),
    ("prompts", Revision::V2024_11_05, E),
    ("resources", Revision::V2024_11_05, E),
    ("logging", Revision::V2024_11_05, E),
    ("experimental", Revision::V2024_11_05, E),
    ("completions", B, E),
    ("tasks", D, D),
    ("extensions", E, E),
];

fn strip(subject: Subject, revision: Revision, members: &mut Map<String, Value>) {
    for (of, field, first, last) in FIELDS {
        if *of == subject && (revision < *first || revision > *last) {
            members.shift_remove(*field);
        }
    }
}

/// The capabilities to advertise under `revision`.
pub(super) fn capabilities(revision: Revision, offered: &Capabilities) -> Map<String, Value> {
    let listing = |list_changed: bool| {
        if list_changed && rules::is_told_unasked(revision) {
            json!({"listChanged": true})
        } else {
            json!({})
        }
    };
    let mut all = Map::new();
    for (name, first, last) in CAPABILITIES {
        if revision < *first || revision > *last {
            continue;
        }
        let settings = match *name {
            "tools" => offered.tools.map(listing),
            "prompts" => offered.prompts.map(listing),
            "resources" => offered.resources.map(|resources| {
                let mut settings = listing(resources.list_changed);
                if resources.subscribe {
                    settings["subscribe"] = json!(true);
                }
                settings
            }),
            "logging" => offered.logging.then(|| json!({})),
            "completions" => offered.completions.then(|| json!({})),
            "tasks" => {
                offered.tasks.then(|| json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}))
            }
            "extensions" => {
                let mut extensions = offered.extensions.clone();
                if offered.tasks {
                    extensions.entry(tasks::EXTENSION).or_insert_with(|| json!({}));
                }
                some_object(&extensions)
            }
            "experimental" => some_object(&offered.experimental),
            _ => None,
        };
        if let Some(settings) = settings {
            all.insert((*name).to_owned(), settings);
        }
    }
    all
}

fn some_object(members: &Map<String, Value>) -> Option<Value> {
    (!members.is_empty()).then(|| Value::Object(members.clone()))
}

/// An `Implementation` as `revision` knows it.
pub(super) fn implementation(revision: Revision, newest: &Map<String, Value>) -> Map<String, Value> {
    let mut members = newest.clone();
    strip(Subject::Implementation, revision, &mut members);
    members
}

/// Fits one item of a list.
pub(super) fn item(revision: Revision, method: Method, item: &mut Value) {
    let Value::Object(members) = item else { return };
    let subject = match method {
        Method::ToolsList => Subject::Tool,
        Method::PromptsList => Subject::Prompt,
        // Made for the one revision that has them.
        Method::TasksList => return,
        Method::ResourcesTemplatesList => Subject::ResourceTemplate,
        _ => Subject::Resource,
    };
    strip(subject, revision, members);
    match subject {
        Subject::Tool => {
            if revision < BOOLEAN_SCHEMA_SINCE {
                for key in ["inputSchema", "outputSchema"] {
                    if let Some(schema) = members.get_mut(key) {
                        objects_for_boolean_schemas(schema);
                    }
                }
            }
            if revision < STRUCTURED_ANY_SINCE
                && members
                    .get("outputSchema")
                    .is_some_and(|schema| schema.get("type") != Some(&json!("object")))
            {
                members.shift_remove("outputSchema");
            }
        }
        Subject::Prompt => {
            if let Some(Value::Array(arguments)) = members.get_mut("arguments") {
                for argument in arguments.iter_mut().filter_map(Value::as_object_mut) {
                    strip(Subject::PromptArgument, revision, argument);
                }
            }
        }
        _ => annotations(revision, members),
    }
}

/// Fits the result of `tools/call`, `prompts/get`, `resources/read` or `completion/complete`.
pub(super) fn result(revision: Revision, method: Method, result: &mut Map<String, Value>) {
    match revision.era() {
        Era::Modern => {}
        Era::Legacy => {
            strip(Subject::Result, revision, result);
            if let Some(Value::Object(meta)) = result.get_mut("_meta") {
                meta.shift_remove(meta::SERVER_INFO);
            }
            if revision < STRUCTURED_ANY_SINCE
                && result.get("structuredContent").is_some_and(|content| !content.is_object())
            {
                result.shift_remove("structuredContent");
            }
        }
    }
    if method == Method::CompletionComplete {
        completion(result);
    }
    if revision >= CONTENT_AS_IS_SINCE {
        return;
    }
    if let Some(Value::Array(blocks)) = result.get_mut("content") {
        for block in blocks {
            content(revision, block);
        }
    }
    if let Some(Value::Array(messages)) = result.get_mut("messages") {
        messages
            .iter_mut()
            .filter_map(|message| message.get_mut("content"))
            .for_each(|block| content(revision, block));
    }
    if let Some(Value::Array(contents)) = result.get_mut("contents") {
        for contents in contents.iter_mut().filter_map(Value::as_object_mut) {
            strip(Subject::ResourceContents, revision, contents);
        }
    }
}

/// Every revision caps completions at 100 values; what is cut off is announced.
fn completion(result: &mut Map<String, Value>) {
    let Some(Value::Object(completion)) = result.get_mut("completion") else { return };
    let Some(Value::Array(values)) = completion.get_mut("values") else { return };
    if values.len() > COMPLETION_VALUES_MAX {
        let total = values.len();
        values.truncate(COMPLETION_VALUES_MAX);
        completion.entry("total").or_insert_with(|| json!(total));
        completion.insert("hasMore".to_owned(), json!(true));
    }
}

/// Fits one content block.
fn content(revision: Revision, block: &mut Value) {
    let Value::Object(members) = block else { return };
    match members.get("type").and_then(Value::as_str) {
        Some("audio") if revision < AUDIO_SINCE => {
            let mime_type =
                members.shift_remove("mimeType").unwrap_or_else(|| json!("application/octet-stream"));
            let data = members.shift_remove("data").unwrap_or_default();
            members.insert("type".to_owned(), json!("resource"));
            members.insert(
                "resource".to_owned(),
                json!({"uri": "attachment:audio", "mimeType": mime_type, "blob": data}),
            );
        }
        Some("resource_link") if revision < LINK_SINCE => {
            let text = link_text(members);
            members.retain(|key, _| matches!(key.as_str(), "annotations" | "type" | "_meta"));
            members.insert("type".to_owned(), json!("text"));
            members.insert("text".to_owned(), json!(text));
        }
        _ => {}
    }
    strip(Subject::Content, revision, members);
    annotations(revision, members);
    if let Some(Value::Object(contents)) = members.get_mut("resource") {
        strip(Subject::ResourceContents, revision, contents);
    }
}

/// `title (uri): description`, as far as there is one.
fn link_text(link: &Map<String, Value>) -> String {
    let member = |key: &str| link.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let uri = member("uri").unwrap_or_default();
    let mut text = match member("title").or_else(|| member("name")) {
        Some(name) => format!("{name} ({uri})"),
        None => uri.to_owned(),
    };
    if let Some(description) = member("description") {
        text.push_str(": ");
        text.push_str(description);
    }
    text
}

fn annotations(revision: Revision, members: &mut Map<String, Value>) {
    if let Some(Value::Object(annotations)) = members.get_mut("annotations") {
        strip(Subject::Annotations, revision, annotations);
        if annotations.is_empty() {
            members.shift_remove("annotations");
        }
    }
}

/// Rewrites `true` to `{}` and `false` to `{"not": {}}` under every `properties`: the schemas before 2026-07-28 want
/// objects there. Nothing else is touched; `additionalProperties: false` means the same everywhere.
fn objects_for_boolean_schemas(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for (key, member) in members.iter_mut() {
                // Instances, not schemas: whatever stands in them stays.
                if matches!(key.as_str(), "const" | "enum" | "default" | "examples") {
                    continue;
                }
                if key == "properties"
                    && let Value::Object(properties) = member
                {
                    for property in properties.values_mut() {
                        match property {
                            Value::Bool(true) => *property = json!({}),
                            Value::Bool(false) => *property = json!({"not": {}}),
                            _ => objects_for_boolean_schemas(property),
                        }
                    }
                } else {
                    objects_for_boolean_schemas(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(objects_for_boolean_schemas),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Fits the params of an ask, or says why a client of `revision` cannot be asked this.
pub(super) fn ask(
    revision: Revision,
    method: Method,
    params: &mut Map<String, Value>,
) -> Result<(), &'static str> {
    match method {
        Method::SamplingCreateMessage => {
            strip(Subject::Sampling, revision, params);
            if revision < CONTENT_AS_IS_SINCE {
                sampling_messages(revision, params)?;
            }
        }
        Method::ElicitationCreate => {
            let by_url = params.get("mode").and_then(Value::as_str) == Some("url");
            if by_url && revision < D {
                return Err("revisions before 2025-11-25 have no elicitation by URL");
            }
            strip(Subject::Elicitation, revision, params);
            if revision < D {
                form_schema(params)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Before 2025-11-25 a sampling message holds one block: a longer message becomes several of the same role.
fn sampling_messages(revision: Revision, params: &mut Map<String, Value>) -> Result<(), &'static str> {
    let Some(Value::Array(messages)) = params.get_mut("messages") else { return Ok(()) };
    let mut single = Vec::with_capacity(messages.len());
    for mut message in std::mem::take(messages) {
        if let Value::Object(members) = &mut message {
            strip(Subject::SamplingMessage, revision, members);
        }
        match message.get_mut("content").map(Value::take) {
            Some(Value::Array(blocks)) => {
                for block in blocks {
                    let mut copy = message.clone();
                    copy["content"] = block;
                    single.push(copy);
                }
            }
            Some(block) => {
                message["content"] = block;
                single.push(message);
            }
            None => single.push(message),
        }
    }
    for message in &mut single {
        let Some(block) = message.get_mut("content") else { continue };
        match block.get("type").and_then(Value::as_str) {
            Some("tool_use" | "tool_result") => {
                return Err("revisions before 2025-11-25 have no tools in sampling");
            }
            Some("audio") if revision < AUDIO_SINCE => {
                return Err("2024-11-05 has no audio in sampling");
            }
            _ => content(revision, block),
        }
    }
    *messages = single;
    Ok(())
}

/// 2025-06-18 knows an enumeration only as `enum` with `enumNames`, and no list of choices.
fn form_schema(params: &mut Map<String, Value>) -> Result<(), &'static str> {
    let Some(Value::Object(properties)) =
        params.get_mut("requestedSchema").and_then(|schema| schema.get_mut("properties"))
    else {
        return Ok(());
    };
    for property in properties.values_mut().filter_map(Value::as_object_mut) {
        if property.get("type").and_then(Value::as_str) == Some("array") {
            return Err("2025-06-18 has no form field for several choices");
        }
        if let Some(Value::Array(choices)) = property.shift_remove("oneOf") {
            let column = |key: &str| -> Vec<Value> {
                choices
                    .iter()
                    .map(|choice| {
                        choice.get(key).or_else(|| choice.get("const")).cloned().unwrap_or_default()
                    })
                    .collect()
            };
            property.insert("enum".to_owned(), column("const").into());
            property.insert("enumNames".to_owned(), column("title").into());
        }
        // Only a boolean field has a default in this revision.
        if property.get("type").and_then(Value::as_str) != Some("boolean") {
            property.shift_remove("default");
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
