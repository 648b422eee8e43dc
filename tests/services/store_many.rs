//! Many memories, many writers, many models: what only shows where there is more than one of something.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tmws::{
    embedding::{Embeddings, similarity},
    scope::Scope,
    store::{Memory, MemoryFilter, MemoryQuery, PostgresStore, Retrieval, Store, Trust, Visibility},
};

use crate::{
    postgres::{Database, run},
    store::contract::{at, note, scope},
    store_contract::{walled, walled_options},
};

/// A backstop: everything that is waited for happens long before.
const PATIENCE: Duration = Duration::from_secs(60);

fn ann() -> Scope {
    scope("a", "ann")
}

/// Waits until a query with the parameter `$1`, which it does not need, gives `wanted`.
async fn until(database: &Database, sql: &str, wanted: i64) {
    let waited = async {
        while database.value(sql).await != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never {wanted}: {sql}"));
}

/// Another process's store on the same database.
async fn another(database: &Database) -> Arc<dyn Store> {
    PostgresStore::open(walled_options(database).await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_contents_stored_by_two_processes_at_once_are_one_memory() {
    let (database, one) = walled().await;
    let stores = [one, another(&database).await];
    for round in 0..10 {
        let writing: Vec<_> = (0..4)
            .map(|nth: usize| {
                let store = Arc::clone(&stores[nth % 2]);
                tokio::spawn(async move {
                    store.remember(&ann(), note(&format!("said twice, {round}")), at(1)).await.unwrap()
                })
            })
            .collect();
        let (mut ids, mut fresh) = (BTreeSet::new(), 0);
        for one in writing {
            let stored = one.await.unwrap();
            fresh += usize::from(!stored.duplicate);
            ids.insert(stored.memory.id);
        }
        assert_eq!((ids.len(), fresh), (1, 1), "round {round}");
    }
    assert_eq!(database.value("SELECT count(*) FROM tmws.memory WHERE $1 <> ''").await, 10);
}

/// Pages are read while others write: whatever was committed meanwhile comes in a later page, and nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_beside_writers_skips_nothing() {
    const WRITERS: usize = 4;
    const EACH: usize = 40;
    let (database, store) = walled().await;
    let other = another(&database).await;
    let writing: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(if writer % 2 == 0 { &store } else { &other });
            tokio::spawn(async move {
                for n in 0..EACH {
                    let visibility = if n % 3 == 0 { Visibility::Shared } else { Visibility::Project };
                    let new = tmws::store::NewMemory { visibility, ..note(&format!("{writer} wrote {n}")) };
                    store.remember(&ann(), new, at(1)).await.unwrap();
                }
            })
        })
        .collect();
    let mut exported: Vec<String> = Vec::new();
    loop {
        // Looked at before the page is asked for: what it leaves out then is not there.
        let is_over = writing.iter().all(tokio::task::JoinHandle::is_finished);
        let page = store.export(&ann(), exported.last().map(String::as_str), 7).await.unwrap();
        if page.is_empty() && is_over {
            break;
        }
        exported.extend(page.into_iter().map(|memory| memory.id));
    }
    for one in writing {
        one.await.unwrap();
    }
    let whole: Vec<String> =
        store.export(&ann(), None, usize::MAX).await.unwrap().into_iter().map(|memory| memory.id).collect();
    assert_eq!(whole.len(), WRITERS * EACH);
    assert_eq!(exported, whole);
}

#[tokio::test]
async fn vectors_of_a_model_that_nobody_uses_go_with_their_index() {
    let (database, store) = walled().await;
    for n in 0..3 {
        store.remember(&ann(), note(&format!("memory {n}")), at(1)).await.unwrap();
    }
    store.close(Duration::from_secs(5)).await;
    // One that was last used long ago, and one that somebody has used just now.
    run(
        &mut database.connect().await,
        "INSERT INTO tmws.embedding_model (name, dimension, hash, used) VALUES ('old', 3, 'h', 0), \
         ('other', 3, 'h', (extract(epoch FROM now()) * 1000000)::bigint);
         INSERT INTO tmws.memory_vector (seq, model, reader, embedding) \
         SELECT m.seq, e.id, m.reader, '[1,2,3]' FROM tmws.memory m, tmws.embedding_model e WHERE e.dimension = 3;
         DO $$ DECLARE e record; BEGIN FOR e IN SELECT id FROM tmws.embedding_model WHERE dimension = 3 LOOP
           EXECUTE format('CREATE INDEX memory_vector_by_%s ON tmws.memory_vector USING hnsw \
             ((embedding::vector(3)) vector_cosine_ops) WHERE model = %s', e.id, e.id);
         END LOOP; END $$",
    )
    .await;
    let indexes = "SELECT count(*) FROM pg_class WHERE relnamespace = 'tmws'::regnamespace AND relkind = 'i' \
                   AND relname ~ '^memory_vector_by_[0-9]+$' AND $1 <> ''";
    assert_eq!(database.value(indexes).await, 3);
    let store = another(&database).await;
    until(&database, indexes, 2).await;
    for (sql, left) in [
        ("SELECT count(*) FROM tmws.embedding_model WHERE name = 'old' AND $1 <> ''", 0),
        ("SELECT count(*) FROM tmws.embedding_model WHERE $1 <> ''", 2),
        ("SELECT count(*) FROM tmws.memory_vector WHERE $1 <> ''", 6),
    ] {
        assert_eq!(database.value(sql).await, left, "{sql}");
    }
    let progress = store.embedding().await.unwrap();
    assert_eq!((progress.embedded, progress.memories), (3, 3));
}

