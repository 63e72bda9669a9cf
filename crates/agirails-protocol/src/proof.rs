//! Delivery proofs (AIP-4): what was delivered, encoded, signed and checked; and the two other
//! things that a transition carries, the dispute window and the resolution of a dispute.

mod attestation;
mod message;
mod resolution;
mod verification;

use alloy_primitives::{B256, U256, keccak256};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

pub use self::{
    attestation::DeliveryAttestation,
    message::{DeliveryMessage, SignedDelivery},
    resolution::Resolution,
    verification::Verification,
};
use crate::{
    TransactionId,
    error::{Details, ParseError, ProofError},
    id::parse_bytes32,
};

type Result<T, E = ProofError> = std::result::Result<T, E>;

/// The length of an encoded proof: `abi.encode(bytes32, bytes32, uint256)`.
pub const ENCODED_PROOF_LENGTH: usize = 96;

/// The MIME type of a deliverable that nobody named one for.
pub const DEFAULT_MIME_TYPE: &str = "application/octet-stream";

const PROOF_HINT: &str = "a delivery proof is {type: \"delivery.proof\", txId, contentHash, timestamp, \
                          deliveryUrl, metadata}, as generate_delivery_proof makes it";

/// A statement that content with this hash was delivered for a transaction.
///
/// In JSON: `{"type": "delivery.proof", "txId", "contentHash", "timestamp", "deliveryUrl",
/// "metadata"}`, where the last two may be left out.
///
/// Source: AIP-4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "delivery.proof", rename_all = "camelCase")]
pub struct DeliveryProof {
    /// The transaction that was worked for.
    #[serde(rename = "txId")]
    pub transaction_id: TransactionId,
    /// keccak256 of the deliverable.
    pub content_hash: B256,
    /// When it was delivered, in milliseconds since 1970. The one time here that is no seconds.
    pub timestamp: u64,
    /// Where it can be fetched.
    pub delivery_url: Option<String>,
    /// What else is known; `size` (bytes) and `mimeType` where the proof was generated here.
    pub metadata: Map<String, Value>,
}

impl DeliveryProof {
    /// Reads a proof as JSON has it. Keys that are not the proof's are passed over.
    ///
    /// # Errors
    /// [`ProofError::Invalid`], naming the first key that is missing or wrong.
    ///
    /// ```
    /// use agirails_protocol::proof::DeliveryProof;
    /// use serde_json::json;
    ///
    /// let error = DeliveryProof::from_json(&json!({"type": "delivery.proof"})).unwrap_err();
    /// assert_eq!(error.details().field, Some("txId"));
    /// ```
    pub fn from_json(value: &Value) -> Result<Self> {
        let fields = Fields::of(value, "delivery proof", PROOF_HINT)?;
        fields.constant("type", "delivery.proof")?;
        Ok(Self {
            transaction_id: fields.bytes32("txId")?,
            content_hash: fields.bytes32("contentHash")?,
            timestamp: fields.number("timestamp")?,
            delivery_url: fields.optional("deliveryUrl", Fields::text)?.map(str::to_owned),
            metadata: fields.optional("metadata", Fields::object)?.cloned().unwrap_or_default(),
        })
    }
}

impl<'de> Deserialize<'de> for DeliveryProof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// What the 96 encoded bytes hold of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodedProof {
    /// The transaction that was worked for.
    pub transaction_id: TransactionId,
    /// keccak256 of the deliverable.
    pub content_hash: B256,
    /// When it was delivered, in milliseconds since 1970.
    pub timestamp: u64,
}

/// A proof without URL and metadata, which are not encoded.
impl From<DecodedProof> for DeliveryProof {
    fn from(decoded: DecodedProof) -> Self {
        let DecodedProof { transaction_id, content_hash, timestamp } = decoded;
        Self { transaction_id, content_hash, timestamp, delivery_url: None, metadata: Map::new() }
    }
}

/// What a delivery proof is made from.
#[derive(Debug, Clone, Default)]
pub struct DeliveryProofRequest<'a> {
    /// The transaction that was worked for.
    pub transaction_id: TransactionId,
    /// What was delivered, byte for byte; text as UTF-8.
    pub deliverable: &'a [u8],
    /// Where it can be fetched.
    pub delivery_url: Option<String>,
    /// What else the proof shall say. `size` is overwritten, `mimeType` is kept.
    pub metadata: Map<String, Value>,
    /// Now, in milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// Makes, encodes and checks delivery proofs. It holds nothing.
///
/// ```
/// use agirails_protocol::proof::{DeliveryProofRequest, ProofGenerator};
///
/// let generator = ProofGenerator;
/// let proof = generator.generate_delivery_proof(DeliveryProofRequest {
///     transaction_id: [7; 32].into(),
///     deliverable: b"42",
///     timestamp_ms: 1_780_000_000_000,
///     ..Default::default()
/// })?;
/// assert_eq!(proof.metadata["size"], 2);
///
/// let decoded = generator.decode_proof(&generator.encode_proof(&proof))?;
/// assert!(generator.verify_deliverable(decoded.content_hash, b"42"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: AIP-4.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProofGenerator;

