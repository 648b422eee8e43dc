//! W4: ten clients of one agent.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Barrier;

use super::peer::{Harmless, Peer, greet, tools};
use crate::accept::{
    client::{Client, LEGACY, MODERN, Target},
    load::workers,
    scenario::{Broken, Seen},
    stage::Stage,
};

const CLIENTS: usize = 10;

/// W4: ten connections of one principal, in all revisions, all at work at the same time.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let peer = Peer::of(stage, None).await?;
    let rounds = stage.profile.pick(20, 100);
    let together = Arc::new(Barrier::new(CLIENTS));
    let (target, is_ours) = (peer.target.clone(), peer.is_ours());
    let ended = workers(CLIENTS, move |number| {
        let (target, together) = (target.clone(), Arc::clone(&together));
        async move {
            let worked = open(&target, number).await;
            // Whoever could not come must not keep the others waiting.
            together.wait().await;
            match worked {
                Ok(client) => work(client, number, rounds, is_ours).await,
                Err(broken) => Err(broken),
            }
        }
    })
    .await;
    let mut served = 0;
    for worked in ended {
        match worked {
            Ok(()) => served += 1,
            Err(broken) => {
                seen.note(format!("a client was not served: {broken}"));
                seen.frames.extend(broken.frames.into_iter().rev().take(4));
            }
        }
    }
    seen.figure("served", f64::from(served));
    seen.note(format!("{CLIENTS} connections, {rounds} rounds of a list, a call and a ping on each"));
    peer.end().await
}

/// A client of a revision that the server speaks, in turn.
async fn open(target: &Target, number: usize) -> Result<Client, Broken> {
    let all = [LEGACY[0], LEGACY[1], LEGACY[2], LEGACY[3], MODERN];
    let name = format!("client {number}");
    let mut last = None;
    // A server that does not speak the first one is asked in the next.
    for offset in 0..all.len() {
        let revision = all[(number + offset) % all.len()];
        let mut client = Client::bare(&name, target, revision).await?;
        let spoken = if revision == MODERN {
            client.ask("server/discover", json!({})).await.is_ok_and(|frame| super::modern::is_modern(&frame))
        } else {
            greet(&mut client, json!({})).await.is_ok_and(|greeting| greeting.agreed == revision)
        };
        if spoken {
            return Ok(client);
        }
        last = Some(client);
    }
    let frames = last.map(|client| client.frames()).unwrap_or_default();
    Err(Broken { frames, ..Broken::new(name, "a revision that both speak", "none") })
}

async fn work(mut client: Client, number: usize, rounds: usize, is_ours: bool) -> Result<(), Broken> {
    for round in 0..rounds {
        let listed = client.ask("tools/list", json!({})).await?;
        if !listed["result"]["tools"].is_array() {
            return Err(client.broken("tools/list", "tools", &listed));
        }
        let mark = format!("w4-{number}-{round}x");
        let tool =
            if is_ours { Some(Harmless::ours(&mark)) } else { Harmless::among(&tools(&listed), &mark) };
        if let Some(tool) = tool {
            let answer = client.ask("tools/call", tool.params(None)).await?;
            if let Err(why) = tool.judge(&answer) {
                return Err(client.broken("tools/call", "its own answer", &json!(why)));
            }
        }
        if client.revision() != MODERN {
            let pong = client.ask("ping", json!({})).await?;
            if pong["result"] != json!({}) {
                return Err(client.broken("ping", "{}", &pong));
            }
        }
    }
    Ok(())
}
