//! What a wallet signs of the protocol: deliveries and paid requests. The protocol makes the
//! hashes, the wallet signs them.

use std::any::Any;

use alloy_primitives::{Address, B256, Signature};
use alloy_signer::Signer;

use super::{PrivateKey, Wallet};
use crate::{
    error::{Code, Error, Result},
    protocol::{
        paid_request::{PaidRequest, Session},
        proof::{DeliveryMessage, SignedDelivery},
        wallet_signature::WalletSignature,
    },
};

impl PrivateKey {
    /// Signs a delivery message for the kernel at this address (AIP-4).
    ///
    /// # Errors
    /// [`Code::KeyMismatch`] where the key is not the provider's; [`Code::InvalidProof`] where a
    /// DID is on another chain than the message, which no one would accept.
    ///
    /// ```
    /// use agirails::{Address, B256, PrivateKey, protocol::proof::DeliveryMessage};
    /// use serde_json::json;
    ///
    /// # let zero = B256::ZERO;
    /// # let kernel = Address::repeat_byte(7);
    /// let message = DeliveryMessage::from_json(&json!({
    ///     "type": "agirails.delivery.v1",
    ///     "version": "1.0.0",
    ///     "txId": zero,
    ///     "provider": "did:ethr:84532:0x7e5f4552091a69125d5dfcb7b8c2659029395bdf",
    ///     "consumer": "did:ethr:84532:0x2b5ad5c4795c026514f8317c7a215e218dccd6cf",
    ///     "resultCID": "",
    ///     "resultHash": zero,
    ///     "easAttestationUID": zero,
    ///     "deliveredAt": 1_780_000_000,
    ///     "chainId": 84532,
    ///     "nonce": 1,
    /// }))?;
    /// // A published test key: never fund it.
    /// let key: PrivateKey = format!("{:064x}", 1).parse()?;
    /// let signed = key.sign_delivery(message, kernel)?;
    /// signed.verify(kernel)?;
    /// assert_eq!(signed.recover(kernel)?, key.address());
    /// # Ok::<(), agirails::Error>(())
    /// ```
    pub fn sign_delivery(
        &self,
        message: DeliveryMessage,
        kernel: Address,
    ) -> Result<SignedDelivery> {
        let signature = self.sign_hash(&message.hash_to_sign(self.address, kernel)?)?;
        Ok(SignedDelivery { message, signature })
    }

    /// Signs a paid request for the kernel at this address of this chain, and writes the header
    /// [`SIGNATURE_HEADER`](crate::protocol::paid_request::SIGNATURE_HEADER).
    ///
    /// # Errors
    /// As [`Self::sign_hash`].
    ///
    /// ```
    /// use agirails::{Address, PrivateKey, protocol::paid_request::{PaidRequest, RequestSignature}};
    /// use agirails::protocol::wallet_signature::Verdict;
    ///
    /// // A published test key: never fund it.
    /// let key: PrivateKey = format!("{:064x}", 1).parse()?;
    /// let kernel = Address::repeat_byte(7);
    /// let request = PaidRequest::new([1; 32].into(), "POST", "/api/generate", b"{}", 1_780_000_000);
    /// let header = key.sign_request(&request, 8453, kernel)?;
    ///
    /// let signature: RequestSignature = header.parse()?;
    /// assert_eq!(signature.timestamp, request.timestamp);
    /// let verdict = signature.verdict(&request, None, key.address(), 8453, kernel)?;
    /// assert_eq!(verdict, Verdict::Signed);
    /// # Ok::<(), agirails::Error>(())
    /// ```
    pub fn sign_request(
        &self,
        request: &PaidRequest,
        chain_id: u64,
        kernel: Address,
    ) -> Result<String> {
        let signature = self.sign_hash(&request.signing_hash(chain_id, kernel))?;
        Ok(request.signed(signature).to_string())
    }
}

impl dyn Wallet {
    /// [`PrivateKey::sign_delivery`] with any wallet.
    ///
    /// # Errors
    /// As there, and [`Code::InvalidSignature`] where the wallet gives no signature, or another
    /// key's.
    pub async fn sign_delivery(
        &self,
        message: DeliveryMessage,
        kernel: Address,
    ) -> Result<SignedDelivery> {
        let any: &dyn Any = self;
        if let Some(key) = any.downcast_ref::<PrivateKey>() {
            // It signs what it is given; others are checked, which takes longer than signing.
            return key.sign_delivery(message, kernel);
        }
        let hash = message.hash_to_sign(Signer::address(self), kernel)?;
        let signature = self.sign_digest(&hash).await?.normalized_s();
        let signed = SignedDelivery { message, signature };
        signed.verify(kernel)?;
        Ok(signed)
    }

    /// [`PrivateKey::sign_request`] with any wallet.
    ///
    /// # Errors
    /// [`Code::InvalidSignature`] where the wallet gives no signature.
    pub async fn sign_request(
        &self,
        request: &PaidRequest,
        chain_id: u64,
        kernel: Address,
    ) -> Result<String> {
        let signature = self.sign_digest(&request.signing_hash(chain_id, kernel)).await?;
        Ok(request.signed(signature).to_string())
    }

    /// Appoints a session key, for the kernel at this address of this chain.
    ///
    /// # Errors
    /// [`Code::InvalidSignature`] where the wallet gives no signature.
    pub async fn sign_session(
        &self,
        session: &Session,
        chain_id: u64,
        kernel: Address,
    ) -> Result<WalletSignature> {
        self.sign_digest(&session.signing_hash(chain_id, kernel)).await.map(Into::into)
    }

    async fn sign_digest(&self, digest: &B256) -> Result<Signature> {
        Signer::sign_hash(self, digest).await.map_err(|error| {
            Error::new(Code::InvalidSignature, "the wallet signed nothing")
                .with_hint("see to the wallet, and call again: nothing was sent")
                .with_source(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{paid_request::RequestSignature, wallet_signature::Verdict};

    #[test]
    fn every_field_is_signed() {
        let key: PrivateKey = format!("{:064x}", 1).parse().unwrap();
        let kernel = Address::repeat_byte(7);
        let request = PaidRequest::new([1; 32].into(), "post", "/a?b=c", b"body", 5);
        let header = key.sign_request(&request, 1, kernel).unwrap();
        let signature: RequestSignature = header.parse().unwrap();
        let is_signed = |signature: &RequestSignature, request: &PaidRequest, chain_id| {
            let verdict = signature.verdict(request, None, key.address(), chain_id, kernel);
            verdict.unwrap() == Verdict::Signed
        };
        assert!(is_signed(&signature, &request, 1));
        let changed = [
            PaidRequest { transaction_id: [2; 32].into(), ..request.clone() },
            PaidRequest { method: "PUT".to_owned(), ..request.clone() },
            PaidRequest { target: "/a".to_owned(), ..request.clone() },
            PaidRequest { body_hash: B256::ZERO, ..request.clone() },
            PaidRequest { idempotency_key: "1".to_owned(), ..request.clone() },
        ];
        for other in changed {
            assert!(!is_signed(&signature, &other, 1), "{other:?}");
        }
        assert!(!is_signed(&signature, &request, 2));
        let later = RequestSignature { timestamp: 6, ..signature.clone() };
        assert!(!is_signed(&later, &request, 1));
    }
}
