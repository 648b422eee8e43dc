//! `tasks/get`, `tasks/result`, `tasks/list`, `tasks/cancel` and `tasks/update`.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    Tasks,
    entry::{Entry, open_questions},
    is_owner,
};
use crate::{
    protocol::{Call, CallError, Reply, Task, TaskState},
    revision::{Era, Revision},
    scope::Scope,
    tool::{Context, ReplyFuture},
    wire::Method,
};

impl Tasks {
    /// Serves one of `tasks/*`. A task that is unknown, expired, another's or of the other design is one case.
    pub fn serve(self: &Arc<Self>, call: Call, context: Context) -> ReplyFuture {
        let tasks = Arc::clone(self);
        Box::pin(async move { tasks.answer(&call, &context).await.unwrap_or_else(Reply::Error) })
    }

    async fn answer(&self, call: &Call, context: &Context) -> Result<Reply, CallError> {
        let (scope, era) = (&context.scope, call.client.revision.era());
        let id = call.params().get("taskId").and_then(Value::as_str).unwrap_or_default();
        match call.method() {
            Method::TasksGet => Ok(Reply::Task(Box::new(self.find(scope, era, id).await?.task()))),
            Method::TasksList => Ok(Reply::Tasks(self.list(scope, era).await?)),
            Method::TasksResult => self.result(id, call, context).await,
            Method::TasksCancel => self.cancel(scope, era, id).await,
            Method::TasksUpdate => {
                let given = call.params().get("inputResponses").and_then(Value::as_object);
                match self.find(scope, era, id).await? {
                    Found::Here(entry) => self.update(&entry, call.client.revision, given)?,
                    Found::There(task) if task.state.is_final() => {}
                    Found::There(_) => {
                        return Err(CallError::InvalidParams(
                            "another server process runs this task: answer it there".to_owned(),
                        ));
                    }
                }
                Ok(Reply::Result(Map::new()))
            }
            method => {
                tracing::error!(
                    method = method.as_str(),
                    "a method that is none of tasks reached their registry"
                );
                Err(CallError::Internal)
            }
        }
    }

    /// A task of the caller's, of this design.
    pub(super) async fn find(&self, scope: &Scope, era: Era, id: &str) -> Result<Found, CallError> {
        match self.find_here(scope, era, id) {
            Some(entry) => Ok(Found::Here(entry)),
            None => self.find_kept(scope, era, id).await?.map(Found::There).ok_or_else(unknown),
        }
    }

    pub(super) fn find_here(&self, scope: &Scope, era: Era, id: &str) -> Option<Arc<Entry>> {
        let found = self.book().entries.get(id).map(Arc::clone);
        found
            .filter(|entry| is_owner(&entry.scope, scope) && entry.era == era)
            .filter(|entry| entry.expires_ms() > self.now_ms())
    }

    /// The caller's tasks of this design, newest first.
    pub(super) async fn list(&self, scope: &Scope, era: Era) -> Result<Vec<Task>, CallError> {
        let kept = self.list_kept(scope, era).await?;
        let now_ms = self.now_ms();
        let mut tasks: Vec<Task> = self
            .book()
            .entries
            .values()
            .filter(|entry| is_owner(&entry.scope, scope) && entry.era == era)
            .filter(|entry| entry.expires_ms() > now_ms)
            .map(|entry| Task::clone(&entry.now()))
            .collect();
        let here: HashSet<String> = tasks.iter().map(|task| task.id.clone()).collect();
        tasks.extend(kept.into_iter().filter(|task| !here.contains(&task.id)));
        tasks.sort_by(|a, b| b.created_ms.cmp(&a.created_ms).then_with(|| b.id.cmp(&a.id)));
        Ok(tasks)
    }

