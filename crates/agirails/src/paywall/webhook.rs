//! Events about money, told to the application at its own URL until it says that it has them.
//!
//! They are signed as Standard Webhooks have it (<https://www.standardwebhooks.com>).

use std::{
    error::Error as StdError,
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::hex;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, redirect};
use serde_json::json;
use sha2::Sha256;
use url::{Host, Url};

use super::{Inner, event::Level, store::WebhookRow};
use crate::error::{Code, Error, Result};

/// How long a receiver may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many events are sent at once.
const AT_ONCE: u32 = 8;
/// How long until an event is sent again: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3_600));
/// After how long an event is given up, and how many wait at most.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(5 * 86_400);
pub(super) const MOST_WAITING: u32 = 100_000;
/// The failed try from which on somebody should look at it.
const WORTH_A_WARNING: u32 = 3;
/// The spec's bounds of a secret, bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Where the application is told of money: of payments that were `delivered`, `settled`, `disputed`,
/// `resolved`, `refunded`, `cancelled` by others or `lost`.
///
/// ```
/// use agirails::paywall::Webhook;
///
/// let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// let webhook = Webhook::new("https://example.com/hooks/paywall", secret)?;
/// assert!(!format!("{webhook:?}").contains("MfKQ"));
/// assert!(Webhook::new("http://example.com/hooks", secret).is_err());
/// # Ok::<(), agirails::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    url: Url,
    secret: Vec<u8>,
}

impl Webhook {
    /// An https URL, or an http one of this machine, and the secret that both sides know: `whsec_` and 24
    /// to 64 random bytes in base64.
    ///
    /// # Errors
    /// [`Code::InvalidSettings`] for any other URL or secret. No message shows either.
    pub fn new(url: &str, secret: &str) -> Result<Self> {
        let refuse = |field, problem: &str, hint: &str| {
            Error::new(Code::InvalidSettings, format!("{field} {problem}"))
                .with_hint(hint.to_owned())
                .with_facts(|facts| facts.field = Some(field))
        };
        let refuse_url = |problem: &str| {
            let hint = "pass https://…; http is for a receiver on this machine alone";
            refuse("webhook_url", problem, hint)
        };
        let url = Url::parse(url).map_err(|_| refuse_url("must be a URL"))?;
        let is_here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        match url.scheme() {
            "https" if url.has_host() => {}
            "http" if is_here => {}
            _ => return Err(refuse_url("must be an https URL, or an http URL of this machine")),
        }
        let key = secret.strip_prefix("whsec_").and_then(|text| BASE64.decode(text).ok());
        match key.filter(|key| SECRET_BYTES.contains(&key.len())) {
            Some(secret) => Ok(Self { url, secret }),
            None => Err(refuse(
                "webhook_secret",
                "must be whsec_ and 24 to 64 random bytes in base64",
                "make one: echo whsec_$(openssl rand -base64 32)",
            )),
        }
    }

    /// Who receives it, without what may be secret in the URL.
    fn receiver(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// The header `webhook-signature`.
    fn signature(&self, id: &str, timestamp: u64, body: &str) -> String {
        // HMAC takes keys of all lengths.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else {
            return String::new();
        };
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({})", self.receiver())
    }
}

/// A process's connections; a forked child makes its own.
pub(super) type Connections = OnceLock<std::result::Result<Client, String>>;

fn connections(webhook: &Webhook) -> std::result::Result<Client, String> {
    // The first caller's choice stands where the program has installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("agirails-rs/", env!("CARGO_PKG_VERSION")))
        // Whoever sends us elsewhere would be told what is not for them.
        .redirect(redirect::Policy::none())
        .timeout(TIMEOUT);
    let builder = match webhook.url.scheme() {
        // This machine is not behind a proxy, nor is "localhost" another one.
        "http" => {
            let here = (IpAddr::from(Ipv4Addr::LOCALHOST), webhook.url.port().unwrap_or(80));
            builder.no_proxy().resolve("localhost", here.into())
        }
        _ => builder,
    };
    builder.build().map_err(|error| cause(&error))
}

/// The innermost cause; the outer ones may name the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost: Option<&dyn StdError> = error.source();
    while let Some(deeper) = innermost.and_then(StdError::source) {
        innermost = Some(deeper);
    }
    innermost.map_or_else(|| "no answer".to_owned(), ToString::to_string)
}

impl Inner {
    pub(super) async fn send_webhooks_and_tell(self: Arc<Self>) {
        let Some(webhook) = &self.settings.webhook else { return };
        if let Err(error) = self.send_webhooks(webhook).await {
            let words = format!("events for the webhook could not be read or noted: {error}");
            self.listener.tell(Level::Error, words);
        }
    }

