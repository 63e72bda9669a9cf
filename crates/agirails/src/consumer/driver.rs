//! Sends requests with reqwest, by the proxies and certificates of the system and the environment.

use std::{error::Error as StdError, time::Duration};

use reqwest::{
    Client, Method,
    header::{CONTENT_LENGTH, HeaderValue},
    redirect,
};

use super::{
    Inner,
    http::{HttpFailure, HttpOutcome, HttpRequest, HttpResponse},
};
use crate::error::{Code, Error, Result};

/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(1);

impl Inner {
    /// # Errors
    /// [`Code::InvalidSettings`] for a request that HTTP cannot carry, [`Code::NetworkUnavailable`]
    /// where no connections can be made at all.
    pub(super) async fn send(&self, request: HttpRequest) -> Result<HttpOutcome> {
        let cell = self.http.get();
        let client = cell.get_or_init(connections).as_ref().map_err(|problem| {
            Error::new(Code::NetworkUnavailable, format!("no connection can be made: {problem}"))
                .with_hint("are the system's certificates installed?")
        })?;
        let limit = request.body_limit;
        let refuse = |error: &dyn StdError| {
            Error::new(Code::InvalidSettings, format!("the request cannot be sent: {error}"))
        };
        let method =
            Method::from_bytes(request.method.as_bytes()).map_err(|error| refuse(&error))?;
        let mut sent = client.request(method, &request.url).timeout(request.timeout);
        for (name, value) in &request.headers {
            // Any text, as UTF-8.
            let value =
                HeaderValue::from_bytes(value.as_bytes()).map_err(|error| refuse(&error))?;
            sent = sent.header(name, value);
        }
        if !request.body.is_empty() {
            sent = sent.body(request.body.0);
        } else if matches!(&*request.method, "POST" | "PUT" | "PATCH") {
            sent = sent.header(CONTENT_LENGTH, 0);
        }
        let mut response = match sent.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Err(refuse(&error)),
            Err(error) => return Ok(HttpOutcome::Failed(failure(&error))),
        };
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
            .collect();
        let announced = response.content_length().unwrap_or_default();
        if announced > limit as u64 {
            return Ok(HttpOutcome::Failed(HttpFailure::TooLarge));
        }
        let mut body = vec![];
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if body.len() + piece.len() > limit => {
                    return Ok(HttpOutcome::Failed(HttpFailure::TooLarge));
                }
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break,
                Err(error) => return Ok(HttpOutcome::Failed(failure(&error))),
            }
        }
        Ok(HttpOutcome::Answered(HttpResponse { status, headers, body: body.into() }))
    }
}

/// A header's value: UTF-8, or else Latin-1, as RFC 9110 has it.
fn text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().copied().map(char::from).collect(),
    }
}

fn connections() -> std::result::Result<Client, String> {
    // The first caller's choice stands where the program has installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("agirails-rs/", env!("CARGO_PKG_VERSION")))
        // Whoever sends us elsewhere would get a signature that is not for them.
        .redirect(redirect::Policy::none())
        .tcp_nodelay(true)
        // Servers close idle connections, some after two seconds. A request that goes out at that
        // moment is lost, and a call that is not paid yet may not be repeated.
        .pool_idle_timeout(IDLE)
        .build()
        .map_err(|error| cause(&error))
}

fn failure(error: &reqwest::Error) -> HttpFailure {
    if error.is_connect() {
        HttpFailure::NotSent(format!("no connection ({})", cause(error)))
    } else if error.is_timeout() {
        HttpFailure::Lost("no answer in time".to_owned())
    } else {
        HttpFailure::Lost(format!("the answer broke off ({})", cause(error)))
    }
}

/// The innermost cause; the outer ones may name the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost: Option<&dyn StdError> = error.source();
    while let Some(deeper) = innermost.and_then(StdError::source) {
        innermost = Some(deeper);
    }
    innermost.map_or_else(|| "no cause is known".to_owned(), ToString::to_string)
}
