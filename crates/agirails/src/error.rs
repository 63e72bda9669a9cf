//! The one error of this crate: what happened, to what, and what to do now.

use std::{error::Error as StdError, fmt};

use alloy_primitives::B256;

use crate::protocol::{Refusal, State, Transaction, Usdc};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// May the same call be made again?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// No: it will be refused again.
    Never,
    /// Yes, later: nothing was done.
    Safe,
    /// Something was sent and its outcome is unknown: find out first.
    CheckFirst,
}

impl Retry {
    /// The name that bindings use: `never`, `safe` or `check_first`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Safe => "safe",
            Self::CheckFirst => "check_first",
        }
    }
}

/// The families of errors; the Python package has one exception class for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's name is its whole meaning")]
pub enum Kind {
    Validation,
    TransactionNotFound,
    InvalidStateTransition,
    Unauthorized,
    DeadlinePassed,
    DisputeWindowActive,
    InsufficientFunds,
    TransactionReverted,
    ContractPaused,
    Network,
    Timeout,
    SignatureVerification,
    Storage,
    QueryCapExceeded,
}

/// What went wrong, one value per case. [`Code::as_str`] never changes between releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The protocol refused; the words are the contract's.
    Refused(Refusal),
    /// No 20-byte hex address, or a wrong checksum.
    InvalidAddress,
    /// No 32-byte hex transaction id.
    InvalidTransactionId,
    /// No amount of USDC.
    InvalidAmount,
    /// No Unix time, duration or count.
    InvalidNumber,
    /// No bytes where bytes are needed, or too few or too many.
    InvalidBytes,
    /// No state of the protocol.
    InvalidState,
    /// No private key. The key itself is never shown.
    InvalidPrivateKey,
    /// The private key belongs to another address.
    KeyMismatch,
    /// The operation signs, and this client has no key.
    KeyMissing,
    /// No delivery proof.
    InvalidProof,
    /// A delivery proof of another transaction.
    ProofMismatch,
    /// A value that JSON cannot carry.
    InvalidJson,
    /// No `did:ethr` identifier.
    InvalidDid,
    /// No mode, or settings that contradict each other.
    InvalidSettings,
    /// A signature that is malformed or not the expected signer's.
    InvalidSignature,
    /// This version cannot reach the network that was asked for.
    NetworkUnavailable,
    /// The balance does not cover the payment.
    InsufficientBalance,
    /// Another process held the state file for too long.
    StorageBusy,
    /// The state directory or file cannot be used.
    StorageUnavailable,
    /// No space is left for the state file.
    StorageFull,
    /// The state file is damaged or not ours.
    StorageDamaged,
    /// The state file was written by a newer version.
    StorageVersion,
}

