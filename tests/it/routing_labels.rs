//! Questions as people ask them, labelled with the pattern that they mean (`fixtures/routing/queries.jsonl`): what the
//! built-in library makes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Map, Value};
use tmws::{
    embedding,
    pattern::{
        Effect, Mode,
        library::Library,
        router::{Among, Route},
    },
};

/// One question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    /// What kind of question it is; what follows a colon is finer.
    class: String,
    query: String,
    /// What it means, if any pattern does that.
    pattern: Option<String>,
    /// What the pattern should be given. Without it no run is right: the question says less or more than the pattern takes.
    inputs: Option<Map<String, Value>>,
}

/// All questions, in words.
pub(crate) fn questions() -> Vec<String> {
    labels().into_iter().map(|label| label.query).collect()
}

/// What became of one question.
struct Judged {
    label: Label,
    ran: Option<(String, Map<String, Value>)>,
    offered: Vec<String>,
}

impl Judged {
    /// The right pattern is one that a query may come to.
    fn is_for_a_query(&self, library: &Library) -> bool {
        let pattern = self.label.pattern.as_ref().and_then(|name| library.named(name));
        pattern.is_some_and(|pattern| pattern.effect == Effect::ReadOnly)
    }

    fn ran_right(&self) -> bool {
        self.ran.as_ref().is_some_and(|(name, _)| Some(name) == self.label.pattern.as_ref())
    }

    fn is_reached(&self) -> bool {
        self.ran_right() || self.label.pattern.as_ref().is_some_and(|name| self.offered.contains(name))
    }

    /// `None` where nothing ran.
    fn inputs_are_right(&self) -> Option<bool> {
        let (name, inputs) = self.ran.as_ref()?;
        // What is filled in anyway may be said or left out.
        let properties = library().named(name).map(|pattern| pattern.inputs["properties"].clone())?;
        let said = |inputs: &Map<String, Value>| -> Map<String, Value> {
            let inputs = inputs.clone().into_iter();
            inputs.filter(|(name, value)| properties[name].get("default") != Some(value)).collect()
        };
        let wanted = self.label.inputs.as_ref().map(said);
        Some(self.ran_right() && wanted == Some(said(inputs)))
    }
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(embedding::ready(Duration::from_mins(1))).expect("the embedding table");
        Library::built_in()
    })
}

fn fixture(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/routing").join(name)).unwrap()
}

/// Whether the workspace that the questions are asked in (`fixtures/routing/workspace.txt`) has a file or folder.
pub(crate) fn has_path(path: &str) -> bool {
    static FILES: LazyLock<String> = LazyLock::new(|| fixture("workspace.txt"));
    FILES.lines().any(|file| Path::new(file).starts_with(path))
}

/// What `query` comes to in that workspace.
fn routed(query: &str, mode: Mode) -> Route {
    // Files of logs are no part of a workspace: the pattern says itself where there is none.
    let among = Among { has_path: &|_, path| has_path(path), ..Among::ALL };
    library().route_among(query, mode, among)
}

fn labels() -> Vec<Label> {
    fixture("queries.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn judged() -> &'static [Judged] {
    static JUDGED: OnceLock<Vec<Judged>> = OnceLock::new();
    JUDGED.get_or_init(|| {
        let judge = |label: Label| {
            let (ran, offered) = match routed(&label.query, Mode::Balanced) {
                Route::Run { pattern, inputs, .. } => (Some((pattern.name.clone(), inputs)), Vec::new()),
                Route::Candidates(candidates) => {
                    (None, candidates.iter().map(|candidate| candidate.pattern.name.clone()).collect())
                }
            };
            Judged { label, ran, offered }
        };
        labels().into_iter().map(judge).collect()
    })
}

/// The pattern that it means, if any, is built in.
fn is_there(label: &Label) -> bool {
    label.pattern.as_ref().is_none_or(|name| library().named(name).is_some())
}

/// Counts of some questions.
#[derive(Default)]
struct Tally {
    queries: usize,
    ran: usize,
    ran_right: usize,
    inputs_right: usize,
    meant: usize,
    reached: usize,
}

impl Tally {
    fn of<'a>(judged: impl Iterator<Item = &'a Judged>) -> Self {
        let mut tally = Self::default();
        for judged in judged {
            tally.queries += 1;
            tally.ran += usize::from(judged.ran.is_some());
            tally.ran_right += usize::from(judged.ran_right());
            tally.inputs_right += usize::from(judged.inputs_are_right() == Some(true));
            let meant = judged.is_for_a_query(library());
            tally.meant += usize::from(meant);
            tally.reached += usize::from(meant && judged.is_reached());
        }
        tally
    }

    fn row(&self, name: &str) -> String {
        let share = |part: usize, whole: usize| match whole {
            0 => "–".to_owned(),
            _ => format!("{part} of {whole} ({:.3})", part as f64 / whole as f64),
        };
        format!(
            "| {name} | {} | {} | {} | {} |\n",
            self.queries,
            share(self.ran_right, self.ran),
            share(self.inputs_right, self.ran),
            share(self.reached, self.meant),
        )
    }
}

/// The table of `docs/routing.md`.
pub(crate) fn table() -> String {
    let mut classes: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for judged in judged() {
        let class = judged.label.class.split(':').next().unwrap_or_default();
        classes.entry(class).or_default().push(judged);
    }
    let mut text = "| questions | how many | run rightly, of those run | inputs right, of those run | right one run or offered |\n\
                    |---|---|---|---|---|\n"
        .to_owned();
    for (class, judged) in &classes {
        text.push_str(&Tally::of(judged.iter().copied()).row(class));
    }
    text.push_str(&Tally::of(judged().iter()).row("**all**"));
    text.push_str(&Tally::of(not_examples()).row("**without the patterns' own examples**"));
    text
}

