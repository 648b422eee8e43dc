//! Vectors in the SQLite file: other processes' are found, other models' are not, and what is erased is erased.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs, path::Path, time::Duration};

use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tmws::{
    embedding::Embeddings,
    resilience::accounted,
    scope::Scope,
    store::{
        Memory, MemoryFilter, MemoryQuery, NewMemory, Retrieval, SqliteOptions, SqliteStore, Store,
        StoreError,
    },
};

use crate::store::contract::{at, note, scope};

const CAR: &str = "The automobile is parked in the underground garage";
const SOME_WITHOUT: &str = "embeddings: some memories have no vector yet";
const QUESTION: &str = "where did I leave my car";

fn ann() -> Scope {
    scope("a", "ann")
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(SqliteOptions::new(path)).await.unwrap()
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).foreign_keys(true).connect().await.unwrap()
}

async fn stored(store: &dyn Store, content: &str, second: i64) -> Memory {
    store.remember(&ann(), note(content), at(second)).await.unwrap().memory
}

async fn found(store: &dyn Store, text: &str, by: Retrieval, filter: MemoryFilter) -> Vec<String> {
    let query = MemoryQuery { text: text.into(), by, filter };
    let hits = store.search(&ann(), query, at(1_000)).await.unwrap().hits;
    hits.into_iter().map(|hit| hit.memory.content).collect()
}

async fn near(store: &dyn Store, text: &str) -> Vec<String> {
    found(store, text, Retrieval::Vector, MemoryFilter::default()).await
}

/// Waits until every memory has its vector.
async fn embedded(store: &dyn Store) {
    let complete = async {
        loop {
            let progress = store.embedding().await.unwrap();
            if progress.memories == progress.embedded {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), complete).await.unwrap();
}

#[tokio::test]
async fn two_stores_on_one_file_see_each_others_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let (one, two) = (open(&path).await, open(&path).await);
    assert_eq!(near(&two, QUESTION).await, Vec::<String>::new(), "the index is loaded, and empty");
    stored(&one, CAR, 1).await;
    embedded(&one).await;
    assert_eq!(near(&two, QUESTION).await, [CAR]);
    let second = stored(&two, "my car is at the station", 2).await;
    embedded(&two).await;
    assert_eq!(near(&one, QUESTION).await.len(), 2);
    // Gone in one, gone in the other, whose index still has it.
    two.forget(&ann(), &[second.id], at(3)).await.unwrap();
    assert_eq!(near(&one, QUESTION).await, [CAR]);
    assert_eq!(near(&one, QUESTION).await, [CAR]);
    stored(&two, "my car is at the station", 4).await;
    embedded(&two).await;
    assert_eq!(near(&one, QUESTION).await.len(), 2);
}

