//! Tools that may outlive their call, in both designs.

use serde_json::{Value, json};
use tmws::{limits::TaskLimits, revision::Revision, wire::ErrorCode};

use super::{
    peer::{Exchange, Peer, all_capabilities, answer},
    server,
};
use crate::network::Server;

/// Follows a task (2026-07-28) on a connection of its own until `is_there`.
async fn follow(server: &Server, id: &Value, is_there: impl Fn(&Value) -> bool) -> Value {
    let mut watcher = Peer::new(server, Revision::V2026_07_28).await;
    watcher.send("subscriptions/listen", json!({"notifications": {"taskIds": [id]}})).await;
    assert_eq!(watcher.receive().await["method"], "notifications/subscriptions/acknowledged");
    let now = watcher.request("tasks/get", json!({"taskId": id})).await;
    assert_eq!(now.result()["resultType"], "complete");
    let seen =
        now.told.iter().map(|notice| &notice["params"]).chain([now.result()]).find(|task| is_there(task));
    if let Some(task) = seen {
        return task.clone();
    }
    loop {
        let mut notice = watcher.receive().await;
        assert_eq!(notice["method"], "notifications/tasks", "{notice}");
        assert_eq!(notice["params"]["taskId"], *id);
        if is_there(&notice["params"]) {
            return notice["params"].take();
        }
    }
}

fn has_ended(task: &Value) -> bool {
    !["working", "input_required"].iter().any(|open| task["status"] == *open)
}

