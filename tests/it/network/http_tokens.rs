//! Who is let in over HTTP, and what others are told.

use serde_json::json;
use tempfile::TempDir;
use tmws::{
    access::{Access, NewToken, Projects, TokenSource, add_token, revoke_tokens},
    audit::{Audit, Digester},
};

use super::{
    Server, Setup,
    http::{call, called, listen},
};

/// A server with one token: for project `team`, to read, without the right to write memories.
struct Guarded {
    folder: TempDir,
    token: String,
    server: Server,
}

fn projects() -> Projects {
    let mut projects = Projects::default();
    projects.add(tmws::scope::ProjectId::parse("team").unwrap(), None);
    projects
}

impl Guarded {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let new = NewToken {
            principal: "ada".to_owned(),
            agent: None,
            projects: vec!["personal=write".to_owned(), "team".to_owned()],
            scopes: Vec::new(),
            expires: None,
        };
        let (token, _) = add_token(&file, &new, &projects()).unwrap();
        let access =
            Access::with_tokens(TokenSource::File(file), projects(), || jiff::Timestamp::UNIX_EPOCH).unwrap();
        let audit = Audit::start(folder.path().join("audit.jsonl"), Digester::derived(&[1; 32])).unwrap();
        let server = Server::with(Setup { access, audit: Some(audit), ..Setup::default() }).await;
        Self { folder, token, server }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_how_to_get_in() {
    let guarded = Guarded::start().await;
    let bearer = format!("Bearer {}", guarded.token);
    let metadata = format!("resource_metadata=\"http://{}", guarded.server.address);
    let table: [(&str, &str, u16, Vec<&str>); 5] = [
        ("/mcp", "", 401, vec!["Bearer ", "oauth-protected-resource/mcp\""]),
        ("/p/team/mcp", "Bearer wrong", 401, vec!["/p/team/mcp\"", "error=\"invalid_token\""]),
        ("/p/other/mcp", &bearer, 403, vec![]),
        ("/p/team/mcp", &bearer, 403, vec!["error=\"insufficient_scope\"", "scope=\"memory:write\""]),
        ("/mcp", &bearer, 403, vec!["error=\"insufficient_scope\"", "scope=\"memory:write\""]),
    ];
    for (path, authorization, status, words) in table {
        let mut headers = called("big").to_vec();
        if !authorization.is_empty() {
            headers.push(("authorization", authorization));
        }
        let mut client = guarded.server.http().await;
        let answer = client.post_to(path, &call(3, "big", &json!({"bytes": 1})), &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {authorization}");
        let challenge = answer.header("www-authenticate").to_owned();
        assert_eq!(challenge.is_empty(), words.is_empty(), "{challenge}");
        assert!(words.iter().all(|word| challenge.contains(word)), "{challenge}");
        assert!(words.is_empty() || challenge.contains(&metadata), "{challenge}");
        assert!(status == 401 && authorization.is_empty() != challenge.contains("error=") || status == 403);
        let error = answer.json().await;
        assert!(error["error"]["message"].as_str().unwrap().contains("token"), "{error}");
        // The one with the insufficient scope was read, so that its id is known.
        assert_eq!(error.get("id").is_some(), challenge.contains("insufficient_scope"), "{error}");
        assert!(!error.to_string().contains(&guarded.token));
    }
    let headers = [&called("echo")[..], &[("authorization", bearer.as_str())]].concat();
    let mut client = guarded.server.http().await;
    assert_eq!(client.post_to("/p/team/mcp", &call(3, "echo", &json!({})), &headers).await.status, 200);
    // The figures are asked for in the same words.
    for (authorization, status, word) in [
        ("", 401, "Bearer resource_metadata"),
        ("Bearer wrong", 401, "invalid_token"),
        (&bearer, 403, "scope=\"admin\""),
    ] {
        let headers: Vec<_> = Some(("authorization", authorization))
            .filter(|(_, value)| !value.is_empty())
            .into_iter()
            .collect();
        let answer = client.send("GET", "/metrics", &headers, "").await;
        assert_eq!(answer.status.as_u16(), status, "{authorization}");
        let challenge = answer.header("www-authenticate").to_owned();
        assert!(challenge.contains(word) && challenge.contains(&metadata), "{challenge}");
        assert!(challenge.contains("oauth-protected-resource/metrics\""), "{challenge}");
        drop(answer.text().await);
    }
    assert_eq!(
        client.send("GET", "/.well-known/oauth-protected-resource/metrics", &[], "").await.status,
        200
    );
    // What others may ask without a token: how to get one, and, from pages, what they may send.
    let path = "/.well-known/oauth-protected-resource/mcp";
    assert_eq!(client.send("GET", path, &[], "").await.status, 200);
    assert_eq!(client.send("OPTIONS", "/mcp", &[], "").await.status, 204);
    assert_eq!(client.send("GET", "/mcp", &[], "").await.status, 401);
    assert_eq!(client.send("GET", "/ws", &[], "").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_names_the_resource_as_the_client_sees_it() {
    let guarded = Guarded::start().await;
    let server = &guarded.server;
    let base = "/.well-known/oauth-protected-resource";
    for (path, resource, status) in [
        ("", "", 200),
        ("/mcp", "/mcp", 200),
        ("/p/team/mcp", "/p/team/mcp", 200),
        ("/nothing", "", 404),
        ("x", "", 404),
    ] {
        let answer = server.http().await.send("GET", &format!("{base}{path}"), &[], "").await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        if status == 200 {
            let document = answer.json().await;
            assert_eq!(document["resource"], format!("http://{}{resource}", server.address));
            assert_eq!(document["bearer_methods_supported"], json!(["header"]));
            assert_eq!(document["scopes_supported"][0], "pattern:run");
        }
    }
    let answer = server.http().await.send("GET", "/.well-known/oauth-authorization-server", &[], "").await;
    assert_eq!(answer.status, 404);
    // Where no token is needed nothing is protected.
    let open = Server::start().await;
    assert_eq!(open.http().await.send("GET", &format!("{base}/mcp"), &[], "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listen_ends_when_its_token_is_withdrawn() {
    let guarded = Guarded::start().await;
    let bearer = format!("Bearer {}", guarded.token);
    let mut client = guarded.server.http().await;
    let mut stream = listen(&mut client, 9, &[("authorization", &bearer)]).await;
    let file = guarded.folder.path().join("tokens.toml");
    revoke_tokens(&file, "ada", &projects()).unwrap();
    assert!(guarded.server.host.access.refresh(true));
    guarded.server.host.hub.wake_all();
    assert_eq!(stream.message().await.unwrap().json()["result"]["resultType"], "complete");
    assert_eq!(stream.event().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_does_not_allow_is_written_down_with_its_principal() {
    let guarded = Guarded::start().await;
    let bearer = format!("Bearer {}", guarded.token);
    let mut client = guarded.server.http().await;
    let headers = [&called("big")[..], &[("authorization", bearer.as_str())]].concat();
    for path in ["/p/team/mcp", "/p/unknown-s3cret/mcp"] {
        let answer = client.post_to(path, &call(3, "big", &json!({"bytes": 1})), &headers).await;
        assert_eq!(answer.status, 403, "{path}");
        drop(answer.text().await);
    }
    assert_eq!(client.send("GET", "/metrics", &[("authorization", &bearer)], "").await.status, 403);
    guarded.server.host.audit.as_ref().unwrap().close();
    let text = std::fs::read_to_string(guarded.folder.path().join("audit.jsonl")).unwrap();
    let told: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [
        ("insufficient-scope", json!("team"), json!("tools/call")),
        ("project-not-open", json!(null), json!(null)),
        ("insufficient-scope", json!(null), json!(null)),
    ];
    assert_eq!(told.len(), expected.len(), "{text}");
    for (line, (reason, project, method)) in told.iter().zip(expected) {
        assert_eq!((&line["event"], &line["principal"]), (&json!("refused"), &json!("ada")), "{line}");
        assert_eq!((&line["reason"], &line["project"], &line["method"]), (&json!(reason), &project, &method));
    }
    assert!(!text.contains("s3cret") && !text.contains(&guarded.token), "{text}");
}
