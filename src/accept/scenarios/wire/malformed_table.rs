//! What W7 says wrongly, and what must come of it.

/// Where something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Situation {
    /// On a connection on which nothing was said before.
    Fresh,
    /// In a session of this revision.
    Session(&'static str),
    /// With the envelope of the revision without sessions.
    Modern,
}

impl Situation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "before a handshake",
            Self::Session(revision) => revision,
            Self::Modern => "2026-07-28",
        }
    }
}

/// All of them: those whose unattributable errors are told, and those that have no words for them.
pub(super) const SITUATIONS: [Situation; 6] = [
    Situation::Fresh,
    Situation::Session("2024-11-05"),
    Situation::Session("2025-03-26"),
    Situation::Session("2025-06-18"),
    Situation::Session("2025-11-25"),
    Situation::Modern,
];

/// In which situations a row is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    All,
    Fresh,
    Sessions,
    /// In sessions of all revisions but 2025-03-26, which has batches, and without one.
    NoBatches,
    Batches,
    Modern,
}

impl When {
    pub(super) fn is(self, situation: Situation) -> bool {
        let has_batches = situation == Situation::Session("2025-03-26");
        match self {
            Self::All => true,
            Self::Fresh => situation == Situation::Fresh,
            Self::Sessions => matches!(situation, Situation::Session(_)),
            Self::NoBatches => !has_batches,
            Self::Batches => has_batches,
            Self::Modern => situation == Situation::Modern,
        }
    }
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// An error with this code, under the id 7.
    Code(i64),
    /// The same with either code.
    Either(i64, i64),
    /// An error with this code and without an id; nothing in a session of a revision whose errors must have one.
    Told(i64),
    /// Nothing.
    Nothing,
    /// An answer to the id 7.
    Answer,
}

/// What is wrong, the text, where, what comes of it, and whether any server must do so (else it is ours to decide).
pub(super) type Text = (&'static str, &'static str, When, Says, bool);

