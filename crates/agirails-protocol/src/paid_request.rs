//! A paid request: what its sender signs, so that nobody else can spend the transaction.

use std::{fmt, str::FromStr};

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, eip712_domain};
use serde_json::{Value, json};

use crate::{
    TransactionId,
    canonical_json::agreement_hash,
    error::{Details, SignatureError},
    id::parse_address,
    target::canonical_target,
    wallet_signature::{Verdict, WalletSignature},
};

/// The header that names the transaction a request is paid with.
pub const TRANSACTION_HEADER: &str = "X-AGIRAILS-TX-ID";
/// The header that carries the requester's signature of a request.
pub const SIGNATURE_HEADER: &str = "X-AGIRAILS-SIGNATURE";
/// The header in which a wallet appoints the session key that signs the request in its place.
pub const SESSION_HEADER: &str = "X-AGIRAILS-SESSION";
/// The header that tells the calls of one transaction apart.
pub const IDEMPOTENCY_HEADER: &str = "Idempotency-Key";
/// The header that says what the call may take at most, in base units of USDC.
///
/// It is not signed: all that somebody on the way could do with it is to have the call refused.
pub const MAX_PRICE_HEADER: &str = "X-AGIRAILS-MAX-PRICE";
/// What an offer's `agreement` says where the transaction has to name the request that it pays for
/// ([`PaidRequest::agreement_hash`]).
pub const REQUEST_AGREEMENT: &str = "request";
/// How a paywall names its refusal of a call that costs more than that; it took nothing.
pub const PRICE_ABOVE_MAXIMUM: &str = "Price Above Maximum";
/// By how many seconds the clocks of signer and server may differ, either way.
pub const CLOCK_SKEW_SECONDS: u64 = 300;

/// What the [`SIGNATURE_HEADER`] looks like.
pub const SIGNATURE_FORM: &str = "t=<Unix seconds>,s=0x<signature in hex>";
/// What the [`SESSION_HEADER`] looks like.
pub const SESSION_FORM: &str =
    "k=0x<session key's address>,u=<Unix seconds>,s=0x<signature in hex>";

const DOMAIN_FIELDS: [(&str, &str); 4] = [
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
];
const REQUEST_FIELDS: [(&str, &str); 6] = [
    ("txId", "bytes32"),
    ("method", "string"),
    ("target", "string"),
    ("bodyHash", "bytes32"),
    ("idempotencyKey", "string"),
    ("timestamp", "uint256"),
];
const SESSION_FIELDS: [(&str, &str); 3] =
    [("txId", "bytes32"), ("key", "address"), ("validUntil", "uint256")];

/// The structs that are signed; their names and their fields' names go into the type hashes.
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

        struct Session {
            bytes32 txId;
            address key;
            uint256 validUntil;
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

    /// The agreement that a transaction names which pays for this request alone, as its `agreementHash`.
    /// Whose transaction, when and with which key do not matter.
    ///
    /// ```
    /// use agirails_protocol::{TransactionId, paid_request::PaidRequest};
    ///
    /// let paid = |id: u8, body: &[u8]| {
    ///     PaidRequest::new(TransactionId::repeat_byte(id), "POST", "/api/generate", body, id.into())
    /// };
    /// assert_eq!(paid(1, b"{}").agreement_hash(), paid(2, b"{}").agreement_hash());
    /// assert_ne!(paid(1, b"{}").agreement_hash(), paid(1, b"[]").agreement_hash());
    /// ```
    ///
    /// Source: AIP-14c, with `{"method", "target"}` as its request, `{"bodyHash"}` as its input, and an
    /// empty `sla`.
    pub fn agreement_hash(&self) -> B256 {
        let request = json!({"method": self.method, "target": self.target});
        let input = json!({"bodyHash": self.body_hash});
        // Only numbers can be no canonical JSON, and there are none.
        agreement_hash(&request, &input, &json!({})).unwrap_or_default()
    }

    /// The EIP-712 hash that is signed, for the kernel at this address of this chain.
    pub fn signing_hash(&self, chain_id: u64, kernel: Address) -> B256 {
        let signed = eip712::PaidRequest {
            txId: self.transaction_id,
            method: self.method.clone(),
            target: self.target.clone(),
            bodyHash: self.body_hash,
            idempotencyKey: self.idempotency_key.clone(),
            timestamp: U256::from(self.timestamp),
        };
        signed.eip712_signing_hash(&domain(chain_id, kernel))
    }

    /// The same as JSON, for wallets that sign by `eth_signTypedData_v4`.
    pub fn typed_data(&self, chain_id: u64, kernel: Address) -> Value {
        let message = json!({
            "txId": self.transaction_id,
            "method": self.method,
            "target": self.target,
            "bodyHash": self.body_hash,
            "idempotencyKey": self.idempotency_key,
            "timestamp": self.timestamp.to_string(),
        });
        typed_data("PaidRequest", &REQUEST_FIELDS, message, chain_id, kernel)
    }

    /// What the [`SIGNATURE_HEADER`] holds, given the signature of [`Self::signing_hash`].
    pub fn signed(&self, signature: impl Into<WalletSignature>) -> RequestSignature {
        RequestSignature { timestamp: self.timestamp, signature: signature.into() }
    }
}

