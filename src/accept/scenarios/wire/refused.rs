//! W10: who may not come in.

use super::{
    peer::setup,
    raw::{Head, Raw, frame, post, upgrade},
};
use crate::accept::{
    client::Target,
    scenario::{Broken, Seen},
    stage::{AGENTS, Stage},
};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// What is wrong with a request.
#[derive(Clone, Copy)]
enum Wrong {
    /// A header of another value; where there is none, it is left out.
    Header(&'static str, Option<&'static str>),
    /// The token.
    Token(Option<&'static str>),
    /// The project.
    Project(&'static str),
    /// The token stands in the query of the address.
    TokenInQuery,
    /// Two headers of one name.
    Twice(&'static str, &'static str, &'static str),
}

/// What is wrong, and the status that says so.
#[rustfmt::skip]
const TABLE: [(&str, Wrong, u16); 16] = [
    ("an Origin of somebody else", Wrong::Header("Origin", Some("https://evil.example")), 403),
    ("an Origin of null", Wrong::Header("Origin", Some("null")), 403),
    (
        "an Origin that only begins like ours",
        Wrong::Header("Origin", Some("http://127.0.0.1.evil.example")),
        403,
    ),
    ("an Origin of this machine with another port", Wrong::Header("Origin", Some("http://127.0.0.1:1")), 403),
    ("two Origins", Wrong::Twice("Origin", "http://127.0.0.1", "https://evil.example"), 403),
    ("a Host of somebody else", Wrong::Header("Host", Some("evil.example")), 403),
    ("a Host that only begins like ours", Wrong::Header("Host", Some("127.0.0.1.evil.example")), 403),
    ("a Host that is an address of somebody else", Wrong::Header("Host", Some("192.0.2.7")), 403),
    ("no Host", Wrong::Header("Host", None), 403),
    ("no token", Wrong::Token(None), 401),
    ("a token that nobody has", Wrong::Token(Some("tmws_accept_nobody_0123456789abcdef0123456789")), 401),
    ("an empty token", Wrong::Token(Some("")), 401),
    ("a token in the address", Wrong::TokenInQuery, 401),
    ("a project of others", Wrong::Project("beta"), 403),
    ("a project that there is not", Wrong::Project("gamma"), 403),
    ("a project that is no name", Wrong::Project("..%2falpha"), 404),
];

/// W10: each is refused with its status before the connection becomes a WebSocket, and before a message is read.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut instance = stage.start(setup(None)).await?;
    let right = Target::of(&instance, AGENTS[1], "alpha");
    let own = format!("http://{}", right.authority());
    // Else it would prove nothing that the others are refused.
    for (what, changed) in
        [("without an Origin", vec![]), ("with our own", vec![("Origin", Some(own.as_str()))])]
    {
        let head = Raw::connect(&right).await?.request(&upgrade(&right, &changed)).await?;
        seen.equal(format!("a WebSocket {what} is opened"), &101, &head.status);
        let head = Raw::connect(&right).await?.request(&post(&right, &changed, PING)).await?;
        // Without a session there is no ping over HTTP: it is let in, and then refused for what it says.
        let is_let_in = !matches!(head.status, 401 | 403);
        seen.check(
            format!("a POST {what} is let in"),
            is_let_in,
            "neither 401 nor 403",
            head.status.to_string(),
        );
    }
    for (what, wrong, status) in TABLE {
        for is_socket in [true, false] {
            let (head, rest) = ask(&right, wrong, is_socket).await?;
            let way = if is_socket { "WebSocket" } else { "POST" };
            // A request that names no host breaks HTTP itself: 400 says so as well.
            let is_right =
                head.status == status || (matches!(wrong, Wrong::Header("Host", None)) && head.status == 400);
            seen.check(format!("{way}: {what}"), is_right, status.to_string(), head.status.to_string());
            if status == 401 {
                let challenge = head.header("www-authenticate").unwrap_or_default().to_owned();
                seen.check(
                    format!("{way}: {what}: what would be right is said"),
                    challenge.starts_with("Bearer"),
                    "WWW-Authenticate: Bearer …",
                    challenge,
                );
            }
            seen.check(
                format!("{way}: {what}: nothing is answered to what came along"),
                !rest.contains("jsonrpc") || !rest.contains("result"),
                "no result",
                rest,
            );
        }
    }
    let log = instance.log();
    let mentions = AGENTS.iter().filter(|person| log.contains(&person.token())).count();
    seen.equal("tokens in the log", &0, &mentions);
    instance.end().await?;
    Ok(())
}

/// Asks wrongly, and sends a message along: the answer's head, and what followed.
async fn ask(right: &Target, wrong: Wrong, is_socket: bool) -> Result<(Head, String), Broken> {
    let mut target = right.clone();
    let mut changed = Vec::new();
    match wrong {
        Wrong::Header(name, value) => changed.push((name, value)),
        Wrong::Twice(name, one, other) => changed.extend([(name, Some(one)), (name, Some(other))]),
        Wrong::Token(token) => target.token = token.map(str::to_owned),
        Wrong::Project(name) => {
            target.socket_path = format!("/p/{name}/ws");
            target.http_path = format!("/p/{name}/mcp");
        }
        Wrong::TokenInQuery => {
            let token = target.token.take().unwrap_or_default();
            target.socket_path = format!("{}?token={token}&access_token={token}", target.socket_path);
            target.http_path = format!("{}?token={token}&access_token={token}", target.http_path);
        }
    }
    let mut bytes = if is_socket { upgrade(&target, &changed) } else { post(&target, &changed, PING) };
    if is_socket {
        bytes.extend(frame(0x81, PING.as_bytes()));
    }
    let mut raw = Raw::connect(&target).await?;
    let head = raw.request(&bytes).await?;
    Ok((head, raw.rest().await))
}
