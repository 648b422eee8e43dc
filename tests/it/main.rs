//! Tests from outside the crate, one file a subject.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod acceptance;
mod access;
mod admission;
mod asking;
mod authoring;
mod backends;
mod bridge;
mod bulkheads;
mod cli;
mod completions;
mod config;
mod conversations;
mod docs;
mod engine;
mod fixture_server;
mod fuzzing;
mod isolation;
mod isolation_network;
mod layers;
mod llm;
mod logs;
mod mcp;
mod mutations;
mod network;
mod pattern_loader;
mod pattern_routing;
mod record;
mod replay;
mod routing_labels;
#[path = "../sabotage/mod.rs"]
#[allow(dead_code, reason = "what other tests use of it")]
mod sabotage;
mod schema;
mod schema_versions;
mod search_quality;
mod stdio;
mod steps_exec;
mod steps_fs;
mod steps_git;
mod steps_http;
mod steps_patterns;
mod steps_support;
#[path = "../store/mod.rs"]
mod store;
mod store_contract;
mod store_faults;
mod store_mark;
mod store_vectors;
mod support;
mod tasks;
mod tools;
mod upkeep;
