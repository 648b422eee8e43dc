//! What is answered after the client was asked.

use serde_json::{Value, json};
use tmws::{
    revision::{Era, Revision},
    wire::ErrorCode,
};

use super::{peer::Peer, server};

/// What the tools say in the end, where everything asked for is answered as `peer::answer` does.
const SAID: [(&str, &str); 11] = [
    ("test_sampling", "LLM response: Paris"),
    ("test_elicitation", r#"User response: action=accept, content={"username":"Alice","email":"Alice"}"#),
    (
        "test_elicitation_sep1034_defaults",
        r#"Elicitation completed: action=accept, content={"name":"John Doe","age":30,"score":95.5,"status":"active","verified":true}"#,
    ),
    (
        "test_elicitation_sep1330_enums",
        r#"Elicitation completed: action=accept, content={"untitledSingle":"option1","titledSingle":"value1","legacyEnum":"opt1","untitledMulti":["option1"],"titledMulti":["value1"]}"#,
    ),
    ("test_streaming_elicitation", r#"Confirmation: action=accept, content={"ok":true}"#),
    ("test_input_required_result_elicitation", "Hello, Alice!"),
    ("test_input_required_result_sampling", "Paris"),
    ("test_input_required_result_list_roots", "Roots: file:///home/user/project"),
    ("test_input_required_result_request_state", "state-ok: ok=true"),
    ("test_input_required_result_multiple_inputs", "Paris Alice, of file:///home/user/project"),
    ("test_input_required_result_multi_round", "Alice likes Alice."),
];

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_written_once_for_both_ways_of_asking() {
    let server = server().await;
    for revision in [Revision::V2025_11_25, Revision::V2026_07_28] {
        let mut peer = Peer::new(&server, revision).await;
        for (tool, said) in SAID {
            let answer = peer.call(tool, json!({"prompt": "Why?", "message": "Who?"})).await;
            assert_eq!(answer.text(), said, "{tool} in {}", revision.as_str());
            assert!(!answer.asked.is_empty(), "{tool}");
            match tool {
                "test_sampling" => {
                    assert_eq!(answer.asked[0]["params"]["messages"][0]["content"]["text"], "Why?");
                }
                "test_elicitation" => assert_eq!(answer.asked[0]["params"]["message"], "Who?"),
                "test_input_required_result_multi_round" => assert_eq!(answer.asked.len(), 2),
                "test_input_required_result_multiple_inputs" => assert_eq!(answer.asked.len(), 3),
                _ => {}
            }
        }
        let prompt = peer.request("prompts/get", json!({"name": "test_input_required_result_prompt"})).await;
        assert_eq!(prompt.result()["messages"][0]["content"]["text"], "Use this context: Alice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_asked_only_for_what_it_declared() {
    let server = server().await;
    for revision in [Revision::V2025_11_25, Revision::V2026_07_28] {
        let mut peer = Peer::declaring(&server, revision, json!({"sampling": {}})).await;
        let answer = peer.call("test_input_required_result_capabilities", json!({})).await;
        let asked: Vec<&Value> = answer.asked.iter().map(|question| &question["method"]).collect();
        assert_eq!(asked, ["sampling/createMessage"]);
        assert_eq!(answer.text(), "Asked for what the client declared.");

        let mut peer = Peer::declaring(&server, revision, json!({})).await;
        for (tool, lacking) in [
            ("test_missing_capability", json!({"sampling": {}})),
            ("test_input_required_result_list_roots", json!({"roots": {}})),
        ] {
            let answer = peer.call(tool, json!({})).await;
            match revision.era() {
                Era::Legacy => assert_eq!(answer.result()["isError"], true),
                Era::Modern => {
                    assert_eq!(answer.code(), ErrorCode::MissingRequiredClientCapability.code());
                    assert_eq!(answer.response["error"]["data"]["requiredCapabilities"], lacking);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_is_asked_again_and_a_changed_state_is_refused() {
    let server = server().await;
    let mut peer = Peer::new(&server, Revision::V2026_07_28).await;
    let call = |tool: &str| json!({"name": tool, "arguments": {}});
    let mut params = call("test_input_required_result_elicitation");
    params["inputResponses"] = json!({"wrong_key": {"action": "accept", "content": {}}});
    peer.send("tools/call", params).await;
    let answer = peer.receive().await;
    assert_eq!(answer["result"]["resultType"], "input_required", "{answer}");
    assert!(answer["result"]["inputRequests"].get("user_name").is_some(), "{answer}");

    let tampered = "test_input_required_result_tampered_state";
    peer.send("tools/call", call(tampered)).await;
    let state = peer.receive().await["result"]["requestState"].as_str().unwrap().to_owned();
    let mut params = call(tampered);
    params["requestState"] = json!(state + "x");
    params["inputResponses"] = json!({"confirm": {"action": "accept", "content": {"ok": true}}});
    let answer = peer.request("tools/call", params).await;
    assert_eq!(answer.code(), ErrorCode::InvalidParams.code());
}
