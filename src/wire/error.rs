//! JSON-RPC error codes, each chosen in one place.

use serde_json::{Value, json};

use super::RequestId;
use crate::revision::Revision;

/// Every error code that TMWS puts on the wire.
///
/// None of ours lies in -32000..=-32019 (except [`ErrorCode::ResourceNotFoundLegacy`], which legacy revisions define)
/// or in -32020..=-32099 beyond the three that 2026-07-28 defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ErrorCode {
    /// Not JSON, not UTF-8, or too deep.
    ParseError = -32700,
    /// JSON, but no message that may be sent here.
    InvalidRequest = -32600,
    /// No such method in this revision, or its capability was not advertised.
    MethodNotFound = -32601,
    /// Params that the method's schema refuses, unknown names, bad cursors.
    InvalidParams = -32602,
    /// Our bug; never with internals in the message.
    InternalError = -32603,
    /// Resource not found, 2024-11-05 to 2025-11-25 only.
    ResourceNotFoundLegacy = -32002,
    /// A URL elicitation must be done first, 2025-11-25 only.
    UrlElicitationRequired = -32042,
    /// An HTTP header and the body disagree (2026-07-28).
    HeaderMismatch = -32020,
    /// The request did not declare a capability that it needs (2026-07-28).
    MissingRequiredClientCapability = -32021,
    /// The revision asked for is not served statelessly (2026-07-28).
    UnsupportedProtocolVersion = -32022,
    /// Too much at once: to be asked again after `data.retryAfterMs`. Ours, outside what JSON-RPC and MCP reserve; as
    /// the HTTP status of that number.
    TooManyRequests = 429,
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The code for a resource that does not exist, under `revision`.
    #[must_use]
    pub const fn resource_not_found(revision: Revision) -> Self {
        match revision {
            Revision::V2024_11_05 | Revision::V2025_03_26 | Revision::V2025_06_18 | Revision::V2025_11_25 => {
                Self::ResourceNotFoundLegacy
            }
            Revision::V2026_07_28 => Self::InvalidParams,
        }
    }
}

/// The `error` member of an error response.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// The code.
    pub code: ErrorCode,
    /// One sentence: what happened, where, what to do. Never a secret, never another principal's data.
    pub message: String,
    /// Shape fixed per code (`mcp` schemas); `None` leaves the member out.
    pub data: Option<Value>,
}

impl RpcError {
    /// An error without data.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The same error with `data`.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// The whole error response; without `id` the member is left out, never null.
    #[must_use]
    pub fn to_message(&self, id: Option<&RequestId>) -> Value {
        let mut error = json!({"code": self.code.code(), "message": self.message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        match id {
            Some(id) => json!({"jsonrpc": "2.0", "id": id.to_value(), "error": error}),
            None => json!({"jsonrpc": "2.0", "error": error}),
        }
    }
}
