//! `tmws schema`: what the binary validates against.

use serde_json::Value;

use super::{Failure, Output, arguments, version};
use crate::{exit::Exit, pattern::loader::PATTERN_SCHEMA, transcript::TRANSCRIPT_SCHEMA};

/// One schema in this binary.
pub(super) struct Document {
    /// As `tmws schema list` prints it.
    pub(super) name: String,
    /// JSON.
    pub(super) text: String,
}

/// Every schema there is, by kind and then by name.
pub(super) fn documents() -> Vec<Document> {
    let mut documents = vec![
        Document { name: "config/v1".to_owned(), text: version::CONFIG_SCHEMA.to_owned() },
        Document { name: "dialect/v1".to_owned(), text: crate::schema::dialect::DIALECT_SCHEMA.to_owned() },
        Document { name: "pattern/v1".to_owned(), text: PATTERN_SCHEMA.to_owned() },
        Document { name: "transcript/v1".to_owned(), text: TRANSCRIPT_SCHEMA.to_owned() },
    ];
    documents.extend(crate::tool::SCHEMAS.iter().map(|(tool, version, direction, text)| Document {
        name: format!("tool/{tool}/{version}.{direction}"),
        text: (*text).to_owned(),
    }));
    documents.extend(crate::schema::documents().iter().map(|document| Document {
        name: format!("mcp/{}/{}", document.revision, document.group),
        text: document.text.to_owned(),
    }));
    documents
}

/// The single definitions of the MCP schemas, as `mcp/2025-06-18/tools#CallRequest`.
fn definitions() -> impl Iterator<Item = Document> {
    crate::schema::definitions().map(|definition| Document {
        name: definition.id.trim_start_matches("tmws:/").replace(".json#/$defs/", "#"),
        text: definition.text,
    })
}

/// Runs one schema command.
///
/// # Errors
/// The failure, with exit code.
pub(super) fn run(command: &arguments::Schema, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        arguments::Schema::List => {
            let documents = documents();
            if output.is_json() {
                let names: Vec<&str> = documents.iter().map(|document| document.name.as_str()).collect();
                output.json(&names.into())?;
            } else {
                for document in &documents {
                    output.line(&document.name)?;
                }
            }
        }
        arguments::Schema::Show { name } => {
            let document = find(name)?;
            let value: Value = serde_json::from_str(&document.text).map_err(|error| {
                Failure::new(Exit::Software, format!("show {}", document.name), error.to_string())
            })?;
            if output.is_json() { output.json(&value)? } else { output.pretty(&value)? }
        }
    }
    Ok(Exit::Ok)
}

/// The document named by `words`, else the only one whose name holds all of them, else the only such definition.
fn find(words: &[String]) -> Result<Document, Failure> {
    let name = words.join(" ");
    let mut candidates = Vec::new();
    for document in documents().into_iter().chain(definitions()) {
        if document.name == name {
            return Ok(document);
        }
        candidates.push(document);
    }
    let holds = |document: &Document| words.iter().all(|word| document.name.contains(word.as_str()));
    let documents_end = documents().len();
    let (whole, single) = candidates.split_at(documents_end);
    let exactly = single.iter().filter(|document| {
        let (path, definition) = document.name.split_once('#').unwrap_or_default();
        words.iter().all(|word| definition == word || path.contains(word.as_str()))
            && words.iter().any(|word| definition == word)
    });
    let mut found: Vec<&Document> = whole.iter().filter(|document| holds(document)).collect();
    if found.is_empty() {
        found = exactly.collect();
    }
    if found.is_empty() {
        found = single.iter().filter(|document| holds(document)).collect();
    }
    let refuse = |cause: String| {
        Failure::new(Exit::Usage, "show a schema", cause)
            .with_hint("`tmws schema list` prints all names; for one message add its definition, as in `2025-06-18 CallRequest`")
    };
    match found.as_slice() {
        [only] => Ok(Document { name: only.name.clone(), text: only.text.clone() }),
        [] => Err(refuse(format!(
            "there is no schema `{name}`{}",
            crate::nearest::hint(&name, whole.iter().map(|document| document.name.as_str()))
        ))),
        [first, second, ..] => Err(refuse(format!(
            "`{name}` fits {} schemas, among them {} and {}",
            found.len(),
            first.name,
            second.name
        ))),
    }
}
