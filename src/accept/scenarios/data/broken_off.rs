//! D4: writes that are broken off, at every place that can be reached from outside.
//!
//! First one by one: triggers in the run's own database fail, or end the connection, at each of the places at which a write
//! of a server touches a table, and where it commits. Then under load: connections are ended at random, the database is
//! killed, and so is a server with a file.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    probe::{self, code, setup},
    sql::{Lite, Session, fingerprint},
};
use crate::accept::{
    client::{Client, MODERN, Target},
    load::{Dice, workers},
    scenario::{Broken, Seen},
    stage::{AGENTS, Database, Instance, Stage, Where},
};

/// A store that was away is used again within this.
const AGAIN_MAX: Duration = Duration::from_secs(20);
/// A vector that its write could not make is made behind it within this.
const VECTORS_MAX: Duration = Duration::from_secs(20);
const WRITERS: usize = 8;

/// Places at which a write can be broken off: name, table, when.
const PLACES: [(&str, &str, &str); 8] = [
    ("before the memory", "memory", "BEFORE INSERT"),
    ("after the memory", "memory", "AFTER INSERT"),
    ("after its words", "memory_text", "AFTER INSERT"),
    ("after its vector", "memory_vector", "AFTER INSERT"),
    ("before the replaced one", "memory", "BEFORE UPDATE"),
    ("after the replaced one", "memory", "AFTER UPDATE"),
    ("after the count of writes", "generation", "AFTER INSERT OR UPDATE"),
    ("at the commit", "memory", "AFTER INSERT"),
];

/// D4.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut postgres = stage.own_postgres().await?;
    let database = postgres.database(&stage.name("d4")).await?;
    let mut instance = stage.start(setup(Where::Database(database.url.clone()))).await?;
    let mut remains = at_each_place(&instance, &database, seen).await?;

    let told = Arc::new(Told::default());
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let (mut ended, mut kills) = (0, 0);
    for round in 0..stage.profile.pick(1, 3) {
        let chaos = async {
            let work = async {
                ended += end_connections(&database, stage, round).await?;
                postgres.kill().await?;
                kills += 1;
                postgres.resume().await?;
                told.wait_for_more(WRITERS).await
            };
            let done = work.await;
            told.stop.store(true, Ordering::Relaxed);
            done
        };
        told.stop.store(false, Ordering::Relaxed);
        let writing = write(&target, &told, stage.seed, round);
        let (done, ()) = tokio::join!(chaos, writing);
        done?;
    }
    seen.check("the server after all that", instance.is_running(), "it runs", "it does not".to_owned());
    remains += look(&database, &told, seen).await?;
    seen.note(format!(
        "PostgreSQL: {ended} connections ended and {kills} servers killed under {WRITERS} writers; {} writes acknowledged, {} not",
        told.well().len(),
        told.failed()
    ));
    instance.end().await?;
    probe::verify(stage, &stage.folder("verify")?, &database.url, seen, "PostgreSQL").await?;
    remains += on_a_file(stage, seen).await?;
    seen.figure("remains", f64::from(remains));
    Ok(())
}

