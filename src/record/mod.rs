//! `tmws record`: between a client and a server, writing down what they say and changing none of it.
//!
//! `child` launches a stdio server in place of itself; `proxy` stands in front of a server on the network. Bytes are
//! passed on first and read afterwards (`lines`); `sink` is the file, `redact` what never reaches it.

mod child;
mod lines;
mod proxy;
mod redact;
mod sink;

pub use child::{RecordError, become_server, stdio};
pub use proxy::{ProxyError, proxy};
pub use redact::Rules;
pub use sink::Options;
