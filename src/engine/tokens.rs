//! Counts o200k_base tokens. The vocabulary (about 46 MB) is loaded in the background at the first execution, once a
//! process; nothing loads before.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{LazyLock, Once, OnceLock},
    thread,
};

use tiktoken_rs::CoreBPE;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// No token of o200k_base is longer than so many bytes: a text needs at least its bytes divided by it.
const TOKEN_BYTES_MAX: usize = 128;

/// A prefix of so many bytes per token of a budget nearly always shows that a text is too long.
const PREFIX_BYTES_PER_TOKEN: usize = 8;
const PREFIX_SLACK_TOKENS: usize = 64;

/// `None` where the vocabulary could not be loaded.
static VOCABULARY: OnceLock<Option<CoreBPE>> = OnceLock::new();
static LOADED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// A number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// How many.
    pub count: usize,
    /// The vocabulary was not there: bytes / 4.
    pub estimated: bool,
}

/// Starts loading the vocabulary, unless that was done before. Returns at once. The loading thread is the process's
/// own: it ends by itself after some hundred milliseconds and belongs to no run.
pub fn warm() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let loading = thread::Builder::new().name("tmws-vocabulary".to_owned()).spawn(|| {
            let vocabulary = catch_unwind(tiktoken_rs::o200k_base).ok().and_then(Result::ok);
            if vocabulary.is_none() {
                tracing::error!("the token vocabulary could not be loaded; tokens are estimated");
            }
            let _ = VOCABULARY.set(vocabulary);
            LOADED.send_replace(true);
        });
        if let Err(error) = loading {
            tracing::error!(%error, "no thread to load the token vocabulary; tokens are estimated");
            let _ = VOCABULARY.set(None);
            LOADED.send_replace(true);
        }
    });
}

/// Counts without waiting: exact once the vocabulary is there, else bytes / 4.
#[must_use]
pub fn count(text: &str) -> Tokens {
    match exact(text) {
        Some(count) => Tokens { count, estimated: false },
        None => Tokens { count: text.len().div_ceil(4), estimated: true },
    }
}

/// Counts exactly, waiting for the vocabulary until `deadline`; after that like [`count`].
pub async fn count_exactly(text: &str, deadline: Instant) -> Tokens {
    wait(deadline).await;
    count(text)
}

/// How a text is held against a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// By the vocabulary.
    Exact,
    /// By an upper bound, since the vocabulary did not come in time: an answer may turn out shorter than allowed,
    /// never longer.
    Ceiling,
}

impl Measure {
    /// How `text` and what it is shrunk to will be held against `budget`. Waits for the vocabulary until `deadline`
    /// unless the text certainly fits.
    pub(super) async fn choose(text: &str, budget: usize, deadline: Instant) -> Self {
        warm();
        if VOCABULARY.get().is_none() {
            // No token has less than a byte.
            if text.len() <= budget {
                return Self::Ceiling;
            }
            wait(deadline).await;
        }
        if matches!(VOCABULARY.get(), Some(Some(_))) { Self::Exact } else { Self::Ceiling }
    }

    /// Whether `text` stays within `budget`.
    pub(super) fn fits(self, text: &str, budget: usize) -> bool {
        if text.len() <= budget {
            return true;
        }
        if text.len() / TOKEN_BYTES_MAX > budget {
            return false;
        }
        if self == Self::Ceiling {
            return false;
        }
        // A long text need not be counted whole to see that it is too long; the slack covers the word that was cut.
        let enough = budget.saturating_mul(PREFIX_BYTES_PER_TOKEN);
        if text.len() > enough {
            let prefix = &text[..text.floor_char_boundary(enough)];
            if exact(prefix).is_some_and(|count| count > budget + PREFIX_SLACK_TOKENS) {
                return false;
            }
        }
        exact(text).is_some_and(|count| count <= budget)
    }
}

async fn wait(deadline: Instant) {
    warm();
    let mut loaded = LOADED.subscribe();
    // Past the deadline the caller goes on with an estimate; the sender is static and cannot go away.
    let _ = timeout_at(deadline, loaded.wait_for(|loaded| *loaded)).await;
}

fn exact(text: &str) -> Option<usize> {
    let vocabulary = VOCABULARY.get()?.as_ref()?;
    // The splitting regex of the vocabulary backtracks; on hostile text it gives up by panicking.
    catch_unwind(AssertUnwindSafe(|| vocabulary.count_ordinary(text))).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn counts_are_exact_once_the_vocabulary_is_there() {
        let deadline = Instant::now() + Duration::from_mins(2);
        let cases = [("", 0), ("hello world", 2), (r#"{"unchanged":true}"#, 6), ("日本語のテキスト", 6)];
        for (text, expected) in cases {
            let tokens = count_exactly(text, deadline).await;
            assert_eq!(tokens, Tokens { count: expected, estimated: false }, "{text}");
        }
    }

    #[tokio::test]
    async fn hostile_text_is_counted_or_bounded_and_never_panics() {
        wait(Instant::now() + Duration::from_mins(2)).await;
        for text in
            [" ".repeat(200_000), "\n \n".repeat(50_000), "a".repeat(200_000), "\u{300}".repeat(50_000)]
        {
            assert!(count(&text).count > 0);
            assert!(!Measure::Exact.fits(&text, 10));
        }
    }

    #[tokio::test]
    async fn a_short_text_does_not_wait_for_the_vocabulary() {
        let past = Instant::now();
        let measure = Measure::choose("{}", 10, past).await;
        assert!(measure.fits("{}", 10));
        assert!(!measure.fits(&"x".repeat(4_000), 10));
        // Letters that no word has may be a token each.
        assert!(!measure.fits("qZxJvKwQzXjVkWqZ", 10));
    }
}
