//! The patterns that ship in the binary.

macro_rules! builtins {
    ($($file:literal)*) => {
        /// File name and text of every built-in pattern, by name.
        pub const BUILTINS: &[(&str, &str)] = &[$(($file, include_str!(concat!("builtin/", $file))),)*];
    };
}

builtins! {
    "build.digest.yaml"
    "build.run.yaml"
    "code.find.yaml"
    "code.outline.yaml"
    "diff.review.yaml"
    "log.digest.yaml"
    "mcp.fanout.yaml"
    "memory.by-tag.yaml"
    "db.ask.yaml"
    "db.describe.yaml"
    "memory.forget.yaml"
    "memory.handoff.yaml"
    "memory.lookup.yaml"
    "memory.recall.yaml"
    "memory.remember.yaml"
    "memory.timeline.yaml"
    "project.health.yaml"
    "repo.digest.yaml"
    "session.close.yaml"
    "session.open.yaml"
    "session.primer.yaml"
    "test.digest.yaml"
    "test.run.yaml"
    "tmws.stats.yaml"
    "todo.sweep.yaml"
}
