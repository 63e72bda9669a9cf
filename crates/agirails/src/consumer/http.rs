//! Requests and responses, for any HTTP library to send.

use std::{fmt, time::Duration};

use alloy_primitives::Bytes;
use url::{Host, Url};

use super::PaidResponse;
use crate::error::{Code, Error, Result};

/// Asks that nobody on the way compress the answer. Whoever does so all the same is undone.
pub(super) const AS_IT_IS: [&str; 2] = ["Accept-Encoding", "identity"];

/// What to do next for a purchase.
#[derive(Debug)]
pub enum Step {
    /// Send this, and hand in what became of it.
    Send(HttpRequest),
    /// Let this much time pass.
    Wait(Duration),
    /// The purchase is over.
    Done(Box<PaidResponse>),
}

/// One HTTP request. Redirects must not be followed: the request may carry a signature that is
/// for this server alone.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method, in upper case.
    pub method: String,
    /// Where to. It holds only characters that a request line may hold, and its path and query are
    /// signed: send them as they are.
    pub url: String,
    /// All headers but `Host` and `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body, empty for none.
    pub body: Bytes,
    /// How long to wait for the whole answer.
    pub timeout: Duration,
    /// How many bytes of an answer's body to read before giving up ([`HttpFailure::TooLarge`]).
    pub body_limit: usize,
}

/// Shows no header's value, and no query: callers pass their secrets in them.
impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("url", &without_query(&self.url))
            .field("headers", &names)
            .field("body", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// One HTTP response, its body as it came over the wire. A body that came compressed is decoded by
/// the purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// The headers, as often as they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl HttpResponse {
    /// A header's first value, whatever its name's case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a header.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim())
    }

    /// Whether the service did what it was asked.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// For how long it asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let text = self.header("Retry-After")?;
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let time = httpdate::parse_http_date(text).ok()?;
        Some(time.duration_since(std::time::SystemTime::now()).unwrap_or_default())
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpOutcome {
    /// It was answered.
    Answered(HttpResponse),
    /// It was not.
    Failed(HttpFailure),
}

/// Why a request has no answer. The words are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpFailure {
    /// There was no connection, so the service never saw it.
    NotSent(String),
    /// It was sent, and its answer did not come in time, or not to its end.
    Lost(String),
    /// The answer's body is longer than [`HttpRequest::body_limit`].
    TooLarge,
}

impl fmt::Display for HttpFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(words) | Self::Lost(words) => f.write_str(words),
            Self::TooLarge => f.write_str("the answer is too long"),
        }
    }
}

/// A URL as it is shown.
pub(super) fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(path, _)| path)
}

/// The URL of a call, as it is sent.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Scheme, host and port.
    pub(super) origin: String,
    /// The path.
    pub(super) path: String,
    /// Path and query, as in the request line.
    pub(super) target: String,
    /// Whether nobody on the way can answer in the service's endpoint: TLS, or this very machine.
    pub(super) is_private: bool,
}

