//! Where the collector is, and what it is told of us.

use std::{fmt, str::FromStr};

use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};

/// What the service is called where nobody says otherwise.
pub(super) const SERVICE: &str = "tmws";

/// How to reach a collector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Where; nothing is exported where absent.
    pub url: Option<CollectorUrl>,
    /// What every request to it carries: `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: CollectorHeaders,
    /// What the service is called: `OTEL_SERVICE_NAME`.
    pub service: Option<String>,
}

/// The base address of a collector: `/v1/traces` and `/v1/metrics` are behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl(String);

impl CollectorUrl {
    /// The address of one signal.
    pub(super) fn of(&self, signal: &str) -> String {
        format!("{}/v1/{signal}", self.0)
    }
}

impl FromStr for CollectorUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What is wrong is not quoted: it may hold a password.
        let wrong = "a collector is http:// or https://, a host, perhaps a port and a path, as in http://127.0.0.1:4318";
        let url = Url::parse(text.trim()).map_err(|_| wrong.to_owned())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "a collector's address holds no password: put it into OTEL_EXPORTER_OTLP_HEADERS".to_owned()
            );
        }
        let is_plain = url.query().is_none() && url.fragment().is_none() && url.has_host();
        if !matches!(url.scheme(), "http" | "https") || !is_plain {
            return Err(wrong.to_owned());
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Headers for the collector, which may be secret: never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CollectorHeaders(Vec<(HeaderName, HeaderValue)>);

impl CollectorHeaders {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl fmt::Debug for CollectorHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} secret]", self.0.len())
    }
}

/// `name=value,name=value`, percent-encoded.
impl FromStr for CollectorHeaders {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let headers = pairs.map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let mut value = HeaderValue::from_bytes(&decode(value.trim())?).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
        });
        let headers = headers.collect::<Option<_>>();
        headers
            .map(Self)
            .ok_or_else(|| "headers are name=value pairs, separated by commas, percent-encoded".to_owned())
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        decoded.push(u8::try_from(digit(bytes.next()?)? * 16 + digit(bytes.next()?)?).ok()?);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_address_without_secrets() {
        for (text, traces) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://collector.example/otlp/", "https://collector.example/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse::<CollectorUrl>().expect("an address").of("traces"), traces);
        }
        for text in [
            "",
            "127.0.0.1:4318",
            "grpc://a:4317",
            "http://a/?key=sesame",
            "http://a/#sesame",
            "http://me:sesame@a/",
            "file:///etc/sesame",
        ] {
            let why = text.parse::<CollectorUrl>().expect_err(text);
            assert!(!why.contains("sesame"), "{why}");
        }
    }

    #[test]
    fn headers_are_read_and_never_shown() {
        let headers: CollectorHeaders =
            "authorization=Basic%20c2VzYW1l, x-team = web".parse().expect("headers");
        let told: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(told, [("authorization", &b"Basic c2VzYW1l"[..]), ("x-team", b"web")]);
        assert_eq!(format!("{headers:?}"), "[2 secret]");
        for text in ["sesame", "a b=c", "a=%4", "a=%zz", "a=\u{7}"] {
            assert!(text.parse::<CollectorHeaders>().is_err(), "{text}");
        }
        assert_eq!("".parse(), Ok(CollectorHeaders::default()));
    }
}
