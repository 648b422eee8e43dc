//! `mcp.*` against real processes, well-behaved and not.

mod bad;
mod calls;
mod processes;
mod support;
