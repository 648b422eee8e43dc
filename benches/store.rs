//! `cargo bench --bench store [-- SECTION… STORE… TEXTS…]`: what stores take, on this machine. Sections: `search`,
//! `write`; stores: `sqlite` in a temporary file, `postgres` where `TMWS_TEST_POSTGRES_URL` names a server. All of them
//! where none is named: `scripts/postgres cargo bench --bench store`.
//!
//! Texts are English words, the same each time, vectors are those of the built-in table. Two kinds:
//!
//! - `topics`, where none is named: as memories come. There are 200 topics, each with 60 to 120 words of its own, drawn from
//!   all but the 300 commonest. A memory has one topic and half of its words from it; a question of eight words has four
//!   from one. A word of a topic is drawn by Zipf's law among the topic's, every other one among all.
//! - `worst`: no topics. All vectors lie close to the mean of the commonest words, so that much is about equally near to a
//!   question: the worst case for an index of vectors.
//!
//! Every search is another question; the promised figures are of searches by words and meaning together. On a machine
//! that does nothing else.

#![allow(clippy::print_stdout, reason = "the report")]

use std::{
    collections::BTreeSet,
    error::Error,
    fmt::Write as _,
    path::Path,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tmws::{
    embedding::{self, Embeddings},
    scope::{ProjectId, Scope},
    store::{
        Memory, MemoryFilter, MemoryQuery, NewMemory, PostgresOptions, Retrieval, SharedStore, SqliteOptions,
        StoreOptions,
    },
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Questions asked one after the other.
const QUESTIONS: usize = 300;
/// Questions asked at once, and how many rounds of it.
const AT_ONCE: usize = 50;
const ROUNDS: usize = 6;
/// Hits wanted.
const WANTED: usize = 10;
/// Questions whose answers are compared with those of a whole scan.
const COMPARED: usize = 100;

/// Words that texts are made of.
const WORDS_MAX: usize = 12_000;
/// From there on a word says something.
const TELLING_FROM: usize = 300;
/// Topics, and the words that one has: the least, and how many more at most.
const TOPICS: usize = 200;
const TOPIC_WORDS_MIN: usize = 60;
const TOPIC_WORDS_SPREAD: usize = 60;

/// What is promised of a search's P95, by store and number of memories.
const PROMISED: [(&str, usize, Duration); 4] = [
    ("sqlite", 10_000, Duration::from_millis(2)),
    ("sqlite", 100_000, Duration::from_millis(8)),
    ("postgres", 10_000, Duration::from_millis(3)),
    ("postgres", 100_000, Duration::from_millis(8)),
];
const AT_ONCE_PROMISED: Duration = Duration::from_millis(40);
const RECALL_PROMISED: f64 = 0.95;

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// English words, the commonest first, as the vocabulary of the built-in table lists them.
fn words() -> &'static [String] {
    static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let tokenizer: Value =
            serde_json::from_str(include_str!("../models/minilm-static-256/tokenizer.json"))
                .expect("the tokenizer is JSON");
        let is_word = |word: &str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_lowercase());
        let mut words: Vec<(u64, String)> = tokenizer["model"]["vocab"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(word, _)| is_word(word))
            .filter_map(|(word, id)| Some((id.as_u64()?, word.clone())))
            .collect();
        words.sort_unstable();
        words.into_iter().map(|(_, word)| word).take(WORDS_MAX).collect()
    });
    &WORDS
}

/// One of `words` by Zipf's law: the n-th is n times as rare as the first. The `from` first ones are left out.
fn drawn<'w, W: AsRef<str>>(words: &'w [W], dice: &mut Dice, from: usize) -> &'w str {
    let (least, most) = ((from as f64 + 1.0).ln(), (words.len() as f64 + 1.0).ln());
    let share = dice.roll(1 << 30) as f64 / f64::from(1 << 30);
    let rank = (least + share * (most - least)).exp() as usize - 1;
    words[rank.min(words.len() - 1)].as_ref()
}

