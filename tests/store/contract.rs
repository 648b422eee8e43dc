//! What every store must do, as checks over `&dyn Store`: one list, run against each store there is.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use serde_json::json;
use tmws::{
    embedding::Embeddings,
    limits::StoreLimits,
    revision::Era,
    scope::{ProjectId, Rights, Scope},
    store::{
        Hits, Memory, MemoryChange, MemoryFilter, MemoryQuery, NewMemory, NewTask, Order, Retrieval,
        SqliteOptions, SqliteStore, Store, StoreError, StoreStats, StoredResult, StoredTask, TaskChange,
        TaskWrite, Trust, Visibility,
    },
};

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(crate) fn scope(project: &str, principal: &str) -> Scope {
    Scope::mint(ProjectId::parse(project).unwrap(), principal, "default", None)
}

pub(crate) fn note(content: &str) -> NewMemory {
    NewMemory { content: content.into(), ..NewMemory::default() }
}

fn tagged(content: &str, tags: &[&str]) -> NewMemory {
    NewMemory { tags: tags.iter().map(ToString::to_string).collect(), ..note(content) }
}

fn seen_by(content: &str, visibility: Visibility) -> NewMemory {
    NewMemory { visibility, ..note(content) }
}

async fn stored(store: &dyn Store, scope: &Scope, new: NewMemory, second: i64) -> Memory {
    let remembered = store.remember(scope, new, at(second)).await.unwrap();
    assert!(!remembered.duplicate, "{remembered:?}");
    remembered.memory
}

async fn listed(store: &dyn Store, scope: &Scope, second: i64) -> Vec<String> {
    contents(
        store
            .list(scope, MemoryFilter { order: Order::Oldest, ..Default::default() }, at(second))
            .await
            .unwrap(),
    )
}

async fn found(store: &dyn Store, scope: &Scope, text: &str) -> Vec<String> {
    found_by(store, scope, text, Retrieval::Hybrid, MemoryFilter::default()).await
}

async fn found_by(
    store: &dyn Store,
    scope: &Scope,
    text: &str,
    by: Retrieval,
    filter: MemoryFilter,
) -> Vec<String> {
    contents(store.search(scope, MemoryQuery { text: text.into(), by, filter }, at(1_000)).await.unwrap())
}

fn contents(hits: Hits) -> Vec<String> {
    assert!(hits.hits.len() as u64 <= hits.total);
    hits.hits.into_iter().map(|hit| hit.memory.content).collect()
}

#[track_caller]
fn invalid<T: std::fmt::Debug>(result: Result<T, StoreError>) -> (&'static str, String) {
    match result {
        Err(StoreError::Invalid { field, message }) => (field, message),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[track_caller]
fn unknown_handle<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::UnknownHandle) => {}
        other => panic!("expected an unknown handle, got {other:?}"),
    }
}

pub(crate) async fn a_memory_comes_back_as_it_was_stored(store: &dyn Store) {
    let a = scope("a", "ann");
    let new = NewMemory {
        content: "  Tabs,\n\tnot spaces \u{0} 🦀 ".into(),
        tags: ["Style", " style ", "Go  Lang"].map(String::from).to_vec(),
        importance: Some(0.75),
        kind: Some(" Decision ".into()),
        visibility: Visibility::Project,
        trust: Trust::User,
        supersedes: None,
        expires: Some(at(500)),
    };
    let memory = stored(store, &a, new, 1).await;
    assert_eq!(memory.content, "  Tabs,\n\tnot spaces \u{0} 🦀 ", "content is kept to the byte");
    assert_eq!(memory.tags, ["go lang", "style"]);
    assert_eq!((memory.importance, memory.kind.as_str()), (0.75, "decision"));
    assert_eq!(
        (memory.project.as_str(), memory.principal.as_str(), memory.agent.as_str()),
        ("a", "ann", "default")
    );
    assert_eq!((memory.created, memory.updated, memory.expires), (at(1), at(1), Some(at(500))));
    assert_eq!(memory.trust, Trust::User);
    assert_eq!(memory.id.len(), 28);
    assert_eq!(store.get(&a, &memory.id, at(2)).await.unwrap(), Some(memory));
}

pub(crate) async fn defaults_are_filled_in(store: &dyn Store) {
    let memory = stored(store, &scope("a", "ann"), note("plain"), 1).await;
    assert_eq!((memory.importance, memory.kind.as_str(), memory.tags.len()), (0.5, "note", 0));
    assert_eq!((memory.visibility, memory.trust, memory.expires), (Visibility::Project, Trust::Agent, None));
}

pub(crate) async fn limits_are_exact_and_named(store: &dyn Store) {
    let a = scope("a", "ann");
    let limits = StoreLimits::default();
    let sized = |bytes| note(&"x".repeat(bytes));
    stored(store, &a, sized(limits.content_bytes_max), 1).await;
    let (field, message) = invalid(store.remember(&a, sized(limits.content_bytes_max + 1), at(1)).await);
    assert_eq!(field, "content");
    assert!(message.contains("65537") && message.contains("65536"), "{message}");
    let many = |count: usize| NewMemory { tags: (0..count).map(|n| n.to_string()).collect(), ..note("tags") };
    stored(store, &a, many(limits.tags_max), 1).await;
    assert_eq!(invalid(store.remember(&a, many(limits.tags_max + 1), at(1)).await).0, "tags");
    let long = |bytes| NewMemory { tags: vec!["t".repeat(bytes)], ..note("long tag") };
    stored(store, &a, long(limits.tag_bytes_max), 1).await;
    assert_eq!(invalid(store.remember(&a, long(limits.tag_bytes_max + 1), at(1)).await).0, "tags");
    for importance in [0.0, 1.0] {
        stored(store, &a, NewMemory { importance: Some(importance), ..note(&importance.to_string()) }, 1)
            .await;
    }
    for importance in [-0.001, 1.001, f64::NAN, f64::INFINITY] {
        let new = NewMemory { importance: Some(importance), ..note("importance") };
        assert_eq!(invalid(store.remember(&a, new, at(1)).await).0, "importance");
    }
    for content in ["", " \n\t"] {
        assert_eq!(invalid(store.remember(&a, note(content), at(1)).await).0, "content");
    }
    let past = NewMemory { expires: Some(at(1)), ..note("past") };
    assert_eq!(invalid(store.remember(&a, past, at(1)).await).0, "expires");
    let kind = NewMemory { kind: Some(" ".into()), ..note("kind") };
    assert_eq!(invalid(store.remember(&a, kind, at(1)).await).0, "kind");
    let session = seen_by("no session", Visibility::Session);
    assert_eq!(invalid(store.remember(&a, session, at(1)).await).0, "visibility");
}

pub(crate) async fn equal_content_is_stored_once_for_the_same_readers(store: &dyn Store) {
    let (ann, bob) = (scope("a", "ann"), scope("a", "bob"));
    let first = stored(store, &ann, tagged("one two", &["x"]), 1).await;
    let again = NewMemory { importance: Some(0.9), ..tagged(" one\n two ", &["y"]) };
    let second = store.remember(&bob, again, at(2)).await.unwrap();
    assert!(second.duplicate);
    assert_eq!(second.memory.id, first.id);
    assert_eq!((second.memory.content.as_str(), second.memory.principal.as_str()), ("one two", "ann"));
    assert_eq!((second.memory.tags.clone(), second.memory.importance), (vec!["x".into(), "y".into()], 0.9));
    assert_eq!((second.memory.created, second.memory.updated), (at(1), at(2)));
    let lesser =
        store.remember(&ann, NewMemory { importance: Some(0.1), ..note("one two") }, at(3)).await.unwrap();
    assert_eq!(lesser.memory, second.memory, "nothing to add changes nothing");
    // Other readers, another memory.
    stored(store, &scope("b", "ann"), note("one two"), 4).await;
    for visibility in [Visibility::Agent, Visibility::Shared] {
        stored(store, &ann, seen_by("one two", visibility), 5).await;
        stored(store, &bob, seen_by("one two", visibility), 5).await;
    }
    for session in ["s1", "s2"] {
        stored(store, &ann.with_session(session), seen_by("one two", Visibility::Session), 6).await;
    }
    stored(store, &scope("personal", "ann"), note("one two"), 7).await;
    stored(store, &scope("personal", "bob"), note("one two"), 7).await;
}

