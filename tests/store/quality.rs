//! How well search finds: `fixtures/memories/search`, asked of a store.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};
use tmws::{
    scope::{ProjectId, Scope},
    store::{MemoryFilter, MemoryQuery, NewMemory, Retrieval, Store},
};

/// Class of the questions that nothing answers.
const NONE: &str = "none";
/// Hits that are looked at.
const LOOKED_AT: usize = 10;
/// How the store is searched, in the order of the tables.
const WAYS: [(&str, Retrieval); 3] =
    [("words", Retrieval::Lexical), ("meaning", Retrieval::Vector), ("both", Retrieval::Hybrid)];
/// Scores from which on hits are counted.
const SCORES: [f64; 4] = [0.0, 0.25, 0.35, 0.5];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labelled {
    id: String,
    kind: String,
    tags: Vec<String>,
    content: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) id: String,
    /// `dev`, which may be tuned by, or `test`.
    pub(crate) part: String,
    pub(crate) class: String,
    pub(crate) text: String,
    /// Ids of the set; finding one is enough.
    pub(crate) answers: Vec<String>,
}

fn read<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/memories/search").join(name);
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What became of one question in one way.
struct Judged {
    question: Question,
    way: &'static str,
    /// Place of the first right memory, from 0.
    place: Option<usize>,
    /// Score of the first hit; `None` where there is none.
    first: Option<f64>,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// All questions asked in all ways.
pub(crate) struct Measured(Vec<Judged>);

/// Puts the set into an empty store and asks it everything.
pub(crate) async fn measure(store: &dyn Store) -> Measured {
    let scope = Scope::mint(ProjectId::parse("quality").unwrap(), "ada", "default", None);
    let mut labels = BTreeMap::new();
    for (second, memory) in (0..).zip(read::<Labelled>("memories.jsonl")) {
        let new = NewMemory {
            content: memory.content,
            tags: memory.tags,
            kind: Some(memory.kind),
            ..NewMemory::default()
        };
        let stored = store.remember(&scope, new, at(second)).await.unwrap();
        assert!(!stored.duplicate, "{} is there twice", memory.id);
        labels.insert(stored.memory.id, memory.id);
    }
    wait_for_vectors(store).await;
    let mut judged = Vec::new();
    for question in read::<Question>("questions.jsonl") {
        for (way, by) in WAYS {
            let filter = MemoryFilter { limit: LOOKED_AT, ..MemoryFilter::default() };
            let query = MemoryQuery { text: question.text.clone(), by, filter };
            let hits = store.search(&scope, query, at(10_000)).await.unwrap().hits;
            let place = hits.iter().position(|hit| question.answers.contains(&labels[&hit.memory.id]));
            judged.push(Judged {
                question: question.clone(),
                way,
                place,
                first: hits.first().map(|hit| hit.score),
            });
        }
    }
    Measured(judged)
}

/// Whoever embeds in the background is given its time. That may be another process, so a store has no event for it: it is
/// asked.
async fn wait_for_vectors(store: &dyn Store) {
    let until = Timestamp::now() + SignedDuration::from_mins(10);
    loop {
        let progress = store.embedding().await.unwrap();
        if progress.model.is_some() && progress.embedded == progress.memories {
            return;
        }
        assert!(Timestamp::now() < until, "memories have no vectors: {progress:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

impl Measured {
    fn of<'a>(&'a self, part: &'a str, way: &'a str) -> impl Iterator<Item = &'a Judged> {
        self.0.iter().filter(move |judged| judged.question.part == part && judged.way == way)
    }

    /// The share of the questions with an answer that have it among the first `most` hits.
    pub(crate) fn recall(&self, part: &str, way: &str, class: Option<&str>, most: usize) -> f64 {
        let asked: Vec<&Judged> = self
            .of(part, way)
            .filter(|judged| judged.question.class != NONE)
            .filter(|judged| class.is_none_or(|class| judged.question.class == class))
            .collect();
        let found = asked.iter().filter(|judged| judged.place.is_some_and(|place| place < most)).count();
        found as f64 / asked.len().max(1) as f64
    }

    pub(crate) fn assert_least(&self, least: f64) {
        let recall = self.recall("test", "both", None, 5);
        assert!(recall >= least, "recall at 5 is {recall:.3}, wanted {least}; of dev:\n{}", self.failures());
    }

    /// The tables of `docs/search.md` for one store and model.
    pub(crate) fn tables(&self) -> String {
        let mut classes: Vec<&str> = Vec::new();
        for judged in &self.0 {
            let class = judged.question.class.as_str();
            if class != NONE && !classes.contains(&class) {
                classes.push(class);
            }
        }
        let mut text = format!(
            "| part | by | recall at 1 | at 5 | at 10 | {} |\n|---|---|---|---|---|{}\n",
            classes.iter().map(|class| format!("at 5: {class}")).collect::<Vec<_>>().join(" | "),
            "---|".repeat(classes.len())
        );
        for part in ["test", "dev"] {
            for (way, _) in WAYS {
                let _ = write!(text, "| {part} | {way} |");
                for most in [1, 5, 10] {
                    let _ = write!(text, " {:.3} |", self.recall(part, way, None, most));
                }
                for class in &classes {
                    let _ = write!(text, " {:.3} |", self.recall(part, way, Some(class), 5));
                }
                text.push('\n');
            }
        }
        text.push_str("\n| part | first hit by both | how many |");
        text.extend(SCORES.iter().map(|score| match score {
            0.0 => " any |".to_owned(),
            _ => format!(" scores {score} or more |"),
        }));
        let _ = writeln!(text, "\n|---|---|---|{}", "---|".repeat(SCORES.len()));
        for part in ["test", "dev"] {
            type IsMeant = fn(&&Judged) -> bool;
            let rows: [(&str, IsMeant); 3] = [
                ("is right", |judged| judged.place == Some(0)),
                ("is wrong", |judged| judged.question.class != NONE && judged.place != Some(0)),
                ("of a question that nothing answers", |judged| judged.question.class == NONE),
            ];
            for (name, is_meant) in rows {
                let meant: Vec<&Judged> = self.of(part, "both").filter(is_meant).collect();
                let _ = write!(text, "| {part} | {name} | {} |", meant.len());
                for score in SCORES {
                    let over = |judged: &&&Judged| judged.first.is_some_and(|first| first >= score);
                    let _ = write!(text, " {} |", meant.iter().filter(over).count());
                }
                text.push('\n');
            }
        }
        text
    }

    /// What was not among the first five by words and meaning: the questions that may be looked at.
    pub(crate) fn failures(&self) -> String {
        let failed = self.of("dev", "both").filter(|judged| judged.question.class != NONE);
        let failed = failed.filter(|judged| judged.place.is_none_or(|place| place >= 5));
        failed.fold(String::new(), |mut text, judged| {
            let Question { id, class, text: asked, answers, .. } = &judged.question;
            let _ = writeln!(text, "{id} [{class}] {asked}: {answers:?} at {:?}", judged.place);
            text
        })
    }
}

/// Asserts that the part `name` of `docs/search.md` is `wanted`, or writes it where `scripts/docs` says so.
pub(crate) fn check_document(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/search.md");
    let found = fs::read_to_string(&path).unwrap();
    let open = format!("<!-- generated: {name} -->\n");
    let start =
        found.find(&open).unwrap_or_else(|| panic!("docs/search.md has no part {name:?}")) + open.len();
    let length = found[start..].find("<!-- /generated -->").unwrap();
    if std::env::vars().any(|(name, _)| name == "TMWS_WRITE_DOCS") {
        let mut text = found;
        text.replace_range(start..start + length, wanted);
        fs::write(path, text).unwrap();
        return;
    }
    assert_eq!(
        &found[start..start + length],
        wanted,
        "docs/search.md is not what was measured; run scripts/docs"
    );
}

/// The set is as its README says.
pub(crate) fn check_set() {
    let memories: Vec<Labelled> = read("memories.jsonl");
    let questions: Vec<Question> = read("questions.jsonl");
    let known = |id: &String| memories.iter().any(|memory| memory.id == *id);
    for question in &questions {
        assert_eq!(question.answers.is_empty(), question.class == NONE, "{}", question.id);
        assert!(question.answers.iter().all(known), "{}", question.id);
        let hash = question
            .id
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        assert_eq!(
            question.part,
            if (hash >> 8).is_multiple_of(3) { "dev" } else { "test" },
            "{}",
            question.id
        );
    }
    let answered = questions.iter().filter(|question| question.class != NONE).count();
    assert!(memories.len() >= 300 && answered >= 240 && questions.len() - answered >= 40);
}
