//! W1: every revision with a handshake.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    gate::Gate,
    peer::{Greeting, Harmless, Peer, SOON, greet, refused, tools},
};
use crate::accept::{
    client::{Client, LEGACY},
    scenario::{Broken, Seen},
    stage::Stage,
};

/// What must not come is waited for so long where nothing that does come would be later.
const QUIET: Duration = Duration::from_millis(200);

/// W1: handshake, list, call, ping, progress and cancelling in each revision that has a handshake.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut gate = Gate::shut().await?;
    let peer = Peer::of(stage, Some(&gate)).await?;
    let mut spoken = Vec::new();
    for (number, revision) in LEGACY.into_iter().enumerate() {
        let mut client = Client::bare(revision, &peer.target, revision).await?;
        let greeting = greet(&mut client, json!({})).await?;
        if !hands(seen, &peer, revision, &greeting) {
            continue;
        }
        spoken.push(revision);
        let listed = client.ask("tools/list", json!({})).await?;
        vocabulary(seen, &peer, revision, &listed);
        let pong = client.ask("ping", json!({})).await?;
        seen.equal(format!("{revision}: ping"), &json!({}), &pong["result"]);
        call(seen, &peer, &mut client, &listed).await?;
        if peer.is_ours() {
            cancel(seen, &mut client, &mut gate, number + 1).await?;
        } else {
            cancel_foreign(seen, &peer, &mut client, &listed).await?;
        }
    }
    if spoken.is_empty() {
        seen.does_not_apply("it speaks no revision with a handshake");
    } else {
        seen.note(format!("it speaks {}", spoken.join(", ")));
    }
    peer.end().await
}

/// Whether the handshake came to this revision. A server of somebody else need not know all of them.
fn hands(seen: &mut Seen, peer: &Peer, revision: &str, greeting: &Greeting) -> bool {
    let what = format!("{revision}: initialize");
    let is_agreed = greeting.agreed == revision;
    if is_agreed || peer.is_ours() {
        seen.check(what, is_agreed, format!("protocolVersion {revision}"), greeting.frame.to_string());
        let name = &greeting.frame["result"]["serverInfo"]["name"];
        seen.check(
            format!("{revision}: it says who it is"),
            name.is_string() && greeting.frame["result"]["capabilities"].is_object(),
            "serverInfo.name and capabilities",
            greeting.frame.to_string(),
        );
        return is_agreed;
    }
    let is_said = !greeting.agreed.is_empty() || greeting.frame["error"]["code"].is_i64();
    seen.check(what, is_said, "this revision, another one, or an error", greeting.frame.to_string());
    let instead = if greeting.agreed.is_empty() { "refuses it" } else { &greeting.agreed };
    seen.note(format!("it does not speak {revision}: it offers {instead}"));
    false
}

/// Nothing that a revision does not know is said to it.
fn vocabulary(seen: &mut Seen, peer: &Peer, revision: &str, listed: &Value) {
    let listed_tools = tools(listed);
    let is_named = |tool: &Value| tool["name"].is_string() && tool["inputSchema"]["type"] == "object";
    seen.check(
        format!("{revision}: tools/list"),
        listed["result"]["tools"].is_array() && listed_tools.iter().all(is_named),
        "tools, each with name and inputSchema",
        listed.to_string(),
    );
    let unknown: &[&str] = match revision {
        "2024-11-05" => &["annotations", "title", "outputSchema", "icons", "execution"],
        "2025-03-26" => &["title", "outputSchema", "icons", "execution"],
        "2025-06-18" => &["icons", "execution"],
        _ => &[],
    };
    let mut newer: Vec<&str> = Vec::new();
    for tool in &listed_tools {
        newer.extend(unknown.iter().filter(|member| tool.get(**member).is_some()));
    }
    for member in ["resultType", "ttlMs", "cacheScope"] {
        if listed["result"].get(member).is_some() {
            newer.push(member);
        }
    }
    newer.sort_unstable();
    newer.dedup();
    if peer.is_ours() {
        seen.equal(format!("{revision}: members of newer revisions in the list"), &Vec::new(), &newer);
    } else if !newer.is_empty() {
        // An older client ignores members that it does not know; that is no fault, and worth knowing.
        seen.note(format!("{revision}: the list has members of newer revisions: {}", newer.join(", ")));
    }
}

