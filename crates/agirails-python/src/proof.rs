//! Delivery proofs: made, encoded, checked, and verified when signed.

use std::time::{SystemTime, UNIX_EPOCH};

use agirails::{
    Code,
    protocol::proof::{self, DeliveryProof, DeliveryProofRequest, SignedDelivery},
};
use alloy_primitives::{Address, B256};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict},
};
use serde_json::{Map, Value};

use crate::{
    convert::{self, Any, Maybe, optional},
    errors::OrRaise,
    json,
};

/// Makes, encodes and checks delivery proofs. It holds nothing.
///
/// Example:
///     >>> generator = ProofGenerator()
///     >>> proof = generator.generate_delivery_proof(tx_id=tx_id, deliverable="a haiku")
///     >>> client.advanced.transition_state(tx_id, State.DELIVERED, proof)
///
/// Source: AIP-4.
#[pyclass(frozen, module = "agirails._agirails")]
pub struct ProofGenerator;

#[pymethods]
impl ProofGenerator {
    #[new]
    fn new() -> Self {
        Self
    }

    /// Makes the proof of a delivery.
    ///
    /// Args:
    ///     tx_id: the transaction that was worked for.
    ///     deliverable: what was delivered; text is hashed as its UTF-8.
    ///     metadata: what else the proof shall say, a dict that JSON can carry. `mimeType` is
    ///         kept, `size` is always the deliverable's.
    ///     delivery_url: where it can be fetched.
    ///
    /// Returns:
    ///     {"type", "txId", "contentHash", "timestamp" (milliseconds), "deliveryUrl",
    ///     "metadata"}.
    ///
    /// Raises:
    ///     ValidationError: an argument is wrong.
    ///
    /// Example:
    ///     >>> proof = ProofGenerator().generate_delivery_proof(tx_id=tx_id, deliverable="hi")
    ///
    /// Source: AIP-4.
    #[pyo3(signature = (*, tx_id, deliverable, metadata=None, delivery_url=None))]
    fn generate_delivery_proof<'py>(
        &self,
        py: Python<'py>,
        tx_id: Any<'_, 'py>,
        deliverable: Any<'_, 'py>,
        metadata: Maybe<'_, 'py>,
        delivery_url: Maybe<'_, 'py>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let deliverable = convert::content("deliverable", deliverable)?;
        let delivery_url =
            optional(delivery_url, |url| convert::text(Code::InvalidProof, "delivery_url", url))?;
        let request = DeliveryProofRequest {
            transaction_id: convert::transaction_id(tx_id)?,
            deliverable: &deliverable,
            delivery_url: delivery_url.map(str::to_owned),
            metadata: optional(metadata, |value| json::object_from_python("metadata", value))?
                .unwrap_or_default(),
            timestamp_ms: now_ms(),
        };
        let proof = py.detach(|| proof::ProofGenerator.generate_delivery_proof(request));
        proof_object(py, &proof.or_raise(py)?)
    }

    /// The 96 bytes of a proof: abi.encode(bytes32 txId, bytes32 contentHash, uint256 timestamp).
    ///
    /// Args:
    ///     proof: as generate_delivery_proof made it.
    ///
    /// Raises:
    ///     ValidationError: it is no delivery proof; `field` names the key.
    ///
    /// Example:
    ///     >>> client.advanced.transition_state(
    ///     ...     tx_id, State.DELIVERED, proof=generator.encode_proof(proof))
    ///
    /// Source: AIP-4.
    fn encode_proof<'py>(&self, proof: Any<'_, 'py>) -> PyResult<Bound<'py, PyBytes>> {
        let encoded = proof::ProofGenerator.encode_proof(&convert::proof(proof)?);
        Ok(PyBytes::new(proof.py(), &encoded))
    }

    /// Reads what encode_proof wrote.
    ///
    /// Args:
    ///     proof: 96 bytes, or a str of 0x and hex digits.
    ///
    /// Returns:
    ///     {"txId", "contentHash", "timestamp" (milliseconds)}.
    ///
    /// Raises:
    ///     ValidationError: it is no encoded proof.
    ///
    /// Example:
    ///     >>> generator.decode_proof(encoded)["contentHash"]
    ///
    /// Source: AIP-4.
    fn decode_proof<'py>(&self, proof: Any<'_, 'py>) -> PyResult<Bound<'py, PyDict>> {
        let py = proof.py();
        let encoded = convert::bytes("proof", proof)?;
        let decoded = proof::ProofGenerator.decode_proof(&encoded).or_raise(py)?;
        let dict = PyDict::new(py);
        dict.set_item("txId", decoded.transaction_id.to_string())?;
        dict.set_item("contentHash", decoded.content_hash.to_string())?;
        dict.set_item("timestamp", decoded.timestamp)?;
        Ok(dict)
    }

    /// Whether this is the content that a proof speaks of.
    ///
    /// Args:
    ///     proof: a proof, or its contentHash.
    ///     deliverable: the content; text is hashed as its UTF-8.
    ///
    /// Raises:
    ///     ValidationError: that is no proof and no hash.
    ///
    /// Example:
    ///     >>> generator.verify_deliverable(proof, "a haiku")
    ///     True
    ///
    /// Source: AIP-4.
    fn verify_deliverable(&self, proof: Any<'_, '_>, deliverable: Any<'_, '_>) -> PyResult<bool> {
        let content_hash = content_hash(proof)?;
        let content = convert::content("deliverable", deliverable)?;
        let generator = proof::ProofGenerator;
        Ok(proof.py().detach(|| generator.verify_deliverable(content_hash, &content)))
    }

    /// keccak256 of a deliverable, as 0x and 64 hex digits; of text as its UTF-8.
    ///
    /// Args:
    ///     deliverable: str or bytes.
    ///
    /// Raises:
    ///     ValidationError: it is neither.
    ///
    /// Example:
    ///     >>> generator.hash_content("a haiku") == proof["contentHash"]
    ///     True
    ///
    /// Source: AIP-4.
    fn hash_content(&self, deliverable: Any<'_, '_>) -> PyResult<String> {
        let content = convert::content("deliverable", deliverable)?;
        Ok(deliverable.py().detach(|| proof::ProofGenerator.hash_content(&content)).to_string())
    }

    fn __repr__(&self) -> &'static str {
        "<ProofGenerator>"
    }
}

