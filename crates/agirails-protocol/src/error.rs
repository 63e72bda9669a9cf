//! What the functions of this crate fail with: one small enum per operation. The variant says what
//! was wrong; its [`Details`] say it in words, and what to do.
//!
//! The enums are exhaustive on purpose. The SDK gives every variant a stable code, and a variant
//! without one must not compile there.

use std::{error::Error as StdError, fmt};

use crate::{State, TransactionId, text};

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

/// The families of errors. The Python package has an exception class for each, named after it.
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
    Spending,
    Call,
    Internal,
}

/// The words of an error, its remedy, and what it speaks of.
#[derive(Debug)]
#[non_exhaustive]
pub struct Details {
    /// What was wrong with which value.
    pub message: String,
    /// What to do.
    pub hint: Option<&'static str>,
    /// The argument or key that is wrong.
    pub field: Option<&'static str>,
    /// Its value, shortened; never a secret.
    pub value: Option<String>,
    /// The transaction.
    pub transaction_id: Option<TransactionId>,
    /// The state it is in.
    pub state: Option<State>,
    /// What a library said.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Details {
    pub(crate) fn new(message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            message: message.into(),
            hint: None,
            field: None,
            value: None,
            transaction_id: None,
            state: None,
            source: None,
        })
    }

    /// Names the argument, shows its value (shortened), and says what is wrong with it.
    pub(crate) fn invalid(field: &'static str, value: &str, problem: &str) -> Box<Self> {
        let value = text::value(value);
        let mut details = Self::new(format!("{field} {value:?} {problem}"));
        (details.field, details.value) = (Some(field), Some(value));
        details
    }

    pub(crate) fn hint(mut self: Box<Self>, hint: &'static str) -> Box<Self> {
        self.hint = Some(hint);
        self
    }

    pub(crate) fn field(mut self: Box<Self>, field: &'static str) -> Box<Self> {
        self.field = Some(field);
        self
    }

    pub(crate) fn transaction(mut self: Box<Self>, id: TransactionId) -> Box<Self> {
        self.transaction_id = Some(id);
        self
    }

    pub(crate) fn source(
        mut self: Box<Self>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Box<Self> {
        self.source = Some(Box::new(source));
        self
    }
}

/// Two errors are equal where they say the same of the same things.
impl PartialEq for Details {
    fn eq(&self, other: &Self) -> bool {
        let said = |details: &Self| {
            let Self { message, hint, field, value, transaction_id, state, source: _ } = details;
            (message.clone(), *hint, *field, value.clone(), *transaction_id, *state)
        };
        said(self) == said(other)
    }
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant(Box<Details>),)*
        }

        impl $name {
            /// The words, the remedy and what they speak of.
            pub fn details(&self) -> &Details {
                match self { $(Self::$variant(details) => details,)* }
            }
        }

        /// The message alone; `{:#}` adds the hint.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let details = self.details();
                f.write_str(&details.message)?;
                match details.hint {
                    Some(hint) if f.alternate() => write!(f, " (hint: {hint})"),
                    _ => Ok(()),
                }
            }
        }

        impl StdError for $name {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                self.details().source.as_deref().map(|source| source as _)
            }
        }
    )*};
}

errors! {
    /// Why a text was not read.
    ParseError {
        /// It must be an address: `0x` and 40 hex digits, with a right checksum where it has one.
        Address,
        /// It must be a transaction id: `0x` and 64 hex digits.
        TransactionId,
        /// It must be 32 bytes: `0x` and 64 hex digits.
        Bytes,
        /// It must be an amount of USDC.
        Amount,
        /// It must be a state of the protocol.
        State,
        /// It must be a `did:ethr` identifier.
        Did,
        /// It must be a generation of the kernel.
        Generation,
        /// It must be a ruling of a dispute.
        Ruling,
    }

    /// Why a value has no canonical JSON.
    JsonError {
        /// It holds something that canonical JSON cannot.
        Unrepresentable,
    }

    /// Why a delivery proof or message was not made or not read.
    ProofError {
        /// A part of it is missing or wrong.
        Invalid,
        /// The signature that came with it is malformed.
        Signature,
    }

    /// Why an evidence file was not read.
    EvidenceError {
        /// A part of it is missing or wrong, or it is too long.
        Invalid,
    }

    /// Why a message must not be signed.
    SigningError {
        /// It contradicts itself.
        Invalid,
        /// The key is not the provider's.
        KeyMismatch,
    }

    /// Why a signature does not count.
    SignatureError {
        /// It is malformed, no key can have made it, or another key did.
        Invalid,
    }

    /// Why a delivery or a receipt is not proven.
    VerificationError {
        /// What is given cannot be compared with anything.
        Incomplete,
        /// It is of something else than was delivered.
        Mismatch,
        /// The signature is not the provider's.
        Signature,
        /// The attestation is of something else than was delivered.
        Attestation,
        /// A value that must be hashed has no JSON.
        Json,
    }
}

impl From<SignatureError> for VerificationError {
    fn from(SignatureError::Invalid(details): SignatureError) -> Self {
        Self::Signature(details)
    }
}

impl From<SignatureError> for ProofError {
    fn from(SignatureError::Invalid(details): SignatureError) -> Self {
        Self::Signature(details)
    }
}

impl From<JsonError> for VerificationError {
    fn from(JsonError::Unrepresentable(details): JsonError) -> Self {
        Self::Json(details)
    }
}
