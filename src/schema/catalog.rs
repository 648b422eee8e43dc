//! Which definition a message is held against: by method, by kind of message, by error code; never a union.

use std::{collections::HashSet, sync::OnceLock};

use jsonschema::{Draft, Validator};
use serde_json::Value;

use super::documents;
use crate::{
    revision::{Era, Revision},
    wire::{Kind, METHODS, Method},
};

/// One message, or part of one, of one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Definition {
    /// A whole request or notification.
    Message(Method),
    /// A whole response with a result (in the modern era one with `resultType` `complete`).
    Response(Method),
    /// The result object alone.
    Result(Method),
    /// A request to the client as it stands inside `inputRequests`: `method` and `params` alone (modern era).
    Ask(Method),
    /// A result object with `resultType` `input_required` (modern era).
    InputRequired,
    /// A whole response with such a result.
    InputRequiredResponse,
    /// The result object of a `tools/call` that became a task: in 2025-11-25 where the request asked for one, in
    /// 2026-07-28 one with `resultType` `task`.
    TaskCreated,
    /// A whole response with such a result.
    TaskCreatedResponse,
    /// A whole error response.
    Error(ErrorShape),
}

/// Error responses whose `data` has a shape of its own, and all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorShape {
    /// Any code without a shape of its own.
    General,
    /// -32042 of 2025-11-25.
    UrlElicitationRequired,
    /// -32020 of 2026-07-28.
    HeaderMismatch,
    /// -32021 of 2026-07-28.
    MissingClientCapability,
    /// -32022 of 2026-07-28.
    UnsupportedVersion,
}

impl ErrorShape {
    const ALL: [Self; 5] = [
        Self::General,
        Self::UrlElicitationRequired,
        Self::HeaderMismatch,
        Self::MissingClientCapability,
        Self::UnsupportedVersion,
    ];

    /// The shape that `revision` gives to errors with this code.
    #[must_use]
    pub const fn of(revision: Revision, code: i64) -> Self {
        match (revision, code) {
            (Revision::V2025_11_25, -32042) => Self::UrlElicitationRequired,
            (Revision::V2026_07_28, -32020) => Self::HeaderMismatch,
            (Revision::V2026_07_28, -32021) => Self::MissingClientCapability,
            (Revision::V2026_07_28, -32022) => Self::UnsupportedVersion,
            _ => Self::General,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::General => "ErrorResponse",
            Self::UrlElicitationRequired => "UrlElicitationRequiredResponse",
            Self::HeaderMismatch => "HeaderMismatchResponse",
            Self::MissingClientCapability => "MissingClientCapabilityResponse",
            Self::UnsupportedVersion => "UnsupportedVersionResponse",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::General => "error response",
            Self::UrlElicitationRequired => "error response -32042",
            Self::HeaderMismatch => "error response -32020",
            Self::MissingClientCapability => "error response -32021",
            Self::UnsupportedVersion => "error response -32022",
        }
    }
}

/// Group and stem of a method's definitions: the message is `<stem>Request` or `<stem>Notification`.
const fn stem(method: Method) -> (&'static str, &'static str) {
    match method {
        Method::Initialize => ("lifecycle", "Initialize"),
        Method::Ping => ("utilities", "Ping"),
        Method::ServerDiscover => ("lifecycle", "Discover"),
        Method::ToolsList => ("tools", "List"),
        Method::ToolsCall => ("tools", "Call"),
        Method::PromptsList => ("prompts", "List"),
        Method::PromptsGet => ("prompts", "Get"),
        Method::ResourcesList => ("resources", "List"),
        Method::ResourcesTemplatesList => ("resources", "ListTemplates"),
        Method::ResourcesRead => ("resources", "Read"),
        Method::ResourcesSubscribe => ("resources", "Subscribe"),
        Method::ResourcesUnsubscribe => ("resources", "Unsubscribe"),
        Method::SubscriptionsListen => ("subscriptions", "Listen"),
        Method::CompletionComplete => ("completion", "Complete"),
        Method::LoggingSetLevel => ("logging", "SetLevel"),
        Method::TasksGet => ("tasks", "Get"),
        Method::TasksResult => ("tasks", "Payload"),
        Method::TasksList => ("tasks", "List"),
        Method::TasksUpdate => ("tasks", "Update"),
        Method::TasksCancel => ("tasks", "Cancel"),
        Method::RootsList => ("roots", "List"),
        Method::SamplingCreateMessage => ("sampling", "CreateMessage"),
        Method::ElicitationCreate => ("elicitation", "Create"),
        Method::NotificationsInitialized => ("lifecycle", "Initialized"),
        Method::NotificationsCancelled => ("utilities", "Cancelled"),
        Method::NotificationsProgress => ("utilities", "Progress"),
        Method::NotificationsRootsListChanged => ("roots", "ListChanged"),
        Method::NotificationsMessage => ("logging", "Message"),
        Method::NotificationsToolsListChanged => ("tools", "ListChanged"),
        Method::NotificationsPromptsListChanged => ("prompts", "ListChanged"),
        Method::NotificationsResourcesListChanged => ("resources", "ListChanged"),
        Method::NotificationsResourcesUpdated => ("resources", "Updated"),
        Method::NotificationsSubscriptionsAcknowledged => ("subscriptions", "Acknowledged"),
        Method::NotificationsElicitationComplete => ("elicitation", "Complete"),
        Method::NotificationsTasksStatus => ("tasks", "Status"),
        Method::NotificationsTasks => ("tasks", "Changed"),
    }
}