async fn call(seen: &mut Seen, peer: &Peer, client: &mut Client, listed: &Value) -> Result<(), Broken> {
    let revision = client.revision();
    let unknown = client.ask("tools/call", json!({"name": "no-such-tool", "arguments": {}})).await?;
    if peer.is_ours() {
        refused(seen, &format!("{revision}: an unknown tool"), -32602, &unknown);
    } else {
        let is_refused = unknown["error"]["code"].is_i64() || unknown["result"]["isError"] == true;
        seen.check(format!("{revision}: an unknown tool"), is_refused, "an error", unknown.to_string());
    }
    let tool = if peer.is_ours() {
        Some(Harmless::ours(revision))
    } else {
        Harmless::among(&tools(listed), revision)
    };
    let Some(tool) = tool else {
        seen.note(format!("{revision}: it lists no tool that is known to do no harm: none was called"));
        return Ok(());
    };
    let token = format!("of {revision}");
    let id = client.post("tools/call", tool.params(Some(&token))).await?;
    let answer = client.answer(&json!(id)).await?;
    let judged = tool.judge(&answer);
    seen.check(
        format!("{revision}: tools/call of {}", tool.name),
        judged.is_ok(),
        "its answer",
        judged.err().unwrap_or_default(),
    );
    if matches!(revision, "2024-11-05" | "2025-03-26") && answer["result"].get("structuredContent").is_some()
    {
        seen.note(format!("{revision}: the answer has structuredContent, which is of newer revisions"));
    }
    progress(seen, peer, client, &token).await
}

/// What came of progress, all before the answer: under its token, and going up.
async fn progress(seen: &mut Seen, peer: &Peer, client: &mut Client, token: &str) -> Result<(), Broken> {
    let revision = client.revision();
    let mut told = Vec::new();
    // Frames that came before the answer are at hand already.
    while let Some(frame) = client.next(Duration::from_millis(1)).await? {
        if frame["method"] == "notifications/progress" {
            told.push(frame["params"].clone());
        }
    }
    if told.is_empty() && !peer.is_ours() {
        seen.note(format!("{revision}: the tool that was called tells no progress"));
        return Ok(());
    }
    let is_ours = told.iter().all(|params| params["progressToken"] == token);
    let rises = told.windows(2).all(|pair| match pair {
        [before, after] => before["progress"].as_f64() < after["progress"].as_f64(),
        _ => true,
    });
    seen.check(
        format!("{revision}: progress"),
        !told.is_empty() && is_ours && rises,
        "at least one, under its token, each more than the one before",
        Value::from(told).to_string(),
    );
    Ok(())
}

/// A call that is under way for sure is given up: its work ends, and nothing answers it.
async fn cancel(seen: &mut Seen, client: &mut Client, gate: &mut Gate, number: usize) -> Result<(), Broken> {
    let revision = client.revision();
    let arguments = json!({"pattern": "accept.wait", "input": {"mark": format!("w1-{number}")}});
    let id = client.post("tools/call", json!({"name": "execute_pattern", "arguments": arguments})).await?;
    gate.came(number, SOON).await.map_err(|broken| Broken { frames: client.frames(), ..broken })?;
    let params = json!({"requestId": id, "reason": "enough"});
    client.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})).await?;
    let left = gate.left(number, SOON).await;
    seen.check(
        format!("{revision}: a cancelled call ends"),
        left.is_ok(),
        "its work is given up",
        left.err().map(|broken| broken.seen).unwrap_or_default(),
    );
    let pong = client.ask("ping", json!({})).await?;
    seen.equal(format!("{revision}: ping after cancelling"), &json!({}), &pong["result"]);
    let late = client.next(QUIET).await?;
    seen.check(
        format!("{revision}: a cancelled call is not answered"),
        late.as_ref().is_none_or(|frame| frame["id"] != id),
        "nothing",
        late.unwrap_or_default().to_string(),
    );
    Ok(())
}

/// What can be seen at a server whose calls end when they like: that cancelling disturbs nothing.
async fn cancel_foreign(
    seen: &mut Seen,
    peer: &Peer,
    client: &mut Client,
    listed: &Value,
) -> Result<(), Broken> {
    let revision = client.revision();
    if let Some(tool) = Harmless::among(&tools(listed), "cancelled").filter(|_| !peer.target.is_http) {
        let id = client.post("tools/call", tool.params(None)).await?;
        let params = json!({"requestId": id});
        client.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})).await?;
    }
    let params = json!({"requestId": 987_654_321});
    client.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})).await?;
    let pong = client.ask("ping", json!({})).await?;
    seen.equal(format!("{revision}: ping after cancelling"), &json!({}), &pong["result"]);
    seen.note(format!(
        "{revision}: no call of it is known to last: cancelling was tried on a short one and on an unknown id, not on \
         work under way"
    ));
    Ok(())
}
