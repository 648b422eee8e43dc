//! Values of a query for PostgreSQL, each in the binary form of the type that the server found for its place.

use jiff::{Timestamp, civil};
use serde_json::Value;
use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgTypeKind},
};

use super::fault::Fault;

/// A value in its binary form; `None` is null.
#[derive(Debug)]
pub(super) struct Bound {
    kind: PgTypeInfo,
    bytes: Option<Vec<u8>>,
}

impl Type<Postgres> for Bound {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("text")
    }
}

impl Encode<'_, Postgres> for Bound {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let Some(bytes) = &self.bytes else { return Ok(IsNull::Yes) };
        buffer.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.kind.clone())
    }
}

/// `value` as the value number `index` (from 0) of a query, where a `kind` belongs.
pub(super) fn bound(index: usize, value: &Value, kind: &PgTypeInfo) -> Result<Bound, Fault> {
    match encoded(value, kind) {
        Ok(bytes) => Ok(Bound { kind: kind.clone(), bytes }),
        Err(Misfit::Value(expected)) => {
            Err(Fault::Wrong(format!("value {} of the query must be {expected}", index + 1)))
        }
        Err(Misfit::Type(name)) => {
            let place = index + 1;
            Err(Fault::Wrong(format!(
                "value {place} of the query is a {name}, which cannot be given as such: write ${place}::text::{name}"
            )))
        }
    }
}

/// Why a value cannot be given.
enum Misfit {
    /// It is not what is expected.
    Value(&'static str),
    /// Values of this type are not known here.
    Type(String),
}

fn encoded(value: &Value, kind: &PgTypeInfo) -> Result<Option<Vec<u8>>, Misfit> {
    match kind.kind() {
        PgTypeKind::Domain(inner) => return encoded(value, inner),
        PgTypeKind::Enum(_) if !value.is_null() => return text(value).map(Some),
        PgTypeKind::Array(inner) if !value.is_null() => return array(value, inner).map(Some),
        _ => {}
    }
    if value.is_null() {
        return Ok(None);
    }
    let oid = kind.oid().map_or(0, |oid| oid.0);
    let whole = |expected| as_whole(value).ok_or(Misfit::Value(expected));
    let bytes = match oid {
        16 => vec![u8::from(value.as_bool().ok_or(Misfit::Value("true or false"))?)],
        20 => whole("a whole number")?.to_be_bytes().to_vec(),
        23 => narrow::<i32>(whole("a whole number")?)?.to_be_bytes().to_vec(),
        21 => narrow::<i16>(whole("a whole number")?)?.to_be_bytes().to_vec(),
        26 => narrow::<u32>(whole("a whole number")?)?.to_be_bytes().to_vec(),
        700 => (as_fraction(value)? as f32).to_be_bytes().to_vec(),
        701 => as_fraction(value)?.to_be_bytes().to_vec(),
        1700 => numeric(value)?,
        25 | 1043 | 1042 | 19 | 705 => text(value)?,
        114 => json(value),
        3802 => [vec![1], json(value)].concat(),
        2950 => uuid(value)?,
        1082 => days(value)?.to_be_bytes().to_vec(),
        1114 => {
            let time =
                civil(value).ok_or(Misfit::Value("a time without a zone, as in 2026-03-01T12:00:00"))?;
            let time = time.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| Misfit::Value("a time"))?;
            micros(time.timestamp()).to_be_bytes().to_vec()
        }
        1184 => {
            let expected = Misfit::Value("an RFC 3339 time, as in 2026-03-01T12:00:00Z");
            micros(value.as_str().and_then(|text| text.parse().ok()).ok_or(expected)?).to_be_bytes().to_vec()
        }
        _ => return Err(Misfit::Type(kind.to_string().to_lowercase())),
    };
    Ok(Some(bytes))
}

fn as_whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn narrow<T: TryFrom<i64>>(whole: i64) -> Result<T, Misfit> {
    T::try_from(whole).map_err(|_| Misfit::Value("a smaller whole number"))
}

fn as_fraction(value: &Value) -> Result<f64, Misfit> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).ok_or(Misfit::Value("a number"))
}

/// A text; of a value that is none, its JSON.
fn text(value: &Value) -> Result<Vec<u8>, Misfit> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.contains('\0') {
        return Err(Misfit::Value("a text without NUL"));
    }
    Ok(text.into_bytes())
}

