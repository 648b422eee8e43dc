//! W5: sessions are isolated, and the audit log names who did what.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    gate::Gate,
    peer::{Harmless, SOON, setup},
    recorded,
};
use crate::accept::{
    client::{Client, Target},
    scenario::{Broken, Seen},
    stage::{AGENTS, Instance, Person, Postgres, Setup, Stage, Where},
};

const REVISION: &str = "2025-11-25";
/// What must not come is waited for so long, after an answer that would have come later.
const QUIET: Duration = Duration::from_millis(150);
/// The audit log is written within this.
const WRITTEN_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

const ADA: Person = AGENTS[0];
const BEN: Person = AGENTS[1];

/// Everybody: who, where, and what marks all that they say.
struct Everybody {
    /// Two sessions of one principal in one project.
    ada: Client,
    ada_again: Client,
    /// The same principal in another project, and at home.
    ada_in_beta: Client,
    ada_at_home: Client,
    /// Another principal in the shared project, and at home.
    ben: Client,
    ben_at_home: Client,
}

/// What crossed, and where.
struct Crossings<'a> {
    seen: &'a mut Seen,
    count: u32,
}

impl Crossings<'_> {
    /// Notes whether something stayed where it belongs.
    fn stays(&mut self, what: &str, stayed: bool, found: &Value) {
        self.count += u32::from(!stayed);
        self.seen.check(what, stayed, "nothing of others", found.to_string());
    }
}

/// W5: two principals and two sessions of one, with the same ids and tokens: nothing of one reaches another that should
/// not, and what is shared does.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut gate = Gate::shut().await?;
    let postgres = stage.postgres().await?;
    let database = postgres.database(&stage.name("w5")).await?;
    let audit = stage.folder("audit")?.join("audit.jsonl");
    let setup = setup(Some(&gate));
    let mut settings = setup.settings.clone();
    settings.push(("audit_file", audit.display().to_string()));
    let setup = Setup { store: Where::Database(database.url.clone()), settings, ..setup };
    let mut instance = stage.start(setup).await?;
    let mut all = Everybody::open(&instance).await?;
    let mut crossings = Crossings { seen, count: 0 };
    all.memories(&mut crossings).await?;
    all.subscriptions(&mut crossings).await?;
    all.handles(&mut crossings).await?;
    all.cancelling(&mut crossings, &mut gate).await?;
    log_levels(stage, &mut crossings).await?;
    let count = crossings.count;
    seen.figure("crossed", f64::from(count));
    named(seen, &instance, &audit).await?;
    drop(all);
    instance.end().await?;
    Postgres::drop(postgres, &database).await
}

impl Everybody {
    async fn open(instance: &Instance) -> Result<Self, Broken> {
        let open = async |name: &str, person, project| {
            Client::socket(name, &Target::of(instance, person, project), REVISION).await
        };
        Ok(Self {
            ada: open("ada", ADA, "alpha").await?,
            ada_again: open("ada again", ADA, "alpha").await?,
            ada_in_beta: open("ada in beta", ADA, "beta").await?,
            ada_at_home: open("ada at home", ADA, "personal").await?,
            ben: open("ben", BEN, "alpha").await?,
            ben_at_home: open("ben at home", BEN, "personal").await?,
        })
    }

