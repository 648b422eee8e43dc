//! The mark of an SQLite store is that of the last commit, whoever made it.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use serde_json::json;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use tmws::store::{
    LazyStore, MemoryChange, NewMemory, SqliteOptions, SqliteStore, Store, StoredResult, derived_id,
};

use crate::store::contract::{at, note, scope};

const SOON: Duration = Duration::from_secs(5);

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(SqliteOptions::new(path)).await.unwrap()
}

#[tokio::test]
async fn a_write_through_one_store_is_seen_by_the_other_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.db");
    let (one, two) = (open(&path).await, open(&path).await);
    let ann = scope("a", "ann");
    let mut last = two.mark(&ann).await.unwrap().generation;
    for round in 0..400 {
        let (writer, reader) = if round % 3 == 0 { (&two, &one) } else { (&one, &two) };
        writer.remember(&ann, note(&format!("round {round}")), at(round)).await.unwrap();
        let now = reader.mark(&ann).await.unwrap().generation;
        assert_ne!(now, last, "round {round}");
        assert_eq!(reader.mark(&ann).await.unwrap().generation, now, "and stays");
        last = now;
    }
    // Once nobody has the file open any more, its index is gone, and the next one's is another file.
    one.close(SOON).await;
    two.close(SOON).await;
    let (one, two) = (open(&path).await, open(&path).await);
    assert_eq!(one.mark(&ann).await.unwrap().generation, last);
    two.remember(&ann, note("afterwards"), at(999)).await.unwrap();
    assert_ne!(one.mark(&ann).await.unwrap().generation, last);
}

#[tokio::test]
async fn a_store_that_outlives_all_others_on_its_file_still_sees_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.db");
    let ann = scope("a", "ann");
    let kept = open(&path).await;
    for round in 0..20 {
        let before = kept.mark(&ann).await.unwrap().generation;
        let other = open(&path).await;
        let new = NewMemory { tags: vec!["t".into()], ..note(&format!("round {round}")) };
        other.remember(&ann, new, at(round)).await.unwrap();
        assert_ne!(kept.mark(&ann).await.unwrap().generation, before);
        other.close(SOON).await;
    }
}

#[tokio::test]
async fn counts_are_those_of_now_whoever_wrote_and_whatever_expired() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.db");
    let (one, two) = (open(&path).await, open(&path).await);
    let ann = scope("a", "ann");
    for round in 0..20 {
        let (writer, reader) = if round % 2 == 0 { (&two, &one) } else { (&one, &two) };
        writer.remember(&ann, note(&format!("round {round}")), at(round)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(reader.stats(&ann, at(round)).await.unwrap().memories, round as u64 + 1);
        }
    }
    one.remember(&ann, NewMemory { expires: Some(at(60)), ..note("brief") }, at(30)).await.unwrap();
    for (now, memories) in [(31, 21), (59, 21), (60, 20), (61, 20), (59, 21), (31, 21), (5_000, 20)] {
        assert_eq!(two.stats(&ann, at(now)).await.unwrap().memories, memories, "at {now}");
    }
    assert_eq!(two.stats(&scope("b", "ben"), at(61)).await.unwrap().memories, 0, "of its own scope");
}

