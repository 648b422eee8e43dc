//! Calls as agents make them: matching, infrastructure, memory and hybrid, drawn from a seed, over a workspace that is a
//! git repository and a memory that holds some hundred entries. An answer counts as well only where it says what was
//! asked for.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    client::{Called, Client, MODERN, Target},
    load::{Dice, workers},
    scenario::Broken,
    stage::{AGENTS, Instance, Program, Setup, Stage},
};

/// Memories that a prepared project holds.
pub const MEMORIES: usize = 300;
/// Source files of the workspace.
const FILES: usize = 40;
/// Commits beyond the first.
const COMMITS: usize = 10;
/// Connections that remember at the same time while a project is prepared.
const HANDS: usize = 8;
/// Longest that git may take for one command.
const GIT_MAX: Duration = Duration::from_secs(20);

const SHIPS: [&str; 12] = [
    "Albatross",
    "Bittern",
    "Cormorant",
    "Dunlin",
    "Eider",
    "Fulmar",
    "Gannet",
    "Heron",
    "Jacana",
    "Kestrel",
    "Lapwing",
    "Merlin",
];
const THINGS: [&str; 12] = [
    "berth", "tide", "pilot", "crane", "ballast", "manifest", "mooring", "draught", "customs", "lantern",
    "dredger", "quay",
];
const DEEDS: [&str; 8] =
    ["reserved", "inspected", "repaired", "refused", "measured", "weighed", "signed", "delayed"];
const TAGS: [&str; 6] = ["berths", "tides", "cargo", "safety", "papers", "weather"];

/// The kind of a call: what it touches. Those of patterns are their types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A question in words: to a pattern that reads nothing, or to candidates.
    Matching,
    /// Files and git.
    Infrastructure,
    /// Memories.
    Memory,
    /// Both.
    Hybrid,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Matching, Self::Infrastructure, Self::Memory, Self::Hybrid];
    /// Those that run a pattern of a type.
    pub const TYPES: [Self; 3] = [Self::Infrastructure, Self::Memory, Self::Hybrid];

    /// As reports name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matching => "matching",
            Self::Infrastructure => "infrastructure",
            Self::Memory => "memory",
            Self::Hybrid => "hybrid",
        }
    }
}

/// A call, and what its answer must have.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// What it touches.
    pub kind: Kind,
    /// The tool that is called.
    pub tool: &'static str,
    /// What it is given.
    pub arguments: Value,
    /// Members of the answer.
    pub wants: &'static [&'static str],
}

impl Ask {
    /// Makes the call and judges its answer.
    ///
    /// # Errors
    /// There is none, or it is not what was asked for.
    pub async fn call(&self, client: &mut Client) -> Result<Called, Broken> {
        let called = client.call(self.tool, self.arguments.clone()).await?;
        match self.fault(&called) {
            None => Ok(called),
            Some(_) => Err(client.broken(
                &format!("calling {} with {}", self.tool, self.arguments),
                format!("a whole answer with {}", self.wants.join(", ")),
                &called.body,
            )),
        }
    }

    /// What is wrong with an answer: an error, a part of one, or one to something else.
    #[must_use]
    pub fn fault(&self, called: &Called) -> Option<&'static str> {
        if called.is_error {
            return Some("an error");
        }
        if called.body.get("partial").is_some() {
            return Some("a part of an answer");
        }
        // A short answer leaves out what its budget has no room for, and says so.
        let has = |name: &&str| {
            called.body.get(*name).is_some()
                || called.body["more"]["dropped"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|it| it == *name))
        };
        if self.wants.iter().all(has) { None } else { Some("another answer") }
    }
}

/// Draws calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    dice: Dice,
    /// No answer of it may come from a cache.
    is_fresh: bool,
    /// Of its writes, which are all different.
    worker: u64,
    written: u64,
}

impl Caller {
    /// One of the workers of a run.
    #[must_use]
    pub const fn new(seed: u64, worker: u64) -> Self {
        Self { dice: Dice::new(seed, worker), is_fresh: false, worker, written: 0 }
    }

    /// The same, whose calls all skip caches.
    #[must_use]
    pub const fn fresh(mut self) -> Self {
        self.is_fresh = true;
        self
    }

    /// Numbers of its own.
    pub const fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// A call of any of `kinds`.
    pub fn any(&mut self, kinds: &[Kind]) -> Ask {
        let kind = pick(&mut self.dice, kinds);
        self.next(kind)
    }

    /// A call of `kind`.
    pub fn next(&mut self, kind: Kind) -> Ask {
        match kind {
            Kind::Matching => self.matching(),
            Kind::Infrastructure => self.infrastructure(),
            Kind::Memory => self.memory(),
            Kind::Hybrid => self.hybrid(),
        }
    }

