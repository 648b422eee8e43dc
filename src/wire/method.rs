//! The methods of MCP as one table: name, kind, direction, the revisions that have it, the capability that gates it.

use crate::revision::Revision;

/// Who may send a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Client to server.
    ToServer,
    /// Server to client.
    ToClient,
    /// Either way.
    Both,
}

/// Whether a method expects an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Carries an id; exactly one answer.
    Request,
    /// No id, no answer.
    Notification,
    /// Sent as a request in the legacy era; in 2026-07-28 only embedded in `inputRequests`, without `jsonrpc` and id.
    Ask,
}

/// The capability without which a method is answered -32601 (ours) or never sent (the client's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Nothing to declare.
    Free,
    /// Server capability `tools`.
    Tools,
    /// Server capability `prompts`.
    Prompts,
    /// Server capability `resources`.
    Resources,
    /// Server capability `resources.subscribe`.
    ResourcesSubscribe,
    /// Server capability `completions` (2024-11-05 has no such capability: there nothing gates the method).
    Completions,
    /// Server capability `logging`.
    Logging,
    /// Server capability `tasks` (2025-11-25), extension `io.modelcontextprotocol/tasks` (2026-07-28).
    Tasks,
    /// Client capability `roots`.
    ClientRoots,
    /// Client capability `sampling`.
    ClientSampling,
    /// Client capability `elicitation`.
    ClientElicitation,
}

