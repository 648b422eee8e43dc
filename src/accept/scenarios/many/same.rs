//! M3: the same question from many at once.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use serde_json::json;
use tokio::sync::Barrier;

use super::{all, setup};
use crate::accept::{
    client::{Client, MODERN, Target},
    load::workers,
    metrics::Metrics,
    scenario::{Broken, Seen},
    stage::{AGENTS, Stage},
};

/// Files that are looked through.
const FILES: usize = 300;
const LINES: usize = 200;

/// M3: the agents wait for one another, then ask for something that nobody asked for before, `rounds` times. How often it
/// was run says `/metrics`: of all who did not find the answer kept, those who ran it, and those who got it from another.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (agents, rounds) = stage.profile.pick((32, 4), (64, 12));
    let mut setup = setup();
    setup.files.extend((0..FILES).map(|file| (format!("quay/log{file}.txt"), text(file))));
    let mut instance = stage.start(setup).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let mut clients = Vec::with_capacity(agents);
    for number in 0..agents {
        let name = format!("agent {number}");
        // Half of them over HTTP.
        let client = if number % 2 == 0 {
            Client::socket(&name, &target, MODERN).await?
        } else {
            Client::http(&name, &target, MODERN).await?
        };
        clients.push(client);
    }
    // Whatever is made when it is first needed is made, and connections stand.
    for client in &mut clients {
        let called = client.run("accept.echo", json!({"text": "here"})).await?;
        client.well("the first call", called)?;
    }
    let (mut computed, mut shared, mut kept) = (Vec::new(), 0.0, 0.0);
    for round in 0..rounds {
        let before = Metrics::of(&instance).await?;
        let asked = format!("berth {round} is");
        let barrier = Arc::new(Barrier::new(agents));
        let waiting = Arc::new(std::sync::Mutex::new(std::mem::take(&mut clients)));
        let ended = workers(agents, |_| {
            let (barrier, waiting, asked) = (Arc::clone(&barrier), Arc::clone(&waiting), asked.clone());
            async move {
                let client = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                let Some(mut client) = client else {
                    return Err(Broken::new("giving out clients", "one for each worker", "none is left"));
                };
                barrier.wait().await;
                let called = client.run("accept.sweep", json!({"text": asked})).await?;
                let called = client.well("asking what all ask", called)?;
                Ok((client, called))
            }
        })
        .await;
        let (mut answers, mut etags) = (BTreeSet::new(), BTreeSet::new());
        for (client, called) in all("asking what all ask", agents, ended)? {
            // With the etag of the answer: equal for all, and the server's own.
            let mut body = called.body;
            let etag = body.as_object_mut().and_then(|body| body.remove("etag"));
            etags.insert(etag.unwrap_or_default().to_string());
            answers.insert(body.to_string());
            clients.push(client);
        }
        let after = Metrics::of(&instance).await?;
        let grown = |layer: &str, outcome: &str| {
            let labels = [("layer", layer), ("outcome", outcome)];
            after.sum("tmws_cache_lookups_total", &labels) - before.sum("tmws_cache_lookups_total", &labels)
        };
        computed.push(grown("single_flight", "computed"));
        shared += grown("single_flight", "shared");
        kept += grown("local", "hit");
        let right = json!({"text": asked, "n": FILES, "files": FILES});
        seen.equal(format!("answers of round {round}"), &BTreeSet::from([right.to_string()]), &answers);
        seen.equal(format!("etags of round {round}"), &1, &etags.len());
    }
    seen.equal("runs in each round", &vec![1.0; rounds], &computed);
    let expected = (agents * rounds) as f64;
    seen.equal(
        "answers, as the server counts them: run, shared and kept",
        &expected,
        &(computed.iter().sum::<f64>() + shared + kept),
    );
    seen.note(format!(
        "{agents} agents of one principal asked the same {rounds} times: {} runs, {shared} answers shared with one that \
         ran, {kept} answers kept.",
        computed.iter().sum::<f64>(),
    ));
    instance.end().await?;
    Ok(())
}

fn text(file: usize) -> String {
    let mut text = String::new();
    for line in 0..LINES {
        let _ = writeln!(
            text,
            "berth {line} is {}",
            if (line + file).is_multiple_of(3) { "free" } else { "taken" }
        );
    }
    text
}
