//! Answers that are kept: which, under what key, for how long.
//!
//! **Which**: those of patterns with `cache:` that only read, and of nothing that somebody else decides: no programs, no
//! hosts, no other MCP servers, no models, no sessions. Never an error, a partial answer, or one whose rest could not be
//! kept behind its handle.
//!
//! **Under what key**: the scope as far as `cache.scope` reaches, the pattern's file, the caller's rights, the mode, what
//! the server bound, the inputs, the question, the session's scratch, and the declared parts ([`super::parts`]). A pattern
//! that reads memories, or keeps the rest of an answer behind a handle, shares its answers within one principal at most.
//! The generation of the memories is no part of the key: the entry carries the one from before its run, and each use
//! compares it with the store's.
//!
//! **For how long**: `cache.ttl`, half the life of a handle where there is one, and never beyond the earliest expiry of
//! a memory that the run may have seen, or the time at which an age that the answer tells will be another. What else `now`
//! means in an answer (`since: 7d`) may be as old as the entry.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    Execution, Outcome, Receipt, Workspace,
    etag::canonical_object,
    parts::Part,
    tokens::{self, Tokens},
};
use crate::{
    cache,
    pattern::{BindSource, CacheScopeRule, Effect, Family, Mode, Pattern, StepSpec},
    scope::Scope,
};

/// Changes with what a key is made of.
const KEY_VERSION: &[u8] = b"1";

/// An answer as it is kept: of the receipt only what belongs to the answer.
#[derive(Debug)]
pub(super) struct Answer {
    value: Arc<Value>,
    text: String,
    etag: String,
    handle: Option<String>,
    tokens: Tokens,
    bytes_seen: u64,
}

impl cache::Value for Answer {
    fn encode(&self) -> Vec<u8> {
        json!({
            "text": self.text, "etag": self.etag, "handle": self.handle, "tokens": self.tokens.count,
            "estimated": self.tokens.estimated, "bytes": self.bytes_seen,
        })
        .to_string()
        .into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut kept: Value = serde_json::from_slice(bytes).ok()?;
        let Value::String(text) = kept.get_mut("text")?.take() else { return None };
        Some(Self {
            value: Arc::new(serde_json::from_str(&text).ok()?),
            text,
            etag: kept["etag"].as_str()?.to_owned(),
            handle: kept["handle"].as_str().map(str::to_owned),
            tokens: Tokens {
                count: usize::try_from(kept["tokens"].as_u64()?).ok()?,
                estimated: kept["estimated"].as_bool()?,
            },
            bytes_seen: kept["bytes"].as_u64()?,
        })
    }

    fn weight(&self) -> usize {
        self.text.len() + self.etag.len() + memory_of(&self.value)
    }
}

/// Bytes of memory that a value takes, roughly.
fn memory_of(value: &Value) -> usize {
    const NODE: usize = size_of::<Value>();
    NODE + match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(memory_of).sum(),
        // The name, its hash, its place in the index.
        Value::Object(members) => {
            members.iter().map(|(name, member)| name.len() + 48 + memory_of(member)).sum()
        }
    }
}

impl Answer {
    /// What of `execution` may be kept, if anything.
    pub(super) fn of(execution: &Execution) -> Option<Self> {
        let Outcome::Output { value, etag, handle } = &execution.outcome else { return None };
        let receipt = &execution.receipt;
        // Beside the output these names are the envelope's: an output that has them stands under `value`.
        let is_partial = value.get("partial").is_some();
        let is_lost = value.get("more").and_then(|more| more.get("handle")).is_some_and(Value::is_null);
        (!is_partial && !is_lost && receipt.llm.is_empty()).then(|| Self {
            value: Arc::clone(value),
            text: execution.text.clone(),
            etag: etag.clone(),
            handle: handle.clone(),
            tokens: Tokens { count: receipt.tokens_out, estimated: receipt.tokens_estimated },
            bytes_seen: receipt.bytes_seen,
        })
    }

