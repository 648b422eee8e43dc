//! `http.get` against real servers on this machine: where it goes, where it does not, and what it makes of answers.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tmws::{
    engine::{
        ErrorKind, Outside,
        steps::{
            StepContext, StepError,
            http::{self, Http, Names},
        },
    },
    pattern::{Permissions, host::HostRule},
    transport::tls_acceptor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::steps_support::Folder;

/// A server that gives each connection the next of its answers, the last one again and again.
struct Server {
    port: u16,
    served: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// What a connection is given.
#[derive(Clone)]
enum Reply {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// These bytes, then silence.
    Stalls(Vec<u8>),
    /// These bytes, then the others for ever.
    Endless(Vec<u8>, Vec<u8>),
}

fn reply(text: impl AsRef<[u8]>) -> Reply {
    Reply::Bytes(text.as_ref().to_vec())
}

fn ok(headers: &str, body: &str) -> Reply {
    reply(format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()))
}

fn redirect(to: &str) -> Reply {
    reply(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"))
}

impl Server {
    async fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::made(|_| replies.into_iter().collect()).await
    }

    /// With answers that name the port.
    async fn made(replies: impl FnOnce(u16) -> Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut replies = replies(port).into_iter().peekable();
        let (served, heads) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, kept) = (Arc::clone(&served), Arc::clone(&heads));
        let task = tokio::spawn(async move {
            let mut last = None;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                last = replies.next().or(last);
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, last.clone().unwrap(), Arc::clone(&kept)));
            }
        });
        Self { port, served, heads, task }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, reply: Reply, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    heads.lock().unwrap().push(String::from_utf8(head).unwrap());
    match reply {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Reply::Stalls(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read_u8().await;
        }
        Reply::Endless(bytes, more) => {
            let _ = stream.write_all(&bytes).await;
            while stream.write_all(&more).await.is_ok() {}
        }
    }
}

/// A fetch to be made.
struct Fetch {
    folder: Folder,
    http: Http,
    hosts: Vec<String>,
    time: Duration,
}

impl Fetch {
    /// `127.0.0.1` and `localhost` are allowed, at any port that is asked for.
    fn new(ports: &[u16]) -> Self {
        let hosts = ports.iter().flat_map(|port| [format!("127.0.0.1:{port}"), format!("localhost:{port}")]);
        Self {
            folder: Folder::new(),
            http: Http::new(rules(&["127.0.0.1", "localhost"])),
            hosts: hosts.collect(),
            time: Duration::from_secs(30),
        }
    }

    fn context(self) -> StepContext {
        StepContext {
            permissions: Arc::new(Permissions { http: self.hosts, ..Permissions::default() }),
            outside: Arc::new(Outside { http: self.http, ..Outside::default() }),
            deadline: Instant::now() + self.time,
            ..self.folder.context()
        }
    }

    async fn get(self, with: Value) -> Result<Value, (ErrorKind, String)> {
        get(&self.context(), with).await
    }
}

async fn get(context: &StepContext, with: Value) -> Result<Value, (ErrorKind, String)> {
    let Value::Object(with) = with else { panic!("an object") };
    let output = http::run("http.get", context, &with).await;
    output.map(|output| output.value).map_err(|StepError { kind, message, .. }| (kind, message))
}

fn rules(hosts: &[&str]) -> Vec<HostRule> {
    hosts.iter().map(|host| HostRule::parse(host).unwrap()).collect()
}

/// A resolver with given answers, one a question; the last one again and again.
struct Answers(Mutex<VecDeque<Vec<IpAddr>>>);

impl Answers {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new(answers.iter().map(parse).collect())))
    }

    fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[async_trait]
