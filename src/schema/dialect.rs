//! The gate of the old TMWS dialect: the same promise for another language.
//!
//! The dialect is older than this program: JSON-RPC without a handshake, whose server speaks first. `schemas/dialect/v1.json`
//! has one definition per method for params and one for results; which one counts is chosen by method, never by shape.

use std::{collections::HashSet, sync::OnceLock};

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::{
    Sealed, Violation,
    catalog::{COMPILED_AS, collect_member_names},
    gate::{text_of, write_message},
};
use crate::wire::{RequestId, RpcError};

/// The document, as it is in the source tree.
pub const DIALECT_SCHEMA: &str = include_str!("../../schemas/dialect/v1.json");

/// The notification that opens every connection.
pub const WELCOME: &str = "welcome";

macro_rules! methods {
    ($($method:ident $name:literal $params:ident $result:ident;)*) => {
        /// A method that the dialect's server answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are those on the wire")]
        pub enum DialectMethod { $($method,)* }

        impl DialectMethod {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$method,)*];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$method => $name,)* }
            }

            /// The method named exactly `name`.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|method| method.as_str() == name)
            }

            const fn params(self) -> Definition {
                match self { $(Self::$method => Definition::$params,)* }
            }

            const fn result(self) -> Definition {
                match self { $(Self::$method => Definition::$result,)* }
            }
        }
    };
}

methods! {
    ExecutePattern "execute_pattern" ExecutePatternParams ExecutePatternResult;
    BareStoreMemory "store_memory" StoreMemoryParams StoreMemoryResult;
    StoreMemory "memory/store" StoreMemoryParams StoreMemoryResult;
    SearchMemory "memory/search" SearchMemoryParams SearchMemoryResult;
    ToolsList "tools/list" ToolsListParams ToolsListResult;
    ToolsCall "tools/call" ToolsCallParams ToolsCallResult;
    Ping "ping" PingParams PingResult;
}

macro_rules! definitions {
    ($($definition:ident)*) => {
        /// One definition of the document.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Definition { $($definition,)* }

        impl Definition {
            const ALL: &[Self] = &[$(Self::$definition,)*];

            const fn name(self) -> &'static str {
                match self { $(Self::$definition => stringify!($definition),)* }
            }
        }
    };
}

definitions! {
    Response ErrorResponse Welcome WelcomeParams Error
    ExecutePatternParams ExecutePatternResult StoreMemoryParams StoreMemoryResult SearchMemoryParams
    SearchMemoryResult ToolsListParams ToolsListResult ToolsCallParams ToolsCallResult PingParams PingResult
}

/// Filled when first needed and never emptied, as the validators of MCP are.
static VALIDATORS: [OnceLock<Validator>; Definition::ALL.len()] =
    [const { OnceLock::new() }; Definition::ALL.len()];

impl Definition {
    /// The definition as a schema of its own, with all that it may refer to.
    fn schema(self) -> Value {
        static DOCUMENT: OnceLock<Value> = OnceLock::new();
        let document = DOCUMENT.get_or_init(|| {
            serde_json::from_str(DIALECT_SCHEMA).expect("the document is JSON, tested below")
        });
        let mut schema = document["$defs"][self.name()].clone();
        schema["$defs"] = document["$defs"].clone();
        schema
    }

    fn validator(self) -> &'static Validator {
        VALIDATORS[self as usize].get_or_init(|| {
            let options = jsonschema::options().with_draft(COMPILED_AS).should_validate_formats(false);
            options.build(&self.schema()).expect("every definition compiles, tested below")
        })
    }

    fn check(self, value: &Value, prefix: &str, words: impl FnOnce() -> String) -> Result<(), Violation> {
        let validator = self.validator();
        if validator.is_valid(value) {
            return Ok(());
        }
        let known = || {
            let mut names = HashSet::new();
            collect_member_names(&self.schema(), &mut names);
            names
        };
        Err(Violation::collect(words(), prefix, validator, value, known))
    }
}

/// A request that fits its method's definition.
#[derive(Debug)]
pub struct AdmittedDialect {
    id: RequestId,
    method: DialectMethod,
    params: Map<String, Value>,
}

impl AdmittedDialect {
    /// The id as received, the method, and the params: none of them null, empty where they were absent.
    #[must_use]
    pub fn into_parts(self) -> (RequestId, DialectMethod, Map<String, Value>) {
        (self.id, self.method, self.params)
    }
}

