//! The dashboard of the real binary: who may look, and that it shows the traffic of all and the words of none.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::process::{Served, token};
use crate::network::{Answer, Http};
use crate::support::serving::ADMIN_TOKEN;

/// Nowhere but in what a client sent.
const MARK: &str = "cinnabar-heron-4711";

async fn get(http: &mut Http, path: &str, authorization: Option<&str>) -> Answer {
    let headers: Vec<(&str, &str)> =
        authorization.map(|value| ("authorization", value)).into_iter().collect();
    http.send("GET", path, &headers, "").await
}

async fn call(http: &mut Http, bearer: &str, arguments: Value) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "execute_pattern", "arguments": arguments, "_meta": meta}});
    let headers = [
        ("authorization", bearer),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "execute_pattern"),
    ];
    http.post(&call, &headers).await.json().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_look_sees_what_was_done_and_nobodys_words() {
    let served = Served::launch(true, &[]);
    let mut http = Http::connect(served.address).await;
    let (ada, basic) =
        (format!("Bearer {}", token(0)), format!("Basic {}", STANDARD.encode(format!("me:{ADMIN_TOKEN}"))));

    for path in ["/", "/dashboard.json"] {
        let nobody = get(&mut http, path, None).await;
        assert_eq!(nobody.status, 401, "{path}");
        let challenges: Vec<&str> =
            nobody.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
        assert!(challenges.iter().any(|of| of.starts_with("Basic realm=")), "{challenges:?}");
        assert!(challenges.iter().any(|of| of.starts_with("Bearer ")), "{challenges:?}");
        drop(nobody.text().await);
        let plain = get(&mut http, path, Some(&ada)).await;
        assert_eq!(plain.status, 403, "{path}");
        assert!(plain.header("www-authenticate").contains("scope=\"admin\""));
        drop(plain.text().await);
        let wrong = get(&mut http, path, Some("Basic bWU6d3Jvbmc=")).await;
        assert_eq!(wrong.status, 401, "{path}");
        drop(wrong.text().await);
        let shown = get(&mut http, path, Some(&basic)).await;
        assert_eq!(shown.status, 200, "{path}");
        drop(shown.text().await);
        let shown = get(&mut http, path, Some(&format!("Bearer {ADMIN_TOKEN}"))).await;
        assert_eq!(shown.status, 200, "{path}");
        drop(shown.text().await);
    }

    for number in 0..3 {
        let answer = call(
            &mut http,
            &ada,
            json!({"pattern": "test.echo", "input": {"mark": format!("{MARK}{number}")}}),
        )
        .await;
        assert!(answer["result"].is_object() && answer["result"]["isError"] != true, "{answer:#}");
    }
    // No such pattern; then inputs that do not fit one.
    for arguments in [json!({"pattern": MARK}), json!({"pattern": "test.echo", "input": {"mark": [MARK]}})] {
        let answer = call(&mut http, &ada, arguments).await;
        assert_eq!(answer["result"]["isError"], true, "{answer:#}");
    }
    let answer = get(&mut http, "/dashboard.json", Some(&basic)).await;
    let text = answer.text().await;
    for secret in [MARK, "ada", "evangeline", "alpha", ADMIN_TOKEN] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let told: Value = serde_json::from_str(&text).unwrap();
    let of = |list: &str, key: &str, name: &str| {
        told[list].as_array().unwrap().iter().find(|row| row[key] == name).cloned().unwrap_or_default()
    };
    assert_eq!(of("methods", "method", "tools/call")["count"], 5, "{told:#}");
    let ran = of("patterns", "type", "infrastructure");
    assert!(ran["count"].as_u64().unwrap() >= 3, "{told:#}");
    assert!(
        ran["p50_ms"].as_f64().unwrap() > 0.0 && ran["p50_ms"].as_f64() <= ran["p99_ms"].as_f64(),
        "{ran}"
    );
    let recent = told["recent_errors"].as_array().unwrap();
    assert_eq!(recent.len(), 2, "{told:#}");
    assert_eq!((&recent[1]["code"], &recent[1]["method"]), (&json!("unknown_pattern"), &json!("tools/call")));
    assert_eq!((&recent[0]["code"], &recent[0]["pattern"]), (&json!("invalid_input"), &json!("test.echo")));
    assert!(recent[1].get("pattern").is_none(), "what a client calls a pattern is its word");
    assert_eq!(of("refused", "rule", "no-token")["count"], 2);
}
