//! Streamable HTTP, the deprecated HTTP+SSE, and the door to WebSocket: one listener, one router.
//!
//! ```text
//! accept ─ server      limits, TLS, hyper
//!   └ guard            Host, Origin, CORS                          403
//!   └ router           path → project and endpoint; who is it      401, 403, 404, 405
//!       ├ /            the dashboard; /healthz, /readyz, /metrics     `dashboard`, `health`
//!       ├ /mcp         era by body, cross-checked with the headers
//!       │   ├ post     reads the body, decides the era
//!       │   ├ modern   one request, one connection of the core
//!       │   └ legacy   sessions: POST, GET, DELETE
//!       ├ /sse         2024-11-05: the stream, and /messages for what the client says
//!       └ /ws          upgrade → `transport::websocket`
//! ```

mod body;
mod cors;
mod dashboard;
mod discovery;
mod era;
mod events;
mod guard;
mod headers;
mod health;
mod legacy;
mod modern;
mod post;
mod router;
mod server;
mod sse;

pub use body::{Body, Events};
pub use server::{Listener, serve};

/// An answer.
type Response = hyper::Response<Body>;
/// A question whose body was not read yet.
type Request = hyper::Request<hyper::body::Incoming>;
