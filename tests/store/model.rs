//! The store against a model of a few lines, over random scopes and operations: whatever was done, every scope sees
//! exactly what the model says, everywhere it looks.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use proptest::{prelude::*, test_runner::TestRunner};
use tmws::{
    scope::{ProjectId, Scope},
    store::{
        MemoryChange, MemoryFilter, MemoryQuery, NewMemory, Order, Retrieval, Store, StoreError, Visibility,
    },
};

use super::contract::at;

#[derive(Clone, Debug)]
struct Remember {
    who: usize,
    text: u8,
    tags: u8,
    visibility: Visibility,
    importance: u8,
    lives: Option<i64>,
    supersedes: Option<prop::sample::Index>,
}

#[derive(Clone, Debug)]
enum Act {
    Remember(Remember),
    Update {
        who: usize,
        which: prop::sample::Index,
        tags: u8,
        lives: Option<i64>,
    },
    Forget {
        who: usize,
        which: prop::sample::Index,
    },
    /// Says that it was recalled, whether the scope sees it or not.
    Recall {
        who: usize,
        which: prop::sample::Index,
    },
    Wait(i64),
}

const PROJECTS: [&str; 3] = ["a", "b", "personal"];
const PRINCIPALS: [&str; 2] = ["ann", "bob"];
const AGENTS: [&str; 2] = ["x", "y"];
const SESSIONS: [Option<&str>; 2] = [None, Some("one")];
const SCOPES: usize = PROJECTS.len() * PRINCIPALS.len() * AGENTS.len() * SESSIONS.len();

fn scope(who: usize) -> Scope {
    let (project, rest) = (PROJECTS[who % 3], who / 3);
    let (principal, rest) = (PRINCIPALS[rest % 2], rest / 2);
    Scope::mint(ProjectId::parse(project).unwrap(), principal, AGENTS[rest % 2], SESSIONS[rest / 2])
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let visibility = prop_oneof![
        1 => Just(Visibility::Session),
        1 => Just(Visibility::Agent),
        3 => Just(Visibility::Project),
        1 => Just(Visibility::Shared)
    ];
    let lives = || prop::option::weighted(0.2, 1..6_i64);
    let remember = (
        (0..SCOPES, 0..5_u8, 0..8_u8, visibility),
        (0..3_u8, lives(), prop::option::weighted(0.3, any::<prop::sample::Index>())),
    )
        .prop_map(|((who, text, tags, visibility), (importance, lives, supersedes))| {
            Act::Remember(Remember { who, text, tags, visibility, importance, lives, supersedes })
        });
    let act = prop_oneof![
        6 => remember,
        1 => (0..SCOPES, any::<prop::sample::Index>(), 0..8_u8, lives())
            .prop_map(|(who, which, tags, lives)| Act::Update { who, which, tags, lives }),
        2 => (0..SCOPES, any::<prop::sample::Index>()).prop_map(|(who, which)| Act::Forget { who, which }),
        1 => (0..SCOPES, any::<prop::sample::Index>()).prop_map(|(who, which)| Act::Recall { who, which }),
        1 => (1..4_i64).prop_map(Act::Wait),
    ];
    prop::collection::vec(act, 1..40)
}

fn tags(bits: u8) -> BTreeSet<String> {
    (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| format!("t{bit}")).collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    id: String,
    project: String,
    principal: String,
    agent: String,
    session: Option<String>,
    visibility: Visibility,
    text: u8,
    tags: BTreeSet<String>,
    importance: u8,
    expires: Option<i64>,
    superseded: bool,
    recalled: bool,
    created: i64,
}

impl Row {
    /// Who may see it at most, and so whose generation its changes count for.
    fn audience(&self) -> (Visibility, &str) {
        match self.visibility {
            Visibility::Shared => (Visibility::Shared, &self.principal),
            _ if self.project == "personal" => (Visibility::Agent, &self.principal),
            _ => (Visibility::Project, &self.project),
        }
    }

