//! What a query says about inputs: named groups first, then inputs marked `x-from-query`.
//!
//! An input with `x-from-query: true` takes, by its schema: `format: path`, the first path or place ("in src");
//! `format: span`, the first span of time ("last week"), as `7d`; another form (a pattern, an enum, a number), the first
//! word that fits; none, what the query says beside its trigger.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use jsonschema::{PatternOptions, Validator};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{
    Why, closed, place, said,
    trigger::{Matcher, words},
    value,
};
use crate::pattern::{Pattern, inputs_with_defaults, trigger::CompiledRegex};

/// Spans of time as people write them.
static DURATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        concat!(
            r"(?i)\b(?:\d+ ?(?:ms|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?|months?|y|years?)",
            r"|(?:an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|few|several|couple(?: of)?) ",
            r"(?:minutes?|hours?|days?|nights?|weeks?|weekends?|months?|quarters?|years?|sprints?)",
            r"|today|tonight|yesterday|(?:last|past|previous|this|since|until|on) ",
            r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|hour|night|day|week|weekend|month|quarter|year|sprint))\b",
        ),
    )
    .expect("a constant regex (tested)")
});

/// What bounds a question: a date, a time without a span, or what follows a word such as `since`, `by` or `on branch`.
static BOUND: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\b(?:(?:since|after|between|except|excluding|by|apart from|other than) (?<what>[\w./-]+)",
        r"|(?<until>until|till|before)",
        r"|(?<when>\d{4}-\d{2}(?:-\d{2})?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|this (?:morning|afternoon|evening)|last \d+ \w+)",
        r"|(?:tagged|labell?ed|with (?:the )?(?:tags?|labels?)|under (?:the )?(?:tags?|labels?))(?: (?:as|with|by))?[\s:]+(?<tag>[\w./-]+)",
            r"|(?:in|on|of|for) (?<which>(?:commit|branch|pr|pull request|release|version) [\w./-]+))",
    ))
    .expect("a constant regex (tested)")
});

/// Words that may be a path: they have a slash, if only at their end, or a name and an extension.
static PATH: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?:[\w.~-]*/[\w./~-]*[\w~-][\w./~-]*|[\w.~-]*[\w~-]/\B",
        r"|\b[\w-]{2,}(?:\.[\w-]+)*\.[A-Za-z][A-Za-z0-9]{0,4}\b)",
    ))
    .expect("a constant regex (tested)")
});

/// Words with a slash that are no paths.
const NOT_PATHS: &[&str] = &[
    "and/or",
    "ci/cd",
    "i/o",
    "n/a",
    "w/o",
    "w/",
    "he/she",
    "his/her",
    "yes/no",
    "on/off",
    "true/false",
    "input/output",
    "read/write",
    "client/server",
    "tcp/ip",
    "24/7",
    "either/or",
    "pros/cons",
];
/// Names with a dot that are no files.
const NOT_FILES: &[&str] = &["node.js", "vue.js", "next.js", "asp.net", "etc.so"];

/// What fits a pattern's inputs, compiled once.
#[derive(Debug)]
pub(super) struct Forms {
    whole: Option<Validator>,
    /// Of inputs that a query may fill and that have a form.
    each: HashMap<String, Validator>,
    pub(super) vocabulary: said::Vocabulary,
}

impl Forms {
    pub(super) fn of(pattern: &Pattern) -> Self {
        let compile = |schema: &Value| {
            jsonschema::draft202012::options()
                .with_pattern_options(PatternOptions::regex())
                .build(schema)
                .ok()
        };
        let properties = pattern.inputs["properties"].as_object().into_iter().flatten();
        let formed =
            properties.filter(|(_, property)| property["x-from-query"] == json!(true) && has_form(property));
        Self {
            whole: compile(&pattern.inputs),
            each: formed.filter_map(|(name, property)| Some((name.clone(), compile(property)?))).collect(),
            vocabulary: said::Vocabulary::of(pattern),
        }
    }
}

/// Inputs that a query filled, and the parts of the query that this used up.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub(super) inputs: Map<String, Value>,
    /// Per input that was filled: its name, how, and from which bytes of the query.
    pub(super) sources: Vec<(String, &'static str, (usize, usize))>,
    used: Vec<(usize, usize)>,
    /// Where phrases and regexes matched.
    pub(super) trigger: Vec<(usize, usize)>,
    /// What of that their own words matched, not wildcards or groups.
    literal: Vec<(usize, usize)>,
    /// Inputs that a regex took from words that are no value, and those words.
    refused: Vec<(String, (usize, usize))>,
    /// The query says a number that the pattern does not take.
    unfit: bool,
}