/// What the [`SIGNATURE_HEADER`] holds: `t=<Unix seconds>,s=0x<signature in hex>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSignature {
    /// When it was signed, Unix seconds.
    pub timestamp: u64,
    /// By whom, [`Self::verdict`] tells.
    pub signature: WalletSignature,
}

impl RequestSignature {
    /// Whether this request comes from its transaction's requester: signed by it, or by a session
    /// key that it appointed. The request's timestamp is taken from the signature.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`] where neither a key nor a contract can have made it true.
    pub fn verdict(
        &self,
        request: &PaidRequest,
        session: Option<&SignedSession>,
        requester: Address,
        chain_id: u64,
        kernel: Address,
    ) -> Result<Verdict, SignatureError> {
        let request = PaidRequest { timestamp: self.timestamp, ..request.clone() };
        let hash = request.signing_hash(chain_id, kernel);
        let Some(SignedSession { key, valid_until, signature }) = session else {
            return Ok(self.signature.verdict(requester, hash));
        };
        if self.timestamp > *valid_until {
            let message = format!("the session key {key} was valid until {valid_until}");
            return Err(SignatureError::Invalid(Details::new(message)));
        }
        if self.signature.recover(hash) != Some(*key) {
            let message = format!("the session key {key} did not sign the request");
            return Err(SignatureError::Invalid(Details::new(message)));
        }
        let session = Session {
            transaction_id: request.transaction_id,
            key: *key,
            valid_until: *valid_until,
        };
        Ok(signature.verdict(requester, session.signing_hash(chain_id, kernel)))
    }
}

/// The header's text: `t=<Unix seconds>,s=0x<signature in hex>`.
impl fmt::Display for RequestSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timestamp, signature } = self;
        write!(f, "t={timestamp},s={signature}")
    }
}

impl FromStr for RequestSignature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let read = || {
            let (timestamp, signature) = text.strip_prefix("t=")?.split_once(",s=")?;
            Some((read_number(timestamp)?, signature))
        };
        let (timestamp, signature) =
            read().ok_or_else(|| malformed(SIGNATURE_HEADER, text, SIGNATURE_FORM))?;
        Ok(Self { timestamp, signature: signature.parse()? })
    }
}

/// A key that a wallet appoints to sign the calls of one transaction in its place.
///
/// A wallet that asks a person for every signature, or whose contract has to be asked on chain,
/// signs this once. The session key can make calls with the transaction and close it, and nothing
/// else; its transaction's money goes to the provider or back to the requester, whatever it signs.
///
/// Source: EIP-712, in the domain of the paid requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// The session key's address.
    pub key: Address,
    /// The last Unix second in which it may sign.
    pub valid_until: u64,
}

impl Session {
    /// The EIP-712 hash that the wallet signs, for the kernel at this address of this chain.
    pub fn signing_hash(&self, chain_id: u64, kernel: Address) -> B256 {
        let session = eip712::Session {
            txId: self.transaction_id,
            key: self.key,
            validUntil: U256::from(self.valid_until),
        };
        session.eip712_signing_hash(&domain(chain_id, kernel))
    }

    /// The same as JSON, for wallets that sign by `eth_signTypedData_v4`.
    pub fn typed_data(&self, chain_id: u64, kernel: Address) -> Value {
        let message = json!({
            "txId": self.transaction_id,
            "key": self.key,
            "validUntil": self.valid_until.to_string(),
        });
        typed_data("Session", &SESSION_FIELDS, message, chain_id, kernel)
    }

    /// What the [`SESSION_HEADER`] holds, given the wallet's signature of [`Self::signing_hash`].
    pub fn signed(&self, signature: WalletSignature) -> SignedSession {
        SignedSession { key: self.key, valid_until: self.valid_until, signature }
    }
}

/// What the [`SESSION_HEADER`] holds: `k=0x<address>,u=<Unix seconds>,s=0x<signature in hex>`. Its
/// transaction is the request's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedSession {
    /// The session key's address.
    pub key: Address,
    /// The last Unix second in which it may sign.
    pub valid_until: u64,
    /// The wallet's signature of the [`Session`].
    pub signature: WalletSignature,
}

/// The header's text.
impl fmt::Display for SignedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, valid_until, signature } = self;
        write!(f, "k={key:#x},u={valid_until},s={signature}")
    }
}

impl FromStr for SignedSession {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let read = || {
            let (key, rest) = text.strip_prefix("k=")?.split_once(",u=")?;
            let (valid_until, signature) = rest.split_once(",s=")?;
            Some((parse_address("key", key).ok()?, read_number(valid_until)?, signature))
        };
        let (key, valid_until, signature) =
            read().ok_or_else(|| malformed(SESSION_HEADER, text, SESSION_FORM))?;
        Ok(Self { key, valid_until, signature: signature.parse()? })
    }
}

