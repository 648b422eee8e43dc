//! D8: a server with a SQLite file and one with a PostgreSQL database answer the same.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::{
    probe::{self, remember_all, setup, text},
    recall::{self, Vectors},
    seed,
    sql::Session,
};
use crate::{
    accept::{
        client::{Client, MODERN, Target},
        load::Dice,
        scenario::{Broken, Seen},
        stage::{AGENTS, Instance, Postgres, Stage, Where},
    },
    store::short_id,
};

/// Who asks: the first agent in the project, the other one there, the first one elsewhere.
const ASKERS: [(&str, usize, &str); 3] =
    [("ada", 0, "alpha"), ("ben", 1, "alpha"), ("ada elsewhere", 0, "beta")];
const ADA: usize = 0;
const BEN: usize = 1;
const ELSEWHERE: usize = 2;

/// A memory's id, and what differs from run to run.
static ID: LazyLock<Regex> = LazyLock::new(|| Regex::new("m_[0-9A-Z]{26}").expect("it is one"));
static MOMENT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?Z)?").expect("it is one"));
static SESSION: LazyLock<Regex> = LazyLock::new(|| Regex::new("[rs]_[A-Za-z0-9_-]{22}").expect("it is one"));

/// A server, and who asks it.
struct Side {
    clients: Vec<Client>,
    /// Ids in the order in which they were first told.
    ids: Vec<String>,
}

impl Side {
    async fn new(instance: &Instance) -> Result<Self, Broken> {
        let mut clients = Vec::new();
        for (name, agent, project) in ASKERS {
            let target = Target::of(instance, AGENTS[agent], project);
            clients.push(Client::socket(name, &target, MODERN).await?);
        }
        Ok(Self { clients, ids: Vec::new() })
    }

    /// What is answered, with ids and times by their place.
    async fn ask(&mut self, asker: usize, tool: &str, arguments: &Value) -> Result<String, Broken> {
        let mut text = arguments.to_string();
        for (nth, id) in self.ids.iter().enumerate().rev() {
            text = text.replace(&format!("${nth}$"), id);
        }
        let arguments: Value = serde_json::from_str(&text).unwrap_or_default();
        let params = probe::params(tool, &arguments);
        let frame = self.clients[asker].ask("tools/call", params).await?;
        let said = match frame["result"]["content"][0]["text"].as_str() {
            Some(text) => {
                let mut body: Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
                strip(&mut body);
                format!("{} {body}", if frame["result"]["isError"] == true { "error" } else { "well" })
            }
            None => format!("refused {}", frame["error"]),
        };
        for found in ID.find_iter(&said) {
            let id = found.as_str();
            if !self.ids.iter().any(|known| known == id) && !arguments.to_string().contains(id) {
                self.ids.push(id.to_owned());
            }
        }
        let said = ID.replace_all(&said, |found: &regex::Captures<'_>| {
            let place = self.ids.iter().position(|known| *known == found[0]);
            place.map_or_else(|| found[0].to_owned(), |place| format!("id {place}"))
        });
        // Built-in patterns show the ends of ids.
        let said =
            self.ids.iter().enumerate().fold(said.into_owned(), |said, (place, id)| {
                said.replace(short_id(id), &format!("id {place}"))
            });
        let said = MOMENT.replace_all(&said, "a time");
        Ok(SESSION.replace_all(&said, "a handle").into_owned())
    }
}