impl Filled {
    /// Fills what it can of `pattern`'s inputs.
    pub(super) fn from_query(
        pattern: &Pattern,
        forms: &Forms,
        regexes: &[Arc<CompiledRegex>],
        query: &str,
    ) -> Self {
        let phrases = Matcher::phrase_of(pattern, query);
        let mut filled = Self { trigger: phrases.clone(), literal: phrases, ..Self::default() };
        let mut groups = Vec::new();
        for found in regexes.iter().filter_map(|regex| regex.captures(query)) {
            filled.trigger.push(found.whole);
            filled.literal.extend(found.literal());
            groups.extend(found.groups);
        }
        let Some(properties) = pattern.inputs["properties"].as_object() else { return filled };
        for (name, span) in groups {
            let Some(property) = properties.get(&name).filter(|_| !filled.inputs.contains_key(&name)) else {
                continue;
            };
            let value = value::of(query, span, property);
            match value.and_then(|(start, end)| Some((typed(property, &query[start..end])?, (start, end)))) {
                Some((value, span)) => filled.take(name, value, "group", span),
                // "please" is no value, and nothing is lost with it.
                None if words(&query[span.0..span.1]).iter().all(|word| closed::is_polite(&word.text)) => {}
                None => filled.refused.push((name, span)),
            }
        }
        let wanted: Vec<_> = properties
            .iter()
            .filter(|(name, property)| {
                property["x-from-query"] == json!(true) && !filled.inputs.contains_key(*name)
            })
            .collect();
        // What has a form is taken before what takes the rest.
        for (name, property) in wanted.iter().filter(|(_, property)| has_form(property)) {
            let Some(form) = forms.each.get(*name) else { continue };
            let (how, taken) = match property["format"].as_str() {
                Some("path") => ("path", filled.path(query)),
                Some("span") => ("span", filled.span(query)),
                _ => ("form", filled.formed(property, form, query)),
            };
            if let Some((value, span)) = taken.filter(|(value, _)| form.is_valid(value)) {
                filled.unfit = false;
                filled.take((*name).clone(), value, how, span);
            }
        }
        for (name, property) in wanted.iter().filter(|(_, property)| !has_form(property)) {
            if let Some((text, span)) = filled.rest(query)
                && let Some(value) = typed(property, text)
            {
                filled.take((*name).clone(), value, "rest", span);
            }
        }
        filled.refused.retain(|(name, _)| !filled.inputs.contains_key(name));
        filled
    }

    fn take(&mut self, name: String, value: Value, how: &'static str, span: (usize, usize)) {
        self.sources.push((name.clone(), how, span));
        self.inputs.insert(name, value);
        self.used.push(span);
    }

    /// Where the first trigger begins.
    pub(super) fn begins(&self) -> usize {
        self.trigger.iter().map(|(start, _)| *start).min().unwrap_or(usize::MAX)
    }

    /// Bytes of the query that are a trigger or an input.
    pub(super) fn is_spoken_for(&self, start: usize, end: usize) -> bool {
        self.trigger.iter().chain(&self.used).any(|(from, upto)| start < *upto && *from < end)
    }

    /// Whether a trigger's own words matched there, or an input took it.
    pub(super) fn is_taken(&self, start: usize, end: usize) -> bool {
        self.is_literal(start, end) || self.is_used(start, end)
    }

    /// The input in words that took it.
    pub(super) fn text_input(&self, start: usize, end: usize) -> Option<(usize, usize)> {
        let mut texts = self.sources.iter().filter(|(_, how, _)| ["group", "rest"].contains(how));
        texts.find_map(|(_, _, (from, upto))| (start < *upto && *from < end).then_some((*from, *upto)))
    }

    /// Whether a trigger's own words matched there.
    pub(super) fn is_literal(&self, start: usize, end: usize) -> bool {
        self.literal.iter().any(|(from, upto)| start < *upto && *from < end)
    }

    #[cfg(test)]
    pub(super) fn triggered(span: (usize, usize)) -> Self {
        Self { trigger: vec![span], literal: vec![span], ..Self::default() }
    }

