//! The headers of 2026-07-28 that repeat what the body says, so that proxies can route without reading it; and what a
//! POST must declare in every revision.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hyper::{
    HeaderMap,
    header::{ACCEPT, CONTENT_TYPE, HeaderName},
};
use serde_json::{Map, Value};

use super::guard::{Several, only};
use crate::{
    tool::MirroredArgument,
    trace::TraceContext,
    wire::{Method, Request},
};

/// The revision that a request speaks.
pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const PARAM_PREFIX: &str = "mcp-param-";
/// Integers beyond ±(2^53 − 1) are not exact everywhere.
const INTEGER_MAX: i64 = (1 << 53) - 1;
/// Only the one canonical spelling is decoded: a second one would be a way around a proxy's rule.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Which member of `params` a method repeats in `Mcp-Name`.
const NAMED: &[(Method, &str)] = &[
    (Method::ToolsCall, "name"),
    (Method::PromptsGet, "name"),
    (Method::ResourcesRead, "uri"),
    (Method::TasksGet, "taskId"),
    (Method::TasksUpdate, "taskId"),
    (Method::TasksCancel, "taskId"),
];

/// A header's one value, optional whitespace taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text<'a> {
    Absent,
    /// There are several, or it holds control characters or bytes beyond ASCII.
    Unreadable,
    Plain(&'a str),
}

/// Reads a header.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Text<'a> {
    match only(headers, name) {
        Ok(None) => Text::Absent,
        Err(Several) => Text::Unreadable,
        Ok(Some(value)) => match value.to_str().map(|text| text.trim_matches([' ', '\t'])) {
            Ok(text) if !text.contains('\t') => Text::Plain(text),
            Ok(_) | Err(_) => Text::Unreadable,
        },
    }
}

/// The trace that a request's headers tell.
pub(super) fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    let said = |name| match text(headers, &HeaderName::from_static(name)) {
        Text::Plain(said) => Some(said),
        Text::Absent | Text::Unreadable => None,
    };
    TraceContext::parse(said("traceparent")?, said("tracestate"))
}

/// Compares the routing headers of a request with its body.
///
/// # Errors
/// Which header is wrong and what about it, for -32020.
///
/// Spec: 2026-07-28 basic/transports#standard-headers.
pub(super) fn check_routing(headers: &HeaderMap, request: &Request) -> Result<(), String> {
    let params = request.params();
    let version = params
        .and_then(|params| params.get("_meta"))
        .and_then(|meta| meta.get("io.modelcontextprotocol/protocolVersion"))
        .and_then(Value::as_str);
    let version_fault =
        |how| Err(format!("the header MCP-Protocol-Version {how} the protocolVersion of `_meta`"));
    match text(headers, &PROTOCOL_VERSION) {
        Text::Absent => return version_fault("is missing: send it, with"),
        Text::Unreadable => return version_fault("must be given once, as plain text: send"),
        Text::Plain(said) if Some(said) != version => return version_fault("differs from"),
        Text::Plain(_) => {}
    }
    match text(headers, &METHOD) {
        Text::Absent => {
            return Err("the header Mcp-Method is missing: send the method of the body".to_owned());
        }
        Text::Unreadable => return Err("the header Mcp-Method must be given once, as plain text".to_owned()),
        Text::Plain(said) if said != request.method => {
            return Err("the header Mcp-Method differs from the method of the body (case counts)".to_owned());
        }
        Text::Plain(_) => {}
    }
    let Some((_, member)) = NAMED.iter().find(|(method, _)| method.as_str() == request.method) else {
        return Ok(());
    };
    let named = params.and_then(|params| params.get(*member)).and_then(Value::as_str);
    let said = match text(headers, &NAME) {
        Text::Absent if named.is_none() => return Ok(()),
        Text::Absent => return Err(format!("the header Mcp-Name is missing: send `params.{member}`")),
        Text::Unreadable => {
            return Err("the header Mcp-Name must be given once, as ASCII text or `=?base64?…?=`".to_owned());
        }
        Text::Plain(said) => said,
    };
    match decoded(said) {
        None => {
            Err("the header Mcp-Name is no canonical Base64 of UTF-8 between `=?base64?` and `?=`".to_owned())
        }
        // Params without a name are refused as such, later.
        Some(said) if named.is_none_or(|named| named == said) => Ok(()),
        Some(_) => Err(format!("the header Mcp-Name differs from `params.{member}` (case counts)")),
    }
}

