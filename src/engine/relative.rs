//! Times as patterns write them: relative to the time of the run, or absolute.

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use serde_json::Value;

/// Seconds of a span such as `90m`, `12h`, `7d`, `2w`; `None` where `text` is no such span.
#[must_use]
pub fn span(text: &str) -> Option<SignedDuration> {
    let split = text.len().checked_sub(1)?;
    let (count, unit) = (text.get(..split)?, text.get(split..)?);
    if count.is_empty() || count.len() > 6 || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    Some(SignedDuration::from_secs(count.parse::<i64>().ok()? * seconds))
}

/// An instant: a span is that long before `now` (`7d`), else RFC 3339, else a date (its start in UTC).
#[must_use]
pub fn instant_before(text: &str, now: Timestamp) -> Option<Timestamp> {
    match span(text) {
        Some(span) => now.checked_sub(span).ok(),
        None => absolute(text),
    }
}

/// An instant: a span is that long after `now` (`30d`), else RFC 3339, else a date (its start in UTC).
#[must_use]
pub fn instant_after(text: &str, now: Timestamp) -> Option<Timestamp> {
    match span(text) {
        Some(span) => now.checked_add(span).ok(),
        None => absolute(text),
    }
}

fn absolute(text: &str) -> Option<Timestamp> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant);
    }
    let date: Date = text.parse().ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// How long ago `then` was, in the largest unit that fits: `0m`, `12m`, `5h`, `3d`, `9w`, `2y`.
#[must_use]
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let minutes = now.duration_since(then).as_secs().max(0) / 60;
    match minutes {
        0..60 => format!("{minutes}m"),
        60..1_440 => format!("{}h", minutes / 60),
        1_440..20_160 => format!("{}d", minutes / 1_440),
        20_160..1_048_320 => format!("{}w", minutes / 10_080),
        _ => format!("{}y", minutes / 525_960),
    }
}

/// When [`age`] of `then` will be another one than at `now`.
fn age_lasts(then: Timestamp, now: Timestamp) -> Timestamp {
    let minutes = now.duration_since(then).as_secs().max(0) / 60;
    let unit = match minutes {
        0..60 => 1,
        60..1_440 => 60,
        1_440..20_160 => 1_440,
        20_160..1_048_320 => 10_080,
        _ => 525_960,
    };
    let next = SignedDuration::from_mins((minutes / unit + 1) * unit);
    then.checked_add(next).unwrap_or(Timestamp::MAX)
}

/// Whether something in `value` may be an age.
pub(super) fn has_age(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.contains_key("age") || members.values().any(has_age),
        Value::Array(items) => items.iter().any(has_age),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Puts the time itself in the place of each age in `value` that was told of a time beside it (`created`, `at`), so that
/// what remains says the same at any time. When the first of these ages will be another; `None` where there is none.
pub(super) fn without_ages(value: &mut Value, now: Timestamp) -> Option<Timestamp> {
    match value {
        Value::Object(members) => {
            let told = ["created", "at"].into_iter().find_map(|name| {
                let text = members.get(name)?.as_str()?;
                let then: Timestamp = text.parse().ok()?;
                (members.get("age")?.as_str()? == age(then, now)).then(|| (text.to_owned(), then))
            });
            let own = told.map(|(text, then)| {
                members.insert("age".to_owned(), text.into());
                age_lasts(then, now)
            });
            members.values_mut().filter_map(|member| without_ages(member, now)).chain(own).min()
        }
        Value::Array(items) => items.iter_mut().filter_map(|item| without_ages(item, now)).min(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-03-01T12:00:00Z";

    #[test]
    fn times_resolve_against_the_time_of_the_run() {
        let now: Timestamp = NOW.parse().unwrap();
        let cases = [
            ("30m", Some("2026-03-01T11:30:00Z")),
            ("12h", Some("2026-03-01T00:00:00Z")),
            ("7d", Some("2026-02-22T12:00:00Z")),
            ("2w", Some("2026-02-15T12:00:00Z")),
            ("2026-02-01", Some("2026-02-01T00:00:00Z")),
            ("2026-02-01T10:00:00+02:00", Some("2026-02-01T08:00:00Z")),
            ("", None),
            ("d", None),
            ("7", None),
            ("-7d", None),
            ("7y", None),
            ("1234567d", None),
            ("7ä", None),
            ("yesterday", None),
        ];
        for (text, expected) in cases {
            assert_eq!(instant_before(text, now).map(|at| at.to_string()).as_deref(), expected, "{text}");
        }
        assert_eq!(instant_after("1d", now).unwrap().to_string(), "2026-03-02T12:00:00Z");
    }

    #[test]
    fn an_age_is_one_number_and_one_unit() {
        let now: Timestamp = NOW.parse().unwrap();
        let cases = [
            ("2026-03-01T12:00:30Z", "0m"),
            ("2026-03-01T11:59:30Z", "0m"),
            ("2026-03-01T11:01:00Z", "59m"),
            ("2026-02-28T12:00:01Z", "23h"),
            ("2026-02-26T12:00:00Z", "3d"),
            ("2026-02-01T12:00:00Z", "4w"),
            ("2024-02-01T12:00:00Z", "2y"),
        ];
        for (then, expected) in cases {
            assert_eq!(age(then.parse().unwrap(), now), expected, "{then}");
        }
    }

    #[test]
    fn an_age_beside_its_time_gives_way_to_it_and_says_how_long_it_holds() {
        let now: Timestamp = NOW.parse().unwrap();
        let mut value = json!({"hits": [
            {"created": "2026-03-01T11:37:20Z", "age": "22m"},
            {"at": "2026-02-26T11:00:00Z", "age": "3d", "n": [{"age": "5h"}]},
            {"created": "2026-02-26T11:00:00Z", "age": "young"},
        ]});
        let until = without_ages(&mut value, now);
        assert_eq!(
            value,
            json!({"hits": [
                {"created": "2026-03-01T11:37:20Z", "age": "2026-03-01T11:37:20Z"},
                {"at": "2026-02-26T11:00:00Z", "age": "2026-02-26T11:00:00Z", "n": [{"age": "5h"}]},
                {"created": "2026-02-26T11:00:00Z", "age": "young"},
            ]})
        );
        assert_eq!(until.unwrap().to_string(), "2026-03-01T12:00:20Z");
        for then in [
            "2026-03-01T12:00:00Z",
            "2026-03-01T11:01:00Z",
            "2026-02-28T12:00:01Z",
            "2026-02-01T12:00:00Z",
            "2024-02-01T12:00:00Z",
        ] {
            let then = then.parse().unwrap();
            let until = age_lasts(then, now);
            let before = until - SignedDuration::from_nanos(1);
            assert_eq!(age(then, before), age(then, now), "{then}");
            assert_ne!(age(then, until), age(then, now), "{then}");
        }
    }
}
