//! Hosts as permissions and settings name them: `host` or `host:port`, exact.

use reqwest::Url;

/// One host that is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    host: String,
    port: Option<u16>,
}

impl HostRule {
    /// Reads `text`; case and a last dot do not matter.
    ///
    /// # Errors
    /// What is wrong, as a fragment.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "a host is a name or an address, with a port where it has one of its own, such as api.github.com, localhost:8080 or [::1]:8080";
        let is_odd =
            |char: char| char.is_whitespace() || char.is_control() || "/\\@?#*%,<>\"'`|^{}".contains(char);
        if text.is_empty() || text.len() > 260 || text.contains(is_odd) {
            return Err(FORM.to_owned());
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                let port: u16 = port.parse().map_err(|_| FORM.to_owned())?;
                if port == 0 {
                    return Err("port 0 is no port".to_owned());
                }
                (host, Some(port))
            }
            _ => (text, None),
        };
        let url = Url::parse(&format!("http://{host}/")).map_err(|_| FORM.to_owned())?;
        let host =
            url.host_str().map(normal).filter(|host| !host.is_empty()).ok_or_else(|| FORM.to_owned())?;
        if url.port().is_some() || url.path() != "/" {
            return Err(FORM.to_owned());
        }
        Ok(Self { host, port })
    }

    /// Whether `url` is of this host; without a port in the rule, at the port that its scheme has.
    #[must_use]
    pub fn admits(&self, url: &Url) -> bool {
        self.is_of(url) && (self.port.is_some() || url.port().is_none())
    }

    /// Whether `url` is of this host; without a port in the rule, at any port.
    #[must_use]
    pub fn is_of(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| normal(host) == self.host)
            && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

/// A host as the URL standard writes it, without a last dot.
#[must_use]
pub fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Longest URL taken, in bytes.
const URL_BYTES_MAX: usize = 4 << 10;

/// The URL that `text` is, on its own or relative to `base`.
///
/// # Errors
/// What is wrong, as a fragment without the URL: it may hold a secret.
pub fn url(text: &str, base: Option<&Url>) -> Result<Url, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("is longer than {URL_BYTES_MAX} bytes"));
    }
    // The standard would drop or encode them; nobody means them.
    if text.contains(|char: char| char.is_control() || char.is_whitespace()) || text.contains('\\') {
        return Err("contains white space, a control character or a backslash".to_owned());
    }
    let url = match base {
        Some(base) => base.join(text),
        None => Url::parse(text),
    };
    let mut url = url.map_err(|error| format!("is no URL: {error}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(format!("has the scheme `{:.20}`; only http and https are fetched", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("names a user or a password: those are not sent".to_owned());
    }
    if url.host_str().is_none_or(|host| normal(host).is_empty()) || url.port() == Some(0) {
        return Err("names no host and port that can be reached".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_of_one_host_and_one_port() {
        for (rule, url, admitted, is_of) in [
            ("api.github.com", "https://api.github.com/x", true, true),
            ("api.github.com", "http://API.GitHub.com./x", true, true),
            ("API.github.com.", "https://api.github.com/", true, true),
            ("api.github.com", "https://api.github.com:8443/", false, true),
            ("api.github.com", "https://github.com/", false, false),
            ("github.com", "https://api.github.com/", false, false),
            ("github.com", "https://github.com.evil.example/", false, false),
            ("localhost:8080", "http://localhost:8080/", true, true),
            ("localhost:8080", "http://localhost/", false, false),
            ("localhost:80", "http://localhost/", true, true),
            ("localhost:443", "http://localhost/", false, false),
            ("127.0.0.1", "http://2130706433/", true, true),
            ("127.0.0.1", "http://0x7f.1/", true, true),
            ("[::1]:8080", "http://[0:0::1]:8080/", true, true),
            ("[::1]", "http://[::1]/", true, true),
            ("bücher.example", "https://xn--bcher-kva.example/", true, true),
        ] {
            let (rule, url) = (HostRule::parse(rule).unwrap(), super::url(url, None).unwrap());
            assert_eq!((rule.admits(&url), rule.is_of(&url)), (admitted, is_of), "{rule:?} {url}");
        }
    }

    #[test]
    fn what_is_no_host_is_no_rule() {
        for text in [
            "",
            " ",
            "*",
            "*.example.com",
            "https://example.com",
            "example.com/",
            "a@b",
            "example.com:0",
            "example.com:99999",
            "example.com:",
            "::1",
            "a b",
            "a\nb",
            "a%2eb",
            "[::1",
            "1.2.3.4.5:x",
        ] {
            assert!(HostRule::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn urls_that_would_reach_something_else_are_refused() {
        for (text, part) in [
            ("ftp://example.com/", "scheme"),
            ("file:///etc/passwd", "scheme"),
            ("javascript:alert(1)", "scheme"),
            ("https://user@example.com/", "user"),
            ("https://user:word@example.com/", "user"),
            ("https://:word@example.com/", "user"),
            ("https://exa\nmple.com/", "control"),
            ("https://example.com/\0", "control"),
            ("https://example.com/a b", "white space"),
            ("https:\\\\example.com", "backslash"),
            ("https://", "no URL"),
            ("http://./", "no host"),
            ("http://example.com:0/", "no host and port"),
            ("http://exa%00mple.com/", "no URL"),
            ("http://[::1/", "no URL"),
            ("http://1.2.3.4.5.6/", "no URL"),
            ("nothing", "no URL"),
        ] {
            let error = url(text, None).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        assert!(url(&format!("https://example.com/{}", "x".repeat(5000)), None).is_err());
        let base = url("https://example.com/a/b?c#d", None).unwrap();
        assert_eq!(url("../e", Some(&base)).unwrap().as_str(), "https://example.com/e");
        assert_eq!(url("//other.example/x", Some(&base)).unwrap().as_str(), "https://other.example/x");
        assert!(url("http:///\\evil", Some(&base)).is_err());
    }
}