    fn matching(&mut self) -> Ask {
        let (ship, thing) = (self.ship(), self.thing());
        if self.dice.roll(2) == 0 {
            let query = format!("tell me the harbour motto of the {ship}");
            return self.ask(Kind::Matching, json!({"query": query}), &["motto"]);
        }
        let query = format!("who painted the {thing} of the {ship} so brightly");
        self.ask(Kind::Matching, json!({"query": query}), &["matched", "candidates"])
    }

    fn infrastructure(&mut self) -> Ask {
        let (thing, number) = (self.thing(), self.dice.roll(FILES as u64));
        let path = format!("src/{}", file_name(number as usize));
        let (pattern, input, wants): (_, _, &[&str]) = match self.dice.roll(4) {
            0 | 1 => ("code.find", json!({"text": format!("{thing}_{number}")}), &["hits", "files"]),
            2 => ("code.outline", json!({"path": path}), &["symbols"]),
            _ => ("todo.sweep", json!({"path": path}), &[]),
        };
        self.run(Kind::Infrastructure, pattern, &input, wants)
    }

    fn memory(&mut self) -> Ask {
        let query = format!("{} of the {}", self.thing(), self.ship());
        let tag = pick(&mut self.dice, &TAGS);
        let (pattern, input, wants): (_, _, &[&str]) = match self.dice.roll(10) {
            0..5 => {
                ("memory.recall", json!({"query": query, "k": self.dice.roll(8) + 1}), &["hits", "total"])
            }
            5 | 6 => ("memory.lookup", json!({"query": query, "k": 5}), &["memories", "total"]),
            7 => ("memory.by-tag", json!({"tag": tag}), &["memories", "tags"]),
            _ => return self.write(),
        };
        self.run(Kind::Memory, pattern, &input, wants)
    }

    fn hybrid(&mut self) -> Ask {
        let since = format!("{}d", self.dice.roll(20) + 10);
        let (pattern, input, wants): (_, _, &[&str]) = match self.dice.roll(4) {
            0 | 1 => ("repo.digest", json!({"since": since}), &["branch", "commits", "log"]),
            2 => ("session.primer", json!({}), &["branch"]),
            _ => ("diff.review", json!({}), &[]),
        };
        self.run(Kind::Hybrid, pattern, &input, wants)
    }

    /// Something to remember that nobody else remembers.
    pub fn write(&mut self) -> Ask {
        self.written += 1;
        let content =
            format!("Worker {} noted as number {}: {}", self.worker, self.written, sentence(&mut self.dice));
        let tag = pick(&mut self.dice, &TAGS);
        Ask {
            kind: Kind::Memory,
            tool: "remember",
            arguments: json!({"content": content, "tags": [tag]}),
            wants: &["id"],
        }
    }

    fn run(&self, kind: Kind, pattern: &str, input: &Value, wants: &'static [&'static str]) -> Ask {
        self.ask(kind, json!({"pattern": pattern, "input": input}), wants)
    }

    fn ask(&self, kind: Kind, mut arguments: Value, wants: &'static [&'static str]) -> Ask {
        if self.is_fresh {
            arguments["fresh"] = json!(true);
        }
        Ask { kind, tool: "execute_pattern", arguments, wants }
    }

    fn ship(&mut self) -> &'static str {
        pick(&mut self.dice, &SHIPS)
    }

    fn thing(&mut self) -> &'static str {
        pick(&mut self.dice, &THINGS)
    }
}

fn pick<T: Copy>(dice: &mut Dice, from: &[T]) -> T {
    from[dice.roll(from.len() as u64) as usize]
}

fn sentence(dice: &mut Dice) -> String {
    let (ship, other) = (pick(dice, &SHIPS), pick(dice, &SHIPS));
    let (thing, second) = (pick(dice, &THINGS), pick(dice, &THINGS));
    let deed = pick(dice, &DEEDS);
    format!(
        "the {thing} of the {ship} was {deed} before the {second} of the {other}, by order {}",
        dice.roll(10_000)
    )
}

fn file_name(number: usize) -> String {
    format!("{}_{number}.rs", THINGS[number % THINGS.len()])
}

fn source(number: usize, edition: usize) -> String {
    let thing = THINGS[number % THINGS.len()];
    let mut text = format!("//! The {thing}, number {number}, in edition {edition}.\n\n");
    for (place, deed) in DEEDS.iter().enumerate() {
        let _ = write!(
            text,
            "/// Whether the {thing} was {deed}.\npub fn {deed}_{thing}_{number}(order: u32) -> bool {{\n    \
             order % {} == {edition}\n}}\n\n",
            place + 2
        );
    }
    text.push_str("// TODO: ask the harbour master for the order of the next tide\n");
    text
}

/// A pattern of the run's own that a question runs and that reads nothing: what it takes is the matching.
const MOTTO: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: harbour.motto
version: 1.0.0
type: infrastructure
description: Tell the motto of the harbour. Use when somebody asks for it.
triggers:
  phrases: [harbour motto]
  regex: ['(?i)\\bharbour motto of the (?P<ship>[\\w-]+)']
  priority: 70
  auto: read-only
