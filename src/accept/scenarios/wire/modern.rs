//! W2: the revision without sessions.

use std::time::Duration;

use serde_json::{Value, json};

use super::peer::{Harmless, Peer, SOON, refused, tools};
use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Seen},
    stage::Stage,
};

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const ABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// What must not come is waited for so long.
const QUIET: Duration = Duration::from_millis(200);

/// W2: discover, list, call, listen, and a call that asks back.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let peer = Peer::of(stage, None).await?;
    let mut client = Client::bare(MODERN, &peer.target, MODERN).await?;
    let discovered = client.ask("server/discover", json!({})).await;
    let discovered = match discovered {
        Ok(frame) if peer.is_ours() || is_modern(&frame) => frame,
        Ok(frame) => {
            seen.check(
                "it says that it does not know the revision",
                frame["error"]["code"].is_i64(),
                "an error",
                frame.to_string(),
            );
            seen.does_not_apply(format!("it does not speak {MODERN}"));
            return Ok(());
        }
        Err(broken) if !peer.is_ours() && peer.target.is_http => {
            seen.check("it says that it does not know the revision", true, "a refusal", broken.seen);
            seen.does_not_apply(format!("it does not speak {MODERN}"));
            return Ok(());
        }
        Err(broken) => return Err(broken),
    };
    let result = &discovered["result"];
    seen.check(
        "server/discover",
        is_modern(&discovered) && result["capabilities"].is_object(),
        "resultType complete, supportedVersions, capabilities, ttlMs and cacheScope",
        discovered.to_string(),
    );
    let supported = result["supportedVersions"].clone();
    let listed = client.ask("tools/list", json!({})).await?;
    seen.check(
        "tools/list",
        listed["result"]["resultType"] == "complete"
            && listed["result"]["tools"].is_array()
            && listed["result"]["ttlMs"].is_u64()
            && ["public", "private"].iter().any(|scope| listed["result"]["cacheScope"] == *scope),
        "tools with resultType, ttlMs and cacheScope",
        listed.to_string(),
    );
    envelope(seen, &peer, &mut client, &supported).await?;
    call(seen, &peer, &mut client, &listed).await?;
    listen(seen, &peer, &mut client).await?;
    asks(seen, &peer, &listed).await?;
    peer.end().await
}

/// Whether an answer of discovering is one of this revision.
pub(super) fn is_modern(frame: &Value) -> bool {
    let result = &frame["result"];
    let versions = result["supportedVersions"].as_array();
    result["resultType"] == "complete"
        && versions.is_some_and(|versions| versions.iter().any(|version| version == MODERN))
        && result["ttlMs"].is_u64()
        && result["cacheScope"].is_string()
}

/// What a request must bring along.
async fn envelope(
    seen: &mut Seen,
    peer: &Peer,
    client: &mut Client,
    supported: &Value,
) -> Result<(), Broken> {
    if peer.target.is_http {
        seen.note("over HTTP headers say it too: wrong envelopes were not tried");
        return Ok(());
    }
    for (number, what, meta, code) in [
        (1, "a request without capabilities", json!({VERSION: MODERN}), -32602),
        (2, "a request with a version that is a number", json!({VERSION: 7, ABILITIES: {}}), -32602),
        (3, "a request of an unknown revision", json!({VERSION: "2099-01-01", ABILITIES: {}}), -32022),
    ] {
        let id = json!(format!("envelope-{number}"));
        let params = json!({"_meta": meta});
        client.say(json!({"jsonrpc": "2.0", "id": id, "method": "tools/list", "params": params})).await?;
        let answer = client.answer(&id).await?;
        refused(seen, what, code, &answer);
        if code == -32022 {
            seen.equal(
                "the revisions that it says instead",
                supported,
                &answer["error"]["data"]["supported"],
            );
        }
    }
    Ok(())
}

async fn call(seen: &mut Seen, peer: &Peer, client: &mut Client, listed: &Value) -> Result<(), Broken> {
    let tool =
        if peer.is_ours() { Some(Harmless::ours("w2")) } else { Harmless::among(&tools(listed), "w2") };
    let Some(tool) = tool else {
        seen.note("it lists no tool that is known to do no harm: none was called");
        return Ok(());
    };
    let answer = client.ask("tools/call", tool.params(None)).await?;
    let judged = match tool.judge(&answer) {
        Ok(()) if answer["result"]["resultType"] != "complete" => Err(answer.to_string()),
        judged => judged,
    };
    let what = format!("tools/call of {}", tool.name);
    seen.check(what, judged.is_ok(), "its answer, complete", judged.err().unwrap_or_default());
    Ok(())
}

