//! Changes told to whom they were promised: a legacy session, and each modern subscription stream.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    About, Client, Connection, Now, ServerEvent,
    batch::Slot,
    incoming::text,
    meta,
    rules::{self, Situation},
    tasks,
};
use crate::{
    revision::Revision,
    schema::Admitted,
    wire::{Method, RequestId},
};

/// The revision of subscription streams.
const MODERN: Revision = Revision::V2026_07_28;

/// Longest URI that is remembered for a subscription.
const URI_BYTES_MAX: usize = 8 << 10;

fn uri_too_long() -> String {
    format!("invalid params: a URI or task subscribed to has at most {URI_BYTES_MAX} bytes")
}

/// One open `subscriptions/listen`.
#[derive(Debug)]
pub(super) struct Listen {
    number: u64,
    id: RequestId,
    /// List changes wanted and promised, by their notification.
    lists: Vec<Method>,
    /// Resources whose updates are promised.
    uris: Vec<String>,
    /// Tasks whose changes are promised. Boxed: most streams name none.
    tasks: Option<Box<TaskFilter>>,
}

/// The tasks that a stream named, and who asked: what a task asks is fitted to that.
#[derive(Debug)]
struct TaskFilter {
    ids: Vec<String>,
    client: Arc<Client>,
}

impl Listen {
    fn task_ids(&self) -> &[String] {
        self.tasks.as_ref().map_or(&[], |tasks| &tasks.ids)
    }
}

/// The list changes: name in the filter, notification.
const LIST_CHANGES: &[(&str, Method)] = &[
    ("toolsListChanged", Method::NotificationsToolsListChanged),
    ("promptsListChanged", Method::NotificationsPromptsListChanged),
    ("resourcesListChanged", Method::NotificationsResourcesListChanged),
];

impl Connection {
    /// Something changed: tells the legacy session and every stream that it was promised to, each its own copy.
    pub fn handle_event(&mut self, now: Now, event: &ServerEvent) {
        if self.is_eof {
            return;
        }
        let (method, uri) = match event {
            ServerEvent::ToolsChanged => (Method::NotificationsToolsListChanged, None),
            ServerEvent::PromptsChanged => (Method::NotificationsPromptsListChanged, None),
            ServerEvent::ResourcesChanged => (Method::NotificationsResourcesListChanged, None),
            ServerEvent::ResourceUpdated { uri } => (Method::NotificationsResourcesUpdated, Some(uri)),
            ServerEvent::TaskChanged { era, task } => return self.task_changed(now, *era, task),
        };
        let params = || {
            let mut params = Map::new();
            if let Some(uri) = uri {
                params.insert("uri".to_owned(), json!(uri));
            }
            params
        };
        let legacy = self.session.as_ref().filter(|session| match uri {
            Some(uri) => session.subscriptions.contains(uri),
            None => self.announces(method) && rules::is_told_unasked(session.revision),
        });
        if let Some(revision) = legacy.map(|session| session.revision)
            && let Some(frame) = self.seal_notification(revision, method, params())
        {
            self.send_unasked(frame, About::Session, None);
        }
        let streams: Vec<RequestId> = self
            .listens
            .iter()
            .filter(|listen| match uri {
                Some(uri) => listen.uris.contains(uri),
                None => listen.lists.contains(&method),
            })
            .map(|listen| listen.id.clone())
            .collect();
        for id in streams {
            let mut params = params();
            params.insert("_meta".to_owned(), json!({meta::SUBSCRIPTION_ID: id.to_value()}));
            if let Some(frame) = self.seal_notification(MODERN, method, params) {
                self.send(frame, About::Request { id, is_answer: false }, None);
            }
        }
    }

    /// Whether changes of a list are announced at all.
    fn announces(&self, method: Method) -> bool {
        let offered = &self.profile.capabilities;
        match method {
            Method::NotificationsToolsListChanged => offered.tools == Some(true),
            Method::NotificationsPromptsListChanged => offered.prompts == Some(true),
            Method::NotificationsResourcesListChanged => {
                offered.resources.is_some_and(|resources| resources.list_changed)
            }
            _ => false,
        }
    }

