//! Bindings: bytes in, bytes out. Each feeds a [`crate::session::Driver`] and writes nothing but sealed frames.

pub mod stdio;
