//! M7: the same request ids in every session.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::{all, crew, setup};
use crate::accept::{
    client::{Client, LEGACY, MODERN, Target},
    load::{Dice, workers},
    scenario::{Broken, Frame, Seen},
    stage::{Instance, Stage},
};

/// Requests of a session that are open at the same time, over WebSocket.
const OPEN: usize = 8;
/// After the last answer nothing comes any more; looked at for so long.
const QUIET: Duration = Duration::from_millis(200);

/// What is wrong with an answer.
#[derive(Default)]
struct Wrong {
    crossed: Vec<String>,
    /// Neither one's own answer nor another's.
    failed: Vec<String>,
    frames: Vec<Frame>,
}

/// M7: sessions of all principals, over WebSocket and HTTP, of legacy revisions and of 2026-07-28, ask at the same time
/// under the same ids, numbers and texts alike. What each asks for names the session, and so must each answer. Over
/// WebSocket several requests are open at once and their answers come in any order.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (sessions, rounds) = stage.profile.pick((24, 6), (64, 30));
    let mut instance = stage.start(setup()).await?;
    let clients = Arc::new(Mutex::new(opened(&instance, sessions).await?));
    let barrier = Arc::new(Barrier::new(sessions));
    let wrong: Arc<Mutex<Wrong>> = Arc::default();
    let seed = stage.seed;
    let ended = workers(sessions, |_| {
        let (clients, barrier, wrong) = (Arc::clone(&clients), Arc::clone(&barrier), Arc::clone(&wrong));
        async move {
            let given = clients.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((number, is_socket, mut client)) = given else {
                return Err(Broken::new("giving out sessions", "one for each worker", "none is left"));
            };
            let mut dice = Dice::new(seed, number as u64);
            let mut answered = 0;
            for round in 0..rounds {
                barrier.wait().await;
                answered += if is_socket {
                    many(&mut client, (number, round), &mut dice, &wrong).await?
                } else {
                    one_by_one(&mut client, (number, round), &mut dice, &wrong).await?
                };
            }
            while let Some(frame) = client.next(QUIET).await? {
                if frame.get("id").is_some() && frame.get("method").is_none() {
                    note(&wrong, &client, true, &format!("an answer that nobody waits for: {frame}"));
                }
            }
            Ok(answered)
        }
    })
    .await;
    let answered: usize = all("asking under the same ids", sessions, ended)?.into_iter().sum();
    let wrong = std::mem::take(&mut *wrong.lock().unwrap_or_else(PoisonError::into_inner));
    seen.figure("crossed", wrong.crossed.len() as f64);
    seen.equal("answers", &(sessions * rounds * OPEN), &answered);
    seen.check(
        "every answer is the session's own",
        wrong.crossed.is_empty(),
        "none of another's",
        wrong.crossed.first().cloned().unwrap_or_default(),
    );
    seen.check(
        "no call failed",
        wrong.failed.is_empty(),
        "an answer to each",
        wrong.failed.first().cloned().unwrap_or_default(),
    );
    seen.frames.extend(wrong.frames);
    seen.note(format!(
        "{sessions} sessions of {} principals, over WebSocket and HTTP and of five revisions, asked {rounds} times \
         {OPEN} questions under the same ids.",
        crew().len(),
    ));
    instance.end().await?;
    Ok(())
}

/// Every other one over HTTP; of three one of 2026-07-28, the others of each legacy revision in turn. Each remembers
/// something that names it.
async fn opened(instance: &Instance, sessions: usize) -> Result<Vec<(usize, bool, Client)>, Broken> {
    let crew = crew();
    let mut clients = Vec::with_capacity(sessions);
    for number in 0..sessions {
        let person = crew[number / 2 % crew.len()];
        let target = Target::of(instance, person, "alpha");
        let revision = if number % 3 == 0 { MODERN } else { LEGACY[number % LEGACY.len()] };
        let is_socket = number % 2 == 0;
        let name = format!("{} {number}, {revision}", person.name);
        let mut client = if is_socket {
            Client::socket(&name, &target, revision).await?
        } else {
            Client::http(&name, &target, revision).await?
        };
        let content = format!("Kept by {}.", mark(number));
        let called = client.call("remember", json!({"content": content, "tags": [mark(number)]})).await?;
        client.well("remembering", called)?;
        clients.push((number, is_socket, client));
    }
    Ok(clients)
}

