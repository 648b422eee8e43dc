//! `/healthz`, `/readyz`, `/metrics`: how the server is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use tmws::{
    audit::{Audit, Digester},
    transport::{Checked, Health},
};

use super::{Http, Server, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_answers_is_alive_until_it_stops() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let alive = client.send("GET", "/healthz", &[], "").await;
    assert_eq!((alive.status.as_u16(), alive.header("content-type")), (200, "application/json"));
    assert_eq!(alive.json().await, json!({"status": "ok"}));
    let ready = client.send("GET", "/readyz", &[], "").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json().await, json!({"status": "ready", "dependencies": {}}));
    server.host.stopping.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_no_body_and_other_verbs_are_refused() {
    let server = Server::start().await;
    let mut client = server.http().await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let head = client.send("HEAD", path, &[], "").await;
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(head.text().await, "", "{path}");
        for method in ["POST", "DELETE", "PUT"] {
            let refused = client.send(method, path, &[], "").await;
            assert_eq!(
                (refused.status.as_u16(), refused.header("allow")),
                (405, "GET, HEAD"),
                "{method} {path}"
            );
            drop(refused.text().await);
        }
        let foreign = client.send("GET", path, &[("host", "evil.example")], "").await;
        assert_eq!(foreign.status, 403, "{path}");
        drop(foreign.text().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_not_well_and_probes_do_not_load_it() {
    let looks = Arc::new(AtomicUsize::new(0));
    let looked = Arc::clone(&looks);
    let health = Health::default()
        .with(Checked::helpful("store", move || {
            looked.fetch_add(1, Ordering::Relaxed);
            Err("it is locked by another process".to_owned())
        }))
        .with(Checked::essential("audit_log", || Ok(())));
    let server = Server::with(Setup { health, ..Setup::default() }).await;
    let mut client = server.http().await;
    for _ in 0..5 {
        let degraded = client.send("GET", "/readyz", &[], "").await;
        assert_eq!(degraded.status, 200);
        assert_eq!(
            degraded.json().await,
            json!({"status": "degraded", "dependencies": {
                "store": {"status": "degraded", "reason": "it is locked by another process"},
                "audit_log": {"status": "ready"},
            }})
        );
    }
    // Slower machines may need more than a second for five.
    assert!(looks.load(Ordering::Relaxed) < 5);

    let dead = Health::default().with(Checked::essential("audit_log", || Err("disk full".to_owned())));
    let server = Server::with(Setup { health: dead, ..Setup::default() }).await;
    let unavailable = server.http().await.send("GET", "/readyz", &[], "").await;
    assert_eq!(unavailable.status, 503);
    assert_eq!(unavailable.json().await["status"], "unavailable");
}

/// A family as its HELP and TYPE lines tell it, with its samples.
#[derive(Debug)]
struct Family {
    help: String,
    kind: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads Prometheus' text format, version 0.0.4, and takes nothing that is not exactly so.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut help: Option<(String, String)> = None;
    let mut current = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("a help text");
            assert!(help.is_none(), "HELP without TYPE before {line}");
            help = Some((name.to_owned(), words.to_owned()));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            let (of, help) = help.take().expect("HELP comes before TYPE");
            assert_eq!(of, name);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            let family = Family { help, kind: kind.to_owned(), samples: Vec::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
            name.clone_into(&mut current);
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            let (name, labels) = match series.split_once('{') {
                None => (series, ""),
                Some((name, labels)) => (name, labels.strip_suffix('}').expect("a closing brace")),
            };
            let labels = labels
                .split_terminator(',')
                .map(|pair| {
                    let (key, value) = pair.split_once('=').expect("a label");
                    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                    (key.to_owned(), value.expect("quotes").to_owned())
                })
                .collect();
            let family = families.get_mut(&current).expect("a family before its samples");
            let allowed: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            let suffix = name.strip_prefix(current.as_str()).expect("samples stand with their family");
            assert!(allowed.contains(&suffix), "{line}");
            family.samples.push((name.to_owned(), labels, value));
        }
    }
    families
}

async fn scrape(client: &mut Http) -> BTreeMap<String, Family> {
    let answer = client.send("GET", "/metrics", &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    parse(&answer.text().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_prometheus_text_with_conventional_names() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::start(folder.path().join("audit.jsonl"), Digester::derived(&[1; 32])).unwrap();
    let setup = Setup { governs: true, audit: Some(audit), ..Setup::default() };
    let server = Server::with(setup).await;
    let mut client = server.http().await;
    let foreign = client.send("GET", "/mcp", &[("host", "evil.example")], "").await;
    drop(foreign.text().await);
    let families = scrape(&mut client).await;
    for (name, family) in &families {
        assert!(name.starts_with("tmws_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert!(family.help.len() > 8, "{name}");
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}");
        assert_eq!(family.kind == "histogram", name.ends_with("_duration_seconds"), "{name}");
        assert!(!name.ends_with("_ms") && !name.ends_with("_count"), "{name}: base units");
        if family.kind == "histogram" {
            let of = |suffix: &str| family.samples.iter().filter(|(of, ..)| of.ends_with(suffix)).count();
            assert_eq!(of("_bucket"), 18 * of("_count"), "{name}");
            assert_eq!(of("_sum"), of("_count"), "{name}");
            let last = family
                .samples
                .iter()
                .filter(|(_, labels, _)| labels.get("le").is_some_and(|le| le == "+Inf"));
            assert_eq!(last.count(), of("_count"), "{name}: every histogram ends with +Inf");
        }
    }
    let value = |name: &str, key: &str, label: &str| {
        let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
        let found =
            family.samples.iter().find(|(_, labels, _)| labels.get(key).is_some_and(|of| of == label));
        found.map(|(.., value)| *value)
    };
    assert_eq!(value("tmws_build_info", "version", env!("CARGO_PKG_VERSION")), Some(1.0));
    assert_eq!(value("tmws_frames_refused_total", "rule", "host-not-allowed"), Some(1.0));
    let plain = |name: &str| families[name].samples[0].2;
    assert!(plain("process_resident_memory_bytes") > 1e6);
    assert!(plain("process_open_fds") > 3.0 && plain("process_threads") >= 2.0);
    for name in
        ["tmws_calls_in_flight", "tmws_calls_waiting", "tmws_rate_limited_total", "tmws_audit_lines_total"]
    {
        assert!(plain(name).abs() < f64::EPSILON, "{name}");
    }
    assert!((plain("tmws_audit_up") - 1.0).abs() < f64::EPSILON);

    let accept = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let open = client.send("GET", "/metrics", &accept, "").await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text"));
    assert!(open.text().await.ends_with("# EOF\n"));
}
