//! What a query asks beside its trigger: a reading pattern does not do what "fix what changed" wants.

use std::sync::LazyLock;

use regex::Regex;

use super::{Why, extract::Filled, trigger::words};

static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\b(?:(?:do|does|did|is|are|was|were|wo|would|should|could|ca|must)(?:n['’]?t| not)|cannot|dont|doesnt|didnt|",
        r"never|not|no need to|stop|skip|ignore|avoid|without|instead of|rather than)\b",
    ))
    .expect("a constant regex (tested)")
});

/// Talk of the words, not of what they stand for.
static MENTION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\bwhat (?:does|do|did|would)\b.{1,80}\bmean\b|\bmeaning of\b|",
        r"\b(?:the|a|this|that) (?:words?|phrases?|terms?|expressions?|sentences?|idioms?|acronyms?)\b|",
        r"\bhow (?:do|does|would|should|can) (?:you|i|we|one) (?:say|spell|pronounce|translate|phrase)\b|",
        r"\b(?:synonyms?|rhymes?|etymology|antonyms?)\b|\bexplain (?:what|the difference)\b.{1,60}\b(?:means?|between)\b",
    ))
    .expect("a constant regex (tested)")
});

/// Verbs of deeds: where one is told to do such a thing, reading is not what is asked.
const DEEDS: &[&str] = &[
    "add",
    "append",
    "apply",
    "approve",
    "archive",
    "assign",
    "backport",
    "build",
    "bump",
    "change",
    "checkout",
    "clean",
    "clear",
    "clone",
    "close",
    "commit",
    "compile",
    "configure",
    "convert",
    "copy",
    "correct",
    "create",
    "delete",
    "deploy",
    "disable",
    "discard",
    "draft",
    "drop",
    "edit",
    "email",
    "enable",
    "erase",
    "execute",
    "fix",
    "forget",
    "format",
    "generate",
    "hand",
    "implement",
    "import",
    "insert",
    "install",
    "kill",
    "launch",
    "make",
    "mark",
    "merge",
    "migrate",
    "modify",
    "move",
    "notify",
    "optimise",
    "optimize",
    "overwrite",
    "patch",
    "ping",
    "post",
    "publish",
    "pull",
    "purge",
    "push",
    "reboot",
    "rebase",
    "record",
    "redo",
    "refactor",
    "release",
    "remember",
    "remove",
    "rename",
    "repair",
    "replace",
    "rerun",
    "reset",
    "resolve",
    "restart",
    "restore",
    "retry",
    "revert",
    "rewrite",
    "roll",
    "run",
    "save",
    "schedule",
    "send",
    "set",
    "ship",
    "sign",
    "squash",
    "start",
    "stash",
    "stop",
    "store",
    "submit",
    "switch",
    "sync",
    "tag",
    "toggle",
    "translate",
    "truncate",
    "undo",
    "uninstall",
    "update",
    "upgrade",
    "upload",
    "wipe",
    "write",
];

/// What may stand before a verb that tells somebody to do something.
const BEFORE_A_DEED: &[&str] =
    &["please", "and", "then", "also", "just", "now", "kindly", "lets", "pls", "or"];
const ASKING: &[&str] = &["can", "could", "would", "will", "must", "should"];
const WANTING: &[&str] =
    &["want", "need", "like", "have", "going", "you", "me", "us", "try", "time", "remember"];

/// Why `query` asks for something else than the pattern whose trigger it holds, if it does.
pub(super) fn objection(query: &str, filled: &Filled) -> Option<Why> {
    let start = filled.begins();
    if start > query.len() {
        return None;
    }
    if let Some(quoted) = quoted(query)
        .into_iter()
        .find(|(from, upto)| filled.trigger.iter().all(|(start, end)| from <= start && end <= upto))
    {
        return Some(Why::Mentioned(query[quoted.0..quoted.1].to_owned()));
    }
    if let Some(talk) = MENTION.find(query).filter(|found| found.start() < start) {
        return Some(Why::Mentioned(talk.as_str().to_owned()));
    }
    let sentence = query[..start].rfind(['.', '!', '?', ';', '\n']).map_or(0, |at| at + 1);
    if let Some(negation) = NEGATION.find(&query[sentence..start]) {
        return Some(Why::Negated(negation.as_str().to_owned()));
    }
    deed(query, filled).map(Why::Deed)
}

/// A verb of a deed where somebody is told to do it, outside of trigger and inputs.
fn deed(query: &str, filled: &Filled) -> Option<String> {
    let words = words(query);
    words.iter().enumerate().find_map(|(at, word)| {
        if !DEEDS.contains(&word.text.as_str()) || filled.is_spoken_for(word.start, word.end) {
            return None;
        }
        let before = |back: usize| at.checked_sub(back).map(|at| words[at].text.as_str());
        let gap = before(1).map_or("", |_| &query[words[at - 1].end..word.start]);
        let is_told = match before(1) {
            None => true,
            Some(_) if gap.contains(['.', ',', ';', ':', '!', '?', '\n']) => true,
            Some("you") => before(2).is_some_and(|word| ASKING.contains(&word)),
            Some("to") => before(2).is_some_and(|word| WANTING.contains(&word)),
            Some(word) => BEFORE_A_DEED.contains(&word),
        };
        is_told.then(|| word.text.clone())
    })
}

/// What stands in quotation marks.
fn quoted(query: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (open, close) in
        [('"', '"'), ('`', '`'), ('“', '”'), ('„', '“'), ('«', '»'), ('‘', '’'), ('\'', '\'')]
    {
        let mut rest = 0;
        while let Some(start) = query[rest..].find(open).map(|at| rest + at) {
            let inside = start + open.len_utf8();
            // An apostrophe stands within a word, a quotation mark before one.
            let opens = open != '\'' || !query[..start].ends_with(char::is_alphanumeric);
            let Some(end) = query[inside..].find(close).map(|at| inside + at).filter(|_| opens) else {
                rest = inside;
                continue;
            };
            found.push((inside, end));
            rest = end + close.len_utf8();
        }
    }
    found
}
