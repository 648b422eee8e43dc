//! The address of a Redis.

use std::fmt;

/// The schemes that are taken.
const SCHEMES: [&str; 6] = [
    "redis://",
    "rediss://",
    "redis+cluster://",
    "rediss+cluster://",
    "redis+sentinel://",
    "rediss+sentinel://",
];

/// `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://…` over TLS, `redis+cluster://A,B,C`,
/// `redis+sentinel://A,B,C/MASTER`. Cannot be printed: it may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The address that `text` is.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let taken = SCHEMES.iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
        if taken {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("an address begins with {}", SCHEMES.join(", ")))
        }
    }

    /// The text, with its password.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RedisUrl {
    /// Scheme and hosts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("redis", ""));
        let hosts = rest.split(['/', '?']).next().unwrap_or("");
        let hosts = hosts.rsplit_once('@').map_or(hosts, |(_, hosts)| hosts);
        write!(f, "{scheme}://{hosts}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_who_logs_in() {
        for (text, shown) in [
            ("redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379"),
            ("rediss://ann:s3cret@cache.example?x=y", "rediss://cache.example"),
            ("redis+cluster://:s3cret@a:1,b:2", "redis+cluster://a:1,b:2"),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
        }
        for wrong in ["", "redis://", "http://a", "localhost:6379"] {
            assert!(!RedisUrl::parse(wrong).unwrap_err().contains("localhost"), "{wrong}");
        }
    }
}
