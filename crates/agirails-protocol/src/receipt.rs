//! What one paid call proves: a record of request and response, and a Merkle tree over the calls
//! of one transaction, whose root is the delivery's content hash.

use std::ops::RangeInclusive;

use alloy_primitives::{Address, B256, Bytes, keccak256};
use serde::{Deserialize, Serialize};

use crate::{
    TransactionId,
    did::Did,
    error::{Details, JsonError, VerificationError},
    paid_request::{CLOCK_SKEW_SECONDS, PaidRequest},
    proof::DeliveryMessage,
};

/// The header that carries a call's receipt, base64 of its JSON.
pub const RECEIPT_HEADER: &str = "X-AGIRAILS-RECEIPT";

/// One call as both sides saw it. Its hash is what the provider proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRecord<'a> {
    /// What was asked. Its timestamp is no part of the record: a repeat is signed anew.
    pub request: &'a PaidRequest,
    /// The response's HTTP status.
    pub status: u16,
    /// The response's `Content-Type`, empty where there is none. Proven is the media type alone, in
    /// lower case: a proxy may add a charset.
    pub content_type: &'a str,
    /// keccak256 of the response's body, before a `Content-Encoding`.
    pub body_hash: B256,
}

impl CallRecord<'_> {
    /// The bytes that are proven: canonical JSON of request, response and transaction id.
    ///
    /// # Errors
    /// None for text and numbers; the signature is the JSON writer's.
    pub fn deliverable(&self) -> Result<String, JsonError> {
        let Self { request, status, content_type, body_hash } = *self;
        let deliverable = Deliverable {
            request: Asked {
                body_hash: request.body_hash,
                idempotency_key: &request.idempotency_key,
                method: &request.method,
                target: &request.target,
            },
            response: Answered { body_hash, content_type: &media_type(content_type), status },
            tx_id: request.transaction_id,
        };
        serde_json::to_string(&deliverable).map_err(|error| {
            JsonError::Unrepresentable(Details::new("a call's record has no JSON").source(error))
        })
    }

    /// keccak256 of [`Self::deliverable`].
    ///
    /// # Errors
    /// As [`Self::deliverable`].
    pub fn content_hash(&self) -> Result<B256, JsonError> {
        self.deliverable().map(keccak256)
    }
}

/// A `Content-Type` without its parameters, in lower case.
fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Its fields stand in the order of canonical JSON and hold text and one small integer, so that
/// plain JSON of them is canonical: sorting them anew for every call would be work for nothing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Deliverable<'a> {
    request: Asked<'a>,
    response: Answered<'a>,
    tx_id: TransactionId,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'a> {
    body_hash: B256,
    idempotency_key: &'a str,
    method: &'a str,
    target: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered<'a> {
    body_hash: B256,
    content_type: &'a str,
    status: u16,
}

const HINT: &str = "do not settle: ask the provider, or dispute within the window";

/// The provider's statement that it answered a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The transaction that the call was paid with.
    #[serde(rename = "txId")]
    pub transaction_id: TransactionId,
    /// The call's key, empty for a call that took the whole transaction.
    pub idempotency_key: String,
    /// The how many-th answered call of the transaction, from 0.
    pub index: u64,
    /// [`CallRecord::content_hash`].
    pub content_hash: B256,
    /// When it was answered, Unix seconds.
    pub delivered_at: u64,
    /// Who answered.
    pub provider: Address,
    /// The provider's AIP-4 signature, where it has a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Bytes>,
}

impl Receipt {
    /// The AIP-4 message that the provider signs: the content hash is its result hash, the call's
    /// index and one its nonce, since AIP-4 numbers from 1. It names no CID: a paid answer is its
    /// payer's, and nobody publishes it.
    pub fn message(&self, requester: Address, chain_id: u64) -> DeliveryMessage {
        DeliveryMessage {
            transaction_id: self.transaction_id,
            provider: Did { chain_id, address: self.provider }.into(),
            consumer: Did { chain_id, address: requester }.into(),
            result_cid: String::new(),
            result_hash: self.content_hash,
            eas_attestation_uid: B256::ZERO,
            delivered_at: self.delivered_at,
            chain_id,
            nonce: self.index.saturating_add(1),
        }
    }

