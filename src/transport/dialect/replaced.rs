//! What takes the place of methods and tools that are not served any more.

use super::beginning;
use crate::{nearest, schema::dialect::DialectMethod, wire::Method};

const TASKS: &str = "the task list is gone: what is to be done is remembered with `memory/store`; what runs long becomes a task of MCP, by `tools/call` and then `tasks/get` in a session of 2025-11-25 or 2026-07-28 at /ws or /mcp";
const MCP: &str = "it belongs to MCP, and this path speaks the old dialect: connect to /ws (WebSocket) or /mcp (HTTP), under /p/<project> if you are here";
const WELCOME: &str = "the frame `welcome` names the session and the agent of a connection";

/// Names, or beginnings of names (with `/` or `_` at their end), and what is said of them. The first that fits counts.
const REPLACED: &[(&str, &str)] = &[
    ("task/", TASKS),
    ("tasks/", TASKS),
    ("create_task", TASKS),
    ("update_task", TASKS),
    ("list_tasks", TASKS),
    ("workflow/", "call `execute_pattern`: what workflows did, patterns do"),
    ("execute_workflow", "call `execute_pattern`: what workflows did, patterns do"),
    ("agent/", WELCOME),
    ("get_agent_info", WELCOME),
    ("switch_agent", "the agent is that of the address (?agent_id=NAME): connect again"),
    ("create_memory", "call `memory/store`"),
    ("search_memories", "call `memory/search`"),
    ("recall_memory", "call `memory/search`"),
    ("initialize", MCP),
    ("notifications/", MCP),
    ("resources/", MCP),
    ("prompts/", MCP),
    ("completion/", MCP),
    ("logging/", MCP),
    ("roots/", MCP),
    ("sampling/", MCP),
    ("elicitation/", MCP),
    ("server/", MCP),
    ("subscriptions/", MCP),
];

/// Tools of the old server, which its clients call by name.
const REPLACED_TOOLS: &[(&str, &str)] = &[
    ("store_memory", "call the tool `remember`, or the method `memory/store`"),
    ("create_memory", "call the tool `remember`, or the method `memory/store`"),
    (
        "search_memories",
        "call the method `memory/search`, or the tool `execute_pattern` with the pattern `memory.lookup`",
    ),
    (
        "recall_memory",
        "call the method `memory/search`, or the tool `execute_pattern` with the pattern `memory.recall`",
    ),
    ("create_task", TASKS),
    ("update_task", TASKS),
    ("execute_workflow", "call the tool `execute_pattern`: what workflows did, patterns do"),
];

/// What to say to a request of `name`, which is no method of the dialect.
pub(super) fn method(name: &str) -> String {
    let shown = beginning(name);
    let fits = |of: &str| name == of || of.ends_with('/') && name.starts_with(of);
    if let Some((_, instead)) = REPLACED.iter().find(|(of, _)| fits(of)) {
        return format!("no method `{shown}` here: {instead}");
    }
    if Method::parse(name).is_some() {
        return format!("no method `{shown}` here: {MCP}");
    }
    let names = || DialectMethod::ALL.iter().map(|method| method.as_str());
    let hint = nearest::hint(name, names());
    format!("no method `{shown}` here{hint} (there are {})", names().collect::<Vec<_>>().join(", "))
}

/// What to say to a call of the tool `name`, where that is one of the old server.
pub(super) fn tool(name: &str) -> Option<String> {
    let (_, instead) = REPLACED_TOOLS.iter().find(|(of, _)| *of == name)?;
    Some(format!("no tool `{name}` any more: {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::METHODS;

    #[test]
    fn whoever_asks_for_what_is_gone_is_told_what_there_is() {
        let table = [
            ("task/create", "`memory/store`"),
            ("task/list", "`tasks/get`"),
            ("tasks/get", "2025-11-25 or 2026-07-28"),
            ("workflow/execute", "`execute_pattern`"),
            ("agent/info", "`welcome`"),
            ("initialize", "/ws (WebSocket) or /mcp (HTTP)"),
            ("resources/get", "/mcp"),
            ("search_memories", "`memory/search`"),
            ("memory/sotre", "did you mean `memory/store`?"),
            ("execute_patern", "did you mean `execute_pattern`?"),
            ("echo", "there are execute_pattern, store_memory"),
            ("", "there are execute_pattern"),
        ];
        for (name, expected) in table {
            let said = method(name);
            assert!(said.contains(expected), "{name}: {said}");
        }
        let long = method(&"x".repeat(10_000));
        assert!(long.len() < 400 && long.contains('…'), "{long}");
        assert!(!method("a\u{1b}[2J\nb").contains(['\u{1b}', '\n']));
    }

    #[test]
    fn every_method_of_mcp_is_served_here_or_shown_where_to_go() {
        for row in METHODS.iter().filter(|row| DialectMethod::parse(row.name).is_none()) {
            let said = method(row.name);
            assert!(said.contains("/ws") && said.contains("/mcp"), "{}: {said}", row.name);
        }
    }

    #[test]
    fn old_tools_name_their_replacements_and_ours_are_left_alone() {
        assert!(tool("store_memory").unwrap().contains("`remember`"));
        assert!(tool("search_memories").unwrap().contains("`memory/search`"));
        assert_eq!(tool("remember"), None);
        assert_eq!(tool("execute_pattern"), None);
    }
}
