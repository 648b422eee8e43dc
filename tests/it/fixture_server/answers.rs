//! What is answered without asking anybody.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tmws::{
    revision::{Era, Revision},
    wire::ErrorCode,
};

use super::{peer::Peer, server};

/// Arguments of the tools that need some.
fn arguments(tool: &str) -> Value {
    match tool {
        "echo" => json!({"text": "hello"}),
        "add" => json!({"a": 1, "b": 2}),
        "slow" => json!({"ms": 3}),
        "json_schema_2020_12_tool" => json!({"email": "a@example.org"}),
        "test_sampling" => json!({"prompt": "Say something"}),
        "test_elicitation" => json!({"message": "Say something"}),
        "greet" => json!({"name": "World"}),
        "slow_compute" => json!({"seconds": 0}),
        "confirm_delete" => json!({"filename": "a"}),
        _ => json!({}),
    }
}

async fn listed(peer: &mut Peer, method: &str, key: &str) -> Vec<Value> {
    let list = peer.request(method, json!({})).await;
    assert_eq!(list.result().get("nextCursor"), None, "one page: {method}");
    list.result()[key].as_array().unwrap().clone()
}

fn named(items: &[Value], key: &str) -> Vec<String> {
    items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_listed_can_be_had_in_every_revision() {
    let server = server().await;
    for revision in Revision::ALL {
        let mut peer = Peer::new(&server, revision).await;
        // The gate turns an answer that does not fit its schema into -32603.
        let mut broken = BTreeMap::new();
        let tools = listed(&mut peer, "tools/list", "tools").await;
        assert_eq!(named(&tools[..3], "name"), ["echo", "add", "slow"]);
        for tool in named(&tools, "name") {
            let answer = peer.call(&tool, arguments(&tool)).await;
            if answer.code() != 0 {
                broken.insert(tool, answer.response);
            }
        }
        for prompt in listed(&mut peer, "prompts/list", "prompts").await {
            let names = prompt["arguments"].as_array().cloned().unwrap_or_default();
            let given: Value =
                named(&names, "name").into_iter().map(|name| (name, json!("test://b"))).collect::<Value>();
            let name = prompt["name"].as_str().unwrap();
            let answer = peer.request("prompts/get", json!({"name": name, "arguments": given})).await;
            if answer.code() != 0 {
                broken.insert(name.to_owned(), answer.response);
            }
        }
        let resources = listed(&mut peer, "resources/list", "resources").await;
        let templates = listed(&mut peer, "resources/templates/list", "resourceTemplates").await;
        let expanded = named(&templates, "uriTemplate").into_iter().map(|uri| uri.replace("{id}", "7"));
        for uri in named(&resources, "uri").into_iter().chain(expanded) {
            let answer = peer.request("resources/read", json!({"uri": uri})).await;
            assert_eq!(answer.result()["contents"][0]["uri"], uri);
        }
        let names: Vec<&str> = broken.keys().map(String::as_str).collect();
        let mut expected = Vec::new();
        if revision.era() == Era::Legacy {
            // Nothing but tasks, which these calls do not ask for.
            expected.extend(["failing_job", "protocol_error_job"]);
        }
        if revision < Revision::V2025_06_18 {
            // A prompt has no way to say that the client cannot be asked, other than an error.
            expected.push("test_input_required_result_prompt");
        }
        if revision.era() == Era::Legacy {
            expected.push("test_tool_with_task");
        }
        assert_eq!(names, expected, "{}: {broken:?}", revision.as_str());
        for answer in broken.values() {
            assert_ne!(answer["error"]["code"], ErrorCode::InternalError.code(), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_items_of_the_recordings_are_served_as_recorded() {
    let server = server().await;
    let mut peer = Peer::new(&server, Revision::V2025_11_25).await;
    let table = [
        (
            "tools/call",
            json!({"name": "echo", "arguments": {"text": "hello"}}),
            json!({"content": [{"type": "text", "text": "hello"}], "isError": false}),
        ),
        (
            "tools/call",
            json!({"name": "slow", "arguments": {"ms": 3}}),
            json!({"content": [{"type": "text", "text": "done"}], "isError": false}),
        ),
        (
            "tools/call",
            json!({"name": "add", "arguments": {"a": 1, "b": 2}}),
            json!({
                "content": [{"type": "text", "text": r#"{"sum":3}"#}],
                "structuredContent": {"sum": 3},
                "isError": false,
            }),
        ),
        (
            "prompts/get",
            json!({"name": "p", "arguments": {"x": "1"}}),
            json!({"messages": [{"role": "user", "content": {"type": "text", "text": "prompt"}}]}),
        ),
        (
            "resources/read",
            json!({"uri": "test://a"}),
            json!({"contents": [{"uri": "test://a", "mimeType": "text/plain", "text": "hello"}]}),
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "x", "value": "pa"}}),
            json!({"completion": {"values": ["paris", "park"], "total": 2, "hasMore": false}}),
        ),
        ("resources/subscribe", json!({"uri": "test://a"}), json!({})),
        ("logging/setLevel", json!({"level": "debug"}), json!({})),
        ("ping", json!({}), json!({})),
    ];
    for (method, params, expected) in table {
        assert_eq!(*peer.request(method, params).await.result(), expected, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_where_it_is_asked_for() {
    let server = server().await;
    for revision in Revision::ALL {
        let mut peer = Peer::new(&server, revision).await;
        for (tool, steps) in [("slow", [1.0, 2.0, 3.0]), ("test_tool_with_progress", [0.0, 50.0, 100.0])] {
            let mut params = json!({"name": tool, "arguments": arguments(tool)});
            assert_eq!(peer.request("tools/call", params.clone()).await.told, Vec::<Value>::new());
            params["_meta"] = json!({"progressToken": 0});
            let told = peer.request("tools/call", params).await.told;
            let progress: Vec<f64> =
                told.iter().map(|notice| notice["params"]["progress"].as_f64().unwrap()).collect();
            assert_eq!(progress, steps, "{tool}, {}", revision.as_str());
            assert!(told.iter().all(|notice| notice["params"]["progressToken"] == 0), "{told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_messages_are_those_of_the_level_that_was_asked_for() {
    let server = server().await;
    let levels = |told: &[Value]| -> Vec<String> {
        told.iter().map(|notice| notice["params"]["level"].as_str().unwrap().to_owned()).collect()
    };
    let mut legacy = Peer::new(&server, Revision::V2025_11_25).await;
    legacy.request("logging/setLevel", json!({"level": "alert"})).await;
    let told = legacy.call("test_logging_tool", json!({})).await.told;
    assert_eq!(levels(&told), ["alert", "emergency"]);
    legacy.request("logging/setLevel", json!({"level": "info"})).await;
    let told = legacy.call("test_tool_with_logging", json!({})).await.told;
    let data: Vec<&str> = told.iter().map(|notice| notice["params"]["data"].as_str().unwrap()).collect();
    assert_eq!(data, ["Tool execution started", "Tool processing data", "Tool execution completed"]);

    let mut modern = Peer::new(&server, Revision::V2026_07_28).await;
    assert_eq!(modern.call("test_logging_tool", json!({})).await.told, Vec::<Value>::new());
    let asking = json!({"name": "test_logging_tool", "_meta": {"io.modelcontextprotocol/logLevel": "alert"}});
    assert_eq!(levels(&modern.request("tools/call", asking).await.told), ["alert", "emergency"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_an_error_of_the_protocol_or_one_that_the_model_sees() {
    let server = server().await;
    for revision in Revision::ALL {
        let mut peer = Peer::new(&server, revision).await;
        let answer = peer.call("echo", json!({"text": 1})).await;
        if revision < Revision::V2025_11_25 {
            assert_eq!(answer.code(), ErrorCode::InvalidParams.code());
        } else {
            assert_eq!(answer.result()["isError"], true);
            assert!(answer.text().contains("/text"), "{}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_refused() {
    let server = server().await;
    let table = [
        ("tools/call", json!({"name": "nothing"})),
        ("prompts/get", json!({"name": "nothing"})),
        ("prompts/get", json!({"name": "p"})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "nothing"}, "argument": {"name": "x", "value": ""}}),
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/resource", "uri": "test://a"}, "argument": {"name": "x", "value": ""}}),
        ),
        ("resources/read", json!({"uri": "test://nothing"})),
        ("resources/read", json!({"uri": "test://template//data"})),
        ("resources/read", json!({"uri": "test://t/a/b"})),
        ("resources/read", json!({"uri": "test://t/\"}"})),
    ];
    for revision in Revision::ALL {
        let mut peer = Peer::new(&server, revision).await;
        for (method, params) in &table {
            let answer = peer.request(method, params.clone()).await;
            let is_resource = *method == "resources/read";
            let expected =
                if is_resource { ErrorCode::resource_not_found(revision) } else { ErrorCode::InvalidParams };
            assert_eq!(answer.code(), expected.code(), "{method} {params}");
            if is_resource {
                assert_eq!(answer.response["error"]["data"]["uri"], params["uri"]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_whoever_wants_to_know() {
    let server = server().await;
    let mut asker = Peer::new(&server, Revision::V2026_07_28).await;
    let mut legacy = Peer::new(&server, Revision::V2025_06_18).await;
    let watched = json!({"uri": "test://watched-resource"});
    legacy.request("resources/subscribe", watched.clone()).await;
    let mut modern = Peer::new(&server, Revision::V2026_07_28).await;
    let filter = json!({"notifications": {
        "promptsListChanged": true,
        "resourceSubscriptions": [watched["uri"]],
    }});
    modern.send("subscriptions/listen", filter).await;
    assert_eq!(modern.receive().await["method"], "notifications/subscriptions/acknowledged");
    for tool in ["test_trigger_tool_change", "test_trigger_prompt_change", "test_trigger_resource_change"] {
        assert_eq!(asker.call(tool, json!({})).await.text(), "Announced.");
    }
    let updated = "notifications/resources/updated";
    for method in [
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        updated,
    ] {
        assert_eq!(legacy.receive().await["method"], method);
    }
    for method in ["notifications/prompts/list_changed", updated] {
        assert_eq!(modern.receive().await["method"], method);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_an_argument_is_mirrored_in_a_header() {
    let server = server().await;
    let mut client = server.http().await;
    let request = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "test_custom_header",
            "arguments": {"value": "a"},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    });
    let headers = |value| {
        [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "test_custom_header"),
            ("mcp-param-value", value),
        ]
    };
    let answer = client.post(&request, &headers("a")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().await["result"]["content"][0]["text"], "value=a");
    let answer = client.post(&request, &headers("b")).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json().await["error"]["code"], ErrorCode::HeaderMismatch.code());
}
