//! What a request presents to be let in: `Authorization` and `Sec-WebSocket-Protocol`, never the query of its URL, which
//! ends in logs and histories.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL},
};

use super::local::TOKEN_BYTES_MAX;

/// Subprotocol entries that begin so carry a token: browsers can set no other header on a WebSocket.
const SUBPROTOCOL: &str = "tmws.token.";

/// Longest header that is decoded, in bytes: a token in Base64, with a user before it.
const HEADER_BYTES_MAX: usize = 4 * TOKEN_BYTES_MAX;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Something was presented that can be no token: malformed, too long, or two that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unusable;

/// The token that `headers` present, if they do.
pub(super) fn presented(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Unusable> {
    let mut found: Option<Vec<u8>> = None;
    let mut authorizations = headers.get_all(AUTHORIZATION).iter();
    if let Some(value) = authorizations.next() {
        if authorizations.next().is_some() {
            return Err(Unusable);
        }
        found = Some(of_authorization(value)?);
    }
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        // Whatever is no text holds no entry of ours either; the handshake judges it.
        let Ok(value) = value.to_str() else { continue };
        for entry in value.split(',').filter_map(|entry| entry.trim().strip_prefix(SUBPROTOCOL)) {
            let token = decode(&URL_SAFE, entry)?;
            if found.as_ref().is_some_and(|found| *found != token) {
                return Err(Unusable);
            }
            found = Some(token);
        }
    }
    match found {
        Some(token) if token.is_empty() || token.len() > TOKEN_BYTES_MAX => Err(Unusable),
        found => Ok(found),
    }
}

fn of_authorization(value: &HeaderValue) -> Result<Vec<u8>, Unusable> {
    let (scheme, credentials) =
        value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Unusable)?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        if credentials.len() > TOKEN_BYTES_MAX {
            return Err(Unusable);
        }
        return Ok(credentials.as_bytes().to_vec());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = decode(&STANDARD, credentials)?;
        let colon = pair.iter().position(|byte| *byte == b':').ok_or(Unusable)?;
        return Ok(pair[colon + 1..].to_vec());
    }
    Err(Unusable)
}

fn decode(engine: &GeneralPurpose, text: &str) -> Result<Vec<u8>, Unusable> {
    if text.len() > HEADER_BYTES_MAX {
        return Err(Unusable);
    }
    engine.decode(text).map_err(|_| Unusable)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    fn of(headers: &[(&str, &str)]) -> Result<Option<String>, Unusable> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect();
        presented(&headers).map(|token| token.map(|token| String::from_utf8(token).unwrap()))
    }

    #[test]
    fn a_token_comes_by_any_of_three_ways() {
        // `x:secret`, `secret`.
        let (basic, entry) = ("Basic eDpzZWNyZXQ=", "tmws.token.c2VjcmV0");
        for headers in [
            &[("authorization", "Bearer secret")][..],
            &[("authorization", "bearer  secret ")],
            &[("authorization", basic)],
            &[("authorization", "BASIC eDpzZWNyZXQ")],
            &[("sec-websocket-protocol", entry)],
            &[("sec-websocket-protocol", "mcp, tmws.token.c2VjcmV0")],
            &[("sec-websocket-protocol", "mcp"), ("sec-websocket-protocol", entry)],
            &[("authorization", basic), ("sec-websocket-protocol", entry)],
        ] {
            assert_eq!(of(headers), Ok(Some("secret".to_owned())), "{headers:?}");
        }
        // Only the first colon parts user and password.
        assert_eq!(of(&[("authorization", "Basic eDphOmI=")]), Ok(Some("a:b".to_owned())));
        for headers in [&[][..], &[("sec-websocket-protocol", "mcp")], &[("x-token", "secret")]] {
            assert_eq!(of(headers), Ok(None), "{headers:?}");
        }
    }

    #[test]
    fn what_is_malformed_too_long_or_contradicts_itself_is_refused() {
        let long = format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1));
        let huge = format!("tmws.token.{}", "eHh4".repeat(TOKEN_BYTES_MAX));
        for headers in [
            &[("authorization", "secret")][..],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Digest username=secret")],
            &[("authorization", "Basic !!!")],
            &[("authorization", "Basic c2VjcmV0")],
            &[("authorization", "Basic eDo=")],
            &[("authorization", "Bearer s\u{e9}cret")],
            &[("authorization", &long)],
            &[("authorization", "Bearer secret"), ("authorization", "Bearer secret")],
            &[("authorization", "Bearer other"), ("sec-websocket-protocol", "tmws.token.c2VjcmV0")],
            &[("sec-websocket-protocol", "tmws.token.c2VjcmV0, tmws.token.b3RoZXI")],
            &[("sec-websocket-protocol", "tmws.token.")],
            &[("sec-websocket-protocol", "tmws.token.!")],
            &[("sec-websocket-protocol", &huge)],
        ] {
            assert_eq!(of(headers), Err(Unusable), "{headers:?}");
        }
    }
}
