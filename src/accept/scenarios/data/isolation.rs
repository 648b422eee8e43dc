//! D3: what transactions see of one another, and what becomes of those that the database ends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    probe::{self, remember, setup},
    sql::Session,
};
use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Seen},
    stage::{AGENTS, Postgres, Stage, Where},
};

/// Somebody waits for a lock within this.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Who writes at the same time, half of them at each of two servers.
const WRITERS: usize = 12;

/// D3: two servers with one database, and an administrator who keeps transactions open in it.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let postgres = stage.postgres().await?;
    let database = postgres.database(&stage.name("d3")).await?;
    let store = || setup(Where::Database(database.url.clone()));
    let (mut here, mut there) = (stage.start(store()).await?, stage.start(store()).await?);
    let targets = [Target::of(&here, AGENTS[0], "alpha"), Target::of(&there, AGENTS[1], "alpha")];
    let mut clients = Vec::new();
    for number in 0..WRITERS {
        clients.push(Client::socket(&format!("writer {number}"), &targets[number % 2], MODERN).await?);
    }
    remember(&mut clients[0], json!({"content": "the first memory of all"})).await?;
    let mut admin = Session::open(&database.url).await?;

    let mut lost = 0;
    for round in 0..stage.profile.pick(6, 40) {
        lost += same_content(&mut clients, round, seen).await?;
        lost += same_replaced(&mut clients, round, seen).await?;
        lost += same_labels(&mut clients, round, seen).await?;
    }
    seen.figure("lost", f64::from(lost));
    let mut dirty = 0;
    for round in 0..stage.profile.pick(2, 10) {
        dirty += of_another(&mut clients, &mut admin, round).await?;
        dirty += of_its_own(&mut clients, &database.url, &mut admin, round, seen).await?;
    }
    seen.figure("dirty", f64::from(dirty));
    serialization(&mut clients, &mut admin, seen).await?;
    deadlock(&mut clients, &database.url, &mut admin, seen).await?;
    admin.close().await;
    here.end().await?;
    there.end().await?;
    probe::verify(stage, &stage.folder("verify")?, &database.url, seen, "after the races").await?;
    Postgres::drop(postgres, &database).await
}

/// Asks each client at the same time.
async fn at_once(
    clients: &mut [Client],
    tool: &str,
    arguments: impl Fn(usize) -> Value,
) -> Result<Vec<(bool, Value)>, Broken> {
    let asked = clients.iter_mut().enumerate().map(|(number, client)| {
        let arguments = arguments(number);
        async move {
            let called = probe::call(client, tool, arguments).await?;
            Ok::<_, Broken>((!called.is_error, probe::answer(called.body)))
        }
    });
    futures_util::future::try_join_all(asked).await
}

async fn get(client: &mut Client, id: &str) -> Result<Value, Broken> {
    // `recalled` is noted behind an answer; nothing of it is shown.
    probe::well(client, "probe.get", json!({"id": id})).await
}

/// All store the same text, each with a tag of its own: one memory comes of it, with all tags.
async fn same_content(clients: &mut [Client], round: usize, seen: &mut Seen) -> Result<i32, Broken> {
    let content = format!("all say this in round {round}");
    let told =
        at_once(clients, "remember", |number| json!({"content": content, "tags": [format!("t{number:02}")]}))
            .await?;
    let mut ids: Vec<String> = told.iter().filter_map(|(_, body)| probe::id_in(body)).collect();
    ids.sort();
    ids.dedup();
    let memory = get(&mut clients[1], ids.first().map_or("", String::as_str)).await?;
    let tags = memory["tags"].as_array().map_or(0, Vec::len);
    let lost = (WRITERS - tags.min(WRITERS)) + ids.len().saturating_sub(1);
    if lost > 0 || round == 0 {
        seen.check(
            format!("the same text with {WRITERS} tags, stored at once at two servers"),
            lost == 0,
            format!("one memory with {WRITERS} tags"),
            format!("{} memories, the first with {tags} tags", ids.len()),
        );
    }
    Ok(i32::try_from(lost).unwrap_or(i32::MAX))
}

