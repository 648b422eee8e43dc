//! Durations and sizes as people write them: a number and a unit, never a bare number.

use std::time::Duration;

const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads a duration: a whole number and `ms`, `s`, `min` (or `m`), `h` or `d`.
///
/// # Errors
/// What would be right, as a fragment.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, DURATIONS).map(Duration::from_millis).ok_or_else(|| {
        format!("`{}` is no duration; write a whole number and ms, s, min, h or d, as in `30s`", short(text))
    })
}

/// Reads a size: a whole number and `B`, `KiB`, `MiB` or `GiB`.
///
/// # Errors
/// What would be right, as a fragment.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    parse(text, SIZES).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(|| {
        format!("`{}` is no size; write a whole number and B, KiB, MiB or GiB, as in `4MiB`", short(text))
    })
}

/// Writes a duration in the largest unit that keeps it whole.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(millis, DURATIONS.iter().filter(|(unit, _)| *unit != "m"))
}

/// Writes a size in the largest unit that keeps it whole.
#[must_use]
pub fn show_bytes(bytes: usize) -> String {
    show(bytes as u64, SIZES.iter())
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show<'a>(value: u64, units: impl Iterator<Item = &'a (&'a str, u64)>) -> String {
    let (unit, factor) = units
        .filter(|(_, factor)| value >= *factor && value.is_multiple_of(*factor))
        .last()
        .copied()
        .unwrap_or(("", 1));
    if unit.is_empty() { "0".to_owned() } else { format!("{}{unit}", value / factor) }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_and_sizes_need_their_unit() {
        for (text, millis) in [
            ("400ms", 400),
            ("30s", 30_000),
            ("10min", 600_000),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("7 d", 604_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, bytes) in [("1B", 1), ("64KiB", 65_536), ("4MiB", 4 << 20)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "30S",
            "99999999999999999999s",
            "18446744073709551615d",
            "1\u{660}s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(millis in 1..u64::MAX / 2, bytes in 1..usize::MAX / 2) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = (parse_duration(&text), parse_bytes(&text));
        }
    }
}