/// The words of each topic.
fn topics() -> &'static [Vec<&'static str>] {
    static TOPIC_WORDS: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
        let (mut dice, telling) = (Dice(0xC0FF_EE00), &words()[TELLING_FROM..]);
        (0..TOPICS)
            .map(|_| {
                let many = TOPIC_WORDS_MIN + dice.roll(TOPIC_WORDS_SPREAD + 1);
                (0..many).map(|_| telling[dice.roll(telling.len())].as_str()).collect()
            })
            .collect()
    });
    &TOPIC_WORDS
}

/// What texts are like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Texts {
    Topics,
    Worst,
}

impl Texts {
    const fn name(self) -> &'static str {
        match self {
            Self::Topics => "topics",
            Self::Worst => "worst",
        }
    }

    /// A memory of 12 to 35 words.
    fn memory(self, number: usize, dice: &mut Dice) -> String {
        let mut text = format!("case {number}:");
        let topic = self.topic(dice);
        for place in 0..12 + dice.roll(24) {
            let _ = match topic.filter(|_| place % 2 == 0) {
                Some(topic) => write!(text, " {}", drawn(topic, dice, 0)),
                None => write!(text, " {}", drawn(words(), dice, 0)),
            };
        }
        text
    }

    /// A question of eight words, the first three or four of them telling ones.
    fn question(self, dice: &mut Dice) -> String {
        let mut text = String::from("what about");
        let topic = self.topic(dice);
        for place in 0..8 {
            let _ = match topic {
                Some(topic) if place < 4 => write!(text, " {}", drawn(topic, dice, 0)),
                None if place < 3 => write!(text, " {}", drawn(words(), dice, TELLING_FROM)),
                _ => write!(text, " {}", drawn(words(), dice, 0)),
            };
        }
        text
    }

    fn topic(self, dice: &mut Dice) -> Option<&'static [&'static str]> {
        (self == Self::Topics).then(|| topics()[dice.roll(TOPICS)].as_slice())
    }
}

fn scope() -> Scope {
    Scope::mint(ProjectId::parse("bench").expect("a project's name"), "local", "default", None)
}

fn memories(texts: Texts, from: usize, to: usize) -> Result<Vec<Memory>> {
    let mut dice = Dice(0x9E37_79B9 + from as u64);
    (from..to)
        .map(|number| {
            let kind = ["note", "decision", "todo", "fact"][number % 4];
            let when = "2026-05-01T12:00:00Z";
            Ok(serde_json::from_value(json!({
                "id": format!("m_01KE6P4YM0{number:016}"), "project": "bench", "content": texts.memory(number, &mut dice),
                "tags": [drawn(words(), &mut dice, 0), format!("t{}", number % 50)], "importance": (number % 10) as f64 / 10.0,
                "kind": kind, "principal": "local", "agent": "default",
                "created": when, "updated": when,
            }))?)
        })
        .collect()
}

fn query(text: String, by: Retrieval) -> MemoryQuery {
    MemoryQuery { text, by, filter: MemoryFilter { limit: WANTED, ..MemoryFilter::default() } }
}

fn percentile(sorted: &[Duration], of: usize) -> Duration {
    sorted[(sorted.len() * of).div_ceil(100).clamp(1, sorted.len()) - 1]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

const fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "NOT KEPT" }
}

