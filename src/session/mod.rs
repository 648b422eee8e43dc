//! Isolation: who a connection belongs to, the driver that runs one connection's calls, and the register of all.

mod driver;
mod hub;
mod identity;

pub use driver::{Driver, Mailbox, Wake};
pub use hub::{Hub, Membership};
pub use identity::Identity;
