//! Session keys: a wallet signs once, and a key of this process signs the calls.

use super::PrivateKey;
use crate::{
    error::Result,
    protocol::{
        Address, TransactionId,
        paid_request::{PaidRequest, Session},
        wallet_signature::WalletSignature,
    },
};

/// A key that signs the calls of one transaction in its requester's place.
///
/// For wallets that cannot sign every call: a contract, which the paywall has to ask on chain, or one
/// that asks a person. The wallet signs [`Self::session`] once; the paywall asks the chain about that
/// once. Whoever gets the key can make calls with this transaction until its time, and nothing else.
///
/// ```
/// use agirails::{Address, PrivateKey, SessionKey, protocol::paid_request::PaidRequest};
///
/// // A published test key in the wallet's place: never fund it.
/// let wallet: PrivateKey = format!("{:064x}", 1).parse()?;
/// let (chain_id, kernel, id) = (8453, Address::repeat_byte(7), [1; 32].into());
///
/// let key = SessionKey::random(id, 1_780_003_600)?;
/// // Any wallet signs `key.session().typed_data(chain_id, kernel)` by eth_signTypedData_v4.
/// let signature = wallet.sign_hash(&key.session().signing_hash(chain_id, kernel))?.into();
///
/// let request = PaidRequest::new(id, "POST", "/api/generate", b"{}", 1_780_000_000);
/// let headers = [
///     ("X-AGIRAILS-TX-ID", id.to_string()),
///     ("X-AGIRAILS-SESSION", key.appointed(signature)),
///     ("X-AGIRAILS-SIGNATURE", key.sign_request(&request, chain_id, kernel)?),
/// ];
/// # drop(headers);
/// # Ok::<(), agirails::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SessionKey {
    key: PrivateKey,
    transaction_id: TransactionId,
    valid_until: u64,
}

impl SessionKey {
    /// A new key for the calls of this transaction, which signs up to this Unix second.
    ///
    /// # Errors
    /// [`crate::Code::Internal`] where the operating system gives no random bytes.
    pub fn random(transaction_id: TransactionId, valid_until: u64) -> Result<Self> {
        Ok(Self::of(PrivateKey::random()?, transaction_id, valid_until))
    }

    /// A key that was kept: what the wallet signed for it stays good in other processes.
    pub const fn of(key: PrivateKey, transaction_id: TransactionId, valid_until: u64) -> Self {
        Self { key, transaction_id, valid_until }
    }

    /// The key's address.
    pub const fn address(&self) -> Address {
        self.key.address()
    }

    /// What the wallet signs.
    pub const fn session(&self) -> Session {
        Session {
            transaction_id: self.transaction_id,
            key: self.key.address(),
            valid_until: self.valid_until,
        }
    }

    /// The header [`SESSION_HEADER`](crate::protocol::paid_request::SESSION_HEADER) of every call,
    /// given the wallet's signature of [`Self::session`].
    pub fn appointed(&self, signature: WalletSignature) -> String {
        self.session().signed(signature).to_string()
    }

    /// The header [`SIGNATURE_HEADER`](crate::protocol::paid_request::SIGNATURE_HEADER) of a call.
    ///
    /// # Errors
    /// As [`PrivateKey::sign_request`].
    pub fn sign_request(
        &self,
        request: &PaidRequest,
        chain_id: u64,
        kernel: Address,
    ) -> Result<String> {
        self.key.sign_request(request, chain_id, kernel)
    }
}
