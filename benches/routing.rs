//! How long it takes to find which of 1,000 and 10,000 patterns a question matches, and how much memory that needs; and
//! what the order of the candidates and the whole way from a question to its answer cost.
//!
//! `cargo bench --bench routing`. Each set is measured in a process of its own. Memory is what that process has grown by
//! from before the triggers to after the last question: triggers, index, compiled regexes; not what else is in a pattern.
//! Patterns have three phrases and two regexes of words that many of them share: about four patterns have the same noun,
//! and in the hostile sets hundreds, so that a question meets everything with that noun.

#![allow(clippy::print_stdout, reason = "figures are printed")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::{
    env, fs,
    hint::black_box,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use tmws::{
    embedding,
    pattern::{Mode, Origin, Pattern, TriggerRegex, library::Library, loader::load, router::Router},
};

/// A made set of patterns.
struct Set {
    name: &'static str,
    size: usize,
    nouns: usize,
    /// Microseconds for 95 of 100 questions, and MiB.
    promised: Option<(f64, f64)>,
}

const SETS: [Set; 5] = [
    Set { name: "24", size: 24, nouns: 12, promised: None },
    Set { name: "1,000", size: 1_000, nouns: 250, promised: Some((10.0, 40.0)) },
    Set { name: "1,000 hostile", size: 1_000, nouns: 10, promised: None },
    Set { name: "10,000", size: 10_000, nouns: 2_500, promised: Some((200.0, 64.0)) },
    Set { name: "10,000 hostile", size: 10_000, nouns: 40, promised: None },
];
const QUERIES: usize = 4_000;
const ROUNDS: usize = 5;

const FILE: &str = "apiVersion: tmws/v1\nkind: Pattern\nname: a.b\nversion: 1.0.0\ntype: infrastructure\n\
    description: A pattern.\ninputs: {type: object, additionalProperties: false, properties: {since: {type: string}}}\n\
    steps:\n  - {id: a, uses: data.merge, with: {items: [{a: 1}]}}\noutput:\n  value: ${ .steps.a }\n";

const VERBS: &[&str] = &[
    "list",
    "show",
    "find",
    "summarise",
    "what",
    "which",
    "who",
    "describe",
    "review",
    "count",
    "compare",
    "explain",
    "trace",
    "recall",
    "check",
    "where",
    "when",
    "digest",
    "outline",
    "search",
];
const QUALITIES: &[&str] = &[
    "open",
    "failed",
    "recent",
    "slow",
    "stale",
    "unused",
    "large",
    "new",
    "broken",
    "flaky",
    "deprecated",
    "missing",
    "pending",
    "duplicate",
    "risky",
    "old",
    "skipped",
    "blocked",
    "expired",
    "hidden",
    "changed",
    "late",
    "unsafe",
    "public",
    "private",
];
const ENDS: &[&str] =
    &["today", "by owner", "per team", "in short", "by age", "this week", "for review", "of late"];
/// Syllables of nouns: 8,000 of them, some within others.
const SYLLABLES: &[&str] = &[
    "in", "dex", "log", "port", "er", "build", "cach", "de", "ploy", "to", "ken", "work", "er", "queue",
    "sche", "ma", "test", "run", "ner", "bill",
];

/// A generator of the same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    /// Words near the beginning come oftener.
    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        let bound = self.below(words.len()) + 1;
        words[self.below(bound)]
    }
}

/// A noun.
fn noun(number: usize) -> String {
    let count = SYLLABLES.len();
    format!(
        "{}{}{}",
        SYLLABLES[number % count],
        SYLLABLES[number / count % count],
        SYLLABLES[number / count / count % count]
    )
}

/// What a pattern is triggered by, and what it means.
struct Subject {
    verb: &'static str,
    quality: &'static str,
    noun: String,
    other: String,
}

fn subject(numbers: &mut Numbers, nouns: usize) -> Subject {
    Subject {
        verb: numbers.pick(VERBS),
        quality: numbers.pick(QUALITIES),
        noun: noun(numbers.below(nouns)),
        other: noun(numbers.below(nouns)),
    }
}

fn triggers(subject: &Subject, numbers: &mut Numbers) -> (Vec<String>, Vec<TriggerRegex>) {
    let Subject { verb, quality, noun, other } = subject;
    let end = numbers.pick(ENDS);
    let phrases = vec![
        format!("{verb} {quality} {noun}"),
        format!("{noun} {other} {end}"),
        format!("{quality} {noun} {end}"),
    ];
    let regexes = [
        format!(
            r"(?i)\b(?:{verb}|show|list)\b.{{0,30}}\b{noun}s?\b.{{0,20}}\b(?:{quality}|{other})\b(?:.{{0,30}}\b(?P<since>\d+[hdw])\b)?"
        ),
        format!(r"(?i)\bhow (?:many|often)\b.{{0,30}}\b{quality} (?:{noun}|{other})s?\b"),
    ];
    (phrases, regexes.iter().map(|regex| TriggerRegex::new(regex).unwrap()).collect())
}

/// Half of the questions match something; the rest are made of the same words, or of others.
fn query(subjects: &[Subject], numbers: &mut Numbers) -> String {
    let Subject { verb, quality, noun, other } = &subjects[numbers.below(subjects.len())];
    let end = numbers.pick(ENDS);
    match numbers.below(8) {
        0 => format!("please {verb} {quality} {noun} for me"),
        1 => format!("Show me every {noun} that is {quality} since {}d", numbers.below(30)),
        2 => format!("how often do we see {quality} {other}s in the nightly runs?"),
        3 => format!("{noun} {other} {end}, please"),
        4 => format!("what do you know about {noun} and {other} in the {quality} service?"),
        5 => format!("could you {verb} the things that are {quality} {end}?"),
        6 => "I would like to understand why the service restarts every night and what to do".to_owned(),
        _ => format!("{} {} {}", numbers.pick(VERBS), numbers.pick(QUALITIES), noun),
    }
}

fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Microseconds at the middle, at 95 of 100, and on average.
#[derive(Clone, Copy)]
struct Times {
    p50: f64,
    p95: f64,
    mean: f64,
}

impl std::fmt::Display for Times {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "p50 {:>7.1} us, p95 {:>7.1} us, mean {:>7.1} us", self.p50, self.p95, self.mean)
    }
}

fn timed(queries: &[String], mut ask: impl FnMut(&str)) -> Times {
    let times = queries.iter().map(|query| {
        let begun = Instant::now();
        ask(query);
        begun.elapsed().as_nanos() as f64 / 1e3
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Times { p50: at(0.5), p95: at(0.95), mean: times.iter().sum::<f64>() / times.len() as f64 }
}

/// The round with the median p95: others may want the processor.
fn rounds(queries: &[String], mut ask: impl FnMut(&str)) -> Times {
    let mut rounds: Vec<Times> = (0..ROUNDS).map(|_| timed(queries, &mut ask)).collect();
    rounds.sort_by(|a, b| a.p95.total_cmp(&b.p95));
    rounds[ROUNDS / 2]
}

fn measure(set: &Set) {
    let pattern = load("a.yaml", FILE, Origin::BuiltIn).unwrap().pattern;
    let mut numbers = Numbers(set.size as u64);
    // What the first use of everything costs is not the index's.
    let _ = Router::new(vec![pattern.clone()]).route("warm up", Mode::Balanced);
    let subjects: Vec<Subject> = (0..set.size).map(|_| subject(&mut numbers, set.nouns)).collect();
    let queries: Vec<String> = (0..QUERIES).map(|_| query(&subjects, &mut numbers)).collect();
    let mut patterns: Vec<Arc<Pattern>> =
        subjects.iter().map(|_| Arc::new(Pattern::clone(&pattern))).collect();
    let before = resident_mib();
    for (number, (pattern, subject)) in patterns.iter_mut().zip(&subjects).enumerate() {
        let pattern = Arc::get_mut(pattern).unwrap();
        pattern.name = format!("made.p{number}");
        (pattern.triggers.phrases, pattern.triggers.regexes) = triggers(subject, &mut numbers);
    }
    let loaded = resident_mib();
    let router = Router::new(patterns);
    let begun = Instant::now();
    let _ = black_box(router.matching("list"));
    let built = begun.elapsed();
    let indexed = resident_mib();
    let cold = timed(&queries, |query| drop(black_box(router.matching(query))));
    let warm = rounds(&queries, |query| drop(black_box(router.matching(query))));
    let asked = resident_mib();
    let matching = queries.iter().filter(|query| !router.matching(query).is_empty()).count();
    println!("{} patterns, {} nouns; {QUERIES} questions, {matching} of which match", set.name, set.nouns);
    println!("  matching              {warm}");
    println!("  matching, first time  {cold}");
    println!(
        "  memory of matching {:.1} MiB: triggers {:.1}, index {:.1}, while asked {:.1}; index made in {} ms",
        asked - before,
        loaded - before,
        indexed - loaded,
        asked - indexed,
        built.as_millis()
    );
    if let Some((micros, mib)) = set.promised {
        let held = |is_held| if is_held { "held" } else { "MISSED" };
        println!("  p95 within {micros} us: {}", held(warm.p95 <= micros));
        println!("  within {mib} MiB: {}", held(asked - before <= mib));
    }
    let _ = router.route("warm up", Mode::Balanced);
    println!("  route, ordered by words  {}", routed(&queries, &router));
    load_embedder();
    let _ = router.route("warm up", Mode::Balanced);
    println!("  route, and by vectors    {}", routed(&queries, &router));
    println!("  memory with the order of candidates {:.1} MiB", resident_mib() - before);
}

fn routed(queries: &[String], router: &Router) -> Times {
    timed(queries, |query| drop(black_box(router.route(query, Mode::Balanced))))
}

fn load_embedder() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(embedding::ready(Duration::from_mins(1))).unwrap();
}

/// The built-in library and the labelled questions.
fn measure_built_in() {
    let library = Library::built_in();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/routing/queries.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let queries: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["query"].as_str().unwrap().to_owned()
        })
        .collect();
    let begun = Instant::now();
    let _ = library.route("warm up", Mode::Balanced);
    println!(
        "built-in library, {} labelled questions; first route {} us",
        queries.len(),
        begun.elapsed().as_micros()
    );
    let route = |query: &str| drop(black_box(library.route(query, Mode::Balanced)));
    println!("  route, ordered by words  {}", rounds(&queries, route));
    load_embedder();
    let _ = library.route("warm up", Mode::Balanced);
    println!("  route, and by vectors    {}", rounds(&queries, route));
}

fn main() {
    // Cargo says `--bench`.
    match env::args().nth(1).filter(|argument| !argument.starts_with('-')) {
        Some(name) if name == "built-in" => measure_built_in(),
        Some(name) => measure(SETS.iter().find(|set| set.name == name).expect("a set's name")),
        None => {
            for name in SETS.iter().map(|set| set.name).chain(["built-in"]) {
                let status = Command::new(env::current_exe().unwrap()).arg(name).status().unwrap();
                assert!(status.success(), "{name}: {status}");
            }
        }
    }
}