    /// Holds the receipt against what its payer knows of the call: whose it is, for which answer,
    /// in which place and when, and who signed it.
    ///
    /// # Errors
    /// [`VerificationError::Mismatch`] naming what differs; [`VerificationError::Signature`] where
    /// the signature is not the provider's, or is missing where there must be one. Do not settle:
    /// ask the provider, or dispute within the window.
    pub fn check(
        &self,
        record: &CallRecord<'_>,
        expected: &Expected,
    ) -> Result<(), VerificationError> {
        let differs = |field: &'static str, value: String, problem: &str| {
            Err(VerificationError::Mismatch(
                Details::invalid(field, &value, problem)
                    .hint(HINT)
                    .transaction(self.transaction_id),
            ))
        };
        let Expected { provider, requester, chain_id, kernel, .. } = *expected;
        let id = record.request.transaction_id;
        if self.transaction_id != id {
            return differs("txId", self.transaction_id.to_string(), &format!("must be {id}"));
        }
        if self.provider != provider {
            let problem = format!("must be {provider}");
            return differs("provider", self.provider.to_string(), &problem);
        }
        let key = &record.request.idempotency_key;
        if self.idempotency_key != *key {
            return differs("idempotencyKey", self.idempotency_key.clone(), "is another call's");
        }
        let content_hash = record.content_hash()?;
        if self.content_hash != content_hash {
            let problem = format!("is not what was received, {content_hash}");
            return differs("contentHash", self.content_hash.to_string(), &problem);
        }
        // A call without a key is the transaction's only one.
        let calls = if key.is_empty() { 1 } else { expected.calls };
        if self.index >= calls {
            let problem = format!("must be below {calls}, the number of calls that were made");
            return differs("index", self.index.to_string(), &problem);
        }
        let (from, until) = (expected.answered.start(), expected.answered.end());
        let is_in_time = self.delivered_at >= from.saturating_sub(CLOCK_SKEW_SECONDS)
            && self.delivered_at <= until.saturating_add(CLOCK_SKEW_SECONDS);
        if !is_in_time {
            let problem = format!("must be from {from} to {until}, when the call was under way");
            return differs("deliveredAt", self.delivered_at.to_string(), &problem);
        }
        match (&self.signature, expected.may_be_unsigned) {
            (None, true) => Ok(()),
            _ => self.check_signature(requester, chain_id, kernel),
        }
    }

    /// Whether the provider that the receipt names signed it, for a call of this requester and for
    /// the kernel at this address of this chain.
    ///
    /// # Errors
    /// [`VerificationError::Signature`] where the signature is missing, or is not the provider's. Do
    /// not settle: ask the provider, or dispute within the window.
    pub fn check_signature(
        &self,
        requester: Address,
        chain_id: u64,
        kernel: Address,
    ) -> Result<(), VerificationError> {
        let wrong = |problem| {
            Details::new(format!("the receipt's signature {problem}"))
                .hint(HINT)
                .transaction(self.transaction_id)
        };
        let Some(signature) = &self.signature else {
            return Err(VerificationError::Signature(wrong("is missing")));
        };
        let signature = alloy_primitives::Signature::from_raw(signature)
            .map_err(|error| VerificationError::Signature(wrong("cannot be read").source(error)))?;
        let hash = self.message(requester, chain_id).signing_hash(kernel);
        match signature.recover_address_from_prehash(&hash) {
            Ok(signer) if signer == self.provider => Ok(()),
            _ => Err(VerificationError::Signature(wrong("is not the provider's"))),
        }
    }
}

/// What the payer of a call knows of it, to hold its receipt against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Who is paid, and signs.
    pub provider: Address,
    /// Who pays.
    pub requester: Address,
    /// The chain of the transaction.
    pub chain_id: u64,
    /// Its kernel.
    pub kernel: Address,
    /// Whether the receipt may come without a signature: only where there is no chain, since a
    /// provider needs no key there.
    pub may_be_unsigned: bool,
    /// How many calls were made with the transaction, this one included: the index is below.
    /// It is 1 for a call without an idempotency key, whatever stands here.
    pub calls: u64,
    /// From when to when the call was under way, Unix seconds of the kernel's clock;
    /// [`CLOCK_SKEW_SECONDS`] more are allowed on either side.
    pub answered: RangeInclusive<u64>,
}

/// A neighbour on the way from a leaf to the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "side", content = "hash", rename_all = "lowercase")]
pub enum Neighbour {
    /// It stands on the left.
    Left(B256),
    /// It stands on the right.
    Right(B256),
}

/// What sets a node apart from a leaf, which is a hash of JSON.
const NODE: u8 = 1;

fn node(left: B256, right: B256) -> B256 {
    let mut bytes = [0; 65];
    bytes[0] = NODE;
    bytes[1..33].copy_from_slice(left.as_slice());
    bytes[33..].copy_from_slice(right.as_slice());
    keccak256(bytes)
}

/// The level above: pairs are hashed, an odd last one moves up as it is.
fn parents(level: &[B256]) -> Vec<B256> {
    level
        .chunks(2)
        .map(|pair| match *pair {
            [left, right] => node(left, right),
            [alone] => alone,
            _ => B256::ZERO,
        })
        .collect()
}

