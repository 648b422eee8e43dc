//! The closed set of steps as one table: what each is called, what it touches, whether it writes.

use super::Effect;

/// What a step touches; decides a pattern's type and the permission it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Needs permission `memory: [read]` or `[write]`.
    Memory,
    /// Needs permission `fs.read` with roots.
    Fs,
    /// Needs permission `git` naming the command.
    Git,
    /// Runs programs; needs permission `exec` with the argv template.
    Exec,
    /// Fetches from the network; needs permission `http` with the host.
    Http,
    /// Reads databases that the configuration names; needs permission `sql` with the source.
    Sql,
    /// Calls tools of other MCP servers that the configuration names; needs permission `mcp`.
    Mcp,
    /// Has a language model complete a text; needs permission `llm`.
    Llm,
    /// Figures of this server, as far as they are the caller's own.
    Server,
    /// Pure.
    Data,
    /// Pure.
    Control,
    /// The session's own scratch and handle.
    Session,
}

/// One row of [`STEPS`].
#[derive(Clone, Copy, Debug)]
pub struct StepRow {
    /// As written in `uses`.
    pub uses: &'static str,
    /// What it touches.
    pub family: Family,
    /// Whether it writes.
    pub effect: Effect,
    /// Members that `with` must have.
    pub required: &'static [&'static str],
    /// Members that `with` may have.
    pub optional: &'static [&'static str],
    /// One line for `tmws pattern show` and the docs.
    pub summary: &'static str,
}

macro_rules! steps {
    ($($uses:literal $family:ident $effect:ident [$($required:literal)*] [$($optional:literal)*] $summary:literal;)*) => {
        /// Every step there is.
        pub const STEPS: &[StepRow] = &[$(StepRow {
            uses: $uses, family: Family::$family, effect: Effect::$effect,
            required: &[$($required),*], optional: &[$($optional),*], summary: $summary,
        },)*];
    };
}

steps! {
    "memory.search" Memory ReadOnly ["query"] ["k" "tags" "kind" "importance_min" "since" "until" "superseded" "offset"] "finds memories by words";
    "memory.get" Memory ReadOnly ["id"] [] "reads one memory";
    "memory.list" Memory ReadOnly [] ["k" "tags" "kind" "importance_min" "since" "until" "superseded" "order" "offset"] "lists memories by filter";
    "memory.stats" Memory ReadOnly [] [] "counts memories, tags and kinds";
    "memory.store" Memory Writes ["content"] ["tags" "importance" "kind" "visibility" "trust" "supersedes" "expires"] "stores a memory";
    "memory.update" Memory Writes ["id"] ["tags" "importance" "kind" "expires"] "changes a memory's labels";
    "memory.forget" Memory Writes ["ids"] [] "forgets memories";
    "fs.read" Fs ReadOnly ["root" "path"] ["offset" "limit" "tail"] "reads a text file by lines, or its end";
    "fs.glob" Fs ReadOnly ["root" "pattern"] ["limit" "hidden"] "lists files by glob, git-ignored ones left out";
    "fs.grep" Fs ReadOnly ["root" "pattern"] ["glob" "path" "ignore_case" "word" "literal" "limit" "context" "max_per_file" "lines"] "finds lines by regex";
    "fs.stat" Fs ReadOnly ["root" "path"] [] "tells kind, size and time of a path";
    "fs.tree" Fs ReadOnly ["root"] ["path" "depth" "limit"] "lists folders with counts";
    "fs.outline" Fs ReadOnly ["root"] ["path" "glob" "limit" "max_per_file" "depth"] "lists the symbols of source files with their signatures";
    "git.status" Git ReadOnly ["repo"] [] "tells branch, upstream and changed files";
    "git.log" Git ReadOnly ["repo"] ["since" "until" "path" "max" "stat"] "lists commits, with changed lines per file";
    "git.diff" Git ReadOnly ["repo"] ["from" "to" "staged" "merge_base" "path" "patch" "context"] "compares trees, index and work tree";
    "git.show" Git ReadOnly ["repo" "rev"] ["path" "patch"] "shows one commit";
    "git.blame" Git ReadOnly ["repo" "path"] ["from_line" "to_line" "lines" "rev"] "tells who last changed lines";
    "exec.run" Exec Executes ["command" "root"] ["args" "merge" "max_bytes"] "runs a program by an argv template of the permissions";
    "http.get" Http ReadOnly ["url"] ["accept" "max_bytes"] "fetches a URL of an allowed host";
    "sql.query" Sql ReadOnly [] ["source" "query" "name" "params" "rows"] "asks a configured database, in a read-only transaction";
    "sql.describe" Sql ReadOnly [] ["source" "tables" "limit"] "lists tables, columns and keys of a configured database";
    "mcp.call" Mcp ReadOnly ["server" "tool"] ["arguments"] "calls a tool of a configured MCP server";
    "mcp.tools" Mcp ReadOnly [] ["server"] "lists the tools that may be called, from the configuration";
    "llm.complete" Llm ReadOnly ["prompt"] ["system" "max_tokens"] "has a language model complete a prompt";
    "server.stats" Server ReadOnly [] [] "tells figures of the caller's own calls, the caches and what is degraded";
    "data.jq" Data ReadOnly ["filter"] ["input"] "evaluates a jq filter";
    "data.template" Data ReadOnly ["template"] ["values"] "fills a text template";
    "data.merge" Data ReadOnly ["items"] [] "merges objects, later ones win";
    "data.group" Data ReadOnly ["items" "by"] ["limit"] "groups items by a member";
    "data.dedupe" Data ReadOnly ["items"] ["by"] "drops repeated items";
    "data.rank" Data ReadOnly ["items" "by"] ["limit" "order"] "orders items by a member";
    "data.truncate" Data ReadOnly ["items"] ["keep" "chars"] "keeps the first items, or characters";
    "data.parse" Data ReadOnly ["text" "format"] ["tool" "limit"] "reads the output of test runners and compilers, and logs";
    "control.parallel" Control ReadOnly ["steps"] [] "runs steps at the same time";
    "control.foreach" Control ReadOnly ["items" "steps"] ["as" "limit" "concurrency"] "runs steps for each item";
    "control.switch" Control ReadOnly ["cases"] ["default"] "runs the first case that holds";
    "control.assert" Control ReadOnly ["that"] ["message" "code"] "ends the pattern with a typed error unless a condition holds";
    "control.ask" Control ReadOnly ["message" "schema"] [] "asks the user through the client";
    "session.open" Session ReadOnly [] [] "mints a session handle";
    "session.close" Session ReadOnly [] ["session"] "ends a session";
}

impl StepRow {
    /// The row of the step called `uses`.
    #[must_use]
    pub fn find(uses: &str) -> Option<&'static Self> {
        STEPS.iter().find(|row| row.uses == uses)
    }
}