impl Names for Answers {
    async fn addresses(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.0.lock().unwrap().pop_front().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[tokio::test]
async fn an_answer_is_text_or_json_and_a_status_is_data() {
    let server = Server::new([
        ok("Content-Type: text/plain; charset=utf-8\r\n", "grüße\n"),
        ok("Content-Type: application/json\r\n", r#"{"a": [1, 2]}"#),
        ok("Content-Type: application/problem+json; charset=utf-8\r\n", "[]"),
        ok("Content-Type: application/json\r\n", "{broken"),
        reply("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone"),
        reply("HTTP/1.1 204 No Content\r\n\r\n"),
        reply("HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        reply("HTTP/1.0 200 OK\r\n\r\nuntil the end"),
        ok("Content-Type: image/png\r\n", "\u{1}PNG\0\0"),
        reply(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ncaf\xe9"),
    ])
    .await;
    let url = server.url("/a?b=c");
    let context = Fetch::new(&[server.port]).context();
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(
            get(&context, json!({"url": format!("{url}#part"), "accept": "application/json"})).await.unwrap(),
        );
    }
    assert_eq!(
        answers[0],
        json!({"status": 200, "url": url, "content_type": "text/plain; charset=utf-8", "bytes": 8, "text": "grüße\n", "truncated": false})
    );
    assert_eq!((&answers[1]["json"], &answers[2]["json"]), (&json!({"a": [1, 2]}), &json!([])));
    assert_eq!(answers[3]["text"], "{broken");
    assert_eq!((&answers[4]["status"], &answers[4]["text"]), (&json!(404), &json!("gone")));
    assert_eq!((&answers[5]["status"], &answers[5]["text"]), (&json!(204), &json!("")));
    assert_eq!((&answers[6]["status"], &answers[6]["text"]), (&json!(500), &json!("abcde")));
    assert_eq!(answers[7]["text"], "until the end");
    assert_eq!((&answers[8]["binary"], &answers[8]["text"]), (&json!(true), &json!(null)));
    assert_eq!((&answers[9]["lossy"], &answers[9]["text"]), (&json!(true), &json!("caf\u{fffd}")));
    let head = server.heads.lock().unwrap()[0].to_ascii_lowercase();
    let mut lines: Vec<&str> = head.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "get /a?b=c http/1.1");
    let mut names: Vec<&str> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["accept", "accept-encoding", "connection", "host", "user-agent"],
        "nothing else is sent"
    );
    assert!(lines.contains(&"accept: application/json") && lines.contains(&"accept-encoding: identity"));
}

#[tokio::test]
async fn a_host_that_is_not_allowed_is_never_asked() {
    let server = Server::new([ok("", "no")]).await;
    let port = server.port;
    for url in [
        format!("http://localhost:{port}/"),
        format!("http://127.0.0.2:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://127.0.0.1.nip.example:{port}/"),
        format!("http://x.127.0.0.1:{port}/"),
        "http://127.0.0.1/".to_owned(),
        format!("https://127.0.0.1:{}/", port ^ 1),
    ] {
        let fetch = Fetch { hosts: vec![format!("127.0.0.1:{port}")], ..Fetch::new(&[]) };
        let (kind, message) = fetch.get(json!({"url": url})).await.unwrap_err();
        assert!(matches!(kind, ErrorKind::Denied | ErrorKind::InvalidInput), "{url}: {message}");
    }
    assert_eq!(server.served(), 0);
    // The same host in other words.
    for url in [
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://0177.0.0.1:{port}/"),
        format!("HTTP://127.1:{port}/"),
        format!("http://127.0.0.1.:{port}/"),
    ] {
        let fetch = Fetch { hosts: vec![format!("127.0.0.1:{port}")], ..Fetch::new(&[]) };
        assert_eq!(fetch.get(json!({"url": url})).await.unwrap()["text"], "no", "{url}");
    }
    for (url, name) in [("LOCALHOST", "localhost"), ("localhost.", "localhost"), ("localhost", "LocalHost.")]
    {
        let fetch = Fetch { hosts: vec![format!("{name}:{port}")], ..Fetch::new(&[]) };
        assert_eq!(fetch.get(json!({"url": format!("http://{url}:{port}/")})).await.unwrap()["text"], "no");
    }
}

#[tokio::test]
async fn private_addresses_are_reached_only_where_the_configuration_names_the_host() {
    let server = Server::new([ok("", "inside")]).await;
    let port = server.port;
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "192.168.1.1",
        "100.64.0.1",
        "224.0.0.1",
    ] {
        let fetch = Fetch { http: Http::default(), hosts: vec![format!("{host}:{port}")], ..Fetch::new(&[]) };
        let (kind, message) = fetch.get(json!({"url": format!("http://{host}:{port}/")})).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Denied, "{host}: {message}");
        assert!(message.contains("does not reach"), "{host}: {message}");
    }
    // Some are not reached even then.
    for host in ["169.254.169.254", "0.0.0.0", "[::]", "[fe80::1]", "[::ffff:169.254.169.254]", "224.0.0.1"] {
        let fetch = Fetch {
            http: Http::new(rules(&[host])),
            hosts: vec![format!("{host}:{port}")],
            ..Fetch::new(&[])
        };
        let (kind, message) = fetch.get(json!({"url": format!("http://{host}:{port}/")})).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Denied, "{host}: {message}");
    }
    assert_eq!(server.served(), 0);
    assert_eq!(Fetch::new(&[port]).get(json!({"url": server.url("/")})).await.unwrap()["text"], "inside");
}