fn malformed(header: &'static str, text: &str, form: &str) -> SignatureError {
    SignatureError::Invalid(
        Details::invalid(header, text, &format!("must be {form}"))
            .hint("write the header as sign_request and SessionKey do"),
    )
}

/// Digits alone: `str::parse` would take `+1`.
fn read_number(digits: &str) -> Option<u64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

fn domain(chain_id: u64, kernel: Address) -> Eip712Domain {
    eip712_domain! {
        name: "AGIRAILS",
        version: "1",
        chain_id: chain_id,
        verifying_contract: kernel,
    }
}

/// Names and types of a struct's fields, in their order.
type Fields = [(&'static str, &'static str)];

/// What a wallet is asked by `eth_signTypedData_v4`.
fn typed_data(
    primary_type: &str,
    fields: &Fields,
    message: Value,
    chain_id: u64,
    kernel: Address,
) -> Value {
    let listed = |fields: &Fields| -> Value {
        fields.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect()
    };
    json!({
        "domain": {
            "name": "AGIRAILS",
            "version": "1",
            "chainId": chain_id,
            "verifyingContract": kernel,
        },
        "types": {"EIP712Domain": listed(&DOMAIN_FIELDS), primary_type: listed(fields)},
        "primaryType": primary_type,
        "message": message,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_typed_data_is_what_is_hashed() {
        let type_of = |primary: &str, fields: &Fields| {
            let fields: Vec<_> =
                fields.iter().map(|(name, kind)| format!("{kind} {name}")).collect();
            format!("{primary}({})", fields.join(","))
        };
        let request = type_of("PaidRequest", &REQUEST_FIELDS);
        assert_eq!(eip712::PaidRequest::eip712_encode_type(), request);
        let session = type_of("Session", &SESSION_FIELDS);
        assert_eq!(eip712::Session::eip712_encode_type(), session);
    }

    #[test]
    fn a_session_key_signs_for_one_transaction_until_its_time() {
        // Where r is a point's x, a signature recovers to somebody, whatever was signed: that
        // somebody is the key, or the requester.
        let mut signatures = (1..=u8::MAX).filter_map(|byte| {
            let bytes = [[byte; 32].as_slice(), &[1; 32], &[27]].concat();
            let signature = WalletSignature::from_bytes(bytes).unwrap();
            signature.recover(B256::ZERO).map(|_| signature)
        });
        let mut signature = || signatures.next().unwrap();
        let (chain_id, kernel) = (8453, Address::repeat_byte(7));
        let request = PaidRequest::new([1; 32].into(), "POST", "/a", b"{}", 100);
        let signed = request.signed(signature());
        let key = signed.signature.recover(request.signing_hash(chain_id, kernel)).unwrap();
        let session = Session { transaction_id: request.transaction_id, key, valid_until: 100 };
        let granted = session.signed(signature());
        let wallet = granted.signature.recover(session.signing_hash(chain_id, kernel)).unwrap();
        assert_eq!(granted.to_string().parse::<SignedSession>().unwrap(), granted);

        let verdict = |signed: &RequestSignature, request: &PaidRequest, session, wallet| {
            signed.verdict(request, session, wallet, chain_id, kernel)
        };
        assert_eq!(verdict(&signed, &request, Some(&granted), wallet), Ok(Verdict::Signed));
        // Not the appointed key itself, and not without being appointed.
        let own = verdict(&signed, &request, Some(&granted), key).unwrap();
        assert!(matches!(own, Verdict::AskContract(_)), "{own:?}");
        let alone = verdict(&signed, &request, None, wallet).unwrap();
        assert!(matches!(alone, Verdict::AskContract(_)), "{alone:?}");
        // A second too late, and for another request.
        let late = RequestSignature { timestamp: 101, ..signed.clone() };
        verdict(&late, &request, Some(&granted), wallet).unwrap_err();
        let other = PaidRequest { target: "/b".to_owned(), ..request.clone() };
        verdict(&signed, &other, Some(&granted), wallet).unwrap_err();
        // A longer session, or another transaction's, is not what the wallet signed.
        let longer = SignedSession { valid_until: 101, ..granted.clone() };
        let asked = verdict(&signed, &request, Some(&longer), wallet).unwrap();
        assert!(matches!(asked, Verdict::AskContract(_)), "{asked:?}");
    }

    #[test]
    fn a_malformed_header_is_refused_by_name() {
        let long = "t=1,s=0x".to_owned() + &"00".repeat(10_000_000);
        let plus = format!("t=+1,s=0x{}", "11".repeat(65));
        for text in ["", "k=,u=,s=", "k=0x00,u=1,s=0x00", &long] {
            let error = text.parse::<SignedSession>().unwrap_err();
            assert!(error.to_string().len() < 400, "{error}");
        }
        for text in ["", "t=,s=0x", "t=1", "0x00", "t=1,s=0x00", &long, &plus] {
            let error = text.parse::<RequestSignature>().unwrap_err();
            assert!(error.to_string().len() < 400, "{}", error.to_string().len());
        }
    }
}
