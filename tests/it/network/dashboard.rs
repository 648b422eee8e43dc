//! `/` and `/dashboard.json`: the page, who may see it, and that it tells what happened.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tmws::{
    metrics::{Layer, RecentError},
    transport::{Checked, Health},
};

use super::{Http, Server, Setup};

fn schema() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(include_str!("../../../schemas/dashboard/v1.json")).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

/// What the page asks for; it fits its schema.
async fn told(client: &mut Http) -> Value {
    let answer = client.send("GET", "/dashboard.json", &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.header("cache-control"), "no-store");
    let told = answer.json().await;
    let faults: Vec<String> = schema().iter_errors(&told).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?}\n{told:#}");
    told
}

/// What a server tells that has nothing to tell, and one that has some of everything.
pub(crate) async fn instances() -> Vec<Value> {
    let server = Server::start().await;
    let empty = told(&mut server.http().await).await;
    let health = Health::default().with(Checked::helpful("store", || Err("it is read-only".to_owned())));
    let server = Server::with(Setup { health, governs: true, ..Setup::default() }).await;
    busy(&server);
    let full = told(&mut server.http().await).await;
    let dead = Health::default().with(Checked::essential("audit_log", || Err("disk full".to_owned())));
    let server = Server::with(Setup { health: dead, ..Setup::default() }).await;
    let ill = told(&mut server.http().await).await;
    let mut instances = vec![empty, full, ill];
    for told in &mut instances {
        // What differs each time says nothing of the shape.
        told["at_unix_ms"] = json!(1_772_366_400_000_u64);
        told["figures"]
            .as_array_mut()
            .unwrap()
            .retain(|figure| figure["name"].as_str().unwrap().starts_with("tmws_"));
    }
    instances
}

/// Durations and errors, as if there had been calls.
fn busy(server: &Server) {
    let metrics = &server.host.metrics;
    for millis in [1, 3, 3, 3, 80] {
        metrics.patterns_of("digest").observe(Duration::from_millis(millis));
    }
    metrics.patterns_of("search").observe(Duration::from_millis(2));
    metrics.calls_of("tools/call").observe(Duration::from_millis(2));
    metrics.refused("no-token");
    for second in 0..60 {
        metrics.note_error(RecentError {
            at: jiff::Timestamp::from_second(second).unwrap(),
            layer: Layer::Tool,
            code: "deadline",
            method: "tools/call",
            pattern: (second > 0).then(|| "repo.digest".into()),
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_may_load_nothing_but_itself() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let page = client.send("GET", "/", &[], "").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    for (header, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.header(header), value, "{header}");
    }
    let policy = page.header("content-security-policy").to_owned();
    let text = page.text().await;
    for (directive, element) in [("script-src", "script"), ("style-src", "style")] {
        let inside = text
            .split_once(&format!("<{element}>"))
            .unwrap()
            .1
            .split(&format!("</{element}>"))
            .next()
            .unwrap();
        let hash = STANDARD.encode(Sha256::digest(inside));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}';")), "{policy}");
    }
    for part in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "form-action 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.split("; ").any(|of| of == part), "{part}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_only_read_and_guarded_like_every_path() {
    let server = Server::start().await;
    let mut client = server.http().await;
    for path in ["/", "/dashboard.json"] {
        let head = client.send("HEAD", path, &[], "").await;
        assert_eq!(head.status, 200, "{path}");
        assert!(head.header("content-length").parse::<usize>().unwrap() > 100, "{path}");
        assert_eq!(head.text().await, "", "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let refused = client.send(method, path, &[], "").await;
            assert_eq!(
                (refused.status.as_u16(), refused.header("allow")),
                (405, "GET, HEAD"),
                "{method} {path}"
            );
            drop(refused.text().await);
        }
        for foreign in [("host", "evil.example"), ("origin", "http://evil.example")] {
            let refused = client.send("GET", path, &[foreign], "").await;
            assert_eq!(refused.status, 403, "{path} {foreign:?}");
            drop(refused.text().await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_call_there_is_nothing_to_tell_but_all_members_are_there() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let told = told(&mut client).await;
    assert_eq!(told["status"], "ready");
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    for empty in ["patterns", "methods", "errors", "recent_errors"] {
        assert_eq!(told[empty], json!([]), "{empty}");
    }
    assert_eq!(told["connections"], json!({"http": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_what_metrics_and_readiness_tell() {
    let health = Health::default().with(Checked::helpful("store", || Err("it is read-only".to_owned())));
    let server = Server::with(Setup { health, governs: true, ..Setup::default() }).await;
    busy(&server);
    let mut client = server.http().await;
    let told = told(&mut client).await;
    assert_eq!(told["status"], "degraded");
    assert_eq!(told["dependencies"]["store"], json!({"status": "degraded", "reason": "it is read-only"}));
    // The second of three in the bucket from 2.5 to 5 ms, and so on: interpolated.
    assert_eq!(
        told["patterns"],
        json!([
            {"type": "digest", "count": 5, "mean_ms": 18, "p50_ms": 3.75, "p95_ms": 87.5, "p99_ms": 97.5},
            {"type": "search", "count": 1, "mean_ms": 2, "p50_ms": 1.75, "p95_ms": 2.425, "p99_ms": 2.485},
        ])
    );
    assert_eq!(told["errors"], json!([{"layer": "tool", "code": "deadline", "count": 60}]));
    let recent = told["recent_errors"].as_array().unwrap();
    assert_eq!(
        (recent.len(), &recent[0]["at_unix_ms"], &recent[49]["at_unix_ms"]),
        (50, &json!(59_000), &json!(10_000))
    );
    assert_eq!(recent[0]["pattern"], "repo.digest");
    let of = |name: &str| {
        told["figures"].as_array().unwrap().iter().find(|figure| figure["name"] == name).unwrap()["samples"]
            .clone()
    };
    assert_eq!(of("tmws_calls_in_flight"), json!([{"labels": {}, "value": 0}]));
    let text = client.send("GET", "/metrics", &[], "").await.text().await;
    assert!(text.contains("tmws_call_errors_total{layer=\"tool\",code=\"deadline\"} 60\n"), "{text}");
}
