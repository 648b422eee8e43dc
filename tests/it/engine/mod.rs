//! The engine over the real store, with pattern files.

mod answers;
mod builtin;
mod cached;
mod late;
mod limits;
mod offers;
mod programs;
mod run;
pub(crate) mod support;
mod times;
