//! JSON-RPC as values: bytes to frames, request ids, error codes, method names.
//!
//! Pure: no I/O, no clock. Everything here is bounded by [`crate::limits`].

mod error;
mod frame;
mod id;
mod json;
mod lines;
mod method;
mod writer;

pub use error::{ErrorCode, RpcError};
pub use frame::{
    BATCH_MESSAGES_MAX, Envelope, Frame, FrameError, Notification, Request, Response, parse_frame,
};
pub use id::RequestId;
pub use json::{JSON_DEPTH_MAX, StrictJson, parse_strict};
pub use lines::{Line, LineDecoder};
pub use method::{Direction, Gate, Kind, METHODS, Method, MethodRow};
pub use writer::write_value;
