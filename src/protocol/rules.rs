//! The rules of the protocol that are tables: where a request is routed, which code an error has, who may be told what.

use serde_json::Value;

use super::meta::{self, EnvelopeFault};
use crate::{
    revision::Revision,
    wire::{Direction, ErrorCode, Kind, Method},
};

/// Whether a request claims to be modern: the one thing in its body that decides the era.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// `params._meta` names no protocol version, or there is no such object.
    Absent,
    /// It does, but the envelope is incomplete or ill-typed: -32602.
    Malformed,
    /// The envelope is complete, but names a revision that is not served statelessly: -32022.
    Unsupported,
    /// A complete envelope of a revision served.
    Valid,
}

impl Claim {
    /// The claim of a request, given as the whole message.
    #[must_use]
    pub fn of_message(message: &Value) -> Self {
        Self::of(meta::envelope_of(message).as_ref())
    }

    pub(super) const fn of(envelope: Option<&Result<meta::Envelope<'_>, EnvelopeFault>>) -> Self {
        match envelope {
            None => Self::Absent,
            Some(Err(EnvelopeFault::Malformed(_))) => Self::Malformed,
            Some(Err(EnvelopeFault::Unsupported { .. })) => Self::Unsupported,
            Some(Ok(_)) => Self::Valid,
        }
    }
}

/// What the era decision has to know of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MethodClass {
    Initialize,
    Ping,
    /// A request that some legacy revision has.
    Legacy,
    /// A request that only 2026-07-28 has.
    Modern,
    /// Unknown.
    Other,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The modern ladder: envelope, version, method, params.
    Modern,
    /// Negotiation of a legacy session.
    Handshake,
    /// -32600: there is a session already.
    AlreadyInitialized,
    /// Served whatever the state.
    Pong,
    /// -32601.
    Unknown,
    /// -32602: neither a session nor an envelope.
    NoSession,
    /// The negotiated revision.
    Session,
}

/// The era decision, message by message; nothing is ever pinned. Claim, method, route before and after `initialize`.
pub(super) const ROUTES: &[(Claim, MethodClass, Route, Route)] = &[
    (Claim::Valid, MethodClass::Initialize, Route::Modern, Route::Modern),
    (Claim::Valid, MethodClass::Ping, Route::Modern, Route::Modern),
    (Claim::Valid, MethodClass::Legacy, Route::Modern, Route::Modern),
    (Claim::Valid, MethodClass::Modern, Route::Modern, Route::Modern),
    (Claim::Valid, MethodClass::Other, Route::Modern, Route::Modern),
    (Claim::Malformed, MethodClass::Initialize, Route::Handshake, Route::AlreadyInitialized),
    (Claim::Unsupported, MethodClass::Initialize, Route::Handshake, Route::AlreadyInitialized),
    (Claim::Malformed, MethodClass::Ping, Route::Modern, Route::Modern),
    (Claim::Unsupported, MethodClass::Ping, Route::Modern, Route::Modern),
    (Claim::Malformed, MethodClass::Legacy, Route::Modern, Route::Modern),
    (Claim::Unsupported, MethodClass::Legacy, Route::Modern, Route::Modern),
    (Claim::Malformed, MethodClass::Modern, Route::Modern, Route::Modern),
    (Claim::Malformed, MethodClass::Other, Route::Modern, Route::Modern),
    (Claim::Unsupported, MethodClass::Modern, Route::Modern, Route::Modern),
    (Claim::Unsupported, MethodClass::Other, Route::Modern, Route::Modern),
    (Claim::Absent, MethodClass::Initialize, Route::Handshake, Route::AlreadyInitialized),
    (Claim::Absent, MethodClass::Ping, Route::Pong, Route::Pong),
    (Claim::Absent, MethodClass::Legacy, Route::NoSession, Route::Session),
    (Claim::Absent, MethodClass::Modern, Route::NoSession, Route::Unknown),
    (Claim::Absent, MethodClass::Other, Route::Unknown, Route::Unknown),
];

/// Looks a request up in [`ROUTES`].
pub(super) fn route(claim: Claim, class: MethodClass, initialized: bool) -> Route {
    ROUTES
        .iter()
        .find(|(of_claim, of_class, ..)| *of_claim == claim && *of_class == class)
        .map_or(Route::Unknown, |(_, _, before, after)| if initialized { *after } else { *before })
}