#[tokio::test]
async fn vectors_of_another_model_are_never_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let store = open(&path).await;
    let other = stored(&store, "Rust error messages are written in lower case", 1).await;
    embedded(&store).await;
    // Another model takes the memory for what is asked.
    let question = Embeddings::builtin().embed(vec![QUESTION.to_owned()]).await.unwrap().vectors.remove(0);
    let mut connection = raw(&path).await;
    sqlx::query("INSERT INTO model (name, dimension, hash, used) VALUES ('other', 256, 'x', 0)")
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO vector (seq, model, scale, small, exact) \
         SELECT m.seq, o.id, 0.01, ?2, ?3 FROM memory m, model o WHERE m.id = ?1 AND o.name = 'other'",
    )
    .bind(&other.id)
    .bind(question.iter().map(|n| (n * 100.0) as i8 as u8).collect::<Vec<u8>>())
    .bind(question.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
    .execute(&mut connection)
    .await
    .unwrap();
    for reopened in [store, open(&path).await] {
        assert_eq!(near(&reopened, QUESTION).await, Vec::<String>::new());
        reopened.close(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_store_without_a_model_goes_by_words_and_one_with_a_model_makes_up_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let without = SqliteOptions { embeddings: Embeddings::none(), ..SqliteOptions::new(&path) };
    let store = SqliteStore::open(without).await.unwrap();
    stored(&store, CAR, 1).await;
    let all = MemoryFilter::default;
    assert_eq!(found(&store, "garage", Retrieval::Hybrid, all()).await, [CAR]);
    assert_eq!(found(&store, QUESTION, Retrieval::Hybrid, all()).await, Vec::<String>::new());
    let query = MemoryQuery { text: QUESTION.into(), by: Retrieval::Vector, filter: all() };
    assert!(matches!(store.search(&ann(), query, at(2)).await, Err(StoreError::Unavailable { .. })));
    let progress = store.embedding().await.unwrap();
    assert_eq!((progress.model, progress.embedded, progress.memories), (None, 0, 1));
    store.close(Duration::from_secs(5)).await;
    let store = open(&path).await;
    let before = store.generation(&ann()).await.unwrap();
    let elsewhere = store.generation(&scope("b", "ann")).await.unwrap();
    // It begins half a second after the opening.
    let asked = || found(&store, QUESTION, Retrieval::Hybrid, all());
    assert_eq!(accounted(asked()).await, (Vec::new(), vec!["embeddings: words alone".to_owned()]));
    embedded(&store).await;
    assert_eq!(near(&store, QUESTION).await, [CAR]);
    assert_ne!(store.generation(&ann()).await.unwrap(), before, "its searches find more");
    assert_eq!(store.generation(&scope("b", "ann")).await.unwrap(), elsewhere, "others' do not");
    noteless(async || accounted(asked()).await).await;
}

/// Waits until searches say nothing of vectors any more.
async fn noteless<T>(mut ask: impl AsyncFnMut() -> (T, Vec<String>)) {
    let silent = async { while !ask().await.1.is_empty() {} };
    tokio::time::timeout(Duration::from_mins(1), silent).await.expect("it is not told of any more");
}

/// One memory has a vector of the model, and the others have none.
#[tokio::test]
async fn a_search_says_that_some_memories_have_no_vector_until_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let store = open(&path).await;
    stored(&store, "The automobile is blue", 1).await;
    embedded(&store).await;
    let query = || found(&store, QUESTION, Retrieval::Hybrid, MemoryFilter::default());
    noteless(async || accounted(query()).await).await;
    store.close(Duration::from_secs(5)).await;
    let without = SqliteOptions { embeddings: Embeddings::none(), ..SqliteOptions::new(&path) };
    let store = SqliteStore::open(without).await.unwrap();
    let store = &store;
    let fillers = (0..400).map(async |number| stored(store, &format!("filler {number}"), 2).await);
    futures_util::future::join_all(fillers).await;
    stored(store, CAR, 3).await;
    store.close(Duration::from_secs(5)).await;

    let store = open(&path).await;
    let before = store.generation(&ann()).await.unwrap();
    let query = || found(&store, QUESTION, Retrieval::Hybrid, MemoryFilter::default());
    // The very first one, before anybody has looked for them.
    let (first, notes) = accounted(query()).await;
    assert_eq!((first.iter().any(|text| text == CAR), notes), (false, vec![SOME_WITHOUT.to_owned()]));
    embedded(&store).await;
    assert_ne!(
        store.generation(&ann()).await.unwrap(),
        before,
        "the last vectors came with another generation"
    );
    assert!(query().await.iter().any(|text| text == CAR));
    noteless(async || accounted(query()).await).await;
}

/// Who stores has no model; who searches has looked for such memories just before, and does so each minute.
#[tokio::test]
async fn a_search_says_so_at_once_where_another_process_stored_one_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let store = open(&path).await;
    stored(&store, "The automobile is blue", 1).await;
    let query = || found(&store, QUESTION, Retrieval::Hybrid, MemoryFilter::default());
    noteless(async || accounted(query()).await).await;
    let without = SqliteOptions { embeddings: Embeddings::none(), ..SqliteOptions::new(&path) };
    let other = SqliteStore::open(without).await.unwrap();
    stored(&other, CAR, 2).await;
    let (found, notes) = accounted(query()).await;
    assert_eq!((found.iter().any(|text| text == CAR), notes), (false, vec![SOME_WITHOUT.to_owned()]));
    // It is made up for at once, too.
    embedded(&store).await;
    noteless(async || accounted(query()).await).await;
    assert!(query().await.iter().any(|text| text == CAR));
}

#[tokio::test]
async fn a_vector_is_erased_with_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let store = open(&path).await;
    stored(&store, "kept", 1).await;
    let gone = stored(&store, CAR, 1).await;
    embedded(&store).await;
    let exact: Vec<u8> = {
        let mut connection = raw(&path).await;
        let row = sqlx::query("SELECT exact FROM vector JOIN memory USING (seq) WHERE id = ?1")
            .bind(&gone.id)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let exact = row.get(0);
        connection.close().await.unwrap();
        exact
    };
    let holds = |part: &[u8]| {
        let mut files = fs::read(&path).unwrap();
        files.extend(fs::read(path.with_extension("db-wal")).unwrap_or_default());
        files.windows(part.len()).any(|window| window == part)
    };
    assert!(holds(&exact[..64]));
    store.recalled(&ann(), std::slice::from_ref(&gone.id), at(2)).await.unwrap();
    store.forget(&ann(), &[gone.id], at(3)).await.unwrap();
    assert!(!holds(&exact[..64]));
    let mut connection = raw(&path).await;
    for table in ["vector", "recall"] {
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(count, i64::from(table == "vector"), "{table}");
    }
}