/// Compares the headers that repeat arguments of a tool with the arguments.
///
/// # Errors
/// Which header is wrong and what about it, for -32020.
///
/// Spec: 2026-07-28 basic/transports#custom-headers.
pub(super) fn check_mirrored(
    headers: &HeaderMap,
    mirrored: &[MirroredArgument],
    arguments: Option<&Map<String, Value>>,
) -> Result<(), String> {
    for argument in mirrored {
        let Ok(name) = HeaderName::from_bytes(format!("{PARAM_PREFIX}{}", argument.header).as_bytes()) else {
            continue;
        };
        let fault = |what: &str| {
            Err(format!(
                "the header Mcp-Param-{} {what} (argument `{}`)",
                argument.header,
                argument.path.join(".")
            ))
        };
        let value = value_at(arguments, &argument.path).filter(|value| !value.is_null());
        match (text(headers, &name), value) {
            (Text::Absent, None) => {}
            (Text::Absent, Some(_)) => return fault("is missing although the argument is given"),
            (Text::Unreadable, _) => return fault("must be given once, as ASCII text or `=?base64?…?=`"),
            (Text::Plain(_), None) => return fault("is there although the argument is not"),
            (Text::Plain(said), Some(value)) => match decoded(said) {
                None => return fault("is no canonical Base64 of UTF-8 between `=?base64?` and `?=`"),
                Some(said) if is_same(&said, value) => {}
                Some(_) => return fault("differs from the argument"),
            },
        }
    }
    Ok(())
}

fn value_at<'a>(arguments: Option<&'a Map<String, Value>>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(arguments?.get(first)?, |value, key| value.get(key))
}

fn is_same(said: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => said == text,
        Value::Bool(flag) => said == if *flag { "true" } else { "false" },
        Value::Number(number) => {
            let float =
                number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= INTEGER_MAX as f64);
            let given = number.as_i64().or(float.map(|float| float as i64));
            given.is_some_and(|given| given.abs() <= INTEGER_MAX && integer(said) == Some(given))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// A decimal integer; a fraction of zeros does not count.
fn integer(text: &str) -> Option<i64> {
    let whole = match text.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    whole.parse().ok().filter(|_| plain)
}

/// The text that a value stands for: itself, or what is in Base64 between the sentinels.
fn decoded(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    match text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        None => Some(text.into()),
        Some(base64) => Some(String::from_utf8(BASE64.decode(base64).ok()?).ok()?.into()),
    }
}

/// Whether a body is declared to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let Ok(Some(value)) = only(headers, &CONTENT_TYPE) else { return false };
    let media = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    media.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// Whether a client takes answers of type `kind/subtype`: the most specific range counts, `q=0` refuses. Without the
/// header it takes anything (RFC 9110).
pub(super) fn accepts(headers: &HeaderMap, kind: &str, subtype: &str) -> bool {
    let mut best: Option<(u8, bool)> = None;
    let mut is_absent = true;
    for value in headers.get_all(ACCEPT) {
        is_absent = false;
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some((of, sub)) = parts.next().and_then(|media| media.split_once('/')) else { continue };
            let specificity = match (of, sub) {
                ("*", "*") => 0,
                (of, "*") if of.eq_ignore_ascii_case(kind) => 1,
                (of, sub) if of.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => 2,
                _ => continue,
            };
            let quality = parts
                .filter_map(|part| part.split_once('='))
                .find(|(name, _)| name.eq_ignore_ascii_case("q"))
                .map_or(1.0, |(_, quality)| quality.trim().parse().unwrap_or(0.0));
            if best.is_none_or(|(of, _)| specificity >= of) {
                best = Some((specificity, quality > 0.0));
            }
        }
    }
    best.map_or(is_absent, |(_, taken)| taken)
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
