//! The dashboard: a page at `/`, and the figures that it asks for at `/dashboard.json`. Reading only.
//!
//! Both are for whoever has the right `admin`, like `/metrics`. A browser asks its user for the token: whatever name, the
//! token as password. The page needs nothing but itself: its policy lets it load nothing and speak to nobody else.

mod figures;

use std::{net::IpAddr, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
        WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};
use sha2::{Digest as _, Sha256};

use super::{Body, Request, Response, health, router::not_allowed, server::Site};

/// The path of the page.
pub(super) const PAGE: &str = "/";
/// The path of its figures.
pub(super) const FIGURES: &str = "/dashboard.json";

const TEXT: &str = include_str!("page.html");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// What makes a browser ask its user.
const CHALLENGE: HeaderValue =
    HeaderValue::from_static("Basic realm=\"TMWS: the token is the password\", charset=\"UTF-8\"");

/// What the page may do: run the one script and wear the one style that are in it, and ask us.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash_of("script"),
        hash_of("style"),
    );
    HeaderValue::try_from(policy).expect("hashes in Base64 are visible ASCII")
});

/// The one element of this name in the page, as the policy names what is in it.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inside = TEXT.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    let inside = inside.expect("the page has one, tested below").0;
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inside)))
}

/// Answers what is asked here; `None` is some other path.
pub(super) async fn answer(site: &Site, peer: IpAddr, request: &Request) -> Option<Response> {
    let path = match request.uri().path() {
        PAGE => PAGE,
        FIGURES => FIGURES,
        _ => return None,
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(not_allowed("GET, HEAD"));
    }
    let mut response = match health::refusal(site, peer, request, path) {
        Some(mut refused) => {
            if refused.status() == StatusCode::UNAUTHORIZED {
                refused.headers_mut().append(WWW_AUTHENTICATE, CHALLENGE);
            }
            refused
        }
        None if path == PAGE => page(),
        None => {
            let text = figures::told(&site.host).await.to_string();
            let mut response = Response::new(Body::Full(text.into_bytes().into()));
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            response
        }
    };
    protect(response.headers_mut());
    Some(response)
}

fn page() -> Response {
    let mut response = Response::new(Body::Full(TEXT.as_bytes().into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HTML);
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn protect(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_script_and_one_style_and_names_nobody_else() {
        for element in ["script", "style"] {
            assert_eq!(TEXT.matches(&format!("<{element}")).count(), 1, "{element}");
            assert_eq!(hash_of(element).len(), "'sha256-'".len() + 44, "{element}");
        }
        // What a policy with hashes forbids, and what would leave this server.
        for forbidden in
            ["http://", "https://", " style=\"", " onclick=", " onload=", "javascript:", "innerHTML", "eval("]
        {
            assert!(!TEXT.contains(forbidden), "{forbidden}");
        }
        let policy = POLICY.to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
}
