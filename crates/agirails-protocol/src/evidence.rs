//! Evidence files: all that proves what was asked, answered and delivered for one transaction, in one
//! JSON document that anybody can verify, with nothing but the document.
//!
//! ```json
//! {
//!   "type": "agirails.evidence.v1",
//!   "network": {"chainId": 8453, "kernel": "0x…", "name": "base"},
//!   "parties": {"requester": {"address": "0x…"}, "provider": {"address": "0x…"}},
//!   "transaction": {"transactionId": "0x…", "…": "the 21 fields of getTransaction"},
//!   "calls": [{"request": {}, "answer": {}, "receipt": {}, "branch": []}],
//!   "delivery": {"proof": {}, "calls": 1},
//!   "chainTransactions": [{"what": "…", "hash": "0x…", "block": 1}]
//! }
//! ```
//!
//! [`verify`] says what the file proves by itself. [`compare_with_chain`] compares it with the
//! transaction as a kernel has it. Without that, a file shows only that it agrees with itself.

mod reading;
mod verification;

use std::fmt::Display;

use alloy_primitives::{Address, B256, Bytes, keccak256};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Serialize, Serializer};

pub use self::verification::{
    Conclusion, Finding, Outcome, Verification, compare_with_chain, verify,
};
use crate::{
    Transaction,
    error::{Details, EvidenceError, JsonError},
    paid_request::{PaidRequest, RequestSignature, SignedSession},
    proof::DeliveryProof,
    receipt::{CallRecord, Neighbour, Receipt},
};

/// The longest file that is read, bytes: a kept answer has 16 MiB at most by default, and base64
/// makes a third more of it.
pub const LONGEST_FILE: usize = 64 << 20;
/// The most calls that a file holds.
pub const MOST_CALLS: usize = 100_000;
/// The most headers that a request, or an answer, has in a file.
pub const MOST_HEADERS: usize = 256;
/// The most chain transactions that a file names.
pub const MOST_CHAIN_TRANSACTIONS: usize = 1_000;

/// Parts of the names of headers that carry credentials: `Authorization`, `Cookie`, `Set-Cookie`, and
/// those that are named after what they hold.
const CREDENTIALS: [&str; 8] =
    ["auth", "cookie", "credential", "key", "password", "secret", "session", "token"];

/// Whether a header carries what lets its owner in somewhere: such values belong into no evidence.
pub fn is_credential(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    CREDENTIALS.iter().any(|part| header.contains(part))
}

/// An evidence file: one transaction, and one, some or all of the calls that were paid with it.
///
/// A part that was not kept is left out, and [`verify`] says what cannot be checked without it.
///
/// ```
/// use agirails_protocol::{
///     Address, CreateTransaction, Terms, Usdc,
///     evidence::{Conclusion, Evidence, EvidenceNetwork, verify},
///     rules::{Rates, create},
/// };
///
/// let [requester, provider, kernel] = [1, 2, 3].map(Address::repeat_byte);
/// let order = CreateTransaction::new(requester, provider, Usdc(100_000), 1_780_003_600);
/// let (terms, rates) = (Terms::default(), Rates::default());
/// let transaction = create(&order, requester, 0, terms, rates, 1_780_000_000)?;
/// let evidence = Evidence::new(EvidenceNetwork::new(8453, kernel, "base"), transaction);
/// let text = evidence.to_json()?;
/// assert_eq!(Evidence::from_json(&text)?, evidence);
/// // It holds no call yet.
/// assert_eq!(verify(&evidence).conclusion(), Conclusion::Incomplete);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "agirails.evidence.v1", rename_all = "camelCase")]
#[non_exhaustive]
pub struct Evidence {
    /// Where the transaction is.
    pub network: EvidenceNetwork,
    /// Who asked and who answered.
    pub parties: Parties,
    /// The transaction as it was read from its kernel.
    pub transaction: Transaction,
    /// The block at which it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_block: Option<u64>,
    /// The requester's nonce in the kernel before the transaction was created: with it, the id can
    /// be computed again. Leave it out where a quote changed the amount: the id is of the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requester_nonce: Option<u64>,
    /// The calls, at most [`MOST_CALLS`].
    pub calls: Vec<EvidenceCall>,
    /// What was delivered for all calls of the transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<EvidenceDelivery>,
    /// What was sent to the chain, at most [`MOST_CHAIN_TRANSACTIONS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chain_transactions: Vec<ChainTransaction>,
}