/// Definitions per revision: four per method, the two of `input_required`, the two of a call that became a task, the
/// error shapes.
const PER_REVISION: usize = METHODS.len() * 4 + 4 + ErrorShape::ALL.len();
const SLOTS: usize = PER_REVISION * Revision::ALL.len();

/// One slot per definition, filled when first needed and never emptied: the schemas are constants of the program.
static VALIDATORS: [OnceLock<Option<Validator>>; SLOTS] = [const { OnceLock::new() }; SLOTS];

impl Definition {
    const fn index(self) -> usize {
        let methods = METHODS.len();
        match self {
            Self::Message(method) => method as usize,
            Self::Response(method) => methods + method as usize,
            Self::Result(method) => 2 * methods + method as usize,
            Self::Ask(method) => 3 * methods + method as usize,
            Self::InputRequired => 4 * methods,
            Self::InputRequiredResponse => 4 * methods + 1,
            Self::TaskCreated => 4 * methods + 2,
            Self::TaskCreatedResponse => 4 * methods + 3,
            Self::Error(shape) => 4 * methods + 4 + shape as usize,
        }
    }

    /// Whether `revision` has such a message.
    #[must_use]
    pub fn exists_in(self, revision: Revision) -> bool {
        let modern = revision.era() == Era::Modern;
        match self {
            Self::Message(method) => {
                method.exists_in(revision) && !(modern && matches!(method.row().kind, Kind::Ask))
            }
            Self::Response(method) => match method.row().kind {
                Kind::Request => method.exists_in(revision),
                Kind::Ask => method.exists_in(revision) && !modern,
                Kind::Notification => false,
            },
            Self::Result(method) => {
                method.exists_in(revision) && !matches!(method.row().kind, Kind::Notification)
            }
            Self::Ask(method) => {
                modern && method.exists_in(revision) && matches!(method.row().kind, Kind::Ask)
            }
            Self::Error(ErrorShape::General) => true,
            Self::Error(ErrorShape::UrlElicitationRequired) => revision == Revision::V2025_11_25,
            Self::InputRequired | Self::InputRequiredResponse | Self::Error(_) => modern,
            Self::TaskCreated | Self::TaskCreatedResponse => Method::TasksGet.exists_in(revision),
        }
    }

    /// Group and name of the definition in the documents of every revision that has it.
    fn place(self) -> (&'static str, String) {
        match self {
            Self::Message(method) => {
                let (group, stem) = stem(method);
                match method.row().kind {
                    Kind::Notification => (group, format!("{stem}Notification")),
                    Kind::Request | Kind::Ask => (group, format!("{stem}Request")),
                }
            }
            Self::Response(method) => (stem(method).0, format!("{}Response", stem(method).1)),
            Self::Result(method) => (stem(method).0, format!("{}Result", stem(method).1)),
            Self::Ask(method) => (stem(method).0, format!("{}Ask", stem(method).1)),
            Self::InputRequired => ("input", "InputRequiredResult".to_owned()),
            Self::InputRequiredResponse => ("input", "InputRequiredResponse".to_owned()),
            Self::TaskCreated => ("tasks", "CreateResult".to_owned()),
            Self::TaskCreatedResponse => ("tasks", "CreateResponse".to_owned()),
            Self::Error(shape) => ("errors", shape.name().to_owned()),
        }
    }

    /// The identifier under `revision`: `tmws:/mcp/2025-06-18/tools.json#/$defs/CallRequest`.
    #[must_use]
    pub fn id(self, revision: Revision) -> String {
        let (group, name) = self.place();
        format!("tmws:/mcp/{revision}/{group}.json#/$defs/{name}")
    }