/// What names a session.
fn mark(session: usize) -> String {
    format!("session-{session:03}-end")
}

/// The ids of all sessions: numbers, and texts that look like them.
fn id(at: usize) -> Value {
    if at.is_multiple_of(2) { json!(1_000 + at) } else { json!(format!("{}", 1_000 + at - 1)) }
}

/// A question of a session, and the text that its answer must have.
fn question(session: usize, round: usize, at: usize) -> (Value, String) {
    if at % 4 == 3 {
        let arguments = json!({"pattern": "accept.newest", "input": {"tag": mark(session)}, "fresh": true});
        (arguments, format!("Kept by {}.", mark(session)))
    } else {
        let text = format!("{} round {round} question {at};", mark(session));
        (json!({"pattern": "accept.echo", "input": {"text": text}}), text)
    }
}

async fn ask(client: &mut Client, session: usize, round: usize, at: usize) -> Result<(), Broken> {
    let (arguments, _) = question(session, round, at);
    let params = json!({"name": "execute_pattern", "arguments": arguments});
    let request = client.request(&id(at), "tools/call", params);
    client.say(request).await
}

/// Asks everything at once, in an order of its own, and takes whatever comes.
async fn many(
    client: &mut Client,
    (session, round): (usize, usize),
    dice: &mut Dice,
    wrong: &Mutex<Wrong>,
) -> Result<usize, Broken> {
    for at in order(dice) {
        ask(client, session, round, at).await?;
    }
    let mut missing: BTreeSet<usize> = (0..OPEN).collect();
    while !missing.is_empty() {
        let Some(frame) = client.next(crate::accept::client::PATIENCE).await? else {
            return Err(client.broken(
                "waiting for answers",
                format!("{} more", missing.len()),
                &Value::Null,
            ));
        };
        if frame.get("method").is_some() {
            continue;
        }
        match (0..OPEN).find(|at| id(*at) == frame["id"] && missing.contains(at)) {
            Some(at) => {
                missing.remove(&at);
                judge(client, (session, round, at), &frame, wrong);
            }
            None => note(wrong, client, true, &format!("an answer that nobody waits for: {frame}")),
        }
    }
    Ok(OPEN)
}

async fn one_by_one(
    client: &mut Client,
    (session, round): (usize, usize),
    dice: &mut Dice,
    wrong: &Mutex<Wrong>,
) -> Result<usize, Broken> {
    for at in order(dice) {
        ask(client, session, round, at).await?;
        let frame = client.answer(&id(at)).await?;
        judge(client, (session, round, at), &frame, wrong);
    }
    Ok(OPEN)
}

fn judge(client: &Client, (session, round, at): (usize, usize, usize), frame: &Value, wrong: &Mutex<Wrong>) {
    let (_, expected) = question(session, round, at);
    let text = frame.to_string();
    if text.contains(&expected) && !names_another(&text, session) {
        return;
    }
    let is_crossed = names_another(&text, session) || text.contains("question");
    note(wrong, client, is_crossed, &format!("expected {expected:?}, seen {text}"));
}

fn names_another(text: &str, session: usize) -> bool {
    let own = format!("{session:03}");
    text.match_indices("session-").any(|(at, begin)| {
        let rest = &text[at + begin.len()..];
        rest.get(3..7) == Some("-end") && rest.get(..3) != Some(own.as_str())
    })
}

fn note(wrong: &Mutex<Wrong>, client: &Client, is_crossed: bool, what: &str) {
    let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
    let what = format!("{}: {what}", client.name);
    if wrong.crossed.is_empty() && wrong.failed.is_empty() {
        wrong.frames = client.frames();
    }
    if is_crossed { wrong.crossed.push(what) } else { wrong.failed.push(what) }
}

fn order(dice: &mut Dice) -> Vec<usize> {
    let mut order: Vec<usize> = (0..OPEN).collect();
    for last in (1..OPEN).rev() {
        order.swap(last, dice.roll(last as u64 + 1) as usize);
    }
    order
}
