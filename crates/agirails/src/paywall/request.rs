//! A request as the paywall looks at it: what an adapter carries over, read once.

use std::borrow::Cow;

use alloy_primitives::{B256, Bytes, keccak256};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use url::Url;

use super::{
    headers::{self, PAYMENT_SIGNATURE},
    rejection::{Rejection, Terms},
};
use crate::{
    error::{Code, Error, Result},
    network::Network,
    protocol::{
        TransactionId, Usdc,
        id::parse_address,
        paid_request::{
            IDEMPOTENCY_HEADER, MAX_PRICE_HEADER, PaidRequest, SESSION_HEADER, SIGNATURE_HEADER,
            TRANSACTION_HEADER,
        },
        service::SERVICE_KEY_HEADER,
        target::canonical_target,
    },
};

/// The longest `PAYMENT-SIGNATURE` that is read: an offer comes back in it, and a signature.
const LONGEST_PAYMENT: usize = 16 << 10;
/// The lengths of a `payment-identifier` in x402.
const IDENTIFIER: std::ops::RangeInclusive<usize> = 16..=128;

/// A request as the paywall looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The HTTP method.
    pub method: String,
    /// Path and query in canonical form, with the path that the service is published under.
    pub target: String,
    /// keccak256 of the body.
    pub body_hash: B256,
    /// The body, where it is to be kept for evidence and is not too long for that
    /// ([`super::Settings::keep_requests`]).
    pub body: Option<Bytes>,
    /// The header [`TRANSACTION_HEADER`].
    pub transaction_id: Option<String>,
    /// The header [`SIGNATURE_HEADER`].
    pub signature: Option<String>,
    /// The header [`SESSION_HEADER`].
    pub session: Option<String>,
    /// The header [`IDEMPOTENCY_HEADER`].
    pub idempotency_key: Option<String>,
    /// The header [`MAX_PRICE_HEADER`].
    pub max_price: Option<String>,
    /// The header [`SERVICE_KEY_HEADER`].
    pub service_key: Option<String>,
    /// The header `PAYMENT-SIGNATURE`, in which x402 clients send all of these.
    pub payment_signature: Option<String>,
    /// The request headers that can change the answer, in one canonical string of bytes. Two
    /// requests are the same only where it is equal.
    pub variant: Vec<u8>,
    /// Scheme and host under which it was asked for, for display; empty where they are unknown.
    pub origin: String,
    /// The path that the application is mounted under.
    pub mount: String,
}

impl Incoming {
    /// A request without headers.
    pub fn new(method: &str, target: &str, body: &[u8]) -> Self {
        Self {
            method: method.to_ascii_uppercase(),
            target: canonical_target(target),
            body_hash: keccak256(body),
            body: Some(Bytes::copy_from_slice(body)),
            transaction_id: None,
            signature: None,
            session: None,
            idempotency_key: None,
            max_price: None,
            service_key: None,
            payment_signature: None,
            variant: vec![],
            origin: String::new(),
            mount: String::new(),
        }
    }

    /// Whether it names a payment at all.
    pub(super) fn is_paid(&self) -> bool {
        let is_there = |header: &Option<String>| {
            header.as_deref().is_some_and(|value| !value.trim().is_empty())
        };
        is_there(&self.transaction_id) || is_there(&self.payment_signature)
    }

    /// The payment that its headers name, whichever way they do.
    pub(super) fn payment(
        &self,
        network: &Network,
        provider: alloy_primitives::Address,
    ) -> std::result::Result<Payment<'_>, Rejection> {
        let mut payment = Payment {
            transaction_id: self.transaction_id.as_deref().unwrap_or_default().trim().into(),
            signature: self.signature.as_deref().map(|text| text.trim().into()),
            session: self.session.as_deref().map(|text| text.trim().into()),
            key: self.idempotency_key.as_deref().map(Cow::Borrowed),
            max_price: self.max_price.as_deref().map(|text| text.trim().into()),
            service_key: self.service_key.as_deref().map(|text| text.trim().into()),
            is_x402: false,
        };
        if let Some(given) = &self.payment_signature {
            let read = read_x402(given, network, provider).map_err(Rejection::malformed_payment)?;
            payment.add(read)?;
        }
        Ok(payment)
    }

    /// The terms of this request: under which URL it is sold, and where its free routes are.
    pub(super) fn place<'a>(&self, terms: Terms<'a>, public: &PublicUrl) -> Terms<'a> {
        Terms {
            resource: format!("{}{}", self.origin, self.target),
            base: public.base(&self.mount),
            ..terms
        }
    }

    /// What the requester signs, but for the time.
    pub(super) fn paid(&self, transaction_id: TransactionId, key: &str) -> PaidRequest {
        PaidRequest {
            transaction_id,
            method: self.method.clone(),
            target: self.target.clone(),
            body_hash: self.body_hash,
            idempotency_key: key.to_owned(),
            timestamp: 0,
        }
    }

    /// What makes two requests the same. Lengths stand before the parts, so that no part can reach
    /// into its neighbour.
    pub(super) fn digest(&self, charge: &str) -> B256 {
        let parts =
            [self.method.as_bytes(), self.target.as_bytes(), charge.as_bytes(), &self.variant];
        let length: usize = parts.iter().map(|part| part.len() + 8).sum();
        let mut bytes = Vec::with_capacity(length + 32);
        for part in parts {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part);
        }
        bytes.extend(self.body_hash.as_slice());
        keccak256(bytes)
    }
}