    /// What its rest is behind, where it has one.
    pub(super) fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// The answer given once more, by `pattern`. No step ran for it.
    pub(super) fn execution(&self, pattern: &Pattern, layer: cache::Layer) -> Execution {
        Execution {
            outcome: Outcome::Output {
                value: Arc::clone(&self.value),
                etag: self.etag.clone(),
                handle: self.handle.clone(),
            },
            text: self.text.clone(),
            receipt: Receipt {
                tokens_out: self.tokens.count,
                tokens_estimated: self.tokens.estimated,
                bytes_seen: self.bytes_seen,
                cache: "hit",
                cache_layer: Some(layer),
                ..Receipt::of(pattern)
            },
        }
    }
}

/// `execution`, or that nothing changed, where the caller has that answer already (`unless`). `project`: what the answer
/// calls it, where it does.
pub(super) fn unless(mut execution: Execution, unless: Option<&str>, project: Option<&str>) -> Execution {
    let Outcome::Output { etag, .. } = &execution.outcome else { return execution };
    if unless != Some(etag.as_str()) {
        return execution;
    }
    let etag = etag.clone();
    let mut unchanged = json!({"unchanged": true, "etag": etag});
    if let Some(project) = project {
        unchanged["project"] = project.into();
    }
    execution.text = unchanged.to_string();
    let tokens = tokens::count(&execution.text);
    (execution.receipt.tokens_out, execution.receipt.tokens_estimated) = (tokens.count, tokens.estimated);
    execution.outcome = Outcome::Unchanged { etag };
    execution
}

/// How the answers of a pattern are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keeping {
    ttl: Duration,
    reach: CacheScopeRule,
    pub(super) parts: Vec<Part>,
    /// Answers depend on the memories.
    pub(super) reads_memory: bool,
    /// Runs read files or ask git for more than the status and the log.
    pub(super) reads_tree: bool,
    /// Answers mean something in one store only: they have its memories or its handles in them.
    pub(super) of_one_store: bool,
    /// Runs ask databases of the configuration.
    pub(super) asks_sources: bool,
}

impl Keeping {
    /// How answers of `pattern` are kept; `None` where they are not.
    pub(super) fn of(pattern: &Pattern) -> Option<Self> {
        let spec = pattern.cache.as_ref()?;
        let mut used = Used::default();
        used.note(&pattern.steps);
        if pattern.effect != Effect::ReadOnly || used.is_foreign || spec.ttl.is_zero() {
            return None;
        }
        let of_one_store = used.memory || pattern.output.overflow_handle;
        let reach = match spec.scope {
            CacheScopeRule::Never | CacheScopeRule::Call => return None,
            CacheScopeRule::Project | CacheScopeRule::Public if of_one_store => CacheScopeRule::Principal,
            CacheScopeRule::Public if used.project => CacheScopeRule::Project,
            reach @ (CacheScopeRule::Session
            | CacheScopeRule::Principal
            | CacheScopeRule::Project
            | CacheScopeRule::Public) => reach,
        };
        Some(Self {
            ttl: spec.ttl,
            reach,
            parts: spec.key.iter().filter_map(|name| Part::parse(name)).collect(),
            reads_memory: used.memory,
            reads_tree: used.tree,
            of_one_store,
            asks_sources: used.sources,
        })
    }

    /// The key of an answer. `within`: the scope within the call's session; `scratch`: of that session.
    pub(super) fn key(&self, asked: &Asked<'_>, has_session: bool) -> Option<cache::Key> {
        let Asked { pattern, workspace, within, scratch, project, input, query, mode, .. } = asked;
        let Asked { parts, sources, store, embedding, .. } = asked;
        let mut bound = serde_json::Map::new();
        for (name, source) in &pattern.binds {
            let value = match (source, workspace) {
                (BindSource::WorkspaceRoot, Workspace::Root(root)) => root.to_str()?.to_owned(),
                (BindSource::WorkspaceRoot, Workspace::None { .. }) => return None,
                (BindSource::ProjectId, _) => within.project().to_string(),
                (BindSource::Agent, _) => within.agent().to_owned(),
                // An answer may be as old as its entry.
                (BindSource::Now, _) => continue,
            };
            bound.insert(name.clone(), value.into());
        }
        let bound = canonical_object(&bound);
        let rights = within.rights().to_string();
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let mode = [*mode as u8];
        let whole: [&[u8]; 11] = [
            KEY_VERSION,
            pattern.hash.as_bytes(),
            rights.as_bytes(),
            &mode,
            project.as_bytes(),
            bound.as_bytes(),
            input.as_bytes(),
            query.as_bytes(),
            scratch.as_bytes(),
            sources,
            embedding.as_bytes(),
        ];
        let parts = parts.iter().map(String::as_bytes).chain([store.as_slice()]);
        cache::Key::new(within, self.reach, has_session, whole.into_iter().chain(parts))
    }

