//! The tools as they are advertised: few words, because every session pays for them.

use std::sync::{Arc, OnceLock};

use rmcp::model::{Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

use crate::scope::Rights;

/// Our tools in the order listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolName {
    /// Runs a read-only pattern.
    ExecutePattern,
    /// Lists and ranks patterns.
    FindPatterns,
    /// Reads the rest of a large result.
    GetResult,
    /// Stores a memory.
    Remember,
}

impl ToolName {
    /// In the order listed.
    pub const ALL: [Self; 4] = [Self::ExecutePattern, Self::FindPatterns, Self::GetResult, Self::Remember];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExecutePattern => "execute_pattern",
            Self::FindPatterns => "find_patterns",
            Self::GetResult => "get_result",
            Self::Remember => "remember",
        }
    }

    /// The tool called `name`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.as_str() == name)
    }

    /// What the model reads.
    const fn description(self) -> &'static str {
        match self {
            Self::ExecutePattern => {
                "Run a read-only pattern by name, or let a query choose one: digests of repository, code, logs and memories."
            }
            Self::FindPatterns => "List patterns with their inputs, best match first.",
            Self::GetResult => "Read more of a shrunk result by its `more.handle`.",
            Self::Remember => "Store a decision or fact in this project's memory.",
        }
    }

    /// `inputSchema`: object at the root, no combinators, no bounds (they live in code and `schemas/tool/`).
    fn input_schema(self) -> Value {
        let string = || json!({"type": "string"});
        let (properties, required) = match self {
            Self::ExecutePattern => (
                json!({
                    "pattern": string(), "query": string(), "input": {"type": "object"},
                    "mode": {"type": "string", "enum": ["fast", "balanced", "comprehensive"]},
                    "session": string(),
                    "unless": {"type": "string", "description": "etag of an answer: only say if it changed"},
                    "fresh": {"type": "boolean"},
                }),
                None,
            ),
            Self::FindPatterns => (json!({"query": string(), "limit": {"type": "integer"}}), None),
            Self::GetResult => (
                json!({
                    "handle": string(),
                    "select": {"type": "string", "description": "JSONPath"},
                    "offset": {"type": "integer"}, "limit": {"type": "integer"},
                }),
                Some("handle"),
            ),
            Self::Remember => (
                json!({
                    "content": string(),
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "importance": {"type": "number", "description": "0-1"},
                    "supersedes": {"type": "string", "description": "memory id"},
                }),
                Some("content"),
            ),
        };
        let mut schema = json!({"type": "object", "properties": properties});
        if let Some(required) = required {
            schema["required"] = json!([required]);
        }
        schema
    }

    /// What hosts may assume: nothing here reaches beyond this machine, nothing destroys.
    fn annotations(self) -> ToolAnnotations {
        match self {
            Self::ExecutePattern | Self::FindPatterns | Self::GetResult => {
                ToolAnnotations::new().read_only(true).open_world(false)
            }
            Self::Remember => ToolAnnotations::new().destructive(false).idempotent(true).open_world(false),
        }
    }

    /// The tool in the newest shape.
    #[must_use]
    pub fn definition(self) -> Tool {
        let schema = match self.input_schema() {
            Value::Object(schema) => schema,
            _ => Map::new(),
        };
        Tool::new(self.as_str(), self.description(), Arc::new(schema)).with_annotations(self.annotations())
    }

    /// The same as it is listed, with what only 2025-11-25 knows of it: whether it may run as a task, where any may.
    fn listed(self, offers_tasks: bool) -> Value {
        let mut tool = super::reply::to_value(&self.definition());
        match self {
            Self::ExecutePattern if offers_tasks => tool["execution"] = json!({"taskSupport": "optional"}),
            Self::ExecutePattern | Self::FindPatterns | Self::GetResult | Self::Remember => {}
        }
        tool
    }
}