impl ProofGenerator {
    /// Makes the proof of a delivery: hashes the deliverable and completes the metadata with its
    /// `size` in bytes and its `mimeType` (`application/octet-stream` where none is given).
    ///
    /// # Errors
    /// [`ProofError::Invalid`] where the given `mimeType` is no text.
    pub fn generate_delivery_proof(
        &self,
        request: DeliveryProofRequest<'_>,
    ) -> Result<DeliveryProof> {
        let DeliveryProofRequest {
            transaction_id,
            deliverable,
            delivery_url,
            mut metadata,
            timestamp_ms,
        } = request;
        match metadata.get("mimeType") {
            Some(Value::String(mime_type)) if !mime_type.is_empty() => {}
            None | Some(Value::Null | Value::String(_)) => {
                metadata.insert("mimeType".to_owned(), DEFAULT_MIME_TYPE.into());
            }
            Some(other) => {
                return Err(ProofError::Invalid(
                    wrong("mimeType", other, "must be a string")
                        .hint("pass a MIME type such as \"application/json\", or leave it out"),
                ));
            }
        }
        metadata.insert("size".to_owned(), deliverable.len().into());
        Ok(DeliveryProof {
            transaction_id,
            content_hash: self.hash_content(deliverable),
            timestamp: timestamp_ms,
            delivery_url,
            metadata,
        })
    }

    /// keccak256 of a deliverable's bytes.
    pub fn hash_content(&self, content: &[u8]) -> B256 {
        keccak256(content)
    }

    /// `abi.encode(bytes32 txId, bytes32 contentHash, uint256 timestamp)`.
    ///
    /// The kernel itself takes no proof: see [`encode_window`] for what it takes.
    pub fn encode_proof(&self, proof: &DeliveryProof) -> [u8; ENCODED_PROOF_LENGTH] {
        let mut encoded = [0; ENCODED_PROOF_LENGTH];
        encoded[..32].copy_from_slice(proof.transaction_id.as_slice());
        encoded[32..64].copy_from_slice(proof.content_hash.as_slice());
        encoded[64..].copy_from_slice(&U256::from(proof.timestamp).to_be_bytes::<32>());
        encoded
    }

    /// Reads what [`Self::encode_proof`] wrote.
    ///
    /// # Errors
    /// [`ProofError::Invalid`] unless there are exactly 96 bytes and the time fits 64 bits.
    pub fn decode_proof(&self, encoded: &[u8]) -> Result<DecodedProof> {
        let refuse = |problem: String| {
            ProofError::Invalid(
                Details::new(format!("the encoded proof {problem}"))
                    .hint("pass the 96 bytes that encode_proof returned")
                    .field("proof"),
            )
        };
        let (words, rest) = encoded.as_chunks::<32>();
        let ([transaction_id, content_hash, time], []) = (words, rest) else {
            return Err(refuse(format!("has {} bytes, not {ENCODED_PROOF_LENGTH}", encoded.len())));
        };
        let timestamp = u64::try_from(U256::from_be_bytes(*time))
            .map_err(|_| refuse("has a timestamp beyond 64 bits".to_owned()))?;
        Ok(DecodedProof {
            transaction_id: transaction_id.into(),
            content_hash: content_hash.into(),
            timestamp,
        })
    }

    /// Whether this is the content that a proof speaks of.
    pub fn verify_deliverable(&self, content_hash: B256, deliverable: &[u8]) -> bool {
        self.hash_content(deliverable) == content_hash
    }
}

/// `abi.encode(uint256 window)`: what a transition to DELIVERED carries, a duration in seconds.
///
/// Source: `ACTPKernel.transitionState`, which refuses AIP-4's encoded proof.
pub fn encode_window(seconds: u64) -> [u8; 32] {
    U256::from(seconds).to_be_bytes()
}

/// An object's fields, read one by one so that an error names the key.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    hint: &'static str,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, what: &'static str, hint: &'static str) -> Result<Self> {
        match value {
            Value::Object(object) => Ok(Self { object, hint }),
            other => Err(ProofError::Invalid(wrong(what, other, "must be an object").hint(hint))),
        }
    }

    /// A key that may be missing or null.
    fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Self, &'static str) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => read(self, key).map(Some),
        }
    }

    fn read<T>(
        &self,
        key: &'static str,
        problem: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T> {
        let value = self.object.get(key).ok_or_else(|| {
            let missing = Details::new(format!("{key} is missing"));
            ProofError::Invalid(missing.hint(self.hint).field(key))
        })?;
        read(value).ok_or_else(|| ProofError::Invalid(wrong(key, value, problem).hint(self.hint)))
    }

    fn text(&self, key: &'static str) -> Result<&'a str> {
        self.read(key, "must be a string", Value::as_str)
    }

    fn number(&self, key: &'static str) -> Result<u64> {
        self.read(key, "must be a whole number below 2^64", Value::as_u64)
    }

    fn object(&self, key: &'static str) -> Result<&'a Map<String, Value>> {
        self.read(key, "must be an object", Value::as_object)
    }

    fn constant(&self, key: &'static str, expected: &str) -> Result<()> {
        let problem = format!("is not {expected:?}");
        self.read(key, &problem, |value| (value == expected).then_some(()))
    }

    fn bytes32(&self, key: &'static str) -> Result<B256> {
        parse_bytes32("value", self.text(key)?).map_err(|error| self.nested(key, &error))
    }

    /// What the value's own parser says, under this key.
    fn nested(&self, key: &'static str, error: &ParseError) -> ProofError {
        let mut details = Details::new(format!("{key}: {error}")).hint(self.hint).field(key);
        details.value.clone_from(&error.details().value);
        ProofError::Invalid(details)
    }
}

fn wrong(key: &'static str, value: &Value, problem: &str) -> Box<Details> {
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Details::invalid(key, &shown, problem)
}
