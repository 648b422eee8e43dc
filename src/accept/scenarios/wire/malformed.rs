//! W7: malformed frames.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    malformed_table::{FRAMES, SITUATIONS, Says, Situation, TEXTS, Text},
    peer::{Peer, SOON, greet},
    raw::{Raw, frame},
};
use crate::accept::{
    client::{Client, MODERN},
    scenario::{Broken, Seen},
    stage::Stage,
};

/// The id of whatever is malformed.
const ID: i64 = 7;
/// What comes late is waited for so long.
const QUIET: Duration = Duration::from_millis(15);
/// What does not come from a server of somebody else is given up after this.
const FOREIGN_MAX: Duration = Duration::from_secs(1);

/// How often things were as listed.
#[derive(Default)]
struct Score {
    right: usize,
    of: usize,
    wrong: Vec<Wrong>,
}

/// A row that did not come as listed: where, and what came there first.
struct Wrong {
    what: &'static str,
    says: Says,
    situations: Vec<Situation>,
    got: String,
}

impl Score {
    fn wrong(&mut self, what: &'static str, says: Says, situation: Situation, got: &[Value]) {
        if let Some(known) = self.wrong.iter_mut().find(|known| known.what == what) {
            known.situations.push(situation);
        } else {
            let shown: Vec<String> = got.iter().map(Value::to_string).collect();
            let got = if shown.is_empty() { "nothing".to_owned() } else { shown.join(" ") };
            self.wrong.push(Wrong { what, says, situations: vec![situation], got });
        }
    }
}

/// W7: each wrong text gets its error or silence in every era, each wrong frame its close; after each text the connection
/// still serves, and other connections notice nothing.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let peer = Peer::of(stage, None).await?;
    let mut bystander = None;
    if peer.is_ours() {
        bystander = Some(Client::bare("bystander", &peer.target, MODERN).await?);
    }
    let mut score = Score::default();
    for situation in SITUATIONS {
        texts(seen, &peer, situation, &mut score).await?;
    }
    if peer.target.is_http {
        seen.note("frames of WebSocket do not apply to a server that is spoken to over HTTP");
    } else {
        frames(seen, &peer, &mut score).await?;
        sizes(seen, &peer, &mut score).await?;
    }
    if let Some(mut bystander) = bystander {
        let alive = bystander.ask("server/discover", json!({})).await?;
        seen.check(
            "a bystander is served as before",
            alive["result"].is_object(),
            "an answer",
            alive.to_string(),
        );
    }
    // One check for each row that is not as listed; the number of all others says enough.
    for Wrong { what, says, situations, got } in score.wrong {
        let places: Vec<&str> = situations.iter().map(|situation| situation.name()).collect();
        seen.check(format!("{what} ({})", places.join(", ")), false, format!("{says:?}"), got);
    }
    seen.equal("cases that came as listed", &score.of, &score.right);
    seen.data.push(("malformed", json!({"right": score.right, "of": score.of})));
    peer.end().await
}

/// A connection in a situation; `None` where the server does not know it.
async fn open(peer: &Peer, situation: Situation) -> Result<Option<Client>, Broken> {
    let name = situation.name();
    match situation {
        Situation::Fresh | Situation::Modern => {
            let mut client = Client::bare(name, &peer.target, MODERN).await?;
            if situation == Situation::Modern && !peer.is_ours() {
                let known = client.ask("server/discover", json!({})).await;
                if !known.is_ok_and(|known| super::modern::is_modern(&known)) {
                    return Ok(None);
                }
            }
            Ok(Some(client))
        }
        Situation::Session(revision) => {
            let mut client = Client::bare(name, &peer.target, revision).await?;
            let greeting = greet(&mut client, json!({})).await?;
            if greeting.agreed != revision && peer.is_ours() {
                return Err(client.broken("initialize", revision, &greeting.frame));
            }
            Ok((greeting.agreed == revision).then_some(client))
        }
    }
}

