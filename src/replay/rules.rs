//! By what a server's side is judged, and what it may do differently: two tables.

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident $name:literal $text:literal;)*) => {
        /// A rule that a live server must keep.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule { $($(#[$doc])* $rule,)* }

        impl Rule {
            /// Every rule, in the order in which it is explained.
            pub const ALL: &[Self] = &[$(Self::$rule,)*];

            /// Its name in verdicts and for `--allow`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$rule => $name,)* }
            }

            /// What it demands.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$rule => $text,)* }
            }

            /// The rule with this name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$rule),)* _ => None }
            }
        }
    };
}

rules! {
    /// A connection comes about.
    Connect "connect" "the server starts, or accepts the connection, as it did in the recording (WebSocket: with the same subprotocol)";
    /// No answer is missing.
    Answered "answered" "every request that was answered in the recording is answered: within the time-out, and before the server ends the connection or the response";
    /// No answer too much.
    Once "once" "no request is answered twice, and nothing is answered that was not asked";
    /// A result stays a result.
    Kind "kind" "a result stays a result (of the same `resultType`, with the same `isError`), an error an error of the same family: parse error, invalid request, unknown method, invalid params or not found, internal error, any other by its own code";
    /// The schema of the message.
    Schema "schema" "every message is valid against the schema of its method, under the revision that this live conversation negotiated";
    /// JSON-RPC 2.0 alone.
    JsonRpc "json-rpc" "all that the server sends as a frame is one JSON-RPC 2.0 message in UTF-8; a batch of them where 2025-03-26 was negotiated";
    /// The members of a result.
    Members "members" "a result has every member that the recorded one has, with a value of the same JSON type, unless the negotiated revision does not know it; items of `content`, `contents` and `messages` are as many, of the same types and roles, and `contents` have their `uri`";
    /// The items of a list.
    Listed "listed" "tools, prompts, resources and templates that the recording lists are listed, and once; a capability that it declares is declared";
    /// The revision.
    Revision "revision" "`initialize` negotiates the recorded revision";
    /// Word for word.
    Exact "exact" "with --exact: texts, descriptions and structured contents are equal too, substituted values aside";
    /// Progress.
    Progress "progress" "progress carries the token of a request that runs, never decreases, and ends with the answer";
    /// Requests of the server.
    Requests "requests" "the server asks only for what the client declared, under ids of its own, and nothing at all in 2026-07-28";
    /// Events that a step waits for.
    Events "events" "changes, updates and acknowledgements that the client saw before its next step come here, too";
    /// Where a message comes.
    Stream "stream" "Streamable HTTP: the answer to a request, and progress for it, come in the response of that request or in one that resumes it, never in that of another or of a GET";
    /// Statuses.
    HttpStatus "http-status" "HTTP: the status is of the recorded class (2xx, 3xx, 4xx, 5xx); in Streamable HTTP 202 stays 202";
    /// Types of bodies.
    HttpType "http-type" "HTTP: the content type is the recorded one; for an answer JSON and an event stream are as good as each other";
    /// Session ids.
    HttpSession "http-session" "HTTP: `initialize` is answered with `Mcp-Session-Id` where it was in the recording, and without it where it was not";
    /// The end.
    Ended "ended" "after the end of input (where the recorded server needed a signal then: after that) or a signal the server is gone within the time-out; after a WebSocket close it closes too";
}

/// What may differ, and why that is nobody's fault.
pub const MAY_DIFFER: &[(&str, &str)] = &[
    ("times", "every step waits for what caused it, never for a time of the recording"),
    (
        "ids",
        "session ids, request ids of the server, cursors, request states, handles and task ids are replaced where the client sends them back",
    ),
    ("who it is", "`serverInfo`, `instructions`, and every `_meta`"),
    (
        "wording",
        "texts, titles, descriptions, icons, error messages and `data`, unless --exact; blobs; times in them",
    ),
    (
        "more of it",
        "members, tools, prompts, resources, capabilities and notifications that the recording has not",
    ),
    ("input and output schemas", "of a tool that is listed: that there is one counts, unless --exact"),
    (
        "order",
        "of answers to requests that ran at the same time, of notifications among them, of items in lists",
    ),
    (
        "how often",
        "how many progress and log notifications come, and how many changes of one thing in a row; that a request which the client cancelled or left is answered or not",
    ),
    ("hints", "`ttlMs`, `cacheScope`, `total`, `hasMore`, annotations, and the switches inside a capability"),
    (
        "transport",
        "heads of HTTP beyond status, content type and session, whether an answer comes as JSON or as a stream, ports, compression",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_by_their_names() {
        for rule in Rule::ALL {
            assert_eq!(Rule::parse(rule.name()), Some(*rule));
        }
        assert_eq!(Rule::parse("nothing"), None);
    }
}
