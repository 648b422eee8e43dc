//! The schema documents, embedded in the binary: one per revision and group of messages, written for this project.

use std::{collections::HashMap, sync::OnceLock};

use serde_json::{Map, Value, json};

use super::errata;
use crate::revision::Revision;

/// One embedded schema document.
#[derive(Debug)]
pub struct Document {
    /// The revision it describes.
    pub revision: Revision,
    /// The group of messages, for instance `tools`.
    pub group: &'static str,
    /// The text as it is in the source tree.
    pub text: &'static str,
    parsed: OnceLock<Value>,
}

/// One named definition of a document, as `tmws schema` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionText {
    /// The whole identifier: `tmws:/mcp/2025-06-18/tools.json#/$defs/CallRequest`.
    pub id: String,
    /// One sentence: what it is. A definition that repeats an earlier one has its sentence.
    pub title: String,
    /// The revision it belongs to.
    pub revision: Revision,
    /// The definition itself, as indented JSON.
    pub text: String,
}

macro_rules! documents {
    ($($variant:ident $revision:literal [$($group:literal)*];)*) => {
        /// Every document: oldest revision first.
        static DOCUMENTS: [Document; [$($($group,)*)*].len()] = [$($(Document {
            revision: Revision::$variant,
            group: $group,
            text: include_str!(concat!("../../schemas/mcp/", $revision, "/", $group, ".json")),
            parsed: OnceLock::new(),
        },)*)*];
    };
}

documents! {
    V2024_11_05 "2024-11-05" ["common" "content" "lifecycle" "utilities" "logging" "tools" "prompts" "resources"
        "completion" "roots" "sampling" "errors"];
    V2025_03_26 "2025-03-26" ["common" "content" "lifecycle" "utilities" "logging" "tools" "prompts" "resources"
        "completion" "roots" "sampling" "errors"];
    V2025_06_18 "2025-06-18" ["common" "content" "lifecycle" "utilities" "logging" "tools" "prompts" "resources"
        "completion" "roots" "sampling" "elicitation" "errors"];
    V2025_11_25 "2025-11-25" ["common" "content" "lifecycle" "utilities" "logging" "tools" "prompts" "resources"
        "completion" "roots" "sampling" "elicitation" "tasks" "errors"];
    V2026_07_28 "2026-07-28" ["common" "content" "lifecycle" "utilities" "logging" "tools" "prompts" "resources"
        "completion" "roots" "sampling" "elicitation" "input" "subscriptions" "tasks" "errors"];
}

impl Document {
    /// The `$id`: `tmws:/mcp/2025-06-18/tools.json`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("tmws:/mcp/{}/{}.json", self.revision, self.group)
    }

    fn definitions(&self) -> &Map<String, Value> {
        let parsed = self.parsed.get_or_init(|| {
            let mut parsed = serde_json::from_str(self.text)
                .expect("every embedded document is parsed by a test of this module");
            errata::loosen(self.revision, self.group, &mut parsed);
            parsed
        });
        parsed
            .get("$defs")
            .and_then(Value::as_object)
            .expect("every embedded document has `$defs`, tested below")
    }
}

/// All embedded documents, oldest revision first.
#[must_use]
pub fn documents() -> &'static [Document] {
    &DOCUMENTS
}

/// All named definitions of all documents, in document order.
pub fn definitions() -> impl Iterator<Item = DefinitionText> {
    DOCUMENTS.iter().enumerate().flat_map(|(index, document)| {
        document.definitions().iter().map(move |(name, schema)| {
            let (end, end_name) = follow((index, name.clone()));
            let sentence = DOCUMENTS[end].definitions()[&end_name].get("description").and_then(Value::as_str);
            DefinitionText {
                id: format!("{}#/$defs/{name}", document.id()),
                title: sentence.unwrap_or_default().to_owned(),
                revision: document.revision,
                text: serde_json::to_string_pretty(schema).unwrap_or_default(),
            }
        })
    })
}

/// Where a definition stands: index into [`DOCUMENTS`] and name.
type Place = (usize, String);

fn document_index(revision: &str, group: &str) -> Option<usize> {
    DOCUMENTS.iter().position(|document| document.revision.as_str() == revision && document.group == group)
}

/// The place that `reference`, written in document `from`, points to. Three forms occur: `#/$defs/Name`,
/// `group.json#/$defs/Name` and `../<revision>/group.json#/$defs/Name`.
fn resolve(from: usize, reference: &str) -> Option<Place> {
    let (file, name) = reference.split_once("#/$defs/")?;
    let index = if file.is_empty() {
        from
    } else {
        let (revision, file) = match file.strip_prefix("../") {
            Some(rest) => rest.split_once('/')?,
            None => (DOCUMENTS[from].revision.as_str(), file),
        };
        document_index(revision, file.strip_suffix(".json")?)?
    };
    DOCUMENTS[index].definitions().contains_key(name).then(|| (index, name.to_owned()))
}

#[cfg(test)]
/// Whether the documents define `name` in `group` under `revision`.
pub(super) fn is_defined(revision: Revision, group: &str, name: &str) -> bool {
    document_index(revision.as_str(), group)
        .is_some_and(|index| DOCUMENTS[index].definitions().contains_key(name))
}