pub(crate) async fn a_duplicate_never_shortens_a_life(store: &dyn Store) {
    let a = scope("a", "ann");
    let until = |content: &str, second: Option<i64>| NewMemory { expires: second.map(at), ..note(content) };
    stored(store, &a, until("later", Some(100)), 1).await;
    for (expires, expected) in
        [(Some(50), Some(at(100))), (Some(200), Some(at(200))), (None, None), (Some(9), None)]
    {
        let again = store.remember(&a, until("later", expires), at(2)).await.unwrap();
        assert!(again.duplicate);
        assert_eq!(again.memory.expires, expected);
    }
    // One that has expired is gone: equal content is new again.
    let short = stored(store, &a, until("short", Some(10)), 1).await;
    let anew = stored(store, &a, until("short", None), 10).await;
    assert_ne!(short.id, anew.id);
}

pub(crate) async fn a_memory_disappears_at_its_expiry(store: &dyn Store) {
    let a = scope("a", "ann");
    let memory = stored(store, &a, NewMemory { expires: Some(at(10)), ..tagged("brief", &["t"]) }, 1).await;
    let next =
        async |scope: &Scope, after, until| store.next_expiry(scope, at(after), at(until)).await.unwrap();
    assert_eq!(next(&a, 1, 60).await, Some(at(10)));
    assert_eq!(next(&a, 1, 10).await, Some(at(10)));
    assert_eq!(next(&a, 1, 9).await, None, "later than asked for");
    assert_eq!(next(&a, 10, 60).await, None, "it has expired");
    assert_eq!(next(&scope("b", "ann"), 1, 60).await, None, "another project's");
    assert_eq!(listed(store, &a, 9).await, ["brief"]);
    assert_eq!(listed(store, &a, 10).await, Vec::<String>::new());
    assert_eq!(store.get(&a, &memory.id, at(10)).await.unwrap(), None);
    assert_eq!(found(store, &a, "brief").await, Vec::<String>::new());
    assert_eq!(store.stats(&a, at(10)).await.unwrap(), StoreStats::default());
    assert_eq!(store.update(&a, &memory.id, MemoryChange::default(), at(10)).await.unwrap(), None);
    assert_eq!(
        store.forget(&a, std::slice::from_ref(&memory.id), at(10)).await.unwrap().unknown,
        [memory.id]
    );
    // The clock was wrong: what was acknowledged is not lost.
    assert_eq!(listed(store, &a, 9).await, ["brief"]);
}

pub(crate) async fn superseding_keeps_and_marks_the_old_one(store: &dyn Store) {
    let a = scope("a", "ann");
    let old = stored(store, &a, note("use tabs"), 1).await;
    let new =
        stored(store, &a, NewMemory { supersedes: Some(old.id.clone()), ..note("use spaces") }, 2).await;
    assert_eq!(new.supersedes.as_deref(), Some(old.id.as_str()));
    let old = store.get(&a, &old.id, at(3)).await.unwrap().unwrap();
    assert_eq!((old.superseded_by.as_deref(), old.updated), (Some(new.id.as_str()), at(2)));
    assert_eq!(listed(store, &a, 3).await, ["use spaces"]);
    let all = MemoryFilter { superseded: true, order: Order::Oldest, ..Default::default() };
    assert_eq!(contents(store.list(&a, all, at(3)).await.unwrap()), ["use tabs", "use spaces"]);
    assert_eq!(found(store, &a, "use").await, ["use spaces"]);
    let stats = store.stats(&a, at(3)).await.unwrap();
    assert_eq!((stats.memories, stats.superseded), (1, 1));
    // Superseded content may come back as a memory of its own.
    stored(store, &a, note("use tabs"), 4).await;
    let (field, message) =
        invalid(store.remember(&a, NewMemory { supersedes: Some(old.id), ..note("neither") }, at(4)).await);
    assert_eq!(field, "supersedes");
    assert!(message.contains(&new.id), "names the newer one: {message}");
}

pub(crate) async fn the_end_of_an_id_finds_it_where_it_is_seen(store: &dyn Store) {
    let (a, b) = (scope("a", "ann"), scope("b", "ann"));
    let memory = stored(store, &a, note("use tabs"), 1).await;
    let ending = &memory.id[memory.id.len() - 6..];
    assert_eq!(store.ids_ending(&a, ending, at(2)).await.unwrap(), [&*memory.id]);
    assert!(store.ids_ending(&b, ending, at(2)).await.unwrap().is_empty(), "another project's");
    for none in ["000000", &ending[1..], "%%%%%%", "______", "", &memory.id] {
        assert!(store.ids_ending(&a, none, at(2)).await.unwrap().is_empty(), "{none}");
    }
    // One that ends alike, as made by another process.
    let id = format!("m_7{}", &memory.id[3..]);
    let twin = Memory { id, content: "use spaces".to_owned(), ..memory.clone() };
    store.import(&a, vec![twin.clone()], at(3)).await.unwrap();
    assert_eq!(store.ids_ending(&a, ending, at(4)).await.unwrap(), [&*memory.id, &*twin.id]);
    // What is superseded is still there; what is forgotten is not.
    stored(store, &a, NewMemory { supersedes: Some(memory.id.clone()), ..note("use two spaces") }, 5).await;
    store.forget(&a, &[twin.id], at(6)).await.unwrap();
    assert_eq!(store.ids_ending(&a, ending, at(7)).await.unwrap(), [&*memory.id]);
    store.forget(&a, std::slice::from_ref(&memory.id), at(8)).await.unwrap();
    assert!(store.ids_ending(&a, ending, at(9)).await.unwrap().is_empty());
}

pub(crate) async fn only_a_visible_memory_of_the_project_can_be_superseded(store: &dyn Store) {
    let (ann, bob) = (scope("a", "ann"), scope("a", "bob"));
    let replacing =
        |id: &str, visibility| NewMemory { supersedes: Some(id.into()), ..seen_by("new", visibility) };
    let foreign = stored(store, &scope("b", "bob"), note("foreign"), 1).await;
    let walled = stored(store, &bob, seen_by("walled", Visibility::Agent), 1).await;
    let personal = stored(store, &scope("personal", "ann"), note("personal"), 1).await;
    let mut texts = BTreeSet::new();
    for id in [&foreign.id, &walled.id, &personal.id, "m_01ARZ3NDEKTSV4RRFFQ69G5FAV", "", "x"] {
        texts.insert(invalid(store.remember(&ann, replacing(id, Visibility::Project), at(2)).await));
    }
    assert_eq!(texts.len(), 1, "unknown and foreign answer the same: {texts:?}");
    // A wall cannot be used to hide a memory from others.
    let open = stored(store, &ann, note("open"), 1).await;
    assert_eq!(
        invalid(store.remember(&bob, replacing(&open.id, Visibility::Agent), at(2)).await).0,
        "supersedes"
    );
    let still_there: BTreeSet<_> = listed(store, &ann, 3).await.into_iter().collect();
    assert_eq!(still_there, ["open", "personal"].map(String::from).into());
    // The refused write left nothing.
    assert_eq!(store.stats(&bob, at(3)).await.unwrap().memories, 2);
}

pub(crate) async fn a_refused_write_leaves_nothing_of_itself(store: &dyn Store) {
    let a = scope("a", "ann");
    let limit = StoreLimits::default().tags_max;
    let tags = |letter: char| (0..limit).map(|n| format!("{letter}{n}")).collect::<Vec<_>>();
    let known = stored(store, &a, NewMemory { tags: tags('x'), ..note("full of tags") }, 1).await;
    let old = stored(store, &a, note("old"), 1).await;
    let generation = store.generation(&a).await.unwrap();
    // The old memory is marked before the tags turn out to be too many.
    let new = NewMemory { tags: tags('y'), supersedes: Some(old.id.clone()), ..note("full of tags") };
    assert_eq!(invalid(store.remember(&a, new, at(2)).await).0, "tags");
    assert_eq!(store.get(&a, &old.id, at(3)).await.unwrap(), Some(old));
    assert_eq!(store.get(&a, &known.id, at(3)).await.unwrap(), Some(known));
    assert_eq!(store.generation(&a).await.unwrap(), generation);
}

