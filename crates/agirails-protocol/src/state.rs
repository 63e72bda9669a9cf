use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Details, ParseError};

/// The eight states of a transaction. The numbers are the contract's.
///
/// ```
/// use agirails_protocol::State;
///
/// assert_eq!(State::Delivered as u8, 4);
/// assert_eq!("IN_PROGRESS".parse(), Ok(State::InProgress));
/// assert!(State::Settled.is_terminal());
/// ```
///
/// Source: AIP-0, `IACTPKernel.State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum State {
    /// Created by the requester; no money is locked.
    Initiated = 0,
    /// The provider named its price.
    Quoted = 1,
    /// The amount is in escrow; from here until the deadline only the provider can move it.
    Committed = 2,
    /// The provider works; the requester can no longer take the money back.
    InProgress = 3,
    /// The provider delivered; the dispute window runs.
    Delivered = 4,
    /// Paid out. Terminal.
    Settled = 5,
    /// A party disputes; the kernel's admin resolves.
    Disputed = 6,
    /// Called off. Terminal.
    Cancelled = 7,
}

impl State {
    /// All states in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Initiated,
        Self::Quoted,
        Self::Committed,
        Self::InProgress,
        Self::Delivered,
        Self::Settled,
        Self::Disputed,
        Self::Cancelled,
    ];

    /// The protocol's name, such as `IN_PROGRESS`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initiated => "INITIATED",
            Self::Quoted => "QUOTED",
            Self::Committed => "COMMITTED",
            Self::InProgress => "IN_PROGRESS",
            Self::Delivered => "DELIVERED",
            Self::Settled => "SETTLED",
            Self::Disputed => "DISPUTED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// True for SETTLED and CANCELLED, which nothing leaves.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Settled | Self::Cancelled)
    }

    /// Whether the kernel knows a way from `self` to `to` by `transitionState`.
    ///
    /// COMMITTED is reached by `linkEscrow` alone, so it is never a target here.
    pub const fn can_become(self, to: Self) -> bool {
        use State::*;
        matches!(
            (self, to),
            (Initiated, Quoted)
                | (Committed, InProgress)
                | (InProgress, Delivered)
                | (Delivered, Settled | Disputed)
                | (Disputed, Settled | Cancelled)
                | (Initiated | Quoted | Committed | InProgress, Cancelled)
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<u64> for State {
    type Error = ParseError;

    fn try_from(number: u64) -> Result<Self, ParseError> {
        usize::try_from(number)
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
            .ok_or_else(|| unknown(&number.to_string()))
    }
}

impl FromStr for State {
    type Err = ParseError;

    fn from_str(name: &str) -> Result<Self, ParseError> {
        Self::ALL.into_iter().find(|state| state.name() == name).ok_or_else(|| unknown(name))
    }
}

fn unknown(value: &str) -> ParseError {
    ParseError::State(
        Details::invalid("state", value, "must be a state of the protocol")
            .hint("use one of State.INITIATED (0) … State.CANCELLED (7)"),
    )
}
