//! Where our verdict differs from the published schema files on purpose, and why.
//!
//! Three kinds: a published definition that refuses legal traffic (its text is repaired, and repaired so it agrees with
//! ours everywhere), a rule of the specification's prose that no published definition holds (the gate applies it in
//! code), and a released file of our own that refuses legal traffic: it never changes, so it is loosened here. Each entry
//! carries a tripwire: a message on which the two verdicts differ.

use serde_json::Value;

use super::Definition;
use crate::{revision::Revision, wire::Method};

/// Our verdict on the tripwire; that of the file that is wrong is the opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Legal: we accept it.
    Accept,
    /// Illegal: we refuse it.
    Reject,
}

/// What makes the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The `type` at this JSON Pointer of the published file lacks these names.
    MissingTypes {
        /// Where in the published file.
        pointer: &'static str,
        /// What is to be added.
        types: &'static [&'static str],
    },
    /// A released file of ours refuses what is legal. The file stays as it is; its definitions are loosened as they are
    /// loaded.
    ReleasedTooStrict {
        /// The document, as in `2025-06-18/tools`.
        document: &'static str,
        /// Where in it, as JSON Pointer.
        pointer: &'static str,
        /// What is let go.
        loosening: Loosening,
    },
    /// The gate applies a rule of the prose in code.
    Rule,
}

/// A change to a part of a schema after which more fits it than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loosening {
    /// `type` names these too.
    Types(&'static [&'static str]),
    /// `enum` has these too, each as JSON.
    Values(&'static [&'static str]),
    /// `required` lacks these.
    Optional(&'static [&'static str]),
    /// The keyword is gone: a bound, a pattern, `additionalProperties`.
    Without(&'static str),
}

impl Loosening {
    /// Changes `schema`; false where there is nothing of the kind to loosen.
    #[must_use]
    pub fn apply(self, schema: &mut Value) -> bool {
        let Some(members) = schema.as_object_mut() else { return false };
        match self {
            Self::Types(names) => {
                let Some(types) = members.get_mut("type") else { return false };
                if let Value::String(only) = types {
                    *types = Value::Array(vec![Value::String(std::mem::take(only))]);
                }
                let Some(types) = types.as_array_mut() else { return false };
                types.extend(names.iter().map(|name| Value::from(*name)));
                true
            }
            Self::Values(texts) => {
                let Some(values) = members.get_mut("enum").and_then(Value::as_array_mut) else {
                    return false;
                };
                values.extend(texts.iter().filter_map(|text| serde_json::from_str::<Value>(text).ok()));
                true
            }
            Self::Optional(names) => {
                let Some(required) = members.get_mut("required").and_then(Value::as_array_mut) else {
                    return false;
                };
                let before = required.len();
                required.retain(|name| !names.iter().any(|optional| name == optional));
                required.len() + names.len() == before
            }
            Self::Without(keyword) => members.shift_remove(keyword).is_some(),
        }
    }
}

/// Loosens the released document of `group` under `revision` as the table says.
pub(super) fn loosen(revision: Revision, group: &str, schema: &mut Value) {
    for erratum in ERRATA {
        if let Cause::ReleasedTooStrict { document, pointer, loosening } = erratum.cause
            && document.split_once('/') == Some((revision.as_str(), group))
        {
            let applied = schema.pointer_mut(pointer).is_some_and(|part| loosening.apply(part));
            debug_assert!(applied, "{document}{pointer} has nothing of that kind to loosen");
        }
    }
}

/// One deliberate difference.
#[derive(Clone, Copy, Debug)]
pub struct Erratum {
    /// The revisions concerned.
    pub revisions: &'static [Revision],
    /// The definition that the tripwire is an instance of.
    pub definition: Definition,
    /// Our verdict.
    pub ours: Verdict,
    /// What makes the difference.
    pub cause: Cause,
    /// Why ours is right.
    pub reason: &'static str,
    /// A message on which the verdicts differ.
    pub tripwire: &'static str,
}

const A_TO_D: &[Revision] = &Revision::LEGACY;
const C: &[Revision] = &[Revision::V2025_06_18];
const D: &[Revision] = &[Revision::V2025_11_25];
const D_AND_E: &[Revision] = &[Revision::V2025_11_25, Revision::V2026_07_28];
const E: &[Revision] = &[Revision::V2026_07_28];
const ALL: &[Revision] = &Revision::ALL;

