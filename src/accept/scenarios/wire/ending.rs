//! W9: shutdown under load.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    gate::Gate,
    peer::{Harmless, SOON, setup},
    raw::{Raw, upgrade},
};
use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Seen},
    stage::{AGENTS, Stage},
};

/// Connections with a call under way when the server is told to end.
const BUSY: usize = 8;
/// Connections that call all the time.
const LOADING: usize = 4;
/// Answers after which one of them counts as running.
const RUNNING: usize = 5;
/// Longer than the server may take, so that what it takes is seen.
const END_MAX: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// W9: SIGTERM while calls run: what runs is answered, whoever is connected is told 1001, nobody new comes in, and the
/// process ends by itself.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut gate = Gate::shut().await?;
    let mut instance = stage.start(setup(Some(&gate))).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");

    let mut busy = Vec::new();
    for number in 0..BUSY {
        // Half of them in each era.
        let revision = if number % 2 == 0 { "2025-06-18" } else { MODERN };
        let mut client = Client::socket(&format!("busy {number}"), &target, revision).await?;
        let arguments = json!({"pattern": "accept.wait", "input": {"mark": format!("w9-{number}")}});
        let id =
            client.post("tools/call", json!({"name": "execute_pattern", "arguments": arguments})).await?;
        busy.push((number, id, client));
    }
    let came = gate.came(BUSY, SOON).await;
    came.map_err(|broken| Broken { frames: busy[0].2.frames(), ..broken })?;
    let mut idle = Client::socket("idle", &target, "2025-11-25").await?;
    let mut listening = Client::silent("listening", &target).await?;
    let listen = json!({"notifications": {"toolsListChanged": true}});
    let subscription = listening.post("subscriptions/listen", listen).await?;
    let acknowledged = listening.next(SOON).await?.unwrap_or_default();
    seen.check(
        "a subscription before the end",
        acknowledged["method"] == "notifications/subscriptions/acknowledged",
        "acknowledged",
        acknowledged.to_string(),
    );
    let running = Arc::new(Semaphore::new(0));
    let mut loading = Vec::with_capacity(LOADING);
    for number in 0..LOADING {
        let client = Client::socket(&format!("load {number}"), &target, "2025-11-25").await?;
        loading.push(tokio::spawn(load(client, number, Arc::clone(&running))));
    }
    // One that breaks before says so at the end.
    drop(timeout(SOON, running.acquire_many(LOADING as u32)).await);

    let begun = Instant::now();
    instance.signal(Signal::TERM);
    // Whoever waits for nothing is told first: from then on the server is stopping for sure.
    let code = idle.closed(SOON).await;
    seen.equal("an idle connection is closed with", &Some(1001), &code);
    let (told, ended) = (begun.elapsed(), json!(subscription));
    let last = listening.answer(&ended).await.unwrap_or_default();
    seen.check(
        "a subscription is ended by its result",
        last["result"]["resultType"] == "complete",
        "resultType complete",
        last.to_string(),
    );
    let late = match Raw::connect(&target).await {
        Ok(mut raw) => raw.request(&upgrade(&target, &[])).await.map_or(0, |head| head.status),
        Err(_) => 0,
    };
    seen.check("nobody new comes in", matches!(late, 0 | 503), "no connection, or 503", late.to_string());
    seen.check("calls that run keep it alive", instance.is_running(), "it still runs", "it has ended");
    gate.open();
    let (mut answered, mut closed) = (0, 0);
    for (number, id, client) in &mut busy {
        match client.answer(&json!(*id)).await {
            Ok(answer) if answer.to_string().contains(&format!("w9-{number}")) => answered += 1,
            Ok(answer) => seen.note(format!("busy {number} was answered with {answer}")),
            Err(broken) => seen.note(format!("busy {number} was not answered: {}", broken.seen)),
        }
        match client.closed(SOON).await {
            Some(1001) => closed += 1,
            other => seen.note(format!("busy {number} was closed with {other:?}")),
        }
    }
    seen.equal("calls under way that were answered", &BUSY, &answered);
    seen.equal("their connections, closed with 1001", &BUSY, &closed);
    for loaded in loading {
        let loaded = loaded.await.map_err(|error| Broken::new("a client under load", "an end", error))?;
        seen.check(
            "a client under load",
            loaded.wrong.is_none() && loaded.code == Some(1001) && loaded.answered > 0,
            "right answers until it is closed with 1001",
            format!(
                "{} answers, then {:?}, {}",
                loaded.answered,
                loaded.code,
                loaded.wrong.unwrap_or_default()
            ),
        );
    }
    while instance.is_running() && begun.elapsed() < END_MAX {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let took = begun.elapsed();
    seen.figure("exit", took.as_secs_f64());
    seen.note(format!(
        "the first was told after {:.0} ms; {BUSY} calls were let go on then; the process had ended after {:.0} ms",
        told.as_secs_f64() * 1e3,
        took.as_secs_f64() * 1e3
    ));
    // Its status: it has ended, so nothing is sent to it.
    instance.end().await?;
    Ok(())
}

struct Loaded {
    answered: usize,
    /// What it was closed with.
    code: Option<u16>,
    wrong: Option<String>,
}

/// Calls until it is closed; tells `running` when it has been answered a few times.
async fn load(mut client: Client, number: usize, running: Arc<Semaphore>) -> Loaded {
    let mut loaded = Loaded { answered: 0, code: None, wrong: None };
    loop {
        let tool = Harmless::ours(&format!("w9-load-{number}-{}x", loaded.answered));
        let Ok(answer) = client.ask("tools/call", tool.params(None)).await else { break };
        if let Err(why) = tool.judge(&answer) {
            loaded.wrong = Some(why);
            break;
        }
        loaded.answered += 1;
        if loaded.answered == RUNNING {
            running.add_permits(1);
        }
    }
    loaded.code = client.closed(SOON).await;
    loaded
}
