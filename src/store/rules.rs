//! What a memory must be to be stored, the same for every store: normal forms and limits.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    Memory, MemoryChange, MemoryFilter, NewMemory, StoreError, Trust, Visibility, id,
    view::{View, visibility_text},
};
use crate::{limits::StoreLimits, scope::Scope};

/// Longest kind, in bytes.
const KIND_BYTES_MAX: usize = 64;
const IMPORTANCE_DEFAULT: f64 = 0.5;
const KIND_DEFAULT: &str = "note";
const PERSONAL: &str = "personal";

fn invalid(field: &'static str, message: impl Into<String>) -> StoreError {
    StoreError::Invalid { field, message: message.into() }
}

/// A memory as it is to be stored, before it has an id.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) content: String,
    pub(super) content_hash: Vec<u8>,
    pub(super) tags: Vec<String>,
    pub(super) importance: f64,
    pub(super) kind: String,
    pub(super) visibility: Visibility,
    pub(super) trust: Trust,
    pub(super) supersedes: Option<String>,
    pub(super) expires: Option<Timestamp>,
}

impl Draft {
    /// Brings `new` into its normal form, or says which field offends which rule.
    pub(super) fn new(
        scope: &Scope,
        new: NewMemory,
        limits: &StoreLimits,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        if new.visibility == Visibility::Session && scope.session().is_none() {
            return Err(invalid("visibility", "`session` needs a session, and this call has none"));
        }
        check_content(&new.content, limits)?;
        let expires = new.expires.map(whole_microseconds);
        if expires.is_some_and(|expires| expires <= now) {
            return Err(invalid("expires", "lies in the past; name a later time"));
        }
        Ok(Self {
            content_hash: content_hash(&new.content),
            content: new.content,
            tags: normal_tags(&new.tags, limits)?,
            importance: checked_importance(new.importance.unwrap_or(IMPORTANCE_DEFAULT))?,
            kind: new.kind.as_deref().map_or_else(|| Ok(KIND_DEFAULT.to_owned()), normal_kind)?,
            visibility: new.visibility,
            trust: new.trust,
            supersedes: new.supersedes,
            expires,
        })
    }
}

impl Draft {
    /// The memory that it becomes where nothing equal is there.
    pub(super) fn fresh(&self, view: &View, id: &str, now: Timestamp) -> Memory {
        Memory {
            id: id.to_owned(),
            project: view.project.clone(),
            content: self.content.clone(),
            tags: self.tags.clone(),
            importance: self.importance,
            kind: self.kind.clone(),
            visibility: self.visibility,
            trust: self.trust,
            principal: view.principal.clone(),
            agent: view.agent.clone(),
            session: if self.visibility == Visibility::Session { view.session.clone() } else { None },
            supersedes: self.supersedes.clone(),
            superseded_by: None,
            created: now,
            updated: now,
            recalled: None,
            expires: self.expires,
        }
    }

    /// `found` as what this draft may replace: of the scope's project, not replaced before, seen by nobody who would not see
    /// the new one.
    pub(super) fn replaces(&self, view: &View, found: Option<(i64, Memory)>) -> Result<Replaced, StoreError> {
        let Some((seq, old)) = found.filter(|(_, old)| old.project == view.project) else {
            return Err(invalid("supersedes", "names no memory of this project; search for the right id"));
        };
        if let Some(newer) = old.superseded_by {
            return Ok(Replaced::Before(newer));
        }
        if !may_supersede(old.visibility, self.visibility) {
            let message = format!(
                "names a memory of visibility `{}`, which one of visibility `{}` cannot replace; use `{0}`",
                visibility_text(old.visibility),
                visibility_text(self.visibility),
            );
            return Err(invalid("supersedes", message));
        }
        Ok(Replaced::Now(seq, Box::new(old)))
    }

    /// `known`, whose content is equal, with what it adds: tags united, the larger importance, the later expiry.
    pub(super) fn merged(
        &self,
        known: &Memory,
        supersedes: Option<String>,
        limits: &StoreLimits,
        now: Timestamp,
    ) -> Result<Memory, StoreError> {
        let tags: Vec<String> = known.tags.iter().chain(&self.tags).cloned().collect();
        let expires = match (known.expires, self.expires) {
            (Some(one), Some(other)) => Some(one.max(other)),
            _ => None,
        };
        let mut merged = Memory {
            tags: normal_tags(&tags, limits)?,
            importance: known.importance.max(self.importance),
            supersedes: known.supersedes.clone().or(supersedes),
            expires,
            ..known.clone()
        };
        if merged != *known {
            merged.updated = known.updated.max(now);
        }
        Ok(merged)
    }
}

/// What became of the memory that a draft names.
pub(super) enum Replaced {
    /// It is replaced now.
    Now(i64, Box<Memory>),
    /// The memory with this id replaced it before.
    Before(String),
}

/// A memory was replaced before; `newer` is what did, where it may be seen.
pub(super) fn superseded_before(newer: Option<&Memory>) -> StoreError {
    let again = newer.map_or_else(String::new, |newer| format!("; supersede {} instead", newer.id));
    invalid("supersedes", format!("names a memory that was superseded before{again}"))
}