#[tokio::test]
async fn every_address_of_a_name_is_looked_at_each_time() {
    let server =
        Server::made(|port| vec![redirect(&format!("http://api.example:{port}/again")), ok("", "reached")])
            .await;
    let port = server.port;
    let fetch = |answers: &Arc<Answers>, private: &[&str]| Fetch {
        http: Http::new(rules(private)).with_names(Arc::clone(answers) as Arc<dyn Names>),
        hosts: vec![format!("api.example:{port}")],
        ..Fetch::new(&[])
    };
    let url = json!({"url": format!("http://api.example:{port}/")});
    // One of several is private; none is tried.
    let mixed = Answers::new(&[&["93.184.216.34", "127.0.0.1"]]);
    let (kind, message) = fetch(&mixed, &[]).get(url.clone()).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Denied, "{message}");
    assert_eq!(server.served(), 0);
    // The addresses that were looked at are those that are dialled: the name is asked once a request.
    let good = Answers::new(&[&["127.0.0.1"], &["127.0.0.1"]]);
    assert_eq!(fetch(&good, &["api.example"]).get(url.clone()).await.unwrap()["text"], "reached");
    assert_eq!((good.left(), server.served()), (0, 2));
    // It answers otherwise the second time.
    let server = Server::made(|port| vec![redirect(&format!("http://api.example:{port}/again"))]).await;
    let url = json!({"url": format!("http://api.example:{}/", server.port)});
    let rebinding = Answers::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let fetch = Fetch {
        http: Http::new(rules(&["api.example"])).with_names(Arc::clone(&rebinding) as Arc<dyn Names>),
        hosts: vec![format!("api.example:{}", server.port)],
        ..Fetch::new(&[])
    };
    let (kind, message) = fetch.get(url).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Denied, "{message}");
    assert!(message.contains("169.254.169.254"), "{message}");
    assert_eq!((rebinding.left(), server.served()), (0, 1));
    let nobody = Fetch {
        http: Http::default().with_names(Answers::new(&[&[]])),
        hosts: vec!["api.example".to_owned()],
        ..Fetch::new(&[])
    };
    let (kind, message) = nobody.get(json!({"url": "http://api.example/"})).await.unwrap_err();
    assert_eq!(kind, ErrorKind::ProgramFailed, "{message}");
}

