use alloy_primitives::{Address, B256, Signature, U256, hex};
use alloy_sol_types::{SolStruct, eip712_domain};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};
use serde_json::Value;

use super::{Fields, Result};
use crate::{
    TransactionId,
    did::WrittenDid,
    error::{Details, SignatureError, SigningError},
};

const MESSAGE_HINT: &str = "an AIP-4 delivery message is {type: \"agirails.delivery.v1\", version: \
                            \"1.0.0\", txId, provider, consumer, resultCID, resultHash, \
                            easAttestationUID, deliveredAt, chainId, nonce}";

/// The versions of the EIP-712 domain that deliveries are signed in: AIP-4's, in which this SDK and
/// the TypeScript builder sign, and the one in which the other SDKs' message signers do.
const DOMAIN_VERSIONS: [&str; 2] = ["1", "1.0"];

/// The struct that is signed; its name and its fields' names go into the type hash.
mod eip712 {
    alloy_sol_types::sol! {
        struct DeliveryProof {
            bytes32 txId;
            string provider;
            string consumer;
            string resultCID;
            bytes32 resultHash;
            bytes32 easAttestationUID;
            uint256 deliveredAt;
            uint256 chainId;
            uint256 nonce;
        }
    }
}

/// A provider's statement of what it delivered, as AIP-4 has it signed.
///
/// In JSON it also carries `"type": "agirails.delivery.v1"` and `"version": "1.0.0"`.
///
/// Source: AIP-4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryMessage {
    /// The transaction that was worked for.
    pub transaction_id: TransactionId,
    /// Who worked, and signs.
    pub provider: WrittenDid,
    /// Who pays.
    pub consumer: WrittenDid,
    /// The IPFS id of the result, empty where it is not published there.
    pub result_cid: String,
    /// keccak256 of the result's canonical JSON: [`crate::canonical_json::result_hash`].
    pub result_hash: B256,
    /// The UID of the EAS attestation of this delivery, zero for none.
    pub eas_attestation_uid: B256,
    /// When it was delivered, Unix seconds.
    pub delivered_at: u64,
    /// The chain that the transaction is on. Where the DIDs name one, it is this one.
    pub chain_id: u64,
    /// Grows with every message of the provider, so that none is taken twice; from 1 on.
    pub nonce: u64,
}

impl DeliveryMessage {
    /// The message's `type`.
    pub const TYPE: &'static str = "agirails.delivery.v1";
    /// The message's `version`.
    pub const VERSION: &'static str = "1.0.0";

    /// Reads a message as JSON has it. Keys that are not the message's are passed over.
    ///
    /// # Errors
    /// [`crate::error::ProofError::Invalid`], naming the first key that is missing or wrong.
    pub fn from_json(value: &Value) -> Result<Self> {
        let fields = Fields::of(value, "delivery message", MESSAGE_HINT)?;
        fields.constant("type", Self::TYPE)?;
        fields.constant("version", Self::VERSION)?;
        let did = |key| {
            fields.text(key)?.parse::<WrittenDid>().map_err(|error| fields.nested(key, &error))
        };
        Ok(Self {
            transaction_id: fields.bytes32("txId")?,
            provider: did("provider")?,
            consumer: did("consumer")?,
            result_cid: fields.text("resultCID")?.to_owned(),
            result_hash: fields.bytes32("resultHash")?,
            // The schema does not require it; what is signed then is zero.
            eas_attestation_uid: fields
                .optional("easAttestationUID", Fields::bytes32)?
                .unwrap_or_default(),
            delivered_at: fields.number("deliveredAt")?,
            chain_id: fields.number("chainId")?,
            nonce: fields.number("nonce")?,
        })
    }

    /// The EIP-712 hash that is signed, for the kernel at this address on [`Self::chain_id`].
    ///
    /// Source: AIP-4; the domain is `{name: "AGIRAILS", version: "1", chainId, verifyingContract}`.
    pub fn signing_hash(&self, kernel: Address) -> B256 {
        let [version, ..] = DOMAIN_VERSIONS;
        self.hash_in(version, kernel)
    }

