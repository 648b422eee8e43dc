//! English word stems, as SQLite's FTS5 makes them, so that both stores find the same words: M. F. Porter, "An algorithm
//! for suffix stripping", 1980.

/// Longest word that is stemmed, in bytes; names and hashes are longer.
const WORD_BYTES_MAX: usize = 64;

/// What must hold of the rest of a word for its ending to be replaced.
type Condition = fn(&[u8]) -> bool;
/// Endings and what replaces them; the first ending that a word has decides.
type Endings = [(&'static str, &'static str)];

const STEP_2: &Endings = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("logi", "log"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
];
const STEP_3: &Endings = &[
    ("ical", "ic"),
    ("ness", ""),
    ("icate", "ic"),
    ("iciti", "ic"),
    ("ful", ""),
    ("ative", ""),
    ("alize", "al"),
];
const STEP_4: &[&str] = &[
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
    "ate", "iti", "ous", "ive", "ize",
];

/// The stem of a word in lower case. As in FTS5, bytes that are no ASCII count as consonants.
pub(super) fn stem(word: &str) -> String {
    if word.len() < 3 || word.len() > WORD_BYTES_MAX {
        return word.to_owned();
    }
    let mut word = word.to_owned();
    plural(&mut word);
    participle(&mut word);
    if let Some(rest) = word.strip_suffix('y')
        && has_vowel(rest.as_bytes())
    {
        word.pop();
        word.push('i');
    }
    replace(&mut word, STEP_2, |rest| measure(rest) > 0);
    replace(&mut word, STEP_3, |rest| measure(rest) > 0);
    if let Some(ending) = ending_of(&word, STEP_4.iter().copied()) {
        let rest = &word[..word.len() - ending.len()];
        if measure(rest.as_bytes()) > 1 && (ending != "ion" || rest.ends_with(['s', 't'])) {
            word.truncate(rest.len());
        }
    }
    if let Some(rest) = word.strip_suffix('e').map(str::as_bytes)
        && (measure(rest) > 1 || measure(rest) == 1 && !ends_consonant_vowel_consonant(rest))
    {
        word.pop();
    }
    if word.ends_with("ll") && measure(&word.as_bytes()[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}

/// Step 1a.
fn plural(word: &mut String) {
    if word.ends_with("es") {
        let longer = (word.len() > 4 && word.ends_with("sses")) || (word.len() > 3 && word.ends_with("ies"));
        word.truncate(word.len() - if longer { 2 } else { 1 });
    } else if word.ends_with('s') && !word.ends_with("ss") {
        word.pop();
    }
}

/// Step 1b.
fn participle(word: &mut String) {
    let Some(ending) = ending_of(word, ["eed", "ed", "ing"].into_iter()) else { return };
    let rest = word.len() - ending.len();
    if ending == "eed" {
        if measure(&word.as_bytes()[..rest]) > 0 {
            word.pop();
        }
        return;
    }
    if !has_vowel(&word.as_bytes()[..rest]) {
        return;
    }
    word.truncate(rest);
    if ending_of(word, ["at", "bl", "iz"].into_iter()).is_some() {
        word.push('e');
        return;
    }
    let bytes = word.as_bytes();
    match *bytes {
        [.., before, last] if before == last && last.is_ascii() && !b"aeioulsz".contains(&last) => {
            word.pop();
        }
        _ if measure(bytes) == 1 && ends_consonant_vowel_consonant(bytes) => word.push('e'),
        _ => {}
    }
}

/// The first of `endings` that `word` has, and something before it.
fn ending_of<'e>(word: &str, mut endings: impl Iterator<Item = &'e str>) -> Option<&'e str> {
    endings.find(|ending| word.len() > ending.len() && word.ends_with(ending))
}

fn replace(word: &mut String, endings: &Endings, condition: Condition) {
    let Some(ending) = ending_of(word, endings.iter().map(|(ending, _)| *ending)) else { return };
    let rest = word.len() - ending.len();
    if condition(&word.as_bytes()[..rest]) {
        word.truncate(rest);
        word.extend(endings.iter().find(|(from, _)| *from == ending).map(|(_, to)| *to));
    }
}

/// For each letter, whether it is a vowel: `y` after a consonant is one.
fn vowels(word: &[u8]) -> impl Iterator<Item = bool> {
    let mut after_consonant = false;
    word.iter().map(move |letter| {
        let vowel = b"aeiou".contains(letter) || (*letter == b'y' && after_consonant);
        after_consonant = !vowel;
        vowel
    })
}

fn has_vowel(word: &[u8]) -> bool {
    word.iter().enumerate().any(|(at, letter)| b"aeiou".contains(letter) || (*letter == b'y' && at > 0))
}

/// How often a vowel is followed by a consonant.
fn measure(word: &[u8]) -> usize {
    let mut count = 0;
    let mut before = false;
    for vowel in vowels(word) {
        count += usize::from(before && !vowel);
        before = vowel;
    }
    count
}

fn ends_consonant_vowel_consonant(word: &[u8]) -> bool {
    let vowels: Vec<bool> = vowels(word).collect();
    vowels.ends_with(&[false, true, false])
        && !word.ends_with(b"w")
        && !word.ends_with(b"x")
        && !word.ends_with(b"y")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_one_stem_are_one() {
        for (word, expected) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("ties", "ti"),
            ("cats", "cat"),
            ("agreed", "agre"),
            ("plastered", "plaster"),
            ("motoring", "motor"),
            ("hopping", "hop"),
            ("filing", "file"),
            ("happy", "happi"),
            ("sky", "sky"),
            ("relational", "relat"),
            ("rationally", "ration"),
            ("adjustment", "adjust"),
            ("adoption", "adopt"),
            ("probate", "probat"),
            ("controlling", "control"),
            ("is", "is"),
            ("große", "groß"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }
}