#[tokio::test]
async fn redirects_are_followed_to_allowed_hosts_only() {
    let inside = Server::new([ok("", "secret")]).await;
    for (to, part) in [
        (inside.url("/"), "not among the hosts"),
        (format!("http://localhost:{}/", inside.port), "not among the hosts"),
        ("http://169.254.169.254/latest/meta-data".to_owned(), "not among the hosts"),
        ("file:///etc/passwd".to_owned(), "scheme"),
        ("http://user:word@127.0.0.1/".to_owned(), "user"),
        ("//[::1]/x".to_owned(), "not among the hosts"),
        ("http://\\evil".to_owned(), "backslash"),
    ] {
        let server = Server::new([redirect(&to)]).await;
        let (kind, message) =
            Fetch::new(&[server.port]).get(json!({"url": server.url("/")})).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Denied, "{to}: {message}");
        assert!(message.contains(part), "{to}: {message}");
    }
    assert_eq!(inside.served(), 0);
    // An allowed host whose address is private without the configuration's word.
    let server = Server::made(|_| vec![redirect(&format!("http://localhost:{}/", inside.port))]).await;
    let fetch = Fetch { http: Http::new(rules(&["127.0.0.1"])), ..Fetch::new(&[server.port, inside.port]) };
    let (kind, message) = fetch.get(json!({"url": server.url("/")})).await.unwrap_err();
    assert_eq!((kind, inside.served()), (ErrorKind::Denied, 0), "{message}");
    // A loop ends.
    let server = Server::new([redirect("/again")]).await;
    let (kind, message) = Fetch::new(&[server.port]).get(json!({"url": server.url("/")})).await.unwrap_err();
    assert_eq!((kind, server.served()), (ErrorKind::ProgramFailed, 6), "{message}");
    // What is fine is followed; one without a place is data.
    let server = Server::new([redirect("../b?c"), ok("", "b")]).await;
    let answer = Fetch::new(&[server.port]).get(json!({"url": server.url("/a/x")})).await.unwrap();
    assert_eq!((&answer["text"], &answer["url"]), (&json!("b"), &json!(server.url("/b?c"))));
    let server = Server::new([reply("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")]).await;
    let answer = Fetch::new(&[server.port]).get(json!({"url": server.url("/")})).await.unwrap();
    assert_eq!(answer["status"], 302);
}

#[tokio::test]
async fn content_is_cut_and_never_unpacked() {
    let endless = || Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), "é".repeat(4096).into_bytes());
    // The beginning of a gzip of zeroes.
    let bomb = [&b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"[..], b"\x1f\x8b\x08\x02\x03\x04\x05\x06\x02\x03\x01\x02"].concat();
    let declared = || {
        Reply::Endless(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec(), vec![b'x'; 8192])
    };
    let server =
        Server::new([endless(), reply(bomb), declared(), ok("", "exactly ten"), ok("", "exactly 10")]).await;
    let context = Fetch::new(&[server.port]).context();
    let with = json!({"url": server.url("/"), "max_bytes": 10_001});
    let answer = get(&context, with.clone()).await.unwrap();
    assert_eq!(
        (&answer["bytes"], &answer["truncated"], &answer["lossy"]),
        (&json!(10_001), &json!(true), &json!(null))
    );
    assert_eq!(answer["text"], "é".repeat(5_000), "no character is split");
    let answer = get(&context, with.clone()).await.unwrap();
    assert_eq!(
        (&answer["binary"], &answer["encoding"], &answer["bytes"], &answer["json"]),
        (&json!(true), &json!("gzip"), &json!(12), &json!(null))
    );
    let answer = get(&context, with).await.unwrap();
    assert_eq!((&answer["bytes"], &answer["truncated"]), (&json!(10_001), &json!(true)));
    for truncated in [true, false] {
        let answer = get(&context, json!({"url": server.url("/"), "max_bytes": 10})).await.unwrap();
        assert_eq!((&answer["bytes"], &answer["truncated"]), (&json!(10), &json!(truncated)));
    }
}