    fn hash_in(&self, version: &'static str, kernel: Address) -> B256 {
        let domain = eip712_domain! {
            name: "AGIRAILS",
            version: version,
            chain_id: self.chain_id,
            verifying_contract: kernel,
        };
        let signed = eip712::DeliveryProof {
            txId: self.transaction_id,
            provider: self.provider.to_string(),
            consumer: self.consumer.to_string(),
            resultCID: self.result_cid.clone(),
            resultHash: self.result_hash,
            easAttestationUID: self.eas_attestation_uid,
            deliveredAt: U256::from(self.delivered_at),
            chainId: U256::from(self.chain_id),
            nonce: U256::from(self.nonce),
        };
        signed.eip712_signing_hash(&domain)
    }

    /// The hash that the provider at this address signs, if it is this message's provider.
    ///
    /// # Errors
    /// [`SigningError::KeyMismatch`] where the signer is not the message's provider;
    /// [`SigningError::Invalid`] for what AIP-4 does not allow: a DID on another chain than the
    /// message's, or a nonce of 0.
    pub fn hash_to_sign(&self, signer: Address, kernel: Address) -> Result<B256, SigningError> {
        if let Some((field, did)) = self.did_of_another_chain() {
            let problem = format!("is not on the message's chain {}", self.chain_id);
            return Err(SigningError::Invalid(
                Details::invalid(field, &did.to_string(), &problem)
                    .hint("name the same chain in chainId and in both DIDs"),
            ));
        }
        if self.nonce == 0 {
            return Err(SigningError::Invalid(
                Details::invalid("nonce", "0", "must be at least 1")
                    .hint("number the provider's messages from 1 on"),
            ));
        }
        let provider = self.provider.address();
        if signer != provider {
            let mut details = Details::new(format!(
                "the key belongs to {signer}, and the message's provider is {provider}"
            ))
            .hint("sign with the provider's own key")
            .field("provider")
            .transaction(self.transaction_id);
            details.value = Some(self.provider.to_string());
            return Err(SigningError::KeyMismatch(details));
        }
        Ok(self.signing_hash(kernel))
    }

    fn did_of_another_chain(&self) -> Option<(&'static str, &WrittenDid)> {
        [("provider", &self.provider), ("consumer", &self.consumer)]
            .into_iter()
            .find(|(_, did)| did.chain_id().is_some_and(|chain_id| chain_id != self.chain_id))
    }
}

impl Serialize for DeliveryMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("DeliveryMessage", 11)?;
        json.serialize_field("type", Self::TYPE)?;
        json.serialize_field("version", Self::VERSION)?;
        json.serialize_field("txId", &self.transaction_id)?;
        json.serialize_field("provider", &self.provider)?;
        json.serialize_field("consumer", &self.consumer)?;
        json.serialize_field("resultCID", &self.result_cid)?;
        json.serialize_field("resultHash", &self.result_hash)?;
        json.serialize_field("easAttestationUID", &self.eas_attestation_uid)?;
        json.serialize_field("deliveredAt", &self.delivered_at)?;
        json.serialize_field("chainId", &self.chain_id)?;
        json.serialize_field("nonce", &self.nonce)?;
        json.end()
    }
}

impl<'de> Deserialize<'de> for DeliveryMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A delivery message and its signature: in JSON the message's keys and `signature`, 65 bytes
/// `r ‖ s ‖ v` in hex, with v 27 or 28.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedDelivery {
    /// What is signed.
    #[serde(flatten)]
    pub message: DeliveryMessage,
    /// By whom, [`Self::verify`] tells.
    #[serde(serialize_with = "write_signature")]
    pub signature: Signature,
}

impl SignedDelivery {
    /// Reads a signed message as JSON has it.
    ///
    /// # Errors
    /// As [`DeliveryMessage::from_json`]; [`crate::error::ProofError::Signature`] where the signature is not
    /// 65 bytes in hex, or has another v than 27 or 28, or a high s (which anybody can make of a
    /// valid signature, so that one delivery would have two). Who signed is left to
    /// [`Self::verify`].
    pub fn from_json(value: &Value) -> Result<Self> {
        let message = DeliveryMessage::from_json(value)?;
        let signature = Fields::of(value, "delivery message", MESSAGE_HINT)?.text("signature")?;
        Ok(Self { message, signature: read_signature(signature)? })
    }