/// One row of [`METHODS`].
#[derive(Clone, Copy, Debug)]
pub struct MethodRow {
    /// The method.
    pub method: Method,
    /// Its name on the wire.
    pub name: &'static str,
    /// Request, notification or ask.
    pub kind: Kind,
    /// Who may send it.
    pub direction: Direction,
    /// In which revisions it exists, in the order of [`Revision::ALL`].
    pub revisions: [bool; 5],
    /// What gates it.
    pub gate: Gate,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident $name:literal $kind:ident $direction:ident [$a:literal $b:literal $c:literal $d:literal $e:literal] $gate:ident;)*) => {
        /// A method or notification that some released revision defines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Method { $($(#[$doc])* $variant,)* }

        /// Every method of every revision. The order is that of [`Method`].
        pub const METHODS: &[MethodRow] = &[$(MethodRow {
            method: Method::$variant,
            name: $name,
            kind: Kind::$kind,
            direction: Direction::$direction,
            revisions: [$a == 1, $b == 1, $c == 1, $d == 1, $e == 1],
            gate: Gate::$gate,
        },)*];

        impl Method {
            /// The method with this exact name, whatever the revision.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

// Columns: 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25, 2026-07-28.
methods! {
    /// Opens a legacy session.
    Initialize "initialize" Request ToServer [1 1 1 1 0] Free;
    /// Liveness check, either way.
    Ping "ping" Request Both [1 1 1 1 0] Free;
    /// Names revisions and capabilities without opening anything.
    ServerDiscover "server/discover" Request ToServer [0 0 0 0 1] Free;
    /// Lists tools.
    ToolsList "tools/list" Request ToServer [1 1 1 1 1] Tools;
    /// Calls a tool.
    ToolsCall "tools/call" Request ToServer [1 1 1 1 1] Tools;
    /// Lists prompts.
    PromptsList "prompts/list" Request ToServer [1 1 1 1 1] Prompts;
    /// Renders a prompt.
    PromptsGet "prompts/get" Request ToServer [1 1 1 1 1] Prompts;
    /// Lists resources.
    ResourcesList "resources/list" Request ToServer [1 1 1 1 1] Resources;
    /// Lists resource templates.
    ResourcesTemplatesList "resources/templates/list" Request ToServer [1 1 1 1 1] Resources;
    /// Reads a resource.
    ResourcesRead "resources/read" Request ToServer [1 1 1 1 1] Resources;
    /// Subscribes to a resource (legacy).
    ResourcesSubscribe "resources/subscribe" Request ToServer [1 1 1 1 0] ResourcesSubscribe;
    /// Ends such a subscription (legacy).
    ResourcesUnsubscribe "resources/unsubscribe" Request ToServer [1 1 1 1 0] ResourcesSubscribe;
    /// Opens a long-lived subscription stream (modern).
    SubscriptionsListen "subscriptions/listen" Request ToServer [0 0 0 0 1] Free;
    /// Completes an argument.
    CompletionComplete "completion/complete" Request ToServer [1 1 1 1 1] Completions;
    /// Sets the session's log level (legacy).
    LoggingSetLevel "logging/setLevel" Request ToServer [1 1 1 1 0] Logging;
    /// Reads where a task stands (2025-11-25 and the extension of 2026-07-28, in shapes of their own).
    TasksGet "tasks/get" Request ToServer [0 0 0 1 1] Tasks;
    /// Waits for the end of a task and answers as the call would have (2025-11-25).
    TasksResult "tasks/result" Request ToServer [0 0 0 1 0] Tasks;
    /// Lists tasks (2025-11-25).
    TasksList "tasks/list" Request ToServer [0 0 0 1 0] Tasks;
    /// Answers what a task asks (the extension of 2026-07-28).
    TasksUpdate "tasks/update" Request ToServer [0 0 0 0 1] Tasks;
    /// Stops a task (2025-11-25 and the extension of 2026-07-28).
    TasksCancel "tasks/cancel" Request ToServer [0 0 0 1 1] Tasks;
    /// Asks the client for its roots.
    RootsList "roots/list" Ask ToClient [1 1 1 1 1] ClientRoots;
    /// Asks the client's model for a completion.
    SamplingCreateMessage "sampling/createMessage" Ask ToClient [1 1 1 1 1] ClientSampling;
    /// Asks the user through the client.
    ElicitationCreate "elicitation/create" Ask ToClient [0 0 1 1 1] ClientElicitation;
    /// The client is ready (legacy).
    NotificationsInitialized "notifications/initialized" Notification ToServer [1 1 1 1 0] Free;
    /// Cancels a request.
    NotificationsCancelled "notifications/cancelled" Notification Both [1 1 1 1 1] Free;
    /// Progress of a request.
    NotificationsProgress "notifications/progress" Notification Both [1 1 1 1 1] Free;
    /// The client's roots changed (legacy).
    NotificationsRootsListChanged "notifications/roots/list_changed" Notification ToServer [1 1 1 1 0] Free;
    /// A log message.
    NotificationsMessage "notifications/message" Notification ToClient [1 1 1 1 1] Logging;
    /// The list of tools changed.
    NotificationsToolsListChanged "notifications/tools/list_changed" Notification ToClient [1 1 1 1 1] Tools;
    /// The list of prompts changed.
    NotificationsPromptsListChanged "notifications/prompts/list_changed" Notification ToClient [1 1 1 1 1] Prompts;
    /// The list of resources changed.
    NotificationsResourcesListChanged "notifications/resources/list_changed" Notification ToClient [1 1 1 1 1] Resources;
    /// A subscribed resource changed.
    NotificationsResourcesUpdated "notifications/resources/updated" Notification ToClient [1 1 1 1 1] ResourcesSubscribe;
    /// First message of a subscription stream (modern).
    NotificationsSubscriptionsAcknowledged "notifications/subscriptions/acknowledged" Notification ToClient [0 0 0 0 1] Free;
    /// A URL-mode elicitation is finished (2025-11-25 only).
    NotificationsElicitationComplete "notifications/elicitation/complete" Notification ToClient [0 0 0 1 0] ClientElicitation;
    /// A task stands elsewhere (2025-11-25).
    NotificationsTasksStatus "notifications/tasks/status" Notification ToClient [0 0 0 1 0] Tasks;
    /// A task stands elsewhere (the extension of 2026-07-28).
    NotificationsTasks "notifications/tasks" Notification ToClient [0 0 0 0 1] Tasks;
}

impl Method {
    /// The method's row in [`METHODS`].
    #[must_use]
    pub const fn row(self) -> &'static MethodRow {
        &METHODS[self as usize]
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().name
    }

    /// Whether `revision` defines the method.
    #[must_use]
    pub const fn exists_in(self, revision: Revision) -> bool {
        self.row().revisions[revision.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_at_the_index_of_its_method_and_parses_back() {
        for (index, row) in METHODS.iter().enumerate() {
            assert_eq!(row.method as usize, index);
            assert_eq!(Method::parse(row.name), Some(row.method));
        }
        assert_eq!(Method::parse("tools/List"), None);
    }
}
