//! What the built-in patterns take on a large workspace: a repository of 2,000 files and 2,000 commits, and a store of
//! 10,000 memories, all made here, the same each time.
//!
//! `cargo bench --bench patterns [-- PATTERN…]`: per pattern and per type P50 and P95 in milliseconds over many fresh
//! runs. *own* is without the time in which a foreign program (git, a compiler) ran. The promise is about P95 of *own*:
//! infrastructure 15 ms, memory 10 ms, hybrid 40 ms. On a machine that does nothing else.

#![allow(clippy::print_stdout, reason = "the report")]

use std::{
    collections::BTreeMap,
    error::Error,
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use tmws::{
    compose::Local,
    config::{Sources, load},
    engine::{
        Caller, ExecuteRequest, NobodyToAsk, Patterns as _, StepReceipt, Surroundings, Target, Unobserved,
    },
    pattern::{Effect, Mode, Pattern},
    store::Memory,
};
use tokio_util::sync::CancellationToken;

const FILES: usize = 2_000;
const COMMITS: usize = 2_000;
const MEMORIES: usize = 10_000;
const RUNS: usize = 60;

/// P95 of *own* that each type may have.
const PROMISED: [(&str, Duration); 3] = [
    ("infrastructure", Duration::from_millis(15)),
    ("memory", Duration::from_millis(10)),
    ("hybrid", Duration::from_millis(40)),
];

/// Inputs of the patterns that need some; the rest runs without.
fn inputs(pattern: &str) -> Value {
    match pattern {
        "memory.recall" | "memory.lookup" => json!({"query": "retry budget of the harbour queue"}),
        "memory.timeline" => json!({"query": "harbour"}),
        "memory.by-tag" => json!({"tag": "queue"}),
        "code.find" => json!({"text": "harbour_7"}),
        "code.outline" => json!({"path": "src/ledger/part_7.rs"}),
        "test.digest" | "build.digest" | "log.digest" => json!({"file": "target/output.log"}),
        _ => json!({}),
    }
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.roll(words.len())]
    }
}

const THINGS: &[&str] = &[
    "harbour", "berth", "pilot", "crane", "cargo", "tide", "tug", "ledger", "queue", "manifest", "dock",
    "signal",
];
const DEEDS: &[&str] =
    &["load", "check", "route", "retry", "settle", "assign", "expire", "merge", "report", "cancel"];

fn source(file: usize, round: usize, dice: &mut Dice) -> String {
    let thing = THINGS[file % THINGS.len()];
    let mut text = format!("//! Part {file} of the {thing}.\n\n");
    for number in 0..12 {
        let (deed, other) = (dice.pick(DEEDS), dice.pick(THINGS));
        let _ = write!(
            text,
            "/// Has the {thing} {deed} one {other}.\npub fn {deed}_{other}_{number}(input: &str) -> Option<usize> {{\n    \
             let {other} = input.trim();\n    if {other}.is_empty() {{\n        return None;\n    }}\n    \
             Some({other}.len() + {round})\n}}\n\n"
        );
    }
    if file.is_multiple_of(40) {
        let _ = writeln!(text, "// TODO: {} the {thing} without a copy", dice.pick(DEEDS));
    }
    let _ = writeln!(text, "pub const {}_{file}: &str = \"{thing}_{file}\";", thing.to_uppercase());
    text
}

fn path(file: usize) -> String {
    let extension = ["rs", "rs", "rs", "py", "ts"][file % 5];
    format!("src/{}/part_{file}.{extension}", THINGS[file % THINGS.len()])
}

