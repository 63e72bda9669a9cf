//! The one error of this crate: what happened, to what, and what to do now.

use std::{error::Error as StdError, fmt, path::Path};

use alloy_primitives::{B256, Bytes};

pub use crate::protocol::{Kind, Retry};
use crate::protocol::{
    Refusal, State, Transaction, Usdc,
    error::{
        Details, EvidenceError, JsonError, ParseError, ProofError, SignatureError, SigningError,
        VerificationError,
    },
    text,
};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One row per code that is not a refusal: its stable name, its family, whether the same call
/// can succeed later, and what it means.
macro_rules! codes {
    ($($variant:ident, $name:literal, $kind:ident, $retry:ident, $meaning:literal;)*) => {
        /// What went wrong, one value per case. [`Code::as_str`] never changes between releases.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            /// The protocol refused; the words are the contract's.
            Refused(Refusal),
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code that is not a refusal.
            pub const LOCAL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name, such as `invalid_address` or `deadline_too_far`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Refused(refusal) => refusal.code(),
                    $(Self::$variant => $name,)*
                }
            }

            /// What it means; for a refusal the contract's words.
            pub const fn meaning(self) -> &'static str {
                match self {
                    Self::Refused(refusal) => refusal.words(),
                    $(Self::$variant => $meaning,)*
                }
            }

            /// The family this code belongs to.
            pub const fn kind(self) -> Kind {
                match self {
                    Self::Refused(refusal) => refusal.kind(),
                    $(Self::$variant => Kind::$kind,)*
                }
            }

            /// Whether the same call can succeed later.
            pub const fn retry(self) -> Retry {
                match self {
                    Self::Refused(refusal) => refusal.retry(),
                    $(Self::$variant => Retry::$retry,)*
                }
            }
        }
    };
}

