//! Patterns that the configuration made tools of their own: `repo.digest` is the tool `repo_digest`, its inputs are the
//! tool's arguments.

use std::sync::Arc;

use rmcp::model::{Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

use super::{ToolName, mirror::DATA};
use crate::{
    engine::{self, Caller, ExecuteRequest, Target},
    pattern::{
        Effect, Mode, Pattern,
        library::{Library, tool_name},
    },
    scope::Rights,
};

/// What the configuration wants promoted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promotion {
    /// Names of patterns, each perhaps with a pin.
    pub names: Vec<String>,
    /// Where that is said: `file:line`, the variable or the flag.
    pub place: String,
}

/// A pattern that is a tool of its own.
#[derive(Clone, Debug)]
pub struct Promoted {
    tool: String,
    /// As configured, with its pin: what a call runs.
    target: String,
    pattern: Arc<Pattern>,
    definition: Value,
}

impl Promotion {
    /// What is wrong with the names by themselves, whatever patterns there are; a fragment.
    #[must_use]
    pub fn fault(names: &[String]) -> Option<String> {
        for (index, name) in names.iter().enumerate() {
            let base = base(name);
            let well_formed = base.starts_with(|c: char| c.is_ascii_lowercase())
                && base.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c));
            if !well_formed {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                return Some(format!(
                    "`{shown}` is no name of a pattern, such as repo.digest or repo.digest@1"
                ));
            }
            let tool = tool_name(base);
            if ToolName::parse(&tool).is_some() {
                return Some(format!("`{base}` would be the tool `{tool}`, which the server has already"));
            }
            if let Some(other) = names[..index].iter().find(|other| tool_name(self::base(other)) == tool) {
                return Some(if other == name {
                    format!("`{name}` is named twice")
                } else {
                    format!("`{other}` and `{name}` would both be the tool `{tool}`")
                });
            }
        }
        None
    }

    /// The tools in the order configured, and beside them what is wrong: one text each, with the place.
    #[must_use]
    pub fn apply(&self, library: &Library) -> (Vec<Promoted>, Vec<String>) {
        let reserved = ToolName::ALL.map(ToolName::as_str);
        let (tools, errors) = library.promote(&self.names, &reserved);
        let mut promoted: Vec<Promoted> = tools
            .into_iter()
            .map(|(tool, pattern)| {
                let target = self.names.iter().find(|name| base(name) == pattern.name);
                Promoted {
                    definition: define(&tool, &pattern),
                    target: target.unwrap_or(&pattern.name).clone(),
                    tool,
                    pattern,
                }
            })
            .collect();
        promoted.sort_by_key(|promoted| self.names.iter().position(|name| *name == promoted.target));
        let faults = errors
            .iter()
            .map(|error| {
                format!(
                    "{}: promote: {error}; the tool is left out (a pattern of the repository needs \
                     `tmws pattern trust` first)",
                    self.place
                )
            })
            .collect();
        (promoted, faults)
    }
}

impl Promoted {
    /// The name on the wire.
    #[must_use]
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// The pattern that a call runs.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// What a call of it needs.
    #[must_use]
    pub fn needs(&self) -> Rights {
        engine::rights_to_call(&self.pattern)
    }

    /// Whether a call of it changes nothing.
    #[must_use]
    pub fn reads_only(&self) -> bool {
        self.pattern.effect == Effect::ReadOnly
    }

    /// The tool in the newest shape, as it is listed.
    #[must_use]
    pub fn listed(&self, offers_tasks: bool) -> Value {
        let mut tool = self.definition.clone();
        if offers_tasks {
            tool["execution"] = json!({"taskSupport": "optional"});
        }
        tool
    }

    /// What a model reads of it: name, description and arguments.
    #[must_use]
    pub fn read_by_models(&self) -> String {
        let Value::Object(tool) = &self.definition else { return String::new() };
        json!({"name": tool["name"], "description": tool["description"], "input_schema": tool["inputSchema"]})
            .to_string()
    }

    /// The run that a call with these arguments stands for. The engine checks them against the pattern's inputs.
    pub(super) fn request(&self, arguments: Map<String, Value>) -> ExecuteRequest {
        ExecuteRequest {
            target: Target::Pattern(self.target.clone()),
            input: arguments,
            mode: Mode::Balanced,
            session: None,
            unless: None,
            fresh: false,
            caller: Caller::Promoted,
        }
    }
}

fn base(name: &str) -> &str {
    name.split_once('@').map_or(name, |(base, _)| base)
}

