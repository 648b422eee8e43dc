//! The program itself with a Redis: over TLS with a certificate of one's own, and what it tells of one.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Command,
};

use serde_json::Value;

use crate::{
    redis_many::sentinel_of,
    redis_server::{Server, free_port, shared},
};

/// What `tmws doctor` finds about `url`, with `certificate` as the only root.
fn doctor(url: &str, certificate: Option<&str>) -> Option<(String, String)> {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tmws"));
    command.args(["doctor", "--no-probe", "--json"]).current_dir(home.path()).env_clear();
    command
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("TMWS_REDIS_URL", url);
    if let Some(certificate) = certificate {
        command.env("SSL_CERT_FILE", certificate);
    }
    let output = command.output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    assert!(!told.to_string().contains("s3cret"), "{told}");
    let found = told["checks"].as_array().unwrap().iter().find(|check| check["subject"] == "redis")?;
    let text = |name: &str| found[name].as_str().unwrap().to_owned();
    Some((text("verdict"), text("detail")))
}

#[test]
fn the_doctor_connects_and_says_how_it_stands() {
    assert_eq!(doctor("none", None), None);
    let (verdict, detail) = doctor(&shared(), None).unwrap();
    assert!(verdict == "ok" && detail.contains("1 server, which tells what"), "{verdict} {detail}");
    let (verdict, detail) = doctor(&shared().replace("default:", "default:s3cret"), None).unwrap();
    assert!(verdict == "warn" && detail.contains("refuses the user or the password"), "{verdict} {detail}");
}

#[test]
fn the_doctor_asks_all_addresses_and_says_which_one_told() {
    let master = Server::start(&[]);
    let sentinel = sentinel_of(&master, &[]);
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let url = format!("redis+sentinel://{dead},{}/mine", sentinel.place());
    let (verdict, detail) = doctor(&url, None).unwrap();
    let (vain, told) =
        (format!("asked {dead} in vain: nobody"), format!("{} told of them", sentinel.place()));
    assert!(verdict == "ok" && detail.contains(&vain) && detail.contains(&told), "{verdict} {detail}");
    let (verdict, detail) = doctor(&url.replace("mine", "other"), None).unwrap();
    let unknown = format!("asked {} in vain: Sentinel knows no master", sentinel.place());
    assert!(verdict == "warn" && detail.contains(&vain) && detail.contains(&unknown), "{verdict} {detail}");
}

#[test]
fn the_doctor_tries_what_the_cache_does_and_says_what_is_not_allowed() {
    let page = include_str!("../../docs/cache.md");
    let user =
        page.lines().find(|line| line.starts_with("user tmws on ")).unwrap().replace("PASSWORD", "s3cret");
    let server = Server::start(&["user default on nopass +@all ~* &*", &user]);
    let url = server.url().replace("//", "//tmws:s3cret@");
    let (verdict, detail) = doctor(&url, None).unwrap();
    assert!(verdict == "ok", "{verdict} {detail}");
    for command in ["set", "get", "getrange", "time", "eval", "evalsha"] {
        server.ask::<()>(&format!("ACL SETUSER tmws -{command}"));
        let (verdict, detail) = doctor(&url, None).unwrap();
        let lacking = format!("its user lacks +{command};");
        assert!(verdict == "warn" && detail.contains(&lacking), "{command}: {verdict} {detail}");
        server.ask::<()>(&format!("ACL SETUSER tmws +{command}"));
    }
    server.ask::<()>("ACL SETUSER tmws -set -eval");
    let (verdict, detail) = doctor(&url, None).unwrap();
    assert!(verdict == "warn" && detail.contains("its user lacks +set +eval;"), "{verdict} {detail}");
    server.ask::<()>("ACL SETUSER tmws +set +eval resetkeys ~other:*");
    let (verdict, detail) = doctor(&url, None).unwrap();
    assert!(verdict == "warn" && detail.contains("its user lacks ~tmws:*;"), "{verdict} {detail}");
    server.ask::<()>("ACL SETUSER tmws ~tmws:*");
    server.ask::<()>("CONFIG SET maxmemory 1");
    let (verdict, detail) = doctor(&url, None).unwrap();
    assert!(verdict == "warn" && detail.contains("its memory is full"), "{verdict} {detail}");
}