    /// The address that signed this message for the kernel at this address: the provider, where it
    /// is its signature in either version of the domain that is in use (`1` and `1.0`).
    ///
    /// Some address always comes out, another one for every change: compare it, or
    /// [`Self::verify`].
    ///
    /// # Errors
    /// [`SignatureError::Invalid`] where no key can have made it, or its s is high.
    pub fn recover(&self, kernel: Address) -> Result<Address, SignatureError> {
        check_low_s(&self.signature)?;
        let [ours, theirs] = DOMAIN_VERSIONS.map(|version| {
            move || {
                self.signature.recover_address_from_prehash(&self.message.hash_in(version, kernel))
            }
        });
        let signer = ours();
        let provider = self.message.provider.address();
        if signer.as_ref().ok() != Some(&provider) && theirs().ok() == Some(provider) {
            return Ok(provider);
        }
        signer.map_err(|error| {
            let details = wrong_signature(&self.signature, "was made by no key");
            SignatureError::Invalid(details.source(error))
        })
    }

    /// Checks that the provider that the message names signed it, for the kernel at this address
    /// and on one chain throughout.
    ///
    /// What it does not tell: whether that provider, that consumer and that chain are the
    /// transaction's. Compare them with what the kernel says of [`DeliveryMessage::transaction_id`].
    ///
    /// # Errors
    /// [`SignatureError::Invalid`] where another key signed or a DID is on another chain.
    pub fn verify(&self, kernel: Address) -> Result<(), SignatureError> {
        let DeliveryMessage { transaction_id, chain_id, .. } = self.message;
        let provider = self.message.provider.address();
        let refuse = |message: String| {
            let mut details = Details::new(message)
                .hint("do not settle on this message: ask the provider for the one that it signed")
                .field("signature")
                .transaction(transaction_id);
            details.value = Some(signature_hex(&self.signature));
            SignatureError::Invalid(details)
        };
        if let Some((field, did)) = self.message.did_of_another_chain() {
            return Err(refuse(format!(
                "the message is for chain {chain_id}, and its {field} is {did}"
            )));
        }
        let signer = self.recover(kernel)?;
        if signer != provider {
            return Err(refuse(format!(
                "{signer} signed the message, and its provider is {provider}"
            )));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for SignedDelivery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

fn read_signature(text: &str) -> Result<Signature, SignatureError> {
    let refuse = |problem: &str| {
        SignatureError::Invalid(Details::invalid("signature", text, problem).hint(SIGNATURE_HINT))
    };
    // Strictly one prefix: the decoder would pass over a second one.
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 130);
    let digits = digits.ok_or_else(|| refuse("is not 0x and 130 hex digits"))?;
    let mut bytes = [0; 65];
    hex::decode_to_slice(digits, &mut bytes)
        .map_err(|_| refuse("has characters that are no hex digits"))?;
    let odd = match bytes[64] {
        27 => false,
        28 => true,
        _ => return Err(refuse("has another v than 27 or 28")),
    };
    let signature = Signature::from_bytes_and_parity(&bytes, odd);
    check_low_s(&signature)?;
    Ok(signature)
}

const SIGNATURE_HINT: &str = "a signature is 0x and 65 bytes in hex: r, s not above half the curve's \
                              order, and v, which is 27 or 28";

fn check_low_s(signature: &Signature) -> Result<(), SignatureError> {
    match signature.normalize_s() {
        Some(_) => Err(SignatureError::Invalid(wrong_signature(signature, "has a high s"))),
        None => Ok(()),
    }
}

fn wrong_signature(signature: &Signature, problem: &str) -> Box<Details> {
    Details::invalid("signature", &signature_hex(signature), problem).hint(SIGNATURE_HINT)
}

fn signature_hex(signature: &Signature) -> String {
    hex::encode_prefixed(signature.as_bytes())
}

fn write_signature<S: Serializer>(signature: &Signature, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&signature_hex(signature))
}