    fn seen_by(&self, scope: &Scope) -> bool {
        let own = self.principal == scope.principal();
        let personal = self.project == "personal" && own;
        let here = self.project == scope.project().as_str() && (personal || self.project != "personal");
        match self.visibility {
            Visibility::Project => here || personal,
            Visibility::Agent => (here || personal) && own && self.agent == scope.agent(),
            Visibility::Session => {
                here && own && self.session.is_some() && self.session.as_deref() == scope.session()
            }
            Visibility::Shared => own,
        }
    }
}

#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    now: i64,
}

impl Model {
    fn alive(&self, row: &Row) -> bool {
        row.expires.is_none_or(|expires| expires > self.now)
    }

    /// What `scope` sees, in the order of storing.
    fn seen(&self, scope: &Scope) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.seen_by(scope) && self.alive(row)).collect()
    }

    fn position(&self, scope: &Scope, id: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.id == id && row.seen_by(scope) && self.alive(row))
    }

    /// What `remember` must do: refuse, or find a duplicate, or store.
    fn remember(&mut self, act: &Remember, supersedes: Option<&str>) -> Expected {
        let scope = scope(act.who);
        if act.visibility == Visibility::Session && scope.session().is_none() {
            return Expected::Refused;
        }
        let project = scope.project().as_str();
        let known = self.rows.iter().position(|row| {
            row.text == act.text
                && row.visibility == act.visibility
                && row.project == project
                && !row.superseded
                && row.seen_by(&scope)
                && self.alive(row)
        });
        let expires = act.lives.map(|seconds| self.now + seconds);
        if let Some(old) = supersedes
            && known.is_none_or(|known| self.rows[known].id != old)
        {
            let Some(old) = self.position(&scope, old) else { return Expected::Refused };
            let row = &mut self.rows[old];
            let allowed = match (row.visibility, act.visibility) {
                (Visibility::Session, _) => true,
                (Visibility::Agent, new) => new != Visibility::Session,
                (old, new) => old == new,
            };
            if row.project != project || row.superseded || !allowed {
                return Expected::Refused;
            }
            row.superseded = true;
        }
        if let Some(known) = known {
            let row = &mut self.rows[known];
            row.tags.extend(tags(act.tags));
            row.importance = row.importance.max(act.importance);
            row.expires = row.expires.zip(expires).map(|(one, other)| one.max(other));
            return Expected::Duplicate(row.id.clone());
        }
        self.rows.push(Row {
            id: String::new(),
            project: project.into(),
            principal: scope.principal().into(),
            agent: scope.agent().into(),
            session: (act.visibility == Visibility::Session).then(|| scope.session().unwrap().to_owned()),
            visibility: act.visibility,
            text: act.text,
            tags: tags(act.tags),
            importance: act.importance,
            expires,
            superseded: false,
            recalled: false,
            created: self.now,
        });
        Expected::Stored
    }
}

enum Expected {
    Refused,
    Duplicate(String),
    Stored,
}

const WORDS: [&str; 5] = ["alpha", "beta", "gamma", "delta", "epsilon"];

fn content(text: u8) -> String {
    format!("{} everywhere", WORDS[usize::from(text)])
}

fn time(second: i64) -> Timestamp {
    at(second)
}