/// The tools that `rights` allow to call, in their order; serialized once for the life of the process.
pub fn list(rights: Rights, offers_tasks: bool) -> Arc<[Value]> {
    type Cell = OnceLock<Arc<[Value]>>;
    /// By what makes a difference: are there tasks, may run patterns, may write memories.
    static LISTS: [Cell; 8] = [const { Cell::new() }; 8];
    let of = |is, bit: usize| if is { bit } else { 0 };
    let may = |right, bit| of(rights.include(right), bit);
    let list = &LISTS[of(offers_tasks, 4) | may(Rights::PATTERN_RUN, 2) | may(Rights::MEMORY_WRITE, 1)];
    Arc::clone(list.get_or_init(|| {
        let allowed = ToolName::ALL.into_iter().filter(|tool| rights.include(tool.needs()));
        allowed.map(|tool| tool.listed(offers_tasks)).collect()
    }))
}

/// The versioned schemas of arguments and answers, for `tmws schema` and tests: tool, version, direction, text.
pub const SCHEMAS: [(&str, &str, &str, &str); 9] = {
    macro_rules! schema {
        ($tool:literal $direction:literal) => {
            schema!($tool "v1" $direction)
        };
        ($tool:literal $version:literal $direction:literal) => {
            (
                $tool,
                $version,
                $direction,
                include_str!(concat!("../../schemas/tool/", $tool, "/", $version, ".", $direction, ".json")),
            )
        };
    }
    [
        schema!("execute_pattern" "input"),
        schema!("execute_pattern" "output"),
        schema!("execute_pattern" "v2" "output"),
        schema!("find_patterns" "input"),
        schema!("find_patterns" "output"),
        schema!("get_result" "input"),
        schema!("get_result" "output"),
        schema!("remember" "input"),
        schema!("remember" "output"),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(value: &Value) -> usize {
        tiktoken_rs::o200k_base_singleton().encode_ordinary(&value.to_string()).len()
    }

    #[test]
    fn what_a_model_reads_costs_at_most_350_tokens_and_the_wire_500() {
        let list = list(Rights::ALL, true);
        let read: Vec<Value> = list
            .iter()
            .map(|tool| json!({"name": tool["name"], "description": tool["description"], "input_schema": tool["inputSchema"]}))
            .collect();
        let (read, wire) = (tokens(&json!(read)), tokens(&json!({"tools": &*list})));
        assert!(read <= 350, "{read} tokens are read");
        assert!(wire <= 500, "{wire} tokens travel");
    }

    #[test]
    fn a_tool_is_listed_where_its_right_is_granted() {
        let names = |rights| -> Vec<String> {
            list(rights, true).iter().filter_map(|tool| Some(tool["name"].as_str()?.to_owned())).collect()
        };
        let (run, read, write) = (Rights::PATTERN_RUN, Rights::MEMORY_READ, Rights::MEMORY_WRITE);
        for (rights, expected) in [
            (Rights::NONE, &["find_patterns"][..]),
            (read.with(Rights::ADMIN), &["find_patterns"]),
            (run, &["execute_pattern", "find_patterns", "get_result"]),
            (run.with(read), &["execute_pattern", "find_patterns", "get_result"]),
            (write, &["find_patterns", "remember"]),
            (run.with(write), &["execute_pattern", "find_patterns", "get_result", "remember"]),
            (Rights::ALL, &["execute_pattern", "find_patterns", "get_result", "remember"]),
        ] {
            assert_eq!(names(rights), expected, "{rights}");
        }
    }

    #[test]
    fn advertised_schemas_are_plain_objects_without_combinators() {
        for tool in list(Rights::ALL, true).iter() {
            let schema = tool["inputSchema"].as_object().expect("an object");
            assert_eq!(schema["type"], "object");
            for key in schema.keys() {
                assert!(["type", "properties", "required"].contains(&key.as_str()), "{key}");
            }
            assert!(
                schema["properties"]
                    .as_object()
                    .is_some_and(|members| members.values().all(Value::is_object))
            );
        }
    }

    #[test]
    fn advertised_members_are_those_of_the_versioned_schema() {
        for tool in ToolName::ALL {
            let (.., text) = SCHEMAS
                .iter()
                .find(|(name, _, direction, _)| *name == tool.as_str() && *direction == "input")
                .expect("every tool has one");
            let full: Value = serde_json::from_str(text).expect("JSON");
            let short = tool.input_schema();
            let names = |schema: &Value| -> Vec<String> {
                schema["properties"].as_object().expect("an object").keys().cloned().collect()
            };
            assert_eq!(names(&short), names(&full), "{}", tool.as_str());
            assert_eq!(short.get("required"), full.get("required"), "{}", tool.as_str());
        }
    }
}