/// Who signed a delivery message.
///
/// Some address always comes out, another one for every change: compare it, or call
/// verify_delivery.
///
/// Args:
///     message: the signed AIP-4 message, as sign_delivery makes it.
///     kernel_address: the kernel that the transaction is on, `client.network.kernel`.
///
/// Raises:
///     ValidationError: it is no such message; `field` names the key.
///     SignatureVerificationError: no key can have made the signature.
///
/// Example:
///     >>> recover_delivery_signer(message, client.network.kernel) == tx.provider
///     True
///
/// Source: AIP-4.
#[pyfunction]
pub fn recover_delivery_signer<'py>(
    message: Any<'_, 'py>,
    kernel_address: Any<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let (signed, kernel) = signed_message(message, kernel_address)?;
    convert::address_object(message.py(), signed.recover(kernel).or_raise(message.py())?)
}

/// Checks that the provider that a delivery message names signed it.
///
/// It does not tell whether that provider, that consumer and that chain are the transaction's:
/// compare them with what get_transaction says.
///
/// Args:
///     message: the signed AIP-4 message, as sign_delivery makes it.
///     kernel_address: the kernel that the transaction is on, `client.network.kernel`.
///
/// Raises:
///     SignatureVerificationError: another key signed it; do not settle on it.
///     ValidationError: it is no such message; `field` names the key.
///
/// Example:
///     >>> verify_delivery(message, client.network.kernel)
///
/// Source: AIP-4.
#[pyfunction]
pub fn verify_delivery(message: Any<'_, '_>, kernel_address: Any<'_, '_>) -> PyResult<()> {
    let (signed, kernel) = signed_message(message, kernel_address)?;
    signed.verify(kernel).or_raise(message.py())
}

fn signed_message(
    message: Any<'_, '_>,
    kernel: Any<'_, '_>,
) -> PyResult<(SignedDelivery, Address)> {
    let kernel = convert::address("kernel_address", kernel)?;
    let signed = SignedDelivery::from_json(&json::from_python("message", message)?);
    Ok((signed.or_raise(message.py())?, kernel))
}

fn content_hash(proof: Any<'_, '_>) -> PyResult<B256> {
    match proof.cast::<PyDict>() {
        Ok(dict) => match dict.get_item("contentHash")? {
            Some(hash) => convert::bytes32("contentHash", &hash),
            None => Err(convert::refuse(
                proof.py(),
                Code::InvalidProof,
                "proof",
                "<dict>",
                "has no contentHash",
                "pass a proof of the ProofGenerator, or its contentHash",
            )),
        },
        Err(_) => convert::bytes32("content hash", proof),
    }
}

/// A proof with its keys in the documented order.
pub fn proof_object<'py>(py: Python<'py>, proof: &DeliveryProof) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("type", "delivery.proof")?;
    dict.set_item("txId", proof.transaction_id.to_string())?;
    dict.set_item("contentHash", proof.content_hash.to_string())?;
    dict.set_item("timestamp", proof.timestamp)?;
    dict.set_item("deliveryUrl", proof.delivery_url.as_deref())?;
    dict.set_item("metadata", metadata_object(py, &proof.metadata)?)?;
    Ok(dict)
}

fn metadata_object<'py>(
    py: Python<'py>,
    metadata: &Map<String, Value>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (key, value) in metadata {
        dict.set_item(key, json::to_python(py, value)?)?;
    }
    Ok(dict)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
