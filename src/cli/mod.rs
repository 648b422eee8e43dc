//! The command line: parse, run, exit code. Errors go to stderr as `tmws: failed to …: cause`; stdout belongs to
//! `output` and, under `stdio`, to MCP alone.

mod accept;
pub mod arguments;
mod asking;
mod doctor;
mod draft;
mod failure;
mod memory;
mod migrate;
mod output;
mod pattern;
mod progress;
mod record;
mod replay;
mod run;
mod scaffold;
mod schema;
mod serve;
mod settings;
mod start;
mod token;
mod token_report;
mod tools;
mod version;

pub use failure::Failure;
pub use output::Output;
pub use start::main;