inputs:
  type: object
  additionalProperties: false
  properties:
    ship: {type: string, maxLength: 80, description: Whose harbour it is}
steps:
  - {id: motto, uses: data.jq, with: {filter: '\"every ship comes home\"', input: null}}
output:
  schema: {type: object, required: [motto], properties: {motto: {type: string}}}
  value: '${ {motto: .steps.motto} }'
  budget: {tokens: 40}
annotations: {readOnlyHint: true}
";

/// What the workload needs of a server: the files of its workspace, and its pattern.
#[must_use]
pub fn setup() -> Setup {
    let mut setup = Setup::default();
    setup.files.extend((0..FILES).map(|number| (format!("src/{}", file_name(number)), source(number, 0))));
    setup.patterns.push(("harbour.motto.yaml".to_owned(), MOTTO.to_owned()));
    setup.settings.push(("promote", "memory.remember".to_owned()));
    setup
}

/// Makes the workspace of `instance` a git repository, and has `memories` remembered in its project `alpha`.
///
/// # Errors
/// Git is missing or fails, or a memory is not taken.
pub async fn prepare(stage: &Stage, instance: &Instance, memories: usize) -> Result<(), Broken> {
    repository(stage, instance).await?;
    remember(stage, &Target::of(instance, AGENTS[0], "alpha"), memories).await
}

/// Makes the workspace a git repository with a few commits of the last days and one change that is not committed.
///
/// # Errors
/// Git is missing or fails.
pub async fn repository(stage: &Stage, instance: &Instance) -> Result<(), Broken> {
    let folder = &instance.workspace;
    let now = Timestamp::now().as_second();
    git(stage, folder, now, &["init", "--quiet", "--initial-branch=main"]).await?;
    for edition in 0..=COMMITS {
        let author = SHIPS[edition % SHIPS.len()];
        let thing = THINGS[edition % THINGS.len()];
        for number in (0..FILES).filter(|number| edition > 0 && number % COMMITS == edition - 1) {
            let path = folder.join("src").join(file_name(number));
            std::fs::write(&path, source(number, edition))
                .map_err(|error| Broken::new("changing a file of the workspace", "it is written", error))?;
        }
        git(stage, folder, now, &["add", "--all"]).await?;
        let when = now - i64::try_from(COMMITS - edition).unwrap_or(0) * 20 * 3600 - 600;
        let (name, message) =
            (format!("--author={author} <{author}@harbour.example>"), format!("Mend the {thing}"));
        git(stage, folder, when, &["commit", "--quiet", &name, "--message", &message]).await?;
    }
    std::fs::write(folder.join("src").join(file_name(0)), source(0, COMMITS + 1))
        .map_err(|error| Broken::new("changing a file of the workspace", "it is written", error))
}

async fn git(stage: &Stage, folder: &Path, when: i64, arguments: &[&str]) -> Result<(), Broken> {
    let mut program = Program::new(Path::new("git"), stage.path(), false);
    program
        .command()
        .args(["-c", "user.name=Harbour", "-c", "user.email=harbour@harbour.example"])
        .args(["-c", "commit.gpgsign=false", "-c", "core.fsync=none"])
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CEILING_DIRECTORIES", folder)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_DATE", format!("@{when} +0000"))
        .env("GIT_COMMITTER_DATE", format!("@{when} +0000"));
    let (status, said) = program.run("git", GIT_MAX).await?;
    if status.success() {
        return Ok(());
    }
    Err(Broken::new(format!("git {}", arguments.join(" ")), "exit 0", format!("{status}: {said}")))
}

/// Has `memories` remembered, every fourth of them a decision.
///
/// # Errors
/// One is not taken.
pub async fn remember(stage: &Stage, target: &Target, memories: usize) -> Result<(), Broken> {
    let (target, seed) = (Arc::new(target.clone()), stage.seed);
    let ended = workers(HANDS, |hand| {
        let target = Arc::clone(&target);
        async move {
            let mut client = Client::socket(&format!("hand {hand}"), &target, MODERN).await?;
            let mut dice = Dice::new(seed, 1_000 + hand as u64);
            for number in (hand..memories).step_by(HANDS) {
                let content = format!("Entry {number}: {}", sentence(&mut dice));
                let kind = if number % 4 == 0 { "decision" } else { "note" };
                let tag = pick(&mut dice, &TAGS);
                let called = client
                    .call("memory_remember", json!({"content": content, "kind": kind, "tags": [tag]}))
                    .await?;
                client.well("remembering an entry of the workload", called)?;
            }
            Ok(())
        }
    })
    .await;
    if ended.len() < HANDS {
        return Err(Broken::new(
            "remembering the workload",
            "all of it",
            "a worker of the run ended unexpectedly",
        ));
    }
    ended.into_iter().collect()
}