    /// Waits until the task has ended or asks something.
    async fn result(&self, id: &str, call: &Call, context: &Context) -> Result<Reply, CallError> {
        let era = call.client.revision.era();
        loop {
            let pause = match self.find(&context.scope, era, id).await? {
                Found::Here(entry) => return self.result_here(&entry, call, context).await,
                Found::There(task) => {
                    if let Some(reply) = ended_with(&task) {
                        return reply;
                    }
                    task.poll_interval.unwrap_or(self.limits.poll_interval)
                }
            };
            tokio::select! {
                biased;
                () = context.cancel.cancelled() => return Err(CallError::Internal),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn result_here(&self, entry: &Entry, call: &Call, context: &Context) -> Result<Reply, CallError> {
        if let Some(answers) = &call.answers {
            self.take(entry, answers.responses.clone());
        }
        let mut changes = entry.watch();
        loop {
            let task = Arc::clone(&changes.borrow_and_update());
            if let Some(reply) = ended_with(&task) {
                return reply;
            }
            if let TaskState::InputRequired(open) = &task.state {
                let state = Some(json!({"task": task.id}));
                return Ok(Reply::InputRequired { requests: open.clone(), state });
            }
            tokio::select! {
                biased;
                seen = changes.changed() => if seen.is_err() { return Err(unknown()) },
                () = context.cancel.cancelled() => return Err(CallError::Internal),
            }
        }
    }

    pub(super) async fn cancel(&self, scope: &Scope, era: Era, id: &str) -> Result<Reply, CallError> {
        let found = self.find(scope, era, id).await?;
        let before = found.task();
        if before.state.is_final() {
            return ended_before(era, before);
        }
        let after = match found {
            Found::Here(entry) => {
                Task::clone(&*self.settle(&entry, |task| task.state = TaskState::Cancelled).await)
            }
            Found::There(task) => self.cancel_kept(scope, era, &task).await?.ok_or_else(unknown)?,
        };
        match after.state {
            TaskState::Cancelled => Ok(Reply::Task(Box::new(after))),
            _ => ended_before(era, after),
        }
    }

    /// Takes the answers of a client. All that fit a question that is open, or none where one of them is wrong.
    pub(super) fn update(
        &self,
        entry: &Entry,
        revision: Revision,
        given: Option<&Map<String, Value>>,
    ) -> Result<(), CallError> {
        let task = entry.now();
        let mut answers = Map::new();
        for (key, ask) in open_questions(&task.state) {
            let Some(value) = given.and_then(|given| given.get(key)) else { continue };
            let answer =
                self.gate.admit_input_response(revision, ask.method, value.clone()).map_err(|violation| {
                    CallError::InvalidParams(format!("invalid params: /params/inputResponses: {violation}"))
                })?;
            answers.insert(key.clone(), answer);
        }
        self.take(entry, answers);
        Ok(())
    }

    /// Takes valid answers: those to questions that are open, and no others.
    fn take(&self, entry: &Entry, mut answers: Map<String, Value>) {
        if !open_questions(&entry.now().state).iter().any(|(key, _)| answers.contains_key(key)) {
            return;
        }
        self.publish(entry, |task| {
            let TaskState::InputRequired(open) = &mut task.state else { return };
            open.retain(|(key, _)| match answers.remove(key) {
                None => true,
                Some(answer) => {
                    entry.put_answer(key.clone(), answer);
                    false
                }
            });
            if open.is_empty() {
                task.state = TaskState::Working;
            }
        });
    }
}

/// Where a task is.
#[derive(Debug)]
pub(super) enum Found {
    /// In the memory of this process.
    Here(Arc<Entry>),
    /// In the store: it has ended, or another process runs it.
    There(Task),
}

impl Found {
    fn task(&self) -> Task {
        match self {
            Self::Here(entry) => Task::clone(&entry.now()),
            Self::There(task) => task.clone(),
        }
    }
}

/// What the call of a task that has ended is answered.
fn ended_with(task: &Task) -> Option<Result<Reply, CallError>> {
    match &task.state {
        TaskState::Working | TaskState::InputRequired(_) => None,
        TaskState::Completed(result) => Some(Ok(Reply::Result(result.clone()))),
        TaskState::Failed(error) => Some(Err(error.clone())),
        TaskState::Cancelled => Some(Err(no_result(task))),
    }
}

fn unknown() -> CallError {
    CallError::InvalidParams("unknown or expired task".to_owned())
}

fn no_result(task: &Task) -> CallError {
    let why = task.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    CallError::InvalidParams(format!("the task was cancelled and has no result{why}"))
}

/// Cancelling what has ended: an error in the older design, nothing in the newer.
fn ended_before(era: Era, task: Task) -> Result<Reply, CallError> {
    match era {
        Era::Modern => Ok(Reply::Task(Box::new(task))),
        Era::Legacy => Err(CallError::InvalidParams(
            "the task has ended and cannot be cancelled: read it with tasks/get or tasks/result".to_owned(),
        )),
    }
}