/// Does `act` to both and compares the answers.
async fn perform(store: &dyn Store, model: &mut Model, ids: &mut Vec<String>, act: &Act) {
    let pick =
        |ids: &[String], which: &prop::sample::Index| (!ids.is_empty()).then(|| which.get(ids).clone());
    match act {
        Act::Wait(seconds) => model.now += seconds,
        Act::Remember(act) => {
            let supersedes = act.supersedes.as_ref().and_then(|which| pick(ids, which));
            let new = NewMemory {
                content: content(act.text),
                tags: tags(act.tags).into_iter().collect(),
                importance: Some(f64::from(act.importance) / 2.0),
                visibility: act.visibility,
                supersedes: supersedes.clone(),
                expires: act.lives.map(|seconds| time(model.now + seconds)),
                ..NewMemory::default()
            };
            let now = time(model.now);
            let expected = model.remember(act, supersedes.as_deref());
            match (expected, store.remember(&scope(act.who), new, now).await) {
                (Expected::Refused, Err(StoreError::Invalid { .. })) => {}
                (Expected::Duplicate(id), Ok(remembered)) => {
                    assert!(remembered.duplicate);
                    assert_eq!(remembered.memory.id, id);
                }
                (Expected::Stored, Ok(remembered)) => {
                    assert!(!remembered.duplicate);
                    let seen: BTreeSet<_> = model.seen(&scope(act.who)).iter().map(|row| &row.id).collect();
                    assert!(
                        remembered.similar.iter().all(|id| seen.contains(id)),
                        "similar ones are visible"
                    );
                    model.rows.last_mut().unwrap().id.clone_from(&remembered.memory.id);
                    ids.push(remembered.memory.id);
                }
                (_, answer) => panic!("{act:?}: {answer:?}"),
            }
        }
        Act::Update { who, which, tags: bits, lives } => {
            let Some(id) = pick(ids, which) else { return };
            let change = MemoryChange {
                tags: Some(tags(*bits).into_iter().collect()),
                expires: Some(lives.map(|seconds| time(model.now + seconds))),
                ..MemoryChange::default()
            };
            let answer = store.update(&scope(*who), &id, change, time(model.now)).await.unwrap();
            let position = model.position(&scope(*who), &id);
            assert_eq!(answer.is_some(), position.is_some());
            if let Some(position) = position {
                let expires = lives.map(|seconds| model.now + seconds);
                model.rows[position].tags = tags(*bits);
                model.rows[position].expires = expires;
            }
        }
        Act::Recall { who, which } => {
            let Some(id) = pick(ids, which) else { return };
            store.recalled(&scope(*who), std::slice::from_ref(&id), time(model.now)).await.unwrap();
            if let Some(position) = model.position(&scope(*who), &id) {
                model.rows[position].recalled = true;
            }
        }
        Act::Forget { who, which } => {
            let Some(id) = pick(ids, which) else { return };
            let answer =
                store.forget(&scope(*who), std::slice::from_ref(&id), time(model.now)).await.unwrap();
            let position = model.position(&scope(*who), &id);
            assert_eq!(
                (answer.forgotten.len(), answer.unknown.len()),
                if position.is_some() { (1, 0) } else { (0, 1) }
            );
            if let Some(position) = position {
                model.rows.remove(position);
            }
        }
    }
}

/// Compares everything that a scope can look at.
async fn compare(store: &dyn Store, model: &Model, ids: &[String], who: usize) {
    let scope = &scope(who);
    let now = time(model.now);
    let seen = model.seen(scope);
    let live: Vec<&Row> = seen.iter().copied().filter(|row| !row.superseded).collect();
    let of = |rows: &[&Row]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
    let filter = MemoryFilter { order: Order::Oldest, limit: 1_000, ..MemoryFilter::default() };

    let all = MemoryFilter { superseded: true, ..filter.clone() };
    for (filter, expected) in [(filter.clone(), &live), (all, &seen)] {
        let hits = store.list(scope, filter.clone(), now).await.unwrap();
        assert_eq!(hits.total, expected.len() as u64);
        assert_eq!(hits.hits.iter().map(|hit| hit.memory.id.clone()).collect::<Vec<_>>(), of(expected));
        for (hit, row) in hits.hits.iter().zip(expected) {
            let memory = &hit.memory;
            assert_eq!(memory.content, content(row.text));
            assert_eq!(memory.tags, row.tags.iter().cloned().collect::<Vec<_>>());
            assert!((memory.importance - f64::from(row.importance) / 2.0).abs() < f64::EPSILON);
            assert_eq!(memory.expires, row.expires.map(time));
            assert_eq!(memory.superseded_by.is_some(), row.superseded);
            assert!(row.recalled || memory.recalled.is_none(), "recalled by whom?");
            assert_eq!(
                (&memory.project, &memory.principal, &memory.agent),
                (&row.project, &row.principal, &row.agent)
            );
        }
        let query = MemoryQuery { text: "everywhere".into(), filter, ..MemoryQuery::default() };
        let hits = store.search(scope, query, now).await.unwrap();
        assert_eq!(hits.total, expected.len() as u64);
        let found: BTreeSet<_> = hits.hits.into_iter().map(|hit| hit.memory.id).collect();
        assert_eq!(found, of(expected).into_iter().collect());
    }
    let tagged = MemoryFilter { tags: vec!["t0".into(), "t1".into()], ..filter.clone() };
    let expected = live.iter().filter(|row| row.tags.contains("t0") && row.tags.contains("t1")).count();
    assert_eq!(store.list(scope, tagged, now).await.unwrap().total, expected as u64);
    searches_hold(store, model, who).await;

    let stats = store.stats(scope, now).await.unwrap();
    assert_eq!(stats.memories, live.len() as u64);
    assert_eq!(stats.superseded, (seen.len() - live.len()) as u64);
    for (tag, count) in stats.tags {
        assert_eq!(count, live.iter().filter(|row| row.tags.contains(&tag)).count() as u64);
    }
    let counted: u64 = stats.kinds.iter().map(|(_, count)| count).sum();
    assert_eq!(counted, live.len() as u64);
    for id in ids {
        let got = store.get(scope, id, now).await.unwrap();
        assert_eq!(got.is_some(), seen.iter().any(|row| row.id == *id), "{id}");
    }
    let exported: Vec<_> =
        store.export(scope, None, 1_000).await.unwrap().into_iter().map(|memory| memory.id).collect();
    let ever: Vec<_> = model.rows.iter().filter(|row| row.seen_by(scope)).map(|row| row.id.clone()).collect();
    assert_eq!(exported, ever);
    let mut paged: Vec<String> = Vec::new();
    loop {
        let page = store.export(scope, paged.last().map(String::as_str), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page.into_iter().map(|memory| memory.id));
    }
    assert_eq!(paged, ever);
    // A foreign place reads like one that there never was.
    let unknown = store.export(scope, Some("m_00000000000000000000000000"), 3).await.unwrap_err().to_string();
    for foreign in model.rows.iter().filter(|row| !row.seen_by(scope)).take(3) {
        let error = store.export(scope, Some(&foreign.id), 3).await.unwrap_err();
        assert_eq!(error.to_string(), unknown);
    }
}