pub(crate) async fn a_duplicate_supersedes_too(store: &dyn Store) {
    let a = scope("a", "ann");
    let known = stored(store, &a, note("spaces"), 1).await;
    let old = stored(store, &a, note("tabs"), 2).await;
    let again = NewMemory { supersedes: Some(old.id.clone()), ..note("spaces") };
    let again = store.remember(&a, again, at(3)).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(
        (again.memory.id.as_str(), again.memory.supersedes.as_deref()),
        (known.id.as_str(), Some(old.id.as_str()))
    );
    assert_eq!(listed(store, &a, 4).await, ["spaces"]);
    // To supersede itself changes nothing.
    let itself = NewMemory { supersedes: Some(known.id.clone()), ..note("spaces") };
    assert_eq!(store.remember(&a, itself, at(5)).await.unwrap().memory, again.memory);
}

pub(crate) async fn update_changes_what_it_names(store: &dyn Store) {
    let a = scope("a", "ann");
    let memory = stored(store, &a, NewMemory { expires: Some(at(90)), ..tagged("text", &["old"]) }, 1).await;
    let change = MemoryChange {
        tags: Some(vec!["New".into()]),
        importance: Some(1.0),
        kind: Some("Fact".into()),
        expires: Some(None),
    };
    let changed = store.update(&a, &memory.id, change, at(5)).await.unwrap().unwrap();
    let expected = Memory {
        tags: vec!["new".into()],
        importance: 1.0,
        kind: "fact".into(),
        expires: None,
        updated: at(5),
        ..memory.clone()
    };
    assert_eq!(changed, expected);
    assert_eq!(store.get(&a, &memory.id, at(99)).await.unwrap(), Some(expected));
    let by_words = async |text| found_by(store, &a, text, Retrieval::Lexical, MemoryFilter::default()).await;
    assert_eq!(by_words("new").await, ["text"], "the index follows the tags");
    assert_eq!(by_words("old").await, Vec::<String>::new());
    let same = store.update(&a, &memory.id, MemoryChange::default(), at(6)).await.unwrap().unwrap();
    assert_eq!(same.updated, at(5), "no change, no new time");
    for wrong in [
        MemoryChange { importance: Some(2.0), ..Default::default() },
        MemoryChange { kind: Some(String::new()), ..Default::default() },
        MemoryChange { expires: Some(Some(at(7))), ..Default::default() },
    ] {
        invalid(store.update(&a, &memory.id, wrong, at(7)).await);
    }
    assert_eq!(
        store.update(&scope("b", "ann"), &memory.id, MemoryChange::default(), at(8)).await.unwrap(),
        None
    );
}

pub(crate) async fn forgetting_is_exact(store: &dyn Store) {
    let (a, b) = (scope("a", "ann"), scope("b", "bob"));
    let one = stored(store, &a, tagged("first fact", &["t"]), 1).await.id;
    let two = stored(store, &a, note("second fact"), 2).await.id;
    let foreign = stored(store, &b, note("foreign fact"), 3).await.id;
    let ids = [one.clone(), foreign.clone(), "nonsense".into(), one.clone()];
    let outcome = store.forget(&a, &ids, at(4)).await.unwrap();
    assert_eq!(
        (outcome.forgotten, outcome.unknown),
        (vec![one.clone()], vec![foreign.clone(), "nonsense".into()])
    );
    assert_eq!(store.get(&a, &one, at(5)).await.unwrap(), None);
    assert_eq!(found(store, &a, "fact first t").await, ["second fact"]);
    assert_eq!(found(store, &b, "fact").await, ["foreign fact"]);
    assert_eq!(store.forget(&a, std::slice::from_ref(&one), at(6)).await.unwrap().unknown.len(), 1);
    // Pages of an export go on after a forgotten memory; its id does not come back.
    assert_eq!(
        store.export(&a, Some(&one), 9).await.unwrap().into_iter().map(|m| m.id).collect::<Vec<_>>(),
        [two]
    );
    let anew = stored(store, &a, note("first fact"), 7).await;
    assert_ne!(anew.id, one);
}

pub(crate) async fn walls_hold(store: &dyn Store) {
    let agent = |project: &str, principal: &str, agent: &str| {
        Scope::mint(ProjectId::parse(project).unwrap(), principal, agent, None)
    };
    let ann = agent("a", "ann", "x").with_session("one");
    for (who, content, visibility) in [
        (&ann, "project a", Visibility::Project),
        (&ann, "agent x of ann", Visibility::Agent),
        (&ann, "session one of ann", Visibility::Session),
        (&ann, "shared of ann", Visibility::Shared),
        (&scope("personal", "ann"), "personal of ann", Visibility::Project),
        (&agent("personal", "ann", "x"), "personal agent x of ann", Visibility::Agent),
    ] {
        stored(store, who, seen_by(content, visibility), 1).await;
    }
    let all = [
        "project a",
        "agent x of ann",
        "session one of ann",
        "shared of ann",
        "personal of ann",
        "personal agent x of ann",
    ];
    for (who, expected) in [
        (ann.clone(), vec![0, 1, 2, 3, 4, 5]),
        (agent("a", "ann", "x"), vec![0, 1, 3, 4, 5]),
        (agent("a", "ann", "x").with_session("two"), vec![0, 1, 3, 4, 5]),
        (agent("a", "ann", "y").with_session("one"), vec![0, 2, 3, 4]),
        (agent("a", "bob", "x").with_session("one"), vec![0]),
        (agent("b", "ann", "x").with_session("one"), vec![3, 4, 5]),
        (agent("b", "bob", "x").with_session("one"), vec![]),
        (agent("personal", "ann", "x").with_session("one"), vec![3, 4, 5]),
        (agent("personal", "bob", "x").with_session("one"), vec![]),
    ] {
        let expected: Vec<&str> = expected.into_iter().map(|n: usize| all[n]).collect();
        assert_eq!(listed(store, &who, 2).await, expected, "list by {who:?}");
        let by_words: BTreeSet<_> =
            found(store, &who, "project agent session shared personal").await.into_iter().collect();
        assert_eq!(by_words, expected.iter().map(ToString::to_string).collect(), "search by {who:?}");
        assert_eq!(store.stats(&who, at(2)).await.unwrap().memories, expected.len() as u64);
        let exported = store.export(&who, None, 99).await.unwrap();
        assert_eq!(exported.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), expected);
    }
}

pub(crate) async fn filters_narrow_lists_and_searches(store: &dyn Store) {
    let a = scope("a", "ann");
    for (n, (tags, kind, importance)) in [
        (vec!["x"], "note", 0.1),
        (vec!["x", "y"], "fact", 0.5),
        (vec!["y"], "fact", 0.9),
        (vec![], "todo", 0.9),
    ]
    .into_iter()
    .enumerate()
    {
        let new = NewMemory {
            importance: Some(importance),
            kind: Some(kind.into()),
            ..tagged(&format!("word {n}"), &tags)
        };
        stored(store, &a, new, 10 * i64::try_from(n).unwrap()).await;
    }
    let none = MemoryFilter { order: Order::Oldest, ..Default::default() };
    let tags =
        |tags: &[&str]| MemoryFilter { tags: tags.iter().map(ToString::to_string).collect(), ..none.clone() };
    for (filter, expected) in [
        (none.clone(), vec![0, 1, 2, 3]),
        (tags(&["X"]), vec![0, 1]),
        (tags(&["x", " Y "]), vec![1]),
        (tags(&["z"]), vec![]),
        (MemoryFilter { kind: Some("FACT".into()), ..none.clone() }, vec![1, 2]),
        (MemoryFilter { importance_min: Some(0.5), ..none.clone() }, vec![1, 2, 3]),
        (MemoryFilter { since: Some(at(10)), until: Some(at(30)), ..none.clone() }, vec![1, 2]),
        (MemoryFilter { limit: 2, offset: 1, ..none.clone() }, vec![1, 2]),
        (MemoryFilter { limit: 0, ..none.clone() }, vec![]),
        (MemoryFilter { offset: 9, ..none.clone() }, vec![]),
        (MemoryFilter { order: Order::Newest, ..none.clone() }, vec![3, 2, 1, 0]),
        (MemoryFilter { order: Order::Important, ..none.clone() }, vec![3, 2, 1, 0]),
    ] {
        let expected: Vec<String> = expected.into_iter().map(|n| format!("word {n}")).collect();
        let hits = store.list(&a, filter.clone(), at(99)).await.unwrap();
        let total = if filter.limit < 20 || filter.offset > 0 { 4 } else { expected.len() as u64 };
        assert_eq!(hits.total, total, "{filter:?}");
        assert!(hits.hits.iter().all(|hit| (hit.score - 1.0).abs() < f64::EPSILON));
        assert_eq!(contents(hits), expected, "{filter:?}");
        let hits = store
            .search(
                &a,
                MemoryQuery { text: "word".into(), filter: filter.clone(), ..MemoryQuery::default() },
                at(99),
            )
            .await
            .unwrap();
        assert_eq!(hits.total, total, "{filter:?}");
        if filter.limit == 20 && filter.offset == 0 {
            let as_set: BTreeSet<_> = contents(hits).into_iter().collect();
            assert_eq!(as_set, expected.into_iter().collect(), "{filter:?}");
        }
    }
}

