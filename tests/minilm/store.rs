//! A store whose model is changed, and changed back.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use tmws::{
    embedding::Embeddings,
    scope::{ProjectId, Scope},
    store::{MemoryQuery, NewMemory, Retrieval, SqliteOptions, SqliteStore, Store as _},
};

use crate::minilm;

/// Backstop; a page of the work takes far less.
const SOON: Duration = Duration::from_mins(5);
/// What is asked, in other words than the memory has.
const QUESTION: &str = "what does the dog eat?";
const ANSWER: &str = "The puppy gets dry food twice a day.";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn scope() -> Scope {
    Scope::mint(ProjectId::parse("p").unwrap(), "local", "default", None)
}

async fn open(path: &Path, embeddings: Arc<Embeddings>) -> SqliteStore {
    SqliteStore::open(SqliteOptions { embeddings, ..SqliteOptions::new(path) }).await.unwrap()
}

/// Waits until at least `count` memories have vectors of the store's model.
async fn embedded(store: &SqliteStore, count: u64) -> u64 {
    let waiting = async {
        loop {
            let progress = store.embedding().await.unwrap();
            if progress.embedded >= count {
                return progress.embedded;
            }
            // Another process may do the work, so a store has no event for it: it is asked.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("it gets on")
}

async fn first(store: &SqliteStore, by: Retrieval, text: &str) -> Option<String> {
    let query = MemoryQuery { text: text.to_owned(), by, ..MemoryQuery::default() };
    let hits = store.search(&scope(), query, now()).await.unwrap();
    hits.hits.into_iter().next().map(|hit| hit.memory.content)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_model_is_made_good_in_the_background_and_goes_on_where_it_was_interrupted() {
    const COUNT: u64 = 121;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let store = open(&path, Embeddings::builtin()).await;
    for number in 1..COUNT {
        let content = format!("Ship number {number} left the harbour with {} crates.", number * 7);
        store.remember(&scope(), NewMemory { content, ..NewMemory::default() }, now()).await.unwrap();
    }
    let new = NewMemory { content: ANSWER.to_owned(), ..NewMemory::default() };
    store.remember(&scope(), new, now()).await.unwrap();
    embedded(&store, COUNT).await;
    store.close(SOON).await;

    // The other model: what has no vector of it yet is found by words, and never by vectors of the first.
    let store = open(&path, minilm()).await;
    assert_eq!(first(&store, Retrieval::Hybrid, "puppy food").await.as_deref(), Some(ANSWER));
    let before = embedded(&store, 1).await;
    store.close(SOON).await;

    let store = open(&path, minilm()).await;
    let begun = store.embedding().await.unwrap();
    assert!(begun.embedded >= before, "{begun:?} after {before}");
    assert_eq!(embedded(&store, COUNT).await, COUNT);
    assert_eq!(first(&store, Retrieval::Vector, QUESTION).await.as_deref(), Some(ANSWER));
    assert_eq!(first(&store, Retrieval::Hybrid, QUESTION).await.as_deref(), Some(ANSWER));

    // A memory stored now waits for nothing, and is found by meaning a moment later.
    let content = "Her favourite colour is turquoise.".to_owned();
    store
        .remember(&scope(), NewMemory { content: content.clone(), ..NewMemory::default() }, now())
        .await
        .unwrap();
    assert_eq!(first(&store, Retrieval::Lexical, "turquoise").await.as_ref(), Some(&content));
    embedded(&store, COUNT + 1).await;
    assert_eq!(first(&store, Retrieval::Vector, "which hue does she like best?").await, Some(content));
    store.close(SOON).await;

    // Back: the vectors of the table are still there, all but the one that is new.
    let store = open(&path, Embeddings::builtin()).await;
    assert!(store.embedding().await.unwrap().embedded >= COUNT);
    embedded(&store, COUNT + 1).await;
    assert_eq!(first(&store, Retrieval::Hybrid, "puppy food").await.as_deref(), Some(ANSWER));
    store.close(SOON).await;
}