    /// Resources and tasks subscribed to, by the session and by all streams.
    fn subscribed(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.subscriptions.len())
            + self.listens.iter().map(|listen| listen.uris.len() + listen.task_ids().len()).sum::<usize>()
    }

    /// The streams that named a task, and who opened each.
    pub(super) fn task_listeners(&self, task: &str) -> Vec<(RequestId, Arc<Client>)> {
        let filters = self.listens.iter().filter_map(|listen| Some((listen, listen.tasks.as_ref()?)));
        filters
            .filter(|(_, tasks)| tasks.ids.iter().any(|id| id == task))
            .map(|(listen, tasks)| (listen.id.clone(), Arc::clone(&tasks.client)))
            .collect()
    }

    /// The texts under `member` of a filter, each once, as far as there may be any more of them.
    fn distinct<'a>(&self, filter: Option<&'a Map<String, Value>>, member: &str) -> Option<Vec<&'a str>> {
        let wanted = filter.and_then(|filter| filter.get(member)).and_then(Value::as_array)?;
        let mut distinct: Vec<&str> = Vec::new();
        for text in wanted.iter().filter_map(Value::as_str) {
            if distinct.len() <= self.limits.subscriptions_max && !distinct.contains(&text) {
                distinct.push(text);
            }
        }
        Some(distinct)
    }

    /// `resources/subscribe` and `resources/unsubscribe`; each may come twice.
    pub(super) fn subscribe(&mut self, request: &Admitted, slot: Option<Slot>) {
        let uri = text(request.params(), "uri").unwrap_or_default();
        let is_full = self.subscribed() >= self.limits.subscriptions_max;
        let Some(session) = &mut self.session else { return };
        if request.method() == Method::ResourcesUnsubscribe {
            session.subscriptions.retain(|subscribed| subscribed != uri);
        } else if !session.subscriptions.iter().any(|subscribed| subscribed == uri) {
            if uri.len() > URI_BYTES_MAX {
                let revision = Some(request.revision());
                return self.refuse(revision, request.id(), slot, Situation::BadParams, uri_too_long());
            }
            if is_full {
                return self.refuse_subscription(request, slot);
            }
            session.subscriptions.push(uri.to_owned());
        }
        self.answer_result(request.revision(), request.method(), request.id(), slot, Map::new());
    }

    fn refuse_subscription(&mut self, request: &Admitted, slot: Option<Slot>) {
        let reason = format!(
            "this connection has the {} subscriptions that it may have: end one first",
            self.limits.subscriptions_max
        );
        self.refuse(Some(request.revision()), request.id(), slot, Situation::Internal, reason);
    }

    /// Opens a subscription stream: first the acknowledgement of what is honoured, then only that.
    pub(super) fn listen(&mut self, request: &Admitted, client: Arc<Client>, slot: Option<Slot>) {
        let id = request.id().clone();
        let subscription = id.to_value();
        if !id.matches(&subscription) {
            // Every notification repeats the id as a JSON value; a rounded one would name another subscription.
            let reason = "the id of `subscriptions/listen` must be a string or an integer of at most 64 bits";
            return self.refuse(Some(MODERN), &id, slot, Situation::BadParams, reason.to_owned());
        }
        let filter = request.params().get("notifications").and_then(Value::as_object);
        let wants = |name: &str| filter.and_then(|filter| filter.get(name)) == Some(&Value::Bool(true));
        let lists: Vec<(&str, Method)> = LIST_CHANGES
            .iter()
            .filter(|(name, method)| wants(name) && self.announces(*method))
            .copied()
            .collect();
        let subscribes = self.profile.capabilities.resources.is_some_and(|resources| resources.subscribe);
        let uris = self.distinct(filter, "resourceSubscriptions").filter(|_| subscribes);
        let task_ids = self.distinct(filter, "taskIds").filter(|_| self.profile.capabilities.tasks);
        if task_ids.is_some() && !tasks::declares(&client) {
            return self.refuse_undeclared(&id, slot, tasks::required());
        }
        if uris.iter().chain(&task_ids).flatten().any(|text| text.len() > URI_BYTES_MAX) {
            return self.refuse(Some(MODERN), &id, slot, Situation::BadParams, uri_too_long());
        }
        let named = uris.iter().chain(&task_ids).map(Vec::len).sum::<usize>();
        if self.listens.len() >= self.limits.subscriptions_max
            || self.subscribed() + named > self.limits.subscriptions_max
        {
            return self.refuse_subscription(request, slot);
        }
        let mut honoured = Map::new();
        for (name, _) in &lists {
            honoured.insert((*name).to_owned(), json!(true));
        }
        if let Some(uris) = &uris {
            honoured.insert("resourceSubscriptions".to_owned(), json!(uris));
        }
        if let Some(task_ids) = &task_ids {
            honoured.insert("taskIds".to_owned(), json!(task_ids));
        }
        let mut params = Map::new();
        params.insert("_meta".to_owned(), json!({meta::SUBSCRIPTION_ID: subscription}));
        params.insert("notifications".to_owned(), Value::Object(honoured));
        let Some(frame) =
            self.seal_notification(MODERN, Method::NotificationsSubscriptionsAcknowledged, params)
        else {
            return self.answer_internal(Some(MODERN), &id, slot);
        };
        self.send(frame, About::Request { id: id.clone(), is_answer: false }, None);
        self.next_listen += 1;
        self.inflight.hold_listen(id.clone(), self.next_listen);
        self.listens.push(Listen {
            number: self.next_listen,
            id,
            lists: lists.into_iter().map(|(_, method)| method).collect(),
            uris: uris.into_iter().flatten().map(ToOwned::to_owned).collect(),
            tasks: task_ids.filter(|ids| !ids.is_empty()).map(|ids| {
                Box::new(TaskFilter { ids: ids.into_iter().map(ToOwned::to_owned).collect(), client })
            }),
        });
        if self.is_eof {
            self.end_listens();
        }
    }

    /// The client ended a stream: nothing more is sent for it.
    pub(super) fn cancel_listen(&mut self, number: u64) {
        if let Some(index) = self.listens.iter().position(|listen| listen.number == number) {
            let listen = self.listens.remove(index);
            self.inflight.free(&listen.id);
        }
    }

    /// Ends every stream with its result.
    pub(super) fn end_listens(&mut self) {
        for listen in std::mem::take(&mut self.listens) {
            self.inflight.free(&listen.id);
            let mut result = Map::new();
            result.insert("resultType".to_owned(), json!("complete"));
            result.insert("_meta".to_owned(), json!({meta::SUBSCRIPTION_ID: listen.id.to_value()}));
            self.answer_result(MODERN, Method::SubscriptionsListen, &listen.id, None, result);
        }
    }
}