    /// Memories: found by whoever shares the project, unknown to all others.
    async fn memories(&mut self, crossings: &mut Crossings<'_>) -> Result<(), Broken> {
        let everybody = "everybody keeps a secret";
        for (client, mark) in [
            (&mut self.ada, "alphasecret"),
            (&mut self.ada_in_beta, "betasecret"),
            (&mut self.ada_at_home, "adahomesecret"),
            (&mut self.ben_at_home, "benhomesecret"),
        ] {
            let kept = client.call("remember", json!({"content": format!("{everybody}: {mark}")})).await?;
            crossings.seen.check(
                "a memory is kept",
                kept.body["id"].is_string(),
                "an id",
                kept.body.to_string(),
            );
            // By its id alone, from each place.
            let uri = json!({"uri": format!("memory://{}", kept.body["id"].as_str().unwrap_or_default())});
            let own = client.ask("resources/read", uri.clone()).await?;
            let found = own.to_string().contains(mark);
            crossings.seen.check("whoever keeps a memory reads it", found, mark, own.to_string());
            let stranger = if mark.starts_with("ada") || mark.starts_with("beta") {
                &mut self.ben
            } else if mark.starts_with("ben") {
                &mut self.ada_again
            } else {
                continue;
            };
            let read = stranger.ask("resources/read", uri).await?;
            let unknown = json!({"uri": "memory://m_00000000000000000000000000"});
            let unknown = stranger.ask("resources/read", unknown).await?;
            let is_same = read["error"]["code"] == unknown["error"]["code"] && read.get("result").is_none();
            crossings.stays(&format!("{mark}, by its id"), is_same, &read);
        }
        // Who finds what. What lies at home is found by its principal wherever they work.
        for (client, own, foreign) in [
            (&mut self.ada_again, vec!["alphasecret"], vec!["betasecret", "benhomesecret"]),
            (&mut self.ben, vec!["alphasecret"], vec!["betasecret", "adahomesecret"]),
            (&mut self.ada_in_beta, vec!["betasecret"], vec!["alphasecret", "benhomesecret"]),
            (
                &mut self.ben_at_home,
                vec!["benhomesecret"],
                vec!["alphasecret", "betasecret", "adahomesecret"],
            ),
        ] {
            let found = client.run("memory.recall", json!({"query": everybody})).await?.body;
            let text = found.to_string();
            for mark in foreign {
                crossings.stays(
                    &format!("{}: recall finds no {mark}", client.name),
                    !text.contains(mark),
                    &found,
                );
            }
            let has_own = own.iter().all(|mark| text.contains(mark));
            crossings.seen.check(
                format!("{}: recall finds what is shared", client.name),
                has_own,
                own.join(", "),
                text,
            );
        }
        Ok(())
    }

    /// A subscription tells its own session, and no other: not one of the same principal, not one of the same project.
    async fn subscriptions(&mut self, crossings: &mut Crossings<'_>) -> Result<(), Broken> {
        let kept = self.ada.call("remember", json!({"content": "The pier opens at six"})).await?;
        let id = kept.body["id"].as_str().unwrap_or_default().to_owned();
        let uri = json!({"uri": format!("memory://{id}")});
        let home =
            self.ada_at_home.call("remember", json!({"content": "Ada's own pier opens at five"})).await?;
        let home = home.body["id"].as_str().unwrap_or_default().to_owned();
        self.ada.ask("resources/subscribe", uri.clone()).await?;
        // Whoever may not read it hears nothing of it, whether or not they may ask to.
        self.ben.ask("resources/subscribe", json!({"uri": format!("memory://{home}")})).await?;
        self.ben.call("remember", json!({"content": "The pier opens at seven", "supersedes": id})).await?;
        let replaced = json!({"content": "Ada's own pier opens at four", "supersedes": home});
        self.ada_at_home.call("remember", replaced).await?;
        let told = self.ada.next(SOON).await?.unwrap_or_default();
        let is_told =
            told["method"] == "notifications/resources/updated" && told["params"]["uri"] == uri["uri"];
        crossings.seen.check("whoever subscribed is told", is_told, "resources/updated", told.to_string());
        for client in [&mut self.ada_again, &mut self.ben, &mut self.ada_in_beta, &mut self.ben_at_home] {
            client.ask("ping", json!({})).await?;
            let heard = client.next(QUIET).await?;
            crossings.stays(
                &format!("{} hears nothing of a change", client.name),
                heard.is_none(),
                &heard.into(),
            );
        }
        Ok(())
    }

