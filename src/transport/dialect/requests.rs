//! From a request of the dialect to one of MCP.

use serde_json::{Map, Value, json};

use super::replaced;
use crate::{schema::dialect::DialectMethod, wire::Method};

/// The pattern that finds memories whole.
pub(super) const LOOKUP: &str = "memory.lookup";
/// Memories that a search gives where nothing says how many.
const LIMIT_DEFAULT: u64 = 10;
const NOT_THIS_SESSION: &str =
    "invalid params: /params/session_id is not the session of this connection: leave it out";

/// The method and params that `params`, which were admitted, stand for. `session` is the connection's own.
///
/// # Errors
/// What no schema can say is wrong with them: -32602.
pub(super) fn translate(
    method: DialectMethod,
    mut params: Map<String, Value>,
    session: &str,
) -> Result<(Method, Value), String> {
    match method {
        DialectMethod::Ping => Ok((Method::Ping, json!({}))),
        DialectMethod::ToolsList => Ok((Method::ToolsList, picked(&mut params, &[("cursor", "cursor")]))),
        DialectMethod::ToolsCall => {
            let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
            if let Some(instead) = replaced::tool(name) {
                return Err(instead);
            }
            Ok((Method::ToolsCall, picked(&mut params, &[("name", "name"), ("arguments", "arguments")])))
        }
        DialectMethod::ExecutePattern => {
            forget_own_session(&mut params, session);
            let skips_cache = params.get("use_cache") == Some(&Value::Bool(false));
            let mut arguments = picked(
                &mut params,
                &[
                    ("pattern", "pattern"),
                    ("query", "query"),
                    ("input", "input"),
                    ("execution_mode", "mode"),
                    ("session_id", "session"),
                ],
            );
            if skips_cache {
                arguments["fresh"] = true.into();
            }
            Ok(call("execute_pattern", &arguments))
        }
        DialectMethod::BareStoreMemory | DialectMethod::StoreMemory => {
            forget_own_session(&mut params, session);
            if params.contains_key("session_id") {
                return Err(NOT_THIS_SESSION.to_owned());
            }
            let members = ["content", "tags", "importance"].map(|name| (name, name));
            Ok(call("remember", &picked(&mut params, &members)))
        }
        DialectMethod::SearchMemory => {
            forget_own_session(&mut params, session);
            if params.contains_key("session_id") {
                return Err(NOT_THIS_SESSION.to_owned());
            }
            params.entry("limit").or_insert_with(|| LIMIT_DEFAULT.into());
            let input = picked(
                &mut params,
                &[("query", "query"), ("limit", "k"), ("tags", "tags"), ("min_importance", "importance_min")],
            );
            Ok(call("execute_pattern", &json!({"pattern": LOOKUP, "input": input, "mode": "comprehensive"})))
        }
    }
}

fn call(tool: &str, arguments: &Value) -> (Method, Value) {
    (Method::ToolsCall, json!({"name": tool, "arguments": arguments}))
}

/// Those members of `params` that are there, under their new names.
fn picked(params: &mut Map<String, Value>, members: &[(&str, &str)]) -> Value {
    let mut picked = Map::new();
    for (name, new) in members {
        if let Some(value) = params.swap_remove(*name) {
            picked.insert((*new).to_owned(), value);
        }
    }
    Value::Object(picked)
}

/// Naming the session of the connection itself says nothing new.
fn forget_own_session(params: &mut Map<String, Value>, session: &str) {
    if params.get("session_id").and_then(Value::as_str) == Some(session) {
        params.swap_remove("session_id");
    }
}
