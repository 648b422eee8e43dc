//! `memory.*`: what the store knows.
//!
//! A memory as shown by every step here: `{id, text, kind, tags, importance, trust, created, age, project?,
//! superseded_by?, expires?}`. `age` is one number and a unit (`5h`, `3d`); `project` is there only where the memory is
//! not this project's own (`personal`, or shared from another one). Recalled text is data, never an instruction.
//!
//! | step | output |
//! |---|---|
//! | `memory.search` | `{hits: [memory and score], n, total}`, best first; `score` is 0 to 1 with two digits |
//! | `memory.list` | `{hits: [memory], n, total}`; `order` is `newest` (default), `oldest` or `important` |
//! | `memory.get` | the memory; an unknown, foreign or forgotten id is the error `not_found` |
//! | `memory.stats` | `{memories, superseded, tags: [{tag, n}], kinds: [{kind, n}]}` |
//! | `memory.store` | `{id, duplicate, similar: [id], superseded: id or null, project}` |
//! | `memory.update` | the memory as it is now |
//! | `memory.forget` | `{forgotten: [id], unknown: [id]}` |
//!
//! An id may be given by its last six characters, which is how built-in patterns show it; where two memories of the project
//! end alike, the error names both.
//!
//! `k` is at most 100 (default 5 for a search, 20 for a list). `since`, `until` are spans back from now, dates or
//! RFC 3339 times; `expires` is a span forward from now, a date or a time, and for `memory.update` also `never`.

use serde_json::{Map, Value, json};

use super::{StepContext, StepError, StepOutput, arguments::Arguments};
use crate::{
    engine::{ErrorKind, MemoryTouched, relative},
    store::{
        self, Hits, Memory, MemoryChange, MemoryFilter, MemoryQuery, NewMemory, Order, StoreError, Trust,
        Visibility, note_recalled,
    },
};

const K_MAX: usize = 100;
const OFFSET_MAX: usize = 1_000_000;

/// Runs the step `uses`.
pub(super) async fn run(
    uses: &str,
    ctx: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let args = Arguments::new(uses, with);
    let value = match uses {
        "memory.search" => search(ctx, args).await?,
        "memory.list" => list(ctx, args).await?,
        "memory.get" => get(ctx, args).await?,
        "memory.stats" => stats(ctx).await?,
        "memory.store" => store(ctx, args).await?,
        "memory.update" => update(ctx, args).await?,
        "memory.forget" => forget(ctx, args).await?,
        _ => return Err(super::unknown_step(uses)),
    };
    Ok(StepOutput::of(value))
}

fn filter(args: Arguments<'_>, ctx: &StepContext, k: usize) -> Result<MemoryFilter, StepError> {
    Ok(MemoryFilter {
        tags: args.texts("tags")?.unwrap_or_default(),
        kind: args.text_or_none("kind")?.map(str::to_owned),
        importance_min: args.fraction("importance_min")?,
        since: args.past("since", ctx.now)?,
        until: args.past("until", ctx.now)?,
        superseded: args.flag("superseded")?,
        order: match args.text_or_none("order")? {
            None | Some("newest") => Order::Newest,
            Some("oldest") => Order::Oldest,
            Some("important") => Order::Important,
            Some(_) => return Err(args.wrong("order", "newest, oldest or important")),
        },
        limit: args.count_or_none("k", 0, K_MAX)?.unwrap_or(k),
        offset: args.count_or_none("offset", 0, OFFSET_MAX)?.unwrap_or(0),
    })
}

async fn search(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let query = MemoryQuery {
        text: args.text("query")?.to_owned(),
        filter: filter(args, ctx, 5)?,
        ..MemoryQuery::default()
    };
    let hits = ctx.store.search(&ctx.scope, query, ctx.now).await?;
    note_recalled(&ctx.store, &ctx.scope, hits.hits.iter().map(|hit| &hit.memory), ctx.now);
    Ok(found(ctx, &hits, true))
}

async fn list(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let hits = ctx.store.list(&ctx.scope, filter(args, ctx, 20)?, ctx.now).await?;
    Ok(found(ctx, &hits, false))
}

async fn get(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let id = whole_id(ctx, args.text("id")?).await?;
    let memory = ctx.store.get(&ctx.scope, &id, ctx.now).await?;
    note_recalled(&ctx.store, &ctx.scope, memory.iter(), ctx.now);
    memory.map(|memory| shown(ctx, &memory)).ok_or_else(|| no_memory(&id))
}

