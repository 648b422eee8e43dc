//! Host and Origin, checked before anything else: without them any page in a browser could speak to a server on
//! loopback (DNS rebinding, cross-site WebSocket hijacking).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::{
    HeaderMap, Uri,
    header::{HOST, HeaderName, HeaderValue, ORIGIN},
};

/// Which hosts and origins are ours.
pub(super) struct Guard {
    /// Hosts allowed beside the address listened on, without port.
    pub(super) hosts: Vec<String>,
    /// Origins allowed beside those of our own hosts, as browsers spell them.
    pub(super) origins: Vec<String>,
    /// What is listened on.
    pub(super) listening: SocketAddr,
}

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offence {
    /// The Host header is missing, given twice, or names somebody else.
    Host,
    /// The Origin header is given twice, or names a page of somebody else.
    Origin,
}

impl Offence {
    /// Its name in the metrics.
    pub(super) const fn rule(self) -> &'static str {
        match self {
            Self::Host => "host-not-allowed",
            Self::Origin => "origin-not-allowed",
        }
    }

    /// What the sender is told.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Host => {
                "the Host of this request is not one of this server's: use the address that it listens on, or add the name to its setting `allowed_hosts`"
            }
            Self::Origin => {
                "pages of this Origin may not speak to this server: add the origin (scheme://host:port) to its setting `allowed_origins`"
            }
        }
    }
}

/// A host as it stands in a header or a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Authority<'a> {
    name: &'a str,
    ip: Option<IpAddr>,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (name, rest) = match text.strip_prefix('[') {
            Some(literal) => literal.split_once(']')?,
            None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
        };
        let port = match rest.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            None if rest.is_empty() => None,
            Some(_) | None => return None,
        };
        let ip = if text.starts_with('[') {
            Some(IpAddr::V6(name.parse::<Ipv6Addr>().ok()?).to_canonical())
        } else {
            name.parse().ok().map(IpAddr::V4)
        };
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        (ip.is_some() || is_name).then_some(Self { name, ip, port })
    }
}

impl Guard {
    /// Whether a request that arrived at `local` may go on; its origin, where it names one that may.
    pub(super) fn check<'a>(
        &self,
        local: IpAddr,
        uri: &Uri,
        headers: &'a HeaderMap,
    ) -> Result<Option<&'a HeaderValue>, Offence> {
        let host = only(headers, &HOST).map_err(|Several| Offence::Host)?;
        let host =
            host.and_then(|host| host.to_str().ok()).and_then(Authority::parse).ok_or(Offence::Host)?;
        if !self.is_ours(local, host) {
            return Err(Offence::Host);
        }
        // The absolute form outranks Host; both must be ours, so that no proxy in between reads another one than we.
        if let Some(authority) = uri.authority()
            && !Authority::parse(authority.as_str()).is_some_and(|authority| self.is_ours(local, authority))
        {
            return Err(Offence::Host);
        }
        let Some(origin) = only(headers, &ORIGIN).map_err(|Several| Offence::Origin)? else {
            return Ok(None);
        };
        match origin.to_str() {
            Ok(text) if self.is_allowed(local, host, text) => Ok(Some(origin)),
            Ok(_) | Err(_) => Err(Offence::Origin),
        }
    }

    fn is_allowed(&self, local: IpAddr, host: Authority<'_>, origin: &str) -> bool {
        if self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        let Some(page) = Authority::parse(authority) else { return false };
        let port = page.port.unwrap_or(default);
        let is_same = port == host.port.unwrap_or(default) || port == self.listening.port();
        is_same && self.is_ours(local, page)
    }

    fn is_ours(&self, local: IpAddr, host: Authority<'_>) -> bool {
        let local = local.to_canonical();
        let is_here = match host.ip {
            Some(ip) => ip == local || local.is_loopback() && ip.is_loopback(),
            None => local.is_loopback() && host.name.eq_ignore_ascii_case("localhost"),
        };
        is_here
            || self.hosts.iter().any(|allowed| {
                let allowed = allowed.trim_start_matches('[').trim_end_matches(']');
                allowed.eq_ignore_ascii_case(host.name)
            })
    }
}

/// A header that must come once came more often.
#[derive(Debug)]
pub(super) struct Several;