    /// Until when an answer to a call at `now` may be used. `first`: the earliest time at which it will be another (the expiry
    /// of a memory, an age). `handle`: how long handles live, where the answer has one.
    pub(super) fn expires(
        &self,
        now: Timestamp,
        first: Option<Timestamp>,
        handle: Option<Duration>,
    ) -> Timestamp {
        let life = handle.map_or(self.ttl, |life| self.ttl.min(life / 2));
        let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
        let own = now.checked_add(life).unwrap_or(Timestamp::MAX);
        first.map_or(own, |first| own.min(first))
    }
}

/// What a key is made of, beside the reach.
pub(super) struct Asked<'a> {
    pub(super) pattern: &'a Pattern,
    pub(super) workspace: &'a Workspace,
    pub(super) within: &'a Scope,
    /// Canonical JSON, or nothing where the call names no session.
    pub(super) scratch: &'a str,
    /// What the answer calls the project, where it does.
    pub(super) project: &'a str,
    /// Canonical JSON.
    pub(super) input: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) mode: Mode,
    /// What the configuration says of the databases that the call may ask, where the pattern asks any.
    pub(super) sources: &'a [u8],
    /// In the order of [`Keeping::parts`].
    pub(super) parts: &'a [String],
    /// Names the model that memories are searched with, where the pattern reads any and other instances may have another.
    pub(super) embedding: &'a str,
    /// Names the store, where answers depend on it and other instances read them too.
    pub(super) store: [u8; 32],
}

/// What the steps of a pattern reach.
#[derive(Default)]
struct Used {
    memory: bool,
    /// What belongs to one project.
    project: bool,
    /// Files of the work tree.
    tree: bool,
    /// Databases of the configuration.
    sources: bool,
    /// What is never kept.
    is_foreign: bool,
}