pub(crate) async fn search_finds_words_parts_and_beginnings(store: &dyn Store) {
    let a = scope("a", "ann");
    for content in [
        "The parser is parseHTTPFrame in src/wire/frame.rs",
        "Überlänge: café und naïve Größe",
        "日本語の設計メモ",
        "deploy with blue_green_switch on Fridays",
        "completely unrelated",
    ] {
        stored(store, &a, note(content), 1).await;
    }
    for (text, expected) in [
        ("frame", Some("The parser")),
        ("parsehttpframe", Some("The parser")),
        ("wire/frame.rs", Some("The parser")),
        ("pars", Some("The parser")),
        ("cafe naive", Some("Überlänge")),
        ("UBERLANGE", Some("Überlänge")),
        ("設計", Some("日本語")),
        ("blue_green_switch", Some("deploy")),
        ("green", Some("deploy")),
        ("frid", Some("deploy")),
        ("nowhere", None),
        ("", None),
        ("\"", None),
    ] {
        let hits = found(store, &a, text).await;
        match expected {
            Some(start) => {
                assert!(hits.first().is_some_and(|hit| hit.starts_with(start)), "{text}: {hits:?}");
            }
            None => assert!(hits.is_empty(), "{text}: {hits:?}"),
        }
    }
    let syntax = found_by(store, &a, "* OR AND NOT NEAR(", Retrieval::Lexical, MemoryFilter::default()).await;
    assert_eq!(syntax, Vec::<String>::new(), "nothing is syntax");
}

pub(crate) async fn search_ranks_more_and_rarer_words_first(store: &dyn Store) {
    let a = scope("a", "ann");
    for n in 0..20 {
        stored(store, &a, note(&format!("common filler number{n}")), 1).await;
    }
    stored(store, &a, note("common zebra"), 1).await;
    stored(store, &a, note("zebra giraffe"), 1).await;
    let by_words =
        |text: &str| MemoryQuery { text: text.into(), by: Retrieval::Lexical, ..MemoryQuery::default() };
    let query = by_words("common zebra giraffe");
    let hits = store.search(&a, query, at(2)).await.unwrap();
    assert_eq!(hits.total, 22, "any of the words");
    assert_eq!(hits.hits[0].memory.content, "zebra giraffe");
    assert_eq!(hits.hits[1].memory.content, "common zebra");
    assert!(hits.hits.is_sorted_by(|one, two| one.score >= two.score));
    assert!(hits.hits.iter().all(|hit| (0.0..=1.0).contains(&hit.score)));
    assert!((hits.hits[0].score - 2.0 / 3.0).abs() < 1e-9, "two of three words: {}", hits.hits[0].score);
    // A word that most memories have is found as well as any other.
    let query = by_words("common");
    let hits = store.search(&a, query, at(2)).await.unwrap();
    assert!((hits.hits[0].score - 1.0).abs() < 1e-9, "{}", hits.hits[0].score);
}

/// Memories that share no telling word with [`QUESTIONS`], which are about the first three.
const SAID: [&str; 6] = [
    "The automobile is parked in the underground garage",
    "Our database backups run every night at two",
    "Marie prefers tea without sugar in the morning",
    "Rust error messages are written in lower case",
    "The office closes early on Fridays",
    "The wedding anniversary is in October",
];
const QUESTIONS: [&str; 3] = [
    "where did I leave my car",
    "how frequently do we copy everything for disaster recovery",
    "what does she like to drink",
];

pub(crate) async fn search_by_meaning_finds_what_is_said_in_other_words(store: &dyn Store) {
    let a = scope("a", "ann");
    for content in SAID {
        stored(store, &a, note(content), 1).await;
    }
    for (question, answer) in QUESTIONS.iter().zip(SAID) {
        let all = MemoryFilter::default;
        let by_words = found_by(store, &a, question, Retrieval::Lexical, all()).await;
        assert_eq!(by_words, Vec::<String>::new(), "{question}: it shares no word");
        for by in [Retrieval::Vector, Retrieval::Hybrid] {
            let hits = found_by(store, &a, question, by, all()).await;
            assert_eq!(hits.first().map(String::as_str), Some(answer), "{question} {by:?}: {hits:?}");
        }
    }
    let query = MemoryQuery { text: QUESTIONS[0].into(), ..MemoryQuery::default() };
    let hits = store.search(&a, query, at(2)).await.unwrap();
    assert!(hits.hits.iter().all(|hit| hit.score > 0.0 && hit.score <= 1.0));
    assert!(hits.hits.is_sorted_by(|one, two| one.score >= two.score));
    assert!(hits.total < SAID.len() as u64, "what is far is not found: {hits:?}");
}

pub(crate) async fn unrelated_text_finds_nothing(store: &dyn Store) {
    let a = scope("a", "ann");
    for content in SAID {
        stored(store, &a, note(content), 1).await;
    }
    for text in ["quantum chromodynamics lattice", "zzyzx qwrtp", "?!", "🦀", ""] {
        for by in [Retrieval::Hybrid, Retrieval::Lexical, Retrieval::Vector] {
            let hits = found_by(store, &a, text, by, MemoryFilter::default()).await;
            assert_eq!(hits, Vec::<String>::new(), "{text} {by:?}");
        }
    }
}

pub(crate) async fn filters_narrow_searches_by_meaning(store: &dyn Store) {
    let a = scope("a", "ann");
    // Nearer ones than what the filters ask for, more than are looked at first.
    for n in 0..150 {
        stored(store, &a, note(&format!("my car is parked at place number {n}")), 1).await;
    }
    let wanted = NewMemory {
        importance: Some(0.9),
        kind: Some("fact".into()),
        expires: Some(at(5_000)),
        ..tagged("the automobile stands in the garage", &["keep"])
    };
    stored(store, &a, wanted, 50).await;
    let gone = NewMemory { expires: Some(at(900)), ..tagged("a vehicle in a garage", &["keep"]) };
    stored(store, &a, gone, 50).await;
    let all = MemoryFilter::default();
    for filter in [
        MemoryFilter { tags: vec!["keep".into()], ..all.clone() },
        MemoryFilter { kind: Some("fact".into()), ..all.clone() },
        MemoryFilter { importance_min: Some(0.8), ..all.clone() },
        MemoryFilter { since: Some(at(40)), ..all.clone() },
    ] {
        for by in [Retrieval::Vector, Retrieval::Hybrid] {
            let hits = found_by(store, &a, "where is my car", by, filter.clone()).await;
            assert_eq!(hits, ["the automobile stands in the garage"], "{by:?} {filter:?}");
        }
    }
    let limit = MemoryFilter { limit: 140, ..all.clone() };
    let hits = found_by(store, &a, "where is my car", Retrieval::Vector, limit).await;
    assert_eq!(hits.len(), 140, "as many as asked for");
    for (project, principal) in [("a", "bob"), ("b", "ann"), ("personal", "ann")] {
        let who = scope(project, principal);
        let hits = found_by(store, &who, "where is my car", Retrieval::Vector, all.clone()).await;
        assert_eq!(hits.len(), if project == "a" { 20 } else { 0 }, "{project} {principal}");
    }
}