/// Admits a request of a client. A member of the params that is null counts as absent: the clients of the dialect send
/// every member that they know.
///
/// # Errors
/// The violation, and the id comes back with it for the answer.
pub fn admit(
    method: DialectMethod,
    id: RequestId,
    params: Option<Value>,
) -> Result<AdmittedDialect, (RequestId, Violation)> {
    let mut params = params.unwrap_or_else(|| json!({}));
    if let Value::Object(members) = &mut params {
        members.retain(|_, value| !value.is_null());
    }
    let words = || format!("{} request of the dialect", method.as_str());
    if let Err(violation) = method.params().check(&params, "/params", words) {
        return Err((id, violation));
    }
    match params {
        Value::Object(params) => Ok(AdmittedDialect { id, method, params }),
        // What fits a definition of params is an object.
        _ => Ok(AdmittedDialect { id, method, params: Map::new() }),
    }
}

/// Seals the result of `method`.
///
/// # Errors
/// The violation: our bug.
pub fn seal_result(method: DialectMethod, id: &RequestId, result: &Value) -> Result<Sealed, Violation> {
    method.result().check(result, "/result", || format!("{} result of the dialect", method.as_str()))?;
    Ok(write_message(Some(id), "result", result))
}

/// Seals an error; without an id where the frame had none that could be read.
///
/// # Errors
/// The violation: our bug.
pub fn seal_error(id: Option<&RequestId>, error: &RpcError) -> Result<Sealed, Violation> {
    let message = error.to_message(id);
    Definition::Error.check(&message["error"], "/error", || "error of the dialect".to_owned())?;
    Ok(write_message(id, "error", &message["error"]))
}

/// Seals the frame that opens a connection.
///
/// # Errors
/// The violation: our bug.
pub fn seal_welcome(params: Map<String, Value>) -> Result<Sealed, Violation> {
    let params = Value::Object(params);
    Definition::WelcomeParams.check(&params, "/params", || "welcome of the dialect".to_owned())?;
    let message = json!({"jsonrpc": "2.0", "method": WELCOME, "params": params});
    Ok(Sealed::of(text_of(&message)))
}

