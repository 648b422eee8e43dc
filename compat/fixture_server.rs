//! The fixture server (`tmws::accept::fixture`). The official conformance suite and the recorded conversations of real
//! clients are run against it.
//!
//! ```text
//! cargo run --release --example fixture_server -- --listen 127.0.0.1:0
//! cargo run --release --example fixture_server -- --stdio
//! ```
//!
//! With `--listen` it serves Streamable HTTP at `/mcp`, WebSocket at `/ws` and HTTP+SSE at `/sse`, without
//! authentication, and says on stderr where. SIGTERM and SIGINT end it, on stdio the end of input too.

use std::process::ExitCode;

use tmws::accept::fixture::{serve_network, serve_stdio};

const USAGE: &str = "usage: fixture_server --listen 127.0.0.1:PORT | --stdio";

#[expect(clippy::print_stderr, reason = "the command line of an example")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let served = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--stdio"] => serve_stdio(),
        ["--listen", address] => {
            if let Ok(address) = address.parse() {
                serve_network(address)
            } else {
                eprintln!("{USAGE}");
                return ExitCode::from(64);
            }
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fixture_server: {error}");
            ExitCode::FAILURE
        }
    }
}