impl Code {
    /// Every code that is not a refusal.
    pub const LOCAL: &'static [Self] = &[
        Self::InvalidAddress,
        Self::InvalidTransactionId,
        Self::InvalidAmount,
        Self::InvalidNumber,
        Self::InvalidBytes,
        Self::InvalidState,
        Self::InvalidPrivateKey,
        Self::KeyMismatch,
        Self::KeyMissing,
        Self::InvalidProof,
        Self::ProofMismatch,
        Self::InvalidJson,
        Self::InvalidDid,
        Self::InvalidSettings,
        Self::InvalidSignature,
        Self::NetworkUnavailable,
        Self::InsufficientBalance,
        Self::StorageBusy,
        Self::StorageUnavailable,
        Self::StorageFull,
        Self::StorageDamaged,
        Self::StorageVersion,
    ];

    /// The stable name, such as `invalid_address` or `deadline_too_far`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::InvalidAddress => "invalid_address",
            Self::InvalidTransactionId => "invalid_transaction_id",
            Self::InvalidAmount => "invalid_amount",
            Self::InvalidNumber => "invalid_number",
            Self::InvalidBytes => "invalid_bytes",
            Self::InvalidState => "invalid_state",
            Self::InvalidPrivateKey => "invalid_private_key",
            Self::KeyMismatch => "key_mismatch",
            Self::KeyMissing => "key_missing",
            Self::InvalidProof => "invalid_proof",
            Self::ProofMismatch => "proof_mismatch",
            Self::InvalidJson => "invalid_json",
            Self::InvalidDid => "invalid_did",
            Self::InvalidSettings => "invalid_settings",
            Self::InvalidSignature => "invalid_signature",
            Self::NetworkUnavailable => "network_unavailable",
            Self::InsufficientBalance => "insufficient_balance",
            Self::StorageBusy => "storage_busy",
            Self::StorageUnavailable => "storage_unavailable",
            Self::StorageFull => "storage_full",
            Self::StorageDamaged => "storage_damaged",
            Self::StorageVersion => "storage_version",
        }
    }

    /// The family this code belongs to.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::InvalidSignature => Kind::SignatureVerification,
            Self::NetworkUnavailable => Kind::Network,
            Self::InsufficientBalance => Kind::InsufficientFunds,
            Self::StorageBusy => Kind::Timeout,
            Self::StorageUnavailable
            | Self::StorageFull
            | Self::StorageDamaged
            | Self::StorageVersion => Kind::Storage,
            _ => Kind::Validation,
        }
    }

    /// Whether the same call can succeed later.
    pub const fn retry(self) -> Retry {
        match self {
            Self::Refused(refusal) => refusal.retry(),
            Self::StorageBusy | Self::StorageFull => Retry::Safe,
            _ => Retry::Never,
        }
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
    /// The argument that was refused.
    pub field: Option<&'static str>,
    /// Its value, shortened; never a secret.
    pub value: Option<String>,
    /// What would have been needed.
    pub required: Option<Usdc>,
    /// What was there.
    pub available: Option<Usdc>,
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
/// use agirails::{Retry, Usdc};
///
/// let error = "0.10 dollars".parse::<Usdc>().unwrap_err();
/// assert_eq!(error.code().as_str(), "invalid_amount");
/// assert_eq!(error.retry(), Retry::Never);
/// assert!(error.hint().is_some());
/// ```
pub struct Error(Box<Inner>);

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let hint = match code {
            Code::Refused(refusal) => Some(refusal.hint().to_owned()),
            _ => None,
        };
        let (message, facts) = (message.into(), Facts::default());
        Self(Box::new(Inner { code, message, hint, facts, source: None }))
    }

    /// Names the argument, shows its value (shortened), and says what is wrong with it.
    pub fn invalid(code: Code, field: &'static str, value: &str, problem: &str) -> Self {
        let value = shorten(value);
        let mut error = Self::new(code, format!("{field} {value:?} {problem}"));
        error.0.facts.field = Some(field);
        error.0.facts.value = Some(value);
        error
    }

    /// The contract's words, and what they speak of.
    pub(crate) fn refused(refusal: Refusal, transaction: Option<&Transaction>) -> Self {
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
    pub(crate) fn refused_value(
        refusal: Refusal,
        field: &'static str,
        value: impl fmt::Display,
    ) -> Self {
        let value = shorten(&value.to_string());
        let message = format!("{refusal}: {field} is {value}");
        Self::new(Code::Refused(refusal), message).with_facts(|facts| {
            facts.field = Some(field);
            facts.value = Some(value);
        })
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    pub(crate) fn with_facts(mut self, set: impl FnOnce(&mut Facts)) -> Self {
        set(&mut self.0.facts);
        self
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

/// At most 80 characters of a value: enough to recognise it, never megabytes of it.
fn shorten(value: &str) -> String {
    const LIMIT: usize = 80;
    let mut shown: String = value.chars().take(LIMIT).collect();
    if shown.len() < value.len() {
        shown.push_str(&format!("… ({} bytes)", value.len()));
    }
    shown
}