/// Exactly `0x` and 64 hex digits: what a chain prints.
pub(super) fn parse_id(text: &str) -> Option<B256> {
    (text.len() == 66).then(|| text.parse().ok()).flatten()
}

/// The payment that a request names.
pub(super) struct Payment<'a> {
    pub(super) transaction_id: Cow<'a, str>,
    pub(super) signature: Option<Cow<'a, str>>,
    pub(super) session: Option<Cow<'a, str>>,
    pub(super) key: Option<Cow<'a, str>>,
    pub(super) max_price: Option<Cow<'a, str>>,
    pub(super) service_key: Option<Cow<'a, str>>,
    pub(super) is_x402: bool,
}

impl<'a> Payment<'a> {
    /// Adds what PAYMENT-SIGNATURE says. What is said twice must be the same.
    fn add(&mut self, read: X402Payment) -> std::result::Result<(), Rejection> {
        fn fill<'a>(
            ours: &mut Option<Cow<'a, str>>,
            theirs: Option<String>,
            header: &str,
        ) -> std::result::Result<(), Rejection> {
            match (&ours, theirs) {
                (_, None) => {}
                (None, Some(theirs)) => *ours = Some(theirs.into()),
                (Some(given), Some(theirs)) if **given == *theirs => {}
                _ => {
                    let problem = format!("must say the same as {header}");
                    return Err(Rejection::malformed_payment(problem));
                }
            }
            Ok(())
        }
        let mut id = (!self.transaction_id.is_empty()).then(|| self.transaction_id.clone());
        fill(&mut id, Some(read.transaction_id), TRANSACTION_HEADER)?;
        self.transaction_id = id.unwrap_or_default();
        fill(&mut self.signature, read.signature, SIGNATURE_HEADER)?;
        fill(&mut self.session, read.session, SESSION_HEADER)?;
        fill(&mut self.key, read.key, IDEMPOTENCY_HEADER)?;
        fill(&mut self.max_price, read.max_price, MAX_PRICE_HEADER)?;
        fill(&mut self.service_key, read.service_key, SERVICE_KEY_HEADER)?;
        self.is_x402 = true;
        Ok(())
    }

    /// What the call may take, where its request says so.
    pub(super) fn most(&self) -> std::result::Result<Option<Usdc>, Rejection> {
        let Some(text) = &self.max_price else { return Ok(None) };
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| text.parse().ok()).flatten();
        number.map(|units| Some(Usdc(units))).ok_or_else(Rejection::malformed_max_price)
    }

    /// The key that the transaction's service hash was made with, where its request tells one.
    pub(super) fn service_key(&self) -> std::result::Result<Option<B256>, Rejection> {
        let Some(text) = &self.service_key else { return Ok(None) };
        parse_id(text).map(Some).ok_or_else(Rejection::malformed_service_key)
    }
}

struct X402Payment {
    transaction_id: String,
    signature: Option<String>,
    session: Option<String>,
    key: Option<String>,
    max_price: Option<String>,
    service_key: Option<String>,
}