    /// Sends what is due. What fails is due later, so this ends.
    async fn send_webhooks(&self, webhook: &Webhook) -> Result<()> {
        loop {
            let due = self.store.webhooks(AT_ONCE).await?;
            let sent = join_all(due.iter().map(|row| self.send_webhook(webhook, row))).await;
            for (row, outcome) in due.iter().zip(sent) {
                let Err(problem) = outcome else {
                    self.store.webhook_told(row.number).await?;
                    continue;
                };
                let after = BACKOFF.0.saturating_mul(1 << row.tries.min(16)).min(BACKOFF.1);
                self.store.webhook_later(row.number, after).await?;
                let level = if row.tries < WORTH_A_WARNING { Level::Info } else { Level::Warning };
                let words = format!(
                    "the webhook at {} was not told that {} is {}, the next try is in {after:?}: \
                     {problem}",
                    webhook.receiver(),
                    row.payment,
                    row.name,
                );
                self.listener.tell(level, words);
            }
            if due.len() < AT_ONCE as usize {
                return Ok(());
            }
        }
    }

    /// The answer's body says nothing that matters here, and is not read.
    async fn send_webhook(
        &self,
        webhook: &Webhook,
        row: &WebhookRow,
    ) -> std::result::Result<(), String> {
        let client = self.webhooks.get().get_or_init(|| connections(webhook)).clone()?;
        let (id, body) = (format!("msg_{}", hex::encode(row.id)), self.webhook_body(row));
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let sent = client
            .post(webhook.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", webhook.signature(&id, timestamp, &body))
            .body(body)
            .send()
            .await;
        match sent {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("it answered HTTP {}", response.status().as_u16())),
            Err(error) if error.is_timeout() => Err("it did not answer in time".to_owned()),
            Err(error) => Err(cause(&error)),
        }
    }

    fn webhook_body(&self, row: &WebhookRow) -> String {
        let network = self.client.network();
        // Beyond the year 9999 there are no such times.
        let time = UNIX_EPOCH + Duration::from_secs(row.at.min(253_402_300_799));
        json!({
            "type": format!("payment.{}", row.name),
            "timestamp": humantime::format_rfc3339_seconds(time).to_string(),
            "data": {
                "transactionId": row.payment,
                "requester": row.requester,
                "provider": self.client.address(),
                "amount": row.amount.0,
                "net": row.net.map(|net| net.0),
                "gasWei": row.gas.to_string(),
                "chainId": network.chain_id,
                "kernel": network.kernel,
            },
        })
        .to_string()
    }

    /// Gives up what was not told for so long.
    pub(super) async fn expire_webhooks(&self) -> Result<()> {
        let given_up = self.store.expire_webhooks(GIVEN_UP_AFTER, MOST_WAITING).await?;
        if given_up > 0 {
            self.meters.gave_webhooks_up(given_up);
            let words = format!(
                "{given_up} events were never taken by the webhook and are given up: compare your \
                 own records with payments()"
            );
            self.listener.tell(Level::Error, words);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_signs_as_the_specification_does() {
        // The example of the specification's reference libraries.
        let webhook =
            Webhook::new("https://example.com/", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        assert_eq!(
            webhook.signature(id, 1_614_265_330, "{\"test\": 2432232314}"),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn only_https_or_this_machine_is_told_and_no_message_shows_a_secret() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for url in ["https://example.com/x?token=SECRET", "http://127.0.0.1:9/x", "http://[::1]:9/"]
        {
            let webhook = Webhook::new(url, secret).unwrap();
            assert!(!format!("{webhook:?}").contains("SECRET"), "{url}");
        }
        for url in [
            "http://example.com/SECRET",
            "http://10.0.0.1/SECRET",
            "http://127.0.0.1.example.com/SECRET",
            "http://169.254.169.254/SECRET",
            "file:///SECRET",
            "SECRET",
        ] {
            let error = Webhook::new(url, secret).unwrap_err();
            assert_eq!(error.code(), Code::InvalidSettings);
            assert!(!format!("{error:?}{error}").contains("SECRET"), "{url}");
        }
        for secret in ["SECRET", "whsec_SECRET", "whsec_", "whsec_AAAA"] {
            let error = Webhook::new("https://example.com", secret).unwrap_err();
            assert!(!format!("{error:?}").contains("SECRET"), "{error:?}");
        }
    }
}
