//! Whether a regex matches a short text, without compiling it: by the set of places where a match may have come to,
//! one bit a place, through the parts of the regex in order. Nothing is tried twice and nothing is searched back, so
//! the work is bounded by the regex alone; a regex takes a few hundred bytes, where an automaton takes many KiB.

use std::collections::HashMap;

use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Characters of a text, at most: a bit for each place between them, and for both ends.
const CHARS_MAX: usize = 255;
/// Steps that a regex may take in the worst case; one that may take more is compiled.
const STEPS_MAX: usize = 300_000;

/// Words below are classes.
const SPECIAL: u16 = 0xff00;
/// And which one, of [`LOOKS`].
const LOOK: u16 = SPECIAL;
/// Then the words of all branches, and each branch behind its number of words.
const EITHER: u16 = SPECIAL + 0x20;
/// Then least, most ([`ENDLESS`] if unbounded), the number of words, and these.
const REPEAT: u16 = SPECIAL + 0x21;
const ENDLESS: u16 = u16::MAX;

const LOOKS: [Look; 7] = [
    Look::Start,
    Look::End,
    Look::StartLF,
    Look::EndLF,
    Look::WordAscii,
    Look::WordUnicode,
    Look::WordUnicodeNegate,
];

/// A regex as words: what is matched one after the other.
pub(super) type Program = Box<[u16]>;

/// The sets of characters that programs name by number; those of all regexes of an index are few.
#[derive(Debug, Default)]
pub(super) struct Classes(Vec<Box<[(char, char)]>>);

/// Makes programs.
#[derive(Default)]
pub(super) struct Writer {
    numbers: HashMap<Box<[(char, char)]>, u16>,
}

impl Writer {
    /// The program of `regex`; `None` for what has to be compiled: too much work, or rare things.
    pub(super) fn program(&mut self, regex: &Hir) -> Option<Program> {
        let mut words = Vec::new();
        let steps = self.write(regex, &mut words)?;
        (steps <= STEPS_MAX).then(|| words.into_boxed_slice())
    }

    /// The classes of all programs that were made.
    pub(super) fn finish(self) -> Classes {
        let mut classes: Vec<_> = self.numbers.into_iter().collect();
        classes.sort_unstable_by_key(|(_, number)| *number);
        Classes(classes.into_iter().map(|(class, _)| class).collect())
    }

    /// Appends `part`; the steps that it may take.
    fn write(&mut self, part: &Hir, words: &mut Vec<u16>) -> Option<usize> {
        if words.len() >= usize::from(SPECIAL) {
            return None;
        }
        match part.kind() {
            HirKind::Empty => Some(0),
            HirKind::Literal(literal) => {
                let text = std::str::from_utf8(&literal.0).ok()?;
                for char in text.chars() {
                    words.push(self.class([(char, char)].into())?);
                }
                Some(text.len())
            }
            HirKind::Class(class) => {
                let ranges = match class {
                    Class::Unicode(class) => {
                        class.ranges().iter().map(|range| (range.start(), range.end())).collect()
                    }
                    Class::Bytes(class) if class.is_ascii() => class
                        .ranges()
                        .iter()
                        .map(|range| (range.start().into(), range.end().into()))
                        .collect(),
                    Class::Bytes(_) => return None,
                };
                words.push(self.class(ranges)?);
                Some(1)
            }
            HirKind::Look(look) => {
                words.push(LOOK + LOOKS.iter().position(|known| known == look)? as u16);
                Some(1)
            }
            HirKind::Capture(capture) => self.write(&capture.sub, words),
            HirKind::Concat(parts) => {
                parts.iter().try_fold(0_usize, |steps, part| Some(steps + self.write(part, words)?))
            }
            HirKind::Alternation(branches) => {
                let at = words.len();
                words.extend([EITHER, 0]);
                let mut steps = 1;
                for branch in branches {
                    let begun = words.len();
                    words.push(0);
                    steps += 1 + self.write(branch, words)?;
                    words[begun] = u16::try_from(words.len() - begun - 1).ok()?;
                }
                words[at + 1] = u16::try_from(words.len() - at - 2).ok()?;
                Some(steps)
            }
            HirKind::Repetition(repetition) => {
                let at = words.len();
                let least = u16::try_from(repetition.min).ok()?;
                let most = repetition.max.map_or(Some(ENDLESS), |most| u16::try_from(most).ok())?;
                words.extend([REPEAT, least, most, 0]);
                let steps = self.write(&repetition.sub, words)?;
                words[at + 3] = u16::try_from(words.len() - at - 4).ok()?;
                // What is optional ends when it comes to no new place.
                let times = usize::from(least) + usize::from(most.saturating_sub(least)).min(CHARS_MAX + 1);
                (steps + 1).checked_mul(times).filter(|steps| *steps <= STEPS_MAX)
            }
        }
    }