pub(crate) async fn walls_hold_in_searches_by_meaning(store: &dyn Store) {
    let agent = |project: &str, principal: &str, agent: &str| {
        Scope::mint(ProjectId::parse(project).unwrap(), principal, agent, None)
    };
    let ann = agent("a", "ann", "x").with_session("one");
    for (content, visibility) in [
        ("the car is in the garage", Visibility::Project),
        ("the car is in the street", Visibility::Agent),
        ("the car is at the station", Visibility::Session),
        ("the car is at the airport", Visibility::Shared),
    ] {
        stored(store, &ann, seen_by(content, visibility), 1).await;
    }
    for (who, expected) in [
        (ann.clone(), 4),
        (agent("a", "ann", "x"), 3),
        (agent("a", "ann", "y").with_session("one"), 3),
        (agent("a", "bob", "x").with_session("one"), 1),
        (agent("b", "ann", "x").with_session("one"), 1),
        (agent("b", "bob", "x"), 0),
    ] {
        let query = MemoryQuery {
            text: "where did I leave the automobile".into(),
            by: Retrieval::Vector,
            ..MemoryQuery::default()
        };
        let hits = store.search(&who, query, at(2)).await.unwrap();
        assert_eq!((hits.hits.len(), hits.total), (expected, expected as u64), "{who:?}");
    }
}

pub(crate) async fn what_is_gone_is_never_found_by_meaning(store: &dyn Store) {
    let a = scope("a", "ann");
    let question = "where did I leave my car";
    let search = async |second: i64, superseded: bool| {
        let filter = MemoryFilter { superseded, ..MemoryFilter::default() };
        let query = MemoryQuery { text: question.into(), by: Retrieval::Vector, filter };
        contents(store.search(&a, query, at(second)).await.unwrap())
    };
    let first = stored(store, &a, note(SAID[0]), 1).await;
    assert_eq!(search(2, false).await, [SAID[0]]);
    let second = NewMemory {
        supersedes: Some(first.id.clone()),
        expires: Some(at(10)),
        ..note("The automobile is parked on the street")
    };
    let second = stored(store, &a, second, 3).await;
    assert_eq!(search(4, false).await, [second.content.as_str()], "superseded");
    assert_eq!(search(4, true).await.len(), 2, "superseded ones on demand");
    assert_eq!(search(10, false).await, Vec::<String>::new(), "expired");
    store.forget(&a, &[first.id, second.id], at(5)).await.unwrap();
    assert_eq!(search(6, true).await, Vec::<String>::new(), "forgotten");
    stored(store, &a, note(SAID[0]), 7).await;
    assert_eq!(search(8, true).await, [SAID[0]], "stored anew");
}

pub(crate) async fn pages_of_a_search_are_the_whole_of_it(store: &dyn Store) {
    let a = scope("a", "ann");
    for n in 0..9 {
        stored(store, &a, note(&format!("the car of neighbour {n} is in the garage")), 1).await;
        stored(store, &a, note(&format!("an automobile stands at place {n}")), 1).await;
    }
    for by in [Retrieval::Hybrid, Retrieval::Lexical, Retrieval::Vector] {
        let page = async |limit, offset| {
            let filter = MemoryFilter { limit, offset, ..MemoryFilter::default() };
            let query = MemoryQuery { text: "where is my car".into(), by, filter };
            store.search(&a, query, at(2)).await.unwrap()
        };
        let whole = page(20, 0).await;
        assert_eq!(whole.total, whole.hits.len() as u64, "{by:?}");
        let mut pages = Vec::new();
        for offset in (0..20).step_by(4) {
            let page = page(4, offset).await;
            assert_eq!(page.total, whole.total, "{by:?} from {offset}");
            pages.extend(page.hits.into_iter().map(|hit| hit.memory));
        }
        assert_eq!(pages, whole.hits.into_iter().map(|hit| hit.memory).collect::<Vec<_>>(), "{by:?}");
    }
}

pub(crate) async fn what_was_recalled_is_noted_and_changes_nothing_else(store: &dyn Store) {
    let (a, b) = (scope("a", "ann"), scope("b", "bob"));
    let memory = stored(store, &a, note("recalled"), 1).await;
    let other = stored(store, &a, note("never recalled"), 1).await;
    assert_eq!(memory.recalled, None);
    let generation = store.generation(&a).await.unwrap();
    let ids = [memory.id.clone(), "m_x".into(), String::new(), memory.id.clone()];
    store.recalled(&a, &ids, at(100)).await.unwrap();
    store.recalled(&a, &[], at(100)).await.unwrap();
    store.recalled(&b, std::slice::from_ref(&other.id), at(100)).await.unwrap();
    let noted = Memory { recalled: Some(at(100)), ..memory.clone() };
    assert_eq!(store.get(&a, &memory.id, at(101)).await.unwrap(), Some(noted.clone()));
    assert_eq!(store.get(&a, &other.id, at(101)).await.unwrap(), Some(other));
    assert_eq!(store.generation(&a).await.unwrap(), generation);
    // To about a minute, and never back.
    for (second, expected) in [(50, 100), (110, 100), (300, 300), (200, 300)] {
        store.recalled(&a, std::slice::from_ref(&memory.id), at(second)).await.unwrap();
        let got = store.get(&a, &memory.id, at(301)).await.unwrap().unwrap();
        assert_eq!(got.recalled, Some(at(expected)), "at {second}");
        assert_eq!(got.updated, memory.updated);
    }
    let exported = store.export(&a, None, 9).await.unwrap();
    assert_eq!(exported[0].recalled, Some(at(300)));
    store.forget(&a, std::slice::from_ref(&memory.id), at(302)).await.unwrap();
    store.recalled(&a, &[memory.id], at(900)).await.unwrap();
    let (_folder, elsewhere) = sqlite().await;
    elsewhere.import(&a, exported.clone(), at(1)).await.unwrap();
    assert_eq!(elsewhere.export(&a, None, 9).await.unwrap(), exported, "an import keeps it");
}

pub(crate) async fn what_is_stored_has_its_vector_at_once(store: &dyn Store) {
    let a = scope("a", "ann");
    // Whoever stores first may have to wait for the model; the store sees to what it did not wait for.
    Embeddings::builtin().embed(vec![String::new()]).await.unwrap();
    for content in SAID {
        stored(store, &a, note(content), 1).await;
    }
    let progress = store.embedding().await.unwrap();
    assert_eq!(progress.model.map(|model| model.name), Some(tmws::embedding::IDENTITY.name));
    assert_eq!((progress.embedded, progress.memories), (6, 6));
}

pub(crate) async fn similar_memories_are_told(store: &dyn Store) {
    let a = scope("a", "ann");
    let old = stored(store, &a, note("the deploy target is the staging cluster in Oslo"), 1).await;
    stored(store, &a, note("something else entirely about gardening"), 1).await;
    stored(store, &scope("b", "ann"), note("the deploy target is the staging cluster in Rome"), 1).await;
    let new = note("the deploy target is the staging cluster in Bergen");
    let remembered = store.remember(&a, new, at(2)).await.unwrap();
    assert_eq!(remembered.similar, [old.id]);
}

pub(crate) async fn every_write_that_a_scope_may_notice_changes_its_generation(store: &dyn Store) {
    let (a, b) = (scope("a", "ann"), scope("b", "ann"));
    let (bob, personal) = (scope("b", "bob"), scope("personal", "ann"));
    let of = async |scope: &Scope| store.generation(scope).await.unwrap();
    let all = async || [of(&a).await, of(&b).await, of(&bob).await];
    let changed = |one: [u64; 3], two: [u64; 3]| [one[0] != two[0], one[1] != two[1], one[2] != two[2]];
    let before = all().await;
    let memory = stored(store, &a, note("one"), 1).await;
    assert_eq!(changed(before, all().await), [true, false, false], "remember");
    let before = all().await;
    store.remember(&a, note("one"), at(2)).await.unwrap();
    assert_eq!(changed(before, all().await), [false; 3], "a duplicate with nothing new");
    let before = all().await;
    store
        .update(&a, &memory.id, MemoryChange { importance: Some(0.7), ..Default::default() }, at(3))
        .await
        .unwrap();
    assert_eq!(changed(before, all().await), [true, false, false], "update");
    let before = all().await;
    store.forget(&a, &[memory.id], at(4)).await.unwrap();
    assert_eq!(changed(before, all().await), [true, false, false], "forget");
    let before = all().await;
    stored(store, &personal, note("mine"), 5).await;
    assert_eq!(changed(before, all().await), [true, true, false], "personal");
    let before = all().await;
    stored(store, &a, seen_by("everywhere", Visibility::Shared), 6).await;
    assert_eq!(changed(before, all().await), [true, true, false], "shared");
    let before = all().await;
    invalid(store.remember(&a, note(""), at(7)).await);
    store.forget(&a, &["m_x".into()], at(7)).await.unwrap();
    store.open_session(&a, at(7)).await.unwrap();
    assert_eq!(changed(before, all().await), [false; 3], "nothing written to memory");
}

