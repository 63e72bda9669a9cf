//! A response, as it goes back to the caller.

use serde::Serialize;

/// Headers in order; a name may come more than once.
pub type Headers = Vec<(String, Vec<u8>)>;

/// An HTTP response: of a handler, of the paywall itself, or one that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Answer {
    /// A response without headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![], body: body.into() }
    }

    pub(super) fn text(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, body).with("Content-Type", content_type)
    }

    pub(super) fn json(status: u16, value: &impl Serialize) -> Self {
        // Maps of strings and numbers always have JSON.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self::text(status, "application/json", body)
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    /// The `Content-Type`, empty where there is none or it is no text.
    pub(super) fn content_type(&self) -> &str {
        self.header("Content-Type").and_then(|value| std::str::from_utf8(value).ok()).unwrap_or("")
    }
}