    fn class(&mut self, ranges: Box<[(char, char)]>) -> Option<u16> {
        let next = u16::try_from(self.numbers.len()).ok().filter(|next| *next < SPECIAL)?;
        Some(*self.numbers.entry(ranges).or_insert(next))
    }
}

/// Places of a text.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Places([u64; 4]);

impl Places {
    fn is_empty(self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    fn add(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    // Written out: built for size, a closure for each word costs more than its work.
    fn and(self, other: Self) -> Self {
        let (own, other) = (self.0, other.0);
        Self([own[0] & other[0], own[1] & other[1], own[2] & other[2], own[3] & other[3]])
    }

    fn or(self, other: Self) -> Self {
        let (own, other) = (self.0, other.0);
        Self([own[0] | other[0], own[1] | other[1], own[2] | other[2], own[3] | other[3]])
    }

    fn without(self, other: Self) -> Self {
        let other = other.0;
        self.and(Self([!other[0], !other[1], !other[2], !other[3]]))
    }

    /// Each place one further; the last place has no next one.
    fn advanced(self) -> Self {
        let [a, b, c, d] = self.0;
        Self([a << 1, (b << 1) | (a >> 63), (c << 1) | (b >> 63), (d << 1) | (c >> 63)])
    }
}

/// A text to be matched.
pub(super) struct Text<'a> {
    classes: &'a Classes,
    chars: Vec<char>,
    /// Each character that occurs, and before which places.
    occurring: Vec<(char, Places)>,
    /// Per class one more than its place among `known`, or 0.
    slots: Vec<u16>,
    /// Before which places characters of a class stand.
    known: Vec<Places>,
    looks: [Option<Places>; LOOKS.len()],
}

impl<'a> Text<'a> {
    /// `None` for a text that is too long.
    pub(super) fn new(classes: &'a Classes, text: &str) -> Option<Self> {
        let mut chars = Vec::with_capacity(text.len().min(CHARS_MAX));
        let mut occurring: Vec<(char, Places)> = Vec::with_capacity(32);
        for (place, char) in text.chars().enumerate() {
            if place == CHARS_MAX {
                return None;
            }
            chars.push(char);
            if let Some((_, places)) = occurring.iter_mut().find(|(known, _)| *known == char) {
                places.add(place);
            } else {
                let mut places = Places::default();
                places.add(place);
                occurring.push((char, places));
            }
        }
        let slots = vec![0; classes.0.len()];
        Some(Self {
            classes,
            chars,
            occurring,
            slots,
            known: Vec::with_capacity(64),
            looks: [None; LOOKS.len()],
        })
    }

    /// Whether `program`, made with the same classes, matches anywhere.
    pub(super) fn is_match(&mut self, program: &[u16]) -> bool {
        let mut all = Places::default();
        for place in 0..=self.chars.len() {
            all.add(place);
        }
        !self.run(program, all).is_empty()
    }

    /// Where `words` end that begin in `from`.
    fn run(&mut self, mut words: &[u16], mut from: Places) -> Places {
        while let Some((word, rest)) = words.split_first() {
            if from.is_empty() {
                break;
            }
            words = rest;
            match *word {
                EITHER => {
                    let (mut branches, rest) = words[1..].split_at(usize::from(words[0]));
                    words = rest;
                    let mut to = Places::default();
                    while let Some((length, rest)) = branches.split_first() {
                        let (branch, rest) = rest.split_at(usize::from(*length));
                        branches = rest;
                        to = to.or(self.run(branch, from));
                    }
                    from = to;
                }
                REPEAT => {
                    let (least, most) = (words[0], words[1]);
                    let (sub, rest) = words[3..].split_at(usize::from(words[2]));
                    words = rest;
                    from = self.repeat(sub, least, most, from);
                }
                class if class < SPECIAL => from = from.and(self.before(class)).advanced(),
                look => from = from.and(self.at(usize::from(look - LOOK))),
            }
        }
        from
    }

