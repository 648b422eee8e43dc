//! A search that goes by words and by meaning at once, on two connections.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use serde_json::json;
use tmws::{
    accept::proxy::{Proxy, Way},
    scope::Scope,
    store::{Hits, Memory, MemoryQuery, NewMemory, PostgresOptions, PostgresStore, Store},
};
use tokio::{sync::Notify, time::timeout};

use super::postgres::Database;
use crate::store::contract::{at, note, scope};

/// More than anything here takes.
const LONG: Duration = Duration::from_secs(60);
const CAR: &str = "The automobile is parked in the underground garage";
/// Shares no word with [`CAR`].
const QUESTION: &str = "where did I leave my car";
/// So many that what is counted of them is remembered.
const MANY: usize = 2_200;

fn ann() -> Scope {
    scope("a", "ann")
}

fn filler(number: usize) -> Memory {
    let content = format!("ticket {number}: row {} of the invoice table has no currency", number * 7);
    serde_json::from_value(json!({
        "id": format!("m_01KE6P4YM0{number:016}"), "project": "a", "content": content, "tags": [], "importance": 0.5,
        "kind": "note", "principal": "ann", "agent": "default", "created": at(0), "updated": at(0),
    }))
    .unwrap()
}

async fn ask(store: &dyn Store, text: &str) -> Hits {
    let query = MemoryQuery { text: text.to_owned(), ..MemoryQuery::default() };
    timeout(LONG, store.search(&ann(), query, at(9))).await.expect("an answer").unwrap()
}

/// A store of [`MANY`] whose two connections have nothing to do, behind a proxy; and another process's, beside it.
async fn two_idle() -> (Database, Arc<Proxy>, Arc<dyn Store>, Arc<dyn Store>) {
    let database = Database::new("").await;
    let direct = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    direct.import(&ann(), (0..MANY).map(filler).collect(), at(0)).await.unwrap();
    let url = database.url();
    let (_, place) = url.rsplit_once('@').unwrap();
    let (place, _) = place.split_once('/').unwrap();
    let proxy = Arc::new(Proxy::start(place.parse().unwrap()).await.unwrap());
    let mut options = PostgresOptions::new(url.replacen(place, &proxy.address().to_string(), 1));
    options.connections_max = 4;
    let store = PostgresStore::open(options).await.unwrap();
    let _ = tokio::join!(ask(&*store, "an invoice"), ask(&*store, "a currency"));
    let idle = async {
        while !matches!(store.load().idle, Some(2..) if store.load().idle == store.load().connections) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, idle).await.expect("two connections");
    (database, proxy, store, direct)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_near_is_found_beside_and_counts_only_in_the_state_that_the_words_are_found_in() {
    let (_database, proxy, store, direct) = two_idle().await;
    let car = direct.remember(&ann(), note(CAR), at(1)).await.unwrap().memory;
    let (let_go, held) = mpsc::channel::<()>();
    let (held, is_held, is_found) =
        (Mutex::new(Some(held)), Arc::new(Notify::new()), Arc::new(Notify::new()));
    proxy.edit(Some(Arc::new({
        let (is_held, is_found) = (Arc::clone(&is_held), Arc::clone(&is_found));
        move |way, piece: &mut Vec<u8>| {
            let has = |text: &[u8]| piece.windows(text.len()).any(|part| part == text);
            if way == Way::There && (has(b"CASE WHEN $2 THEN") || has(b"'leav'")) {
                // The half that goes by words asks for the first time.
                let Some(held) = held.lock().unwrap().take() else { return };
                is_held.notify_one();
                tokio::task::block_in_place(|| held.recv().unwrap());
            } else if way == Way::There && has(b"ROLLBACK") {
                // The other half has ended.
                is_found.notify_one();
            }
        }
    })));
    let asking = tokio::spawn({
        let store = Arc::clone(&store);
        async move { ask(&*store, QUESTION).await }
    });
    timeout(LONG, is_held.notified()).await.expect("the half by words asks");
    timeout(LONG, is_found.notified()).await.expect("the half by meaning does not wait for it");
    let sold = NewMemory { supersedes: Some(car.id.clone()), ..note("A bicycle was bought from Bob") };
    direct.remember(&ann(), sold, at(2)).await.unwrap();
    let_go.send(()).unwrap();
    let hits = asking.await.unwrap();
    let found: Vec<_> =
        hits.hits.iter().map(|hit| (&hit.memory.content, &hit.memory.superseded_by)).collect();
    assert!(found.iter().all(|(_, superseded_by)| superseded_by.is_none()), "{found:?}");
    assert_eq!(hits.total, ask(&*direct, QUESTION).await.total);
}

#[tokio::test]
async fn one_connection_finds_what_two_find() {
    let (database, _proxy, store, direct) = two_idle().await;
    direct.remember(&ann(), note(CAR), at(1)).await.unwrap();
    let mut options = PostgresOptions::new(database.url());
    options.connections_max = 1;
    let alone = PostgresStore::open(options).await.unwrap();
    for text in [QUESTION, "which invoice has no currency", "ticket 77", "zzyzx"] {
        // What is counted is remembered by the second time.
        for _ in 0..2 {
            assert_eq!(ask(&*store, text).await, ask(&*alone, text).await, "{text}");
        }
    }
    assert_eq!(ask(&*store, QUESTION).await.hits[0].memory.content, CAR);
}
