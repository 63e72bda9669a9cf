//! The signature of a wallet: a key's 65 bytes, or what a wallet's contract takes for its own.

use std::{fmt, str::FromStr};

use alloy_primitives::{Address, B256, Bytes, Signature, hex};

use crate::error::{Details, SignatureError};

/// The longest signature that is read, bytes: a contract's by a passkey, in an ERC-6492 envelope,
/// has some 1,300, and servers take few kilobytes of headers.
pub const LONGEST_SIGNATURE: usize = 2_048;
const KEY_LENGTH: usize = 65;

/// A signature as its wallet gave it.
///
/// 65 bytes are `r ‖ s ‖ v`, with a low s: of a high one anybody could make a second signature.
/// Only the wallet's contract knows what more bytes mean (EIP-1271, ERC-6492).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletSignature(Bytes);

/// Who can say whether a signature is a wallet's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The key of the wallet's own address made it.
    Signed,
    /// That key did not. Where the wallet is a contract, it may be its signature all the same:
    /// ask it.
    AskContract(ContractQuestion),
}

/// What a wallet's contract is asked: `isValidSignature(hash, signature)`.
///
/// Source: EIP-1271; ERC-6492 where the signature says how the contract is deployed first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContractQuestion {
    /// The wallet.
    pub wallet: Address,
    /// The hash that was signed.
    pub hash: B256,
    /// The signature.
    pub signature: Bytes,
}

impl WalletSignature {
    /// Who can say whether this wallet signed this hash.
    pub fn verdict(&self, wallet: Address, hash: B256) -> Verdict {
        match self.recover(hash) {
            Some(signer) if signer == wallet => Verdict::Signed,
            _ => Verdict::AskContract(ContractQuestion { wallet, hash, signature: self.0.clone() }),
        }
    }

