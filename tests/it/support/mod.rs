//! What several tests share.

pub(crate) mod calls;
pub(crate) mod catalogue;
pub(crate) mod conversation;
pub(crate) mod matcher;
pub(crate) mod player;
#[allow(dead_code, reason = "what other tests use of it")]
pub(crate) mod program;
pub(crate) mod promises;
pub(crate) mod scratch;
pub(crate) mod service;
pub(crate) mod serving;
pub(crate) mod texts;
