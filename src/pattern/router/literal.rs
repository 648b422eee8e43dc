//! What a text must contain for a regex to match it: found in the regex's syntax tree, so that most regexes are ruled
//! out by one scan for literals (the idea of RE2's FilteredRE2).
//!
//! Everything is compared *folded*, character by character ([`fold`]). Whatever the fold is, this stays sound: if a
//! character is in a class, its fold is among the folds of that class.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Strings that one part of a regex may stand for, at most.
const EXACT_MAX: usize = 24;
/// Literals of one group, at most.
const GROUP_MAX: usize = 64;
/// Characters of a class that is looked into, at most.
const CLASS_MAX: u32 = 32;
/// Bytes of a literal; what is longer is cut.
const LITERAL_BYTES_MAX: usize = 32;
/// Shorter literals are in nearly every text.
const LITERAL_BYTES_MIN: usize = 3;

/// Literals of which a text must contain one.
pub(super) type Group = Vec<String>;

/// A character without its case, in one of its forms.
pub(super) fn fold(char: char) -> char {
    match char {
        'A'..='Z' => char.to_ascii_lowercase(),
        '\0'..='\x7f' => char,
        'ſ' => 's',
        '\u{212a}' => 'k',
        _ => {
            let mut lower = char.to_lowercase();
            match (lower.next(), lower.next()) {
                (Some(only), None) => only,
                _ => char,
            }
        }
    }
}

/// `text`, folded.
pub(super) fn folded(text: &str) -> String {
    text.chars().map(fold).collect()
}

/// Groups each of which a text must hit for `regex` to match it; none where nothing useful is known.
pub(super) fn requirements(regex: &Hir) -> Vec<Group> {
    let mut groups = need(regex).into_groups();
    if groups.iter().any(|group| is_useful(group, LITERAL_BYTES_MIN)) {
        groups.retain(|group| is_useful(group, LITERAL_BYTES_MIN));
    }
    groups.into_iter().map(simplified).collect()
}

/// What is known of the texts that a part of a regex matches.
enum Need {
    /// Each is one of these, exactly.
    Exact(Vec<String>),
    /// Each contains a literal of each of these groups.
    Groups(Vec<Group>),
}

impl Need {
    fn into_groups(self) -> Vec<Group> {
        match self {
            Self::Exact(strings) if is_useful(&strings, 2) => vec![strings],
            Self::Exact(_) => Vec::new(),
            Self::Groups(groups) => groups,
        }
    }
}

fn is_useful(group: &[String], bytes_min: usize) -> bool {
    !group.is_empty() && group.len() <= GROUP_MAX && group.iter().all(|literal| literal.len() >= bytes_min)
}

fn need(regex: &Hir) -> Need {
    match regex.kind() {
        HirKind::Empty | HirKind::Look(_) => Need::Exact(vec![String::new()]),
        HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
            Ok(text) => Need::Exact(vec![folded(text)]),
            Err(_) => Need::Groups(Vec::new()),
        },
        HirKind::Class(class) => characters(class).map_or_else(|| Need::Groups(Vec::new()), Need::Exact),
        HirKind::Capture(capture) => need(&capture.sub),
        HirKind::Repetition(repetition) => {
            let sub = need(&repetition.sub);
            match (repetition.min, repetition.max, sub) {
                (1, Some(1), sub) => sub,
                (0, Some(1), Need::Exact(mut strings)) => {
                    strings.push(String::new());
                    Need::Exact(strings)
                }
                (0, ..) => Need::Groups(Vec::new()),
                (_, _, sub) => Need::Groups(sub.into_groups()),
            }
        }
        HirKind::Concat(parts) => concatenated(parts),
        HirKind::Alternation(branches) => alternated(branches),
    }
}

fn characters(class: &Class) -> Option<Vec<String>> {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Unicode(class) => {
            class.ranges().iter().map(|range| (range.start() as u32, range.end() as u32)).collect()
        }
        // A byte beyond ASCII is no character.
        Class::Bytes(class) if class.is_ascii() => {
            class.ranges().iter().map(|range| (u32::from(range.start()), u32::from(range.end()))).collect()
        }
        Class::Bytes(_) => return None,
    };
    let count: u32 = ranges.iter().map(|(start, end)| end - start + 1).sum();
    if count == 0 || count > CLASS_MAX {
        return None;
    }
    let mut strings: Vec<String> = ranges
        .into_iter()
        .flat_map(|(start, end)| start..=end)
        .filter_map(char::from_u32)
        .map(|char| fold(char).to_string())
        .collect();
    strings.sort_unstable();
    strings.dedup();
    Some(strings)
}

fn concatenated(parts: &[Hir]) -> Need {
    let mut groups: Vec<Group> = Vec::new();
    let mut run = vec![String::new()];
    let mut is_exact = true;
    for part in parts {
        match need(part) {
            Need::Exact(mut strings) => {
                strings.sort_unstable();
                strings.dedup();
                if run.len() * strings.len() <= EXACT_MAX {
                    run = run
                        .iter()
                        .flat_map(|head| strings.iter().map(move |tail| format!("{head}{tail}")))
                        .collect();
                } else {
                    is_exact = false;
                    groups.extend(Need::Exact(std::mem::replace(&mut run, strings)).into_groups());
                }
            }
            Need::Groups(more) => {
                is_exact = false;
                groups.extend(Need::Exact(std::mem::replace(&mut run, vec![String::new()])).into_groups());
                groups.extend(more);
            }
        }
    }
    if is_exact {
        return Need::Exact(run);
    }
    groups.extend(Need::Exact(run).into_groups());
    Need::Groups(groups)
}

fn alternated(branches: &[Hir]) -> Need {
    let needs: Vec<Need> = branches.iter().map(need).collect();
    let strings = |need: &Need| match need {
        Need::Exact(strings) => Some(strings.len()),
        Need::Groups(_) => None,
    };
    let exact: Option<usize> = needs.iter().map(strings).sum();
    if exact.is_some_and(|count| count <= EXACT_MAX) {
        let all = needs.into_iter().flat_map(|need| match need {
            Need::Exact(strings) => strings,
            Need::Groups(_) => Vec::new(),
        });
        return Need::Exact(all.collect());
    }
    // One group of each branch, the one with the longest literals: a text must hit one of them all.
    let mut together: Group = Vec::new();
    for need in needs {
        let shortest = |group: &Group| group.iter().map(String::len).min().unwrap_or(0);
        match need.into_groups().into_iter().max_by_key(shortest) {
            Some(group) => together.extend(group),
            None => return Need::Groups(Vec::new()),
        }
    }
    if together.len() > GROUP_MAX { Need::Groups(Vec::new()) } else { Need::Groups(vec![together]) }
}

/// `group` without literals that contain another of it, each cut to its greatest length.
fn simplified(mut group: Group) -> Group {
    for literal in &mut group {
        literal.truncate(literal.floor_char_boundary(LITERAL_BYTES_MAX));
    }
    group.sort_unstable_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    group.dedup();
    let mut kept: Group = Vec::new();
    for literal in group {
        if !kept.iter().any(|shorter| literal.contains(shorter.as_str())) {
            kept.push(literal);
        }
    }
    kept
}