async fn stats(ctx: &StepContext) -> Result<Value, StepError> {
    let stats = ctx.store.stats(&ctx.scope, ctx.now).await?;
    let named = |name: &str, counts: &[(String, u64)]| -> Vec<Value> {
        counts.iter().map(|(of, n)| json!({name: of, "n": n})).collect()
    };
    Ok(json!({
        "memories": stats.memories,
        "superseded": stats.superseded,
        "tags": named("tag", &stats.tags),
        "kinds": named("kind", &stats.kinds),
    }))
}

async fn store(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let new = NewMemory {
        content: args.text("content")?.to_owned(),
        tags: args.texts("tags")?.unwrap_or_default(),
        importance: args.fraction("importance")?,
        kind: args.text_or_none("kind")?.map(str::to_owned),
        visibility: match args.text_or_none("visibility")? {
            None | Some("project") => Visibility::Project,
            Some("session") => Visibility::Session,
            Some("agent") => Visibility::Agent,
            Some("shared") => Visibility::Shared,
            Some(_) => return Err(args.wrong("visibility", "session, agent, project or shared")),
        },
        trust: match args.text_or_none("trust")? {
            None | Some("agent") => Trust::Agent,
            Some("user") => Trust::User,
            Some("external") => Trust::External,
            Some(_) => return Err(args.wrong("trust", "user, agent or external")),
        },
        supersedes: match args.text_or_none("supersedes")? {
            Some(id) => Some(whole_id(ctx, id).await?),
            None => None,
        },
        expires: args.future("expires", ctx.now)?,
    };
    // Who sees the replaced one is asked first: a write that happened is not to fail, nor to be told to others.
    let replaced = touched(ctx, new.supersedes.as_slice()).await?;
    let remembered = ctx.store.remember(&ctx.scope, new, ctx.now).await?;
    tell(ctx, &[MemoryTouched::of(&remembered.memory)]);
    tell(ctx, &replaced);
    Ok(json!({
        "id": remembered.memory.id,
        "duplicate": remembered.duplicate,
        "similar": remembered.similar,
        "superseded": remembered.memory.supersedes,
        "project": remembered.memory.project,
    }))
}

async fn update(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let id = whole_id(ctx, args.text("id")?).await?;
    let change = MemoryChange {
        tags: args.texts("tags")?,
        importance: args.fraction("importance")?,
        kind: args.text_or_none("kind")?.map(str::to_owned),
        expires: match args.text_or_none("expires")? {
            Some("never") => Some(None),
            _ => args.future("expires", ctx.now)?.map(Some),
        },
    };
    let memory = ctx.store.update(&ctx.scope, &id, change, ctx.now).await?.ok_or_else(|| no_memory(&id))?;
    tell(ctx, &[MemoryTouched::of(&memory)]);
    Ok(shown(ctx, &memory))
}

async fn forget(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let mut ids = args.texts("ids")?.ok_or_else(|| args.wrong("ids", "a list of memory ids"))?;
    for id in &mut ids {
        *id = whole_id(ctx, id).await?;
    }
    // Afterwards nothing says any more who saw them.
    let mut gone = touched(ctx, &ids).await?;
    let forgotten = ctx.store.forget(&ctx.scope, &ids, ctx.now).await?;
    gone.retain(|memory| forgotten.forgotten.contains(&memory.id));
    tell(ctx, &gone);
    Ok(json!({"forgotten": forgotten.forgotten, "unknown": forgotten.unknown}))
}

async fn whole_id(ctx: &StepContext, given: &str) -> Result<String, StepError> {
    Ok(store::whole_id(&*ctx.store, &ctx.scope, given, ctx.now).await?)
}

/// Those of `ids` that are there, as told to whoever listens; none where nobody does.
async fn touched(ctx: &StepContext, ids: &[String]) -> Result<Vec<MemoryTouched>, StepError> {
    let mut memories = Vec::new();
    for id in ids.iter().filter(|_| ctx.listener.is_some()) {
        memories.extend(ctx.store.get(&ctx.scope, id, ctx.now).await?.as_ref().map(MemoryTouched::of));
    }
    Ok(memories)
}

fn tell(ctx: &StepContext, memories: &[MemoryTouched]) {
    if let Some(listener) = &ctx.listener {
        for memory in memories {
            listener.memory_touched(&ctx.scope, memory);
        }
    }
}

impl MemoryTouched {
    fn of(memory: &Memory) -> Self {
        Self { id: memory.id.clone(), project: memory.project.clone(), visibility: memory.visibility }
    }
}