#[tokio::test]
async fn a_host_that_misbehaves_is_a_failure_in_words() {
    let flood = |text: &str| format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", text.repeat(25_000));
    for (what, answer) in [
        ("closes before its head", reply("HTTP/1.1 200 OK\r\nContent-")),
        ("closes at once", reply("")),
        ("closes early", reply("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")),
        ("an unfinished chunk", reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc")),
        ("chunks that are none", reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n")),
        ("many headers", reply(flood("X-A: b\r\n").trim_end())),
        ("a long header", reply(flood("X-A: 0123456789012345678901234567890123456789"))),
        ("an endless head", Reply::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-B: c\r\n".repeat(100))),
        ("two lengths", reply("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")),
        ("a length that is none", reply("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc")),
        ("no HTTP", reply("SSH-2.0-OpenSSH_9.6\r\n")),
    ] {
        let server = Server::new([answer]).await;
        let (kind, message) =
            Fetch::new(&[server.port]).get(json!({"url": server.url("/key=s3cret")})).await.expect_err(what);
        assert_eq!(kind, ErrorKind::ProgramFailed, "{what}: {message}");
        assert!(message.starts_with("127.0.0.1:") && !message.contains("s3cret"), "{what}: {message}");
    }
    // More than it said is not taken.
    let server = Server::new([reply("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK")]).await;
    let answer = Fetch::new(&[server.port]).get(json!({"url": server.url("/")})).await.unwrap();
    assert_eq!((&answer["text"], &answer["truncated"]), (&json!("abc"), &json!(false)));
    // Nobody listens.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = json!({"url": format!("http://127.0.0.1:{gone}/")});
    let (kind, message) = Fetch::new(&[gone]).get(url).await.unwrap_err();
    assert_eq!(kind, ErrorKind::ProgramFailed, "{message}");
}

#[tokio::test]
async fn what_is_slow_ends_with_the_step_and_what_is_cancelled_at_once() {
    for answer in [
        Reply::Stalls(Vec::new()),
        Reply::Stalls(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Reply::Stalls(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab".to_vec()),
    ] {
        let server = Server::new([answer.clone()]).await;
        let fetch = Fetch { time: Duration::from_millis(300), ..Fetch::new(&[server.port]) };
        let (kind, message) = fetch.get(json!({"url": server.url("/")})).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Deadline, "{message}");
        let server = Server::new([answer]).await;
        let context = Fetch::new(&[server.port]).context();
        let (answer, ()) = tokio::join!(get(&context, json!({"url": server.url("/")})), async {
            while server.heads.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            context.cancel.cancel();
        });
        assert_eq!(answer.unwrap_err().0, ErrorKind::Cancelled);
    }
}

#[tokio::test]
async fn arguments_that_are_no_url_are_refused() {
    for url in [
        json!("ftp://127.0.0.1/"),
        json!("http://user@127.0.0.1/"),
        json!("http://127.0.0.1/\0"),
        json!("http://127.0.0.1/\r\nX: y"),
        json!("http://127.0.0.1/a b"),
        json!(""),
        json!(7),
        json!("127.0.0.1"),
        json!("http://127.0.0.1:99999/"),
    ] {
        let (kind, message) = Fetch::new(&[80]).get(json!({"url": url})).await.unwrap_err();
        assert_eq!(kind, ErrorKind::InvalidInput, "{url}: {message}");
    }
    for with in [
        json!({"url": "http://127.0.0.1/", "accept": "a\r\nX-Injected: b"}),
        json!({"url": "http://127.0.0.1/", "max_bytes": 0}),
        json!({"url": "http://127.0.0.1/", "max_bytes": 1 << 30}),
    ] {
        assert_eq!(Fetch::new(&[80]).get(with).await.unwrap_err().0, ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn tls_is_trusted_by_its_certificate_and_never_given_up() {
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls").join(name);
    let roots = || {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        vec![CertificateDer::from_pem_file(fixture("cert.pem")).unwrap()]
    };
    let acceptor = tls_acceptor(&fixture("cert.pem"), &fixture("key.pem")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        for answer in [ok("", "encrypted"), redirect(&format!("http://localhost:{port}/"))].iter().cycle() {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let Reply::Bytes(bytes) = answer else { unreachable!("bytes") };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
    });
    let fetch = |http: Http| Fetch { http, ..Fetch::new(&[port]) };
    let private = || Http::new(rules(&["localhost", "127.0.0.1"]));
    let url = json!({"url": format!("https://localhost:{port}/")});
    let answer = fetch(private().with_roots(roots())).get(url.clone()).await.unwrap();
    assert_eq!(answer["text"], "encrypted");
    let (kind, message) = fetch(private().with_roots(roots())).get(url.clone()).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Denied, "from https to http: {message}");
    assert!(message.contains("not encrypted"), "{message}");
    // The machine's own roots do not know it.
    let (kind, message) = fetch(private()).get(url).await.unwrap_err();
    assert_eq!(kind, ErrorKind::ProgramFailed, "{message}");
    assert!(message.contains("TLS"), "{message}");
    server.abort();
}
