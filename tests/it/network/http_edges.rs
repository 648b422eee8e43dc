//! The listener at its edges: slow, greedy and silent peers, too many of them, TLS, and the end.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tmws::{
    access::{Access, NewToken, Projects, TokenSource, add_token},
    limits::{ConnectionLimits, NetworkLimits},
    transport::{TlsError, tls_acceptor},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    PATIENCE, Seen, Server, Setup,
    http::{call, called},
    within,
};

const SOON: Duration = Duration::from_millis(60);

/// A server with these limits, else with patience.
async fn limited(change: impl FnOnce(&mut NetworkLimits)) -> Server {
    let mut network_limits = NetworkLimits {
        header_timeout: PATIENCE,
        body_timeout: PATIENCE,
        write_stall: PATIENCE,
        ..NetworkLimits::default()
    };
    change(&mut network_limits);
    Server::with(Setup { network_limits, ..Setup::default() }).await
}

async fn raw(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the server closes.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = within("the close", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What comes until `text` has come so often.
async fn until(stream: &mut TcpStream, text: &str, times: usize) -> String {
    let mut seen = String::new();
    let mut bytes = [0; 4096];
    while seen.matches(text).count() < times {
        let read = within("more", stream.read(&mut bytes)).await.unwrap();
        assert!(read > 0, "it closed after {seen}");
        seen.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    seen
}

fn post(body: &str, length: usize) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: */*\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: big\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_closes_the_connection() {
    let server = limited(|limits| limits.header_timeout = SOON).await;
    for text in ["", "GET /healthz HTTP/1.1\r\n", "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: "] {
        let mut stream = raw(&server, text).await;
        assert_eq!(rest(&mut stream).await, "", "{text}");
    }
    // A head that never ends, fed byte by byte, neither.
    let mut stream = raw(&server, "GET /healthz HTTP/1.1\r\nx: ").await;
    within("the close", async { while stream.write_all(b"x").await.is_ok() {} }).await;
    assert!(
        server.host.metrics.text().contains("rule=\"head-too-slow\"} 4"),
        "{}",
        server.host.metrics.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_between_requests_is_not_the_time_of_a_head() {
    let server = limited(|limits| limits.header_timeout = SOON).await;
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = raw(&server, request).await;
    until(&mut idle, "\"ok\"}", 1).await;
    // Others are closed for their slowness twice, one after the other, while it is idle.
    for _ in 0..2 {
        rest(&mut raw(&server, "GET ").await).await;
    }
    idle.write_all(request.as_bytes()).await.unwrap();
    until(&mut idle, "\"ok\"}", 1).await;
    idle.write_all(b"GET ").await.unwrap();
    assert_eq!(rest(&mut idle).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_is_answered_408_and_one_too_large_413() {
    let network_limits = NetworkLimits { body_timeout: SOON, ..NetworkLimits::default() };
    let connection_limits = ConnectionLimits { frame_in_bytes_max: 64, ..ConnectionLimits::default() };
    let server = Server::with(Setup { connection_limits, network_limits, ..Setup::default() }).await;
    let chunked = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: */*\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = "x".repeat(65);
    let table = [
        (post("{", 10), "408"),
        (post("", 10), "408"),
        (format!("{chunked}1\r\n{{\r\n"), "408"),
        (post("", 65), "413"),
        (post(&long, 1 << 30), "413"),
        (format!("{chunked}41\r\n{long}\r\n"), "413"),
        (post(&"x".repeat(64), 64), "400"),
    ];
    for (text, status) in table {
        let mut stream = raw(&server, &text).await;
        let answer = if status == "400" { until(&mut stream, "}", 1).await } else { rest(&mut stream).await };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{text}: {answer}");
        assert_eq!(answer.contains("connection: close"), status != "400", "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_bounded_as_a_whole() {
    let server = limited(|limits| limits.body_timeout = SOON).await;
    let mut stream = raw(&server, &post("", 1 << 20)).await;
    let (mut read, mut write) = stream.split();
    let answer = within("an answer", async {
        tokio::select! {
            answer = rest(&mut read) => answer,
            // A byte whenever the server might look, for ever.
            () = async {
                loop {
                    let _ = write.write_all(b" ").await;
                    tokio::time::sleep(SOON / 10).await;
                }
            } => unreachable!(),
        }
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_off() {
    let server = limited(|limits| limits.write_stall = SOON).await;
    let body = call(1, "big", &json!({"bytes": 1_000_000})).to_string();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // More than the buffers of both systems hold.
    let requests = post(&body, body.len()).repeat(64);
    stream.write_all(requests.as_bytes()).await.unwrap();
    // Nothing else ends it: it is cut off when what is written finds nobody any more.
    within("the cut", async { while stream.write_all(&[b' '; 4096]).await.is_ok() {} }).await;
    let host = Arc::clone(&server.host);
    server.stop();
    server.ended().await;
    assert!(host.metrics.text().contains("rule=\"slow-reader\"} 1"), "{}", host.metrics.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_in_order_on_one_connection() {
    let server = Server::start().await;
    let pipelined: String = (0..5)
        .map(|id| {
            let body = call(id, "big", &json!({"bytes": id})).to_string();
            post(&body, body.len())
        })
        .collect();
    let mut stream = raw(&server, &pipelined).await;
    let seen = until(&mut stream, "\"jsonrpc\"", 5).await;
    let places: Vec<usize> = (0..5)
        .map(|id| seen.find(&format!("\"id\":{id},")).unwrap_or_else(|| panic!("{id}: {seen}")))
        .collect();
    assert!(places.is_sorted(), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so_and_a_place_is_given_back() {
    let server = limited(|limits| limits.connections_max = 1).await;
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut first = raw(&server, request).await;
    until(&mut first, "\"ok\"}", 1).await;
    let answer = rest(&mut raw(&server, request).await).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
    drop(first);
    within("a place", async {
        loop {
            let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            if rest(&mut raw(&server, request).await).await.starts_with("HTTP/1.1 200 ") {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_answers_what_runs_closes_what_is_idle_and_lets_nobody_in() {
    let server = Server::start().await;
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = raw(&server, request).await;
    until(&mut idle, "\"ok\"}", 1).await;
    let mut client = server.http().await;
    let running = tokio::spawn(async move {
        client.post(&call(1, "wait", &json!({"tag": "t"})), &called("wait")).await.json().await
    });
    assert_eq!(server.probe.next().await, Seen::Started("t".to_owned()));
    server.stop();
    assert_eq!(rest(&mut idle).await, "");
    within("a refusal", async { while TcpStream::connect(server.address).await.is_ok() {} }).await;
    server.probe.release("t");
    assert_eq!(running.await.unwrap()["result"]["content"][0]["text"], "t");
    server.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_runs_when_the_time_is_over_is_told_so() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let running = tokio::spawn(async move {
        client.post(&call(1, "wait", &json!({"tag": "t"})), &called("wait")).await.json().await
    });
    assert_eq!(server.probe.next().await, Seen::Started("t".to_owned()));
    // A client that neither finishes its request nor leaves.
    let half = raw(&server, &post("", 10)).await;
    server.stop();
    server.cut_off();
    assert_eq!(server.probe.next().await, Seen::Cancelled("t".to_owned()));
    let answer = running.await.unwrap();
    assert_eq!(answer["result"]["isError"], json!(true), "{answer}");
    server.ended().await;
    drop(half);
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls").join(name)
}

fn trusting() -> tokio_rustls::TlsConnector {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_makes_it_https_and_a_slow_handshake_holds_up_nobody() {
    let tls = Some(tls_acceptor(&fixture("cert.pem"), &fixture("key.pem")).unwrap());
    let network_limits =
        NetworkLimits { header_timeout: Duration::from_millis(500), ..NetworkLimits::default() };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    let new = NewToken {
        principal: "ada".to_owned(),
        agent: None,
        projects: vec!["personal=write".to_owned()],
        scopes: Vec::new(),
        expires: None,
    };
    add_token(&file, &new, &Projects::default()).unwrap();
    let access =
        Access::with_tokens(TokenSource::File(file), Projects::default(), || jiff::Timestamp::UNIX_EPOCH)
            .unwrap();
    let server = Server::with(Setup { network_limits, access, tls, ..Setup::default() }).await;
    let mut slow = raw(&server, "\u{16}").await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let mut stream = within("TLS", trusting().connect("localhost".try_into().unwrap(), tcp)).await.unwrap();
    let path = "/.well-known/oauth-protected-resource/mcp";
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    let document: Value = serde_json::from_str(body).unwrap();
    assert_eq!(document["resource"], "https://localhost/mcp");
    assert_eq!(rest(&mut slow).await, "");
    server.stop();
    server.ended().await;
}

#[test]
fn a_file_that_is_no_good_for_tls_is_named() {
    let (cert, key, other) = (fixture("cert.pem"), fixture("key.pem"), fixture("other-key.pem"));
    let missing = fixture("missing.pem");
    let fault = |cert: &Path, key: &Path| tls_acceptor(cert, key).err().expect("it is no good");
    let table = [
        (fault(&missing, &key), "missing.pem"),
        (fault(&cert, &missing), "missing.pem"),
        (fault(&key, &key), "key.pem holds no certificate"),
        (fault(&cert, &cert), "cert.pem holds no private key"),
        (fault(&cert, &other), "does not match"),
    ];
    for (error, words) in table {
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.to_string().contains("BEGIN EC"), "{error}");
    }
    assert!(matches!(fault(&cert, &other), TlsError::Unusable { .. }));
}