/// `CLAIM` stands for the envelope's members.
#[rustfmt::skip]
pub(super) const TEXTS: [Text; 61] = [
    ("half an object", "{", When::All, Says::Told(-32700), true),
    ("no JSON at all", "hello", When::All, Says::Told(-32700), true),
    ("a request line of HTTP", "GET / HTTP/1.1", When::All, Says::Told(-32700), true),
    ("a comma too many", r#"{"jsonrpc":"2.0","id":7,"method":"ping",}"#, When::All, Says::Told(-32700), true),
    ("single quotes", "{'jsonrpc':'2.0','id':7,'method':'ping'}", When::All, Says::Told(-32700), true),
    ("a comment", r#"{"jsonrpc":"2.0",/*x*/"id":7,"method":"ping"}"#, When::All, Says::Told(-32700), true),
    ("a leading zero", r#"{"jsonrpc":"2.0","id":07,"method":"ping"}"#, When::All, Says::Told(-32700), true),
    ("not a number", r#"{"jsonrpc":"2.0","id":NaN,"method":"ping"}"#, When::All, Says::Told(-32700), false),
    (
        "a lone surrogate",
        r#"{"jsonrpc":"2.0","id":"\ud800","method":"ping"}"#,
        When::All,
        Says::Told(-32700),
        false,
    ),
    (
        "a byte order mark",
        "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}",
        When::All,
        Says::Told(-32700),
        false,
    ),
    ("two values", r#"{"jsonrpc":"2.0","id":7,"method":"ping"} {}"#, When::All, Says::Told(-32700), true),
    ("nothing but null", "null", When::All, Says::Told(-32600), true),
    ("a number", "42", When::All, Says::Told(-32600), true),
    ("a text", "\"ping\"", When::All, Says::Told(-32600), true),
    ("true", "true", When::All, Says::Told(-32600), true),
    ("an empty object", "{}", When::All, Says::Told(-32600), true),
    ("an empty batch", "[]", When::All, Says::Told(-32600), true),
    (
        "a batch where there are none",
        r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#,
        When::NoBatches,
        Says::Told(-32600),
        false,
    ),
    (
        "a batch where there are some",
        r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#,
        When::Batches,
        Says::Answer,
        false,
    ),
    ("an id of null", r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, When::All, Says::Told(-32600), true),
    ("an id of true", r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#, When::All, Says::Told(-32600), true),
    (
        "an id with a fraction",
        r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
        When::All,
        Says::Told(-32600),
        true,
    ),
    (
        "an id that is an object",
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        When::All,
        Says::Told(-32600),
        true,
    ),
    (
        "an id that is a list",
        r#"{"jsonrpc":"2.0","id":[7],"method":"ping"}"#,
        When::All,
        Says::Told(-32600),
        true,
    ),
    ("two ids", r#"{"jsonrpc":"2.0","id":7,"id":8,"method":"ping"}"#, When::All, Says::Told(-32600), false),
    (
        "two methods",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","method":"x"}"#,
        When::All,
        Says::Code(-32600),
        false,
    ),
    (
        "another version of JSON-RPC",
        r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#,
        When::All,
        Says::Code(-32600),
        true,
    ),
    (
        "a version that is a number",
        r#"{"jsonrpc":2.0,"id":7,"method":"ping"}"#,
        When::All,
        Says::Code(-32600),
        true,
    ),
    ("no version", r#"{"id":7,"method":"ping"}"#, When::All, Says::Code(-32600), true),
    (
        "a method that is a number",
        r#"{"jsonrpc":"2.0","id":7,"method":7}"#,
        When::All,
        Says::Code(-32600),
        true,
    ),
    ("a method of null", r#"{"jsonrpc":"2.0","id":7,"method":null}"#, When::All, Says::Code(-32600), true),
    (
        "a method that is a list",
        r#"{"jsonrpc":"2.0","id":7,"method":["ping"]}"#,
        When::All,
        Says::Code(-32600),
        true,
    ),
    ("neither method nor outcome", r#"{"jsonrpc":"2.0","id":7}"#, When::All, Says::Code(-32600), true),
    (
        "method and result",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}"#,
        When::All,
        Says::Code(-32600),
        false,
    ),
    (
        "method and error",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","error":{"code":1,"message":"x"}}"#,
        When::All,
        Says::Code(-32600),
        false,
    ),
    (
        "params that are a list",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}"#,
        When::Sessions,
        Says::Either(-32600, -32602),
        true,
    ),
    (
        "params that are a text",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":"x"}"#,
        When::All,
        Says::Either(-32600, -32602),
        true,
    ),
    (
        "params of null",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":null}"#,
        When::All,
        Says::Either(-32600, -32602),
        false,
    ),
    (
        "an unknown method",
        r#"{"jsonrpc":"2.0","id":7,"method":"no/such"}"#,
        When::Sessions,
        Says::Code(-32601),
        true,
    ),
    (
        "a method in capitals",
        r#"{"jsonrpc":"2.0","id":7,"method":"Tools/List"}"#,
        When::Sessions,
        Says::Code(-32601),
        true,
    ),
    ("an empty method", r#"{"jsonrpc":"2.0","id":7,"method":""}"#, When::Sessions, Says::Code(-32601), true),
    (
        "a method of the server",
        r#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#,
        When::Sessions,
        Says::Code(-32601),
        true,
    ),
    (
        "a notification with an id",
        r#"{"jsonrpc":"2.0","id":7,"method":"notifications/initialized"}"#,
        When::Sessions,
        Says::Code(-32601),
        true,
    ),
    (
        "a call without params",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#,
        When::Sessions,
        Says::Code(-32602),
        true,
    ),
    (
        "a call without a name",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}"#,
        When::Sessions,
        Says::Code(-32602),
        true,
    ),
    (
        "a tool whose name is a number",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":7}}"#,
        When::Sessions,
        Says::Code(-32602),
        true,
    ),
    (
        "arguments that are a list",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":[]}}"#,
        When::Sessions,
        Says::Code(-32602),
        true,
    ),
    (
        "a cursor that is a number",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"cursor":7}}"#,
        When::Sessions,
        Says::Code(-32602),
        true,
    ),
    (
        "a cursor that nobody gave out",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"cursor":"nobody"}}"#,
        When::Sessions,
        Says::Code(-32602),
        false,
    ),
    (
        "a second handshake",
        r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#,
        When::Sessions,
        Says::Code(-32600),
        false,
    ),
    ("an answer to nothing", r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, When::All, Says::Nothing, true),
    (
        "an unknown notification",
        r#"{"jsonrpc":"2.0","method":"notifications/no-such"}"#,
        When::All,
        Says::Nothing,
        true,
    ),
    ("a request without an id", r#"{"jsonrpc":"2.0","method":"tools/list"}"#, When::All, Says::Nothing, true),
    (
        "cancelling what is not there",
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":987654}}"#,
        When::All,
        Says::Nothing,
        true,
    ),
    (
        "a list before the handshake",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#,
        When::Fresh,
        Says::Code(-32602),
        false,
    ),
    (
        "a handshake without params",
        r#"{"jsonrpc":"2.0","id":7,"method":"initialize"}"#,
        When::Fresh,
        Says::Code(-32602),
        true,
    ),
    (
        "a handshake whose version is a number",
        r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":7,"capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#,
        When::Fresh,
        Says::Code(-32602),
        true,
    ),
    (
        "a handshake with a claim",
        r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{CLAIM}}"#,
        When::Modern,
        Says::Code(-32601),
        true,
    ),
    (
        "ping with a claim",
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{CLAIM}}"#,
        When::Modern,
        Says::Code(-32601),
        true,
    ),
    (
        "an unknown method with a claim",
        r#"{"jsonrpc":"2.0","id":7,"method":"no/such","params":{CLAIM}}"#,
        When::Modern,
        Says::Code(-32601),
        true,
    ),
    (
        "an unknown tool with a claim",
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{CLAIM,"name":"no-such-tool"}}"#,
        When::Modern,
        Says::Code(-32602),
        true,
    ),
];

/// A frame of WebSocket that breaks its rules: first byte, payload, whether it is masked, and the code of the close.
pub(super) type Frame = (&'static str, &'static [(u8, &'static [u8])], u16);

pub(super) const FRAMES: [Frame; 11] = [
    ("a binary message", &[(0x82, b"{}")], 1003),
    ("a binary message in fragments", &[(0x02, b"{"), (0x80, b"}")], 1003),
    ("text that is not UTF-8", &[(0x81, b"\"\xff\"")], 1007),
    ("text that is not UTF-8 across fragments", &[(0x01, b"\xe2"), (0x80, b"x")], 1007),
    ("a compressed message that nobody agreed on", &[(0xc1, b"{}")], 1002),
    ("a continuation of nothing", &[(0x80, b"x")], 1002),
    ("an opcode that there is not", &[(0x83, b"x")], 1002),
    ("a ping in fragments", &[(0x09, b"x")], 1002),
    ("a ping that is too long", &[(0x89, &[0; 126])], 1002),
    ("a close of one byte", &[(0x88, b"x")], 1002),
    ("a message within a message", &[(0x01, b"{"), (0x81, b"{}")], 1002),
];