async fn texts(seen: &mut Seen, peer: &Peer, situation: Situation, score: &mut Score) -> Result<(), Broken> {
    let Some(mut client) = open(peer, situation).await? else {
        seen.note(format!("{}: the server does not speak it", situation.name()));
        return Ok(());
    };
    for row in TEXTS.iter().filter(|row| row.2.is(situation)) {
        let (what, _, _, says, is_of_all) = *row;
        if !peer.is_ours() && !is_of_all {
            continue;
        }
        let is_told = !matches!(situation, Situation::Session("2024-11-05" | "2025-03-26" | "2025-06-18"));
        let (got, has_ended) = say(peer, &mut client, situation, row).await;
        let is_right = judge(says, is_told, peer, &got);
        score.of += 1;
        score.right += usize::from(is_right && !has_ended);
        if !is_right {
            score.wrong(what, says, situation, &got);
        }
        if has_ended {
            let what = format!("{}: {what}: the connection goes on", situation.name());
            seen.check(what, false, "it serves", "it does not");
            let Some(again) = open(peer, situation).await? else { return Ok(()) };
            client = again;
        }
    }
    seen.check(format!("{}: the texts were tried", situation.name()), true, "all of the table", "so");
    Ok(())
}

/// Says it, then asks something that is always answered: what else came, and whether the connection no longer serves.
async fn say(peer: &Peer, client: &mut Client, situation: Situation, row: &Text) -> (Vec<Value>, bool) {
    let (_, text, _, says, _) = *row;
    let claim = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {}});
    let text = text.replace("CLAIM", &format!("\"_meta\":{claim}"));
    let mut got = Vec::new();
    if let Err(broken) = client.send(&text).await {
        // Over HTTP a refusal is a status, perhaps without a message.
        got.push(json!({"refused": broken.seen}));
        return (got, !peer.target.is_http);
    }
    if peer.target.is_http {
        while let Ok(Some(frame)) = client.next(QUIET).await {
            got.push(frame);
        }
        return (got, false);
    }
    let after = json!("after");
    let (method, params) = match situation {
        Situation::Modern => ("server/discover", json!({"_meta": claim})),
        Situation::Fresh | Situation::Session(_) => ("ping", json!({})),
    };
    let request = json!({"jsonrpc": "2.0", "id": after, "method": method, "params": params});
    if client.say(request).await.is_err() {
        return (got, true);
    }
    let until = Instant::now() + if peer.is_ours() { SOON } else { FOREIGN_MAX };
    let is_awaited = !matches!(says, Says::Nothing | Says::Told(_));
    let mut is_after = false;
    // An answer with an id may come after a later one.
    while !is_after || (is_awaited && got.is_empty()) {
        match client.next(until.saturating_duration_since(Instant::now())).await {
            Ok(Some(frame)) if frame["id"] == after => is_after = true,
            // What a server of somebody else says to its log is no answer.
            Ok(Some(frame)) if !peer.is_ours() && frame["id"].is_null() && frame["method"].is_string() => {}
            Ok(Some(frame)) => got.push(frame),
            // A server of somebody else need not know ping before a handshake.
            Ok(None) => return (got, !is_after && situation != Situation::Fresh),
            Err(_) => return (got, true),
        }
    }
    if matches!(says, Says::Nothing) {
        while let Ok(Some(frame)) = client.next(QUIET).await {
            if peer.is_ours() || frame["method"].is_null() {
                got.push(frame);
            }
        }
    }
    (got, false)
}