/// Breaks a write that replaces a memory off at each place, by an error and by the end of its connection.
async fn at_each_place(instance: &Instance, database: &Database, seen: &mut Seen) -> Result<i32, Broken> {
    let mut client = probe::client(instance, "ada", "alpha").await?;
    let mut old = probe::remember(&mut client, json!({"content": "the first memory"})).await?;
    let mut admin = Session::open(&database.url).await?;
    admin
        .run(
            "CREATE TABLE public.accept_break (place text, way text); \
             CREATE FUNCTION public.accept_break() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ DECLARE how text; BEGIN \
             SELECT way INTO how FROM public.accept_break WHERE place = TG_ARGV[0]; \
             IF how = 'error' THEN RAISE EXCEPTION 'provoked' USING ERRCODE = '58030'; END IF; \
             IF how = 'end' THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); END IF; \
             RETURN NEW; END $$",
        )
        .await?;
    for (nth, (place, table, when)) in PLACES.iter().enumerate() {
        let (kind, late) = match *place {
            "at the commit" => ("CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED"),
            _ => ("TRIGGER", ""),
        };
        admin
            .run(&format!(
                "CREATE {kind} accept_break_{nth} {when} ON tmws.{table} {late} FOR EACH ROW \
                 EXECUTE FUNCTION public.accept_break('{place}')"
            ))
            .await?;
    }
    let mut remains = 0;
    for (nth, (place, ..)) in PLACES.iter().enumerate() {
        for way in ["error", "end"] {
            let before = fingerprint(&database.url).await?;
            admin.run(&format!("INSERT INTO public.accept_break VALUES ('{place}', '{way}')")).await?;
            let content = format!("broken off {place} by {way}");
            let arguments = json!({"content": content, "tags": ["broken"], "supersedes": old});
            let called = client.call("remember", arguments).await?;
            admin.run("DELETE FROM public.accept_break").await?;
            let after = fingerprint(&database.url).await?;
            let changed: Vec<&String> = before
                .iter()
                // When a model was last used is noted beside the writes.
                .filter(|(table, _)| table != "embedding_model")
                .filter(|(table, print)| !after.iter().any(|(other, now)| other == table && now == print))
                .map(|(table, _)| table)
                .collect();
            remains += i32::from(!changed.is_empty());
            seen.check(
                format!(
                    "a write broken off {place} by {}",
                    if way == "end" { "the end of its connection" } else { "an error" }
                ),
                code(&called) == "store_unavailable" && changed.is_empty(),
                "store_unavailable, and every table row for row as it was",
                format!("{}; changed: {changed:?}", called.body),
            );
            // The next one meets a store that is known to work again.
            let fresh = format!("after place {nth} by {way}");
            old = again(&mut client, &json!({"content": fresh, "supersedes": old})).await?;
        }
    }
    for (nth, (_, table, _)) in PLACES.iter().enumerate() {
        admin.run(&format!("DROP TRIGGER accept_break_{nth} ON tmws.{table}")).await?;
    }
    admin.close().await;
    Ok(remains)
}