impl Evidence {
    /// The file's `type`, which names its version.
    pub const TYPE: &'static str = "agirails.evidence.v1";

    /// A file of this transaction, without calls.
    pub fn new(network: EvidenceNetwork, transaction: Transaction) -> Self {
        let parties = Parties {
            requester: Party::new(transaction.requester),
            provider: Party::new(transaction.provider),
        };
        Self {
            network,
            parties,
            transaction,
            transaction_block: None,
            requester_nonce: None,
            calls: vec![],
            delivery: None,
            chain_transactions: vec![],
        }
    }

    /// Reads a file. It may come from a stranger. Keys that are not the file's are passed over; a
    /// key that stands twice is refused, since readers differ in which of the two they take.
    ///
    /// # Errors
    /// [`EvidenceError::Invalid`], naming the first key that is missing or wrong, where it is no
    /// evidence file of this version, or is longer than [`LONGEST_FILE`]. Ask for the file again.
    ///
    /// ```
    /// use agirails_protocol::evidence::Evidence;
    ///
    /// let error = Evidence::from_json(r#"{"type": "agirails.evidence.v1"}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "network is missing");
    /// ```
    pub fn from_json(text: &str) -> Result<Self, EvidenceError> {
        reading::evidence(text)
    }

    /// Writes the file, its keys always in the same order.
    ///
    /// # Errors
    /// None for text and numbers; the signature is the JSON writer's.
    pub fn to_json(&self) -> Result<String, JsonError> {
        let mut text = serde_json::to_string_pretty(self).map_err(|error| {
            JsonError::Unrepresentable(Details::new("the evidence has no JSON").source(error))
        })?;
        text.push('\n');
        Ok(text)
    }

    /// How many bytes of calls fit into the file, as it is now.
    ///
    /// # Errors
    /// As [`Self::to_json`].
    pub fn room(&self) -> Result<usize, JsonError> {
        Ok(LONGEST_FILE.saturating_sub(self.to_json()?.len()))
    }

    /// Adds a call: without its bodies where they do not fit into this room. `false`, without effect,
    /// where nothing of it fits, or the file has [`MOST_CALLS`].
    ///
    /// ```
    /// # use agirails_protocol::{Address, CreateTransaction, Terms, Usdc, evidence::*, paid_request::PaidRequest, rules::{Rates, create}};
    /// # let [requester, provider, kernel] = [1, 2, 3].map(Address::repeat_byte);
    /// # let order = CreateTransaction::new(requester, provider, Usdc(100_000), 1_780_003_600);
    /// # let transaction = create(&order, requester, 0, Terms::MAY_2026, Rates::default(), 1_780_000_000)?;
    /// # let mut evidence = Evidence::new(EvidenceNetwork::new(8453, kernel, "base"), transaction);
    /// let asked = PaidRequest::new(evidence.transaction.id, "POST", "/x", b"{}", 1_780_000_000);
    /// let answer = EvidenceAnswer::new(200, "text/plain", &[b'x'; 10_000]);
    /// let call = EvidenceCall::new(EvidenceRequest::new(&asked), answer);
    /// let mut room = 5_000;
    /// assert!(evidence.add(call, &mut room));
    /// assert_eq!((evidence.calls[0].answer.body.as_ref(), room < 5_000), (None, true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add(&mut self, mut call: EvidenceCall, room: &mut usize) -> bool {
        if self.calls.len() >= MOST_CALLS {
            return false;
        }
        if call.written() > *room {
            (call.request.body, call.answer.body) = (None, None);
        }
        let Some(left) = room.checked_sub(call.written()) else { return false };
        *room = left;
        self.calls.push(call);
        true
    }

    /// The request of a call as its requester signs it.
    fn paid_request(&self, call: &EvidenceCall) -> PaidRequest {
        let EvidenceRequest { method, target, idempotency_key, body_hash, signature, .. } =
            &call.request;
        PaidRequest {
            transaction_id: self.transaction.id,
            method: method.clone(),
            target: target.clone(),
            body_hash: *body_hash,
            idempotency_key: idempotency_key.clone(),
            timestamp: signature.as_ref().map_or(0, |signature| signature.timestamp),
        }
    }

    /// The content hash of a call: its leaf in the tree that the delivery's content hash is the
    /// root of ([`crate::receipt::merkle_root`]).
    ///
    /// # Errors
    /// None for text and numbers; the signature is the JSON writer's.
    pub fn content_hash(&self, call: &EvidenceCall) -> Result<B256, JsonError> {
        call.record(&self.paid_request(call)).content_hash()
    }
}

