//! Why a call is not run, as its caller is told: HTTP status, words for people, keys for programs.

use std::fmt;

use alloy_primitives::B256;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value, json};

use super::{
    answer::Answer,
    headers::{PAYMENT_REQUIRED, PAYMENT_SIGNATURE},
    price::{Charge, Offer},
    settings::Settings,
};
use crate::{
    error::Error,
    network::Network,
    protocol::{
        State, Usdc,
        paid_request::{
            CLOCK_SKEW_SECONDS, IDEMPOTENCY_HEADER, MAX_PRICE_HEADER, PRICE_ABOVE_MAXIMUM,
            REQUEST_AGREEMENT, SESSION_FORM, SESSION_HEADER, SIGNATURE_FORM, SIGNATURE_HEADER,
            TRANSACTION_HEADER,
        },
        service::SERVICE_KEY_HEADER,
    },
    wall_clock::wall_seconds,
};

/// The longest PAYMENT-REQUIRED, characters: what proxies take of a response's headers.
const LONGEST_CHALLENGE: usize = 2_048;
/// The dispute window that offers name, seconds: the kernel's own default.
const OFFERED_WINDOW: u64 = 172_800;

/// A rejection. `reason` is its stable name, in metrics and as the problem's type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rejection {
    pub(super) status: u16,
    pub(super) reason: &'static str,
    title: &'static str,
    detail: String,
    more: Vec<(&'static str, Value)>,
    retry_after: Option<u32>,
}

impl Rejection {
    fn new(
        status: u16,
        reason: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { status, reason, title, detail: detail.into(), more: vec![], retry_after: None }
    }

