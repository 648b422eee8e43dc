//! Words of closed classes: they hold a question together and name nothing. None of them is a value, and none is lost when
//! nothing takes it, unless it denies or sets apart.

/// Articles, pronouns, prepositions, conjunctions, auxiliaries, question words, bare adverbs, days and months; in order.
const CLOSED: &[&str] = &[
    "a",
    "about",
    "above",
    "across",
    "after",
    "again",
    "against",
    "all",
    "along",
    "already",
    "also",
    "although",
    "always",
    "am",
    "among",
    "an",
    "and",
    "another",
    "any",
    "anybody",
    "anyone",
    "anything",
    "anyway",
    "april",
    "are",
    "around",
    "as",
    "at",
    "august",
    "be",
    "because",
    "been",
    "before",
    "behind",
    "being",
    "below",
    "beneath",
    "beside",
    "besides",
    "between",
    "both",
    "but",
    "by",
    "can",
    "could",
    "currently",
    "d",
    "december",
    "despite",
    "did",
    "do",
    "does",
    "doing",
    "down",
    "during",
    "each",
    "either",
    "else",
    "ever",
    "every",
    "everybody",
    "everyone",
    "everything",
    "except",
    "excluding",
    "far",
    "february",
    "few",
    "for",
    "friday",
    "from",
    "had",
    "has",
    "have",
    "having",
    "he",
    "her",
    "here",
    "hers",
    "him",
    "his",
    "how",
    "i",
    "if",
    "in",
    "inside",
    "instead",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "january",
    "july",
    "june",
    "just",
    "lately",
    "later",
    "ll",
    "m",
    "many",
    "march",
    "may",
    "maybe",
    "me",
    "might",
    "mine",
    "monday",
    "more",
    "most",
    "much",
    "must",
    "my",
    "myself",
    "near",
    "neither",
    "never",
    "no",
    "nobody",
    "none",
    "nor",
    "not",
    "nothing",
    "november",
    "now",
    "october",
    "of",
    "off",
    "often",
    "on",
    "once",
    "one",
    "ones",
    "only",
    "onto",
    "or",
    "other",
    "others",
    "our",
    "ours",
    "out",
    "outside",
    "over",
    "past",
    "per",
    "perhaps",
    "please",
    "pls",
    "quickly",
    "re",
    "really",
    "recently",
    "regarding",
    "s",
    "same",
    "saturday",
    "september",
    "shall",
    "she",
    "should",
    "since",
    "so",
    "some",
    "somebody",
    "someone",
    "something",
    "soon",
    "still",
    "stuff",
    "such",
    "sunday",
    "t",
    "than",
    "thank",
    "thanks",
    "that",
    "the",
    "their",
    "theirs",
    "them",
    "then",
    "there",
    "these",
    "they",
    "thing",
    "things",
    "this",
    "those",
    "though",
    "through",
    "thursday",
    "till",
    "to",
    "today",
    "together",
    "tomorrow",
    "tonight",
    "too",
    "toward",
    "towards",
    "tuesday",
    "twice",
    "under",
    "unless",
    "until",
    "up",
    "upon",
    "us",
    "ve",
    "versus",
    "very",
    "via",
    "vs",
    "was",
    "we",
    "wednesday",
    "well",
    "were",
    "what",
    "whatever",
    "when",
    "where",
    "whether",
    "which",
    "while",
    "who",
    "whom",
    "whose",
    "why",
    "will",
    "with",
    "within",
    "without",
    "would",
    "yes",
    "yesterday",
    "yet",
    "you",
    "your",
    "yours",
    "yourself",
];

/// Of those, what denies, sets apart or says another time: a question that has one asks for less than it would without.
const NARROWING: &[&str] = &[
    "another",
    "april",
    "august",
    "besides",
    "december",
    "else",
    "except",
    "excluding",
    "february",
    "friday",
    "instead",
    "january",
    "july",
    "june",
    "later",
    "monday",
    "neither",
    "never",
    "no",
    "nobody",
    "none",
    "nor",
    "not",
    "nothing",
    "november",
    "october",
    "often",
    "once",
    "other",
    "others",
    "outside",
    "saturday",
    "september",
    "soon",
    "sunday",
    "t",
    "than",
    "thursday",
    "tomorrow",
    "tuesday",
    "twice",
    "wednesday",
    "without",
];

/// Verbs and adjectives of asking itself.
const ASKING: &[&str] = &[
    "check",
    "complete",
    "current",
    "display",
    "entire",
    "find",
    "full",
    "get",
    "getting",
    "give",
    "giving",
    "glance",
    "go",
    "going",
    "happened",
    "happening",
    "hello",
    "help",
    "hey",
    "hi",
    "know",
    "latest",
    "let",
    "like",
    "list",
    "look",
    "looking",
    "mind",
    "moment",
    "need",
    "ok",
    "okay",
    "print",
    "quick",
    "recent",
    "see",
    "seeing",
    "short",
    "show",
    "showing",
    "sorry",
    "tell",
    "telling",
    "understand",
    "want",
    "whole",
    "wonder",
    "wondering",
];

/// Nouns for the answer: they say nothing of what is asked unless one asks for what is *in* one.
const ANSWER: &[&str] = &["answer", "idea", "overview", "picture", "report", "summary", "table"];

