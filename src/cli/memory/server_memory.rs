//! The knowledge graph of npm `@modelcontextprotocol/server-memory` as memories.
//!
//! Its file is JSON Lines: `{"type":"entity","name","entityType","observations":[…]}` and
//! `{"type":"relation","from","to","relationType"}`. An observation becomes a memory of its own, a relation one of the
//! form `A relation B`, all of kind `fact` and, since another server took them in, of trust `external`. Their ids follow
//! from project and text: a file that is imported again finds them, also where they were superseded or forgotten since.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::lines;
use crate::{
    limits::StoreLimits,
    scope::Scope,
    store::{self, Memory, Trust, Visibility},
};

const KIND: &str = "fact";
/// The agent that these memories came from.
const AGENT: &str = "server-memory";
const RELATION_TAG: &str = "relation";
const IMPORTANCE: f64 = 0.5;

#[derive(Deserialize)]
struct Kind {
    r#type: Option<Value>,
}

#[derive(Deserialize)]
struct Entity {
    name: String,
    #[serde(rename = "entityType")]
    kind: String,
    observations: Vec<String>,
}

#[derive(Deserialize)]
struct Relation {
    from: String,
    to: String,
    #[serde(rename = "relationType")]
    kind: String,
}

/// The memories in one line, or what is wrong with it.
pub(super) fn memories(
    line: &[u8],
    scope: &Scope,
    limits: &StoreLimits,
    now: Timestamp,
) -> Result<Vec<Memory>, String> {
    let kind: Kind = serde_json::from_slice(line).map_err(|error| lines::told(&error))?;
    let texts = match kind.r#type.as_ref().and_then(Value::as_str) {
        Some("entity") => entity(serde_json::from_slice(line).map_err(|error| lines::told(&error))?),
        Some("relation") => relation(&serde_json::from_slice(line).map_err(|error| lines::told(&error))?),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            return Err(format!("unknown type `{other}`; entity and relation are known"));
        }
        None => return Err("no `type`; entity and relation are known".to_owned()),
    };
    Ok(texts.into_iter().map(|(content, tags)| memory(content, &tags, scope, limits, now)).collect())
}

fn entity(Entity { name, kind, observations }: Entity) -> Vec<(String, Vec<String>)> {
    let name = one_line(&name);
    let tags = vec![name.clone(), one_line(&kind)];
    let told: Vec<&str> =
        observations.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    if told.is_empty() {
        // That there is such a thing is all that is known of it.
        return vec![(format!("{name} ({})", one_line(&kind)), tags)];
    }
    told.into_iter()
        .map(|text| {
            let text = if mentions(text, &name) { text.to_owned() } else { format!("{name}: {text}") };
            (text, tags.clone())
        })
        .collect()
}

fn relation(Relation { from, to, kind }: &Relation) -> Vec<(String, Vec<String>)> {
    let (from, to) = (one_line(from), one_line(to));
    let text = format!("{from} {} {to}", one_line(kind));
    vec![(text, vec![from, to, RELATION_TAG.to_owned()])]
}

fn memory(content: String, tags: &[String], scope: &Scope, limits: &StoreLimits, now: Timestamp) -> Memory {
    let folded = content.split_whitespace().collect::<Vec<_>>().join(" ");
    Memory {
        id: store::derived_id(&["server-memory", scope.project().as_str(), scope.principal(), &folded]),
        project: scope.project().as_str().to_owned(),
        content,
        tags: tags
            .iter()
            .map(|tag| cut(&tag.to_lowercase(), limits.tag_bytes_max).trim().to_owned())
            .take(limits.tags_max)
            .collect(),
        importance: IMPORTANCE,
        kind: KIND.to_owned(),
        visibility: Visibility::Project,
        trust: Trust::External,
        principal: scope.principal().to_owned(),
        agent: AGENT.to_owned(),
        session: None,
        supersedes: None,
        superseded_by: None,
        created: now,
        updated: now,
        recalled: None,
        expires: None,
    }
}

/// On one line, without control characters.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most `bytes` of `text`, whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Whether `text` names `name`, as whole words in any case.
fn mentions(text: &str, name: &str) -> bool {
    let (text, name) = (one_line(text).to_lowercase(), name.to_lowercase());
    let bounds = |at: usize, end: usize| {
        !text[..at].ends_with(char::is_alphanumeric) && !text[end..].starts_with(char::is_alphanumeric)
    };
    !name.is_empty() && text.match_indices(&name).any(|(at, found)| bounds(at, at + found.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(line: &str) -> Result<Vec<(String, String)>, String> {
        let scope = Scope::mint(crate::scope::ProjectId::personal(), "ann", "default", None);
        let memories = memories(line.as_bytes(), &scope, &StoreLimits::default(), Timestamp::UNIX_EPOCH)?;
        Ok(memories.into_iter().map(|memory| (memory.content, memory.tags.join(","))).collect())
    }

    #[test]
    fn each_observation_says_of_what_it_is() {
        let line = r#"{"type":"entity","name":"Ada","entityType":"Person","observations":["likes tea","ADA's desk is by the window","Adam is her brother"," "]}"#;
        let expected = [
            ("Ada: likes tea", "ada,person"),
            ("ADA's desk is by the window", "ada,person"),
            ("Ada: Adam is her brother", "ada,person"),
        ];
        assert_eq!(taken(line).unwrap(), expected.map(|(text, tags)| (text.to_owned(), tags.to_owned())));
    }

    #[test]
    fn what_has_no_observation_is_kept_and_relations_are_sentences() {
        for (line, text, tags) in [
            (
                r#"{"type":"entity","name":"Tea","entityType":"drink","observations":[]}"#,
                "Tea (drink)",
                "tea,drink",
            ),
            (
                r#"{"type":"relation","from":"Ada","to":"Green\nTea","relationType":"likes"}"#,
                "Ada likes Green Tea",
                "ada,green tea,relation",
            ),
        ] {
            assert_eq!(taken(line).unwrap(), [(text.to_owned(), tags.to_owned())]);
        }
    }

    #[test]
    fn what_is_no_line_of_a_graph_is_named() {
        for (line, expected) in [
            (r#"{"type":"opinion"}"#, "unknown type `opinion`; entity and relation are known"),
            (r#"{"name":"Ada"}"#, "no `type`; entity and relation are known"),
            (
                r#"{"type":"entity","name":"Ada","entityType":"person"}"#,
                "missing field `observations` (column 52)",
            ),
            ("nonsense", "expected ident (column 2)"),
        ] {
            assert_eq!(taken(line).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_name_longer_than_a_tag_is_cut_between_characters() {
        let line = format!(
            r#"{{"type":"entity","name":"{}","entityType":"x","observations":["y"]}}"#,
            "ä".repeat(100)
        );
        assert_eq!(taken(&line).unwrap()[0].1, format!("{},x", "ä".repeat(64)));
    }
}