/// What a filter leaves of the live rows, by the model.
fn narrowed<'m>(model: &'m Model, scope: &Scope, filter: &MemoryFilter) -> Vec<&'m Row> {
    let fits = |row: &&&Row| {
        (filter.superseded || !row.superseded)
            && filter.tags.iter().all(|tag| row.tags.contains(tag))
            && filter.kind.as_deref().is_none_or(|kind| kind == "note")
            && filter.importance_min.is_none_or(|least| f64::from(row.importance) / 2.0 >= least)
            && filter.since.is_none_or(|since| time(row.created) >= since)
            && filter.until.is_none_or(|until| time(row.created) < until)
    };
    model.seen(scope).iter().filter(fits).copied().collect()
}

/// However it is searched, nothing is found or counted but what the scope sees and the filter leaves; what has the words is
/// all found by words, and what says the same by meaning.
async fn searches_hold(store: &dyn Store, model: &Model, who: usize) {
    let scope = &scope(who);
    let now = time(model.now);
    let all = MemoryFilter { limit: 1_000, ..MemoryFilter::default() };
    let filters = [
        all.clone(),
        MemoryFilter { superseded: true, ..all.clone() },
        MemoryFilter { tags: vec!["t1".into()], ..all.clone() },
        MemoryFilter { importance_min: Some(0.5), since: Some(time(2)), ..all.clone() },
        MemoryFilter { until: Some(time(3)), kind: Some("note".into()), ..all.clone() },
        MemoryFilter { kind: Some("fact".into()), ..all.clone() },
        MemoryFilter { limit: 2, ..all },
    ];
    let progress = store.embedding().await.unwrap();
    let has_vectors = progress.model.is_some() && progress.embedded == progress.memories;
    // Each scope by some of the filters: it is the cases that are many.
    for filter in [who, who + 3].map(|at| filters[at % filters.len()].clone()) {
        let allowed = narrowed(model, scope, &filter);
        for by in [Retrieval::Lexical, Retrieval::Vector, Retrieval::Hybrid] {
            for text in ["delta".to_owned(), content(1), "nowhere at all".to_owned()] {
                let asked = format!("{by:?} {text:?} {filter:?}");
                let query = MemoryQuery { text: text.clone(), by, filter: filter.clone() };
                let hits = store.search(scope, query, now).await.unwrap();
                let found: BTreeSet<&str> = hits.hits.iter().map(|hit| hit.memory.id.as_str()).collect();
                assert_eq!(found.len(), hits.hits.len(), "each once: {asked}");
                for hit in &hits.hits {
                    let row = allowed.iter().find(|row| row.id == hit.memory.id);
                    let row = row.unwrap_or_else(|| panic!("{asked} found {:?}", hit.memory));
                    assert_eq!(hit.memory.content, content(row.text));
                    assert!((0.0..=1.0).contains(&hit.score), "{asked}: {}", hit.score);
                }
                assert!(hits.hits.is_sorted_by(|one, other| one.score >= other.score), "{asked}");
                assert!(hits.total <= allowed.len() as u64, "{asked} counted {}", hits.total);
                assert_eq!(found.len() as u64, hits.total.min(filter.limit as u64), "{asked}");
                let must = |row: &&&Row| match (by, text.as_str()) {
                    (Retrieval::Lexical | Retrieval::Hybrid, "delta") => row.text == 3,
                    (Retrieval::Lexical | Retrieval::Hybrid, words) => !words.starts_with("nowhere"),
                    (Retrieval::Vector, words) => has_vectors && content(row.text) == words,
                };
                let must: Vec<&str> = allowed.iter().filter(must).map(|row| row.id.as_str()).collect();
                assert!(hits.total >= must.len() as u64, "{asked} counted {}", hits.total);
                if filter.limit >= allowed.len() {
                    assert!(must.iter().all(|id| found.contains(id)), "{asked} missed some");
                }
                if by == Retrieval::Lexical {
                    assert_eq!(hits.total, must.len() as u64, "{asked}");
                }
            }
        }
    }
}