/// Fills a store up to `many` and waits until all of it has vectors.
async fn fill(store: &SharedStore, texts: Texts, from: usize, many: usize) -> Result<Duration> {
    let now = Timestamp::now();
    let began = Instant::now();
    for start in (from..many).step_by(1_000) {
        store.import(&scope(), memories(texts, start, (start + 1_000).min(many))?, now).await?;
    }
    let took = began.elapsed();
    loop {
        let progress = store.embedding().await?;
        if progress.embedded >= progress.memories {
            return Ok(took);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ask_in_turn(store: &SharedStore, texts: Texts, by: Retrieval) -> Result<Vec<Duration>> {
    // Others than by another kind of search: what is remembered of those does not help here.
    let mut dice = Dice(77_777 * (1 + by as u64));
    let mut times = Vec::new();
    for turn in 0..QUESTIONS + 10 {
        let asked = query(texts.question(&mut dice), by);
        let began = Instant::now();
        store.search(&scope(), asked, Timestamp::now()).await?;
        if turn >= 10 {
            times.push(began.elapsed());
        }
    }
    times.sort_unstable();
    Ok(times)
}

async fn ask_at_once(store: &SharedStore, texts: Texts) -> Result<Duration> {
    let mut dice = Dice(99);
    let mut sum = Duration::ZERO;
    for _ in 0..ROUNDS {
        let asking: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (store, asked) = (Arc::clone(store), query(texts.question(&mut dice), Retrieval::Hybrid));
                tokio::spawn(async move {
                    let began = Instant::now();
                    store.search(&scope(), asked, Timestamp::now()).await.map(|_| began.elapsed())
                })
            })
            .collect();
        for one in asking {
            sum += one.await??;
        }
    }
    Ok(sum / u32::try_from(AT_ONCE * ROUNDS)?)
}

/// The share of the nearest memories of a whole scan that a search by meaning finds.
async fn recall(store: &SharedStore, texts: Texts, many: usize) -> Result<f64> {
    let embeddings = Embeddings::builtin();
    let mut all = Vec::with_capacity(many);
    for start in (0..many).step_by(1_000) {
        let page = memories(texts, start, (start + 1_000).min(many))?;
        let vectors =
            embeddings.embed(page.iter().map(|memory| memory.content.clone()).collect()).await?.vectors;
        all.extend(page.into_iter().map(|memory| memory.id).zip(vectors));
    }
    let mut dice = Dice(77);
    let (mut found, mut wanted) = (0, 0);
    for _ in 0..COMPARED {
        let asked = texts.question(&mut dice);
        let vector = embeddings.embed(vec![asked.clone()]).await?.vectors.remove(0);
        let mut near: Vec<(f32, &str)> =
            all.iter().map(|(id, other)| (embedding::similarity(&vector, other), id.as_str())).collect();
        near.sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
        // Whatever is as near as the last of them is as good.
        let last = near[WANTED - 1].0 - 1e-4;
        let near: BTreeSet<&str> =
            near.iter().take_while(|(alike, _)| *alike >= last).map(|(_, id)| *id).collect();
        let hits = store.search(&scope(), query(asked, Retrieval::Vector), Timestamp::now()).await?.hits;
        found += hits.iter().filter(|hit| near.contains(hit.memory.id.as_str())).count();
        wanted += WANTED;
    }
    Ok(found as f64 / wanted as f64)
}

async fn searches(name: &str, texts: Texts, options: StoreOptions) -> Result<()> {
    let store: SharedStore = options.open().await?;
    let mut held = 0;
    for many in [10_000, 100_000] {
        let took = fill(&store, texts, held, many).await?;
        println!(
            "{name:<9} {many:>7} memories: {} stored in {:.1} s ({:.0} a second)",
            many - held,
            took.as_secs_f64(),
            (many - held) as f64 / took.as_secs_f64()
        );
        held = many;
        let first = Instant::now();
        store
            .search(&scope(), query("a first question".to_owned(), Retrieval::Hybrid), Timestamp::now())
            .await?;
        println!("{name:<9} {many:>7} first search {:.1} ms", ms(first.elapsed()));
        for (by, label) in
            [(Retrieval::Lexical, "words"), (Retrieval::Vector, "meaning"), (Retrieval::Hybrid, "both")]
        {
            let times = ask_in_turn(&store, texts, by).await?;
            let (p50, p95) = (percentile(&times, 50), percentile(&times, 95));
            print!("{name:<9} {many:>7} {label:<8} P50 {:>7.2} ms  P95 {:>7.2} ms", ms(p50), ms(p95));
            let promised = PROMISED.iter().find(|(store, at, _)| *store == name && *at == many);
            match promised.filter(|_| by == Retrieval::Hybrid) {
                Some((_, _, most)) => println!("  promised {:.0} ms: {}", ms(*most), verdict(p95 <= *most)),
                None => println!(),
            }
        }
        let share = recall(&store, texts, many).await?;
        println!(
            "{name:<9} {many:>7} recall at {WANTED} by meaning {share:.3}  promised {RECALL_PROMISED}: {}",
            verdict(share >= RECALL_PROMISED)
        );
    }
    let average = ask_at_once(&store, texts).await?;
    println!(
        "{name:<9} {held:>7} {AT_ONCE} at once: average {:.1} ms  promised {:.0} ms: {}",
        ms(average),
        ms(AT_ONCE_PROMISED),
        verdict(average <= AT_ONCE_PROMISED)
    );
    store.close(Duration::from_secs(5)).await;
    Ok(())
}

async fn writes(name: &str, texts: Texts, options: StoreOptions) -> Result<()> {
    const SINGLE: usize = 10_000;
    const TASKS: usize = 50;
    const BATCHES: usize = 200;
    let store: SharedStore = options.open().await?;
    // What a process does once.
    let warm = NewMemory { content: "warm".to_owned(), ..NewMemory::default() };
    store.remember(&scope(), warm, Timestamp::now()).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let writing: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, next) = (Arc::clone(&store), Arc::clone(&next));
            tokio::spawn(async move {
                let mut dice = Dice(1 + task as u64);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SINGLE {
                        return Ok::<_, Box<dyn Error + Send + Sync>>(());
                    }
                    let new = NewMemory { content: texts.memory(number, &mut dice), ..NewMemory::default() };
                    store.remember(&scope(), new, Timestamp::now()).await?;
                }
            })
        })
        .collect();
    for one in writing {
        one.await??;
    }
    let rate = SINGLE as f64 / began.elapsed().as_secs_f64();
    print!("{name:<9} single writes of {TASKS} tasks, acknowledged: {rate:>8.0} a second");
    if name == "sqlite" {
        println!("  promised 2000: {}", verdict(rate >= 2_000.0));
    } else {
        println!();
    }
    let pages: Vec<_> =
        (0..BATCHES).map(|page| memories(texts, page * 100, page * 100 + 100)).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    for page in pages {
        store.import(&scope(), page, Timestamp::now()).await?;
    }
    let rate = (BATCHES * 100) as f64 / began.elapsed().as_secs_f64();
    print!("{name:<9} batches of 100, each acknowledged:      {rate:>8.0} a second");
    if name == "sqlite" {
        println!("  promised 10000: {}", verdict(rate >= 10_000.0));
    } else {
        println!();
    }
    store.close(Duration::from_secs(5)).await;
    Ok(())
}