/// Takes away what two servers need not agree on.
fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            // How well a text fits is a matter of the index; which text is found is not.
            for name in ["etag", "age", "score"] {
                members.remove(name);
            }
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The calls: who, what, with which arguments. `$n$` is the n-th id that was told.
fn calls() -> Vec<(usize, &'static str, Value)> {
    let unknown = "m_7ZZZZZZZZZZZZZZZZZZZZZZZZZ";
    let long = "berth ".repeat(9_000);
    let mut calls = vec![
        (
            ADA,
            "remember",
            json!({"content": "The Pier is open.", "tags": ["Port", "sea"], "importance": 0.8}),
        ),
        (ADA, "remember", json!({"content": "Ferries leave at nine."})),
        (ADA, "remember", json!({"content": "The  Pier\nis open.", "tags": ["opening"], "importance": 0.2})),
        (ADA, "remember", json!({"content": "The pier is closed.", "tags": ["port"], "supersedes": "$0$"})),
        (ADA, "remember", json!({"content": "The pier is gone.", "supersedes": "$0$"})),
        (ADA, "remember", json!({"content": "Nothing before.", "supersedes": unknown})),
        (ADA, "remember", json!({"content": "   "})),
        (ADA, "remember", json!({"content": "too important", "importance": 2})),
        (
            ADA,
            "remember",
            json!({"content": "many tags", "tags": (0..40).map(|n| format!("t{n}")).collect::<Vec<_>>()}),
        ),
        (
            ADA,
            "remember",
            json!({"content": "nul \u{0} and \u{10ffff} and 🛳 and e\u{301} and \"quotes\" $1 'single' \\"}),
        ),
        (ADA, "remember", json!({"content": long})),
        (ADA, "remember", json!({"content": "x".repeat(70_000)})),
        (
            ADA,
            "memory.remember",
            json!({"content": "Only mine.", "visibility": "agent", "kind": "Decision", "trust": "user"}),
        ),
        (
            ADA,
            "memory.remember",
            json!({"content": "For all my projects.", "visibility": "shared", "expires": "30d"}),
        ),
        (ADA, "memory.remember", json!({"content": "For this session.", "visibility": "session"})),
        (ADA, "memory.remember", json!({"content": "From a page.", "trust": "external", "kind": "fact"})),
        (ADA, "memory.remember", json!({"content": "Long past.", "expires": "2001-01-01"})),
        (BEN, "remember", json!({"content": "Ferries leave at nine.", "tags": ["ben"]})),
        (BEN, "memory.remember", json!({"content": "Only mine.", "visibility": "agent"})),
        (ELSEWHERE, "remember", json!({"content": "Elsewhere.", "tags": ["port"]})),
    ];
    for asker in [ADA, BEN, ELSEWHERE] {
        calls.extend((0..11).map(|nth| (asker, "probe.get", json!({"id": format!("${nth}$")}))));
        calls.push((asker, "probe.stats", json!({})));
        calls.push((asker, "probe.list", json!({"k": 50, "superseded": true})));
    }
    for order in ["newest", "oldest", "important", "sideways"] {
        calls.push((ADA, "probe.list", json!({"k": 3, "order": order})));
    }
    calls.extend([
        (ADA, "probe.get", json!({"id": unknown})),
        (ADA, "probe.get", json!({"id": "no id\u{0}"})),
        (ADA, "probe.list", json!({"k": 20, "tags": ["PORT"]})),
        (ADA, "probe.list", json!({"k": 20, "tags": ["port", "opening"]})),
        (ADA, "probe.list", json!({"k": 20, "kind": "decision"})),
        (ADA, "memory.by-tag", json!({"tag": "port"})),
        (ADA, "memory.by-tag", json!({})),
        (
            ADA,
            "probe.update",
            json!({"id": "$1$", "tags": ["b", "A", "a"], "importance": 0.9, "kind": "todo"}),
        ),
        (ADA, "probe.update", json!({"id": "$1$", "expires": "2d"})),
        (ADA, "probe.update", json!({"id": "$1$", "expires": "never"})),
        (ADA, "probe.update", json!({"id": "$1$", "importance": 7})),
        (ADA, "probe.update", json!({"id": unknown, "importance": 0.1})),
        (BEN, "probe.update", json!({"id": "$5$", "importance": 0.1})),
        (ELSEWHERE, "probe.update", json!({"id": "$1$", "importance": 0.1})),
        (ELSEWHERE, "probe.forget", json!({"ids": ["$1$", "$2$"]})),
        (ADA, "probe.forget", json!({"ids": ["$3$", unknown, "no id"]})),
        (ADA, "probe.forget", json!({"ids": ["$3$"]})),
        (ADA, "probe.get", json!({"id": "$3$"})),
        (ADA, "remember", json!({"content": "The pier is back.", "supersedes": "$3$"})),
        (ADA, "memory.lookup", json!({"query": "ferries", "k": 1})),
        (ADA, "memory.recall", json!({"query": "ferries", "tags": ["a"]})),
        (ADA, "memory.recall", json!({"query": "ferry leaving", "k": 1})),
        (ADA, "memory.timeline", json!({"query": "pier", "k": 2})),
        (ADA, "session.open", json!({})),
        (ADA, "probe.list", json!({"k": 50, "superseded": true, "order": "important"})),
        (BEN, "probe.stats", json!({})),
        (ADA, "probe.stats", json!({})),
    ]);
    calls
}