    /// Handles of results and of sessions: of their principal in their project, unknown to everybody else.
    async fn handles(&mut self, crossings: &mut Crossings<'_>) -> Result<(), Broken> {
        let lines: Vec<String> = (0..120).map(|line| format!("handlesecret, line {line} of many")).collect();
        let long = self.ada.run("accept.echo", json!({"mark": "w5", "lines": lines})).await?;
        let handle = long.body["more"]["handle"].clone();
        crossings.seen.check(
            "a long answer has a handle",
            handle.is_string(),
            "more.handle",
            long.body.to_string(),
        );
        let opened = self.ada.run("session.open", json!({})).await?;
        let session = opened.body["session"].clone();
        crossings.seen.check(
            "a session has a handle",
            session.is_string(),
            "session",
            opened.body.to_string(),
        );
        let result = |handle: &Value| json!({"handle": handle, "select": "$.lines", "limit": 1});
        let within =
            |handle: &Value| json!({"pattern": "accept.echo", "input": {"mark": "w5"}, "session": handle});
        let again = self.ada_again.call("get_result", result(&handle)).await?;
        crossings.seen.check(
            "a result is had in another session of its principal",
            !again.is_error && again.body.to_string().contains("handlesecret"),
            "its lines",
            again.body.to_string(),
        );
        let again = self.ada_again.call("execute_pattern", within(&session)).await?;
        crossings.seen.check("and so is a session", !again.is_error, "an answer", again.body.to_string());
        for client in [&mut self.ben, &mut self.ada_in_beta, &mut self.ben_at_home] {
            let name = client.name.clone();
            let foreign = client.call("get_result", result(&handle)).await?;
            let unknown = client.call("get_result", result(&json!("r_AAAAAAAAAAAAAAAAAAAAAA"))).await?;
            let is_unknown = foreign.is_error && foreign.body == unknown.body;
            crossings.stays(&format!("{name}: a result of ada's"), is_unknown, &foreign.body);
            let foreign = client.call("execute_pattern", within(&session)).await?;
            let unknown = client.call("execute_pattern", within(&json!("s_AAAAAAAAAAAAAAAAAAAAAA"))).await?;
            let is_unknown = foreign.is_error && foreign.body == unknown.body;
            crossings.stays(&format!("{name}: a session of ada's"), is_unknown, &foreign.body);
            let closed = client.run("session.close", json!({"session": session})).await?;
            let is_closed = closed.body["closed"] == true;
            crossings.stays(&format!("{name}: cannot erase its scratch"), !is_closed, &closed.body);
        }
        let still = self.ada.call("execute_pattern", within(&session)).await?;
        crossings.stays("its session outlives what others tried", !still.is_error, &still.body);
        Ok(())
    }

    /// The same id in another session is another request.
    async fn cancelling(&mut self, crossings: &mut Crossings<'_>, gate: &mut Gate) -> Result<(), Broken> {
        let id = json!("the same everywhere");
        let call = |mark: &str| {
            json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "execute_pattern",
                "arguments": {"pattern": "accept.wait", "input": {"mark": mark}}}})
        };
        self.ada.say(call("w5-ada")).await?;
        self.ben.say(call("w5-ben")).await?;
        gate.came(2, SOON).await?;
        let cancelled =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        for client in [&mut self.ada_again, &mut self.ben_at_home, &mut self.ada_in_beta] {
            client.say(cancelled.clone()).await?;
            client.ask("ping", json!({})).await?;
        }
        gate.open();
        for (client, mark) in [(&mut self.ada, "w5-ada"), (&mut self.ben, "w5-ben")] {
            let answer = client.answer(&id).await?;
            let is_own = answer["result"]["isError"] != true && answer.to_string().contains(mark);
            crossings.stays(&format!("{}: cancelled by nobody else", client.name), is_own, &answer);
        }
        Ok(())
    }
}

