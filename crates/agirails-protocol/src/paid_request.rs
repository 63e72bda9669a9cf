//! A paid request: what its sender signs, so that nobody else can spend the transaction.

use std::{fmt, str::FromStr};

use alloy_primitives::{Address, B256, Signature, U256, hex, keccak256};
use alloy_sol_types::{SolStruct, eip712_domain};

use crate::{
    TransactionId,
    error::{Details, SignatureError},
    target::canonical_target,
};

/// The header that names the transaction a request is paid with.
pub const TRANSACTION_HEADER: &str = "X-AGIRAILS-TX-ID";
/// The header that carries the requester's signature of a request.
pub const SIGNATURE_HEADER: &str = "X-AGIRAILS-SIGNATURE";
/// The header that tells the calls of one transaction apart.
pub const IDEMPOTENCY_HEADER: &str = "Idempotency-Key";
/// The header that says what the call may take at most, in base units of USDC.
///
/// It is not signed: all that somebody on the way could do with it is to have the call refused.
pub const MAX_PRICE_HEADER: &str = "X-AGIRAILS-MAX-PRICE";
/// How a paywall names its refusal of a call that costs more than that; it took nothing.
pub const PRICE_ABOVE_MAXIMUM: &str = "Price Above Maximum";
/// By how many seconds the clocks of signer and server may differ, either way.
pub const CLOCK_SKEW_SECONDS: u64 = 300;

const HEADER_HINT: &str = "the header is t=<Unix seconds>,s=0x<65 bytes in hex>";

/// The struct that is signed; its name and its fields' names go into the type hash.
mod eip712 {
    alloy_sol_types::sol! {
        struct PaidRequest {
            bytes32 txId;
            string method;
            string target;
            bytes32 bodyHash;
            string idempotencyKey;
            uint256 timestamp;
        }
    }
}

/// One HTTP request and the transaction that pays for it, as the transaction's requester signs it.
///
/// A transaction id stands on a public chain before the call is made, so knowing it proves
/// nothing; this signature proves that the request comes from who paid.
///
/// Source: EIP-712, in the domain of the AIP-4 delivery messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidRequest {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// The HTTP method in upper case.
    pub method: String,
    /// Path and query in their canonical form ([`canonical_target`]).
    pub target: String,
    /// keccak256 of the body's bytes.
    pub body_hash: B256,
    /// The `Idempotency-Key` header, empty where there is none.
    pub idempotency_key: String,
    /// When it was signed, Unix seconds.
    pub timestamp: u64,
}

impl PaidRequest {
    /// A request with this body and without an idempotency key. The target is brought into its
    /// canonical form.
    pub fn new(
        transaction_id: TransactionId,
        method: &str,
        target: &str,
        body: &[u8],
        timestamp: u64,
    ) -> Self {
        Self {
            transaction_id,
            method: method.to_ascii_uppercase(),
            target: canonical_target(target),
            body_hash: keccak256(body),
            idempotency_key: String::new(),
            timestamp,
        }
    }

    /// The EIP-712 hash that is signed, for the kernel at this address of this chain.
    pub fn signing_hash(&self, chain_id: u64, kernel: Address) -> B256 {
        let domain = eip712_domain! {
            name: "AGIRAILS",
            version: "1",
            chain_id: chain_id,
            verifying_contract: kernel,
        };
        let signed = eip712::PaidRequest {
            txId: self.transaction_id,
            method: self.method.clone(),
            target: self.target.clone(),
            bodyHash: self.body_hash,
            idempotencyKey: self.idempotency_key.clone(),
            timestamp: U256::from(self.timestamp),
        };
        signed.eip712_signing_hash(&domain)
    }

    /// What the [`SIGNATURE_HEADER`] holds, given the signature of [`Self::signing_hash`].
    pub fn signed(&self, signature: Signature) -> RequestSignature {
        RequestSignature { timestamp: self.timestamp, signature: signature.normalized_s() }
    }
}

/// What the [`SIGNATURE_HEADER`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSignature {
    /// When it was signed, Unix seconds.
    pub timestamp: u64,
    /// By whom, [`Self::recover`] tells.
    pub signature: Signature,
}

impl RequestSignature {
    /// Who signed this request. Its timestamp is taken from the signature.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`] where no key can have made it.
    pub fn recover(
        &self,
        request: &PaidRequest,
        chain_id: u64,
        kernel: Address,
    ) -> Result<Address, SignatureError> {
        let request = PaidRequest { timestamp: self.timestamp, ..request.clone() };
        let hash = request.signing_hash(chain_id, kernel);
        self.signature.recover_address_from_prehash(&hash).map_err(|error| {
            let message = "no key can have made the request's signature";
            SignatureError::Invalid(Details::new(message).source(error))
        })
    }
}

/// The header's text: `t=<Unix seconds>,s=0x<65 bytes in hex>`.
impl fmt::Display for RequestSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timestamp, signature } = self;
        write!(f, "t={timestamp},s={}", hex::encode_prefixed(signature.as_bytes()))
    }
}

impl FromStr for RequestSignature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let refuse = |problem: &str| {
            SignatureError::Invalid(
                Details::invalid(SIGNATURE_HEADER, text, problem).hint(HEADER_HINT),
            )
        };
        let (timestamp, signature) = text
            .strip_prefix("t=")
            .and_then(|rest| rest.split_once(",s=0x"))
            .ok_or_else(|| refuse("must be the signature of a request"))?;
        if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse("has no Unix time in it"));
        }
        let timestamp = timestamp.parse().map_err(|_| refuse("has no Unix time in it"))?;
        let mut bytes = [0; 65];
        hex::decode_to_slice(signature, &mut bytes)
            .map_err(|_| refuse("does not hold 65 bytes in hex"))?;
        let signature = Signature::from_raw_array(&bytes)
            .map_err(|_| refuse("does not end in a recovery id"))?;
        if signature.normalize_s().is_some() {
            return Err(refuse("has a high s, which anybody can make from the signer's own"));
        }
        Ok(Self { timestamp, signature })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_malformed_header_is_refused_by_name() {
        let long = "t=1,s=0x".to_owned() + &"00".repeat(10_000_000);
        let plus = format!("t=+1,s=0x{}", "11".repeat(65));
        for text in ["", "t=,s=0x", "t=1", "0x00", "t=1,s=0x00", &long, &plus] {
            let error = text.parse::<RequestSignature>().unwrap_err();
            assert!(error.to_string().len() < 400, "{}", error.to_string().len());
        }
    }
}