/// The Merkle root over the calls' content hashes, in the order of their index. One leaf is its
/// own root; `None` where there are no leaves.
///
/// ```
/// use agirails_protocol::{B256, receipt::{merkle_branch, merkle_root, climb}};
///
/// let leaves: Vec<_> = (1..=5).map(B256::repeat_byte).collect();
/// let root = merkle_root(&leaves).unwrap();
/// let branch = merkle_branch(&leaves, 3).unwrap();
/// assert_eq!(climb(leaves[3], &branch), root);
/// assert_ne!(climb(leaves[2], &branch), root);
/// ```
pub fn merkle_root(leaves: &[B256]) -> Option<B256> {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = parents(&level);
    }
    level.pop()
}

/// All levels of the tree over these leaves, from the leaves themselves to the root alone.
///
/// ```
/// use agirails_protocol::{B256, receipt::{merkle_levels, merkle_root}};
///
/// let leaves: Vec<_> = (1..=5).map(B256::repeat_byte).collect();
/// let levels = merkle_levels(leaves.clone());
/// assert_eq!(levels.iter().map(Vec::len).collect::<Vec<_>>(), [5, 3, 2, 1]);
/// assert_eq!(levels[3], [merkle_root(&leaves).unwrap()]);
/// ```
pub fn merkle_levels(leaves: Vec<B256>) -> Vec<Vec<B256>> {
    let mut levels = vec![leaves];
    while let Some(level) = levels.last().filter(|level| level.len() > 1) {
        levels.push(parents(level));
    }
    levels
}

/// Where the neighbours from a leaf of `count` up to the root stand: level, place there, and whether
/// on the left. Empty where there is no such leaf.
///
/// ```
/// use agirails_protocol::receipt::merkle_places;
///
/// // The third of three leaves has no neighbour on its own level.
/// assert_eq!(merkle_places(3, 2), [(1, 0, true)]);
/// ```
pub fn merkle_places(count: u64, index: u64) -> Vec<(u32, u64, bool)> {
    let (mut count, mut at, mut places) = (count, index, vec![]);
    for level in 0.. {
        if at >= count || count < 2 {
            break;
        }
        if at ^ 1 < count {
            places.push((level, at ^ 1, at % 2 == 1));
        }
        (count, at) = (count.div_ceil(2), at / 2);
    }
    places
}

/// The neighbours from this leaf up to the root; `None` where there is no such leaf.
pub fn merkle_branch(leaves: &[B256], index: usize) -> Option<Vec<Neighbour>> {
    leaves.get(index)?;
    let levels = merkle_levels(leaves.to_vec());
    let places = merkle_places(leaves.len() as u64, index as u64).into_iter();
    places
        .map(|(level, place, is_left)| {
            let node = *levels.get(level as usize)?.get(place as usize)?;
            Some(if is_left { Neighbour::Left(node) } else { Neighbour::Right(node) })
        })
        .collect()
}

