//! Words of other languages for what patterns are about, so that a question in one of them is offered the right
//! candidates. It orders candidates only.

use std::sync::LazyLock;

/// A line per English word: the word, a tab, stems that stand for it in other languages. A stem stands for each word that
/// begins with it; one in a script without spaces for each text that contains it.
static LINES: &str = include_str!("glossary.tsv");

static STEMS: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let lines = LINES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'));
    lines.flat_map(|(english, stems)| stems.split(' ').map(move |stem| (stem, english))).collect()
});

/// What `word`, in lower case, means in English: nothing where it is not known.
pub(super) fn english(word: &str) -> Vec<&'static str> {
    let mut found: Vec<&str> = STEMS
        .iter()
        .filter(|(stem, _)| {
            let is_spaced = stem.chars().all(|char| (char as u32) < 0x2e80);
            if is_spaced { word.starts_with(stem) } else { word.contains(stem) }
        })
        .map(|(_, english)| *english)
        .collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_languages_have_an_english_one() {
        for (word, expected) in [
            ("geändert", "changed"),
            ("souviens", "remember"),
            ("tareas", "todo"),
            ("最近の変更を見せて", "changed"),
        ] {
            assert!(english(word).contains(&expected), "{word}: {:?}", english(word));
        }
        assert!(english("zebra").is_empty());
    }

    #[test]
    fn every_line_has_a_word_and_stems() {
        for line in LINES.lines().filter(|line| !line.starts_with('#')) {
            let (english, stems) = line.split_once('\t').expect(line);
            assert!(!english.is_empty() && stems.split(' ').all(|stem| !stem.is_empty()), "{line}");
        }
    }
}