fn sqlite(folder: &Path, name: &str) -> StoreOptions {
    SqliteOptions::new(folder.join(name)).into()
}

/// A database of its own on the server at `url`.
async fn postgres(url: &str, name: &str) -> Result<StoreOptions> {
    let mut admin = PgConnection::connect(url).await?;
    for sql in [format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name}")] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await?;
    }
    let (base, _) = url.rsplit_once('/').ok_or("the address names no database")?;
    Ok(PostgresOptions::new(format!("{base}/{name}")).into())
}

async fn report(named: &[String], server: Option<String>) -> Result<()> {
    // One of several is wanted where it is named, or none of them is.
    let wants = |one: &str, of: [&str; 2]| {
        named.iter().any(|name| name == one) || !named.iter().any(|name| of.contains(&name.as_str()))
    };
    let section = |name| wants(name, ["search", "write"]);
    let is_lite = wants("sqlite", ["sqlite", "postgres"]);
    let server = server.filter(|_| wants("postgres", ["sqlite", "postgres"]));
    for texts in [Texts::Topics, Texts::Worst] {
        let is_named = |texts: Texts| named.iter().any(|name| name == texts.name());
        if !(is_named(texts) || texts == Texts::Topics && !is_named(Texts::Worst)) {
            continue;
        }
        println!("texts: {}", texts.name());
        let folder = tempfile::tempdir()?;
        if section("search") {
            if is_lite {
                searches("sqlite", texts, sqlite(folder.path(), "search.db")).await?;
            }
            if let Some(url) = &server {
                searches("postgres", texts, postgres(url, "tmws_bench_search").await?).await?;
            }
        }
        if section("write") {
            if is_lite {
                writes("sqlite", texts, sqlite(folder.path(), "write.db")).await?;
            }
            if let Some(url) = &server {
                writes("postgres", texts, postgres(url, "tmws_bench_write").await?).await?;
            }
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let named: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let server = std::env::vars().find(|(name, _)| name == "TMWS_TEST_POSTGRES_URL").map(|(_, url)| url);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(report(&named, server))
}
