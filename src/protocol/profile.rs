//! What a server says of itself, in the newest vocabulary; the core fits it to each revision.

use serde_json::{Map, Value};

/// How long and for whom a result may be cached (2026-07-28 `ttlMs`, `cacheScope`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheHint {
    /// Milliseconds; 0 means do not cache.
    pub ttl_ms: u64,
    /// For whom.
    pub scope: CacheScope,
}

/// Who may share a cached result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheScope {
    /// Anybody.
    Public,
    /// Only the principal that asked.
    Private,
}

impl CacheScope {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// Server capability `resources`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourcesCapability {
    /// Clients may subscribe to a resource.
    pub subscribe: bool,
    /// List changes are announced.
    pub list_changed: bool,
}

/// What the server offers. A capability that is `None` or false is not advertised, and its methods are -32601.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capabilities {
    /// Tools; the value says whether list changes are announced.
    pub tools: Option<bool>,
    /// Prompts; the value says whether list changes are announced.
    pub prompts: Option<bool>,
    /// Resources.
    pub resources: Option<ResourcesCapability>,
    /// Argument completion.
    pub completions: bool,
    /// Log messages to the client.
    pub logging: bool,
    /// Calls of tools may become tasks: the capability `tasks` in 2025-11-25, the extension in 2026-07-28.
    pub tasks: bool,
    /// Extensions (2026-07-28 only): identifier to settings object.
    pub extensions: Map<String, Value>,
    /// Experimental features: name to settings object.
    pub experimental: Map<String, Value>,
}

/// What a server says of itself. Fixed for the life of the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// `Implementation` in the newest shape: `name` and `version`, optionally `title`, `description`, `websiteUrl`, `icons`.
    pub server_info: Map<String, Value>,
    /// At most 512 characters for the model. Never holds stored data.
    pub instructions: Option<String>,
    /// What is offered.
    pub capabilities: Capabilities,
    /// Cache hint of `server/discover` and the four lists.
    pub list_cache: CacheHint,
    /// Cache hint of `resources/read`, where the reply names none.
    pub read_cache: CacheHint,
}