/// Does random things to a store of `open`, which gives something to keep alive and a store, and to the model; every scope
/// must see what the model says.
pub(crate) fn every_scope_sees_exactly_what_the_model_says<K>(
    cases: u32,
    open: impl AsyncFn() -> (K, Arc<dyn Store>),
) {
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(super::contract::warm());
    let outcome = TestRunner::new(config).run(&acts(), |acts| {
        runtime.block_on(async {
            let (_kept, store) = open().await;
            run(&*store, &acts).await;
            store.close(Duration::from_secs(5)).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

async fn run(store: &dyn Store, acts: &[Act]) {
    let (mut model, mut ids) = (Model::default(), Vec::new());
    let mut before = views(store, &model).await;
    let mut known: Vec<BTreeSet<u64>> = before.iter().map(|view| BTreeSet::from([view.0])).collect();
    for act in acts {
        let rows = model.rows.clone();
        perform(store, &mut model, &mut ids, act).await;
        let after = views(store, &model).await;
        let changed: Vec<&Row> = rows
            .iter()
            .filter(|row| !model.rows.contains(row))
            .chain(model.rows.iter().filter(|row| !rows.contains(row)))
            .collect();
        for (who, (before, after)) in before.iter().zip(&after).enumerate() {
            let is_new = known[who].insert(after.0);
            assert_eq!(is_new, before.0 != after.0, "a generation came again");
            if !matches!(act, Act::Wait(_) | Act::Recall { .. }) {
                assert!(
                    before.0 != after.0 || before.1 == after.1,
                    "a change without a new generation: {act:?}"
                );
            }
            let scope = scope(who);
            let noticed = changed.iter().any(|row| match row.audience() {
                (Visibility::Project, project) => project == scope.project().as_str(),
                (_, principal) => principal == scope.principal(),
            });
            let may_move = noticed && !matches!(act, Act::Wait(_) | Act::Recall { .. });
            assert!(may_move || before.0 == after.0, "{act:?} hints at something to {scope:?}");
        }
        before = after;
    }
    for who in 0..SCOPES {
        compare(store, &model, &ids, who).await;
    }
}

/// For each scope, its generation and what it sees.
async fn views(store: &dyn Store, model: &Model) -> Vec<(u64, Vec<Row>)> {
    let mut views = Vec::new();
    for who in 0..SCOPES {
        let scope = scope(who);
        let generation = store.generation(&scope).await.unwrap();
        views.push((generation, model.seen(&scope).into_iter().cloned().collect()));
    }
    views
}
