//! Which agent a client of the dialect says it is.

use hyper::{
    HeaderMap, Uri,
    header::{HeaderName, HeaderValue},
};

const QUERY_KEY: &str = "agent_id";
/// What clients of the dialect send that cannot choose their query.
const OLD_HEADER: &str = "x-agent-id";

/// The agent: the query's `agent_id`, else the header `X-Agent-ID`, else `header`; none where nothing says. What cannot be
/// read, or is said twice, is empty text: no agent's name.
///
/// An agent is no principal: whichever it is, the token alone says what the client may do.
pub(in crate::transport) fn agent(uri: &Uri, headers: &HeaderMap, header: &HeaderName) -> Option<Box<str>> {
    let mut named = uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, value)| *key == QUERY_KEY && !value.is_empty())
        .map(|(_, value)| value);
    match (named.next(), named.next()) {
        (Some(value), None) => return Some(decoded(value).unwrap_or_default().into()),
        (Some(_), Some(_)) => return Some("".into()),
        (None, _) => {}
    }
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().into();
    headers.get(OLD_HEADER).or_else(|| headers.get(header)).map(text)
}

/// `value` with its percent escapes resolved; `None` where one of them is none, or the whole is no UTF-8.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    #[test]
    fn the_query_comes_before_the_headers() {
        let own = HeaderName::from_static("tmws-agent");
        let table: [(&str, Headers, Option<&str>); 11] = [
            ("/ws/mcp", &[], None),
            ("/ws/mcp?agent_id=ada", &[], Some("ada")),
            ("/ws/mcp?x=1&agent_id=team%3Aada&y", &[], Some("team:ada")),
            ("/ws/mcp?agent_id=ada", &[("x-agent-id", "bob"), ("tmws-agent", "cid")], Some("ada")),
            ("/ws/mcp?agent_id=", &[("x-agent-id", "bob"), ("tmws-agent", "cid")], Some("bob")),
            ("/ws/mcp?agent", &[("tmws-agent", "cid")], Some("cid")),
            ("/ws/mcp?agent_id=a&agent_id=a", &[("x-agent-id", "bob")], Some("")),
            ("/ws/mcp?agent_id=%", &[], Some("")),
            ("/ws/mcp?agent_id=%zz", &[], Some("")),
            ("/ws/mcp?agent_id=%ff", &[], Some("")),
            ("/ws/mcp?agent_id=a+b", &[], Some("a+b")),
        ];
        for (uri, headers, expected) in table {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(agent(&uri.parse().unwrap(), &map, &own).as_deref(), expected, "{uri}");
        }
    }
}