/// The root that this leaf and branch lead to.
pub fn climb(leaf: B256, branch: &[Neighbour]) -> B256 {
    branch.iter().fold(leaf, |below, neighbour| match *neighbour {
        Neighbour::Left(left) => node(left, below),
        Neighbour::Right(right) => node(below, right),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::canonical_json::canonical_json;

    #[test]
    fn every_leaf_of_every_tree_climbs_to_its_root_and_no_other_does() {
        for count in 1..40_u8 {
            let leaves: Vec<_> = (0..count).map(B256::repeat_byte).collect();
            let root = merkle_root(&leaves).unwrap();
            for (index, &leaf) in leaves.iter().enumerate() {
                let branch = merkle_branch(&leaves, index).unwrap();
                assert_eq!(climb(leaf, &branch), root);
                assert_ne!(climb(B256::repeat_byte(200), &branch), root);
            }
            assert_eq!(merkle_branch(&leaves, leaves.len()), None);
        }
        assert_eq!(merkle_root(&[]), None);
    }

    proptest! {
        #[test]
        fn a_record_is_proven_as_canonical_json(
            id: [u8; 32],
            [method, target, idempotency_key, content_type] in [".*", ".*", ".*", ".*"],
            status: u16,
            body_hash: [u8; 32],
        ) {
            let request = PaidRequest {
                idempotency_key,
                ..PaidRequest::new(id.into(), &method, &target, b"{}", 7)
            };
            let body_hash = B256::from(body_hash);
            let record = CallRecord { request: &request, status, content_type: &content_type, body_hash };
            let canonical = canonical_json(&json!({
                "txId": request.transaction_id,
                "request": {
                    "method": request.method,
                    "target": request.target,
                    "bodyHash": request.body_hash,
                    "idempotencyKey": request.idempotency_key,
                },
                "response": {
                    "status": status,
                    "contentType": media_type(&content_type),
                    "bodyHash": body_hash,
                },
            }));
            prop_assert_eq!(record.deliverable().unwrap(), canonical.unwrap());
        }
    }

    #[test]
    fn the_record_holds_request_and_response() {
        let request = PaidRequest::new([1; 32].into(), "POST", "/a", b"{}", 7);
        let record = CallRecord {
            request: &request,
            status: 200,
            content_type: "text/plain",
            body_hash: keccak256("x"),
        };
        let text = record.deliverable().unwrap();
        assert!(text.starts_with("{\"request\":{\"bodyHash\":\"0x"), "{text}");
        let later = PaidRequest { timestamp: 8, ..request.clone() };
        assert_eq!(
            CallRecord { request: &later, ..record }.content_hash().unwrap(),
            record.content_hash().unwrap()
        );
        let other = CallRecord { status: 201, ..record };
        assert_ne!(other.content_hash().unwrap(), record.content_hash().unwrap());
    }

    #[test]
    fn a_receipt_is_held_against_all_that_its_payer_knows() {
        let [provider, requester] = [Address::repeat_byte(1), Address::repeat_byte(2)];
        let request = PaidRequest {
            idempotency_key: "a".to_owned(),
            ..PaidRequest::new([1; 32].into(), "POST", "/a", b"{}", 7)
        };
        let (status, content_type, body_hash) = (200, "text/plain", B256::ZERO);
        let record = CallRecord { request: &request, status, content_type, body_hash };
        let good = Receipt {
            transaction_id: request.transaction_id,
            idempotency_key: "a".to_owned(),
            index: 2,
            content_hash: record.content_hash().unwrap(),
            delivered_at: 1_000_000,
            provider,
            signature: None,
        };
        let expected = Expected {
            provider,
            requester,
            chain_id: 31_337,
            kernel: Address::repeat_byte(3),
            may_be_unsigned: true,
            calls: 3,
            answered: 1_000_000..=1_000_010,
        };
        good.check(&record, &expected).unwrap();
        assert_eq!(good.message(requester, 31_337).nonce, 3);

        let field = |receipt: &Receipt| match receipt.check(&record, &expected).unwrap_err() {
            VerificationError::Mismatch(details) => details.field.unwrap(),
            other => panic!("{other:?}"),
        };
        let other = || good.clone();
        for (wrong, named) in [
            (Receipt { transaction_id: [2; 32].into(), ..other() }, "txId"),
            (Receipt { provider: requester, ..other() }, "provider"),
            (Receipt { idempotency_key: "b".to_owned(), ..other() }, "idempotencyKey"),
            (Receipt { content_hash: B256::ZERO, ..other() }, "contentHash"),
            (Receipt { index: 3, ..other() }, "index"),
            (Receipt { index: u64::MAX, ..other() }, "index"),
            (Receipt { delivered_at: 1_000_000 - 301, ..other() }, "deliveredAt"),
            (Receipt { delivered_at: 1_000_010 + 301, ..other() }, "deliveredAt"),
            (Receipt { delivered_at: 0, ..other() }, "deliveredAt"),
        ] {
            assert_eq!(field(&wrong), named);
        }

        // A chain's receipt is signed, and by its provider.
        let on_chain = Expected { may_be_unsigned: false, ..expected.clone() };
        let unsigned = good.check(&record, &on_chain).unwrap_err();
        assert!(matches!(&unsigned, VerificationError::Signature(_)), "{unsigned:?}");
        for bytes in [vec![], vec![7; 65], vec![1; 64], vec![0; 65]] {
            let forged = Receipt { signature: Some(bytes.into()), ..other() };
            for expected in [&expected, &on_chain] {
                let error = forged.check(&record, expected).unwrap_err();
                assert!(matches!(error, VerificationError::Signature(_)), "{error:?}");
            }
        }

        // A call without a key is the only one.
        let request = PaidRequest { idempotency_key: String::new(), ..request.clone() };
        let record = CallRecord { request: &request, ..record };
        let content_hash = record.content_hash().unwrap();
        let second = Receipt { idempotency_key: String::new(), content_hash, index: 1, ..other() };
        let error = second.check(&record, &expected).unwrap_err();
        assert!(error.to_string().contains("index"), "{error}");
    }

    #[test]
    fn a_charset_that_a_proxy_adds_is_no_part_of_the_record() {
        let request = PaidRequest::new([1; 32].into(), "POST", "/a", b"{}", 7);
        let hash = |content_type| {
            let record =
                CallRecord { request: &request, status: 200, content_type, body_hash: B256::ZERO };
            record.content_hash().unwrap()
        };
        for same in ["text/html; charset=utf-8", "Text/HTML;charset=\"x\"", " text/html "] {
            assert_eq!(hash(same), hash("text/html"), "{same}");
        }
        for other in ["text/plain", "", "application/json; text/html"] {
            assert_ne!(hash(other), hash("text/html"), "{other}");
        }
    }
}