    fn repeat(&mut self, sub: &[u16], least: u16, most: u16, mut from: Places) -> Places {
        for _ in 0..least {
            let to = self.run(sub, from);
            if to == from {
                break;
            }
            from = to;
        }
        // A place that was reached with fewer repetitions leads to all that it leads to with more.
        let (mut all, mut new) = (from, from);
        // Mostly `.{0,30}` and the like.
        let only = if let [class @ 0..SPECIAL] = sub { Some(self.before(*class)) } else { None };
        for _ in least..most {
            let to = only.map_or_else(|| self.run(sub, new), |class| new.and(class).advanced());
            new = to.without(all);
            if new.is_empty() {
                break;
            }
            all = all.or(new);
        }
        all
    }

    /// Before which places a character of `class` stands.
    fn before(&mut self, class: u16) -> Places {
        let slot = self.slots[usize::from(class)];
        if slot > 0 {
            return self.known[usize::from(slot) - 1];
        }
        let ranges = &self.classes.0[usize::from(class)];
        let has = |char: char| {
            if ranges.len() < 8 {
                return ranges.iter().any(|(start, end)| (*start..=*end).contains(&char));
            }
            let after = ranges.partition_point(|(start, _)| *start <= char);
            after > 0 && char <= ranges[after - 1].1
        };
        let places = self.occurring.iter().filter(|(char, _)| has(*char));
        let places = places.fold(Places::default(), |all, (_, places)| all.or(*places));
        self.known.push(places);
        self.slots[usize::from(class)] = self.known.len() as u16;
        places
    }

    /// Where a look-around holds.
    fn at(&mut self, look: usize) -> Places {
        if let Some(known) = self.looks[look] {
            return known;
        }
        let mut places = Places::default();
        for place in 0..=self.chars.len() {
            let before = place.checked_sub(1).map(|place| self.chars[place]);
            let after = self.chars.get(place).copied();
            let is_word_end =
                |is_word: fn(char) -> bool| before.is_some_and(is_word) != after.is_some_and(is_word);
            let holds = match LOOKS[look] {
                Look::Start => before.is_none(),
                Look::End => after.is_none(),
                Look::StartLF => before.is_none_or(|char| char == '\n'),
                Look::EndLF => after.is_none_or(|char| char == '\n'),
                Look::WordAscii => is_word_end(|char| char.is_ascii_alphanumeric() || char == '_'),
                Look::WordUnicodeNegate => !is_word_end(regex_syntax::is_word_character),
                _ => is_word_end(regex_syntax::is_word_character),
            };
            if holds {
                places.add(place);
            }
        }
        self.looks[look] = Some(places);
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(regex: &str, text: &str) -> Option<bool> {
        let mut writer = Writer::default();
        let program = writer.program(&regex_syntax::parse(regex).unwrap())?;
        let classes = writer.finish();
        Some(Text::new(&classes, text)?.is_match(&program))
    }

    #[test]
    fn places_agree_with_the_regex_crate() {
        let long = "ab ".repeat(84);
        let texts = [
            "",
            "a",
            "ab",
            "aab",
            "abab",
            "AB",
            "a b",
            " ab\nba",
            "ſ",
            "K",
            "straße ab",
            "été",
            "-a-",
            "a\r\n",
            "xaaaab",
            "12d ab 3w",
            &long,
        ];
        let regexes = [
            "",
            "a",
            "^a",
            "a$",
            "^$",
            "(?m)^b",
            "(?m)b$",
            r"\bab\b",
            r"\Bb",
            r"(?-u:\b)a",
            "(?i)S",
            "(?i)k",
            "a{2}",
            "a{3,}b",
            "(?:ab){2}",
            "(?:a|ab)(?:b|$)",
            "(?:a?){9}b",
            "(?:a*b*)+ ",
            ".*b",
            "(?s).b",
            "a.{0,2}b",
            r"\d+[hdw]\b",
            r"^\w+ß\w",
            r"[^\w\s]a",
            "(?:|a)b",
            "(?:a*)*b",
            "(ab ){40}",
            "(?:a|)$",
            "[a&&b]",
            "(?:b|^){2}a",
        ];
        for regex in regexes {
            let wanted = regex::Regex::new(regex).unwrap();
            for text in texts {
                assert_eq!(is_match(regex, text), Some(wanted.is_match(text)), "{regex:?} in {text:?}");
            }
        }
    }

    #[test]
    fn what_is_too_long_too_much_or_rare_is_left_to_an_automaton() {
        assert_eq!(is_match("a", &"a".repeat(255)), Some(true));
        for (regex, text) in [
            ("a", "a".repeat(256)),
            ("(?:(?:(?:a*b)*c)*d)*", String::new()),
            ("(?:a{500}){500}", String::new()),
            (r"\b{start}a", String::new()),
        ] {
            assert_eq!(is_match(regex, &text), None, "{regex:?}");
        }
    }
}