codes! {
    InvalidAddress, "invalid_address", Validation, Never,
        "Not a 20-byte hex address, or a wrong checksum.";
    InvalidTransactionId, "invalid_transaction_id", Validation, Never,
        "Not a 32-byte hex transaction id.";
    InvalidAmount, "invalid_amount", Validation, Never,
        "No amount of USDC.";
    InvalidNumber, "invalid_number", Validation, Never,
        "Not a Unix time, duration or count, or out of its range.";
    InvalidBytes, "invalid_bytes", Validation, Never,
        "No bytes where bytes are needed, or too few or too many.";
    InvalidState, "invalid_state", Validation, Never,
        "No state of the protocol.";
    InvalidPrivateKey, "invalid_private_key", Validation, Never,
        "No private key. The key itself is never shown.";
    KeyMismatch, "key_mismatch", Validation, Never,
        "The private key belongs to another address.";
    KeyMissing, "key_missing", Validation, Never,
        "The operation signs, and this client has no key.";
    InvalidProof, "invalid_proof", Validation, Never,
        "No delivery proof, or one where none belongs.";
    ProofMismatch, "proof_mismatch", Validation, Never,
        "Evidence of a delivery that is of another transaction or of something else than was delivered.";
    InvalidEvidence, "invalid_evidence", Validation, Never,
        "No evidence file of a version that is known, or a part of it is missing or wrong.";
    NothingServed, "nothing_served", Validation, Never,
        "No call was answered with this transaction that is kept here, so there is nothing to show.";
    InvalidJson, "invalid_json", Validation, Never,
        "A value that JSON cannot carry.";
    InvalidDid, "invalid_did", Validation, Never,
        "No `did:ethr` identifier.";
    InvalidRuling, "invalid_ruling", Validation, Never,
        "Not a ruling: the provider wins, the requester wins, or a split of 0 to 10_000.";
    InvalidSettings, "invalid_settings", Validation, Never,
        "A setting or an option that is unknown, or that contradicts another one.";
    InvalidSignature, "invalid_signature", SignatureVerification, Never,
        "A signature that is malformed or not the expected signer's.";
    InvalidKeystore, "invalid_keystore", Validation, Never,
        "No encrypted keystore (version 3), or one that cannot be read.";
    WrongPassword, "wrong_password", Validation, Never,
        "The password does not open the keystore. It is never shown.";
    KeyNotAllowed, "key_not_allowed", Validation, Never,
        "A raw private key on mainnet, where an encrypted keystore is required (AIP-13).";
    AmountAboveLimit, "amount_above_limit", Validation, Never,
        "More than this client may pay with one transaction on mainnet.";
    InvalidAttestation, "invalid_attestation", SignatureVerification, Never,
        "An attestation that does not attest the delivery it is shown for.";
    NetworkUnavailable, "network_unavailable", Network, Never,
        "This network, or this part of it, is not there for this client.";
    DevnetUnavailable, "devnet_unavailable", Network, Never,
        "The local chain could not be started.";
    EndpointUnreachable, "endpoint_unreachable", Network, Safe,
        "None of the RPC endpoints answered; nothing was sent.";
    RateLimited, "rate_limited", Network, Safe,
        "The RPC endpoints refuse more requests for now.";
    InvalidAnswer, "invalid_answer", Network, Safe,
        "The RPC endpoint's answer cannot be understood.";
    ContradictoryAnswer, "contradictory_answer", Network, Safe,
        "An RPC endpoint contradicts the network profile, what the caller agreed to, or another endpoint; nothing was sent.";
    RequestRefused, "request_refused", Network, Safe,
        "The RPC endpoint refused the request in words of its own.";
    WrongChain, "wrong_chain", Network, Never,
        "The RPC endpoint belongs to another chain.";
    ContractMissing, "contract_missing", Network, Never,
        "No contract lies at this address of the chain.";
    UnsupportedKernel, "unsupported_kernel", Network, Never,
        "The contract is not a kernel that this version can use.";
    FeeAboveLimit, "fee_above_limit", Network, Safe,
        "The chain's fee is above the limit that was set; nothing was sent.";
    Superseded, "superseded", Network, Safe,
        "Another transaction took the place of this one; nothing was done.";
    OutcomeUnknown, "outcome_unknown", Timeout, CheckFirst,
        "The transaction was sent, and nothing is known about it yet. The same call finds out.";
    Reverted, "reverted", TransactionReverted, Never,
        "A contract refused in words that the protocol does not know.";
    InsufficientGas, "insufficient_gas", InsufficientFunds, Never,
        "The sender has not enough of the chain's own coin to pay for gas.";
    InsufficientBalance, "insufficient_balance", InsufficientFunds, Never,
        "The balance does not cover the payment.";
    StorageBusy, "storage_busy", Timeout, Safe,
        "Another process held the state file for too long.";
    StorageUnavailable, "storage_unavailable", Storage, Never,
        "The state directory or file cannot be used.";
    StorageExposed, "storage_exposed", Storage, Never,
        "Another user owns the state directory or file, or could have written it.";
    StoreUnreachable, "store_unreachable", Storage, Safe,
        "The database gave no answer. A call whose answer was lost on the way may be made again.";
    StorageFull, "storage_full", Storage, Safe,
        "No space is left for the state file.";
    StorageDamaged, "storage_damaged", Storage, Never,
        "The state file is damaged or not ours.";
    StorageVersion, "storage_version", Storage, Never,
        "The state file was written by a newer version.";
    PriceAboveLimit, "price_above_limit", Spending, Never,
        "The call costs more, or locks up more, than its caller allows; nothing was paid.";
    BudgetExceeded, "budget_exceeded", Spending, Safe,
        "The call does not fit into the budget; nothing was paid.";
    UntrustedProvider, "untrusted_provider", Spending, Never,
        "The money could not come back without a provider that is not trusted; nothing was paid.";
    NoOffer, "no_offer", Call, Never,
        "The service wants to be paid, and not in a way that this client can; nothing was paid.";
    ServiceUnreachable, "service_unreachable", Network, Safe,
        "The service did not answer the request; nothing was paid.";
    AnswerTooLarge, "answer_too_large", Call, Never,
        "The service's answer is longer than the caller takes.";
    CallRefused, "call_refused", Call, Never,
        "The service refused a call that is paid for; `status` and its words say why.";
    CallFailed, "call_failed", Call, CheckFirst,
        "A call that is paid for was not answered in time. The same purchase key asks again and pays nothing more.";
    ServiceFailed, "service_failed", Call, CheckFirst,
        "The service failed each time it ran a call that is paid for, and was asked to give the money back.";
    BalanceForfeited, "balance_forfeited", Spending, Never,
        "The provider ended a balance that calls could still be made with, so no other is bought there.";
    PurchaseMismatch, "purchase_mismatch", Validation, Never,
        "The purchase key belongs to another request.";
    Internal, "internal", Internal, CheckFirst,
        "A mistake in agirails, which the bindings caught: please report it.";
}