const WHO: [&str; 10] = [
    "the billing team",
    "our gateway",
    "the nightly import",
    "Mara",
    "the audit log",
    "the warehouse",
    "the mobile client",
    "the scheduler",
    "the translator",
    "the web shop",
];
const DOES: [&str; 9] =
    ["rejects", "caches", "deletes", "encrypts", "renames", "delays", "archives", "signs", "migrates"];
const WHAT: [&str; 11] = [
    "old invoices",
    "expired tokens",
    "large uploads",
    "customer addresses",
    "failed jobs",
    "broken images",
    "currency rates",
    "delivery notes",
    "session cookies",
    "voice messages",
    "gift vouchers",
];
const WHEN: [&str; 7] = [
    "every hour",
    "after three attempts",
    "before a deployment",
    "when the disk is full",
    "only in production",
    "during the backup",
    "twice a day",
];

fn memory(n: usize) -> Memory {
    Memory {
        id: format!("m_{n:026}"),
        project: "a".to_owned(),
        content: format!(
            "{} {} {} {} (case {n})",
            WHO[n % WHO.len()],
            DOES[n % DOES.len()],
            WHAT[n % WHAT.len()],
            WHEN[n % WHEN.len()]
        ),
        tags: vec![format!("t{}", n % 3)],
        importance: (n % 10) as f64 / 10.0,
        kind: "note".to_owned(),
        visibility: Visibility::Project,
        trust: Trust::Agent,
        principal: "ann".to_owned(),
        agent: "default".to_owned(),
        session: None,
        supersedes: None,
        superseded_by: None,
        created: at(1),
        updated: at(1),
        recalled: None,
        expires: None,
    }
}

/// Beyond some number of memories an index of vectors answers, not a look at all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_scope_is_searched_by_an_index_that_finds_what_a_look_at_everything_finds() {
    const MANY: usize = 3_000;
    const WANTED: usize = 20;
    let (database, store) = walled().await;
    let memories: Vec<Memory> = (0..MANY).map(memory).collect();
    for page in memories.chunks(500) {
        store.import(&ann(), page.to_vec(), at(2)).await.unwrap();
    }
    let embeddings = Embeddings::builtin();
    let contents = memories.iter().map(|memory| memory.content.clone()).collect();
    let vectors = embeddings.embed(contents).await.unwrap().vectors;
    let (mut found, mut wanted) = (0, 0);
    let all = MemoryFilter { limit: WANTED, ..MemoryFilter::default() };
    for (who, what) in WHO.iter().zip(WHAT) {
        let text = format!("when does {who} handle {what}?");
        let asked = embeddings.embed(vec![text.clone()]).await.unwrap().vectors.remove(0);
        for (filter, fits) in [
            (all.clone(), (|_| true) as fn(&Memory) -> bool),
            (MemoryFilter { tags: vec!["t1".to_owned()], ..all.clone() }, |memory| memory.tags == ["t1"]),
            (MemoryFilter { importance_min: Some(0.9), ..all.clone() }, |memory| memory.importance >= 0.9),
        ] {
            let mut exact: Vec<(f32, &str)> = memories
                .iter()
                .zip(&vectors)
                .filter(|(memory, _)| fits(memory))
                .map(|(memory, vector)| (similarity(&asked, vector), memory.id.as_str()))
                .collect();
            exact.sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
            // Whatever is as near as the last of them is as good.
            let least = exact[WANTED - 1].0 - 1e-4;
            let exact: BTreeSet<&str> =
                exact.iter().take_while(|(alike, _)| *alike >= least).map(|(_, id)| *id).collect();
            let query = MemoryQuery { text: text.clone(), by: Retrieval::Vector, filter: filter.clone() };
            let hits = store.search(&ann(), query, at(3)).await.unwrap().hits;
            assert_eq!(hits.len(), WANTED, "as many as asked for: {text} {filter:?}");
            assert!(hits.iter().all(|hit| fits(&hit.memory)), "{text} {filter:?}");
            found += hits.iter().filter(|hit| exact.contains(hit.memory.id.as_str())).count();
            wanted += WANTED;
        }
    }
    let recall = found as f64 / wanted as f64;
    assert!(recall >= 0.95, "recall is {recall:.3}");
    // Counts of a connection are told when it ends.
    store.close(Duration::from_secs(5)).await;
    let used = "SELECT count(*) FROM pg_stat_user_indexes WHERE indexrelname LIKE 'memory_vector_by_1%' \
                AND idx_scan >= 10 AND $1 <> ''";
    until(&database, used, 1).await;
}

#[tokio::test]
async fn to_look_for_memories_without_a_vector_takes_no_square_of_them() {
    let (database, store) = walled().await;
    store.remember(&ann(), note("The car is in the garage"), at(1)).await.unwrap();
    until(&database, "SELECT count(*) FROM tmws.memory_vector WHERE $1::text IS NOT NULL", 1).await;
    store.close(Duration::from_secs(5)).await;
    // Compared each with each they would be 1.6 billion; a statement that takes 30 s is ended. Nobody has counted them yet.
    let many = "DROP INDEX tmws.memory_vector_by_1; \
         INSERT INTO tmws.memory (realm, id, reader, audience, project, visibility, principal, agent, importance, kind, \
         trust, created, updated, content_hash, tags, content) SELECT realm, id || n, reader, audience, project, \
         visibility, principal, agent, importance, kind, trust, created, updated, content_hash, tags, content \
         FROM tmws.memory, generate_series(1, 40000) n; \
         INSERT INTO tmws.memory_vector (seq, model, reader, embedding) SELECT m.seq, v.model, m.reader, v.embedding \
         FROM tmws.memory m JOIN tmws.memory_vector v ON v.seq <> m.seq";
    run(&mut database.connect().await, many).await;
    let store = another(&database).await;
    let looked = async {
        while store.load().unembedded != Some(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(25), looked).await.expect("one look at them all");
    store.close(Duration::from_secs(5)).await;
}
