//! M6: writers of the same memories, in opposite orders.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::{all, over_postgres, setup, sockets};
use crate::accept::{
    client::{Called, Client},
    load::{Dice, workers},
    scenario::{Broken, Seen},
    stage::Stage,
};

/// Memories that all touch.
const SHARED: usize = 8;
/// Memories that two forget at the same time.
const DUEL: usize = 24;

/// What the workers were answered.
#[derive(Default)]
struct Told {
    deadlocks: Vec<String>,
    others: Vec<String>,
    well: usize,
}

impl Told {
    fn note(&mut self, called: &Called) {
        if !called.is_error {
            self.well += 1;
            return;
        }
        let text = called.body.to_string();
        let lower = text.to_lowercase();
        // As this program tells of one, and as a server below it would.
        if ["same rows at once", "deadlock", "serializ", "40p01", "40001"]
            .iter()
            .any(|word| lower.contains(word))
        {
            self.deadlocks.push(text);
        } else {
            self.others.push(text);
        }
    }
}

/// M6: half of the clients go through the same memories from the first to the last, the other half back, each writing
/// all of them in one call, at the same time; then pairs of clients forget the same memories, one in the order of the
/// other one reversed.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (writers, rounds, duels) = stage.profile.pick((16, 4, 6), (40, 12, 30));
    let (instance, database) = over_postgres(stage, "m6", setup()).await?;
    let mut clients = sockets(&instance, writers).await?;
    let mut ids = Vec::with_capacity(SHARED);
    for number in 0..SHARED {
        ids.push(remember(&mut clients[0], &format!("The lantern of berth {number}.")).await?);
    }
    let told: Arc<Mutex<Told>> = Arc::default();
    let waiting = Arc::new(Mutex::new(clients));
    let barrier = Arc::new(Barrier::new(writers));
    let seed = stage.seed;
    let ended = workers(writers, |writer| {
        let (told, waiting, barrier) = (Arc::clone(&told), Arc::clone(&waiting), Arc::clone(&barrier));
        let mut order = ids.clone();
        async move {
            let client = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut client) = client else {
                return Err(Broken::new("giving out clients", "one for each worker", "none is left"));
            };
            if writer % 2 == 1 {
                order.reverse();
            }
            let mut dice = Dice::new(seed, writer as u64);
            barrier.wait().await;
            for _ in 0..rounds {
                let importance = dice.roll(1_000) as f64 / 1_000.0;
                let called =
                    client.call("accept_touch", json!({"ids": order, "importance": importance})).await?;
                told.lock().unwrap_or_else(PoisonError::into_inner).note(&called);
            }
            Ok(client)
        }
    })
    .await;
    let mut clients = all("touching the same memories", writers, ended)?;
    let mut forgotten = BTreeMap::new();
    let mut asked = 0;
    for duel in 0..duels {
        let (Some(mut one), Some(mut other)) = (clients.pop(), clients.pop()) else { break };
        let mut forward = Vec::with_capacity(DUEL);
        for number in 0..DUEL {
            forward.push(remember(&mut one, &format!("Ballast {number} of duel {duel}.")).await?);
        }
        asked += forward.len();
        let back: Vec<String> = forward.iter().rev().cloned().collect();
        let (left, right) = tokio::join!(
            one.call("accept_forget", json!({"ids": forward})),
            other.call("accept_forget", json!({"ids": back}))
        );
        for called in [left?, right?] {
            told.lock().unwrap_or_else(PoisonError::into_inner).note(&called);
            for id in called.body["forgotten"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                *forgotten.entry(id.to_owned()).or_insert(0_usize) += 1;
            }
        }
        clients.splice(0..0, [one, other]);
    }
    drop(clients);
    // Backends tell what they counted when they end, at the latest.
    let left = database
        .value("SELECT count(*) FROM tmws.memory WHERE convert_from(content, 'UTF8') LIKE 'Ballast%'")
        .await?;
    let server = Arc::clone(stage.postgres().await?);
    let name = database.name.clone();
    let mut instance = instance;
    instance.end().await?;
    let counted = server
        .value(&format!("SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'"))
        .await?
        .and_then(|counted| counted.parse().ok());
    let counted: f64 =
        counted.ok_or_else(|| Broken::new("asking PostgreSQL for deadlocks", "a number", "none"))?;
    let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    // A write that one ended is tried again, and most callers never hear of it.
    seen.figure("deadlocks", counted.max(told.deadlocks.len() as f64));
    seen.equal("calls that failed in another way", &Vec::<String>::new(), &told.others);
    let left = left.unwrap_or_else(|| "no count".to_owned());
    seen.check("memories of the duels that remain", left == "0", "0", left);
    let twice = forgotten.values().filter(|times| **times != 1).count();
    seen.equal("memories that both of a pair forgot", &0, &twice);
    seen.note(format!(
        "PostgreSQL counted {counted} deadlocks, and {} callers were told of one{}.",
        told.deadlocks.len(),
        told.deadlocks.first().map(|first| format!(", the first of them: {first}")).unwrap_or_default()
    ));
    seen.note(format!(
        "{writers} clients wrote {SHARED} memories {rounds} times each, half of them from the last to the first; {duels} \
         pairs forgot {asked} memories from both ends; {} calls went well.",
        told.well
    ));
    server.as_ref().drop(&database).await
}

async fn remember(client: &mut Client, content: &str) -> Result<String, Broken> {
    let called = client.call("remember", json!({"content": content})).await?;
    let called = client.well("remembering", called)?;
    match called.body["id"].as_str() {
        Some(id) => Ok(id.to_owned()),
        None => Err(client.broken("remembering", "an id", &called.body)),
    }
}
