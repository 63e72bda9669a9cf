//! Who signs for an address: private keys, the keystores that hold them encrypted, and which of
//! them a network lets a client use.

mod keystore;
mod policy;
mod session;
mod signing;

use std::{any::Any, fmt, str::FromStr};

use alloy_consensus::SignableTransaction;
use alloy_network::TxSigner;
use alloy_primitives::{Address, B256, ChainId, Signature, hex};
use alloy_signer::Signer;
use async_trait::async_trait;
use k256::{ecdsa::SigningKey, elliptic_curve::zeroize::Zeroizing};

pub use self::policy::{
    KEY_PASSWORD_VARIABLE, KEYSTORE_VARIABLE, KeyEnvironment, KeySources, PRIVATE_KEY_VARIABLE,
    ResolvedKey, resolve_key,
};
pub(crate) use self::policy::{NO_KEY_HINT, admit};
pub use self::session::SessionKey;
use crate::error::{Code, Error, Result};

/// Whoever signs for an address: a [`PrivateKey`], or any signer of alloy (a hardware wallet, a
/// key service), which all are wallets.
pub trait Wallet: TxSigner<Signature> + Signer + Any + Send + Sync {}

impl<S: TxSigner<Signature> + Signer + Any + Send + Sync> Wallet for S {}

/// A password. It is wiped from memory when dropped, and `Debug` does not show it.
///
/// ```
/// use agirails::Password;
///
/// assert_eq!(format!("{:?}", Password::from("hunter2")), "Password(..)");
/// ```
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The password itself, for whoever opens a keystore with it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

/// Takes the text over: no copy of it stays behind.
impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// A secp256k1 private key. It is wiped from memory when dropped, and nothing ever shows it:
/// not `Debug`, not an error.
///
/// It remembers how it was kept, because mainnet takes no other than one out of a keystore
/// ([`PrivateKey::from_keystore`]) whose password is hard to guess.
///
/// ```
/// use agirails::PrivateKey;
///
/// // A published test key: never fund it.
/// let key: PrivateKey = format!("{:064x}", 1).parse()?;
/// assert_eq!(key.address().to_string(), "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf");
/// assert_eq!(format!("{key:?}"), "PrivateKey(0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf)");
/// # Ok::<(), agirails::Error>(())
/// ```
#[derive(Clone)]
pub struct PrivateKey {
    key: SigningKey,
    address: Address,
    protection: Protection,
}

/// How a key was kept before it came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    /// It was passed in the clear.
    InTheClear,
    /// In a keystore that is as good as open, and why.
    Weak(&'static str),
    /// In a keystore.
    Keystore,
}

impl PrivateKey {
    /// The address that this key signs for.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Whether it was passed in the clear, and not read from a keystore.
    pub const fn is_raw(&self) -> bool {
        matches!(self.protection, Protection::InTheClear)
    }

    /// A new key, from the operating system's random source.
    fn random() -> Result<Self> {
        // Nearly every 32 bytes are a key.
        for _ in 0..8 {
            let secret = Zeroizing::new(keystore::random::<32>()?);
            if let Ok(key) = Self::from_bytes(&secret, Protection::InTheClear) {
                return Ok(key);
            }
        }
        Err(Error::new(Code::Internal, "the operating system's random bytes are not random")
            .with_hint("without them no key is safe: repair the system's random source"))
    }

    /// # Errors
    /// The problem in words, where these bytes are no key.
    fn from_bytes(bytes: &[u8; 32], protection: Protection) -> Result<Self, &'static str> {
        let key = SigningKey::from_slice(bytes)
            .map_err(|_| "is zero or not below the order of the curve")?;
        Ok(Self { address: Address::from_private_key(&key), key, protection })
    }

    /// Signs a 32-byte hash, deterministically (RFC 6979) and with a low s.
    ///
    /// Pass the hash of something whose meaning is known, such as an EIP-712 signing hash: a
    /// signature over a stranger's hash can be a transaction.
    ///
    /// # Errors
    /// [`Code::InvalidSignature`] where the curve finds no signature, which no hash is known for.
    pub fn sign_hash(&self, hash: &B256) -> Result<Signature> {
        let (signature, parity) =
            self.key.sign_prehash_recoverable(hash.as_slice()).map_err(|error| {
                Error::new(Code::InvalidSignature, "the hash could not be signed")
                    .with_source(error)
            })?;
        Ok(Signature::from_signature_and_parity(signature, parity.is_y_odd()).normalized_s())
    }
}

/// Signs what a chain takes.
#[async_trait]
impl Signer for PrivateKey {
    async fn sign_hash(&self, hash: &B256) -> alloy_signer::Result<Signature> {
        Self::sign_hash(self, hash).map_err(alloy_signer::Error::other)
    }

    fn address(&self) -> Address {
        self.address
    }

    /// Bound to no chain: every transaction names its own.
    fn chain_id(&self) -> Option<ChainId> {
        None
    }

    fn set_chain_id(&mut self, _chain_id: Option<ChainId>) {}
}

/// Signs transactions.
#[async_trait]
impl TxSigner<Signature> for PrivateKey {
    fn address(&self) -> Address {
        self.address
    }

    async fn sign_transaction(
        &self,
        transaction: &mut dyn SignableTransaction<Signature>,
    ) -> alloy_signer::Result<Signature> {
        Self::sign_hash(self, &transaction.signature_hash()).map_err(alloy_signer::Error::other)
    }
}

/// Reads 64 hex digits, with or without `0x`.
///
/// # Errors
/// [`Code::InvalidPrivateKey`], which tells what is wrong and shows nothing of the text.
impl FromStr for PrivateKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // No source either: a hex error names the digit that it stumbled on.
        let refuse = |problem: &str| {
            Error::new(Code::InvalidPrivateKey, format!("the private key {problem}"))
                .with_hint(
                    "a private key is 64 hex digits, with or without 0x and nothing around them",
                )
                .with_facts(|facts| facts.field = Some("private key"))
        };
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.len() != 64 {
            return Err(refuse("does not have 64 hex digits"));
        }
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, bytes.as_mut_slice())
            .map_err(|_| refuse("has characters that are no hex digits"))?;
        Self::from_bytes(&bytes, Protection::InTheClear).map_err(refuse)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.address)
    }
}
