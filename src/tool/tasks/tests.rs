use std::{collections::BTreeMap, time::Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{serve::Found, *};
use crate::{
    protocol::{Ask, Call, CallError, CallId, Client, Notice, Reply, ServerEvent, TaskOffer},
    revision::{Era, Revision},
    scope::ProjectId,
    store::{LazyStore, SqliteOptions},
    tool::{ConnectionId, Context, Notices, Origin},
    wire::{Envelope, Frame, Method, parse_frame},
};

struct At;

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// An hour ahead of [`At`].
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::now() + jiff::SignedDuration::from_hours(1)
    }
}

struct Deaf;

impl Notices for Deaf {
    fn notify(&self, _: Notice) {}
}

fn scope(project: &str, principal: &str) -> Scope {
    Scope::mint(ProjectId::parse(project).unwrap(), principal, "default", None)
}

fn context(scope: &Scope) -> Context {
    Context {
        connection: ConnectionId(1),
        origin: Origin::default(),
        scope: scope.clone(),
        notices: Arc::new(Deaf),
        cancel: CancellationToken::new(),
        deadline: Instant::now() + Duration::from_secs(30),
    }
}

fn call(revision: Revision, task: Option<TaskOffer>) -> Call {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": revision.as_str(),
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let mut params = json!({"name": "x"});
    if revision.era() == Era::Modern {
        params["_meta"] = meta;
    }
    let frame = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let Ok(Frame::Single(Envelope::Request(request))) = parse_frame(frame.to_string().as_bytes()) else {
        panic!("no request");
    };
    let request =
        Gate::new().admit_request(revision, Method::ToolsCall, request).unwrap_or_else(|_| panic!());
    Call {
        id: CallId(1),
        request: Arc::new(request),
        client: Arc::new(Client { revision, info: None, capabilities: serde_json::Map::new() }),
        wants_progress: false,
        log_level: None,
        answers: None,
        task,
    }
}

const WANTED: Option<TaskOffer> = Some(TaskOffer::Wanted { ttl: None });
const OLD: Revision = Revision::V2025_11_25;
const NEW: Revision = Revision::V2026_07_28;

/// A registry of a process of its own on the store at `path`.
fn process(path: &std::path::Path, limits: TaskLimits) -> Arc<Tasks> {
    let store: SharedStore = Arc::new(LazyStore::new(SqliteOptions::new(path)));
    Tasks::new(limits, Some(store), Arc::new(At), broadcast::channel(64).0)
}

fn tasks(limits: TaskLimits) -> (Arc<Tasks>, broadcast::Receiver<Change>) {
    let (events, changes) = broadcast::channel(64);
    (Tasks::new(limits, None, Arc::new(At), events), changes)
}

fn result(text: &str) -> Reply {
    let Value::Object(map) = json!({"content": [{"type": "text", "text": text}]}) else { unreachable!() };
    Reply::Result(map)
}

/// Work that ends when the sender says so.
fn gated() -> (oneshot::Sender<Reply>, oneshot::Receiver<Reply>) {
    oneshot::channel()
}

async fn finished(entry: &Arc<Entry>) -> Arc<Task> {
    let mut changes = entry.watch();
    let ended = changes.wait_for(|task| task.state.is_final()).await.unwrap();
    Arc::clone(&ended)
}

#[tokio::test]
async fn a_wanted_task_is_one_at_once_and_ends_with_the_reply_of_its_work() {
    let (tasks, mut changes) = tasks(TaskLimits::default());
    let scope = scope("p", "ann");
    let (end, gate) = gated();
    let context = context(&scope);
    let reply = tasks
        .begin(&call(OLD, WANTED), &context, &TaskOptions::default(), |_| async { gate.await.unwrap() })
        .await;
    let Reply::Task(task) = reply else { panic!("{reply:?}") };
    assert_eq!(task.state, TaskState::Working);
    assert_eq!((task.id.len(), &task.id[..2]), (24, "t_"));
    // The connection is gone: the task is not.
    context.cancel.cancel();
    drop(context);
    let entry = tasks.find_here(&scope, Era::Legacy, &task.id).unwrap();
    assert_eq!(tasks.figures().running, 1);
    end.send(result("done")).unwrap();
    let Reply::Result(map) = result("done") else { unreachable!() };
    assert_eq!(finished(&entry).await.state, TaskState::Completed(map));
    let told: Vec<_> = [changes.recv().await, changes.recv().await].into_iter().map(Result::unwrap).collect();
    for change in told {
        assert_eq!(change.audience, crate::tool::Audience::Owner(scope.clone()));
        assert!(matches!(change.event, ServerEvent::TaskChanged { era: Era::Legacy, .. }));
    }
}

