//! Why the server cannot be reached or said no, in words that tell what to do.

use std::{fmt, io};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};

use super::target::TokenOrigin;

/// At most so much of a server's own explanation is passed on.
const EXPLANATION_BYTES_MAX: usize = 300;

/// Why no connection stands.
#[derive(Debug)]
pub(super) struct DialError {
    text: String,
    /// The server has decided: waiting for the next attempt is of no use to a request.
    pub(super) is_refusal: bool,
}

impl DialError {
    /// Something that may be over soon.
    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_refusal: false }
    }

    /// The server's answer.
    pub(super) fn refused(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_refusal: true }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(text) = of_tls.and_then(of_tls_error) {
            return Self::refused(text);
        }
        Self::passing(match error.kind() {
            io::ErrorKind::ConnectionRefused => "nothing listens there (is `tmws serve` running?)".to_owned(),
            io::ErrorKind::TimedOut => {
                "it did not answer in time (is `tmws serve` running there?)".to_owned()
            }
            _ => format!("{error} (is `tmws serve` running there?)"),
        })
    }
}

/// What keeps TLS from being spoken and will not change by itself.
fn of_tls_error(error: &rustls::Error) -> Option<String> {
    use rustls::{CertificateError, Error};
    Some(match error {
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "what listens there speaks no TLS: the address begins with ws:// or http:// then".to_owned()
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "nobody whom this machine trusts has signed its certificate: name a PEM file with the signer's \
             certificate, or with its own, in SSL_CERT_FILE"
                .to_owned()
        }
        // The verifier has no variant for it.
        Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains("CaUsedAsEndEntity") =>
        {
            "its certificate is one for signing others: make one with basicConstraints CA:FALSE".to_owned()
        }
        Error::InvalidCertificate(fault) => format!("its certificate is not accepted: {fault}"),
        _ => return None,
    })
}

/// Bytes that are no HTTP, before any answer.
pub(super) fn of_no_http(scheme: &str) -> String {
    format!("what listens there speaks no HTTP; if it speaks TLS, the address begins with {scheme}://")
}

/// A refusal by status, with what the server says of it.
pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, body: &[u8], token: TokenOrigin) -> String {
    let advice = match status {
        StatusCode::UNAUTHORIZED if token == TokenOrigin::None => {
            "it wants a token: put it into the address (ws://x:TOKEN@host) or into TMWS_TOKEN".to_owned()
        }
        StatusCode::UNAUTHORIZED => format!("it does not accept the token from {token}"),
        StatusCode::FORBIDDEN => format!("it does not let the token from {token} in here"),
        StatusCode::NOT_FOUND => "there is no MCP endpoint at this path".to_owned(),
        StatusCode::TOO_MANY_REQUESTS => match headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok())
        {
            Some(seconds) => format!("too many calls: try again in {seconds} s"),
            None => "too many calls: try again later".to_owned(),
        },
        StatusCode::PAYLOAD_TOO_LARGE => "the message is too large for it".to_owned(),
        _ => String::new(),
    };
    let said = explanation(body);
    let parts: Vec<&str> =
        [advice.as_str(), said.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        format!("it answered {status}")
    } else {
        format!("it answered {status}: {}", parts.join("; it says: "))
    }
}

/// What a body says, if it is text, on one line.
fn explanation(body: &[u8]) -> String {
    let body = &body[..body.len().min(EXPLANATION_BYTES_MAX)];
    let text = String::from_utf8_lossy(body);
    if text.contains(['{', '<', '\u{fffd}']) {
        return String::new();
    }
    text.split(|character: char| character.is_control() || character.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_tls_is_a_refusal_that_says_what_to_do() {
        use rustls::{CertificateError, Error, InvalidMessage};
        let table = [
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "speaks no TLS"),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "SSL_CERT_FILE"),
            (Error::InvalidCertificate(CertificateError::Expired), "not accepted"),
        ];
        for (error, expected) in table {
            let error = DialError::from(io::Error::new(io::ErrorKind::InvalidData, error));
            assert!(error.is_refusal && error.text.contains(expected), "{error}");
        }
        let broken = DialError::from(io::Error::new(io::ErrorKind::InvalidData, Error::DecryptError));
        assert!(!broken.is_refusal, "{broken}");
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let table = [
            (401, TokenOrigin::None, "", "it answered 401 Unauthorized: it wants a token"),
            (401, TokenOrigin::LocalFile, "", "it does not accept the token from the local token file"),
            (
                403,
                TokenOrigin::Environment,
                "no such\nproject",
                "from TMWS_TOKEN in here; it says: no such project",
            ),
            (404, TokenOrigin::None, "<html>", "no MCP endpoint at this path"),
            (429, TokenOrigin::None, "", "try again later"),
            (502, TokenOrigin::None, "{}", "it answered 502 Bad Gateway"),
        ];
        for (status, token, body, expected) in table {
            let status = StatusCode::from_u16(status).unwrap();
            let text = of_status(status, &HeaderMap::new(), body.as_bytes(), token);
            assert!(text.contains(expected), "{text}");
        }
    }
}
