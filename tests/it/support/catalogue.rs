//! What the fixture server lists and says of itself: every field of the newest revision occurs, so that fitting shows.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tmws::protocol::{CacheHint, CacheScope, Capabilities, Profile, ResourcesCapability};

/// The object that `value` is.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("an object was meant: {other}"),
    }
}

fn icons() -> Value {
    json!([{"src": "https://fixture.example/icon.png", "mimeType": "image/png", "sizes": ["48x48"], "theme": "dark"}])
}

/// The server's `Implementation`, complete.
pub(crate) fn server_info() -> Value {
    json!({
        "name": "fixture",
        "version": "1.2.3",
        "title": "Fixture",
        "description": "Serves the conversations",
        "websiteUrl": "https://fixture.example/",
        "icons": icons(),
    })
}

/// The profile with this name, as the header line `profile:` gives it.
pub(crate) fn profile(name: &str) -> Option<Profile> {
    let full = Capabilities {
        tools: Some(true),
        prompts: Some(true),
        resources: Some(ResourcesCapability { subscribe: true, list_changed: true }),
        completions: true,
        logging: true,
        tasks: false,
        extensions: object(json!({"example.fixture/marks": {}})),
        experimental: object(json!({"marks": {}})),
    };
    let capabilities = match name {
        "full" => full,
        "tasks" => Capabilities { tasks: true, ..full },
        "bare" => Capabilities::default(),
        "quiet" => Capabilities {
            tools: Some(false),
            prompts: Some(false),
            resources: Some(ResourcesCapability { subscribe: false, list_changed: false }),
            logging: false,
            ..full
        },
        _ => return None,
    };
    Some(Profile {
        server_info: object(server_info()),
        instructions: (name != "bare").then(|| "Talk to the fixture.".to_owned()),
        capabilities,
        list_cache: CacheHint { ttl_ms: 60_000, scope: CacheScope::Private },
        read_cache: CacheHint { ttl_ms: 5_000, scope: CacheScope::Public },
    })
}

/// `tools/list`: six tools.
pub(crate) fn tools() -> Arc<[Value]> {
    let plain = json!({"type": "object"});
    Arc::new([
        json!({
            "name": "echo",
            "title": "Echo",
            "description": "Says it back",
            "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": false},
            "annotations": {"title": "Echo it", "readOnlyHint": true, "idempotentHint": true, "openWorldHint": false},
            "icons": icons(),
            "_meta": {"example.fixture/rank": 1},
        }),
        json!({
            "name": "structured",
            "description": "Answers an object",
            "inputSchema": plain,
            "outputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        }),
        json!({
            "name": "structured_array",
            "description": "Answers an array",
            "inputSchema": plain,
            "outputSchema": {"type": "array", "items": {"type": "integer"}},
        }),
        json!({
            "name": "open",
            "description": "Takes anything as `any` and nothing as `none`",
            "inputSchema": {"type": "object", "properties": {"any": true, "none": false}},
        }),
        json!({
            "name": "dialect",
            "description": "Uses the whole dialect",
            "inputSchema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "$defs": {"word": {"$anchor": "word", "type": "string", "minLength": 1}},
                "properties": {"word": {"$ref": "#/$defs/word"}, "kind": {"enum": ["a", "b"]}},
                "allOf": [{"required": ["word"]}],
                "if": {"properties": {"kind": {"const": "a"}}},
                "then": {"required": ["kind"]},
                "additionalProperties": false,
            },
        }),
        json!({"name": "slow", "inputSchema": plain}),
    ])
}

/// `prompts/list`: four prompts.
pub(crate) fn prompts() -> Arc<[Value]> {
    Arc::new([
        json!({
            "name": "p",
            "title": "A prompt",
            "description": "Takes nothing",
            "icons": icons(),
            "_meta": {"example.fixture/rank": 1},
        }),
        json!({
            "name": "p_args",
            "description": "Takes two words",
            "arguments": [
                {"name": "first", "title": "First", "description": "The first word", "required": true},
                {"name": "second"},
            ],
        }),
        json!({"name": "p_image", "description": "Shows an image"}),
        json!({"name": "p_ask"}),
    ])
}

/// `resources/list`: four resources.
pub(crate) fn resources() -> Arc<[Value]> {
    Arc::new([
        json!({
            "uri": "test://a",
            "name": "a",
            "title": "Resource A",
            "description": "A text",
            "mimeType": "text/plain",
            "size": 6,
            "annotations": {"audience": ["user"], "priority": 0.5, "lastModified": "2026-01-02T03:04:05Z"},
            "icons": icons(),
            "_meta": {"example.fixture/rank": 1},
        }),
        json!({"uri": "test://bin", "name": "bin", "mimeType": "application/octet-stream"}),
        json!({"uri": "test://ask", "name": "ask"}),
        json!({"uri": "test://hint", "name": "hint"}),
    ])
}

/// `resources/templates/list`: two templates.
pub(crate) fn templates() -> Arc<[Value]> {
    Arc::new([
        json!({
            "uriTemplate": "test://t/{id}",
            "name": "t",
            "title": "Template T",
            "description": "One item",
            "mimeType": "text/plain",
            "annotations": {"audience": ["assistant"], "priority": 1, "lastModified": "2026-01-02T03:04:05Z"},
            "icons": icons(),
            "_meta": {"example.fixture/rank": 1},
        }),
        json!({"uriTemplate": "test://u/{id}", "name": "u"}),
    ])
}