/// The request of a client with this name, in whatever revision.
pub(super) fn client_request(name: &str) -> Option<Method> {
    Method::parse(name).filter(|method| {
        let row = method.row();
        row.kind == Kind::Request && row.direction != Direction::ToClient
    })
}

/// The class of a method name.
pub(super) fn class(method: Option<Method>) -> MethodClass {
    match method {
        Some(Method::Initialize) => MethodClass::Initialize,
        Some(Method::Ping) => MethodClass::Ping,
        Some(method) if Revision::LEGACY.into_iter().any(|revision| method.exists_in(revision)) => {
            MethodClass::Legacy
        }
        Some(_) => MethodClass::Modern,
        None => MethodClass::Other,
    }
}

/// What can go wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Situation {
    /// Not JSON, not UTF-8, too deep, too long.
    NotJson,
    /// JSON, but no message that may be sent here.
    NotAMessage,
    /// No such method in this revision, or its capability is not advertised.
    UnknownMethod,
    /// Params against the method's schema, unknown names, bad cursors, log levels, states, tokens.
    BadParams,
    /// A method without a session and without an envelope.
    NoSession,
    /// A second `initialize`.
    AlreadyInitialized,
    /// The id of a request in flight, or one that comes twice in a batch.
    IdInUse,
    /// No such resource.
    ResourceNotFound,
    /// The client did not declare what the request needs.
    MissingCapability,
    /// The revision claimed is not served statelessly.
    UnsupportedVersion,
    /// A header and the body disagree.
    HeaderMismatch,
    /// More than is let in at once.
    Busy,
    /// Our bug, a lost backend, a bound reached.
    Internal,
}

impl Situation {
    /// How many there are.
    pub(super) const COUNT: usize = Self::Internal as usize + 1;
    /// Every situation's name in figures, in the order of the variants.
    pub(super) const RULES: [&'static str; Self::COUNT] = [
        "not-json",
        "not-a-message",
        "unknown-method",
        "bad-params",
        "no-session",
        "already-initialized",
        "id-in-use",
        "resource-not-found",
        "missing-capability",
        "unsupported-version",
        "header-mismatch",
        "busy",
        "internal",
    ];
}

use ErrorCode::{
    HeaderMismatch, InternalError, InvalidParams, InvalidRequest, MethodNotFound,
    MissingRequiredClientCapability, ParseError, ResourceNotFoundLegacy, TooManyRequests,
    UnsupportedProtocolVersion,
};

/// The code of each situation: columns as in [`Revision::ALL`], last the connection without a revision yet.
pub(super) const CODES: &[(Situation, [ErrorCode; 6])] = &[
    (Situation::NotJson, [ParseError; 6]),
    (Situation::NotAMessage, [InvalidRequest; 6]),
    (Situation::UnknownMethod, [MethodNotFound; 6]),
    (Situation::BadParams, [InvalidParams; 6]),
    (Situation::NoSession, [InvalidParams; 6]),
    (Situation::AlreadyInitialized, [InvalidRequest; 6]),
    (Situation::IdInUse, [InvalidRequest; 6]),
    (
        Situation::ResourceNotFound,
        [
            ResourceNotFoundLegacy,
            ResourceNotFoundLegacy,
            ResourceNotFoundLegacy,
            ResourceNotFoundLegacy,
            InvalidParams,
            InvalidParams,
        ],
    ),
    (
        Situation::MissingCapability,
        [
            InvalidParams,
            InvalidParams,
            InvalidParams,
            InvalidParams,
            MissingRequiredClientCapability,
            InvalidParams,
        ],
    ),
    (
        Situation::UnsupportedVersion,
        [
            InvalidParams,
            InvalidParams,
            InvalidParams,
            InvalidParams,
            UnsupportedProtocolVersion,
            UnsupportedProtocolVersion,
        ],
    ),
    (
        Situation::HeaderMismatch,
        [InvalidParams, InvalidParams, InvalidParams, InvalidParams, HeaderMismatch, InvalidParams],
    ),
    (Situation::Busy, [TooManyRequests; 6]),
    (Situation::Internal, [InternalError; 6]),
];

/// Looks a code up in [`CODES`].
pub(super) fn code(situation: Situation, revision: Option<Revision>) -> ErrorCode {
    let column = revision.map_or(Revision::ALL.len(), Revision::index);
    CODES.iter().find(|(of, _)| *of == situation).map_or(InternalError, |(_, codes)| codes[column])
}

/// Whether an error may go without an id; columns as in [`CODES`]. Where not, there is no schema-valid answer to what
/// cannot be attributed, and the connection stays silent.
pub(super) const ERROR_WITHOUT_ID: [bool; 6] = [false, false, false, true, true, true];