pub(crate) async fn a_session_matters_where_it_has_memories_of_its_own(store: &dyn Store) {
    let of = |project, principal, session| scope(project, principal).with_session(session);
    let one = of("a", "ann", "one");
    let all = [of("a", "ann", "two"), of("b", "ann", "one"), of("a", "bob", "one"), scope("a", "ann")];
    assert!(!store.mark(&one).await.unwrap().has_session);
    stored(store, &one, note("for everybody"), 1).await;
    assert!(!store.mark(&one).await.unwrap().has_session);
    stored(store, &one, seen_by("for me", Visibility::Session), 2).await;
    let mark = store.mark(&one).await.unwrap();
    assert!(mark.has_session);
    assert_eq!(mark.generation, store.generation(&one).await.unwrap());
    for other in all {
        assert!(!store.mark(&other).await.unwrap().has_session, "{other:?}");
    }
}

pub(crate) async fn an_export_imported_elsewhere_is_equal(store: &dyn Store) {
    let ann = scope("a", "ann").with_session("one");
    for n in 0..7 {
        stored(store, &ann, tagged(&format!("memory {n}\nwith \"quotes\" and ü"), &["t", "u"]), n).await;
    }
    let old = stored(store, &ann, note("old"), 8).await;
    stored(store, &ann, NewMemory { supersedes: Some(old.id), ..note("new") }, 9).await;
    for visibility in [Visibility::Agent, Visibility::Session, Visibility::Shared] {
        stored(store, &ann, NewMemory { expires: Some(at(999)), ..seen_by("walled", visibility) }, 10).await;
    }
    stored(store, &scope("personal", "ann"), note("personal"), 11).await;
    stored(store, &scope("a", "bob"), note("by bob"), 12).await;
    let mut exported = Vec::new();
    loop {
        let page = store.export(&ann, exported.last().map(|m: &Memory| m.id.as_str()), 4).await.unwrap();
        if page.is_empty() {
            break;
        }
        exported.extend(page);
    }
    assert_eq!(exported.len(), 14);
    let lines: Vec<String> = exported.iter().map(|m| serde_json::to_string(m).unwrap()).collect();
    assert!(lines.iter().all(|line| !line.contains('\n')), "one line each");
    let read: Vec<Memory> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (_folder, other) = sqlite().await;
    let report = other.import(&ann, read.clone(), at(20)).await.unwrap();
    assert_eq!((report.imported, report.skipped, report.conflicts.len()), (14, 0, 0));
    assert_eq!(other.export(&ann, None, 99).await.unwrap(), exported);
    assert_eq!(other.stats(&ann, at(20)).await.unwrap(), store.stats(&ann, at(20)).await.unwrap());
    let hits = other
        .search(
            &ann,
            MemoryQuery { text: "quotes".into(), by: Retrieval::Lexical, ..Default::default() },
            at(20),
        )
        .await
        .unwrap();
    assert_eq!(hits.total, 7, "the index came along");
    let again = other.import(&ann, read, at(21)).await.unwrap();
    assert_eq!((again.imported, again.skipped, again.conflicts.len()), (0, 14, 0));
}

pub(crate) async fn an_import_leaves_alone_what_is_there_and_refuses_what_is_foreign(store: &dyn Store) {
    let ann = scope("a", "ann");
    let memory = stored(store, &ann, note("kept"), 1).await;
    let gone = stored(store, &ann, note("forgotten"), 1).await;
    store.forget(&ann, std::slice::from_ref(&gone.id), at(2)).await.unwrap();
    let changed = Memory { content: "changed".into(), ..memory.clone() };
    let report = store.import(&ann, vec![changed, gone.clone()], at(3)).await.unwrap();
    assert_eq!(report.conflicts, [memory.id.clone(), gone.id], "what was forgotten stays forgotten");
    assert_eq!(listed(store, &ann, 4).await, ["kept"]);
    let fresh =
        Memory { id: "m_01ARZ3NDEKTSV4RRFFQ69G5FAV".into(), content: "fresh".into(), ..memory.clone() };
    for foreign in [
        Memory { project: "b".into(), ..memory.clone() },
        Memory { project: "personal".into(), principal: "bob".into(), ..memory.clone() },
        Memory { visibility: Visibility::Shared, principal: "bob".into(), ..memory.clone() },
        Memory { visibility: Visibility::Agent, agent: "other".into(), ..memory.clone() },
        Memory { visibility: Visibility::Session, session: Some("s".into()), ..memory.clone() },
        Memory { id: "7".into(), ..memory.clone() },
        Memory { supersedes: Some("7".into()), ..memory.clone() },
        Memory { importance: 3.0, ..memory.clone() },
    ] {
        invalid(store.import(&ann, vec![fresh.clone(), foreign], at(5)).await);
    }
    assert_eq!(listed(store, &ann, 6).await, ["kept"], "all or nothing");
    // The same id in a project that nobody here sees is no conflict, and no hint.
    let elsewhere = Memory { project: "b".into(), content: "other".into(), ..memory.clone() };
    let report = store.import(&scope("b", "bob"), vec![elsewhere], at(7)).await.unwrap();
    assert_eq!((report.imported, report.conflicts.len()), (1, 0));
    assert_eq!(store.get(&ann, &memory.id, at(8)).await.unwrap().unwrap().content, "kept");
}

pub(crate) async fn export_after_an_unknown_or_foreign_id_is_refused_alike(store: &dyn Store) {
    let foreign = stored(store, &scope("b", "bob"), note("foreign"), 1).await;
    let a = scope("a", "ann");
    stored(store, &a, note("mine"), 2).await;
    let one = invalid(store.export(&a, Some(&foreign.id), 9).await);
    assert_eq!(one, invalid(store.export(&a, Some("m_01ARZ3NDEKTSV4RRFFQ69G5FAV"), 9).await));
}

pub(crate) async fn a_session_keeps_scratch_for_whom_it_was_opened(store: &dyn Store) {
    let a = scope("a", "ann");
    let handle = store.open_session(&a, at(0)).await.unwrap();
    assert!(handle.starts_with("s_") && handle.len() == 24);
    assert!(store.session_scratch(&a, &handle, at(1)).await.unwrap().is_empty());
    for (key, value) in
        [("b", json!({"n": [1, null]})), ("a", json!("x")), ("b", json!(2)), ("a", json!(null))]
    {
        store.set_session_scratch(&a, &handle, key, value, at(2)).await.unwrap();
    }
    let scratch = store.session_scratch(&a, &handle, at(3)).await.unwrap();
    assert_eq!(serde_json::Value::Object(scratch), json!({"b": 2}));
    for (who, handle) in [
        (scope("a", "bob"), handle.as_str()),
        (scope("b", "ann"), handle.as_str()),
        (scope("personal", "ann"), handle.as_str()),
        (a.clone(), "s_AAAAAAAAAAAAAAAAAAAAAA"),
        (a.clone(), ""),
    ] {
        unknown_handle(store.session_scratch(&who, handle, at(4)).await);
        unknown_handle(store.set_session_scratch(&who, handle, "k", json!(1), at(4)).await);
        assert!(!store.close_session(&who, handle, at(4)).await.unwrap());
    }
    assert!(store.close_session(&a, &handle, at(5)).await.unwrap());
    assert!(!store.close_session(&a, &handle, at(5)).await.unwrap());
    unknown_handle(store.session_scratch(&a, &handle, at(5)).await);
}

