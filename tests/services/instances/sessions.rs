//! What one instance minted, the others serve: sessions of HTTP, sessions of patterns, results behind handles.

use serde_json::{Value, json};

use super::{Client, Instance, Service, Way, client::Failed};

const INVENTED_RESULT: &str = "r_AAAAAAAAAAAAAAAAAAAAAA";
const INVENTED_SESSION: &str = "s_AAAAAAAAAAAAAAAAAAAAAA";

fn at(instance: &Instance, way: Way, principal: &'static str, project: &'static str) -> Client {
    Client::new(instance.address, way, principal, project)
}

async fn status(client: &mut Client) -> String {
    match client.ask("tools/list", json!({})).await {
        Ok(answer) if answer["result"]["tools"].is_array() => "200".to_owned(),
        Ok(answer) => answer.to_string(),
        Err(Failed::Final(why) | Failed::Silent(why)) => why[..3.min(why.len())].to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_one_instance_opened_goes_on_at_every_other_for_its_principal_alone() {
    let service = Service::new(None).await;
    let mut instances = service.three().await;
    for opener in 0..instances.len() {
        let mut client = at(&instances[opener], Way::Legacy, "ada", "alpha");
        assert_eq!(status(&mut client).await, "200");
        let session = client.session.clone().unwrap();
        for instance in &instances {
            let mut same = Client::of_session(instance.address, "ada", &session);
            let said = same.run("test.echo", json!({"mark": "here"})).await.unwrap();
            assert_eq!(said.body["said"], "here");
            let mut foreign = Client::of_session(instance.address, "ben", &session);
            assert_eq!(status(&mut foreign).await, "404");
            let mut invented = Client::of_session(instance.address, "ada", "AAAAAAAAAAAAAAAAAAAA");
            assert_eq!(status(&mut invented).await, "404");
        }
    }

    // An instance that is gone takes nothing with it, and one that comes back knows everything.
    let mut client = at(&instances[0], Way::Legacy, "ada", "alpha");
    assert_eq!(status(&mut client).await, "200");
    let session = client.session.clone().unwrap();
    instances[0].kill().await;
    let mut elsewhere = Client::of_session(instances[1].address, "ada", &session);
    assert_eq!(status(&mut elsewhere).await, "200");
    instances[0].restart().await;
    let mut back = Client::of_session(instances[0].address, "ada", &session);
    assert_eq!(status(&mut back).await, "200");
    let mut foreign = Client::of_session(instances[0].address, "ben", &session);
    assert_eq!(status(&mut foreign).await, "404");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_session_is_gone_at_every_instance_and_nobody_elses_anywhere() {
    let service = Service::new(None).await;
    let mut instances = service.three().await;
    let mut client = at(&instances[0], Way::Legacy, "ada", "alpha");
    assert_eq!(status(&mut client).await, "200");
    let session = client.session.clone().unwrap();
    assert_eq!(client.delete().await, 204);
    assert_eq!(status(&mut client).await, "404");
    assert_eq!(client.delete().await, 404);
    for instance in &instances {
        let mut same = Client::of_session(instance.address, "ada", &session);
        assert_eq!(status(&mut same).await, "404");
        assert_eq!(same.delete().await, 404);
        let mut foreign = Client::of_session(instance.address, "ben", &session);
        assert_eq!(status(&mut foreign).await, "404");
        assert_eq!(foreign.delete().await, 404);
    }
    // It stays so where an instance begins anew, and for a session that went from one to another.
    instances[0].kill().await;
    instances[0].restart().await;
    let mut back = Client::of_session(instances[0].address, "ada", &session);
    assert_eq!(status(&mut back).await, "404");
    let mut client = at(&instances[1], Way::Legacy, "ada", "alpha");
    assert_eq!(status(&mut client).await, "200");
    let moved = client.session.clone().unwrap();
    let mut elsewhere = Client::of_session(instances[2].address, "ada", &moved);
    assert_eq!(status(&mut elsewhere).await, "200");
    assert_eq!(elsewhere.delete().await, 204);
    let mut third = Client::of_session(instances[0].address, "ada", &moved);
    assert_eq!(status(&mut third).await, "404");
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_that_one_instance_minted_open_at_every_other_for_their_owner_alone() {
    let service = Service::new(None).await;
    let mut instances = service.three().await;
    let lines: Vec<String> =
        (0..80).map(|n| format!("line {n} of many, and longer than it need be")).collect();
    for minting in 0..instances.len() {
        let mut client = at(&instances[minting], Way::Modern, "ada", "alpha");
        // First, since an answer does not wait long for a store that is still being opened to keep its rest.
        let session = client.run("session.open", json!({})).await.unwrap().body["session"].clone();
        let cut = client.run("test.echo", json!({"mark": "a", "lines": lines})).await.unwrap().body;
        let result = cut["more"]["handle"].clone();
        assert!(result.is_string() && session.is_string(), "{cut}");
        for (instance, way) in instances.iter().zip([Way::Modern, Way::Legacy, Way::Socket]) {
            let mut owner = at(instance, way, "ada", "alpha");
            let page = owner.call("get_result", &select(&result)).await.unwrap().body;
            assert!(page.to_string().contains(&lines[79]), "{page}");
            assert_eq!(
                owner.call("execute_pattern", &within_session(&session)).await.unwrap().body["said"],
                "x"
            );
            for (principal, project) in [("ben", "alpha"), ("ada", "beta"), ("ada", "personal")] {
                let mut foreign = at(instance, way, principal, project);
                let refused = foreign.call("get_result", &select(&result)).await.unwrap_err();
                let unknown = foreign.call("get_result", &select(&json!(INVENTED_RESULT))).await.unwrap_err();
                assert_eq!(refused, unknown, "{principal} in {project}");
                let refused = foreign.call("execute_pattern", &within_session(&session)).await.unwrap_err();
                let unknown = foreign
                    .call("execute_pattern", &within_session(&json!(INVENTED_SESSION)))
                    .await
                    .unwrap_err();
                assert_eq!(refused, unknown, "{principal} in {project}");
            }
        }
        // Closed at one instance, it is closed at all.
        let closing = (minting + 1) % instances.len();
        let mut closer = at(&instances[closing], Way::Modern, "ada", "alpha");
        let answer = closer.run("session.close", json!({"session": session})).await.unwrap();
        assert_eq!(answer.body["closed"], true);
        for instance in &instances {
            let mut late = at(instance, Way::Modern, "ada", "alpha");
            late.call("execute_pattern", &within_session(&session)).await.unwrap_err();
            assert!(late.call("get_result", &select(&result)).await.is_ok());
        }
        // What its minter kept outlives it.
        instances[minting].kill().await;
        let mut owner = at(&instances[closing], Way::Legacy, "ada", "alpha");
        assert!(owner.call("get_result", &select(&result)).await.is_ok());
        instances[minting].restart().await;
        let mut owner = at(&instances[minting], Way::Legacy, "ada", "alpha");
        assert!(owner.call("get_result", &select(&result)).await.is_ok());
    }
}

fn select(handle: &Value) -> Value {
    json!({"handle": handle, "select": "$.lines", "offset": 79, "limit": 1})
}

fn within_session(handle: &Value) -> Value {
    json!({"pattern": "test.echo", "input": {"mark": "x"}, "session": handle})
}