/// One self-contained schema for a definition: it and everything it refers to, nothing else.
///
/// References are rewritten to short local ones, chains of plain references are followed to their end, and what only
/// people read is left out, so that compiling stays cheap. `None` where there is no such definition.
pub(super) fn bundle(revision: Revision, group: &str, name: &str) -> Option<Value> {
    let root = document_index(revision.as_str(), group)?;
    if !DOCUMENTS[root].definitions().contains_key(name) {
        return None;
    }
    let mut bundle = Bundle::default();
    let root = bundle.number(follow((root, name.to_owned())));
    let mut parts = Map::new();
    let mut done = 0;
    while done < bundle.order.len() {
        let (document, name) = bundle.order[done].clone();
        let part = bundle.rewrite(document, &DOCUMENTS[document].definitions()[&name]);
        parts.insert(done.to_string(), part);
        done += 1;
    }
    debug_assert_eq!(root, 0, "the root is numbered first");
    let Some(Value::Object(mut schema)) = parts.remove("0") else { return None };
    schema.insert("$defs".to_owned(), Value::Object(parts));
    Some(Value::Object(schema))
}

/// The end of a chain of definitions that are nothing but a reference.
fn follow(mut place: Place) -> Place {
    loop {
        match &DOCUMENTS[place.0].definitions()[&place.1] {
            Value::Object(schema) if schema.len() == 1 => match schema.get("$ref").and_then(Value::as_str) {
                Some(reference) => {
                    place = resolve(place.0, reference).expect("every reference resolves, tested below");
                }
                None => return place,
            },
            _ => return place,
        }
    }
}

/// The definitions taken into one schema, in the order in which they were met.
#[derive(Default)]
struct Bundle {
    numbers: HashMap<Place, usize>,
    order: Vec<Place>,
}

impl Bundle {
    fn number(&mut self, place: Place) -> usize {
        let next = self.order.len();
        *self.numbers.entry(place.clone()).or_insert_with(|| {
            self.order.push(place);
            next
        })
    }

    fn rewrite(&mut self, document: usize, schema: &Value) -> Value {
        match schema {
            Value::Object(members) => {
                let mut out = Map::new();
                for (key, value) in members {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(reference)) => {
                            let place =
                                resolve(document, reference).expect("every reference resolves, tested below");
                            let place = follow(place);
                            let target = &DOCUMENTS[place.0].definitions()[&place.1];
                            if members.len() == 1 && is_leaf(target) {
                                return self.rewrite(place.0, target);
                            }
                            let number = self.number(place);
                            out.insert(key.clone(), json!(format!("#/$defs/{number}")));
                        }
                        // Annotations; a *property* of such a name has an object here and stays.
                        ("title" | "description" | "format" | "contentEncoding", Value::String(_)) => {}
                        _ => {
                            out.insert(key.clone(), self.rewrite(document, value));
                        }
                    }
                }
                Value::Object(out)
            }
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.rewrite(document, item)).collect())
            }
            other => other.clone(),
        }
    }
}

/// A schema so small that repeating it costs less than referring to it.
fn is_leaf(schema: &Value) -> bool {
    schema.as_object().is_some_and(|schema| {
        schema
            .keys()
            .all(|key| matches!(key.as_str(), "type" | "description" | "enum" | "minimum" | "maximum"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_named_as_it_says_and_valid_2020_12() {
        for document in documents() {
            let parsed: Value = serde_json::from_str(document.text).unwrap();
            assert_eq!(parsed["$id"], document.id());
            assert_eq!(parsed["$schema"], "https://json-schema.org/draft/2020-12/schema");
            assert!(parsed["$defs"].is_object());
            assert!(jsonschema::meta::is_valid(&parsed), "{}", document.id());
        }
    }

    /// Keywords that draft 7 does not have, or gives another meaning.
    const NOT_IN_DRAFT_7: &[&str] = &[
        "$anchor",
        "$dynamicAnchor",
        "$dynamicRef",
        "$recursiveRef",
        "$vocabulary",
        "dependentRequired",
        "dependentSchemas",
        "maxContains",
        "minContains",
        "prefixItems",
        "unevaluatedItems",
        "unevaluatedProperties",
    ];

    /// Where a schema could mean one thing in 2020-12 and another in draft 7.
    fn ambiguous(schema: &Value, path: &str, found: &mut Vec<String>) {
        match schema {
            Value::Object(members) => {
                let named = path.ends_with("/properties") || path.ends_with("/$defs");
                for (key, value) in members {
                    if !named && NOT_IN_DRAFT_7.contains(&key.as_str()) {
                        found.push(format!("{path}/{key}"));
                    }
                    // Beside a reference draft 7 ignores everything: only words for people may stand there.
                    let beside = members.contains_key("$ref") && !named;
                    if beside
                        && !["$ref", "$comment", "title", "description", "default", "examples"]
                            .contains(&key.as_str())
                    {
                        found.push(format!("{path}/{key} beside $ref"));
                    }
                    // An array of schemas as `items` is a tuple in draft 7 alone.
                    if key == "items" && value.is_array() {
                        found.push(format!("{path}/items is an array"));
                    }
                    ambiguous(value, &format!("{path}/{key}"), found);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    ambiguous(item, &format!("{path}/{index}"), found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_document_means_the_same_in_draft_7() {
        let mut found = Vec::new();
        for document in documents() {
            ambiguous(&serde_json::from_str(document.text).unwrap(), &document.id(), &mut found);
        }
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn every_reference_resolves_and_every_definition_compiles() {
        for definition in definitions() {
            let (file, name) = definition.id.split_once("#/$defs/").unwrap();
            let group = file.rsplit_once('/').unwrap().1.strip_suffix(".json").unwrap();
            let schema = bundle(definition.revision, group, name).unwrap();
            assert!(jsonschema::meta::is_valid(&schema), "{}", definition.id);
            assert!(!schema.to_string().contains(".json#"), "{}", definition.id);
            jsonschema::draft202012::new(&schema).unwrap();
        }
    }

    #[test]
    fn every_definition_says_what_it_is() {
        for definition in definitions() {
            assert!(
                !definition.title.is_empty(),
                "{} has neither a description nor a reference",
                definition.id
            );
        }
    }
}