/// Enough memories with the same words that not each of them is ranked by SQLite, and more vectors than one thread looks
/// through.
#[tokio::test]
async fn a_large_store_answers_as_a_small_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("tmws.db")).await;
    let first = stored(&store, "the first of all", 1).await;
    // Ids differ in their last five characters.
    let id = |n: usize| format!("{}{n:05}", &first.id[..23]);
    let memories: Vec<Memory> = (0..17_000)
        .map(|n| {
            let content = match n {
                5 => "zebra common words of entry number five".to_owned(),
                6 => "the automobile is parked in the underground garage".to_owned(),
                _ => format!("common words of entry number {n}"),
            };
            let (kind, tags) = if n == 7 { ("fact", vec!["rare".to_owned()]) } else { ("note", Vec::new()) };
            Memory { id: id(n), content, kind: kind.to_owned(), tags, ..first.clone() }
        })
        .collect();
    for page in memories.chunks(1_000) {
        store.import(&ann(), page.to_vec(), at(2)).await.unwrap();
    }
    let lexical = async |text: &str, filter: MemoryFilter| {
        let query = MemoryQuery { text: text.into(), by: Retrieval::Lexical, filter };
        store.search(&ann(), query, at(3)).await.unwrap()
    };
    let hits = lexical("common zebra words", MemoryFilter::default()).await;
    assert_eq!(
        hits.hits[0].memory.content, "zebra common words of entry number five",
        "rarer words weigh more"
    );
    assert_eq!(hits.total, 200, "counted so far");
    assert_eq!(hits.hits.len(), 20);
    assert!(hits.hits.is_sorted_by(|one, two| one.score >= two.score));
    // What a filter lets through is found wherever it is.
    let entry = "common words of entry number 7";
    for filter in [
        MemoryFilter { kind: Some("fact".into()), ..MemoryFilter::default() },
        MemoryFilter { tags: vec!["rare".into()], ..MemoryFilter::default() },
    ] {
        let hits = lexical("common words", filter.clone()).await;
        assert_eq!((hits.hits[0].memory.content.as_str(), hits.total), (entry, 1));
        assert_eq!(found(&store, "usual phrase of an entry", Retrieval::Vector, filter).await, [entry]);
    }
    let deep = lexical("common", MemoryFilter { offset: 1_500, limit: 5, ..MemoryFilter::default() }).await;
    assert_eq!(deep.hits.len(), 5);
    embedded(&store).await;
    assert_eq!(near(&store, QUESTION).await[0], "the automobile is parked in the underground garage");
    let both = found(&store, QUESTION, Retrieval::Hybrid, MemoryFilter::default()).await;
    assert_eq!(both[0], "the automobile is parked in the underground garage");
}

#[tokio::test]
async fn a_store_of_the_second_schema_is_brought_to_the_newest_and_gets_vectors() {
    let folder = tempfile::tempdir().unwrap();
    for (schema, question, answer) in [
        (
            "schema-2.db",
            "how often is data copied for recovery",
            "Backups are taken every night, kept by version 2",
        ),
        ("schema-1.db", "what was preserved by release one", "kept by version 1"),
    ] {
        let path = folder.path().join(schema);
        let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stores").join(schema);
        fs::copy(old, &path).unwrap();
        let store = open(&path).await;
        embedded(&store).await;
        let hits = near(&store, question).await;
        assert!(hits.first().is_some_and(|hit| hit.ends_with(answer)), "{schema}: {hits:?}");
        store.close(Duration::from_secs(5)).await;
    }
}

/// `fixtures/stores/schema-2.db` was written before there were vectors.
#[tokio::test]
async fn a_store_of_the_second_schema_keeps_all_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stores/schema-2.db"), &path).unwrap();
    let store = open(&path).await;
    let memories = store.export(&ann(), None, 99).await.unwrap();
    let contents: Vec<&str> = memories.iter().map(|memory| memory.content.as_str()).collect();
    assert_eq!(
        contents,
        [
            "Backups are taken on Sundays, kept by version 2",
            "Backups are taken every night, kept by version 2",
            "The office cat is called Miso, kept by version 2",
            "Write dates as year, month and day, kept by version 2",
        ]
    );
    assert_eq!(memories[0].superseded_by.as_ref(), Some(&memories[1].id));
    assert_eq!(
        (memories[1].tags.as_slice(), memories[1].kind.as_str()),
        (&["ops".to_owned()][..], "decision")
    );
    assert!(memories.iter().all(|memory| memory.recalled.is_none()));
    let scratch = store.session_scratch(&ann(), "s_xd1T3GGZkeC2JqMGaweoBQ", at(7)).await.unwrap();
    assert_eq!(scratch["k"], 7);
    assert_eq!(store.get_result(&ann(), "r_kNsK0DFQ_3wl4TvYQr6wsQ", at(7)).await.unwrap().pattern, "p@1");
    let task = store.get_task(&ann(), tmws::revision::Era::Modern, "t_2", at(7)).await.unwrap().unwrap();
    assert_eq!(task.body["n"], 2);
    assert_eq!(store.state_key().await.unwrap()[..4], [185, 6, 229, 251]);
    let new = NewMemory { supersedes: Some(memories[1].id.clone()), ..note("Backups are taken every hour") };
    store.remember(&ann(), new, at(8)).await.unwrap();
    store.recalled(&ann(), &[memories[2].id.clone()], at(8)).await.unwrap();
    store.close(Duration::from_secs(5)).await;
    let again = open(&path).await;
    assert_eq!(again.export(&ann(), None, 99).await.unwrap().len(), 5);
    assert_eq!(again.get(&ann(), &memories[2].id, at(9)).await.unwrap().unwrap().recalled, Some(at(8)));
}
