//! The engine over the real store, with pattern files.

mod answers;
mod builtin;
mod run;
mod support;
