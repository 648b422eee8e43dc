//! Calls as the core dispatches them, for services that are asked without a connection.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tmws::{
    protocol::{Call, CallId, Client},
    revision::{Era, Revision},
    schema::Gate,
    wire::{Envelope, Frame, Method, parse_frame},
};

/// The admitted call of `method` with `params`, to which the envelope of the modern era is added where it is due.
pub(crate) fn admitted(gate: Gate, revision: Revision, method: Method, mut params: Value) -> Call {
    let wants_progress = params.get("_meta").is_some_and(|meta| meta.get("progressToken").is_some());
    if revision.era() == Era::Modern {
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(revision.as_str());
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    }
    let frame = json!({"jsonrpc": "2.0", "id": 1, "method": method.as_str(), "params": params});
    let Ok(Frame::Single(Envelope::Request(request))) = parse_frame(frame.to_string().as_bytes()) else {
        panic!("no request: {frame}");
    };
    let request = gate.admit_request(revision, method, request).unwrap_or_else(|(_, why)| panic!("{why}"));
    Call {
        id: CallId(1),
        request: Arc::new(request),
        client: Arc::new(Client { revision, info: None, capabilities: Map::new() }),
        wants_progress,
        log_level: None,
        answers: None,
        task: None,
    }
}