    /// What it is, in the words of violations: `2025-06-18 tools/call request`.
    #[must_use]
    pub fn describe(self, revision: Revision) -> String {
        match self {
            Self::Message(method) => match method.row().kind {
                Kind::Notification => format!("{revision} {}", method.as_str()),
                Kind::Request | Kind::Ask => format!("{revision} {} request", method.as_str()),
            },
            Self::Response(method) => format!("{revision} {} response", method.as_str()),
            Self::Result(method) => format!("{revision} {} result", method.as_str()),
            Self::Ask(method) => format!("{revision} {} in inputRequests", method.as_str()),
            Self::InputRequired => format!("{revision} input_required result"),
            Self::InputRequiredResponse => format!("{revision} input_required response"),
            Self::TaskCreated => format!("{revision} tools/call result with a task"),
            Self::TaskCreatedResponse => format!("{revision} tools/call response with a task"),
            Self::Error(shape) => format!("{revision} {}", shape.words()),
        }
    }

    /// Every definition of every revision, in catalog order.
    pub fn all() -> impl Iterator<Item = (Revision, Self)> {
        let methods = METHODS.iter().map(|row| row.method);
        let definitions: Vec<Self> = methods
            .flat_map(|method| {
                [Self::Message(method), Self::Response(method), Self::Result(method), Self::Ask(method)]
            })
            .chain([Self::InputRequired, Self::InputRequiredResponse])
            .chain([Self::TaskCreated, Self::TaskCreatedResponse])
            .chain(ErrorShape::ALL.map(Self::Error))
            .collect();
        Revision::ALL.into_iter().flat_map(move |revision| {
            definitions
                .clone()
                .into_iter()
                .filter(move |definition| definition.exists_in(revision))
                .map(move |definition| (revision, definition))
        })
    }

    /// The definition with all that it refers to as one schema, as it is compiled; `None` where `revision` has no such
    /// message.
    #[must_use]
    pub fn schema(self, revision: Revision) -> Option<Value> {
        let (group, name) = self.place();
        self.exists_in(revision).then(|| documents::bundle(revision, group, &name))?
    }

    /// Every member name that the definition speaks of, at any depth.
    pub(super) fn member_names(self, revision: Revision) -> HashSet<String> {
        let mut names = HashSet::new();
        if let Some(schema) = self.schema(revision) {
            collect_member_names(&schema, &mut names);
        }
        names
    }

    /// The compiled definition, or `None` where `revision` has no such message. The first call compiles.
    pub(super) fn validator(self, revision: Revision) -> Option<&'static Validator> {
        let slot = &VALIDATORS[revision.index() * PER_REVISION + self.index()];
        slot.get_or_init(|| {
            let schema = self.schema(revision)?;
            let compiled =
                jsonschema::options().with_draft(COMPILED_AS).should_validate_formats(false).build(&schema);
            Some(compiled.expect("every definition compiles, tested in `documents`"))
        })
        .as_ref()
    }
}

/// Adds every member name that `schema` speaks of, at any depth.
pub(super) fn collect_member_names(schema: &Value, names: &mut HashSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                names.extend(properties.keys().cloned());
            }
            members.values().for_each(|value| collect_member_names(value, names));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_member_names(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Our documents are 2020-12, of which they use only what means the same in draft 7 (tested in `documents`). The
/// validator library checks each schema against its draft's meta-schema, and compiling that of draft 7 costs a fifth of
/// what the eight vocabularies of 2020-12 do: it is on the way to the first answer.
pub(super) const COMPILED_AS: Draft = Draft::Draft7;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn slots_do_not_collide() {
        let mut seen = [false; SLOTS];
        for (revision, definition) in Definition::all() {
            let slot = revision.index() * PER_REVISION + definition.index();
            assert!(!std::mem::replace(&mut seen[slot], true), "{definition:?}");
        }
    }

    #[test]
    fn every_message_of_every_method_is_defined_where_it_exists_and_nowhere_else() {
        for revision in Revision::ALL {
            for row in METHODS {
                let exists = row.revisions[revision.index()];
                let any = Definition::Message(row.method).exists_in(revision)
                    || Definition::Ask(row.method).exists_in(revision);
                assert_eq!(any, exists, "{} in {revision}", row.name);
            }
        }
        for (revision, definition) in Definition::all() {
            let (group, name) = definition.place();
            assert!(documents::is_defined(revision, group, &name), "{}", definition.id(revision));
        }
    }

    #[test]
    fn the_catalog_is_as_released() {
        let mut text = String::new();
        for (revision, definition) in Definition::all() {
            writeln!(text, "{} = {}", definition.describe(revision), definition.id(revision)).unwrap();
        }
        insta::assert_snapshot!("catalog", text);
    }
}
