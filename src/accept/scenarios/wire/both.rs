//! W3: both eras on one connection.

use serde_json::{Value, json};

use super::{
    modern::{is_modern, probe},
    peer::{Harmless, Peer, greet, refused, tools},
};
use crate::accept::{
    client::{Client, MODERN},
    scenario::{Broken, Seen},
    stage::Stage,
};

const OLD: &str = "2025-06-18";
/// Requests of each era that are under way at the same time.
const TOGETHER: usize = 20;

/// W3: requests of both eras, interleaved; each is answered in the words of its own.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let peer = Peer::of(stage, None).await?;
    if peer.target.is_http {
        seen.note("over HTTP each request is a conversation of its own: the eras were spoken side by side, not on one");
        return alternating(seen, &peer).await;
    }
    let mut client = Client::bare("both", &peer.target, OLD).await?;
    // Probed first, as clients of both eras do; that must not keep the connection from the other era.
    let discovered = modern(&mut client, "probe", "server/discover", json!({})).await?;
    let has_modern = is_modern(&discovered);
    if !peer.is_ours() && !has_modern {
        seen.check(
            "the probe is refused",
            discovered["error"]["code"].is_i64(),
            "an error",
            discovered.to_string(),
        );
    } else {
        seen.check("a probe is answered", has_modern, "discovery", discovered.to_string());
    }
    let greeting = greet(&mut client, json!({})).await?;
    let has_old = greeting.agreed == OLD;
    if !has_old && !peer.is_ours() {
        seen.does_not_apply(format!("after a probe it does not speak {OLD}: {}", greeting.frame));
        seen.check("one era is spoken", has_modern || !greeting.agreed.is_empty(), "one", "none");
        return Ok(());
    }
    seen.check("a session after the probe", has_old, OLD, greeting.frame.to_string());
    let old = client.ask("tools/list", json!({})).await?;
    seen.check(
        "the session lists in its own words",
        old["result"]["tools"].is_array() && old["result"].get("resultType").is_none(),
        "tools without resultType",
        old.to_string(),
    );
    if !has_modern {
        seen.does_not_apply(format!("it does not speak {MODERN}: there is no other era to mix in"));
        return Ok(());
    }
    let new = modern(&mut client, "list", "tools/list", json!({})).await?;
    if !peer.is_ours() && new["error"]["code"].is_i64() {
        seen.note(format!("once a session is open it serves {MODERN} no more: {}", new["error"]["message"]));
        return Ok(());
    }
    seen.check(
        "inside the session the other era lists in its words",
        new["result"]["tools"].is_array() && new["result"]["resultType"] == "complete",
        "tools with resultType",
        new.to_string(),
    );
    together(seen, &peer, &mut client, &old).await?;
    let pong = client.ask("ping", json!({})).await?;
    seen.equal("ping of the session", &json!({}), &pong["result"]);
    let no_pong = modern(&mut client, "ping", "ping", json!({})).await?;
    refused(seen, "ping of the era that has none", -32601, &no_pong);
    if peer.is_ours() {
        let twice = greet(&mut client, json!({})).await?;
        refused(seen, "a second handshake", -32600, &twice.frame);
        let still = client.ask("tools/list", json!({})).await?;
        seen.equal("the session is what it was", &old["result"], &still["result"]);
    }
    peer.end().await
}

/// Asks as a client without sessions, on whatever connection.
async fn modern(client: &mut Client, id: &str, method: &str, mut params: Value) -> Result<Value, Broken> {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {}});
    client.say(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await?;
    client.answer(&json!(id)).await
}

/// Calls of both eras, all sent before the first answer is read.
async fn together(seen: &mut Seen, peer: &Peer, client: &mut Client, listed: &Value) -> Result<(), Broken> {
    let tool = |mark: &str| {
        if peer.is_ours() { Some(Harmless::ours(mark)) } else { Harmless::among(&tools(listed), mark) }
    };
    let mut asked = Vec::new();
    for number in 0..TOGETHER {
        let (old, new) = (format!("old-{number}x"), format!("new-{number}x"));
        let (Some(first), Some(second)) = (tool(&old), tool(&new)) else {
            seen.note("it lists no tool that is known to do no harm: none was called");
            return Ok(());
        };
        let id = client.post("tools/call", first.params(None)).await?;
        asked.push((json!(id), first, false));
        let mut params = second.params(None);
        params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {}});
        client.say(json!({"jsonrpc": "2.0", "id": new, "method": "tools/call", "params": params})).await?;
        asked.push((json!(new), second, true));
    }
    let mut wrong = Vec::new();
    for (id, tool, is_modern) in asked {
        let answer = client.answer(&id).await?;
        let is_said = (answer["result"]["resultType"] == "complete") == is_modern
            && (is_modern || answer["result"].get("resultType").is_none());
        if let Err(why) = tool.judge(&answer) {
            wrong.push(why);
        } else if !is_said {
            wrong.push(answer.to_string());
        }
    }
    seen.check(
        format!("{TOGETHER} calls of each era at the same time"),
        wrong.is_empty(),
        "each answered with its own, in the words of its era",
        wrong.first().cloned().unwrap_or_default(),
    );
    Ok(())
}

/// One request of each era after the other.
async fn alternating(seen: &mut Seen, peer: &Peer) -> Result<(), Broken> {
    let probed = probe(&peer.target).await;
    let mut old = Client::bare("with a session", &peer.target, OLD).await?;
    let greeting = greet(&mut old, json!({})).await?;
    let (has_modern, has_old) = (probed.as_ref().is_ok_and(is_modern), greeting.agreed == OLD);
    seen.check("an era is spoken", has_modern || has_old, "one of both", greeting.frame.to_string());
    if !(has_modern && has_old) {
        let (spoken, not) = if has_modern { (MODERN, OLD) } else { (OLD, MODERN) };
        seen.does_not_apply(format!("it speaks {spoken} and not {not}: there is no other era to mix in"));
        return Ok(());
    }
    let mut new = Client::bare("without", &peer.target, MODERN).await?;
    for round in 0..TOGETHER {
        let one = old.ask("tools/list", json!({})).await?;
        let other = new.ask("tools/list", json!({})).await?;
        if one["result"].get("resultType").is_some() || other["result"]["resultType"] != "complete" {
            seen.check(
                format!("round {round}"),
                false,
                "each in the words of its era",
                format!("{one} {other}"),
            );
            return Ok(());
        }
    }
    seen.check(format!("{TOGETHER} lists of each era in turn"), true, "each in the words of its era", "so");
    Ok(())
}