fn define(tool: &str, pattern: &Pattern) -> Value {
    let schema = match plain(&pattern.inputs) {
        Value::Object(mut schema) => {
            schema.shift_remove("$schema");
            // Clients of all revisions expect an object with its members.
            schema.insert("type".to_owned(), "object".into());
            schema.entry("properties").or_insert_with(|| json!({}));
            schema
        }
        _ => Map::from_iter([("type".to_owned(), "object".into()), ("properties".to_owned(), json!({}))]),
    };
    let hint = |name: &str| pattern.annotations.get(name).and_then(Value::as_bool);
    let mut annotations = ToolAnnotations::new().read_only(pattern.effect == Effect::ReadOnly);
    if pattern.effect != Effect::ReadOnly {
        // Hosts take what says nothing for the worst; so do we, but say it.
        annotations = annotations.destructive(hint("destructiveHint").unwrap_or(true));
        if let Some(idempotent) = hint("idempotentHint") {
            annotations = annotations.idempotent(idempotent);
        }
    }
    let permissions = &pattern.permissions;
    let leaves = pattern.effect == Effect::Executes
        || permissions.llm
        || !(permissions.http.is_empty() && permissions.mcp.is_empty() && permissions.mcp_write.is_empty());
    annotations = annotations.open_world(hint("openWorldHint").unwrap_or(leaves));
    annotations.title = pattern.annotations.get("title").and_then(Value::as_str).map(str::to_owned);
    let definition = Tool::new(tool.to_owned(), pattern.told().into_owned(), Arc::new(schema));
    super::reply::to_value(&definition.with_annotations(annotations))
}

/// `schema` without our own keywords (`x-…`): names of members and data stay as they are.
fn plain(schema: &Value) -> Value {
    let members_of = |value: &Value| match value {
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, member)| (name.clone(), plain(member))).collect())
        }
        other => other.clone(),
    };
    match schema {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .filter(|(key, _)| !key.starts_with("x-"))
                .map(|(key, value)| {
                    let value = match key.as_str() {
                        "properties" | "patternProperties" | "$defs" | "dependentSchemas" => {
                            members_of(value)
                        }
                        key if DATA.contains(&key) => value.clone(),
                        _ => plain(value),
                    };
                    (key.clone(), value)
                })
                .collect(),
        ),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_that_cannot_stand_together_are_refused() {
        for (given, expected) in [
            (&["repo.digest", "todo.sweep@1"][..], None),
            (&["Repo"], Some("`Repo` is no name of a pattern, such as repo.digest or repo.digest@1")),
            (&[""], Some("`` is no name of a pattern, such as repo.digest or repo.digest@1")),
            (
                &["get.result"],
                Some("`get.result` would be the tool `get_result`, which the server has already"),
            ),
            (&["remember"], Some("`remember` would be the tool `remember`, which the server has already")),
            (&["a.b", "c", "a.b"], Some("`a.b` is named twice")),
            (&["a.b", "a-b"], Some("`a.b` and `a-b` would both be the tool `a_b`")),
            (&["a.b@1", "a.b@2"], Some("`a.b@1` and `a.b@2` would both be the tool `a_b`")),
        ] {
            assert_eq!(Promotion::fault(&names(given)).as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn what_is_unknown_is_left_out_and_said_with_its_place() {
        let promotion =
            Promotion { names: names(&["todo.sweep", "repo.digests"]), place: "tmws.toml:3".to_owned() };
        let (tools, faults) = promotion.apply(&Library::built_in());
        assert_eq!(tools.iter().map(Promoted::tool).collect::<Vec<_>>(), ["todo_sweep"]);
        assert_eq!(faults.len(), 1);
        assert!(
            faults[0].starts_with(
                "tmws.toml:3: promote: there is no pattern `repo.digests`: did you mean `repo.digest`?"
            ),
            "{faults:?}"
        );
    }

    #[test]
    fn own_keywords_leave_the_schema_and_members_of_such_a_name_stay() {
        let schema = json!({
            "type": "object", "x-says": "no",
            "properties": {"x-a": {"type": "string", "x-from-query": true, "default": {"x-b": 1}}},
        });
        assert_eq!(
            plain(&schema),
            json!({"type": "object", "properties": {"x-a": {"type": "string", "default": {"x-b": 1}}}})
        );
    }

    #[test]
    fn every_built_in_pattern_can_be_a_tool_that_a_client_can_read() {
        let library = Library::built_in();
        let names: Vec<String> = library.all().iter().map(|pattern| pattern.name.clone()).collect();
        let (tools, faults) = Promotion { names, place: "here".to_owned() }.apply(&library);
        assert_eq!(faults, [] as [String; 0]);
        for tool in tools {
            let listed = tool.listed(true);
            let schema = listed["inputSchema"].as_object().expect("an object");
            assert_eq!(schema["type"], "object");
            for key in ["$schema", "oneOf", "anyOf", "allOf", "not", "if"] {
                assert!(!schema.contains_key(key), "{}: {key}", tool.tool());
            }
            assert_eq!(listed["annotations"]["readOnlyHint"], tool.pattern().effect == Effect::ReadOnly);
            assert!(tool.tool().chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        }
    }
}