pub(crate) async fn the_end_of_a_transports_session_is_noted_for_its_scope_until_it_expires(
    store: &dyn Store,
) {
    let a = scope("a", "ann");
    assert!(!store.is_session_ended(&a, "x 1", at(0)).await.unwrap());
    store.end_session(&a, "x 1", at(10), at(0)).await.unwrap();
    // Once more changes nothing.
    store.end_session(&a, "x 1", at(90), at(1)).await.unwrap();
    assert!(store.is_session_ended(&a, "x 1", at(9)).await.unwrap());
    let other_agent = Scope::mint(a.project().clone(), "ann", "another", Some("one"));
    assert!(store.is_session_ended(&other_agent, "x 1", at(9)).await.unwrap());
    for (who, name, second) in [
        (a.clone(), "x 1", 10),
        (a.clone(), "x 2", 9),
        (a.clone(), "", 9),
        (scope("a", "bob"), "x 1", 9),
        (scope("b", "ann"), "x 1", 9),
        (scope("personal", "ann"), "x 1", 9),
    ] {
        assert!(!store.is_session_ended(&who, name, at(second)).await.unwrap(), "{name} at {second}");
    }
    // It is none of the sessions that patterns open.
    unknown_handle(store.session_scratch(&a, "x 1", at(1)).await);
    let max = i64::try_from(StoreLimits::default().handles_per_project_max).unwrap();
    let b = scope("b", "ann");
    let handle = store.open_session(&b, at(0)).await.unwrap();
    for n in 0..=max {
        store.end_session(&b, &format!("y {n}"), at(100 + n), at(1)).await.unwrap();
    }
    let is_ended = async |n: i64| store.is_session_ended(&b, &format!("y {n}"), at(2)).await.unwrap();
    assert_eq!((is_ended(0).await, is_ended(1).await, is_ended(max).await), (false, true, true));
    store.session_scratch(&b, &handle, at(2)).await.unwrap();
}

pub(crate) async fn a_session_ends_when_unused(store: &dyn Store) {
    let a = scope("a", "ann");
    let idle = i64::try_from(StoreLimits::default().session_idle.as_secs()).unwrap();
    let handle = store.open_session(&a, at(0)).await.unwrap();
    store.session_scratch(&a, &handle, at(idle - 1)).await.unwrap();
    store.session_scratch(&a, &handle, at(2 * idle - 2)).await.unwrap();
    // A clock that was set back does not end it, nor make it young again.
    store.session_scratch(&a, &handle, at(0)).await.unwrap();
    unknown_handle(store.session_scratch(&a, &handle, at(3 * idle)).await);
    unknown_handle(store.set_session_scratch(&a, &handle, "k", json!(1), at(3 * idle)).await);
}

pub(crate) async fn scratch_is_bounded(store: &dyn Store) {
    let a = scope("a", "ann");
    let handle = store.open_session(&a, at(0)).await.unwrap();
    let limit = StoreLimits::default().scratch_bytes_max;
    // {"k":"…"} has eight bytes besides the text.
    store.set_session_scratch(&a, &handle, "k", json!("x".repeat(limit - 8)), at(1)).await.unwrap();
    let (field, _) =
        invalid(store.set_session_scratch(&a, &handle, "k", json!("x".repeat(limit - 7)), at(1)).await);
    assert_eq!(field, "scratch");
    assert_eq!(
        store.session_scratch(&a, &handle, at(2)).await.unwrap()["k"].as_str().unwrap().len(),
        limit - 8
    );
    store.set_session_scratch(&a, &handle, "k", json!(null), at(3)).await.unwrap();
}

pub(crate) async fn a_result_stays_behind_its_handle_until_it_expires(store: &dyn Store) {
    let a = scope("a", "ann");
    let result = StoredResult { pattern: "p@1".into(), value: json!({"z": 1, "a": [1.5, "ü", null]}) };
    let handle = store.put_result(&a, result.clone(), at(0)).await.unwrap();
    assert!(handle.starts_with("r_") && handle.len() == 24);
    assert_eq!(store.get_result(&a, &handle, at(1)).await.unwrap(), result);
    assert_eq!(store.get_result(&a.with_session("any"), &handle, at(1)).await.unwrap(), result);
    let ttl = i64::try_from(StoreLimits::default().handle_ttl.as_secs()).unwrap();
    store.get_result(&a, &handle, at(ttl - 1)).await.unwrap();
    for (who, handle, second) in [
        (a.clone(), handle.as_str(), ttl),
        (scope("a", "bob"), handle.as_str(), 1),
        (scope("b", "ann"), handle.as_str(), 1),
        (a.clone(), "r_AAAAAAAAAAAAAAAAAAAAAA", 1),
    ] {
        unknown_handle(store.get_result(&who, handle, at(second)).await);
    }
    let limit = StoreLimits::default().result_bytes_max;
    let sized = |bytes: usize| StoredResult { pattern: "p@1".into(), value: json!("x".repeat(bytes - 2)) };
    store.put_result(&a, sized(limit), at(2)).await.unwrap();
    assert_eq!(invalid(store.put_result(&a, sized(limit + 1), at(2)).await).0, "result");
}

pub(crate) async fn a_project_keeps_a_bounded_number_of_results_and_sessions(store: &dyn Store) {
    let (a, b) = (scope("a", "ann"), scope("b", "ann"));
    let max = StoreLimits::default().handles_per_project_max;
    let result = |n: usize| StoredResult { pattern: "p@1".into(), value: json!(n) };
    let other = store.put_result(&b, result(0), at(0)).await.unwrap();
    let (mut results, mut sessions) = (Vec::new(), Vec::new());
    for n in 0..=max {
        let (put, open) = tokio::join!(store.put_result(&a, result(n), at(1)), store.open_session(&a, at(1)));
        results.push(put.unwrap());
        sessions.push(open.unwrap());
    }
    unknown_handle(store.get_result(&a, &results[0], at(2)).await);
    assert_eq!(store.get_result(&a, &results[1], at(2)).await.unwrap(), result(1));
    assert_eq!(store.get_result(&a, &results[max], at(2)).await.unwrap(), result(max));
    store.get_result(&b, &other, at(2)).await.unwrap();
    unknown_handle(store.session_scratch(&a, &sessions[0], at(2)).await);
    store.session_scratch(&a, &sessions[1], at(2)).await.unwrap();
    store.session_scratch(&a, &sessions[max], at(2)).await.unwrap();
}

fn task(id: &str, era: Era, body: i64) -> NewTask {
    NewTask { id: id.to_owned(), era, body: json!({"n": body}), expires: at(100), lease: at(10) }
}

fn change(body: i64, is_final: bool) -> TaskChange {
    TaskChange { body: json!({"n": body}), is_final, lease: at(20), only_abandoned: false }
}

pub(crate) async fn a_task_is_kept_for_its_owner_in_its_project_and_era(store: &dyn Store) {
    let a = scope("a", "ann");
    store.put_task(&a, task("t_1", Era::Legacy, 1), 9, at(0)).await.unwrap();
    store.put_task(&a, task("t_2", Era::Modern, 2), 9, at(0)).await.unwrap();
    store.put_task(&a, task("t_3", Era::Modern, 3), 9, at(0)).await.unwrap();
    let kept = StoredTask { body: json!({"n": 1}), is_final: false, lease: at(10) };
    for who in [a.clone(), a.with_session("any"), a.with_rights(Rights::PATTERN_RUN)] {
        assert_eq!(store.get_task(&who, Era::Legacy, "t_1", at(99)).await.unwrap(), Some(kept.clone()));
    }
    let bodies: Vec<_> = store.list_tasks(&a, Era::Modern, at(1)).await.unwrap();
    assert_eq!(bodies.iter().map(|task| task.body["n"].as_i64().unwrap()).collect::<Vec<_>>(), [3, 2]);
    for (who, era, id, second) in [
        (a.clone(), Era::Legacy, "t_1", 100),
        (a.clone(), Era::Modern, "t_1", 1),
        (scope("a", "bob"), Era::Legacy, "t_1", 1),
        (scope("b", "ann"), Era::Legacy, "t_1", 1),
        (a.clone(), Era::Legacy, "t_4", 1),
    ] {
        assert_eq!(store.get_task(&who, era, id, at(second)).await.unwrap(), None);
        let written = store.change_task(&who, era, id, change(7, true), at(second)).await.unwrap();
        assert_eq!(written, TaskWrite::Gone);
    }
    assert!(store.list_tasks(&scope("a", "bob"), Era::Modern, at(1)).await.unwrap().is_empty());
    assert!(store.list_tasks(&a, Era::Modern, at(100)).await.unwrap().is_empty());
    assert_eq!(store.get_task(&a, Era::Legacy, "t_1", at(1)).await.unwrap(), Some(kept));
}