#[tokio::test]
async fn quick_work_is_its_own_answer_and_slow_work_becomes_a_task() {
    let (tasks, _changes) = tasks(TaskLimits::default());
    let scope = scope("p", "ann");
    let quick = tasks
        .begin(&call(NEW, Some(TaskOffer::Allowed)), &context(&scope), &TaskOptions::default(), |_| async {
            result("quick")
        })
        .await;
    assert_eq!(quick, result("quick"));
    assert_eq!(tasks.figures().begun, 0);

    let (_end, gate) = gated();
    let options = TaskOptions { grace: Some(Duration::ZERO), ..TaskOptions::default() };
    let slow = tasks
        .begin(&call(NEW, Some(TaskOffer::Allowed)), &context(&scope), &options, |_| async {
            gate.await.unwrap()
        })
        .await;
    let Reply::Task(task) = slow else { panic!("{slow:?}") };
    assert!(tasks.find_here(&scope, Era::Modern, &task.id).is_some());
}

#[tokio::test]
async fn a_call_that_is_cancelled_before_it_is_a_task_ends_its_work() {
    let (tasks, _changes) = tasks(TaskLimits::default());
    let context = context(&scope("p", "ann"));
    let (seen, saw) = oneshot::channel();
    let reply = tasks.begin(
        &call(NEW, Some(TaskOffer::Allowed)),
        &context,
        &TaskOptions::default(),
        |worker| async move {
            worker.cancel().cancelled().await;
            let _ = seen.send(());
            Reply::Error(CallError::Internal)
        },
    );
    context.cancel.cancel();
    assert_eq!(reply.await, Reply::Error(CallError::Internal));
    saw.await.unwrap();
    assert_eq!(tasks.figures().begun, 0);
}