/// The history as one stream: the first commit has every file, each later one changes one to three of them.
fn history(dice: &mut Dice) -> String {
    let mut stream = String::new();
    // It ends about now, so that the last week has some hundred commits.
    #[allow(clippy::disallowed_methods, reason = "the history ends when it is made")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut when = now.saturating_sub(COMMITS as u64 * 5_400);
    for commit in 0..COMMITS {
        when += 1_800 + dice.roll(7_200) as u64;
        let subject = format!("{}: {} the {}", dice.pick(THINGS), dice.pick(DEEDS), dice.pick(THINGS));
        let author = dice.pick(&["Ada", "Grace", "Edsger", "Barbara", "Donald", "Leslie"]);
        let _ = write!(
            stream,
            "commit refs/heads/main\nauthor {author} <{author}@example.org> {when} +0000\n\
             committer {author} <{author}@example.org> {when} +0000\ndata {}\n{subject}\n",
            subject.len()
        );
        let mut changed: Vec<usize> = (0..=dice.roll(3)).map(|_| dice.roll(FILES)).collect();
        if commit == 0 {
            changed = (0..FILES).collect();
            let readme = "# Harbour\n\nKeeps track of ships and berths.\n\n    $ cargo test\n";
            let _ = write!(stream, "M 100644 inline README.md\ndata {}\n{readme}\n", readme.len());
            let manifest = "[package]\nname = \"harbour\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
            let _ = write!(stream, "M 100644 inline Cargo.toml\ndata {}\n{manifest}\n", manifest.len());
            let _ = write!(stream, "M 100644 inline .gitignore\ndata 8\n/target/\n");
        }
        changed.sort_unstable();
        changed.dedup();
        for file in changed {
            let text = source(file, commit, dice);
            let _ = write!(stream, "M 100644 inline {}\ndata {}\n{text}\n", path(file), text.len());
        }
    }
    stream
}

fn git(root: &Path, arguments: &[&str], input: &[u8]) -> Result<()> {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    child.stdin.take().ok_or("no stdin")?.write_all(input)?;
    if child.wait()?.success() { Ok(()) } else { Err(format!("git {arguments:?} failed").into()) }
}

fn make_repository(root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    git(root, &["init", "-q", "-b", "main"], b"")?;
    git(root, &["fast-import", "--quiet"], history(&mut Dice(42)).as_bytes())?;
    git(root, &["reset", "-q", "--hard", "main"], b"")?;
    // What a tool printed, and work that is not committed yet.
    fs::create_dir_all(root.join("target"))?;
    let mut output = String::from("running 2000 tests\n");
    for test in 0..2_000 {
        let _ = writeln!(output, "test {}::part_{test} ... ok", THINGS[test % THINGS.len()]);
    }
    output.push_str(
        "test result: ok. 2000 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n",
    );
    fs::write(root.join("target/output.log"), output)?;
    for file in 0..5 {
        fs::write(root.join(path(file)), source(file, 9_999, &mut Dice(7)))?;
    }
    Ok(())
}

fn memories(project: &str) -> Result<Vec<Memory>> {
    let mut dice = Dice(4_711);
    (0..MEMORIES)
        .map(|number| {
            let (a, b, deed) = (dice.pick(THINGS), dice.pick(THINGS), dice.pick(DEEDS));
            let content = format!("The {a} must {deed} before the {b} does; limit {number}, decided for the {}.", dice.pick(THINGS));
            let kind = ["note", "decision", "todo", "fact"][number % 4];
            let when = format!("2026-{:02}-{:02}T{:02}:00:00Z", 1 + number % 10, 1 + number % 28, number % 24);
            Ok(serde_json::from_value(json!({
                "id": format!("m_01KE6P4YM0{number:016}"), "project": project, "content": content, "tags": [a, deed],
                "importance": (number % 10) as f64 / 10.0, "kind": kind,
                "principal": "local", "agent": "default", "created": when, "updated": when,
            }))?)
        })
        .collect()
}

