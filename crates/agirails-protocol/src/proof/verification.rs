use alloy_primitives::{Address, B256};
use serde_json::Value;

use super::{DeliveryAttestation, DeliveryProof, ProofGenerator, SignedDelivery};
use crate::{
    Transaction,
    canonical_json::result_hash,
    did::{Did, WrittenDid},
    error::{Details, VerificationError},
};

type Result<T, E = VerificationError> = std::result::Result<T, E>;

const REFUSE_HINT: &str = "do not settle on this: ask the provider for what it owes, or dispute it \
                           before the dispute window ends";

/// What a consumer has in hand about a delivery. Whatever is given must prove it, and something
/// must be given.
///
/// A signed delivery, and an attestation, can only be the provider's. A plain delivery proof has
/// no author: whoever changed the deliverable under way could have made a new proof for it.
/// Where the kernel kept the provider's own proof, that one counts too; and from AIP-14c on the hash
/// that the delivery committed to on chain, which alone suffices.
///
/// Source: AIP-4.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verification {
    /// What was delivered, byte for byte. A proof of it must be there: given, or kept.
    pub deliverable: Option<Vec<u8>>,
    /// The delivery proof that came with the deliverable.
    pub proof: Option<DeliveryProof>,
    /// The provider's signed delivery message.
    pub signed: Option<SignedDelivery>,
    /// The result of which the signed delivery, or the attestation, holds the hash.
    pub result: Option<Value>,
    /// The UID of the provider's attestation. Where the signed delivery names one, the same.
    pub attestation: Option<B256>,
}

impl Verification {
    /// Compares all that is given with the transaction, as the kernel at this address of this
    /// chain has it, and with each other; `kept` is the proof that the kernel kept when the transaction was delivered.
    ///
    /// - The deliverable's hash is that of the proof, of the kept one, and what the kernel was given
    ///   ([`Transaction::result_hash`]). Without a deliverable that holds for the result's hash.
    /// - The proof is of this transaction.
    /// - The signed delivery is of this transaction, of this chain and kernel, between this
    ///   provider and this consumer, and the provider signed it.
    /// - The result's hash is the signed delivery's.
    ///
    /// Attestations stand on chain: [`Self::check_attested`] compares what was read there.
    ///
    /// # Errors
    /// [`VerificationError::Incomplete`] where nothing is given, or a deliverable without proof, a proof
    /// without deliverable, or a result without signed delivery and attestation: then there is
    /// nothing to compare. [`VerificationError::Mismatch`] and [`VerificationError::Signature`], naming the
    /// field that differs.
    pub fn check(
        &self,
        tx: &Transaction,
        chain_id: u64,
        kernel: Address,
        kept: Option<&DeliveryProof>,
    ) -> Result<()> {
        self.check_pairs(tx, kept)?;
        let committed = Some(tx.result_hash).filter(|hash| !hash.is_zero());
        if let Some(deliverable) = &self.deliverable {
            for proof in self.proof.iter().chain(kept) {
                check_proof(proof, deliverable, tx)?;
            }
            if let Some(committed) = committed {
                let hash = ProofGenerator.hash_content(deliverable);
                equal(tx, "resultHash", committed, hash)?;
            }
        }
        if let (Some(result), Some(committed), None, None, None) =
            (&self.result, committed, &self.deliverable, &self.signed, self.attestation)
        {
            equal(tx, "resultHash", committed, result_hash(result)?)?;
        }
        let Some(signed) = &self.signed else { return Ok(()) };
        let message = &signed.message;
        let did = |address| Did { chain_id, address };
        equal(tx, "txId", message.transaction_id, tx.id)?;
        equal(tx, "chainId", message.chain_id, chain_id)?;
        same_agent(tx, "provider", &message.provider, did(tx.provider))?;
        same_agent(tx, "consumer", &message.consumer, did(tx.requester))?;
        if let Some(result) = &self.result {
            equal(tx, "resultHash", message.result_hash, result_hash(result)?)?;
        }
        if let (Some(given), Some(named)) = (self.attestation, self.named_attestation()) {
            equal(tx, "easAttestationUID", named, given)?;
        }
        Ok(signed.verify(kernel)?)
    }

