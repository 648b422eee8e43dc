//! Recorded conversations of real clients, each played against the fixture server in this process, or against our own
//! server where that was recorded (`own-…`): every rule of `tmws replay` is kept (or the exception is listed with its
//! reason), and what the server says is as it was.
//!
//! `compat/transcripts/<client>-<version>/<revision>/<scenario>.jsonl` is one test; its snapshot stands beside it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../compat/fixture/mod.rs"]
mod fixture;

#[path = "../it/support/scratch.rs"]
mod scratch;

mod expected;
mod normal;
mod own;
mod server;
mod trials;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials::all()).exit_code()
}
