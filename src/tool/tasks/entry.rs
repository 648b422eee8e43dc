//! One task in memory: what it is now, who waits for it, what it has asked.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::{Audience, Change};
use crate::{
    protocol::{Ask, ServerEvent, Task, TaskState},
    revision::Era,
    scope::Scope,
};

/// A task that this process runs, or has run.
#[derive(Debug)]
pub(super) struct Entry {
    /// Whose it is.
    pub(super) scope: Scope,
    /// The design that it was made under.
    pub(super) era: Era,
    /// Ends the work.
    pub(super) cancel: CancellationToken,
    task: watch::Sender<Arc<Task>>,
    asked: Mutex<Asked>,
    /// Held by whoever brings it to its end, so that a slow store is not given two.
    ending: tokio::sync::Mutex<()>,
    /// Whether the store has its end.
    saved: AtomicBool,
}

/// What was asked in the task's whole life.
#[derive(Debug, Default)]
struct Asked {
    keys: HashSet<String>,
    /// Answers that nobody has taken yet, by key.
    answers: Map<String, Value>,
}

impl Entry {
    pub(super) fn new(scope: Scope, era: Era, cancel: CancellationToken, task: Task) -> Arc<Self> {
        let (task, _) = watch::channel(Arc::new(task));
        Arc::new(Self {
            scope,
            era,
            cancel,
            task,
            asked: Mutex::default(),
            ending: tokio::sync::Mutex::default(),
            saved: AtomicBool::new(false),
        })
    }

    /// The task as it stands.
    pub(super) fn now(&self) -> Arc<Task> {
        Arc::clone(&self.task.borrow())
    }

    /// Hears of every change.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Task>> {
        self.task.subscribe()
    }

    /// One at a time brings it to its end.
    pub(super) async fn ending(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.ending.lock().await
    }

    /// The store has its end.
    pub(super) fn set_saved(&self) {
        self.saved.store(true, Ordering::Release);
    }

    /// Whether the store has its end.
    pub(super) fn is_saved(&self) -> bool {
        self.saved.load(Ordering::Acquire)
    }

    /// When it is gone, in milliseconds since 1970.
    pub(super) fn expires_ms(&self) -> u64 {
        expiry_ms(&self.now())
    }

    /// Changes a task that has not ended; `tell` gets the news, in the order of changes. `false` where it has ended.
    pub(super) fn change(
        &self,
        now_ms: u64,
        change: impl FnOnce(&mut Task),
        tell: impl FnOnce(Change),
    ) -> bool {
        self.task.send_if_modified(|task| {
            if task.state.is_final() {
                return false;
            }
            let mut changed = Task::clone(task);
            change(&mut changed);
            changed.updated_ms = now_ms.max(task.updated_ms);
            *task = Arc::new(changed);
            tell(self.news(Arc::clone(task)));
            true
        })
    }

    /// What is told of `task`.
    pub(super) fn news(&self, task: Arc<Task>) -> Change {
        Change {
            audience: Audience::Owner(self.scope.clone()),
            event: ServerEvent::TaskChanged { era: self.era, task },
        }
    }

    /// Keys for new questions, never used before in this task: the names wished for, where they are free.
    pub(super) fn reserve(&self, requests: Vec<(String, Ask)>) -> Vec<(String, String, Ask)> {
        let mut asked = self.asked();
        requests
            .into_iter()
            .map(|(name, ask)| {
                let mut key = name.clone();
                let mut times = 1;
                while !asked.keys.insert(key.clone()) {
                    times += 1;
                    key = format!("{name}-{times}");
                }
                (name, key, ask)
            })
            .collect()
    }

    /// Takes the answers to all of `keys`, once all are there.
    pub(super) fn take_answers(&self, keys: &[String]) -> Option<Vec<Value>> {
        let mut asked = self.asked();
        if !keys.iter().all(|key| asked.answers.contains_key(key)) {
            return None;
        }
        Some(keys.iter().filter_map(|key| asked.answers.remove(key)).collect())
    }

    /// Keeps an answer for whoever asked.
    pub(super) fn put_answer(&self, key: String, answer: Value) {
        self.asked().answers.insert(key, answer);
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When `task` is gone, in milliseconds since 1970.
pub(super) fn expiry_ms(task: &Task) -> u64 {
    task.ttl.map_or(u64::MAX, |ttl| {
        task.created_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
    })
}

/// The questions that are open.
pub(super) fn open_questions(state: &TaskState) -> &[(String, Ask)] {
    match state {
        TaskState::InputRequired(open) => open,
        TaskState::Working | TaskState::Completed(_) | TaskState::Failed(_) | TaskState::Cancelled => &[],
    }
}
