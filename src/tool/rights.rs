//! What a request needs its caller to be allowed, as tables; judged by method and params alone.

use serde_json::{Map, Value};

use super::{Promoted, ToolName, reply, resources};
use crate::{
    engine::lacking,
    protocol::{Call, CallError, Reply},
    scope::{Rights, Scope},
    wire::Method,
};

/// What reading a resource needs, by the beginning of its URI. A pattern's file needs nothing; which patterns are there
/// for whom is another matter.
const RESOURCES: [(&str, Rights); 2] =
    [(resources::MEMORY, Rights::MEMORY_READ), (resources::RESULT, Rights::PATTERN_RUN)];

impl ToolName {
    /// What a call of it needs. The pattern that it runs may need more.
    #[must_use]
    pub const fn needs(self) -> Rights {
        match self {
            Self::ExecutePattern | Self::GetResult => Rights::PATTERN_RUN,
            Self::FindPatterns => Rights::NONE,
            Self::Remember => Rights::MEMORY_WRITE,
        }
    }
}

impl ToolName {
    /// Whether a call of it changes nothing.
    #[must_use]
    pub const fn reads_only(self) -> bool {
        match self {
            Self::ExecutePattern | Self::GetResult | Self::FindPatterns => true,
            Self::Remember => false,
        }
    }
}

/// What a request needs; `promoted` are the tools that patterns are.
pub(super) fn needs(method: Method, params: &Map<String, Value>, promoted: &[Promoted]) -> Rights {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    match method {
        Method::ToolsCall => {
            let name = text(params.get("name"));
            match ToolName::parse(&name) {
                Some(tool) => tool.needs(),
                None => {
                    promoted.iter().find(|tool| tool.tool() == name).map_or(Rights::NONE, Promoted::needs)
                }
            }
        }
        Method::PromptsGet
        | Method::TasksGet
        | Method::TasksResult
        | Method::TasksList
        | Method::TasksUpdate
        | Method::TasksCancel => Rights::PATTERN_RUN,
        Method::ResourcesRead => of_uri(&text(params.get("uri"))),
        // Handles are never completed.
        Method::CompletionComplete => {
            let uri = text(params.get("ref").and_then(|reference| reference.get("uri")));
            if uri.starts_with(resources::MEMORY) { Rights::MEMORY_READ } else { Rights::NONE }
        }
        _ => Rights::NONE,
    }
}

fn of_uri(uri: &str) -> Rights {
    RESOURCES.iter().find(|(scheme, _)| uri.starts_with(scheme)).map_or(Rights::NONE, |(_, needed)| *needed)
}

/// The answer to a call whose scope lacks what it needs. WebSocket and event streams have no status to say it with.
pub(super) fn refusal(call: &Call, scope: &Scope, promoted: &[Promoted]) -> Option<Reply> {
    let missing = needs(call.method(), call.params(), promoted).without(scope.rights());
    if missing == Rights::NONE {
        return None;
    }
    let what = match call.method() {
        Method::ToolsCall => {
            let name = call.params().get("name").and_then(Value::as_str).unwrap_or_default();
            let pattern = || promoted.iter().find(|tool| tool.tool() == name).map(Promoted::tool);
            ToolName::parse(name).map(ToolName::as_str).or_else(pattern).unwrap_or("this tool")
        }
        method => method.as_str(),
    };
    let error = lacking(what, missing);
    Some(match call.method() {
        Method::ToolsCall => reply::failed(&error, scope),
        _ => Reply::Error(CallError::InvalidParams(format!("{} ({})", error.message, error.kind.code()))),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_request_needs_what_the_table_says() {
        let (run, read, write) = (Rights::PATTERN_RUN, Rights::MEMORY_READ, Rights::MEMORY_WRITE);
        let template = |uri: &str| json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": {}});
        let rows = [
            (Method::ToolsCall, json!({"name": "execute_pattern"}), run),
            (Method::ToolsCall, json!({"name": "get_result"}), run),
            (Method::ToolsCall, json!({"name": "remember"}), write),
            (Method::ToolsCall, json!({"name": "find_patterns"}), Rights::NONE),
            (Method::ToolsCall, json!({"name": "no_such_tool"}), Rights::NONE),
            (Method::ToolsCall, json!({"name": 3}), Rights::NONE),
            (Method::ToolsCall, json!({}), Rights::NONE),
            (Method::PromptsGet, json!({"name": "x"}), run),
            (Method::ResourcesRead, json!({"uri": "memory://m_1"}), read),
            (Method::ResourcesRead, json!({"uri": "result://r_1"}), run),
            (Method::ResourcesRead, json!({"uri": "pattern://repo.digest"}), Rights::NONE),
            (Method::ResourcesRead, json!({"uri": "file:///etc/passwd"}), Rights::NONE),
            (Method::CompletionComplete, template("memory://{id}"), read),
            (Method::CompletionComplete, template("pattern://{name}"), Rights::NONE),
            (Method::CompletionComplete, template("result://{handle}"), Rights::NONE),
            (Method::CompletionComplete, json!({"ref": 1}), Rights::NONE),
            (Method::TasksGet, json!({"taskId": "t"}), run),
            (Method::TasksResult, json!({"taskId": "t"}), run),
            (Method::TasksList, json!({}), run),
            (Method::TasksUpdate, json!({"taskId": "t", "inputResponses": {}}), run),
            (Method::TasksCancel, json!({"taskId": "t"}), run),
            (Method::ToolsList, json!({}), Rights::NONE),
            (Method::PromptsList, json!({}), Rights::NONE),
            (Method::ResourcesList, json!({}), Rights::NONE),
            (Method::Ping, json!({}), Rights::NONE),
        ];
        for (method, params, needed) in rows {
            let Value::Object(members) = &params else { unreachable!("params are an object") };
            assert_eq!(needs(method, members, &[]), needed, "{} {params}", method.as_str());
        }
    }
}