#[test]
fn tls_is_spoken_with_sentinels_and_clusters() {
    let fixture = |name: &str| format!("{}/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key) = (fixture("cert.pem"), fixture("key.pem"));
    // `port` is there for the test.
    let start = |start: fn(&[&str]) -> Server, more: &[&str]| {
        let port = free_port();
        let options = [
            format!("tls-port {port}"),
            format!("tls-cert-file {certificate}"),
            format!("tls-key-file {key}"),
            format!("tls-ca-cert-file {certificate}"),
            "tls-auth-clients no".to_owned(),
            "tls-replication yes".to_owned(),
        ];
        let lines: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        (start(&lines), port)
    };
    let (_master, port) = start(Server::start, &[]);
    let (sentinel, watching) =
        start(Server::sentinel, &[&format!("sentinel monitor mine 127.0.0.1 {port} 1")]);
    let (cluster, seed) =
        start(Server::start, &["cluster-enabled yes", "cluster-port PORT", "tls-cluster yes"]);
    cluster.ask::<()>("CLUSTER ADDSLOTSRANGE 0 16383");
    while !cluster.ask::<String>("CLUSTER INFO").contains("cluster_state:ok") {}
    let root = Some(certificate.as_str());
    for url in
        [format!("rediss+sentinel://127.0.0.1:{watching}/mine"), format!("rediss+cluster://127.0.0.1:{seed}")]
    {
        let (verdict, detail) = doctor(&url, root).unwrap();
        assert!(
            verdict == "ok" && detail.contains("1 server, which tells what"),
            "{url}: {verdict} {detail}"
        );
        let (verdict, detail) = doctor(&url, None).unwrap();
        assert!(verdict == "warn" && detail.contains("certificate cannot be verified"), "{url}: {detail}");
    }
    let plain = format!("rediss+sentinel://{}/mine", sentinel.place());
    let (verdict, detail) = doctor(&plain, root).unwrap();
    assert!(verdict == "warn" && detail.contains("it speaks no TLS"), "{verdict} {detail}");
}

#[test]
fn tls_is_spoken_to_whom_a_root_certificate_vouches_for() {
    let fixture = |name: &str| format!("{}/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key) = (fixture("cert.pem"), fixture("key.pem"));
    let options = [
        "tls-port PORT".to_owned(),
        format!("tls-cert-file {certificate}"),
        format!("tls-key-file {key}"),
        "tls-auth-clients no".to_owned(),
        "bind 127.0.0.1 127.0.0.2".to_owned(),
    ];
    let server = Server::start(&options.each_ref().map(String::as_str));
    let ports: Vec<String> = server.ask("CONFIG GET tls-port");
    let url = format!("rediss://127.0.0.1:{}", ports[1]);
    let (verdict, detail) = doctor(&url, Some(&certificate)).unwrap();
    assert!(verdict == "ok", "{verdict} {detail}");
    let (verdict, detail) = doctor(&url.replace("127.0.0.1", "localhost"), Some(&certificate)).unwrap();
    assert!(verdict == "ok", "{verdict} {detail}");
    let root = Some(certificate.as_str());
    for (url, root, reason) in [
        // Nobody vouches for it; another name than it has; no TLS there; nothing else there.
        (url.clone(), None, "certificate cannot be verified"),
        (url.replace("127.0.0.1", "127.0.0.2"), root, "certificate cannot be verified"),
        (server.url().replace("redis:", "rediss:"), root, "it speaks no TLS"),
        (url.replace("rediss:", "redis:"), root, "it speaks TLS"),
        (url.replace("rediss:", "redis+cluster:"), root, "it speaks TLS"),
        (server.url().replace("redis:", "rediss+cluster:"), root, "it speaks no TLS"),
    ] {
        let (verdict, detail) = doctor(&url, root).unwrap();
        assert!(verdict == "warn" && detail.contains(reason), "{url}: {verdict} {detail}");
    }
}