/// All replace the same memory: one does, the others are told so, and nothing of theirs is stored.
async fn same_replaced(clients: &mut [Client], round: usize, seen: &mut Seen) -> Result<i32, Broken> {
    let old =
        remember(&mut clients[0], json!({"content": format!("to be replaced in round {round}")})).await?;
    let told = at_once(clients, "remember", |number| {
        json!({"content": format!("successor {number} of round {round}"), "tags": [format!("r{round}")], "supersedes": old})
    })
    .await?;
    let winners: Vec<&Value> = told.iter().filter(|(well, _)| *well).map(|(_, body)| body).collect();
    let memory = get(&mut clients[1], &old).await?;
    let listed = json!({"k": 50, "tags": [format!("r{round}")], "superseded": true});
    let listed = probe::well(&mut clients[0], "probe.list", listed).await?;
    let is_one = winners.len() == 1
        && listed["total"] == 1
        && winners.first().is_some_and(|winner| winner["id"] == memory["superseded_by"]);
    if !is_one || round == 0 {
        seen.check(
            format!("one memory replaced by {WRITERS} at once at two servers"),
            is_one,
            "one of them, and nothing of the others",
            format!(
                "{} were told well, {} are stored, the old one says {}",
                winners.len(),
                listed["total"],
                memory["superseded_by"]
            ),
        );
    }
    Ok(i32::from(!is_one))
}

/// Three change different labels of one memory: all changes stay.
async fn same_labels(clients: &mut [Client], round: usize, seen: &mut Seen) -> Result<i32, Broken> {
    let id =
        remember(&mut clients[0], json!({"content": format!("to be labelled in round {round}")})).await?;
    let told = at_once(&mut clients[..3], "probe.update", |number| match number {
        0 => json!({"id": id, "tags": ["labelled"]}),
        1 => json!({"id": id, "importance": 0.75}),
        _ => json!({"id": id, "kind": "decision"}),
    })
    .await?;
    let memory = get(&mut clients[1], &id).await?;
    let kept = [
        memory["tags"] == json!(["labelled"]),
        memory["importance"] == json!(0.75),
        memory["kind"] == "decision",
    ];
    let lost = kept.iter().filter(|kept| !**kept).count();
    let are_well = told.iter().all(|(well, _)| *well);
    if lost > 0 || !are_well || round == 0 {
        seen.check(
            "three labels of one memory changed at once at two servers",
            lost == 0 && are_well,
            "all three changes",
            memory.to_string(),
        );
    }
    Ok(i32::try_from(lost).unwrap_or(i32::MAX))
}

/// What another transaction has changed and not committed.
async fn of_another(clients: &mut [Client], admin: &mut Session, round: usize) -> Result<i32, Broken> {
    let content = format!("the clean text of round {round}");
    let id = remember(&mut clients[0], json!({"content": content, "importance": 0.25})).await?;
    admin
        .run(&format!(
            "BEGIN; UPDATE tmws.memory SET importance = 1, tags = '{{dirty}}', content = 'dirty' WHERE id = '{id}'"
        ))
        .await?;
    let mut dirty = 0;
    for pass in 0..2 {
        for (number, client) in clients[..4].iter_mut().enumerate() {
            let memory = get(client, &id).await?;
            // Asked differently each time, so that no answer is one that was kept.
            let k = 20 + round * 16 + pass * 8 + number;
            let listed =
                probe::well(client, "probe.list", json!({"k": k.min(100), "order": "important"})).await?;
            let is_clean = memory["text"] == content.as_str() && memory["importance"] == json!(0.25);
            dirty += i32::from(!is_clean) + i32::from(listed.to_string().contains("dirty"));
        }
        if pass == 0 {
            admin.run("ROLLBACK").await?;
        }
    }
    Ok(dirty)
}

/// What a server's own write has stored and not committed, because its last step waits.
async fn of_its_own(
    clients: &mut [Client],
    url: &str,
    admin: &mut Session,
    round: usize,
    seen: &mut Seen,
) -> Result<i32, Broken> {
    let tag = format!("held{round}");
    admin.run("BEGIN; SELECT FROM tmws.generation FOR UPDATE").await?;
    let arguments = json!({"name": "remember", "arguments": {"content": format!("held back in round {round}"), "tags": [tag]}});
    let id = clients[0].post("tools/call", arguments).await?;
    let is_waiting = waits(url, 1).await?;
    let mut dirty = 0;
    for (nth, client) in clients[1..5].iter_mut().enumerate() {
        let listed = probe::well(client, "probe.list", json!({"k": 10 + nth, "tags": [tag]})).await?;
        dirty += i32::from(listed["total"] != 0);
    }
    admin.run("COMMIT").await?;
    let frame = clients[0].answer(&json!(id)).await?;
    let called = clients[0].called(&frame, Duration::ZERO)?;
    let mut shown = 0;
    for (nth, client) in clients[1..5].iter_mut().enumerate() {
        let listed = probe::well(client, "probe.list", json!({"k": 30 + nth, "tags": [tag]})).await?;
        shown += i32::from(listed["total"] == 1);
    }
    if round == 0 || shown != 4 || !is_waiting || called.is_error {
        seen.check(
            "a write whose last step waits for a lock",
            is_waiting && !called.is_error && shown == 4,
            "it waits, is answered when the lock is gone, and only then seen by the 4 others",
            format!("waits: {is_waiting}, answered: {}, seen by {shown}", called.body),
        );
    }
    Ok(dirty)
}