/// A text is the JSON of a text.
fn json(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn uuid(value: &Value) -> Result<Vec<u8>, Misfit> {
    let expected = || Misfit::Value("a UUID");
    let digits: String = value.as_str().ok_or_else(expected)?.chars().filter(|c| *c != '-').collect();
    let whole = (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok()).flatten();
    Ok(whole.ok_or_else(expected)?.to_be_bytes().to_vec())
}

/// The day that PostgreSQL counts from.
const EPOCH: civil::Date = civil::date(2000, 1, 1);

fn days(value: &Value) -> Result<i32, Misfit> {
    let expected = Misfit::Value("a date, as in 2026-03-01");
    let date: civil::Date = value.as_str().and_then(|text| text.parse().ok()).ok_or(expected)?;
    Ok((date - EPOCH).get_days())
}

fn civil(value: &Value) -> Option<civil::DateTime> {
    let text = value.as_str()?;
    text.parse().ok().or_else(|| Some(text.parse::<civil::Date>().ok()?.at(0, 0, 0, 0)))
}

/// Microseconds since [`EPOCH`], UTC.
fn micros(time: Timestamp) -> i64 {
    const EPOCH_MICROS: i64 = 946_684_800_000_000;
    time.as_microsecond() - EPOCH_MICROS
}

/// A decimal number as base-10,000 digits.
fn numeric(value: &Value) -> Result<Vec<u8>, Misfit> {
    let expected = || Misfit::Value("a decimal number of at most 1,000 digits");
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return Err(expected()),
    };
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let (digits, exponent) = match digits.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok().ok_or_else(expected)?),
        None => (digits, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_plain = !(whole.is_empty() && fraction.is_empty())
        && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
        && whole.len() + fraction.len() <= 1_000
        && exponent.abs() <= 1_000;
    if !is_plain {
        return Err(expected());
    }
    // All digits, and how many of them stand before the point.
    let mut digits = format!("{whole}{fraction}");
    let mut point = length(whole.len()) + exponent;
    if point < 0 {
        digits.insert_str(0, &"0".repeat(point.unsigned_abs() as usize));
        point = 0;
    }
    let point = point as usize;
    if point > digits.len() {
        digits.push_str(&"0".repeat(point - digits.len()));
    }
    let scale = digits.len() - point;
    // Groups of four on both sides of the point.
    let before = "0".repeat((4 - point % 4) % 4);
    let after = "0".repeat((4 - scale % 4) % 4);
    let padded = format!("{before}{digits}{after}");
    let mut groups: Vec<i16> =
        (0..padded.len() / 4).map(|at| padded[at * 4..at * 4 + 4].parse().expect("four digits")).collect();
    let mut weight = small((point + before.len()) / 4) - 1;
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let sign: u16 = if is_negative && !groups.is_empty() { 0x4000 } else { 0 };
    let mut bytes = Vec::with_capacity(8 + groups.len() * 2);
    bytes.extend(small(groups.len()).to_be_bytes());
    bytes.extend(weight.to_be_bytes());
    bytes.extend(sign.to_be_bytes());
    bytes.extend(small(scale).to_be_bytes());
    bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
    Ok(bytes)
}

/// A count that is bounded far below its type's.
fn small(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}

/// The same for lengths.
fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// An array of one dimension.
fn array(value: &Value, inner: &PgTypeInfo) -> Result<Vec<u8>, Misfit> {
    let items = value.as_array().ok_or(Misfit::Value("a list"))?;
    let cells = items.iter().map(|item| encoded(item, inner)).collect::<Result<Vec<_>, _>>()?;
    let mut bytes = Vec::new();
    let dimensions = i32::from(!cells.is_empty());
    bytes.extend(dimensions.to_be_bytes());
    bytes.extend(i32::from(cells.iter().any(Option::is_none)).to_be_bytes());
    bytes.extend(inner.oid().map_or(0, |oid| oid.0).to_be_bytes());
    if !cells.is_empty() {
        bytes.extend(length(cells.len()).to_be_bytes());
        bytes.extend(1_i32.to_be_bytes());
    }
    for cell in cells {
        match cell {
            None => bytes.extend((-1_i32).to_be_bytes()),
            Some(cell) => {
                bytes.extend(length(cell.len()).to_be_bytes());
                bytes.extend(cell);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Reads what [`numeric`] wrote: `(groups, weight, sign, scale)`.
    fn parts(value: &Value) -> (Vec<i16>, i16, u16, i16) {
        let Ok(bytes) = numeric(value) else { panic!("{value}") };
        let words: Vec<i16> = bytes.chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect();
        assert_eq!(words.len(), 4 + words[0] as usize);
        (words[4..].to_vec(), words[1], words[2] as u16, words[3])
    }

    #[test]
    fn a_decimal_number_keeps_its_digits() {
        for (value, expected) in [
            (json!(0), (vec![], 0, 0, 0)),
            (json!("0.00"), (vec![], 0, 0, 2)),
            (json!(7), (vec![7], 0, 0, 0)),
            (json!("-12345.678"), (vec![1, 2345, 6780], 1, 0x4000, 3)),
            (json!("0.0001"), (vec![1], -1, 0, 4)),
            (json!("1e4"), (vec![1], 1, 0, 0)),
            (json!("1.5e-6"), (vec![150], -2, 0, 7)),
            (json!(10_000), (vec![1], 1, 0, 0)),
        ] {
            assert_eq!(parts(&value), expected, "{value}");
        }
        for bad in
            [json!("x"), json!(""), json!("."), json!("1.2.3"), json!("NaN"), json!([]), json!("1e99999")]
        {
            assert!(numeric(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_and_uuids_are_read_strictly() {
        assert!(matches!(days(&json!("2000-01-02")), Ok(1)));
        assert!(days(&json!("yesterday")).is_err());
        assert_eq!(micros("2000-01-01T00:00:01Z".parse().unwrap()), 1_000_000);
        assert!(uuid(&json!("6f8f57715090-da26-3245-3988-d9a1501b")).is_ok());
        for bad in
            ["", "6f8f5771", "zzzz5771-5090-da26-3245-3988d9a1501b", "+f8f5771-5090-da26-3245-3988d9a1501b-0"]
        {
            assert!(uuid(&json!(bad)).is_err(), "{bad}");
        }
        assert_eq!(civil(&json!("2026-03-01")), Some(civil::date(2026, 3, 1).at(0, 0, 0, 0)));
    }
}