/// `old` with what `change`, in its normal form, names.
pub(super) fn changed(old: &Memory, change: &MemoryChange, now: Timestamp) -> Memory {
    let change = change.clone();
    let mut new = Memory {
        tags: change.tags.unwrap_or_else(|| old.tags.clone()),
        importance: change.importance.unwrap_or(old.importance),
        kind: change.kind.unwrap_or_else(|| old.kind.clone()),
        expires: change.expires.unwrap_or(old.expires),
        ..old.clone()
    };
    if new != *old {
        new.updated = old.updated.max(now);
    }
    new
}

/// A change in its normal form.
pub(super) fn normal_change(
    change: MemoryChange,
    limits: &StoreLimits,
    now: Timestamp,
) -> Result<MemoryChange, StoreError> {
    let expires = change.expires.map(|expires| expires.map(whole_microseconds));
    if expires.flatten().is_some_and(|expires| expires <= now) {
        return Err(invalid("expires", "lies in the past; name a later time, or forget the memory"));
    }
    Ok(MemoryChange {
        tags: change.tags.map(|tags| normal_tags(&tags, limits)).transpose()?,
        importance: change.importance.map(checked_importance).transpose()?,
        kind: change.kind.as_deref().map(normal_kind).transpose()?,
        expires,
    })
}

/// An exported memory in its normal form, where `scope` might have stored or read it.
pub(super) fn imported(
    scope: &Scope,
    mut memory: Memory,
    limits: &StoreLimits,
) -> Result<Memory, StoreError> {
    let ids = [Some(&memory.id), memory.supersedes.as_ref(), memory.superseded_by.as_ref()];
    if !ids.into_iter().flatten().all(|id| id::is_memory_id(id)) {
        return Err(invalid("id", "is no memory id; import only what was exported"));
    }
    if !may_see(scope, &memory) {
        let message = format!("{} belongs to another project, principal, agent or session", memory.id);
        return Err(invalid("project", message));
    }
    let check = |memory: &mut Memory| {
        check_content(&memory.content, limits)?;
        memory.tags = normal_tags(&memory.tags, limits)?;
        memory.importance = checked_importance(memory.importance)?;
        memory.kind = normal_kind(&memory.kind)?;
        Ok(())
    };
    check(&mut memory).map_err(|error| match error {
        StoreError::Invalid { field, message } => invalid(field, format!("{message} (in {})", memory.id)),
        other => other,
    })?;
    if memory.visibility != Visibility::Session {
        memory.session = None;
    }
    memory.created = whole_microseconds(memory.created);
    memory.updated = whole_microseconds(memory.updated);
    memory.expires = memory.expires.map(whole_microseconds);
    memory.recalled = memory.recalled.map(whole_microseconds);
    Ok(memory)
}

/// Says what would refuse the import of `memory`, without importing it.
///
/// # Errors
/// [`StoreError::Invalid`], as of [`Store::import`](super::Store::import).
pub fn check_import(scope: &Scope, memory: Memory, limits: &StoreLimits) -> Result<(), StoreError> {
    imported(scope, memory, limits).map(drop)
}

/// Whether `scope` may see `memory`, apart from its expiry.
fn may_see(scope: &Scope, memory: &Memory) -> bool {
    let own = memory.principal == scope.principal();
    let here = memory.project == scope.project().as_str() && (own || memory.project != PERSONAL);
    let personal = memory.project == PERSONAL && own;
    match memory.visibility {
        Visibility::Project => here || personal,
        Visibility::Agent => (here || personal) && own && memory.agent == scope.agent(),
        Visibility::Session => {
            here && own && memory.session.as_deref() == scope.session() && memory.session.is_some()
        }
        Visibility::Shared => own,
    }
}

/// Whether whoever saw a memory of visibility `old` also sees the one of visibility `new` that replaces it.
fn may_supersede(old: Visibility, new: Visibility) -> bool {
    match old {
        Visibility::Session => true,
        Visibility::Agent => new != Visibility::Session,
        Visibility::Project | Visibility::Shared => new == old,
    }
}

fn check_content(content: &str, limits: &StoreLimits) -> Result<(), StoreError> {
    if content.trim().is_empty() {
        return Err(invalid("content", "is blank"));
    }
    if content.len() > limits.content_bytes_max {
        let message = format!(
            "has {} bytes, at most {} are allowed: store a summary, or several memories",
            content.len(),
            limits.content_bytes_max
        );
        return Err(invalid("content", message));
    }
    Ok(())
}

/// SHA-256 of `content` with its white space folded: equal texts that were wrapped differently hash equal.
pub(super) fn content_hash(content: &str) -> Vec<u8> {
    let mut hash = Sha256::new();
    for (at, word) in content.split_whitespace().enumerate() {
        if at > 0 {
            hash.update(b" ");
        }
        hash.update(word.as_bytes());
    }
    hash.finalize().to_vec()
}

