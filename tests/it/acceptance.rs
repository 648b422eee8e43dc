//! `tmws accept` as its user has it: what it says, what it writes, how it ends, and that nothing stays.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tmws::accept::{
    Profile, Run,
    decision::{Asked, Decided},
    report::{self, Secrets},
    scenario::{Broken, Frame, Result as Ran, Seen, Series},
    table,
};

use crate::{sabotage, support::scratch::Scratch};

/// A run of a few seconds has ended within this, however busy the machine is.
const PATIENCE: Duration = Duration::from_mins(2);

/// A home and a folder for temporary files of its own.
struct Place(Scratch);

impl Place {
    fn new() -> Self {
        let place = Self(Scratch::new());
        fs::create_dir(place.0.path("tmp")).unwrap();
        place
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.0.command(&["accept"]);
        command.args(arguments).arg("--report").arg(self.0.path("report")).env("TMPDIR", self.0.path("tmp"));
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// Starts it, and waits until it has said that it begins a scenario.
    fn begun(&self, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
        let mut child =
            self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("1/") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended before it began");
        }
        (child, said)
    }

    fn report(&self, name: &str) -> String {
        fs::read_to_string(self.0.path("report").join(name)).unwrap()
    }

    fn metrics(&self) -> Value {
        serde_json::from_str(&self.report("metrics.json")).unwrap()
    }

    /// What lies among the temporary files.
    fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.0.path("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn waited(child: &mut Child) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it did not end");
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_run_says_its_decision_and_leaves_a_report_and_nothing_else() {
    let place = Place::new();
    let (code, stdout, stderr) = place.run(&["--profile", "quick", "--only", "W4"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("\nPASS\n") || stdout.starts_with("PASS\n"), "{stdout}");
    assert!(stdout.contains("1 of 1 passed") && stdout.contains("seed 1\n"), "{stdout}");
    assert!(stdout.contains("report/index.html"), "{stdout}");
    assert!(stderr.contains("seed 1,") && stderr.contains("1/1 W4"), "{stderr}");
    assert_eq!(place.left(), Vec::<PathBuf>::new());
    let metrics = place.metrics();
    assert_eq!((&metrics["decision"], &metrics["scenarios"][0]["id"]), (&"PASS".into(), &"W4".into()));
    assert_eq!(metrics["environment"]["tmws"], env!("CARGO_PKG_VERSION"));
    for name in ["OS", "kernel", "CPU", "memory"] {
        assert!(metrics["environment"][name].is_string(), "{name}");
    }

    // The next one compares itself with it, and tells machines what it says.
    let previous = place.0.path("previous.json");
    fs::copy(place.0.path("report/metrics.json"), &previous).unwrap();
    let previous = previous.to_str().unwrap().to_owned();
    let arguments = ["--profile", "quick", "--only", "W4", "--seed", "9", "--previous", &previous, "--json"];
    let (code, stdout, stderr) = place.run(&arguments);
    assert_eq!((code, stdout.lines().count()), (0, 1), "{stdout}{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&told["decision"], &told["seed"], &told["exit_code"]),
        (&"PASS".into(), &9.into(), &0.into())
    );
    assert_eq!(told["scenarios"]["W4"], "passed");
    let page = place.report("index.html");
    assert!(page.contains("Compared with the run of") && page.contains("its seed was 1"), "{page}");
}

#[test]
fn what_is_missing_fails_unless_it_is_waived() {
    let place = Place::new();
    let empty = place.0.path("empty");
    fs::create_dir(&empty).unwrap();
    let run = |arguments: &[&str]| {
        let output = place.command(arguments).env("PATH", &empty).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), told)
    };
    let (code, told) = run(&["--profile", "quick", "--only", "R1", "--json"]);
    assert_eq!((code, &told["scenarios"]["R1"], &told["decision"]), (1, &"missing".into(), &"FAIL".into()));
    assert!(place.report("junit.xml").contains("<error type=\"missing prerequisite\""));
    assert!(place.report("index.html").contains("redis-server on PATH"));
    let (code, told) = run(&["--profile", "quick", "--only", "R1,W4", "--without", "redis", "--json"]);
    assert_eq!((&told["scenarios"]["R1"], &told["is_partial"]), (&"waived".into(), &true.into()), "{told}");
    assert_eq!((code, &told["decision"]), (0, &"PASS".into()), "{told}");
    assert!(place.report("index.html").contains("<h1>PASS (PARTIAL)</h1>"));
    // Where nothing ran there is nothing to pass.
    let (code, told) = run(&["--only", "R1", "--without", "redis", "--json"]);
    assert_eq!((code, &told["decision"]), (1, &"FAIL".into()), "{told}");
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn wrong_options_are_told_at_once() {
    let place = Place::new();
    for (arguments, why) in [
        (&["--only", "X9"][..], "X9 names no scenario"),
        (&["--profile", "slow"], "slow"),
        (&["--without", "luck"], "luck"),
        (&["--previous", "no-such-file.json"], "no-such-file.json"),
        (&["--token", "t"], "--target"),
        (&["--slack", "3"], "--profile quick"),
        (&["--profile", "quick", "--slack", "99"], "--slack"),
    ] {
        let (code, stdout, stderr) = place.run(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(why), "{arguments:?}: {stderr}");
    }
    assert!(!place.0.path("report").exists());
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupted_run_clears_away_and_still_writes_its_report() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let (mut child, mut said) = place.begun(&["--profile", "quick", "--only", "W4,W3,W7"]);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert_eq!(waited(&mut child), 1, "{rest}");
        let metrics = place.metrics();
        assert_eq!((&metrics["is_interrupted"], &metrics["decision"]), (&true.into(), &"FAIL".into()));
        assert!(place.report("index.html").contains("<h1>FAIL (INTERRUPTED)</h1>"));
        assert_eq!(place.left(), Vec::<PathBuf>::new(), "{rest}");
    }
}

