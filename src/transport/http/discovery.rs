//! What a client needs to know to get in: challenges, and the metadata of RFC 9728 that they point to.

use std::fmt::Write as _;

use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, HOST, HeaderValue, WWW_AUTHENTICATE},
};
use serde_json::json;

use super::{Response, body, server::Site};
use crate::{access::Refused, scope::Rights};

/// Where the metadata of a resource is: before its path.
pub(super) const METADATA: &str = "/.well-known/oauth-protected-resource";

/// Scheme and host as the client sees them. The host was checked before.
fn base(site: &Site, headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // A proxy that encrypts for us is known by the origin configured for it.
    let is_https = site.is_tls
        || site.guard.origins.iter().any(|origin| {
            origin.strip_prefix("https://").is_some_and(|outside| outside.eq_ignore_ascii_case(host))
        });
    format!("{}://{host}", if is_https { "https" } else { "http" })
}

/// The metadata of the resource at `path`. Tokens are handed out by whoever runs the server: there is no authorization
/// server to name.
pub(super) fn metadata(site: &Site, headers: &HeaderMap, path: &str) -> Response {
    let scopes: Vec<&str> = Rights::NAMED.iter().map(|(_, name)| *name).collect();
    let document = json!({
        "resource": format!("{}{path}", base(site, headers)),
        "bearer_methods_supported": ["header"],
        "scopes_supported": scopes,
        "resource_name": "TMWS",
    });
    let mut response = body::text(StatusCode::OK, document.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 401, with the challenge that says how to get in.
pub(super) fn unauthorized(
    site: &Site,
    headers: &HeaderMap,
    path: &str,
    is_post: bool,
    refused: Refused,
) -> Response {
    let mut challenge = format!("Bearer resource_metadata=\"{}{METADATA}{path}\"", base(site, headers));
    if refused != Refused::NoToken {
        challenge.push_str(", error=\"invalid_token\"");
    }
    let mut response = body::refuse(site, is_post, StatusCode::UNAUTHORIZED, &refused.to_string());
    challenge_with(&mut response, challenge);
    response
}

/// Adds the challenge for rights that the token lacks.
pub(super) fn insufficient(
    response: &mut Response,
    site: &Site,
    headers: &HeaderMap,
    path: &str,
    needed: Rights,
) {
    let mut challenge = "Bearer error=\"insufficient_scope\"".to_owned();
    let _ = write!(
        challenge,
        ", scope=\"{needed}\", resource_metadata=\"{}{METADATA}{path}\"",
        base(site, headers)
    );
    challenge_with(response, challenge);
}

fn challenge_with(response: &mut Response, challenge: String) {
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
}