/// Lower case, white space folded, sorted, without duplicates and blanks.
pub(super) fn normal_tags(tags: &[String], limits: &StoreLimits) -> Result<Vec<String>, StoreError> {
    let tags: BTreeSet<String> =
        tags.iter().map(|tag| normal_tag(tag)).filter(|tag| !tag.is_empty()).collect();
    if let Some(tag) = tags.iter().find(|tag| tag.len() > limits.tag_bytes_max) {
        let message = format!("one has {} bytes, at most {} are allowed", tag.len(), limits.tag_bytes_max);
        return Err(invalid("tags", message));
    }
    if tags.iter().any(|tag| tag.chars().any(char::is_control)) {
        return Err(invalid("tags", "one has a control character"));
    }
    if tags.len() > limits.tags_max {
        let message = format!("are {}, at most {} are allowed", tags.len(), limits.tags_max);
        return Err(invalid("tags", message));
    }
    Ok(tags.into_iter().collect())
}

fn checked_importance(importance: f64) -> Result<f64, StoreError> {
    if (0.0..=1.0).contains(&importance) {
        Ok(importance)
    } else {
        Err(invalid("importance", "must be from 0 to 1"))
    }
}

/// A filter whose tags and kind have the form that they are stored in. What could never be stored is found nowhere.
pub(super) fn normal_filter(filter: MemoryFilter) -> MemoryFilter {
    let tags: BTreeSet<String> =
        filter.tags.iter().map(|tag| normal_tag(tag)).filter(|tag| !tag.is_empty()).collect();
    MemoryFilter {
        tags: tags.into_iter().collect(),
        kind: filter.kind.map(|kind| kind.trim().to_lowercase()),
        ..filter
    }
}

fn normal_tag(tag: &str) -> String {
    tag.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The normal form of a kind: trimmed, lower case.
pub(super) fn normal_kind(kind: &str) -> Result<String, StoreError> {
    let kind = kind.trim().to_lowercase();
    if kind.is_empty() || kind.len() > KIND_BYTES_MAX || kind.chars().any(char::is_control) {
        let message = format!("must be 1 to {KIND_BYTES_MAX} bytes without control characters");
        return Err(invalid("kind", message));
    }
    Ok(kind)
}

/// A time cut to what stores keep.
pub(super) fn whole_microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// The scratch with `key` set to `value` (null removes it), as JSON, or why not.
pub(super) fn changed_scratch(
    mut scratch: Map<String, Value>,
    key: &str,
    value: Value,
    limits: &StoreLimits,
) -> Result<String, StoreError> {
    if value.is_null() {
        scratch.shift_remove(key);
    } else {
        scratch.insert(key.to_owned(), value);
    }
    let text = json(&scratch)?;
    if text.len() > limits.scratch_bytes_max {
        let message = format!(
            "would have {} bytes, at most {} are allowed: set something to null first",
            text.len(),
            limits.scratch_bytes_max
        );
        return Err(invalid("scratch", message));
    }
    Ok(text)
}

/// A result's value as JSON, or why it is not kept.
pub(super) fn result_text(value: &Value, limits: &StoreLimits) -> Result<String, StoreError> {
    bounded_text("result", value, limits)
}

/// The text of a task, within the bound of a result.
pub(super) fn task_text(value: &Value, limits: &StoreLimits) -> Result<String, StoreError> {
    bounded_text("task", value, limits)
}

fn bounded_text(field: &'static str, value: &Value, limits: &StoreLimits) -> Result<String, StoreError> {
    let text = json(value)?;
    if text.len() > limits.result_bytes_max {
        let message = format!(
            "has {} bytes, at most {} are kept: narrow the call",
            text.len(),
            limits.result_bytes_max
        );
        return Err(invalid(field, message));
    }
    Ok(text)
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Internal(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_that_differ_in_white_space_alone_hash_equal() {
        assert_eq!(content_hash("a  b\n c"), content_hash(" a b c "));
        assert_ne!(content_hash("a b"), content_hash("ab"));
        assert_ne!(content_hash("A b"), content_hash("a b"));
    }

    #[test]
    fn tags_have_one_normal_form() {
        let limits = StoreLimits::default();
        let tags = ["Rust", " rust ", "b  C", "", "\t"].map(String::from);
        assert_eq!(normal_tags(&tags, &limits).unwrap(), ["b c", "rust"]);
        let too_many: Vec<String> = (0..33).map(|n| n.to_string()).collect();
        insta::assert_snapshot!(normal_tags(&too_many, &limits).unwrap_err(), @"tags: are 33, at most 32 are allowed");
        insta::assert_snapshot!(normal_tags(&["x".repeat(129)], &limits).unwrap_err(), @"tags: one has 129 bytes, at most 128 are allowed");
    }

    #[test]
    fn a_replacement_is_seen_by_whoever_saw_the_old_one() {
        use Visibility::{Agent, Project, Session, Shared};
        for (old, new, allowed) in [
            (Session, Session, true),
            (Session, Shared, true),
            (Agent, Project, true),
            (Agent, Session, false),
            (Project, Project, true),
            (Project, Agent, false),
            (Project, Shared, false),
            (Shared, Project, false),
        ] {
            assert_eq!(may_supersede(old, new), allowed, "{old:?} by {new:?}");
        }
    }
}