    pub(super) fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.more.push((key, value.into()));
        self
    }

    fn later(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(super) fn payment_required() -> Self {
        let detail = format!("Include {TRANSACTION_HEADER} header with funded transaction");
        Self::new(402, "payment_required", "Payment Required", detail)
    }

    pub(super) fn malformed_id() -> Self {
        let detail = format!("{TRANSACTION_HEADER} must be 0x and 64 hex digits");
        Self::new(400, "invalid_transaction_id", "Invalid Transaction Id", detail)
    }

    pub(super) fn malformed_key() -> Self {
        let detail = format!("{IDEMPOTENCY_HEADER} must be 1 to 255 visible ASCII characters");
        Self::new(400, "invalid_idempotency_key", "Invalid Idempotency Key", detail)
    }

    pub(super) fn malformed_signature() -> Self {
        let detail = format!("{SIGNATURE_HEADER} must be {SIGNATURE_FORM}");
        Self::new(400, "invalid_signature_header", "Invalid Signature Header", detail)
    }

    pub(super) fn malformed_session() -> Self {
        let detail = format!("{SESSION_HEADER} must be {SESSION_FORM}");
        Self::new(400, "invalid_session_header", "Invalid Session Header", detail)
    }

    pub(super) fn malformed_max_price() -> Self {
        let detail = format!("{MAX_PRICE_HEADER} must be a number of base units of USDC");
        Self::new(400, "invalid_max_price", "Invalid Max Price", detail)
    }

    pub(super) fn malformed_service_key() -> Self {
        let detail = format!("{SERVICE_KEY_HEADER} must be 0x and 64 hex digits");
        Self::new(400, "invalid_service_key", "Invalid Service Key", detail)
    }

    pub(super) fn malformed_payment(problem: impl fmt::Display) -> Self {
        let detail = format!("{PAYMENT_SIGNATURE} {problem}");
        Self::new(400, "invalid_payment_signature", "Invalid Payment Signature", detail)
    }

    pub(super) fn malformed_length() -> Self {
        let detail = "Content-Length must be one number of bytes";
        Self::new(400, "invalid_content_length", "Invalid Content Length", detail)
    }

    pub(super) fn length_required() -> Self {
        let detail = "The request must have a Content-Length: this server reads no chunked bodies";
        Self::new(411, "length_required", "Length Required", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "This path must be called with one of the methods in the header Allow";
        Self::new(405, "method_not_allowed", "Method Not Allowed", detail)
    }

    pub(super) fn key_required() -> Self {
        let detail = format!(
            "This transaction is a balance for many calls: give each its own {IDEMPOTENCY_HEADER} \
             header"
        );
        Self::new(400, "idempotency_key_required", "Idempotency Key Required", detail)
    }

    pub(super) fn body_unreadable() -> Self {
        let detail = "The request's body ended early or could not be read";
        Self::new(400, "body_unreadable", "Body Unreadable", detail)
    }

    pub(super) fn body_too_large(limit: usize) -> Self {
        let detail = format!("The request's body must have at most {limit} bytes");
        Self::new(413, "body_too_large", "Body Too Large", detail)
    }

    pub(super) fn body_too_slow(time: std::time::Duration) -> Self {
        let detail =
            format!("The request's body must arrive within {} seconds", time.as_secs_f64());
        Self::new(408, "body_too_slow", "Request Timeout", detail)
    }

    pub(super) fn too_many_bodies() -> Self {
        let detail = "The service is reading too many request bodies; try again";
        Self::new(503, "too_many_bodies", "Too Many Bodies", detail).later(2)
    }

    /// The handler's response could not be sent: nothing was taken.
    pub(super) fn broken_answer() -> Self {
        let detail = "The service's response broke off; nothing was taken, repeat the request";
        Self::new(500, "broken_answer", "Broken Answer", detail)
    }

    pub(super) fn not_found() -> Self {
        let detail = "No such transaction on this network: create and fund it first";
        Self::new(402, "transaction_not_found", "Transaction Not Found", detail)
    }

    pub(super) fn other_provider() -> Self {
        let detail = "Transaction provider does not match this API";
        Self::new(403, "other_provider", "Invalid Transaction", detail)
    }

    pub(super) fn wrong_state(state: State) -> Self {
        let detail = format!("Transaction is {state}, expected COMMITTED or IN_PROGRESS");
        Self::new(402, "wrong_state", "Invalid Transaction State", detail)
            .with("currentState", state.to_string())
    }

    /// Nothing in it says that the transaction is meant for this service, and another store of the
    /// provider's key may have served it.
    pub(super) fn other_service() -> Self {
        let detail = format!(
            "The transaction is not bound to this service: create it with the serviceHash of the \
             offer, or with keccak256(serviceHash, key) and send the key in {SERVICE_KEY_HEADER}. \
             The provider can give this one back"
        );
        Self::new(402, "other_service", "Transaction Not For This Service", detail)
    }

    pub(super) fn other_agreement(named: B256, agreed: B256) -> Self {
        let named = if named.is_zero() {
            "names no agreement".to_owned()
        } else {
            format!("names the agreement {named}")
        };
        let detail = format!(
            "The transaction {named}, and one that pays for this request names {agreed}: create it with \
             that agreementHash. The provider can give this one back"
        );
        Self::new(402, "other_agreement", "Transaction Not For This Request", detail)
            .with("agreementHash", json!(agreed))
    }

    pub(super) fn window_too_long(given: u64, most: u64) -> Self {
        let detail = format!(
            "The transaction's dispute window is {given} seconds, and this service takes at most \
             {most}: create one with a shorter window"
        );
        Self::new(402, "window_too_long", "Dispute Window Too Long", detail)
            .with("maxWindowSeconds", most)
    }

    pub(super) fn deadline_too_far(left: u64, most: u64) -> Self {
        let detail = format!(
            "The transaction's deadline is in {left} seconds, and this service takes at most \
             {most}: create one with an earlier deadline"
        );
        Self::new(402, "deadline_too_far", "Transaction Deadline Too Far", detail)
            .with("maxDeadlineSeconds", most)
    }

    /// It failed too often, and is not given back before its deadline.
    pub(super) fn left() -> Self {
        let detail = "Too many calls with this transaction failed, so it is served no more. It is \
                      not bound to this service: its provider gives it back once its deadline has \
                      passed, or when asked";
        Self::new(402, "given_up", "Transaction Given Up", detail)
    }

    pub(super) fn too_little(provided: Usdc, required: Usdc) -> Self {
        let detail = format!("Minimum payment is {required} USDC");
        Self::new(402, "insufficient_payment", "Insufficient Payment", detail)
            .with("provided", provided.to_string())
            .with("required", required.to_string())
    }

    pub(super) fn exhausted(left: Usdc, required: Usdc) -> Self {
        let detail = format!("{left} USDC are left of the transaction, this call costs {required}");
        Self::new(402, "balance_exhausted", "Insufficient Payment", detail)
            .with("provided", left.to_string())
            .with("required", required.to_string())
    }

    pub(super) fn too_dear(price: Usdc, most: Usdc) -> Self {
        let detail = format!("This call costs {price} USDC, and its request allows {most}");
        Self::new(402, "price_above_maximum", PRICE_ABOVE_MAXIMUM, detail)
            .with("allowed", most.to_string())
            .with("required", price.to_string())
    }

    pub(super) fn expired() -> Self {
        let detail = "Transaction deadline has passed";
        Self::new(402, "expired", "Transaction Expired", detail)
    }

    pub(super) fn expires_soon(left: u64, needed: u64) -> Self {
        let detail = format!(
            "The transaction's deadline is in {left} seconds, and this call needs {needed}: \
             create one with a later deadline"
        );
        Self::new(402, "expires_soon", "Transaction Expires Too Soon", detail)
    }

    pub(super) fn signature_required() -> Self {
        let detail = format!(
            "Sign the request as the transaction's requester, in the header {SIGNATURE_HEADER}: \
             `signing` says what"
        );
        Self::new(401, "signature_required", "Signature Required", detail)
    }

    pub(super) fn wrong_signer() -> Self {
        let detail = "The signature is not the transaction requester's for this very request: \
                      method, target, body, key and time are signed. Its key, its contract \
                      (EIP-1271) or a session key that it appointed signs: `signing` says what";
        Self::new(401, "wrong_signature", "Invalid Signature", detail)
    }

    pub(super) fn too_many_contract_checks() -> Self {
        let detail = "Too many signatures of contract wallets are being checked on chain; try \
                      again, or appoint a session key, which is checked once";
        Self::new(429, "too_many_signature_checks", "Too Many Requests", detail).later(1)
    }

    pub(super) fn stale_signature() -> Self {
        let detail = format!(
            "The signature's time is more than {CLOCK_SKEW_SECONDS} seconds from this server's: \
             set your clock and sign anew"
        );
        // A proxy may take the Date away.
        Self::new(401, "stale_signature", "Signature Expired", detail).with("time", wall_seconds())
    }

    pub(super) fn used() -> Self {
        let detail = "Another request was made with this transaction: one pays for one request, or \
                      with keys for one request each";
        Self::new(409, "already_used", "Transaction Already Used", detail)
    }

    pub(super) fn not_kept() -> Self {
        let detail = "This request was answered with a stream that was too long to be kept, or that \
                      outlasted its transaction";
        Self::new(410, "answer_not_kept", "Answer Not Kept", detail)
    }

    pub(super) fn too_many() -> Self {
        let detail = "Too many unknown transactions are being looked up; try again";
        Self::new(429, "too_many_lookups", "Too Many Requests", detail).later(1)
    }

    pub(super) fn too_many_repeats_of_one() -> Self {
        let detail =
            "Long answers to calls of this transaction are being sent already; read them first";
        Self::new(429, "too_many_repeats", "Too Many Requests", detail).later(5)
    }

    pub(super) fn too_many_repeats() -> Self {
        let detail = "The service is sending too many long answers again; try again";
        Self::new(503, "too_many_answers", "Too Many Answers", detail).later(5)
    }

    pub(super) fn resting(left: std::time::Duration) -> Self {
        let detail = "Too many calls with this transaction failed; try again later. Nothing was \
                      taken for them";
        let seconds = u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        Self::new(429, "too_many_failures", "Too Many Failed Calls", detail).later(seconds)
    }

    pub(super) fn still_running() -> Self {
        let detail = "The same request is still being served; repeat it for its answer";
        Self::new(503, "still_running", "Still Being Served", detail).later(2)
    }

    pub(super) fn unverifiable() -> Self {
        let detail = "The transaction cannot be verified just now; nothing was used, try again";
        Self::new(503, "kernel_unavailable", "Payment Verification Failed", detail).later(5)
    }

    pub(super) fn store_unavailable() -> Self {
        let detail = "The service cannot keep its records just now; nothing was used, try again";
        Self::new(503, "store_unavailable", "Store Unavailable", detail).later(5)
    }

    /// The handler ran, and its answer could not be kept.
    pub(super) fn answer_lost() -> Self {
        let detail = "The answer could not be kept, so it was not given; repeat the request";
        Self::new(503, "answer_lost", "Store Unavailable", detail).later(5)
    }

    /// The handler ran for too long.
    pub(super) fn too_late() -> Self {
        let detail = "The call took longer than its transaction lasts, which was closed without \
                      it: delivered where other calls were served, else given back";
        Self::new(503, "too_late", "Answered Too Late", detail)
    }

    /// This run's process was taken for dead.
    pub(super) fn taken_over() -> Self {
        let detail = "Another run of this request took over; repeat the request for its answer";
        Self::new(503, "taken_over", "Taken Over", detail).later(2)
    }

    pub(super) fn unconfirmed() -> Self {
        let detail = "The call was served, and its delivery is not confirmed yet; repeat the \
                      request for its answer";
        Self::new(503, "unconfirmed", "Delivery Not Confirmed", detail).later(5)
    }

    pub(super) fn nothing_here() -> Self {
        Self::new(404, "not_found", "Not Found", "No such payment or receipt")
    }

    pub(super) fn call_is_running() -> Self {
        let detail = "A call of this transaction is still being served; try again";
        Self::new(409, "call_running", "Still Being Served", detail).later(2)
    }

    pub(super) fn not_ours_to_close() -> Self {
        let detail = "No call was ever made with this transaction here, and its provider may be at \
                      work on it by other means: ask the provider to cancel it";
        Self::new(409, "not_ours_to_close", "Not Ours To Close", detail)
    }

    pub(super) fn not_bound_here() -> Self {
        let detail = "Nothing was served here with this transaction, and it is not bound to this \
                      service: another one of the same provider may have served it. Its provider \
                      can give it back, and does so once its deadline has passed";
        Self::new(409, "not_bound_here", "Not Bound To This Service", detail)
    }

    pub(super) fn no_price() -> Self {
        let detail = "The price of this request could not be worked out";
        Self::new(500, "no_price", "No Price", detail)
    }

    /// The response: problem details (RFC 9457) with the recipe's keys, and where money helps also
    /// what x402 clients read.
    pub(super) fn answer(&self, request_id: &str, terms: Option<&Terms<'_>>) -> Answer {
        let mut body = Map::new();
        let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
        put("type", format!("urn:agirails:problem:{}", self.reason).into());
        put("title", self.title.into());
        put("status", self.status.into());
        put("detail", self.detail.as_str().into());
        put("error", self.title.into());
        put("message", self.detail.as_str().into());
        put("requestId", request_id.into());
        for (key, value) in &self.more {
            put(key, value.clone());
        }
        if let Some(seconds) = self.retry_after {
            put("retryAfter", seconds.into());
        }
        let terms = terms.filter(|_| self.status == 402);
        if let Some(terms) = terms {
            put("x402Version", 2.into());
            put("resource", json!({"url": terms.resource}));
            put("accepts", terms.accepts());
            put("extensions", payment_identifier());
            put("links", terms.links());
        }
        let text = Value::Object(body).to_string();
        let mut answer = Answer::text(self.status, "application/problem+json", text)
            .with("Cache-Control", "no-store");
        if let Some(seconds) = self.retry_after {
            answer = answer.with("Retry-After", seconds.to_string());
        }
        if self.status == 401 {
            let challenge = format!("AGIRAILS-Signature header=\"{SIGNATURE_HEADER}\"");
            answer = answer.with("WWW-Authenticate", challenge);
        }
        match terms {
            Some(terms) => answer.with(PAYMENT_REQUIRED, terms.challenge(&self.detail)),
            None => answer,
        }
    }
}

/// The x402 extension in which a client names its call; it is the idempotency key.
fn payment_identifier() -> Value {
    let id =
        json!({"type": "string", "minLength": 16, "maxLength": 128, "pattern": "^[a-zA-Z0-9_-]+$"});
    json!({"payment-identifier": {
        "info": {"required": false},
        "schema": {
            "type": "object",
            "properties": {"required": {"type": "boolean"}, "id": id},
            "required": ["required"],
        },
    }})
}

/// A rejection, and what the operator should know of it.
pub(super) struct Refused(pub(super) Rejection, pub(super) Option<Error>);

impl Refused {
    pub(super) fn because(rejection: Rejection, cause: Error) -> Self {
        Self(rejection, Some(cause))
    }

    pub(super) fn store(cause: Error) -> Self {
        Self::because(Rejection::store_unavailable(), cause)
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self(rejection, None)
    }
}

/// The kernel could not be asked: the node is out of reach, or nodes contradict each other.
impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::because(Rejection::unverifiable(), error)
    }
}