/// The id of the task that a call became.
fn id(made: &Exchange) -> Value {
    assert_eq!(made.result()["resultType"], "task", "{}", made.response);
    made.result()["taskId"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_decides_in_2026_07_28_and_the_task_holds_what_comes_of_it() {
    let server = server().await;
    let mut peer = Peer::new(&server, Revision::V2026_07_28).await;
    let table = [
        ("slow_compute", json!({"seconds": 0.01, "label": "x"}), "completed", "Computed x in 0.01 s."),
        ("failing_job", json!({}), "completed", "The job failed, as it always does."),
        ("protocol_error_job", json!({}), "failed", ""),
        ("test_tool_with_task", json!({}), "completed", "Hello, Alice!"),
    ];
    for (tool, arguments, status, text) in table {
        let made = peer.call(tool, arguments).await;
        assert_eq!(made.asked.len(), usize::from(tool == "test_tool_with_task"), "before the task: {tool}");
        let task = follow(&server, &id(&made), has_ended).await;
        assert_eq!(task["status"], status, "{tool}: {task}");
        if status == "failed" {
            assert_eq!(task["error"]["code"], ErrorCode::InternalError.code());
        } else {
            assert_eq!(task["result"]["content"][0]["text"], text);
            assert_eq!(task["result"]["isError"] == true, tool == "failing_job");
        }
    }
    // What is quick is answered at once, and what is no task stays none.
    assert_eq!(peer.call("slow_compute", json!({"seconds": 0})).await.text(), "Computed  in 0 s.");
    let greeting = json!({"name": "greet", "arguments": {"name": "World"}, "task": {"ttl": 60_000}});
    assert_eq!(peer.request("tools/call", greeting).await.text(), "Hello, World!");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_2026_07_28_asks_until_all_is_answered() {
    let server = server().await;
    let mut peer = Peer::new(&server, Revision::V2026_07_28).await;
    let made = peer.call("multi_input", json!({})).await;
    let id = id(&made);
    let asks = |count: usize| {
        move |task: &Value| {
            let open = task["inputRequests"].as_object();
            task["status"] == "input_required" && open.is_some_and(|open| open.len() == count)
        }
    };
    let task = follow(&server, &id, asks(2)).await;
    for (nth, (key, question)) in task["inputRequests"].as_object().unwrap().iter().enumerate() {
        let update = json!({"taskId": id, "inputResponses": {key: answer(question), "unknown": {"any": 1}}});
        assert_eq!(peer.request("tasks/update", update).await.code(), 0);
        if nth == 0 {
            let left = follow(&server, &id, asks(1)).await;
            assert_eq!(left["inputRequests"].get(key), None);
        }
    }
    let task = follow(&server, &id, has_ended).await;
    assert!(
        task["result"]["content"][0]["text"].as_str().unwrap().starts_with("Alice: action=accept"),
        "{task}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_of_either_design_is_cancelled() {
    let server = server().await;
    let long = json!({"name": "slow_compute", "arguments": {"seconds": 60}});
    let mut modern = Peer::new(&server, Revision::V2026_07_28).await;
    let made = modern.request("tools/call", long.clone()).await;
    let of = json!({"taskId": id(&made)});
    assert_eq!(modern.request("tasks/cancel", of.clone()).await.result().get("status"), None);
    assert_eq!(follow(&server, &of["taskId"], has_ended).await["status"], "cancelled");

    let mut legacy = Peer::new(&server, Revision::V2025_11_25).await;
    let mut wanted = long;
    wanted["task"] = json!({});
    let made = legacy.request("tools/call", wanted).await;
    let of = json!({"taskId": made.result()["task"]["taskId"]});
    assert_eq!(legacy.request("tasks/cancel", of.clone()).await.result()["status"], "cancelled");
    assert_eq!(legacy.request("tasks/get", of.clone()).await.result()["status"], "cancelled");
    // Neither sees the other's.
    assert_eq!(modern.request("tasks/get", of).await.code(), ErrorCode::InvalidParams.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_decides_in_2025_11_25_and_waits_for_the_result() {
    let server = server().await;
    let mut peer = Peer::new(&server, Revision::V2025_11_25).await;
    let table = [
        ("slow_compute", json!({"seconds": 0.01, "label": "x"}), "Computed x in 0.01 s.", "completed"),
        ("failing_job", json!({}), "The job failed, as it always does.", "failed"),
        (
            "confirm_delete",
            json!({"filename": "a"}),
            r#"Delete a: action=accept, content={"confirm":true}"#,
            "completed",
        ),
        ("test_tool_with_task", json!({}), "Hello, Alice!", "completed"),
    ];
    for (tool, arguments, text, status) in table {
        let call = json!({"name": tool, "arguments": arguments, "task": {"ttl": 60_000}});
        let made = peer.request("tools/call", call).await;
        let of = json!({"taskId": made.result()["task"]["taskId"]});
        assert!(made.asked.is_empty(), "{tool}");
        let ended = peer.request("tasks/result", of.clone()).await;
        assert_eq!(ended.text(), text);
        assert_eq!(ended.result()["_meta"]["io.modelcontextprotocol/related-task"], of);
        assert_eq!(ended.asked.len(), usize::from(["confirm_delete", "test_tool_with_task"].contains(&tool)));
        assert_eq!(peer.request("tasks/get", of).await.result()["status"], status, "{tool}");
    }
    let call = json!({"name": "protocol_error_job", "task": {}});
    let made = peer.request("tools/call", call).await;
    let of = json!({"taskId": made.result()["task"]["taskId"]});
    assert_eq!(peer.request("tasks/result", of).await.code(), ErrorCode::InternalError.code());
    let never = json!({"name": "greet", "arguments": {"name": "World"}, "task": {}});
    assert_eq!(peer.request("tools/call", never).await.code(), ErrorCode::MethodNotFound.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_no_tasks_gets_an_answer_or_an_error_but_no_task() {
    let server = server().await;
    let mut without = all_capabilities();
    without.as_object_mut().unwrap().remove("extensions");
    for revision in Revision::ALL {
        let mut peer = Peer::declaring(&server, revision, without.clone()).await;
        assert_eq!(
            peer.call("slow_compute", json!({"seconds": 0.01, "label": "x"})).await.text(),
            "Computed x in 0.01 s."
        );
        if revision >= Revision::V2025_06_18 {
            let asked = peer.call("confirm_delete", json!({"filename": "a"})).await;
            assert!(asked.text().starts_with("Delete a: action=accept"), "{}", asked.text());
        }
        let refused = peer.call("failing_job", json!({})).await;
        let expected = match revision {
            Revision::V2026_07_28 => ErrorCode::MissingRequiredClientCapability,
            _ => ErrorCode::MethodNotFound,
        };
        assert_eq!(refused.code(), expected.code(), "{}", revision.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_too_many_is_refused_for_now() {
    let server = server().await;
    let mut peer = Peer::new(&server, Revision::V2026_07_28).await;
    for _ in 0..TaskLimits::default().running_per_principal_max {
        id(&peer.call("slow_compute", json!({"seconds": 60})).await);
    }
    for (tool, arguments) in [("failing_job", json!({})), ("confirm_delete", json!({"filename": "a"}))] {
        let refused = peer.call(tool, arguments).await;
        assert_eq!(refused.code(), ErrorCode::TooManyRequests.code(), "{}", refused.response);
    }
    assert_eq!(
        peer.call("slow_compute", json!({"seconds": 0, "label": "x"})).await.text(),
        "Computed x in 0 s."
    );
}