/// Whether so many of the servers' connections wait for a lock, soon.
async fn waits(url: &str, count: i64) -> Result<bool, Broken> {
    let mut watcher = Session::open(url).await?;
    let begun = Instant::now();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let mut is_waiting = false;
    while !is_waiting && begun.elapsed() < WAIT_MAX {
        is_waiting = watcher.count(sql).await? >= count;
        if !is_waiting {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    watcher.close().await;
    Ok(is_waiting)
}

/// The database ends a write three times with a serialization failure: it is made a fourth time, and answered.
async fn serialization(clients: &mut [Client], admin: &mut Session, seen: &mut Seen) -> Result<(), Broken> {
    admin
        .run(
            "CREATE SEQUENCE public.accept_tries; \
             CREATE FUNCTION public.accept_serialize() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \
             IF nextval('public.accept_tries') <= 3 THEN RAISE EXCEPTION 'provoked' USING ERRCODE = '40001'; END IF; \
             RETURN NEW; END $$; \
             CREATE TRIGGER accept_serialize BEFORE INSERT ON tmws.memory FOR EACH ROW \
             WHEN (NEW.tags @> '{provoked}') EXECUTE FUNCTION public.accept_serialize()",
        )
        .await?;
    let called =
        clients[0].call("remember", json!({"content": "made in the end", "tags": ["provoked"]})).await?;
    let tries = admin.count("SELECT last_value FROM public.accept_tries").await?;
    let stored = admin.count("SELECT count(*) FROM tmws.memory WHERE tags @> '{provoked}'").await?;
    admin.run("DROP TRIGGER accept_serialize ON tmws.memory").await?;
    seen.check(
        "a write that the database ends three times with a serialization failure (40001)",
        !called.is_error && tries == 4 && stored == 1,
        "answered well after 4 tries, stored once",
        format!("{} after {tries} tries, stored {stored} times", called.body),
    );
    Ok(())
}

/// A write that waits for an administrator who waits for it: the database ends the write, and it is made again.
async fn deadlock(
    clients: &mut [Client],
    url: &str,
    admin: &mut Session,
    seen: &mut Seen,
) -> Result<(), Broken> {
    let ended = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let before = admin.count(ended).await?;
    let mut told = String::from("never");
    let mut was_it = false;
    // Who is ended is the one that has waited for long enough when the ring is closed; on a slow machine not always ours.
    for round in 0..3 {
        let old = remember(&mut clients[0], json!({"content": format!("ring {round}")})).await?;
        // Only an administrator may say how long; else the database decides whom it ends.
        let _ = admin.run("SET deadlock_timeout TO '6s'").await;
        admin.run("BEGIN; SELECT FROM tmws.generation FOR UPDATE").await?;
        let arguments = json!({"name": "remember", "arguments": {"content": format!("ring {round} closed"), "supersedes": old}});
        let id = clients[0].post("tools/call", arguments).await?;
        waits(url, 1).await?;
        let held =
            admin.run(&format!("UPDATE tmws.memory SET importance = importance WHERE id = '{old}'")).await;
        admin.run(if held.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        let frame = clients[0].answer(&json!(id)).await?;
        let called = clients[0].called(&frame, Duration::ZERO)?;
        let memory = get(&mut clients[1], &old).await?;
        was_it = held.is_ok() && !called.is_error && memory["superseded_by"] == called.body["id"];
        told = format!("round {round}: the write was ended: {}, answer {}", held.is_ok(), called.body);
        if was_it || called.is_error {
            break;
        }
    }
    // Told by the one that was ended, when it has a moment.
    let begun = Instant::now();
    let mut after = admin.count(ended).await?;
    while after == before && begun.elapsed() < WAIT_MAX {
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = admin.count(ended).await?;
    }
    seen.check(
        "a write that the database ends to break a deadlock (40P01)",
        was_it && after > before,
        "made again, and answered well",
        format!("{told}; the database counts {} deadlocks", after - before),
    );
    Ok(())
}