/// On which terms a route is sold.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub(super) network: &'a Network,
    pub(super) provider: String,
    /// On mock, which ledger the transaction must be on.
    pub(super) ledger: Option<&'a str>,
    pub(super) charge: &'a Charge,
    pub(super) price: Usdc,
    pub(super) min_seconds_left: u64,
    pub(super) settings: &'a Settings,
    /// What transactions are bound to.
    pub(super) service: B256,
    pub(super) signature_required: bool,
    /// The URL of what is sold, absolute where the host is known.
    pub(super) resource: String,
    /// What the free routes stand under.
    pub(super) base: String,
}

impl Terms<'_> {
    /// Where the free routes are. `{txId}` and `{key}` stand for themselves.
    fn links(&self) -> Value {
        let base = &self.base;
        json!({
            "pricing": format!("{base}/api/pricing"),
            "payment": format!("{base}/api/payments/{{txId}}"),
            "receipt": format!("{base}/api/payments/{{txId}}/receipts/{{key}}"),
            "close": format!("{base}/api/payments/{{txId}}/close"),
        })
    }

    /// The header PAYMENT-REQUIRED: base64 of the x402 object. Proxies take few kilobytes of
    /// headers, so what is long in it is left out: the body says it.
    fn challenge(&self, problem: &str) -> String {
        let without_query = self.resource.split('?').next().unwrap_or_default();
        let host = self.resource.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let shorter: [(&str, bool, bool); 4] = [
            (&self.resource, true, true),
            (without_query, true, true),
            (without_query, true, false),
            (if host.contains("://") { &host } else { "/" }, false, false),
        ];
        let mut challenge = String::new();
        for (resource, has_problem, has_extensions) in shorter {
            let mut object = json!({
                "x402Version": 2,
                "resource": {"url": resource},
                "accepts": self.short_accepts(),
                "links": {"base": self.base},
            });
            if has_problem {
                object["error"] = problem.into();
            }
            if has_extensions {
                object["extensions"] = payment_identifier();
            }
            challenge = BASE64.encode(object.to_string());
            if challenge.len() <= LONGEST_CHALLENGE {
                break;
            }
        }
        challenge
    }

    /// The `accepts` of an x402 object. Escrow is a scheme of its own.
    pub(super) fn accepts(&self) -> Value {
        let is_bundled = self.charge.is_bundled(self.price);
        let offers = self.charge.offers(self.price).into_iter();
        offers.map(|offer| self.accept(offer, is_bundled)).collect()
    }

    /// The same without what the body or the network's own profile says.
    fn short_accepts(&self) -> Value {
        let mut accepts = self.accepts();
        for offer in accepts.as_array_mut().into_iter().flatten() {
            if let Some(extra) = offer.get_mut("extra").and_then(Value::as_object_mut) {
                for name in [
                    "vault",
                    "header",
                    "signatureHeader",
                    "ledger",
                    "maxWindowSeconds",
                    "maxDeadlineSeconds",
                    "idleCloseSeconds",
                ] {
                    extra.remove(name);
                }
            }
        }
        accepts
    }

    fn accept(&self, offer: Offer, is_bundled: bool) -> Value {
        let kind = if is_bundled || offer.calls > 1 { "prepaid" } else { "single" };
        let longest = self.settings.max_deadline_seconds;
        let seconds = self.charge.lifetime(self.min_seconds_left, kind == "prepaid");
        let seconds = seconds.max(self.network.terms.least_lifetime_seconds());
        let mut accept = json!({
            "scheme": "actp-escrow",
            "network": format!("eip155:{}", self.network.chain_id),
            "amount": offer.amount.0.to_string(),
            "asset": self.network.usdc.to_string(),
            "payTo": self.provider,
            "maxTimeoutSeconds": seconds.min(longest),
            "extra": {
                "flow": "escrow",
                "kind": kind,
                "pricePerCall": self.price.0.to_string(),
                "calls": offer.calls,
                "kernel": self.network.kernel.to_string(),
                "vault": self.network.vault.to_string(),
                "header": TRANSACTION_HEADER,
                "signatureHeader": SIGNATURE_HEADER,
                "signature": if self.signature_required { "required" } else { "optional" },
                "serviceHash": self.service,
                "minSecondsLeft": self.min_seconds_left,
                "maxDeadlineSeconds": longest,
                "idleCloseSeconds": self.settings.idle_close_seconds,
                "disputeWindowSeconds": OFFERED_WINDOW.min(self.settings.max_window_seconds),
                "maxWindowSeconds": self.settings.max_window_seconds,
            },
        });
        if self.settings.require_agreement && kind == "single" {
            accept["extra"]["agreement"] = REQUEST_AGREEMENT.into();
        }
        if let Some(ledger) = self.ledger {
            accept["extra"]["ledger"] = ledger.into();
        }
        accept
    }
}