#[tokio::test]
async fn a_task_is_there_for_its_owner_in_its_project_and_design_alone() {
    let (tasks, _changes) = tasks(TaskLimits::default());
    let owner = scope("p", "ann");
    let reply = tasks
        .begin(&call(OLD, WANTED), &context(&owner), &TaskOptions::default(), |_| std::future::pending())
        .await;
    let Reply::Task(task) = reply else { panic!("{reply:?}") };
    let unknown = tasks.find(&owner, Era::Legacy, "t_unknown").await.err();
    assert!(matches!(unknown, Some(CallError::InvalidParams(_))));
    for (scope, era) in
        [(scope("p", "bob"), Era::Legacy), (scope("q", "ann"), Era::Legacy), (owner.clone(), Era::Modern)]
    {
        assert_eq!(tasks.find(&scope, era, &task.id).await.err(), unknown);
        assert!(tasks.list(&scope, era).await.unwrap().is_empty());
    }
    assert!(
        tasks.find_here(&owner.with_session("another"), Era::Legacy, &task.id).is_some(),
        "any connection"
    );
    assert_eq!(tasks.list(&owner, Era::Legacy).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_cancelled_stays_so_whatever_its_work_replies() {
    let (tasks, _changes) = tasks(TaskLimits::default());
    let owner = scope("p", "ann");
    let reply = tasks
        .begin(&call(OLD, WANTED), &context(&owner), &TaskOptions::default(), |worker| async move {
            worker.cancel().cancelled().await;
            result("too late")
        })
        .await;
    let Reply::Task(task) = reply else { panic!("{reply:?}") };
    let entry = tasks.find_here(&owner, Era::Legacy, &task.id).unwrap();
    let Ok(Reply::Task(cancelled)) = tasks.cancel(&owner, Era::Legacy, &task.id).await else {
        panic!("not cancelled")
    };
    assert_eq!(cancelled.state, TaskState::Cancelled);
    tasks.close(Duration::from_secs(10)).await;
    assert_eq!(entry.now().state, TaskState::Cancelled);
    assert!(matches!(tasks.cancel(&owner, Era::Legacy, &task.id).await, Err(CallError::InvalidParams(_))));
    assert_eq!(tasks.figures().running, 0);
}

fn question() -> Ask {
    let Value::Object(params) =
        json!({"message": "Name?", "requestedSchema": {"type": "object", "properties": {}}})
    else {
        unreachable!()
    };
    Ask { method: Method::ElicitationCreate, params, is_optional: false }
}

#[tokio::test]
async fn questions_have_keys_of_their_own_and_are_answered_in_parts() {
    let (tasks, _changes) = tasks(TaskLimits::default());
    let owner = scope("p", "ann");
    let reply = tasks
        .begin(
            &call(NEW, Some(TaskOffer::Allowed)),
            &context(&owner),
            &TaskOptions::default(),
            |worker| async move {
                let first =
                    worker.ask(vec![("a".to_owned(), question()), ("b".to_owned(), question())]).await;
                let again = worker.ask(vec![("a".to_owned(), question())]).await;
                let mut all = first.unwrap();
                all.insert("again".to_owned(), Value::Object(again.unwrap()));
                Reply::Result(all)
            },
        )
        .await;
    let Reply::Task(task) = reply else { panic!("asking makes it a task: {reply:?}") };
    let entry = tasks.find_here(&owner, Era::Modern, &task.id).unwrap();
    let mut changes = entry.watch();
    let mut open = async |keys: &[&str]| {
        let asked = changes.wait_for(|task| {
            let open: Vec<&str> =
                super::entry::open_questions(&task.state).iter().map(|(key, _)| key.as_str()).collect();
            open == keys
        });
        asked.await.unwrap();
    };
    open(&["a", "b"]).await;
    let answer = |content: &str| json!({"action": "accept", "content": {"text": content}});
    let given = |value: Value| value.as_object().cloned().unwrap();
    let update = |value: Value| tasks.update(&entry, NEW, Some(&given(value)));
    update(json!({"b": answer("two"), "nobody": {"action": "no such"}})).unwrap();
    open(&["a"]).await;
    assert!(update(json!({"a": {"action": "no such"}})).is_err(), "answers are validated");
    update(json!({"b": answer("other"), "a": answer("one")})).unwrap();
    open(&["a-2"]).await;
    update(json!({"a": answer("old"), "a-2": answer("three")})).unwrap();
    let TaskState::Completed(result) = finished(&entry).await.state.clone() else { panic!("not completed") };
    let said: BTreeMap<_, _> =
        [("a", "one"), ("b", "two")].into_iter().map(|(key, text)| (key.to_owned(), answer(text))).collect();
    for (key, value) in said {
        assert_eq!(result[&key], value);
    }
    assert_eq!(result["again"]["a"], answer("three"));
}

#[tokio::test]
async fn there_is_room_for_so_many_and_no_more() {
    let limits = TaskLimits { running_per_principal_max: 2, running_max: 3, ..TaskLimits::default() };
    let (tasks, _changes) = tasks(limits);
    let begin = async |who: &str| {
        tasks
            .begin(
                &call(OLD, WANTED),
                &context(&scope("p", who)),
                &TaskOptions::default(),
                |worker| async move {
                    worker.cancel().cancelled().await;
                    result("ended")
                },
            )
            .await
    };
    assert!(matches!(begin("ann").await, Reply::Task(_)));
    assert!(matches!(begin("ann").await, Reply::Task(_)));
    assert!(matches!(begin("ann").await, Reply::Error(CallError::Busy { .. })));
    assert!(matches!(begin("bob").await, Reply::Task(_)));
    assert!(matches!(begin("eve").await, Reply::Error(CallError::Busy { .. })));
    assert_eq!(tasks.figures().refused, 2);
    tasks.close(Duration::from_secs(10)).await;
    assert_eq!(tasks.figures().running, 0);
    assert_eq!(tasks.figures().ended, [0, 0, 3]);
    assert!(matches!(begin("eve").await, Reply::Error(CallError::Busy { .. })), "no task begins any more");
}

#[tokio::test]
async fn the_oldest_that_has_ended_makes_room() {
    let (tasks, _changes) = tasks(TaskLimits { kept_max: 2, ..TaskLimits::default() });
    let owner = scope("p", "ann");
    let mut ids = Vec::new();
    for _ in 0..3 {
        let reply = tasks
            .begin(&call(OLD, WANTED), &context(&owner), &TaskOptions::default(), |_| async { result("x") })
            .await;
        let Reply::Task(task) = reply else { panic!("{reply:?}") };
        finished(&tasks.find_here(&owner, Era::Legacy, &task.id).unwrap()).await;
        ids.push(task.id);
    }
    assert!(tasks.find_here(&owner, Era::Legacy, &ids[2]).is_some());
    assert_eq!(tasks.list(&owner, Era::Legacy).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_wish_for_a_shorter_life_is_granted_and_for_a_longer_one_not() {
    let (tasks, _changes) = tasks(TaskLimits::default());
    for (wish, told) in [(10, 10), (0, 1), (1_000_000, 3_600)] {
        let offer = Some(TaskOffer::Wanted { ttl: Some(Duration::from_secs(wish)) });
        let reply = tasks
            .begin(&call(OLD, offer), &context(&scope("p", "ann")), &TaskOptions::default(), |_| async {
                result("x")
            })
            .await;
        let Reply::Task(task) = reply else { panic!("{reply:?}") };
        assert_eq!(task.ttl, Some(Duration::from_secs(told)));
    }
}

/// A caller's `method` about task `id`.
fn about(method: Method, id: &str) -> Call {
    let params = json!({"taskId": id});
    let frame = json!({"jsonrpc": "2.0", "id": 1, "method": method.as_str(), "params": params});
    let Ok(Frame::Single(Envelope::Request(request))) = parse_frame(frame.to_string().as_bytes()) else {
        panic!("no request");
    };
    let request = Gate::new().admit_request(OLD, method, request).unwrap_or_else(|_| panic!());
    Call { request: Arc::new(request), task: None, ..call(OLD, WANTED) }
}

#[tokio::test]
async fn who_waits_for_a_task_that_expires_is_told() {
    let (tasks, mut changes) = tasks(TaskLimits::default());
    let owner = scope("p", "ann");
    let offer = Some(TaskOffer::Wanted { ttl: Some(Duration::from_secs(1)) });
    // Work that ends for nobody.
    let reply = tasks
        .begin(&call(OLD, offer), &context(&owner), &TaskOptions::default(), |_| std::future::pending())
        .await;
    let Reply::Task(task) = reply else { panic!("{reply:?}") };
    let told = tasks.serve(about(Method::TasksResult, &task.id), context(&owner)).await;
    let Reply::Error(CallError::InvalidParams(why)) = told else { panic!("{told:?}") };
    assert!(why.contains("the time for which it was to be kept was over"), "{why}");
    let mut last = changes.recv().await.unwrap();
    while let Ok(change) = changes.try_recv() {
        last = change;
    }
    assert!(
        matches!(last.event, ServerEvent::TaskChanged { task, .. } if task.state == TaskState::Cancelled)
    );
    tasks.close(Duration::from_secs(10)).await;
    assert_eq!(tasks.figures(), TaskFigures { begun: 1, ended: [0, 0, 1], ..TaskFigures::default() });
}

#[tokio::test]
async fn work_that_panics_fails_its_task() {
    let (tasks, _changes) = tasks(TaskLimits::default());
    let owner = scope("p", "ann");
    let reply = tasks
        .begin(&call(OLD, WANTED), &context(&owner), &TaskOptions::default(), |_| async {
            panic!("as it must")
        })
        .await;
    let Reply::Task(task) = reply else { panic!("{reply:?}") };
    let ended = finished(&tasks.find_here(&owner, Era::Legacy, &task.id).unwrap()).await;
    assert_eq!(ended.state, TaskState::Failed(CallError::Internal));
}

/// A task that `tasks` runs until the sender says what it ends with.
async fn begun(tasks: &Arc<Tasks>, owner: &Scope) -> (String, oneshot::Sender<Reply>) {
    let (end, gate) = gated();
    let options = TaskOptions::default();
    let work = |_| async { gate.await.unwrap_or(Reply::Error(CallError::Internal)) };
    let reply = tasks.begin(&call(OLD, WANTED), &context(owner), &options, work).await;
    let Reply::Task(task) = reply else { panic!("{reply:?}") };
    (task.id, end)
}

/// Waits until the memory of `tasks` is empty: what they were is in the store.
async fn forgotten(tasks: &Arc<Tasks>) {
    while tasks.figures().in_memory > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_task_that_ended_outlives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let owner = scope("p", "ann");
    let first = process(&path, TaskLimits::default());
    let (id, end) = begun(&first, &owner).await;
    end.send(result("done")).unwrap();
    forgotten(&first).await;
    let Reply::Result(map) = result("done") else { unreachable!() };
    for tasks in [first, process(&path, TaskLimits::default())] {
        let Ok(Found::There(task)) = tasks.find(&owner, Era::Legacy, &id).await else { panic!("not kept") };
        assert_eq!(task.state, TaskState::Completed(map.clone()));
        assert_eq!(tasks.list(&owner, Era::Legacy).await.unwrap(), [task]);
        for (scope, era) in
            [(scope("p", "bob"), Era::Legacy), (scope("q", "ann"), Era::Legacy), (owner.clone(), Era::Modern)]
        {
            assert!(matches!(tasks.find(&scope, era, &id).await, Err(CallError::InvalidParams(_))));
        }
        assert!(matches!(tasks.cancel(&owner, Era::Legacy, &id).await, Err(CallError::InvalidParams(_)),));
    }
}

#[tokio::test]
async fn a_task_whose_process_is_gone_has_failed_when_its_lease_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let owner = scope("p", "ann");
    // Its lease ends when it begins: as if its process were long gone.
    let gone = process(&path, TaskLimits { lease: Duration::ZERO, ..TaskLimits::default() });
    let alive = process(&path, TaskLimits::default());
    let (kept, _end) = begun(&alive, &owner).await;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lost = std::thread::spawn({
        let owner = owner.clone();
        move || {
            let id = runtime.block_on(async { begun(&gone, &owner).await.0 });
            // The end of the process: nothing of it runs any more.
            drop(runtime);
            id
        }
    })
    .join()
    .unwrap();
    let reader = process(&path, TaskLimits::default());
    let Ok(Found::There(task)) = reader.find(&owner, Era::Legacy, &lost).await else { panic!("not kept") };
    let why = "the server that ran it ended before it did; call again";
    assert_eq!(task.state, TaskState::Failed(CallError::Lost(why.to_owned())));
    assert_eq!(task.message.as_deref(), Some(why));
    let Ok(Found::There(task)) = reader.find(&owner, Era::Legacy, &kept).await else { panic!("not kept") };
    assert_eq!(task.state, TaskState::Working, "its process lives");
    assert_eq!(reader.list(&owner, Era::Legacy).await.unwrap().len(), 2);
}

#[tokio::test]
async fn another_process_cancels_a_task_and_its_own_learns_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let owner = scope("p", "ann");
    // It looks often; that its clock is ahead keeps its lease from ending however slow the machine is.
    let limits = TaskLimits { lease: Duration::from_millis(60), ..TaskLimits::default() };
    let store: SharedStore = Arc::new(LazyStore::new(SqliteOptions::new(&path)));
    let first = Tasks::new(limits, Some(store), Arc::new(Ahead), broadcast::channel(64).0);
    let other = process(&path, TaskLimits::default());
    let (id, end) = begun(&first, &owner).await;
    let entry = first.find_here(&owner, Era::Legacy, &id).unwrap();
    let Ok(Reply::Task(task)) = other.cancel(&owner, Era::Legacy, &id).await else { panic!("not cancelled") };
    assert_eq!(task.state, TaskState::Cancelled);
    // It learns of it by looking, before its work has anything to say.
    assert_eq!(finished(&entry).await.state, TaskState::Cancelled);
    // Whatever comes now comes too late.
    let _ = end.send(result("too late"));
    first.close(Duration::from_secs(10)).await;
    let Ok(Found::There(task)) = other.find(&owner, Era::Legacy, &id).await else { panic!("not kept") };
    assert_eq!(task.state, TaskState::Cancelled);
}

#[tokio::test]
async fn a_server_that_stops_marks_its_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let owner = scope("p", "ann");
    let first = process(&path, TaskLimits::default());
    let (id, _end) = begun(&first, &owner).await;
    first.close(Duration::from_secs(10)).await;
    let reader = process(&path, TaskLimits::default());
    let Ok(Found::There(task)) = reader.find(&owner, Era::Legacy, &id).await else { panic!("not kept") };
    assert_eq!(task.state, TaskState::Cancelled);
    assert_eq!(task.message.as_deref(), Some(SERVER_STOPPED));
}

#[tokio::test]
async fn a_task_goes_on_in_memory_where_the_store_cannot_keep_it() {
    let folder = tempfile::tempdir().unwrap();
    // A folder is no store.
    let tasks = process(folder.path(), TaskLimits::default());
    let owner = scope("p", "ann");
    let (id, end) = begun(&tasks, &owner).await;
    let entry = tasks.find_here(&owner, Era::Legacy, &id).unwrap();
    end.send(result("done")).unwrap();
    finished(&entry).await;
    assert!(tasks.find_here(&owner, Era::Legacy, &id).is_some());
    assert!(matches!(tasks.find(&owner, Era::Legacy, "t_unknown").await, Err(CallError::Busy { .. })));
}