fn percentile(sorted: &[Duration], of: usize) -> Duration {
    sorted[(sorted.len() * of).div_ceil(100).clamp(1, sorted.len()) - 1]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// How long at least one step that waits for a foreign program ran.
fn foreign(steps: &[StepReceipt], pattern: &Pattern) -> Duration {
    let asks = |uses: &str| uses.starts_with("git.") || uses == "exec.run";
    // A loop over steps that do nothing else waits as they do.
    let waits = |id: &str| {
        pattern.steps.iter().filter(|step| step.id == id).any(|step| {
            let mut inner = step.children.iter().flatten().peekable();
            asks(step.uses.uses) || (inner.peek().is_some() && inner.all(|inner| asks(inner.uses.uses)))
        })
    };
    let mut spans: Vec<(Duration, Duration)> = steps
        .iter()
        .filter(|step| waits(&step.id))
        .map(|step| (step.began, step.began + step.elapsed))
        .collect();
    spans.sort_unstable();
    let (mut total, mut until) = (Duration::ZERO, Duration::ZERO);
    for (from, to) in spans {
        total += to.saturating_sub(from.max(until));
        until = until.max(to);
    }
    total
}

async fn measure(local: &Local, pattern: &Arc<Pattern>) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let Value::Object(input) = inputs(&pattern.name) else { return Err("inputs are an object".into()) };
    let (mut whole, mut own) = (Vec::new(), Vec::new());
    // The first runs fill what a process fills once.
    for run in 0..RUNS + 5 {
        let request = ExecuteRequest {
            target: Target::Pattern(pattern.name.clone()),
            input: Map::clone(&input),
            mode: Mode::Balanced,
            session: None,
            unless: None,
            fresh: true,
            caller: Caller::Trusted,
        };
        let around = Surroundings {
            observer: &Unobserved,
            asker: Arc::new(NobodyToAsk),
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(30),
            task_deadline: None,
        };
        let execution = local
            .engine
            .execute(&local.scope(), request, around)
            .await
            .map_err(|error| format!("{}: {error}", pattern.name))?;
        if run == 10 && std::env::args().any(|argument| argument == "--steps") {
            for step in &execution.receipt.steps {
                println!("    {:<14} from {:>8.2} for {:>8.2} ms", step.id, ms(step.began), ms(step.elapsed));
            }
        }
        if run >= 5 {
            whole.push(execution.receipt.elapsed);
            // The key of the patterns that have one is what a program of git said.
            let foreign = foreign(&execution.receipt.steps, pattern) + execution.receipt.keyed;
            own.push(execution.receipt.elapsed.saturating_sub(foreign));
        }
    }
    whole.sort_unstable();
    own.sort_unstable();
    Ok((whole, own))
}

async fn report(wanted: &[String]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("harbour");
    make_repository(&root)?;
    let environment: BTreeMap<String, OsString> = [
        ("HOME", folder.path().join("home").into_os_string()),
        ("TMWS_ROOT", root.into_os_string()),
        ("TMWS_DATABASE_URL", format!("sqlite:{}", folder.path().join("store.db").display()).into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let local = Local::new(&load(&Sources {
        environment,
        working_directory: folder.path().to_owned(),
        ..Sources::default()
    })?);
    local.shelf.ready().await?;
    let now = local.clock.now();
    local.store.import(&local.scope(), memories(local.project().as_str())?, now).await?;
    let mut of_type: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    println!("{:<18} {:<14} {:>9} {:>9} {:>9} {:>9}", "pattern", "type", "own P50", "own P95", "P50", "P95");
    for pattern in local.shelf.all() {
        let reads = pattern.effect == Effect::ReadOnly
            && !["session.open", "session.close"].contains(&pattern.name.as_str());
        // These ask another server or a database that the configuration would have to name.
        let elsewhere = ["db.describe", "db.ask", "mcp.fanout"].contains(&pattern.name.as_str());
        if !reads || elsewhere || !(wanted.is_empty() || wanted.contains(&pattern.name)) {
            continue;
        }
        let (whole, own) = measure(&local, &pattern).await?;
        println!(
            "{:<18} {:<14} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
            pattern.name,
            pattern.kind.as_str(),
            ms(percentile(&own, 50)),
            ms(percentile(&own, 95)),
            ms(percentile(&whole, 50)),
            ms(percentile(&whole, 95)),
        );
        of_type.entry(pattern.kind.as_str()).or_default().extend(own);
    }
    println!();
    for (kind, promised) in PROMISED {
        let Some(own) = of_type.get_mut(kind) else { continue };
        own.sort_unstable();
        let p95 = percentile(own, 95);
        let verdict = if p95 <= promised { "kept" } else { "NOT KEPT" };
        println!("{kind:<14} own P95 {:>7.2} ms, promised {:>3.0} ms: {verdict}", ms(p95), ms(promised));
    }
    local.store.close(Duration::from_secs(5)).await;
    Ok(())
}

fn main() -> Result<()> {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(report(&wanted))
}