/// D8: the same calls to both, whose answers are compared but for ids and times; then the same memories and questions of
/// both, whose first ten hits are compared with the exact ones.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let file = probe::store_file(stage, "d8")?;
    let mut on_file = stage.start(setup(Where::At(file.clone()))).await?;
    let postgres = stage.postgres().await?;
    let database = postgres.database(&stage.name("d8")).await?;
    let mut on_database = stage.start(setup(Where::Database(database.url.clone()))).await?;

    let (mut one, mut other) = (Side::new(&on_file).await?, Side::new(&on_database).await?);
    let (mut equal, mut well) = (0, 0);
    let calls = calls();
    for (asker, tool, arguments) in &calls {
        let (by_file, by_database) =
            tokio::try_join!(one.ask(*asker, tool, arguments), other.ask(*asker, tool, arguments))?;
        well += usize::from(by_file.starts_with("well"));
        if by_file == by_database {
            equal += 1;
            continue;
        }
        let shown = |text: &str| text.chars().take(1_500).collect::<String>();
        let asked: String = arguments.to_string().chars().take(200).collect();
        seen.check(
            format!("{} asks {tool} {asked}", ASKERS[*asker].0),
            false,
            shown(&by_file),
            shown(&by_database),
        );
    }
    seen.equal("calls that both answer equally, but for ids and times", &calls.len(), &equal);
    seen.check(
        "they are calls that succeed and calls that fail",
        well > 40 && well < calls.len(),
        "both",
        format!("{well} of {}", calls.len()),
    );

    // Few are stored through the server of the database, and multiplied there: beyond 1,000 its index decides.
    let (in_file, stored, in_database) = stage.profile.pick((400, 120, 1_500), (4_000, 400, 20_000));
    let mut dice = Dice::new(stage.seed, 4);
    let texts: Vec<String> = (0..in_file).map(|number| text(&mut dice, number)).collect();
    let few = texts[..stored].to_vec();
    tokio::try_join!(remember_all(&on_file, "alpha", texts, 6), remember_all(&on_database, "alpha", few, 6))?;
    on_database.end().await?;
    seed::multiply(&database.url, in_database).await?;
    on_database.restart().await?;
    let count = stage.profile.pick(18, 60);
    let (asked_file, asked_database) = tokio::try_join!(
        recall::questions(&on_file, stage.seed, count),
        recall::questions(&on_database, stage.seed, count)
    )?;
    let mut vectors = Vectors::of_file(&file).await?;
    let (by_file, least_file) = recall::recall(&on_file, &mut vectors, &asked_file).await?;
    let mut vectors = Vectors::Database(Session::open(&database.url).await?);
    let (by_database, least_database) = recall::recall(&on_database, &mut vectors, &asked_database).await?;
    seen.figure("recall_sqlite", by_file);
    seen.figure("recall_postgres", by_database);
    seen.note(format!(
        "{in_file} memories in the file, {in_database} in the database, {} questions of which no memory holds a word, so that vectors alone decide; the exact order \
         is computed from the vectors in the store. The least of SQLite: {least_file}; of PostgreSQL: {least_database}",
        asked_file.len()
    ));
    on_file.end().await?;
    on_database.end().await?;
    Postgres::drop(postgres, &database).await
}