#[tokio::test]
async fn a_write_of_another_process_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.db");
    let store = open(&path).await;
    let add = |content: String| {
        let output = Command::new(env!("CARGO_BIN_EXE_tmws"))
            .args(["memory", "add", &content])
            .env("TMWS_DATABASE_URL", format!("sqlite:{}", path.display()))
            .env("TMWS_ROOT", "/")
            .env("HOME", folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // The local user's own project.
    let own = scope("personal", "local");
    let mut last = store.mark(&own).await.unwrap().generation;
    for round in 1..=5 {
        add(format!("round {round}"));
        let now = store.mark(&own).await.unwrap().generation;
        assert_ne!(now, last, "round {round}");
        last = now;
    }
    // Locks are still those of SQLite: both write on.
    store.remember(&own, note("from here"), at(9)).await.unwrap();
    last = store.mark(&own).await.unwrap().generation;
    add("and from there".to_owned());
    assert_ne!(store.mark(&own).await.unwrap().generation, last);
}

fn result() -> StoredResult {
    StoredResult { pattern: "p".to_owned(), value: json!({"n": 1}) }
}

#[tokio::test]
async fn a_result_is_there_until_its_time_or_until_anybody_deletes_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.db");
    let store = open(&path).await;
    let ann = scope("a", "ann");
    let life = i64::try_from(SqliteOptions::new(&path).limits.handle_ttl.as_secs()).unwrap();
    let handle = store.put_result(&ann, result(), at(0)).await.unwrap();
    let is_there = async |now| store.has_result(&ann, &handle, at(now)).await.unwrap();
    for (now, expected) in [(0, true), (life - 1, true), (life, false), (life * 9, false), (1, true)] {
        assert_eq!(is_there(now).await, expected, "at {now}");
    }
    for other in [scope("b", "ann"), scope("a", "ben")] {
        assert!(!store.has_result(&other, &handle, at(1)).await.unwrap(), "{other:?}");
    }
    // As of another process.
    let mut raw = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::query("UPDATE result SET expires = expires + 1000000").execute(&mut raw).await.unwrap();
    assert_eq!((is_there(life).await, is_there(life + 1).await), (true, false));
    sqlx::query("DELETE FROM result").execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    assert!(!is_there(1).await, "it was deleted");
}

#[tokio::test]
async fn a_result_of_a_store_in_whose_place_a_copy_was_put_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("m.db"), folder.path().join("copy.db"));
    let ann = scope("a", "ann");
    let store = open(&path).await;
    store.remember(&ann, note("before"), at(0)).await.unwrap();
    store.close(SOON).await;
    fs::copy(&path, &copy).unwrap();
    let store = LazyStore::new(SqliteOptions::new(&path));
    let handle = store.put_result(&ann, result(), at(1)).await.unwrap();
    for _ in 0..2 {
        assert!(store.has_result(&ann, &handle, at(2)).await.unwrap());
    }
    fs::rename(&copy, &path).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(folder.path().join(format!("m.db{suffix}")));
    }
    // A write notices it.
    store.remember(&ann, note("nowhere"), at(3)).await.unwrap_err();
    assert!(!store.has_result(&ann, &handle, at(3)).await.unwrap());
}

/// What each way of writing leaves behind, one after the other.
async fn marks(store: &SqliteStore, what: &str) -> Vec<u64> {
    let ann = scope("a", "ann");
    let mut marks = Vec::new();
    let one = store.remember(&ann, note(&format!("{what} one")), at(1)).await.unwrap().memory;
    marks.push(store.generation(&ann).await.unwrap());
    let new = NewMemory { supersedes: Some(one.id.clone()), ..note(&format!("{what} two")) };
    store.remember(&ann, new, at(2)).await.unwrap();
    marks.push(store.generation(&ann).await.unwrap());
    let change = MemoryChange { importance: Some(0.9), ..MemoryChange::default() };
    store.update(&ann, &one.id, change, at(3)).await.unwrap();
    marks.push(store.generation(&ann).await.unwrap());
    let mut all = store.export(&ann, None, 10).await.unwrap();
    store.forget(&ann, &[one.id], at(4)).await.unwrap();
    marks.push(store.generation(&ann).await.unwrap());
    for memory in &mut all {
        memory.id = derived_id(&[what, &memory.id]);
        (memory.supersedes, memory.superseded_by) = (None, None);
        memory.content.push_str(" again");
    }
    assert_ne!(store.import(&ann, all, at(5)).await.unwrap().imported, 0);
    marks.push(store.generation(&ann).await.unwrap());
    marks
}

#[tokio::test]
async fn no_generation_comes_again_once_a_copy_is_put_in_the_place_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("m.db"), folder.path().join("copy.db"));
    let ann = scope("a", "ann");
    let store = open(&path).await;
    store.remember(&ann, note("before"), at(0)).await.unwrap();
    let before = store.generation(&ann).await.unwrap();
    store.close(SOON).await;
    fs::copy(&path, &copy).unwrap();
    let store = open(&path).await;
    let mut all = marks(&store, "lost").await;
    store.close(SOON).await;
    fs::rename(&copy, &path).unwrap();
    let store = open(&path).await;
    assert_eq!(store.generation(&ann).await.unwrap(), before, "equal memories, an equal mark");
    all.extend(marks(&store, "other").await);
    all.push(before);
    let different: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(different.len(), all.len(), "{all:?}");
}
