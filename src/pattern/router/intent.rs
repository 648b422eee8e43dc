//! What a query asks beside its trigger: a reading pattern does not do what "fix what changed" wants.

use std::{collections::HashSet, sync::LazyLock};

use regex::Regex;

use super::{
    Why, closed,
    extract::Filled,
    trigger::{Word, words},
    value::quoted,
};

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

/// Words that tell somebody to do such a thing in other languages, a language a line: whole words, beginnings of words (`*`),
/// and what a word of a script without spaces contains.
static OTHER_DEEDS: &str = include_str!("deeds.tsv");

/// [`OTHER_DEEDS`] ready to be looked up.
struct OtherDeeds {
    words: HashSet<&'static str>,
    beginnings: Vec<&'static str>,
    parts: Vec<&'static str>,
}

static OTHER: LazyLock<OtherDeeds> = LazyLock::new(|| {
    let lines = OTHER_DEEDS.lines().filter(|line| !line.starts_with('#'));
    let all = lines.filter_map(|line| line.split_once('\t')).flat_map(|(_, forms)| forms.split(' '));
    let mut found = OtherDeeds { words: HashSet::new(), beginnings: Vec::new(), parts: Vec::new() };
    for form in all {
        match form.strip_suffix('*') {
            Some(beginning) => found.beginnings.push(beginning),
            None if form.chars().any(|char| char >= '\u{2e80}') => found.parts.push(form),
            None => _ = found.words.insert(form),
        }
    }
    found
});

impl OtherDeeds {
    /// Whether `word`, in lower case, tells somebody to do something.
    fn has(&self, word: &str) -> bool {
        self.words.contains(word)
            || !word.is_ascii() && self.parts.iter().any(|part| word.contains(part))
            || self.beginnings.iter().any(|beginning| word.starts_with(beginning))
    }
}

/// Words that begin the next thing to be done, in all those languages.
const AND: &[&str] = &[
    "and",
    "then",
    "und",
    "dann",
    "et",
    "puis",
    "y",
    "luego",
    "e",
    "poi",
    "depois",
    "en",
    "daarna",
    "i",
    "potem",
    "и",
    "затем",
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

/// A verb of a deed where somebody is told to do it.
fn deed(query: &str, filled: &Filled) -> Option<String> {
    let words = words(query);
    words.iter().enumerate().find_map(|(at, word)| {
        let is_other = OTHER.has(&word.text);
        if filled.is_spoken_for(word.start, word.end) {
            return is_handed_on(query, &words, at, is_other, filled).then(|| word.text.clone());
        }
        if is_other {
            return Some(word.text.clone());
        }
        if !DEEDS.contains(&word.text.as_str()) {
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

/// Whether the word at `at`, within what an input took, is told nevertheless: "ask all servers *to restart*", "recall our rules
/// *and delete them*". What a question is about may be a deed ("what did we decide about how to delete users").
fn is_handed_on(query: &str, words: &[Word], at: usize, is_other: bool, filled: &Filled) -> bool {
    let word = &words[at];
    let Some((start, _)) = filled.text_input(word.start, word.end) else { return false };
    let first = words.iter().position(|word| word.start >= start).unwrap_or(at);
    // The first word of "to restart", where "to" is not the trigger's.
    let leads = |at: usize| words[at].text == "to" && !filled.is_literal(words[at].start, words[at].end);
    if at == first + 1 && leads(first) || at == first && at > 0 && leads(at - 1) {
        return true;
    }
    let is_deed = is_other || DEEDS.contains(&word.text.as_str());
    let is_next = at == first && query[..start].trim_end().ends_with(':')
        || at > first && AND.contains(&words[at - 1].text.as_str());
    let has_object = || match words.get(at + 1) {
        Some(next) => closed::is_determiner(&next.text) || OBJECTS.contains(&next.text.as_str()),
        None => true,
    };
    is_deed && is_next && (is_other || has_object())
}

/// After a verb: what it is done to.
const OBJECTS: &[&str] = &["everything", "him", "her", "it", "me", "them", "us"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeds_are_known_in_other_languages() {
        let said = include_str!("deeds.test.tsv");
        let mut languages = 0;
        for line in said.lines() {
            let (language, sentences) = line.split_once('\t').expect(line);
            let sentences: Vec<&str> = sentences.split(" | ").collect();
            // Delete, remove, restart, deploy, write, fix, commit, push, rename, create, install.
            assert_eq!(sentences.len(), 11, "{language}");
            for sentence in sentences {
                let query = format!("recent commits: {sentence}");
                let objection = objection(&query, &Filled::triggered((0, "recent commits".len())));
                assert!(matches!(objection, Some(Why::Deed(_))), "{language}: {sentence}: {objection:?}");
            }
            languages += 1;
        }
        assert_eq!(languages, 10);
    }

    #[test]
    fn words_that_ask_are_no_deeds() {
        for query in [
            "recent commits: was hat sich geändert",
            "recent commits: qu'est-ce qui a été écrit",
            "recent commits: ¿qué cambió?",
            "recent commits: что изменилось",
            "recent commits: 最近何が変わりましたか",
            "recent commits: 有什么变化",
        ] {
            assert_eq!(objection(query, &Filled::triggered((0, "recent commits".len()))), None, "{query}");
        }
    }
}