/// Shows no query.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl Endpoint {
    /// # Errors
    /// [`Code::InvalidSettings`] for anything but an http or https URL without a password.
    pub(super) fn parse(text: &str) -> Result<Self> {
        // It may hold a token, so no message shows it.
        let refuse = |problem: &str, hint: &str| {
            Error::new(Code::InvalidSettings, format!("the service's URL {problem}"))
                .with_hint(hint)
                .with_facts(|facts| facts.field = Some("url"))
        };
        let url = Url::parse(text)
            .map_err(|error| refuse(&format!("must be a URL: {error}"), "pass https://…"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(refuse("must be an http or https URL", "pass https://…"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let hint = "pass them in an Authorization header, which messages never show";
            return Err(refuse("must not hold a user's name or password", hint));
        }
        let path = plain(url.path());
        let target = match url.query() {
            Some(query) => format!("{path}?{}", plain(query)),
            None => path.clone(),
        };
        let is_private = url.scheme() == "https" || url.host().is_some_and(|host| is_here(&host));
        Ok(Self { origin: url.origin().ascii_serialization(), path, target, is_private })
    }

    pub(super) fn url(&self) -> String {
        format!("{}{}", self.origin, self.target)
    }

    /// What a service names as the base of its free routes, an absolute URL or an absolute path:
    /// where it is of the same origin, without a slash at its end.
    pub(super) fn base(&self, named: &str) -> Option<String> {
        let base = match named {
            "" => return Some(self.origin.clone()),
            path if path.starts_with('/') => Self::parse(&format!("{}{path}", self.origin)),
            url => Self::parse(url),
        };
        let Self { origin, path, .. } = base.ok().filter(|base| base.origin == self.origin)?;
        Some(format!("{origin}{}", path.trim_end_matches('/')))
    }
}

fn is_here(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Percent-encodes what RFC 3986 has no endpoint for in a path or query, and writes escapes in upper
/// case: some libraries would do so on the way, and the signature would not be of what arrives.
fn plain(part: &str) -> String {
    let bytes = part.as_bytes();
    let mut text = String::with_capacity(part.len());
    for (at, &byte) in bytes.iter().enumerate() {
        let is_escape = |start: usize| {
            bytes.get(start) == Some(&b'%')
                && bytes.len() > start + 2
                && bytes[start + 1..start + 3].iter().all(u8::is_ascii_hexdigit)
        };
        let in_escape = (at >= 1 && is_escape(at - 1)) || (at >= 2 && is_escape(at - 2));
        match byte {
            b'%' if is_escape(at) => text.push('%'),
            _ if in_escape => text.push(byte.to_ascii_uppercase() as char),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => text.push(byte as char),
            _ if b"-._~!$&'()*+,;=:@/?".contains(&byte) => text.push(byte as char),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_target_is_written_as_every_library_sends_it() {
        let endpoint =
            Endpoint::parse("HTTPS://API.Example.com:443/a%2fb/ü|x/../y?q=[1]&r=%zz^#top").unwrap();
        assert_eq!(endpoint.origin, "https://api.example.com");
        assert_eq!(endpoint.target, "/a%2Fb/y?q=%5B1%5D&r=%25zz%5E");
        assert_eq!(Endpoint::parse(&endpoint.url()).unwrap(), endpoint);
        assert_eq!(Endpoint::parse("http://a:8080").unwrap().url(), "http://a:8080/");
    }

    #[test]
    fn the_base_of_the_free_routes_is_of_the_same_origin() {
        let called = Endpoint::parse("https://a.example/shop/api/x?y").unwrap();
        for (named, base) in [
            ("", Some("https://a.example")),
            ("/", Some("https://a.example")),
            ("/shop", Some("https://a.example/shop")),
            ("https://a.example/shop/", Some("https://a.example/shop")),
            ("HTTPS://A.example:443", Some("https://a.example")),
            ("http://a.example/shop", None),
            ("https://a.example:444", None),
            ("https://b.example/shop", None),
            ("//b.example/shop", Some("https://a.example//b.example/shop")),
            ("https://a.example@b.example", None),
            ("shop", None),
        ] {
            assert_eq!(called.base(named).as_deref(), base, "{named}");
        }
    }

    #[test]
    fn an_endpoint_is_private_under_tls_and_on_this_machine() {
        let is_private = |url: &str| Endpoint::parse(url).unwrap().is_private;
        for url in ["https://a/", "http://localhost:1", "http://127.0.0.2/", "http://[::1]:80"] {
            assert!(is_private(url), "{url}");
        }
        for url in ["http://a/", "http://localhost.a/", "http://10.0.0.1", "http://[::2]"] {
            assert!(!is_private(url), "{url}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_service_is_refused_without_showing_it() {
        for text in ["", "/a", "ftp://secret/", "https://user:secret@host/", "mailto:secret@a"] {
            let error = Endpoint::parse(text).unwrap_err();
            assert_eq!(error.code(), Code::InvalidSettings);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
