//! M4: readers and writers of one memory, and of what each writes alone.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{all, away, over_postgres, setup, sockets};
use crate::{
    accept::{
        client::Client,
        load::{Dice, workers},
        scenario::{Broken, Seen},
        stage::Stage,
    },
    hex::hex,
};

/// A write of the shared memory that was acknowledged.
struct Written {
    label: String,
    begun: Instant,
    acknowledged: Instant,
}

/// A read of it.
struct Read {
    label: String,
    begun: Instant,
    ended: Instant,
}

/// What all workers saw.
#[derive(Default)]
struct Board {
    writes: Mutex<Vec<Written>>,
    reads: Mutex<Vec<Read>>,
    /// In words: a checksum that is wrong, labels that are not of one write.
    torn: Mutex<Vec<String>>,
    /// In words: a writer that did not read what it had written.
    missed: Mutex<Vec<String>>,
    own_reads: Mutex<usize>,
    is_over: AtomicBool,
}

fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// M4: each writer replaces a memory of its own again and again and reads it back, on its own connection and on another
/// one, through the caches; all of them label one shared memory, which others read. Contents carry a checksum, labels
/// say the same thing three times. A read that began after a write was acknowledged must not tell of one that was
/// overwritten before.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (writers, readers, rounds) = stage.profile.pick((8, 8, 8), (16, 16, 40));
    let (instance, database) = over_postgres(stage, "m4", setup()).await?;
    let mut clients = sockets(&instance, writers * 2 + readers).await?;
    let called = clients[0].call("remember", json!({"content": "The one memory of all."})).await?;
    let called = clients[0].well("remembering", called)?;
    let Some(id) = called.body["id"].as_str().map(str::to_owned) else {
        return Err(clients[0].broken("remembering", "an id", &called.body));
    };
    let board = Arc::new(Board::default());
    let pairs: Arc<Mutex<Vec<(Client, Client)>>> = Arc::default();
    let lone: Arc<Mutex<Vec<Client>>> = Arc::default();
    locked(&lone).extend(clients.drain(..readers));
    while let (Some(one), Some(other)) = (clients.pop(), clients.pop()) {
        locked(&pairs).push((one, other));
    }
    let seed = stage.seed;
    let reading = tokio::spawn({
        let (board, lone, id) = (Arc::clone(&board), Arc::clone(&lone), id.clone());
        async move {
            workers(readers, |_| {
                let (board, client, id) = (Arc::clone(&board), locked(&lone).pop(), id.clone());
                async move {
                    let Some(mut client) = client else { return Ok(()) };
                    while !board.is_over.load(Ordering::Relaxed) {
                        read(&mut client, &id, &board).await?;
                    }
                    Ok(())
                }
            })
            .await
        }
    });
    let ended = workers(writers, |writer| {
        let (board, pair, id) = (Arc::clone(&board), locked(&pairs).pop(), id.clone());
        async move {
            let Some((mut own, mut other)) = pair else { return Ok(()) };
            let mut dice = Dice::new(seed, writer as u64);
            let mut last = None;
            for round in 0..rounds {
                last = Some(write(&mut own, &mut other, (writer, round), last, &mut dice, &board).await?);
                label(&mut own, &id, (writer, round), &board).await?;
                read(&mut other, &id, &board).await?;
            }
            Ok::<(), Broken>(())
        }
    })
    .await;
    board.is_over.store(true, Ordering::Relaxed);
    let read = reading.await.unwrap_or_default();
    all("writing", writers, ended)?;
    all("reading", readers, read)?;
    tell(seen, &board, writers);
    away(stage, instance, &database).await
}

/// Replaces the writer's memory, then reads it on both of its connections.
async fn write(
    own: &mut Client,
    other: &mut Client,
    (writer, round): (usize, usize),
    last: Option<String>,
    dice: &mut Dice,
    board: &Board,
) -> Result<String, Broken> {
    let tag = format!("chain-{writer}");
    let filling: String = (0..40 + dice.roll(60))
        .map(|_| ["tide ", "berth ", "quay ", "crane "][dice.roll(4) as usize])
        .collect();
    let said = format!("Writer {writer}, round {round}: {filling}");
    let content = format!("{said}sum={}", checksum(&said));
    let mut arguments = json!({"content": content, "tags": [tag]});
    if let Some(last) = last {
        arguments["supersedes"] = Value::from(last);
    }
    let called = own.call("remember", arguments).await?;
    let called = own.well("replacing a memory", called)?;
    let Some(id) = called.body["id"].as_str().map(str::to_owned) else {
        return Err(own.broken("replacing a memory", "an id", &called.body));
    };
    for client in [own, other] {
        let called = client.run("accept.newest", json!({"tag": tag})).await?;
        let called = client.well("reading what was written", called)?;
        let text = called.body["memories"][0]["text"].as_str().unwrap_or_default();
        *locked(&board.own_reads) += 1;
        if called.body["total"] != 1 || called.body["memories"][0]["id"] != *id {
            locked(&board.missed).push(format!(
                "writer {writer} wrote {id} in round {round} and read {} of {}",
                called.body["memories"][0]["id"], called.body["total"]
            ));
        } else if text != content || !is_whole(text) {
            locked(&board.torn).push(format!("writer {writer} wrote in round {round}, and read: {text}"));
        }
    }
    Ok(id)
}