    /// Whether `other` was triggered by something that means nothing to this one.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        let is_known = |(start, end): &(usize, usize)| self.is_spoken_for(*start, *end);
        !other.literal.is_empty() && !other.literal.iter().any(is_known)
    }

    /// The first unused path, else the first unused place.
    fn path(&self, query: &str) -> Option<(Value, (usize, usize))> {
        // A branch may have a slash too.
        const OF_REVISIONS: &[&str] =
            &["against", "branch", "by", "commit", "from", "on", "since", "tag", "to", "versus", "vs"];
        let is_revision = |start: usize| {
            let before = words(&query[..start]);
            before.last().is_some_and(|word| OF_REVISIONS.contains(&word.text.as_str()))
        };
        let quotations = value::quoted(query);
        let path = PATH
            .find_iter(query)
            .filter(|found| is_path(found.as_str()) && !is_revision(found.start()))
            .map(|found| (found.start(), found.start() + found.as_str().trim_end_matches('.').len()))
            // What is quoted is one path, whatever is in it.
            .map(|(start, end)| {
                let around = quotations.iter().find(|(inside, close)| *inside <= start && end <= *close);
                around.copied().unwrap_or((start, end))
            })
            // A folder is the same without its last slash.
            .map(|(start, end)| (start, start + query[start..end].trim_end_matches('/').len().max(1)));
        let places =
            place::places(query).into_iter().filter(|place| place.is_certain).map(|place| place.span);
        let (start, end) = path.chain(places).find(|(start, end)| !self.is_used(*start, *end))?;
        Some((json!(query[start..end]), (start, end)))
    }

    /// The first unused span of time that is a number of hours, days or weeks.
    fn span(&self, query: &str) -> Option<(Value, (usize, usize))> {
        DURATION
            .find_iter(query)
            // Neither "-3d" nor "2-3 days" is a span of three days.
            .filter(|found| value::begins_a_word(query, found.start()))
            .filter(|found| !self.is_used(found.start(), found.end()))
            .find_map(|found| Some((json!(place::span(found.as_str())?), (found.start(), found.end()))))
    }

    /// Whether an input took it.
    pub(super) fn is_used(&self, start: usize, end: usize) -> bool {
        self.used.iter().any(|(from, upto)| start < *upto && *from < end)
    }

    /// The first unused word that fits `property`.
    fn formed(&mut self, property: &Value, form: &Validator, query: &str) -> Option<(Value, (usize, usize))> {
        let trimmed = |start: usize, end: usize| {
            let word = &query[start..end];
            let inner = word.trim_matches(|char: char| !char.is_alphanumeric() && !"/.~_-*".contains(char));
            let inner = inner.trim_end_matches(['.', ',', '?', '!', ':', ';']);
            let start = start + (inner.as_ptr() as usize - word.as_ptr() as usize);
            (inner, (start, start + inner.len()))
        };
        let mut at = 0;
        for part in query.split(char::is_whitespace) {
            let (word, span) = trimmed(at, at + part.len());
            at += part.len() + query[at + part.len()..].chars().next().map_or(0, char::len_utf8);
            if word.is_empty() || self.is_used(span.0, span.1) {
                continue;
            }
            match typed(property, word) {
                Some(value) if form.is_valid(&value) => return Some((value, span)),
                Some(Value::Number(_)) => self.unfit = true,
                _ => {}
            }
        }
        None
    }

    /// What the query says beside its trigger and what is used: the stretch after the trigger, else the longest.
    fn rest<'q>(&self, query: &'q str) -> Option<(&'q str, (usize, usize))> {
        const LEADING: &[&str] = &[
            "about",
            "on",
            "of",
            "for",
            "with",
            "regarding",
            "concerning",
            "the",
            "to",
            "that",
            "is",
            "was",
            "we",
            "in",
            "a",
            "an",
        ];
        let trigger = &self.trigger;
        let taken = |start: usize, end: usize| {
            trigger.iter().chain(&self.used).any(|(from, upto)| start < *upto && *from < end)
        };
        let mut stretches: Vec<(usize, usize)> = Vec::new();
        let mut open = false;
        for word in words(query) {
            if taken(word.start, word.end) {
                open = false;
            } else if open {
                if let Some(last) = stretches.last_mut() {
                    last.1 = word.end;
                }
            } else if !LEADING.contains(&word.text.as_str()) {
                stretches.push((word.start, word.end));
                open = true;
            }
        }
        for stretch in &mut stretches {
            *stretch = value::stretched(query, value::topic(query, *stretch));
        }
        stretches.retain(|(start, end)| value::is_said(query, (*start, *end)));
        let trigger_end = trigger.iter().map(|(_, end)| *end).max().unwrap_or(0);
        let after = stretches.iter().find(|(start, _)| *start >= trigger_end && trigger_end > 0).copied();
        let longest =
            || stretches.iter().copied().max_by_key(|(start, end)| (end - start, usize::MAX - start));
        let (start, end) = after.or_else(longest)?;
        Some((&query[start..end], (start, end)))
    }

    /// The first path that the query says for an input and that is not there.
    pub(super) fn absent(&self, pattern: &Pattern, has_path: &dyn Fn(&str, &str) -> bool) -> Option<String> {
        let properties = &pattern.inputs["properties"];
        let mut paths = self.sources.iter().filter(|(name, ..)| properties[name]["format"] == "path");
        paths.find_map(|(name, ..)| {
            let path = self.inputs[name].as_str().filter(|path| !has_path(name, path))?;
            Some(path.to_owned())
        })
    }

    /// Required inputs that are still empty.
    pub(super) fn missing(&self, pattern: &Pattern) -> Vec<String> {
        let properties = &pattern.inputs["properties"];
        let required = pattern.inputs["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        required
            .filter(|name| !self.inputs.contains_key(*name) && properties[*name].get("default").is_none())
            .map(str::to_owned)
            .collect()
    }

    /// Why the pattern cannot run on this, if it cannot: something is missing, does not fit, or the query said what would
    /// be ignored.
    pub(super) fn obstacle(&self, pattern: &Pattern, forms: &Forms, query: &str) -> Option<Why> {
        let missing = self.missing(pattern);
        if !missing.is_empty() {
            return Some(Why::Missing(missing));
        }
        let refused = self.refused.first().map(|(_, (start, end))| query[*start..*end].trim());
        let ignored = refused.or_else(|| self.ignored(query));
        if let Some(ignored) = ignored.or_else(|| said::beside(query, self, &forms.vocabulary)) {
            return Some(Why::Ignored(ignored.to_owned()));
        }
        let whole = inputs_with_defaults(&pattern.inputs, self.inputs.clone());
        let fits = forms.whole.as_ref().is_some_and(|form| form.is_valid(&whole));
        (self.unfit || !fits).then_some(Why::Unfit)
    }

    /// The first time, path, place or quotation of `query` that nothing takes.
    pub(super) fn ignored<'q>(&self, query: &'q str) -> Option<&'q str> {
        let paths = PATH.find_iter(query).filter(|found| is_path(found.as_str()));
        let places = place::places(query).into_iter().map(|place| place.span);
        let bounds = BOUND.captures_iter(query).filter_map(|found| {
            ["what", "until", "when", "tag", "which"].iter().find_map(|name| found.name(name))
        });
        // A word of the trigger is taken by it: `since we last spoke` may be a phrase.
        let of_trigger =
            |start: usize, end: usize| self.literal.iter().any(|(from, upto)| *from <= start && end <= *upto);
        let bounds = bounds
            .map(|found| (found.start(), found.end()))
            .filter(|(start, end)| !of_trigger(*start, *end))
            .collect::<Vec<_>>();
        DURATION
            .find_iter(query)
            .chain(paths)
            .map(|found| (found.start(), found.end()))
            .chain(places)
            .chain(bounds)
            .chain(value::quoted(query).into_iter().filter(|(start, end)| start < end))
            .find(|(start, end)| !self.is_used(*start, *end))
            .map(|(start, end)| &query[start..end])
    }
}