/// Number and begin of the processes in a ledger.
fn processes(ledger: &str) -> Vec<(u64, u64)> {
    let lines = ledger.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|entry| entry["is"] == "process")
        .map(|entry| (entry["pid"].as_u64().unwrap(), entry["begun"].as_u64().unwrap()))
        .collect()
}

/// Whether a process of that number lives that was begun then.
fn lives((pid, begun): (u64, u64)) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[0] != "Z" && fields[19] == begun.to_string()
}

#[test]
fn what_a_killed_run_left_is_gone_after_the_next() {
    let place = Place::new();
    let (mut child, _said) = place.begun(&["--profile", "quick", "--only", "W4"]);
    let begun = Instant::now();
    // The server is noted as soon as it is started.
    let started = loop {
        let ledger = place.left().into_iter().map(|folder| folder.join("ledger.jsonl"));
        let found = ledger.filter_map(|path| fs::read_to_string(path).ok()).find_map(|text| {
            let found = processes(&text);
            (!found.is_empty()).then_some(found)
        });
        if let Some(found) = found {
            break found;
        }
        assert!(begun.elapsed() < PATIENCE, "no server was started");
        std::thread::yield_now();
    };
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    waited(&mut child);
    assert_eq!(place.left().len(), 1, "a killed run cannot clear away");
    let (code, stdout, stderr) = place.run(&["--profile", "quick", "--only", "W4"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert_eq!(place.left(), Vec::<PathBuf>::new());
    for process in started {
        assert!(!lives(process), "{process:?} still runs");
    }
}

/// Some of every shape, for the record of the schema.
pub(crate) fn instances() -> Vec<Value> {
    let row = |id| table::find(id).unwrap();
    let ms = Duration::from_millis;
    let mut r2 = Seen::default();
    r2.figure("p95", 82.25);
    r2.note("in 100 invalidations");
    r2.check("each was heard", true, "100", "100");
    r2.data.push(("by_type", serde_json::json!({"plain": 1.5})));
    let mut e2 = Seen::default();
    e2.figure("recovered", f64::NAN);
    e2.distributions.push(tmws::accept::scenario::Distribution {
        name: "memory".to_owned(),
        calls: vec![(ms(1), ms(4)), (ms(2), ms(9))],
    });
    e2.series.push(Series {
        name: "calls that go well".to_owned(),
        unit: "calls/s",
        points: vec![(ms(0), 100.0), (ms(500), f64::NAN)],
        marks: vec![(ms(250), "killed".to_owned())],
    });
    let mut broken = Broken::new("ada: waiting", "an answer", "nothing");
    broken.frames = vec![Frame { at: ms(1), client: "ada".to_owned(), is_sent: true, text: "{}".to_owned() }];
    let missing = Broken::new("looking for postgres", "postgres on PATH", "it is not there").missing();
    let results = vec![
        Ran::of(row("R2"), r2, ms(5_000)),
        Ran::of(row("E2"), e2, ms(7_500)),
        Ran::broken(row("W7"), Seen::default(), broken, ms(10)),
        Ran::broken(row("D5"), Seen::default(), missing, ms(1)),
    ];
    let of = |results: Vec<Ran>, profile, asked| {
        let is_interrupted = results.len() < asked;
        let run = Run {
            profile,
            seed: 1,
            slack: 1,
            begun: jiff::Timestamp::from_second(1_772_366_400).unwrap(),
            elapsed: ms(12_511),
            decided: Decided::of(
                &results,
                Asked { profile, is_whole: asked == 47, scenarios: asked, is_interrupted },
            ),
            is_interrupted,
            asked,
            results,
            environment: vec![("tmws".to_owned(), "0.1.0".to_owned()), ("OS".to_owned(), "Linux".to_owned())],
            settings: vec![("--profile".to_owned(), profile.name().to_owned())],
        };
        let folder = tempfile::tempdir().unwrap();
        report::write(&run, &Secrets::default(), None, folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(report::METRICS)).unwrap();
        let mut told: Value = serde_json::from_str(&text).unwrap();
        told["program"] = "0.1.0".into();
        told
    };
    vec![
        of(Vec::new(), Profile::Quick, 1),
        of(results[..1].to_vec(), Profile::Quick, 1),
        of(results.clone(), Profile::Quick, 4),
        of(results, Profile::Full, 47),
    ]
}

#[test]
fn every_scenario_has_one_sabotage_that_says_what_is_red_by_it() {
    let rows = sabotage::rows();
    let sabotaged: Vec<&str> = rows.iter().map(|row| row.id).collect();
    let all: Vec<&str> = table::SCENARIOS.iter().map(|scenario| scenario.id).collect();
    assert_eq!(sabotaged, all);
    for row in rows {
        let says = !row.how.is_empty() && !row.red.is_empty() && row.red.iter().all(|red| !red.is_empty());
        assert!(says, "{} says nothing", row.id);
        assert_eq!(row.sabotage.scenario, Some(row.id));
    }
}