/// Writes until it is done well, for a while.
async fn again(client: &mut Client, arguments: &Value) -> Result<String, Broken> {
    let begun = Instant::now();
    loop {
        let called = client.call("remember", arguments.clone()).await?;
        match probe::id_in(&called.body) {
            Some(id) if !called.is_error => return Ok(id),
            _ if begun.elapsed() > AGAIN_MAX => {
                return Err(client.broken(
                    "a write after one that was broken off",
                    "it is stored soon",
                    &called.body,
                ));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A write that was acknowledged.
#[derive(Clone, Debug)]
struct Well {
    id: String,
    content: String,
    tags: [String; 2],
    supersedes: Option<String>,
}

/// What writers were told.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    well: Mutex<Vec<Well>>,
    failed: Mutex<HashMap<String, u32>>,
}

impl Told {
    fn well(&self) -> Vec<Well> {
        self.well.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failed(&self) -> u32 {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    fn fail(&self, code: &str) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner).entry(code.to_owned()).or_default() += 1;
    }

    /// Waits until so many more were acknowledged.
    async fn wait_for_more(&self, more: usize) -> Result<(), Broken> {
        let before = self.well().len();
        let begun = Instant::now();
        while self.well().len() < before + more {
            if begun.elapsed() > AGAIN_MAX {
                return Err(Broken::new(
                    "writing again",
                    format!("{more} more acknowledged"),
                    self.well().len() - before,
                ));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

/// Writers at once, until they are to stop or the server is gone.
async fn write(target: &Target, told: &Arc<Told>, seed: u64, round: u64) {
    workers(WRITERS, |worker| {
        let (target, told) = (target.clone(), Arc::clone(told));
        async move {
            // The end of a connection is the end of its writer: what was not acknowledged is judged by what is stored.
            let _ = writer(worker, &target, &told, seed, round).await;
        }
    })
    .await;
}

async fn writer(worker: usize, target: &Target, told: &Told, seed: u64, round: u64) -> Result<(), Broken> {
    let mut dice = Dice::new(seed, 1_000 * round + worker as u64);
    let mut client = Client::socket(&format!("writer {worker}"), target, MODERN).await?;
    let mut last: Option<String> = None;
    let mut number = 0;
    while !told.stop.load(Ordering::Relaxed) {
        number += 1;
        let mark = format!("r{round}w{worker}n{number}");
        let content = format!("{mark} {}", probe::text(&mut dice, number));
        let tags = [format!("mark {mark}"), format!("writer {worker}")];
        let supersedes = if number % 3 == 0 { last.take() } else { None };
        let mut arguments = json!({"content": content, "tags": tags});
        if let Some(old) = &supersedes {
            arguments["supersedes"] = json!(old);
        }
        let called = client.call("remember", arguments).await?;
        match probe::id_in(&called.body) {
            Some(id) if !called.is_error => {
                last = Some(id.clone());
                let well = Well { id, content, tags, supersedes };
                told.well.lock().unwrap_or_else(PoisonError::into_inner).push(well);
            }
            _ => {
                told.fail(code(&called));
                // As an agent would that is told to wait.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Ok(())
}

/// Ends one of the server's connections after the other, while writers write. How many.
async fn end_connections(database: &Database, stage: &Stage, round: u64) -> Result<u32, Broken> {
    let mut admin = Session::open(&database.url).await?;
    let mut dice = Dice::new(stage.seed, 40 + round);
    let mut ended = 0;
    for _ in 0..stage.profile.pick(25, 80) {
        tokio::time::sleep(Duration::from_millis(20 + dice.roll(40))).await;
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' \
                   ORDER BY state <> 'active', random() LIMIT 1) one";
        ended += u32::try_from(admin.count(sql).await?).unwrap_or(0);
    }
    admin.close().await;
    Ok(ended)
}

/// Compares what writers were told with what the database holds. How many memories are there in part.
async fn look(database: &Database, told: &Told, seen: &mut Seen) -> Result<i32, Broken> {
    let mut admin = Session::open(&database.url).await?;
    let bare = "SELECT count(*) FROM tmws.memory m WHERE NOT EXISTS \
                (SELECT FROM tmws.memory_vector v WHERE v.seq = m.seq)";
    let begun = Instant::now();
    while admin.count(bare).await? > 0 && begun.elapsed() < VECTORS_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rows = admin
        .rows(
            "SELECT m.id, convert_from(m.content, 'UTF8') AS content, m.tags, m.supersedes, m.superseded_by, \
             coalesce(t.length > 0 AND t.reader = m.reader AND \
             t.words @@ ('''' || split_part(convert_from(m.content, 'UTF8'), ' ', 1) || '''')::tsquery, false) AS words, \
             (SELECT count(*) FROM tmws.memory_vector v JOIN tmws.embedding_model e ON e.id = v.model \
             WHERE v.seq = m.seq AND v.reader = m.reader AND vector_dims(v.embedding) = e.dimension) AS vectors \
             FROM tmws.memory m LEFT JOIN tmws.memory_text t USING (seq)",
        )
        .await?;
    let orphans = admin
        .count(
            "SELECT (SELECT count(*) FROM tmws.memory_text t WHERE NOT EXISTS (SELECT FROM tmws.memory m WHERE m.seq = t.seq)) \
             + (SELECT count(*) FROM tmws.memory_vector t WHERE NOT EXISTS (SELECT FROM tmws.memory m WHERE m.seq = t.seq))",
        )
        .await?;
    admin.close().await;
    let by_id: HashMap<&str, &Value> =
        rows.iter().filter_map(|row| Some((row["id"].as_str()?, row))).collect();
    let partial: Vec<&Value> = rows
        .iter()
        .filter(|row| {
            let is_one_way = |of: &str, back: &str| {
                row[of]
                    .as_str()
                    .is_some_and(|other| by_id.get(other).is_none_or(|other| other[back] != row["id"]))
            };
            row["words"] != true
                || row["vectors"] != 1
                || is_one_way("supersedes", "superseded_by")
                || is_one_way("superseded_by", "supersedes")
        })
        .collect();
    seen.check(
        "PostgreSQL: memories that are there in part",
        partial.is_empty() && orphans == 0,
        "none without its words, its vector or what it replaced, and neither without a memory",
        format!("{} of {}, {orphans} without a memory; {:?}", partial.len(), rows.len(), partial.first()),
    );
    let well = told.well();
    let lost: Vec<&Well> = well
        .iter()
        .filter(|well| {
            by_id.get(well.id.as_str()).is_none_or(|row| {
                row["content"] != well.content.as_str()
                    || row["tags"] != json!(well.tags)
                    || row["supersedes"].as_str() != well.supersedes.as_deref()
            })
        })
        .collect();
    seen.check(
        "PostgreSQL: acknowledged writes",
        lost.is_empty() && well.len() > WRITERS,
        "all are there, word for word, with tags and what they replaced",
        format!("{} of {} are not; {:?}", lost.len(), well.len(), lost.first()),
    );
    seen.check(
        "PostgreSQL: writes that were broken off",
        told.failed() > 0,
        "some",
        told.failed().to_string(),
    );
    Ok(i32::try_from(partial.len()).unwrap_or(i32::MAX) + i32::try_from(orphans).unwrap_or(i32::MAX))
}

/// The same with a server on a file, which is killed while it writes.
async fn on_a_file(stage: &Stage, seen: &mut Seen) -> Result<i32, Broken> {
    let file = probe::store_file(stage, "d4-file")?;
    let mut instance = stage.start(setup(Where::At(file.clone()))).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let told = Arc::new(Told::default());
    let rounds = stage.profile.pick(2, 8);
    for round in 0..rounds {
        let killing = async {
            told.wait_for_more(WRITERS * 4).await?;
            instance.kill().await
        };
        let (killed, ()) = tokio::join!(killing, write(&target, &told, stage.seed, 100 + round));
        killed?;
        if round + 1 < rounds {
            instance.restart().await?;
        }
    }
    probe::verify(
        stage,
        &stage.folder("verify")?,
        &probe::file_url(&file),
        seen,
        "the file of a killed server",
    )
    .await?;
    instance.restart().await?;
    let mut client = probe::client(&instance, "ada", "alpha").await?;
    let well = told.well();
    let mut lost = Vec::new();
    for well in &well {
        let called = client.run("probe.get", json!({"id": well.id})).await?;
        let memory = probe::answer(called.body);
        if memory["text"] != well.content.as_str() || memory["tags"] != json!(well.tags) {
            lost.push(well.content.clone());
        }
    }
    seen.check(
        "SQLite: acknowledged writes of a server that was killed",
        lost.is_empty() && well.len() >= WRITERS * 4,
        "all are there, word for word, with tags",
        format!("{} of {} are not; {:?}", lost.len(), well.len(), lost.first()),
    );
    let partial = partial_in(&file).await?;
    seen.equal("SQLite: memories that are there in part", &0, &partial);
    seen.note(format!(
        "SQLite: a server killed {rounds} times under {WRITERS} writers; {} writes acknowledged",
        well.len()
    ));
    instance.end().await?;
    Ok(i32::try_from(partial).unwrap_or(i32::MAX))
}

/// Memories of a file without their words, their tags, their vector, or the other end of what they replaced.
async fn partial_in(file: &Path) -> Result<i64, Broken> {
    let mut lite = Lite::read(file).await?;
    let begun = Instant::now();
    let bare = "SELECT count(*) FROM memory m WHERE NOT EXISTS (SELECT 1 FROM vector v WHERE v.seq = m.seq)";
    while lite.count(bare).await? > 0 && begun.elapsed() < VECTORS_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let partial = lite
        .count(
            "SELECT count(*) FROM memory m WHERE NOT EXISTS (SELECT 1 FROM vector v WHERE v.seq = m.seq) \
             OR (SELECT count(*) FROM memory_tag t WHERE t.seq = m.seq) <> json_array_length(m.tags) \
             OR NOT EXISTS (SELECT 1 FROM memory_fts f WHERE f.rowid = m.seq AND memory_fts MATCH \
             '\"' || substr(m.content, 1, instr(m.content, ' ') - 1) || '\"') \
             OR (m.supersedes IS NOT NULL AND NOT EXISTS \
             (SELECT 1 FROM memory o WHERE o.id = m.supersedes AND o.superseded_by = m.id)) \
             OR (m.superseded_by IS NOT NULL AND NOT EXISTS \
             (SELECT 1 FROM memory o WHERE o.id = m.superseded_by AND o.supersedes = m.id))",
        )
        .await?;
    lite.close().await;
    Ok(partial)
}