/// The body of a service's answer. Its debug form shows only its length.
#[derive(Clone, PartialEq, Eq)]
pub struct AnswerBody(pub Bytes);

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The facts an error speaks of, where they apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The transaction.
    pub transaction_id: Option<B256>,
    /// The state it was in.
    pub state: Option<State>,
    /// Its deadline, Unix seconds.
    pub deadline: Option<u64>,
    /// The hash of the chain transaction that was sent.
    pub transaction_hash: Option<B256>,
    /// What its gas cost, in wei, where it was mined and did nothing.
    pub gas_wei: Option<u128>,
    /// The argument that was refused.
    pub field: Option<&'static str>,
    /// Its value, shortened; never a secret.
    pub value: Option<String>,
    /// What would have been needed.
    pub required: Option<Usdc>,
    /// What was there.
    pub available: Option<Usdc>,
    /// The HTTP status that a service answered.
    pub status: Option<u16>,
    /// The body of that answer, its first 64 KiB.
    pub body: Option<AnswerBody>,
    /// The purchase: the same key goes on where it ended, and never pays twice.
    pub purchase_key: Option<String>,
}

/// A chain transaction, as far as an error knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    hash: Option<B256>,
    gas_wei: Option<u128>,
}

struct Inner {
    code: Code,
    message: String,
    hint: Option<String>,
    facts: Facts,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What happened, what it happened to, and what to do now.
///
/// ```
/// use agirails::{Error, Retry, Usdc};
///
/// let error: Error = "0.10 dollars".parse::<Usdc>().unwrap_err().into();
/// assert_eq!(error.code().as_str(), "invalid_amount");
/// assert_eq!(error.retry(), Retry::Never);
/// assert!(error.hint().is_some());
/// ```
pub struct Error(Box<Inner>);

impl Error {
    /// An error with this code and message; a refusal brings its hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let hint = match code {
            Code::Refused(refusal) => Some(refusal.hint().to_owned()),
            _ => None,
        };
        let (message, facts) = (message.into(), Facts::default());
        Self(Box::new(Inner { code, message, hint, facts, source: None }))
    }

    /// Names the argument, shows its value (shortened), and says what is wrong with it.
    pub fn invalid(code: Code, field: &'static str, value: &str, problem: &str) -> Self {
        let value = text::value(value);
        let mut error = Self::new(code, format!("{field} {value:?} {problem}"));
        error.0.facts.field = Some(field);
        error.0.facts.value = Some(value);
        error
    }

    /// What a function of the protocol says, under this code.
    fn detailed(code: Code, details: Details) -> Self {
        let Details { message, hint, field, value, transaction_id, state, source, .. } = details;
        let facts = Facts { field, value, transaction_id, state, ..Facts::default() };
        Self(Box::new(Inner { code, message, hint: hint.map(str::to_owned), facts, source }))
    }

    /// The contract's words, and what they speak of.
    pub fn refused(refusal: Refusal, transaction: Option<&Transaction>) -> Self {
        let Some(&Transaction { id, state, deadline, .. }) = transaction else {
            return refusal.into();
        };
        let message = format!("{refusal}: transaction {id} is {state}, its deadline is {deadline}");
        Self::new(Code::Refused(refusal), message).with_facts(|facts| {
            facts.transaction_id = Some(id);
            facts.state = Some(state);
            facts.deadline = Some(deadline);
        })
    }

    /// The contract's words, and the argument that they refuse.
    pub fn refused_value(refusal: Refusal, field: &'static str, value: impl fmt::Display) -> Self {
        let value = text::value(&value.to_string());
        let message = format!("{refusal}: {field} is {value}");
        Self::new(Code::Refused(refusal), message).with_facts(|facts| {
            facts.field = Some(field);
            facts.value = Some(value);
        })
    }

    /// The same error with this remedy.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// The same error with these facts.
    #[must_use]
    pub fn with_facts(mut self, set: impl FnOnce(&mut Facts)) -> Self {
        set(&mut self.0.facts);
        self
    }

    /// What it tells of the chain transaction that was sent.
    pub(crate) fn sent(&self) -> Sent {
        Sent { hash: self.0.facts.transaction_hash, gas_wei: self.0.facts.gas_wei }
    }

    /// Tells of a chain transaction what another error told, which this one says better.
    pub(crate) fn with_sent(mut self, Sent { hash, gas_wei }: Sent) -> Self {
        (self.0.facts.transaction_hash, self.0.facts.gas_wei) = (hash, gas_wei);
        self
    }

    /// The same error for one more caller; its cause stays with the first.
    pub(crate) fn again(&self) -> Self {
        let Inner { code, message, hint, facts, .. } = &*self.0;
        let (message, hint, facts) = (message.clone(), hint.clone(), facts.clone());
        Self(Box::new(Inner { code: *code, message, hint, facts, source: None }))
    }

    /// What went wrong.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The family of [`Self::code`].
    pub fn kind(&self) -> Kind {
        self.0.code.kind()
    }

    /// Whether the same call may be made again.
    pub fn retry(&self) -> Retry {
        self.0.code.retry()
    }

    /// The remedy, where there is one.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// What the error speaks of.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// The contract's refusal, where it was the protocol that refused.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.0.code {
            Code::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// A bare refusal; the kernels add the facts.
impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(Code::Refused(refusal), refusal.words())
    }
}

/// One row per error of the protocol's functions: the code of each variant.
macro_rules! protocol_errors {
    ($($name:ident { $($variant:ident => $code:ident,)* })*) => {$(
        impl From<$name> for Error {
            fn from(error: $name) -> Self {
                match error { $($name::$variant(details) => Self::detailed(Code::$code, *details),)* }
            }
        }
    )*};
}

protocol_errors! {
    ParseError {
        Address => InvalidAddress,
        TransactionId => InvalidTransactionId,
        Bytes => InvalidBytes,
        Amount => InvalidAmount,
        State => InvalidState,
        Did => InvalidDid,
        Generation => InvalidSettings,
        Ruling => InvalidRuling,
    }
    JsonError { Unrepresentable => InvalidJson, }
    ProofError { Invalid => InvalidProof, Signature => InvalidSignature, }
    EvidenceError { Invalid => InvalidEvidence, }
    SigningError { Invalid => InvalidProof, KeyMismatch => KeyMismatch, }
    SignatureError { Invalid => InvalidSignature, }
    VerificationError {
        Incomplete => InvalidSettings,
        Mismatch => ProofMismatch,
        Signature => InvalidSignature,
        Attestation => InvalidAttestation,
        Json => InvalidJson,
    }
}

/// The message alone; `{:#}` adds the hint.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match self.hint() {
            Some(hint) if f.alternate() => write!(f, " (hint: {hint})"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.code().as_str())
            .field("message", &self.0.message)
            .field("hint", &self.0.hint)
            .field("facts", &self.0.facts)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Two errors are equal where they say the same of the same things.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        self.code() == other.code()
            && self.0.message == other.0.message
            && self.facts() == other.facts()
    }
}

/// Of others' words enough to understand them.
const WORDS_CHARACTERS: usize = 200;
/// Of a path all of it, as long as it can be one.
const PATH_CHARACTERS: usize = 260;

/// A path as messages show it.
pub(crate) fn shown_path(path: &Path) -> String {
    text::first(PATH_CHARACTERS, &path.to_string_lossy())
}

/// The words of a node, a service or a library as messages show them: what would move a terminal's
/// cursor, or begin a line of a log that nobody wrote, is left out, and of URLs what stands behind
/// their host: keys do.
pub(crate) fn shown_words(words: &str) -> String {
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text::first(WORDS_CHARACTERS, &without_paths(&words))
}

fn without_paths(words: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`' | ')');
    let mut shown = String::with_capacity(words.len());
    let mut rest = words;
    while let Some((before, behind)) = rest.split_once("://") {
        let (url, after) = behind.split_at(behind.find(is_end).unwrap_or(behind.len()));
        let (authority, path) = url.split_at(url.find(['/', '?', '#', '\\']).unwrap_or(url.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        shown.extend([before, "://", host]);
        if !path.trim_end_matches('/').is_empty() {
            shown.push_str("/…");
        }
        rest = after;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::shown_words;

    #[test]
    fn others_words_hold_nothing_that_a_terminal_or_a_log_would_take_for_more() {
        assert_eq!(shown_words("no\u{1b}[2K\r\nINFO paid\u{7}\u{9b}"), "no [2K  INFO paid  ");
    }

    #[test]
    fn others_words_show_of_a_url_its_host_alone() {
        for (words, shown) in [
            ("invalid project id https://a.b/v3/KEY", "invalid project id https://a.b/…"),
            ("see \"https://u:KEY@a.b:1/?k=KEY\", then", "see \"https://a.b:1/…\", then"),
            ("(http://a.b/KEY) http://KEY@c#KEY", "(http://a.b/…) http://c/…"),
            ("https://a.b/ and wss://c", "https://a.b and wss://c"),
            ("no URL: 7 // 3", "no URL: 7 // 3"),
            ("://", "://"),
        ] {
            assert_eq!(shown_words(words), shown);
        }
    }
}