fn judge(says: Says, is_told: bool, peer: &Peer, got: &[Value]) -> bool {
    let is_error = |frame: &Value, codes: &[i64]| codes.iter().any(|code| frame["error"]["code"] == *code);
    let coded = |codes: &[i64]| match got {
        [frame] => {
            (is_error(frame, codes) && frame["id"] == ID) || (peer.target.is_http && is_refused(frame))
        }
        _ => false,
    };
    match says {
        Says::Code(code) => coded(&[code]),
        Says::Either(one, other) => coded(&[one, other]),
        Says::Answer => matches!(got, [frame] if frame["id"] == ID && frame["result"].is_object()),
        Says::Nothing => got.is_empty() || (peer.target.is_http && got.iter().all(is_refused)),
        // Of somebody else's server: told with an id of null or without one, or silent; the revisions leave it open.
        Says::Told(code) if !peer.is_ours() => match got {
            [] => true,
            [frame] => is_refused(frame) || (is_error(frame, &[code, -32600, -32700]) && frame["id"] != ID),
            _ => false,
        },
        Says::Told(code) if is_told => {
            matches!(got, [frame] if is_error(frame, &[code]) && frame.get("id").is_none())
        }
        Says::Told(_) => got.is_empty(),
    }
}

fn is_refused(frame: &Value) -> bool {
    frame.get("refused").is_some()
}

/// Frames that break the rules of WebSocket close the connection, each with its code.
async fn frames(seen: &mut Seen, peer: &Peer, score: &mut Score) -> Result<(), Broken> {
    for (what, parts, code) in FRAMES {
        let bytes: Vec<u8> = parts.iter().flat_map(|(first, payload)| frame(*first, payload)).collect();
        close(seen, peer, score, what, &bytes, code).await?;
    }
    close(seen, peer, score, "a frame without a mask", b"\x81\x02{}", 1002).await
}

/// Messages that are too long, and too deep.
async fn sizes(seen: &mut Seen, peer: &Peer, score: &mut Score) -> Result<(), Broken> {
    // Announced only: nobody has to read it to know.
    let mut announced = vec![0x81, 0xff];
    announced.extend(u64::to_be_bytes(1 << 40));
    announced.extend([0; 4]);
    close(seen, peer, score, "a message of a terabyte, as it says", &announced, 1009).await?;
    if peer.is_ours() {
        let mut long = Vec::new();
        for number in 0..5 {
            long.extend(frame(u8::from(number == 0), &vec![b' '; 1 << 20]));
        }
        close(seen, peer, score, "five megabytes in fragments", &long, 1009).await?;
    }
    let mut client = Client::bare("deep", &peer.target, MODERN).await?;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let row: Text =
        ("a hundred thousand brackets", "", super::malformed_table::When::All, Says::Told(-32700), true);
    client.send(&deep).await?;
    let mut got = Vec::new();
    if let Ok(Some(frame)) = client.next(if peer.is_ours() { SOON } else { FOREIGN_MAX }).await
        && (peer.is_ours() || frame["method"].is_null())
    {
        got.push(frame);
    }
    let is_right = judge(row.3, true, peer, &got);
    score.of += 1;
    score.right += usize::from(is_right);
    seen.check(row.0, is_right, "an error, and no crash", format!("{got:?}"));
    Ok(())
}

async fn close(
    seen: &mut Seen,
    peer: &Peer,
    score: &mut Score,
    what: &str,
    bytes: &[u8],
    code: u16,
) -> Result<(), Broken> {
    let mut raw = Raw::open(&peer.target).await?;
    // The server may close before it has read all of it.
    let written = raw.write(bytes).await;
    let closed = raw.closed(if peer.is_ours() { SOON } else { FOREIGN_MAX * 3 }).await;
    // Whoever closes before reading all may lose the close frame with what was not read.
    let is_right = closed == Some(code) || (written.is_err() && closed == Some(0));
    score.of += 1;
    score.right += usize::from(is_right);
    if peer.is_ours() || closed.is_none() {
        seen.check(what, is_right, format!("a close with {code}"), format!("{closed:?}"));
    } else if !is_right {
        seen.note(format!("{what}: closed with {} instead of {code}", closed.unwrap_or_default()));
    }
    Ok(())
}