fn is_path(word: &str) -> bool {
    let word = word.trim_end_matches('.').to_lowercase();
    let is_date = word.split(['/', '-', '.']).all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let abbreviation = word.split('.').all(|part| part.len() <= 1);
    !(is_date || NOT_PATHS.contains(&word.as_str()) || NOT_FILES.contains(&word.as_str()) || abbreviation)
}

/// Whether a property says which words fit it.
fn has_form(property: &Value) -> bool {
    property.get("pattern").is_some()
        || property.get("enum").is_some()
        || property.get("const").is_some()
        || property.get("format").is_some()
        || property["type"] != json!("string")
}

/// `text` as a value of the property's type; its form is checked later.
fn typed(property: &Value, text: &str) -> Option<Value> {
    match property["type"].as_str() {
        Some("integer") => text.parse::<i64>().ok().map(Value::from),
        Some("number") => text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from),
        Some("boolean") => match text.to_lowercase().as_str() {
            "true" | "yes" => Some(json!(true)),
            "false" | "no" => Some(json!(false)),
            _ => None,
        },
        Some("array" | "object" | "null") => None,
        _ => Some(json!(text)),
    }
}

impl Matcher {
    /// Where phrases of `pattern` stand in `query`.
    fn phrase_of(pattern: &Pattern, query: &str) -> Vec<(usize, usize)> {
        let query_words = words(query);
        pattern.triggers.phrases.iter().filter_map(|phrase| Self::phrase(&query_words, phrase)).collect()
    }
}