impl Used {
    fn note(&mut self, steps: &[StepSpec]) {
        for step in steps {
            self.tree |= match step.uses.family {
                Family::Fs => true,
                Family::Git => !["git.status", "git.log"].contains(&step.uses.uses),
                _ => false,
            };
            self.sources |= step.uses.family == Family::Sql;
            match step.uses.family {
                Family::Memory => self.memory = true,
                Family::Fs | Family::Git | Family::Sql => self.project = true,
                Family::Data => {}
                Family::Control => self.is_foreign |= step.uses.uses == "control.ask",
                Family::Session
                | Family::Exec
                | Family::Http
                | Family::Mcp
                | Family::Llm
                | Family::Server => self.is_foreign = true,
            }
            for block in &step.children {
                self.note(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        cache::Value as _,
        pattern::{Origin, loader::load},
        scope::ProjectId,
    };

    fn pattern(steps: &str, permissions: &str, overflow: &str, cache: &str) -> Pattern {
        let text = format!(
            "apiVersion: tmws/v1\nkind: Pattern\nname: a.b\nversion: 1.0.0\ntype: {}\ndescription: Says what it is for, \
             in a sentence.\ninputs: {{type: object, additionalProperties: false, properties: {{}}}}\nbind: {{root: {{from: \
         workspace.root}}}}\npermissions: {permissions}\nsteps:\n{steps}\noutput:\n  schema: {{type: object}}\n  value: {{}}\n  \
             budget: {{tokens: 100, overflow: {overflow}}}\ncache: {cache}\n",
            if steps.contains("memory.") { "memory" } else { "infrastructure" },
        );
        let loaded = load("a.b.yaml", &text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{errors:?}"));
        Arc::unwrap_or_clone(loaded.pattern)
    }

    #[test]
    fn what_is_kept_and_how_far_it_reaches() {
        use CacheScopeRule::{Principal, Project, Public, Session};
        let (data, memory, git) = (
            ("  - {id: a, uses: data.merge, with: {items: []}}", "{}"),
            ("  - {id: a, uses: memory.list, with: {}}", "{memory: [read]}"),
            (r#"  - {id: a, uses: git.status, with: {repo: "${ .bind.root }"}}"#, "{git: [status]}"),
        );
        let cases = [
            (data, "cut", "public", Some(Public)),
            (data, "cut", "session", Some(Session)),
            (data, "cut", "never", None),
            (data, "cut", "call", None),
            (data, "handle", "public", Some(Principal)),
            (git, "cut", "public", Some(Project)),
            (git, "cut", "project", Some(Project)),
            (git, "handle", "project", Some(Principal)),
            (memory, "cut", "public", Some(Principal)),
            (memory, "cut", "project", Some(Principal)),
            (memory, "cut", "session", Some(Session)),
        ];
        for ((steps, permissions), overflow, scope, reach) in cases {
            let pattern = pattern(steps, permissions, overflow, &format!("{{ttl: 60s, scope: {scope}}}"));
            let keeping = Keeping::of(&pattern);
            assert_eq!(keeping.map(|keeping| keeping.reach), reach, "{steps} {overflow} {scope}");
        }
        let sql = ("  - {id: a, uses: sql.query, with: {source: app, name: ships}}", "{sql: [app]}");
        for ((steps, permissions), asks_sources) in [(sql, true), (git, false)] {
            let pattern = pattern(steps, permissions, "cut", "{ttl: 60s, scope: project}");
            let keeping = Keeping::of(&pattern).unwrap();
            assert_eq!(keeping.asks_sources, asks_sources, "{steps}");
            let within = Scope::mint(ProjectId::personal(), "ada", "agent", None);
            let root = Workspace::Root("/harbour".into());
            let key = |sources: &[u8], embedding: &str| {
                let asked = Asked {
                    pattern: &pattern,
                    workspace: &root,
                    within: &within,
                    scratch: "",
                    project: "",
                    input: "{}",
                    query: None,
                    mode: Mode::Balanced,
                    parts: &[],
                    sources,
                    embedding,
                    store: [0; 32],
                };
                keeping.key(&asked, false).unwrap()
            };
            assert_eq!(key(b"one", "none"), key(b"one", "none"));
            let others = [key(b"another", "none"), key(b"one", "builtin")];
            assert!(
                !others.contains(&key(b"one", "none")),
                "what is asked, and what it is searched with, are part of it"
            );
        }
        let asks = ("  - {id: a, uses: session.open, with: {}}", "{}");
        assert_eq!(Keeping::of(&pattern(asks.0, asks.1, "cut", "{ttl: 60s, scope: principal}")), None);
    }

    #[test]
    fn an_entry_ends_with_what_it_was_made_of() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let keeping = Keeping {
            ttl: Duration::from_mins(1),
            reach: CacheScopeRule::Project,
            parts: Vec::new(),
            reads_memory: true,
            reads_tree: false,
            of_one_store: true,
            asks_sources: false,
        };
        let after = |seconds| now + SignedDuration::from_secs(seconds);
        for (memories, handle, wanted) in [
            (None, None, after(60)),
            (Some(after(10)), None, after(10)),
            (Some(after(100)), None, after(60)),
            (None, Some(Duration::from_secs(30)), after(15)),
            (Some(after(10)), Some(Duration::from_secs(30)), after(10)),
        ] {
            assert_eq!(keeping.expires(now, memories, handle), wanted);
        }
    }

    proptest! {
        #[test]
        fn an_answer_survives_the_way_through_the_second_layer(
            members in proptest::collection::btree_map("[a-z]{1,8}", ".{0,40}", 0..6),
            etag in "[0-9a-z]{8}",
            handle in proptest::option::of("r_[a-z]{22}"),
            tokens in 0_usize..10_000,
            estimated in any::<bool>(),
            bytes_seen in any::<u64>(),
        ) {
            let value = json!(members);
            let answer = Answer {
                text: value.to_string(), value: Arc::new(value), etag, handle,
                tokens: Tokens { count: tokens, estimated }, bytes_seen,
            };
            let read = Answer::decode(&answer.encode()).expect("its own bytes");
            prop_assert_eq!(format!("{read:?}"), format!("{answer:?}"));
            prop_assert!(answer.weight() > answer.text.len());
        }

        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
            prop_assert!(Answer::decode(&bytes).is_none());
            let _ = Answer::decode(text.as_bytes());
            let _ = Answer::decode(json!({"text": text, "etag": 1}).to_string().as_bytes());
        }
    }
}