/// Reads an x402 v2 `PaymentPayload`: base64 of its JSON. `accepted` is one of the offers of the
/// 402; `payload` holds `transactionId` and, where it is signed, `signature`, both as our headers
/// have them, and `maxPrice` and `serviceKey`; the extension `payment-identifier` holds the idempotency key.
fn read_x402(
    given: &str,
    network: &Network,
    provider: alloy_primitives::Address,
) -> std::result::Result<X402Payment, String> {
    let given = given.trim();
    if given.len() > LONGEST_PAYMENT {
        return Err(format!("must have at most {LONGEST_PAYMENT} characters"));
    }
    let object: Value = BASE64
        .decode(given)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or("must be base64 of a JSON object")?;
    if object.get("x402Version").and_then(Value::as_u64) != Some(2) {
        return Err("must have \"x402Version\": 2".to_owned());
    }
    let accepted =
        |name: &str| object.pointer(&format!("/accepted/{name}")).and_then(Value::as_str);
    if accepted("scheme") != Some("actp-escrow") {
        return Err("must accept an offer of the scheme actp-escrow".to_owned());
    }
    let chain = format!("eip155:{}", network.chain_id);
    if accepted("network") != Some(chain.as_str()) {
        return Err(format!("must accept an offer on the network {chain}"));
    }
    let is_paid_here = |name: &'static str, ours| {
        accepted(name)
            .and_then(|text| parse_address(name, text).ok())
            .is_some_and(|given| given == ours)
    };
    if !is_paid_here("payTo", provider) || !is_paid_here("asset", network.usdc) {
        return Err("must accept one of this service's own offers".to_owned());
    }
    let text = |pointer: &str| match object.pointer(pointer) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("must have text at {pointer}")),
    };
    let transaction_id =
        text("/payload/transactionId")?.ok_or("must have payload.transactionId")?;
    if parse_id(&transaction_id).is_none() {
        return Err("must have 0x and 64 hex digits as payload.transactionId".to_owned());
    }
    let key = text("/extensions/payment-identifier/info/id")?;
    if let Some(key) = &key {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !IDENTIFIER.contains(&key.len()) || !key.bytes().all(is_plain) {
            let problem = "must have a payment-identifier of 16 to 128 letters, digits, - and _";
            return Err(problem.to_owned());
        }
    }
    let (signature, max_price) = (text("/payload/signature")?, text("/payload/maxPrice")?);
    let session = text("/payload/session")?;
    let service_key = text("/payload/serviceKey")?;
    Ok(X402Payment { transaction_id, signature, session, key, max_price, service_key })
}

/// How long a request's body is, as far as its headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// So many bytes.
    Known(u64),
    /// Its headers do not say.
    Unknown,
    /// They contradict one another.
    Malformed,
}

/// The head of a request as an adapter has it.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a, H> {
    /// The HTTP method.
    pub method: &'a str,
    /// Path and query: as they stand in the request line where the server tells, else put together
    /// of the decoded path, with what must be escaped escaped.
    pub target: &'a str,
    /// The path that the application is mounted under, where `target` does not begin with it.
    pub mount: &'a str,
    /// `http` or `https`, as the server sees it.
    pub scheme: &'a str,
    /// All headers: names and values.
    pub headers: H,
}

/// Where a service is published: [`super::Settings::public_url`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PublicUrl {
    /// Scheme, host and port; empty where no public URL is set.
    pub(super) origin: String,
    /// The path that everything stands under, without a slash at its end.
    pub(super) prefix: String,
    is_set: bool,
}

impl PublicUrl {
    /// # Errors
    /// [`Code::InvalidSettings`] for what is not the URL of a place to publish a service.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::default()) };
        let parsed = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        let Some(url) = parsed else {
            let problem = "must be an http or https URL with a host, and without user, query or \
                           fragment";
            return Err(Error::invalid(Code::InvalidSettings, "public_url", "<URL>", problem)
                .with_hint("pass the URL that callers see, such as \"https://example.com/shop\""));
        };
        let prefix = canonical_target(url.path()).trim_end_matches('/').to_owned();
        Ok(Self { origin: url.origin().ascii_serialization(), prefix, is_set: true })
    }

    /// The target that callers sign: as they see it.
    pub(super) fn target(&self, mount: &str, target: &str) -> String {
        let seen = match mount.trim_end_matches('/') {
            "" => canonical_target(target),
            mount => canonical_target(format!("{mount}{}", path_of(target))),
        };
        // A proxy may take the prefix off, or leave it on.
        let is_under = |rest: &str| rest.is_empty() || rest.starts_with(['/', '?']);
        if !self.is_set || seen.strip_prefix(&self.prefix).is_some_and(is_under) {
            return seen;
        }
        format!("{}{seen}", self.prefix)
    }

    /// What the free routes stand under: absolute where a public URL is set, else the path of the
    /// mount.
    pub(super) fn base(&self, mount: &str) -> String {
        match self.is_set {
            true => format!("{}{}", self.origin, self.prefix),
            false => canonical_target(mount).trim_end_matches('/').to_owned(),
        }
    }
}

/// A target without the scheme and host that a proxy is asked with.
fn path_of(target: &str) -> &str {
    match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            rest.find(['/', '?']).map_or("/", |path| &rest[path..])
        }
        _ => target,
    }
}

