//! What the work of a call has of its task, before and after it is one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Tasks, entry::Entry};
use crate::{
    protocol::{Ask, Notice, TaskState},
    tool::Notices,
};

/// Handed to the work of a call that is a task, may become one, or never will. Cheap to clone.
#[derive(Clone)]
pub struct Worker(pub(super) Arc<Line>);

/// Why nothing was asked, or nobody answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    /// The call is no task and cannot become one: reply [`crate::protocol::Reply::InputRequired`] instead.
    #[error("a call that is no task cannot wait for answers")]
    Plain,
    /// The task has ended.
    #[error("the task has ended")]
    Ended,
}

/// What the call is.
#[derive(Clone)]
pub(super) enum Standing {
    /// A call, to its end.
    Plain,
    /// A call that may become a task, once its work says so.
    Undecided,
    /// A call that becomes a task when its grace is over.
    Willing,
    /// A task.
    Task(Arc<Entry>),
}

/// Between the work and the registry.
pub(super) struct Line {
    pub(super) tasks: Arc<Tasks>,
    pub(super) cancel: CancellationToken,
    pub(super) deadline: Instant,
    pub(super) notices: Arc<dyn Notices>,
    pub(super) standing: watch::Sender<Standing>,
    /// The work wants to be a task now.
    pub(super) hurry: Notify,
    /// What [`Worker::set_message`] said before there was a task.
    pub(super) message: Mutex<Option<String>>,
}

impl Worker {
    /// Cancelled when the work is to end: the call's client cancelled it or left before there was a task, or the task was
    /// cancelled, is over its time, or its server stops.
    #[must_use]
    pub fn cancel(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// When the work must have ended: that of the call where it can be no task, else that of a task.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// Whether it is a task now.
    #[must_use]
    pub fn is_task(&self) -> bool {
        matches!(*self.0.standing.borrow(), Standing::Task(_))
    }

    /// Whether it is a task, or may become one.
    #[must_use]
    pub fn may_be_task(&self) -> bool {
        !matches!(*self.0.standing.borrow(), Standing::Plain)
    }

    /// Whether [`Worker::ask`] is the way to ask: it is a task, or was said to outlive its call.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(*self.0.standing.borrow(), Standing::Willing | Standing::Task(_))
    }

    /// A call that is no task yet stays a call, however long it takes; it then ends at the call's deadline.
    pub fn stay_call(&self) {
        self.decide(Standing::Plain);
    }

    /// A call that is no task yet becomes one when its grace is over. To be said where [`TaskOptions::on_request`] is set.
    ///
    /// [`TaskOptions::on_request`]: super::TaskOptions::on_request
    pub fn outlive_call(&self) {
        self.decide(Standing::Willing);
    }

    fn decide(&self, decision: Standing) {
        self.0.standing.send_if_modified(|standing| {
            let is_open = matches!(standing, Standing::Undecided | Standing::Willing);
            if is_open {
                *standing = decision;
            }
            is_open
        });
    }

    /// One line for a person about how far it is.
    pub fn set_message(&self, text: impl Into<String>) {
        let text = text.into();
        let entry = match &*self.0.standing.borrow() {
            Standing::Task(entry) => Some(Arc::clone(entry)),
            Standing::Plain | Standing::Undecided | Standing::Willing => None,
        };
        match entry {
            Some(entry) => {
                self.0.tasks.publish(&entry, |task| task.message = Some(text));
            }
            None => *self.0.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(text),
        }
    }

    /// Tells the client of the call something, for as long as it listens.
    pub fn notify(&self, notice: Notice) {
        self.0.notices.notify(notice);
    }

    /// Asks the client, and waits until all is answered: per name of `requests` the client's result object, validated. A
    /// call that may become a task becomes one for it.
    ///
    /// # Errors
    /// [`NotAsked`].
    pub async fn ask(&self, requests: Vec<(String, Ask)>) -> Result<Map<String, Value>, NotAsked> {
        let entry = self.task().await?;
        let reserved = entry.reserve(requests);
        let (mut names, mut keys, mut asks) = (Vec::new(), Vec::new(), Vec::new());
        for (name, key, ask) in reserved {
            names.push(name);
            keys.push(key.clone());
            asks.push((key, ask));
        }
        let mut changes = entry.watch();
        let is_asked = asks.is_empty()
            || self.0.tasks.publish(&entry, |task| match &mut task.state {
                TaskState::InputRequired(open) => open.extend(asks),
                state => *state = TaskState::InputRequired(asks),
            });
        if !is_asked {
            return Err(NotAsked::Ended);
        }
        loop {
            if let Some(answers) = entry.take_answers(&keys) {
                return Ok(names.into_iter().zip(answers).collect());
            }
            if changes.borrow_and_update().state.is_final() || changes.changed().await.is_err() {
                return Err(NotAsked::Ended);
            }
        }
    }

    /// The task, once it is decided.
    async fn task(&self) -> Result<Arc<Entry>, NotAsked> {
        self.0.hurry.notify_one();
        let mut standing = self.0.standing.subscribe();
        let is_decided = |standing: &Standing| matches!(standing, Standing::Plain | Standing::Task(_));
        let decided = standing.wait_for(is_decided).await;
        match decided.as_deref() {
            Ok(Standing::Task(entry)) => Ok(Arc::clone(entry)),
            Ok(Standing::Plain | Standing::Undecided | Standing::Willing) => Err(NotAsked::Plain),
            Err(_) => Err(NotAsked::Ended),
        }
    }
}
