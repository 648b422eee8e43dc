//! `mcp.*` against real processes, well-behaved and not.

mod bad;
mod calls;
mod moods;
mod processes;
mod support;
