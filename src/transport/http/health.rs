//! How the server is: `/healthz` (the process), `/readyz` (what it depends on), `/metrics` (figures).
//!
//! The first two need no token and tell no secret; the third needs the right `admin`.

use std::net::IpAddr;

use hyper::{
    Method, StatusCode,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde_json::json;

use super::{Body, Request, Response, body, discovery, server::Site};
use crate::{
    scope::Rights,
    transport::{Host, Standing, host::INSUFFICIENT_SCOPE},
};

/// The path of the figures.
pub(super) const METRICS: &str = "/metrics";

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLASSIC: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Answers what is asked here; `None` is some other path.
pub(super) async fn answer(site: &Site, peer: IpAddr, request: &Request) -> Option<Response> {
    let path = request.uri().path();
    if !matches!(path, "/healthz" | "/readyz" | METRICS) {
        return None;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = body::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here");
        response.headers_mut().insert(ALLOW, METHODS);
        return Some(response);
    }
    Some(match path {
        "/healthz" => alive(&site.host),
        "/readyz" => ready(&site.host).await,
        _ => figures(site, peer, request),
    })
}

/// The process answers, whatever its dependencies do; while it ends, nobody should send it anything new.
fn alive(host: &Host) -> Response {
    if host.stopping.is_cancelled() {
        plain(StatusCode::SERVICE_UNAVAILABLE, JSON, json!({"status": "stopping"}).to_string())
    } else {
        plain(StatusCode::OK, JSON, json!({"status": "ok"}).to_string())
    }
}

async fn ready(host: &Host) -> Response {
    let report = host.health.report().await;
    let is_stopping = host.stopping.is_cancelled();
    let mut told = report.to_json();
    if is_stopping {
        told["status"] = json!(Standing::Unavailable.as_str());
        told["reason"] = json!("the server is stopping");
    }
    let status = match report.standing {
        Standing::Ready | Standing::Degraded if !is_stopping => StatusCode::OK,
        Standing::Ready | Standing::Degraded | Standing::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    plain(status, JSON, told.to_string())
}

/// What whoever asks for figures is told who may not have them.
pub(super) fn refusal(site: &Site, peer: IpAddr, request: &Request, path: &str) -> Option<Response> {
    let host = &site.host;
    match host.access.authenticate(request.headers()) {
        Ok(principal) if principal.rights.include(Rights::ADMIN) => None,
        Ok(principal) => {
            host.forbid(peer, &principal, INSUFFICIENT_SCOPE, None, None);
            let mut response = body::text(
                StatusCode::FORBIDDEN,
                "this token lacks the scope `admin`: ask for one that has it",
            );
            discovery::insufficient(&mut response, site, request.headers(), path, Rights::ADMIN);
            Some(response)
        }
        Err(refused) => {
            host.turn_away(peer, refused);
            Some(discovery::unauthorized(site, request.headers(), path, false, refused))
        }
    }
}

fn figures(site: &Site, peer: IpAddr, request: &Request) -> Response {
    let host = &site.host;
    if let Some(refused) = refusal(site, peer, request, METRICS) {
        return refused;
    }
    let is_open =
        request.headers().get_all(ACCEPT).iter().any(|accept| {
            accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text"))
        });
    if is_open {
        plain(StatusCode::OK, OPEN_METRICS, host.metrics.open_metrics())
    } else {
        plain(StatusCode::OK, CLASSIC, host.metrics.text())
    }
}

/// An answer that is true only now. The body of one to HEAD is left out by hyper, its length is not.
fn plain(status: StatusCode, kind: HeaderValue, text: String) -> Response {
    let mut response = Response::new(Body::Full(text.into_bytes().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
