//! R: The cache and its Redis.

mod cluster;
mod coherency;
mod hits;
mod invalidation;
mod life;
mod load;
mod outage;
mod trial;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::accept::{
    client::{Called, Client, MODERN, Target},
    metrics::{Metrics, get},
    scenario::{Broken, Row, Seen},
    stage::{ADMIN, Instance, Person, Setup, Stage, Where},
    until::until,
};

/// A pattern whose answers are kept for ten minutes, and depend on nothing but its input.
const KEPT: &str = "accept.kept";
/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Until Redis is used by servers that have just started, and by those that found it again.
const USED_MAX: Duration = Duration::from_secs(20);

/// Runs one of them.
///
/// # Errors
/// What broke it off.
pub(super) async fn run(row: &'static Row, stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    match row.id {
        "R1" => Box::pin(life::layers(stage, seen)).await,
        "R2" => Box::pin(invalidation::spread(stage, seen)).await,
        "R3" => Box::pin(coherency::coherent(stage, seen)).await,
        "R4" => Box::pin(life::ends(stage, seen)).await,
        "R5" => Box::pin(outage::full(stage, seen)).await,
        "R6" => Box::pin(outage::killed(stage, seen)).await,
        "R7" => Box::pin(outage::back(stage, seen)).await,
        "R8" => Box::pin(cluster::failover(stage, seen)).await,
        "R9" => Box::pin(hits::rate(stage, seen)).await,
        _ => Err(Broken::new(row.title, "a scenario", "this release does not run it")),
    }
}

/// File name and text of a pattern that says back its input, and whose answers are kept for `ttl`.
fn kept(name: &str, ttl: &str) -> (String, String) {
    let text = format!(
        "apiVersion: tmws/v1\n\
         kind: Pattern\n\
         name: {name}\n\
         version: 1.0.0\n\
         type: infrastructure\n\
         description: Says back what it is given, and is kept. For the acceptance run alone.\n\
         inputs:\n\
         \x20 type: object\n\
         \x20 additionalProperties: false\n\
         \x20 required: [mark]\n\
         \x20 properties: {{mark: {{type: string}}, cargo: {{type: string}}}}\n\
         limits: {{timeout: 10s, max_steps: 2, max_bytes: 1MiB}}\n\
         steps:\n\
         \x20 - {{id: said, uses: data.template, with: {{template: '{{{{mark}}}}', values: {{mark: '${{ .inputs.mark }}'}}}}}}\n\
         output:\n\
         \x20 schema: {{type: object, required: [said], properties: {{said: {{type: string}}, cargo: {{type: string}}}}}}\n\
         \x20 value: '${{ {{said: .steps.said, cargo: (.inputs.cargo // \"\")}} }}'\n\
         \x20 budget: {{tokens: 20000, overflow: cut}}\n\
         cache: {{ttl: {ttl}, scope: principal}}\n\
         annotations: {{readOnlyHint: true}}\n"
    );
    (format!("{name}.yaml"), text)
}

/// Somebody with `count` projects of their own.
fn owner(stage: &Stage, of: &str, count: usize) -> Person {
    Person { name: "ada", projects: stage.projects(of, count), is_admin: false }
}

/// A server of `person`, with the pattern [`KEPT`].
fn setup(store: &Where, redis: &str, person: Person) -> Setup {
    Setup {
        store: store.clone(),
        redis: Some(redis.to_owned()),
        people: vec![ADMIN, person],
        patterns: vec![kept(KEPT, "10m")],
        ..Setup::default()
    }
}

/// A store that instances share, in a file.
fn file(stage: &Stage, of: &str) -> Result<Where, Broken> {
    Ok(Where::At(stage.folder(of)?.join("tmws.db")))
}

/// A client of `person` in their first project.
async fn client(instance: &Instance, person: Person) -> Result<Client, Broken> {
    client_in(instance, person, person.projects.first().copied().unwrap_or("personal")).await
}

/// A client of `person` in a project.
async fn client_in(instance: &Instance, person: Person, project: &str) -> Result<Client, Broken> {
    let name = format!("{} at {} in {project}", person.name, instance.address.port());
    Client::socket(&name, &Target::of(instance, person, project), MODERN).await
}

/// Where an answer came from: `local` and `shared` are layers, `miss` is a run, `off` is what is not kept.
fn layer(called: &Called) -> &str {
    called.receipt["cache_layer"].as_str().unwrap_or_else(|| called.cache())
}

/// Runs a pattern whatever is kept.
async fn fresh(client: &mut Client, pattern: &str, input: Value) -> Result<Called, Broken> {
    client.call("execute_pattern", json!({"pattern": pattern, "input": input, "fresh": true})).await
}

/// Waits until what `from` keeps is found at `at` as well: both use Redis. How long that took.
async fn used(from: &mut Client, at: &mut Client, of: &str, within: Duration) -> Result<Duration, Broken> {
    let begun = Instant::now();
    let mut last = String::new();
    for number in 0.. {
        let input = json!({"mark": format!("used {of} {number}")});
        for (client, is_told) in [(&mut *from, false), (&mut *at, true)] {
            let called = client.run(KEPT, input.clone()).await?;
            let called = client.well("asking for what is kept", called)?;
            if is_told {
                layer(&called).clone_into(&mut last);
            }
        }
        if last == "shared" {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > within {
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    Err(Broken::new(
        "waiting for Redis to be used",
        format!("an answer of one instance is found at another within {within:?}"),
        format!("the last one was: {last}"),
    ))
}

/// A figure of `/metrics`, over all of its labels.
async fn metric(instance: &Instance, name: &str) -> Result<f64, Broken> {
    let found = Metrics::of(instance).await?.value(name, &[]);
    found.ok_or_else(|| Broken::new("reading /metrics", name, "nothing of that name"))
}

/// What `/readyz` says of Redis (`ready`, `degraded`), why, and its status.
async fn standing(instance: &Instance) -> Result<(String, String, u16), Broken> {
    let (status, text) = get(&Target::of(instance, ADMIN, "personal"), "/readyz").await?;
    let told: Value = serde_json::from_str(&text).unwrap_or_default();
    let redis = &told["dependencies"]["redis"];
    let word = |member: &str| redis[member].as_str().unwrap_or_default().to_owned();
    Ok((word("status"), word("reason"), status))
}

/// Waits until `/readyz` says so of Redis: how long that took, and the reason that it gives.
async fn stands(instance: &Instance, wanted: &str, within: Duration) -> Result<(Duration, String), Broken> {
    let begun = Instant::now();
    let look = async || standing(instance).await;
    let ((told, reason, status), held) = until(within, LOOK_EVERY, look, |(told, ..)| told == wanted).await?;
    if held {
        return Ok((begun.elapsed(), reason));
    }
    Err(Broken::new(
        "waiting for /readyz",
        format!("redis is {wanted} within {within:?}"),
        format!("{status}: {told} ({reason})"),
    ))
}