/// The kernel that keeps the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EvidenceNetwork {
    /// The EIP-155 chain id.
    pub chain_id: u64,
    /// The kernel's address. Both signatures hold for this kernel of this chain alone; whether it
    /// is the protocol's, its reader has to know.
    pub kernel: Address,
    /// What the network is called. Nothing proves it.
    pub name: String,
}

impl EvidenceNetwork {
    /// This kernel of this chain.
    pub fn new(chain_id: u64, kernel: Address, name: impl Into<String>) -> Self {
        Self { chain_id, kernel, name: name.into() }
    }
}

/// Who asked and who answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Parties {
    /// Who paid, and signed the requests.
    pub requester: Party,
    /// Who was paid, and signed the receipts.
    pub provider: Party,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Party {
    /// Its address.
    pub address: Address,
    /// Whether a contract stands there. Then only the chain can say whether a signature is its own.
    #[serde(skip_serializing_if = "is_false")]
    pub is_contract: bool,
    /// A DID, a URL or a name. Nothing proves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Party {
    /// The party at this address: a key's, without a name.
    pub const fn new(address: Address) -> Self {
        Self { address, is_contract: false, name: None }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// One call: what was asked, what was answered, and what proves both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EvidenceCall {
    /// What was asked.
    pub request: EvidenceRequest,
    /// What was answered.
    pub answer: EvidenceAnswer,
    /// The provider's receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// The way from the call's content hash to the delivery's. It is empty where the transaction
    /// paid for one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<Vec<Neighbour>>,
    /// When the request came in, Unix seconds, by the clock of who made the file. Nothing proves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_at: Option<u64>,
    /// When the answer went out, or came, by the same clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<u64>,
}

impl EvidenceCall {
    /// A call without receipt, branch and times.
    pub const fn new(request: EvidenceRequest, answer: EvidenceAnswer) -> Self {
        Self { request, answer, receipt: None, branch: None, received_at: None, answered_at: None }
    }

    /// How many bytes of the file it takes, with its indentation.
    fn written(&self) -> usize {
        let lines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count() + 1;
        let text = serde_json::to_vec_pretty(self);
        text.map_or(usize::MAX, |text| text.len() + 4 * lines(&text) + 2)
    }

    fn record<'a>(&'a self, request: &'a PaidRequest) -> CallRecord<'a> {
        CallRecord {
            request,
            status: self.answer.status,
            content_type: self.answer.content_type(),
            body_hash: self.answer.body_hash,
        }
    }
}

/// What was asked, and the requester's signature over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EvidenceRequest {
    /// The HTTP method in upper case.
    pub method: String,
    /// Path and query in the form that is signed ([`crate::target::canonical_target`]).
    pub target: String,
    /// The `Idempotency-Key` header, empty where there was none.
    pub idempotency_key: String,
    /// The headers that can change an answer, at most [`MOST_HEADERS`]. They are not signed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body, where it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// keccak256 of the body.
    pub body_hash: B256,
    /// The EIP-712 hash that was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<B256>,
    /// What the header [`crate::paid_request::SIGNATURE_HEADER`] held.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_text")]
    pub signature: Option<RequestSignature>,
    /// What the header [`crate::paid_request::SESSION_HEADER`] held: the key that the requester
    /// appointed to sign in its place.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_text")]
    pub session: Option<SignedSession>,
}