/// All but the questions that stand in a built-in pattern as examples, which its triggers were written for.
fn not_examples() -> impl Iterator<Item = &'static Judged> {
    let plain = |query: &str| query.trim_end_matches(['?', '!', '.']).to_lowercase();
    let examples: BTreeSet<String> = library()
        .all()
        .iter()
        .flat_map(|pattern| {
            pattern.triggers.match_examples.iter().map(|query| plain(query)).collect::<Vec<_>>()
        })
        .collect();
    judged().iter().filter(move |judged| !examples.contains(&plain(&judged.label.query)))
}

fn told(judged: &Judged) -> String {
    let Judged { label, ran, offered } = judged;
    let what = match ran {
        Some((name, inputs)) => format!("ran {name} {}", Value::Object(inputs.clone())),
        None => format!("offered {}", offered.join(", ")),
    };
    format!(
        "[{}] {}\n    wanted {} {:?}\n    {what}",
        label.class,
        label.query,
        label.pattern.as_deref().unwrap_or("none"),
        label.inputs
    )
}

#[expect(clippy::print_stdout, reason = "what a run with --nocapture is for")]
fn assert_share(
    what: &str,
    part: usize,
    whole: usize,
    least: f64,
    wrong: impl Iterator<Item = &'static Judged>,
) {
    let share = part as f64 / whole.max(1) as f64;
    let wrong: Vec<String> = wrong.map(told).collect();
    println!("{what}: {part} of {whole} = {share:.3}\n{}", wrong.join("\n"));
    assert!(share >= least, "{what}: {part} of {whole}, wanted {least}\n{}", wrong.join("\n"));
}

#[test]
fn the_set_is_large_and_names_only_patterns_that_are_there() {
    let labels = labels();
    assert!(labels.len() >= 300, "{}", labels.len());
    let missing: BTreeSet<&str> =
        labels.iter().filter(|label| !is_there(label)).filter_map(|label| label.pattern.as_deref()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Classes of questions of which none may run anything.
fn is_trap(label: &Label) -> bool {
    ["trap", "negation", "about the words"].iter().any(|class| label.class.starts_with(class))
}

#[test]
fn every_question_that_a_pattern_answers_says_what_it_should_be_given() {
    let silent = |judged: &&Judged| {
        let label = &judged.label;
        label.inputs.is_none() && (label.class == "match" || judged.ran_right())
    };
    let silent: Vec<String> = judged().iter().filter(silent).map(told).collect();
    // Of the first class a few lack what the pattern requires, or ask what it cannot be given.
    let run: Vec<&String> = silent.iter().filter(|told| told.contains("\n    ran ")).collect();
    assert!(run.is_empty(), "{run:#?}");
    assert!(silent.len() <= 12, "{silent:#?}");
}

#[test]
fn what_runs_is_what_was_meant() {
    let tally = Tally::of(judged().iter());
    let wrong = judged().iter().filter(|judged| judged.ran.is_some() && !judged.ran_right());
    assert_share("run rightly", tally.ran_right, tally.ran, 0.98, wrong);
    assert!(tally.ran >= 80, "only {} run at all", tally.ran);
    let others = Tally::of(not_examples());
    assert!(others.ran < tally.ran && others.ran >= 80, "{} of {}", others.ran, tally.ran);
    let wrong = not_examples().filter(|judged| judged.ran.is_some() && !judged.ran_right());
    assert_share("run rightly, without examples", others.ran_right, others.ran, 0.98, wrong);
}

#[test]
fn what_was_meant_runs_or_is_among_the_candidates() {
    let tally = Tally::of(judged().iter());
    let wrong = judged().iter().filter(|judged| judged.is_for_a_query(library()) && !judged.is_reached());
    assert_share("run or offered", tally.reached, tally.meant, 0.95, wrong);
    let others = Tally::of(not_examples());
    let wrong = not_examples().filter(|judged| judged.is_for_a_query(library()) && !judged.is_reached());
    assert_share("run or offered, without examples", others.reached, others.meant, 0.95, wrong);
}

#[test]
fn what_runs_gets_the_inputs_that_were_meant() {
    let tally = Tally::of(judged().iter());
    let wrong = judged().iter().filter(|judged| judged.inputs_are_right() == Some(false));
    assert_share("inputs right", tally.inputs_right, tally.ran, 0.95, wrong);
    let others = Tally::of(not_examples());
    let wrong = not_examples().filter(|judged| judged.inputs_are_right() == Some(false));
    assert_share("inputs right, without examples", others.inputs_right, others.ran, 0.95, wrong);
}

#[test]
fn nothing_that_writes_or_executes_is_ever_come_to() {
    for mode in [Mode::Fast, Mode::Balanced, Mode::Comprehensive] {
        for label in labels() {
            match routed(&label.query, mode) {
                Route::Run { pattern, .. } => {
                    assert_eq!(pattern.effect, Effect::ReadOnly, "{}: {}", label.query, pattern.name);
                    assert!(!is_trap(&label), "{:?} is a trap, and ran {}", label.query, pattern.name);
                }
                Route::Candidates(candidates) => {
                    assert!(candidates.len() <= 3);
                    for candidate in candidates {
                        assert_eq!(candidate.pattern.effect, Effect::ReadOnly, "{}", label.query);
                    }
                }
            }
        }
    }
}