/// A log level is of its session. Patterns say nothing to the log, so the fixture server is asked, which is the same
/// core with a service that does.
async fn log_levels(stage: &Stage, crossings: &mut Crossings<'_>) -> Result<(), Broken> {
    let (mut held, address) = recorded::serve(stage).await?;
    let target = Target::parse(&format!("ws://{address}/ws"), None)
        .map_err(|why| Broken::new("the fixture server's address", "an address", why))?;
    let mut loud = Client::socket("loud", &target, REVISION).await?;
    let mut quiet = Client::socket("quiet", &target, REVISION).await?;
    loud.ask("logging/setLevel", json!({"level": "debug"})).await?;
    quiet.ask("logging/setLevel", json!({"level": "emergency"})).await?;
    let call = json!({"name": "test_tool_with_logging", "arguments": {}});
    let mut counts = Vec::new();
    for client in [&mut loud, &mut quiet] {
        client.ask("tools/call", call.clone()).await?;
        client.ask("ping", json!({})).await?;
        let mut count = 0;
        while let Some(frame) = client.next(QUIET).await? {
            count += usize::from(frame["method"] == "notifications/message");
        }
        counts.push(count);
    }
    let told = counts.first().is_some_and(|count| *count > 0);
    crossings.seen.check("a session at debug is told", told, "messages", format!("{counts:?}"));
    crossings.stays("a session at emergency hears nothing", counts.get(1) == Some(&0), &json!(counts));
    held.end(rustix::process::Signal::TERM, SOON).await.map(drop)
}

/// The audit log says who did what and where, and nothing of what they said.
async fn named(seen: &mut Seen, instance: &Instance, path: &std::path::Path) -> Result<(), Broken> {
    // The last call of all, and somebody who is turned away.
    let mark = "auditsecret";
    let mut last = Client::socket("the last", &Target::of(instance, BEN, "alpha"), REVISION).await?;
    last.ask("tools/call", Harmless::ours(mark).params(None)).await?;
    let turned_away = Client::socket("turned away", &Target::of(instance, BEN, "beta"), REVISION).await;
    seen.check("ben may not enter beta", turned_away.is_err(), "a refusal", "he was let in");
    let until = std::time::Instant::now() + WRITTEN_MAX;
    let lines = loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let is_last = lines.iter().any(|line| line["event"] == "refused")
            && lines.iter().filter(|line| is_call(line, "ben", "alpha", "accept.echo")).count() == 3;
        if is_last || std::time::Instant::now() > until {
            let secrets: Vec<&str> =
                ["alphasecret", "betasecret", "homesecret", "handlesecret", mark, "pier", "tmws_accept_ada"]
                    .into_iter()
                    .filter(|secret| text.contains(secret))
                    .collect();
            seen.equal("what was said, in the audit log", &Vec::new(), &secrets);
            break lines;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    for (who, place, what, calls) in [
        ("ada", "alpha", "remember", 2),
        ("ada", "beta", "remember", 1),
        ("ada", "personal", "remember", 3),
        ("ben", "alpha", "remember", 1),
        ("ben", "personal", "remember", 1),
        ("ada", "alpha", "get_result", 1),
        ("ben", "alpha", "get_result", 2),
        ("ada", "alpha", "accept.wait", 1),
        ("ben", "alpha", "accept.wait", 1),
        ("ben", "alpha", "accept.echo", 3),
    ] {
        let count = lines.iter().filter(|line| is_call(line, who, place, what)).count();
        seen.equal(format!("{who} in {place}: calls of {what} in the audit log"), &calls, &count);
    }
    let sessions = |place: &str| {
        let mut sessions: Vec<&str> = lines
            .iter()
            .filter(|line| line["principal"] == "ada" && line["project"] == place)
            .filter_map(|line| line["session"].as_str())
            .collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions.len()
    };
    seen.equal("sessions of ada in alpha that it tells apart", &2, &sessions("alpha"));
    let refused = lines.iter().find(|line| line["event"] == "refused");
    seen.check(
        "it names who was turned away",
        refused.is_some_and(|line| line["principal"] == "ben"),
        "ben",
        refused.cloned().unwrap_or_default().to_string(),
    );
    seen.note(format!("{} lines of the audit log", lines.len()));
    Ok(())
}

/// Whether a line is a call of a tool or pattern by somebody somewhere.
fn is_call(line: &Value, who: &str, place: &str, what: &str) -> bool {
    let is_it = if line["pattern"].is_string() { line["pattern"] == what } else { line["tool"] == what };
    // A name of a project stands as it is, `personal` too.
    line["event"] == "call" && line["principal"] == who && line["project"] == place && is_it
}