    /// The address whose key made it; `None` where no key did.
    pub fn recover(&self, hash: B256) -> Option<Address> {
        let signature = key_signature(&self.0).ok()?;
        signature.recover_address_from_prehash(&hash).ok()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes a signature as bytes.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`] for fewer than 65 bytes or more than [`LONGEST_SIGNATURE`], and
    /// for 65 that are no key's.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, SignatureError> {
        let bytes: Bytes = bytes.into();
        let problem = match bytes.len() {
            KEY_LENGTH => match key_signature(&bytes) {
                Ok(_) => return Ok(Self(bytes)),
                Err(problem) => problem,
            },
            0..KEY_LENGTH => "must have at least 65 bytes",
            length if length <= LONGEST_SIGNATURE => return Ok(Self(bytes)),
            _ => "must have at most 2048 bytes",
        };
        Err(SignatureError::Invalid(
            Details::invalid("signature", &hex::encode_prefixed(&bytes), problem)
                .hint("pass the bytes that the wallet returned for its typed data"),
        ))
    }
}

fn key_signature(bytes: &[u8]) -> Result<Signature, &'static str> {
    let signature =
        Signature::from_raw(bytes).map_err(|_| "must end in a recovery id, 27 or 28")?;
    match signature.normalize_s() {
        Some(_) => Err("must have a low s: anybody can make a high one from the signer's own"),
        None => Ok(signature),
    }
}

/// With its s made low, which is the same signer's.
impl From<Signature> for WalletSignature {
    fn from(signature: Signature) -> Self {
        Self(signature.normalized_s().as_bytes().to_vec().into())
    }
}

/// `0x` and hex digits.
impl fmt::Display for WalletSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_prefixed(&self.0))
    }
}

/// Reads `0x` and hex digits.
///
/// # Errors
/// As [`WalletSignature::from_bytes`].
impl FromStr for WalletSignature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let wrong = |problem: &str| {
            SignatureError::Invalid(
                Details::invalid("signature", text, problem)
                    .hint("a signature is 0x and hex digits: 65 bytes, or a contract wallet's"),
            )
        };
        let digits = text.strip_prefix("0x").ok_or_else(|| wrong("must begin with 0x"))?;
        // Before anything is decoded: whoever sends it may send megabytes.
        if digits.len() > 2 * LONGEST_SIGNATURE {
            return Err(wrong("must have at most 2048 bytes"));
        }
        // Digits alone: the decoder would pass over a second prefix.
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong("must be hex digits"));
        }
        let bytes = hex::decode(digits).map_err(|_| wrong("must be whole bytes in hex"))?;
        Self::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_primitives::{U256, hex};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sixty_five_bytes_are_a_keys_and_more_are_a_contracts() {
        let key = |s: U256, v: u8| {
            let bytes = [B256::repeat_byte(7).0.as_slice(), &s.to_be_bytes::<32>(), &[v]].concat();
            WalletSignature::from_bytes(bytes)
        };
        let hash = B256::repeat_byte(1);
        let signature = key(U256::from(5), 27).unwrap();
        let signer = signature.recover(hash).unwrap();
        assert_eq!(signature.verdict(signer, hash), Verdict::Signed);
        let Verdict::AskContract(question) = signature.verdict(Address::ZERO, hash) else {
            panic!("the zero address signed")
        };
        assert_eq!((question.wallet, question.hash), (Address::ZERO, hash));
        assert_eq!(&question.signature[..], signature.as_bytes());

        for (s, v) in [(U256::MAX, 27), (U256::from(5), 29)] {
            key(s, v).unwrap_err();
        }
        let contracts = WalletSignature::from_bytes(vec![3; 66]).unwrap();
        assert_eq!(contracts.recover(hash), None);
        assert_eq!(contracts.to_string().parse::<WalletSignature>().unwrap(), contracts);
    }

    /// Who signed, by a second library that shares no code with the one that recovers here.
    fn by_k256(bytes: &[u8], hash: B256) -> Option<Address> {
        let signature = key_signature(bytes).ok()?;
        let key = signature.recover_from_prehash(&hash).ok()?;
        Some(Address::from_public_key(&key))
    }

    #[test]
    fn the_edges_of_the_curve_are_as_another_library_has_them() {
        // The order of the group, the field's prime, and what lies around them.
        let order = U256::from_be_bytes(hex!(
            "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
        ));
        let prime = U256::from_be_bytes(hex!(
            "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f"
        ));
        let half = order >> 1;
        let one = U256::from(1);
        let edges = [
            U256::ZERO,
            one,
            U256::from(2),
            half - one,
            half,
            half + one,
            order - one,
            order,
            order + one,
            prime - one,
            prime,
            U256::MAX,
        ];
        let hashes = [U256::ZERO, one, order - one, order, order + one, U256::MAX].map(B256::from);
        let mut recovered = 0;
        for (r, s) in edges.into_iter().flat_map(|r| edges.map(|s| (r, s))) {
            for v in [0, 1, 2, 3, 4, 26, 27, 28, 29, 35, 36, 255] {
                let bytes = [&r.to_be_bytes::<32>()[..], &s.to_be_bytes::<32>(), &[v]].concat();
                for hash in hashes {
                    let signer = WalletSignature::from_bytes(bytes.clone())
                        .ok()
                        .and_then(|signature| signature.recover(hash));
                    assert_eq!(signer, by_k256(&bytes, hash), "{r} {s} {v} {hash}");
                    recovered += usize::from(signer.is_some());
                    let is_outside = r.is_zero() || r >= order || s.is_zero() || s > half;
                    assert!(!(is_outside && signer.is_some()), "{r} {s} {v} {hash}");
                }
            }
        }
        assert!(recovered > 0);
    }

    proptest! {
        #[test]
        fn two_libraries_recover_the_same_signer(
            r in any::<[u8; 32]>(), s in any::<[u8; 32]>(), v in 27..29_u8, hash in any::<[u8; 32]>(),
        ) {
            // A high s is refused before it is recovered.
            let s = U256::from_be_bytes(s).wrapping_shr(1);
            let bytes = [&r[..], &s.to_be_bytes::<32>(), &[v]].concat();
            let signature = WalletSignature::from_bytes(bytes.clone()).ok();
            let signer = signature.and_then(|signature| signature.recover(hash.into()));
            prop_assert_eq!(signer, by_k256(&bytes, hash.into()));
        }
    }

    #[test]
    fn what_is_no_signature_is_refused_in_few_words() {
        let long = format!("0x{}", "00".repeat(10_000_000));
        let wrong = ["", "0x", "0x00", "0x0", "00", "0x0x00", &long, &"0".repeat(2 * 66)];
        let digits = format!("0x{}", "zz".repeat(66));
        for text in wrong.into_iter().chain([digits.as_str()]) {
            let error = text.parse::<WalletSignature>().unwrap_err();
            assert!(error.to_string().len() < 400, "{error}");
        }
    }
}
