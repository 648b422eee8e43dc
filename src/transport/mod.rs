//! Bindings: bytes in, bytes out. Each feeds a [`crate::session::Driver`] and writes nothing but sealed frames.

mod dialect;
mod health;
mod host;
pub mod http;
mod io;
mod keys;
pub mod stdio;
mod tls;
pub mod websocket;

pub use health::{Checked, Dependency, Health, Report, Standing, StoreCheck};
pub use host::{Host, Seat};
pub use io::Io;
pub use keys::Keys;
pub use tls::{TlsError, tls_acceptor};