pub(crate) async fn a_final_task_stays_as_it_is(store: &dyn Store) {
    let a = scope("a", "ann");
    store.put_task(&a, task("t_1", Era::Legacy, 1), 9, at(0)).await.unwrap();
    let write = async |change| store.change_task(&a, Era::Legacy, "t_1", change, at(5)).await.unwrap();
    assert_eq!(write(change(2, false)).await, TaskWrite::Written);
    let ends = tokio::join!(write(change(3, true)), write(change(4, true)));
    let kept = store.get_task(&a, Era::Legacy, "t_1", at(5)).await.unwrap().unwrap();
    assert!(kept.is_final);
    let winners = [&ends.0, &ends.1].iter().filter(|end| ***end == TaskWrite::Written).count();
    assert_eq!(winners, 1, "{ends:?}");
    for end in [ends.0, ends.1] {
        assert!(end == TaskWrite::Written || end == TaskWrite::Kept(kept.clone()));
    }
    assert_eq!(write(change(5, false)).await, TaskWrite::Kept(kept.clone()));
    assert_eq!(store.get_task(&a, Era::Legacy, "t_1", at(5)).await.unwrap(), Some(kept));
}

pub(crate) async fn a_task_is_abandoned_when_its_lease_has_ended(store: &dyn Store) {
    let a = scope("a", "ann");
    store.put_task(&a, task("t_1", Era::Modern, 1), 9, at(0)).await.unwrap();
    let abandoned = TaskChange { only_abandoned: true, ..change(2, true) };
    let write = async |second| {
        store.change_task(&a, Era::Modern, "t_1", abandoned.clone(), at(second)).await.unwrap()
    };
    let running = StoredTask { body: json!({"n": 1}), is_final: false, lease: at(10) };
    assert_eq!(write(9).await, TaskWrite::Kept(running));
    assert_eq!(write(10).await, TaskWrite::Written);
    assert!(matches!(write(11).await, TaskWrite::Kept(StoredTask { is_final: true, .. })));
}

pub(crate) async fn the_oldest_final_task_makes_room_and_no_running_one(store: &dyn Store) {
    let a = scope("a", "ann");
    let put = async |id: &str| store.put_task(&a, task(id, Era::Legacy, 1), 2, at(0)).await.unwrap();
    let is_there = async |id: &str| store.get_task(&a, Era::Legacy, id, at(1)).await.unwrap().is_some();
    store.put_task(&scope("b", "ann"), task("t_other", Era::Legacy, 1), 2, at(0)).await.unwrap();
    for id in ["t_1", "t_2", "t_3"] {
        put(id).await;
    }
    assert!(is_there("t_1").await, "it runs");
    for id in ["t_1", "t_2"] {
        store.change_task(&a, Era::Legacy, id, change(2, true), at(1)).await.unwrap();
    }
    put("t_4").await;
    let there = [is_there("t_1").await, is_there("t_2").await, is_there("t_3").await, is_there("t_4").await];
    assert_eq!(there, [false, false, true, true]);
    assert!(store.get_task(&scope("b", "ann"), Era::Legacy, "t_other", at(1)).await.unwrap().is_some());
}

pub(crate) async fn a_task_is_bounded_as_a_result_is(store: &dyn Store) {
    let a = scope("a", "ann");
    let limit = StoreLimits::default().result_bytes_max;
    let sized = |bytes: usize| json!("x".repeat(bytes - 2));
    let big = |bytes| NewTask { body: sized(bytes), ..task("t_1", Era::Legacy, 1) };
    assert_eq!(invalid(store.put_task(&a, big(limit + 1), 9, at(0)).await).0, "task");
    store.put_task(&a, big(limit), 9, at(0)).await.unwrap();
    let grown = TaskChange { body: sized(limit + 1), ..change(1, true) };
    assert_eq!(invalid(store.change_task(&a, Era::Legacy, "t_1", grown, at(1)).await).0, "task");
}

pub(crate) async fn the_state_key_is_made_once(store: &dyn Store) {
    let key = store.state_key().await.unwrap();
    assert_ne!(key, [0; 32]);
    assert_eq!(store.state_key().await.unwrap(), key);
}

pub(crate) async fn statistics_count_what_is_seen(store: &dyn Store) {
    let a = scope("a", "ann");
    for n in 0..30 {
        let tag = format!("t{n:02}");
        let kind = if n % 3 == 0 { "fact" } else { "note" };
        stored(
            store,
            &a,
            NewMemory { kind: Some(kind.into()), ..tagged(&format!("m {n}"), &["all", &tag]) },
            1,
        )
        .await;
    }
    stored(store, &scope("b", "bob"), tagged("foreign", &["foreign"]), 1).await;
    let stats = store.stats(&a, at(2)).await.unwrap();
    assert_eq!((stats.memories, stats.superseded), (30, 0));
    assert_eq!(stats.tags.len(), 20);
    assert_eq!(stats.tags[..2], [("all".to_owned(), 30), ("t00".to_owned(), 1)]);
    assert_eq!(stats.kinds, [("note".to_owned(), 20), ("fact".to_owned(), 10)]);
}

pub(crate) async fn a_clock_that_goes_back_neither_loses_nor_reorders(store: &dyn Store) {
    let a = scope("a", "ann");
    for (n, second) in [100, 5, 300, 1].into_iter().enumerate() {
        stored(store, &a, note(&format!("m{n}")), second).await;
    }
    assert_eq!(listed(store, &a, 0).await, ["m0", "m1", "m2", "m3"]);
    let ids: Vec<_> = store.export(&a, None, 9).await.unwrap().into_iter().map(|m| m.id).collect();
    assert!(ids.is_sorted(), "{ids:?}");
}

/// One list of checks, run against `$open().await`, which gives something to keep alive and a store.
macro_rules! contract {
    ($store:ident, $open:path: $($check:ident)*) => {
        mod $store {
            $(
                #[tokio::test]
                async fn $check() {
                    crate::store::contract::warm().await;
                    let (_kept, store) = $open().await;
                    crate::store::contract::$check(&*store).await;
                    tmws::store::Store::close(&*store, std::time::Duration::from_secs(5)).await;
                }
            )*
        }
    };
    ($store:ident, $open:path) => {
        $crate::store::contract::contract! { $store, $open:
            a_memory_comes_back_as_it_was_stored
            defaults_are_filled_in
            limits_are_exact_and_named
            equal_content_is_stored_once_for_the_same_readers
            a_duplicate_never_shortens_a_life
            a_memory_disappears_at_its_expiry
            superseding_keeps_and_marks_the_old_one
            the_end_of_an_id_finds_it_where_it_is_seen
            only_a_visible_memory_of_the_project_can_be_superseded
            a_refused_write_leaves_nothing_of_itself
            a_duplicate_supersedes_too
            update_changes_what_it_names
            forgetting_is_exact
            walls_hold
            filters_narrow_lists_and_searches
            search_finds_words_parts_and_beginnings
            search_ranks_more_and_rarer_words_first
            search_by_meaning_finds_what_is_said_in_other_words
            unrelated_text_finds_nothing
            filters_narrow_searches_by_meaning
            walls_hold_in_searches_by_meaning
            what_is_gone_is_never_found_by_meaning
            pages_of_a_search_are_the_whole_of_it
            what_was_recalled_is_noted_and_changes_nothing_else
            what_is_stored_has_its_vector_at_once
            similar_memories_are_told
            every_write_that_a_scope_may_notice_changes_its_generation
            a_session_matters_where_it_has_memories_of_its_own
            an_export_imported_elsewhere_is_equal
            an_import_leaves_alone_what_is_there_and_refuses_what_is_foreign
            export_after_an_unknown_or_foreign_id_is_refused_alike
            a_session_keeps_scratch_for_whom_it_was_opened
            a_session_ends_when_unused
            the_end_of_a_transports_session_is_noted_for_its_scope_until_it_expires
            scratch_is_bounded
            a_result_stays_behind_its_handle_until_it_expires
            a_project_keeps_a_bounded_number_of_results_and_sessions
            a_task_is_kept_for_its_owner_in_its_project_and_era
            a_final_task_stays_as_it_is
            a_task_is_abandoned_when_its_lease_has_ended
            the_oldest_final_task_makes_room_and_no_running_one
            a_task_is_bounded_as_a_result_is
            the_state_key_is_made_once
            statistics_count_what_is_seen
            a_clock_that_goes_back_neither_loses_nor_reorders
        }
    };
}

pub(crate) use contract;

/// Reads the table of the vectors: a memory that is stored before it is read gets its vector behind, and with it another
/// generation.
pub(crate) async fn warm() {
    tmws::embedding::ready(std::time::Duration::from_mins(1)).await;
}

/// A store in a file of its own.
pub(crate) async fn sqlite() -> (tempfile::TempDir, Arc<dyn Store>) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("tmws.db"))).await.unwrap();
    (folder, Arc::new(store))
}
