//! What one paid call proves: a record of request and response, and a Merkle tree over the calls
//! of one transaction, whose root is the delivery's content hash.

use alloy_primitives::{Address, B256, Bytes, keccak256};
use serde::{Deserialize, Serialize};

use crate::{
    TransactionId,
    did::Did,
    error::{Details, JsonError, VerificationError},
    paid_request::PaidRequest,
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
    /// index its nonce.
    pub fn message(&self, requester: Address, chain_id: u64) -> DeliveryMessage {
        DeliveryMessage {
            transaction_id: self.transaction_id,
            provider: Did { chain_id, address: self.provider },
            consumer: Did { chain_id, address: requester },
            result_cid: String::new(),
            result_hash: self.content_hash,
            eas_attestation_uid: B256::ZERO,
            delivered_at: self.delivered_at,
            chain_id,
            nonce: self.index,
        }
    }

    /// Checks that the receipt is this provider's, for this call, and signed by it where it is
    /// signed at all, for the kernel at this address of this chain.
    ///
    /// # Errors
    /// [`VerificationError::Mismatch`] naming what differs; [`VerificationError::Signature`] where the signature
    /// is not the provider's. Do not settle: ask the provider, or dispute within the window.
    pub fn check(
        &self,
        record: &CallRecord<'_>,
        provider: Address,
        requester: Address,
        chain_id: u64,
        kernel: Address,
    ) -> Result<(), VerificationError> {
        let differs = |field: &'static str, value: String, problem: String| {
            VerificationError::Mismatch(
                Details::invalid(field, &value, &problem)
                    .hint("do not settle: ask the provider, or dispute within the window")
                    .transaction(self.transaction_id),
            )
        };
        let id = record.request.transaction_id;
        if self.transaction_id != id {
            return Err(differs("txId", self.transaction_id.to_string(), format!("is not {id}")));
        }
        if self.provider != provider {
            return Err(differs(
                "provider",
                self.provider.to_string(),
                format!("is not {provider}"),
            ));
        }
        if self.idempotency_key != record.request.idempotency_key {
            return Err(differs(
                "idempotencyKey",
                self.idempotency_key.clone(),
                "is another call's".to_owned(),
            ));
        }
        let content_hash = record.content_hash()?;
        if self.content_hash != content_hash {
            let problem = format!("is not what was received, {content_hash}");
            return Err(differs("contentHash", self.content_hash.to_string(), problem));
        }
        let Some(signature) = &self.signature else { return Ok(()) };
        let wrong =
            |problem| Details::new(format!("the receipt's signature {problem}")).transaction(id);
        let signature = alloy_primitives::Signature::from_raw(signature)
            .map_err(|error| VerificationError::Signature(wrong("cannot be read").source(error)))?;
        let hash = self.message(requester, chain_id).signing_hash(kernel);
        match signature.recover_address_from_prehash(&hash) {
            Ok(signer) if signer == provider => Ok(()),
            _ => Err(VerificationError::Signature(wrong("is not the provider's"))),
        }
    }
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

/// The neighbours from this leaf up to the root; `None` where there is no such leaf.
pub fn merkle_branch(leaves: &[B256], index: usize) -> Option<Vec<Neighbour>> {
    leaves.get(index)?;
    let (mut level, mut at, mut branch) = (leaves.to_vec(), index, vec![]);
    while level.len() > 1 {
        if at % 2 == 1 {
            branch.push(Neighbour::Left(level[at - 1]));
        } else if let Some(&right) = level.get(at + 1) {
            branch.push(Neighbour::Right(right));
        }
        (level, at) = (parents(&level), at / 2);
    }
    Some(branch)
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