    /// Compares what the attestation says with the result and with the signed delivery.
    ///
    /// # Errors
    /// [`VerificationError::Attestation`], naming the field that differs.
    pub fn check_attested(
        &self,
        tx: &Transaction,
        uid: B256,
        attested: &DeliveryAttestation,
    ) -> Result<()> {
        let given = self.result.as_ref().map(result_hash).transpose()?;
        let signed = self.signed.as_ref().map(|signed| signed.message.result_hash);
        let Some(expected) =
            given.into_iter().chain(signed).find(|hash| *hash != attested.result_hash)
        else {
            return Ok(());
        };
        let got = attested.result_hash;
        let message = format!(
            "the attestation {uid} attests the result {got}, and the delivery is {expected}"
        );
        Err(VerificationError::Attestation(differs(tx, "resultHash", got.to_string(), message)))
    }

    /// The attestation to look at: the given one, else the one that the signed delivery names.
    pub fn attestation_uid(&self) -> Option<B256> {
        self.attestation.or_else(|| self.named_attestation())
    }

    fn named_attestation(&self) -> Option<B256> {
        let uid = self.signed.as_ref()?.message.eas_attestation_uid;
        (!uid.is_zero()).then_some(uid)
    }

    fn check_pairs(&self, tx: &Transaction, kept: Option<&DeliveryProof>) -> Result<()> {
        let refuse = |field, problem: &str, hint| {
            Err(VerificationError::Incomplete(
                Details::new(problem).hint(hint).transaction(tx.id).field(field),
            ))
        };
        match self {
            Self {
                deliverable: None,
                proof: None,
                signed: None,
                result: None,
                attestation: None,
            } => refuse(
                "verification",
                "nothing was given to verify the delivery with",
                "pass the deliverable, the signed delivery or the attestation; to settle without \
                     looking, transition to SETTLED",
            ),
            _ if !tx.result_hash.is_zero() && self.proof.is_none() => Ok(()),
            Self { deliverable: Some(_), proof: None, .. } if kept.is_none() => refuse(
                "proof",
                "a deliverable was given, and there is no proof to compare it with",
                "pass the proof that came with the deliverable",
            ),
            Self { deliverable: None, proof: Some(_), .. } => refuse(
                "deliverable",
                "a proof was given, and no deliverable to compare it with",
                "pass the deliverable, byte for byte as it came",
            ),
            Self { result: Some(_), signed: None, attestation: None, .. } => refuse(
                "signed",
                "a result was given, and nothing of the provider's to compare it with",
                "pass the signed delivery or the attestation of it",
            ),
            _ => Ok(()),
        }
    }
}

fn check_proof(proof: &DeliveryProof, deliverable: &[u8], tx: &Transaction) -> Result<()> {
    equal(tx, "txId", proof.transaction_id, tx.id)?;
    let hash = ProofGenerator.hash_content(deliverable);
    equal(tx, "contentHash", proof.content_hash, hash)
}

fn same_agent(
    tx: &Transaction,
    field: &'static str,
    written: &WrittenDid,
    expected: Did,
) -> Result<()> {
    if written.is(expected) { Ok(()) } else { differing(tx, field, written, &expected) }
}

fn equal<T: PartialEq + ToString>(
    tx: &Transaction,
    field: &'static str,
    got: T,
    expected: T,
) -> Result<()> {
    if got == expected { Ok(()) } else { differing(tx, field, &got, &expected) }
}

fn differing(
    tx: &Transaction,
    field: &'static str,
    got: &impl ToString,
    expected: &impl ToString,
) -> Result<()> {
    let (got, expected) = (got.to_string(), expected.to_string());
    let message = format!("the delivery's {field} is {got}, and it should be {expected}");
    Err(VerificationError::Mismatch(differs(tx, field, got, message)))
}

fn differs(tx: &Transaction, field: &'static str, got: String, message: String) -> Box<Details> {
    let mut details = Details::new(message).hint(REFUSE_HINT).transaction(tx.id).field(field);
    (details.state, details.value) = (Some(tx.state), Some(got));
    details
}