impl EvidenceRequest {
    /// A request that nobody signed, without headers and body.
    pub fn new(request: &PaidRequest) -> Self {
        Self {
            method: request.method.clone(),
            target: request.target.clone(),
            idempotency_key: request.idempotency_key.clone(),
            headers: vec![],
            body: None,
            body_hash: request.body_hash,
            digest: None,
            signature: None,
            session: None,
        }
    }

    /// A request with its signature for this kernel, and the appointment of the session key that
    /// made it, where one did.
    pub fn signed(
        request: &PaidRequest,
        signature: RequestSignature,
        session: Option<SignedSession>,
        network: &EvidenceNetwork,
    ) -> Self {
        let signed = PaidRequest { timestamp: signature.timestamp, ..request.clone() };
        let digest = signed.signing_hash(network.chain_id, network.kernel);
        Self { digest: Some(digest), signature: Some(signature), session, ..Self::new(request) }
    }
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EvidenceAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The headers, at most [`MOST_HEADERS`]. Of them the media type of `Content-Type` is proven.
    pub headers: Vec<(String, String)>,
    /// The body before a `Content-Encoding`, where it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// keccak256 of the body.
    pub body_hash: B256,
}

impl EvidenceAnswer {
    /// An answer with its body, before a `Content-Encoding`. `content_type` is empty where it has
    /// none.
    pub fn new(status: u16, content_type: &str, body: &[u8]) -> Self {
        let body = Body::new(body.to_vec());
        Self { body: Some(body.clone()), ..Self::hashed(status, content_type, body.hash()) }
    }

    /// An answer of whose body only the hash was kept.
    pub fn hashed(status: u16, content_type: &str, body_hash: B256) -> Self {
        let header = ("content-type".to_owned(), content_type.to_owned());
        let headers = if content_type.is_empty() { vec![] } else { vec![header] };
        Self { status, headers, body: None, body_hash }
    }

    /// The first `Content-Type` of the headers, empty where there is none.
    pub fn content_type(&self) -> &str {
        let mut headers = self.headers.iter();
        let found = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        found.map_or("", |(_, value)| value)
    }
}

/// A body. In JSON it is `{"text": "…"}` where it is UTF-8, else `{"base64": "…"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body(Bytes);

impl Body {
    /// A body of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// keccak256 of them.
    pub fn hash(&self) -> B256 {
        keccak256(&self.0)
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.collect_map([("text", text)]),
            Err(_) => serializer.collect_map([("base64", BASE64.encode(&self.0))]),
        }
    }
}

/// What was delivered for all calls of the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EvidenceDelivery {
    /// The delivery proof, whose content hash is the Merkle root over the calls.
    pub proof: DeliveryProof,
    /// How many calls were answered for the transaction: the tree's leaves. The file may hold fewer.
    pub calls: u64,
}

impl EvidenceDelivery {
    /// A delivery of so many calls.
    pub const fn new(proof: DeliveryProof, calls: u64) -> Self {
        Self { proof, calls }
    }
}

/// Something that was sent to the chain, to be looked up there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ChainTransaction {
    /// What it did, such as `createTransaction` or `DELIVERED`.
    pub what: String,
    /// Its hash.
    pub hash: B256,
    /// The block that took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
}

impl ChainTransaction {
    /// A chain transaction whose block is not known.
    pub fn new(what: impl Into<String>, hash: B256) -> Self {
        Self { what: what.into(), hash, block: None }
    }
}

fn write_text<T: Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_told_by_their_names() {
        for name in ["Authorization", "COOKIE", "Set-Cookie", "X-Api-Key", "x-csrf-token"] {
            assert!(is_credential(name), "{name}");
        }
        for name in ["Accept", "Accept-Language", "Content-Type", "Content-Encoding", "X-Tenant"] {
            assert!(!is_credential(name), "{name}");
        }
    }
}
