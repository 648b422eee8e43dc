//! Isolation: who a connection belongs to, and the driver that runs one connection's calls.

mod driver;
mod identity;

pub use driver::{Driver, Mailbox, Wake};
pub use identity::Identity;