/// The one value of a header, where it is there.
pub(super) fn only<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Several> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(Several),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], Result<(), Offence>);

    fn check(guard: &Guard, local: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(), Offence> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        guard.check(local.parse().unwrap(), &uri.parse().unwrap(), &map).map(|_| ())
    }

    #[test]
    fn only_our_own_hosts_and_origins_pass() {
        use Offence::{Host, Origin};
        let guard = |listening: &str| Guard {
            hosts: vec!["Tmws.example".to_owned(), "[fd00::1]".to_owned()],
            origins: vec!["https://app.example:8443".to_owned()],
            listening: listening.parse().unwrap(),
        };
        let (loopback, any, lan) = ("127.0.0.1:7337", "0.0.0.0:7337", "10.0.0.5:7337");
        let here = "127.0.0.1";
        let table: &[Row<'_>] = &[
            (loopback, here, "/mcp", &[("host", "127.0.0.1:7337")], Ok(())),
            (loopback, here, "/mcp", &[("host", "localhost")], Ok(())),
            (loopback, here, "/mcp", &[("host", "LOCALHOST:1")], Ok(())),
            (loopback, here, "/mcp", &[("host", "[::1]:9")], Ok(())),
            (loopback, here, "/mcp", &[("host", "[::ffff:127.0.0.1]")], Ok(())),
            (loopback, here, "/mcp", &[("host", "tmws.EXAMPLE:7337")], Ok(())),
            (loopback, here, "/mcp", &[("host", "[fd00::1]:7337")], Ok(())),
            (loopback, here, "/mcp", &[], Err(Host)),
            (loopback, here, "/mcp", &[("host", "")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "evil.example")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "localhost.evil.example")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "localhost:x")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "localhost:70000")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "a@localhost")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "::1")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "[::1")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "[::1]x")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "10.0.0.5")], Err(Host)),
            (loopback, here, "/mcp", &[("host", "localhost"), ("host", "localhost")], Err(Host)),
            (loopback, here, "http://localhost/mcp", &[("host", "localhost")], Ok(())),
            (loopback, here, "http://evil.example/mcp", &[("host", "localhost")], Err(Host)),
            (loopback, here, "http://localhost/mcp", &[], Err(Host)),
            (any, "10.0.0.5", "/mcp", &[("host", "10.0.0.5:7337")], Ok(())),
            (any, "10.0.0.5", "/mcp", &[("host", "tmws.example")], Ok(())),
            (any, "10.0.0.5", "/mcp", &[("host", "10.0.0.6:7337")], Err(Host)),
            (any, "10.0.0.5", "/mcp", &[("host", "localhost")], Err(Host)),
            (any, "10.0.0.5", "/mcp", &[("host", "evil.example")], Err(Host)),
            (any, here, "/mcp", &[("host", "localhost:7337")], Ok(())),
            (lan, "10.0.0.5", "/mcp", &[("host", "10.0.0.5")], Ok(())),
            (lan, "10.0.0.5", "/mcp", &[("host", "127.0.0.1")], Err(Host)),
            (
                loopback,
                here,
                "/mcp",
                &[("host", "localhost:7337"), ("origin", "http://localhost:7337")],
                Ok(()),
            ),
            (
                loopback,
                here,
                "/mcp",
                &[("host", "localhost:7337"), ("origin", "http://127.0.0.1:7337")],
                Ok(()),
            ),
            (loopback, here, "/mcp", &[("host", "localhost:9"), ("origin", "http://localhost:9")], Ok(())),
            (loopback, here, "/mcp", &[("host", "localhost"), ("origin", "http://localhost")], Ok(())),
            (loopback, here, "/mcp", &[("host", "tmws.example"), ("origin", "https://tmws.example")], Ok(())),
            (
                loopback,
                here,
                "/mcp",
                &[("host", "localhost"), ("origin", "https://app.example:8443")],
                Ok(()),
            ),
            (
                loopback,
                here,
                "/mcp",
                &[("host", "localhost"), ("origin", "https://app.example")],
                Err(Origin),
            ),
            (
                loopback,
                here,
                "/mcp",
                &[("host", "localhost:7337"), ("origin", "http://localhost:3000")],
                Err(Origin),
            ),
            (
                loopback,
                here,
                "/mcp",
                &[("host", "localhost"), ("origin", "http://evil.example")],
                Err(Origin),
            ),
            (loopback, here, "/mcp", &[("host", "localhost"), ("origin", "null")], Err(Origin)),
            (loopback, here, "/mcp", &[("host", "localhost"), ("origin", "")], Err(Origin)),
            (loopback, here, "/mcp", &[("host", "localhost"), ("origin", "file://localhost")], Err(Origin)),
            (loopback, here, "/mcp", &[("host", "localhost"), ("origin", "http://localhost/")], Err(Origin)),
            (
                loopback,
                here,
                "/mcp",
                &[("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")],
                Err(Origin),
            ),
        ];
        for (listening, local, uri, headers, expected) in table {
            let seen = check(&guard(listening), local, uri, headers);
            assert_eq!(seen, *expected, "{listening} {local} {uri} {headers:?}");
        }
    }
}