/// Labels the shared memory.
async fn label(
    client: &mut Client,
    id: &str,
    (writer, round): (usize, usize),
    board: &Board,
) -> Result<(), Broken> {
    let label = format!("w{writer}-{round}");
    let begun = Instant::now();
    let arguments = json!({"id": id, "label": label, "importance": importance(&label)});
    let called = client.call("accept_label", arguments).await?;
    client.well("labelling the shared memory", called)?;
    locked(&board.writes).push(Written { label, begun, acknowledged: Instant::now() });
    Ok(())
}

/// Reads the shared memory.
async fn read(client: &mut Client, id: &str, board: &Board) -> Result<(), Broken> {
    let begun = Instant::now();
    let called = client.run("accept.get", json!({"id": id})).await?;
    let body = client.well("reading the shared memory", called)?.body;
    let label = body["kind"].as_str().unwrap_or_default().to_owned();
    // Before the first label it has none.
    if body["tags"] == json!([]) {
        return Ok(());
    }
    let importance_seen = body["importance"].as_f64().unwrap_or(-1.0);
    if body["tags"] != json!([label]) || (importance_seen - importance(&label)).abs() > 1e-9 {
        locked(&board.torn).push(format!("labels that are not of one write: {body}"));
    }
    locked(&board.reads).push(Read { label, begun, ended: Instant::now() });
    Ok(())
}

/// Another one for each label.
fn importance(label: &str) -> f64 {
    let number = label.bytes().fold(7_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 9_973);
    number as f64 / 10_000.0
}

fn checksum(said: &str) -> String {
    hex(&Sha256::digest(said)[..8])
}

fn is_whole(text: &str) -> bool {
    text.rsplit_once("sum=").is_some_and(|(said, sum)| checksum(said) == sum)
}

/// Reads that tell of a write which another one had overwritten, and been acknowledged, before they began; and of one
/// that nobody had begun when they ended.
fn stale(writes: &[Written], reads: &[Read]) -> Vec<String> {
    let mut found = Vec::new();
    for read in reads {
        let Some(told) = writes.iter().find(|write| write.label == read.label) else {
            found.push(format!("{} was read, which nobody wrote", read.label));
            continue;
        };
        if told.begun > read.ended {
            found.push(format!("{} was read before it was written", read.label));
        }
        let later = |write: &&Written| write.begun > told.acknowledged && write.acknowledged < read.begun;
        if let Some(later) = writes.iter().find(later) {
            found.push(format!("{} was read after {} was acknowledged", read.label, later.label));
        }
    }
    found
}

fn tell(seen: &mut Seen, board: &Board, writers: usize) {
    let (writes, reads) = (locked(&board.writes), locked(&board.reads));
    let (torn, missed) = (locked(&board.torn), locked(&board.missed));
    let stale = stale(&writes, &reads);
    seen.check("each writer reads what it wrote", missed.is_empty(), "always", first(&missed));
    seen.check("nothing torn is read", torn.is_empty(), "whole contents, labels of one write", first(&torn));
    seen.check(
        "what was overwritten is not read any more",
        stale.is_empty(),
        "no read of an overwritten label",
        first(&stale),
    );
    seen.check(
        "the shared memory was read while it was written",
        reads.len() >= writes.len(),
        format!("at least {} reads", writes.len()),
        reads.len().to_string(),
    );
    seen.note(format!(
        "{writers} writers labelled one memory {} times, which was read {} times meanwhile; they read their own writes \
         back {} times.",
        writes.len(),
        reads.len(),
        *locked(&board.own_reads),
    ));
}

fn first(of: &[String]) -> String {
    match of.first() {
        None => "none otherwise".to_owned(),
        Some(first) => format!("{} otherwise, the first: {first}", of.len()),
    }
}