/// Of the verbs of asking, those that are nouns as well: "*your mind*" is a thing, "do you mind" is not.
const NOUNS: &[&str] = &["help", "like", "look", "mind", "need", "want", "wonder"];

/// Determiners that say whose.
const POSSESSIVE: &[&str] = &["her", "his", "its", "my", "our", "their", "your"];

/// What a verb may be done to: "what changed *me*".
const OBJECTS: &[&str] = &[
    "anybody",
    "anyone",
    "everybody",
    "everyone",
    "everything",
    "her",
    "him",
    "it",
    "me",
    "somebody",
    "someone",
    "them",
    "us",
    "you",
];

/// Words that say of which there is most, and those behind which they only say how new or how weighty.
const SUPERLATIVE: &[&str] = &["least", "less", "more", "most"];
const SUPERLATIVE_OF_ALL: &[&str] =
    &["current", "important", "interesting", "recent", "recently", "relevant"];

/// What every question in a workspace is about.
const WHOLE: &[&str] =
    &["code", "codebase", "git", "project", "repo", "repository", "source", "sources", "workspace"];

/// Articles and what else may stand between a preposition and its noun.
const DETERMINERS: &[&str] = &[
    "a", "all", "an", "any", "each", "every", "its", "my", "our", "same", "some", "that", "the", "their",
    "these", "this", "those", "your",
];

/// Prepositions whose noun narrows what is asked.
const RESTRICTING: &[&str] = &[
    "about", "against", "at", "between", "by", "for", "from", "in", "inside", "into", "of", "on", "over",
    "to", "under", "within",
];

const POLITE: &[&str] = &["please", "pls", "thank", "thanks"];

/// Words that point at something which only a conversation knows.
const POINTING: &[&str] = &["her", "him", "it", "that", "them", "these", "this", "those"];

fn is_in(list: &[&str], word: &str) -> bool {
    list.binary_search(&word).is_ok()
}

/// Whether `word`, in lower case, belongs to a closed class.
pub(super) fn is_closed(word: &str) -> bool {
    is_in(CLOSED, word)
}

/// Whether a question loses nothing where nobody takes `word`, in lower case.
pub(super) fn says_nothing(word: &str) -> bool {
    (is_closed(word) && !is_in(NARROWING, word)) || is_in(ASKING, word)
}

/// Whether `word` after `before` is a thing, although it may be a verb of asking.
pub(super) fn is_owned(before: &str, word: &str) -> bool {
    is_in(POSSESSIVE, before) && is_in(NOUNS, word)
}

/// Whether `word` after `before` is a month that may be a verb elsewhere: "in *May*".
pub(super) fn is_month(before: &str, word: &str) -> bool {
    ["march", "may"].contains(&word)
        && ["after", "before", "during", "in", "last", "of", "since", "till", "until"].contains(&before)
}

/// Whether a verb may be done to `word`.
pub(super) fn is_object(word: &str) -> bool {
    is_in(OBJECTS, word)
}

/// Whether `word` asks for those of which there is most, by something that a pattern cannot be told.
pub(super) fn ranks(word: &str, next: Option<&str>) -> bool {
    is_in(SUPERLATIVE, word) && next.is_none_or(|next| !is_in(SUPERLATIVE_OF_ALL, next))
}

/// Whether `word` stands for the answer.
pub(super) fn is_answer(word: &str) -> bool {
    is_in(ANSWER, word)
}

/// Whether `word` stands for all there is.
pub(super) fn is_whole(word: &str) -> bool {
    is_in(WHOLE, word)
}

/// Whether `word` is an article or stands like one.
pub(super) fn is_determiner(word: &str) -> bool {
    is_in(DETERMINERS, word)
}

/// Whether what follows `word` narrows a question.
pub(super) fn restricts(word: &str) -> bool {
    is_in(RESTRICTING, word)
}

/// Whether `word` is there for politeness only.
pub(super) fn is_polite(word: &str) -> bool {
    is_in(POLITE, word)
}

/// Nouns that say of what kind something with a name is.
const KINDS: &[&str] = &[
    "branch",
    "class",
    "commit",
    "constant",
    "directory",
    "file",
    "folder",
    "function",
    "macro",
    "method",
    "module",
    "phrase",
    "query",
    "string",
    "struct",
    "symbol",
    "table",
    "tag",
    "text",
    "trait",
    "type",
    "variable",
    "word",
];

/// Whether `word` says of what kind something is.
pub(super) fn is_kind(word: &str) -> bool {
    is_in(KINDS, word)
}

/// Whether `word` points at something that the question does not name.
pub(super) fn points(word: &str) -> bool {
    is_in(POINTING, word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_order_and_what_narrows_is_closed() {
        for list in [
            CLOSED,
            NARROWING,
            ASKING,
            ANSWER,
            WHOLE,
            DETERMINERS,
            RESTRICTING,
            POLITE,
            POINTING,
            KINDS,
            NOUNS,
            POSSESSIVE,
            OBJECTS,
            SUPERLATIVE,
            SUPERLATIVE_OF_ALL,
        ] {
            assert!(list.is_sorted() && list.windows(2).all(|pair| pair[0] != pair[1]), "{list:?}");
        }
        assert!(NARROWING.iter().chain(DETERMINERS).chain(RESTRICTING).all(|word| is_closed(word)));
    }
}