impl Incoming {
    /// Reads the head of a request. `vary_on` are the application's own headers that can change an
    /// answer.
    pub(super) fn read<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        head: RequestHead<'_, impl IntoIterator<Item = (N, V)>>,
        public: &PublicUrl,
        vary_on: &[String],
    ) -> (Self, BodyLength) {
        let mut incoming = Self {
            method: head.method.to_ascii_uppercase(),
            target: public.target(head.mount, head.target),
            body_hash: B256::ZERO,
            body: None,
            transaction_id: None,
            signature: None,
            session: None,
            idempotency_key: None,
            max_price: None,
            service_key: None,
            payment_signature: None,
            variant: vec![],
            origin: public.origin.clone(),
            mount: head.mount.to_owned(),
        };
        let (mut variants, mut host, mut length) = (vec![], None, BodyLength::Unknown);
        let mut is_chunked = false;
        for (name, value) in head.headers {
            let Ok(name) = std::str::from_utf8(name.as_ref()) else { continue };
            let value = value.as_ref();
            let slot = match name.len() {
                16 if name.eq_ignore_ascii_case(TRANSACTION_HEADER) => &mut incoming.transaction_id,
                20 if name.eq_ignore_ascii_case(SIGNATURE_HEADER) => &mut incoming.signature,
                18 if name.eq_ignore_ascii_case(SESSION_HEADER) => &mut incoming.session,
                20 if name.eq_ignore_ascii_case(MAX_PRICE_HEADER) => &mut incoming.max_price,
                22 if name.eq_ignore_ascii_case(SERVICE_KEY_HEADER) => &mut incoming.service_key,
                15 if name.eq_ignore_ascii_case(IDEMPOTENCY_HEADER) => {
                    &mut incoming.idempotency_key
                }
                17 if name.eq_ignore_ascii_case(PAYMENT_SIGNATURE) => {
                    &mut incoming.payment_signature
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    length = content_length(value, length);
                    continue;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    is_chunked = true;
                    continue;
                }
                4 if name.eq_ignore_ascii_case("host") => {
                    host = Some(value.to_vec());
                    continue;
                }
                _ => {
                    if headers::is_variant(name, vary_on) {
                        variants.push((name.to_ascii_lowercase(), value.trim_ascii().to_vec()));
                    }
                    continue;
                }
            };
            // Two headers of one name are malformed: nobody can tell which was meant.
            *slot = Some(match slot {
                Some(_) => "given twice".to_owned(),
                None => String::from_utf8_lossy(value).into_owned(),
            });
        }
        if is_chunked {
            length = BodyLength::Unknown;
        }
        incoming.variant = variant(variants);
        if incoming.origin.is_empty() {
            incoming.origin = origin(head.scheme, host.as_deref()).unwrap_or_default();
        }
        (incoming, length)
    }
}

/// The second of two lengths must be the same as the first, as HTTP says.
fn content_length(value: &[u8], before: BodyLength) -> BodyLength {
    let text = value.trim_ascii();
    if text.is_empty() {
        // Some servers say so where there is none.
        return before;
    }
    let is_number = text.iter().all(u8::is_ascii_digit);
    let number = is_number.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten();
    match (number.map(BodyLength::Known), before) {
        // A number beyond 64 bits is a length all the same.
        (None, _) if is_number => BodyLength::Known(u64::MAX),
        (Some(now), BodyLength::Unknown) => now,
        (Some(now), before) if now == before => now,
        _ => BodyLength::Malformed,
    }
}

/// Headers in one canonical string. What says nothing is as if it were not there.
fn variant(mut headers: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    headers.retain(|(name, value)| match value.as_slice() {
        b"" => false,
        b"*/*" => name != "accept",
        b"*" => name != "accept-language",
        _ => true,
    });
    headers.sort();
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((value.len() as u32).to_be_bytes());
        bytes.extend(value);
    }
    bytes
}

/// The headers of such a string.
pub(super) fn headers_of_variant(mut bytes: &[u8]) -> Vec<(&str, &[u8])> {
    let mut headers = vec![];
    let mut part = || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some((std::str::from_utf8(name).ok()?, value))
    };
    while let Some(header) = part() {
        headers.push(header);
    }
    headers
}

/// Scheme and host of a request, where both are well formed. The caller writes the host, so it is
/// only ever shown to that caller, in an answer that no cache keeps.
fn origin(scheme: &str, host: Option<&[u8]>) -> Option<String> {
    let host = std::str::from_utf8(host?).ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    let is_host = !host.is_empty() && host.len() <= 255 && host.bytes().all(is_plain);
    (is_host && matches!(scheme, "http" | "https")).then(|| format!("{scheme}://{host}"))
}