/// Every deliberate difference.
pub const ERRATA: &[Erratum] = &[
    Erratum {
        revisions: C,
        definition: Definition::Result(Method::ElicitationCreate),
        ours: Verdict::Accept,
        cause: Cause::MissingTypes {
            pointer: "/definitions/ElicitResult/properties/content/additionalProperties/type",
            types: &["number"],
        },
        reason: "a form may hold number fields, so their values need not be whole; the source of the published file says number",
        tripwire: r#"{"action":"accept","content":{"share":0.5}}"#,
    },
    Erratum {
        revisions: D_AND_E,
        definition: Definition::Result(Method::ElicitationCreate),
        ours: Verdict::Accept,
        cause: Cause::MissingTypes {
            pointer: "/$defs/ElicitResult/properties/content/additionalProperties/anyOf/1/type",
            types: &["number"],
        },
        reason: "a form may hold number fields, so their values need not be whole; the source of the published file says number",
        tripwire: r#"{"action":"accept","content":{"share":0.5}}"#,
    },
    Erratum {
        revisions: E,
        definition: Definition::Message(Method::ServerDiscover),
        ours: Verdict::Accept,
        cause: Cause::MissingTypes { pointer: "/$defs/JSONValue/anyOf/2/type", types: &["number", "null"] },
        reason: "settings of extensions and experimental features are any JSON; fractions and null are JSON",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"com.example/x":{"ratio":0.5,"none":null}}}}}}"#,
    },
    Erratum {
        revisions: A_TO_D,
        definition: Definition::Response(Method::Ping),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "an empty result is `{}` or holds `_meta` alone; strict clients drop anything else",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"done":true}}"#,
    },
    Erratum {
        revisions: A_TO_D,
        definition: Definition::Response(Method::ToolsCall),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "`resultType` came with 2026-07-28 and is not said to older peers",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[]}}"#,
    },
    Erratum {
        revisions: A_TO_D,
        definition: Definition::Response(Method::ResourcesRead),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "`ttlMs` and `cacheScope` came with 2026-07-28 and are not said to older peers",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[],"ttlMs":0}}"#,
    },
    Erratum {
        revisions: &[Revision::V2024_11_05, Revision::V2025_03_26],
        definition: Definition::Response(Method::ToolsCall),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "`structuredContent` came with 2025-06-18 and is not said to older peers",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"structuredContent":{}}}"#,
    },
    Erratum {
        revisions: A_TO_D,
        definition: Definition::Response(Method::CompletionComplete),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "at most 100 values per answer (server/utilities/completion)",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"completion":{"values":["","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","","",""]}}}"#,
    },
    Erratum {
        revisions: A_TO_D,
        definition: Definition::Response(Method::RootsList),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "the URI of a root must be a `file:` one (client/roots)",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[{"uri":"https://example.com/"}]}}"#,
    },
    Erratum {
        revisions: E,
        definition: Definition::Result(Method::RootsList),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "the URI of a root must be a `file:` one (client/roots)",
        tripwire: r#"{"roots":[{"uri":"https://example.com/"}]}"#,
    },
    Erratum {
        revisions: D,
        definition: Definition::Message(Method::NotificationsCancelled),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "outbound only: a cancellation that names no request says nothing (tasks are cancelled otherwise)",
        tripwire: r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}"#,
    },
    Erratum {
        revisions: D,
        definition: Definition::Message(Method::SamplingCreateMessage),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "a message with tool results holds nothing else (client/sampling, tool result messages)",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"maxTokens":1,"messages":[{"role":"assistant","content":{"type":"tool_use","id":"u","name":"n","input":{}}},{"role":"user","content":[{"type":"tool_result","toolUseId":"u","content":[]},{"type":"text","text":""}]}]}}"#,
    },
    Erratum {
        revisions: D,
        definition: Definition::Message(Method::SamplingCreateMessage),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "every tool use is answered by a tool result in the next message (client/sampling, tool use and result balance)",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"maxTokens":1,"messages":[{"role":"assistant","content":{"type":"tool_use","id":"u","name":"n","input":{}}}]}}"#,
    },
    Erratum {
        revisions: &[Revision::V2025_06_18, Revision::V2025_11_25],
        definition: Definition::Message(Method::ElicitationCreate),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "the choices of a form field are strings; in the published form a bad list passes as a plain text field",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"","requestedSchema":{"type":"object","properties":{"a":{"type":"string","enum":[1]}}}}}"#,
    },
    Erratum {
        revisions: E,
        definition: Definition::Ask(Method::ElicitationCreate),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "the choices of a form field are strings; in the published form a bad list passes as a plain text field",
        tripwire: r#"{"method":"elicitation/create","params":{"message":"","requestedSchema":{"type":"object","properties":{"a":{"type":"string","enum":[1]}}}}}"#,
    },
    Erratum {
        revisions: E,
        definition: Definition::InputRequiredResponse,
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "at least one of `inputRequests` and `requestState` is given (basic/patterns/mrtr)",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required"}}"#,
    },
    Erratum {
        revisions: E,
        definition: Definition::InputRequiredResponse,
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "a result that asks for more is never cached, so it carries no cache hint",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"s","ttlMs":0}}"#,
    },
    Erratum {
        revisions: E,
        definition: Definition::Response(Method::PromptsList),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "a `resultType` that neither the core nor an extension in use defines means nothing to the client",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"partial","prompts":[],"ttlMs":0,"cacheScope":"public"}}"#,
    },
    Erratum {
        revisions: E,
        definition: Definition::Error(super::ErrorShape::General),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "-32002 is not to be sent from 2026-07-28 on; a missing resource is -32602",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"no such resource"}}"#,
    },
    Erratum {
        revisions: &[
            Revision::V2024_11_05,
            Revision::V2025_03_26,
            Revision::V2025_06_18,
            Revision::V2026_07_28,
        ],
        definition: Definition::Error(super::ErrorShape::General),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "-32042 exists in 2025-11-25 alone",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"visit a page first"}}"#,
    },
    Erratum {
        revisions: ALL,
        definition: Definition::Message(Method::ToolsCall),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "a message has either `method` or an outcome, not both",
        tripwire: r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"","io.modelcontextprotocol/clientCapabilities":{}}},"result":{}}"#,
    },
    Erratum {
        revisions: ALL,
        definition: Definition::Message(Method::NotificationsCancelled),
        ours: Verdict::Reject,
        cause: Cause::Rule,
        reason: "a notification has no id, not even null",
        tripwire: r#"{"jsonrpc":"2.0","id":null,"method":"notifications/cancelled","params":{"requestId":1}}"#,
    },
];

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::{
        schema::{ErrorShape, Gate, verdict},
        wire::{Direction, Envelope, ErrorCode, Frame, Kind, RequestId, RpcError, parse_frame},
    };

    /// The verdict of the whole gate, with its rules, on a message in the direction in which it travels.
    fn gate_verdict(revision: Revision, erratum: &Erratum) -> Verdict {
        let gate = Gate::new();
        let id = RequestId::from_integer(1);
        let value: Value = serde_json::from_str(erratum.tripwire).unwrap();
        let params = || value.get("params").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
        let parsed = || match parse_frame(erratum.tripwire.as_bytes()).unwrap() {
            Frame::Single(envelope) => envelope,
            Frame::Batch(_) => panic!("a tripwire is one message"),
        };
        let passes = match erratum.definition {
            Definition::Message(method) => match (method.row().kind, parsed()) {
                (_, Envelope::Invalid { .. }) => false,
                (Kind::Request, Envelope::Request(request)) => {
                    gate.admit_request(revision, method, request).is_ok()
                }
                (Kind::Ask, _) => gate.seal_request(revision, method, &id, params()).is_ok(),
                (Kind::Notification, _) => gate.seal_notification(revision, method, Some(params())).is_ok(),
                (Kind::Request, other) => panic!("no request: {other:?}"),
            },
            Definition::Response(method) if method.row().direction == Direction::ToClient => match parsed() {
                Envelope::Response(response) => gate.admit_answer(revision, method, response).is_ok(),
                other => panic!("no response: {other:?}"),
            },
            Definition::Response(method) => gate.seal_result(revision, method, &id, &value["result"]).is_ok(),
            Definition::InputRequiredResponse => {
                gate.seal_result(revision, Method::ToolsCall, &id, &value["result"]).is_ok()
            }
            Definition::Result(method) => gate.admit_input_response(revision, method, value.clone()).is_ok(),
            Definition::Ask(method) => gate.check_input_request(revision, method, &params()).is_ok(),
            Definition::TaskCreatedResponse => {
                gate.seal_created_task(revision, &id, &value["result"]).is_ok()
            }
            Definition::InputRequired | Definition::TaskCreated => panic!("use the whole response"),
            Definition::Error(_) => {
                let code = match value["error"]["code"].as_i64() {
                    Some(-32002) => ErrorCode::ResourceNotFoundLegacy,
                    Some(-32042) => ErrorCode::UrlElicitationRequired,
                    other => panic!("no errata about {other:?}"),
                };
                gate.seal_error(Some(revision), Some(&id), &RpcError::new(code, "")).is_ok()
            }
        };
        if passes { Verdict::Accept } else { Verdict::Reject }
    }

    #[test]
    fn every_tripwire_gets_the_verdict_stated_here() {
        for erratum in ERRATA {
            for &revision in erratum.revisions {
                assert_eq!(gate_verdict(revision, erratum), erratum.ours, "{revision}: {}", erratum.reason);
            }
        }
    }

    #[test]
    fn what_a_rule_refuses_the_schema_alone_accepts() {
        for erratum in ERRATA.iter().filter(|erratum| erratum.cause == Cause::Rule) {
            for &revision in erratum.revisions {
                let value = serde_json::from_str(erratum.tripwire).unwrap();
                assert_eq!(verdict(revision, erratum.definition, &value), Ok(()), "{}", erratum.reason);
            }
        }
    }

    #[test]
    fn error_shapes_are_errata_only_where_the_code_has_none_of_its_own() {
        assert_eq!(ErrorShape::of(Revision::V2026_07_28, -32042), ErrorShape::General);
        assert_eq!(ErrorShape::of(Revision::V2025_11_25, -32042), ErrorShape::UrlElicitationRequired);
    }
}
