//! What one frame costs: parse, admit and seal against parsing alone, in one process, interleaved.
//!
//! `cargo bench --bench frame`: the median of several rounds, per step and per revision.

#![allow(clippy::print_stdout, reason = "the report")]

use std::{hint::black_box, time::Instant};

use serde_json::{Value, json};
use tmws::{
    revision::Revision,
    schema::Gate,
    wire::{Envelope, Frame, Method, RequestId, parse_frame},
};

const ROUNDS: usize = 15;
const FRAMES: usize = 20_000;

/// Nanoseconds per run of `work`, the median of the rounds.
fn measure(mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..FRAMES {
                work();
            }
            begun.elapsed().as_secs_f64() * 1e9 / FRAMES as f64
        })
        .collect();
    rounds.sort_unstable_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn call(revision: Revision) -> String {
    let mut params = json!({"name": "execute_pattern", "arguments": {"pattern": "repo.digest", "input": {"since": "14d"}}});
    if revision == Revision::V2026_07_28 {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        });
    }
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).to_string()
}

fn answer(revision: Revision) -> Value {
    let mut result = json!({"content": [{"type": "text", "text": "x".repeat(200)}]});
    if revision == Revision::V2026_07_28 {
        result["resultType"] = json!("complete");
    }
    result
}

fn request(text: &str) -> tmws::wire::Request {
    match parse_frame(text.as_bytes()) {
        Ok(Frame::Single(Envelope::Request(request))) => request,
        other => unreachable!("{other:?}"),
    }
}

fn main() {
    let gate = Gate::new();
    println!(
        "one tools/call of about 150 bytes, its answer of about 250; ns each, median of {ROUNDS} rounds"
    );
    println!(
        "{:<12} {:>8} {:>8} {:>8} {:>8} {:>22}",
        "revision", "Value", "parse", "admit", "seal", "whole against Value"
    );
    for revision in Revision::ALL {
        let (text, result, id) = (call(revision), answer(revision), RequestId::from_integer(7));
        let value = measure(|| {
            black_box(serde_json::from_str::<Value>(black_box(&text)).is_ok());
        });
        let parse = measure(|| {
            black_box(request(black_box(&text)));
        });
        let admit = measure(|| {
            black_box(gate.admit_request(revision, Method::ToolsCall, request(black_box(&text))).is_ok());
        }) - parse;
        let seal = measure(|| {
            black_box(gate.seal_result(revision, Method::ToolsCall, &id, black_box(&result)).is_ok());
        });
        let whole = (parse + admit + seal) / value;
        println!("{revision:<12} {value:>8.0} {parse:>8.0} {admit:>8.0} {seal:>8.0} {whole:>21.2}x");
    }
}