/// A subscription: acknowledged, told under its id, and quiet once it was given up.
async fn listen(seen: &mut Seen, peer: &Peer, client: &mut Client) -> Result<(), Broken> {
    if peer.target.is_http {
        seen.note("a subscription is a stream of its own over HTTP, which this client cannot hold beside others: not tried");
        return Ok(());
    }
    let (mut filter, mut uri) = (json!({"toolsListChanged": true}), Value::Null);
    if peer.is_ours() {
        let kept = client.call("remember", json!({"content": "The harbour master is called Odile"})).await?;
        uri = json!(format!("memory://{}", kept.body["id"].as_str().unwrap_or_default()));
        filter["resourceSubscriptions"] = json!([uri]);
    }
    let id = client.post("subscriptions/listen", json!({"notifications": filter})).await?;
    let first = client.next(SOON).await?.unwrap_or_default();
    if !peer.is_ours() && first["error"]["code"] == -32601 {
        seen.note("it offers no subscriptions");
        return Ok(());
    }
    seen.check(
        "subscriptions/listen is acknowledged",
        first["method"] == "notifications/subscriptions/acknowledged"
            && first["params"]["_meta"][SUBSCRIPTION] == id,
        "notifications/subscriptions/acknowledged under its id, before anything else",
        first.to_string(),
    );
    if peer.is_ours() {
        let replace = |text: &str| {
            let old = uri.as_str().unwrap_or_default().trim_start_matches("memory://").to_owned();
            json!({"content": text, "supersedes": old})
        };
        let mut other = Client::bare("another", &peer.target, MODERN).await?;
        other.call("remember", replace("The harbour master is called Mirabel")).await?;
        let told = client.next(SOON).await?.unwrap_or_default();
        seen.check(
            "a change is told",
            told["method"] == "notifications/resources/updated"
                && told["params"]["uri"] == uri
                && told["params"]["_meta"][SUBSCRIPTION] == id,
            "notifications/resources/updated under the subscription's id",
            told.to_string(),
        );
    }
    let params = json!({"requestId": id});
    client.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})).await?;
    let alive = client.ask("server/discover", json!({})).await?;
    seen.check("it goes on after a subscription", is_modern(&alive), "an answer", alive.to_string());
    let late = client.next(QUIET).await?;
    seen.check(
        "a subscription that was given up is quiet",
        late.is_none() || late.as_ref().is_some_and(|frame| frame["id"] == id && !peer.is_ours()),
        "nothing",
        late.unwrap_or_default().to_string(),
    );
    Ok(())
}

/// A call that asks back, is answered, and cannot be deceived.
async fn asks(seen: &mut Seen, peer: &Peer, listed: &Value) -> Result<(), Broken> {
    let mut client = Client::bare("asked", &peer.target, MODERN).await?;
    let able = json!({ABILITIES: {"elicitation": {}}});
    let (name, arguments) = if peer.is_ours() {
        ("execute_pattern".to_owned(), json!({"pattern": "accept.ask"}))
    } else {
        // Only what says by its name that asking is all that it does.
        let asking = tools(listed).into_iter().find_map(|tool| {
            let name = tool["name"].as_str()?.to_owned();
            let bare = tool["inputSchema"]["required"].as_array().is_none_or(Vec::is_empty);
            (bare && (name.contains("input_required") || name.contains("elicit"))).then_some(name)
        });
        let Some(asking) = asking else {
            seen.note("it lists no tool that asks back: that was not tried");
            return Ok(());
        };
        (asking, json!({}))
    };
    let params = json!({"name": name, "arguments": arguments, "_meta": able});
    let asked = client.ask("tools/call", params.clone()).await?;
    let requests = asked["result"]["inputRequests"].as_object().cloned().unwrap_or_default();
    seen.check(
        "a call asks back",
        asked["result"]["resultType"] == "input_required"
            && requests.values().any(|request| request["method"] == "elicitation/create"),
        "input_required with elicitation/create",
        asked.to_string(),
    );
    let Some((key, request)) = requests.iter().next() else { return Ok(()) };
    let content: Value = request["params"]["requestedSchema"]["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, property)| (name.clone(), filled(property)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let state = asked["result"]["requestState"].clone();
    let again = |state: &Value| {
        let mut params = params.clone();
        params["inputResponses"] = json!({key: {"action": "accept", "content": content}});
        if !state.is_null() {
            params["requestState"] = state.clone();
        }
        params
    };
    let answered = client.ask("tools/call", again(&state)).await?;
    seen.check(
        "the answer completes it",
        answered["result"]["resultType"] == "complete"
            && (!peer.is_ours() || answered["result"].to_string().contains("Halcyon")),
        "a complete result with what was answered",
        answered.to_string(),
    );
    if let Some(text) = state.as_str().filter(|_| peer.is_ours()) {
        let mut bytes = text.to_owned().into_bytes();
        if let Some(byte) = bytes.get_mut(text.len() / 2) {
            *byte = if *byte == b'A' { b'B' } else { b'A' };
        }
        let forged = json!(String::from_utf8_lossy(&bytes));
        let refusal = client.ask("tools/call", again(&forged)).await?;
        refused(seen, "a request state that was changed", -32602, &refusal);
    }
    let unable = json!({"name": name, "arguments": arguments});
    let unasked = client.ask("tools/call", unable).await?;
    seen.check(
        "who cannot be asked is not asked",
        unasked["result"]["resultType"] != "input_required" || unasked["result"]["inputRequests"].is_null(),
        "a result or an error",
        unasked.to_string(),
    );
    Ok(())
}

/// A value for a field of a form.
fn filled(property: &Value) -> Value {
    match property["type"].as_str() {
        Some("boolean") => json!(true),
        Some("number" | "integer") => json!(1),
        _ => property["enum"].get(0).cloned().unwrap_or_else(|| json!("Halcyon")),
    }
}

/// Another client of this revision at `target`: used where the eras are mixed.
pub(super) async fn probe(target: &Target) -> Result<Value, Broken> {
    Client::bare("probe", target, MODERN).await?.ask("server/discover", json!({})).await
}