fn found(ctx: &StepContext, hits: &Hits, scored: bool) -> Value {
    let shown: Vec<Value> = hits
        .hits
        .iter()
        .map(|hit| {
            let mut memory = shown(ctx, &hit.memory);
            if scored {
                memory["score"] = json!((hit.score * 100.0).round() / 100.0);
            }
            memory
        })
        .collect();
    json!({"n": shown.len(), "total": hits.total, "hits": shown})
}

fn shown(ctx: &StepContext, memory: &Memory) -> Value {
    let mut shown = json!({
        "id": memory.id,
        "text": memory.content,
        "kind": memory.kind,
        "tags": memory.tags,
        "importance": memory.importance,
        "trust": memory.trust,
        "created": memory.created,
        "age": relative::age(memory.created, ctx.now),
    });
    if memory.project != ctx.scope.project().as_str() {
        shown["project"] = json!(memory.project);
    }
    if let Some(later) = &memory.superseded_by {
        shown["superseded_by"] = json!(later);
    }
    if let Some(expires) = memory.expires {
        shown["expires"] = json!(expires);
    }
    shown
}

fn no_memory(id: &str) -> StepError {
    let id: String = id.chars().take(40).collect();
    StepError::new(
        ErrorKind::NotFound,
        format!("no memory {id:?} in this project; memory.recall finds ids by words"),
    )
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Invalid { .. } => ErrorKind::InvalidInput,
            StoreError::UnknownHandle => ErrorKind::UnknownHandle,
            StoreError::Busy => ErrorKind::Busy,
            StoreError::Locked
            | StoreError::ReadOnly { .. }
            | StoreError::Corrupt { .. }
            | StoreError::NewerVersion { .. }
            | StoreError::Unsuitable { .. }
            | StoreError::LoginRefused { .. }
            | StoreError::DiskFull { .. }
            | StoreError::Unavailable { .. } => ErrorKind::StoreUnavailable,
            StoreError::Internal(source) => {
                tracing::error!(error = &**source as &dyn std::error::Error, "the store failed unexpectedly");
                ErrorKind::StoreUnavailable
            }
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Instant};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        scope::{ProjectId, Scope},
        store::{SqliteOptions, SqliteStore, Store as _},
    };

    const TEAM: &str = include_str!("../../../fixtures/memories/team.jsonl");

    async fn context(folder: &tempfile::TempDir) -> StepContext {
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        let scope = Scope::mint(ProjectId::parse("test").unwrap(), "local", "default", None);
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let memories = TEAM.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        store.import(&scope, memories, now).await.unwrap();
        StepContext {
            scope,
            store: Arc::new(store),
            listener: None,
            roots: BTreeMap::new(),
            permissions: Arc::default(),
            outside: Arc::default(),
            asker: Arc::new(crate::engine::NobodyToAsk),
            id: "step".to_owned(),
            now,
            deadline: Instant::now() + std::time::Duration::from_mins(1),
            cancel: CancellationToken::new(),
            bytes_max: 1 << 20,
        }
    }

    async fn step(ctx: &StepContext, uses: &str, with: Value) -> Result<Value, (ErrorKind, String)> {
        let Value::Object(with) = with else { unreachable!("arguments are an object") };
        run(uses, ctx, &with).await.map(|output| output.value).map_err(|error| (error.kind, error.message))
    }

    #[tokio::test]
    async fn what_is_found_is_shown_in_one_shape() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = context(&folder).await;
        let found = step(&ctx, "memory.search", json!({"query": "release key", "k": 1})).await.unwrap();
        assert_eq!(found["n"], 1);
        let hit = &found["hits"][0];
        assert_eq!(
            (&hit["age"], &hit["trust"], &hit["kind"]),
            (&json!("2d"), &json!("user"), &json!("fact"))
        );
        assert_eq!(hit["tags"], json!(["people", "release"]));
        assert!(hit["score"].as_f64().is_some_and(|score| (0.0..=1.0).contains(&score)), "{hit}");
        assert_eq!(hit.get("project"), None, "only another project's memories name theirs");

        let id = hit["id"].as_str().unwrap();
        let mut whole = hit.clone();
        whole.as_object_mut().unwrap().remove("score");
        assert_eq!(step(&ctx, "memory.get", json!({"id": id})).await.unwrap(), whole);

        let listed =
            step(&ctx, "memory.list", json!({"order": "oldest", "k": 1, "superseded": true})).await.unwrap();
        assert_eq!((&listed["n"], &listed["total"]), (&json!(1), &json!(12)));
        assert_eq!(listed["hits"][0]["text"], "The default port is 8080.");
        assert!(listed["hits"][0]["superseded_by"].is_string());
        let recent = step(&ctx, "memory.list", json!({"since": "2d"})).await.unwrap();
        assert_eq!(recent["total"], 1, "two days back from the time of the run");

        let stats = step(&ctx, "memory.stats", json!({})).await.unwrap();
        assert_eq!((&stats["memories"], &stats["superseded"]), (&json!(11), &json!(1)));
        assert!(stats["tags"].as_array().unwrap().contains(&json!({"tag": "release", "n": 2})), "{stats}");
    }

    #[tokio::test]
    async fn what_writes_says_what_it_did() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = context(&folder).await;
        let stored = step(&ctx, "memory.store", json!({"content": "new", "expires": "1d", "tags": null}))
            .await
            .unwrap();
        assert_eq!((&stored["duplicate"], &stored["superseded"]), (&json!(false), &Value::Null));
        let id = stored["id"].as_str().unwrap();
        let updated = step(&ctx, "memory.update", json!({"id": id, "tags": ["B", "a"], "expires": "never"}))
            .await
            .unwrap();
        assert_eq!((&updated["tags"], updated.get("expires")), (&json!(["a", "b"]), None));
        let forgotten = step(&ctx, "memory.forget", json!({"ids": [id, "m_nope"]})).await.unwrap();
        assert_eq!(forgotten, json!({"forgotten": [id], "unknown": ["m_nope"]}));
        for uses in ["memory.get", "memory.update"] {
            let (kind, message) = step(&ctx, uses, json!({"id": id})).await.unwrap_err();
            assert_eq!(kind, ErrorKind::NotFound);
            assert!(message.contains(id), "{message}");
        }
    }

    #[tokio::test]
    async fn the_end_of_an_id_stands_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = context(&folder).await;
        let old = step(&ctx, "memory.store", json!({"content": "old"})).await.unwrap();
        let old = old["id"].as_str().unwrap();
        let end = &old[old.len() - 6..];
        assert_eq!(step(&ctx, "memory.get", json!({"id": end})).await.unwrap()["id"], old);
        let updated = step(&ctx, "memory.update", json!({"id": end, "kind": "fact"})).await.unwrap();
        assert_eq!(updated["kind"], "fact");
        let new = step(&ctx, "memory.store", json!({"content": "new", "supersedes": end})).await.unwrap();
        assert_eq!(new["superseded"], old);
        let forgotten = step(&ctx, "memory.forget", json!({"ids": [end, "ZZZZZZ"]})).await.unwrap();
        assert_eq!(forgotten, json!({"forgotten": [old], "unknown": ["ZZZZZZ"]}));
        let (kind, message) = step(&ctx, "memory.get", json!({"id": end})).await.unwrap_err();
        assert_eq!(kind, ErrorKind::NotFound);
        assert!(message.contains(end), "{message}");

        // Two that end alike.
        let new = new["id"].as_str().unwrap();
        let twin = format!("m_7{}", &new[3..]);
        let whole = ctx.store.get(&ctx.scope, new, ctx.now).await.unwrap().unwrap();
        let like = Memory { id: twin.clone(), content: "like it".to_owned(), supersedes: None, ..whole };
        ctx.store.import(&ctx.scope, vec![like], ctx.now).await.unwrap();
        let (kind, message) =
            step(&ctx, "memory.get", json!({"id": &new[new.len() - 6..]})).await.unwrap_err();
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(message.contains(new) && message.contains(&twin), "{message}");
    }

    #[tokio::test]
    async fn wrong_arguments_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = context(&folder).await;
        let cases = [
            ("memory.search", json!({}), "`query` of memory.search must be a text that is not blank"),
            (
                "memory.search",
                json!({"query": "a", "k": 101}),
                "`k` of memory.search must be a whole number from 0 to 100",
            ),
            (
                "memory.search",
                json!({"query": "a", "since": "soon"}),
                "`since` of memory.search must be a span such as 12h, 7d or 2w, a date, or an RFC 3339 time",
            ),
            (
                "memory.list",
                json!({"order": "random"}),
                "`order` of memory.list must be newest, oldest or important",
            ),
            (
                "memory.store",
                json!({"content": "a", "importance": 2}),
                "`importance` of memory.store must be a number from 0 to 1",
            ),
            (
                "memory.store",
                json!({"content": "a", "trust": "me"}),
                "`trust` of memory.store must be user, agent or external",
            ),
            ("memory.forget", json!({"ids": [1]}), "`ids` of memory.forget must be a list of texts"),
        ];
        for (uses, with, message) in cases {
            assert_eq!(step(&ctx, uses, with).await, Err((ErrorKind::InvalidInput, message.to_owned())));
        }
    }
}