/// Whether `frame` is one that a server of the dialect may send: the answer to a request of `method`, an error, or (where
/// nothing was asked) the welcome. For judging recorded conversations.
///
/// # Errors
/// The violation.
pub fn verdict(method: Option<DialectMethod>, frame: &Value) -> Result<(), Violation> {
    let words = || match method {
        Some(method) => format!("answer of the dialect to {}", method.as_str()),
        None => "frame of the dialect's server".to_owned(),
    };
    if frame.get("error").is_some() {
        return Definition::ErrorResponse.check(frame, "", words);
    }
    let Some(method) = method else { return Definition::Welcome.check(frame, "", words) };
    Definition::Response.check(frame, "", words)?;
    method.result().check(&frame["result"], "/result", words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::from_token("\"a\"").unwrap()
    }

    #[test]
    fn every_definition_compiles_under_both_drafts_and_none_is_forgotten() {
        let document: Value = serde_json::from_str(DIALECT_SCHEMA).unwrap();
        assert_eq!(document["$id"], "tmws:/dialect/v1.json");
        assert!(jsonschema::meta::is_valid(&document));
        for definition in Definition::ALL {
            definition.validator();
            jsonschema::draft202012::new(&definition.schema()).unwrap();
        }
        for name in document["$defs"].as_object().unwrap().keys() {
            // What only clients send, and what others refer to.
            let is_used = Definition::ALL.iter().any(|definition| definition.name() == name);
            assert!(is_used || ["Request", "Id"].contains(&name.as_str()), "{name}");
        }
        let named = document.pointer("/$defs/Request/properties/method/enum").unwrap();
        let methods: Vec<&str> = DialectMethod::ALL.iter().map(|method| method.as_str()).collect();
        assert_eq!(*named, json!(methods));
    }

    #[test]
    fn params_are_held_against_their_methods_definition() {
        use DialectMethod::{
            BareStoreMemory, ExecutePattern, Ping, SearchMemory, StoreMemory, ToolsCall, ToolsList,
        };
        // Method, params, the place of the fault.
        let table: &[(DialectMethod, Value, Option<&str>)] = &[
            (ExecutePattern, json!({"query": "x", "execution_mode": "balanced", "use_cache": true}), None),
            (ExecutePattern, json!({"query": "x", "context": {"a": 1}, "input": null}), None),
            (ExecutePattern, json!({"pattern": "repo.digest", "input": {"since": "7d"}}), None),
            (ExecutePattern, json!({"query": " "}), Some("/params/query")),
            (
                ExecutePattern,
                json!({"query": "x", "execution_mode": "quick"}),
                Some("/params/execution_mode"),
            ),
            (ExecutePattern, json!({"query": "x", "auth_token": "t"}), Some("/params/auth_token")),
            (BareStoreMemory, json!({"content": "x", "importance": 0.5, "tags": ["a"]}), None),
            (StoreMemory, json!({"content": "x", "metadata": {}, "tags": null}), None),
            (StoreMemory, json!({"content": "x", "metadata": {"a": 1}}), Some("/params/metadata")),
            (StoreMemory, json!({"content": "x", "importance": 2}), Some("/params/importance")),
            (StoreMemory, json!({"content": "x", "access_level": "private"}), Some("/params/access_level")),
            (StoreMemory, json!({"content": null}), Some("/params")),
            (StoreMemory, json!({"content": 3}), Some("/params/content")),
            (SearchMemory, json!({"query": "x", "limit": 100, "min_importance": 0}), None),
            (SearchMemory, json!({"query": "x", "limit": 101}), Some("/params/limit")),
            (SearchMemory, json!({"limit": 5}), Some("/params")),
            (ToolsList, json!({}), None),
            (ToolsList, json!({"cursor": 1}), Some("/params/cursor")),
            (ToolsCall, json!({"name": "remember", "arguments": {"content": "x"}}), None),
            (ToolsCall, json!({"name": "remember", "arguments": []}), Some("/params/arguments")),
            (ToolsCall, json!({}), Some("/params")),
            (Ping, json!({"any": "thing"}), None),
            (Ping, json!([]), Some("/params")),
        ];
        for (method, params, place) in table {
            let admitted = admit(*method, id(), Some(params.clone()));
            let found = admitted.err().map(|(_, violation)| violation.faults[0].instance_path.clone());
            assert_eq!(found.as_deref(), *place, "{} {params}", method.as_str());
        }
        for method in DialectMethod::ALL {
            assert_eq!(DialectMethod::parse(method.as_str()), Some(*method));
            let needs_params =
                !matches!(method, ExecutePattern | DialectMethod::ToolsList | DialectMethod::Ping);
            assert_eq!(admit(*method, id(), None).is_err(), needs_params, "{}", method.as_str());
        }
    }

    #[test]
    fn what_is_sealed_is_what_recordings_are_judged_by() {
        let stored = json!({"success": true, "memory_id": "m_01KHB72V80000000000000000F"});
        let sealed = seal_result(DialectMethod::StoreMemory, &id(), &stored).unwrap();
        let frame: Value = serde_json::from_slice(sealed.as_bytes()).unwrap();
        assert_eq!(frame, json!({"jsonrpc": "2.0", "id": "a", "result": stored}));
        verdict(Some(DialectMethod::StoreMemory), &frame).unwrap();
        verdict(Some(DialectMethod::BareStoreMemory), &frame).unwrap();
        for other in [None, Some(DialectMethod::SearchMemory), Some(DialectMethod::Ping)] {
            assert!(verdict(other, &frame).is_err(), "{other:?}");
        }
        let lie = json!({"success": false, "memory_id": "m_01KHB72V80000000000000000F"});
        assert!(seal_result(DialectMethod::StoreMemory, &id(), &lie).is_err());

        let error = RpcError::new(crate::wire::ErrorCode::ParseError, "not JSON");
        let sealed = seal_error(None, &error).unwrap();
        let frame: Value = serde_json::from_slice(sealed.as_bytes()).unwrap();
        assert_eq!(frame, json!({"jsonrpc": "2.0", "error": {"code": -32700, "message": "not JSON"}}));
        verdict(None, &frame).unwrap();
        verdict(Some(DialectMethod::Ping), &frame).unwrap();
        let strange = error.with_data(json!({"trace": "x"}));
        assert!(seal_error(None, &strange).is_err());

        let Value::Object(params) =
            json!({"session_id": format!("s_{:032x}", 7), "agent_id": "default", "message": "hello"})
        else {
            unreachable!("an object")
        };
        let frame: Value = serde_json::from_slice(seal_welcome(params).unwrap().as_bytes()).unwrap();
        verdict(None, &frame).unwrap();
        assert!(verdict(Some(DialectMethod::Ping), &frame).is_err());
        assert!(seal_welcome(Map::new()).is_err());
    }
}