/// Whether an error response may lack its `id`; `None` stands for no handshake.
#[must_use]
pub fn error_may_lack_id(revision: Option<Revision>) -> bool {
    ERROR_WITHOUT_ID[revision.map_or(Revision::ALL.len(), Revision::index)]
}

/// Whether a legacy session is told what it did not ask for: list changes, and log messages before it sets a level.
/// Columns as in [`Revision::ALL`]. The first clients of 2024-11-05 read only while they wait for an answer, and stop for
/// good on a message that comes unasked; so that revision is neither promised nor sent any. What was asked for
/// (progress, updates of resources subscribed to, logs after `logging/setLevel`) reaches it as the others.
pub(super) const TOLD_UNASKED: [bool; 5] = [false, true, true, true, true];

/// Looks [`TOLD_UNASKED`] up.
pub(super) const fn is_told_unasked(revision: Revision) -> bool {
    TOLD_UNASKED[revision.index()]
}

/// Whether arrays of messages exist; only 2025-03-26 has them.
pub(super) fn has_batches(revision: Option<Revision>) -> bool {
    revision == Some(Revision::V2025_03_26)
}

/// The methods that may need something of the client first: three whose modern result may be `input_required`, and in
/// 2025-11-25 the one that waits for a task.
pub(super) fn may_ask(method: Method) -> bool {
    matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead | Method::TasksResult)
}

/// The member of a list result that holds the items, for every list.
pub(super) const LISTS: &[(Method, &str)] = &[
    (Method::ToolsList, "tools"),
    (Method::PromptsList, "prompts"),
    (Method::ResourcesList, "resources"),
    (Method::ResourcesTemplatesList, "resourceTemplates"),
    (Method::TasksList, "tasks"),
];

/// Looks [`LISTS`] up.
pub(super) fn list_member(method: Method) -> Option<&'static str> {
    LISTS.iter().find(|(of, _)| *of == method).map(|(_, member)| *member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_exactly_one_route() {
        for claim in [Claim::Absent, Claim::Malformed, Claim::Unsupported, Claim::Valid] {
            for class in [
                MethodClass::Initialize,
                MethodClass::Ping,
                MethodClass::Legacy,
                MethodClass::Modern,
                MethodClass::Other,
            ] {
                let rows = ROUTES.iter().filter(|row| row.0 == claim && row.1 == class).count();
                assert_eq!(rows, 1, "{claim:?} {class:?}");
            }
        }
    }

    #[test]
    fn a_claim_is_never_served_by_a_session_and_a_session_never_takes_an_unknown_method() {
        for (claim, class, before, after) in ROUTES {
            for route in [before, after] {
                assert!(!(*claim == Claim::Valid && *route != Route::Modern), "{claim:?} {class:?}");
                assert!(!(*route == Route::Session && *class != MethodClass::Legacy), "{claim:?} {class:?}");
            }
            assert_ne!(*before, Route::Session);
            assert_ne!(*after, Route::Handshake);
        }
    }

    #[test]
    fn no_code_of_one_era_reaches_the_other() {
        for (situation, codes) in CODES {
            for revision in Revision::LEGACY {
                let code = codes[revision.index()].code();
                assert!(!(-32099..=-32020).contains(&code), "{situation:?} under {revision}");
            }
            let modern = codes[Revision::V2026_07_28.index()].code();
            assert!(modern != -32002 && modern != -32042, "{situation:?}");
        }
    }

    #[test]
    fn every_situation_has_one_row() {
        for (situation, _) in CODES {
            assert_eq!(CODES.iter().filter(|row| row.0 == *situation).count(), 1, "{situation:?}");
        }
        assert_eq!(CODES.len(), Situation::COUNT);
        assert_eq!(Situation::RULES[Situation::UnsupportedVersion as usize], "unsupported-version");
    }

    #[test]
    fn requests_of_the_server_are_unknown_methods_for_a_client() {
        for name in [
            "roots/list",
            "sampling/createMessage",
            "elicitation/create",
            "notifications/initialized",
            "nope",
        ] {
            assert_eq!(client_request(name), None, "{name}");
            assert_eq!(class(client_request(name)), MethodClass::Other);
        }
        assert_eq!(class(client_request("server/discover")), MethodClass::Modern);
        assert_eq!(class(client_request("resources/subscribe")), MethodClass::Legacy);
    }
}
