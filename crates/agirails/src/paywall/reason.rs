//! Why a run ended without an answer that is paid for.

use std::fmt;

/// Why a run ended without an answer that is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handler raised, or panicked.
    Raised,
    /// The handler answered with this status, which is not a success.
    Status(u16),
    /// The handler's body broke off.
    BrokeOff,
    /// The handler's body was not as long as its `Content-Length` announced.
    WrongLength,
    /// The handler returned without the end of an answer.
    NeverEnded,
    /// The caller went away before the handler was started.
    CallerGone,
    /// The server ended the request.
    Cancelled,
    /// The transaction was closed while its answer was streamed.
    TransactionClosed,
    /// The transaction was closed before the answer was there.
    TooLate,
    /// The store could not keep the answer.
    NotKept,
    /// Another run of the same call has taken over.
    TakenOver,
    /// The delivery was not confirmed in time. The answer is kept, and a repeat gets it.
    Unconfirmed,
    /// The run was dropped without an end.
    Dropped,
}

impl Reason {
    /// The stable name, in logs and bindings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Status(_) => "status",
            Self::BrokeOff => "broke_off",
            Self::WrongLength => "wrong_length",
            Self::NeverEnded => "never_ended",
            Self::CallerGone => "caller_gone",
            Self::Cancelled => "cancelled",
            Self::TransactionClosed => "transaction_closed",
            Self::TooLate => "too_late",
            Self::NotKept => "not_kept",
            Self::TakenOver => "taken_over",
            Self::Unconfirmed => "unconfirmed",
            Self::Dropped => "dropped",
        }
    }

    /// The reason that an adapter may give by this name; `None` for those that only the paywall
    /// itself can know.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "raised" => Self::Raised,
            "broke_off" => Self::BrokeOff,
            "never_ended" => Self::NeverEnded,
            "caller_gone" => Self::CallerGone,
            "cancelled" => Self::Cancelled,
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raised => "the handler raised",
            Self::Status(status) => return write!(f, "the handler answered {status}"),
            Self::BrokeOff => "the handler's body broke off",
            Self::WrongLength => "the handler's body was not as long as its Content-Length",
            Self::NeverEnded => "the handler did not end its answer",
            Self::CallerGone => "the caller went away before the handler was started",
            Self::Cancelled => "the server ended the request",
            Self::TransactionClosed => "the transaction was closed before the stream ended",
            Self::TooLate => "the transaction was closed before the handler ended",
            Self::NotKept => "the store could not keep the answer",
            Self::TakenOver => "another run of the same call took over",
            Self::Unconfirmed => "the delivery was not confirmed in time",
            Self::Dropped => "the run was dropped without an end",
        })
    }
}
